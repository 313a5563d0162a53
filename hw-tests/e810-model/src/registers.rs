//! The registers as storage. Most of the E810's registers are tables that only the hardware reads, so plain storage is enough for them.

/// Words of BAR 0.
const WORDS: usize = (crate::config::BAR0_LEN / 4) as usize;

/// BAR 0 as memory; what has side effects is decided by its user.
pub(crate) struct Registers {
    words: Vec<u32>,
}

impl Registers {
    /// All zero. The kernel hands out pages as they are touched, so the 32 MiB are not spent.
    pub(crate) fn new() -> Self {
        Self {
            words: vec![0; WORDS],
        }
    }

    /// Whether the offset names a register.
    pub(crate) fn contains(offset: u32) -> bool {
        offset.is_multiple_of(4) && (offset as usize) / 4 < WORDS
    }

    /// Ones where there is none.
    pub(crate) fn get(&self, offset: u32) -> u32 {
        self.words
            .get(offset as usize / 4)
            .copied()
            .unwrap_or(u32::MAX)
    }

    pub(crate) fn set(&mut self, offset: u32, value: u32) {
        if let Some(word) = self.words.get_mut(offset as usize / 4) {
            *word = value;
        }
    }

    pub(crate) fn set_bits(&mut self, offset: u32, bits: u32) {
        self.set(offset, self.get(offset) | bits);
    }

    pub(crate) fn clear_bits(&mut self, offset: u32, bits: u32) {
        self.set(offset, self.get(offset) & !bits);
    }
}
