//! How a stream is placed.

use std::time::Duration;

use thiserror::Error;

use super::rule::Rule;
use crate::ClientError;

/// The order of a sequence number's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ByteOrder {
    /// Most significant first: network byte order.
    #[default]
    Big,
    /// Least significant first.
    Little,
}

impl ByteOrder {
    /// The number that `bytes` are: at most 8 of them.
    #[must_use]
    pub fn read(self, bytes: &[u8]) -> u64 {
        let join = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
        match self {
            Self::Big => bytes.iter().fold(0, join),
            Self::Little => bytes.iter().rev().fold(0, join),
        }
    }
}

/// Why packets cannot be placed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PlacementError {
    /// The options contradict one another, or the attachment.
    #[error("{0}")]
    Options(String),
    /// The buffer for a frame is too small.
    #[error("a frame takes {need} bytes, and the buffer has {have}")]
    Buffer {
        /// Bytes of a frame.
        need: usize,
        /// Bytes of the buffer.
        have: usize,
    },
    /// The system has no eventfd left.
    #[error(
        "cannot make an eventfd to wake the receiver of frames: see the limit of open files (ulimit -n)"
    )]
    Event(#[source] std::io::Error),
    /// Receiving or copying failed.
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// Where the sequence number is, what it means, and how many frames are open at once.
///
/// ```
/// use devrx_client::placement::PlacementOptions;
/// use std::time::Duration;
///
/// // Frames of 256 packets with 1024 bytes of data each. Behind the UDP header: 4 bytes of something, a number of 4 bytes, then the data.
/// let options = PlacementOptions::new(256, 1024).sequence(4, 4).window(8).deadline(Duration::from_millis(20));
/// # let _ = options;
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacementOptions {
    pub(super) frame_packets: u32,
    pub(super) place_bytes: u32,
    pub(super) offset: u16,
    pub(super) width: u8,
    pub(super) order: ByteOrder,
    pub(super) data_offset: Option<u16>,
    pub(super) window: u32,
    pub(super) stride: u64,
    pub(super) first: u64,
    pub(super) deadline: Option<Duration>,
    pub(super) ahead: Option<u64>,
    pub(super) behind: Option<u64>,
    pub(super) restart_after: u32,
}

impl PlacementOptions {
    /// Most packets of a frame.
    pub const MAX_FRAME_PACKETS: u32 = 1 << 24;
    /// Most open frames.
    pub const MAX_WINDOW: u32 = 1 << 12;

    /// Frames of `frame_packets` packets with at most `place_bytes` bytes of data each. The sequence number is the first 8 bytes
    /// behind the UDP header, in network byte order; it rises by 1 a packet; the data follows it; 4 frames are open at once; no deadline.
    #[must_use]
    pub fn new(frame_packets: u32, place_bytes: u32) -> Self {
        Self {
            frame_packets,
            place_bytes,
            offset: 0,
            width: 8,
            order: ByteOrder::Big,
            data_offset: None,
            window: 4,
            stride: 1,
            first: 0,
            deadline: None,
            ahead: None,
            behind: None,
            restart_after: 2,
        }
    }

    /// The sequence number: how many bytes behind the UDP header it begins, and how many it has (1 to 8). It wraps at its width.
    #[must_use]
    pub fn sequence(mut self, offset: u16, width: u8) -> Self {
        (self.offset, self.width) = (offset, width);
        self
    }

    /// The order of its bytes.
    #[must_use]
    pub fn byte_order(mut self, order: ByteOrder) -> Self {
        self.order = order;
        self
    }

    /// How many bytes behind the UDP header the data begins. Not said: behind the sequence number.
    #[must_use]
    pub fn data_offset(mut self, offset: u16) -> Self {
        self.data_offset = Some(offset);
        self
    }

    /// Frames open at once. A packet of a later frame closes the oldest.
    #[must_use]
    pub fn window(mut self, frames: u32) -> Self {
        self.window = frames;
        self
    }

    /// From one packet's number to the next one's: 1, or what a sender that counts samples or bytes adds a packet.
    #[must_use]
    pub fn stride(mut self, stride: u64) -> Self {
        self.stride = stride;
        self
    }

    /// The number of the first packet of a frame, of any: numbers from there on are cut into frames. Where a frame does not divide the numbers
    /// that the width has, frames go on over the wrap without a short one.
    #[must_use]
    pub fn first(mut self, number: u64) -> Self {
        self.first = number;
        self
    }

    /// How long a frame waits, from its first packet on; then it is closed as it is, and those before it.
    #[must_use]
    pub fn deadline(mut self, after: Duration) -> Self {
        self.deadline = Some(after);
        self
    }

    /// How far (in packets) a packet may be ahead of the oldest open frame's begin to move the window there, and behind it to be late.
    /// What is farther off than that belongs to a stream that has started again. Not said: 64 windows ahead, at least 65536; 4 windows behind, at
    /// least 1024; less where the width has fewer numbers.
    #[must_use]
    pub fn reach(mut self, ahead: u64, behind: u64) -> Self {
        (self.ahead, self.behind) = (Some(ahead), Some(behind));
        self
    }

    /// After how many packets in a row that are out of reach and close to each other the stream has started again: 2. At 1, one damaged packet
    /// costs all open frames; the packets before the last of them are not placed.
    #[must_use]
    pub fn restart_after(mut self, packets: u32) -> Self {
        self.restart_after = packets;
        self
    }

    /// How many bytes behind the UDP header the data begins.
    pub(super) fn data_at(&self) -> u16 {
        self.data_offset
            .unwrap_or(self.offset.saturating_add(self.width.into()))
    }

    /// The rule that a GPU or a CPU places by.
    ///
    /// # Errors
    /// The options contradict one another.
    pub fn rule(&self) -> Result<Rule, PlacementError> {
        let fail = |what: String| Err(PlacementError::Options(what));
        if !(1..=8).contains(&self.width) {
            return fail(format!(
                "a sequence number has 1 to 8 bytes, not {}",
                self.width
            ));
        }
        if !(1..=Self::MAX_FRAME_PACKETS).contains(&self.frame_packets) {
            return fail(format!(
                "a frame has 1 to {} packets, not {}",
                Self::MAX_FRAME_PACKETS,
                self.frame_packets
            ));
        }
        if !(1..=Self::MAX_WINDOW).contains(&self.window) {
            return fail(format!(
                "1 to {} frames can be open, not {}",
                Self::MAX_WINDOW,
                self.window
            ));
        }
        if self.place_bytes == 0 || self.stride == 0 || self.restart_after == 0 {
            return fail(
                "the bytes of a place, the stride and the packets to a restart are at least 1"
                    .into(),
            );
        }
        let numbers = 1_u128 << (8 * u32::from(self.width));
        let stride = u128::from(self.stride);
        let window = u128::from(self.frame_packets) * u128::from(self.window) * stride;
        if window > numbers / 2 {
            return fail(format!(
                "{} open frames of {} packets take {window} sequence numbers, more than half of those that {} bytes have: late \
                 packets could not be told from new ones; open fewer frames, or take a wider number",
                self.window, self.frame_packets, self.width
            ));
        }
        let ahead = self.ahead.map_or_else(
            || (64 * window).max(65536 * stride).min(numbers / 4 * 3),
            |packets| u128::from(packets) * stride,
        );
        let behind = self.behind.map_or_else(
            || (4 * window).max(1024 * stride).min(numbers / 4),
            |packets| u128::from(packets) * stride,
        );
        if ahead <= window || ahead + behind > numbers || ahead > u128::from(u64::MAX) {
            return fail(format!(
                "the reach is {ahead} numbers ahead and {behind} behind: ahead must be more than the open frames ({window}), and both \
                 together at most the {numbers} numbers there are"
            ));
        }
        Ok(Rule {
            mask: u64::MAX >> (64 - 8 * u32::from(self.width)),
            first: self.first,
            stride: self.stride,
            frame_packets: self.frame_packets.into(),
            window: self.window.into(),
            ahead: ahead as u64,
            behind: behind as u64,
            restart_after: self.restart_after,
        })
    }
}
