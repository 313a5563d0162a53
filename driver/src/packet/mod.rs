//! Where a frame's headers end, and what in them a flow rule can ask for.
//!
//! [`parse`] walks the first bytes of an Ethernet frame once. It answers two questions: how many bytes the header split puts
//! into the header slot ([`Parsed::header_len`]), and the [`PacketKey`] that [`crate::flow::FlowRule::matches`] looks at. The XDP
//! program answers the second question in the kernel, byte for byte the same way; a test compares the two.
//!
//! # Where the split lies
//!
//! The split is part of devrx's interface:
//!
//! | frame | split |
//! |---|---|
//! | UDP or TCP, not a fragment or the first one | behind the UDP header, or behind the TCP header and its options |
//! | any other protocol over IP (ICMP, ESP, SCTP, GRE, IPv4 AH, no next header, ...) | behind the IP header: IPv4 options and IPv6 extension headers included |
//! | a later fragment (offset not 0) | IPv4: behind the IP header; IPv6: behind the fragment header |
//! | not IP (ARP, LLDP, IEEE 802.3 length, a third VLAN tag, ...) | behind the Ethernet header and its up to two VLAN tags |
//! | headers malformed or cut off | nothing is split: 0, and [`Parsed::malformed`] says why |
//!
//! What the borderline cases are:
//!
//! * **VLAN tags** are those with ether type 0x8100, 0x88a8 or 0x9100, at most two. Behind the second any ether type is final.
//! * **IPv4**: version not 4, header length below 20, or total length below the header length: malformed. A total length
//!   *larger than the frame* is no reason not to split: the headers are whole, it is the payload that is short. A total length
//!   *shorter than the frame* bounds the headers, since what follows is Ethernet padding: a TCP header that runs past it is cut
//!   off. (RFC 791 section 3.1)
//! * **IPv6**: version not 6: malformed. The payload length bounds the headers as in IPv4; 0 (a jumbogram, RFC 2675, or a
//!   packet that segmentation offload made) means that the frame's end does. (RFC 8200 section 3)
//! * **Extension headers** walked: hop-by-hop options (0), routing (43), fragment (44), authentication (51), destination options
//!   (60), mobility (135), HIP (139), Shim6 (140), in any order, at most [`MAX_EXTENSIONS`]; one more is malformed, and so is an
//!   authentication header of length 0 (RFC 4302 section 2.2). ESP (50) is no
//!   extension header here, since what follows is not readable: it is a protocol, and the split lies before it.
//! * **Fragments**: a first fragment is split through UDP or TCP; if that header goes on in the next fragment, it is cut off. An
//!   IPv6 fragment header with offset 0 and no more fragments (an atomic fragment, RFC 6946) makes no fragment.
//! * **UDP**: its length field is not looked at. **TCP**: data offset below 5, or past the end of the IP packet: malformed.
//!   (RFC 768, RFC 9293 section 3.1)
//! * **Long headers**: nothing behind byte [`MAX_HEADERS`] counts as header; a chain that goes on there is malformed.
//!
//! # What a malformed frame's key holds
//!
//! Everything read before the fault, nothing behind it. A frame whose VLAN tag is cut off has no ether type; one whose IP header
//! is bad has an ether type but no addresses; one whose IPv6 extension headers are bad has addresses but no protocol; one whose
//! TCP header is bad has addresses and a protocol, but no ports. A rule matches when everything it asks for is there and equal,
//! so such a frame still matches `any`, and the rules that ask only for what could be read.

mod parse;
#[cfg(test)]
mod tests;

pub use parse::parse;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bytes of a frame, from its first, in which headers can lie. What goes on behind is malformed; the XDP program has the same
/// bound, so that its verifier can follow it.
pub const MAX_HEADERS: usize = 1024;

/// IPv6 extension headers that are walked in one packet.
pub const MAX_EXTENSIONS: usize = 8;

/// Bytes of an Ethernet header without VLAN tags (IEEE 802.3).
pub const ETHERNET_HEADER: usize = 14;

/// Ether types that this module knows (IEEE 802 numbers).
pub mod ether_type {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
    /// The three ether types of VLAN tags: IEEE 802.1Q, 802.1ad (QinQ), and what came before 802.1ad.
    pub const VLAN: [u16; 3] = [0x8100, 0x88a8, 0x9100];
}

/// IP protocol numbers (IANA) that this module knows.
pub mod protocol {
    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// Authentication header (RFC 4302).
    pub const AUTHENTICATION: u8 = 51;
    /// IPv6 destination options.
    pub const DESTINATION: u8 = 60;
    /// IPv6 mobility header (RFC 6275).
    pub const MOBILITY: u8 = 135;
    /// Host identity protocol (RFC 7401).
    pub const HIP: u8 = 139;
    /// Shim6 (RFC 5533).
    pub const SHIM6: u8 = 140;

    /// The extension headers whose length is counted in units of 8 bytes after the first 8 (RFC 6564).
    pub const EIGHTS: [u8; 6] = [HOP_BY_HOP, ROUTING, DESTINATION, MOBILITY, HIP, SHIM6];

    /// Whether an IPv6 packet goes on with an extension header that is walked.
    #[inline]
    #[must_use]
    pub fn is_extension(number: u8) -> bool {
        EIGHTS.contains(&number) || number == AUTHENTICATION || number == FRAGMENT
    }
}

/// What a flow rule can ask of a packet. Absent fields were not in the frame, or lay behind a fault in its headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PacketKey {
    /// The Ethernet destination. None if it was cut off.
    pub dst_mac: Option<[u8; 6]>,
    /// The ether type behind the VLAN tags; an IEEE 802.3 length below 0x0600. None if it was cut off.
    pub ether_type: Option<u16>,
    /// VLAN identifiers (12 bits), the outer tag first.
    pub vlans: [Option<u16>; 2],
    /// IP source and destination.
    pub addresses: Option<Addresses>,
    /// IP protocol: in IPv6 the one behind the extension headers. A later IPv6 fragment has it if its fragment header names it,
    /// not if that names a further extension header, which only the first fragment has.
    pub protocol: Option<u8>,
    /// UDP or TCP source port. None in later fragments.
    pub src_port: Option<u16>,
    /// UDP or TCP destination port. None in later fragments.
    pub dst_port: Option<u16>,
    /// Whether it is a fragment, and which.
    pub fragment: Fragment,
}

/// Source and destination of an IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Addresses {
    /// IPv4.
    V4 {
        /// Source.
        src: Ipv4Addr,
        /// Destination.
        dst: Ipv4Addr,
    },
    /// IPv6.
    V6 {
        /// Source.
        src: Ipv6Addr,
        /// Destination.
        dst: Ipv6Addr,
    },
}

impl Addresses {
    /// The source.
    #[must_use]
    pub fn src(&self) -> IpAddr {
        match *self {
            Self::V4 { src, .. } => IpAddr::V4(src),
            Self::V6 { src, .. } => IpAddr::V6(src),
        }
    }

    /// The destination.
    #[must_use]
    pub fn dst(&self) -> IpAddr {
        match *self {
            Self::V4 { dst, .. } => IpAddr::V4(dst),
            Self::V6 { dst, .. } => IpAddr::V6(dst),
        }
    }
}

/// Whether a packet is a piece of a larger one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Fragment {
    /// A whole packet.
    #[default]
    None,
    /// Offset 0, and more to come: it begins with the transport header.
    First,
    /// Any other: it has no transport header, so a port rule never matches it.
    Later,
}

/// Why nothing was split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Malformed {
    /// A header goes on behind the end of the frame, or of the IP packet.
    CutOff,
    /// The headers go on behind byte [`MAX_HEADERS`] of the frame.
    TooLong,
    /// The ether type says IPv4 or IPv6, the version field something else.
    Version,
    /// The IPv4 header length is below 20 bytes, or the total length below the header length.
    IpLength,
    /// More than [`MAX_EXTENSIONS`] IPv6 extension headers, or one whose length cannot be.
    Extensions,
    /// The TCP data offset is below 20 bytes.
    TcpOffset,
}

/// What [`parse`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// Bytes of the frame that are headers, 0 to [`MAX_HEADERS`]: the split. 0 when malformed or when more bytes are needed.
    /// Never more than the frame has, but it can be more than the bytes that were given.
    pub header_len: u16,
    /// What a rule can ask for, as far as it was read.
    pub key: PacketKey,
    /// Why nothing was split.
    pub malformed: Option<Malformed>,
    /// 0: the answer is final. Otherwise the bytes given were too few: call again with at least this many of the frame's first
    /// bytes, best with as many as it has up to [`MAX_HEADERS`], which is always enough.
    pub need: u16,
}
