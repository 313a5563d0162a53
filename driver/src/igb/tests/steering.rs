//! Which queue a packet comes to.

use super::rig::{Queue, Rig, Setup, arp, udp, udp_to};
use crate::igb::model::{Fault, IgbModel};
use crate::igb::regs::receive_address;
use crate::{DriverError, Flows, Nic, RxFlags, RxQueue};

const OTHER: [u8; 6] = [0x52, 0x54, 0, 0, 0, 0x11];
const FOREIGN: [u8; 6] = [2, 9, 9, 9, 9, 9];

fn setup(device: u16, queues: u32) -> Setup {
    Setup {
        device,
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

#[test]
fn single_queues_are_told_apart_by_address() {
    for device in [0x10c9, 0x1521, 0x1533, 0x1539] {
        let mut rig = Rig::new(setup(device, 2));
        rig.rule(1, 7, "any");
        rig.rule(0, 8, "dst-mac=52:54:00:00:00:11,udp");
        refused(&mut rig, 0, "udp", "queue 1 takes what no other rule names");
        refused(&mut rig, 1, "dst-mac=52:54:00:00:00:11", "queue 0 has");
        refused(&mut rig, 0, "dst-mac=ff:ff:ff:ff:ff:ff", "broadcasts");
        let to = |address| udp_to(address, 1, 2, 100);
        for (address, queue) in [
            (IgbModel::STATION, 1),
            (OTHER, 0),
            (FOREIGN, 1),
            ([0xff; 6], 1),
            ([1, 0, 0x5e, 0, 0, 1], 1),
        ] {
            rig.model.receive(&to(address));
            let got = [rig.drain(0), rig.drain(1)];
            assert_eq!(got[queue].len(), 1, "{device:x} {address:x?}");
            assert_eq!(got[queue][0].frame(), to(address));
            assert!(got[1 - queue].is_empty(), "{device:x} {address:x?}");
        }
        // Who took everything goes; the other loses nothing and gets no more.
        rig.nic.close_queue(1).unwrap();
        rig.model.receive(&to(OTHER));
        rig.model.receive(&to(FOREIGN));
        assert_eq!(rig.drain(0).len(), 1);
        rig.end();
    }
}

#[test]
fn several_queues_share_by_hash() {
    let mut rig = Rig::new(setup(0x10c9, 4));
    let error = rig.nic.add_flow(1..=3, 3, &"any".parse().unwrap());
    assert!(error.unwrap_err().to_string().contains("queues 0 to 2"));
    rig.nic.add_flow(0..=3, 3, &"any".parse().unwrap()).unwrap();
    refused(&mut rig, 0, "udp", "by hash");
    for port in 0..256 {
        rig.model.receive(&udp(port, 5000, 100));
        if port % 32 == 31 {
            for queue in 0..4 {
                for packet in rig.drain(queue) {
                    assert!(packet.flags.contains(RxFlags::HASH));
                    assert_eq!(packet.hash & 3, queue as u32, "RETA goes round");
                }
            }
        }
    }
    let counts: Vec<u64> = (0..4).map(|queue| rig.nic.queue_packets(queue)).collect();
    assert_eq!(counts.iter().sum::<u64>(), 256);
    assert!(counts.iter().all(|&count| count > 32), "{counts:?}");
    rig.nic.remove_flow(0..=3, 3).unwrap();
    rig.model.receive(&udp(1, 5000, 100));
    assert!((0..4).all(|queue| rig.drain(queue).is_empty()));
    // With the last rule gone, queues can be steered one by one.
    rig.rule(2, 5, "any");
    rig.model.receive(&udp(1, 5000, 100));
    assert_eq!(rig.drain(2).len(), 1);
    rig.end();
}

#[test]
fn a_queue_comes_and_goes_while_another_receives() {
    let mut rig = Rig::new(setup(0x10c9, 2));
    rig.rule(0, 1, "any");
    rig.rule(1, 2, "dst-mac=52:54:00:00:00:11");
    let mut sent = 0;
    let mut got = 0;
    for round in 0..20 {
        for _ in 0..10 {
            rig.model.receive(&udp(sent, 1, 200));
            sent += 1;
        }
        if round % 4 == 1 {
            rig.nic.close_queue(1).unwrap();
            let queue = rig.queues.remove(1);
            let config = queue.config.clone();
            queue.end();
            config.provider.uninstall();
            rig.queues
                .push(super::rig::Queue::open(&mut rig.nic, 1, config));
            rig.rule(1, 2, "dst-mac=52:54:00:00:00:11");
        }
        got += rig.drain(0).len();
        rig.model.receive(&udp_to(OTHER, 1, 1, 80));
        assert_eq!(rig.drain(1).len(), 1);
    }
    assert_eq!(got, usize::from(sent));
    assert!(rig.queues[0].queue.counters().exact);
    assert_eq!(rig.nic.queue_packets(1), 20, "counted across openings");
    rig.end();
}

#[test]
fn a_rule_that_others_need_stays() {
    let mut rig = Rig::new(setup(0x10c9, 2));
    rig.rule(0, 1, "any");
    rig.rule(0, 2, "dst-mac=01:00:5e:00:00:01");
    rig.rule(1, 3, "dst-mac=52:54:00:00:00:11");
    let error = rig.nic.remove_flow(0..=0, 1).unwrap_err();
    assert!(matches!(error, DriverError::Flow { .. }), "{error}");
    assert!(error.to_string().contains("multicasts"), "{error}");
    // Nothing has changed.
    rig.model.receive(&udp_to(FOREIGN, 1, 1, 100));
    rig.model.receive(&udp_to(OTHER, 1, 1, 100));
    let got = rig.drain(0);
    assert_eq!((got.len(), got[0].flow), (1, 1));
    assert_eq!(rig.drain(1).len(), 1);
    rig.nic.remove_flow(0..=0, 2).unwrap();
    rig.nic.remove_flow(0..=0, 1).unwrap();
    rig.end();
}

#[test]
fn ether_types_of_before_are_forgotten() {
    let mut rig = Rig::new(setup(0x10c9, 2));
    rig.nic.add_flow(0..=1, 3, &"arp".parse().unwrap()).unwrap();
    rig.nic.remove_flow(0..=1, 3).unwrap();
    rig.rule(1, 4, "any");
    rig.model.receive(&arp());
    assert_eq!((rig.drain(0).len(), rig.drain(1).len()), (0, 1));
    rig.end();
}

#[test]
fn an_address_keeps_its_place_while_others_go() {
    let mut rig = Rig::new(setup(0x10c9, 2));
    rig.rule(0, 1, "any");
    for last in 0..4 {
        rig.rule(1, 10 + last, &format!("dst-mac=52:54:00:00:01:0{last}"));
    }
    let places = |rig: &Rig| -> Vec<u32> {
        (0..8)
            .map(|index| rig.model.peek(receive_address(index).1) >> 31)
            .collect()
    };
    assert_eq!(places(&rig), [1, 1, 1, 1, 1, 0, 0, 0]);
    rig.nic.remove_flow(1..=1, 11).unwrap();
    assert_eq!(places(&rig), [1, 1, 0, 1, 1, 0, 0, 0]);
    rig.rule(1, 20, "dst-mac=52:54:00:00:01:09");
    assert_eq!(places(&rig), [1, 1, 1, 1, 1, 0, 0, 0]);
    for last in [0, 2, 3, 9] {
        rig.model
            .receive(&udp_to([0x52, 0x54, 0, 0, 1, last], 1, 1, 100));
        assert_eq!(rig.drain(1).len(), 1, "{last}");
    }
    rig.model
        .receive(&udp_to([0x52, 0x54, 0, 0, 1, 1], 1, 1, 100));
    assert_eq!(rig.drain(0).len(), 1);
    rig.end();
}

#[test]
fn rules_of_queues_that_a_reset_ended_count_no_more() {
    let mut rig = Rig::new(setup(0x10c9, 2));
    rig.rule(1, 1, "any");
    rig.model.set_fault(Fault {
        will_not_stop: true,
        ..Fault::default()
    });
    rig.nic.close_queue(0).unwrap();
    let queue = rig.queues.remove(0);
    let config = queue.config.clone();
    queue.end();
    rig.model.set_fault(Fault::default());
    // Before the NIC is initialized again, and after.
    refused(&mut rig, 1, "dst-mac=52:54:00:00:00:11", "was reset");
    config.provider.uninstall();
    rig.queues.insert(0, Queue::open(&mut rig.nic, 0, config));
    refused(&mut rig, 1, "dst-mac=52:54:00:00:00:11", "was reset");
    rig.rule(0, 2, "any");
    rig.model.receive(&udp(1, 1, 100));
    assert_eq!(rig.drain(0).len(), 1);
    rig.nic.remove_flow(1..=1, 1).unwrap();
    rig.model.receive(&udp(1, 1, 100));
    assert_eq!(rig.drain(0).len(), 1);
    rig.end();
}
