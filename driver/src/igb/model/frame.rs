//! What the hardware sees in a frame: where its headers end, whether its checksums are right.

use crate::packet::{Addresses, Fragment, PacketKey, parse, protocol};

/// The kinds of headers that PSRTYPE tells apart, as its bits: IPv4, with TCP, with UDP; IPv6, with TCP, with UDP.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Transport {
    None,
    Tcp,
    Udp,
}

/// A frame taken apart.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub key: PacketKey,
    /// Where IPv4 or IPv6 headers end; 0 if there is none.
    pub network_end: usize,
    /// Where all known headers end.
    pub end: usize,
    pub ipv4: bool,
    pub transport: Transport,
    /// Status bits of checksums that were checked, and error bits.
    pub checksums: u64,
}

/// Sum of 16-bit words in one's complement.
fn sum(bytes: &[u8], start: u32) -> u32 {
    let (words, rest) = bytes.as_chunks::<2>();
    let mut sum = words.iter().fold(start, |sum, word| {
        sum + u32::from(u16::from_be_bytes(*word))
    });
    if let [last] = rest {
        sum += u32::from(*last) << 8;
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum
}

impl Seen {
    /// Takes `frame` apart.
    pub(super) fn of(frame: &[u8]) -> Self {
        let parsed = parse(frame, frame.len());
        let key = parsed.key;
        let mut seen = Self {
            key,
            network_end: 0,
            end: usize::from(parsed.header_len),
            ipv4: matches!(key.addresses, Some(Addresses::V4 { .. })),
            transport: Transport::None,
            checksums: 0,
        };
        if key.addresses.is_none() || parsed.malformed.is_some() {
            seen.end = 0;
            return seen;
        }
        let l2 = 14 + 4 * key.vlans.iter().flatten().count();
        let whole = key.fragment != Fragment::Later;
        let l4 = match key.protocol {
            Some(protocol::TCP) if whole => {
                seen.transport = Transport::Tcp;
                if frame[l2] >> 4 == 6 && frame[l2 + 6] == protocol::TCP {
                    Some(l2 + 40)
                } else {
                    // Behind IPv4 it is not looked at. Behind extension headers: the end of the options is the end of all.
                    (l2..seen.end).rev().find_map(|at| {
                        let offset = usize::from(frame.get(at + 12)? >> 4) * 4;
                        (at + offset == seen.end && offset >= 20 && at >= l2 + 20).then_some(at)
                    })
                }
            }
            Some(protocol::UDP) if whole => {
                seen.transport = Transport::Udp;
                Some(seen.end - 8)
            }
            _ => None,
        };
        if seen.ipv4 {
            seen.network_end = l2 + usize::from(frame[l2] & 15) * 4;
            seen.checksums |= 1 << 6;
            if sum(&frame[l2..seen.network_end], 0) != 0xffff {
                seen.checksums |= 1 << 30;
            }
        } else {
            seen.network_end = l4.unwrap_or(seen.end);
        }
        if let Some(l4) = l4.filter(|_| key.fragment == Fragment::None) {
            seen.check_transport(frame, l2, if seen.ipv4 { seen.network_end } else { l4 });
        }
        seen
    }

    fn check_transport(&mut self, frame: &[u8], l2: usize, l4: usize) {
        let length = |at: usize| usize::from(u16::from_be_bytes([frame[at], frame[at + 1]]));
        let end = if self.ipv4 {
            l2 + length(l2 + 2)
        } else {
            l2 + 40 + length(l2 + 4)
        };
        let Some(segment) = frame.get(l4..end) else {
            return;
        };
        let udp = self.transport == Transport::Udp;
        if udp && segment.len() >= 8 && segment[6..8] == [0, 0] {
            // None was sent.
            return;
        }
        let addresses = if self.ipv4 {
            &frame[l2 + 12..l2 + 20]
        } else {
            &frame[l2 + 8..l2 + 40]
        };
        let number = if udp { protocol::UDP } else { protocol::TCP };
        let pseudo = sum(addresses, u32::from(number) + segment.len() as u32);
        self.checksums |= 1 << 5 | if udp { 1 << 4 } else { 0 };
        if sum(segment, pseudo) != 0xffff {
            self.checksums |= 1 << 29;
        }
    }

    /// Where the split lies by PSRTYPE's bits; `None` if no kind that is on covers the frame.
    pub(super) fn split(&self, kinds: u32) -> Option<usize> {
        if self.network_end == 0 {
            return None;
        }
        let base = if self.ipv4 { 1 } else { 7 };
        let bit = match self.transport {
            Transport::None => base,
            Transport::Tcp => base + 1,
            Transport::Udp => base + 2,
        };
        if kinds & 1 << bit != 0 {
            Some(self.end)
        } else if kinds & 1 << base != 0 {
            Some(self.network_end)
        } else {
            None
        }
    }

    /// Bits 15:4 of the first word.
    pub(super) fn packet_type(&self) -> u64 {
        if self.network_end == 0 {
            return 0;
        }
        let network = if self.ipv4 { 0x001 } else { 0x004 };
        network
            | match self.transport {
                Transport::None => 0,
                Transport::Tcp => 0x010,
                Transport::Udp => 0x020,
            }
    }
}
