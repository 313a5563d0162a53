//! Four packets at a time: vectors of four 64-bit words, where the processor has AVX2.
//!
//! What is done with them is inlined into [`Avx2::run`], which is compiled for AVX2; outside of it nothing is.
#![expect(
    unsafe_code,
    reason = "vector instructions exist only where the processor has them, which is looked at once; and vector reads of memory that a device writes"
)]

use std::arch::x86_64 as x86;
use std::sync::atomic::AtomicU64;

/// The processor has AVX2, and the system saves its registers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// Looks.
    pub(crate) fn detect() -> Option<Self> {
        std::is_x86_feature_detected!("avx2").then_some(Self(()))
    }

    /// Runs `f`, compiled for AVX2 as far as it is inlined (`#[inline(always)]`, all the way down).
    #[inline]
    pub(crate) fn run<R>(self, f: impl FnOnce() -> R) -> R {
        #[target_feature(enable = "avx2")]
        fn with_avx2<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        // SAFETY: the processor has it: there is no `Self` otherwise.
        unsafe { with_avx2(f) }
    }

    /// Four times the same word.
    #[inline(always)]
    pub(crate) fn splat(self, word: u64) -> U64x4 {
        // SAFETY: as in `run`.
        U64x4(unsafe { x86::_mm256_set1_epi64x(word.cast_signed()) })
    }

    /// The same two words in both halves.
    #[inline(always)]
    pub(crate) fn halves(self, first: u64, second: u64) -> U64x4 {
        let (first, second) = (first.cast_signed(), second.cast_signed());
        // SAFETY: as in `run`.
        U64x4(unsafe { x86::_mm256_set_epi64x(second, first, second, first) })
    }

    /// Four words as they lie.
    #[inline(always)]
    pub(crate) fn load(self, words: &[AtomicU64; 4]) -> U64x4 {
        // SAFETY: 32 bytes that may be read. A device may write them at the same time. What is made of this is one vector load (looked at, in release builds) or
        // loads of words: either takes each aligned word of eight bytes as it is at one moment, and volatile reads stay in their order, which the processor keeps too.
        U64x4(
            unsafe {
                std::ptr::from_ref(words)
                    .cast::<[u64; 4]>()
                    .cast::<Unaligned>()
                    .read_volatile()
            }
            .0,
        )
    }

    /// Four numbers, each a word.
    #[inline(always)]
    pub(crate) fn widen(self, numbers: &[u32; 4]) -> U64x4 {
        // SAFETY: as in `run`; 16 bytes that may be read, aligned or not.
        U64x4(unsafe {
            x86::_mm256_cvtepu32_epi64(x86::_mm_loadu_si128(std::ptr::from_ref(numbers).cast()))
        })
    }
}

/// A vector wherever it lies.
#[derive(Clone, Copy)]
#[repr(C, packed)]
struct Unaligned(x86::__m256i);

/// Four words. There is one only where there is an [`Avx2`].
#[derive(Clone, Copy)]
pub(crate) struct U64x4(x86::__m256i);

/// Methods of one instruction each.
macro_rules! instructions {
    ($($(#[$doc:meta])* $name:ident(self $(, $other:ident)*) = $instruction:ident;)*) => {
        impl U64x4 {
            $(
                $(#[$doc])*
                #[inline(always)]
                pub(crate) fn $name(self $(, $other: Self)*) -> Self {
                    // SAFETY: a value of this type exists only where there is AVX2.
                    Self(unsafe { x86::$instruction(self.0 $(, $other.0)*) })
                }
            )*
        }
    };
}

instructions! {
    /// Bit by bit.
    and(self, other) = _mm256_and_si256;
    /// The bits of `other` that `self` lacks.
    not_and(self, other) = _mm256_andnot_si256;
    /// Bit by bit.
    or(self, other) = _mm256_or_si256;
    /// Bit by bit.
    xor(self, other) = _mm256_xor_si256;
    /// Word by word; wraps.
    add(self, other) = _mm256_add_epi64;
    /// In pieces of 32 bits; each wraps.
    add_32(self, other) = _mm256_add_epi32;
    /// In pieces of 16 bits; each wraps.
    add_16(self, other) = _mm256_add_epi16;
    /// In pieces of 16 bits; less than nothing is nothing.
    saturating_sub_16(self, other) = _mm256_subs_epu16;
    /// Multiplies pieces of 16 bits, as signed numbers, and adds up each two: pieces of 32 bits.
    multiply_add_16(self, other) = _mm256_madd_epi16;
    /// All bits set where words are equal, none where not.
    equal(self, other) = _mm256_cmpeq_epi64;
    /// Moves bytes within each half: that at a place is the one whose number `places` has there, or 0 where that is 0x80.
    move_bytes(self, places) = _mm256_shuffle_epi8;
    /// Words 0 and 2 of both, in turns.
    even(self, other) = _mm256_unpacklo_epi64;
    /// Words 1 and 3 of both, in turns.
    odd(self, other) = _mm256_unpackhi_epi64;
}

impl U64x4 {
    /// Word by word, up.
    #[inline(always)]
    pub(crate) fn up<const BITS: i32>(self) -> Self {
        // SAFETY: a value of this type exists only where there is AVX2.
        Self(unsafe { x86::_mm256_slli_epi64::<BITS>(self.0) })
    }

    /// Word by word, down.
    #[inline(always)]
    pub(crate) fn down<const BITS: i32>(self) -> Self {
        // SAFETY: as above.
        Self(unsafe { x86::_mm256_srli_epi64::<BITS>(self.0) })
    }

    /// In pieces of 32 bits, down.
    #[inline(always)]
    pub(crate) fn down_32<const BITS: i32>(self) -> Self {
        // SAFETY: as above.
        Self(unsafe { x86::_mm256_srli_epi32::<BITS>(self.0) })
    }

    /// Words 0, 2, 1, 3.
    #[inline(always)]
    pub(crate) fn middle_swapped(self) -> Self {
        // SAFETY: as above.
        Self(unsafe { x86::_mm256_permute4x64_epi64::<0b11_01_10_00>(self.0) })
    }

    /// The lower halves of both.
    #[inline(always)]
    pub(crate) fn lower(self, other: Self) -> Self {
        // SAFETY: as above.
        Self(unsafe { x86::_mm256_permute2x128_si256::<0x20>(self.0, other.0) })
    }

    /// The upper halves of both.
    #[inline(always)]
    pub(crate) fn upper(self, other: Self) -> Self {
        // SAFETY: as above.
        Self(unsafe { x86::_mm256_permute2x128_si256::<0x31>(self.0, other.0) })
    }

    /// Whether no bit is set.
    #[inline(always)]
    pub(crate) fn is_zero(self) -> bool {
        // SAFETY: as above.
        unsafe { x86::_mm256_testz_si256(self.0, self.0) != 0 }
    }

    /// The words, the first in the lowest bits.
    #[inline(always)]
    pub(crate) fn words(self) -> [u64; 4] {
        let mut words = [0; 4];
        // SAFETY: as above; 32 bytes that may be written, aligned or not.
        unsafe { x86::_mm256_storeu_si256(std::ptr::from_mut(&mut words).cast(), self.0) };
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: [u64; 4] = [
        0x0001_0203_0405_0607,
        0x1011_1213_1415_1617,
        0x2021_2223_2425_2627,
        0x3031_3233_3435_3637,
    ];
    const B: [u64; 4] = [
        0xf0f0_f0f0_f0f0_f0f0,
        0x1011_1213_1415_1617,
        0xffff_0000_ffff_0000,
        u64::MAX,
    ];

    fn vector(avx2: Avx2, words: [u64; 4]) -> U64x4 {
        avx2.load(&words.map(AtomicU64::new))
    }

    /// By the portable definition of each.
    #[test]
    fn instructions_do_what_they_say() {
        let Some(avx2) = Avx2::detect() else {
            println!("skipped: this processor has no AVX2");
            return;
        };
        let (a, b) = (vector(avx2, A), vector(avx2, B));
        let each = |f: fn(u64, u64) -> u64| std::array::from_fn(|at| f(A[at], B[at]));
        let pieces = |f: fn(u16, u16) -> u16| -> [u64; 4] {
            std::array::from_fn(|at| {
                (0..4).fold(0, |word, piece| {
                    let of = |word: u64| (word >> (16 * piece)) as u16;
                    word | u64::from(f(of(A[at]), of(B[at]))) << (16 * piece)
                })
            })
        };
        assert_eq!(a.words(), A);
        assert_eq!(a.and(b).words(), each(|a, b| a & b));
        assert_eq!(a.not_and(b).words(), each(|a, b| !a & b));
        assert_eq!(a.or(b).words(), each(|a, b| a | b));
        assert_eq!(a.xor(b).words(), each(|a, b| a ^ b));
        assert_eq!(a.add(b).words(), each(u64::wrapping_add));
        assert_eq!(a.add_16(b).words(), pieces(u16::wrapping_add));
        assert_eq!(a.saturating_sub_16(b).words(), pieces(u16::saturating_sub));
        assert_eq!(a.equal(b).words(), [0, u64::MAX, 0, 0]);
        assert_eq!(a.even(b).words(), [A[0], B[0], A[2], B[2]]);
        assert_eq!(a.odd(b).words(), [A[1], B[1], A[3], B[3]]);
        assert_eq!(a.lower(b).words(), [A[0], A[1], B[0], B[1]]);
        assert_eq!(a.upper(b).words(), [A[2], A[3], B[2], B[3]]);
        assert_eq!(a.middle_swapped().words(), [A[0], A[2], A[1], A[3]]);
        assert_eq!(a.up::<5>().words(), A.map(|word| word << 5));
        assert_eq!(a.down::<5>().words(), A.map(|word| word >> 5));
        let halves = |f: fn(u32) -> u32| {
            A.map(|word| u64::from(f(word as u32)) | u64::from(f((word >> 32) as u32)) << 32)
        };
        assert_eq!(a.down_32::<7>().words(), halves(|half| half >> 7));
        let one = avx2.splat(0x0000_0001_0000_0001);
        assert_eq!(a.add_32(one).words(), halves(|half| half.wrapping_add(1)));
        // 0x0607 * 2, 0x0405 * 1; 0x0203 * 0, 0x0001 * 3.
        let product = a.multiply_add_16(avx2.splat(0x0003_0000_0001_0002));
        assert_eq!(product.words()[0], 3 << 32 | (0x0607 * 2 + 0x0405));
        // Places are counted from the start of a half.
        let moved = a.move_bytes(avx2.halves(0x8007_8006_8001_8000, 0x0f0e_0001_8080_8080));
        let half = |first: u64, second: u64| {
            let byte = |word: u64, nth: u32| word >> (8 * nth) & 0xff;
            [
                byte(first, 0) | byte(first, 1) << 16 | byte(first, 6) << 32 | byte(first, 7) << 48,
                byte(first, 1) << 32
                    | byte(first, 0) << 40
                    | byte(second, 6) << 48
                    | byte(second, 7) << 56,
            ]
        };
        assert_eq!(moved.words()[..2], half(A[0], A[1]));
        assert_eq!(moved.words()[2..], half(A[2], A[3]));
        assert_eq!(
            avx2.widen(&[1, u32::MAX, 3, 4]).words(),
            [1, 0xffff_ffff, 3, 4]
        );
        assert!(avx2.splat(0).is_zero() && !a.is_zero());
        assert_eq!(avx2.run(|| a.and(b).words()), each(|a, b| a & b));
    }
}
