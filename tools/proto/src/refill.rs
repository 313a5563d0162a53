//! The entry of a refill ring: one chunk given back.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::ring::Entry;

/// A chunk that a client gives back, with the generation under which it was delivered: 8 bytes, little-endian.
///
/// The daemon refuses and counts an entry whose chunk does not exist, is not with this client, or was delivered under another
/// generation; see the pool.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct RefillEntry {
    /// The chunk's index in the region, as its completion named it.
    pub chunk: u32,
    /// The generation, as its completion named it.
    pub generation: u16,
    /// Written as 0, ignored by the reader.
    pub reserved: u16,
}

const _: () = assert!(size_of::<RefillEntry>() == 8);

impl RefillEntry {
    /// Bytes of one entry.
    pub const SIZE: usize = size_of::<Self>();

    /// The entry that gives back `chunk`, delivered under `generation`.
    #[must_use]
    pub const fn new(chunk: u32, generation: u16) -> Self {
        Self {
            chunk,
            generation,
            reserved: 0,
        }
    }
}

impl Entry<1> for RefillEntry {
    #[inline]
    fn to_words(self) -> [u64; 1] {
        [
            u64::from(self.chunk)
                | u64::from(self.generation) << 32
                | u64::from(self.reserved) << 48,
        ]
    }

    #[inline]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the fields are cut out of the word"
    )]
    fn from_words([word]: [u64; 1]) -> Self {
        Self {
            chunk: word as u32,
            generation: (word >> 32) as u16,
            reserved: (word >> 48) as u16,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_is_the_bytes_in_memory() {
        let entry = RefillEntry {
            chunk: 0x0403_0201,
            generation: 0x0605,
            reserved: 0x0807,
        };
        assert_eq!(entry.to_words()[0].to_le_bytes(), entry.as_bytes());
        assert_eq!(RefillEntry::from_words(entry.to_words()), entry);
    }
}
