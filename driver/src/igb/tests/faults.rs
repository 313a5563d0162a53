//! Whoever has the NIC hears of its end; memory stays the device's until the device is proven to have stopped.

use std::os::fd::OwnedFd;

use nix::sys::eventfd::EventFd;

use super::rig::{Queue, Rig, Setup, readable, udp};
use crate::igb::model::Fault;
use crate::igb::regs::{ICR, RxQueueRegs, icr};
use crate::{DriverError, Nic, Owned, QueueConfig, RxQueue, Timestamps, Transmit};

fn rig(queues: u32) -> Rig {
    Rig::new(Setup {
        queues,
        ..Setup::default()
    })
}

/// The device reports a failure of its memory, and the last queue reads that before the monitor does.
fn fail_memory(rig: &Rig) {
    rig.model.poke(ICR, icr::FER);
    let last = rig.queues.last().unwrap();
    let _ = last.queue.counters();
    assert!(last.queue.fault().unwrap().contains("in its own memory"));
    assert!(!last.queue.counters().exact, "nobody knows what was lost");
}

#[test]
fn whoever_has_the_nic_hears_that_it_must_end() {
    for gone in [true, false] {
        let mut rig = rig(0);
        let alarm: OwnedFd = EventFd::new().unwrap().into();
        rig.nic.set_alarm(alarm.try_clone().unwrap());
        assert_eq!(rig.nic.fault(), None);
        assert!(!readable(&alarm, 20));
        if gone {
            rig.model.set_fault(Fault {
                gone,
                ..Fault::default()
            });
        } else {
            rig.model.make_trouble();
        }
        assert!(readable(&alarm, 5000));
        let fault = rig.nic.fault().unwrap();
        assert!(
            fault.contains(["told to make trouble", "does not answer"][usize::from(gone)]),
            "{fault}"
        );
        // Nothing can be opened on it, and it is left alone.
        let (_, configs) = Setup::default().configs();
        let error = rig.nic.open_queue(0, configs[0].clone()).unwrap_err();
        assert!(error.to_string().contains(&fault), "{error}");
        assert_eq!(rig.model.resets(), 0);
    }
}

/// Its queue is closed before the monitor has looked: the reset that should stop it has nothing to reset, and the NIC ends all the same.
#[test]
fn a_nic_that_a_reset_finds_gone_ends() {
    let mut rig = rig(2);
    let alarm: OwnedFd = EventFd::new().unwrap().into();
    rig.nic.set_alarm(alarm.try_clone().unwrap());
    rig.model.set_fault(Fault {
        gone: true,
        ..Fault::default()
    });
    rig.nic.close_queue(0).unwrap();
    let first = rig.queues.remove(0);
    let config = first.config.clone();
    first.end();
    assert!(readable(&alarm, 0), "whoever has the NIC is told");
    ends(&mut rig, &alarm, config);
    let fault = rig.queues[0].queue.fault().unwrap();
    assert!(fault.contains("does not answer"), "{fault}");
    rig.nic.close_queue(1).unwrap();
    rig.end();
}

/// Between a reset and the next queue nobody looks after it but who opens that.
#[test]
fn a_nic_that_is_not_there_after_a_reset_ends() {
    let mut rig = rig(1);
    let alarm: OwnedFd = EventFd::new().unwrap().into();
    rig.nic.set_alarm(alarm.try_clone().unwrap());
    rig.model.set_fault(Fault {
        will_not_stop: true,
        ..Fault::default()
    });
    rig.nic.close_queue(0).unwrap();
    let queue = rig.queues.remove(0);
    let config = queue.config.clone();
    queue.end();
    assert_eq!((rig.model.resets(), rig.nic.fault()), (1, None));
    rig.model.set_fault(Fault {
        gone: true,
        ..Fault::default()
    });
    ends(&mut rig, &alarm, config);
    rig.end();
}

/// It has ended, or does when somebody opens a queue.
fn ends(rig: &mut Rig, alarm: &OwnedFd, config: QueueConfig) {
    config.provider.uninstall();
    config.provider.init(&rig.nic.needs()).unwrap();
    let resets = rig.model.resets();
    let error = rig.nic.open_queue(0, config).unwrap_err().to_string();
    assert!(error.contains("does not answer"), "{error}");
    assert!(rig.nic.fault().unwrap().contains("does not answer"));
    assert!(readable(alarm, 0), "whoever has the NIC is told");
    assert_eq!(rig.model.resets(), resets);
}

#[test]
fn the_end_comes_after_a_failure_too() {
    let rig = rig(1);
    fail_memory(&rig);
    assert_eq!(rig.nic.fault(), None, "a reset can help");
    rig.model.make_trouble();
    let alarm: OwnedFd = EventFd::new().unwrap().into();
    let mut rig = rig;
    rig.nic.set_alarm(alarm.try_clone().unwrap());
    assert!(readable(&alarm, 5000));
    assert!(rig.nic.fault().is_some());
    rig.end();
}

#[test]
fn a_reset_takes_a_failure_of_the_device_away() {
    let mut rig = rig(2);
    rig.any(0);
    fail_memory(&rig);
    // Not while somebody has a queue that the reset would end.
    rig.nic.close_queue(0).unwrap();
    let first = rig.queues.remove(0);
    let config = first.config.clone();
    first.end();
    config.provider.uninstall();
    config.provider.init(&rig.nic.needs()).unwrap();
    let error = rig.nic.open_queue(0, config.clone()).unwrap_err();
    assert!(matches!(error, DriverError::QueueBusy { .. }), "{error}");
    assert!(error.to_string().contains("detach"), "{error}");
    assert_eq!(rig.model.resets(), 0);
    rig.nic.close_queue(1).unwrap();
    rig.queues.remove(0).end();
    config.provider.uninstall();
    rig.queues.push(Queue::open(&mut rig.nic, 0, config));
    assert_eq!(rig.model.resets(), 1);
    assert_eq!(rig.queues[0].queue.fault(), None);
    rig.any(0);
    rig.model.receive(&udp(1, 1, 100));
    assert_eq!(rig.drain(0).len(), 1);
    rig.end();
}

#[test]
fn a_failure_that_a_queue_reads_wakes_the_others() {
    let mut rig = rig(2);
    assert!(rig.queues[0].queue.arm());
    fail_memory(&rig);
    assert!(readable(rig.queues[0].queue.wait_fd(), 3000));
    assert!(rig.queues[0].queue.fault().is_some());
    rig.end();
}

#[test]
fn a_reset_that_fails_ends_every_queue() {
    let mut rig = rig(2);
    assert!(rig.queues[1].queue.arm());
    rig.model.set_fault(Fault {
        will_not_stop: true,
        reset_fails: true,
        ..Fault::default()
    });
    rig.nic.close_queue(0).unwrap();
    assert!(rig.queues[0].queue.stop().is_err());
    assert!(readable(rig.queues[1].queue.wait_fd(), 0));
    let fault = rig.queues[1].queue.fault().unwrap();
    assert!(fault.contains("could not be reset"), "{fault}");
    assert!(rig.queues[1].queue.stop().is_err(), "nothing is proven");
    rig.model.set_fault(Fault::default());
    rig.end();
}

#[test]
fn a_queue_that_is_not_enabled_keeps_its_memory_until_it_is_off() {
    let mut rig = rig(0);
    let (_region, configs) = Setup::default().configs();
    let config = configs[0].clone();
    rig.model.set_fault(Fault {
        gone_when_enabled: true,
        ..Fault::default()
    });
    let error = rig.nic.open_queue(0, config).unwrap_err();
    assert!(matches!(error, DriverError::QueueBusy { .. }), "{error}");
    // 64 descriptors, 128 chunks with their headers.
    assert_eq!(rig.model.mapped(), 4096 + 128 * (2048 + 256));
}

/// It cuts where its hardware cuts.
#[test]
fn payload_along_with_the_header_is_refused() {
    let mut rig = rig(0);
    let (_region, mut configs) = Setup::default().configs();
    configs[0].split_extra = 8;
    let error = rig.nic.open_queue(0, configs.remove(0)).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("splits exactly behind the header"),
        "{error}"
    );
    rig.end();
}

/// One latch for all packets, and that for PTP's.
#[test]
fn timestamps_that_the_82576_does_not_have_are_refused() {
    let mut rig = rig(0);
    let (_region, mut configs) = Setup::default().configs();
    configs[0].timestamps = Timestamps::Nic;
    let error = rig.nic.open_queue(0, configs.remove(0)).unwrap_err();
    assert!(matches!(error, DriverError::Unsupported { .. }), "{error}");
    let error = error.to_string();
    assert!(
        error.contains("82576") && error.contains("without `--timestamps nic`"),
        "{error}"
    );
    assert_eq!(rig.model.mapped(), 0);
    rig.end();
}

#[test]
fn a_queue_that_is_still_on_is_not_set_up_anew() {
    let mut rig = rig(1);
    let base = RxQueueRegs::of(0).rdbal();
    let before = rig.model.peek(base);
    // Its thread ended without stopping it.
    rig.nic.close_queue(0).unwrap();
    let Queue { queue, config, .. } = rig.queues.remove(0);
    drop(queue);
    let mapped = rig.model.mapped();
    rig.model.set_fault(Fault {
        will_not_stop: true,
        ..Fault::default()
    });
    let error = rig.nic.open_queue(0, config).unwrap_err();
    assert!(matches!(error, DriverError::QueueBusy { .. }), "{error}");
    assert_eq!(rig.model.peek(base), before);
    assert_eq!(rig.model.mapped(), mapped, "the new ring was never told");
}

#[test]
fn one_transmitter_at_a_time() {
    let mut rig = rig(1);
    let first = rig.nic.transmitter().unwrap();
    let error = rig.nic.transmitter().unwrap_err();
    assert!(matches!(error, DriverError::QueueBusy { .. }), "{error}");
    drop(first);
    drop(rig.nic.transmitter().unwrap());
    rig.end();
}

#[test]
fn what_is_sent_stays_the_devices_until_sending_has_stopped() {
    for stops in [true, false] {
        let mut rig = rig(0);
        let mut transmitter = rig.nic.transmitter().unwrap();
        transmitter.send(&udp(1, 1, 100)).unwrap();
        let mapped = rig.model.mapped();
        rig.model.set_fault(Fault {
            sends_for_ever: !stops,
            ..Fault::default()
        });
        drop(transmitter);
        assert_eq!(rig.model.mapped(), if stops { 0 } else { mapped });
        assert_eq!(rig.nic.transmitter().is_ok(), stops);
    }
}

#[test]
fn a_transmit_queue_that_is_not_enabled_keeps_its_memory_until_it_is_off() {
    let mut rig = rig(0);
    rig.model.set_fault(Fault {
        gone_when_enabled: true,
        ..Fault::default()
    });
    let error = rig.nic.transmitter().unwrap_err();
    assert!(matches!(error, DriverError::QueueBusy { .. }), "{error}");
    assert!(error.to_string().contains("does not enable"), "{error}");
    // 64 descriptors and their pages.
    assert_eq!(rig.model.mapped(), 4096 + 64 * 4096);
}

#[test]
fn a_transmitter_of_before_a_reset_sends_no_more() {
    let mut rig = rig(1);
    let mut old = rig.nic.transmitter().unwrap();
    rig.model.set_fault(Fault {
        will_not_stop: true,
        ..Fault::default()
    });
    rig.nic.close_queue(0).unwrap();
    let queue = rig.queues.remove(0);
    let config = queue.config.clone();
    queue.end();
    rig.model.set_fault(Fault::default());
    config.provider.uninstall();
    rig.queues.push(Queue::open(&mut rig.nic, 0, config));
    let mut new = rig.nic.transmitter().unwrap();
    assert!(old.send(&udp(1, 1, 100)).is_err());
    drop(old);
    new.send(&udp(2, 1, 100)).unwrap();
    assert!(new.flush());
    assert_eq!(rig.model.sent(), [udp(2, 1, 100)]);
    drop(new);
    rig.end();
}
