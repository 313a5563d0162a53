//! What a queue reports for each chunk a NIC filled.

use arrayvec::ArrayVec;
use devrx_provider::ChunkIndex;

/// [`RxChunk::flow`] of a packet that no rule of its queue takes (any more).
pub const NO_FLOW: u16 = u16::MAX;

bitflags::bitflags! {
    /// What is known of a received chunk. The bits are those of the completion entries that clients read.
    ///
    /// Flags other than [`MORE`](Self::MORE) describe the packet and stand in its first chunk only.
    #[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
    pub struct RxFlags: u32 {
        /// The header is in the chunk's header slot, `header_length` bytes; the chunk holds what follows it.
        const SPLIT = 1 << 0;
        /// The packet goes on in the next entry.
        const MORE = 1 << 1;
        /// The NIC checked the checksums and found them right.
        const CSUM_GOOD = 1 << 2;
        /// The NIC checked the checksums and found one wrong.
        const CSUM_BAD = 1 << 3;
        /// The NIC reported an error with this packet.
        const ERROR = 1 << 4;
        /// The NIC took a VLAN tag out of the frame; it is in `vlan`. Where the tag stays in the frame this is not set.
        const VLAN = 1 << 5;
        /// `rss_hash` is valid.
        const HASH = 1 << 6;
        /// `timestamp` is when software took the packet from its ring. This or [`TIMESTAMP_HW`](Self::TIMESTAMP_HW) is set, never both.
        const TIMESTAMP_SW = 1 << 7;
        /// `timestamp` is when the packet arrived, by the NIC's clock, converted to `CLOCK_REALTIME`.
        const TIMESTAMP_HW = 1 << 8;
    }
}

/// One chunk a NIC filled: an entry of a batch.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RxChunk {
    /// The chunk, counted in its region. It is the receiver's until it goes back to the pool.
    pub chunk: ChunkIndex,
    /// Where the payload begins, bytes from the start of the chunk.
    pub offset: u16,
    /// Payload bytes in the chunk. May be 0: the entry still hands the chunk over.
    pub length: u16,
    /// Bytes in the header slot; 0 unless [`RxFlags::SPLIT`].
    pub header_length: u16,
    /// The tag control information the NIC took out, if [`RxFlags::VLAN`].
    pub vlan: u16,
    /// The receive hash, if [`RxFlags::HASH`].
    pub rss_hash: u32,
    /// What is known of the packet.
    pub flags: RxFlags,
    /// The id of the flow rule that takes the packet, the first in the order they were added; [`NO_FLOW`] if none.
    pub flow: u16,
    /// Nanoseconds since the epoch (`CLOCK_REALTIME`), in a packet's first entry; the timestamp flags say whose clock it was.
    pub timestamp: u64,
}

/// An [`RxChunk`] as four words: what a completion entry is, but for the generation, whose place is empty.
///
/// | word | bits 0 to 15 | 16 to 31 | 32 to 47 | 48 to 63 |
/// |---|---|---|---|---|
/// | 0 | chunk | chunk | 0 | flow |
/// | 1 | offset | length | header length | VLAN |
/// | 2 | hash | hash | flags | flags |
/// | 3 | timestamp | timestamp | timestamp | timestamp |
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(transparent)]
pub struct RxWords(pub [u64; 4]);

impl From<RxWords> for RxChunk {
    #[inline]
    fn from(RxWords([chunk, lengths, hash, timestamp]): RxWords) -> Self {
        let piece = |word: u64, nth: u32| (word >> (16 * nth)) as u16;
        Self {
            chunk: ChunkIndex(chunk as u32),
            flow: piece(chunk, 3),
            offset: piece(lengths, 0),
            length: piece(lengths, 1),
            header_length: piece(lengths, 2),
            vlan: piece(lengths, 3),
            rss_hash: hash as u32,
            flags: RxFlags::from_bits_retain((hash >> 32) as u32),
            timestamp,
        }
    }
}

/// Packets in plain memory, as a [sink](crate::RxSink). On the stack, so that no packet costs an allocation.
pub type RxBatch = ArrayVec<RxChunk, 256>;
