//! The frames of a self-test: each shape in sizes around the borders of chunks, bytes that differ from frame to frame.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result};
use etherparse::VlanId;

use super::rig::CHUNK;
use crate::frame::{Frame, Headers};

/// A locally administered address that frames go to.
const TO: [u8; 6] = [0x02, 0xd5, 0, 0, 0, 1];
/// The longest frame that is tried, bytes without FCS: what jumbo frames of 9000 bytes come to.
pub const LONGEST: usize = 9014;

/// The headers of frames.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// The name of the check.
    pub name: &'static str,
    v6: bool,
    tcp: bool,
    vlan: Option<u16>,
}

/// Every shape.
pub const SHAPES: [Shape; 6] = [
    Shape::new("split_udp_ipv4", false, false, None),
    Shape::new("split_udp_ipv6", true, false, None),
    Shape::new("split_tcp_ipv4", false, true, None),
    Shape::new("split_tcp_ipv6", true, true, None),
    Shape::new("split_vlan_ipv4", false, false, Some(100)),
    Shape::new("split_vlan_ipv6", true, true, Some(4094)),
];

impl Shape {
    const fn new(name: &'static str, v6: bool, tcp: bool, vlan: Option<u16>) -> Self {
        Self {
            name,
            v6,
            tcp,
            vlan,
        }
    }

    fn headers(self, from: [u8; 6], number: u16) -> Result<Headers> {
        let end = |last: u8, port: u16| -> SocketAddr {
            // Networks for measurements (RFC 2544, RFC 5180).
            if self.v6 {
                let address = Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, last.into());
                (address, port).into()
            } else {
                (Ipv4Addr::new(198, 18, 0, last), port).into()
            }
        };
        let vlan = self.vlan.map(VlanId::try_new).transpose();
        Ok(Headers {
            link: (TO, from),
            vlan: vlan.context("a VLAN number")?,
            ends: (end(1, 1024 + number), end(2, 5000)),
            tcp: self.tcp,
        })
    }

    /// Its frames.
    ///
    /// # Errors
    /// Never with the sizes here.
    pub fn frames(self, from: [u8; 6]) -> Result<Vec<Frame>> {
        let chunk = CHUNK as usize;
        let mut payloads = vec![
            18,
            64,
            255,
            256,
            511,
            1200,
            chunk - 1,
            chunk,
            chunk + 1,
            2 * chunk,
            3 * chunk + 17,
        ];
        let headers = self.headers(from, 0)?.len();
        // Full frames, of the usual size and jumbo.
        payloads.extend([1514 - headers, LONGEST - headers]);
        payloads
            .iter()
            .enumerate()
            .map(|(number, &len)| self.frame(from, number as u16, len))
            .collect()
    }

    /// A frame with `len` bytes of payload.
    ///
    /// # Errors
    /// A payload that no frame holds.
    pub fn frame(self, from: [u8; 6], number: u16, len: usize) -> Result<Frame> {
        self.headers(from, number)?.frame(&pattern(number, len))
    }
}

/// A question for an address (RFC 826), as long as the shortest frame.
pub fn arp(from: [u8; 6]) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(from);
    // Ethernet, IPv4, lengths of their addresses, request.
    frame.extend([0x08, 0x06, 0, 1, 0x08, 0x00, 6, 4, 0, 1]);
    frame.extend(from);
    frame.extend([198, 18, 0, 1, 0, 0, 0, 0, 0, 0, 198, 18, 0, 2]);
    frame.extend(pattern(7, 60 - frame.len()));
    frame
}

/// Bytes that tell where they belong: no two frames alike, nor two places of a frame.
fn pattern(number: u16, len: usize) -> Vec<u8> {
    let seed = u32::from(number).wrapping_mul(0x9e37_79b9);
    (0..len as u32)
        .map(|at| {
            let mixed = (at ^ seed).wrapping_mul(0x85eb_ca6b);
            (mixed >> 24) as u8 ^ mixed as u8
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_driver_s_parser_finds_the_same_headers() {
        for shape in SHAPES {
            for frame in shape.frames([2, 0, 0, 0, 0, 9]).unwrap() {
                let parsed = devrx_driver::packet::parse(&frame.bytes, frame.bytes.len());
                assert_eq!(usize::from(parsed.header_len), frame.header, "{shape:?}");
                assert!(frame.bytes.len() >= 60 && frame.bytes.len() <= LONGEST);
            }
        }
        assert_eq!(arp([2; 6]).len(), 60);
        assert_ne!(pattern(1, 100), pattern(2, 100));
    }
}
