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
    chunk_limit: U64x4,
    slot_limit: U64x4,
    split: U64x4,
    lengths: U64x4,
    split_length: U64x4,
    one: U64x4,
    hash_type: U64x4,
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

/// SPH and HDR_LEN, less by this, are the length less one.
const SPLIT: u64 = (Info::SPH >> 21) + 1;

impl Quads {
    /// `TAGGED`: the bit that says of a packet that its tag was taken out, if that is done at all.
    #[inline(always)]
    pub(super) fn new(
        avx2: Avx2,
        chunk_size: u16,
        slot_size: u16,
        tagged: u64,
        flow: u16,
        now: u64,
    ) -> Self {
        let words = |word| avx2.splat(word);
        Self {
            avx2,
            look: words(Status::LOOK),
            plain: words(Status::PLAIN),
            // PKT_LEN is the third of four pieces; there is no limit to the others.
            chunk_limit: words(!(0xffff << 32) | u64::from(chunk_size) << 32),
            slot_limit: words(!0xffff | u64::from(slot_size.wrapping_sub(1))),
            split: words((SPLIT as u16).wrapping_neg().into()),
            // PKT_LEN and the tag to the places of an entry's length and tag, which has its header length between.
            lengths: avx2.halves(0x0706_8080_0504_8080, 0x0f0e_8080_0d0c_8080),
            split_length: avx2.halves(0x8080_0100_8080_8080, 0x8080_0908_8080_8080),
            one: words(1 << 32),
            hash_type: words(0xf),
            hashed: words(flag(RxFlags::HASH)),
            checked: words(flag(RxFlags::CSUM_GOOD)),
            tagged: words(if tagged == 0 { 0 } else { flag(RxFlags::VLAN) }),
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
        [first, second]: &[[[AtomicU64; 2]; 2]; 2],
        chunks: &[u32; 4],
    ) -> Option<[RxWords; 4]> {
        let load = |pairs| self.avx2.load_pairs(pairs);
        // Packets 0, 2, 1, 3, as the instruction gives them: so up to the end. The status first: it has the done bit, behind which the rest is there, and is
        // read again with it.
        let status = load(first).odd(load(second));
        let info = load(first).even(load(second));
        let header = info.down_32::<21>().add_16(self.split);
        let other = (status.and(self.look).xor(self.plain))
            .or(status.saturating_sub_16(self.chunk_limit))
            .or(header.saturating_sub_16(self.slot_limit));
        if !other.is_zero() {
            return None;
        }
        let flow_and_chunk = self.avx2.widen(chunks).middle_swapped().or(self.flow);
        let lengths = status
            .move_bytes(self.lengths)
            .or(header.move_bytes(self.split_length))
            .add(self.one);
        let unhashed = info.and(self.hash_type).equal(self.avx2.splat(0));
        let hash_and_flags = (info.down::<32>().or(self.flags))
            .or(unhashed.not_and(self.hashed))
            .or(status.up::<29>().and(self.checked))
            .or(status.up::<34>().and(self.tagged));
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
    flag(RxFlags::CSUM_GOOD) == Status::L4CS << 29 && flag(RxFlags::VLAN) == Status::VP << 34,
    "flags are moved there from the status"
);
