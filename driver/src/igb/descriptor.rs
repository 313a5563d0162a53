//! Descriptors: what the device is given, and what it writes back. The write-back is an untrusted pair of words; here it is only cut
//! into fields, the [receive path](crate::ring::Receive) believes of it what can be true.
//!
//! 82576 datasheet 7.1.5 (advanced receive descriptors) and 7.2.2 (advanced transmit descriptors).

/// Bytes of a descriptor.
pub(super) const SIZE: usize = 16;

/// The second word of a receive descriptor's write-back: status, errors, length, VLAN tag. It holds the done bit and so is read first.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Status(pub u64);

impl Status {
    /// The descriptor is the driver's again.
    pub(super) const DD: u64 = 1 << 0;
    /// The packet ends here; without it only the lengths count.
    pub(super) const EOP: u64 = 1 << 1;
    /// The frame had a VLAN tag, in the descriptor if tags are taken out.
    pub(super) const VP: u64 = 1 << 3;
    /// The TCP, UDP or SCTP checksum was checked.
    pub(super) const L4CS: u64 = 1 << 5;
    /// The packet's stamp is in front of it (TSIP, I210 datasheet 7.1.4.2).
    pub(super) const TSIP: u64 = 1 << 15;
    /// The header is longer than the header buffer.
    pub(super) const HBO: u64 = 1 << 23;
    /// The transport checksum is wrong.
    pub(super) const L4E: u64 = 1 << 29;
    /// The IPv4 header checksum is wrong.
    pub(super) const IPE: u64 = 1 << 30;
    /// A receive error (bad FCS, symbol error); such frames are not stored as RCTL.SBP is off, but it costs nothing to ask.
    pub(super) const RXE: u64 = 1 << 31;

    /// What tells plain packets.
    pub(super) const LOOK: u64 =
        Self::DD | Self::EOP | Self::RXE | Self::HBO | Self::L4E | Self::IPE;
    /// What these bits are of a plain packet: whole, without error.
    pub(super) const PLAIN: u64 = Self::DD | Self::EOP;

    /// Whether any of `bits` is set.
    #[inline(always)]
    pub(super) const fn has(self, bits: u64) -> bool {
        self.0 & bits != 0
    }

    /// Bytes in the packet buffer (PKT_LEN). Those in the header buffer are not part of it.
    #[inline(always)]
    pub(super) const fn length(self) -> u16 {
        (self.0 >> 32) as u16
    }

    /// The VLAN tag that was taken out.
    #[inline(always)]
    pub(super) const fn vlan(self) -> u16 {
        (self.0 >> 48) as u16
    }
}

/// The first word of the write-back: packet type, header length, hash.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Info(pub u64);

impl Info {
    /// A header was found and split off, or would have been if it had fitted ([`Status::HBO`]).
    pub(super) const SPH: u64 = 1 << 31;

    /// Whether [`SPH`](Self::SPH) is set.
    #[inline(always)]
    pub(super) const fn split(self) -> bool {
        self.0 & Self::SPH != 0
    }

    /// HDR_LEN if [`SPH`](Self::SPH) is set, else more than any length.
    #[inline(always)]
    pub(super) const fn split_length(self) -> u32 {
        // SPH is the highest bit, right above HDR_LEN: eleven bits, which are the length once it is taken away, or less than nothing.
        (self.0 as u32 >> 21).wrapping_sub((Self::SPH >> 21) as u32)
    }

    /// HDR_LEN, 10 bits.
    #[inline(always)]
    pub(super) const fn header_length(self) -> u16 {
        (self.0 >> 21) as u16 & 0x3ff
    }

    /// What was hashed; 0 for nothing.
    #[inline(always)]
    pub(super) const fn hash_type(self) -> u64 {
        self.0 & 0xf
    }

    /// The hash.
    #[inline(always)]
    pub(super) const fn hash(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// The second word of a transmit descriptor for `len` bytes: data descriptor (type 3), with FCS. `whole` is the packet's length in its first descriptor, 0
/// in the others; the last one is reported when the packet has left.
pub(super) const fn transmit_command(len: u16, whole: u16, last: bool) -> u64 {
    let end = if last { EOP | RS } else { 0 };
    len as u64 | IFCS | DEXT | 3 << 20 | end | (whole as u64) << 46
}
/// In the second word of a transmit descriptor: the packet ends here.
pub(super) const EOP: u64 = 1 << 24;
const IFCS: u64 = 1 << 25;
/// In the second word of a transmit descriptor: report when it has been sent.
pub(super) const RS: u64 = 1 << 27;
const DEXT: u64 = 1 << 29;
/// In the second word of a transmit descriptor: it has been sent.
pub(super) const TRANSMITTED: u64 = 1 << 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_lie_where_the_datasheet_has_them() {
        // UDP over IPv4, split at 42, 58 bytes of payload, as QEMU writes it back.
        let info = Info(0xdead_beef_8540_0217);
        assert!(info.split());
        assert_eq!((info.header_length(), info.hash_type()), (42, 7));
        assert_eq!(info.hash(), 0xdead_beef);
        assert_eq!(info.split_length(), 42);
        assert!(Info(info.0 & !Info::SPH).split_length() >= 1024);
        let status = Status(0x0064_003a_0000_0033);
        assert!(status.has(Status::DD) && status.has(Status::EOP) && status.has(Status::L4CS));
        assert!(!status.has(Status::RXE | Status::HBO | Status::L4E));
        assert_eq!((status.length(), status.vlan()), (58, 100));
        assert_eq!(transmit_command(60, 60, true), 0x000f_0000_2b30_003c);
        assert_eq!(transmit_command(4096, 5000, false), 0x04e2_0000_2230_1000);
        assert_eq!(transmit_command(904, 0, true), 0x2b30_0388);
    }
}
