//! The header walker.

use super::{
    Addresses, ETHERNET_HEADER, Fragment, MAX_EXTENSIONS, MAX_HEADERS, Malformed, PacketKey,
    Parsed, ether_type, protocol,
};
use devrx_sabotage::removed;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Walks the headers of a frame of `frame_len` bytes, of which `first` are the first ones. Few are enough (128 for what one meets
/// every day); if they are not, [`Parsed::need`] says so. Never panics, never allocates, reads each byte at most once.
///
/// # Example
///
/// ```
/// use devrx_driver::packet::parse;
/// let arp = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 1], &[8, 6], &[0; 28]].concat();
/// let parsed = parse(&arp, arp.len());
/// assert_eq!((parsed.header_len, parsed.key.ether_type), (14, Some(0x0806)));
/// ```
#[inline]
#[must_use]
pub fn parse(first: &[u8], frame_len: usize) -> Parsed {
    let mut walker = Walker {
        bytes: &first[..first.len().min(frame_len)],
        end: frame_len,
        key: PacketKey::default(),
    };
    let outcome = walker.frame();
    let key = walker.key;
    match outcome {
        Ok(split) => Parsed {
            header_len: split as u16,
            key,
            ..Parsed::default()
        },
        Err(Stop::Malformed(why)) => Parsed {
            key,
            malformed: Some(why),
            ..Parsed::default()
        },
        Err(Stop::Need(bytes)) => Parsed {
            key,
            need: bytes as u16,
            ..Parsed::default()
        },
    }
}

/// Why the walk ended early.
enum Stop {
    Malformed(Malformed),
    /// The frame has this many bytes, but not all of them were given. At most [`MAX_HEADERS`].
    Need(usize),
}

struct Walker<'a> {
    /// The bytes given, no more than the frame has.
    bytes: &'a [u8],
    /// Where the frame ends, or the IP packet in it once that is known.
    end: usize,
    key: PacketKey,
}

impl Walker<'_> {
    /// Whether a header may reach to `to`.
    #[inline]
    fn within(&self, to: usize) -> Result<(), Stop> {
        if to > self.end && !removed("packet-cut-off") {
            Err(Stop::Malformed(Malformed::CutOff))
        } else if to > MAX_HEADERS {
            Err(Stop::Malformed(Malformed::TooLong))
        } else {
            Ok(())
        }
    }

    /// `N` bytes at `at`.
    #[inline]
    fn get<const N: usize>(&self, at: usize) -> Result<&[u8; N], Stop> {
        self.within(at + N)?;
        self.bytes
            .get(at..)
            .and_then(|rest| rest.first_chunk())
            .ok_or(Stop::Need(at + N))
    }

    /// The whole frame; the answer is the split.
    #[inline]
    fn frame(&mut self) -> Result<usize, Stop> {
        let ethernet: &[u8; ETHERNET_HEADER] = self.get(0)?;
        let (destination, mut kind) = (
            ethernet.first_chunk().copied(),
            u16::from_be_bytes([ethernet[12], ethernet[13]]),
        );
        self.key.dst_mac = destination;
        let mut at = ETHERNET_HEADER;
        for tag in 0..self.key.vlans.len() {
            if !ether_type::VLAN.contains(&kind) {
                break;
            }
            let &[tci_high, tci_low, kind_high, kind_low] = self.get(at)?;
            self.key.vlans[tag] = Some(u16::from_be_bytes([tci_high, tci_low]) & 0x0fff);
            kind = u16::from_be_bytes([kind_high, kind_low]);
            at += 4;
        }
        self.key.ether_type = Some(kind);
        match kind {
            ether_type::IPV4 => self.ipv4(at),
            ether_type::IPV6 => self.ipv6(at),
            _ => Ok(at),
        }
    }

    /// RFC 791 section 3.1.
    #[inline]
    fn ipv4(&mut self, at: usize) -> Result<usize, Stop> {
        let ip: &[u8; 20] = self.get(at)?;
        let header = usize::from(ip[0] & 0x0f) * 4;
        let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
        let fragment = u16::from_be_bytes([ip[6], ip[7]]);
        let next = ip[9];
        let addresses = Addresses::V4 {
            src: Ipv4Addr::new(ip[12], ip[13], ip[14], ip[15]),
            dst: Ipv4Addr::new(ip[16], ip[17], ip[18], ip[19]),
        };
        if ip[0] >> 4 != 4 {
            return Err(Stop::Malformed(Malformed::Version));
        }
        if header < 20 || total < header {
            return Err(Stop::Malformed(Malformed::IpLength));
        }
        self.within(at + header)?;
        self.end = self.end.min(at + total);
        self.key.addresses = Some(addresses);
        self.key.protocol = Some(next);
        // Bit 15 is reserved, 14 don't fragment, 13 more fragments, the rest the offset in units of 8 bytes.
        self.key.fragment = match (fragment & 0x1fff, fragment & 0x2000) {
            (0, 0) => Fragment::None,
            (0, _) => Fragment::First,
            _ => Fragment::Later,
        };
        self.transport(at + header, next)
    }

    /// RFC 8200 sections 3 and 4.
    #[inline]
    fn ipv6(&mut self, at: usize) -> Result<usize, Stop> {
        let ip: &[u8; 40] = self.get(at)?;
        if ip[0] >> 4 != 6 {
            return Err(Stop::Malformed(Malformed::Version));
        }
        let payload = usize::from(u16::from_be_bytes([ip[4], ip[5]]));
        let mut next = ip[6];
        let address = |at: usize| {
            ip[at..]
                .first_chunk::<16>()
                .map_or(Ipv6Addr::UNSPECIFIED, |a| Ipv6Addr::from(*a))
        };
        let addresses = Addresses::V6 {
            src: address(8),
            dst: address(24),
        };
        let mut at = at + 40;
        if payload != 0 {
            self.end = self.end.min(at + payload);
        }
        self.key.addresses = Some(addresses);
        for _ in 0..MAX_EXTENSIONS {
            let length;
            if protocol::EIGHTS.contains(&next) {
                let &[following, eights] = self.get(at)?;
                (next, length) = (following, (usize::from(eights) + 1) * 8);
            } else if next == protocol::AUTHENTICATION {
                let &[following, words] = self.get(at)?;
                if words == 0 {
                    return Err(Stop::Malformed(Malformed::Extensions));
                }
                (next, length) = (following, (usize::from(words) + 2) * 4);
            } else if next == protocol::FRAGMENT {
                let &[following, _, high, low, ..]: &[u8; 8] = self.get(at)?;
                // 13 bits of offset in units of 8 bytes, two reserved bits, more fragments.
                let offset = u16::from_be_bytes([high, low]);
                (next, length) = (following, 8);
                if offset & 0xfff8 != 0 {
                    self.key.fragment = Fragment::Later;
                    // The protocol behind an extension header of the fragmented part is in the first fragment only.
                    self.key.protocol = (!protocol::is_extension(next)).then_some(next);
                    return self.transport(at + length, next);
                }
                if offset & 1 != 0 {
                    self.key.fragment = Fragment::First;
                }
            } else {
                break;
            }
            self.within(at + length)?;
            at += length;
        }
        if protocol::is_extension(next) {
            return Err(Stop::Malformed(Malformed::Extensions));
        }
        self.key.protocol = Some(next);
        self.transport(at, next)
    }

    /// What lies behind the IP header, at `at`.
    #[inline]
    fn transport(&mut self, at: usize, next: u8) -> Result<usize, Stop> {
        if self.key.fragment == Fragment::Later && !removed("fragment-ports") {
            return Ok(at);
        }
        let (ports, header) = match next {
            protocol::UDP => {
                let &[a, b, c, d, ..]: &[u8; 8] = self.get(at)?;
                ([a, b, c, d], 8)
            }
            protocol::TCP => {
                let tcp: &[u8; 20] = self.get(at)?;
                let header = usize::from(tcp[12] >> 4) * 4;
                if header < 20 {
                    return Err(Stop::Malformed(Malformed::TcpOffset));
                }
                ([tcp[0], tcp[1], tcp[2], tcp[3]], header)
            }
            _ => return Ok(at),
        };
        self.within(at + header)?;
        self.key.src_port = Some(u16::from_be_bytes([ports[0], ports[1]]));
        self.key.dst_port = Some(u16::from_be_bytes([ports[2], ports[3]]));
        Ok(at + header)
    }
}
