//! Statistics registers. They are not cleared by reading, nor by a reset of the function, so what counts is the difference to the last time; they are looked at every
//! second, which is soon enough for the narrowest of them (40 bits of bytes last 88 s at 100 Gbit/s).

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::regs::statistics as reg;
use super::shared::Shared;
use crate::device::{Device, Registers};
use crate::{NicStatistics, PortLosses};

/// What drops are called.
const DROPS: [&str; 8] = [
    "missed",
    "crc_error",
    "illegal_byte",
    "length_error",
    "undersize",
    "fragment",
    "oversize",
    "jabber",
];

/// A counter that goes around.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counter {
    last: Option<u64>,
    pub total: u64,
}

impl Counter {
    /// Takes in what the register says now. The first time only tells where it begins.
    pub(super) fn see(&mut self, value: u64, bits: u32) {
        let Some(last) = self.last.replace(value) else {
            return;
        };
        let new = if value >= last {
            value - last
        } else if last >> (bits - 2) == 3 {
            // It was near its end: it has gone around.
            (1 << bits) - last + value
        } else {
            // A reset of the device has cleared it.
            value
        };
        // What the device says is not checked, so it may be too much even for 64 bits.
        self.total = self.total.wrapping_add(new);
    }
}

/// What the port has counted since the NIC was opened.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Totals {
    packets: [Counter; 3],
    bytes: Counter,
    drops: [Counter; DROPS.len()],
}

/// Packets that were discarded on their way to a queue.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Discarded {
    /// All.
    pub total: u64,
    /// Of them, for an error: too long for the queue's buffers, for example. The others found no descriptor.
    pub errors: u64,
}

/// What was discarded on the way to the queues of one VSI.
#[derive(Debug)]
pub(super) struct Discards {
    vsi: u32,
    /// The VSI has one queue: what it discarded was that queue's.
    pub alone: bool,
    seen: Mutex<Seen>,
}

/// From which count on [`reg::GLV_REPC`] is cleared: it stops at its end, 2^16 - 1.
const CLEARED_FROM: u16 = 1 << 14;

#[derive(Debug, Default)]
struct Seen {
    all: Counter,
    errors: u64,
    /// What [`reg::GLV_REPC`] said of errors at the last look.
    errors_last: u16,
    /// The VSI is gone: its number may be another's.
    ended: bool,
}

impl Discards {
    /// Counts from now on.
    pub(super) fn begin<R: Registers>(registers: &R, vsi: u16, alone: bool) -> Self {
        let new = Self {
            vsi: u32::from(vsi),
            alone,
            seen: Mutex::default(),
        };
        // What was before is not counted.
        new.count(registers);
        new.seen().errors = 0;
        new
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many there have been.
    pub(super) fn count<R: Registers>(&self, registers: &R) -> Discarded {
        let mut seen = self.seen();
        if !seen.ended && self.vsi < reg::VSIS {
            let reasons = reg::GLV_REPC.at(self.vsi);
            let (all, why) = (
                registers.read32(reg::GLV_RDPC.at(self.vsi)),
                registers.read32(reasons),
            );
            // All ones: the device is gone.
            if all != u32::MAX && why != u32::MAX {
                seen.all.see(u64::from(all), 32);
                let now = (why >> 16) as u16;
                // Less than the last time: a reset has cleared it.
                let new = now.checked_sub(seen.errors_last).unwrap_or(now);
                seen.errors += u64::from(new);
                seen.errors_last = now;
                // What comes between the look and the clearing loses its reason, so that is done seldom.
                if now >= CLEARED_FROM {
                    registers.write32(reasons, 0);
                    seen.errors_last = 0;
                }
            }
        }
        Discarded {
            total: seen.all.total,
            errors: seen.errors.min(seen.all.total),
        }
    }

    /// The VSI goes: the last look.
    pub(super) fn end<R: Registers>(&self, registers: &R) {
        self.count(registers);
        self.seen().ended = true;
    }
}

impl<D: Device> Shared<D> {
    /// Adds up what the registers have counted since the last time.
    pub(super) fn collect(&self, port: u32) -> Totals {
        let port = port % reg::PORTS;
        let narrow = |offset| match self.read(offset) {
            u32::MAX => None,
            value => Some(u64::from(value)),
        };
        let wide = |offset| {
            let (low, high) = (self.read(offset), self.read(offset + 4));
            // All ones: the device is gone. The high half has eight bits.
            (high <= 0xff).then(|| u64::from(low) | u64::from(high) << 32)
        };
        let mut totals = self.totals.lock().unwrap_or_else(PoisonError::into_inner);
        let see = |counter: &mut Counter, value: Option<u64>, bits| {
            if let Some(value) = value {
                counter.see(value, bits);
            }
        };
        let packets = [reg::GLPRT_UPRC, reg::GLPRT_MPRC, reg::GLPRT_BPRC];
        for (counter, register) in totals.packets.iter_mut().zip(packets) {
            see(counter, wide(register.at(port)), 40);
        }
        see(&mut totals.bytes, wide(reg::GLPRT_GORC.at(port)), 40);
        let drops = [
            reg::PRTRPB_RDPC,
            reg::GLPRT_CRCERRS.at(port),
            reg::GLPRT_ILLERRC.at(port),
            reg::GLPRT_RLEC.at(port),
            reg::GLPRT_RUC.at(port),
            reg::GLPRT_RFC.at(port),
            reg::GLPRT_ROC.at(port),
            reg::GLPRT_RJC.at(port),
        ];
        for (counter, register) in totals.drops.iter_mut().zip(drops) {
            see(counter, narrow(register), 32);
        }
        *totals
    }

    /// Whether every packet that was lost is in a counter: a reset of the function throws away what was on its way to a queue.
    fn counts_all(&self) -> bool {
        self.epoch.load(Ordering::Relaxed) == 0
    }

    /// Packets that the port's packet buffer had no room for: any queue's.
    pub(super) fn missed(&self) -> u64 {
        let totals = self.totals.lock().unwrap_or_else(PoisonError::into_inner);
        totals.drops[0].total
    }

    /// What the port lost before it chose a queue, and what VSIs of several queues discarded, by the reasons of drops.
    pub(super) fn losses(&self, port: u32) -> PortLosses {
        let totals = self.collect(port);
        let mut drops = BTreeMap::new();
        for (name, counter) in DROPS.iter().zip(totals.drops) {
            let reason = match *name {
                name @ ("missed" | "oversize") => name,
                // Shorter than the shortest: some are padded and delivered.
                "undersize" => continue,
                _ => "error",
            };
            if counter.total > 0 {
                *drops.entry(reason).or_default() += counter.total;
            }
        }
        let several = self.discards_of_several();
        for (reason, count) in [
            ("no_descriptor", several.total - several.errors),
            ("error", several.errors),
        ] {
            if count > 0 {
                *drops.entry(reason).or_default() += count;
            }
        }
        PortLosses {
            drops,
            exact: self.counts_all(),
        }
    }

    /// The counters as a NIC shows them.
    pub(super) fn statistics(&self, port: u32) -> NicStatistics {
        let totals = self.collect(port);
        let sum = |total: u64, counter: &Counter| total.wrapping_add(counter.total);
        let drops = DROPS.iter().zip(totals.drops);
        let mut drops: BTreeMap<String, u64> = drops
            .map(|(name, counter)| ((*name).to_owned(), counter.total))
            .collect();
        drops.insert("discarded".to_owned(), self.all_discards().total);
        NicStatistics {
            packets: totals.packets.iter().fold(0, sum),
            bytes: totals.bytes.total,
            drops,
            exact: self.counts_all(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    /// A VSI that discards a packet in error right after each look at the reasons.
    #[derive(Default)]
    struct Busy {
        all: AtomicU32,
        errors: AtomicU32,
        cleared: AtomicU32,
    }

    impl Registers for Busy {
        fn read32(&self, offset: u32) -> u32 {
            if offset == reg::GLV_RDPC.at(3) {
                return self.all.load(Ordering::Relaxed);
            }
            assert_eq!(offset, reg::GLV_REPC.at(3));
            self.all.fetch_add(1, Ordering::Relaxed);
            self.errors.fetch_add(1, Ordering::Relaxed) << 16
        }

        fn write32(&self, offset: u32, value: u32) {
            assert_eq!((offset, value), (reg::GLV_REPC.at(3), 0));
            self.errors.store(0, Ordering::Relaxed);
            self.cleared.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn packets_that_are_discarded_during_a_look_keep_their_reason() {
        let busy = Busy::default();
        let discards = Discards::begin(&busy, 3, true);
        let looks = 40_000;
        let mut found = Discarded::default();
        for _ in 0..looks {
            found = discards.count(&busy);
        }
        assert_eq!(found.total, looks);
        let cleared = u64::from(busy.cleared.load(Ordering::Relaxed));
        assert_eq!(cleared, 2, "its end is never reached");
        assert_eq!(found.errors, looks - cleared);
    }

    #[test]
    fn counters_go_around_and_begin_anew() {
        let mut counter = Counter::default();
        counter.see(1000, 40);
        assert_eq!(counter.total, 0, "what was before is not counted");
        counter.see(1010, 40);
        assert_eq!(counter.total, 10);
        counter.see(4, 40);
        assert_eq!(counter.total, 14, "cleared by a reset");
        counter.see((1 << 40) - 1, 40);
        let before = counter.total;
        counter.see(2, 40);
        assert_eq!(counter.total - before, 3);
    }
}
