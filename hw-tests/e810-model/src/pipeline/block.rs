//! One block's tables: which profile a packet gets, and what the profile extracts.

use crate::bytes;

/// Sizes of tables: DPDK `blk_sizes` in `ice_flex_pipe.c`. The package has XLT1 for all 8 functions one after the other; this is function 0.
const TYPES: usize = 1024;
const INTERFACES: usize = 768;
const ENTRIES: usize = 512;
/// Bytes of a TCAM entry in a section: address, key, profile.
const ENTRY: usize = 13;
/// Bits of a key: 16 flags, the packet type group, the VSI group.
const KEY: usize = 5;

/// Sections by their number within a block (`enum ice_sect`).
const XLT1: u32 = 2;
const XLT2: u32 = 3;
const TCAM: u32 = 4;
const REDIRECTION: u32 = 5;
const VECTOR: u32 = 6;

/// How wide a block's field vectors are.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Kind {
    /// 48 words, 256 profiles.
    Switch,
    /// 24 words, 128 profiles.
    #[default]
    Other,
}

/// A word that a profile extracts: protocol, and offset in it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Word {
    pub(crate) protocol: u8,
    pub(crate) offset: u16,
}

impl Word {
    const NONE: Self = Self {
        protocol: 0xff,
        offset: 0x1ff,
    };
}

/// A TCAM entry. Each bit of the key is 2 bits: a half that 0 matches, one that 1 matches.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    zero: [u8; KEY],
    one: [u8; KEY],
    profile: u8,
}

impl Entry {
    fn matches(&self, key: [u8; KEY]) -> bool {
        (0..KEY).all(|i| key[i] & !self.one[i] == 0 && !key[i] & !self.zero[i] == 0)
    }

    /// A bit that neither matches: the entry is unused.
    fn is_used(&self) -> bool {
        (0..KEY).all(|i| self.zero[i] | self.one[i] == 0xff)
    }
}

/// The block.
#[derive(Clone, Debug, Default)]
pub(crate) struct Block {
    kind: Kind,
    groups: Vec<u8>,
    interfaces: Vec<u16>,
    entries: Vec<Entry>,
    redirection: Vec<u8>,
    vectors: Vec<Word>,
}

impl Block {
    pub(crate) fn new(kind: Kind) -> Self {
        let (width, profiles) = match kind {
            Kind::Switch => (48, 256),
            Kind::Other => (24, 128),
        };
        Self {
            kind,
            groups: vec![0; TYPES],
            interfaces: vec![0; INTERFACES],
            entries: vec![Entry::default(); ENTRIES],
            redirection: (0..profiles).map(|i| i as u8).collect(),
            vectors: vec![Word::NONE; width * profiles],
        }
    }

    fn width(&self) -> usize {
        match self.kind {
            Kind::Switch => 48,
            Kind::Other => 24,
        }
    }

    /// A section's entries go into their table; what is beyond the table is of other functions.
    pub(super) fn section(&mut self, number: u32, data: &[u8]) -> Result<(), String> {
        let count = usize::from(bytes::u16_at(data, 0));
        let first = usize::from(bytes::u16_at(data, 2));
        let (head, size) = match number {
            XLT1 | REDIRECTION => (4, 1),
            XLT2 => (4, 2),
            TCAM => (2, ENTRY),
            VECTOR => (4, self.width() * 4),
            _ => return Ok(()),
        };
        if head + count * size > data.len() {
            return Err(format!(
                "{count} entries of {size} bytes in a section of {}",
                data.len()
            ));
        }
        for i in 0..count {
            let entry = data.get(head + i * size..).unwrap_or_default();
            match number {
                XLT1 => set(&mut self.groups, first + i, bytes::u8_at(entry, 0)),
                REDIRECTION => set(&mut self.redirection, first + i, bytes::u8_at(entry, 0)),
                XLT2 => set(&mut self.interfaces, first + i, bytes::u16_at(entry, 0)),
                TCAM => {
                    let address = usize::from(bytes::u16_at(entry, 0));
                    let value = Entry {
                        zero: bytes::get(entry, 2),
                        one: bytes::get(entry, 2 + KEY),
                        profile: bytes::u8_at(entry, 12),
                    };
                    set(&mut self.entries, address, value);
                }
                _ => self.vector_section(first + i, entry),
            }
        }
        Ok(())
    }

    fn vector_section(&mut self, profile: usize, data: &[u8]) {
        let width = self.width();
        for i in 0..width {
            let word = Word {
                protocol: bytes::u8_at(data, i * 4),
                offset: bytes::u16_at(data, i * 4 + 1),
            };
            set(&mut self.vectors, profile * width + i, word);
        }
    }

    /// The profile of a packet: the first entry that matches. Its flags are taken to be those of an ordinary packet, all zeros: the package's exceptions
    /// (errors, drops, what the hardware handles itself) each want a flag.
    pub(crate) fn profile(&self, packet_type: u16, vsi: u16) -> u8 {
        let group = self
            .groups
            .get(usize::from(packet_type))
            .copied()
            .unwrap_or(0);
        let interface = self
            .interfaces
            .get(usize::from(vsi))
            .copied()
            .unwrap_or(0)
            .to_le_bytes();
        let key = [0, 0, group, interface[0], interface[1]];
        let profile = self
            .entries
            .iter()
            .find(|entry| entry.matches(key))
            .map_or(0, |entry| entry.profile);
        self.redirection
            .get(usize::from(profile))
            .copied()
            .unwrap_or(profile)
    }

    /// What a profile extracts.
    pub(crate) fn vector(&self, profile: u8) -> &[Word] {
        let width = self.width();
        let at = usize::from(profile) * width;
        self.vectors.get(at..at + width).unwrap_or_default()
    }

    /// Entries in use, and their profiles.
    pub(crate) fn reserved(&self) -> impl Iterator<Item = (u16, u8)> {
        self.entries
            .iter()
            .enumerate()
            .filter(|(_, entry)| entry.is_used())
            .map(|(i, entry)| (i as u16, entry.profile))
    }
}

fn set<T>(table: &mut [T], at: usize, value: T) {
    if let Some(slot) = table.get_mut(at) {
        *slot = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A TCAM entry as `ice_set_key` writes it: 0 is the pair (1, 0), 1 is (0, 1), either is (1, 1).
    pub(crate) fn key(group: u8, interface: u16) -> [u8; 10] {
        let mut key = [0xff; 10];
        for (i, value) in [
            (2, group),
            (3, interface as u8),
            (4, (interface >> 8) as u8),
        ] {
            key[i] = !value;
            key[KEY + i] = value;
        }
        key
    }

    #[test]
    fn the_first_entry_that_matches_gives_the_profile() {
        let mut block = Block::new(Kind::Other);
        block.section(XLT1, &[1, 0, 24, 0, 7]).unwrap();
        block.section(XLT2, &[1, 0, 8, 0, 3, 0]).unwrap();
        let mut entries = vec![2, 0];
        for (address, group, profile) in [(9_u16, 7, 5), (3, 7, 4)] {
            entries.extend(address.to_le_bytes());
            entries.extend(key(group, 3));
            entries.push(profile);
        }
        block.section(TCAM, &entries).unwrap();
        assert_eq!(block.profile(24, 8), 4);
        assert_eq!(block.profile(24, 9), 0);
        assert_eq!(block.profile(23, 8), 0);
        assert_eq!(block.reserved().collect::<Vec<_>>(), [(3, 4), (9, 5)]);
    }

    #[test]
    fn sections_that_lie_about_their_size_are_refused() {
        let mut block = Block::new(Kind::Switch);
        assert!(block.section(XLT1, &[5, 0, 0, 0, 7]).is_err());
        assert!(block.section(VECTOR, &[1, 0, 0, 0, 7]).is_err());
        assert!(block.section(TCAM, &[]).is_err());
        // Beyond the table.
        assert!(block.section(XLT1, &[1, 0, 0xff, 0xff, 7]).is_ok());
        assert!(block.vector(255).len() == 48);
    }
}
