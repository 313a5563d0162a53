//! Where headers and payload go.

use super::rig::{Rig, Setup, arp, udp};
use crate::igb::IgbOptions;
use crate::{Flows, RxFlags, RxQueue, Unsplit};

#[test]
fn what_cannot_be_split_goes_to_the_payload_and_only_to_any() {
    let mut rig = Rig::new(Setup::default());
    rig.rule(0, 3, "udp,dst-port=5000");
    rig.model.receive(&arp());
    rig.model.receive(&udp(1, 5000, 100));
    rig.model.receive(&udp(1, 5001, 100));
    let packets = rig.drain(0);
    assert_eq!(packets.len(), 1);
    assert_eq!(packets[0].flow, 3);
    let counters = rig.queues[0].queue.counters();
    assert_eq!((counters.unsplit_drops, counters.unwanted), (1, 1));
    rig.rule(0, 4, "any");
    rig.model.receive(&arp());
    let packets = rig.drain(0);
    assert_eq!((packets[0].frame(), packets[0].flow), (arp(), 4));
    assert!(packets[0].header.is_empty());
    rig.end();
}

#[test]
fn the_policy_decides_about_what_cannot_be_split() {
    for unsplit in [Unsplit::Deliver, Unsplit::Drop, Unsplit::Header] {
        let mut rig = Rig::new(Setup {
            unsplit,
            ..Setup::default()
        });
        rig.any(0);
        rig.model.receive(&arp());
        let packets = rig.drain(0);
        let counters = rig.queues[0].queue.counters();
        match unsplit {
            Unsplit::Deliver => assert_eq!(packets[0].payload, arp()),
            Unsplit::Drop => assert!(packets.is_empty() && counters.unsplit_drops == 1),
            Unsplit::Header => assert_eq!(packets[0].header, arp()),
        }
        assert!(rig.queues[0].queue.counters().exact);
        rig.end();
    }
}

#[test]
fn a_rule_for_what_cannot_be_split_is_told_what_will_not_arrive() {
    for unsplit in [Unsplit::Deliver, Unsplit::Drop, Unsplit::Header] {
        let mut rig = Rig::new(Setup {
            unsplit,
            ..Setup::default()
        });
        for (id, (rule, kinds)) in [
            ("arp", "none"),
            ("ether-type=0x88f7", "none"),
            ("dst-mac=52:54:00:00:00:10", "only"),
            ("vlan=5", "only"),
            ("udp", ""),
            ("ip", ""),
            ("any", ""),
        ]
        .into_iter()
        .enumerate()
        {
            let rule = rule.parse().unwrap();
            let notes = rig.nic.add_flow(0..=0, id as u16, &rule).unwrap();
            let told = notes.iter().any(|note| {
                note.contains("--unsplit header") && !kinds.is_empty() && note.contains(kinds)
            });
            let expected = !kinds.is_empty() && unsplit != Unsplit::Header;
            assert_eq!(told, expected, "{rule} {unsplit:?}: {notes:?}");
            assert_eq!(notes.is_empty(), !expected, "{rule} {unsplit:?}: {notes:?}");
        }
        rig.end();
    }
}

#[test]
fn jumbo_frames_spread_over_chunks() {
    let mut rig = Rig::new(Setup::default());
    rig.any(0);
    for len in [2090, 2091, 4138, 8942, 9724] {
        let frame = udp(7, 8, len);
        rig.model.receive(&frame);
        let packets = rig.drain(0);
        assert_eq!(packets.len(), 1);
        assert_eq!(packets[0].frame(), frame);
        assert_eq!(packets[0].chunks.len(), (len - 42).div_ceil(2048));
    }
    rig.end();
}

#[test]
fn tags_are_taken_out_when_asked_for() {
    let mut frame = udp(1, 2, 100);
    frame.splice(12..12, [0x81, 0, 0x20, 100]);
    let mut rig = Rig::new(Setup::default());
    rig.any(0);
    rig.model.receive(&frame);
    let packets = rig.drain(0);
    assert!(!packets[0].flags.contains(RxFlags::VLAN));
    assert_eq!(
        (packets[0].frame(), packets[0].header.len()),
        (frame.clone(), 46)
    );
    rig.end();
    let options = IgbOptions {
        vlan_strip: true,
        ..IgbOptions::default()
    };
    let mut rig = Rig::new(Setup {
        options,
        ..Setup::default()
    });
    rig.any(0);
    rig.model.receive(&frame);
    let packets = rig.drain(0);
    assert!(packets[0].flags.contains(RxFlags::VLAN));
    assert_eq!((packets[0].vlan, packets[0].hash), (0x2064, 0));
    assert_eq!(packets[0].frame(), udp(1, 2, 100));
    // What goes to several pools has a register of its own for it.
    frame[..6].copy_from_slice(&[0xff; 6]);
    rig.model.receive(&frame);
    let packets = rig.drain(0);
    assert!(packets[0].flags.contains(RxFlags::VLAN));
    assert_eq!(packets[0].vlan, 0x2064);
    rig.end();
}
