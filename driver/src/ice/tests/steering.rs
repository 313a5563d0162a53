//! Which queue a packet comes to.

use super::rig::{Rig, Setup, arp, udp, udp_to};
use crate::ice::admin::code::ENOENT;
use crate::ice::model::{E810, Fault};
use crate::{DriverError, Flows, Nic, RxFlags, RxQueue};

const STATION: [u8; 6] = [0x02, 0xe8, 0x10, 0, 0, 1];
const OTHER: [u8; 6] = [0x52, 0x54, 0, 0, 0, 0x11];
const FOREIGN: [u8; 6] = [2, 9, 9, 9, 9, 9];

fn setup(queues: u32) -> Setup {
    Setup {
        queues,
        ..Setup::default()
    }
}

fn refused(rig: &mut Rig, queue: u32, rule: &str, why: &str) {
    let error = rig
        .nic
        .add_flow(queue..=queue, 40, &rule.parse().unwrap())
        .unwrap_err();
    assert!(matches!(error, DriverError::Flow { .. }), "{error}");
    assert!(error.to_string().contains(why), "{error}");
}

/// Who gets a frame.
fn takers(rig: &mut Rig, frame: &[u8]) -> Vec<usize> {
    rig.model.card().receive(frame);
    (0..rig.queues.len())
        .filter(|&queue| {
            let got = rig.drain(queue);
            assert!(got.iter().all(|packet| packet.frame() == frame));
            !got.is_empty()
        })
        .collect()
}

#[test]
fn single_queues_are_told_apart_by_address() {
    for safe in [false, true] {
        let mut setup = setup(2);
        if safe {
            setup.options.package = crate::ice::PackageSource::None;
        }
        let mut rig = Rig::new(setup);
        rig.rule(1, 7, "any");
        rig.rule(0, 8, "dst-mac=52:54:00:00:00:11,udp");
        refused(
            &mut rig,
            0,
            "vlan=5",
            "queue 1 takes what no other rule names",
        );
        refused(&mut rig, 1, "dst-mac=52:54:00:00:00:11", "queue 0 has");
        let to = |address| udp_to(address, 1, 2, 100);
        for (address, queue) in [
            (STATION, 1),
            (OTHER, 0),
            (FOREIGN, 1),
            ([0xff; 6], 1),
            ([1, 0, 0x5e, 0, 0, 1], 1),
        ] {
            assert_eq!(takers(&mut rig, &to(address)), [queue], "{address:x?}");
        }
        // Who took everything goes; the other loses nothing and gets no more.
        rig.nic.close_queue(1).unwrap();
        assert_eq!(takers(&mut rig, &to(OTHER)), [0]);
        assert!(takers(&mut rig, &to(FOREIGN)).is_empty());
        assert!(
            rig.model.card().refusals().is_empty(),
            "{:?}",
            rig.model.card().refusals()
        );
        rig.end();
    }
}

#[test]
fn recipes_of_others_keep_their_places_for_results() {
    let mut rig = Rig::new(setup(3));
    rig.rule(0, 1, "any");
    // Two recipes, and one that compares their results.
    rig.rule(
        1,
        2,
        "udp,src=10.0.0.1,dst=10.0.0.2,src-port=7,dst-port=6000",
    );
    // Now they are somebody's of whom the driver knows nothing, such as the driver's of another port: profiles are the card's.
    rig.nic.forget_recipes();
    rig.rule(
        2,
        3,
        "udp,src=10.0.0.0/24,dst=10.0.0.2,src-port=7,dst-port=7000",
    );
    assert_eq!(takers(&mut rig, &udp(7, 6000, 100)), [1]);
    assert_eq!(takers(&mut rig, &udp(7, 7000, 100)), [2]);
    assert_eq!(takers(&mut rig, &udp(7, 8000, 100)), [0]);
    rig.end();
}

#[test]
fn recipes_of_others_that_the_firmware_does_not_show_are_an_error() {
    for code in E810::codes() {
        let mut rig = Rig::new(setup(3));
        rig.rule(0, 1, "any");
        rig.rule(
            1,
            2,
            "udp,src=10.0.0.1,dst=10.0.0.2,src-port=7,dst-port=6000",
        );
        rig.nic.forget_recipes();
        rig.model.set_fault(Fault::FailCommandWith(0x0292, code));
        let rule = "udp,src=10.0.0.0/24,dst=10.0.0.2,src-port=7,dst-port=7000";
        let error = rig.nic.add_flow(2..=2, 3, &rule.parse().unwrap());
        let error = error.unwrap_err().to_string();
        // Where the firmware says that there is no such recipe, that is believed, and the model refuses what comes of it.
        let named = error.contains("0x0292") || code == ENOENT && error.contains("0x0291");
        assert!(named, "{code}: {error}");
        assert_eq!(takers(&mut rig, &udp(7, 7000, 100)), [0], "as before");
        assert_eq!(takers(&mut rig, &udp(7, 6000, 100)), [1], "as before");
        rig.model.set_fault(Fault::None);
        rig.rule(2, 3, rule);
        assert_eq!(takers(&mut rig, &udp(7, 7000, 100)), [2]);
        rig.end();
    }
}

#[test]
fn flows_come_to_their_attachment_and_the_rest_elsewhere() {
    let mut rig = Rig::new(setup(3));
    rig.rule(0, 1, "any");
    rig.rule(1, 2, "udp,dst-port=5000");
    rig.rule(
        2,
        3,
        "udp,src=10.0.0.1,dst=10.0.0.2,src-port=7,dst-port=6000",
    );
    assert_eq!(takers(&mut rig, &udp(1, 5000, 100)), [1]);
    assert_eq!(takers(&mut rig, &udp(1, 5001, 100)), [0]);
    assert_eq!(takers(&mut rig, &udp(7, 6000, 100)), [2], "six words");
    assert_eq!(takers(&mut rig, &udp(8, 6000, 100)), [0]);
    assert_eq!(takers(&mut rig, &arp()), [0]);
    let six = |port| {
        let mut frame = Vec::new();
        etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], FOREIGN)
            .ipv6([1; 16], [2; 16], 64)
            .udp(1, port)
            .write(&mut frame, &[7; 100])
            .unwrap();
        frame
    };
    assert_eq!(takers(&mut rig, &six(5000)), [1]);
    assert_eq!(takers(&mut rig, &six(5001)), [0]);
    // A rule goes, and its packets are anybody's again.
    rig.nic.remove_flow(1..=1, 2).unwrap();
    assert_eq!(takers(&mut rig, &udp(1, 5000, 100)), [0]);
    refused(
        &mut rig,
        1,
        "udp,src=10.0.0.1,dst=10.0.0.2,src-port=7,dst-port=6000",
        "these packets already",
    );
    rig.rule(1, 4, "tcp,dst-port=5000");
    assert_eq!(takers(&mut rig, &udp(1, 5000, 100)), [0]);
    rig.rule(1, 5, "udp,dst-port=4096-8191,src=10.0.0.0/8");
    assert_eq!(takers(&mut rig, &udp(1, 5000, 100)), [1]);
    assert!(
        rig.model.card().refusals().is_empty(),
        "{:?}",
        rig.model.card().refusals()
    );
    rig.end();
}

#[test]
fn without_any_the_nic_drops_what_no_rule_takes() {
    let mut rig = Rig::new(setup(1));
    rig.rule(0, 2, "udp,dst-port=5000");
    assert_eq!(takers(&mut rig, &udp(1, 5000, 100)), [0]);
    assert!(!rig.model.card().receive(&udp(1, 5001, 100)));
    let counters = rig.queues[0].queue.counters();
    assert_eq!((counters.received, counters.unwanted), (1, 0));
    rig.end();
}

#[test]
fn recipes_are_given_back() {
    let mut rig = Rig::new(setup(1));
    // More than the device has recipes.
    for port in 0..100_u16 {
        let rule = format!("udp,dst-port={}", 1000 + port);
        rig.rule(0, port, &rule);
        let masked = format!("tcp,src=10.0.0.0/{},dst-port=7", 8 + port % 24);
        rig.rule(0, 1000 + port, &masked);
        rig.nic.remove_flow(0..=0, 1000 + port).unwrap();
    }
    assert_eq!(takers(&mut rig, &udp(1, 1099, 100)), [0]);
    rig.end();
}

#[test]
fn neighbours_lose_nothing_when_rules_change() {
    let mut rig = Rig::new(setup(3));
    rig.rule(0, 1, "any");
    rig.rule(1, 2, "udp,dst-port=5000");
    for round in 0..20_u16 {
        rig.rule(2, 3, "dst-mac=52:54:00:00:00:11");
        rig.rule(2, 4, "udp,dst-port=6000");
        assert_eq!(takers(&mut rig, &udp(round, 5000, 100)), [1]);
        assert_eq!(takers(&mut rig, &udp(round, 6000, 100)), [2]);
        rig.nic.remove_flow(2..=2, 4).unwrap();
        rig.nic.remove_flow(2..=2, 3).unwrap();
        assert_eq!(takers(&mut rig, &udp(round, 6000, 100)), [0]);
    }
    let counters = rig.queues[1].queue.counters();
    assert_eq!((counters.received, counters.exact), (20, true));
    rig.end();
}

#[test]
fn several_queues_share_by_hash() {
    let mut rig = Rig::new(setup(4));
    rig.nic.add_flow(0..=2, 3, &"any".parse().unwrap()).unwrap();
    // And a flow of their neighbour's all the same.
    rig.rule(3, 4, "udp,dst-port=6000");
    for port in 0..256 {
        rig.receive(&udp(port, 5000, 100));
        if port % 32 == 31 {
            for queue in 0..3 {
                for packet in rig.drain(queue) {
                    assert!(packet.flags.contains(RxFlags::HASH));
                    let place = packet.hash as usize % 64 % 3;
                    assert_eq!(place, queue, "the table goes round");
                }
            }
        }
    }
    let counts: Vec<u64> = (0..3).map(|queue| rig.nic.queue_packets(queue)).collect();
    assert_eq!(counts.iter().sum::<u64>(), 256);
    assert!(counts.iter().all(|&count| count > 32), "{counts:?}");
    rig.receive(&udp(9, 6000, 100));
    assert_eq!(rig.drain(3).len(), 1);
    // With one queue gone, so are the rules of all of them.
    rig.nic.close_queue(1).unwrap();
    assert!(!rig.model.card().receive(&udp(1, 5000, 100)));
    assert!(
        rig.model.card().refusals().is_empty(),
        "{:?}",
        rig.model.card().refusals()
    );
    rig.end();
}

#[test]
fn the_hash_is_what_microsofts_specification_says() {
    let mut rig = Rig::new(setup(1));
    rig.any(0);
    let mut frame = Vec::new();
    etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], FOREIGN)
        .ipv4([66, 9, 149, 187], [161, 142, 100, 80], 64)
        .tcp(2794, 1766, 0, 0)
        .write(&mut frame, &[0; 20])
        .unwrap();
    rig.receive(&frame);
    let packets = rig.drain(0);
    assert_eq!(packets[0].hash, 0x51cc_c178);
    rig.end();
}
