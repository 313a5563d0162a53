//! Receive: rules, contexts, descriptors, header split.

use super::*;
use crate::Fault;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

fn open() -> Personality {
    Personality {
        parses_without_package: true,
        ..Personality::default()
    }
}

fn ready(personality: Personality, setup: Setup) -> Driver {
    let mut driver = Driver::new(personality);
    let vsi = driver.add_vsi(0, 1);
    driver.add_mac(vsi, MAC);
    assert!(driver.start(0, setup), "{:?}", driver.card.refusals());
    driver
}

/// Status, packet length, header length with its SPH bit.
fn facts(descriptor: &[u8]) -> (u16, u16, u16) {
    let word = |at: usize| u16::from_le_bytes([descriptor[at], descriptor[at + 1]]);
    (word(8), word(4), word(6))
}

#[test]
fn a_datagram_is_split_behind_its_udp_header() {
    let driver = ready(open(), Setup::default());
    let frame = udp(MAC, (1000, 2000), &[0x5a; 100]);
    assert!(driver.card.receive(&frame));
    let descriptor = driver.descriptor(0, 0);
    let (status, len, header) = facts(&descriptor);
    assert_eq!((len, header), (100, 42 | 1 << 11));
    assert_eq!(status, 0xb, "DD, EOF, L3L4P");
    assert_eq!(descriptor[0], 2);
    assert_eq!(descriptor[2], 24, "IPv4 UDP");
    assert_eq!(driver.header(0, 0, 42), frame[..42]);
    assert_eq!(driver.packet(0, 0, 100), frame[42..]);
}

#[test]
fn without_a_package_nothing_is_split() {
    let driver = ready(Personality::default(), Setup::default());
    let frame = udp(MAC, (1, 2), &[7; 64]);
    assert!(driver.card.receive(&frame));
    let (status, len, header) = facts(&driver.descriptor(0, 0));
    assert_eq!((status, len, header), (3, 106, 0));
    assert_eq!(driver.packet(0, 0, 106), frame);
}

#[test]
fn other_addresses_are_not_taken() {
    let driver = ready(open(), Setup::default());
    assert!(
        !driver
            .card
            .receive(&udp([2, 0, 0, 0, 0, 8], (1, 2), &[0; 64]))
    );
    assert!(!driver.card.receive(&udp([0xff; 6], (1, 2), &[0; 64])));
    assert_eq!(facts(&driver.descriptor(0, 0)).0 & 1, 0);
}

#[test]
fn kinds_of_split_and_sizes_of_headers() {
    for (setup, header, split, overflow) in [
        (
            Setup {
                kinds: 1,
                ..Setup::default()
            },
            14,
            true,
            false,
        ),
        (
            Setup {
                kinds: 2,
                ..Setup::default()
            },
            34,
            true,
            false,
        ),
        (
            Setup {
                kinds: 8,
                ..Setup::default()
            },
            0,
            false,
            false,
        ),
        (
            Setup {
                split: 0,
                ..Setup::default()
            },
            0,
            false,
            false,
        ),
        (
            Setup {
                split: 2,
                always: 1,
                ..Setup::default()
            },
            14,
            true,
            false,
        ),
        (
            Setup {
                split: 2,
                always: 2,
                header: 64,
                ..Setup::default()
            },
            64,
            true,
            false,
        ),
    ] {
        let driver = ready(open(), setup);
        let frame = udp(MAC, (1, 2), &[9; 300]);
        assert!(driver.card.receive(&frame));
        let (status, len, told) = facts(&driver.descriptor(0, 0));
        assert_eq!(usize::from(told & 0x7ff), header);
        assert_eq!(told & 1 << 11 != 0, split);
        assert_eq!(status & 4 != 0, overflow);
        assert_eq!(usize::from(len), frame.len() - header);
        assert_eq!(driver.header(0, 0, header), frame[..header]);
    }
}

#[test]
fn a_header_that_does_not_fit_overflows_into_the_packet() {
    let driver = ready(
        open(),
        Setup {
            header: 64,
            ..Setup::default()
        },
    );
    let mut frame = MAC.to_vec();
    frame.extend([2, 0, 0, 0, 0, 9, 0x08, 0]);
    frame.extend([0x4f, 0, 0, 100, 0, 0, 0, 0, 64, 17, 0, 0]);
    frame.extend([0; 88]);
    assert!(driver.card.receive(&frame));
    let (status, len, told) = facts(&driver.descriptor(0, 0));
    assert_eq!(status & 4, 4, "HBO");
    assert_eq!((usize::from(len), told), (frame.len(), 82));
    assert_eq!(driver.packet(0, 0, frame.len()), frame);
}

#[test]
fn jumbo_packets_take_several_descriptors() {
    let mut driver = ready(open(), Setup::default());
    let mut params = [0; 16];
    params[..2].copy_from_slice(&9728_u16.to_le_bytes());
    driver.done(0x0603, params, &[]);
    let payload: Vec<u8> = (0..5000).map(|i| i as u8).collect();
    assert!(driver.card.receive(&udp(MAC, (1, 2), &payload)));
    let first = facts(&driver.descriptor(0, 0));
    assert_eq!(first, (1, 2048, 42 | 1 << 11));
    let last = facts(&driver.descriptor(0, 2));
    assert_eq!((last.0 & 3, last.1, last.2), (3, 5000 - 4096, 0));
    assert_eq!(driver.packet(0, 1, 2048), payload[2048..4096]);
    assert_eq!(facts(&driver.descriptor(0, 3)).0 & 1, 0);
}

#[test]
fn no_descriptors_no_packet_and_a_count() {
    let driver = ready(open(), Setup::default());
    let frame = udp(MAC, (1, 2), &[1; 64]);
    let taken = (0..100).filter(|_| driver.card.receive(&frame)).count();
    assert_eq!(taken, usize::from(DESCRIPTORS) - 8);
    let vsi = 8;
    assert_eq!(driver.card.read32(0x29_4c04 + vsi * 4), 100 - 56);
    assert_eq!(driver.card.read32(0x29_5804 + vsi * 4), 100 - 56);
    assert_eq!(driver.card.read32(0x38_1300), 100);
    assert_eq!(driver.card.read32(0x3b_2000 + vsi * 8), 56);
    // The tail's low bits do not count.
    driver.card.write32(0x29_0000, 56 + 7);
    assert!(!driver.card.receive(&frame));
}

#[test]
fn damaged_and_long_frames_are_counted() {
    let driver = ready(open(), Setup::default());
    driver.card.receive_damaged();
    assert_eq!(driver.card.read32(0x38_0100), 1);
    assert!(!driver.card.receive(&udp(MAC, (1, 2), &[0; 1500])));
    assert_eq!(driver.card.read32(0x38_0240), 1);
    assert_eq!(driver.card.read32(0x38_1300), 0);
}

#[test]
fn the_check_sequence_comes_along_when_it_is_not_stripped() {
    let driver = ready(
        open(),
        Setup {
            strip_crc: 0,
            ..Setup::default()
        },
    );
    let frame = udp(MAC, (1, 2), &[1; 64]);
    assert!(driver.card.receive(&frame));
    let (status, len, _) = facts(&driver.descriptor(0, 0));
    assert_eq!(status & 1 << 11, 1 << 11);
    assert_eq!(len, 68);
    assert_eq!(driver.packet(0, 0, 68)[64..], crate::checksum::crc(&frame));
}

#[test]
fn bad_checksums_are_told() {
    let driver = ready(open(), Setup::default());
    let mut frame = udp(MAC, (1, 2), &[1; 64]);
    frame[50] ^= 1;
    assert!(driver.card.receive(&frame));
    assert_eq!(facts(&driver.descriptor(0, 0)).0 & 0x38, 0x28);
    frame[50] ^= 1;
    frame[30] ^= 1;
    assert!(driver.card.receive(&frame));
    assert_eq!(facts(&driver.descriptor(0, 1)).0 & 0x38, 0x38);
}

#[test]
fn contexts_that_cannot_work_do_not_start() {
    let driver = Driver::new(Personality::default());
    for setup in [
        Setup {
            header: 0,
            ..Setup::default()
        },
        Setup {
            buffer: 1024,
            ..Setup::default()
        },
        Setup {
            rxdid: 40,
            ..Setup::default()
        },
        Setup {
            split: 3,
            ..Setup::default()
        },
    ] {
        assert!(!driver.start(0, setup));
    }
    driver.card.write32(0x12_0000 + 300 * 4, 1);
    assert_eq!(driver.card.read32(0x12_0000 + 300 * 4) & 4, 0);
    assert_eq!(driver.card.refusals().len(), 5);
}

#[test]
fn an_interrupt_comes_once_until_it_is_armed_again() {
    let driver = ready(open(), Setup::default());
    driver.card.write32(0x15_0000, 3 | 1 << 30);
    driver.card.write32(0x16_000c, 1);
    let frame = udp(MAC, (1, 2), &[1; 64]);
    assert!(driver.card.receive(&frame));
    assert!(driver.card.receive(&frame));
    assert_eq!(driver.interrupts(), [3]);
    driver.card.write32(0x16_000c, 1);
    assert_eq!(driver.interrupts(), [3], "the second was pending");
    driver.card.write32(0x16_000c, 1);
    assert!(driver.interrupts().is_empty());
}

#[test]
fn faults_show_in_descriptors_and_buffers() {
    let frame = udp(MAC, (1, 2), &[0x33; 100]);
    for (fault, status, len, header) in [
        (Fault::WrongHeaderLength, 0, 100, 41 | 1 << 11),
        (Fault::SplitOffByOne, 0, 101, 41 | 1 << 11),
        (Fault::WrongPacketLength, 0, 142, 42 | 1 << 11),
        (Fault::NoSph, 0, 142, 0),
        (Fault::Hbo, 4, 142, 42),
        (Fault::ReceiveError, 1 << 10, 100, 42 | 1 << 11),
    ] {
        let driver = ready(open(), Setup::default());
        driver.card.set_fault(fault);
        assert!(driver.card.receive(&frame));
        assert_eq!(
            facts(&driver.descriptor(0, 0)),
            (0xb | status, len, header),
            "{fault}"
        );
    }
    let driver = ready(open(), Setup::default());
    driver.card.set_fault(Fault::SwappedBuffers);
    assert!(driver.card.receive(&frame));
    assert_eq!(driver.packet(0, 0, 42), frame[..42]);
    driver.card.set_fault(Fault::LateDescriptor);
    assert!(driver.card.receive(&frame));
    assert_eq!(facts(&driver.descriptor(0, 1)).0 & 1, 0);
    let _ = driver.card.read32(0);
    assert_eq!(facts(&driver.descriptor(0, 1)).0 & 1, 1);
    // The next frame brings it as well.
    assert!(driver.card.receive(&frame));
    assert!(driver.card.receive(&frame));
    assert_eq!(facts(&driver.descriptor(0, 2)).0 & 1, 1);
    assert_eq!(facts(&driver.descriptor(0, 3)).0 & 1, 0);
}

#[test]
fn a_stopped_queue_takes_nothing_and_starts_again_from_its_context() {
    let driver = ready(open(), Setup::default());
    let frame = udp(MAC, (1, 2), &[0x33; 100]);
    assert!(driver.card.receive(&frame));
    driver.card.write32(0x12_0000, 0);
    assert_eq!(driver.card.read32(0x12_0000) & 4, 0);
    assert!(!driver.card.receive(&frame));
    assert!(driver.start(0, Setup::default()));
    assert!(driver.card.receive(&frame));
    assert_eq!(facts(&driver.descriptor(0, 0)).0 & 1, 1);
}

#[test]
fn rules_are_checked() {
    let mut driver = ready(open(), Setup::default());
    let mut params = [0; 16];
    params[0] = 1;
    let again = Driver::mac_rule(8, MAC);
    assert_eq!(driver.send(0x02a0, params, &again, true).code, 13);
    let nobody = Driver::mac_rule(9, [2, 0, 0, 0, 0, 1]);
    assert_eq!(driver.send(0x02a0, params, &nobody, true).code, 14);
    let mut receive = Driver::mac_rule(8, [2, 0, 0, 0, 0, 1]);
    receive[0] = 0;
    receive[6] = 0;
    assert_eq!(driver.send(0x02a0, params, &receive, true).code, 14);
    let mut gone = again.clone();
    gone[12] = 99;
    assert_eq!(driver.send(0x02a2, params, &gone, true).code, 2);
    gone[12] = 1;
    assert_eq!(driver.send(0x02a2, params, &gone, true).code, 0);
    assert!(!driver.card.receive(&udp(MAC, (1, 2), &[0; 64])));
}

#[test]
fn vsis_share_an_address_by_a_list() {
    let mut driver = ready(open(), Setup::default());
    let other = driver.add_vsi(1, 1);
    assert!(driver.start(1, Setup::default()));
    let mut params = [0; 16];
    params[0] = 1;
    let rule = Driver::mac_rule(other, MAC);
    assert_eq!(driver.send(0x02a0, params, &rule, true).code, 13);
    let list = driver.done(0x0208, params, &[3, 0, 1, 0, 0, 0]).buffer[4];
    let mut members = vec![3, 0, 0, 0, list, 0, 2, 0];
    members.extend(8_u16.to_le_bytes());
    members.extend(other.to_le_bytes());
    driver.done(0x02a0, params, &members);
    let mut update = Driver::mac_rule(8, MAC);
    let action = u32::from(list) << 4 | 1 << 14 | 1 << 17;
    update[8..12].copy_from_slice(&action.to_le_bytes());
    update[12] = 1;
    driver.done(0x02a1, params, &update);
    assert!(driver.card.receive(&udp(MAC, (1, 2), &[0; 64])));
    for queue in 0..2 {
        assert_eq!(facts(&driver.descriptor(queue, 0)).0 & 1, 1);
    }
    // A VSI that is gone is in no list.
    let mut free = [0; 16];
    free[..2].copy_from_slice(&(other | 1 << 15).to_le_bytes());
    driver.done(0x0213, free, &[]);
    assert!(driver.card.receive(&udp(MAC, (1, 2), &[0; 64])));
    assert_eq!(facts(&driver.descriptor(1, 1)).0 & 1, 0);
}

#[test]
fn a_tail_beyond_the_ring_is_malicious() {
    let driver = ready(open(), Setup::default());
    driver.card.write32(0x29_0000, 64);
    assert_eq!(driver.card.read32(0x12_0000) & 4, 0);
    assert_eq!(driver.card.read32(0x29_4280), 1);
    driver.card.write32(0x29_4280, 0xffff);
    assert_eq!(driver.card.read32(0x29_4280), 0);
}
