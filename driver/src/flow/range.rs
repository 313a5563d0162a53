//! Address prefixes and port ranges.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IP address, or the network it begins. The bits behind the prefix are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prefix {
    address: IpAddr,
    bits: u8,
}

/// Bits of an address.
fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// `address` with all but its first `bits` bits zero.
fn masked(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX
                .checked_shl(32 - u32::from(bits.min(32)))
                .unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask))
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX
                .checked_shl(128 - u32::from(bits.min(128)))
                .unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
        }
    }
}

impl Prefix {
    /// One address.
    #[must_use]
    pub fn host(address: IpAddr) -> Self {
        Self {
            address,
            bits: width(address),
        }
    }

    /// The network of `address` with `bits` bits: 0 to 32 for IPv4, 0 to 128 for IPv6, otherwise `None`. Bits of the address
    /// behind the prefix are dropped.
    #[must_use]
    pub fn network(address: IpAddr, bits: u8) -> Option<Self> {
        (bits <= width(address)).then(|| Self {
            address: masked(address, bits),
            bits,
        })
    }

    /// The address, or the first of the network.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// How many leading bits count.
    #[must_use]
    pub fn bits(&self) -> u8 {
        self.bits
    }

    /// Whether it is one address.
    #[must_use]
    pub fn is_host(&self) -> bool {
        self.bits == width(self.address)
    }

    /// Whether it is of IPv4; otherwise it is of IPv6.
    #[must_use]
    pub fn is_ipv4(&self) -> bool {
        self.address.is_ipv4()
    }

    /// Whether `address` lies in it. Never, if it is of the other family.
    #[inline]
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4() && masked(address, self.bits) == self.address
    }

    /// The address as 32-bit words in the order they are in a packet, each with the mask of the bits that count: what a program
    /// that compares words needs. One word for IPv4, four for IPv6.
    pub(crate) fn words(&self) -> Vec<([u8; 4], [u8; 4])> {
        let mask = masked(
            if self.is_ipv4() {
                [0xff; 4].into()
            } else {
                [0xff; 16].into()
            },
            self.bits,
        );
        let bytes = |address: IpAddr| match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        let (value, mask) = (bytes(self.address), bytes(mask));
        value
            .as_chunks::<4>()
            .0
            .iter()
            .zip(mask.as_chunks::<4>().0)
            .map(|(value, mask)| (*value, *mask))
            .collect()
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_host() {
            write!(f, "{}", self.address)
        } else {
            write!(f, "{}/{}", self.address, self.bits)
        }
    }
}

/// UDP or TCP ports, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// The ports `first` to `last`; `None` if `last` lies below `first`.
    #[must_use]
    pub fn new(first: u16, last: u16) -> Option<Self> {
        (first <= last).then_some(Self { first, last })
    }

    /// The lowest port.
    #[must_use]
    pub fn first(&self) -> u16 {
        self.first
    }

    /// The highest port.
    #[must_use]
    pub fn last(&self) -> u16 {
        self.last
    }

    /// Whether `port` is one of them.
    #[inline]
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}
