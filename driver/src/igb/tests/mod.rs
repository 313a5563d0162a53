//! The driver end to end on the register model.

mod faults;
mod life;
mod losses;
mod outside;
#[cfg(target_arch = "x86_64")]
mod quads;
mod rig;
mod semaphore;
mod split;
mod stamps;
mod steering;

use rig::{Rig, Setup, udp};

use crate::{DriverError, Flows, Link, LinkState, NO_FLOW, Nic, RxFlags, RxQueue, Statistics};

#[test]
fn packets_arrive_whole_and_in_order() {
    let mut rig = Rig::new(Setup::default());
    rig.any(0);
    for round in 0..5_u16 {
        let frames: Vec<_> = (0..40)
            .map(|at| udp(1000 + at, 5000, 60 + usize::from(round) * 100))
            .collect();
        for frame in &frames {
            rig.model.receive(frame);
        }
        let packets = rig.drain(0);
        assert_eq!(packets.len(), frames.len());
        for (packet, frame) in packets.iter().zip(&frames) {
            assert_eq!(packet.frame(), *frame);
            assert!(packet.flags.contains(RxFlags::SPLIT | RxFlags::CSUM_GOOD));
            assert_eq!((packet.header.len(), packet.flow), (42, 7));
        }
    }
    let counters = rig.queues[0].queue.counters();
    assert_eq!((counters.received, counters.exact), (200, true));
    assert_eq!(rig.nic.queue_packets(0), 200);
    assert_eq!(rig.model.dma_faults(), 0);
    let statistics = rig.nic.statistics().unwrap();
    assert_eq!((statistics.packets, statistics.exact), (200, true));
    rig.end();
}

#[test]
fn link_is_up_and_a_gigabit() {
    let rig = Rig::new(Setup::default());
    let link = rig.nic.link().unwrap();
    assert_eq!(
        link,
        LinkState {
            up: true,
            speed: Some(1000),
            mtu: 9710
        }
    );
    rig.end();
}

#[test]
fn nothing_comes_before_a_rule_or_after_the_end() {
    let mut rig = Rig::new(Setup::default());
    rig.model.receive(&udp(1, 2, 100));
    assert!(rig.drain(0).is_empty());
    rig.any(0);
    rig.model.receive(&udp(1, 2, 100));
    assert_eq!(rig.drain(0).len(), 1);
    rig.nic.close_queue(0).unwrap();
    rig.model.receive(&udp(1, 2, 100));
    assert!(rig.drain(0).is_empty());
    assert!(matches!(
        rig.nic.add_flow(0..=0, 9, &"any".parse().unwrap()),
        Err(DriverError::QueueClosed { .. })
    ));
    assert_ne!(NO_FLOW, 7);
    rig.end();
}
