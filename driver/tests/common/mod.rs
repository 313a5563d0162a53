//! Frames and rules for tests: made of small sets of values, so that rules and frames meet often, and then broken.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::allow_attributes,
    reason = "each test program uses its part, and panics on a fault in it"
)]

use devrx_driver::flow::FlowRule;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

pub const V4: [[u8; 4]; 4] = [
    [10, 0, 0, 1],
    [10, 0, 0, 2],
    [10, 200, 3, 4],
    [192, 168, 1, 1],
];
pub const V6: [[u8; 16]; 4] = [
    [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
    [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2],
    [0xfd, 0xff, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14],
    [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
];
pub const MACS: [[u8; 6]; 3] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 1, 1], [0xff; 6]];
pub const PORTS: [u16; 5] = [80, 4999, 5000, 5005, 5011];
pub const VLANS: [u16; 4] = [0, 7, 100, 4094];
pub const TPIDS: [u16; 3] = [0x8100, 0x88a8, 0x9100];
pub const PROTOCOLS: [u8; 8] = [17, 17, 6, 6, 1, 58, 89, 50];

/// Real frames: `(name, where the split lies, bytes)`; see corpus/README.md.
pub fn corpus() -> Vec<(&'static str, u16, Vec<u8>)> {
    include_str!("../corpus/frames.txt")
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .map(|line| {
            let [name, split, hex] = line.split(' ').collect::<Vec<_>>()[..] else {
                panic!("{line}")
            };
            let bytes = hex
                .as_bytes()
                .chunks(2)
                .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap());
            (name, split.parse().unwrap(), bytes.collect())
        })
        .collect()
}

/// `count` of `element`, at most `most`.
fn several<S: Strategy>(
    element: S,
    most: usize,
    count: impl Strategy<Value = usize>,
) -> impl Strategy<Value = Vec<S::Value>> {
    (vec(element, most), count).prop_map(|(mut all, count)| {
        all.truncate(count);
        all
    })
}

/// UDP, TCP (its data offset may be a lie) or anything, as the protocol says.
fn transport(protocol: u8) -> BoxedStrategy<Vec<u8>> {
    let ports = (select(&PORTS[..]), select(&PORTS[..]));
    match protocol {
        17 => (ports, vec(any::<u8>(), 0..30))
            .prop_map(|((src, dst), payload)| {
                let length = 8 + payload.len() as u16;
                [
                    &src.to_be_bytes()[..],
                    &dst.to_be_bytes(),
                    &length.to_be_bytes(),
                    &[0, 0],
                    &payload,
                ]
                .concat()
            })
            .boxed(),
        6 => (
            ports,
            prop_oneof![6 => 5u8..9, 1 => 0u8..16],
            vec(any::<u8>(), 0..48),
        )
            .prop_map(|((src, dst), offset, payload)| {
                let mut tcp = [
                    &src.to_be_bytes()[..],
                    &dst.to_be_bytes(),
                    &[0; 8],
                    &[offset << 4, 0x10],
                    &[0; 6],
                    &payload,
                ]
                .concat();
                tcp.resize(tcp.len().max(usize::from(offset) * 4), 0x5a);
                tcp
            })
            .boxed(),
        _ => vec(any::<u8>(), 0..40).boxed(),
    }
}

/// A length field: mostly right, sometimes short, long, zero or anything.
fn length_field(right: usize) -> BoxedStrategy<u16> {
    let right = right as u16;
    prop_oneof![
        12 => Just(right),
        2 => (0u16..40).prop_map(move |less| right.saturating_sub(less)),
        1 => (1u16..2000).prop_map(move |more| right.saturating_add(more)),
        1 => Just(0),
        1 => any::<u16>(),
    ]
    .boxed()
}

fn ipv4() -> impl Strategy<Value = Vec<u8>> {
    let fragment = prop_oneof![6 => Just(0u16), 2 => Just(0x4000), 1 => Just(0x2000), 2 => Just(0x2001), 1 => Just(185), 1 => any::<u16>()];
    let protocol = prop_oneof![8 => select(&PROTOCOLS[..]), 1 => any::<u8>()];
    (
        protocol,
        fragment,
        several(
            any::<[u8; 4]>(),
            10,
            prop_oneof![4 => Just(0), 1 => 0..11usize],
        ),
        select(&V4[..]),
        select(&V4[..]),
    )
        .prop_flat_map(|(protocol, fragment, options, src, dst)| {
            transport(protocol).prop_flat_map(move |payload| {
                let header = 20 + 4 * options.len();
                let options = options.concat();
                length_field(header + payload.len()).prop_map(move |total| {
                    [
                        &[0x40 | (header / 4) as u8, 0][..],
                        &total.to_be_bytes(),
                        &[0x12, 0x34],
                        &fragment.to_be_bytes(),
                        &[64, protocol, 0, 0],
                        &src,
                        &dst,
                        &options,
                        &payload,
                    ]
                    .concat()
                })
            })
        })
}

/// An extension header: its number and its bytes; the number of the next is put in later.
fn extension() -> impl Strategy<Value = (u8, Vec<u8>)> {
    let eights = select(&[0u8, 43, 60, 60, 135, 139, 140][..]);
    let fragment = prop_oneof![3 => Just(0u16), 3 => Just(1u16), 3 => Just(8u16), 2 => Just(0x0ff9), 1 => any::<u16>()];
    prop_oneof![
        6 => (eights, prop_oneof![12 => 0u8..4, 1 => any::<u8>()]).prop_map(|(number, units)| {
            let mut bytes = vec![0x11; (usize::from(units) + 1) * 8];
            bytes[1] = units;
            (number, bytes)
        }),
        3 => fragment.prop_map(|field| (44, [&[0, 0][..], &field.to_be_bytes(), &[1, 2, 3, 4]].concat())),
        2 => prop_oneof![12 => 1u8..8, 1 => any::<u8>()].prop_map(|words| {
            let mut bytes = vec![0x22; (usize::from(words) + 2) * 4];
            bytes[1] = words;
            (51, bytes)
        }),
    ]
}

fn ipv6() -> impl Strategy<Value = Vec<u8>> {
    let protocol = prop_oneof![8 => select(&PROTOCOLS[..]), 1 => any::<u8>(), 1 => Just(59u8)];
    (
        protocol,
        several(
            extension(),
            10,
            prop_oneof![3 => Just(0), 6 => 0..4usize, 2 => 4..11usize],
        ),
        select(&V6[..]),
        select(&V6[..]),
    )
        .prop_flat_map(|(protocol, extensions, src, dst)| {
            transport(protocol).prop_flat_map(move |payload| {
                let mut rest = payload;
                let mut next = protocol;
                for (number, bytes) in extensions.iter().rev() {
                    let mut bytes = bytes.clone();
                    bytes[0] = next;
                    next = *number;
                    bytes.extend_from_slice(&rest);
                    rest = bytes;
                }
                length_field(rest.len()).prop_map(move |length| {
                    [
                        &[0x60, 0, 0, 0][..],
                        &length.to_be_bytes(),
                        &[next, 64],
                        &src,
                        &dst,
                        &rest,
                    ]
                    .concat()
                })
            })
        })
}

/// A frame as a network could carry it, with lengths that may lie.
pub fn built() -> impl Strategy<Value = Vec<u8>> {
    let tags = several(
        (select(&TPIDS[..]), select(&VLANS[..]), 0u16..16),
        3,
        prop_oneof![6 => Just(0), 3 => 1..3usize, 1 => Just(3)],
    );
    let other = (
        prop_oneof![
            select(&[0x0806u16, 0x88f7, 0x88cc, 0x88e5, 60][..]),
            any::<u16>()
        ],
        vec(any::<u8>(), 0..60),
    );
    let inside = prop_oneof![
        5 => ipv4().prop_map(|ip| (0x0800u16, ip)),
        5 => ipv6().prop_map(|ip| (0x86dd, ip)),
        2 => other,
    ];
    let to = select(&MACS[..]);
    (to, tags, inside, 0usize..20).prop_map(|(to, tags, (kind, inside), padding)| {
        let mut frame = [&to[..], &[2, 0, 0, 0, 0, 2]].concat();
        for (tpid, id, priority) in tags {
            frame.extend_from_slice(&tpid.to_be_bytes());
            frame.extend_from_slice(&(priority << 12 | id).to_be_bytes());
        }
        frame.extend_from_slice(&kind.to_be_bytes());
        frame.extend_from_slice(&inside);
        frame.resize(frame.len() + padding, 0);
        frame
    })
}

/// Any frame: built or real, whole or with bytes changed or the end cut off; or nothing but noise.
pub fn frame() -> impl Strategy<Value = Vec<u8>> {
    let real = select(corpus()).prop_map(|(_, _, bytes)| bytes);
    let changes = several(
        any::<(usize, u8)>(),
        3,
        prop_oneof![3 => Just(0), 1 => 1..4usize],
    );
    let cut = prop_oneof![3 => Just(None), 1 => any::<usize>().prop_map(Some)];
    let broken = (prop_oneof![4 => built(), 1 => real], changes, cut).prop_map(
        |(mut bytes, changes, cut)| {
            for (at, value) in changes {
                // Headers, not payload, are what can be broken.
                let at = at % bytes.len().min(120);
                bytes[at] = value;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut % (bytes.len() + 1));
            }
            bytes
        },
    );
    prop_oneof![20 => broken, 1 => vec(any::<u8>(), 0..200)]
}

/// An address or prefix near the addresses that frames have.
fn prefix(v4: bool) -> BoxedStrategy<String> {
    if v4 {
        (
            select(&V4[..]),
            prop_oneof![Just(32u8), Just(8), Just(0), 0u8..33],
        )
            .prop_map(|(address, bits)| {
                devrx_driver::flow::Prefix::network(address.into(), bits)
                    .unwrap()
                    .to_string()
            })
            .boxed()
    } else {
        (
            select(&V6[..]),
            prop_oneof![Just(128u8), Just(8), Just(64), 0u8..129],
        )
            .prop_map(|(address, bits)| {
                devrx_driver::flow::Prefix::network(address.into(), bits)
                    .unwrap()
                    .to_string()
            })
            .boxed()
    }
}

fn port_range() -> impl Strategy<Value = String> {
    prop_oneof![
        select(&PORTS[..]).prop_map(|port| port.to_string()),
        Just("5000-5010".to_owned()),
        Just("0-65535".to_owned()),
        (any::<u16>(), any::<u16>()).prop_map(|(a, b)| format!("{}-{}", a.min(b), a.max(b))),
    ]
}

/// Any rule that can be written.
pub fn rule() -> impl Strategy<Value = FlowRule> {
    let vlan = option::weighted(0.2, select(&VLANS[..]).prop_map(|id| format!("vlan={id}")));
    let inner = option::weighted(
        0.1,
        select(&VLANS[..]).prop_map(|id| format!("inner-vlan={id}")),
    );
    let to = select(&MACS[..])
        .prop_map(|[a, b, c, d, e, f]| format!("dst-mac={a:x}:{b:x}:{c:x}:{d:x}:{e:x}:{f:x}"));
    let to = option::weighted(0.15, to);
    let not_ip = prop_oneof![
        Just("arp".to_owned()),
        select(&["ether-type=0x88f7", "ip", "ip6", "ether-type=35020"][..]).prop_map(str::to_owned)
    ];
    let ports = (
        option::weighted(0.3, port_range()),
        option::weighted(0.6, port_range()),
        select(&["udp", "tcp", ""][..]),
    )
        .prop_map(|(src, dst, protocol)| {
            let mut terms = Vec::new();
            terms.extend((!protocol.is_empty()).then(|| protocol.to_owned()));
            terms.extend(src.map(|range| format!("src-port={range}")));
            terms.extend(dst.map(|range| format!("dst-port={range}")));
            terms.join(",")
        });
    let what = prop_oneof![3 => ports, 1 => select(&["proto=1", "proto=58", "proto=89", "proto=50", "udp", "tcp"][..]).prop_map(str::to_owned)];
    let ip = any::<bool>().prop_flat_map(move |v4| {
        let family = Just(if v4 { "ip" } else { "ip6" }.to_owned());
        (
            option::weighted(0.3, family),
            option::weighted(0.4, prefix(v4)),
            option::weighted(0.4, prefix(v4)),
        )
    });
    let ip = (ip, option::weighted(0.7, what)).prop_map(|((family, src, dst), what)| {
        let mut terms = Vec::new();
        terms.extend(family);
        terms.extend(what.filter(|what| !what.is_empty()));
        terms.extend(src.map(|prefix| format!("src={prefix}")));
        terms.extend(dst.map(|prefix| format!("dst={prefix}")));
        terms.join(",")
    });
    (to, vlan, inner, prop_oneof![1 => not_ip, 6 => ip]).prop_map(|(to, vlan, inner, rest)| {
        let terms: Vec<String> = to
            .into_iter()
            .chain(vlan)
            .chain(inner)
            .chain((!rest.is_empty()).then_some(rest))
            .collect();
        let text = if terms.is_empty() {
            "any".to_owned()
        } else {
            terms.join(",")
        };
        text.parse().unwrap_or_else(|error| panic!("{error}"))
    })
}
