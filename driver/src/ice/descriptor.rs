//! Receive descriptors: what the device is given, and what it writes back as profile 2 (`ICE_RXDID_FLEX_NIC`). The write-back is four untrusted words; here
//! they are only cut into fields, the [receive path](crate::ring::Receive) believes of them what can be true.
//!
//! Layout: DPDK's `drivers/net/intel/ice/base/ice_lan_tx_rx.h`, `union ice_32b_rx_flex_desc` and `struct ice_32b_rx_flex_desc_nic`. Which header was split off is
//! in the first descriptor of a packet alone.

/// Bytes of a descriptor.
pub(super) const SIZE: usize = 32;
/// The descriptor profile: RSS hash, VLAN tags, flow.
pub(super) const PROFILE: u32 = 2;

/// The second word of a write-back: status, VLAN tag, hash. It holds the done bit and so is read first.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Status(pub u64);

impl Status {
    /// The descriptor is the driver's again.
    pub(super) const DD: u64 = 1 << 0;
    /// The packet ends here.
    pub(super) const EOF: u64 = 1 << 1;
    /// The header is longer than the header buffer.
    pub(super) const HBO: u64 = 1 << 2;
    /// The checksums of network and transport layer were checked, where the packet has some.
    pub(super) const L3L4P: u64 = 1 << 3;
    /// The checksum of the (inner) IP header is wrong.
    pub(super) const IPE: u64 = 1 << 4;
    /// The (inner) transport checksum is wrong.
    pub(super) const L4E: u64 = 1 << 5;
    /// The checksum of the outer IP header is wrong.
    pub(super) const EIPE: u64 = 1 << 6;
    /// The checksum of the outer UDP header is wrong.
    pub(super) const EUDPE: u64 = 1 << 7;
    /// Any checksum is wrong.
    pub(super) const BAD: u64 = Self::IPE | Self::L4E | Self::EIPE | Self::EUDPE;
    /// The frame was received with an error.
    pub(super) const RXE: u64 = 1 << 10;
    /// The hash is valid.
    pub(super) const HASHED: u64 = 1 << 12;
    /// A VLAN tag was taken out and is here.
    pub(super) const TAGGED: u64 = 1 << 13;

    /// What a plain packet is told by.
    pub(super) const LOOK: u64 = Self::DD | Self::EOF | Self::HBO | Self::RXE | Self::BAD;
    /// What it has of that: it is done and ends here.
    pub(super) const PLAIN: u64 = Self::DD | Self::EOF;

    /// Whether any of `bits` is set.
    #[inline(always)]
    pub(super) const fn has(self, bits: u64) -> bool {
        self.0 & bits != 0
    }

    /// The VLAN tag that was taken out.
    #[inline(always)]
    pub(super) const fn vlan(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// The hash.
    #[inline(always)]
    pub(super) const fn hash(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// The first word of the write-back: profile, packet type, lengths.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Info(pub u64);

impl Info {
    /// A header was split off, into the header buffer.
    pub(super) const SPH: u64 = 1 << 59;

    /// Whether [`SPH`](Self::SPH) is set.
    #[inline(always)]
    pub(super) const fn split(self) -> bool {
        self.0 & Self::SPH != 0
    }

    /// Bytes in the packet buffer of this descriptor. Those in the header buffer are not part of it.
    #[inline(always)]
    pub(super) const fn length(self) -> u16 {
        (self.0 >> 32) as u16 & 0x3fff
    }

    /// Bytes in the header buffer, 11 bits.
    #[inline(always)]
    pub(super) const fn header_length(self) -> u16 {
        (self.0 >> 48) as u16 & 0x7ff
    }

    /// [`header_length`](Self::header_length) if [`SPH`](Self::SPH) is set, else more than any length.
    #[inline(always)]
    pub(super) const fn split_length(self) -> u32 {
        // SPH is right above the length: twelve bits, which are the length once it is taken away, or less than nothing.
        ((self.0 >> 48) as u32 & 0xfff).wrapping_sub((Self::SPH >> 48) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// UDP over IPv4 (packet type 24), split at 42, 1000 bytes of payload, hashed.
    #[test]
    fn fields_lie_where_both_drivers_have_them() {
        let info = Info(2 | 24 << 16 | 1000 << 32 | (42 | 1 << 11) << 48);
        assert_eq!((info.length(), info.header_length()), (1000, 42));
        assert!(info.split());
        assert_eq!(info.split_length(), 42);
        assert!(Info(info.0 & !Info::SPH).split_length() >= 2048);
        // Flags beside the lengths are not part of them.
        let noisy = Info(info.0 | 0xc000 << 32 | 0xf000 << 48);
        assert_eq!((noisy.length(), noisy.header_length()), (1000, 42));
        assert_eq!(noisy.split_length(), 42);
        let status = Status(0x1_300b | 100 << 16 | 0xdead_beef << 32);
        assert!(status.has(Status::DD) && status.has(Status::EOF) && status.has(Status::L3L4P));
        assert!(status.has(Status::HASHED) && status.has(Status::TAGGED));
        assert!(!status.has(Status::HBO | Status::RXE | Status::BAD));
        assert_eq!((status.vlan() & !1, status.hash()), (100, 0xdead_beef));
    }
}
