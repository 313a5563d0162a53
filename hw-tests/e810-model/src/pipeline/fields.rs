//! Words of a packet by protocol and offset, as field vectors name them: DPDK `ice_protocol_type.h` (`enum ice_prot_id`), `ice_lan_tx_rx.h`
//! (`enum ice_flg64_bits`, `enum ice_flex_mdid`).

use super::block::Word;
use crate::bytes;
use crate::frame::{Frame, Layer4};
use crate::switch::Direction;

const MAC: u8 = 1;
const ETHER_TYPE: u8 = 9;
const OUTER_VLAN: u8 = 16;
const VLAN: u8 = 17;
const IPV4: u8 = 32;
const IPV6: u8 = 40;
const IPV6_NEXT: u8 = 43;
const TCP: u8 = 49;
const UDP: u8 = 53;
const SCTP: u8 = 96;
const ICMP: u8 = 98;
const ICMPV6: u8 = 100;
const ARP: u8 = 118;
const METADATA: u8 = 255;

/// Metadata that packet flags are in, 16 bits each.
const FLAGS: [u16; 4] = [20, 21, 22, 23];

/// The words of a vector; what a packet does not have is zero.
pub(crate) fn words(vector: &[Word], frame: &Frame<'_>, direction: Direction) -> Vec<u16> {
    vector
        .iter()
        .map(|word| value(*word, frame, direction).unwrap_or(0))
        .collect()
}

/// A word, if the packet has it.
pub(super) fn value(word: Word, frame: &Frame<'_>, direction: Direction) -> Option<u16> {
    let offset = usize::from(word.offset);
    let at = match word.protocol {
        MAC => 0,
        ETHER_TYPE => frame.l2_end - 2,
        OUTER_VLAN => {
            return frame
                .tags
                .first()
                .filter(|_| frame.tags.len() > 1)
                .map(|tag| tag.1);
        }
        VLAN => return frame.tags.last().map(|tag| tag.1),
        IPV4 => frame.ip.filter(|ip| ip.version == 4)?.at,
        IPV6 => frame.ip.filter(|ip| ip.version == 6)?.at,
        // The IPv6 header, with the protocol behind all extension headers in place of the next header.
        IPV6_NEXT => {
            let ip = frame.ip.filter(|ip| ip.version == 6)?;
            let value = bytes::be16_at(frame.bytes, ip.at + offset);
            return Some(if offset == 6 {
                value & 0xff | u16::from(ip.protocol) << 8
            } else {
                value
            });
        }
        TCP | UDP | SCTP | ICMP | ICMPV6 => {
            let (layer, at, _) = frame.l4?;
            let version = frame.ip?.version;
            let same = match word.protocol {
                TCP => layer == Layer4::Tcp,
                UDP => layer == Layer4::Udp,
                SCTP => layer == Layer4::Sctp,
                ICMP => layer == Layer4::Icmp && version == 4,
                _ => layer == Layer4::Icmp && version == 6,
            };
            if !same {
                return None;
            }
            at
        }
        ARP if frame.ether_type == 0x0806 => frame.l2_end,
        METADATA => return metadata(word.offset / 2, frame, direction),
        _ => return None,
    };
    (frame.bytes.len() >= at + offset + 2).then(|| bytes::be16_at(frame.bytes, at + offset))
}

fn metadata(number: u16, frame: &Frame<'_>, direction: Direction) -> Option<u16> {
    let which = FLAGS.iter().position(|flags| *flags == number)?;
    let tagged = !frame.tags.is_empty();
    let mut flags = 0_u64;
    for (bit, is) in [
        // From the network, and received.
        (3, direction == Direction::Receive),
        (4, direction == Direction::Receive),
        (8, frame.cast() == 0),
        (9, frame.cast() == 1),
        (10, frame.cast() == 2),
        (16, tagged),
        (24, frame.ip.is_some_and(|ip| ip.fragment)),
    ] {
        flags |= u64::from(is) << bit;
    }
    Some((flags >> (which * 16)) as u16)
}
