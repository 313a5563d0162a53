//! The receive hash: which words, in which order, and the table that spreads it.
//!
//! The hash profiles' words are written from the vector's end on (DPDK `ice_flex_pipe.c`, "Reverse FV"); hashed in that order, addresses and ports give the
//! hash that Microsoft's definition of RSS gives. That silicon hashes in this order is not verified.

use super::fields;
use crate::frame::Frame;
use crate::regs;
use crate::state::State;
use crate::switch::Direction;
use crate::vsi::{HASH_KEY, Vsi};

/// Scheme of a VSI: exclusive or of all words.
const XOR: u8 = 2;
/// The table is the function's; is a global one.
const TABLE_FUNCTION: u8 = 2;
const TABLE_GLOBAL: u8 = 3;

/// Toeplitz hash of bytes, of which as many are used as the key allows.
pub(crate) fn toeplitz(key: &[u8; HASH_KEY], data: &[u8]) -> u32 {
    let mut hash = 0;
    let mut window = u32::from_be_bytes([key[0], key[1], key[2], key[3]]);
    for (i, byte) in data.iter().enumerate() {
        let next = key.get(i + 4).copied().unwrap_or(0);
        for bit in (0..8).rev() {
            if byte >> bit & 1 != 0 {
                hash ^= window;
            }
            window = window << 1 | u32::from(next >> bit & 1);
        }
    }
    hash
}

impl State {
    /// The hash of a VSI's packet; none if no profile wants one.
    pub(super) fn hash_of(&self, vsi: &Vsi, frame: &Frame<'_>) -> Option<u32> {
        if !self.package.is_loaded() {
            return None;
        }
        let block = &self.package.hash;
        let profile = block.profile(frame.packet_type(), vsi.number);
        let vector = block.vector(profile);
        let words: Vec<Option<u16>> = vector
            .iter()
            .map(|word| fields::value(*word, frame, Direction::Receive))
            .collect();
        if words.iter().all(Option::is_none) {
            return None;
        }
        let masked: Vec<Option<u16>> = words
            .iter()
            .enumerate()
            .map(|(i, word)| {
                word.map(|word| {
                    word & self.mask(regs::GLQF_HMASK, regs::GLQF_HMASK_SEL, profile, i)
                })
            })
            .collect();
        let mut data = Vec::with_capacity(48);
        for (i, word) in masked.iter().enumerate().rev() {
            let Some(mut word) = *word else { continue };
            let symmetric = self.byte_of(regs::GLQF_HSYMM, profile, i);
            if symmetric & 0x80 != 0 {
                let other = masked.get(usize::from(symmetric & 0x1f)).copied().flatten();
                word ^= other.unwrap_or(0);
            }
            data.extend_from_slice(&word.to_be_bytes());
        }
        if vsi.hash_scheme() == XOR {
            return Some(data.chunks(4).fold(0, |hash, chunk| {
                let mut word = [0; 4];
                word[..chunk.len()].copy_from_slice(chunk);
                hash ^ u32::from_be_bytes(word)
            }));
        }
        Some(toeplitz(&vsi.key, &data))
    }

    /// The queue of a VSI that its table gives a hash.
    pub(super) fn spread(&self, vsi: &Vsi, hash: u32) -> u16 {
        let table = match vsi.table() {
            TABLE_FUNCTION => &self.function_table,
            TABLE_GLOBAL => &self.global_table,
            _ => &vsi.lut,
        };
        let len = table.len().max(1);
        table.get(hash as usize % len).copied().unwrap_or(0)
    }

    /// One of 24 bytes that a profile has in 6 registers, 512 bytes apart.
    pub(super) fn byte_of(&self, base: u32, profile: u8, word: usize) -> u8 {
        let register = base + u32::from(profile) * 4 + (word as u32 / 4) * 512;
        (self.regs.get(register) >> (word % 4 * 8)) as u8
    }

    /// Which bits of a word count, by the masks that are selected for a profile.
    pub(super) fn mask(&self, masks: u32, selected: u32, profile: u8, word: usize) -> u16 {
        let selected = self.regs.get(selected + u32::from(profile) * 4);
        (0..32)
            .filter(|i| selected >> i & 1 != 0)
            .map(|i| self.regs.get(masks + i * 4))
            .find(|mask| (mask & 0x1f) as usize == word)
            .map_or(0xffff, |mask| (mask >> 16) as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn microsofts_example() {
        let mut key = [0; HASH_KEY];
        key[..40].copy_from_slice(&[
            0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3,
            0x8f, 0xb0, 0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3,
            0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
        ]);
        // 66.9.149.187:2794 to 161.142.100.80:1766.
        let data = [66, 9, 149, 187, 161, 142, 100, 80, 0x0a, 0xea, 0x06, 0xe6];
        assert_eq!(toeplitz(&key, &data), 0x51cc_c178);
        assert_eq!(toeplitz(&key, &data[..8]), 0x323e_8fc2);
    }
}
