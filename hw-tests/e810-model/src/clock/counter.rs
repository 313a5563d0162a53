//! A counter of nanoseconds, as source timer and PHY have one each: 64 bits of nanoseconds and 32 of their fractions.

use std::time::Duration;

/// Bits of a nanosecond's fraction.
const FRACTION: u32 = 32;
/// Nanoseconds and their fractions.
const SHOWN: u128 = (1 << 96) - 1;
/// What is added with each tick has 40 bits (GLTSYN_INCVAL).
pub(super) const INCREMENT: u64 = (1 << 40) - 1;
/// Ticks of 812.5 MHz in 16 nanoseconds (`ICE_E810_PLL_FREQ` in DPDK's `ice_ptp_hw.h`).
const TICKS: u128 = 13;

/// What it showed at a moment, and how it goes on.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counter {
    on: bool,
    shown: u128,
    at: Duration,
    increment: u64,
}

impl Counter {
    /// What it shows: nanoseconds in the upper 64 bits, fractions in the lower 32.
    pub(super) fn shows(&self, now: Duration) -> u128 {
        if !self.on {
            return self.shown;
        }
        let ticks = now.saturating_sub(self.at).as_nanos() * TICKS / 16;
        self.shown
            .wrapping_add(ticks.wrapping_mul(u128::from(self.increment)))
            & SHOWN
    }

    pub(super) fn nanoseconds(&self, now: Duration) -> u64 {
        (self.shows(now) >> FRACTION) as u64
    }

    pub(super) const fn is_on(&self) -> bool {
        self.on
    }

    /// It is on, and its time goes on.
    pub(super) const fn runs(&self) -> bool {
        self.on && self.increment != 0
    }

    pub(super) const fn increment(&self) -> u64 {
        self.increment
    }

    pub(super) fn turn(&mut self, on: bool, now: Duration) {
        self.set(self.shows(now), now);
        self.on = on;
    }

    pub(super) fn set(&mut self, shows: u128, now: Duration) {
        (self.shown, self.at) = (shows & SHOWN, now);
    }

    pub(super) fn set_increment(&mut self, increment: u64, now: Duration) {
        self.set(self.shows(now), now);
        self.increment = increment & INCREMENT;
    }

    /// Goes forward or back at once, by nanoseconds in the upper half and their fractions in the lower.
    pub(super) fn adjust(&mut self, by: i64, now: Duration) {
        let shows = self.shows(now).wrapping_add_signed(i128::from(by));
        self.set(shows, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What drivers give an E810: 2^32 / 0.8125.
    const NOMINAL: u64 = 0x1_3b13_b13b;

    #[test]
    fn the_nominal_increment_counts_nanoseconds() {
        let mut counter = Counter::default();
        counter.set(5 << FRACTION, Duration::ZERO);
        counter.set_increment(NOMINAL, Duration::ZERO);
        assert_eq!(counter.nanoseconds(Duration::from_secs(9)), 5, "it is off");
        counter.turn(true, Duration::from_secs(1));
        let shown = counter.nanoseconds(Duration::from_secs(101));
        assert!(
            (99_999_999_900..=100_000_000_005).contains(&shown),
            "{shown}"
        );
    }

    #[test]
    fn changes_keep_what_has_been_counted() {
        let mut counter = Counter::default();
        counter.turn(true, Duration::ZERO);
        counter.set_increment(1 << FRACTION, Duration::ZERO);
        // 16 ns are 13 ticks, of one nanosecond each now.
        counter.set_increment(2 << FRACTION, Duration::from_nanos(16));
        assert_eq!(counter.nanoseconds(Duration::from_nanos(32)), 13 + 26);
        counter.adjust(-(9 << FRACTION), Duration::from_nanos(32));
        assert_eq!(counter.nanoseconds(Duration::from_nanos(32)), 30);
        counter.turn(false, Duration::from_nanos(32));
        assert_eq!(counter.nanoseconds(Duration::from_nanos(64)), 30);
        counter.adjust(-(31 << FRACTION), Duration::from_nanos(64));
        assert_eq!(counter.nanoseconds(Duration::from_nanos(64)), u64::MAX);
    }
}
