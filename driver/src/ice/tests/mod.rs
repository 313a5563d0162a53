//! The driver end to end on the model.

mod answers;
mod clock;
mod faults;
mod hostile;
mod intel;
mod life;
#[cfg(target_arch = "x86_64")]
mod quads;
mod resets;
mod rig;
mod split;
mod steering;
mod transmit;

use rig::{Rig, Setup, udp};

use crate::{RxFlags, RxQueue};

#[test]
fn packets_arrive_whole_and_in_order() {
    let mut rig = Rig::new(Setup::default());
    rig.any(0);
    for round in 0..5_u16 {
        let frames: Vec<_> = (0..40)
            .map(|at| udp(1000 + at, 5000, 60 + usize::from(round) * 100))
            .collect();
        for frame in &frames {
            assert!(rig.model.card().receive(frame));
        }
        let packets = rig.drain(0);
        assert_eq!(packets.len(), frames.len());
        for (packet, frame) in packets.iter().zip(&frames) {
            assert_eq!(packet.frame(), *frame);
            assert!(
                packet.flags.contains(RxFlags::SPLIT | RxFlags::CSUM_GOOD),
                "{packet:?}"
            );
            assert_eq!((packet.header.len(), packet.flow), (42, 7));
        }
    }
    rig.end();
}

#[test]
fn without_a_package_packets_come_whole_by_address() {
    let mut rig = Rig::safe();
    rig.any(0);
    assert!(rig.model.card().receive(&udp(1, 2, 100)));
    let packets = rig.drain(0);
    assert_eq!(packets.len(), 1);
    assert_eq!(packets[0].frame(), udp(1, 2, 100));
    assert!(!packets[0].flags.contains(RxFlags::SPLIT));
    assert_eq!(rig.queues[0].queue.counters().unsplit, 1);
    rig.end();
}
