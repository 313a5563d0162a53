//! A made-up flash with the words that drivers read, and command 0x0701.
//!
//! Words and layout: DPDK `ice_nvm.c` and `ice_type.h` (`ICE_SR_*`). The shadow RAM is the flash's first 64 KiB here.

use super::{Code, Command, Done, answer, refuse};
use crate::bytes;
use crate::state::State;

/// Bytes of flash.
const SIZE: usize = 1 << 20;
/// Reads may not cross a boundary of this many bytes.
const SECTOR: usize = 4096;

/// Banks, in 4 KiB units: first, and the size of each of the two.
const NVM_BANK: (u16, u16) = (0x10, 0x10);
const OROM_BANK: (u16, u16) = (0x40, 0x10);
const NETLIST_BANK: (u16, u16) = (0x80, 0x04);
/// Marks a pointer as counted in 4 KiB units.
const UNITS_4K: u16 = 1 << 15;

/// Words of a bank's CSS header, as its length words say, and of the authentication header behind it.
const CSS_DWORDS: u16 = 0x148;
const AUTH_WORDS: usize = 8;

/// The flash's contents.
pub(crate) struct Flash {
    bytes: Vec<u8>,
}

impl Flash {
    pub(crate) fn new() -> Self {
        let mut flash = Self {
            bytes: vec![0xff; SIZE],
        };
        flash.bytes[..0x1_0000].fill(0);
        flash.shadow_words(0);
        // Control word: valid, first banks active.
        flash.word(0x00, 1 << 6);
        for (word, (first, size)) in [(0x42, NVM_BANK), (0x44, OROM_BANK), (0x46, NETLIST_BANK)] {
            flash.word(word, first | UNITS_4K);
            flash.word(word + 1, size);
        }
        for bank in 0..2 {
            let nvm = usize::from(NVM_BANK.0 + bank * NVM_BANK.1) * SECTOR;
            flash.bytes[nvm..nvm + 0x2000].fill(0);
            flash.word(nvm / 2 + 2, CSS_DWORDS);
            flash.word(nvm / 2 + 3, 0);
            let header = (usize::from(CSS_DWORDS) * 2 + AUTH_WORDS).next_multiple_of(32);
            flash.shadow_words(nvm / 2 + header);
            let orom = usize::from(OROM_BANK.0 + bank * OROM_BANK.1) * SECTOR;
            flash.civd(orom + 512);
        }
        flash
    }

    fn word(&mut self, at: usize, value: u16) {
        bytes::put16(&mut self.bytes, at * 2, value);
    }

    /// Versions, in the shadow RAM and in each bank's copy of it.
    fn shadow_words(&mut self, at: usize) {
        // 4.32, as an image of that age says; EETRACK.
        self.word(at + 0x18, 0x4032);
        self.word(at + 0x2d, 0x0001);
        self.word(at + 0x2e, 0x8001);
    }

    /// The option ROM's version block; its bytes sum to 0.
    fn civd(&mut self, at: usize) {
        let mut block = [0; 74];
        block[..4].copy_from_slice(b"$CIV");
        bytes::put32(&mut block, 5, 0x0100_0001);
        let sum = block.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
        block[4] = 0_u8.wrapping_sub(sum);
        bytes::put(&mut self.bytes, at, &block);
    }
}

pub(super) fn read(state: &mut State, command: &mut Command) -> Done {
    let offset = usize::from(command.p16(0)) | usize::from(command.p8(2)) << 16;
    let module = command.p16(4);
    let len = usize::from(command.p16(6));
    if module != 0 {
        return refuse(Code::NoEntry, format!("there is no module {module:#x}"));
    }
    if len == 0 || len > command.len {
        return refuse(
            Code::Invalid,
            format!("{len} bytes, into a buffer of {}", command.len),
        );
    }
    if offset % SECTOR + len > SECTOR {
        return refuse(
            Code::Invalid,
            format!("{len} bytes from {offset:#x} on cross a sector of 4096"),
        );
    }
    let Some(found) = state.flash.bytes.get(offset..offset + len) else {
        // This is how a driver finds the flash's size.
        return answer(Code::Invalid);
    };
    let found = found.to_vec();
    command.reply(&found);
    Ok(())
}
