//! The device's insides, and where an access to a register goes.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::bus::{Dma, Nothing, Unmapped};
use crate::config::Config;
use crate::fault::Fault;
use crate::personality::Personality;
use crate::registers::Registers;

/// Refusals and sent frames that are kept.
const KEPT_REFUSALS: usize = 1024;
const KEPT_FRAMES: usize = 65_536;

pub(crate) struct State {
    pub(crate) card: Personality,
    pub(crate) config: Config,
    pub(crate) regs: Registers,
    pub(crate) fault: Fault,
    pub(crate) link: bool,
    memory: Arc<dyn Dma>,
    refusals: VecDeque<String>,
    /// Vectors to raise when the lock is released.
    raised: Vec<u16>,
    /// Frames for the wire, to hand out when the lock is released.
    outgoing: Vec<Vec<u8>>,
    kept: VecDeque<Vec<u8>>,
}

impl State {
    pub(crate) fn new(card: Personality) -> Self {
        Self {
            config: Config::new(&card),
            regs: Registers::new(),
            fault: Fault::None,
            link: true,
            memory: Arc::new(Nothing),
            refusals: VecDeque::new(),
            raised: Vec::new(),
            outgoing: Vec::new(),
            kept: VecDeque::new(),
            card,
        }
    }

    pub(crate) fn read32(&mut self, offset: u32) -> u32 {
        if self.fault == Fault::Gone || !Registers::contains(offset) {
            return u32::MAX;
        }
        self.regs.get(offset)
    }

    pub(crate) fn write32(&mut self, offset: u32, value: u32) {
        if self.fault == Fault::Gone || !Registers::contains(offset) {
            return;
        }
        self.regs.set(offset, value);
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

    pub(crate) fn bus_reset(&mut self) {
        self.config.reset();
    }

    pub(crate) fn receive(&mut self, _frame: &[u8]) -> bool {
        false
    }

    pub(crate) fn set_link(&mut self, up: bool) {
        self.link = up;
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
        if self.refusals.len() == KEPT_REFUSALS {
            self.refusals.pop_front();
        }
        self.refusals.push_back(why);
    }

    pub(crate) fn refusals(&self) -> Vec<String> {
        self.refusals.iter().cloned().collect()
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
