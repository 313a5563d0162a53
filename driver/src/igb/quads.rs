//! Plain packets, four at a time: what the [write-back](super::write_back) says one by one, with vectors.
//!
use std::sync::atomic::AtomicU64;

use super::descriptor::{Info, Status};
use super::write_back::{Mode, WORDS};
use crate::chunk::RxFlags;
use crate::lanes::{Avx2, U64x4};
use crate::ring::{Lanes, flag};

/// The constants, each in a register or close by.
pub(super) struct IgbLanes {
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
}

/// SPH and HDR_LEN, less by this, are the length less one.
const SPLIT: u64 = (Info::SPH >> 21) + 1;

impl Lanes<WORDS> for IgbLanes {
    type Mode = Mode;
    /// Status, info, header length less one.
    type Plain = [U64x4; 3];

    #[inline(always)]
    fn new(avx2: Avx2, chunk_size: u16, slot_size: u16, mode: Mode) -> Self {
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
            tagged: words(if mode.tagged == 0 {
                0
            } else {
                flag(RxFlags::VLAN)
            }),
            flags: words(flag(RxFlags::SPLIT.union(RxFlags::TIMESTAMP_SW))),
        }
    }

    #[inline(always)]
    fn plain(&self, descriptors: &[[AtomicU64; WORDS]; 4]) -> Option<Self::Plain> {
        // Always two.
        let [first, second] = descriptors.as_flattened().as_chunks().0 else {
            return None;
        };
        let load = |two| self.avx2.load(two);
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
        Some([status, info, header])
    }

    #[inline(always)]
    fn entries(&self, [status, info, header]: Self::Plain) -> (U64x4, U64x4) {
        let lengths = status
            .move_bytes(self.lengths)
            .or(header.move_bytes(self.split_length))
            .add(self.one);
        let unhashed = info.and(self.hash_type).equal(self.avx2.splat(0));
        let hash_and_flags = (info.down::<32>().or(self.flags))
            .or(unhashed.not_and(self.hashed))
            .or(status.up::<29>().and(self.checked))
            .or(status.up::<34>().and(self.tagged));
        (lengths, hash_and_flags)
    }
}

const _: () = assert!(
    flag(RxFlags::CSUM_GOOD) == Status::L4CS << 29 && flag(RxFlags::VLAN) == Status::VP << 34,
    "flags are moved there from the status"
);
