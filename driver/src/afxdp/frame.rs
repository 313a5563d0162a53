//! From descriptors to checked frames: what the kernel says of a chunk is believed only if it can be true.

use devrx_provider::ChunkIndex;

use super::ring::Desc;

/// The chunks of one frame at most: `MAX_SKB_FRAGS` + 1 in the kernel's default configuration.
pub(super) const MAX_CHUNKS: usize = 18;
const _: () = assert!(MAX_CHUNKS <= crate::MAX_CHUNKS);

/// A part of a frame, checked: `offset + length` is within the chunk, and the chunk was ours to receive into.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Part {
    pub chunk: ChunkIndex,
    pub offset: u16,
    pub length: u16,
}

/// Who has a chunk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
enum Owner {
    /// Not this queue.
    Other,
    /// The kernel: posted.
    Kernel,
    /// This queue: received, not yet returned by `poll`; or to be posted again.
    Queue,
}

/// Which chunks of the share are where, and the arithmetic between umem addresses and chunks.
pub(super) struct Chunks {
    owner: Box<[Owner]>,
    /// The region's index of the umem's first chunk.
    first: u32,
    /// Bytes in a chunk, a power of two (aligned mode), at most 4096.
    size: u32,
    shift: u32,
    /// How many are not `Other`.
    held: u32,
}

impl Chunks {
    pub(super) fn new(first: u32, count: u32, size: u32) -> Self {
        debug_assert!(size.is_power_of_two());
        let owner = vec![Owner::Other; count as usize].into_boxed_slice();
        Self {
            owner,
            first,
            size,
            shift: size.trailing_zeros(),
            held: 0,
        }
    }

    /// Chunks with the kernel or the queue.
    pub(super) const fn held(&self) -> u32 {
        self.held
    }

    fn slot(&mut self, chunk: ChunkIndex) -> Option<&mut Owner> {
        self.owner
            .get_mut(chunk.0.checked_sub(self.first)? as usize)
    }

    /// Checks a descriptor, and takes its chunk from the kernel. `Err` with the chunk, if there is one to save, when the descriptor cannot be true:
    /// an address outside the umem, a range that is empty or leaves its chunk, a chunk that is not posted.
    #[inline]
    pub(super) fn receive(&mut self, desc: Desc) -> Result<Part, Option<ChunkIndex>> {
        let in_chunk = (desc.address & u64::from(self.size - 1)) as u32;
        let Some(slot) = usize::try_from(desc.address >> self.shift)
            .ok()
            .filter(|&slot| slot < self.owner.len())
        else {
            return Err(None);
        };
        // Fits: below the number of chunks, a u32.
        let chunk = ChunkIndex(self.first + slot as u32);
        if self.owner[slot] != Owner::Kernel && !devrx_sabotage::removed("descriptor-posted") {
            return Err(None);
        }
        self.owner[slot] = Owner::Queue;
        if (desc.length == 0 || desc.length > self.size - in_chunk)
            && !devrx_sabotage::removed("descriptor-range")
        {
            return Err(Some(chunk));
        }
        Ok(Part {
            chunk,
            offset: in_chunk as u16,
            length: desc.length as u16,
        })
    }

    /// The chunk is handed to whoever polls.
    #[inline]
    pub(super) fn hand_out(&mut self, chunk: ChunkIndex) {
        if let Some(slot) = self.slot(chunk) {
            *slot = Owner::Other;
            self.held -= 1;
        }
    }

    /// A chunk of the pool becomes the queue's. False if it cannot be: not of this share, or held already.
    #[inline]
    pub(super) fn take(&mut self, chunk: ChunkIndex) -> bool {
        match self.slot(chunk) {
            Some(slot) if *slot == Owner::Other => {
                *slot = Owner::Queue;
                self.held += 1;
                true
            }
            _ => false,
        }
    }

    /// A chunk of the queue goes to the kernel; returns its umem address.
    #[inline]
    pub(super) fn post(&mut self, chunk: ChunkIndex) -> u64 {
        if let Some(slot) = self.slot(chunk) {
            *slot = Owner::Kernel;
        }
        u64::from(chunk.0 - self.first) << self.shift
    }

    /// Where a chunk begins, bytes from the umem's start.
    #[inline]
    pub(super) const fn umem_offset(&self, chunk: ChunkIndex) -> usize {
        (chunk.0.wrapping_sub(self.first) as usize) << self.shift
    }

    /// Everything held leaves, chunk by chunk.
    pub(super) fn drain(&mut self, mut each: impl FnMut(ChunkIndex)) {
        for (slot, owner) in self.owner.iter_mut().enumerate() {
            if *owner != Owner::Other {
                *owner = Owner::Other;
                // Fits: below the number of chunks.
                each(ChunkIndex(self.first + slot as u32));
            }
        }
        self.held = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn desc(address: u64, length: u32) -> Desc {
        Desc {
            address,
            length,
            options: 0,
        }
    }

    fn chunks() -> Chunks {
        let mut chunks = Chunks::new(100, 8, 2048);
        for index in 100..104 {
            assert!(chunks.take(ChunkIndex(index)));
            assert_eq!(
                chunks.post(ChunkIndex(index)),
                u64::from(index - 100) * 2048
            );
        }
        chunks
    }

    #[test]
    fn a_true_descriptor_is_a_part() {
        let mut chunks = chunks();
        assert_eq!(
            chunks.receive(desc(2048 + 256, 60)),
            Ok(Part {
                chunk: ChunkIndex(101),
                offset: 256,
                length: 60
            })
        );
        assert_eq!(
            chunks.receive(desc(2 * 2048, 2048)),
            Ok(Part {
                chunk: ChunkIndex(102),
                offset: 0,
                length: 2048
            })
        );
        assert_eq!(chunks.held(), 4);
        chunks.hand_out(ChunkIndex(101));
        assert_eq!(chunks.held(), 3);
    }

    #[test]
    fn hostile_descriptor_range_is_refused() {
        let mut chunks = chunks();
        assert_eq!(
            chunks.receive(desc(8 * 2048, 60)),
            Err(None),
            "behind the umem"
        );
        assert_eq!(chunks.receive(desc(u64::MAX, 60)), Err(None));
        assert_eq!(chunks.receive(desc(1 << 48 | 256, 60)), Err(None));
        assert_eq!(
            chunks.receive(desc(256, 1793)),
            Err(Some(ChunkIndex(100))),
            "leaves its chunk"
        );
        assert_eq!(
            chunks.receive(desc(2048 + 2047, u32::MAX)),
            Err(Some(ChunkIndex(101)))
        );
    }

    #[test]
    fn hostile_descriptor_of_a_chunk_not_posted_is_refused() {
        let mut chunks = chunks();
        assert_eq!(
            chunks.receive(desc(5 * 2048, 60)),
            Err(None),
            "never posted"
        );
        assert!(chunks.receive(desc(0, 60)).is_ok());
        assert_eq!(chunks.receive(desc(0, 60)), Err(None), "twice");
        chunks.hand_out(ChunkIndex(100));
        assert_eq!(chunks.receive(desc(0, 60)), Err(None), "the client has it");
    }

    #[test]
    fn only_foreign_and_doubled_chunks_are_not_taken() {
        let mut chunks = chunks();
        assert!(!chunks.take(ChunkIndex(99)));
        assert!(!chunks.take(ChunkIndex(108)));
        assert!(!chunks.take(ChunkIndex(100)), "posted already");
        assert!(chunks.take(ChunkIndex(107)));
        let mut left = Vec::new();
        chunks.drain(|chunk| left.push(chunk.0));
        assert_eq!(left, [100, 101, 102, 103, 107]);
        assert_eq!(chunks.held(), 0);
    }
}
