//! The receive ring: descriptors in memory that the device reads and writes, and which chunk each of them stands for.
//!
//! What chunk a packet is in follows from where its descriptor lies, never from what the device wrote: no write-back can name a chunk
//! that was not posted there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use devrx_provider::ChunkIndex;

use super::descriptor::{SIZE, Status};
use crate::DriverError;
use crate::device::{DmaBuffer, DmaMapping, Mapper, Memory};
use crate::queue::QueueConfig;

/// The device takes descriptors by so many.
pub(super) const TAIL_STEP: u32 = 8;

/// Chunks of a queue as the device addresses them.
#[derive(Debug)]
pub(super) struct Buffers {
    /// Where the region's chunk 0 would begin, of which only the queue's share is mapped: an index is scaled as it is. May wrap.
    payload: u64,
    chunk_size: u64,
    /// Where chunk 0's header slot would begin; 0 where nothing is split, as is the size.
    headers: u64,
    slot_size: u64,
    // Undone when dropped, leaked where the device was not proven to have stopped.
    mappings: Vec<DmaMapping>,
}

impl Buffers {
    /// Gives the device access to the queue's share of the region, and to its header slots if headers are split off. `config` has been checked.
    pub(super) fn map(
        mapper: &Arc<dyn Mapper>,
        config: &QueueConfig,
        split: bool,
    ) -> Result<Self, DriverError> {
        let region = config.provider.region();
        let chunks = config.provider.chunks();
        let chunk_size = u64::from(region.chunk_size());
        let share =
            chunks.start as usize * chunk_size as usize..chunks.end as usize * chunk_size as usize;
        let payload = DmaMapping::new(
            Arc::clone(mapper),
            Memory::Region(Arc::clone(region)),
            share.clone(),
        )?;
        let mut new = Self {
            payload: payload
                .iova_of(share.start)
                .unwrap_or(0)
                .wrapping_sub(u64::from(chunks.start) * chunk_size),
            chunk_size,
            headers: 0,
            slot_size: 0,
            mappings: vec![payload],
        };
        if split {
            let slots = &config.headers;
            let size = slots.slot_size as usize;
            // One for each chunk: checked with the configuration.
            let start = slots.offset_of(ChunkIndex(chunks.start)).unwrap_or(0);
            let end = start + size * chunks.len();
            let headers = DmaMapping::new(
                Arc::clone(mapper),
                Memory::Host(Arc::clone(&slots.memory)),
                start..end,
            )?;
            new.slot_size = size as u64;
            new.headers = headers
                .iova_of(start)
                .unwrap_or(0)
                .wrapping_sub(u64::from(chunks.start) * new.slot_size);
            new.mappings.push(headers);
        }
        Ok(new)
    }

    fn leak(&mut self) {
        for mapping in self.mappings.drain(..) {
            mapping.leak();
        }
    }
}

/// The ring. Positions run freely and are masked where they are used.
#[derive(Debug)]
pub(super) struct Ring {
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

impl Ring {
    /// A ring of `entries` descriptors, a power of two of at least 64.
    pub(super) fn new(
        mapper: &Arc<dyn Mapper>,
        entries: u32,
        buffers: Buffers,
    ) -> Result<Self, DriverError> {
        let descriptors = DmaBuffer::new(Arc::clone(mapper), entries as usize * SIZE)?;
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
    pub(super) fn iova(&self) -> u64 {
        self.descriptors.as_ref().map_or(0, DmaBuffer::iova)
    }

    /// Descriptors.
    pub(super) const fn entries(&self) -> u32 {
        self.mask + 1
    }

    /// Descriptors posted and not yet taken back.
    #[inline(always)]
    pub(super) const fn posted(&self) -> u32 {
        self.tail.wrapping_sub(self.head)
    }

    /// How many can be posted: one less than there are, since a full ring would look like an empty one.
    #[inline(always)]
    pub(super) const fn capacity(&self) -> u32 {
        self.mask
    }

    /// What the tail register takes. The device ignores its lowest three bits (`ice_release_rx_desc` in Linux), so up to seven descriptors wait for more.
    #[inline(always)]
    pub(super) const fn tail_register(&self) -> u32 {
        self.tail & self.mask & !(TAIL_STEP - 1)
    }

    /// The oldest descriptors that lie side by side, and their chunks; at most `most`.
    #[inline(always)]
    pub(super) fn row(&self, most: usize) -> impl Iterator<Item = (&[AtomicU64; 4], &u32)> {
        let at = (self.head & self.mask) as usize;
        let most = (self.posted() as usize).min(most);
        let end = (at + most).min(self.chunks.len());
        let quads = self.descriptors.as_ref().map_or(&[][..], DmaBuffer::quads);
        quads
            .get(at..end)
            .unwrap_or_default()
            .iter()
            .zip(self.chunks.get(at..end).unwrap_or_default())
    }

    /// The same by four, each descriptor as two pairs.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(super) fn quads(
        &self,
        most: usize,
    ) -> impl Iterator<Item = (&[[[AtomicU64; 2]; 2]; 4], &[u32; 4])> {
        let at = (self.head & self.mask) as usize;
        let most = (self.posted() as usize).min(most);
        let end = (at + most).min(self.chunks.len());
        let pairs = self.descriptors.as_ref().map_or(&[][..], DmaBuffer::pairs);
        let pairs = pairs.get(2 * at..2 * end).unwrap_or_default();
        let chunks = self.chunks.get(at..end).unwrap_or_default();
        let descriptors = pairs.as_chunks::<2>().0.as_chunks::<4>().0;
        descriptors.iter().zip(chunks.as_chunks::<4>().0)
    }

    /// The status word of the oldest descriptor; `None` while there is none or the device has it.
    #[inline(always)]
    pub(super) fn done(&self) -> Option<Status> {
        if self.posted() == 0 {
            return None;
        }
        let at = (self.head & self.mask) as usize * SIZE;
        let status = Status(self.descriptors.as_ref()?.acquire(at + 8));
        status.has(Status::DD).then_some(status)
    }

    /// The first word of the oldest descriptor, and its chunk. After [`done`](Self::done) said `Some`.
    #[inline(always)]
    pub(super) fn info(&self) -> (u64, u32) {
        let at = self.head & self.mask;
        let word = self
            .descriptors
            .as_ref()
            .map_or(0, |ring| ring.load(at as usize * SIZE));
        (word, self.chunks[at as usize])
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
        let Buffers {
            payload,
            chunk_size,
            headers,
            slot_size,
            ..
        } = self.buffers;
        let quads = self.descriptors.as_ref().map_or(&[][..], DmaBuffer::quads);
        // In two rows at the most.
        while self.tail != end {
            let at = (self.tail & self.mask) as usize;
            let row = end.wrapping_sub(self.tail) as usize;
            let row = at..(at + row).min(self.chunks.len());
            let quads = quads.get(row.clone()).unwrap_or_default();
            for ([packet, header, ..], &chunk) in quads.iter().zip(&self.chunks[row.clone()]) {
                let chunk = u64::from(chunk);
                let packet_address = payload.wrapping_add(chunk * chunk_size);
                // The done bit lies in the header address, whose low bits are zero.
                let header_address = headers.wrapping_add(chunk * slot_size);
                packet.store(packet_address.to_le(), Ordering::Relaxed);
                header.store(header_address.to_le(), Ordering::Relaxed);
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
    pub(super) fn leak(&mut self) {
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
