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
    /// [`read`](Self::read) for a loop: what it needs to know stays in registers.
    #[inline]
    fn reader(&self) -> impl Fn(u32) -> [u64; N] + '_ {
        |index| self.read(index)
    }
}

/// The slots of a ring, to write.
pub trait WriteSlots<const N: usize>: Send {
    /// How many slots there are: a power of two.
    fn capacity(&self) -> u32;
    /// Copies a slot in.
    fn write(&self, index: u32, words: [u64; N]);
    /// [`write`](Self::write) for a loop: what it needs to know stays in registers.
    #[inline]
    fn writer(&self) -> impl Fn(u32, [u64; N]) + '_ {
        |index, words| self.write(index, words)
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
