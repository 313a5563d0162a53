//! The NIC's timestamps: what is in front of packets is taken away, and says when they came.

use std::time::{Duration, Instant};

use super::rig::{Rig, Setup, arp, udp};
use crate::clock::real;
use crate::igb::model::Fault;
use crate::igb::regs::{RXPBSIZE, RxQueueRegs, TSYNCRXCTL};
use crate::ring::rig::Packet;
use crate::{DriverError, Nic, RxFlags, RxQueue, Timestamps, Unsplit};

const I350: u16 = 0x1521;
const I210: u16 = 0x1533;
const BOTH: RxFlags = RxFlags::TIMESTAMP_HW.union(RxFlags::TIMESTAMP_SW);

fn stamped(device: u16) -> Setup {
    Setup {
        device,
        unsplit: Unsplit::Header,
        timestamps: Timestamps::Nic,
        ..Setup::default()
    }
}

/// Every way in which packets are known to be stamped.
fn ways() -> impl Iterator<Item = Setup> {
    let split = |device, unsplit| Setup {
        unsplit,
        ..stamped(device)
    };
    let whole = |device| Setup {
        split: false,
        ..stamped(device)
    };
    [
        split(I350, Unsplit::Header),
        split(I210, Unsplit::Header),
        split(I210, Unsplit::Deliver),
        whole(I350),
        whole(I210),
    ]
    .into_iter()
}

fn is_stamped(packet: &Packet) -> bool {
    assert!(
        packet.flags.contains(RxFlags::TIMESTAMP_HW)
            != packet.flags.contains(RxFlags::TIMESTAMP_SW)
    );
    packet.flags.contains(RxFlags::TIMESTAMP_HW)
}

/// An Ethernet frame whose headers are longer than the slot of 256 bytes: IPv6 with options.
fn long_header() -> Vec<u8> {
    let mut frame = [
        &[0x52, 0x54, 0, 0, 0, 0x10][..],
        &[2, 0, 0, 0, 0, 1],
        &[0x86, 0xdd],
    ]
    .concat();
    // 248 bytes of options, 8 of UDP, 100 behind them.
    let payload: u16 = 248 + 108;
    frame.extend([0x60, 0, 0, 0, (payload >> 8) as u8, payload as u8, 0, 64]);
    frame.extend([0xfd; 32]);
    frame.extend([17, 30]);
    frame.extend([1, 244, 0]);
    frame.resize(54 + 248, 0);
    frame[57] = 243;
    frame.extend([0, 1, 0, 2, 0, 108, 0, 0]);
    frame.resize(54 + 248 + 108, 0x77);
    frame
}

#[test]
fn packets_come_whole_and_carry_when_they_came() {
    for setup in ways() {
        let mut rig = Rig::new(setup);
        rig.any(0);
        let frames = [
            udp(1, 5000, 60),
            udp(1, 5000, 1000),
            arp(),
            // With 16 bytes more these just fit a slot, and do not.
            udp(2, 5000, 240),
            udp(2, 5000, 241),
            // As much as chunks hold.
            udp(3, 5000, 2048 + 42),
            udp(3, 5000, 2048 - 16),
            udp(3, 5000, 2048 - 15),
            udp(3, 5000, 9724),
            long_header(),
        ];
        let begin = real();
        for frame in &frames {
            rig.model.receive(frame);
        }
        let end = real();
        // Software's time would be seen to be later.
        std::thread::sleep(Duration::from_millis(30));
        let packets = rig.drain(0);
        assert_eq!(packets.len(), frames.len(), "{setup:?}");
        let mut last = 0;
        for (packet, frame) in packets.iter().zip(&frames) {
            assert_eq!(packet.frame(), *frame, "{setup:?}");
            assert!(is_stamped(packet), "{setup:?}");
            let slack = 2_000_000;
            let time = packet.timestamp;
            assert!(
                begin - slack <= time && time <= end + slack,
                "{time} not in {begin}..{end}"
            );
            assert!(last <= time);
            last = time;
        }
        if setup.split {
            assert_eq!(
                (packets[0].header.len(), packets[1].header.len()),
                match setup.unsplit {
                    // A frame that fits a slot goes there whole.
                    Unsplit::Header => (60, 42),
                    _ => (42, 42),
                }
            );
            assert!(
                packets[1]
                    .flags
                    .contains(RxFlags::SPLIT | RxFlags::CSUM_GOOD)
            );
        }
        let counters = rig.queues[0].queue.counters();
        assert_eq!(
            (counters.received, counters.bad_descriptor),
            (frames.len() as u64, 0)
        );
        let bytes: usize = frames.iter().map(Vec::len).sum();
        assert_eq!(counters.bytes, bytes as u64, "stamps are not counted");
        assert_eq!(rig.model.dma_faults(), 0);
        rig.end();
    }
}

#[test]
fn rules_look_at_headers_and_not_at_stamps() {
    let mut rig = Rig::new(Setup {
        unsplit: Unsplit::Deliver,
        ..stamped(I210)
    });
    rig.rule(0, 3, "udp,dst-port=5000");
    rig.model.receive(&udp(1, 5000, 100));
    rig.model.receive(&udp(1, 5001, 100));
    let packets = rig.drain(0);
    assert_eq!((packets.len(), packets[0].flow), (1, 3));
    assert_eq!(rig.queues[0].queue.counters().unwanted, 1);
    rig.end();
}

#[test]
fn a_queue_without_them_is_as_before() {
    let mut rig = Rig::new(Setup {
        queues: 2,
        timestamps: Timestamps::Software,
        ..stamped(I210)
    });
    assert_eq!(rig.model.peek(TSYNCRXCTL), 0);
    assert_eq!(rig.model.peek(RXPBSIZE), 0);
    rig.any(0);
    rig.model.receive(&udp(1, 5000, 100));
    let packets = rig.drain(0);
    assert_eq!(packets[0].flags & BOTH, RxFlags::TIMESTAMP_SW);
    assert_eq!(packets[0].frame(), udp(1, 5000, 100));
    assert_eq!(rig.model.peek(RxQueueRegs::of(1).srrctl()) & 1 << 30, 0);
    rig.end();
}

#[test]
fn a_part_that_does_not_stamp_what_was_not_asked_for_leaves_the_time_to_software() {
    let mut rig = Rig::new(stamped(I350));
    rig.any(0);
    rig.model.poke(TSYNCRXCTL, 0);
    rig.model.receive(&udp(1, 5000, 300));
    let packets = rig.drain(0);
    assert_eq!(packets[0].frame(), udp(1, 5000, 300));
    assert!(!is_stamped(&packets[0]));
    rig.end();
}

#[test]
fn what_is_not_known_is_refused_with_the_reason() {
    for (device, setup, why) in [
        (0x10c9, stamped(0x10c9), "one latch"),
        (0x1539, stamped(0x1539), "no document"),
        (
            I350,
            Setup {
                unsplit: Unsplit::Deliver,
                ..stamped(I350)
            },
            "--unsplit header",
        ),
        (
            I350,
            Setup {
                unsplit: Unsplit::Drop,
                ..stamped(I350)
            },
            "--no-split",
        ),
        (
            I210,
            Setup {
                slot: 128,
                ..stamped(I210)
            },
            "192 bytes",
        ),
    ] {
        let mut rig = Rig::new(Setup {
            device,
            queues: 0,
            ..Setup::default()
        });
        let (_region, configs) = setup.configs();
        let error = rig.nic.open_queue(0, configs[0].clone()).unwrap_err();
        let kind = matches!(
            error,
            DriverError::Unsupported { .. } | DriverError::BadConfig { .. }
        );
        let error = error.to_string();
        assert!(kind && error.contains(why), "{error}");
        assert_eq!(rig.model.mapped(), 0);
        rig.end();
    }
}

/// A device that says that a stamp is there, and has none; and one that says any time.
#[test]
fn a_stamp_that_cannot_be_costs_the_packet_or_the_stamp() {
    for setup in ways() {
        let mut rig = Rig::new(setup);
        rig.any(0);
        let frame = udp(1, 5000, 400);
        let mut no_stamp = [0; 16];
        no_stamp[3] = 1;
        rig.model.set_front(Some(no_stamp));
        rig.model.receive(&frame);
        assert!(rig.drain(0).is_empty(), "{setup:?}");
        assert_eq!(rig.queues[0].queue.counters().bad_descriptor, 1);
        let mut at = [0; 16];
        for word in [0, 1, 1 << 31, u64::MAX, 1 << 63, 5_000_000_000 << 8] {
            at[8..].copy_from_slice(&u64::to_le_bytes(word));
            rig.model.set_front(Some(at));
            rig.model.receive(&frame);
            let packets = rig.drain(0);
            assert_eq!(packets[0].frame(), frame);
            // Near 0 is when the clock was started, which is just now; of 40 bits, the upper 24 say nothing.
            let just_now = word < 2 || setup.device == I350 && [u64::MAX, 1 << 63].contains(&word);
            assert_eq!(is_stamped(&packets[0]), just_now, "{word:#x} {setup:?}");
            assert!(packets[0].timestamp.abs_diff(real()) < 2_000_000_000);
        }
        rig.model.set_front(None);
        rig.model.receive(&frame);
        assert!(is_stamped(&rig.drain(0)[0]));
        rig.end();
    }
}

#[test]
fn lengths_that_have_no_room_for_a_stamp_cost_the_packet() {
    for setup in ways() {
        let mut rig = Rig::new(setup);
        rig.any(0);
        let mut bad = 0;
        // Done, whole, with a stamp: header and payload of so many bytes.
        for (header, payload) in [(0_u64, 0_u64), (0, 15), (1, 100), (15, 100), (15, 0)] {
            let info = header << 21 | u64::from(header > 0) << 31;
            let head = rig.model.peek(RxQueueRegs::of(0).rdh());
            rig.model.scribble(0, head, [info, 0x8003 | payload << 32]);
            rig.model.poke(RxQueueRegs::of(0).rdh(), (head + 1) % 64);
            for packet in rig.drain(0) {
                // Where nothing is split, header lengths say nothing.
                assert!(
                    !setup.split && payload >= 16 && packet.frame().len() + 16 == payload as usize
                );
                bad -= 1;
            }
            bad += 1;
        }
        assert_eq!(
            rig.queues[0].queue.counters().bad_descriptor,
            bad,
            "{setup:?}"
        );
        rig.end();
    }
}

/// Waits until a packet's time is the NIC's, or software's.
fn wait_for(rig: &mut Rig, stamped: bool) {
    let begin = Instant::now();
    loop {
        rig.model.receive(&udp(1, 5000, 100));
        let packets = rig.drain(0);
        if is_stamped(&packets[0]) == stamped {
            return;
        }
        assert!(
            begin.elapsed() < Duration::from_secs(5),
            "stamped: {}",
            !stamped
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The monitor looks once a second.
#[test]
fn a_clock_that_stops_is_noticed_and_so_is_that_it_runs_again() {
    let mut rig = Rig::new(stamped(I350));
    rig.any(0);
    wait_for(&mut rig, true);
    // About to go round.
    rig.model.set_time((1 << 40) - 1_000_000_000, false);
    wait_for(&mut rig, false);
    rig.model.set_time((1 << 40) - 1_000_000_000, true);
    wait_for(&mut rig, true);
    std::thread::sleep(Duration::from_millis(1500));
    let before = real();
    rig.model.receive(&udp(1, 5000, 100));
    let packets = rig.drain(0);
    assert!(is_stamped(&packets[0]), "it has gone round");
    assert!(packets[0].timestamp.abs_diff(before) < 5_000_000);
    rig.end();
}

#[test]
fn a_reset_stops_the_clock_and_the_next_queue_starts_it() {
    let mut rig = Rig::new(stamped(I210));
    rig.any(0);
    wait_for(&mut rig, true);
    rig.model.set_fault(Fault {
        will_not_stop: true,
        ..Fault::default()
    });
    rig.nic.close_queue(0).unwrap();
    rig.queues.remove(0).end();
    assert_eq!(rig.model.resets(), 1);
    rig.model.set_fault(Fault::default());
    assert_eq!(rig.model.peek(TSYNCRXCTL), 0);
    let (region, configs) = stamped(I210).configs();
    rig.region = region;
    let queue = super::rig::Queue::open(&mut rig.nic, 0, configs[0].clone());
    rig.queues.push(queue);
    rig.any(0);
    rig.model.receive(&udp(1, 5000, 100));
    let packets = rig.drain(0);
    assert!(is_stamped(&packets[0]), "at once");
    rig.end();
}
