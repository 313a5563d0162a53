//! What C sees: constants and plain structs.

use std::ffi::c_void;

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
/// `timestamp` is when the daemon took the packet from its ring.
pub const DEVRX_TIMESTAMP_SW: u32 = 1 << 7;
/// `timestamp` is when the packet arrived, by the NIC's clock, converted to CLOCK_REALTIME.
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

/// All packets of the frame are there.
pub const DEVRX_FRAME_COMPLETE: u32 = 0;
/// Its time was over.
pub const DEVRX_FRAME_EXPIRED: u32 = 1;
/// A packet of a later frame moved the window.
pub const DEVRX_FRAME_PUSHED: u32 = 2;
/// The stream started again.
pub const DEVRX_FRAME_RESTARTED: u32 = 3;
/// `devrx_frames_flush`, or the attachment's end.
pub const DEVRX_FRAME_FLUSHED: u32 = 4;
/// The constant of the same name in `devrx.h`.
pub const DEVRX_FROM_REGION: u32 = devrx_client::placement::FROM_REGION;
/// The constant of the same name in `devrx.h`.
pub const DEVRX_FROM_HEADERS: u32 = devrx_client::placement::FROM_HEADERS;
/// The constant of the same name in `devrx.h`.
pub const DEVRX_FILL: u32 = devrx_client::placement::FILL;

/// How a numbered stream is cut into frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Placement {
    /// From one packet's number to the next one's.
    pub stride: u64,
    /// The number of the first packet of a frame.
    pub first: u64,
    /// How long a frame waits from its first packet on, in microseconds; 0: no limit.
    pub deadline_us: u64,
    /// Packets of a frame.
    pub frame_packets: u32,
    /// Most bytes of data of a packet.
    pub place_bytes: u32,
    /// Frames open at once.
    pub window: u32,
    /// How many bytes behind the UDP header the data begins; negative: behind the number.
    pub data_offset: i32,
    /// How many bytes behind the UDP header the number begins.
    pub offset: u16,
    /// Bytes of the number, 1 to 8.
    pub width: u8,
    /// 0: network byte order.
    pub little_endian: u8,
    /// 0.
    pub reserved: [u8; 4],
}

/// What is known of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct FrameInfo {
    /// Its number.
    pub number: u64,
    /// How often the stream had started again before it.
    pub restarts: u64,
    /// Its bytes in one piece.
    pub size: u64,
    /// Its places.
    pub places: u32,
    /// Places without a packet.
    pub missing: u32,
    /// DEVRX_FRAME_COMPLETE, ...
    pub end: u32,
    /// 0.
    pub reserved: u32,
}

/// What became of a stream's packets and frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
#[expect(missing_docs, reason = "the fields of devrx_client's PlacementStats")]
pub struct FrameStats {
    pub packets: u64,
    pub placed: u64,
    pub late: u64,
    pub duplicate: u64,
    pub out_of_range: u64,
    pub oversize: u64,
    pub unreadable: u64,
    pub restarts: u64,
    pub frames_complete: u64,
    pub frames_incomplete: u64,
    pub frames_missed: u64,
    pub missing: u64,
}

/// The memories that daemon and client share, as this process maps them, for code that consumes the rings itself: device code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct SharedMemory {
    /// The daemon-written memory: for reading.
    pub daemon_memory: *const c_void,
    /// Its bytes.
    pub daemon_size: u64,
    /// The client-written memory: for reading and writing.
    pub client_memory: *mut c_void,
    /// Its bytes.
    pub client_size: u64,
    /// How many queues the attachment has.
    pub queues: u32,
    /// Bytes of a chunk.
    pub chunk_size: u32,
    /// Chunks of the region.
    pub chunks: u32,
    /// 1: the daemon looks at the refill rings by itself. 0: it has to be kicked.
    pub polls_refill: u32,
}
