//! What is counted around a reset, and what others left in the card's tables.

use std::time::Duration;

use super::faults::all_again;
use super::rig::{Rig, Setup, udp};
use crate::ice::model::{Fault, IceModel};
use crate::ice::regs::{GLQF_HMASK_SEL, TX_PAUSE_QUANTA, TX_PAUSE_REFRESH};
use crate::{Nic, RxQueue, Statistics};

/// The first of the masks that words of the hash can have.
const GLQF_HMASK: u32 = 0x0040_fc00;

fn stop(rig: &mut Rig, queue: usize) {
    rig.nic.close_queue(queue as u32).unwrap();
    rig.queues[queue].queue.stop().unwrap();
}

/// A reset throws away what was on its way: whatever it cut off, and the port, say so. What had ended before stays exact.
#[test]
fn what_a_reset_cuts_off_is_not_exact() {
    let mut rig = Rig::new(Setup {
        queues: 3,
        ..Setup::default()
    });
    rig.any(0);
    let exact = |rig: &Rig| [0, 1, 2].map(|queue: usize| rig.queues[queue].queue.counters().exact);
    stop(&mut rig, 0);
    assert_eq!(exact(&rig), [true, true, true]);
    assert!(rig.nic.port_losses().exact);
    rig.model.set_fault(Fault::QueueWillNotStop);
    stop(&mut rig, 1);
    assert_eq!(rig.model.resets(), 1);
    assert_eq!(exact(&rig), [true, false, false]);
    // The same once its own thread has let it go.
    stop(&mut rig, 2);
    assert_eq!(exact(&rig), [true, false, false]);
    assert!(!rig.nic.port_losses().exact && !rig.nic.statistics().unwrap().exact);
    rig.model.set_fault(Fault::None);
    rig.end();
}

/// The VSI of after a reset has the number of the one before it: what it discards is counted once, and for its own queue.
#[test]
fn what_is_discarded_after_a_reset_is_counted_once() {
    let mut rig = Rig::new(Setup {
        queues: 2,
        chunks: 32,
        ..Setup::default()
    });
    let flood = |rig: &mut Rig| {
        rig.any(0);
        for port in 0..50 {
            rig.model.card().receive(&udp(port, 1, 100));
        }
        let got = rig.poll(0);
        assert_eq!(got.len(), 32);
        for chunk in got.into_iter().flat_map(|packet| packet.chunks) {
            rig.queues[0].recycle(chunk);
        }
        assert_eq!(rig.queues[0].queue.counters().no_descriptor, 18);
    };
    flood(&mut rig);
    rig.model.set_fault(Fault::QueueWillNotStop);
    stop(&mut rig, 1);
    rig.model.set_fault(Fault::None);
    assert_eq!(rig.model.resets(), 1);
    assert_eq!(rig.queues[0].queue.counters().no_descriptor, 18);
    all_again(&mut rig);
    flood(&mut rig);
    assert_eq!(rig.nic.statistics().unwrap().drops["discarded"], 36);
    rig.end();
}

/// A queue is stopped before the monitor has found out: the reset has nothing to reset, and the NIC ends all the same.
#[test]
fn a_card_that_a_reset_finds_gone_ends() {
    let mut rig = Rig::new(Setup::default());
    // Has the monitor look now, so that it does next when the queue's patience has just ended.
    rig.model.say(&[]);
    std::thread::sleep(Duration::from_millis(20));
    rig.model.set_fault(Fault::Gone);
    rig.queues[0].queue.stop().unwrap();
    assert_eq!(rig.model.resets(), 0);
    assert!(rig.nic.fault().unwrap().contains("does not answer"));
}

/// Between a reset and the next queue nobody looks after it but who opens that.
#[test]
fn a_card_that_is_not_there_after_a_reset_ends() {
    let mut rig = Rig::new(Setup::default());
    rig.model.set_fault(Fault::QueueWillNotStop);
    stop(&mut rig, 0);
    assert_eq!((rig.model.resets(), rig.nic.fault()), (1, None));
    rig.model.set_fault(Fault::Gone);
    let queue = rig.queues.remove(0);
    let config = queue.config.clone();
    queue.end();
    config.provider.uninstall();
    config.provider.init(&rig.nic.needs()).unwrap();
    let error = rig.nic.open_queue(0, config).unwrap_err().to_string();
    assert!(error.contains("does not answer"), "{error}");
    assert!(rig.nic.fault().unwrap().contains("does not answer"));
}

/// Asking the system takes its lock for all of PCI, and a queue that sends wakes the monitor thousands of times a second.
#[test]
fn the_system_is_asked_once_a_second_whether_the_card_is_there() {
    let rig = Rig::new(Setup::default());
    let before = rig.model.asked();
    for _ in 0..100 {
        rig.model.say(&[]);
        std::thread::sleep(Duration::from_millis(13));
    }
    let asked = rig.model.asked() - before;
    assert!((1..=3).contains(&asked), "{asked} times");
    rig.end();
}

/// The command that lets jumbo frames in sets flow control too.
#[test]
fn flow_control_stays_as_it_was() {
    let rig = Rig::new(Setup::default());
    let read = |register| rig.model.card().read32(register);
    assert_eq!(
        (read(TX_PAUSE_QUANTA), read(TX_PAUSE_REFRESH)),
        (0xffff, 0x7fff)
    );
    rig.end();
}

/// Masks that a driver of before chose for a profile stay through a reset of the function, and would change the hash.
#[test]
fn masks_of_the_hash_that_others_left_do_not_count() {
    let hash_of = |left: bool| {
        let setup = Setup::default();
        let model = IceModel::new(setup.personality);
        if left {
            // Mask 0: no bit of the last word, where the first of an address is.
            model.card().write32(GLQF_HMASK, 23);
            for profile in 0..128 {
                model.card().write32(GLQF_HMASK_SEL.at(profile), 1);
            }
        }
        let mut rig = Rig::on(model, Setup::default());
        rig.any(0);
        rig.receive(&udp(1, 2, 100));
        let hash = rig.drain(0)[0].hash;
        rig.end();
        hash
    };
    assert_ne!(hash_of(false), 0);
    assert_eq!(hash_of(true), hash_of(false));
}
