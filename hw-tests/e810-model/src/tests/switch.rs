//! Rules of every kind, VLANs, VSIs that reach each other, descriptors by profile.

use super::*;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 8];

fn open() -> Personality {
    Personality {
        parses_without_package: true,
        ..Personality::default()
    }
}

impl Driver {
    /// A rule of one of the firmware's recipes.
    fn rule(&mut self, kind: u8, recipe: u8, source: u16, action: u32, header: [u8; 16]) -> u16 {
        let mut rule = vec![kind, 0, 0, 0, recipe, 0];
        rule.extend(source.to_le_bytes());
        rule.extend(action.to_le_bytes());
        rule.extend([0, 0, 16, 0]);
        rule.extend(header);
        let mut params = [0; 16];
        params[0] = 1;
        self.send(0x02a0, params, &rule, true).code
    }

    /// A section of a VSI's context is replaced.
    fn change(&mut self, vsi: u16, section: u16, at: usize, bytes: &[u8]) {
        let mut context = [0_u8; 128];
        context[..2].copy_from_slice(&section.to_le_bytes());
        context[2] = 1;
        context[4] = 1 << 4;
        context[at..at + bytes.len()].copy_from_slice(bytes);
        let mut params = [0; 16];
        params[..2].copy_from_slice(&(vsi | 1 << 15).to_le_bytes());
        self.done(0x0211, params, &context);
    }
}

fn to_vsi(vsi: u16) -> u32 {
    u32::from(vsi) << 4 | 1 << 17
}

/// Addresses and type of a rule's header.
fn header(to: [u8; 6], kind: [u8; 2], tag: [u8; 2]) -> [u8; 16] {
    let mut header = [0; 16];
    header[..6].copy_from_slice(&to);
    header[12..14].copy_from_slice(&kind);
    header[14..].copy_from_slice(&tag);
    header
}

fn ready() -> (Driver, u16) {
    let mut driver = Driver::new(open());
    let vsi = driver.add_vsi(0, 1);
    assert!(driver.start(0, Setup::default()));
    (driver, vsi)
}

fn tagged(to: [u8; 6], tci: u16) -> Vec<u8> {
    let mut frame = udp(to, (1, 2), &[6; 80]);
    let mut tag = vec![0x81, 0];
    tag.extend(tci.to_be_bytes());
    frame.splice(12..12, tag);
    frame
}

#[test]
fn the_default_vsi_takes_what_no_other_rule_takes() {
    let (mut driver, vsi) = ready();
    let other = driver.add_vsi(1, 1);
    assert!(driver.start(1, Setup::default()));
    driver.add_mac(other, MAC);
    assert_eq!(driver.rule(0, 5, 0, to_vsi(vsi), [0; 16]), 0);
    assert_eq!(driver.rule(0, 5, 0, to_vsi(other), [0; 16]), 13, "one only");
    assert_eq!(driver.rule(0, 5, 1, to_vsi(other), [0; 16]), 14, "port");
    assert!(driver.card.receive(&udp(MAC, (1, 2), &[0; 64])));
    assert_eq!(driver.descriptor(0, 0)[8] & 1, 0);
    assert_eq!(driver.descriptor(1, 0)[8] & 1, 1);
    assert!(driver.card.receive(&udp(OTHER, (1, 2), &[0; 64])));
    assert_eq!(driver.descriptor(0, 0)[8] & 1, 1);
}

#[test]
fn promiscuous_rules_look_at_the_multicast_bit() {
    let (mut driver, vsi) = ready();
    let multicast = header([3, 0, 0, 0, 0, 0], [0x81, 0], [0, 0]);
    assert_eq!(driver.rule(0, 3, 0, to_vsi(vsi), multicast), 0);
    assert!(
        driver
            .card
            .receive(&udp([1, 0, 0x5e, 1, 1, 1], (1, 2), &[0; 64]))
    );
    assert!(!driver.card.receive(&udp(MAC, (1, 2), &[0; 64])));
    assert_eq!(driver.descriptor(0, 0)[1] >> 6, 1, "multicast");
    // Of frames that are sent.
    let unicast = header([2, 0, 0, 0, 0, 0], [0x81, 0], [0, 0]);
    assert_eq!(driver.rule(1, 3, vsi, to_vsi(vsi), unicast), 0);
    assert!(!driver.card.receive(&udp(MAC, (1, 2), &[0; 64])));
}

#[test]
fn ether_types_are_told_apart_and_can_be_dropped() {
    let (mut driver, vsi) = ready();
    driver.add_mac(vsi, MAC);
    let lldp = header([0; 6], [0x88, 0xcc], [0, 0]);
    assert_eq!(driver.rule(0, 0, 0, 1 << 17 | 1 << 18, lldp), 0);
    let mut frame = udp(MAC, (1, 2), &[0; 64]);
    frame[12..14].copy_from_slice(&[0x88, 0xcc]);
    assert!(!driver.card.receive(&frame));
    frame[12..14].copy_from_slice(&[0x88, 0xcd]);
    assert!(driver.card.receive(&frame));
}

#[test]
fn vlans_are_pruned_and_tags_stripped() {
    let (mut driver, vsi) = ready();
    driver.add_mac(vsi, MAC);
    // Tags to the descriptor, and frames of VLANs with a rule only.
    driver.change(vsi, 4, 12, &[3]);
    driver.change(vsi, 1, 4, &[1 << 4 | 1]);
    assert!(!driver.card.receive(&tagged(MAC, 0x2005)));
    let rule = header([0; 6], [0x81, 0], [0, 5]);
    let prune = u32::from(vsi) << 4 | 2 | 1 << 15 | 1 << 16;
    assert_eq!(driver.rule(1, 4, vsi, prune, rule), 0);
    assert!(!driver.card.receive(&udp(MAC, (1, 2), &[0; 64])), "VLAN 0");
    assert!(driver.card.receive(&tagged(MAC, 0x2005)));
    let descriptor = driver.descriptor(0, 0);
    assert_eq!(descriptor[9] & 0x20, 0x20, "L2TAG1P");
    assert_eq!(descriptor[10..12], [5, 0x20]);
    assert_eq!(driver.header(0, 0, 42), udp(MAC, (1, 2), &[6; 80])[..42]);
    // Kept in the packet.
    driver.change(vsi, 4, 12, &[3 | 3 << 3]);
    assert!(driver.card.receive(&tagged(MAC, 0x2005)));
    assert_eq!(driver.descriptor(0, 1)[9] & 0x20, 0);
    assert_eq!(driver.header(0, 1, 46), tagged(MAC, 0x2005)[..46]);
}

#[test]
fn vsis_reach_each_other_if_they_may() {
    const RING: u64 = BASE + 0xc0_0000;
    let (mut driver, vsi) = ready();
    let other = driver.add_vsi(1, 1);
    assert!(driver.start(1, Setup::default()));
    driver.add_mac(vsi, MAC);
    driver.add_mac(other, OTHER);
    driver.start_tx(0, vsi, RING);
    let frame = udp(OTHER, (1, 2), &[0; 64]);
    let send = |driver: &mut Driver, index: u64| {
        driver.put(RING + 0x8000, &frame);
        let mut descriptor = (RING + 0x8000).to_le_bytes().to_vec();
        descriptor.extend(((frame.len() as u64) << 34 | 3 << 4).to_le_bytes());
        driver.put(RING + index * 16, &descriptor);
        driver.card.write32(0x2c_0000, index as u32 + 1);
        driver.card.sent().len()
    };
    assert_eq!(send(&mut driver, 0), 1);
    driver.change(vsi, 1, 3, &[1 << 5]);
    assert_eq!(send(&mut driver, 1), 0);
    assert_eq!(driver.descriptor(1, 0)[8] & 1, 1);
    assert_eq!(driver.descriptor(1, 1)[8] & 1, 0);
    // Not out of the port.
    driver.change(vsi, 1, 4, &[0]);
    assert_eq!(send(&mut driver, 2), 0);
    assert_eq!(driver.descriptor(1, 1)[8] & 1, 0);
}

#[test]
fn descriptors_have_their_profiles_layout() {
    for (rxdid, at) in [(2, Some(24)), (6, None), (22, Some(12)), (0, None)] {
        let mut driver = Driver::new(open());
        let vsi = driver.add_vsi(0, 1);
        driver.add_mac(vsi, MAC);
        let setup = Setup {
            rxdid,
            ..Setup::default()
        };
        assert!(driver.start(0, setup));
        assert!(driver.card.receive(&udp(MAC, (1, 2), &[0; 64])));
        let descriptor = driver.descriptor(0, 0);
        if let Some(at) = at {
            assert_eq!(descriptor[0], rxdid as u8);
            assert_eq!(descriptor[at..at + 4], [0xff; 4], "no flow");
        }
        if rxdid == 0 {
            let word = u64::from_le_bytes(descriptor[8..16].try_into().unwrap());
            assert_eq!(word & 3, 3);
            assert_eq!((word >> 38 & 0x3fff, word >> 52 & 0x7ff), (64, 42));
            assert_eq!((word >> 63, word >> 30 & 0xff), (1, 24));
        }
    }
}

#[test]
fn rules_without_a_target_are_refused() {
    let (mut driver, vsi) = ready();
    let to = header(MAC, [0x81, 0], [0, 0]);
    assert_eq!(
        driver.rule(1, 1, vsi, u32::from(vsi) << 4, to),
        14,
        "not valid"
    );
    assert_eq!(
        driver.rule(1, 1, vsi, to_vsi(vsi) | 1 << 14, to),
        14,
        "no list"
    );
    assert_eq!(driver.rule(1, 1, vsi, 1 | 600 << 4, to), 14, "no queue");
    assert_eq!(driver.rule(1, 40, vsi, to_vsi(vsi), to), 14, "no recipe");
    assert_eq!(driver.rule(1, 1, 99, to_vsi(vsi), to), 14, "no source");
    // Numbered as the whole device does.
    assert_eq!(
        driver.rule(1, 1, vsi, 1, to),
        14,
        "another function's queue"
    );
    let first = u32::from(Personality::default().first_queue());
    assert_eq!(driver.rule(1, 1, vsi, 1 | first << 4, to), 0, "a queue");
    assert!(driver.card.receive(&udp(MAC, (1, 2), &[0; 64])));
    assert_eq!(driver.card.refusals().len(), 6);
}
