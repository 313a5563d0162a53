//! A frame's headers, found the way the receive parser finds them.

use crate::bytes;

/// The highest protocol found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Layer4 {
    Udp,
    Tcp,
    Sctp,
    Icmp,
    Other,
}

/// An IP header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Ip {
    pub(crate) version: u8,
    /// Where it begins, and where it ends with its options and extension headers.
    pub(crate) at: usize,
    pub(crate) end: usize,
    pub(crate) protocol: u8,
    pub(crate) fragment: bool,
    /// Where the packet ends by its own length; Ethernet padding follows.
    pub(crate) packet_end: usize,
}

/// A frame and what was found in it.
#[derive(Clone, Debug)]
pub(crate) struct Frame<'a> {
    pub(crate) bytes: &'a [u8],
    /// TPID and TCI of each tag, the outer first.
    pub(crate) tags: Vec<(u16, u16)>,
    /// The type behind the tags, and where what it says begins.
    pub(crate) ether_type: u16,
    pub(crate) l2_end: usize,
    pub(crate) ip: Option<Ip>,
    /// Protocol behind the IP header, where it begins and where its header ends.
    pub(crate) l4: Option<(Layer4, usize, usize)>,
}

const TAGS: [u16; 3] = [0x8100, 0x88a8, 0x9100];

impl<'a> Frame<'a> {
    /// At least 14 bytes are there; a shorter frame never gets past the MAC.
    pub(crate) fn parse(frame: &'a [u8]) -> Self {
        let mut found = Self {
            bytes: frame,
            tags: Vec::new(),
            ether_type: bytes::be16_at(frame, 12),
            l2_end: 14,
            ip: None,
            l4: None,
        };
        while TAGS.contains(&found.ether_type)
            && found.tags.len() < 2
            && frame.len() >= found.l2_end + 4
        {
            found
                .tags
                .push((found.ether_type, bytes::be16_at(frame, found.l2_end)));
            found.ether_type = bytes::be16_at(frame, found.l2_end + 2);
            found.l2_end += 4;
        }
        found.ip = match found.ether_type {
            0x0800 => ipv4(frame, found.l2_end),
            0x86dd => ipv6(frame, found.l2_end),
            _ => None,
        };
        if let Some(ip) = found.ip
            && !ip.fragment
        {
            found.l4 = layer4(frame, ip);
        }
        found
    }

    pub(crate) fn destination(&self) -> [u8; 6] {
        bytes::get(self.bytes, 0)
    }

    /// The outer tag's VLAN; 0 without one.
    pub(crate) fn vlan(&self) -> u16 {
        self.tags.first().map_or(0, |(_, tci)| tci & 0xfff)
    }

    /// 0 unicast, 1 multicast, 2 broadcast, as descriptors count.
    pub(crate) fn cast(&self) -> u8 {
        let to = self.destination();
        if to == [0xff; 6] { 2 } else { to[0] & 1 }
    }

    /// The packet type of the default package: DPDK `ice_rx_ptype` and `ice_lan_tx_rx.h`.
    pub(crate) fn packet_type(&self) -> u16 {
        let Some(ip) = self.ip else {
            return if self.ether_type == 0x0806 { 11 } else { 1 };
        };
        let first = if ip.version == 4 { 22 } else { 88 };
        if ip.fragment {
            return first;
        }
        first
            + match self.l4 {
                Some((Layer4::Udp, ..)) => 2,
                Some((Layer4::Tcp, ..)) => 4,
                Some((Layer4::Sctp, ..)) => 5,
                Some((Layer4::Icmp, ..)) => 6,
                _ => 1,
            }
    }
}

fn ipv4(frame: &[u8], at: usize) -> Option<Ip> {
    let first = *frame.get(at)?;
    let len = usize::from(first & 0xf) * 4;
    let total = usize::from(bytes::be16_at(frame, at + 2));
    if first >> 4 != 4 || len < 20 || frame.len() < at + len || total < len {
        return None;
    }
    Some(Ip {
        version: 4,
        at,
        end: at + len,
        protocol: frame[at + 9],
        fragment: bytes::be16_at(frame, at + 6) & 0x3fff != 0,
        packet_end: (at + total).min(frame.len()),
    })
}

fn ipv6(frame: &[u8], at: usize) -> Option<Ip> {
    if frame.get(at)? >> 4 != 6 || frame.len() < at + 40 {
        return None;
    }
    let packet_end = (at + 40 + usize::from(bytes::be16_at(frame, at + 4))).min(frame.len());
    let mut ip = Ip {
        version: 6,
        at,
        end: at + 40,
        protocol: frame[at + 6],
        fragment: false,
        packet_end,
    };
    // Hop-by-hop, routing, fragment, authentication, destination options.
    while matches!(ip.protocol, 0 | 43 | 44 | 51 | 60) && frame.len() >= ip.end + 8 {
        let extra = usize::from(frame[ip.end + 1]);
        let len = match ip.protocol {
            44 => {
                ip.fragment = true;
                8
            }
            51 => (extra + 2) * 4,
            _ => (extra + 1) * 8,
        };
        if frame.len() < ip.end + len {
            break;
        }
        ip.protocol = frame[ip.end];
        ip.end += len;
    }
    Some(ip)
}

fn layer4(frame: &[u8], ip: Ip) -> Option<(Layer4, usize, usize)> {
    let at = ip.end;
    let rest = ip.packet_end.checked_sub(at)?;
    let (layer, len) = match ip.protocol {
        17 => (Layer4::Udp, 8),
        6 => {
            let words = usize::from(bytes::u8_at(frame, at + 12) >> 4);
            (Layer4::Tcp, words.max(5) * 4)
        }
        132 => (Layer4::Sctp, 12),
        1 if ip.version == 4 => (Layer4::Icmp, 0),
        58 if ip.version == 6 => (Layer4::Icmp, 0),
        _ => (Layer4::Other, 0),
    };
    (rest >= len).then_some((layer, at, at + len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_and_options_move_the_layers() {
        let mut frame = vec![0; 12];
        frame.extend([0x81, 0, 0x20, 5, 0x08, 0]);
        frame.extend([0x46, 0, 0, 40, 0, 0, 0, 0, 64, 17, 0, 0]);
        frame.extend([0; 12]);
        frame.extend([0; 16]);
        let found = Frame::parse(&frame);
        assert_eq!(found.vlan(), 5);
        assert_eq!(found.l2_end, 18);
        assert_eq!(found.ip.map(|ip| ip.end), Some(42));
        assert_eq!(found.l4, Some((Layer4::Udp, 42, 50)));
        assert_eq!(found.packet_type(), 24);
    }

    #[test]
    fn fragments_and_short_headers_have_no_layer_4() {
        let mut frame = vec![0; 12];
        frame.extend([0x08, 0]);
        frame.extend([0x45, 0, 0, 28, 0, 0, 0x20, 0, 64, 17, 0, 0]);
        frame.extend([0; 16]);
        let found = Frame::parse(&frame);
        assert_eq!((found.l4, found.packet_type()), (None, 22));
        frame[20] = 0;
        frame[16] = 0;
        frame[17] = 24;
        let found = Frame::parse(&frame);
        assert_eq!((found.l4, found.packet_type()), (None, 23));
        assert_eq!(Frame::parse(&frame[..30]).ip, None);
    }

    #[test]
    fn ipv6_extension_headers_belong_to_the_header() {
        let mut frame = vec![0; 12];
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 28, 0, 64]);
        frame.extend([0; 32]);
        frame.extend([6, 0, 0, 0, 0, 0, 0, 0]);
        let tcp = frame.len();
        frame.extend([0; 20]);
        let found = Frame::parse(&frame);
        assert_eq!(found.l4, Some((Layer4::Tcp, tcp, tcp + 20)));
        assert_eq!(found.packet_type(), 92);
    }
}
