//! Sending and loopback: what is sent arrives, and what the NIC does not do is an error that costs no memory which it may still read or write.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::faults::COMMANDS;
use super::rig::{ADMIN, Queue, Rig, Setup, udp};
use crate::ice::Transmitter;
use crate::ice::model::{E810, Fault, IceModel};
use crate::{DriverError, Nic, Owned, RxFlags, RxQueue, Transmit};

/// What a transmitter has: a page of descriptors, and a page for each of 64.
const BUFFERS: usize = 65 * 4096;
/// Function number, doorbell of queue 0, reset trigger.
const PF_FUNC_RID: u32 = 0x0009_e880;
const DOORBELL: u32 = 0x002c_0000;
const GLGEN_RTRIG: u32 = 0x000b_8190;
/// Commands that starting gives: the scheduler's, a VSI, a queue.
const STARTING: [u16; 5] = [0x0412, 0x0400, 0x0401, 0x0210, 0x0c30];
/// Others that sending and loopback give: nodes and a queue go, loopback.
const OTHERS: [u16; 3] = [0x040f, 0x0c31, 0x0620];

fn rig(queues: u32) -> Rig {
    Rig::new(Setup {
        queues,
        ..Setup::default()
    })
}

fn mapped(rig: &Rig) -> usize {
    rig.model.mapped()
}

/// A frame goes to the wire.
fn works(rig: &mut Rig) {
    let mut transmitter = rig.nic.transmitter().unwrap();
    let frame = udp(3, 4, 600);
    transmitter.send(&frame).unwrap();
    assert!(transmitter.flush());
    assert_eq!(rig.model.card().sent().last(), Some(&frame));
}

/// Nobody has any memory, and the model had nothing to refuse.
fn end(rig: Rig) {
    let model = Arc::clone(&rig.model);
    rig.end();
    assert_eq!(model.card().refusals(), [""; 0]);
}

#[test]
pub(super) fn what_is_sent_comes_back_in_loopback() {
    let mut rig = rig(1);
    rig.any(0);
    works(&mut rig);
    let before = mapped(&rig);
    let mut transmitter = rig.nic.transmitter().unwrap();
    assert_eq!(mapped(&rig), before + BUFFERS);
    assert!(!rig.nic.hears_itself().unwrap());
    rig.nic.set_loopback(true).unwrap();
    assert!(rig.nic.hears_itself().unwrap());
    // Twice around the ring, up to three descriptors each.
    for port in 0..100 {
        let frame = udp(port, 9, 60 + usize::from(port) * 97);
        transmitter.send(&frame).unwrap();
        let packets = rig.drain(0);
        assert_eq!((packets.len(), packets[0].frame()), (1, frame));
        assert_eq!(packets[0].header.len(), 42);
    }
    // A short one comes padded, whatever was in the buffer before.
    transmitter.send(&udp(1, 9, 60)[..14]).unwrap();
    let packets = rig.drain(0);
    assert_eq!(packets[0].frame()[..14], udp(1, 9, 60)[..14]);
    assert_eq!(packets[0].frame()[14..], [0; 46]);
    assert!(transmitter.send(&[0; 13]).is_err() && transmitter.send(&[0; 9725]).is_err());
    assert_eq!(rig.model.card().sent(), [[0_u8; 0]; 0]);
    rig.nic.set_loopback(false).unwrap();
    transmitter.send(&udp(7, 7, 9724)).unwrap();
    assert_eq!(rig.model.card().sent(), [udp(7, 7, 9724)]);
    assert!(rig.drain(0).is_empty());
    drop(transmitter);
    assert_eq!(mapped(&rig), before);
    end(rig);
}

#[test]
fn one_transmitter_at_a_time() {
    let mut rig = rig(1);
    let first = rig.nic.transmitter().unwrap();
    let error = rig.nic.transmitter().unwrap_err();
    assert!(matches!(error, DriverError::QueueBusy { .. }), "{error}");
    drop(first);
    works(&mut rig);
    end(rig);
}

#[test]
fn each_command_of_starting_that_fails_is_named_and_costs_nothing() {
    for opcode in STARTING {
        let mut rig = rig(1);
        rig.any(0);
        let before = mapped(&rig);
        for code in E810::codes() {
            rig.model.set_fault(Fault::FailCommandWith(opcode, code));
            let error = rig.nic.transmitter().unwrap_err();
            let text = error.to_string();
            assert!(text.contains(&format!("{opcode:#06x}")), "{text}");
            assert_eq!(mapped(&rig), before, "{opcode:#x}");
        }
        rig.model.set_fault(Fault::None);
        works(&mut rig);
        rig.receive(&udp(1, 1, 100));
        assert_eq!(rig.drain(0).len(), 1);
        // Taking out twice what the reset left is refused, and is nobody's loss.
        rig.end();
    }
}

#[test]
fn no_command_is_given_that_the_lists_have_not() {
    let mut rig = rig(1);
    rig.nic.set_loopback(true).unwrap();
    rig.nic.set_loopback(false).unwrap();
    works(&mut rig);
    works(&mut rig);
    let model = Arc::clone(&rig.model);
    end(rig);
    for opcode in model.card().commands().keys() {
        let known = COMMANDS.iter().chain(&STARTING).chain(&OTHERS);
        assert!(
            known.into_iter().any(|known| known == opcode),
            "{opcode:#06x} belongs into OTHERS, and into a test"
        );
    }
}

#[test]
fn nodes_that_cannot_be_taken_out_are_left() {
    let mut rig = rig(1);
    rig.model.set_fault(Fault::FailCommand(0x040f));
    works(&mut rig);
    end(rig);
}

#[test]
fn a_context_that_is_refused_costs_nothing() {
    let mut rig = rig(1);
    let before = mapped(&rig);
    rig.model.say(&[(PF_FUNC_RID, 1)]);
    let text = rig.nic.transmitter().unwrap_err().to_string();
    assert!(text.contains("EINVAL") && text.contains("0x0c30"), "{text}");
    let refusals = rig.model.card().refusals();
    assert!(refusals[0].contains("function 1"), "{refusals:?}");
    assert_eq!(mapped(&rig), before);
    works(&mut rig);
    rig.end();
}

#[test]
fn a_queue_that_does_not_stop_costs_a_reset_or_its_memory() {
    for resets in [true, false] {
        let mut rig = rig(1);
        rig.any(0);
        let before = mapped(&rig);
        let mut transmitter = rig.nic.transmitter().unwrap();
        transmitter.send(&udp(1, 1, 100)).unwrap();
        rig.model.set_fault(Fault::FailCommand(0x0c31));
        rig.model.set_reset_fails(!resets);
        drop(transmitter);
        let fault = rig.queues[0].queue.fault().unwrap();
        if resets {
            assert_eq!((mapped(&rig), rig.model.resets()), (before, 1));
            assert!(fault.contains("was reset"), "{fault}");
        } else {
            assert_eq!(mapped(&rig), before + BUFFERS);
            assert!(fault.contains("could not be reset"), "{fault}");
        }
        rig.model.set_fault(Fault::None);
        rig.model.set_reset_fails(false);
        rig.nic.close_queue(0).unwrap();
        rig.queues.remove(0).end();
        // Whether it was reset then or is now.
        works(&mut rig);
        let leaked = if resets { 0 } else { BUFFERS };
        let model = Arc::clone(&rig.model);
        drop(rig);
        assert_eq!(model.mapped(), leaked);
    }
}

#[test]
fn a_vsi_that_is_not_given_back_ends_nothing() {
    let mut rig = rig(1);
    let transmitter = rig.nic.transmitter().unwrap();
    rig.model.set_fault(Fault::FailCommand(0x0213));
    drop(transmitter);
    rig.model.set_fault(Fault::None);
    works(&mut rig);
    assert_eq!(rig.model.resets(), 0);
    end(rig);
}

#[test]
fn firmware_that_does_not_answer_keeps_what_may_be_a_queues() {
    // At the start: nobody knows whether the last command was carried out.
    let mut rig = rig(0);
    let start = Instant::now();
    rig.model.set_fault(Fault::AdminQueueHangs);
    let error = rig.nic.transmitter().unwrap_err();
    assert!(
        error.to_string().contains("not answered in time"),
        "{error}"
    );
    rig.model.set_fault(Fault::None);
    works(&mut rig);
    assert_eq!(rig.model.resets(), 1);
    // At the end.
    let transmitter = rig.nic.transmitter().unwrap();
    rig.model.set_fault(Fault::AdminQueueHangs);
    drop(transmitter);
    rig.model.set_fault(Fault::None);
    assert_eq!((rig.model.resets(), mapped(&rig)), (2, ADMIN));
    works(&mut rig);
    assert!(start.elapsed() < Duration::from_secs(10));
    end(rig);
}

#[test]
fn a_transmitter_of_before_a_reset_sends_no_more() {
    let mut rig = rig(1);
    rig.nic.set_loopback(true).unwrap();
    let mut old = rig.nic.transmitter().unwrap();
    rig.model.set_fault(Fault::QueueWillNotStop);
    rig.nic.close_queue(0).unwrap();
    let queue = rig.queues.remove(0);
    let config = queue.config.clone();
    queue.end();
    rig.model.set_fault(Fault::None);
    config.provider.uninstall();
    rig.queues.push(Queue::open(&mut rig.nic, 0, config));
    rig.any(0);
    let mut new = rig.nic.transmitter().unwrap();
    let error = old.send(&udp(1, 1, 100)).unwrap_err();
    assert!(error.to_string().contains("was reset"), "{error}");
    drop(old);
    // The loopback is as it was.
    new.send(&udp(2, 1, 100)).unwrap();
    assert!(new.flush());
    assert_eq!(rig.drain(0).len(), 1);
    drop(new);
    end(rig);
}

#[test]
pub(super) fn a_reset_of_the_card_ends_sending_until_it_is_set_up_again() {
    for kind in [1, 2] {
        let mut rig = rig(0);
        let mut transmitter = rig.nic.transmitter().unwrap();
        rig.model.card().write32(GLGEN_RTRIG, kind);
        let error = first_error(&mut transmitter);
        assert!(error.contains("whole card was reset"), "{error}");
        drop(transmitter);
        assert_eq!(mapped(&rig), ADMIN);
        works(&mut rig);
        rig.end();
    }
}

/// Sends until that is an error, other than that frames are slow: a card is asked only every second whether it is still there.
fn first_error(transmitter: &mut Transmitter<IceModel>) -> String {
    let by = Instant::now() + Duration::from_secs(5);
    loop {
        match transmitter.send(&udp(1, 1, 100)) {
            Err(error) if !error.to_string().contains("half a second") => return error.to_string(),
            _ => assert!(Instant::now() < by, "nothing is noticed"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
pub(super) fn descriptors_that_are_refused_end_the_queue_and_say_so() {
    let data = |command: u64, len: u64| command << 4 | len << 34;
    // What the ring holds from its beginning on, and what the model says of it.
    let wrong: &[(&[u64], &str)] = &[
        (&[0x5 | data(3, 60)], "a descriptor of type 5"),
        (&[data(3 | 1 << 2, 60)], "reserved"),
        (&[data(3, 0)], "a buffer of 0 bytes"),
        (&[data(3, 10)], "17 is the least"),
        (&[data(2, 60); 9], "more than 8 buffers"),
        (&[8 | data(1 << 4, 60), data(3, 60)], "not a dummy"),
        (&[1 | 1 << 4, data(3, 60)], "a segment size of 0"),
    ];
    for &(descriptors, why) in wrong {
        let mut rig = rig(1);
        rig.any(0);
        let transmitter = rig.nic.transmitter().unwrap();
        let ring = transmitter.ring();
        for (at, descriptor) in (0..).zip(descriptors) {
            // The ring itself is memory that the card may read.
            let words = [ring.to_le_bytes(), descriptor.to_le_bytes()].concat();
            rig.model.corrupt(ring + at * 16, &words);
        }
        rig.model.card().write32(DOORBELL, descriptors.len() as u32);
        ends_and_comes_again(rig, transmitter, why);
    }
    // A buffer that is not the card's to read, and a doorbell beyond the ring.
    let mut one = rig(1);
    let transmitter = one.nic.transmitter().unwrap();
    let words = [16_u64.to_le_bytes(), data(3, 60).to_le_bytes()].concat();
    one.model.corrupt(transmitter.ring(), &words);
    one.model.card().write32(DOORBELL, 1);
    ends_and_comes_again(one, transmitter, "a buffer: ");
    let mut one = rig(1);
    let transmitter = one.nic.transmitter().unwrap();
    one.model.card().write32(DOORBELL, 64);
    ends_and_comes_again(one, transmitter, "beyond the 64 descriptors");
}

fn ends_and_comes_again(mut rig: Rig, mut transmitter: Transmitter<IceModel>, why: &str) {
    let refusals = rig.model.card().refusals();
    assert!(
        refusals.iter().any(|said| said.contains(why)),
        "{refusals:?}"
    );
    let error = first_error(&mut transmitter);
    assert!(error.contains("malicious driver detection"), "{error}");
    assert!(rig.queues[0].queue.fault().is_some());
    drop(transmitter);
    let _ = rig.nic.close_queue(0);
    rig.queues.remove(0).end();
    assert_eq!(mapped(&rig), ADMIN, "{why}");
    works(&mut rig);
    assert_eq!(rig.model.resets(), 1, "{why}");
}

#[test]
pub(super) fn frames_that_never_leave_are_an_error_in_time() {
    let mut rig = rig(1);
    let before = mapped(&rig);
    let mut transmitter = rig.nic.transmitter().unwrap();
    rig.model.set_fault(Fault::NoTransmitReport);
    let start = Instant::now();
    let sent = (0..100).take_while(|&port| transmitter.send(&udp(port, 1, 100)).is_ok());
    assert_eq!(sent.count(), 63);
    let error = transmitter.send(&udp(1, 1, 100)).unwrap_err();
    assert!(error.to_string().contains("half a second"), "{error}");
    assert!(!transmitter.flush());
    drop(transmitter);
    assert!(start.elapsed() < Duration::from_secs(4));
    assert_eq!(mapped(&rig), before);
    rig.model.set_fault(Fault::None);
    works(&mut rig);
    end(rig);
}

#[test]
pub(super) fn frames_that_get_lost_hold_nothing_up() {
    for fault in [Fault::TransmitLost, Fault::NoLoopback] {
        let mut rig = rig(1);
        rig.any(0);
        rig.nic.set_loopback(true).unwrap();
        let mut transmitter = rig.nic.transmitter().unwrap();
        rig.model.set_fault(fault);
        for port in 0..100 {
            transmitter.send(&udp(port, 1, 100)).unwrap();
        }
        assert!(transmitter.flush());
        assert!(rig.drain(0).is_empty());
        rig.model.set_fault(Fault::None);
        transmitter.send(&udp(1, 1, 100)).unwrap();
        assert_eq!(rig.drain(0).len(), 1);
        drop(transmitter);
        end(rig);
    }
}

#[test]
pub(super) fn garbled_frames_arrive_garbled() {
    let mut rig = rig(1);
    rig.any(0);
    rig.nic.set_loopback(true).unwrap();
    let mut transmitter = rig.nic.transmitter().unwrap();
    rig.model.set_fault(Fault::TransmitGarbled);
    transmitter.send(&udp(1, 1, 100)).unwrap();
    let packets = rig.drain(0);
    assert!(packets[0].frame() != udp(1, 1, 100));
    assert!(packets[0].flags.contains(RxFlags::CSUM_BAD));
    drop(transmitter);
    end(rig);
}

#[test]
fn loopback_that_is_refused_is_an_error() {
    for opcode in [0x0620, 0x0607] {
        let mut rig = rig(1);
        rig.model.set_fault(Fault::FailCommand(opcode));
        let text = rig.nic.set_loopback(true).unwrap_err().to_string();
        assert!(text.contains(&format!("{opcode:#06x}")), "{text}");
        assert!(!rig.nic.hears_itself().unwrap());
        rig.model.set_fault(Fault::None);
        rig.nic.set_loopback(false).unwrap();
        works(&mut rig);
        end(rig);
    }
}

#[test]
fn a_card_that_is_gone_sends_nothing_and_is_not_waited_for() {
    let mut rig = rig(0);
    let mut transmitter = rig.nic.transmitter().unwrap();
    rig.model.set_fault(Fault::Gone);
    let start = Instant::now();
    let error = first_error(&mut transmitter);
    assert!(error.contains("does not answer"), "{error}");
    assert!(rig.nic.transmitter().is_err());
    assert!(rig.nic.set_loopback(true).is_err());
    assert!(rig.nic.hears_itself().is_err());
    drop(transmitter);
    assert!(start.elapsed() < Duration::from_secs(8));
}
