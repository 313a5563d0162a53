//! Packets with the time of the card's clock.

use std::time::{Duration, Instant};

use super::faults::{all_again, fault_of};
use super::rig::{ADMIN, Queue, Rig, Setup, udp};
use crate::clock::real;
use crate::ice::model::{ClockOwner, E810, Fault, Personality};
use crate::ice::{IceOptions, PackageSource};
use crate::ring::rig::readable;
use crate::{DriverError, Nic, QueueConfig, RxBatch, RxFlags, RxQueue, Timestamps};

/// How far a stamp may be off: the model's clock is read by a thread that others interrupt.
const OFF_BY: u64 = 2_000_000;
/// How long the monitor may take to see that a clock is not what it was.
const PATIENCE: Duration = Duration::from_secs(6);
/// The clock's semaphore, of function 0.
const PFTSYN_SEM: u32 = 0x0008_8880;
/// Asks for a reset of the core: bit 0.
const GLGEN_RTRIG: u32 = 0x000b_8190;

/// A card without open queues, and two queues' memory; the first asks for the card's time.
fn bare(clock: ClockOwner) -> (Rig, Vec<QueueConfig>) {
    bare_with(clock, Setup::default().options)
}

fn bare_with(clock: ClockOwner, options: IceOptions) -> (Rig, Vec<QueueConfig>) {
    let setup = Setup {
        options,
        personality: Personality {
            clock,
            ..Setup::default().personality
        },
        queues: 0,
        ..Setup::default()
    };
    let (region, mut configs) = Setup {
        queues: 2,
        ..Setup::default()
    }
    .configs();
    configs[0].timestamps = Timestamps::Nic;
    let mut rig = Rig::new(setup);
    rig.region = region;
    (rig, configs)
}

/// Both queues open: what is not for port 5000 comes to the first, with the card's time.
fn both(clock: ClockOwner) -> Rig {
    let (mut rig, configs) = bare(clock);
    for (index, config) in (0..).zip(configs) {
        rig.queues.push(Queue::open(&mut rig.nic, index, config));
    }
    rules(&mut rig);
    rig
}

fn rules(rig: &mut Rig) {
    rig.any(0);
    rig.rule(1, 8, "udp,dst-port=5000");
}

/// The first queue is looked at, and has nothing.
fn found_empty(rig: &mut Rig) {
    assert_eq!(rig.queues[0].queue.poll(&mut RxBatch::new()), 0);
}

/// A packet comes: its flags, its time, and when that must lie.
fn one(rig: &mut Rig, port: u16) -> (RxFlags, u64, [u64; 2]) {
    let queue = usize::from(port == 5000);
    let before = real();
    rig.receive(&udp(1, port, 100));
    let mut batch = RxBatch::new();
    assert_eq!(rig.queues[queue].queue.poll(&mut batch), 1);
    let entry = batch[0];
    rig.queues[queue].recycle(entry.chunk.0);
    rig.queues[queue].refill();
    (entry.flags, entry.timestamp, [before, real()])
}

/// Packets carry the card's time, which lies between the readings and goes on.
fn stamped(rig: &mut Rig) {
    // On a busy machine the first reading of the clock may take too long to be of use.
    becomes(rig, RxFlags::TIMESTAMP_HW);
    let mut last = 0;
    for _ in 0..5 {
        let (flags, time, [before, after]) = one(rig, 1);
        assert!(flags.contains(RxFlags::TIMESTAMP_HW), "{flags:?}");
        assert!(!flags.contains(RxFlags::TIMESTAMP_SW), "{flags:?}");
        assert!(
            time + OFF_BY > before && time < after + OFF_BY && time > last,
            "{time}, after {last}, from {before} to {after}"
        );
        last = time;
    }
}

/// Waits until packets carry this clock's time.
fn becomes(rig: &mut Rig, wanted: RxFlags) {
    let by = Instant::now() + PATIENCE;
    while {
        found_empty(rig);
        !one(rig, 1).0.contains(wanted)
    } {
        assert!(Instant::now() < by, "{wanted:?} does not come");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
pub(super) fn packets_carry_the_cards_time() {
    for clock in [
        ClockOwner::This(0),
        ClockOwner::This(1),
        ClockOwner::Other {
            timer: 1,
            runs: true,
        },
    ] {
        let (mut rig, configs) = bare(clock);
        if let ClockOwner::This(_) = clock {
            // Nothing is asked of a clock that nobody wants.
            assert!(!rig.model.card().commands().contains_key(&0x0c00));
        }
        for (index, config) in (0..).zip(configs) {
            rig.queues.push(Queue::open(&mut rig.nic, index, config));
        }
        rules(&mut rig);
        stamped(&mut rig);
        let (flags, ..) = one(&mut rig, 5000);
        assert!(flags.contains(RxFlags::TIMESTAMP_SW) && !flags.contains(RxFlags::TIMESTAMP_HW));
        assert_eq!(rig.model.card().read32(PFTSYN_SEM), 0, "it was given back");
        rig.model.card().write32(PFTSYN_SEM, 0);
        let refusals = rig.model.card().refusals();
        assert!(refusals.is_empty(), "{refusals:?}");
        rig.end();
    }
}

/// Opening fails, for a reason that has `why` in it; nothing of the queue stays with the card.
fn refused(rig: &mut Rig, config: &QueueConfig, why: &str) -> DriverError {
    config.provider.init(&rig.nic.needs()).unwrap();
    let start = Instant::now();
    let error = rig.nic.open_queue(0, config.clone()).unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(2));
    assert!(error.to_string().contains(why), "{why}: {error}");
    assert_eq!(rig.model.mapped(), ADMIN);
    config.provider.uninstall();
    error
}

#[test]
pub(super) fn a_clock_that_cannot_be_had_is_refused() {
    let other = ClockOwner::Other {
        timer: 0,
        runs: false,
    };
    for (clock, fault, why) in [
        (ClockOwner::None, Fault::None, "has no clock"),
        (other, Fault::None, "another function's"),
        (
            ClockOwner::This(0),
            Fault::SemaphoreHeld,
            "holds the clock's semaphore",
        ),
        (ClockOwner::This(0), Fault::ClockStands, "does not run"),
    ] {
        let (mut rig, configs) = bare(clock);
        rig.model.set_fault(fault);
        let error = refused(&mut rig, &configs[0], why);
        assert!(matches!(error, DriverError::Unsupported { .. }), "{error}");
        assert!(error.to_string().contains("--timestamps nic"), "{error}");
        assert_eq!(rig.nic.timestamps().is_err(), clock == ClockOwner::None);
        rig.model.set_fault(Fault::None);
        let mut config = configs[0].clone();
        if !matches!(clock, ClockOwner::This(_)) {
            config.timestamps = Timestamps::Software;
        }
        rig.queues.push(Queue::open(&mut rig.nic, 0, config));
        rig.any(0);
        match clock {
            ClockOwner::This(_) => stamped(&mut rig),
            _ => assert!(one(&mut rig, 1).0.contains(RxFlags::TIMESTAMP_SW)),
        }
        rig.end();
    }
}

#[test]
fn messages_to_the_phy_that_fail_are_named_and_cost_no_more() {
    for code in E810::codes() {
        let (mut rig, configs) = bare(ClockOwner::This(0));
        rig.model.set_fault(Fault::FailCommandWith(0x0c00, code));
        let error = refused(&mut rig, &configs[0], "0x0c00");
        assert!(matches!(error, DriverError::Firmware { .. }), "{error}");
        assert_eq!(rig.model.card().read32(PFTSYN_SEM), 0, "it was given back");
        rig.model.card().write32(PFTSYN_SEM, 0);
        rig.model.set_fault(Fault::None);
        let config = configs[0].clone();
        rig.queues.push(Queue::open(&mut rig.nic, 0, config));
        rig.any(0);
        stamped(&mut rig);
        rig.end();
    }
}

#[test]
pub(super) fn stamps_that_cannot_be_true_are_not_believed() {
    let mut rig = both(ClockOwner::This(0));
    for fault in [Fault::StampInvalid, Fault::StampOfOtherTimer] {
        stamped(&mut rig);
        rig.model.set_fault(fault);
        let (flags, time, [before, after]) = one(&mut rig, 1);
        assert!(flags.contains(RxFlags::TIMESTAMP_SW) && !flags.contains(RxFlags::TIMESTAMP_HW));
        assert!((before..=after).contains(&time), "{fault}");
        rig.model.set_fault(Fault::None);
    }
    // The clock stops, and goes on from where it would be.
    rig.model.set_fault(Fault::ClockStands);
    let since = Instant::now();
    becomes(&mut rig, RxFlags::TIMESTAMP_SW);
    // Longer than the monitor takes to read it.
    std::thread::sleep(Duration::from_millis(2500).saturating_sub(since.elapsed()));
    rig.model.set_fault(Fault::None);
    found_empty(&mut rig);
    let (flags, ..) = one(&mut rig, 1);
    assert!(
        flags.contains(RxFlags::TIMESTAMP_SW),
        "until two readings agree"
    );
    becomes(&mut rig, RxFlags::TIMESTAMP_HW);
    stamped(&mut rig);
    rig.end();
}

#[test]
fn stamps_go_on_after_resets() {
    let mut rig = both(ClockOwner::This(0));
    stamped(&mut rig);
    // Of the core, which ends the clock.
    rig.model.card().write32(GLGEN_RTRIG, 1);
    let fault = fault_of(&rig, 0);
    assert!(fault.contains("whole card"), "{fault}");
    all_again(&mut rig);
    rules(&mut rig);
    stamped(&mut rig);
    // Of the function, which does not; it is set anew all the same.
    let messages = |rig: &Rig| rig.model.card().commands()[&0x0c00];
    let before = messages(&rig);
    rig.model.set_fault(Fault::QueueWillNotStop);
    rig.nic.close_queue(1).unwrap();
    rig.queues[1].queue.stop().unwrap();
    rig.model.set_fault(Fault::None);
    all_again(&mut rig);
    rules(&mut rig);
    stamped(&mut rig);
    assert!(messages(&rig) > before);
    rig.end();
}

/// The 32 bits of its stamp are then those of a time that has just been.
#[test]
fn a_packet_that_lay_in_its_ring_for_longer_than_stamps_count_has_softwares_time() {
    let mut rig = both(ClockOwner::This(0));
    stamped(&mut rig);
    rig.receive(&udp(1, 1, 100));
    std::thread::sleep(Duration::from_secs(5));
    let (before, mut batch) = (real(), RxBatch::new());
    assert_eq!(rig.queues[0].queue.poll(&mut batch), 1);
    let (flags, time) = (batch[0].flags, batch[0].timestamp);
    assert!(flags.contains(RxFlags::TIMESTAMP_SW), "{flags:?}");
    assert!((before..=real()).contains(&time));
    rig.queues[0].recycle(batch[0].chunk.0);
    rig.queues[0].refill();
    found_empty(&mut rig);
    stamped(&mut rig);
    rig.end();
}

/// Where the card has no chunk to put a packet into, that there is none in the ring tells nothing.
#[test]
fn a_ring_without_chunks_is_not_empty() {
    let mut rig = both(ClockOwner::This(0));
    stamped(&mut rig);
    let mut chunks = Vec::new();
    // Some are posted yet, of which the card was not told: it takes several at a time.
    while rig.model.card().receive(&udp(1, 1, 100)) {
        let mut batch = RxBatch::new();
        assert_eq!(rig.queues[0].queue.poll(&mut batch), 1);
        chunks.push(batch[0].chunk.0);
    }
    let by = Instant::now() + Duration::from_millis(2500);
    while Instant::now() < by {
        found_empty(&mut rig);
        std::thread::sleep(Duration::from_millis(10));
    }
    for chunk in chunks {
        rig.queues[0].recycle(chunk);
    }
    rig.queues[0].refill();
    assert!(one(&mut rig, 1).0.contains(RxFlags::TIMESTAMP_SW));
    found_empty(&mut rig);
    assert!(one(&mut rig, 1).0.contains(RxFlags::TIMESTAMP_HW));
    rig.end();
}

/// Whoever waits for packets is woken to see that there are none: of the next one it is known then that it has just come.
#[test]
fn a_packet_after_a_pause_has_the_cards_time() {
    let mut rig = both(ClockOwner::This(0));
    stamped(&mut rig);
    let by = Instant::now() + Duration::from_secs(5);
    loop {
        while !rig.queues[0].queue.arm() {
            found_empty(&mut rig);
        }
        let left = by.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        if readable(rig.queues[0].queue.wait_fd(), left.as_millis() as u16 + 1) {
            found_empty(&mut rig);
        }
    }
    let (flags, ..) = one(&mut rig, 1);
    assert!(flags.contains(RxFlags::TIMESTAMP_HW), "{flags:?}");
    rig.end();
}

/// Whether silicon does nobody knows: Linux's ice has no clock without its package.
#[test]
fn a_card_without_a_package_stamps_too() {
    let options = IceOptions {
        package: PackageSource::None,
        ..IceOptions::default()
    };
    let (mut rig, configs) = bare_with(ClockOwner::This(0), options);
    rig.queues
        .push(Queue::open(&mut rig.nic, 0, configs[0].clone()));
    rig.any(0);
    stamped(&mut rig);
    rig.end();
}
