//! Frames made by hand, for NICs that no kernel sends through.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use etherparse::{PacketBuilder, VlanId};

/// A frame.
pub struct Frame {
    /// Its bytes, without FCS.
    pub bytes: Vec<u8>,
    /// Where its payload begins.
    pub header: usize,
}

/// What a frame's headers say.
#[derive(Clone, Copy, Debug)]
pub struct Headers {
    /// Destination and source of the Ethernet header.
    pub link: ([u8; 6], [u8; 6]),
    /// An IEEE 802.1Q tag.
    pub vlan: Option<VlanId>,
    /// From where to where; both of one kind.
    pub ends: (SocketAddr, SocketAddr),
    /// TCP with 12 bytes of options (timestamps) rather than UDP.
    pub tcp: bool,
}

impl Headers {
    /// The bytes of these headers.
    pub fn len(&self) -> usize {
        let network = if self.ends.0.is_ipv4() { 20 } else { 40 };
        14 + if self.vlan.is_some() { 4 } else { 0 } + network + if self.tcp { 32 } else { 8 }
    }

    /// The frame with these headers and `payload`, lengths and checksums right.
    ///
    /// # Errors
    /// A payload too long for its length fields.
    pub fn frame(&self, payload: &[u8]) -> Result<Frame> {
        let (to, from) = self.link;
        let start = PacketBuilder::ethernet2(from, to);
        let network =
            match (self.vlan, self.ends) {
                (None, (SocketAddr::V4(from), SocketAddr::V4(to))) => {
                    start.ipv4(from.ip().octets(), to.ip().octets(), 64)
                }
                (None, (from, to)) => start.ipv6(v6(from), v6(to), 64),
                (Some(tag), (SocketAddr::V4(from), SocketAddr::V4(to))) => start
                    .single_vlan(tag)
                    .ipv4(from.ip().octets(), to.ip().octets(), 64),
                (Some(tag), (from, to)) => start.single_vlan(tag).ipv6(v6(from), v6(to), 64),
            };
        let (source, destination) = (self.ends.0.port(), self.ends.1.port());
        let header = self.len();
        let mut bytes = Vec::with_capacity(header + payload.len());
        let written = if self.tcp {
            network
                .tcp(source, destination, 1, 8192)
                // No-operation twice, timestamps (RFC 7323).
                .options_raw(&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2])?
                .write(&mut bytes, payload)
        } else {
            network.udp(source, destination).write(&mut bytes, payload)
        };
        written.context("cannot make a frame")?;
        Ok(Frame { bytes, header })
    }
}

fn v6(address: SocketAddr) -> [u8; 16] {
    match address {
        SocketAddr::V4(address) => address.ip().to_ipv6_mapped().octets(),
        SocketAddr::V6(address) => address.ip().octets(),
    }
}
