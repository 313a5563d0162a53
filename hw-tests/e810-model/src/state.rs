//! The device's insides, and where an access to a register goes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::adminq::{Events, Flash, Locks, Port, Resources};
use crate::bus::{Dma, Nothing, Unmapped};
use crate::clock::Clock;
use crate::config::Config;
use crate::fault::Fault;
use crate::interrupts;
use crate::personality::Personality;
use crate::pipeline::{Filters, Package};
use crate::refusals::Refusals;
use crate::registers::Registers;
use crate::regs;
use crate::reset;
use crate::rx;
use crate::switch::Switch;
use crate::tree::Tree;
use crate::tx;
use crate::vsi::Vsi;

/// Sent frames that are kept.
const KEPT_FRAMES: usize = 65_536;

pub(crate) struct State {
    pub(crate) card: Personality,
    pub(crate) config: Config,
    pub(crate) regs: Registers,
    pub(crate) fault: Fault,
    /// The cable is plugged in, and the other side is up.
    pub(crate) link: bool,
    pub(crate) port: Port,
    /// The port's own address.
    pub(crate) station: [u8; 6],
    pub(crate) flash: Flash,
    pub(crate) locks: Locks,
    pub(crate) resources: Resources,
    pub(crate) events: Events,
    pub(crate) vsis: BTreeMap<u16, Vsi>,
    pub(crate) switch: Switch,
    pub(crate) tree: Tree,
    pub(crate) rate_profiles: u16,
    /// Reports of the card's health that are wanted.
    pub(crate) health: u8,
    pub(crate) package: Package,
    pub(crate) filters: Filters,
    pub(crate) clock: Clock,
    /// Tables that spread hashes, of the function and a global one.
    pub(crate) function_table: Vec<u16>,
    pub(crate) global_table: Vec<u16>,
    pub(crate) rx: BTreeMap<u32, rx::Queue>,
    pub(crate) tx: BTreeMap<u32, tx::Queue>,
    /// Descriptors that a fault holds back.
    pub(crate) late: Vec<rx::Late>,
    pub(crate) pending: interrupts::Pending,
    pub(crate) reset: Option<reset::Pending>,
    pub(crate) function_reads: u32,
    /// How often each admin command came.
    pub(crate) commands: BTreeMap<u16, u64>,
    memory: Arc<dyn Dma>,
    pub(crate) refusals: Refusals,
    /// Vectors to raise when the lock is released.
    raised: Vec<u16>,
    /// Frames for the wire, to hand out when the lock is released.
    outgoing: Vec<Vec<u8>>,
    kept: VecDeque<Vec<u8>>,
}

impl State {
    pub(crate) fn new(mut card: Personality) -> Self {
        card.queues = card.queues.clamp(1, regs::RX_QUEUES as u16);
        card.vectors = card.vectors.clamp(2, 1024);
        let mut state = Self {
            config: Config::new(&card),
            regs: Registers::new(),
            fault: Fault::None,
            link: true,
            port: Port::default(),
            station: card.mac,
            flash: Flash::new(),
            locks: Locks::default(),
            resources: Resources::default(),
            events: Events::new(),
            vsis: BTreeMap::new(),
            switch: Switch::default(),
            tree: Tree::new(),
            rate_profiles: 0,
            health: 0,
            package: Package::default(),
            filters: Filters::default(),
            clock: Clock::new(card.clock),
            function_table: vec![0; 2048],
            global_table: vec![0; 512],
            rx: BTreeMap::new(),
            tx: BTreeMap::new(),
            late: Vec::new(),
            pending: interrupts::Pending::new(),
            reset: None,
            function_reads: 0,
            commands: BTreeMap::new(),
            memory: Arc::new(Nothing),
            refusals: Refusals::default(),
            raised: Vec::new(),
            outgoing: Vec::new(),
            kept: VecDeque::new(),
            card,
        };
        state.set_reset_values();
        state.package_lost();
        state
    }

    pub(crate) fn read32(&mut self, offset: u32) -> u32 {
        if self.fault == Fault::Gone || !Registers::contains(offset) {
            return u32::MAX;
        }
        self.flush_late();
        let value = match offset {
            regs::GLGEN_RSTAT => self.read_reset_status(),
            regs::PFGEN_CTRL => self.read_function_control(),
            regs::PFINT_OICR => {
                let value = self.regs.get(offset);
                self.regs.set(offset, 0);
                value
            }
            regs::PFINT_FW_CTL | regs::PFINT_MBX_CTL => {
                let value = self.regs.get(offset);
                self.regs.clear_bits(offset, regs::CAUSE_INTEVENT);
                value
            }
            _ => self
                .read_clock(offset)
                .unwrap_or_else(|| self.regs.get(offset)),
        };
        self.reset_goes_on(1);
        tracing::trace!(
            offset = format_args!("{offset:#08x}"),
            value = format_args!("{value:#010x}"),
            "read"
        );
        value
    }

    pub(crate) fn write32(&mut self, offset: u32, value: u32) {
        tracing::trace!(
            offset = format_args!("{offset:#08x}"),
            value = format_args!("{value:#010x}"),
            "write"
        );
        if self.fault == Fault::Gone || !Registers::contains(offset) {
            return;
        }
        self.flush_late();
        self.reset_goes_on(1);
        if let Some(queue) = regs::index(offset, regs::QRX_TAIL, regs::RX_QUEUES) {
            self.tail_rx(queue, value);
        } else if let Some(queue) = regs::index(offset, regs::QRX_CTRL, regs::RX_QUEUES) {
            self.control_rx(queue, value);
        } else if let Some(vector) = regs::index(offset, regs::GLINT_DYN_CTL, 2048) {
            self.write_vector(vector, value);
        } else if let Some(queue) = regs::index(offset, regs::QTX_COMM_DBELL, regs::TX_QUEUES) {
            self.doorbell(queue, value);
        } else {
            self.write_plain(offset, value);
        }
    }

    /// Registers that are not in arrays.
    fn write_plain(&mut self, offset: u32, value: u32) {
        match offset {
            // Read-only.
            regs::GLGEN_RSTAT
            | regs::GLNVM_ULD
            | regs::GLNVM_GENS
            | regs::GLNVM_FLA
            | regs::PF_FUNC_RID
            | regs::PFINT_ALLOC
            | regs::PFLAN_RX_QALLOC
            | regs::PFLAN_TX_QALLOC => {}
            regs::PFGEN_CTRL => self.function_reset(value),
            regs::GLGEN_RTRIG => self.trigger(value),
            regs::PFINT_OICR => {
                // Bits that are written as 1 are set: how drivers start it by software.
                if value & regs::OICR_SWINT != 0 {
                    self.raise_other(regs::OICR_SWINT);
                }
            }
            // Malicious driver detection: all ones clear it.
            regs::GL_MDET_RX
            | regs::PF_MDET_RX
            | regs::GL_MDET_TX_TCLAN
            | regs::PF_MDET_TX_TCLAN => self.regs.clear_bits(offset, value),
            _ if self.write_clock(offset, value) => {}
            _ => {
                self.regs.set(offset, value);
                if offset == regs::ATQ.tail {
                    self.run_commands();
                } else if offset == regs::ARQ.tail {
                    self.deliver_events();
                } else if offset == regs::MBX_ATQ.tail {
                    self.run_mailbox();
                }
            }
        }
    }

    pub(crate) fn config_read(&self, offset: usize, into: &mut [u8]) {
        if self.fault == Fault::Gone {
            into.fill(0xff);
            return;
        }
        self.config.read(offset, into);
    }

    pub(crate) fn config_write(&mut self, offset: usize, from: &[u8]) {
        if self.fault != Fault::Gone && self.config.write(offset, from) {
            self.bus_reset();
        }
    }

    pub(crate) fn set_memory(&mut self, memory: Arc<dyn Dma>) {
        self.memory = memory;
    }

    /// The device reads memory, if it is a bus master.
    pub(crate) fn dma_read(&self, address: u64, into: &mut [u8]) -> Result<(), Unmapped> {
        if self.config.bus_master() {
            self.memory.read(address, into)
        } else {
            Nothing.read(address, into)
        }
    }

    /// The device writes memory, if it is a bus master.
    pub(crate) fn dma_write(&self, address: u64, from: &[u8]) -> Result<(), Unmapped> {
        if self.config.bus_master() {
            self.memory.write(address, from)
        } else {
            Nothing.write(address, from)
        }
    }

    /// Notes what was refused, and why.
    pub(crate) fn refuse(&mut self, why: String) {
        tracing::debug!(refused = %why);
        self.refusals.push(why);
    }

    /// A vector's message goes to the bus, if the device is a bus master.
    pub(crate) fn raise(&mut self, vector: u16) {
        if self.config.bus_master() {
            self.raised.push(vector);
        }
    }

    /// A frame goes to the wire.
    pub(crate) fn send(&mut self, frame: Vec<u8>) {
        self.outgoing.push(frame);
    }

    pub(crate) fn take_raised(&mut self) -> Vec<u16> {
        std::mem::take(&mut self.raised)
    }

    pub(crate) fn take_sent(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.outgoing)
    }

    pub(crate) fn keep_sent(&mut self, frames: Vec<Vec<u8>>) {
        self.kept.extend(frames);
        let over = self.kept.len().saturating_sub(KEPT_FRAMES);
        self.kept.drain(..over);
    }

    pub(crate) fn kept_sent(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.kept).into()
    }
}
