//! What a receive path asks of a descriptor that the device has written back.

use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};

use super::stamps::{FRONT, Stamp};
use crate::chunk::RxFlags;

/// A descriptor of `WORDS` words that the device has written back: an untrusted copy, cut into fields. What of it is believed is the [receive path](super::Receive)'s matter.
///
/// The first word is called info, the second status: its lowest bit is the done bit. As both families have it.
pub(crate) trait WriteBack<const WORDS: usize>: Copy + Debug {
    /// What of the queue's setup changes what a descriptor says.
    type Mode: Copy + Debug;
    /// Four plain ones at a time.
    #[cfg(target_arch = "x86_64")]
    type Lanes: super::Lanes<WORDS, Mode = Self::Mode>;

    /// The chunks of one packet at most.
    const MOST_PARTS: usize;

    /// Made of the first two words.
    fn new(info: u64, status: u64) -> Self;

    /// Whether the descriptor is the driver's again; if it is, what is read of it later was written before.
    #[inline(always)]
    fn is_done(descriptor: &[AtomicU64; WORDS]) -> bool {
        u64::from_le(descriptor[1].load(Ordering::Acquire)) & 1 != 0
    }

    /// Reads a descriptor, whoever's it is.
    #[inline(always)]
    fn load(descriptor: &[AtomicU64; WORDS]) -> Self {
        // The status first: it has the done bit, behind which the rest is there.
        let status = u64::from_le(descriptor[1].load(Ordering::Acquire));
        let info = u64::from_le(descriptor[0].load(Ordering::Relaxed));
        Self::new(info, status)
    }

    /// Of a packet of several descriptors: what this one, the first, and `last` say together.
    fn ended_by(self, last: Self) -> Self;

    /// Done, whole, without error. Whether the header was split off is [`split_length`](Self::split_length)'s matter.
    fn is_plain(self) -> bool;

    /// The packet ends here.
    fn is_last(self) -> bool;

    /// The packet was received with an error.
    fn is_bad(self) -> bool;

    /// The header is longer than its slot.
    fn overflows(self) -> bool;

    /// Bytes in the chunk.
    fn length(self) -> u16;

    /// The header's length if one was split off, else more than any slot has.
    fn split_length(self) -> u32;

    /// What is in the header slot of a packet whose descriptors this has come of; `overflows` is what any of them said. `None` where that cannot be known.
    fn header(self, overflows: bool, slot_size: u16, mode: Self::Mode) -> Option<Header>;

    /// The VLAN tag that was taken out.
    fn vlan(self) -> u16;

    /// The hash.
    fn hash(self) -> u32;

    /// What is said of checksums, tag and hash.
    fn flags(self, mode: Self::Mode) -> RxFlags;

    /// Where the stamp is of the packet that ends with `descriptor`, which has been written back. Asked only on queues with the NIC's timestamps; what it says is not checked.
    #[inline]
    fn stamp(_descriptor: &[AtomicU64; WORDS]) -> Stamp {
        Stamp::None
    }

    /// The counter's bits in what was [in front](Stamp::InFront) of a packet; `None` if that is no stamp, though the descriptor said so.
    #[inline]
    fn counter(_front: [u8; FRONT as usize], _mode: Self::Mode) -> Option<u64> {
        None
    }

    /// All flags of a packet that is [plain](Self::is_plain) and split.
    fn plain_flags(self, mode: Self::Mode) -> RxFlags;
}

/// What is in the header slot of a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Header {
    /// Bytes; not checked.
    pub length: u16,
    /// It is the packet's header, as the device knows headers.
    pub split: bool,
}

impl Header {
    /// Nothing is.
    pub(crate) const NONE: Self = Self {
        length: 0,
        split: false,
    };
}
