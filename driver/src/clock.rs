//! What a NIC's counter has to do with `CLOCK_REALTIME`.
//!
//! A NIC stamps packets with a counter of its own, which runs at its crystal's rate from wherever it began; clients get `CLOCK_REALTIME`. Between the two stands a
//! [`Relation`]: at this counter it was that time, and since then a tick is so long. The NIC's monitor [relates](Clock::relate) the two anew once a second; a queue
//! [reads](Clock::read) what holds at most once a batch, and converts stamps without a lock, a division or floating point.
//!
//! # What can go wrong, and what then
//!
//! `CLOCK_MONOTONIC` is the judge: it is never set.
//!
//! * The counter does not run with it (stopped, set, or the device answers anything): there is no relation until two samples in a row agree again. Packets carry
//!   software's time meanwhile.
//! * `CLOCK_REALTIME` does not run with it: somebody set the clock. The new time holds from the next sample on, within a second; until then stamps are of the old
//!   one, unless they are out of all proportion.
//! * A stamp that is not [from just now](Relation::time_of), whatever the reason: the packet carries software's time. A device can say what it likes; it cannot
//!   send a packet's time away from when the packet was taken.
//! * The low bits of a counter come again, 32 of them after 4.3 seconds. A packet that may have waited for nearly as long could be of this round or of the one
//!   before: its queue knows since when it [can have come](Relation::tells_apart), and where that is too long ago the packet carries software's time.
//! * No sample can be had (the machine was stopped meanwhile): what held before goes on.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How much older than the batch it is in a packet may be said to be, nanoseconds.
const OLD: u64 = 2_000_000_000;
/// How much newer, nanoseconds: packets go on arriving while the batch is taken, and its thread may be interrupted.
const NEW: u64 = 100_000_000;
/// Samples of which the tightest is taken.
const TRIES: u32 = 5;
/// The widest sample that is of use, nanoseconds.
const WIDEST: u64 = 1_000_000;
/// Samples closer than this do not say at what rate a counter runs, nanoseconds.
const APART: u64 = 100_000_000;
/// A tick of one nanosecond, as [`Relation::rate`] has it.
const NOMINAL: u64 = 1 << 32;
/// By what part two clocks that run may differ: 1 in 1024. Crystals differ by 1 in 10,000, and the system's clock is slewed by 1 in 2,000 at the most.
const APART_SHIFT: u32 = 10;

/// At this counter it was that time, and since then a tick is so long.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Relation {
    /// The counter.
    counter: u64,
    /// What time it was, nanoseconds since 1970.
    real: u64,
    /// Nanoseconds a tick, in parts of 2^-32.
    rate: u64,
    /// Bits that a stamp has.
    bits: u32,
}

impl Relation {
    /// What time it was when the counter's low bits were `stamp`, nanoseconds since 1970, for a packet taken from its ring at `now`: the time next to the sample
    /// that has these bits. Bits that a stamp has not are ignored. `None` if that is not from just now: two seconds before `now` to a tenth after. Of a packet that is
    /// older than [they tell apart](Self::tells_apart) the answer may be a round too late.
    #[inline]
    pub(crate) fn time_of(&self, stamp: u64, now: u64) -> Option<u64> {
        // A signed difference of as many bits as the stamp has.
        let unused = 64 - self.bits;
        let ticks = (stamp.wrapping_sub(self.counter) << unused) as i64 >> unused;
        // 64 bits by less than 64 fit 128, and so does the sum.
        let since = (i128::from(ticks) * i128::from(self.rate)) >> 32;
        let time = u64::try_from(i128::from(self.real) + since).ok()?;
        let late = now.saturating_add(NEW);
        (time <= late && time >= now.saturating_sub(OLD)).then_some(time)
    }

    /// Whether the stamp of a packet that came no longer ago than this can be taken for no other's: one that is a round older must not seem to be a tenth of a second
    /// ahead. And not if the system's clock was set meanwhile either, by as much as goes unnoticed ([`OLD`]). 2.19 seconds for stamps of 32 bits, 18 minutes for 40.
    #[inline]
    pub(crate) fn tells_apart(&self, age: Duration) -> bool {
        age.as_nanos() <= u128::from(mask(self.bits) - OLD - NEW)
    }
}

/// A counter and the clocks, read at once.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Sample {
    counter: u64,
    /// Nanoseconds since 1970.
    real: u64,
    /// Nanoseconds of `CLOCK_MONOTONIC`, from anywhere.
    monotonic: u64,
}

/// What a sample told, where it is not as with the one before.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Change {
    /// The counter does not run as it should: by so many ticks in so many nanoseconds.
    Astray { ticks: u64, nanoseconds: u64 },
    /// It does again.
    RunsAgain,
    /// Somebody set the system's clock.
    ClockSet,
}

/// The two clocks of the system.
trait Times {
    /// `CLOCK_REALTIME`, nanoseconds since 1970.
    fn real(&mut self) -> u64;
    /// `CLOCK_MONOTONIC`, nanoseconds from anywhere.
    fn monotonic(&mut self) -> u64;
}

/// The system's own; monotonic since this was made.
struct System(Instant);

impl Times for System {
    fn real(&mut self) -> u64 {
        real()
    }

    fn monotonic(&mut self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}

/// `CLOCK_REALTIME` now, nanoseconds since 1970; 0 before that.
#[inline]
pub(crate) fn real() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_nanos() as u64)
}

/// The relation of one NIC's counter to `CLOCK_REALTIME`. One party relates, any number read.
#[derive(Debug)]
pub(crate) struct Clock {
    /// Odd while what follows is being changed.
    sequence: AtomicU32,
    counter: AtomicU64,
    real: AtomicU64,
    /// 0 where there is no relation.
    rate: AtomicU64,
    counter_bits: u32,
    stamp_bits: u32,
    /// Whether anybody wants it.
    running: AtomicBool,
    /// The last sample. Held by whoever writes.
    last: Mutex<Option<Sample>>,
    /// Where `CLOCK_MONOTONIC` is counted from.
    begin: Instant,
}

impl Clock {
    /// For a counter of nanoseconds that has `counter_bits`, of which a packet's stamp has the lower `stamp_bits`; both from 32 to 64. It does not run yet.
    pub(crate) fn new(counter_bits: u32, stamp_bits: u32) -> Self {
        debug_assert!(32 <= stamp_bits && stamp_bits <= counter_bits && counter_bits <= 64);
        Self {
            sequence: AtomicU32::new(0),
            counter: AtomicU64::new(0),
            real: AtomicU64::new(0),
            rate: AtomicU64::new(0),
            counter_bits,
            stamp_bits,
            running: AtomicBool::new(false),
            last: Mutex::new(None),
            begin: Instant::now(),
        }
    }

    fn last(&self) -> MutexGuard<'_, Option<Sample>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The counter was started: it has nothing to do with what was before.
    pub(crate) fn start(&self) {
        let mut last = self.last();
        *last = None;
        self.publish(None);
        self.running.store(true, Ordering::Relaxed);
    }

    /// The counter does not run any more, or nobody wants its stamps.
    pub(crate) fn stop(&self) {
        let mut last = self.last();
        *last = None;
        self.publish(None);
        self.running.store(false, Ordering::Relaxed);
    }

    /// Whether it was [started](Self::start).
    pub(crate) fn is_running(&self) -> bool {
        self.running.load(Ordering::Relaxed)
    }

    /// Relates counter and clock anew, by the tightest of several samples: to be called once a second while it [runs](Self::is_running), and once when it was
    /// started. Nothing is done within a tenth of a second of the last time. `counter` reads the counter; `None` if it cannot. Takes a few register reads' time. The log
    /// says of `nic` what changes.
    pub(crate) fn relate(&self, nic: &str, counter: impl FnMut() -> Option<u64>) {
        match self.relate_with(counter, &mut System(self.begin)) {
            Some(Change::Astray { ticks, nanoseconds }) => tracing::warn!(
                nic,
                ticks,
                nanoseconds,
                "the NIC's clock does not run as it should; packets carry software's timestamps until it does"
            ),
            Some(Change::RunsAgain) => tracing::info!(
                nic,
                "the NIC's clock runs as it should again; packets carry its timestamps"
            ),
            Some(Change::ClockSet) => {
                tracing::info!(
                    nic,
                    "the system's clock was set; the NIC's timestamps follow"
                );
            }
            None => {}
        }
    }

    fn relate_with(
        &self,
        mut counter: impl FnMut() -> Option<u64>,
        times: &mut impl Times,
    ) -> Option<Change> {
        let mut last = self.last();
        let early = |last: Sample| times.monotonic().saturating_sub(last.monotonic) < APART;
        if !self.is_running() || last.is_some_and(early) {
            return None;
        }
        let mut tightest: Option<(u64, Sample)> = None;
        for _ in 0..TRIES {
            // Around both: whatever interrupts this thread in between makes the sample wide.
            let monotonic = times.monotonic();
            let before = times.real();
            let counter = counter();
            let width = times.monotonic().saturating_sub(monotonic);
            let Some(counter) = counter else {
                continue;
            };
            if width <= WIDEST && tightest.is_none_or(|(least, _)| width < least) {
                let sample = Sample {
                    counter: counter & mask(self.counter_bits),
                    // In the middle.
                    real: before.saturating_add(width / 2),
                    monotonic: monotonic.saturating_add(width / 2),
                };
                tightest = Some((width, sample));
            }
        }
        let (_, sample) = tightest?;
        self.take(&mut last, sample)
    }

    /// A sample came.
    fn take(&self, last: &mut Option<Sample>, sample: Sample) -> Option<Change> {
        let Some(before) = *last else {
            *last = Some(sample);
            self.publish(Some((sample, NOMINAL)));
            return None;
        };
        let monotonic = sample.monotonic.saturating_sub(before.monotonic);
        if monotonic < APART {
            return None;
        }
        // Only whoever holds `last` writes it.
        let astray = self.rate.load(Ordering::Relaxed) == 0;
        *last = Some(sample);
        let ticks = sample.counter.wrapping_sub(before.counter) & mask(self.counter_bits);
        if !agree(ticks, monotonic) {
            self.publish(None);
            let nanoseconds = monotonic;
            // Said once, and not every second for as long as it lasts.
            return (!astray).then_some(Change::Astray { ticks, nanoseconds });
        }
        let real = sample.real.wrapping_sub(before.real);
        let was_set = !agree(real, monotonic);
        let elapsed = if was_set { monotonic } else { real };
        // Neither is more than a little off from the other, and so nowhere near 0 or the end.
        let rate = (u128::from(elapsed) << 32) / u128::from(ticks);
        self.publish(Some((sample, rate as u64)));
        match (astray, was_set) {
            (true, _) => Some(Change::RunsAgain),
            (false, true) => Some(Change::ClockSet),
            (false, false) => None,
        }
    }

    /// At this counter it is that time, from now on.
    #[cfg(test)]
    pub(crate) fn set_for_test(&self, counter: u64, real: u64) {
        let sample = Sample {
            counter,
            real,
            monotonic: 0,
        };
        let _last = self.last();
        self.publish(Some((sample, NOMINAL)));
    }

    /// By whoever holds the last sample.
    fn publish(&self, relation: Option<(Sample, u64)>) {
        let sequence = self.sequence.load(Ordering::Relaxed);
        self.sequence
            .store(sequence.wrapping_add(1), Ordering::Relaxed);
        // Nobody sees what follows without the odd number.
        fence(Ordering::Release);
        let (counter, real, rate) = relation.map_or((0, 0, 0), |(sample, rate)| {
            (sample.counter, sample.real, rate)
        });
        self.counter.store(counter, Ordering::Relaxed);
        self.real.store(real, Ordering::Relaxed);
        self.rate.store(rate, Ordering::Relaxed);
        self.sequence
            .store(sequence.wrapping_add(2), Ordering::Release);
    }

    /// What holds now; `Err` while it is being changed, which takes a few stores: then what held before is as good. Never waits.
    #[inline]
    pub(crate) fn read(&self) -> Result<Option<Relation>, Changing> {
        let before = self.sequence.load(Ordering::Acquire);
        let relation = Relation {
            counter: self.counter.load(Ordering::Relaxed),
            real: self.real.load(Ordering::Relaxed),
            rate: self.rate.load(Ordering::Relaxed),
            bits: self.stamp_bits,
        };
        // What was read comes before the number is looked at again.
        fence(Ordering::Acquire);
        if before & 1 != 0 || self.sequence.load(Ordering::Relaxed) != before {
            return Err(Changing);
        }
        Ok((relation.rate != 0).then_some(relation))
    }
}

/// See [`Clock::read`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Changing;

const fn mask(bits: u32) -> u64 {
    u64::MAX >> (64 - bits)
}

/// Whether two clocks have run alike.
const fn agree(a: u64, b: u64) -> bool {
    a.abs_diff(b) <= b >> APART_SHIFT
}

#[cfg(test)]
mod tests;
