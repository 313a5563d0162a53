//! What stands for a NIC that has failed or was taken away: its name and its numbers. Everything else is refused, with the reason.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::sync::mpsc::SyncSender;

use devrx_driver::flow::FlowRule;
use devrx_driver::{DriverError, PortLosses, QueueConfig, QueueNeeds};

use super::ServedNic;
use crate::error::Refused;
use crate::worker::{Command, Handle, Parts};

/// A NIC that was dropped.
pub struct Gone {
    name: String,
    driver: String,
    why: String,
    needs: QueueNeeds,
    /// Packets by queue: the last word.
    packets: BTreeMap<u32, u64>,
    losses: PortLosses,
    queues: u32,
}

impl Gone {
    /// What is left of `nic`, whose queues are closed.
    pub fn of(nic: &dyn ServedNic, why: String) -> Self {
        Self {
            name: nic.name().to_owned(),
            driver: nic.driver().to_owned(),
            needs: nic.needs(),
            packets: (0..nic.queues())
                .map(|queue| (queue, nic.queue_packets(queue)))
                .collect(),
            // What it lost since it was last asked nobody knows.
            losses: PortLosses {
                exact: false,
                ..nic.port_losses()
            },
            queues: nic.queues(),
            why,
        }
    }

    fn refusal(&self) -> DriverError {
        DriverError::NoNic {
            nic: self.name.clone(),
            why: format!("{}; start the daemon again once that is settled", self.why),
        }
    }
}

impl ServedNic for Gone {
    fn name(&self) -> &str {
        &self.name
    }

    fn driver(&self) -> &str {
        &self.driver
    }

    fn queues(&self) -> u32 {
        self.queues
    }

    fn needs(&self) -> QueueNeeds {
        self.needs
    }

    fn warnings(&self) -> Vec<String> {
        vec![format!("{} is gone: {}", self.name, self.why)]
    }

    fn leftover_rules(&self) -> Vec<(u32, u32)> {
        Vec::new()
    }

    /// It has been heard already.
    fn fault(&self) -> Option<String> {
        None
    }

    fn set_alarm(&mut self, _alarm: OwnedFd) {}

    fn port_losses(&self) -> PortLosses {
        self.losses.clone()
    }

    fn start_queue(
        &mut self,
        _queue: u32,
        _config: QueueConfig,
        _parts: Parts,
        _commands: SyncSender<Command>,
    ) -> Result<Handle, Refused> {
        Err(self.refusal().into())
    }

    fn close_queue(&mut self, _queue: u32) -> Result<(), DriverError> {
        Ok(())
    }

    fn add_flow(
        &mut self,
        _queues: RangeInclusive<u32>,
        _id: u16,
        _rule: &FlowRule,
    ) -> Result<Vec<String>, DriverError> {
        Err(self.refusal())
    }

    fn remove_flow(&mut self, _queues: RangeInclusive<u32>, _id: u16) -> Result<(), DriverError> {
        Err(self.refusal())
    }

    fn queue_packets(&self, queue: u32) -> u64 {
        self.packets.get(&queue).copied().unwrap_or(0)
    }
}
