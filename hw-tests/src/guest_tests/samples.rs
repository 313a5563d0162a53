//! Frames of each kind, with where their headers end: written down here by how each frame is made, not by parsing it.

/// A frame and what is known of it.
#[derive(Debug, Clone)]
pub struct Sample {
    /// What it is.
    pub name: String,
    /// Its bytes, without FCS; shorter than 60 where the sender pads.
    pub frame: Vec<u8>,
    /// Bytes of headers that an 82576 splits off, if it knows where they end. QEMU's knows L4 of everything that is not a fragment.
    pub header: Option<usize>,
    /// What the NIC says of the checksum, where it looks.
    pub good: Option<bool>,
}

impl Sample {
    /// The frame as it arrives: padded to the shortest that Ethernet has.
    #[must_use]
    pub fn padded(&self) -> Vec<u8> {
        padded(&self.frame)
    }
}

/// A frame as it arrives.
#[must_use]
pub fn padded(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame.resize(frame.len().max(60), 0);
    frame
}

const A: [u8; 6] = [2, 0, 0, 0, 0, 0xa];
const FROM4: [u8; 4] = [10, 77, 1, 2];
const TO4: [u8; 4] = [10, 77, 1, 1];
const FROM6: [u8; 16] = [0xfd, 0x77, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
const TO6: [u8; 16] = [0xfd, 0x77, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

const TCP: u8 = 6;
const UDP: u8 = 17;

/// Bytes unlike those of other packets, and unlike a fill.
fn noise(seed: usize, len: usize) -> Vec<u8> {
    let mut state = (seed as u32).wrapping_mul(2_654_435_761) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 8) as u8
    };
    (0..len).map(|_| next()).collect()
}

fn ones_sum(bytes: &[u8], start: u32) -> u32 {
    let words = bytes.chunks(2).map(|pair| {
        u32::from(u16::from_be_bytes([
            pair[0],
            pair.get(1).copied().unwrap_or(0),
        ]))
    });
    words.fold(start, |sum, word| {
        let sum = sum + word;
        (sum & 0xffff) + (sum >> 16)
    })
}

fn checksum(bytes: &[u8], start: u32) -> [u8; 2] {
    (!(ones_sum(bytes, start) as u16)).to_be_bytes()
}

fn be16(value: usize) -> [u8; 2] {
    (value as u16).to_be_bytes()
}

/// A UDP or TCP segment with its checksum, for these addresses.
fn segment(protocol: u8, addresses: &[u8], options: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(4000_u16.to_be_bytes());
    bytes.extend(5000_u16.to_be_bytes());
    let place = if protocol == UDP {
        bytes.extend(be16(8 + payload.len()));
        bytes.extend([0, 0]);
        6
    } else {
        bytes.extend([0, 0, 0, 1, 0, 0, 0, 2]);
        bytes.extend([
            (5 + options.len() as u8 / 4) << 4,
            0x18,
            0x20,
            0,
            0,
            0,
            0,
            0,
        ]);
        bytes.extend(options);
        16
    };
    bytes.extend(payload);
    let pseudo = ones_sum(addresses, u32::from(protocol) + bytes.len() as u32);
    let sum = checksum(&bytes, pseudo);
    bytes[place..place + 2].copy_from_slice(&sum);
    bytes
}

/// An IPv4 packet. `fragment`: flags and offset.
fn ip4(protocol: u8, options: &[u8], fragment: u16, body: &[u8]) -> Vec<u8> {
    let length = 20 + options.len();
    let mut bytes = vec![0x40 | (length / 4) as u8, 0];
    bytes.extend(be16(length + body.len()));
    bytes.extend([0, 7]);
    bytes.extend(fragment.to_be_bytes());
    bytes.extend([64, protocol, 0, 0]);
    bytes.extend(FROM4);
    bytes.extend(TO4);
    bytes.extend(options);
    let sum = checksum(&bytes, 0);
    bytes[10..12].copy_from_slice(&sum);
    bytes.extend(body);
    bytes
}

/// An IPv6 packet; extension headers are part of `body`.
fn ip6(next: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x60, 0, 0, 0];
    bytes.extend(be16(body.len()));
    bytes.extend([next, 64]);
    bytes.extend(FROM6);
    bytes.extend(TO6);
    bytes.extend(body);
    bytes
}

/// An options header of IPv6, `length` bytes long, before `next`: padding.
fn options6(next: u8, length: usize) -> Vec<u8> {
    let mut bytes = vec![next, (length / 8 - 1) as u8];
    while bytes.len() < length {
        let pad = (length - bytes.len() - 2).min(255);
        bytes.extend([1, pad as u8]);
        bytes.resize(bytes.len() + pad, 0);
    }
    bytes
}

fn both4() -> Vec<u8> {
    [FROM4, TO4].concat()
}

fn both6() -> Vec<u8> {
    [FROM6, TO6].concat()
}

/// Collects samples.
struct List {
    to: [u8; 6],
    samples: Vec<Sample>,
}

impl List {
    /// Adds a frame: EtherType and all before it in `types`, without the addresses.
    fn add(&mut self, name: &str, header: Option<usize>, types: &[u8], body: &[u8]) -> &mut Sample {
        let mut frame = self.to.to_vec();
        frame.extend(A);
        frame.extend(types);
        frame.extend(body);
        self.samples.push(Sample {
            name: name.to_owned(),
            frame,
            header,
            good: None,
        });
        let last = self.samples.len() - 1;
        &mut self.samples[last]
    }

    fn noise(&self, len: usize) -> Vec<u8> {
        noise(self.samples.len() + 1, len)
    }

    /// UDP and TCP, over IPv4 and IPv6, behind these tags.
    fn four(&mut self, tags: &[u8], payload: usize, what: &str) {
        let ahead = 14 + tags.len();
        for protocol in [UDP, TCP] {
            let (name, own) = if protocol == UDP {
                ("UDP", 8)
            } else {
                ("TCP", 20)
            };
            let body = segment(protocol, &both4(), &[], &self.noise(payload));
            let types = [tags, &[8, 0]].concat();
            let packet = ip4(protocol, &[], 0, &body);
            let name4 = format!("{name} over IPv4{what}");
            self.add(&name4, Some(ahead + 20 + own), &types, &packet)
                .good = Some(true);
            let body = segment(protocol, &both6(), &[], &self.noise(payload));
            let types = [tags, &[0x86, 0xdd]].concat();
            let packet = ip6(protocol, &body);
            let name6 = format!("{name} over IPv6{what}");
            self.add(&name6, Some(ahead + 40 + own), &types, &packet)
                .good = Some(true);
        }
    }
}

const IP4: [u8; 2] = [8, 0];
const IP6: [u8; 2] = [0x86, 0xdd];

/// Frames of each kind to `to`. `chunk`: bytes in a chunk, at whose edges payload ends.
#[must_use]
pub fn all(to: [u8; 6], chunk: usize) -> Vec<Sample> {
    let mut list = List {
        to,
        samples: Vec::new(),
    };
    list.four(&[], 300, "");
    list.four(&[0x81, 0, 0, 100], 200, ", a VLAN tag");
    list.four(&[0x88, 0xa8, 0, 7, 0x81, 0, 0, 100], 100, ", two VLAN tags");
    for payload in [chunk - 1, chunk, chunk + 1, 8900] {
        list.four(&[], payload, &format!(", {payload} bytes of payload"));
    }
    special(&mut list);
    without(&mut list);
    list.samples
}

/// Options, extension headers, fragments, other protocols.
fn special(list: &mut List) {
    let empty = ip4(UDP, &[], 0, &segment(UDP, &both4(), &[], &[]));
    // What fills the frame up is payload to the NIC.
    list.add("UDP of no bytes", Some(42), &IP4, &empty).good = Some(true);
    let mut bad = segment(UDP, &both4(), &[], &list.noise(90));
    bad[6] ^= 0x55;
    list.add(
        "a wrong UDP checksum",
        Some(42),
        &IP4,
        &ip4(UDP, &[], 0, &bad),
    )
    .good = Some(false);
    let stamps = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];
    let body = segment(TCP, &both4(), &stamps, &list.noise(700));
    list.add("TCP options", Some(66), &IP4, &ip4(TCP, &[], 0, &body))
        .good = Some(true);
    let body = segment(TCP, &both6(), &[1; 40], &list.noise(500));
    list.add(
        "all TCP options there can be",
        Some(114),
        &IP6,
        &ip6(TCP, &body),
    )
    .good = Some(true);
    let alert = [0x94, 4, 0, 0];
    let body = segment(UDP, &both4(), &[], &list.noise(64));
    list.add("IPv4 options", Some(46), &IP4, &ip4(UDP, &alert, 0, &body))
        .good = Some(true);
    let body = segment(TCP, &both4(), &[], &list.noise(64));
    list.add(
        "all IPv4 options there can be",
        Some(94),
        &IP4,
        &ip4(TCP, &[1; 40], 0, &body),
    )
    .good = Some(true);
    let udp6 = segment(UDP, &both6(), &[], &list.noise(333));
    let hop = [options6(UDP, 8), udp6.clone()].concat();
    list.add("a hop-by-hop header", Some(70), &IP6, &ip6(0, &hop));
    let both = [options6(60, 8), options6(UDP, 24), udp6.clone()].concat();
    list.add("two extension headers", Some(94), &IP6, &ip6(0, &both));
    // 14 + 40 + 264 + 8 bytes: more than a slot of 256.
    let long = [options6(UDP, 264), udp6].concat();
    list.add(
        "headers longer than a slot",
        Some(326),
        &IP6,
        &ip6(60, &long),
    );

    let udp = segment(UDP, &both4(), &[], &list.noise(1000));
    let (first, later) = udp.split_at(800);
    let fragment = ip4(UDP, &[], 0x2000, first);
    list.add("an IPv4 fragment, first", Some(34), &IP4, &fragment);
    let fragment = ip4(UDP, &[], 100, later);
    list.add("an IPv4 fragment, later", Some(34), &IP4, &fragment);
    let udp = segment(UDP, &both6(), &[], &list.noise(1000));
    let (first, later) = udp.split_at(800);
    let fragment = [&[UDP, 0, 0, 1, 0, 0, 0, 9], first].concat();
    list.add(
        "an IPv6 fragment, first",
        Some(62),
        &IP6,
        &ip6(44, &fragment),
    );
    let fragment = [&[UDP, 0, 3, 0x20, 0, 0, 0, 9], later].concat();
    list.add(
        "an IPv6 fragment, later",
        Some(62),
        &IP6,
        &ip6(44, &fragment),
    );

    let body = list.noise(120);
    list.add("ICMP", Some(34), &IP4, &ip4(1, &[], 0, &body));
    list.add("ICMPv6", Some(54), &IP6, &ip6(58, &body));
    list.add("GRE", Some(34), &IP4, &ip4(47, &[], 0, &body));
    list.add(
        "a protocol nobody has",
        Some(34),
        &IP4,
        &ip4(253, &[], 0, &body),
    );
}

/// What has no header that the NIC knows.
fn without(list: &mut List) {
    let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 1];
    arp.extend(A);
    arp.extend(FROM4);
    arp.extend([0; 6]);
    arp.extend(TO4);
    list.add("ARP", None, &[8, 6], &arp);
    list.add("ARP behind a VLAN tag", None, &[0x81, 0, 0, 5, 8, 6], &arp);
    list.to = [0xff; 6];
    list.add("ARP to everybody", None, &[8, 6], &arp);
    list.to = [0x01, 0x80, 0xc2, 0, 0, 0];
    let spanning = [&[0x42, 0x42, 3][..], &[0; 35]].concat();
    list.add(
        "a length instead of an EtherType",
        None,
        &be16(38),
        &spanning,
    );
    for length in [100, 242, 243, 1400, 8986] {
        let body = list.noise(length);
        let name = format!("{length} bytes of an EtherType for experiments");
        list.add(&name, None, &[0x88, 0xb5], &body);
    }
}
