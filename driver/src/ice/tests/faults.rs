//! What the driver does when the NIC does not play along: an error, a counted drop, a queue that ends and can be had again; never a panic, and never memory that the
//! device may still write.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::eventfd::EventFd;

use super::rig::{ADMIN, Queue, Rig, Setup, readable, udp, udp_to};
use crate::device::Device;
use crate::ice::model::{Fault, IceModel};
use crate::ice::regs::{GL_MDET_RX, GLGEN_RSTAT, PF_MDET_RX, PFINT_FW_CTL, PFINT_OICR, cause};
use crate::ice::{IceNic, PackageSource};
use crate::{DriverError, Flows, Link, Nic, RxQueue};

/// Asks for a reset of the whole device: bit 0 core, bit 1 global.
const GLGEN_RTRIG: u32 = 0x000b_8190;

/// All commands that opening, attaching and closing give.
pub(super) const COMMANDS: [u16; 29] = [
    0x0001, 0x0002, 0x0008, 0x0009, 0x000a, 0x0107, 0x0110, 0x0200, 0x0208, 0x0209, 0x0210, 0x0213,
    0x0290, 0x0291, 0x0293, 0x02a0, 0x02a2, 0x02a4, 0x0603, 0x0605, 0x0607, 0x0613, 0x0b02, 0x0b03,
    0x0c40, 0x0c42, 0x0c43, 0x0003, 0x0211,
];

pub(super) fn rig(queues: u32) -> Rig {
    Rig::new(Setup {
        queues,
        ..Setup::default()
    })
}

/// The queue ends and is opened again, with all that a client has.
fn again(rig: &mut Rig, queue: usize) {
    let index = queue as u32;
    let _ = rig.nic.close_queue(index);
    let old = rig.queues.remove(queue);
    let config = old.config.clone();
    old.end();
    config.provider.uninstall();
    rig.queues
        .insert(queue, Queue::open(&mut rig.nic, index, config));
}

/// All queues end and are opened again, as when their clients attach again.
pub(super) fn all_again(rig: &mut Rig) {
    for queue in 0..rig.queues.len() as u32 {
        rig.nic.close_queue(queue).unwrap();
    }
    let configs: Vec<_> = rig
        .queues
        .drain(..)
        .map(|queue| {
            let config = queue.config.clone();
            queue.end();
            config.provider.uninstall();
            config
        })
        .collect();
    for (index, config) in (0..).zip(configs) {
        rig.queues.push(Queue::open(&mut rig.nic, index, config));
    }
}

pub(super) fn works(rig: &mut Rig) {
    rig.any(0);
    rig.rule(1, 8, "udp,dst-port=5000");
    rig.receive(&udp(1, 1, 100));
    rig.receive(&udp(1, 5000, 100));
    assert_eq!((rig.drain(0).len(), rig.drain(1).len()), (1, 1));
}

/// Why a queue has ended, which the monitor may have to find out first; whoever sleeps is woken then.
pub(super) fn fault_of(rig: &Rig, queue: usize) -> &'static str {
    let queue = &rig.queues[queue].queue;
    let by = Instant::now() + Duration::from_secs(5);
    while queue.fault().is_none() && Instant::now() < by {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(readable(queue.wait_fd(), 1000));
    queue.fault().unwrap()
}

#[test]
pub(super) fn each_command_that_fails_is_named_and_costs_no_more() {
    for opcode in COMMANDS {
        let setup = Setup::default();
        let model = IceModel::new(setup.personality);
        model.set_fault(Fault::FailCommand(opcode));
        match IceNic::open(Arc::clone(&model), setup.options) {
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains(&format!("{opcode:#06x}")), "{text}");
                assert_eq!(model.mapped(), 0, "{opcode:#x}");
            }
            Ok(nic) => {
                drop(nic);
                assert_eq!(model.mapped(), 0, "{opcode:#x}");
            }
        }
    }
}

#[test]
pub(super) fn a_rule_that_the_firmware_refuses_leaves_everything_as_it_was() {
    for opcode in [
        0x0208, 0x0210, 0x0290, 0x0291, 0x0293, 0x02a0, 0x0b02, 0x0b03, 0x0c42, 0x0008,
    ] {
        let mut rig = rig(2);
        rig.any(0);
        rig.model.set_fault(Fault::FailCommand(opcode));
        let rule = "udp,dst-port=5000".parse().unwrap();
        match rig.nic.add_flow(1..=1, 8, &rule) {
            Err(error) => {
                assert!(matches!(error, DriverError::Firmware { .. }), "{error}");
                assert!(
                    error.to_string().contains(&format!("{opcode:#06x}")),
                    "{error}"
                );
            }
            // It is asked only once for all VSIs.
            Ok(_) => rig.nic.remove_flow(1..=1, 8).unwrap(),
        }
        rig.receive(&udp(1, 5000, 100));
        assert_eq!(
            (rig.drain(0).len(), rig.drain(1).len()),
            (1, 0),
            "{opcode:#x}"
        );
        rig.model.set_fault(Fault::None);
        rig.rule(1, 8, "udp,dst-port=5000");
        rig.receive(&udp(1, 5000, 100));
        assert_eq!(
            (rig.drain(0).len(), rig.drain(1).len()),
            (0, 1),
            "{opcode:#x}"
        );
        rig.end();
    }
}

#[test]
pub(super) fn a_vsi_that_is_not_given_back_ends_no_queue() {
    for opcode in [0x0213, 0x02a2, 0x0209] {
        let mut rig = rig(2);
        works(&mut rig);
        rig.model.set_fault(Fault::FailCommand(opcode));
        assert!(rig.nic.close_queue(1).is_err(), "{opcode:#x}");
        // The queue can still be stopped, and the memory goes.
        rig.queues.remove(1).end();
        rig.receive(&udp(1, 1, 100));
        assert_eq!(rig.drain(0).len(), 1);
        rig.model.set_fault(Fault::None);
        rig.end();
    }
}

#[test]
pub(super) fn firmware_that_does_not_answer_costs_a_second_and_a_reset() {
    let mut rig = rig(2);
    works(&mut rig);
    rig.model.set_fault(Fault::AdminQueueHangs);
    let rule = "udp,dst-port=6000".parse().unwrap();
    let start = Instant::now();
    let error = rig.nic.add_flow(0..=0, 9, &rule).unwrap_err();
    assert!(
        error.to_string().contains("not answered in time"),
        "{error}"
    );
    let error = rig.nic.add_flow(0..=0, 9, &rule).unwrap_err();
    assert!(error.to_string().contains("not sent"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(3));
    // Queues go on.
    rig.receive(&udp(1, 1, 100));
    assert_eq!(rig.drain(0).len(), 1);
    rig.model.set_fault(Fault::None);
    // One that is opened needs the reset, which would end the other.
    assert!(rig.nic.close_queue(0).is_err());
    let first = rig.queues.remove(0);
    let config = first.config.clone();
    first.end();
    config.provider.uninstall();
    config.provider.init(&rig.nic.needs()).unwrap();
    let error = rig.nic.open_queue(0, config.clone()).unwrap_err();
    assert!(matches!(error, DriverError::QueueBusy { .. }), "{error}");
    config.provider.uninstall();
    let _ = rig.nic.close_queue(1);
    let second = rig.queues.remove(0);
    let other = second.config.clone();
    second.end();
    other.provider.uninstall();
    rig.queues.push(Queue::open(&mut rig.nic, 0, config));
    rig.queues.push(Queue::open(&mut rig.nic, 1, other));
    assert_eq!(rig.model.resets(), 1);
    works(&mut rig);
    rig.end();
}

#[test]
pub(super) fn firmware_that_never_answers_is_an_error_in_time() {
    for fault in [Fault::AdminQueueHangs, Fault::ResetHangs, Fault::Gone] {
        let setup = Setup::default();
        let model = IceModel::new(setup.personality);
        model.set_fault(fault);
        let start = Instant::now();
        let error = IceNic::open(Arc::clone(&model), setup.options).unwrap_err();
        assert!(
            start.elapsed() < Duration::from_secs(15),
            "{fault}: {error}"
        );
        model.set_fault(Fault::None);
    }
}

#[test]
pub(super) fn a_queue_that_does_not_stop_costs_a_reset_and_ends_the_others() {
    let mut rig = rig(2);
    works(&mut rig);
    rig.model.set_fault(Fault::QueueWillNotStop);
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
    rig.model.set_fault(Fault::None);
    // The next queue that is opened finds a NIC that works.
    rig.queues.insert(0, Queue::open(&mut rig.nic, 0, config));
    assert_eq!(rig.queues[0].queue.fault(), None);
    again(&mut rig, 1);
    works(&mut rig);
    rig.end();
}

#[test]
pub(super) fn memory_is_kept_when_nothing_can_be_proven() {
    let mut rig = rig(1);
    rig.any(0);
    rig.nic.close_queue(0).unwrap();
    rig.model.set_fault(Fault::QueueWillNotStop);
    rig.model.set_reset_fails(true);
    assert!(rig.queues[0].queue.stop().is_err());
    let fault = rig.queues[0].queue.fault().unwrap();
    assert!(fault.contains("could not be reset"), "{fault}");
    let mapped = rig.model.mapped();
    let model = Arc::clone(&rig.model);
    drop(rig);
    // The queue's memory, and that of the admin queues, if its own reset failed too.
    assert!(model.mapped() >= mapped - ADMIN);
}

#[test]
pub(super) fn a_card_that_is_gone_is_told_and_left_alone() {
    for gone in [true, false] {
        let mut rig = rig(1);
        rig.any(0);
        let alarm: OwnedFd = EventFd::new().unwrap().into();
        rig.nic.set_alarm(alarm.try_clone().unwrap());
        assert!(rig.queues[0].queue.arm());
        if gone {
            rig.model.set_fault(Fault::Gone);
        } else {
            rig.model.make_trouble();
        }
        assert!(readable(&alarm, 5000));
        let fault = rig.nic.fault().unwrap();
        let why = ["told to make trouble", "does not answer"][usize::from(gone)];
        assert!(fault.contains(why), "{fault}");
        assert!(readable(rig.queues[0].queue.wait_fd(), 1000));
        assert!(rig.queues[0].queue.fault().is_some());
        assert!(rig.nic.link().is_err());
        rig.model.set_fault(Fault::None);
        let _ = rig.nic.close_queue(0);
        rig.queues.remove(0).end();
    }
}

#[test]
pub(super) fn a_reset_of_the_card_ends_queues_that_can_be_had_again() {
    for kind in [1, 2] {
        let mut rig = rig(2);
        works(&mut rig);
        assert!(rig.queues[0].queue.arm());
        rig.model.card().write32(GLGEN_RTRIG, kind);
        let fault = fault_of(&rig, 0);
        assert!(fault.contains("whole card was reset"), "{fault}");
        // Both end; the first that comes back sets the card up, with its package, which a reset of the core has lost.
        all_again(&mut rig);
        works(&mut rig);
        rig.end();
    }
}

#[test]
pub(super) fn a_reset_that_took_its_own_notice_with_it_is_seen_all_the_same() {
    // Where admin events go has been cleared; and the card has counted one more reset of all of it, or not.
    for (counted, why) in [
        (1 << 4, "whole card was reset"),
        (0, "somebody else had the system reset this NIC"),
    ] {
        let rig = rig(1);
        rig.model.say(&[(PFINT_FW_CTL, 0), (GLGEN_RSTAT, counted)]);
        let fault = fault_of(&rig, 0);
        assert!(fault.contains(why), "{fault}");
        drop(rig.queues.into_iter().map(Queue::end).collect::<Vec<_>>());
    }
}

/// While the system resets the function nothing answers, and causes read all ones: that tells of no reset of the card, and of no error.
#[test]
fn causes_that_nothing_answered_are_none() {
    let rig = rig(1);
    rig.model
        .say(&[(PFINT_OICR, u32::MAX), (PFINT_FW_CTL, 0), (GLGEN_RSTAT, 0)]);
    let fault = fault_of(&rig, 0);
    assert!(fault.contains("somebody else"), "{fault}");
    drop(rig.queues.into_iter().map(Queue::end).collect::<Vec<_>>());
}

#[test]
pub(super) fn a_reset_of_the_function_by_the_bus_ends_queues_that_can_be_had_again() {
    let mut rig = rig(2);
    works(&mut rig);
    assert!(rig.queues[0].queue.arm());
    rig.model.card().reset();
    // As after a reset that the system makes: it puts the PCI command register back.
    rig.model.set_bus_master(true).unwrap();
    let fault = fault_of(&rig, 0);
    assert!(fault.contains("somebody else"), "{fault}");
    // Nothing comes before somebody attaches again.
    assert!(!rig.model.card().receive(&udp(1, 1, 100)));
    all_again(&mut rig);
    works(&mut rig);
    rig.end();
}

#[test]
pub(super) fn what_moves_to_another_attachment_is_not_lost_when_that_is_refused() {
    let mut rig = rig(2);
    rig.any(0);
    let station = [2, 0xe8, 0x10, 0, 0, 1];
    rig.model.set_fault(Fault::FailCommand(0x0210));
    let rule = "dst-mac=02:e8:10:00:00:01".parse().unwrap();
    assert!(rig.nic.add_flow(1..=1, 8, &rule).is_err());
    rig.model.set_fault(Fault::None);
    // Were it for the default rule alone, it would be told by the rules there are.
    assert_eq!(rig.nic.rules_of(0), 3);
    rig.receive(&udp_to(station, 1, 1, 100));
    assert_eq!(rig.drain(0).len(), 1);
    rig.end();
}

#[test]
pub(super) fn errors_of_the_device_end_its_queues_until_it_is_reset() {
    for (causes, why) in [
        (cause::ECC, "in its own memory"),
        (cause::MALICIOUS, "malicious driver detection"),
    ] {
        let mut rig = rig(2);
        works(&mut rig);
        assert!(rig.queues[1].queue.arm());
        rig.model.say(&[
            (GL_MDET_RX, 1 << 31 | 3 << 26),
            (PF_MDET_RX, 1),
            (PFINT_OICR, causes),
        ]);
        let fault = fault_of(&rig, 1);
        assert!(fault.contains(why), "{fault}");
        all_again(&mut rig);
        assert_eq!(rig.model.resets(), 1);
        works(&mut rig);
        rig.end();
    }
}

#[test]
pub(super) fn what_cannot_be_true_of_a_packet_costs_the_packet() {
    let mut rig = rig(1);
    rig.any(0);
    rig.model.set_fault(Fault::ReceiveError);
    rig.receive(&udp(1, 1, 100));
    rig.receive(&udp(1, 1, 5000));
    assert!(rig.drain(0).is_empty());
    assert_eq!(rig.queues[0].queue.counters().errors, 2);
    // A full chunk and a header more than fits.
    rig.model.set_fault(Fault::WrongPacketLength);
    rig.receive(&udp(1, 1, 42 + 2048));
    rig.receive(&udp(1, 1, 42 + 2048 * 2));
    assert!(rig.drain(0).is_empty());
    assert_eq!(rig.queues[0].queue.counters().bad_descriptor, 2);
    rig.model.set_fault(Fault::None);
    rig.receive(&udp(1, 1, 100));
    assert_eq!(rig.drain(0).len(), 1);
    let counters = rig.queues[0].queue.counters();
    assert_eq!((counters.received, counters.exact), (1, true));
    rig.end();
}

#[test]
pub(super) fn descriptors_that_are_never_done_hold_nothing_up() {
    let mut rig = rig(1);
    rig.any(0);
    rig.model.set_fault(Fault::NoDoneBit);
    for port in 0..10 {
        rig.receive(&udp(port, 1, 100));
    }
    assert!(rig.drain(0).is_empty());
    rig.end();
}

#[test]
pub(super) fn faults_that_no_driver_can_see_break_nothing_else() {
    for fault in [
        Fault::SwappedBuffers,
        Fault::WrongHeaderLength,
        Fault::SplitOffByOne,
        Fault::WrongHash,
        Fault::NoFlowDirector,
        Fault::StampInvalid,
        Fault::StampOfOtherTimer,
        Fault::ClockStands,
        Fault::SemaphoreHeld,
    ] {
        let mut rig = rig(1);
        rig.rule(0, 7, "udp,dst-port=1");
        rig.model.set_fault(fault);
        for len in [60, 100, 2000, 5000] {
            rig.receive(&udp(1, 1, len));
        }
        rig.drain(0);
        rig.model.set_fault(Fault::None);
        rig.receive(&udp(1, 1, 100));
        assert_eq!(rig.drain(0).len(), 1);
        let counters = rig.queues[0].queue.counters();
        let dropped: u64 = counters.drops().iter().map(|(_, count)| count).sum();
        assert_eq!(counters.received + dropped, 5, "{fault}");
        rig.end();
    }
}

#[test]
pub(super) fn what_the_model_refuses_is_an_error_of_the_driver() {
    let setup = Setup::default();
    let model = IceModel::new(crate::ice::model::Personality {
        ddp: false,
        ..setup.personality
    });
    let mut options = setup.options;
    options.package = PackageSource::None;
    let nic = IceNic::open(Arc::clone(&model), options).unwrap();
    assert_eq!(nic.package(), None);
    drop(nic);
    assert_eq!(model.mapped(), 0);
}
