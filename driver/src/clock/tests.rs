//! Conversion by properties against exact arithmetic, the relation by a counter and clocks that the test drives, and readers against a writer.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use proptest::prelude::*;

use super::{Change, Clock, NEW, NOMINAL, OLD, Relation, Sample, Times, WIDEST, mask};

const SECOND: u64 = 1_000_000_000;
/// Some day in 2026, where the counter is far from its end.
const EPOCH: u64 = 1_790_000_000 * SECOND;

/// What reading one of the system's clocks takes.
const READING: u64 = 20;

/// A machine: its counter's rate in parts per million off, whether it runs, and what was added to its time.
struct World {
    monotonic: u64,
    set: i64,
    counter: f64,
    off: f64,
    runs: bool,
    /// What reading the counter takes.
    width: u64,
    /// For how long whoever relates is interrupted after each reading of a clock, from the next one on.
    interrupted: VecDeque<u64>,
    /// The device answers.
    answers: bool,
}

impl World {
    const fn new() -> Self {
        Self {
            monotonic: 5 * SECOND,
            set: 0,
            counter: 7e12,
            off: 0.0,
            runs: true,
            width: 800,
            interrupted: VecDeque::new(),
            answers: true,
        }
    }

    fn pass(&mut self, nanoseconds: u64) {
        self.monotonic += nanoseconds;
        if self.runs {
            self.counter += nanoseconds as f64 * (1.0 + self.off / 1e6);
        }
    }

    fn real(&self) -> u64 {
        (EPOCH + self.monotonic).wrapping_add_signed(self.set)
    }

    /// A clock has been read.
    fn has_read(&mut self) {
        let interrupted = self.interrupted.pop_front().unwrap_or_default();
        self.pass(READING + interrupted);
    }

    fn relate(&mut self, clock: &Clock) -> Option<Change> {
        let world = std::cell::RefCell::new(self);
        struct Both<'a, 'b>(&'a std::cell::RefCell<&'b mut World>);
        impl Times for Both<'_, '_> {
            fn real(&mut self) -> u64 {
                let mut world = self.0.borrow_mut();
                let real = world.real();
                world.has_read();
                real
            }
            fn monotonic(&mut self) -> u64 {
                let mut world = self.0.borrow_mut();
                let monotonic = world.monotonic;
                world.has_read();
                monotonic
            }
        }
        let read = || {
            let mut world = world.borrow_mut();
            let half = world.width / 2;
            world.pass(half);
            let counter = world.counter as u64;
            world.pass(half);
            world.answers.then_some(counter)
        };
        clock.relate_with(read, &mut Both(&world))
    }

    /// What a packet that comes now is said to have come at, less when it did.
    fn error(&self, clock: &Clock) -> Option<i64> {
        let relation = clock.read().unwrap()?;
        let time = relation.time_of(self.counter as u64, self.real())?;
        Some(time.wrapping_sub(self.real()) as i64)
    }
}

fn running(counter_bits: u32, stamp_bits: u32) -> Clock {
    let clock = Clock::new(counter_bits, stamp_bits);
    clock.start();
    clock
}

#[test]
fn a_drift_is_followed_and_does_not_show_as_a_step() {
    for (counter, stamp) in [(64, 64), (40, 40), (64, 32)] {
        for off in [-100.0, -3.0, 0.0, 40.0, 100.0] {
            let clock = running(counter, stamp);
            let mut world = World::new();
            world.off = off;
            world.relate(&clock);
            // The rate is not known yet: off by that of a second at the most.
            world.pass(SECOND);
            assert!(world.error(&clock).unwrap().abs() <= 100_500);
            for _ in 0..1300 {
                world.relate(&clock);
                for _ in 0..4 {
                    world.pass(SECOND / 4);
                    let error = world.error(&clock).unwrap();
                    assert!(error.abs() < 50, "{error} ns at {off} ppm, {stamp} bits");
                }
            }
        }
    }
}

#[test]
fn a_clock_that_was_set_is_followed_with_the_next_sample() {
    for set in [
        -3600 * SECOND as i64,
        -7_000_000,
        7_000_000,
        3600 * SECOND as i64,
    ] {
        let clock = running(64, 32);
        let mut world = World::new();
        world.off = 30.0;
        for _ in 0..3 {
            world.relate(&clock);
            world.pass(SECOND);
        }
        world.set = set;
        let error = world.error(&clock);
        if set.unsigned_abs() > OLD {
            assert_eq!(error, None, "software's time is nearer");
        } else {
            assert!(
                (error.unwrap() + set).abs() < 200,
                "as before, for a second"
            );
        }
        world.relate(&clock);
        world.pass(SECOND);
        // The rate of that second is monotonic's.
        assert!(world.error(&clock).unwrap().abs() < 200, "{set}");
    }
}

#[test]
fn a_counter_that_stops_or_jumps_has_no_relation_until_it_runs_again() {
    let clock = running(40, 40);
    let mut world = World::new();
    world.relate(&clock);
    world.pass(SECOND);
    world.runs = false;
    world.pass(SECOND);
    assert!(world.error(&clock).is_some(), "not known yet");
    world.relate(&clock);
    assert_eq!(clock.read(), Ok(None));
    world.pass(SECOND);
    world.relate(&clock);
    assert_eq!(clock.read(), Ok(None));
    world.runs = true;
    world.pass(SECOND);
    world.relate(&clock);
    assert!(world.error(&clock).unwrap().abs() < 50, "it runs again");
    world.counter += 5e9;
    world.pass(SECOND);
    world.relate(&clock);
    assert_eq!(clock.read(), Ok(None), "it jumped");
    world.pass(SECOND);
    world.relate(&clock);
    assert!(world.error(&clock).unwrap().abs() < 50);
    clock.stop();
    assert_eq!(clock.read(), Ok(None));
    world.relate(&clock);
    assert_eq!(clock.read(), Ok(None), "nobody wants it");
    clock.start();
    world.counter = 17.0;
    world.relate(&clock);
    assert!(world.error(&clock).unwrap().abs() < 50, "begun anew");
}

#[test]
fn no_sample_leaves_what_there_is() {
    let clock = running(64, 64);
    let mut world = World::new();
    world.relate(&clock);
    let before = clock.read();
    world.pass(SECOND);
    world.width = WIDEST + 2;
    world.relate(&clock);
    assert_eq!(clock.read(), before, "too wide to be of use");
    world.width = 500;
    world.pass(SECOND);
    world.answers = false;
    world.relate(&clock);
    assert_eq!(clock.read(), before, "the device does not answer");
    world.answers = true;
    world.relate(&clock);
    assert_ne!(clock.read(), before);
}

#[test]
fn whoever_relates_may_be_interrupted_anywhere() {
    for at in 0..15 {
        for interrupted in [SECOND / 1000, 5 * SECOND / 1000, SECOND / 50] {
            let clock = running(64, 64);
            let mut world = World::new();
            world.interrupted.extend((0..at).map(|_| 0));
            world.interrupted.push_back(interrupted);
            world.relate(&clock);
            let error = world.error(&clock).unwrap();
            assert!(error.abs() < 50, "{error} ns, after {at} readings");
        }
    }
}

#[test]
fn what_changes_is_said_once() {
    let clock = running(40, 40);
    let mut world = World::new();
    let mut second = |change: fn(&mut World)| {
        world.pass(SECOND);
        change(&mut world);
        world.relate(&clock)
    };
    let nothing: fn(&mut World) = |_| {};
    assert_eq!(second(nothing), None, "the first");
    assert_eq!(second(nothing), None);
    let stood = second(|world| world.counter -= 1e9);
    let Some(Change::Astray { ticks, nanoseconds }) = stood else {
        panic!("{stood:?}");
    };
    assert!(ticks < 10_000 && nanoseconds.abs_diff(SECOND) < 10_000);
    for _ in 0..5 {
        assert_eq!(second(|world| world.counter -= 1e9), None, "still");
    }
    assert_eq!(second(nothing), Some(Change::RunsAgain));
    assert_eq!(second(nothing), None);
    assert_eq!(
        second(|world| world.set = 7_000_000),
        Some(Change::ClockSet)
    );
    assert_eq!(second(nothing), None);
}

#[test]
fn the_systems_own_clocks() {
    let clock = running(64, 64);
    let begin = std::time::Instant::now();
    clock.relate("a NIC", || Some(begin.elapsed().as_nanos() as u64));
    let relation = clock.read().unwrap().unwrap();
    let now = super::real();
    let time = relation.time_of(begin.elapsed().as_nanos() as u64, now);
    assert!(time.unwrap().abs_diff(now) < SECOND / 10);
}

/// What a reader sees was written at once, and read while it was being written, too.
#[test]
fn readers_see_whole_relations() {
    /// Relations that each reader sees; fewer where the processors are others'.
    const ENOUGH: u32 = 20_000;
    let begin = std::time::Instant::now();
    let clock = Arc::new(running(64, 64));
    let left = Arc::new(AtomicU32::new(2));
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (clock, left) = (Arc::clone(&clock), Arc::clone(&left));
            std::thread::spawn(move || {
                let (mut whole, mut newest, mut torn) = (0, 0, 0);
                while whole < ENOUGH && begin.elapsed() < Duration::from_secs(2) {
                    if let Ok(Some(relation)) = clock.read() {
                        let right = relation.real == relation.counter * 3
                            && relation.rate == relation.counter * 7 + 1
                            && relation.counter >= newest;
                        torn += u32::from(!right);
                        whole += u32::from(relation.counter != newest);
                        newest = relation.counter;
                    }
                }
                left.fetch_sub(1, Ordering::Relaxed);
                torn
            })
        })
        .collect();
    let mut counter = 0;
    while left.load(Ordering::Relaxed) > 0 {
        counter += 1;
        let sample = Sample {
            counter,
            real: counter * 3,
            monotonic: 0,
        };
        clock.publish(Some((sample, counter * 7 + 1)));
        // Readers that only ever come while it is being changed see nothing.
        if counter % 1024 == 0 {
            std::thread::yield_now();
        }
    }
    let torn: u32 = readers
        .into_iter()
        .map(|reader| reader.join().unwrap())
        .sum();
    assert_eq!(torn, 0);
}

proptest! {
    /// Whatever a device says: an answer, from just now, that exact arithmetic gives too.
    #[test]
    fn any_stamp_at_any_time(
        counter: u64, real: u64, rate in 1_u64.., stamp: u64, now: u64, bits in 32_u32..=64, near: bool, by in -5_000_000_000_i64..5_000_000_000,
    ) {
        let (now, rate, stamp) = if near {
            (real.saturating_add_signed(by / 2), NOMINAL + rate % 1_000_000, counter.wrapping_add_signed(by))
        } else {
            (now, rate, stamp)
        };
        let relation = Relation { counter, real, rate, bits };
        let low = stamp.wrapping_sub(counter) & mask(bits);
        let ticks = if low >> (bits - 1) == 0 { i128::from(low) } else { i128::from(low) - (1_i128 << bits) };
        let exact = i128::from(real) + (ticks * i128::from(rate)).div_euclid(1 << 32);
        let just_now = exact >= i128::from(now.saturating_sub(OLD)) && exact <= i128::from(now.saturating_add(NEW)) && exact >= 0;
        prop_assert_eq!(relation.time_of(stamp, now), just_now.then_some(exact as u64));
    }

    /// A packet that came lately carries its time or none, by a clock that ran or was set by as much as goes unnoticed.
    #[test]
    fn what_is_told_apart_is_not_a_round_off(bits in 32_u32..=40, counter: u64, read in 0_u64..9_000_000_000, age in 0_u64..9_000_000_000, set in -2_000_000_000_i64..=2_000_000_000) {
        let relation = Relation { counter, real: EPOCH, rate: NOMINAL, bits };
        // The counter was read that long ago.
        let (stamp, came) = (counter.wrapping_add(read).wrapping_sub(age), EPOCH + read - age);
        let now = (EPOCH + read).wrapping_add_signed(set);
        if relation.tells_apart(Duration::from_nanos(age)) && let Some(time) = relation.time_of(stamp & mask(bits), now) {
            prop_assert_eq!(time, came);
        }
        prop_assert!(relation.tells_apart(Duration::from_nanos(OLD)));
    }

    /// Whatever the clocks and the counter do, relating ends, and what comes of it converts.
    #[test]
    fn any_samples(samples in proptest::collection::vec((any::<u64>(), any::<u64>(), any::<u64>()), 1..20), bits in 32_u32..=64, stamp: u64) {
        let clock = running(bits, 32);
        for (counter, real, monotonic) in samples {
            clock.take(&mut clock.last(), Sample { counter: counter & mask(bits), real, monotonic });
            if let Ok(Some(relation)) = clock.read() {
                let _ = relation.time_of(stamp, real);
                prop_assert!(relation.rate.abs_diff(NOMINAL) <= NOMINAL >> 8);
            }
        }
    }
}
