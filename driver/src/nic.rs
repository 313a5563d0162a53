//! What a NIC is.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;

use devrx_provider::QueueNeeds;

use crate::flow::FlowRule;
use crate::{DriverError, QueueConfig, RxQueue, Timestamps};

/// A NIC whose receive queues can be owned. Control only: nothing here is called for a packet.
///
/// What a NIC cannot do it answers with [`DriverError::Unsupported`], never by pretending.
pub trait Nic: Flows + Link + Statistics + Interrupts + Send {
    /// Its receive queues. A queue is moved to the thread that polls it and shares nothing with the NIC that a packet needs.
    type Queue: RxQueue + 'static;

    /// What the user calls it: interface name or PCI address.
    fn name(&self) -> &str;

    /// What drives it, e.g. `igb`, or for a NIC that Linux drives, `afxdp/ixgbe`.
    fn driver(&self) -> &str;

    /// How many receive queues it has, numbered from 0.
    fn queues(&self) -> u32;

    /// What it needs of the memory behind a queue.
    fn needs(&self) -> QueueNeeds;

    /// Whether it can say when each packet arrived, for [`Timestamps::Nic`]. `Err`: why not, and what to do.
    fn timestamps(&self) -> Result<(), String>;

    /// Whether a queue can have the timestamps that are `asked` for.
    ///
    /// # Errors
    ///
    /// [`DriverError::Unsupported`].
    fn check_timestamps(&self, asked: Timestamps) -> Result<(), DriverError> {
        let can = match asked {
            Timestamps::Software => Ok(()),
            Timestamps::Nic => self.timestamps(),
        };
        can.map_err(|why| DriverError::Unsupported {
            nic: self.name().to_owned(),
            driver: self.driver().to_owned(),
            what: "stamp packets with its own clock",
            why,
        })
    }

    /// Makes queue `index` ready to receive into the configured memory. Nothing arrives before a flow is added and chunks are
    /// posted by [`RxQueue::refill`]. The provider's `init` has been called by whoever made the pool.
    ///
    /// # Errors
    ///
    /// [`DriverError::NoQueue`], [`DriverError::QueueBusy`], [`DriverError::BadConfig`], [`DriverError::UnfitMemory`],
    /// [`DriverError::Unsupported`], or what the system refused.
    fn open_queue(&mut self, index: u32, config: QueueConfig) -> Result<Self::Queue, DriverError>;

    /// Takes every rule off queue `queue`, stops steering packets to it, and returns when no packet can newly be on its way to it: the first half of
    /// ending a queue. [`RxQueue::stop`] is the second. The number of packets steered to the queue no longer changes.
    ///
    /// # Errors
    ///
    /// What the system refused; the queue must then still be stopped.
    fn close_queue(&mut self, queue: u32) -> Result<(), DriverError>;

    /// What a user should know about this NIC's state: one sentence each, with the fix.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }

    /// Rules this NIC has set that would outlive the process, as (interface index, rule location), for a keeper to remove should the
    /// process be killed. Empty where nothing outlives it.
    fn leftover_rules(&self) -> Vec<(u32, u32)> {
        Vec::new()
    }

    /// Why the NIC can serve no more: it has failed, or somebody wants it back. A sentence with what to do. Its queues say so too
    /// ([`RxQueue::fault`]); who has it ends them and drops it.
    fn fault(&self) -> Option<String> {
        None
    }

    /// Has an eventfd written as soon as [`fault`](Self::fault) has something to say.
    fn set_alarm(&mut self, _alarm: OwnedFd) {}

    /// Packets that this NIC received for its owner and lost before they came to a queue: counted for the port, by the reasons of drops. Empty where
    /// Linux owns the port, whose statistics tell.
    fn port_losses(&self) -> PortLosses {
        PortLosses {
            drops: BTreeMap::new(),
            exact: true,
        }
    }
}

/// What a port lost before it came to a queue, since the NIC was opened.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PortLosses {
    /// Packets, by reason.
    pub drops: BTreeMap<&'static str, u64>,
    /// Whether that is all of it.
    pub exact: bool,
}

/// Bringing flows to queues.
pub trait Flows {
    /// From now on packets that `rule` takes go to `queues`, marked with `id`; to which of several is the NIC's choice (its hash). A
    /// packet that several rules of a queue take is marked with the first of them in the order they were added. Other packets are
    /// left where they were.
    ///
    /// Returns notes: a sentence for everything the rule takes that will *not* arrive, with the fix. Empty when all will.
    ///
    /// # Errors
    ///
    /// [`DriverError::Flow`] when the NIC cannot express the rule, or `id` is taken or is [`NO_FLOW`](crate::NO_FLOW);
    /// [`DriverError::QueueClosed`]; or what the system refused. Nothing has changed then.
    fn add_flow(
        &mut self,
        queues: RangeInclusive<u32>,
        id: u16,
        rule: &FlowRule,
    ) -> Result<Vec<String>, DriverError>;

    /// Takes rule `id` off `queues`, the range it was added to. Packets already on their way may still arrive, marked with [`NO_FLOW`](crate::NO_FLOW) or with another rule that takes them.
    ///
    /// # Errors
    ///
    /// [`DriverError::Flow`] when there is no such rule on one of them, or what the system refused. Nothing has changed then.
    fn remove_flow(&mut self, queues: RangeInclusive<u32>, id: u16) -> Result<(), DriverError>;

    /// Packets that were steered to `queue` since the NIC was opened; closing and opening the queue does not reset it.
    fn queue_packets(&self, queue: u32) -> u64;
}

/// The state of the wire.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct LinkState {
    /// Frames can be received.
    pub up: bool,
    /// Megabits a second, where known.
    pub speed: Option<u32>,
    /// The largest payload of a frame (L3 bytes).
    pub mtu: u32,
}

/// Looking at the wire.
pub trait Link {
    /// The state of the wire now.
    ///
    /// # Errors
    ///
    /// What the system refused, for example because the NIC is gone.
    fn link(&self) -> Result<LinkState, DriverError>;
}

/// What a NIC counted for the whole port, since before this process or since reset: compare differences only.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct NicStatistics {
    /// Packets received, attached or not.
    pub packets: u64,
    /// Bytes received.
    pub bytes: u64,
    /// Packets lost in the NIC or its driver, by reason.
    pub drops: BTreeMap<String, u64>,
    /// Whether `drops` counts everything that was lost between the wire and the queues.
    pub exact: bool,
}

/// What a NIC counts.
pub trait Statistics {
    /// The counters now.
    ///
    /// # Errors
    ///
    /// What the system refused.
    fn statistics(&self) -> Result<NicStatistics, DriverError>;
}

/// How a NIC wakes a sleeping queue. The wake-up itself is [`RxQueue::wait_fd`].
pub trait Interrupts {
    /// Lets the NIC hold an interrupt of `queue` back for up to `microseconds`, 0 for not at all.
    ///
    /// # Errors
    ///
    /// [`DriverError::Unsupported`] where the NIC has no such setting or it is not this process's to change.
    fn set_moderation(&mut self, queue: u32, microseconds: u32) -> Result<(), DriverError>;
}
