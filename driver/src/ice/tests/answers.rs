//! The driver's answer to whatever the model can do wrong or refuse: a list that is complete, because a test here
//! fails when it is not. `docs/src/e810-answers.md` shows it, and another test fails when it shows something else.

use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::faults::{COMMANDS, all_again, fault_of, rig, works};
use super::rig::{ADMIN, Queue, Rig, Setup, readable, udp};
use super::{clock, faults, hostile, life, split, transmit};
use crate::ice::IceNic;
use crate::ice::model::{E810, Fault, IceModel};
use crate::ice::regs::{ADMIN_RECEIVE, ADMIN_SEND, QRX_TAIL, control};
use crate::{DriverError, Flows, Nic, RxQueue};

/// The page that shows the lists.
const PAGE: &str = include_str!("../../../../docs/src/e810-answers.md");

/// What went wrong, the driver's answer in words, the test that sees it and its name.
type Answers<T> = &'static [(T, &'static str, &'static str, fn())];

macro_rules! answers {
    ($($what:expr => $($test:ident)::+, $answer:literal;)*) => {
        // A test that is renamed or gone does not build here.
        &[$(($what, $answer, stringify!($($test)::+), $($test)::+ as fn())),*]
    };
}

/// Each fault without a parameter. `fail-command` is [`every_command_is_refused_for_every_reason`]'s.
const FAULTS: Answers<Fault> = answers! {
    Fault::SwappedBuffers => faults::faults_that_no_driver_can_see_break_nothing_else,
        "cannot be seen by it; a guest's test by every byte does";
    Fault::WrongHeaderLength => faults::faults_that_no_driver_can_see_break_nothing_else,
        "cannot be seen by it; a guest's test by every byte does";
    Fault::SplitOffByOne => faults::faults_that_no_driver_can_see_break_nothing_else,
        "cannot be seen by it; a guest's test by every byte does";
    Fault::WrongPacketLength => faults::what_cannot_be_true_of_a_packet_costs_the_packet,
        "a drop, `bad_descriptor`, where the length cannot be true";
    Fault::Hbo => split::an_overflow_is_dropped_whatever_the_policy, "a drop, `unsplit`";
    Fault::NoSph => split::the_policy_decides_about_what_is_not_split,
        "delivered and counted, or a drop, `unsplit`, as the attachment wants";
    Fault::LateDescriptor => life::a_lost_interrupt_and_a_late_descriptor_lose_no_packet, "the packet comes with the next look";
    Fault::NoDoneBit => faults::descriptors_that_are_never_done_hold_nothing_up, "nothing is taken, and the queue still ends";
    Fault::ReceiveError => faults::what_cannot_be_true_of_a_packet_costs_the_packet, "a drop, `error`";
    Fault::LostInterrupt => life::a_lost_interrupt_and_a_late_descriptor_lose_no_packet, "the packet comes with the next look";
    Fault::WrongHash => faults::faults_that_no_driver_can_see_break_nothing_else, "the hash is told as it is; queues are not chosen by it";
    Fault::NoSpread => what_is_not_spread_still_arrives, "all packets come to the first queue, and are counted there";
    Fault::NoFlowDirector => faults::faults_that_no_driver_can_see_break_nothing_else, "none: rules of the switch steer, not these";
    Fault::NoRules => rules_without_effect_bring_nothing, "nothing comes, and nothing is counted but by the port";
    Fault::QueueWillNotStop => faults::a_queue_that_does_not_stop_costs_a_reset_and_ends_the_others,
        "the function is reset; other queues end with that reason";
    Fault::ResetHangs => faults::firmware_that_never_answers_is_an_error_in_time, "an error in words, in time";
    Fault::AdminQueueHangs => faults::firmware_that_does_not_answer_costs_a_second_and_a_reset,
        "an error after a second; queues go on; the next that is opened has the NIC reset";
    Fault::StrayBuffers => payload_that_goes_astray_touches_no_memory,
        "cannot be seen by it; the IOMMU stops the writes, and its reports are counted (`iommu_faults`)";
    Fault::StrayRing => a_ring_that_cannot_be_read_ends_the_queue,
        "the card reports an error of the bus: the queue ends with that reason, and can be had again";
    Fault::QueueWillNotStart => a_queue_that_does_not_start_is_an_error_and_can_be_had_later,
        "an error in words; its memory is taken from the card; it opens once the card does";
    Fault::NoTransmitReport => transmit::frames_that_never_leave_are_an_error_in_time,
        "an error in words after half a second; sending ends, and can begin again";
    Fault::TransmitLost => transmit::frames_that_get_lost_hold_nothing_up, "cannot be seen by it; the self-test does";
    Fault::TransmitGarbled => transmit::garbled_frames_arrive_garbled,
        "cannot be seen where it is sent; the self-test sees each byte, and checksums tell who receives";
    Fault::NoLoopback => transmit::frames_that_get_lost_hold_nothing_up, "cannot be seen by it; the self-test does";
    Fault::StampInvalid => clock::stamps_that_cannot_be_true_are_not_believed,
        "packets carry software's time, and say so";
    Fault::StampOfOtherTimer => clock::stamps_that_cannot_be_true_are_not_believed,
        "packets carry software's time, and say so";
    Fault::ClockStands => clock::a_clock_that_cannot_be_had_is_refused,
        "a queue that asks for stamps is refused; one that is open has software's time until the clock runs";
    Fault::SemaphoreHeld => clock::a_clock_that_cannot_be_had_is_refused,
        "a queue that asks for stamps is refused after a quarter of a second";
    Fault::Gone => faults::a_card_that_is_gone_is_told_and_left_alone, "queues and the NIC end with that reason";
};

/// What the model refuses at registers and in memory, by the beginning of its words; commands' refusals are [`every_command_is_refused_for_every_reason`]'s.
const REFUSALS: Answers<&str> = answers! {
    "the cause at" => life::a_lost_interrupt_and_a_late_descriptor_lose_no_packet,
        "no interrupt comes: as with `lost-interrupt`";
    "receive queue {queue} does not start" => a_queue_that_does_not_start_is_an_error_and_can_be_had_later,
        "as with `queue-will-not-start`: the card shows no more than that";
    "receive queue {queue}: tail {value} is beyond" => a_tail_beyond_the_ring_is_told_as_malicious,
        "the card stops the queue and reports a malicious driver: all queues end with that reason, and can be had again";
    "receive queue {queue}: descriptor {index} cannot be read" => a_ring_that_cannot_be_read_ends_the_queue, "as with `stray-ring`";
    "receive queue {queue}: a write for a packet" => payload_that_goes_astray_touches_no_memory, "as with `stray-buffers`";
    "receive queue {queue}, until it stopped" => payload_that_goes_astray_touches_no_memory, "none: the sum of those before";
    "a descriptor's header address" => life::queues_come_and_go_many_times, "does not happen: the driver's slots begin at even addresses";
    "ATQ: the tail was written" => an_admin_queue_that_fails_costs_a_reset, "an error after a second, then as with `admin-queue-hangs`";
    "ATQ: tail {tail} is beyond" => an_admin_queue_that_fails_costs_a_reset, "an error after a second, then as with `admin-queue-hangs`";
    "ATQ: descriptor {index}" => an_admin_queue_that_fails_costs_a_reset, "an error after a second, then as with `admin-queue-hangs`";
    "command {:#06x}: {:?}: {}" => every_command_is_refused_for_every_reason, "an error that names command and code";
    "command {:#06x}: its buffer" => hostile::a_nic_that_lies_is_survived, "the answer is what was in the buffer: taken as any answer, with checks";
    "transmit queue {number}: its doorbell" => transmit::a_reset_of_the_card_ends_sending_until_it_is_set_up_again,
        "none: the queue has ended, and says so with the next frame";
    "transmit queue {number}: write-back" => transmit::what_is_sent_comes_back_in_loopback,
        "does not happen: what the card may read of a ring it may write";
    "transmit queue {number} is stopped" => transmit::descriptors_that_are_refused_end_the_queue_and_say_so,
        "the card reports a malicious driver: sending and all queues end with that reason, and can be had again";
    "PFTSYN_SEM is written" => clock::packets_carry_the_cards_time, "does not happen: what was taken is given back once";
    "GLTSYN: register {offset:#x} is written" => clock::packets_carry_the_cards_time, "does not happen: the timer of another function is only read";
    "GLTSYN_CMD_SYNC: nothing is done" => clock::packets_carry_the_cards_time, "does not happen: the order is that of other drivers; the clock would not run: as with `clock-stands`";
    "ARQ: descriptor {head}" => events_that_cannot_be_told_end_the_queues, "the card says so: queues end with that reason, and can be had again";
};

/// Where the model refuses.
const SOURCES: [&str; 8] = [
    include_str!("../../../../hw-tests/e810-model/src/clock/mod.rs"),
    include_str!("../../../../hw-tests/e810-model/src/interrupts.rs"),
    include_str!("../../../../hw-tests/e810-model/src/rx/mod.rs"),
    include_str!("../../../../hw-tests/e810-model/src/rx/deliver.rs"),
    include_str!("../../../../hw-tests/e810-model/src/tx/ring.rs"),
    include_str!("../../../../hw-tests/e810-model/src/adminq/mod.rs"),
    include_str!("../../../../hw-tests/e810-model/src/reset.rs"),
    include_str!("../../../../hw-tests/e810-model/src/state.rs"),
];

/// The texts that follow calls of `State::refuse` in a source: the first string after each.
fn refusals_in(source: &str) -> impl Iterator<Item = &str> {
    source.match_indices(".refuse(").filter_map(|(at, _)| {
        let (_, rest) = source[at..].split_once('"')?;
        rest.split_once('"').map(|(text, _)| text)
    })
}

#[test]
fn every_fault_has_a_test_of_the_drivers_answer() {
    for fault in Fault::all().filter(|fault| *fault != Fault::None) {
        let answers = FAULTS.iter().filter(|answer| answer.0 == fault).count();
        assert_eq!(answers, 1, "{fault} belongs into FAULTS, once");
    }
}

#[test]
fn every_refusal_has_a_test_of_the_drivers_answer() {
    let mut used = vec![false; REFUSALS.len()];
    let mut found = 0;
    for text in SOURCES.into_iter().flat_map(refusals_in) {
        found += 1;
        let answer = REFUSALS
            .iter()
            .position(|answer| text.starts_with(answer.0));
        let answer = answer.unwrap_or_else(|| panic!("{text:?} belongs into REFUSALS"));
        used[answer] = true;
    }
    assert!(found >= REFUSALS.len(), "the sources were not read");
    for (answer, used) in REFUSALS.iter().zip(used) {
        assert!(used, "the model does not say {:?} any more", answer.0);
    }
}

fn without_module(test: &str) -> &str {
    test.rsplit(':').next().map_or(test, str::trim)
}

#[test]
fn the_documentation_shows_these_answers() {
    let mut page = String::new();
    for (fault, answer, test, _) in FAULTS {
        let test = without_module(test);
        let _ = writeln!(page, "| `{fault}` | {answer} | `{test}` |");
    }
    assert!(
        PAGE.contains(&page),
        "docs/src/e810-answers.md should have\n{page}"
    );
    page.clear();
    for (refusal, answer, test, _) in REFUSALS {
        let test = without_module(test);
        let _ = writeln!(page, "| `{refusal}` | {answer} | `{test}` |");
    }
    assert!(
        PAGE.contains(&page),
        "docs/src/e810-answers.md should have\n{page}"
    );
}

/// Each command that the driver gives, with each code that the model's firmware has, while the NIC is opened and while it is in use.
#[test]
fn every_command_is_refused_for_every_reason() {
    for opcode in COMMANDS {
        for code in E810::codes() {
            let fault = Fault::FailCommandWith(opcode, code);
            // Who may not have the lock because somebody has loaded the package says that there is none.
            let named = [opcode, 0x0c40].map(|opcode| format!("{opcode:#06x}"));
            let named = &named[..1 + usize::from(opcode == REQUEST)];
            let setup = Setup::default();
            let model = IceModel::new(setup.personality);
            model.set_fault(fault);
            if let Err(error) = IceNic::open(Arc::clone(&model), setup.options) {
                let text = error.to_string();
                assert!(matches!(error, DriverError::Firmware { .. }), "{text}");
                assert!(
                    named.iter().any(|name| text.contains(name)),
                    "{fault}: {text}"
                );
            }
            assert_eq!(model.mapped(), 0, "{fault}");
        }
    }
    for opcode in COMMANDS.into_iter().filter(|opcode| *opcode != RELEASE) {
        let mut rig = rig(2);
        rig.any(0);
        for code in E810::codes() {
            refused_in_use(&mut rig, opcode, code, &[opcode]);
            rig.receive(&udp(1, 5000, 100));
            assert_eq!(
                (rig.drain(0).len(), rig.drain(1).len()),
                (1, 0),
                "{opcode:#x}"
            );
        }
        rig.end();
    }
    // A lock that was not given back is still held: the next request for it is what fails, until the function is reset.
    for code in E810::codes() {
        let mut rig = rig(2);
        rig.any(0);
        refused_in_use(&mut rig, RELEASE, code, &[RELEASE, REQUEST]);
        rig.receive(&udp(1, 1, 100));
        assert_eq!(rig.drain(0).len(), 1);
        drop(rig.queues.drain(..).map(Queue::end).collect::<Vec<_>>());
        let model = Arc::clone(&rig.model);
        drop(rig);
        assert_eq!(model.mapped(), 0);
    }
}

/// Requests and gives back a lock.
const REQUEST: u16 = 0x0008;
const RELEASE: u16 = 0x0009;

/// A rule comes and goes while a command fails: an error that names one of `named`, or none. What is left of it is taken away after.
fn refused_in_use(rig: &mut Rig, opcode: u16, code: u16, named: &[u16]) {
    let fault = Fault::FailCommandWith(opcode, code);
    rig.model.set_fault(fault);
    let rule = "udp,dst-port=5000".parse().unwrap();
    let mut done = rig.nic.add_flow(1..=1, 8, &rule).map(drop);
    if done.is_ok() {
        done = rig.nic.remove_flow(1..=1, 8);
    }
    if let Err(error) = done {
        let text = error.to_string();
        let names = |opcode: &u16| text.contains(&format!("{opcode:#06x}"));
        assert!(named.iter().any(names), "{fault}: {text}");
    }
    rig.model.set_fault(Fault::None);
    let _ = rig.nic.remove_flow(1..=1, 8);
}

/// The list of commands is complete: a life of everything gives no other.
#[test]
fn no_command_is_given_that_the_list_has_not() {
    let mut rig = rig(4);
    works(&mut rig);
    for (queues, id, rule) in [
        (2..=3, 20, "tcp,dst-port=80"),
        (1..=1, 21, "dst-mac=02:00:00:00:00:77"),
        (1..=1, 22, "ip6,src=fd77:1::/48"),
    ] {
        rig.nic
            .add_flow(queues, id, &rule.parse().unwrap())
            .unwrap();
    }
    for id in 20..=22 {
        let queues = if id == 20 { 2..=3 } else { 1..=1 };
        rig.nic.remove_flow(queues, id).unwrap();
    }
    all_again(&mut rig);
    works(&mut rig);
    let model = Arc::clone(&rig.model);
    rig.end();
    for opcode in model.card().commands().keys() {
        assert!(
            COMMANDS.contains(opcode),
            "{opcode:#06x} belongs into COMMANDS"
        );
    }
}

fn what_is_not_spread_still_arrives_on(rig: &mut Rig) -> [usize; 2] {
    for port in 0..40 {
        rig.receive(&udp(1000 + port * 37, 5000, 100));
    }
    [rig.drain(0).len(), rig.drain(1).len()]
}

#[test]
fn what_is_not_spread_still_arrives() {
    let mut rig = rig(2);
    rig.nic.add_flow(0..=1, 3, &"any".parse().unwrap()).unwrap();
    let spread = what_is_not_spread_still_arrives_on(&mut rig);
    assert!(spread[0] > 0 && spread[1] > 0, "{spread:?}");
    rig.model.set_fault(Fault::NoSpread);
    assert_eq!(what_is_not_spread_still_arrives_on(&mut rig), [40, 0]);
    assert_eq!(
        rig.queues[0].queue.counters().received,
        spread[0] as u64 + 40
    );
    rig.end();
}

#[test]
fn rules_without_effect_bring_nothing() {
    let mut rig = rig(2);
    works(&mut rig);
    rig.model.set_fault(Fault::NoRules);
    for port in [1, 5000] {
        assert!(!rig.model.card().receive(&udp(1, port, 100)));
    }
    assert!(rig.drain(0).is_empty() && rig.drain(1).is_empty());
    rig.model.set_fault(Fault::None);
    rig.receive(&udp(1, 5000, 100));
    assert_eq!(rig.drain(1).len(), 1);
    rig.end();
}

#[test]
fn a_queue_that_does_not_start_is_an_error_and_can_be_had_later() {
    let mut rig = rig(1);
    rig.nic.close_queue(0).unwrap();
    let old = rig.queues.remove(0);
    let config = old.config.clone();
    old.end();
    config.provider.uninstall();
    config.provider.init(&rig.nic.needs()).unwrap();
    rig.model.set_fault(Fault::QueueWillNotStart);
    let start = Instant::now();
    let error = rig.nic.open_queue(0, config.clone()).unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(2));
    assert!(matches!(error, DriverError::QueueBusy { .. }), "{error}");
    assert!(error.to_string().contains("does not enable it"), "{error}");
    assert_eq!(
        rig.model.mapped(),
        ADMIN,
        "its memory is taken from the card"
    );
    config.provider.uninstall();
    rig.model.set_fault(Fault::None);
    rig.queues.push(Queue::open(&mut rig.nic, 0, config));
    rig.any(0);
    rig.receive(&udp(1, 1, 100));
    assert_eq!(rig.drain(0).len(), 1);
    rig.end();
}

#[test]
fn a_tail_beyond_the_ring_is_told_as_malicious() {
    let mut rig = rig(2);
    works(&mut rig);
    assert!(rig.queues[1].queue.arm());
    // What no driver should write: beyond the 64 descriptors.
    rig.model.card().write32(QRX_TAIL.at(0), 64);
    let fault = fault_of(&rig, 1);
    assert!(fault.contains("malicious driver detection"), "{fault}");
    all_again(&mut rig);
    works(&mut rig);
    rig.end();
}

#[test]
fn a_ring_that_cannot_be_read_ends_the_queue() {
    let mut rig = rig(1);
    rig.any(0);
    assert!(rig.queues[0].queue.arm());
    rig.model.set_fault(Fault::StrayRing);
    for port in 0..100 {
        assert!(!rig.model.card().receive(&udp(port, 1, 100)));
    }
    let fault = fault_of(&rig, 0);
    assert!(fault.contains("on the bus"), "{fault}");
    assert!(rig.drain(0).is_empty());
    let counters = rig.queues[0].queue.counters();
    assert_eq!((counters.errors, counters.no_descriptor), (100, 0));
    assert!(rig.model.dma_faults() > 0, "the IOMMU stopped the card");
    rig.model.set_fault(Fault::None);
    all_again(&mut rig);
    rig.any(0);
    rig.receive(&udp(1, 1, 100));
    assert_eq!(rig.drain(0).len(), 1);
    // Once for the first of them, and once how many they were.
    let refusals = rig.model.card().refusals();
    assert_eq!(refusals.len(), 2, "{refusals:?}");
    assert!(
        refusals[1].contains("100 packets were lost"),
        "{refusals:?}"
    );
    let stopped = rig.model.dma_faults();
    drop(rig.queues.drain(..).map(Queue::end).collect::<Vec<_>>());
    assert_eq!(rig.model.dma_faults(), stopped);
}

#[test]
fn payload_that_goes_astray_touches_no_memory() {
    let mut rig = rig(1);
    rig.any(0);
    let before = rig.region.mapping().unwrap();
    assert!(before.copy_in(0, &vec![0x5a; 128 * 2048]));
    rig.model.set_fault(Fault::StrayBuffers);
    for port in 0..10 {
        rig.receive(&udp(port, 1, 100));
    }
    // The card says that the packets are there, so they are handed out: with what was in the memory before.
    let packets = rig.drain(0);
    assert_eq!(packets.len(), 10);
    for packet in &packets {
        assert_eq!(packet.header.len(), 42);
        assert!(packet.payload.iter().all(|&byte| byte == 0x5a));
    }
    let mut after = vec![0; 128 * 2048];
    assert!(rig.region.mapping().unwrap().copy_out(0, &mut after));
    assert!(after.iter().all(|&byte| byte == 0x5a), "not a byte changed");
    assert_eq!(rig.model.dma_faults(), 10, "the IOMMU stopped each");
    rig.model.set_fault(Fault::None);
    rig.receive(&udp(1, 1, 100));
    assert_eq!(rig.drain(0)[0].frame(), udp(1, 1, 100));
    rig.nic.close_queue(0).unwrap();
    drop(rig.queues.drain(..).map(Queue::end).collect::<Vec<_>>());
    let refusals = rig.model.card().refusals();
    assert_eq!(refusals.len(), 2, "{refusals:?}");
    assert!(refusals[1].contains("10 writes"), "{refusals:?}");
}

#[test]
fn an_admin_queue_that_fails_costs_a_reset() {
    for (register, value) in [
        // It was turned off; it is shorter than the driver knows; its ring is where nothing is mapped.
        (ADMIN_SEND.length, 0),
        (ADMIN_SEND.length, 1 | control::ENABLE),
        (ADMIN_SEND.base_low, 0x1000),
    ] {
        let mut rig = rig(2);
        works(&mut rig);
        rig.model.card().write32(register, value);
        let rule = "udp,dst-port=6000".parse().unwrap();
        let start = Instant::now();
        let error = rig.nic.add_flow(0..=0, 9, &rule).unwrap_err();
        assert!(error.to_string().contains("not answered"), "{error}");
        assert!(start.elapsed() < Duration::from_secs(3));
        // Queues go on.
        rig.receive(&udp(1, 1, 100));
        assert_eq!(rig.drain(0).len(), 1);
        for queue in 0..2 {
            let _ = rig.nic.close_queue(queue);
        }
        all_again(&mut rig);
        assert_eq!(rig.model.resets(), 1);
        works(&mut rig);
        drop(rig.queues.drain(..).map(Queue::end).collect::<Vec<_>>());
    }
}

#[test]
fn events_that_cannot_be_told_end_the_queues() {
    let mut rig = rig(1);
    rig.any(0);
    assert!(rig.queues[0].queue.arm());
    rig.model.card().write32(ADMIN_RECEIVE.base_low, 0x1000);
    rig.model.card().set_link(false);
    let fault = fault_of(&rig, 0);
    assert!(fault.contains("on the bus"), "{fault}");
    assert!(readable(rig.queues[0].queue.wait_fd(), 1000));
    rig.model.card().set_link(true);
    all_again(&mut rig);
    rig.any(0);
    rig.receive(&udp(1, 1, 100));
    assert_eq!(rig.drain(0).len(), 1);
    drop(rig.queues.drain(..).map(Queue::end).collect::<Vec<_>>());
}
