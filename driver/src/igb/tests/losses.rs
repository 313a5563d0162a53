//! What is lost is counted, once, and where it was lost.

use devrx_pool::{Pool, PoolConfig};
use devrx_provider::{ChunkIndex, RegionProvider, RegionSpec, memfd};

use super::rig::{Rig, Setup, udp};
use crate::igb::model::Fault;
use crate::igb::regs::{ICR, RxQueueRegs, icr, statistics};
use crate::{Flows, Nic, PortLosses, RxQueue, Statistics};

#[test]
fn what_the_port_lost_is_told() {
    let mut rig = Rig::new(Setup::default());
    let none = PortLosses {
        exact: true,
        ..PortLosses::default()
    };
    assert_eq!(rig.nic.port_losses(), none);
    rig.any(0);
    for port in 0..2000 {
        rig.model.receive(&udp(port, 1, 1000));
    }
    let got = rig.drain(0).len() as u64;
    rig.model.poke(statistics::CRCERRS, 3);
    let losses = rig.nic.port_losses();
    assert_eq!(got + losses.drops["missed"], 2000);
    assert_eq!(losses.drops["error"], 3);
    assert!(!losses.exact);
    rig.end();
    // With no queue open as well.
    let rig = Rig::new(Setup {
        queues: 0,
        ..Setup::default()
    });
    rig.model.poke(ICR, icr::RXO);
    assert!(!rig.nic.port_losses().exact);
}

/// Some registers count what others have counted. A frame too long is in ROC, or in CRCERRS and RJC, and either way in RLEC; one too short and bad in RFC and RLEC.
#[test]
fn what_the_port_lost_is_counted_once() {
    let rig = Rig::new(Setup {
        queues: 0,
        ..Setup::default()
    });
    for (register, count) in [
        (statistics::ROC, 1),
        (statistics::CRCERRS, 10 + 100),
        (statistics::RJC, 100),
        (statistics::RFC, 1000),
        (statistics::RLEC, 1 + 100 + 1000),
        (statistics::RXERRC, 5),
    ] {
        rig.model.poke(register, count);
    }
    let losses = rig.nic.port_losses();
    let drops = [("error", 10 + 100 + 1000), ("oversize", 1)];
    assert_eq!(losses.drops, drops.into());
    // As the registers have it.
    let all = rig.nic.statistics().unwrap().drops;
    assert_eq!((all["jabber"], all["length_error"]), (100, 1101));
}

/// A function reset throws away what the NIC held and had not counted yet: whatever it cut off, and the port, say so. What had ended before stays exact.
#[test]
fn what_a_reset_cuts_off_is_not_exact() {
    let mut rig = Rig::new(Setup {
        queues: 3,
        ..Setup::default()
    });
    rig.any(0);
    rig.model.receive(&udp(1, 1, 100));
    assert_eq!(rig.drain(0).len(), 1);
    rig.model.poke(statistics::CRCERRS, 3);
    let stop = |rig: &mut Rig, queue: usize| {
        rig.nic.close_queue(queue as u32).unwrap();
        rig.queues[queue].queue.stop().unwrap();
    };
    let exact = |rig: &Rig| [0, 1, 2].map(|queue: usize| rig.queues[queue].queue.counters().exact);
    stop(&mut rig, 0);
    assert_eq!(exact(&rig), [true, true, true]);
    assert!(rig.nic.port_losses().exact);
    rig.model.set_fault(Fault {
        will_not_stop: true,
        ..Fault::default()
    });
    stop(&mut rig, 1);
    assert_eq!(rig.model.resets(), 1);
    assert_eq!(exact(&rig), [true, false, false]);
    // The same once its own thread has let it go.
    stop(&mut rig, 2);
    assert_eq!(rig.model.resets(), 1);
    assert_eq!(exact(&rig), [true, false, false]);
    let losses = rig.nic.port_losses();
    assert!(!losses.exact && !rig.nic.statistics().unwrap().exact);
    assert_eq!(losses.drops["error"], 3, "counted before the reset");
    rig.end();
}

#[test]
fn a_drop_counter_that_starts_over_is_followed() {
    // Reading does not clear it on an I210.
    let mut rig = Rig::new(Setup {
        device: 0x1533,
        queues: 2,
        chunks: 32,
        ..Setup::default()
    });
    rig.any(0);
    let flood = |rig: &Rig| {
        for port in 0..50 {
            rig.model.receive(&udp(port, 1, 100));
        }
    };
    flood(&rig);
    assert_eq!(rig.queues[0].queue.counters().no_descriptor, 18);
    // Somebody reset the port.
    rig.model.poke(RxQueueRegs::of(0).rqdpc(), 2);
    assert_eq!(rig.queues[0].queue.counters().no_descriptor, 20);
    rig.end();
}

#[test]
fn drops_of_before_are_not_a_new_queues() {
    let mut rig = Rig::new(Setup::default());
    rig.nic.close_queue(0).unwrap();
    let queue = rig.queues.remove(0);
    let config = queue.config.clone();
    queue.end();
    config.provider.uninstall();
    rig.model.poke(RxQueueRegs::of(0).rqdpc(), 5);
    rig.queues
        .push(super::rig::Queue::open(&mut rig.nic, 0, config));
    assert_eq!(rig.nic.queue_packets(0), 0);
    assert_eq!(rig.queues[0].queue.counters().no_descriptor, 0);
    rig.end();
}

#[test]
fn packets_that_nobody_wants_cost_no_descriptors() {
    // One packet in twenty is wanted; the worker tops the queue up when 32 are missing.
    let mut rig = Rig::new(Setup {
        queues: 2,
        chunks: 512,
        ring: 128,
        ..Setup::default()
    });
    rig.rule(0, 3, "udp,dst-port=5000");
    let mut got = 0;
    for round in 0..400_u16 {
        for packet in 0..20 {
            let port = if packet == 0 { 5000 } else { 5001 };
            rig.model.receive(&udp(round, port, 100));
        }
        for packet in rig.poll(0) {
            got += 1;
            for chunk in packet.chunks {
                rig.queues[0].recycle(chunk);
            }
        }
        let queue = &mut rig.queues[0];
        if queue.queue.capacity() - queue.queue.posted() >= 32 {
            queue.refill();
        }
    }
    let counters = rig.queues[0].queue.counters();
    assert_eq!((got, counters.no_descriptor), (400, 0));
    assert_eq!(counters.unwanted, 19 * 400);
    rig.end();
}

/// Chunks of another pool name memory that is not the queue's: nothing of it is posted, whichever way it comes.
#[test]
fn chunks_of_another_pool_are_refused() {
    let mut rig = Rig::new(Setup::default());
    let region = memfd::create(
        "devrx-test",
        RegionSpec {
            size: 1 << 20,
            chunk_size: 2048,
        },
    )
    .unwrap();
    let (mut other, _) = Pool::new(RegionProvider::whole(region.into()), PoolConfig::default());
    let mut chunk = [ChunkIndex(0)];
    assert_eq!(other.take(&mut chunk), 1);
    let generation = other.deliver(chunk[0]);
    // Room for it.
    rig.any(0);
    rig.model.receive(&udp(1, 2, 100));
    assert_eq!(rig.poll(0).len(), 1);
    let queue = &mut rig.queues[0].queue;
    let before = (queue.posted(), queue.room());
    assert!(before.1 > 0);
    let entries = [(chunk[0].0, generation)];
    assert!(!queue.post(other.returns(entries.into_iter())));
    assert_eq!(queue.refill(&mut other), 0);
    assert_eq!((queue.posted(), queue.room()), before);
    assert_eq!(queue.counters().refused_chunks, 2);
    // The pool has lost nothing.
    assert_eq!(other.counts().with_client, 1);
    other.take_back(chunk[0].0, generation).unwrap();
}
