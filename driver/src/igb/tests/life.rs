//! Running out, sleeping, stopping, and what happens when the NIC does not play along.

use std::time::{Duration, Instant};

use super::rig::{Rig, Setup, readable, udp};
use crate::igb::model::Fault;
use crate::{Flows, Interrupts, Nic, Owned, RxBatch, RxQueue, Statistics, Transmit};

#[test]
fn an_empty_pool_drops_and_every_drop_is_counted() {
    let mut rig = Rig::new(Setup {
        queues: 2,
        chunks: 32,
        ..Setup::default()
    });
    rig.any(0);
    for port in 0..50 {
        rig.model.receive(&udp(port, 1, 100));
    }
    assert_eq!(rig.poll(0).len(), 32);
    let counters = rig.queues[0].queue.counters();
    assert_eq!((counters.received, counters.no_descriptor), (32, 18));
    assert!(
        !counters.exact,
        "the overrun interrupt says there may be more"
    );
    assert_eq!(rig.nic.queue_packets(0), 50);
    for chunk in 0..32 {
        rig.queues[0].recycle(chunk);
    }
    assert_eq!(rig.queues[0].refill(), 32);
    rig.model.receive(&udp(1, 1, 100));
    assert_eq!(rig.drain(0).len(), 1);
    rig.end();
}

#[test]
fn one_queue_alone_holds_packets_back() {
    let mut rig = Rig::new(Setup {
        chunks: 32,
        ..Setup::default()
    });
    rig.any(0);
    for port in 0..50 {
        rig.model.receive(&udp(port, 1, 100));
    }
    assert_eq!(rig.drain(0).len(), 50);
    let counters = rig.queues[0].queue.counters();
    assert!(counters.exact && counters.no_descriptor == 0);
    // More than the FIFO holds is missed, for the port.
    for port in 0..2000 {
        rig.model.receive(&udp(port, 1, 1000));
    }
    let got = rig.drain(0).len() as u64;
    let statistics = rig.nic.statistics().unwrap();
    assert_eq!(got + statistics.drops["missed"], 2000);
    assert!(!statistics.exact && !rig.queues[0].queue.counters().exact);
    rig.end();
}

#[test]
fn a_sleeping_queue_is_woken_and_an_awake_one_is_not() {
    let mut rig = Rig::new(Setup::default());
    rig.any(0);
    rig.nic.set_moderation(0, 100).unwrap();
    assert!(rig.nic.set_moderation(0, 8192).is_err());
    rig.model.receive(&udp(1, 1, 100));
    assert!(!rig.queues[0].queue.arm(), "there is work");
    assert_eq!(rig.drain(0).len(), 1);
    assert!(rig.queues[0].queue.arm());
    assert!(!readable(rig.queues[0].queue.wait_fd(), 20));
    rig.model.receive(&udp(1, 1, 100));
    assert!(readable(rig.queues[0].queue.wait_fd(), 1000));
    assert_eq!(rig.drain(0).len(), 1);
    // What came before the sleep, and was polled, wakes nobody.
    rig.model.receive(&udp(1, 1, 100));
    assert_eq!(rig.drain(0).len(), 1);
    assert!(rig.queues[0].queue.arm());
    assert!(!readable(rig.queues[0].queue.wait_fd(), 20));
    assert_eq!(rig.drain(0).len(), 0);
    // The first poll after a sleep masks: what comes now wakes nobody, until the next sleep.
    rig.model.receive(&udp(1, 1, 100));
    assert!(!readable(rig.queues[0].queue.wait_fd(), 20));
    assert!(!rig.queues[0].queue.arm());
    assert_eq!(rig.drain(0).len(), 1);
    rig.end();
}

#[test]
fn what_had_arrived_is_there_after_the_stop() {
    let mut rig = Rig::new(Setup::default());
    rig.any(0);
    for port in 0..5 {
        rig.model.receive(&udp(port, 1, 100));
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
fn a_queue_that_does_not_stop_costs_a_reset_and_ends_the_others() {
    let mut rig = Rig::new(Setup {
        queues: 2,
        ..Setup::default()
    });
    rig.any(0);
    rig.model.set_fault(Fault {
        will_not_stop: true,
        ..Fault::default()
    });
    assert!(rig.queues[1].queue.arm());
    let first = rig.queues.remove(0);
    let config = first.config.clone();
    rig.nic.close_queue(0).unwrap();
    first.end();
    config.provider.uninstall();
    assert_eq!(rig.model.resets(), 1);
    assert!(readable(rig.queues[0].queue.wait_fd(), 1000));
    let fault = rig.queues[0].queue.fault().unwrap();
    assert!(fault.contains("was reset"), "{fault}");
    rig.model.set_fault(Fault::default());
    // The next queue that is opened finds a NIC that works.
    rig.queues
        .insert(0, super::rig::Queue::open(&mut rig.nic, 0, config));
    assert_eq!(rig.queues[0].queue.fault(), None);
    rig.any(0);
    rig.model.receive(&udp(1, 1, 100));
    assert_eq!(rig.drain(0).len(), 1);
    rig.end();
}

#[test]
fn memory_is_kept_when_nothing_can_be_proven() {
    let mut rig = Rig::new(Setup::default());
    rig.any(0);
    rig.nic.close_queue(0).unwrap();
    rig.model.set_fault(Fault {
        will_not_stop: true,
        reset_fails: true,
        ..Fault::default()
    });
    let mapped = rig.model.mapped();
    let mut queue = rig.queues.remove(0);
    assert!(queue.queue.stop().is_err());
    drop(queue);
    assert_eq!(rig.model.mapped(), mapped, "it stays the device's");
}

#[test]
fn trouble_and_a_nic_that_is_gone_end_the_queues() {
    for gone in [true, false] {
        let mut rig = Rig::new(Setup::default());
        rig.any(0);
        assert!(rig.queues[0].queue.arm());
        if gone {
            rig.model.set_fault(Fault {
                gone,
                ..Fault::default()
            });
        } else {
            rig.model.make_trouble();
        }
        let by = Instant::now() + Duration::from_secs(5);
        while rig.queues[0].queue.fault().is_none() && Instant::now() < by {
            std::thread::sleep(Duration::from_millis(5));
        }
        let fault = rig.queues[0].queue.fault().unwrap();
        assert_eq!(fault.contains("does not answer"), gone, "{fault}");
        assert!(readable(rig.queues[0].queue.wait_fd(), 1000));
        rig.model.set_fault(Fault::default());
        rig.end();
    }
}

#[test]
fn what_is_sent_comes_back_in_loopback() {
    let mut rig = Rig::new(Setup::default());
    rig.any(0);
    let mut transmitter = rig.nic.transmitter().unwrap();
    let frame = udp(9, 9, 1400);
    transmitter.send(&frame).unwrap();
    assert!(transmitter.flush());
    assert_eq!(rig.model.sent(), [frame]);
    rig.nic.set_loopback(true).unwrap();
    for port in 0..100 {
        let frame = udp(port, 9, 60 + usize::from(port) * 90);
        transmitter.send(&frame).unwrap();
        let packets = rig.drain(0);
        assert_eq!((packets.len(), packets[0].frame()), (1, frame));
    }
    assert!(transmitter.send(&[0; 13]).is_err() && transmitter.send(&[0; 9725]).is_err());
    assert_eq!(rig.model.sent(), [[0_u8; 0]; 0]);
    drop(transmitter);
    assert_eq!(rig.model.dma_faults(), 0);
    rig.end();
}
