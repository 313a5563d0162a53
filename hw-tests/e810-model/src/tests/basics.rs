//! Registers, resets, commands, events.

use super::*;
use crate::{Fault, Reset};

#[test]
fn versions_and_capabilities_are_told() {
    let mut driver = Driver::new(Personality::default());
    let answer = driver.send(0x0001, [0; 16], &[], false);
    assert_eq!(&answer.params[12..], [0, 1, 5, 9]);
    let answer = driver.send(0x000a, [0; 16], &[0; 4096], false);
    let count = u32::from_le_bytes(answer.params[4..8].try_into().unwrap());
    let queues = (0..count as usize)
        .map(|i| &answer.buffer[i * 32..i * 32 + 32])
        .find(|element| element[0] == 0x41)
        .unwrap();
    assert_eq!(u32::from_le_bytes(queues[4..8].try_into().unwrap()), 256);
}

#[test]
fn a_command_needs_bus_mastering_and_a_queue() {
    let card = E810::new(Personality::default());
    let ram = Arc::new(Ram::new(BASE, 1 << 20));
    card.set_memory(ram);
    card.write32(0x8_0400, 1);
    card.write32(0x8_0000, BASE as u32);
    card.write32(0x8_0200, 1 << 31 | 32);
    card.write32(0x8_0400, 1);
    assert_eq!(card.read32(0x8_0300), 0);
    assert!(card.read32(0x8_0200) & 1 << 30 != 0, "critical error");
    assert_eq!(card.refusals().len(), 2, "{:?}", card.refusals());
}

#[test]
fn unknown_commands_and_bad_buffers_are_refused() {
    let mut driver = Driver::new(Personality::default());
    assert_eq!(driver.send(0xff32, [0; 16], &[], false).code, 17);
    assert!(driver.card.refusals().is_empty());
    // No RD flag on input.
    assert_eq!(driver.send(0x0210, [0; 16], &[0; 128], false).code, 14);
    // A fault by name.
    driver.card.set_fault(Fault::FailCommand(1));
    assert_eq!(driver.send(1, [0; 16], &[], false).code, 5);
    assert_eq!(driver.card.refusals().len(), 1);
}

#[test]
fn the_flash_says_its_size_and_its_banks() {
    let mut driver = Driver::new(Personality::default());
    let mut read = |offset: u32, len: u16| {
        let mut params = [0; 16];
        params[..3].copy_from_slice(&offset.to_le_bytes()[..3]);
        params[6..8].copy_from_slice(&len.to_le_bytes());
        driver.send(0x0701, params, &vec![0; usize::from(len)], false)
    };
    assert_eq!(read(1 << 20, 1).code, 14);
    assert_eq!(read((1 << 20) - 1, 1).code, 0);
    assert_eq!(read(0xfff, 2).code, 14);
    assert_eq!(read(0, 2).buffer, [0x40, 0]);
    let pointer = u16::from_le_bytes(read(0x84, 2).buffer.try_into().unwrap());
    let bank = u32::from(pointer & 0x7fff) * 4096;
    assert_eq!(read(bank + 4, 2).buffer, [0x48, 1]);
}

#[test]
fn a_function_reset_stops_queues_and_takes_vsis() {
    let mut driver = Driver::new(Personality::default());
    let vsi = driver.add_vsi(0, 1);
    assert!(driver.start(0, Setup::default()));
    driver.card.write32(0x9_1000, 1);
    let reads = (0..10)
        .take_while(|_| driver.card.read32(0x9_1000) & 1 != 0)
        .count();
    assert!((1..10).contains(&reads));
    assert_eq!(driver.card.read32(0x12_0000), 0);
    let mut params = [0; 16];
    params[..2].copy_from_slice(&(vsi | 1 << 15).to_le_bytes());
    assert_eq!(driver.send(0x0213, params, &[], false).code, 2);
}

#[test]
fn a_core_reset_is_announced_then_happens() {
    let mut driver = Driver::new(Personality::default());
    driver.card.write32(0x16_ca80, 1 << 30);
    driver.card.write32(0x16_c900, 1 << 20);
    driver.card.write32(0x16_0000, 1);
    driver.add_vsi(0, 1);
    assert!(driver.start(0, Setup::default()));
    driver.card.start_reset(Reset::Core);
    assert_eq!(driver.interrupts(), [0]);
    assert!(driver.card.read32(0x16_ca00) & 1 << 20 != 0);
    assert_eq!(driver.card.read32(0xb_8188) >> 2 & 3, 1, "type");
    assert_eq!(driver.card.read32(0x12_0000) & 4, 4, "not yet");
    let reads = (0..20)
        .take_while(|_| driver.card.read32(0xb_8188) & 3 != 0)
        .count();
    assert!((2..20).contains(&reads), "{reads}");
    assert_eq!(driver.card.read32(0xb_6008), 0x33b);
    assert_eq!(driver.card.read32(0xb_8188) >> 4 & 3, 1, "counted");
    assert_eq!(driver.card.read32(0x12_0000), 0);
    assert_eq!(driver.card.read32(0x8_0200) >> 31, 0);
    driver.admin();
    driver.done(0x0001, [0; 16], &[]);
}

#[test]
fn a_reset_that_hangs_does() {
    let driver = Driver::new(Personality::default());
    driver.card.set_fault(Fault::ResetHangs);
    driver.card.write32(0x9_1000, 1);
    driver.card.write32(0xb_8190, 1);
    for _ in 0..100 {
        assert!(driver.card.read32(0x9_1000) & 1 != 0);
        assert!(driver.card.read32(0xb_8188) & 3 != 0);
    }
}

#[test]
fn a_link_change_is_an_event() {
    let mut driver = Driver::new(Personality::default());
    driver.card.write32(0x16_c800, 1 << 30);
    driver.card.write32(0x16_0000, 1);
    let mut params = [0; 16];
    params[2] = 3;
    let status = driver.send(0x0607, params, &[0; 32], false).buffer;
    assert_eq!(status[2] & 1, 1);
    driver.card.set_link(false);
    assert_eq!(driver.interrupts(), [0]);
    assert_eq!(driver.card.read32(0x8_0380), 1);
    let event = driver.get(ARQ, 32);
    assert_eq!(event[2..4], [0x07, 0x06]);
    assert_eq!(driver.get(EVENTS, 32)[2] & 1, 0);
    // Masked, nothing comes.
    params = [0; 16];
    params[8] = 2;
    driver.done(0x0613, params, &[]);
    driver.card.set_link(true);
    assert_eq!(driver.card.read32(0x8_0380), 1);
}

#[test]
fn a_card_that_is_gone_reads_ones() {
    let driver = Driver::new(Personality::default());
    driver.card.set_fault(Fault::Gone);
    assert_eq!(driver.card.read32(0xb_8188), u32::MAX);
    let mut id = [0; 4];
    driver.card.config_read(0, &mut id);
    assert_eq!(id, [0xff; 4]);
}

#[test]
fn locks_are_held_once_and_given_back_once() {
    let mut driver = Driver::new(Personality::default());
    let mut lock = |opcode: u16, resource: u8, access: u8| {
        let mut params = [0; 16];
        params[0] = resource;
        params[2] = access;
        driver.send(opcode, params, &[], false).code
    };
    assert_eq!(lock(8, 1, 1), 0);
    assert_eq!(lock(8, 1, 1), 12);
    assert_eq!(lock(9, 1, 0), 0);
    assert_eq!(lock(9, 1, 0), 14);
    assert_eq!(lock(8, 1, 3), 14);
    assert_eq!(lock(8, 9, 1), 14);
}

#[test]
fn the_schedulers_tree_is_changed_by_commands() {
    let mut driver = Driver::new(Personality::default());
    let topology = driver.send(0x0400, [0; 16], &[0; 4096], false).buffer;
    let node = |i: usize| {
        let at = 8 + i * 24;
        let word = |at: usize| u32::from_le_bytes(topology[at..at + 4].try_into().unwrap());
        (word(at), word(at + 4))
    };
    let mut one = [0; 16];
    one[0] = 1;
    let delete = |(parent, teid): (u32, u32)| {
        let mut buffer = parent.to_le_bytes().to_vec();
        buffer.extend([1, 0, 0, 0]);
        buffer.extend(teid.to_le_bytes());
        buffer
    };
    assert_eq!(
        driver.send(0x040f, one, &delete(node(7)), true).code,
        12,
        "children"
    );
    assert_eq!(driver.send(0x040f, one, &delete((1, 2)), true).code, 14);
    assert_eq!(driver.send(0x040f, one, &delete(node(8)), true).code, 0);
    assert_eq!(driver.send(0x040f, one, &delete(node(7)), true).code, 0);
    // Query, suspend, path to the root.
    let mut query = [0; 24];
    query[4..8].copy_from_slice(&node(6).1.to_le_bytes());
    driver.done(0x0409, one, &node(6).1.to_le_bytes());
    let found = driver.done(0x0404, one, &query).buffer;
    assert_eq!(found[..4], node(6).0.to_le_bytes());
    assert_eq!(found[8 + 3] & 1, 1, "suspended");
    let mut params = [0; 16];
    params[..4].copy_from_slice(&node(6).1.to_le_bytes());
    let path = driver.send(0x0413, params, &[0; 4096], false);
    assert_eq!(path.params[4], 7);
    assert_eq!(path.buffer[4..8], node(0).1.to_le_bytes());
    // Nine layers.
    assert_eq!(
        driver.send(0x0412, [0; 16], &[0; 512], false).buffer[..4],
        [9, 0, 9, 0]
    );
}
