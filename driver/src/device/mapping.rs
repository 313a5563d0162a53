//! Memory within a device's reach.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use devrx_provider::{MapWay, Mapping, Region};

use crate::DriverError;

/// Memory to be mapped. A clone keeps it alive.
#[derive(Clone, Debug)]
pub enum Memory {
    /// Host memory of this process: rings, header slots.
    Host(Arc<Mapping>),
    /// A region that somebody receives into.
    Region(Arc<Region>),
}

impl Memory {
    /// The memory in this process's address space; `None` where its exporter allows none.
    #[must_use]
    pub fn mapping(&self) -> Option<&Mapping> {
        match self {
            Self::Host(mapping) => Some(mapping),
            Self::Region(region) => region.mapping(),
        }
    }
}

/// An IOMMU, as one device sees it.
///
/// # Guarantees an implementation gives
///
/// * An address it hands out (IOVA) is never 0: some NICs take descriptor address 0 for "none".
/// * After [`unmap`](Self::unmap) returned `Ok`, the device cannot reach the range: what it still writes there is stopped.
/// * Ranges that are mapped at the same time do not overlap.
pub trait Mapper: Send + Sync + fmt::Debug {
    /// Gives the device access to `range` of `memory`, bytes, both ends on page boundaries, by the best way of those that both sides have. Returns where the
    /// device finds the range's first byte. Host memory can be read and written, a region at least written.
    ///
    /// # Errors
    ///
    /// [`DriverError::UnfitMemory`] when no way fits, or what the system refused: ioctl, errno and the way out.
    fn map(&self, memory: &Memory, range: Range<usize>) -> Result<u64, DriverError>;

    /// Takes back a range that [`map`](Self::map) gave, whole.
    ///
    /// # Errors
    ///
    /// What the system refused; the device may then still reach the memory, which must not be freed.
    fn unmap(&self, iova: u64, len: usize) -> Result<(), DriverError>;

    /// The ways it can execute, for messages and checks.
    fn ways(&self) -> &'static [MapWay];
}

/// A range of memory that a device reaches as long as this lives. The memory lives at least as long.
pub struct DmaMapping {
    mapper: Arc<dyn Mapper>,
    /// `None` once leaked.
    memory: Option<Memory>,
    iova: u64,
    start: usize,
    len: usize,
}

impl DmaMapping {
    /// Maps the pages that hold `range` of `memory`, bytes.
    ///
    /// # Errors
    ///
    /// See [`Mapper::map`]; [`DriverError::BadConfig`] when the range is empty or not within the memory.
    pub fn new(
        mapper: Arc<dyn Mapper>,
        memory: Memory,
        range: Range<usize>,
    ) -> Result<Self, DriverError> {
        // A page size fits.
        let page = devrx_provider::page_size() as usize;
        let whole = memory.mapping().map_or(0, Mapping::len);
        if range.start >= range.end || range.end > whole {
            return Err(DriverError::BadConfig {
                what: "memory range",
                value: format!("{range:?}"),
                why: format!("it must lie within the {whole} bytes that are mapped here"),
            });
        }
        let start = range.start - range.start % page;
        let end = range.end.next_multiple_of(page).min(whole);
        let iova = mapper.map(&memory, start..end)?;
        Ok(Self {
            mapper,
            memory: Some(memory),
            iova,
            start,
            len: end - start,
        })
    }

    /// Where the device finds the byte at `offset` from the memory's start; `None` if it is not within what is mapped.
    #[must_use]
    pub fn iova_of(&self, offset: usize) -> Option<u64> {
        let within = offset.checked_sub(self.start)?;
        (within < self.len).then(|| self.iova + within as u64)
    }

    /// Keeps the device's access and the memory for as long as the process lives: for memory that the device may still write. The
    /// IOMMU forgets the mapping when the process ends, after the device has been closed.
    pub fn leak(mut self) {
        std::mem::forget(self.memory.take());
    }
}

impl Drop for DmaMapping {
    fn drop(&mut self) {
        let Some(memory) = self.memory.take() else {
            return;
        };
        if let Err(error) = self.mapper.unmap(self.iova, self.len) {
            tracing::error!(%error, iova = self.iova, len = self.len, "memory could not be taken from a device; it is kept until this process ends");
            std::mem::forget(memory);
        }
    }
}

impl fmt::Debug for DmaMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DmaMapping")
            .field("iova", &format_args!("{:#x}", self.iova))
            .field("start", &self.start)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}
