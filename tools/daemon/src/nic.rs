//! The NICs the daemon serves. This is the one place that names concrete ones: everywhere else a NIC is a [`ServedNic`], behind
//! which each kind has its own worker, so that no packet meets a dynamic call.

mod gone;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::sync::mpsc::SyncSender;

use devrx_driver::afxdp::{AfXdpNic, AfXdpOptions};
use devrx_driver::device::Device;
use devrx_driver::flow::FlowRule;
use devrx_driver::ice::{IceNic, IceOptions, PackageSource};
use devrx_driver::igb::{IgbNic, IgbOptions};
use devrx_driver::vfio::{self, FaultWatcher, Function, PciAddress};
use devrx_driver::{DriverError, Nic, PortLosses, QueueConfig, QueueNeeds};

use crate::attachment::Ended;
use crate::config::{NicConfig, NicSpec, QueueSettings};
use crate::worker::snapshot::Snapshot;
use crate::worker::{Command, Handle, Parts, Seat};

/// A NIC as control sees it.
pub trait ServedNic: Send {
    /// See [`Nic::name`].
    fn name(&self) -> &str;
    /// See [`Nic::driver`].
    fn driver(&self) -> &str;
    /// See [`Nic::queues`].
    fn queues(&self) -> u32;
    /// See [`Nic::needs`].
    fn needs(&self) -> QueueNeeds;
    /// See [`Nic::warnings`].
    fn warnings(&self) -> Vec<String>;
    /// See [`Nic::leftover_rules`].
    fn leftover_rules(&self) -> Vec<(u32, u32)>;
    /// See [`Nic::fault`].
    fn fault(&self) -> Option<String>;
    /// See [`Nic::set_alarm`].
    fn set_alarm(&mut self, alarm: OwnedFd);
    /// See [`Nic::port_losses`].
    fn port_losses(&self) -> PortLosses;
    /// Opens a queue and starts its worker.
    ///
    /// # Errors
    ///
    /// See [`Nic::open_queue`]; or when there is no thread to be had.
    fn start_queue(
        &mut self,
        queue: u32,
        config: QueueConfig,
        parts: Parts,
        commands: SyncSender<Command>,
    ) -> Result<Handle, crate::error::Refused>;
    /// See [`Nic::close_queue`].
    ///
    /// # Errors
    ///
    /// The same.
    fn close_queue(&mut self, queue: u32) -> Result<(), DriverError>;
    /// See [`devrx_driver::Flows::add_flow`].
    ///
    /// # Errors
    ///
    /// The same.
    fn add_flow(
        &mut self,
        queues: RangeInclusive<u32>,
        id: u16,
        rule: &FlowRule,
    ) -> Result<Vec<String>, DriverError>;
    /// See [`devrx_driver::Flows::remove_flow`].
    ///
    /// # Errors
    ///
    /// The same.
    fn remove_flow(&mut self, queues: RangeInclusive<u32>, id: u16) -> Result<(), DriverError>;
    /// See [`devrx_driver::Flows::queue_packets`].
    fn queue_packets(&self, queue: u32) -> u64;
}

impl<N: Nic> ServedNic for N {
    fn name(&self) -> &str {
        Nic::name(self)
    }

    fn driver(&self) -> &str {
        Nic::driver(self)
    }

    fn queues(&self) -> u32 {
        Nic::queues(self)
    }

    fn needs(&self) -> QueueNeeds {
        Nic::needs(self)
    }

    fn warnings(&self) -> Vec<String> {
        Nic::warnings(self)
    }

    fn leftover_rules(&self) -> Vec<(u32, u32)> {
        Nic::leftover_rules(self)
    }

    fn fault(&self) -> Option<String> {
        Nic::fault(self)
    }

    fn set_alarm(&mut self, alarm: OwnedFd) {
        Nic::set_alarm(self, alarm);
    }

    fn port_losses(&self) -> PortLosses {
        Nic::port_losses(self)
    }

    fn start_queue(
        &mut self,
        queue: u32,
        config: QueueConfig,
        parts: Parts,
        commands: SyncSender<Command>,
    ) -> Result<Handle, crate::error::Refused> {
        // Nothing fails once the queue is open.
        let seat = Seat::take(&parts)?;
        let open = self.open_queue(queue, config)?;
        Ok(seat.start(open, parts, commands))
    }

    fn close_queue(&mut self, queue: u32) -> Result<(), DriverError> {
        Nic::close_queue(self, queue)
    }

    fn add_flow(
        &mut self,
        queues: RangeInclusive<u32>,
        id: u16,
        rule: &FlowRule,
    ) -> Result<Vec<String>, DriverError> {
        devrx_driver::Flows::add_flow(self, queues, id, rule)
    }

    fn remove_flow(&mut self, queues: RangeInclusive<u32>, id: u16) -> Result<(), DriverError> {
        devrx_driver::Flows::remove_flow(self, queues, id)
    }

    fn queue_packets(&self, queue: u32) -> u64 {
        devrx_driver::Flows::queue_packets(self, queue)
    }
}

/// A NIC whose interrupts are held back as the configuration says.
fn moderated<N: Nic + 'static>(
    mut nic: N,
    settings: &[QueueSettings],
) -> Result<Box<dyn ServedNic>, DriverError> {
    for settings in settings {
        if let Some(microseconds) = settings.moderation_us {
            for queue in settings.queues.clone() {
                nic.set_moderation(queue, microseconds)?;
            }
        }
    }
    Ok(Box::new(nic))
}

/// A NIC with what the daemon knows about it.
pub struct NicSlot {
    /// The NIC.
    pub nic: Box<dyn ServedNic>,
    /// Whether it was let go of.
    pub gone: bool,
    /// The user's own name for it.
    pub alias: Option<String>,
    /// What the configuration says about its queues.
    pub settings: Vec<QueueSettings>,
    /// What attachments that are over left behind, by queue: queues count on over all of them.
    pub past: BTreeMap<u32, Snapshot>,
    /// What the kernel says of its DMA, where this process owns it.
    pub faults: Option<FaultWatcher>,
    /// DMA that the IOMMU stopped, as far as the kernel told.
    pub iommu_faults: u64,
}

impl NicSlot {
    /// Opens a NIC.
    ///
    /// # Errors
    ///
    /// Why it cannot be served.
    pub fn open(config: &NicConfig) -> Result<Self, DriverError> {
        let nic: Box<dyn ServedNic> = match &config.spec {
            NicSpec::AfXdp(name) => Box::new(AfXdpNic::open(name, AfXdpOptions::default())?),
            NicSpec::Vfio(name) => return Self::owned(name, config),
        };
        Ok(Self::new(nic, config.alias.clone(), config.queues.clone()))
    }

    /// Opens a NIC that this process owns as a whole.
    fn owned(name: &str, config: &NicConfig) -> Result<Self, DriverError> {
        let address: PciAddress = name.parse()?;
        let function = Function::open(address, &vfio::Options::default())?;
        let nic: Box<dyn ServedNic> = if devrx_driver::ice::supports(function.id()).is_some() {
            if let Some(value) = config.promiscuous {
                return Err(DriverError::BadConfig {
                    what: "promiscuous",
                    value: value.to_string(),
                    why: "an E810 takes what rules name and nothing else; the attachment with the rule `any` takes the rest, one with \
                          `dst-mac=` frames to one address"
                        .to_owned(),
                });
            }
            let mut options = IceOptions::default();
            if let Some(package) = &config.package {
                options.package = PackageSource::File(package.clone());
            }
            options.vlan_strip = config.vlan_strip.unwrap_or(options.vlan_strip);
            moderated(IceNic::open(function, options)?, &config.queues)?
        } else {
            let default = IgbOptions::default();
            let options = IgbOptions {
                promiscuous: config.promiscuous.unwrap_or(default.promiscuous),
                vlan_strip: config.vlan_strip.unwrap_or(default.vlan_strip),
            };
            moderated(IgbNic::open(function, options)?, &config.queues)?
        };
        let mut slot = Self::new(nic, config.alias.clone(), config.queues.clone());
        match FaultWatcher::new(address) {
            Ok(watcher) => slot.faults = Some(watcher),
            Err(error) => tracing::warn!(nic = name, %error, "nobody watches the IOMMU"),
        }
        Ok(slot)
    }

    /// A NIC that is open.
    #[must_use]
    pub fn new(
        nic: Box<dyn ServedNic>,
        alias: Option<String>,
        settings: Vec<QueueSettings>,
    ) -> Self {
        Self {
            nic,
            gone: false,
            alias,
            settings,
            past: BTreeMap::new(),
            faults: None,
            iommu_faults: 0,
        }
    }

    /// Lets go of a NIC that has failed, all of whose attachments have ended: it is closed, and what is left answers for it.
    ///
    /// Closing has the kernel reset it. Where it is gone without the kernel's knowing that takes a minute, for which nothing else waits.
    pub fn let_go(&mut self, why: String) {
        self.gone = true;
        let gone = Box::new(gone::Gone::of(&*self.nic, why));
        let nic = std::mem::replace(&mut self.nic, gone);
        let close = std::thread::Builder::new().name("devrx-let-go".to_owned());
        if let Err(error) = close.spawn(move || drop(nic)) {
            tracing::error!(%error, "no thread to close a NIC; control closed it");
        }
    }

    /// Takes in what the kernel has logged of the NIC's DMA. A stopped write means a packet that is not where its descriptor says, and a
    /// fault in this program or the NIC: nothing that a user can be left to find in a log.
    pub fn look_at_faults(&mut self) {
        let Some(watcher) = &mut self.faults else {
            return;
        };
        let missed = watcher.missed();
        let faults = watcher.read_faults();
        if watcher.missed() > missed {
            tracing::warn!(
                nic = self.nic.name(),
                "the kernel logged more than could be read, or kept some to itself: there may have been more faults than are counted"
            );
        }
        for fault in faults {
            self.iommu_faults += 1;
            tracing::error!(nic = self.nic.name(), %fault, "what the NIC meant to write or read there is lost; please report this");
        }
    }

    /// Whether this is the NIC called so.
    #[must_use]
    pub fn is_called(&self, name: &str) -> bool {
        let called = self.nic.name();
        called == name
            || self.alias.as_deref() == Some(name)
            || name
                .parse::<PciAddress>()
                .is_ok_and(|address| address.to_string() == called)
    }

    /// Keeps the numbers of an attachment that is over.
    pub fn remember(&mut self, ended: &Ended) {
        for (queue, numbers) in &ended.numbers {
            self.past
                .entry(*queue)
                .or_insert_with(Snapshot::zero)
                .add(numbers);
        }
    }

    /// What the configuration says about a queue.
    #[must_use]
    pub fn settings_of(&self, queue: u32) -> Option<&QueueSettings> {
        self.settings
            .iter()
            .find(|settings| settings.queues.contains(&queue))
    }
}
