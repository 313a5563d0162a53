//! The receive ring: descriptors in memory that the device reads and writes, and which chunk each of them stands for.
//!
//! What chunk a packet is in follows from where its descriptor lies, never from what the device wrote: no write-back can name a chunk
//! that was not posted there.
//!
//! A descriptor that is posted begins with where the packet goes and where its header; what else it has is the device's.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use devrx_provider::ChunkIndex;

use super::Buffers;
use crate::DriverError;
use crate::device::{DmaBuffer, Mapper};

/// The ring, of descriptors of `WORDS` words. Positions run freely and are masked where they are used.
#[derive(Debug)]
pub(crate) struct Ring<const WORDS: usize> {
    /// `None` once leaked.
    descriptors: Option<DmaBuffer>,
    /// The chunk that each descriptor was posted with.
    chunks: Box<[u32]>,
    mask: u32,
    /// The oldest descriptor that the device has or has had.
    head: u32,
    /// One behind the newest.
    tail: u32,
    buffers: Buffers,
}

impl<const WORDS: usize> Ring<WORDS> {
    /// Bytes of a descriptor.
    const SIZE: usize = 8 * WORDS;

    /// A ring of `entries` descriptors, a power of two.
    pub(crate) fn new(
        mapper: &Arc<dyn Mapper>,
        entries: u32,
        buffers: Buffers,
    ) -> Result<Self, DriverError> {
        let descriptors = DmaBuffer::new(Arc::clone(mapper), entries as usize * Self::SIZE)?;
        Ok(Self {
            descriptors: Some(descriptors),
            chunks: vec![0; entries as usize].into_boxed_slice(),
            mask: entries - 1,
            head: 0,
            tail: 0,
            buffers,
        })
    }

    /// Where the device finds the ring; 0 once leaked.
    pub(crate) fn iova(&self) -> u64 {
        self.descriptors.as_ref().map_or(0, DmaBuffer::iova)
    }

    /// Descriptors.
    pub(crate) const fn entries(&self) -> u32 {
        self.mask + 1
    }

    /// Descriptors posted and not yet taken back.
    #[inline(always)]
    pub(super) const fn posted(&self) -> u32 {
        self.tail.wrapping_sub(self.head)
    }

    /// How many can be posted: one less than there are, since a full ring would look like an empty one.
    #[inline(always)]
    pub(crate) const fn capacity(&self) -> u32 {
        self.mask
    }

    /// One behind the newest descriptor; runs freely.
    #[inline(always)]
    pub(crate) const fn tail(&self) -> u32 {
        self.tail
    }

    /// What a tail register takes.
    #[inline(always)]
    pub(crate) const fn tail_register(&self) -> u32 {
        self.tail & self.mask
    }

    /// The oldest descriptors that lie side by side, and their chunks; at most `most`.
    #[inline(always)]
    pub(super) fn row(&self, most: usize) -> impl Iterator<Item = (&[AtomicU64; WORDS], &u32)> {
        let (descriptors, chunks) = self.oldest_row(most);
        descriptors.iter().zip(chunks)
    }

    /// The same by four.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(super) fn quads(
        &self,
        most: usize,
    ) -> impl Iterator<Item = (&[[AtomicU64; WORDS]; 4], &[u32; 4])> {
        let (descriptors, chunks) = self.oldest_row(most);
        let descriptors = descriptors.as_chunks::<4>().0;
        descriptors.iter().zip(chunks.as_chunks::<4>().0)
    }

    #[inline(always)]
    fn oldest_row(&self, most: usize) -> (&[[AtomicU64; WORDS]], &[u32]) {
        let at = (self.head & self.mask) as usize;
        let most = (self.posted() as usize).min(most);
        let end = (at + most).min(self.chunks.len());
        (
            self.rows().get(at..end).unwrap_or_default(),
            self.chunks.get(at..end).unwrap_or_default(),
        )
    }

    #[inline(always)]
    fn rows(&self) -> &[[AtomicU64; WORDS]] {
        self.descriptors.as_ref().map_or(&[][..], DmaBuffer::rows)
    }

    /// The oldest descriptor; `None` where none is posted.
    #[inline(always)]
    pub(super) fn oldest(&self) -> Option<&[AtomicU64; WORDS]> {
        if self.posted() == 0 {
            return None;
        }
        self.rows().get((self.head & self.mask) as usize)
    }

    /// The same with its chunk.
    #[inline(always)]
    pub(super) fn oldest_with_chunk(&self) -> Option<(&[AtomicU64; WORDS], u32)> {
        let at = (self.head & self.mask) as usize;
        Some((self.oldest()?, *self.chunks.get(at)?))
    }

    /// The `count` oldest descriptors are dealt with.
    #[inline(always)]
    pub(super) const fn advance(&mut self, count: u32) {
        self.head = self.head.wrapping_add(count);
    }

    /// Posts chunks, which are the queue's and for which there is room. The device sees them with the next write of the tail.
    #[inline(always)]
    pub(super) fn post(&mut self, chunks: &[ChunkIndex]) {
        let mut places = self.places();
        for &chunk in chunks {
            places.put(chunk);
        }
        let end = places.end();
        self.post_placed(end);
    }

    /// Where chunks to be posted are put; [`post_placed`](Self::post_placed) posts them. First which they are, then where they lie: a loop that did both would
    /// have more in hand than there are registers.
    #[inline(always)]
    pub(super) fn places(&mut self) -> Places<'_> {
        Places {
            limit: self.head.wrapping_add(self.mask),
            chunks: &mut self.chunks,
            mask: self.mask,
            next: self.tail,
        }
    }

    /// Writes the descriptors of the chunks that were [placed](Self::places) up to `end`.
    pub(super) fn post_placed(&mut self, end: u32) {
        let addresses = self.buffers.addresses();
        let rows = self.descriptors.as_ref().map_or(&[][..], DmaBuffer::rows);
        // In two rows at the most.
        while self.tail != end {
            let at = (self.tail & self.mask) as usize;
            let row = end.wrapping_sub(self.tail) as usize;
            let row = at..(at + row).min(self.chunks.len());
            let descriptors: &[[AtomicU64; WORDS]] = rows.get(row.clone()).unwrap_or_default();
            for (descriptor, &chunk) in descriptors.iter().zip(&self.chunks[row.clone()]) {
                // The done bit lies in the header address, whose low bits are zero.
                let [packet, header] = addresses.of(chunk);
                descriptor[0].store(packet.to_le(), Ordering::Relaxed);
                descriptor[1].store(header.to_le(), Ordering::Relaxed);
            }
            // At most a ring.
            self.tail = self.tail.wrapping_add(row.len() as u32);
        }
    }

    /// Takes every chunk that is still posted. Only once the device has stopped.
    pub(super) fn drain(&mut self, mut each: impl FnMut(u32)) {
        while self.posted() > 0 {
            each(self.chunks[(self.head & self.mask) as usize]);
            self.advance(1);
        }
    }

    /// Keeps ring and buffers within the device's reach for as long as the process lives: for a device that was not proven to have stopped.
    pub(crate) fn leak(&mut self) {
        if let Some(ring) = self.descriptors.take() {
            ring.leak();
        }
        self.buffers.leak();
    }
}

/// See [`Ring::places`].
pub(super) struct Places<'ring> {
    chunks: &'ring mut [u32],
    mask: u32,
    next: u32,
    /// Where there is no more room.
    limit: u32,
}

impl Places<'_> {
    /// The next chunk. There is room: the caller looked.
    #[inline(always)]
    pub(super) fn put(&mut self, chunk: ChunkIndex) {
        debug_assert!(self.next != self.limit, "the caller looked for room");
        if let Some(place) = self.chunks.get_mut((self.next & self.mask) as usize) {
            *place = chunk.0;
            self.next = self.next.wrapping_add(1);
        }
    }

    /// One behind the last.
    #[inline(always)]
    pub(super) const fn end(&self) -> u32 {
        self.next
    }
}
