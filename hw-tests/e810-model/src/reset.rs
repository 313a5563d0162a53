//! Resets: of the function (PFR, FLR), of the core, of all (GLOBR), of the firmware (EMPR).
//!
//! How drivers wait: DPDK `ice_check_reset`, `ice_pf_reset` in `ice_common.c`. Which register survives which reset is from the "Reset Source" remarks of
//! `ice_hw_autogen.h`; what a function reset does to the switch is a guess, as both drivers configure all anew.

use crate::adminq::{Locks, Port};
use crate::fault::Fault;
use crate::registers::Registers;
use crate::regs;
use crate::state::State;
use crate::switch::Switch;
use crate::tree::Tree;

/// A reset of the whole device, which any function, the firmware or an error may start.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Reset {
    /// CORER: all but the link and PCI Express.
    Core,
    /// GLOBR: the link, too.
    Global,
    /// EMPR: the firmware restarts.
    Firmware,
}

impl Reset {
    /// Its number in GLGEN_RSTAT, and where that register counts it.
    fn code(self) -> (u32, u32) {
        match self {
            Self::Core => (1, 4),
            Self::Global => (2, 6),
            Self::Firmware => (3, 8),
        }
    }
}

/// A reset goes through these: announced, and from `AT` on carried out, and from `OVER` on over. Accesses count: one to GLGEN_RSTAT much, others little, as
/// drivers wait 100 ms between the former.
#[derive(Debug)]
pub(crate) struct Pending {
    kind: Reset,
    progress: u32,
}
const AT: u32 = 32;
const OVER: u32 = 96;
const STEP: u32 = 16;
/// Reads of PFGEN_CTRL that still show a function reset going on.
const FUNCTION_READS: u32 = 2;

impl State {
    /// Values that registers have after a reset of the core.
    pub(crate) fn set_reset_values(&mut self) {
        let card = self.card.clone();
        let first = u32::from(card.first_queue());
        let last = first + u32::from(card.queues) - 1;
        let queues = 1 << 31 | last << 16 | first;
        let vectors = u32::from(card.vectors) - 1;
        let (guaranteed, shared) = card.flow_director;
        for (offset, value) in [
            (regs::GLNVM_ULD, regs::ULD_DONE),
            // Shadow RAM of 2^6 KiB, flash present; flash locked: no blank NVM.
            (regs::GLNVM_GENS, 6 << 5 | 1),
            (regs::GLNVM_FLA, 1 << 6),
            (regs::GL_PWR_MODE_CTL, 1 << 30),
            (
                regs::GLQF_FD_SIZE,
                u32::from(guaranteed) | u32::from(shared) << 16,
            ),
            (regs::PFINT_ALLOC, 1 << 31 | vectors << 12),
            (regs::PFLAN_RX_QALLOC, queues),
            (regs::PFLAN_TX_QALLOC, queues),
            (regs::PF_FUNC_RID, 0),
            (regs::PRTMAC_HSEC_CTL_TX_PAUSE_QUANTA, 0xffff),
            (regs::PRTMAC_HSEC_CTL_TX_PAUSE_REFRESH_TIMER, 0x7fff),
            // 100 ms units.
            (regs::GLGEN_RSTCTL, 1),
        ] {
            self.regs.set(offset, value);
        }
        // Profiles whose layout is known have flags; what the flags are, nobody reads.
        for rxdid in [0_u32, 1, 2, 6, 16, 17, 18, 19, 20, 21, 22] {
            self.regs
                .set(regs::GLFLXP_RXDID_FLAGS + rxdid * 4, 0x0403_0201);
        }
    }

    /// Queues, VSIs, rules, filters of the function: as if it had never configured anything.
    pub(crate) fn clear_function(&mut self) {
        self.vsis.clear();
        self.switch.clear();
        self.resources.function_cleared();
        self.package.function_cleared();
        self.package_reserves();
        self.clear_filters();
    }

    /// All queues stop at once.
    fn stop_queues(&mut self) {
        for queue in self.rx.keys().copied().collect::<Vec<_>>() {
            self.stop_rx(queue);
        }
        for queue in 0..u32::from(self.card.queues) {
            self.regs.set(regs::QRX_CTRL + queue * 4, 0);
        }
        self.tx.clear();
        self.late.clear();
    }

    /// What resets of the function have in common.
    fn reset_function(&mut self) {
        self.stop_queues();
        self.clear_function();
        self.pending.clear();
        self.events.clear();
        self.locks = Locks::default();
        self.tree = Tree::new();
        self.port = Port::default();
        self.rate_profiles = 0;
        self.health = 0;
        self.clock.function_reset();
    }

    /// PFGEN_CTRL was written.
    pub(crate) fn function_reset(&mut self, value: u32) {
        if value & regs::PFGEN_CTRL_PFSWR == 0 {
            self.regs.set(regs::PFGEN_CTRL, value);
            return;
        }
        self.regs.set(regs::PFGEN_CTRL, value);
        self.function_reads = FUNCTION_READS;
        self.reset_function();
    }

    /// PFGEN_CTRL is read: after a while the reset is over.
    pub(crate) fn read_function_control(&mut self) -> u32 {
        if self.function_reads > 0 && self.fault != Fault::ResetHangs {
            self.function_reads -= 1;
            if self.function_reads == 0 {
                self.regs
                    .clear_bits(regs::PFGEN_CTRL, regs::PFGEN_CTRL_PFSWR);
            }
        }
        self.regs.get(regs::PFGEN_CTRL)
    }

    /// The bus resets the function: configuration space and the control queues, too.
    pub(crate) fn bus_reset(&mut self) {
        self.config.reset();
        self.reset_function();
        self.wipe(false);
    }

    /// Registers get their reset values, but for counts of resets.
    fn wipe(&mut self, keep_queues: bool) {
        let status = self.regs.get(regs::GLGEN_RSTAT);
        let mut kept = Vec::new();
        if keep_queues {
            for queue in [regs::ATQ, regs::ARQ, regs::MBX_ATQ, regs::MBX_ARQ] {
                for offset in [
                    queue.base_low,
                    queue.base_high,
                    queue.len,
                    queue.head,
                    queue.tail,
                ] {
                    kept.push((offset, self.regs.get(offset)));
                }
            }
        }
        self.regs = Registers::new();
        self.set_reset_values();
        self.regs.set(regs::GLGEN_RSTAT, status);
        for (offset, value) in kept {
            self.regs.set(offset, value);
        }
    }

    /// Somebody starts a reset of the device: it is announced, then happens.
    pub(crate) fn start_reset(&mut self, kind: Reset) {
        if self.reset.is_some() {
            return;
        }
        let (code, _) = kind.code();
        let status = self.regs.get(regs::GLGEN_RSTAT) & !0xf;
        // Requested, and of which type.
        self.regs.set(regs::GLGEN_RSTAT, status | code << 2 | 1);
        self.reset = Some(Pending { kind, progress: 0 });
        self.raise_other(regs::OICR_GRST);
    }

    /// GLGEN_RTRIG was written.
    pub(crate) fn trigger(&mut self, value: u32) {
        if value & regs::RTRIG_FIRMWARE != 0 {
            self.start_reset(Reset::Firmware);
        } else if value & regs::RTRIG_GLOBAL != 0 {
            self.start_reset(Reset::Global);
        } else if value & regs::RTRIG_CORE != 0 {
            self.start_reset(Reset::Core);
        }
    }

    /// Whether a reset was carried out and is not over.
    pub(crate) fn reset_is_pending(&self) -> bool {
        self.reset
            .as_ref()
            .is_some_and(|reset| reset.progress >= AT)
    }

    /// Time passes for a reset that is going on.
    pub(crate) fn reset_goes_on(&mut self, by: u32) {
        if self.fault == Fault::ResetHangs {
            return;
        }
        let Some(reset) = &mut self.reset else {
            return;
        };
        let before = reset.progress;
        reset.progress += by;
        let (now, kind) = (reset.progress, reset.kind);
        if before < AT && now >= AT {
            self.carry_out_reset(kind);
        }
        if now >= OVER {
            self.reset = None;
            self.regs.clear_bits(regs::GLGEN_RSTAT, 0x3);
            self.regs.set(regs::GLNVM_ULD, regs::ULD_DONE);
        }
    }

    fn carry_out_reset(&mut self, kind: Reset) {
        let (code, shift) = kind.code();
        self.package_lost();
        self.reset_function();
        self.switch = Switch::default();
        self.clock.reset(self.card.clock);
        // The control queues' registers are reset with the firmware only; the firmware does not serve them before the driver sets them up again.
        self.wipe(kind != Reset::Firmware);
        for queue in [regs::ATQ, regs::ARQ, regs::MBX_ATQ, regs::MBX_ARQ] {
            self.regs.clear_bits(queue.len, regs::QLEN_ENABLE);
        }
        let before = self.regs.get(regs::GLGEN_RSTAT) & !0xf;
        let count = (before >> shift).wrapping_add(1) & 0x3;
        let counted = before & !(0x3 << shift) | count << shift;
        // In progress.
        self.regs.set(regs::GLGEN_RSTAT, counted | code << 2 | 2);
        self.regs.set(regs::GLNVM_ULD, regs::ULD_DONE & !(1 << 3));
    }

    /// GLGEN_RSTAT is read; drivers wait long between reads.
    pub(crate) fn read_reset_status(&mut self) -> u32 {
        let value = self.regs.get(regs::GLGEN_RSTAT);
        self.reset_goes_on(STEP);
        value
    }
}
