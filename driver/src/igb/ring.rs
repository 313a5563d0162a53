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

/// Chunks of a queue as the device addresses them.
#[derive(Debug)]
pub(super) struct Buffers {
    /// Where the share's first chunk begins.
    payload: u64,
    chunk_size: u64,
    /// Where the first chunk's header slot begins; 0 where nothing is split.
    headers: u64,
    slot_size: u64,
    /// The region's index of the share's first chunk.
    first: u32,
    count: u32,
    // Undone when dropped, leaked where the device was not proven to have stopped.
    mappings: Vec<DmaMapping>,
}

impl Buffers {
    /// Gives the device access to the queue's share of the region and to its header slots. `config` has been checked.
    pub(super) fn map(mapper: &Arc<dyn Mapper>, config: &QueueConfig) -> Result<Self, DriverError> {
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
            payload: payload.iova_of(share.start).unwrap_or(0),
            chunk_size,
            headers: 0,
            slot_size: 0,
            first: chunks.start,
            count: chunks.end - chunks.start,
            mappings: vec![payload],
        };
        if config.split {
            let slots = &config.headers;
            let size = slots.slot_size as usize;
            // One for each chunk: checked with the configuration.
            let start = slots.offset_of(ChunkIndex(new.first)).unwrap_or(0);
            let end = start + size * new.count as usize;
            let headers = DmaMapping::new(
                Arc::clone(mapper),
                Memory::Host(Arc::clone(&slots.memory)),
                start..end,
            )?;
            new.headers = headers.iova_of(start).unwrap_or(0);
            new.slot_size = size as u64;
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
    /// A ring of `entries` descriptors, a power of two of at least 8.
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

    /// Bytes of the ring.
    pub(super) fn len(&self) -> u32 {
        (self.mask + 1) * SIZE as u32
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

    /// What RDT takes.
    #[inline(always)]
    pub(super) const fn tail_register(&self) -> u32 {
        self.tail & self.mask
    }

    /// The oldest descriptors that lie side by side, and their chunks; at most `most`.
    #[inline(always)]
    pub(super) fn row(&self, most: usize) -> impl Iterator<Item = (&[AtomicU64; 2], &u32)> {
        let at = (self.head & self.mask) as usize;
        let most = (self.posted() as usize).min(most);
        let end = (at + most).min(self.chunks.len());
        let pairs = self.descriptors.as_ref().map_or(&[][..], DmaBuffer::pairs);
        let pairs = pairs.get(at..end).unwrap_or_default();
        pairs
            .iter()
            .zip(self.chunks.get(at..end).unwrap_or_default())
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

    /// Posts `chunk`, which is one of the queue's. There is room: the caller looked at [`posted`](Self::posted). The device sees it with the next
    /// write of RDT.
    #[inline(always)]
    pub(super) fn post(&mut self, chunk: u32) {
        let at = self.tail & self.mask;
        let slot = u64::from(chunk.wrapping_sub(self.buffers.first));
        self.chunks[at as usize] = chunk;
        if let Some(ring) = &self.descriptors {
            let at = at as usize * SIZE;
            ring.store(at, self.buffers.payload + slot * self.buffers.chunk_size);
            // The done bit lies in the header address, whose low bits are zero.
            ring.store(at + 8, self.buffers.headers + slot * self.buffers.slot_size);
        }
        self.tail = self.tail.wrapping_add(1);
    }

    /// Posts `chunks`, as [`post`](Self::post), for which there is room; returns how many were none of the queue's and left out.
    #[inline(always)]
    pub(super) fn post_all(&mut self, mut chunks: &[ChunkIndex]) -> u64 {
        let Buffers {
            payload,
            chunk_size,
            headers,
            slot_size,
            first,
            count,
            ..
        } = self.buffers;
        // What chunk 0 would have: an index is scaled as it is. Wraps, and back again.
        let payload = payload.wrapping_sub(u64::from(first) * chunk_size);
        let headers = headers.wrapping_sub(u64::from(first) * slot_size);
        let pairs = self.descriptors.as_ref().map_or(&[][..], DmaBuffer::pairs);
        let mut refused = 0;
        // In two rows at the most, but for chunks that are left out.
        while !chunks.is_empty() {
            let at = (self.tail & self.mask) as usize;
            let end = (at + chunks.len()).min(self.chunks.len());
            let (Some(pairs), Some(places)) = (pairs.get(at..end), self.chunks.get_mut(at..end))
            else {
                break;
            };
            let mut posted = 0;
            for ((&ChunkIndex(chunk), [packet, header]), place) in
                chunks.iter().zip(pairs).zip(places)
            {
                if chunk.wrapping_sub(first) >= count {
                    break;
                }
                let index = u64::from(chunk);
                *place = chunk;
                packet.store(
                    payload.wrapping_add(index * chunk_size).to_le(),
                    Ordering::Relaxed,
                );
                // The done bit lies in the header address, whose low bits are zero.
                header.store(
                    headers.wrapping_add(index * slot_size).to_le(),
                    Ordering::Relaxed,
                );
                posted += 1;
            }
            // At most a ring.
            self.tail = self.tail.wrapping_add(posted as u32);
            chunks = &chunks[posted..];
            if posted < end - at {
                // The one after the last that was posted is none of the queue's.
                refused += 1;
                chunks = chunks.get(1..).unwrap_or_default();
            }
        }
        refused
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
