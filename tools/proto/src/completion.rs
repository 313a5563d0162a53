//! The entry of a completion ring: one filled chunk.

use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::ring::Entry;

bitflags! {
    /// What a completion says about its packet. The bits are those of the driver's `RxFlags`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub struct CompletionFlags: u32 {
        /// The header was split off: its first `header_length` bytes are in the chunk's header slot and not in the chunk.
        const SPLIT = 1 << 0;
        /// The packet goes on in the next entry. Clear on its last entry.
        const MORE = 1 << 1;
        /// The NIC checked the checksums and found them right.
        const CSUM_GOOD = 1 << 2;
        /// The NIC checked the checksums and found one wrong.
        const CSUM_BAD = 1 << 3;
        /// The NIC received the packet with an error.
        const ERROR = 1 << 4;
        /// `vlan` holds the tag that the NIC took off the frame.
        const VLAN = 1 << 5;
        /// `rss_hash` is valid.
        const HASH = 1 << 6;
        /// `timestamp` is when the daemon took the packet from its ring. This or `TIMESTAMP_HW` is set, never both.
        const TIMESTAMP_SW = 1 << 7;
        /// `timestamp` is when the packet arrived, by the NIC's clock, converted to CLOCK_REALTIME.
        const TIMESTAMP_HW = 1 << 8;
    }
}

/// One filled chunk, as the daemon writes it and the client reads it: 32 bytes, little-endian.
///
/// A packet takes one entry a chunk. The first entry carries the packet's metadata; the others carry `chunk`, `generation`,
/// `offset`, `length` and `flags`. All entries of a packet are published together.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Completion {
    /// The chunk's index in the region; also the index of its header slot.
    pub chunk: u32,
    /// The generation under which the chunk was delivered; a return must name it.
    pub generation: u16,
    /// The flow rule that matched, by the number that adding it answered.
    pub flow: u16,
    /// Where the payload begins in the chunk, in bytes.
    pub offset: u16,
    /// Bytes of payload in the chunk. 0 is possible: a packet that is all header.
    pub length: u16,
    /// Bytes of header in the header slot. 0 when nothing was split off.
    pub header_length: u16,
    /// The VLAN tag (TCI) that the NIC took off, valid with [`CompletionFlags::VLAN`].
    pub vlan: u16,
    /// The RSS hash, valid with [`CompletionFlags::HASH`].
    pub rss_hash: u32,
    /// [`CompletionFlags`]. Bits unknown to the reader are ignored.
    pub flags: u32,
    /// Nanoseconds since 1970 (CLOCK_REALTIME), in the first entry; who took it, say the flags.
    pub timestamp: u64,
}

const _: () = assert!(size_of::<Completion>() == 32 && align_of::<Completion>() == 8);

impl Completion {
    /// Bytes of one entry.
    pub const SIZE: usize = size_of::<Self>();

    /// The flags, without bits this version does not know.
    #[must_use]
    pub const fn flags(&self) -> CompletionFlags {
        CompletionFlags::from_bits_truncate(self.flags)
    }

    /// Whether the packet goes on in the next entry.
    #[must_use]
    pub const fn more(&self) -> bool {
        self.flags & CompletionFlags::MORE.bits() != 0
    }
}

impl Entry<4> for Completion {
    #[inline]
    fn to_words(self) -> [u64; 4] {
        // Shifted together, so that it can be done in registers.
        let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        let two = |low: u16, high: u16| u32::from(low) | u32::from(high) << 16;
        [
            pair(self.chunk, two(self.generation, self.flow)),
            pair(
                two(self.offset, self.length),
                two(self.header_length, self.vlan),
            ),
            pair(self.rss_hash, self.flags),
            self.timestamp,
        ]
    }

    #[inline]
    fn from_words(words: [u64; 4]) -> Self {
        zerocopy::transmute!(words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The layout is an interface: device code and other languages read it by these offsets.
    #[test]
    fn fields_lie_where_documented() {
        assert_eq!(std::mem::offset_of!(Completion, chunk), 0);
        assert_eq!(std::mem::offset_of!(Completion, generation), 4);
        assert_eq!(std::mem::offset_of!(Completion, flow), 6);
        assert_eq!(std::mem::offset_of!(Completion, offset), 8);
        assert_eq!(std::mem::offset_of!(Completion, length), 10);
        assert_eq!(std::mem::offset_of!(Completion, header_length), 12);
        assert_eq!(std::mem::offset_of!(Completion, vlan), 14);
        assert_eq!(std::mem::offset_of!(Completion, rss_hash), 16);
        assert_eq!(std::mem::offset_of!(Completion, flags), 20);
        assert_eq!(std::mem::offset_of!(Completion, timestamp), 24);
    }

    #[test]
    fn words_round_trip() {
        let entry = Completion {
            chunk: 0x0403_0201,
            generation: 0x0605,
            flow: 0x0807,
            offset: 0x0a09,
            length: 0x0c0b,
            header_length: 0x0e0d,
            vlan: 0x100f,
            rss_hash: 0x1413_1211,
            flags: 0x1817_1615,
            timestamp: 0x201f_1e1d_1c1b_1a19,
        };
        let words = entry.to_words();
        assert_eq!(words[0], 0x0807_0605_0403_0201);
        assert_eq!(words[3], 0x201f_1e1d_1c1b_1a19);
        assert_eq!(Completion::from_words(words), entry);
    }
}
