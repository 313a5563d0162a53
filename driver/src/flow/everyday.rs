//! Rules for packets of everyday shape, without walking headers: Ethernet without tags, IPv4 without options, whole, UDP.
//!
//! Such a header has 42 bytes, and everything that a rule can ask for lies at a place that is known. So a rule is a few masks and values, made when the rule is
//! set. What is of another shape, or might be, goes the long way: [`parse`](crate::packet::parse) and [`FlowRule::matches`], which say the same.

use super::{FlowRule, Prefix};
use crate::chunk::NO_FLOW;
use crate::packet::{ether_type, protocol};

/// Bytes of an everyday header.
pub(crate) const HEADER: usize = 42;
/// Bytes to be looked at: the header, rounded up to words. What lies behind it has no influence.
pub(crate) const LOOK: usize = 48;

/// The words of the first bytes, in the order of the packet: byte 0 is the highest of the first.
type Words = [u64; LOOK / 8];

/// A field at `offset` bytes, in a word of its own: the bits that count of each word.
const fn place<const LEN: usize>(offset: usize, field: [u8; LEN]) -> Words {
    let mut words = [0; LOOK / 8];
    let mut at = 0;
    while at < LEN {
        let byte = offset + at;
        words[byte / 8] |= (field[at] as u64) << (56 - 8 * (byte % 8));
        at += 1;
    }
    words
}

/// Ether type, version and header length, fragment flags and offset, protocol: what makes the shape, with its mask.
const SHAPE: (Words, Words) = {
    let ethernet = (
        place(12, ether_type::IPV4.to_be_bytes()),
        place(12, [0xff; 2]),
    );
    let ip = (place(14, [0x45]), place(14, [0xff]));
    // More fragments, and the offset.
    let fragment = place(20, [0x3f, 0xff]);
    let udp = (place(23, [protocol::UDP]), place(23, [0xff]));
    let mut shape = ([0; LOOK / 8], [0; LOOK / 8]);
    let mut at = 0;
    while at < LOOK / 8 {
        shape.0[at] = ethernet.0[at] | ip.0[at] | udp.0[at];
        shape.1[at] = ethernet.1[at] | ip.1[at] | udp.1[at] | fragment[at];
        at += 1;
    }
    shape
};

/// A rule, as it applies to everyday packets. Destination address in word 0, the IP addresses in words 3 and 4.
#[derive(Clone, Copy, Debug)]
struct Masked {
    id: u16,
    value: [u64; 3],
    mask: [u64; 3],
    /// The first port, and how many more.
    src_port: (u16, u16),
    dst_port: (u16, u16),
}

/// The words that rules look at, addresses first.
const RULE_WORDS: [usize; 3] = [0, 3, 4];

impl Masked {
    /// `None` if the rule takes no everyday packet.
    fn new(id: u16, rule: &FlowRule) -> Option<Self> {
        let fits = rule.vlan().is_none()
            && rule.inner_vlan().is_none()
            && rule
                .ether_type()
                .is_none_or(|kind| kind == ether_type::IPV4)
            && rule.protocol().is_none_or(|number| number == protocol::UDP);
        if !fits {
            return None;
        }
        let mut new = Self {
            id,
            value: [0; 3],
            mask: [0; 3],
            src_port: (0, u16::MAX),
            dst_port: (0, u16::MAX),
        };
        if let Some(address) = rule.dst_mac() {
            new.ask(place(0, address), place(0, [0xff; 6]));
        }
        for (offset, prefix) in [(26, rule.src()), (30, rule.dst())] {
            if let Some(prefix) = prefix {
                let (value, mask) = v4(prefix)?;
                new.ask(place(offset, value), place(offset, mask));
            }
        }
        let ports = |range: super::PortRange| (range.first(), range.last() - range.first());
        new.src_port = rule.src_port().map_or(new.src_port, ports);
        new.dst_port = rule.dst_port().map_or(new.dst_port, ports);
        Some(new)
    }

    fn ask(&mut self, value: Words, mask: Words) {
        for (at, word) in RULE_WORDS.into_iter().enumerate() {
            self.value[at] |= value[word];
            self.mask[at] |= mask[word];
        }
    }

    #[inline(always)]
    fn takes(&self, words: [u64; 3], src_port: u16, dst_port: u16) -> bool {
        let mut other = 0;
        for (at, word) in words.into_iter().enumerate() {
            other |= (word ^ self.value[at]) & self.mask[at];
        }
        other == 0
            && src_port.wrapping_sub(self.src_port.0) <= self.src_port.1
            && dst_port.wrapping_sub(self.dst_port.0) <= self.dst_port.1
    }
}

/// An IPv4 prefix as value and mask.
fn v4(prefix: Prefix) -> Option<([u8; 4], [u8; 4])> {
    prefix
        .is_ipv4()
        .then(|| prefix.words())
        .and_then(|words| words.first().copied())
}

/// The rules of a queue, as they apply to everyday packets.
#[derive(Debug, Default)]
pub(crate) struct Everyday(Vec<Masked>);

impl Everyday {
    /// In the order they were added.
    pub(crate) fn new(rules: &[(u16, FlowRule)]) -> Self {
        Self(
            rules
                .iter()
                .filter_map(|(id, rule)| Masked::new(*id, rule))
                .collect(),
        )
    }

    /// The first rule that takes the packet whose header, [`HEADER`] bytes long, begins `look`; [`NO_FLOW`] if none does, `None` if it is not of
    /// everyday shape.
    #[inline(always)]
    pub(crate) fn find(&self, look: &[u8; LOOK]) -> Option<u16> {
        let (bytes, _) = look.as_chunks::<8>();
        let words: Words = std::array::from_fn(|at| u64::from_be_bytes(bytes[at]));
        let mut other = 0;
        for (word, (value, mask)) in words.into_iter().zip(SHAPE.0.into_iter().zip(SHAPE.1)) {
            other |= (word ^ value) & mask;
        }
        // A total length that ends before the UDP header does cuts it off.
        let total = (words[2] >> 48) as u16;
        if other != 0 || usize::from(total) < HEADER - 14 {
            return None;
        }
        let asked = RULE_WORDS.map(|word| words[word]);
        let (src_port, dst_port) = ((words[4] >> 32) as u16, (words[4] >> 16) as u16);
        let rule = self
            .0
            .iter()
            .find(|rule| rule.takes(asked, src_port, dst_port));
        Some(rule.map_or(NO_FLOW, |rule| rule.id))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::packet::parse;

    const RULES: [&str; 12] = [
        "any",
        "dst-mac=52:54:00:00:00:11",
        "udp,dst-port=5000",
        "udp,dst-port=5001-5010,src-port=7",
        "dst-port=5000",
        "tcp,dst-port=5000",
        "ip,src=10.0.0.0/8",
        "src=10.1.2.3,dst=10.0.0.0/30,udp",
        "dst=fd00::/8",
        "vlan=5",
        "ip6",
        "proto=17",
    ];

    /// Headers that are of everyday shape, and others that nearly are.
    fn header() -> impl Strategy<Value = Vec<u8>> {
        let ports = prop_oneof![
            Just(5000_u16),
            Just(5001),
            Just(5010),
            Just(5011),
            Just(7),
            any::<u16>()
        ];
        let address = prop_oneof![
            Just([10, 1, 2, 3]),
            Just([10, 0, 0, 2]),
            Just([10, 0, 0, 4]),
            Just([11, 0, 0, 0]),
        ];
        let total = prop_oneof![9 => Just(128_u16), 1 => 0..40_u16, 1 => any::<u16>()];
        let change = proptest::option::weighted(0.4, (0..48_usize, any::<u8>()));
        let last = prop_oneof![Just(0x10_u8), Just(0x11)];
        (
            ports.clone(),
            ports,
            address.clone(),
            address,
            total,
            change,
            last,
        )
            .prop_map(|(src_port, dst_port, src, dst, total, change, last)| {
                let mut bytes =
                    [&[0x52, 0x54, 0, 0, 0, last][..], &[2; 6], &[8, 0, 0x45, 0]].concat();
                bytes.extend(total.to_be_bytes());
                bytes.extend([1, 2, 0x40, 0, 64, 17, 0, 0]);
                bytes.extend(src);
                bytes.extend(dst);
                bytes.extend(src_port.to_be_bytes());
                bytes.extend(dst_port.to_be_bytes());
                bytes.extend([0; 10]);
                if let Some((at, byte)) = change {
                    bytes[at] = byte;
                }
                bytes
            })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        /// The short way says what the long way says, or nothing.
        #[test]
        fn what_is_found_is_what_walking_the_headers_finds(
            bytes in header(),
            chosen in proptest::collection::vec(0..RULES.len(), 0..5),
        ) {
            let rules: Vec<(u16, FlowRule)> = chosen
                .iter()
                .zip(1..)
                .map(|(rule, id)| (id, RULES[*rule].parse().unwrap()))
                .collect();
            let look: &[u8; LOOK] = bytes.first_chunk().unwrap();
            // Only the header itself is known to the long way, and the frame is long enough for all of it.
            let parsed = parse(&look[..HEADER], 1500);
            let long = rules
                .iter()
                .find(|(_, rule)| rule.matches(&parsed.key))
                .map_or(NO_FLOW, |(id, _)| *id);
            let short = Everyday::new(&rules).find(look);
            if let Some(short) = short {
                prop_assert_eq!(short, long);
                prop_assert_eq!(usize::from(parsed.header_len), HEADER);
            } else {
                // Not of the shape: cut off, tagged, with options, a fragment, not UDP.
                prop_assert!(
                    usize::from(parsed.header_len) != HEADER
                        || parsed.key.protocol != Some(protocol::UDP)
                        || parsed.key.ether_type != Some(ether_type::IPV4)
                        || parsed.key.fragment != crate::packet::Fragment::None
                );
            }
        }
    }
}
