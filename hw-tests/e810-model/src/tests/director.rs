//! Flow Director: profiles, filters, what becomes of them.

use super::pipeline::{MAC, ready, received};
use super::*;
use crate::Fault;

const RING: u64 = BASE + 0xc0_0000;

/// A filter descriptor and a dummy packet through transmit queue 8 of a VSI that may program filters.
fn program(driver: &mut Driver, low: u64, high: u64, packet: &[u8]) {
    if driver.card.read32(0x12_0020) & 4 == 0 {
        control(driver);
    }
    let at = u64::from(driver.card.read32(0x0e_0020));
    let mut descriptors = low.to_le_bytes().to_vec();
    descriptors.extend(high.to_le_bytes());
    descriptors.extend((RING + 0x8000).to_le_bytes());
    let data = (packet.len() as u64) << 34 | (0x10 | 2 | 1) << 4;
    descriptors.extend(data.to_le_bytes());
    driver.put(RING + at * 16, &descriptors);
    driver.put(RING + 0x8000, packet);
    driver.card.write32(0x2c_0000 + 8 * 4, at as u32 + 2);
    assert_eq!(driver.get(RING + at * 16 + 24, 1), [0xf], "written back");
}

/// A VSI that may program filters, with a queue pair.
fn control(driver: &mut Driver) {
    let control = {
        let mut context = [0_u8; 128];
        context[2] = 1;
        context[30] = 8;
        context[32] = 1;
        context[90] = 1 << 3;
        let mut params = [0; 16];
        params[6] = 2;
        let answer = driver.done(0x0210, params, &context);
        u16::from_le_bytes([answer.params[0], answer.params[1]])
    };
    driver.start_tx(8, control, RING);
    // The status of filters comes to its receive queue.
    assert!(driver.start(8, Setup::default()));
}

/// A profile that compares addresses and ports of IPv4 UDP, enabled for a VSI.
fn enable(driver: &mut Driver, vsi: u16) {
    driver.card.write32(0x43_a000, 1);
    let mut context = [0_u8; 128];
    context[1] = 8;
    context[90] = 1;
    let mut params = [0; 16];
    params[..2].copy_from_slice(&(vsi | 1 << 15).to_le_bytes());
    driver.done(0x0211, params, &context);
    let profile = driver.resource(0x58) as u8;
    let entry = driver.resource(0x59);
    driver.profile(30, profile, entry, vsi);
    // Words 23 to 18 are compared; addresses and ports change places.
    let mut swap = [0_u8; 24];
    for (word, with) in [(18, 19), (19, 18), (20, 22), (21, 23), (22, 20), (23, 21)] {
        swap[word] = with | 0x80;
    }
    for register in 0..6_u32 {
        let mut inset = 0;
        let mut swaps = 0;
        for byte in 0..4 {
            let word = (register * 4 + byte) as usize;
            if word >= 18 {
                inset |= 0x9f << (byte * 8);
                swaps |= u32::from(swap[word]) << (byte * 8);
            }
        }
        let at = u32::from(profile) * 4 + register * 512;
        driver.card.write32(0x41_2000 + at, inset);
        driver.card.write32(0x41_3000 + at, swaps);
    }
}

/// What programs the flow 10.0.0.1:1000 to 10.0.0.2:9: its answer, with addresses and ports the other way round.
fn example() -> Vec<u8> {
    let mut packet = udp(MAC, (9, 1000), &[]);
    packet[26..34].copy_from_slice(&[10, 0, 0, 2, 10, 0, 0, 1]);
    packet
}

#[test]
fn a_filter_directs_its_flow_to_its_queue() {
    let (mut driver, vsi) = ready();
    enable(&mut driver, vsi);
    let low = 3 | 1 << 12 | 1 << 29;
    let high = 8 | u64::from(vsi) << 14 | 77 << 32;
    program(&mut driver, low, high, &example());
    assert!(
        driver.card.refusals().is_empty(),
        "{:?}",
        driver.card.refusals()
    );
    let flow = udp(MAC, (1000, 9), &[0; 64]);
    assert!(driver.card.receive(&flow));
    assert!(driver.card.receive(&udp(MAC, (1001, 9), &[0; 64])));
    assert_eq!(received(&driver), [0, 3]);
    assert_eq!(driver.descriptor(3, 0)[24], 77, "flow id");
    assert_eq!(driver.card.read32(0x3a_0000), 1, "counted");
    driver.card.set_fault(Fault::NoFlowDirector);
    assert!(driver.card.receive(&flow));
    assert_eq!(driver.descriptor(0, 1)[8] & 1, 1);
}

#[test]
fn a_filter_without_a_profile_is_refused() {
    let (mut driver, vsi) = ready();
    program(
        &mut driver,
        3 | 1 << 12,
        8 | u64::from(vsi) << 14,
        &udp(MAC, (1, 2), &[]),
    );
    assert_eq!(driver.card.refusals().len(), 1);
}

#[test]
fn what_became_of_a_filter_is_told() {
    let (mut driver, vsi) = ready();
    enable(&mut driver, vsi);
    let all = 3 | 2 << 12;
    let add = 8 | u64::from(vsi) << 14;
    let remove = add | 1 << 4;
    let status = |driver: &Driver, index: u64| driver.descriptor(8, index)[8];
    program(&mut driver, all, add, &example());
    assert_eq!(status(&driver, 0), 1, "added");
    assert_eq!(driver.card.read32(0x46_0180), 1);
    program(&mut driver, all, remove, &example());
    assert_eq!(status(&driver, 1), 1 | 1 << 1, "removed");
    program(&mut driver, all, remove, &example());
    assert_eq!(status(&driver, 2), 1 | 1 << 1 | 1 << 4, "nothing to remove");
    let tcp = {
        let mut packet = example();
        packet[23] = 6;
        packet.resize(54, 0x50);
        packet[17] = 40;
        packet
    };
    program(&mut driver, all, add, &tcp);
    assert_eq!(status(&driver, 3), 1 | 1 << 5, "no profile");
    // Only failures are told.
    program(&mut driver, 3 | 1 << 12, add, &example());
    assert_eq!(status(&driver, 4) & 1, 0);
    assert!(driver.card.receive(&udp(MAC, (1000, 9), &[0; 64])));
    assert_eq!(received(&driver), [3]);
    // The filters go with the configuration.
    driver.done(0x02a4, [0; 16], &[]);
    assert_eq!(driver.card.read32(0x46_0180), 0);
}
