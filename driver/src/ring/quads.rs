//! Plain packets, four at a time: what [`plain`](super::plain) does one by one, with vectors.
//!
//! A plain packet is one descriptor, its header split off, without error. Anything else among four leaves them to who looks at each.

use std::sync::atomic::AtomicU64;

use crate::chunk::{RxFlags, RxWords};
use crate::lanes::{Avx2, U64x4};

/// How a NIC's descriptors are read four at a time. Has the constants for it, each in a register or close by.
pub(crate) trait Lanes<const WORDS: usize> {
    /// See [`WriteBack`](super::WriteBack).
    type Mode;

    /// For chunks and slots of these sizes.
    fn new(avx2: Avx2, chunk_size: u16, slot_size: u16, mode: Self::Mode) -> Self;

    /// What [`entries`](Self::entries) are made of.
    type Plain;

    /// Four packets, if they are plain.
    fn plain(&self, descriptors: &[[AtomicU64; WORDS]; 4]) -> Option<Self::Plain>;

    /// The second and the third word of each packet's entry ([`RxWords`]), packets in the order 0, 2, 1, 3.
    fn entries(&self, plain: Self::Plain) -> (U64x4, U64x4);
}

/// The flags' place in an entry's third word.
pub(crate) const fn flag(flags: RxFlags) -> u64 {
    (flags.bits() as u64) << 32
}

/// Makes entries, and adds up their bytes.
pub(super) struct Quads<L> {
    avx2: Avx2,
    lanes: L,
    flow: U64x4,
    now: U64x4,
    summed: U64x4,
    /// Payload bytes in the lower, header bytes in the upper half of each word.
    sums: U64x4,
}

impl<L> Quads<L> {
    /// All packets are `flow`'s, and come `now`.
    #[inline(always)]
    pub(super) fn new(avx2: Avx2, lanes: L, flow: u16, now: u64) -> Self {
        Self {
            avx2,
            lanes,
            flow: avx2.splat(u64::from(flow) << 48),
            now: avx2.splat(now),
            summed: avx2.splat(0x0000_0001_0001_0000),
            sums: avx2.splat(0),
        }
    }

    /// Four packets, if they are plain.
    #[inline(always)]
    pub(super) fn next<const WORDS: usize>(
        &mut self,
        descriptors: &[[AtomicU64; WORDS]; 4],
        chunks: &[u32; 4],
    ) -> Option<[RxWords; 4]>
    where
        L: Lanes<WORDS>,
    {
        let plain = self.lanes.plain(descriptors)?;
        let flow_and_chunk = self.avx2.widen(chunks).middle_swapped().or(self.flow);
        let (lengths, hash_and_flags) = self.lanes.entries(plain);
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
