//! The memory that a queue receives into, as its device addresses it.

use std::sync::Arc;

use devrx_provider::ChunkIndex;

use crate::DriverError;
use crate::device::{DmaMapping, Mapper, Memory};
use crate::queue::QueueConfig;

/// Chunks of a queue as the device addresses them.
#[derive(Debug)]
pub(crate) struct Buffers {
    addresses: Addresses,
    // Undone when dropped, leaked where the device was not proven to have stopped.
    mappings: Vec<DmaMapping>,
}

/// Where chunks and header slots lie.
#[derive(Clone, Copy, Debug)]
pub(super) struct Addresses {
    /// Where the region's chunk 0 would begin, of which only the queue's share is mapped: an index is scaled as it is. May wrap.
    payload: u64,
    chunk_size: u64,
    /// Where chunk 0's header slot would begin; 0 where nothing is split, as is the size.
    headers: u64,
    slot_size: u64,
}

impl Addresses {
    /// What a descriptor takes for `chunk`: where its packet goes, and where its header.
    #[inline(always)]
    pub(super) const fn of(&self, chunk: u32) -> [u64; 2] {
        let chunk = chunk as u64;
        [
            self.payload.wrapping_add(chunk * self.chunk_size),
            self.headers.wrapping_add(chunk * self.slot_size),
        ]
    }
}

impl Buffers {
    /// Gives the device access to the queue's share of the region, and to its header slots if headers are `split` off. `config` has been checked.
    pub(crate) fn map(
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
        let mut addresses = Addresses {
            payload: payload
                .iova_of(share.start)
                .unwrap_or(0)
                .wrapping_sub(u64::from(chunks.start) * chunk_size),
            chunk_size,
            headers: 0,
            slot_size: 0,
        };
        let mut mappings = vec![payload];
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
            addresses.slot_size = size as u64;
            addresses.headers = headers
                .iova_of(start)
                .unwrap_or(0)
                .wrapping_sub(u64::from(chunks.start) * addresses.slot_size);
            mappings.push(headers);
        }
        Ok(Self {
            addresses,
            mappings,
        })
    }

    /// Where they lie.
    pub(super) const fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Keeps them within the device's reach for as long as the process lives.
    pub(super) fn leak(&mut self) {
        for mapping in self.mappings.drain(..) {
            mapping.leak();
        }
    }
}
