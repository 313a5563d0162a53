//! What C sees: constants and plain structs.

/// The version of this interface. It rises when a program must be compiled anew.
pub const DEVRX_ABI_VERSION: u32 = 1;

/// The header was split off: it is in the header slot, and not in the payload.
pub const DEVRX_SPLIT: u32 = 1 << 0;
/// The NIC checked the checksums and found them right.
pub const DEVRX_CSUM_GOOD: u32 = 1 << 2;
/// The NIC checked the checksums and found one wrong.
pub const DEVRX_CSUM_BAD: u32 = 1 << 3;
/// The NIC received the packet with an error.
pub const DEVRX_ERROR: u32 = 1 << 4;
/// `vlan` holds the tag that the NIC took off the frame.
pub const DEVRX_VLAN: u32 = 1 << 5;
/// `rss_hash` is valid.
pub const DEVRX_HASH: u32 = 1 << 6;
/// `timestamp` was taken by software (CLOCK_REALTIME).
pub const DEVRX_TIMESTAMP_SW: u32 = 1 << 7;
/// `timestamp` was taken by the NIC (its own clock).
pub const DEVRX_TIMESTAMP_HW: u32 = 1 << 8;

/// A packet of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Packet {
    /// When it came, in nanoseconds; which clock, say the flags.
    pub timestamp: u64,
    /// Where its payload begins in the region, in bytes: that of its first segment.
    pub payload_offset: u64,
    /// Bytes of payload, of all segments.
    pub payload_length: u32,
    /// How many chunks it takes, one segment of payload each.
    pub segments: u32,
    /// DEVRX_SPLIT, DEVRX_VLAN, ...; bits without a name are to be ignored.
    pub flags: u32,
    /// The RSS hash, with DEVRX_HASH.
    pub rss_hash: u32,
    /// Bytes of header that were split off.
    pub header_length: u16,
    /// The VLAN tag (TCI), with DEVRX_VLAN.
    pub vlan: u16,
    /// The number of the flow rule that matched.
    pub flow: u16,
    /// The queue it came from, counted from 0 within the attachment.
    pub queue: u16,
}

/// A piece of a packet's payload, in one chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Segment {
    /// Where it begins in the region, in bytes.
    pub offset: u64,
    /// Bytes of it. May be 0.
    pub length: u32,
    /// The chunk's index in the region.
    pub chunk: u32,
    /// The generation it was delivered under.
    pub generation: u16,
    /// 0.
    pub reserved: [u16; 3],
}

/// Numbers of an attachment: sums over its queues, as the daemon last wrote them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Stats {
    /// Packets the NIC counted.
    pub packets: u64,
    /// Bytes of packets delivered.
    pub bytes: u64,
    /// Packets delivered.
    pub delivered: u64,
    /// Chunks delivered.
    pub completions: u64,
    /// Chunks given back.
    pub returned: u64,
    /// Packets dropped, for any reason.
    pub dropped: u64,
    /// Returns the daemon refused.
    pub refused: u64,
    /// Payload bytes that a CPU copied.
    pub payload_bytes_copied: u64,
    /// Chunks that this program has received and not given back. A number that only grows is a leak.
    pub held: u64,
}
