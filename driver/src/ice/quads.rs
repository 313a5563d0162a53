//! Plain packets, four at a time: what the [write-back](super::write_back) says one by one, with vectors.
//!
use std::sync::atomic::AtomicU64;

use super::descriptor::{Info, Status};
use super::write_back::WORDS;
use crate::chunk::RxFlags;
use crate::lanes::{Avx2, U64x4};
use crate::ring::{Lanes, flag};

/// The constants, each in a register or close by.
pub(super) struct IceLanes {
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
}

/// Of a descriptor's first word: the length, and header length with SPH.
const LENGTHS: u64 = 0x0fff_3fff << 32;
/// SPH and header length, less by this, are the length less one.
const SPLIT: u64 = (Info::SPH >> 48) + 1;

impl Lanes<WORDS> for IceLanes {
    type Mode = ();
    /// Status, lengths with that of the header less one.
    type Plain = [U64x4; 2];

    #[inline(always)]
    fn new(avx2: Avx2, chunk_size: u16, slot_size: u16, (): ()) -> Self {
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
        }
    }

    #[inline(always)]
    fn plain(&self, [a, b, c, d]: &[[AtomicU64; WORDS]; 4]) -> Option<Self::Plain> {
        let load = |descriptor| self.avx2.load(descriptor);
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
        Some([status, lengths])
    }

    #[inline(always)]
    fn entries(&self, [status, lengths]: Self::Plain) -> (U64x4, U64x4) {
        // Length and header length to the places of an entry's, and the tag behind them.
        let lengths =
            (lengths.down::<16>().add(self.header_one)).or(status.up::<32>().and(self.vlan));
        let hash_and_flags = (status.down::<32>().or(self.flags))
            .or(status.up::<26>().and(self.hashed))
            .or(status.up::<24>().and(self.tagged))
            .or(status.up::<31>().and(self.checked));
        (lengths, hash_and_flags)
    }
}

const _: () = assert!(
    flag(RxFlags::CSUM_GOOD) == Status::L3L4P << 31
        && flag(RxFlags::VLAN) == Status::TAGGED << 24
        && flag(RxFlags::HASH) == Status::HASHED << 26,
    "flags are moved there from the status"
);
