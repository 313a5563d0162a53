//! Running out, sleeping, stopping, counting.

use super::faults::{all_again, fault_of};
use super::rig::{Rig, Setup, readable, udp};
use crate::ice::model::Fault;
use crate::ice::regs::GLINT_ITR;
use crate::{Flows, Interrupts, Link, LinkState, Nic, Owned, RxBatch, RxQueue, Statistics};

#[test]
pub(super) fn link_is_up_and_a_hundred_gigabits() {
    let rig = Rig::new(Setup::default());
    let up = LinkState {
        up: true,
        speed: Some(100_000),
        mtu: 9710,
    };
    assert_eq!(rig.nic.link().unwrap(), up);
    rig.model.card().set_link(false);
    // The monitor hears of it.
    let changed = |up| {
        (0..200).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            rig.nic.link().unwrap().up == up
        })
    };
    assert!(changed(false));
    rig.model.card().set_link(true);
    assert!(changed(true));
    assert_eq!(rig.nic.link().unwrap(), up);
    rig.end();
}

#[test]
pub(super) fn reports_of_health_are_told() {
    let mut setup = Setup::default();
    setup.personality.api = (1, 7, 6);
    let rig = Rig::new(setup);
    rig.model.card().report_health(0x106, 2);
    let told = (0..200).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(10));
        rig.nic
            .warnings()
            .iter()
            .any(|warning| warning.contains("no module in the cage"))
    });
    assert!(told, "{:?}", rig.nic.warnings());
    rig.end();
}

#[test]
pub(super) fn nothing_comes_before_a_rule_or_after_the_end() {
    let mut rig = Rig::new(Setup::default());
    assert!(!rig.model.card().receive(&udp(1, 2, 100)));
    rig.any(0);
    rig.receive(&udp(1, 2, 100));
    assert_eq!(rig.drain(0).len(), 1);
    rig.nic.close_queue(0).unwrap();
    assert!(!rig.model.card().receive(&udp(1, 2, 100)));
    assert!(rig.drain(0).is_empty());
    assert!(rig.nic.add_flow(0..=0, 9, &"any".parse().unwrap()).is_err());
    rig.end();
}

#[test]
pub(super) fn an_empty_pool_drops_and_every_drop_is_counted() {
    let mut rig = Rig::new(Setup {
        queues: 2,
        chunks: 32,
        ..Setup::default()
    });
    rig.any(0);
    for port in 0..50 {
        rig.model.card().receive(&udp(port, 1, 100));
    }
    assert_eq!(rig.poll(0).len(), 32);
    let counters = rig.queues[0].queue.counters();
    assert_eq!((counters.received, counters.no_descriptor), (32, 18));
    assert!(counters.exact, "the VSI has this queue alone");
    assert_eq!(rig.nic.queue_packets(0), 50);
    for chunk in 0..32 {
        rig.queues[0].recycle(chunk);
    }
    assert_eq!(rig.queues[0].refill(), 32);
    rig.receive(&udp(1, 1, 100));
    assert_eq!(rig.drain(0).len(), 1);
    // What was discarded stays known when its VSI is gone, and is not the next one's.
    rig.nic.close_queue(0).unwrap();
    assert_eq!(rig.queues[0].queue.counters().no_descriptor, 18);
    let queue = rig.queues.remove(0);
    let config = queue.config.clone();
    queue.end();
    config.provider.uninstall();
    rig.queues
        .insert(0, super::rig::Queue::open(&mut rig.nic, 0, config));
    rig.any(0);
    assert_eq!(rig.queues[0].queue.counters().no_descriptor, 0);
    assert_eq!(rig.nic.queue_packets(0), 51);
    assert_eq!(rig.nic.statistics().unwrap().drops["discarded"], 18);
    rig.end();
}

#[test]
pub(super) fn what_several_queues_lost_is_nobodys_and_not_exact() {
    let mut rig = Rig::new(Setup {
        queues: 2,
        chunks: 32,
        ..Setup::default()
    });
    rig.nic.add_flow(0..=1, 3, &"any".parse().unwrap()).unwrap();
    for port in 0..200 {
        rig.model.card().receive(&udp(port, 1, 100));
    }
    let arrived = rig.poll(0).len() + rig.poll(1).len();
    let lost = rig.nic.port_losses();
    assert_eq!(arrived as u64 + lost.drops["no_descriptor"], 200);
    for queue in &rig.queues {
        let counters = queue.queue.counters();
        assert_eq!((counters.no_descriptor, counters.exact), (0, false));
    }
    for queue in 0..2 {
        let first = queue as u32 * 32;
        for chunk in first..first + 32 {
            rig.queues[queue].recycle(chunk);
        }
    }
    rig.end();
}

#[test]
pub(super) fn the_port_counts_packets_and_bytes() {
    let mut rig = Rig::new(Setup::default());
    rig.any(0);
    for port in 0..10 {
        rig.receive(&udp(port, 1, 100));
    }
    assert_eq!(rig.drain(0).len(), 10);
    let statistics = rig.nic.statistics().unwrap();
    assert_eq!((statistics.packets, statistics.exact), (10, true));
    assert!(
        (1000..=1040).contains(&statistics.bytes),
        "with or without FCS"
    );
    rig.end();
}

#[test]
pub(super) fn a_sleeping_queue_is_woken_and_an_awake_one_is_not() {
    let mut rig = Rig::new(Setup::default());
    rig.any(0);
    rig.nic.set_moderation(0, 100).unwrap();
    assert!(rig.nic.set_moderation(0, 8192).is_err());
    assert!(rig.nic.set_moderation(99, 1).is_err());
    rig.receive(&udp(1, 1, 100));
    assert!(!rig.queues[0].queue.arm(), "there is work");
    assert_eq!(rig.drain(0).len(), 1);
    assert!(rig.queues[0].queue.arm());
    assert!(!readable(rig.queues[0].queue.wait_fd(), 20));
    rig.receive(&udp(1, 1, 100));
    assert!(readable(rig.queues[0].queue.wait_fd(), 1000));
    assert_eq!(rig.drain(0).len(), 1);
    // The first poll after a sleep masks: what comes now wakes nobody, until the next sleep.
    rig.receive(&udp(1, 1, 100));
    assert!(!rig.queues[0].queue.arm());
    assert_eq!(rig.drain(0).len(), 1);
    rig.nic.raise_interrupt(0);
    assert!(rig.queues[0].queue.arm());
    rig.nic.raise_interrupt(0);
    assert!(readable(rig.queues[0].queue.wait_fd(), 1000));
    rig.end();
}

#[test]
pub(super) fn a_lost_interrupt_and_a_late_descriptor_lose_no_packet() {
    for fault in [Fault::LostInterrupt, Fault::LateDescriptor] {
        let mut rig = Rig::new(Setup::default());
        rig.any(0);
        rig.model.set_fault(fault);
        let mut got = 0;
        for port in 0..20 {
            rig.receive(&udp(port, 1, 100));
            got += rig.drain(0).len();
        }
        rig.model.set_fault(Fault::None);
        rig.receive(&udp(99, 1, 100));
        got += rig.drain(0).len();
        assert_eq!(got, 21, "{fault}");
        rig.end();
    }
}

#[test]
pub(super) fn what_had_arrived_is_there_after_the_stop() {
    let mut rig = Rig::new(Setup::default());
    rig.any(0);
    for port in 0..5 {
        rig.receive(&udp(port, 1, 100));
    }
    rig.nic.close_queue(0).unwrap();
    let queue = &mut rig.queues[0];
    queue.queue.stop().unwrap();
    queue.queue.stop().unwrap();
    assert!(readable(queue.queue.wait_fd(), 0));
    let mut batch = RxBatch::new();
    assert_eq!(queue.queue.poll(&mut batch), 5);
    for entry in batch {
        queue.recycle(entry.chunk.0);
    }
    assert_eq!(queue.refill(), 0, "nothing is posted after the stop");
    rig.end();
}

#[test]
pub(super) fn queues_come_and_go_many_times() {
    let mut rig = Rig::new(Setup::default());
    for round in 0..30 {
        rig.any(0);
        for port in 0..7 {
            rig.receive(&udp(port, round, 100 + usize::from(port) * 700));
        }
        assert_eq!(rig.drain(0).len(), 7);
        rig.nic.close_queue(0).unwrap();
        let queue = rig.queues.remove(0);
        let config = queue.config.clone();
        queue.end();
        config.provider.uninstall();
        rig.queues
            .push(super::rig::Queue::open(&mut rig.nic, 0, config));
    }
    assert_eq!(rig.nic.queue_packets(0), 210);
    assert!(
        rig.model.card().refusals().is_empty(),
        "{:?}",
        rig.model.card().refusals()
    );
    rig.end();
}

/// How long interrupts are held back outlives a reset, here of the whole card (GLGEN_RTRIG, bit 0).
#[test]
fn moderation_is_set_again_after_a_reset() {
    let mut rig = Rig::new(Setup::default());
    let register = GLINT_ITR.at(0);
    let before = rig.model.card().read32(register);
    rig.nic.set_moderation(0, 200).unwrap();
    let value = rig.model.card().read32(register);
    assert_ne!(value, before);
    rig.model.card().write32(0x000b_8190, 1);
    let fault = fault_of(&rig, 0);
    assert!(fault.contains("whole card"), "{fault}");
    all_again(&mut rig);
    assert_eq!(rig.model.card().read32(register), value);
    rig.end();
}
