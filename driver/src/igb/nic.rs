//! The NIC: taken, its queues opened and closed.

mod control;
mod opening;
mod owned;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use devrx_provider::QueueNeeds;

use super::clock;
use super::init;
use super::interrupts;
use super::monitor::Monitor;
use super::parts::supports;
use super::queue::IgbQueue;
use super::shared::Shared;
use super::steer::Flow;
use super::write_back::{Mode, Receive, Ring, Split, manner_of};
use crate::device::Device;
use crate::flow::RuleBoard;
use crate::ring::{Buffers, Vectors, pause};
use crate::{DriverError, Nic, PortLosses, QueueConfig, Timestamps};

/// How long a packet whose queue has been chosen may be in the NIC: its FIFO holds 64 KiB, half a millisecond of a gigabit.
const FIFO_DRAIN: Duration = Duration::from_millis(1);

/// How the NIC is taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct IgbOptions {
    /// Takes frames to any address, as a NIC that is owned as a whole does by default; otherwise those to its own address, to addresses that rules name,
    /// multicasts and broadcasts.
    pub promiscuous: bool,
    /// Takes VLAN tags out of frames, into [`RxChunk::vlan`](crate::RxChunk::vlan). Rules with `vlan=` find nothing then.
    pub vlan_strip: bool,
}

impl Default for IgbOptions {
    fn default() -> Self {
        Self {
            promiscuous: true,
            vlan_strip: false,
        }
    }
}

/// An open queue, the controlling side.
#[derive(Debug)]
struct Open {
    board: Arc<RuleBoard>,
    /// How headers are split off, so that rules can be looked up.
    split: Split,
    srrctl: u32,
    /// The function reset it was opened after.
    epoch: u32,
}

/// A NIC of the 82576 family, owned as a whole.
#[derive(Debug)]
pub struct IgbNic<D: Device> {
    shared: Arc<Shared<D>>,
    vectors: Arc<Vectors>,
    options: IgbOptions,
    station: [u8; 6],
    queues: u32,
    open: BTreeMap<u32, Open>,
    flows: Vec<Flow>,
    /// The reset after which the NIC was initialized.
    epoch: u32,
    loopback: bool,
    /// What was asked for queues' interrupts, microseconds: a reset forgets it.
    moderation: BTreeMap<u32, u32>,
    monitor: Option<Monitor>,
}

impl<D: Device> IgbNic<D> {
    /// Takes the NIC: resets it, negotiates the link. Nothing is received yet.
    ///
    /// # Errors
    ///
    /// [`DriverError::NoNic`] when it is no part this driver knows, or does not answer; what the system refused.
    pub fn open(device: Arc<D>, options: IgbOptions) -> Result<Self, DriverError> {
        let no_nic = |why: String| DriverError::NoNic {
            nic: device.address().to_owned(),
            why,
        };
        let id = device.id();
        let part = supports(id).ok_or_else(|| {
            no_nic(format!(
                "no driver here knows PCI device {:04x}:{:04x}; `devrx nic list` shows which NICs can be owned",
                id.vendor, id.device
            ))
        })?;
        let queues = part.queues.min(device.vectors().saturating_sub(1));
        if queues == 0 {
            return Err(no_nic(
                "it has fewer than two MSI-X vectors, one for a queue and one for the rest; see whether the system restricts MSI-X"
                    .to_owned(),
            ));
        }
        let shared = Arc::new(Shared::new(device, part, queues));
        let (vectors, station, monitor) = Self::start(&shared, queues, options)?;
        tracing::info!(
            nic = shared.device.address(),
            part = part.describe(id.device),
            queues,
            "NIC taken"
        );
        Ok(Self {
            epoch: shared.epoch.load(Ordering::Acquire),
            shared,
            vectors,
            options,
            station,
            queues,
            open: BTreeMap::new(),
            flows: Vec::new(),
            loopback: false,
            moderation: BTreeMap::new(),
            monitor: Some(monitor),
        })
    }

    /// Brings the NIC from reset to where queues can be opened.
    fn start(
        shared: &Arc<Shared<D>>,
        queues: u32,
        options: IgbOptions,
    ) -> Result<(Arc<Vectors>, [u8; 6], Monitor), DriverError> {
        init::init(shared, options.vlan_strip)?;
        let station = init::station(shared);
        let fds = shared.device.arm_vectors(queues + 1)?;
        if fds.len() <= queues as usize {
            return Err(DriverError::NoNic {
                nic: shared.device.address().to_owned(),
                why: format!(
                    "{} interrupts were armed where {} are needed; this is a fault in this program",
                    fds.len(),
                    queues + 1
                ),
            });
        }
        let vectors = Arc::new(Vectors::new(fds));
        interrupts::setup(shared, queues);
        shared.device.set_bus_master(true)?;
        let monitor = Monitor::start(Arc::clone(shared), Arc::clone(&vectors))?;
        Ok((vectors, station, monitor))
    }

    /// Makes the NIC fit for queue `index` to be opened: initializes it again after a reset, and resets it after a failure that a reset can take away.
    /// Under the control lock.
    fn revive(&mut self, index: u32) -> Result<(), DriverError> {
        self.check_there()?;
        if self.shared.epoch.load(Ordering::Acquire) == self.epoch {
            // The monitor may not have found it yet.
            self.shared.look_for_reset(self.epoch);
            let Some(fault) = self.shared.fault_of(self.epoch) else {
                return Ok(());
            };
            if self.open.values().any(|open| open.epoch == self.epoch) {
                return Err(DriverError::QueueBusy {
                    nic: self.name().to_owned(),
                    queue: index,
                    why: format!(
                        "{fault}; other queues are open, which the reset would end, so detach those too"
                    ),
                });
            }
            tracing::warn!(nic = self.name(), why = fault, "the NIC is reset");
            let reset = self.shared.reset();
            // Queues that are closed and have not been stopped yet.
            self.vectors.wake_all();
            reset?;
            self.check_there()?;
        }
        self.restart().or_else(|error| {
            // There is no monitor now that would find out.
            self.shared.end_if_gone();
            self.check_there().and(Err(error))
        })
    }

    /// An error if the NIC can serve no more.
    fn check_there(&self) -> Result<(), DriverError> {
        self.shared.ended().map_or(Ok(()), |why| {
            Err(DriverError::NoNic {
                nic: self.name().to_owned(),
                why,
            })
        })
    }

    /// Initializes the NIC again after a function reset. Under the control lock. Queues of before have ended; their rules are gone from the hardware.
    fn restart(&mut self) -> Result<(), DriverError> {
        // Joins the old thread, which takes no lock of ours.
        self.monitor = None;
        self.shared.forgive();
        if let Some(clock) = &self.shared.clock {
            // The reset stopped it.
            clock.stop();
        }
        let (vectors, station, monitor) = Self::start(&self.shared, self.queues, self.options)?;
        (self.vectors, self.station, self.monitor) = (vectors, station, Some(monitor));
        for (&queue, &microseconds) in &self.moderation {
            interrupts::moderate(&self.shared, queue, microseconds);
        }
        self.epoch = self.shared.epoch.load(Ordering::Acquire);
        Ok(())
    }

    fn bad(what: &'static str, value: impl ToString, why: impl Into<String>) -> DriverError {
        DriverError::BadConfig {
            what,
            value: value.to_string(),
            why: why.into(),
        }
    }
}

impl<D: Device> Nic for IgbNic<D> {
    type Queue = IgbQueue<D>;

    fn name(&self) -> &str {
        self.shared.device.address()
    }

    fn driver(&self) -> &str {
        "igb"
    }

    fn queues(&self) -> u32 {
        self.queues
    }

    fn needs(&self) -> QueueNeeds {
        QueueNeeds {
            min_chunk: *opening::CHUNK.start(),
            max_chunk: *opening::CHUNK.end(),
            chunk_multiple: 1024,
            cpu_reads_payload: false,
            ways: self.shared.device.ways(),
        }
    }

    fn timestamps(&self) -> Result<(), String> {
        self.shared.part.timestamps()
    }

    fn open_queue(&mut self, index: u32, config: QueueConfig) -> Result<Self::Queue, DriverError> {
        if index >= self.queues {
            return Err(DriverError::NoQueue {
                nic: self.name().to_owned(),
                queue: index,
                queues: self.queues,
            });
        }
        if self.open.contains_key(&index) {
            return Err(DriverError::QueueBusy {
                nic: self.name().to_owned(),
                queue: index,
                why: "this process has opened it already; close it first".to_owned(),
            });
        }
        self.check(&config)?;
        let mapper = self.shared.device.mapper();
        let buffers = Buffers::map(&mapper, &config, config.split)?;
        let ring = Ring::new(&mapper, config.ring, buffers)?;
        let shared = Arc::clone(&self.shared);
        let _control = shared.control();
        self.revive(index)?;
        let value = opening::srrctl(&config);
        let board = Arc::new(RuleBoard::default());
        let split = Split::of(&config);
        let (manner, mode) = (
            manner_of(&config),
            Mode::new(&config, self.options.vlan_strip, shared.part.time.ok()),
        );
        let stamps = match config.timestamps {
            Timestamps::Software => None,
            Timestamps::Nic => {
                clock::start(&shared);
                shared.clock.clone()
            }
        };
        let mut receive = Receive::new(ring, config, manner, mode, Arc::clone(&board), stamps);
        self.enable(index, &mut receive.ring, value)?;
        let queue = IgbQueue::new(
            receive,
            Arc::clone(&shared),
            Arc::clone(&self.vectors),
            index,
        );
        let open = Open {
            board,
            split,
            srrctl: value,
            epoch: self.epoch,
        };
        self.open.insert(index, open);
        self.set_drop_enable();
        tracing::info!(nic = self.name(), queue = index, ?split, "queue opened");
        Ok(queue)
    }

    fn close_queue(&mut self, queue: u32) -> Result<(), DriverError> {
        if self.open.remove(&queue).is_none() {
            return Ok(());
        }
        // A range loses all of its queues together: with one gone the hash would still name it.
        self.flows.retain(|flow| !flow.queues.contains(&queue));
        self.steer_again(queue..=queue);
        {
            let _control = self.shared.control();
            self.set_drop_enable();
        }
        pause(FIFO_DRAIN);
        Ok(())
    }

    fn warnings(&self) -> Vec<String> {
        vec![format!(
            "the {} driver has been run on QEMU's 82576 and on a model, never on silicon; compare what arrives with what was sent before you rely on it",
            self.shared.part.name
        )]
    }

    fn fault(&self) -> Option<String> {
        self.shared.ended()
    }

    fn set_alarm(&mut self, alarm: OwnedFd) {
        self.shared.set_alarm(alarm);
    }

    fn port_losses(&self) -> PortLosses {
        self.shared.look_for_reset(self.epoch);
        self.shared.losses()
    }
}
