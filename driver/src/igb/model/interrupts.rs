//! Interrupts: causes, masks, messages (82576 datasheet 7.3).

use std::os::fd::AsFd;

use super::State;
use crate::igb::parts::IvarLayout;
use crate::igb::regs::{EIAC, EIMS, ICR, IMS, IVAR, IVAR_MISC, IVAR_VALID};
use crate::ring::ring;

impl State {
    /// A vector's cause occurs.
    pub(super) fn raise(&mut self, vector: u32) {
        self.causes |= 1_u32.checked_shl(vector).unwrap_or(0);
        self.deliver();
    }

    /// Sends what is pending and let through.
    pub(super) fn deliver(&mut self) {
        let due = self.causes & self.get(EIMS);
        for (vector, fd) in self.vectors.iter().enumerate() {
            if due & 1 << vector != 0 {
                ring(fd.as_fd());
            }
        }
        self.causes &= !(due & self.get(EIAC));
    }

    /// One of the other causes occurs. Latched already, it raises nothing.
    pub(super) fn raise_other(&mut self, cause: u32) {
        let latched = self.get(ICR) & cause != 0;
        self.put(ICR, self.get(ICR) | cause);
        if !latched && self.get(IMS) & cause != 0 {
            let entry = self.get(IVAR_MISC) >> 8 & 0xff;
            if entry & IVAR_VALID != 0 {
                self.raise(entry & 0x1f);
            }
        }
    }

    /// A packet was written to `queue`.
    pub(super) fn raise_queue(&mut self, queue: u32) {
        let (register, shift) = match self.part.ivar {
            IvarLayout::Eights => (queue & 7, if queue >= 8 { 16 } else { 0 }),
            IvarLayout::Pairs => (queue >> 1, if queue & 1 == 1 { 16 } else { 0 }),
        };
        let entry = self.get(IVAR.at(register)) >> shift & 0xff;
        if entry & IVAR_VALID != 0 {
            self.raise(entry & 0x1f);
        }
    }
}
