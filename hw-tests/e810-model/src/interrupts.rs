//! Causes and vectors.
//!
//! The rule that satisfies Linux and DPDK: a cause that is enabled makes its vector pending; a pending vector fires when it is enabled, and is disabled by
//! that. Throttling is not modelled: each interrupt comes at once.

use std::collections::BTreeSet;

use crate::fault::Fault;
use crate::regs;
use crate::state::State;

/// Vectors with something to tell.
pub(crate) type Pending = BTreeSet<u16>;

impl State {
    /// A cause with a control register of its own (queue, admin queue, others) occurs.
    pub(crate) fn cause(&mut self, control: u32) {
        let value = self.regs.get(control);
        let event = matches!(control, regs::PFINT_FW_CTL | regs::PFINT_MBX_CTL);
        if event {
            self.regs.set_bits(control, regs::CAUSE_INTEVENT);
        }
        if value & regs::CAUSE_ENA == 0 {
            return;
        }
        if !event && self.fault == Fault::LostInterrupt && control != regs::PFINT_OICR_CTL {
            return;
        }
        let vector = (value & regs::CAUSE_VECTOR) as u16;
        if vector >= self.card.vectors {
            self.refuse(format!(
                "the cause at {control:#x} is for vector {vector}; the function has {}",
                self.card.vectors
            ));
            return;
        }
        self.pending.insert(vector);
        self.fire(vector);
    }

    /// One of the other causes (PFINT_OICR) occurs.
    pub(crate) fn raise_other(&mut self, bits: u32) {
        self.regs
            .set_bits(regs::PFINT_OICR, bits | regs::OICR_INTEVENT);
        if self.regs.get(regs::PFINT_OICR_ENA) & bits != 0 {
            self.cause(regs::PFINT_OICR_CTL);
        }
    }

    /// Sends a pending vector's message if it is enabled.
    fn fire(&mut self, vector: u16) {
        let control = regs::GLINT_DYN_CTL + u32::from(vector) * 4;
        if self.regs.get(control) & regs::DYN_INTENA == 0 || !self.pending.remove(&vector) {
            return;
        }
        if self.regs.get(regs::GLINT_CTL) & regs::GLINT_CTL_DIS_AUTOMASK == 0 {
            self.regs.clear_bits(control, regs::DYN_INTENA);
        }
        self.raise(vector);
    }

    /// The driver writes a vector's control.
    pub(crate) fn write_vector(&mut self, vector: u32, value: u32) {
        let control = regs::GLINT_DYN_CTL + vector * 4;
        let before = self.regs.get(control);
        let mut now = value & !(regs::DYN_ACTIONS | regs::DYN_INTENA_MSK);
        if value & regs::DYN_INTENA_MSK != 0 {
            now = now & !regs::DYN_INTENA | before & regs::DYN_INTENA;
        }
        self.regs.set(control, now);
        let Ok(vector) = u16::try_from(vector) else {
            return;
        };
        if vector >= self.card.vectors {
            return;
        }
        if value & regs::DYN_SWINT_TRIG != 0 {
            self.pending.insert(vector);
        }
        self.fire(vector);
    }
}
