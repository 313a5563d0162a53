//! What the receive path asks of a write-back, as these NICs answer it.
//!
//! Where the header went (82576 datasheet 7.1.4, 7.1.5.2; QEMU agrees where it models it):
//!
//! | DESCTYPE | SPH, HBO | header slot | chunk |
//! |---|---|---|---|
//! | 010 split | 1, 0 | HDR_LEN bytes | the rest, PKT_LEN bytes |
//! | 010 split | 0, - or 1, 1 | nothing | everything |
//! | 101 always | any | the smaller of HDR_LEN and its size | the rest |
//! | 001 one buffer | any | nothing | everything |
//!
//! With timestamps the first buffer that has anything begins with [`FRONT`] bytes for the stamp, which its length counts: see [`clock`](super::clock).
//!
//! In a packet of several descriptors the first has the header, all repeat its length, and only the last one's status counts.

use std::sync::atomic::{AtomicU64, Ordering};

use super::clock::SystemTime;
use super::descriptor::{Info, SIZE, Status};
#[cfg(target_arch = "x86_64")]
use super::quads::IgbLanes;
use crate::chunk::RxFlags;
use crate::queue::{QueueConfig, Unsplit};
use crate::ring::{self, FRONT, Header, Manner, Stamp, Unseen};

/// Words of a descriptor.
pub(super) const WORDS: usize = SIZE / 8;
pub(super) type Ring = ring::Ring<WORDS>;
pub(super) type Receive = ring::Receive<WriteBack, WORDS>;

/// How headers come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Split {
    /// Not: DESCTYPE 001.
    No,
    /// Where the device knows the headers: DESCTYPE 010.
    Headers,
    /// The slot is always used: DESCTYPE 101.
    Always,
}

impl Split {
    /// What a configuration asks for.
    pub(super) const fn of(config: &QueueConfig) -> Self {
        match (config.split, config.unsplit) {
            (false, _) => Self::No,
            (true, Unsplit::Header) => Self::Always,
            (true, _) => Self::Headers,
        }
    }
}

/// How a queue's packets come, by its configuration.
pub(super) fn manner_of(config: &QueueConfig) -> Manner {
    Manner {
        splits: config.split,
        asked: config.split,
        drops_unsplit: config.split && config.unsplit == Unsplit::Drop,
        unseen: Unseen::Any,
    }
}

/// What of the queue's setup changes what a descriptor says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mode {
    split: Split,
    /// The bit that says of a packet that its tag was taken out; none if that is not done at all.
    pub tagged: u64,
    /// How stamps count; none without.
    time: Option<SystemTime>,
}

impl Mode {
    pub(super) const fn new(
        config: &QueueConfig,
        strip_vlan: bool,
        time: Option<SystemTime>,
    ) -> Self {
        Self {
            split: Split::of(config),
            tagged: if strip_vlan { Status::VP } else { 0 },
            time,
        }
    }
}

/// A write-back.
#[derive(Clone, Copy, Debug)]
pub(super) struct WriteBack {
    info: Info,
    status: Status,
}

impl ring::WriteBack<WORDS> for WriteBack {
    type Mode = Mode;
    #[cfg(target_arch = "x86_64")]
    type Lanes = IgbLanes;

    /// The longest frame (9728 bytes) in the smallest chunks.
    const MOST_PARTS: usize = 10;

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
        self.status.has(Status::EOP)
    }

    fn is_bad(self) -> bool {
        self.status.has(Status::RXE)
    }

    fn overflows(self) -> bool {
        self.status.has(Status::HBO)
    }

    #[inline(always)]
    fn length(self) -> u16 {
        self.status.length()
    }

    #[inline(always)]
    fn split_length(self) -> u32 {
        self.info.split_length()
    }

    fn header(self, _any_overflows: bool, slot_size: u16, mode: Mode) -> Option<Header> {
        let overflows = self.overflows();
        let length = self.info.header_length();
        let split = self.info.split();
        Some(match mode.split {
            Split::Headers if split && !overflows => Header { length, split },
            Split::No | Split::Headers => Header::NONE,
            Split::Always if overflows => Header {
                length: length.min(slot_size),
                split: false,
            },
            Split::Always => Header { length, split },
        })
    }

    #[inline(always)]
    fn vlan(self) -> u16 {
        self.status.vlan()
    }

    #[inline(always)]
    fn hash(self) -> u32 {
        self.info.hash()
    }

    fn flags(self, mode: Mode) -> RxFlags {
        let mut flags = RxFlags::TIMESTAMP_SW;
        if self.status.has(Status::L4E | Status::IPE) {
            flags |= RxFlags::CSUM_BAD;
        } else if self.status.has(Status::L4CS) {
            flags |= RxFlags::CSUM_GOOD;
        }
        if self.info.hash_type() != 0 {
            flags |= RxFlags::HASH;
        }
        if self.status.has(mode.tagged) {
            flags |= RxFlags::VLAN;
        }
        flags
    }

    fn stamp(descriptor: &[AtomicU64; WORDS]) -> Stamp {
        let status = Status(u64::from_le(descriptor[1].load(Ordering::Relaxed)));
        if status.has(Status::TSIP) {
            Stamp::InFront
        } else {
            Stamp::None
        }
    }

    fn counter(front: [u8; FRONT as usize], mode: Mode) -> Option<u64> {
        mode.time?.stamp(front)
    }

    /// From a table, by what was hashed (four bits) and of the status whether the checksum was checked and whether a tag was taken out.
    #[inline(always)]
    fn plain_flags(self, mode: Mode) -> RxFlags {
        const FLAGS: [u32; 128] = {
            let mut flags = [0; 128];
            let mut at = 0;
            while at < flags.len() {
                flags[at] = RxFlags::SPLIT.bits()
                    | RxFlags::TIMESTAMP_SW.bits()
                    | if at & 0xf != 0 {
                        RxFlags::HASH.bits()
                    } else {
                        0
                    }
                    | if at as u64 & Status::VP << 1 != 0 {
                        RxFlags::VLAN.bits()
                    } else {
                        0
                    }
                    | if at as u64 & Status::L4CS << 1 != 0 {
                        RxFlags::CSUM_GOOD.bits()
                    } else {
                        0
                    };
                at += 1;
            }
            flags
        };
        // One bit higher than in the status, to be out of the hash's way.
        let at = self.info.hash_type() | (self.status.0 & (Status::L4CS | mode.tagged)) << 1;
        RxFlags::from_bits_retain(FLAGS[at as usize & 127])
    }
}
