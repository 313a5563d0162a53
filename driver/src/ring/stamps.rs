//! When packets came, by their NIC's clock.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock::{Clock, Relation};

/// Where a device has put the stamp of a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Stamp {
    /// It has stamped none.
    None,
    /// In the descriptor: the counter's low bits.
    Here(u64),
    /// In front of the packet: [`FRONT`] bytes at the beginning of its header slot if that has anything, else of its chunk. They are part of the length.
    InFront,
}

/// Bytes in front of a packet with its stamp in them.
pub(crate) const FRONT: u16 = 16;

/// What a queue knows of the clock, and of when the packets in its ring can have come.
///
/// A stamp has the low bits of a time, so it says when a packet came only if it is known to have come lately. Packets come in order: those in the ring came after it was
/// found empty last, and after the packet before them.
#[derive(Debug)]
pub(super) struct Stamps {
    clock: Arc<Clock>,
    relation: Option<Relation>,
    /// Of which batch that is.
    batch: u64,
    /// When the batch was begun, by `CLOCK_MONOTONIC`.
    begun: Instant,
    /// No packet that is in the ring came before, by `CLOCK_MONOTONIC`.
    since: Instant,
}

impl Stamps {
    /// For a ring that has nothing yet.
    pub(super) fn new(clock: Arc<Clock>) -> Self {
        let now = Instant::now();
        Self {
            clock,
            relation: None,
            batch: 0,
            begun: now,
            since: now,
        }
    }

    /// No packet has arrived that is not taken.
    pub(super) const fn found_empty(&mut self, at: Instant) {
        self.since = at;
    }

    /// When a packet came that was taken from the ring at `now`, by its stamp: if that can be. Packets of one batch have the same `now`, and the same relation.
    pub(super) fn time_of(&mut self, stamp: u64, now: u64) -> Option<u64> {
        if self.batch != now {
            self.begin(now, Instant::now());
        }
        let relation = self.relation?;
        if !relation.tells_apart(self.begun.saturating_duration_since(self.since)) {
            return None;
        }
        let time = relation.time_of(stamp, now)?;
        let age = Duration::from_nanos(now.saturating_sub(time));
        let came = self.begun.checked_sub(age).unwrap_or(self.since);
        self.since = self.since.max(came);
        Some(time)
    }

    /// A batch begins, `at` by `CLOCK_MONOTONIC`.
    fn begin(&mut self, now: u64, at: Instant) {
        self.batch = now;
        self.begun = at;
        // While it is being changed, that of the batch before is good.
        if let Ok(relation) = self.clock.read() {
            self.relation = relation;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    /// Some day in 2026.
    const EPOCH: u64 = 1_790_000_000 * SECOND;

    /// A queue that was opened at 0, and when that was. The counter shows nanoseconds since then, of which stamps have `bits`.
    fn opened(bits: u32) -> (Stamps, Instant) {
        let clock = Arc::new(Clock::new(64, bits));
        clock.start();
        let stamps = Stamps::new(clock);
        let opened = stamps.since;
        (stamps, opened)
    }

    /// What a packet that came at `came` carries if it is taken at `taken`, nanoseconds since the queue was opened.
    /// The monitor has read the clock just then.
    fn carried(stamps: &mut Stamps, opened: Instant, came: u64, taken: u64) -> Option<u64> {
        stamps.clock.set_for_test(taken, EPOCH + taken);
        stamps.begin(EPOCH + taken, opened + Duration::from_nanos(taken));
        let time = stamps.time_of(came & u64::from(u32::MAX), EPOCH + taken);
        time.map(|time| time - EPOCH)
    }

    #[test]
    fn a_packet_of_the_round_before_is_not_taken_for_one_of_now() {
        // From 4.19 to 6.29 seconds the low bits are those of the last two.
        for waited in (1..80).map(|tenths| tenths * SECOND / 10) {
            let (mut stamps, opened) = opened(32);
            stamps.found_empty(opened + Duration::from_secs(1));
            let came = SECOND + 1;
            let time = carried(&mut stamps, opened, came, came + waited);
            assert_eq!(time, (waited <= 2 * SECOND).then_some(came), "{waited}");
        }
    }

    #[test]
    fn what_came_before_tells_of_what_comes_behind_it() {
        let (mut stamps, opened) = opened(32);
        let at = |seconds| opened + Duration::from_secs(seconds);
        // Never found empty: every packet waits for a second.
        for second in 0..10 {
            let came = second * SECOND;
            let time = carried(&mut stamps, opened, came, came + SECOND);
            assert_eq!(time, Some(came));
        }
        // A pause: nobody knows which of the packets in the ring are how old.
        let pause = |stamps: &mut Stamps| carried(stamps, opened, 14 * SECOND, 14 * SECOND);
        assert_eq!(pause(&mut stamps), None);
        assert_eq!(pause(&mut stamps), None, "still");
        stamps.found_empty(at(14));
        let time = carried(&mut stamps, opened, 15 * SECOND, 15 * SECOND);
        assert_eq!(time, Some(15 * SECOND));
    }

    #[test]
    fn longer_stamps_need_no_looks() {
        let (mut stamps, opened) = opened(64);
        let time = carried(&mut stamps, opened, 3 * SECOND, 3 * SECOND);
        assert_eq!(time, Some(3 * SECOND));
    }
}
