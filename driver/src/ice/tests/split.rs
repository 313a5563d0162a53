//! Where headers and payload go.

use super::rig::{Rig, Setup, arp, udp};
use crate::ice::model::Fault;
use crate::ice::{IceOptions, PackageSource};
use crate::{DriverError, Flows, Nic, RxFlags, RxQueue, Unsplit};

fn without_package() -> IceOptions {
    IceOptions {
        package: PackageSource::None,
        ..IceOptions::default()
    }
}

#[test]
pub(super) fn frames_without_ip_are_split_behind_ethernet() {
    let mut rig = Rig::new(Setup::default());
    rig.rule(0, 3, "arp");
    rig.receive(&arp());
    rig.receive(&udp(1, 5000, 100));
    let packets = rig.drain(0);
    assert_eq!(packets.len(), 1);
    assert_eq!((packets[0].frame(), packets[0].header.len()), (arp(), 14));
    assert_eq!(rig.queues[0].queue.counters().unwanted, 1);
    rig.end();
}

#[test]
pub(super) fn jumbo_frames_spread_over_chunks() {
    let mut rig = Rig::new(Setup::default());
    rig.any(0);
    for len in [2090, 2091, 4138, 8942, 9720] {
        let frame = udp(7, 8, len);
        rig.receive(&frame);
        let packets = rig.drain(0);
        assert_eq!(packets.len(), 1, "{len}");
        assert_eq!(packets[0].frame(), frame);
        assert_eq!(packets[0].header.len(), 42);
        assert_eq!(packets[0].chunks.len(), (len - 42).div_ceil(2048));
    }
    rig.end();
}

#[test]
pub(super) fn a_chain_over_more_chunks_than_the_device_has_is_not_put_there() {
    let mut rig = Rig::new(Setup {
        chunk: 1024,
        ..Setup::default()
    });
    rig.any(0);
    rig.receive(&udp(1, 2, 5000));
    assert_eq!(rig.drain(0).len(), 1);
    assert!(!rig.model.card().receive(&udp(1, 2, 6000)));
    assert!(rig.drain(0).is_empty());
    let counters = rig.queues[0].queue.counters();
    assert_eq!((counters.errors, counters.no_descriptor), (1, 0));
    assert_eq!(rig.nic.queue_packets(0), 2);
    rig.end();
}

#[test]
pub(super) fn tags_are_taken_out_when_asked_for() {
    let mut frame = udp(1, 2, 100);
    frame.splice(12..12, [0x81, 0, 0x20, 100]);
    let mut rig = Rig::new(Setup::default());
    rig.any(0);
    rig.receive(&frame);
    let packets = rig.drain(0);
    assert!(!packets[0].flags.contains(RxFlags::VLAN));
    assert_eq!(
        (packets[0].frame(), packets[0].header.len()),
        (frame.clone(), 46)
    );
    rig.end();
    let mut setup = Setup::default();
    setup.options.vlan_strip = true;
    let mut rig = Rig::new(setup);
    rig.any(0);
    rig.receive(&frame);
    let packets = rig.drain(0);
    assert!(packets[0].flags.contains(RxFlags::VLAN));
    assert_eq!(
        (packets[0].frame(), packets[0].vlan),
        (udp(1, 2, 100), 0x2064)
    );
    let error = rig.nic.add_flow(0..=0, 9, &"vlan=100".parse().unwrap());
    assert!(error.unwrap_err().to_string().contains("VLAN stripping"));
    rig.end();
}

#[test]
pub(super) fn a_header_longer_than_its_slot_is_dropped_and_counted() {
    let mut rig = Rig::new(Setup {
        slot: 64,
        ..Setup::default()
    });
    rig.any(0);
    let mut tcp = Vec::new();
    etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [0x52, 0x54, 0, 0, 0, 0x10])
        .ipv6([1; 16], [2; 16], 64)
        .tcp(1, 2, 3, 4)
        .write(&mut tcp, &[7; 100])
        .unwrap();
    rig.receive(&tcp);
    rig.receive(&udp(1, 2, 100));
    let packets = rig.drain(0);
    assert_eq!(packets.len(), 1);
    let counters = rig.queues[0].queue.counters();
    assert_eq!((counters.unsplit_drops, counters.received), (1, 1));
    rig.end();
}

#[test]
pub(super) fn an_overflow_is_dropped_whatever_the_policy() {
    let mut rig = Rig::new(Setup::default());
    rig.any(0);
    rig.model.set_fault(Fault::Hbo);
    for len in [100, 3000] {
        rig.receive(&udp(1, 2, len));
    }
    assert!(rig.drain(0).is_empty());
    rig.model.set_fault(Fault::None);
    rig.receive(&udp(1, 2, 100));
    assert_eq!(rig.drain(0).len(), 1);
    let counters = rig.queues[0].queue.counters();
    assert_eq!((counters.unsplit_drops, counters.received), (2, 1));
    assert_eq!(rig.nic.queue_packets(0), 3);
    rig.end();
}

#[test]
pub(super) fn the_policy_decides_about_what_is_not_split() {
    for unsplit in [Unsplit::Deliver, Unsplit::Drop] {
        let mut rig = Rig::new(Setup {
            unsplit,
            ..Setup::default()
        });
        rig.rule(0, 5, "udp,dst-port=2");
        rig.model.set_fault(Fault::NoSph);
        rig.receive(&udp(1, 2, 100));
        rig.receive(&udp(1, 2, 3000));
        let packets = rig.drain(0);
        let counters = rig.queues[0].queue.counters();
        match unsplit {
            Unsplit::Deliver => {
                // The memory is the CPU's to read, so the rule is looked up there.
                assert_eq!(
                    (packets[0].payload.clone(), packets[0].flow),
                    (udp(1, 2, 100), 5)
                );
                assert_eq!((packets[1].frame(), counters.unsplit), (udp(1, 2, 3000), 2));
            }
            _ => assert!(packets.is_empty() && counters.unsplit_drops == 2),
        }
        rig.end();
    }
}

#[test]
pub(super) fn what_cannot_be_is_refused() {
    let open = |setup: Setup| {
        let mut rig = Rig::new(Setup {
            queues: 0,
            ..setup.clone()
        });
        let (_region, configs) = setup.configs();
        let error = rig.nic.open_queue(0, configs[0].clone()).unwrap_err();
        rig.end();
        error.to_string()
    };
    let error = open(Setup {
        unsplit: Unsplit::Header,
        ..Setup::default()
    });
    assert!(error.contains("`deliver` or `drop`"), "{error}");
    let error = open(Setup {
        unsplit: Unsplit::Drop,
        options: without_package(),
        ..Setup::default()
    });
    assert!(error.contains("firmware-intel-misc"), "{error}");
    // It cuts where its hardware cuts.
    let mut rig = Rig::new(Setup {
        queues: 0,
        ..Setup::default()
    });
    let (_region, mut configs) = Setup::default().configs();
    configs[0].split_extra = 8;
    let error = rig.nic.open_queue(0, configs.remove(0)).unwrap_err();
    rig.end();
    let error = error.to_string();
    assert!(
        error.contains("splits exactly behind the header"),
        "{error}"
    );
    for (setup, why) in [
        (
            Setup {
                ring: 32,
                ..Setup::default()
            },
            "power of two from 64",
        ),
        (
            Setup {
                slot: 2048,
                ..Setup::default()
            },
            "64 to 1984",
        ),
        (
            Setup {
                chunk: 512,
                ..Setup::default()
            },
            "1024",
        ),
        (
            Setup {
                chunks: 8,
                ..Setup::default()
            },
            "8 at a time",
        ),
    ] {
        let error = open(setup);
        assert!(error.contains(why), "{error}");
    }
}

#[test]
pub(super) fn memory_that_is_not_the_cpus_needs_a_package() {
    let mut rig = Rig::safe();
    assert!(rig.nic.needs().cpu_reads_payload);
    assert_eq!(rig.nic.package(), None);
    let warnings = rig.nic.warnings().join(" ");
    assert!(warnings.contains("safe mode"), "{warnings}");
    rig.any(0);
    // Several queues would need the hash.
    rig.end();
    let rig = Rig::new(Setup::default());
    assert!(!rig.nic.needs().cpu_reads_payload);
    let package = rig.nic.package().unwrap();
    assert!(
        package.starts_with("ICE OS Default Package 1.3."),
        "{package}"
    );
    rig.end();
}

#[test]
pub(super) fn a_package_that_was_asked_for_is_not_done_without() {
    let model = crate::ice::model::IceModel::new(crate::ice::model::Personality {
        ddp: false,
        ..Setup::default().personality
    });
    let options = Setup::default().options;
    let error = crate::ice::IceNic::open(model.clone(), options).unwrap_err();
    assert!(matches!(error, DriverError::Firmware { .. }), "{error}");
    assert!(error.to_string().contains("download package"), "{error}");
    assert_eq!(model.mapped(), 0);
}
