//! What of a packet the switch can compare, and how a flow rule becomes such comparisons.
//!
//! The parser gives each header a number (protocol ID), and the switch compares words of 16 bits of them, each with a mask. Numbers: DPDK's
//! `drivers/net/intel/ice/base/ice_protocol_type.h`. Which words there are the package says: that of Intel has, besides Ethernet's, the first words of UDP and TCP, of IPv4 the
//! words 0, 8 and 12 to 18, and of IPv6 0, 2 and 8 to 38.

use crate::flow::{FlowRule, PortRange, Prefix};
use crate::packet::{ether_type, protocol};

/// Numbers of headers.
pub(super) mod header {
    /// IPv4, the outer or only one.
    pub const IPV4: u8 = 32;
    /// IPv6, the outer or only one.
    pub const IPV6: u8 = 40;
    /// TCP, the innermost.
    pub const TCP: u8 = 49;
    /// UDP of a tunnel.
    pub const UDP_TUNNEL: u8 = 52;
    /// UDP, the innermost.
    pub const UDP: u8 = 53;
    /// GRE.
    pub const GRE: u8 = 64;
    /// PPPoE.
    pub const PPPOE: u8 = 103;
}

/// IPv6 without anything behind it (RFC 8200).
const NO_NEXT_HEADER: u8 = 59;
/// An IP protocol for experiments (RFC 3692): the parser knows nothing of it.
const EXPERIMENT: u8 = 253;

/// Words of a lookup at most: four recipes of four, chained by a fifth.
pub(super) const MOST_WORDS: usize = 16;

/// A word of a header that is compared.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct Word {
    /// Which header.
    pub header: u8,
    /// Bytes from its start.
    pub offset: u16,
    /// The bits that count.
    pub mask: u16,
    /// What they shall be.
    pub value: u16,
}

/// Packets of one kind that are alike in some words. Of one kind, so that a made-up packet is of it too: whether the switch finds packets of another profile than the
/// made-up one's no driver's source tells.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Lookup {
    /// The IP header that the packet has.
    pub ip: u8,
    /// The transport header that it has: UDP's, TCP's, or neither (of a later fragment, for example).
    pub transport: Option<u8>,
    /// At least one.
    pub words: Vec<Word>,
}

/// The range as a value and a mask, where it is one.
fn masked(range: PortRange) -> Option<(u16, u16)> {
    let differ = range.first() ^ range.last();
    let low = (1_u32 << (16 - differ.leading_zeros())) - 1;
    // Below 2^16.
    let low = low as u16;
    (range.first() & low == 0 && range.last() & low == low).then_some((range.first(), !low))
}

impl Lookup {
    /// What takes exactly the packets that `rule` takes, fragments and all; or, where the NIC cannot tell those apart, none. Packets within tunnels that the NIC looks into
    /// (VXLAN, GRE) are not among them.
    pub(super) fn of(rule: &FlowRule) -> Vec<Self> {
        if rule.dst_mac().is_some() || rule.vlan().is_some() || rule.inner_vlan().is_some() {
            return Vec::new();
        }
        let address = rule.src().or(rule.dst());
        let ips = match rule.ether_type() {
            Some(ether_type::IPV4) => vec![header::IPV4],
            Some(ether_type::IPV6) => vec![header::IPV6],
            Some(_) => return Vec::new(),
            None => match address {
                Some(prefix) if prefix.is_ipv4() => vec![header::IPV4],
                Some(_) => vec![header::IPV6],
                None => vec![header::IPV4, header::IPV6],
            },
        };
        let (udp, tcp) = (Some(header::UDP), Some(header::TCP));
        let transports = match (rule.protocol(), rule.has_ports()) {
            (Some(protocol::UDP), true) => vec![udp],
            (Some(protocol::TCP), true) => vec![tcp],
            (None, true) => vec![udp, tcp],
            (Some(_), true) => return Vec::new(),
            (Some(protocol::UDP), false) => vec![udp, None],
            (Some(protocol::TCP), false) => vec![tcp, None],
            (Some(_), false) => vec![None],
            (None, false) => vec![udp, tcp, None],
        };
        let kinds = ips
            .iter()
            .flat_map(|&ip| transports.iter().map(move |&transport| (ip, transport)));
        let lookups = kinds.map(|(ip, transport)| Self::with(rule, ip, transport));
        lookups.collect::<Option<Vec<_>>>().unwrap_or_default()
    }

    fn with(rule: &FlowRule, ip: u8, transport: Option<u8>) -> Option<Self> {
        let mut new = Self {
            ip,
            transport,
            words: Vec::new(),
        };
        for (prefix, v4, v6) in [(rule.src(), 12, 8), (rule.dst(), 16, 24)] {
            if let Some(prefix) = prefix {
                new.address(prefix, if prefix.is_ipv4() { v4 } else { v6 });
            }
        }
        if let (Some(header), true) = (transport, rule.has_ports()) {
            for (range, offset) in [(rule.src_port(), 0), (rule.dst_port(), 2)] {
                if let Some(range) = range {
                    let (value, mask) = masked(range)?;
                    new.word(header, offset, value, mask);
                }
            }
        } else if let Some(protocol) = rule.protocol() {
            // With its time to live; IPv6's is no word that is there.
            if ip != header::IPV4 {
                return None;
            }
            new.word(header::IPV4, 8, u16::from(protocol), 0xff);
        }
        // Masks alone compare nothing.
        (!new.words.is_empty() && new.words.len() <= MOST_WORDS).then_some(new)
    }

    fn address(&mut self, prefix: Prefix, offset: u16) {
        let header = if prefix.is_ipv4() {
            header::IPV4
        } else {
            header::IPV6
        };
        let mut offset = offset;
        for (value, mask) in prefix.words() {
            for half in [0, 2] {
                let part = |bytes: [u8; 4]| u16::from_be_bytes([bytes[half], bytes[half + 1]]);
                self.word(header, offset, part(value), part(mask));
                offset += 2;
            }
        }
    }

    fn word(&mut self, header: u8, offset: u16, value: u16, mask: u16) {
        if mask != 0 {
            self.words.push(Word {
                header,
                offset,
                mask,
                value: value & mask,
            });
        }
    }

    /// A made-up packet that is like the ones looked for: the firmware takes the values from it.
    pub(super) fn packet(&self) -> Vec<u8> {
        let mut packet = vec![0; 12];
        let six = self.ip == header::IPV6;
        let (next, transport) = match self.transport {
            Some(header::TCP) => (
                protocol::TCP,
                &[
                    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0, 0, 0, 0, 0, 0, 0,
                ][..],
            ),
            Some(_) => (protocol::UDP, &[0, 0, 0, 0, 0, 8, 0, 0][..]),
            None if six => (NO_NEXT_HEADER, &[][..]),
            None => (EXPERIMENT, &[][..]),
        };
        // Short.
        let len = transport.len() as u8;
        let ip = if six {
            packet.extend(ether_type::IPV6.to_be_bytes());
            let at = packet.len();
            packet.extend([0x60, 0, 0, 0, 0, len, next, 64]);
            packet.extend([0; 32]);
            at
        } else {
            packet.extend(ether_type::IPV4.to_be_bytes());
            let at = packet.len();
            packet.extend([0x45, 0, 0, 20 + len, 0, 1, 0, 0, 64, next, 0, 0]);
            packet.extend([0; 8]);
            at
        };
        let end = packet.len();
        packet.extend(transport);
        for word in &self.words {
            let start = match word.header {
                header::IPV4 | header::IPV6 => ip,
                _ => end,
            };
            let at = start + usize::from(word.offset);
            let mask = word.mask.to_be_bytes();
            for (byte, (mask, value)) in packet[at..at + 2]
                .iter_mut()
                .zip(mask.into_iter().zip(word.value.to_be_bytes()))
            {
                *byte = *byte & !mask | value;
            }
        }
        // To a multiple of four.
        packet.extend([0; 2]);
        packet
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::parse;

    fn lookups(rule: &str) -> Vec<Lookup> {
        Lookup::of(&rule.parse().unwrap())
    }

    #[test]
    fn rules_become_words() {
        let [four, six] = &lookups("udp,dst-port=5000")[..] else {
            panic!("one for each IP");
        };
        assert_eq!((four.ip, four.transport), (header::IPV4, Some(header::UDP)));
        assert_eq!((six.ip, &six.words), (header::IPV6, &four.words));
        assert_eq!(
            four.words,
            [Word {
                header: header::UDP,
                offset: 2,
                mask: 0xffff,
                value: 5000
            }]
        );
        assert_eq!(lookups("dst-port=5000").len(), 4, "UDP and TCP");
        let [tuple] = &lookups("tcp,src=10.1.2.3,dst=10.0.0.0/9,src-port=1,dst-port=64-127")[..]
        else {
            panic!("one");
        };
        let words: Vec<_> = tuple
            .words
            .iter()
            .map(|w| (w.header, w.offset, w.value, w.mask))
            .collect();
        assert_eq!(
            words,
            [
                (32, 12, 0x0a01, 0xffff),
                (32, 14, 0x0203, 0xffff),
                (32, 16, 0x0a00, 0xff80),
                (49, 0, 1, 0xffff),
                (49, 2, 64, 0xffc0)
            ]
        );
        // Whatever is behind the address.
        let [udp, tcp, other] = &lookups("dst=fd00::1")[..] else {
            panic!("three");
        };
        assert_eq!((udp.words.len(), udp.words[0].offset), (8, 24));
        assert_eq!((tcp.transport, other.transport), (Some(header::TCP), None));
        let [proto] = &lookups("ip,proto=89")[..] else {
            panic!("one");
        };
        assert_eq!((proto.words[0].offset, proto.words[0].mask), (8, 0xff));
        // A later fragment has no UDP header.
        assert_eq!(lookups("ip,udp").len(), 2);
    }

    #[test]
    fn what_the_nic_cannot_tell_apart_is_left_to_others() {
        for rule in [
            "any",
            "udp",
            "ip6,tcp",
            "arp",
            "vlan=7,udp,dst-port=1",
            "dst-mac=02:00:00:00:00:01",
            "udp,dst-port=5-6",
            "tcp,src=fd00::1,dst=fd00::2,dst-port=1",
            "ip",
        ] {
            assert!(lookups(rule).is_empty(), "{rule}");
        }
    }

    #[test]
    fn the_made_up_packet_is_one_that_the_rule_takes() {
        for rule in [
            "udp,dst-port=5000",
            "tcp,src=10.1.2.3,dst=10.0.0.0/9,src-port=1,dst-port=64-127",
            "ip6,udp,src-port=7",
            "tcp,dst=fd00::1,dst-port=80",
            "ip,proto=89",
            "src=192.168.0.0/16",
            "ip,udp",
            "dst=fd00::/16",
        ] {
            let parsed: FlowRule = rule.parse().unwrap();
            for lookup in lookups(rule) {
                let packet = lookup.packet();
                assert!(packet.len().is_multiple_of(4), "{rule}");
                let key = parse(&packet, packet.len()).key;
                assert!(parsed.matches(&key), "{rule}: {key:?}");
            }
        }
    }

    #[test]
    fn ranges_are_masks_where_they_are_aligned() {
        let of = |first, last| masked(PortRange::new(first, last).unwrap());
        assert_eq!(of(80, 80), Some((80, 0xffff)));
        assert_eq!(of(0, 65535), Some((0, 0)));
        assert_eq!(of(1024, 2047), Some((1024, 0xfc00)));
        assert_eq!(of(1024, 2048), None);
        assert_eq!(of(5, 6), None);
    }
}
