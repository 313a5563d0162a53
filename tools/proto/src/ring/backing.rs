//! What a ring lies in: shared memory in the real thing, loom's cells in a model. The ring's code is the same.

/// A word of 32 bits that one side writes and the other reads. Loads and stores are relaxed; the ring adds its fences.
pub trait Word: Send {
    /// Reads the word.
    fn load(&self) -> u32;
    /// Writes the word.
    fn store(&self, value: u32);
}

/// The slots of a ring, to read. `index` is free-running; its low bits name the slot, so that no index is out of range.
pub trait ReadSlots<const N: usize>: Send {
    /// How many slots there are: a power of two.
    fn capacity(&self) -> u32;
    /// Copies a slot out.
    fn read(&self, index: u32) -> [u64; N];
    /// Copies out slots that lie side by side from `index` on, `most` at most; at least one, if `most` is not 0. For loops.
    #[inline]
    fn row(&self, index: u32, most: u32) -> impl ExactSizeIterator<Item = [u64; N]> + '_ {
        (0..most).map(move |nth| self.read(index.wrapping_add(nth)))
    }
}

/// The slots of a ring, to write.
pub trait WriteSlots<const N: usize>: Send {
    /// How many slots there are: a power of two.
    fn capacity(&self) -> u32;
    /// Copies a slot in.
    fn write(&self, index: u32, words: [u64; N]);
    /// Copies entries into the slots from `index` on, `most` at most and as many as there are; returns how many. For loops. Takes no entry out of `entries` that it
    /// does not write.
    #[inline]
    fn write_all(&self, index: u32, most: u32, mut entries: impl Iterator<Item = [u64; N]>) -> u32 {
        let mut written = 0;
        while written < most
            && let Some(words) = entries.next()
        {
            self.write(index.wrapping_add(written), words);
            written += 1;
        }
        written
    }
    /// Copies four entries into the slots from `index` on, each with its mark in bits 32 to 47 of its first word, which are 0. For loops: no mark is
    /// put into an entry before all of it is stored at once.
    #[inline]
    fn write_four(&self, index: u32, entries: &[[u64; N]; 4], marks: [u16; 4]) {
        for (nth, (entry, mark)) in (0..).zip(entries.iter().zip(marks)) {
            let mut words = *entry;
            if let Some(first) = words.first_mut() {
                *first |= u64::from(mark) << 32;
            }
            self.write(index.wrapping_add(nth), words);
        }
    }
}

/// The kinds of memory a ring is made of.
pub trait Backing {
    /// An index or a sleep word.
    type Word: Word;
    /// Slots to read.
    type Reader<const N: usize>: ReadSlots<N>;
    /// Slots to write.
    type Writer<const N: usize>: WriteSlots<N>;
}

/// What goes through a ring: a value of `N` words of 64 bits, any of whose bit patterns is valid.
pub trait Entry<const N: usize>: Copy {
    /// The value as words.
    fn to_words(self) -> [u64; N];
    /// The value of these words.
    fn from_words(words: [u64; N]) -> Self;
}
