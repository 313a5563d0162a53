//! Frames that can be made again from their number, so that every byte received can be checked.

use std::net::Ipv6Addr;

/// How many shapes of frames there are; frame n has shape n modulo this.
pub const SHAPES: u64 = 9;

/// A made frame.
pub struct Frame {
    /// The whole frame.
    pub bytes: Vec<u8>,
    /// Where header and payload are to be split.
    pub header: usize,
}

/// The name of a frame's shape.
pub fn shape(number: u64) -> &'static str {
    match number % SHAPES {
        0 => "UDP/IPv4",
        1 => "UDP/IPv6",
        2 => "VLAN UDP/IPv4",
        3 => "QinQ UDP/IPv6",
        4 => "TCP/IPv4 with options",
        5 => "IPv4 fragment",
        6 => "UDP/IPv6 with extension headers",
        7 => "EtherType 0x88b5",
        _ => "SCTP/IPv4 with IP options",
    }
}

/// Reads the number of a frame back from its source address; none if it is none of ours.
pub fn number(frame: &[u8]) -> Option<u32> {
    let (mark, number) = frame.get(6..12)?.split_at(2);
    (mark == MARK).then(|| u32::from_be_bytes([number[0], number[1], number[2], number[3]]))
}

/// The first two bytes of every source address: locally administered.
const MARK: [u8; 2] = [0x02, 0xd5];
const TO: [u8; 6] = [0x02, 0xd5, 0, 0, 0, 1];

/// Makes frame `number` of the series `seed`, at most `mtu` + 14 bytes (18 or 22 with tags).
pub fn frame(seed: u64, number: u32, mtu: usize) -> Frame {
    let mut random = Random(seed ^ (u64::from(number) << 20));
    let mut bytes = Vec::with_capacity(mtu + 22);
    bytes.extend(TO);
    bytes.extend(MARK);
    bytes.extend(number.to_be_bytes());
    let shape = u64::from(number) % SHAPES;
    match shape {
        2 => bytes.extend([0x81, 0x00, 0x20, 0x64]),
        3 => bytes.extend([0x88, 0xa8, 0x00, 0x64, 0x81, 0x00, 0x00, 0xc8]),
        _ => {}
    }
    let ethertype: u16 = match shape {
        1 | 3 | 6 => 0x86dd,
        7 => 0x88b5,
        _ => 0x0800,
    };
    bytes.extend(ethertype.to_be_bytes());
    let network = bytes.len();
    // Small ones, large ones, and everything between.
    let payload = match random.below(8) {
        0 => random.below(32),
        1 => 1 << 30,
        _ => random.below(mtu),
    };
    // The bytes of network and transport headers of each shape.
    let overhead = match shape {
        0 | 2 => 28,
        1 | 3 => 48,
        4 => 52,
        5 => 20,
        6 => 64,
        7 => 0,
        _ => 28,
    };
    let mut payload = payload.min(mtu - overhead);
    if shape == 7 {
        // At least one byte, so that there is a payload to place.
        payload = payload.max(1);
    }
    match shape {
        0 | 2 => {
            ipv4(&mut bytes, 17, 8 + payload, 0x4000, &[], &mut random);
            udp(&mut bytes, payload, &mut random);
        }
        1 | 3 => {
            ipv6(&mut bytes, 17, 8 + payload, &mut random);
            udp(&mut bytes, payload, &mut random);
        }
        4 => {
            ipv4(&mut bytes, 6, 32 + payload, 0x4000, &[], &mut random);
            tcp(&mut bytes, &mut random);
        }
        5 => ipv4(
            &mut bytes,
            17,
            payload,
            0x0001 + (random.below(1000) as u16),
            &[],
            &mut random,
        ),
        6 => {
            ipv6(&mut bytes, 0, 16 + 8 + payload, &mut random);
            // Hop-by-hop options (PadN), then destination options (PadN).
            bytes.extend([60, 0, 1, 4, 0, 0, 0, 0]);
            bytes.extend([17, 0, 1, 4, 0, 0, 0, 0]);
            udp(&mut bytes, payload, &mut random);
        }
        7 => {}
        // No-operations and the end of the options; SCTP is not looked into, so its header counts as payload.
        _ => ipv4(
            &mut bytes,
            132,
            payload,
            0x4000,
            &[1, 1, 1, 1, 1, 1, 1, 0],
            &mut random,
        ),
    }
    let header = bytes.len();
    bytes.extend((0..payload).map(|_| random.byte()));
    checksum_transport(&mut bytes, network, header, shape);
    Frame { bytes, header }
}

fn ipv4(
    bytes: &mut Vec<u8>,
    protocol: u8,
    content: usize,
    fragment: u16,
    options: &[u8],
    random: &mut Random,
) {
    let at = bytes.len();
    let length = (20 + options.len() + content) as u16;
    bytes.push(0x45 + (options.len() / 4) as u8);
    bytes.push(0);
    bytes.extend(length.to_be_bytes());
    bytes.extend((random.next() as u16).to_be_bytes());
    bytes.extend(fragment.to_be_bytes());
    bytes.extend([64, protocol, 0, 0]);
    bytes.extend([198, 18, 0, random.byte()]);
    bytes.extend([198, 18, 1, 1]);
    bytes.extend(options);
    let sum = checksum(&bytes[at..], 0);
    bytes[at + 10..at + 12].copy_from_slice(&sum.to_be_bytes());
}

fn ipv6(bytes: &mut Vec<u8>, next: u8, content: usize, random: &mut Random) {
    bytes.extend([0x60, 0, 0, 0]);
    bytes.extend((content as u16).to_be_bytes());
    bytes.extend([next, 64]);
    bytes.extend(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, random.next() as u16).octets());
    bytes.extend(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 1, 1).octets());
}

fn udp(bytes: &mut Vec<u8>, payload: usize, random: &mut Random) {
    bytes.extend((1024 + random.below(60_000) as u16).to_be_bytes());
    bytes.extend(5000_u16.to_be_bytes());
    bytes.extend(((8 + payload) as u16).to_be_bytes());
    bytes.extend([0, 0]);
}

fn tcp(bytes: &mut Vec<u8>, random: &mut Random) {
    bytes.extend((1024 + random.below(60_000) as u16).to_be_bytes());
    bytes.extend(8080_u16.to_be_bytes());
    bytes.extend((random.next() as u32).to_be_bytes());
    bytes.extend((random.next() as u32).to_be_bytes());
    // 32 bytes: no-operation twice, timestamps.
    bytes.extend([0x80, 0x10, 0x20, 0x00, 0, 0, 0, 0, 1, 1, 8, 10]);
    bytes.extend((random.next() as u32).to_be_bytes());
    bytes.extend((random.next() as u32).to_be_bytes());
}

/// Fills in the checksum of UDP and TCP, so that the frames are what a real sender would make.
fn checksum_transport(bytes: &mut [u8], network: usize, header: usize, shape: u64) {
    let (length, at, protocol) = match shape {
        0 | 2 => (8, 6, 17_u32),
        1 | 3 | 6 => (8, 6, 17),
        4 => (32, 16, 6),
        _ => return,
    };
    let transport = header - length;
    let addresses = if matches!(shape, 0 | 2 | 4) {
        &bytes[network + 12..network + 20]
    } else {
        &bytes[network + 8..network + 40]
    };
    let mut pseudo = protocol + (bytes.len() - transport) as u32;
    for pair in addresses.chunks(2) {
        pseudo += u32::from(pair[0]) << 8 | u32::from(pair[1]);
    }
    let sum = match checksum(&bytes[transport..], pseudo) {
        // Zero means "none" in UDP.
        0 => 0xffff,
        sum => sum,
    };
    bytes[transport + at..transport + at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// The Internet checksum (RFC 1071) of `bytes`, with `start` added.
fn checksum(bytes: &[u8], start: u32) -> u16 {
    let mut sum = u64::from(start);
    for pair in bytes.chunks(2) {
        sum += u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// SplitMix64: small, seeded, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn byte(&mut self) -> u8 {
        self.next() as u8
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_made_again_alike_and_differ_by_number_and_seed() {
        for n in 0..500 {
            let one = frame(1, n, 1500);
            assert_eq!(one.bytes, frame(1, n, 1500).bytes);
            assert_ne!(one.bytes, frame(1, n + 1, 1500).bytes);
            assert_ne!(one.bytes, frame(2, n, 1500).bytes);
            assert_eq!(number(&one.bytes), Some(n));
        }
        assert_eq!(number(&[0; 60]), None);
        assert_eq!(number(&[0; 5]), None);
    }

    #[test]
    fn frames_fit_the_mtu_and_reach_it() {
        let mut longest = 0;
        for n in 0..2000 {
            let made = frame(7, n, 1500);
            let tags = match u64::from(n) % SHAPES {
                2 => 4,
                3 => 8,
                _ => 0,
            };
            assert!(
                made.bytes.len() <= 1514 + tags,
                "{}: {}",
                shape(u64::from(n)),
                made.bytes.len()
            );
            assert!(made.header <= made.bytes.len() && made.header >= 14);
            longest = longest.max(made.bytes.len() - tags);
        }
        assert_eq!(longest, 1514);
    }

    /// An independent parser agrees on where the headers end.
    #[test]
    fn the_split_is_where_the_driver_s_parser_puts_it() {
        for n in 0..900 {
            let made = frame(3, n, 1500);
            let parsed = devrx_driver::packet::parse(&made.bytes, made.bytes.len());
            assert_eq!(
                usize::from(parsed.header_len),
                made.header,
                "{}",
                shape(u64::from(n))
            );
        }
    }
}
