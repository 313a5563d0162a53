//! What the receive path asks of a write-back, as this NIC answers it.
//!
//! Where the header went (both drivers agree on the first and the last row; the others no driver uses, and nobody here has seen silicon do them):
//!
//! | queue | SPH, HBO | header slot | chunk | what is done |
//! |---|---|---|---|---|
//! | splits | 1, 0 | the header's length, in the first descriptor of the packet alone | the rest | delivered |
//! | splits | any, 1 | unknown | unknown | dropped, counted as unsplit |
//! | splits | 0, 0 | nothing | everything | the attachment's choice; dropped where the CPU does not read the chunk |
//! | does not split | any | nothing | everything | delivered |

use std::sync::atomic::{AtomicU64, Ordering};

use super::context::MOST_BUFFERS;
use super::descriptor::{Info, SIZE, Status};
#[cfg(target_arch = "x86_64")]
use super::quads::IceLanes;
use crate::chunk::RxFlags;
use crate::queue::{QueueConfig, Unsplit};
use crate::ring::{self, Header, Manner, Stamp, Unseen};

/// Words of a descriptor.
pub(super) const WORDS: usize = SIZE / 8;
pub(super) type Ring = ring::Ring<WORDS>;
pub(super) type Receive = ring::Receive<WriteBack, WORDS>;

/// How a queue's packets come, by its configuration; on a NIC that splits or does not.
pub(super) fn manner_of(config: &QueueConfig, parser: bool) -> Manner {
    let readable = config.provider.region().cpu_readable();
    Manner {
        splits: config.split && parser,
        asked: config.split,
        drops_unsplit: config.split && (config.unsplit == Unsplit::Drop || !readable),
        unseen: if readable {
            Unseen::Chunk
        } else {
            Unseen::None
        },
    }
}

/// A write-back.
#[derive(Clone, Copy, Debug)]
pub(super) struct WriteBack {
    info: Info,
    status: Status,
}

impl ring::WriteBack<WORDS> for WriteBack {
    type Mode = ();
    #[cfg(target_arch = "x86_64")]
    type Lanes = IceLanes;

    const MOST_PARTS: usize = MOST_BUFFERS as usize;

    #[inline(always)]
    fn new(info: u64, status: u64) -> Self {
        Self {
            info: Info(info),
            status: Status(status),
        }
    }

    fn ended_by(self, last: Self) -> Self {
        Self {
            info: self.info,
            status: last.status,
        }
    }

    #[inline(always)]
    fn is_plain(self) -> bool {
        self.status.0 & Status::LOOK == Status::PLAIN
    }

    fn is_last(self) -> bool {
        self.status.has(Status::EOF)
    }

    fn is_bad(self) -> bool {
        self.status.has(Status::RXE)
    }

    fn overflows(self) -> bool {
        self.status.has(Status::HBO)
    }

    #[inline(always)]
    fn length(self) -> u16 {
        self.info.length()
    }

    #[inline(always)]
    fn split_length(self) -> u32 {
        self.info.split_length()
    }

    fn header(self, overflows: bool, _slot_size: u16, (): ()) -> Option<Header> {
        match (overflows, self.info.split()) {
            (true, _) => None,
            (false, true) => Some(Header {
                length: self.info.header_length(),
                split: true,
            }),
            (false, false) => Some(Header::NONE),
        }
    }

    #[inline(always)]
    fn vlan(self) -> u16 {
        self.status.vlan()
    }

    #[inline(always)]
    fn hash(self) -> u32 {
        self.status.hash()
    }

    #[inline(always)]
    fn flags(self, (): ()) -> RxFlags {
        let mut bits = RxFlags::TIMESTAMP_SW.bits()
            | (self.status.0 & Status::HASHED) as u32 >> 6
            | (self.status.0 & Status::TAGGED) as u32 >> 8;
        bits |= if self.status.has(Status::BAD) {
            RxFlags::CSUM_BAD.bits()
        } else {
            (self.status.0 & Status::L3L4P) as u32 >> 1
        };
        RxFlags::from_bits_retain(bits)
    }

    /// Of profile 2: whether there is one in bit 24 of the third word, the low half of the clock's nanoseconds in the upper half of the fourth.
    #[inline]
    fn stamp(descriptor: &[AtomicU64; WORDS]) -> Stamp {
        const VALID: u64 = 1 << 24;
        let [_, _, third, fourth] = descriptor;
        match third.load(Ordering::Relaxed) & VALID {
            0 => Stamp::None,
            _ => Stamp::Here(fourth.load(Ordering::Relaxed) >> 32),
        }
    }

    #[inline(always)]
    fn plain_flags(self, mode: ()) -> RxFlags {
        RxFlags::SPLIT | self.flags(mode)
    }
}

const _: () = assert!(
    RxFlags::CSUM_GOOD.bits() as u64 == Status::L3L4P >> 1
        && RxFlags::VLAN.bits() as u64 == Status::TAGGED >> 8
        && RxFlags::HASH.bits() as u64 == Status::HASHED >> 6,
    "flags are moved there from the status"
);
