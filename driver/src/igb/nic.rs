//! The NIC: opens queues, brings flows to them.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use devrx_provider::{ChunkIndex, QueueNeeds};

use super::counts::Split;
use super::init::{self, wait};
use super::monitor::Monitor;
use super::parts::supports;
use super::queue::IgbQueue;
use super::receive::Receive;
use super::regs::{EITR_MOST, RXDCTL_ENABLE, RXDCTL_THRESHOLDS, RxQueueRegs, srrctl};
use super::ring::{Buffers, Ring};
use super::shared::{Shared, Vectors};
use super::steer::{self, Flow, Manners, Plan};
use super::transmit::Transmitter;
use super::{interrupts, link, loopback};
use crate::device::Device;
use crate::flow::{FlowRule, RuleBoard, Rules};
use crate::{
    DriverError, Flows, Interrupts, Link, LinkState, NO_FLOW, Nic, NicStatistics, PortLosses,
    QueueConfig, Statistics,
};

/// Descriptors of a ring: RDLEN is a multiple of 128 bytes, and 4096 is what everybody has tried.
const RING: RangeInclusive<u32> = 8..=4096;
/// Chunk sizes, bytes: BSIZEPACKET counts kilobytes.
const CHUNK: RangeInclusive<u32> = 1024..=16384;
/// Header slots, bytes: BSIZEHEADER counts 64 bytes, and has 4 bits in QEMU.
const SLOT: RangeInclusive<u32> = 64..=960;
/// How long a queue may take to be enabled.
const ENABLE_PATIENCE: Duration = Duration::from_millis(10);
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
    /// Whether headers are split off, so that rules can be looked up.
    split: bool,
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
            monitor: Some(monitor),
        })
    }

    /// The port's own address, which the part's memory holds.
    #[must_use]
    pub const fn station(&self) -> [u8; 6] {
        self.station
    }

    /// Starts transmission, for sending a few packets. One transmitter at a time; it goes before the NIC is given up.
    ///
    /// # Errors
    ///
    /// What the system refused.
    pub fn transmitter(&mut self) -> Result<Transmitter<D>, DriverError> {
        Transmitter::start(Arc::clone(&self.shared))
    }

    /// What is sent comes back to the NIC, and nothing goes to the wire or comes from it; or the usual again. Silicon loops in the PHY, which takes
    /// half a second, QEMU's model in the MAC.
    ///
    /// # Errors
    ///
    /// [`DriverError::NoNic`] when the PHY does not answer.
    pub fn set_loopback(&mut self, on: bool) -> Result<(), DriverError> {
        let control = self.shared.control();
        loopback::set_phy(&self.shared, on)?;
        drop(control);
        self.loopback = on;
        let plan = Plan::of(self.shared.part, &self.flows).unwrap_or_default();
        self.steer(&plan, 0..=self.queues - 1);
        Ok(())
    }

    /// Lets the NIC raise the interrupt of `queue` by itself: to see that interrupts arrive.
    pub fn raise_interrupt(&mut self, queue: u32) {
        interrupts::raise(&self.shared, queue);
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

    /// Initializes the NIC again after a function reset. Under the control lock. Queues of before have ended; their rules are gone from the hardware.
    fn restart(&mut self) -> Result<(), DriverError> {
        // Joins the old thread, which takes no lock of ours.
        self.monitor = None;
        self.shared.forgive();
        let (vectors, station, monitor) = Self::start(&self.shared, self.queues, self.options)?;
        (self.vectors, self.station, self.monitor) = (vectors, station, Some(monitor));
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

    /// Everything about a configuration that can be known without the NIC.
    fn check(&self, config: &QueueConfig) -> Result<(), DriverError> {
        if !config.ring.is_power_of_two() || !RING.contains(&config.ring) {
            return Err(Self::bad(
                "ring",
                config.ring,
                format!("use a power of two from {} to {}", RING.start(), RING.end()),
            ));
        }
        if let Err(error) = self.needs().check(config.provider.region()) {
            return Err(DriverError::UnfitMemory {
                nic: self.name().to_owned(),
                why: error.to_string(),
            });
        }
        let chunks = config.provider.chunks();
        if chunks.is_empty() {
            return Err(Self::bad(
                "memory share",
                "of no chunks",
                "use a larger region",
            ));
        }
        let headers = &config.headers;
        if !config.split {
            return Ok(());
        }
        if !SLOT.contains(&headers.slot_size) || !headers.slot_size.is_multiple_of(64) {
            return Err(Self::bad(
                "header slot",
                headers.slot_size,
                format!(
                    "use {} to {} bytes, in multiples of 64",
                    SLOT.start(),
                    SLOT.end()
                ),
            ));
        }
        let covers = |chunk| {
            let slot = headers.offset_of(ChunkIndex(chunk));
            slot.is_some_and(|slot| slot.is_multiple_of(64))
        };
        if !headers.memory.writable() || !covers(chunks.start) || !covers(chunks.end - 1) {
            let why = format!(
                "they must be writable, begin at a multiple of 64 bytes, and there must be one for each of the chunks {} to {}",
                chunks.start, chunks.end
            );
            return Err(Self::bad("header slots", headers.memory.len(), why));
        }
        if config.split_extra > 0 {
            return Err(Self::bad(
                "payload bytes with the header",
                config.split_extra,
                "this NIC splits exactly behind the header; use 0",
            ));
        }
        Ok(())
    }

    /// SRRCTL for a configuration that has been checked.
    fn srrctl(config: &QueueConfig) -> u32 {
        let sizes = config.provider.region().chunk_size() / 1024;
        let headers = (config.headers.slot_size / 64) << srrctl::HEADER_SHIFT;
        // An eighth of the ring free: soon enough to say so.
        let threshold = (config.ring / 8 / 16).min(0x1f) << srrctl::THRESHOLD_SHIFT;
        sizes
            | threshold
            | match Split::of(config) {
                Split::No => srrctl::ONE_BUFFER,
                Split::Headers => srrctl::SPLIT | headers,
                Split::Always => srrctl::SPLIT_ALWAYS | headers,
            }
    }

    /// Sets queue `index` up and enables it (82576 datasheet 4.6.9).
    fn enable(&self, index: u32, ring: &Ring, value: u32) -> Result<(), DriverError> {
        let (regs, shared) = (RxQueueRegs::of(index), &self.shared);
        shared.write(regs.rxdctl(), 0);
        // 64 bits; RDBAL takes the low half.
        shared.write(regs.rdbal(), ring.iova() as u32);
        shared.write(regs.rdbah(), (ring.iova() >> 32) as u32);
        shared.write(regs.rdlen(), ring.len());
        shared.write(regs.srrctl(), value);
        shared.write(regs.rdh(), 0);
        shared.write(regs.rdt(), 0);
        shared.write(regs.rxdctl(), RXDCTL_ENABLE | RXDCTL_THRESHOLDS);
        if !wait(ENABLE_PATIENCE, || {
            let value = shared.read(regs.rxdctl());
            // All ones is no answer.
            value != u32::MAX && value & RXDCTL_ENABLE != 0
        }) {
            return Err(DriverError::QueueBusy {
                nic: self.name().to_owned(),
                queue: index,
                why: "the NIC does not enable it; detach everything, which resets the NIC, and try again".to_owned(),
            });
        }
        // Head and tail once more, since silicon may take them only from an enabled queue.
        shared.write(regs.rdt(), 0);
        Ok(())
    }

    /// With several queues each drops for itself what finds no descriptor, so that one that is not polled does not hold the others up.
    fn set_drop_enable(&self) {
        let drop = if self.open.len() > 1 {
            srrctl::DROP_EN
        } else {
            0
        };
        for (&queue, open) in &self.open {
            if open.epoch == self.epoch {
                self.shared
                    .write(RxQueueRegs::of(queue).srrctl(), open.srrctl | drop);
            }
        }
    }

    fn manners(&self) -> Manners {
        Manners {
            station: self.station,
            promiscuous: self.options.promiscuous,
            strip_vlan: self.options.vlan_strip,
            loopback: self.loopback,
        }
    }

    /// Tells hardware and the queues of `queues` what their rules are now.
    fn steer(&self, plan: &Plan, queues: RangeInclusive<u32>) {
        let _control = self.shared.control();
        if self.shared.epoch.load(Ordering::Acquire) == self.epoch {
            steer::apply(&self.shared, plan, self.manners());
        }
        for queue in queues {
            if let Some(open) = self.open.get(&queue) {
                open.board.set(self.rules(queue));
            }
        }
    }

    fn rules(&self, queue: u32) -> Rules {
        let flows = self.flows.iter();
        flows
            .filter(|flow| flow.queues.contains(&queue))
            .map(|flow| (flow.id, flow.rule))
            .collect()
    }

    fn flow_error(&self, queue: u32, rule: impl ToString, why: impl Into<String>) -> DriverError {
        DriverError::Flow {
            nic: self.name().to_owned(),
            queue,
            rule: rule.to_string(),
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
            min_chunk: *CHUNK.start(),
            max_chunk: *CHUNK.end(),
            chunk_multiple: 1024,
            cpu_reads_payload: false,
            ways: self.shared.device.ways(),
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
        let mapper = self.shared.device.mapper();
        let buffers = Buffers::map(&mapper, &config)?;
        let ring = Ring::new(&mapper, config.ring, buffers)?;
        let shared = Arc::clone(&self.shared);
        let _control = shared.control();
        if shared.epoch.load(Ordering::Acquire) != self.epoch {
            self.restart()?;
        }
        let value = Self::srrctl(&config);
        let board = Arc::new(RuleBoard::default());
        let split = config.split;
        let receive = Receive::new(ring, config, Arc::clone(&board), self.options.vlan_strip);
        self.enable(index, &receive.ring, value)?;
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
        tracing::info!(nic = self.name(), queue = index, split, "queue opened");
        Ok(queue)
    }

    fn close_queue(&mut self, queue: u32) -> Result<(), DriverError> {
        if self.open.remove(&queue).is_none() {
            return Ok(());
        }
        // A range loses all of its queues together: with one gone the hash would still name it.
        self.flows.retain(|flow| !flow.queues.contains(&queue));
        let plan = Plan::of(self.shared.part, &self.flows).unwrap_or_default();
        self.steer(&plan, queue..=queue);
        {
            let _control = self.shared.control();
            self.set_drop_enable();
        }
        init::pause(FIFO_DRAIN);
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
        self.shared.losses()
    }
}

impl<D: Device> Flows for IgbNic<D> {
    fn add_flow(
        &mut self,
        queues: RangeInclusive<u32>,
        id: u16,
        rule: &FlowRule,
    ) -> Result<Vec<String>, DriverError> {
        let first = *queues.start();
        if id == NO_FLOW
            || self.flows.iter().any(|flow| {
                flow.id == id
                    && flow.queues.start() <= queues.end()
                    && queues.start() <= flow.queues.end()
            })
        {
            return Err(self.flow_error(first, rule, format!("the id {id} cannot be used: another rule has it, or it marks no rule; use another")));
        }
        for queue in queues.clone() {
            let Some(open) = self.open.get(&queue) else {
                return Err(DriverError::QueueClosed {
                    nic: self.name().to_owned(),
                    queue,
                });
            };
            if !open.split && !rule.is_any() {
                return Err(self.flow_error(
                    queue,
                    rule,
                    "this NIC leaves rules to the headers, and the queue splits none off; attach with header split, or use `any`",
                ));
            }
        }
        if self.options.vlan_strip && (rule.vlan().is_some() || rule.inner_vlan().is_some()) {
            return Err(self.flow_error(
                first,
                rule,
                "the NIC takes VLAN tags out of frames, so a rule cannot see them; take the NIC without VLAN stripping",
            ));
        }
        let mut flows = self.flows.clone();
        flows.push(Flow {
            id,
            rule: *rule,
            queues: queues.clone(),
        });
        let plan =
            Plan::of(self.shared.part, &flows).map_err(|why| self.flow_error(first, rule, why))?;
        self.flows = flows;
        self.steer(&plan, queues);
        Ok(rule.notes())
    }

    fn remove_flow(&mut self, queues: RangeInclusive<u32>, id: u16) -> Result<(), DriverError> {
        let at = self
            .flows
            .iter()
            .position(|flow| flow.id == id && flow.queues == queues);
        let Some(at) = at else {
            return Err(self.flow_error(
                *queues.start(),
                format!("#{id}"),
                "there is no such rule; `devrx flow list` shows what there is",
            ));
        };
        self.flows.remove(at);
        let plan = Plan::of(self.shared.part, &self.flows).unwrap_or_default();
        self.steer(&plan, queues);
        Ok(())
    }

    fn queue_packets(&self, queue: u32) -> u64 {
        let arrived = self.shared.arrived.get(queue as usize);
        arrived.map_or(0, |count| count.load(Ordering::Relaxed))
    }
}

impl<D: Device> Link for IgbNic<D> {
    fn link(&self) -> Result<LinkState, DriverError> {
        link::state(&self.shared)
    }
}

impl<D: Device> Statistics for IgbNic<D> {
    fn statistics(&self) -> Result<NicStatistics, DriverError> {
        Ok(self.shared.statistics())
    }
}

impl<D: Device> Interrupts for IgbNic<D> {
    fn set_moderation(&mut self, queue: u32, microseconds: u32) -> Result<(), DriverError> {
        if queue >= self.queues {
            return Err(DriverError::NoQueue {
                nic: self.name().to_owned(),
                queue,
                queues: self.queues,
            });
        }
        let _control = self.shared.control();
        if interrupts::moderate(&self.shared, queue, microseconds) {
            return Ok(());
        }
        Err(Self::bad(
            "interrupt moderation",
            microseconds,
            format!("this NIC holds an interrupt back for at most {EITR_MOST} microseconds"),
        ))
    }
}

impl<D: Device> Drop for IgbNic<D> {
    fn drop(&mut self) {
        self.monitor = None;
        let _control = self.shared.control();
        if self.shared.epoch.load(Ordering::Acquire) == self.epoch {
            // Queues that still live are stopped by their own threads; nothing new comes to them.
            steer::apply(&self.shared, &Plan::Off, self.manners());
            interrupts::mask_all(&self.shared);
        }
    }
}
