//! Plain packets, four at a time: what [`receive`](super::receive) does one by one, with vectors.
//!
//! A plain packet is one descriptor, its header split off, without error. Anything else among four leaves them to who looks at each.

use std::sync::atomic::AtomicU64;

use super::descriptor::{Info, Status};
use crate::chunk::{RxFlags, RxWords};
use crate::lanes::{Avx2, U64x4};

/// The constants, each in a register or close by.
pub(super) struct Quads {
    avx2: Avx2,
    look: U64x4,
    plain: U64x4,
    lengths: U64x4,
    unsplit: U64x4,
    limits: U64x4,
    header_one: U64x4,
    vlan: U64x4,
    hashed: U64x4,
    checked: U64x4,
    tagged: U64x4,
    flags: U64x4,
    flow: U64x4,
    now: U64x4,
    summed: U64x4,
    /// Payload bytes in the lower, header bytes in the upper half of each word.
    sums: U64x4,
}

/// The flags' place in an entry's third word.
const fn flag(flags: RxFlags) -> u64 {
    (flags.bits() as u64) << 32
}

/// Of a descriptor's first word: the length, and header length with SPH.
const LENGTHS: u64 = 0x0fff_3fff << 32;
/// SPH and header length, less by this, are the length less one.
const SPLIT: u64 = (Info::SPH >> 48) + 1;

impl Quads {
    /// For chunks and slots of these sizes.
    #[inline(always)]
    pub(super) fn new(avx2: Avx2, chunk_size: u16, slot_size: u16, flow: u16, now: u64) -> Self {
        let words = |word| avx2.splat(word);
        Self {
            avx2,
            look: words(Status::LOOK),
            plain: words(Status::PLAIN),
            lengths: words(LENGTHS),
            unsplit: words(u64::from((SPLIT as u16).wrapping_neg()) << 48),
            limits: words(u64::from(chunk_size) << 32 | u64::from(slot_size.wrapping_sub(1)) << 48),
            header_one: words(1 << 32),
            vlan: words(0xffff << 48),
            hashed: words(flag(RxFlags::HASH)),
            checked: words(flag(RxFlags::CSUM_GOOD)),
            tagged: words(flag(RxFlags::VLAN)),
            flags: words(flag(RxFlags::SPLIT.union(RxFlags::TIMESTAMP_SW))),
            flow: words(u64::from(flow) << 48),
            now: words(now),
            summed: words(0x0000_0001_0001_0000),
            sums: words(0),
        }
    }

    /// Four packets, if they are plain.
    #[inline(always)]
    pub(super) fn next(
        &mut self,
        [a, b, c, d]: &[[[AtomicU64; 2]; 2]; 4],
        chunks: &[u32; 4],
    ) -> Option<[RxWords; 4]> {
        let load = |descriptor| self.avx2.load_pairs(descriptor);
        // Packets 0, 2, 1, 3, as the instruction gives them: so up to the end. The status first: it has the done bit, behind which the rest is there, and is
        // read again with it.
        let status = (load(a).lower(load(b))).odd(load(c).lower(load(d)));
        let info = (load(a).lower(load(b))).even(load(c).lower(load(d)));
        let lengths = info.and(self.lengths).add_16(self.unsplit);
        let other =
            (status.and(self.look).xor(self.plain)).or(lengths.saturating_sub_16(self.limits));
        if !other.is_zero() {
            return None;
        }
        let flow_and_chunk = self.avx2.widen(chunks).middle_swapped().or(self.flow);
        // Length and header length to the places of an entry's, and the tag behind them.
        let lengths =
            (lengths.down::<16>().add(self.header_one)).or(status.up::<32>().and(self.vlan));
        let hash_and_flags = (status.down::<32>().or(self.flags))
            .or(status.up::<26>().and(self.hashed))
            .or(status.up::<24>().and(self.tagged))
            .or(status.up::<31>().and(self.checked));
        self.sums = self.sums.add_32(lengths.multiply_add_16(self.summed));
        // Four entries by words become four words by entries.
        let (a, b) = (flow_and_chunk.even(lengths), hash_and_flags.even(self.now));
        let (c, d) = (flow_and_chunk.odd(lengths), hash_and_flags.odd(self.now));
        Some([a.lower(b), a.upper(b), c.lower(d), c.upper(d)].map(|entry| RxWords(entry.words())))
    }

    /// Header and payload bytes of all the packets so far, at most a batch of them.
    #[inline(always)]
    pub(super) fn bytes(&self) -> (u64, u64) {
        let words = self.sums.words();
        let sum = |piece: fn(u64) -> u64| words.into_iter().map(piece).sum();
        (sum(|word| word >> 32), sum(|word| word & 0xffff_ffff))
    }
}

const _: () = assert!(
    flag(RxFlags::CSUM_GOOD) == Status::L3L4P << 31
        && flag(RxFlags::VLAN) == Status::TAGGED << 24
        && flag(RxFlags::HASH) == Status::HASHED << 26,
    "flags are moved there from the status"
);
