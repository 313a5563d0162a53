//! Somebody else resets the NIC, with the system's help or by another port of the card.

use std::time::{Duration, Instant};

use super::rig::{Queue, Rig, Setup, readable, udp};
use crate::igb::model::Fault;
use crate::igb::regs::{EITR, GPIE, ICR, RCTL, icr};
use crate::{DriverError, Interrupts, Nic, RxQueue, Statistics};

const WHY: &str = "somebody else reset this NIC";

fn rig(queues: u32) -> Rig {
    let mut rig = Rig::new(Setup {
        queues,
        ..Setup::default()
    });
    rig.any(0);
    rig
}

fn told(rig: &Rig, at: usize) -> bool {
    let fault = rig.queues[at].queue.fault();
    fault.is_some_and(|fault| fault.contains(WHY))
}

/// Its configuration space is as before and its registers answer: only what they say tells of it. Each queue hears, and the next one that is opened receives.
#[test]
fn a_reset_that_nobody_announces_ends_the_queues_and_the_next_works() {
    let mut rig = rig(2);
    rig.model.receive(&udp(1, 1, 100));
    assert_eq!(rig.drain(0).len(), 1);
    assert!(rig.queues[1].queue.arm());
    rig.model.reset_from_outside();
    assert!(
        readable(rig.queues[1].queue.wait_fd(), 5000),
        "a sleeping queue is woken"
    );
    assert!(told(&rig, 0) && told(&rig, 1));
    assert_eq!(rig.nic.fault(), None, "it can serve again");
    for queue in &rig.queues {
        assert!(!queue.queue.counters().exact);
    }
    assert!(!rig.nic.port_losses().exact && !rig.nic.statistics().unwrap().exact);
    // The other queue's end turns nothing on: rings are at no address now.
    rig.nic.close_queue(0).unwrap();
    assert_eq!(rig.model.peek(RCTL), 0);
    let first = rig.queues.remove(0);
    let config = first.config.clone();
    first.end();
    config.provider.uninstall();
    config.provider.init(&rig.nic.needs()).unwrap();
    let error = rig.nic.open_queue(0, config.clone()).unwrap_err();
    assert!(matches!(error, DriverError::QueueBusy { .. }), "{error}");
    rig.nic.close_queue(1).unwrap();
    rig.queues.remove(0).end();
    assert_eq!(rig.model.mapped(), 0);
    config.provider.uninstall();
    rig.queues.push(Queue::open(&mut rig.nic, 0, config));
    assert_eq!((rig.model.resets(), told(&rig, 0)), (1, false));
    rig.any(0);
    rig.model.receive(&udp(1, 1, 100));
    assert_eq!(rig.drain(0).len(), 1);
    assert!(rig.queues[0].queue.counters().exact);
    assert!(!rig.nic.port_losses().exact, "not ever again");
    // Its interrupt comes.
    assert!(rig.queues[0].queue.arm());
    rig.model.receive(&udp(1, 1, 100));
    assert!(readable(rig.queues[0].queue.wait_fd(), 1000));
    assert_eq!(rig.drain(0).len(), 1);
    assert_eq!(rig.model.dma_faults(), 0);
    rig.end();
}

/// Whoever comes before the monitor finds it too: the queue that is asked, or stopped, whoever asks for rules or numbers, and who opens the next.
#[test]
fn a_reset_is_found_before_the_monitor_looks() {
    let mut rig = rig(1);
    rig.model.reset_from_outside();
    assert!(!rig.queues[0].queue.counters().exact && told(&rig, 0));
    again(&mut rig);
    rig.model.reset_from_outside();
    rig.nic.close_queue(0).unwrap();
    assert_eq!(rig.model.peek(RCTL), 0);
    rig.queues[0].queue.stop().unwrap();
    assert!(!rig.queues[0].queue.counters().exact);
    again(&mut rig);
    rig.model.reset_from_outside();
    assert!(!rig.nic.statistics().unwrap().exact);
    assert!(told(&rig, 0));
    again(&mut rig);
    rig.nic.close_queue(0).unwrap();
    let queue = rig.queues.remove(0);
    let config = queue.config.clone();
    queue.end();
    config.provider.uninstall();
    rig.model.reset_from_outside();
    let resets = rig.model.resets();
    rig.queues.push(Queue::open(&mut rig.nic, 0, config));
    assert_eq!(rig.model.resets(), resets + 1);
    assert_ne!(rig.model.peek(GPIE), 0);
    rig.end();
}

/// The queue ends and is opened again, and receives.
fn again(rig: &mut Rig) {
    rig.nic.close_queue(0).unwrap();
    let queue = rig.queues.remove(0);
    let config = queue.config.clone();
    queue.end();
    config.provider.uninstall();
    rig.queues.push(Queue::open(&mut rig.nic, 0, config));
    rig.any(0);
    rig.model.receive(&udp(1, 1, 100));
    assert_eq!(rig.drain(0).len(), 1);
    assert!(!told(rig, 0));
}

/// Whoever reads the causes first keeps what they say of a reset of the whole card.
#[test]
fn a_reset_of_the_card_is_heard_by_whoever_reads_the_causes() {
    let mut rig = rig(2);
    rig.model.poke(ICR, icr::DRSTA);
    let _ = rig.queues[1].queue.counters();
    assert!(told(&rig, 0) && told(&rig, 1));
    rig.nic.close_queue(1).unwrap();
    rig.queues.pop().unwrap().end();
    again(&mut rig);
    rig.model.poke(ICR, icr::DRSTA);
    let _ = rig.nic.port_losses();
    assert!(told(&rig, 0));
    rig.end();
}

/// What the driver resets is as it is after any reset until it is set up again, and a monitor has looked at it by then.
#[test]
fn a_reset_by_the_driver_itself_is_not_one_from_outside() {
    let mut rig = rig(1);
    for _ in 0..20 {
        rig.model.poke(ICR, icr::FER);
        let _ = rig.queues[0].queue.counters();
        again(&mut rig);
    }
    assert_eq!(rig.model.resets(), 20);
    // The last monitor looks at what was set up last.
    let by = Instant::now() + Duration::from_millis(1500);
    while Instant::now() < by {
        assert_eq!(rig.queues[0].queue.fault(), None);
        std::thread::sleep(Duration::from_millis(50));
    }
    rig.end();
}

/// Registers that read zero may be those of a NIC that is not there any more.
#[test]
fn what_is_gone_was_not_reset() {
    let rig = rig(1);
    rig.model.set_fault(Fault {
        gone_as_zeros: true,
        ..Fault::default()
    });
    assert!(!rig.queues[0].queue.counters().exact);
    let fault = rig.queues[0].queue.fault().unwrap();
    assert!(fault.contains("does not answer"), "{fault}");
    assert!(rig.nic.fault().is_some());
    rig.model.set_fault(Fault::default());
    rig.end();
}

/// How long interrupts are held back outlives a reset.
#[test]
fn moderation_is_set_again_after_a_reset() {
    let mut rig = rig(1);
    rig.nic.set_moderation(0, 100).unwrap();
    let value = rig.model.peek(EITR.at(0));
    assert_ne!(value, 0);
    rig.model.reset_from_outside();
    assert!(!rig.queues[0].queue.counters().exact);
    assert_eq!(rig.model.peek(EITR.at(0)), 0);
    again(&mut rig);
    assert_eq!(rig.model.peek(EITR.at(0)), value);
    rig.end();
}
