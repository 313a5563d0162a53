//! A small package of the model's own, in the format of Intel's, for tests that have no file of Intel's at hand.
//!
//! It has the groups and profiles of the default package for IPv4 and IPv6 with TCP, UDP and others, and nothing for tunnels: what is modelled, no more.
//! Format: DPDK `ice_ddp.h`, `ice_flex_type.h`. Intel's own package is under a licence of its own and is not in this project.

use crate::bytes;

/// Bytes of a buffer, and what its header and one section entry take.
const BUFFER: usize = 4096;
const HEADER: usize = 4 + 8;

/// Packet types, with their groups in the switch's block and in the two others: IPv4, IPv6; each TCP, UDP, SCTP, fragment, other, ICMP.
const TYPES: [(u16, u8, u8); 12] = [
    (26, 36, 1),
    (24, 37, 2),
    (27, 38, 3),
    (22, 38, 4),
    (23, 38, 5),
    (28, 38, 5),
    (92, 39, 6),
    (90, 40, 7),
    (93, 41, 8),
    (88, 41, 9),
    (89, 41, 10),
    (94, 41, 10),
];
/// The group of all other types in the switch's block, and the profile of packets that no other entry matches.
const GROUP_OTHER: u8 = 34;
const PROFILE_DEFAULT: u8 = 1;

/// Groups and profiles of the switch's block; protocols of layers 3 and 4.
const SWITCH: [(u8, u8, u8, Option<u8>); 6] = [
    (36, 4, 32, Some(49)),
    (37, 5, 32, Some(53)),
    (38, 6, 32, None),
    (39, 7, 40, Some(49)),
    (40, 8, 40, Some(53)),
    (41, 9, 40, None),
];

/// The package as a file: version 1.3.0.0, named as Intel's default package is, since drivers look at the name.
#[must_use]
pub fn small_package() -> Vec<u8> {
    let name = |text: &str, len: usize| {
        let mut name = text.as_bytes().to_vec();
        name.resize(len, 0);
        name
    };
    let version = [1, 3, 0, 0];
    let segment = |kind: u32, id: &str, body: &[u8]| {
        let mut out = kind.to_le_bytes().to_vec();
        out.extend([1, 0, 0, 0]);
        out.extend((44 + body.len() as u32).to_le_bytes());
        out.extend(name(id, 32));
        out.extend(body);
        out
    };
    let mut global = version.to_vec();
    global.extend([0; 4]);
    global.extend(name("ICE OS Default Package", 32));
    let metadata = segment(1, "Global Metadata", &global);

    let mut meta = version.to_vec();
    meta.extend(name("ICE OS Default Package", 28));
    meta.extend(0xc000_0001_u32.to_le_bytes());
    let mut buffers = vec![buffer(1, &meta)];
    for (block, is_switch) in [(10, true), (30, false), (40, false)] {
        buffers.push(buffer(block + 2, &groups(is_switch)));
        buffers.push(buffer(block + 3, &{
            let mut interfaces = vec![0; 4 + 768 * 2];
            bytes::put16(&mut interfaces, 0, 768);
            interfaces
        }));
        buffers.push(buffer(block + 4, &entries(is_switch)));
    }
    for (_, profile, ip, l4) in SWITCH {
        buffers.push(buffer(16, &vector(profile, ip, l4)));
    }
    // No devices and no flash versions are named: it is for all.
    let mut body = vec![0; 8];
    body.extend((buffers.len() as u32).to_le_bytes());
    body.extend(buffers.concat());
    let configuration = segment(0x10, "ICE Configuration Data", &body);

    let mut out = vec![1, 0, 0, 0];
    out.extend(2_u32.to_le_bytes());
    let first = 16_u32;
    out.extend(first.to_le_bytes());
    out.extend((first + metadata.len() as u32).to_le_bytes());
    out.extend(metadata);
    out.extend(configuration);
    out
}

/// A buffer with one section.
fn buffer(kind: u32, data: &[u8]) -> Vec<u8> {
    let mut out = vec![0; BUFFER];
    bytes::put16(&mut out, 0, 1);
    bytes::put16(&mut out, 2, (HEADER + data.len()) as u16);
    bytes::put32(&mut out, 4, kind);
    bytes::put16(&mut out, 8, HEADER as u16);
    bytes::put16(&mut out, 10, data.len() as u16);
    bytes::put(&mut out, HEADER, data);
    out
}

/// XLT1: the group of each packet type.
fn groups(is_switch: bool) -> Vec<u8> {
    let other = if is_switch { GROUP_OTHER } else { 0 };
    let mut out = vec![other; 4 + 1024];
    bytes::put16(&mut out, 0, 1024);
    bytes::put16(&mut out, 2, 0);
    for (kind, switch, others) in TYPES {
        out[4 + usize::from(kind)] = if is_switch { switch } else { others };
    }
    out
}

/// The TCAM: an entry for each group of the switch's block, and one for all packets.
fn entries(is_switch: bool) -> Vec<u8> {
    let mut out = Vec::new();
    let mut add = |address: u16, group: Option<u8>, profile: u8| {
        out.extend(address.to_le_bytes());
        let mut key = [0xff; 10];
        if let Some(group) = group {
            key[2] = !group;
            key[7] = group;
        }
        out.extend(key);
        out.push(profile);
    };
    if is_switch {
        for (i, (group, profile, ..)) in SWITCH.iter().enumerate() {
            add(33 + i as u16, Some(*group), *profile);
        }
    }
    add(511, None, PROFILE_DEFAULT);
    let mut section = ((out.len() / 13) as u16).to_le_bytes().to_vec();
    section.extend(out);
    section
}

/// The words of a profile of the switch's block, where the default package has them: flags from word 2 on, MAC addresses from 5, tags, type, ports at 24
/// and 25, the IP header's from 26 on.
fn vector(profile: u8, ip: u8, l4: Option<u8>) -> Vec<u8> {
    let mut words = [(0xff_u8, 0x1ff_u16); 48];
    for (i, word) in [40, 42, 44, 38].iter().enumerate() {
        words[1 + i] = (0xff, *word);
    }
    for (i, word) in words[5..11].iter_mut().enumerate() {
        *word = (1, i as u16 * 2);
    }
    words[11] = (16, 0);
    words[12] = (17, 0);
    words[13] = (9, 0);
    if let Some(l4) = l4 {
        words[24] = (l4, 0);
        words[25] = (l4, 2);
    }
    let offsets: Vec<u16> = if ip == 32 {
        vec![0, 8, 12, 14, 16, 18]
    } else {
        [0, 2].into_iter().chain((8..40).step_by(2)).collect()
    };
    for (word, offset) in words[26..].iter_mut().zip(offsets) {
        *word = (ip, offset);
    }
    let mut out = vec![1, 0, profile, 0];
    for (protocol, offset) in words {
        out.push(protocol);
        out.extend(offset.to_le_bytes());
        out.push(0);
    }
    out
}
