//! The clock, and the stamps it makes (I210 datasheet 7.1.6, 7.8.3, 8.15).

use std::time::Instant;

use super::State;
use crate::igb::clock::SystemTime;
use crate::igb::regs::{
    RXPBSIZE, RXPBSIZE_STAMPS, RxQueueRegs, SYSTIMH, SYSTIML, TSAUXC, TSYNCRXCTL, srrctl,
    tsyncrxctl,
};

/// TSAUXC: the clock is off.
const DISABLE: u32 = 1 << 31;
const SECOND: u64 = 1_000_000_000;

/// What the clock says.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Systime {
    pub base: u64,
    /// It runs, since then.
    pub since: Option<Instant>,
}

impl Systime {
    /// Nanoseconds.
    fn now(self) -> u64 {
        let since = self
            .since
            .map_or(0, |since| since.elapsed().as_nanos() as u64);
        self.base.wrapping_add(since)
    }
}

impl State {
    /// TSAUXC is written.
    pub(super) fn set_clock(&mut self, value: u32) {
        self.put(TSAUXC, value);
        self.systime = Systime {
            base: self.systime.now(),
            since: (value & DISABLE == 0).then(Instant::now),
        };
    }

    /// As after a reset: it stands still at 0.
    pub(super) fn reset_clock(&mut self) {
        self.systime = Systime::default();
        self.put(TSAUXC, DISABLE);
    }

    /// SYSTIMR is read: the others say what it is now.
    pub(super) fn latch_clock(&mut self) {
        let (low, high) = self.halves(self.systime.now());
        self.put(SYSTIML, low);
        self.put(SYSTIMH, high);
    }

    /// What the clock says.
    pub(super) fn now(&self) -> u64 {
        self.systime.now()
    }

    fn halves(&self, nanoseconds: u64) -> (u32, u32) {
        match self.part.time {
            Ok(SystemTime::Nanoseconds) => (nanoseconds as u32, (nanoseconds >> 32) as u32 & 0xff),
            Ok(SystemTime::Seconds) => {
                ((nanoseconds % SECOND) as u32, (nanoseconds / SECOND) as u32)
            }
            Err(_) => (0, 0),
        }
    }

    /// What stands in front of a packet that came at `time`, if `queue`'s are stamped.
    pub(super) fn front(&self, queue: u32, time: u64) -> Option<[u8; 16]> {
        let all = tsyncrxctl::ENABLE | tsyncrxctl::ALL;
        let kept =
            self.part.time != Ok(SystemTime::Seconds) || self.get(RXPBSIZE) & RXPBSIZE_STAMPS != 0;
        let asked = self.get(RxQueueRegs::of(queue).srrctl()) & srrctl::TIMESTAMP != 0;
        if !asked || !kept || self.part.time.is_err() {
            return None;
        }
        if self.get(TSYNCRXCTL) & 0x1e != all || self.get(TSAUXC) & DISABLE != 0 {
            return None;
        }
        let (low, high) = self.halves(time);
        let mut front = [0; 16];
        front[8..12].copy_from_slice(&low.to_le_bytes());
        front[12..].copy_from_slice(&high.to_le_bytes());
        Some(self.front.unwrap_or(front))
    }
}
