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

use super::admin::Port;
use super::clock;
use super::init::{self, Facts};
use super::interrupts;
use super::monitor::Monitor;
use super::options::IceOptions;
use super::package::Parser;
use super::parts::supports;
use super::queue::IceQueue;
use super::shared::{Control, Shared};
use super::steer::Flow;
use super::switch::Switch;
use super::write_back::{Receive, Ring, manner_of};
use crate::device::Device;
use crate::flow::RuleBoard;
use crate::ring::{Buffers, Manner, Vectors, pause};
use crate::{DriverError, Nic, PortLosses, QueueConfig, Timestamps};

/// Queues that are used at most: each takes an interrupt and an eventfd.
const MOST_QUEUES: u32 = 64;
/// How long a packet whose queue has been chosen may be in the NIC: its packet buffer holds a few hundred kilobytes, which at 10 Gbit/s is less.
const FIFO_DRAIN: Duration = Duration::from_millis(1);

/// An open queue, the controlling side.
#[derive(Debug)]
struct Open {
    board: Arc<RuleBoard>,
    manner: Manner,
    /// The function reset it was opened after.
    epoch: u32,
}

/// An E810, owned as a whole: one of its ports.
#[derive(Debug)]
pub struct IceNic<D: Device> {
    shared: Arc<Shared<D>>,
    vectors: Arc<Vectors>,
    options: IceOptions,
    queues: u32,
    facts: Facts,
    switch: Switch,
    open: BTreeMap<u32, Open>,
    flows: Vec<Flow>,
    /// The reset after which the NIC was initialized.
    epoch: u32,
    /// What is sent comes back.
    loopback: bool,
    /// What was asked for queues' interrupts, microseconds: a reset forgets it.
    moderation: BTreeMap<u32, u32>,
    monitor: Option<Monitor>,
    /// The reset after which the card's clock was started.
    clock_of: Option<u32>,
}

/// What a start leads to.
type Started = (Arc<Vectors>, Facts, Monitor);

impl<D: Device> IceNic<D> {
    /// Takes the NIC: resets it, gives it its package. Nothing is received yet.
    ///
    /// # Errors
    ///
    /// [`DriverError::NoNic`] when it is no part this driver knows, or does not answer; [`DriverError::Firmware`]; what the system refused.
    pub fn open(device: Arc<D>, options: IceOptions) -> Result<Self, DriverError> {
        let no_nic = |why: String| DriverError::NoNic {
            nic: device.address().to_owned(),
            why,
        };
        let id = device.id();
        let part = supports(id).ok_or_else(|| {
            no_nic(format!(
                "this driver does not know PCI device {:04x}:{:04x}; `devrx nic list` shows which NICs can be owned",
                id.vendor, id.device
            ))
        })?;
        let registers = device.registers();
        init::active(&*registers)
            .map_err(|why| no_nic(format!("{why}; turn the machine off and on")))?;
        let count = init::queues(&*registers).map_err(no_nic)?;
        let queues = count
            .min(device.vectors().saturating_sub(1))
            .min(MOST_QUEUES);
        if queues == 0 {
            return Err(no_nic(
                "it has fewer than two MSI-X vectors, one for a queue and one for the rest; see whether the system restricts MSI-X"
                    .to_owned(),
            ));
        }
        let shared = Arc::new(Shared::new(device, part, queues)?);
        let (vectors, facts, monitor) =
            Self::start(&shared, &mut shared.control(), queues, &options)?;
        // The registers say how many there are, the firmware how many it lets be used.
        let queues = match facts.capabilities.queues {
            0 => queues,
            allowed => queues.min(allowed),
        };
        tracing::info!(
            nic = shared.device.address(),
            part = part.describe(id.device),
            queues,
            splits = facts.parser.splits(),
            "NIC taken"
        );
        let switch = Self::switch(&facts, &options);
        Ok(Self {
            epoch: shared.epoch.load(Ordering::Acquire),
            shared,
            vectors,
            options,
            queues,
            facts,
            switch,
            open: BTreeMap::new(),
            flows: Vec::new(),
            loopback: false,
            moderation: BTreeMap::new(),
            monitor: Some(monitor),
            clock_of: None,
        })
    }

    fn switch(facts: &Facts, options: &IceOptions) -> Switch {
        let package = facts.parser.package().map(|package| &**package);
        Switch::new(facts.port, package, options.vlan_strip)
    }

    /// The package that its parser works by: name and version. `None` in safe mode.
    #[must_use]
    pub fn package(&self) -> Option<&str> {
        match &self.facts.parser {
            Parser::Package { name, .. } => Some(name),
            Parser::Safe(_) => None,
        }
    }

    /// How many rules of the switch bring packets to a queue's attachment.
    #[cfg(test)]
    pub(super) fn forget_recipes(&mut self) {
        self.switch.forget_recipes();
    }

    #[cfg(test)]
    pub(super) fn rules_of(&self, queue: u32) -> usize {
        self.switch.rules_of(queue)
    }

    fn port(&self) -> Port {
        self.facts.port
    }

    /// Brings the NIC from reset to where queues can be opened.
    fn start(
        shared: &Arc<Shared<D>>,
        control: &mut Control<D::Registers>,
        queues: u32,
        options: &IceOptions,
    ) -> Result<Started, DriverError> {
        let facts = init::init(shared, control, options)?;
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
        // Where the counters begin.
        shared.collect(u32::from(facts.port.number));
        let monitor = Monitor::start(
            Arc::clone(shared),
            Arc::clone(&vectors),
            queues,
            u32::from(facts.port.number),
        )?;
        Ok((vectors, facts, monitor))
    }

    /// Makes the NIC fit for queue `index` to be opened: initializes it again after a reset, and resets it after a failure that a reset can take away.
    fn revive(
        &mut self,
        control: &mut Control<D::Registers>,
        index: u32,
    ) -> Result<(), DriverError> {
        self.check_there()?;
        if self.shared.epoch.load(Ordering::Acquire) == self.epoch {
            let fault = match self.shared.fault_of(self.epoch) {
                Some(fault) => fault,
                None if control.admin.alive() => return Ok(()),
                None => "the NIC's firmware did not answer a command",
            };
            if self.open.values().any(|open| open.epoch == self.epoch) {
                return Err(DriverError::QueueBusy {
                    nic: self.shared.device.address().to_owned(),
                    queue: index,
                    why: format!(
                        "{fault}; other queues are open, which the reset would end, so detach those too"
                    ),
                });
            }
            tracing::warn!(
                nic = self.shared.device.address(),
                why = fault,
                "the NIC is reset"
            );
            let reset = self.shared.reset(control);
            // Queues that are closed and have not been stopped yet.
            self.vectors.wake_all();
            reset?;
            self.check_there()?;
        }
        self.restart(control).or_else(|error| {
            // There may be no monitor now that would find out.
            self.shared.end_if_gone();
            self.check_there().and(Err(error))
        })
    }

    /// An error if the NIC can serve no more.
    fn check_there(&self) -> Result<(), DriverError> {
        self.shared.ended().map_or(Ok(()), |why| {
            Err(DriverError::NoNic {
                nic: self.shared.device.address().to_owned(),
                why,
            })
        })
    }

    /// Initializes the NIC again after a function reset. Queues of before have ended; their VSIs and rules are gone with it.
    fn restart(&mut self, control: &mut Control<D::Registers>) -> Result<(), DriverError> {
        // Joins the old thread, which takes no lock of ours.
        self.monitor = None;
        self.shared.forgive();
        let (vectors, facts, monitor) =
            Self::start(&self.shared, control, self.queues, &self.options)?;
        for (&queue, &microseconds) in &self.moderation {
            // It was taken before.
            let _ = interrupts::moderate(&self.shared, queue, microseconds);
        }
        self.switch = Self::switch(&facts, &self.options);
        (self.vectors, self.facts, self.monitor) = (vectors, facts, Some(monitor));
        self.epoch = self.shared.epoch.load(Ordering::Acquire);
        if self.loopback {
            self.loop_back(control)?;
        }
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

impl<D: Device> Nic for IceNic<D> {
    type Queue = IceQueue<D>;

    fn name(&self) -> &str {
        self.shared.device.address()
    }

    fn driver(&self) -> &str {
        "ice"
    }

    fn queues(&self) -> u32 {
        self.queues
    }

    fn needs(&self) -> QueueNeeds {
        QueueNeeds {
            min_chunk: *opening::CHUNK.start(),
            max_chunk: *opening::CHUNK.end(),
            chunk_multiple: 128,
            cpu_reads_payload: !self.facts.parser.splits(),
            ways: self.shared.device.ways(),
        }
    }

    fn timestamps(&self) -> Result<(), String> {
        match self.facts.capabilities.timer {
            Some(_) => Ok(()),
            None => Err(clock::without(clock::NONE)),
        }
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
        self.check_timestamps(config.timestamps)?;
        let manner = manner_of(&config, self.facts.parser.splits());
        let mapper = self.shared.device.mapper();
        let buffers = Buffers::map(&mapper, &config, manner.splits)?;
        let ring = Ring::new(&mapper, config.ring, buffers)?;
        let shared = Arc::clone(&self.shared);
        let mut control = shared.control();
        self.revive(&mut control, index)?;
        // A reset may have lost the package.
        if manner != manner_of(&config, self.facts.parser.splits()) {
            return Err(DriverError::QueueBusy {
                nic: self.name().to_owned(),
                queue: index,
                why: "the NIC was reset, and its package is another now; try again".to_owned(),
            });
        }
        let context = opening::context(&config, &ring, manner);
        let board = Arc::new(RuleBoard::default());
        let clock = match config.timestamps {
            Timestamps::Software => None,
            Timestamps::Nic => Some(self.clock(&mut control)?),
        };
        let stamps = clock.is_some();
        let mut receive = Receive::new(ring, config, manner, (), Arc::clone(&board), clock);
        self.enable(index, &mut receive.ring, &context, stamps)?;
        let queue = IceQueue::new(
            receive,
            Arc::clone(&shared),
            Arc::clone(&self.vectors),
            index,
        );
        let open = Open {
            board,
            manner,
            epoch: self.epoch,
        };
        self.open.insert(index, open);
        tracing::info!(
            nic = self.name(),
            queue = index,
            splits = manner.splits,
            "queue opened"
        );
        Ok(queue)
    }

    fn close_queue(&mut self, queue: u32) -> Result<(), DriverError> {
        if self.open.remove(&queue).is_none() {
            return Ok(());
        }
        // A range loses all of its queues together: with one gone the hash would still name it.
        self.flows.retain(|flow| !flow.queues.contains(&queue));
        let steered = self.steer_again(queue..=queue);
        pause(FIFO_DRAIN);
        steered
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = vec![
            "the ice driver has been run on a model of the E810 that Linux's and DPDK's drivers run on too, never on silicon; compare what arrives with what was \
             sent before you rely on it"
                .to_owned(),
        ];
        warnings.extend(self.shared.health());
        if let Parser::Safe(why) = &self.facts.parser {
            warnings.push(format!(
                "safe mode, since {why}: no header is split off, so memory that the CPU does not read is refused; packets of one attachment go to one queue, and only \
                 destination addresses steer them. Install the package (Debian: firmware-intel-misc, elsewhere linux-firmware) and start again"
            ));
        }
        warnings
    }

    fn fault(&self) -> Option<String> {
        self.shared.ended()
    }

    fn set_alarm(&mut self, alarm: OwnedFd) {
        self.shared.set_alarm(alarm);
    }

    fn port_losses(&self) -> PortLosses {
        self.shared.losses(u32::from(self.port().number))
    }
}
