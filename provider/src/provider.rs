//! What a page pool asks of memory.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::{ChunkIndex, ProviderError, Region};

/// A way to give a NIC access to a region, in the provider's order of preference. What executes which: type1 takes
/// [`MapWay::HostAddress`] and [`MapWay::PfnAddress`], iommufd [`MapWay::Memfd`], [`MapWay::HostAddress`] and
/// [`MapWay::VfioDmabuf`], AF_XDP [`MapWay::HostAddress`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum MapWay {
    /// The region's [`mapping`](Region::mapping) is ordinary memory that the kernel can pin (`pin_user_pages`).
    HostAddress,
    /// The region's [`mapped_fd`](Region::mapped_fd) is a memfd that iommufd can map (`IOMMU_IOAS_MAP_FILE`).
    Memfd,
    /// The region's mapping is PFN-mapped device memory, which only a VFIO type1 container takes.
    PfnAddress,
    /// The region's [`shareable`](Region::shareable) descriptor is a dma-buf exported by vfio-pci, which iommufd takes.
    VfioDmabuf,
}

impl fmt::Display for MapWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HostAddress => "host address",
            Self::Memfd => "memfd",
            Self::PfnAddress => "PFN-mapped address",
            Self::VfioDmabuf => "VFIO dma-buf",
        })
    }
}

/// What must happen before a device may read what a NIC wrote.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Flush {
    /// Nothing: writes are visible when the completion is.
    None,
    /// One read through the mapping for each batch pushes posted writes to the device.
    ReadPerBatch,
}

/// What a queue needs of the memory behind it, told to [`MemoryProvider::init`] before the first chunk is taken. Abstract on
/// purpose: no provider learns which NIC asks.
#[derive(Clone, Copy, Debug)]
pub struct QueueNeeds {
    /// The smallest chunk the queue can use, bytes.
    pub min_chunk: u32,
    /// The largest chunk the queue can use, bytes.
    pub max_chunk: u32,
    /// The chunk size must be a multiple of this, bytes.
    pub chunk_multiple: u32,
    /// The queue cannot promise a header split, so the CPU must be able to read the payload.
    pub cpu_reads_payload: bool,
    /// The ways the queue's mapper can execute.
    pub ways: &'static [MapWay],
}

impl QueueNeeds {
    /// Whether a queue with these needs can use chunks of a size: to be asked before memory is made.
    ///
    /// # Errors
    ///
    /// [`ProviderError::Unfit`], with the sizes it takes.
    pub fn check_chunk(&self, chunk: u32) -> Result<(), ProviderError> {
        let multiple = self.chunk_multiple.max(1);
        if chunk < self.min_chunk || chunk > self.max_chunk || !chunk.is_multiple_of(multiple) {
            return Err(ProviderError::Unfit(format!(
                "chunks of {chunk} bytes do not fit this queue: it takes {} to {} bytes in multiples of {multiple}",
                self.min_chunk, self.max_chunk
            )));
        }
        Ok(())
    }

    /// Whether a queue with these needs could use memory of a GPU at all: to be asked before such memory is made.
    ///
    /// # Errors
    ///
    /// [`ProviderError::Unfit`], with the way out.
    pub fn check_gpu(&self, kind: &str) -> Result<(), ProviderError> {
        let why = if !self.ways.contains(&MapWay::PfnAddress) {
            "this queue's NIC writes host memory alone"
        } else if self.cpu_reads_payload {
            "this queue's NIC cannot promise to split off every header, so a CPU must be able to read the memory"
        } else {
            return Ok(());
        };
        Err(ProviderError::Unfit(format!(
            "{kind} is memory of a GPU, and {why}: use a NIC owned through VFIO that splits headers, or host memory (the kinds memfd and hugetlb), which \
             the GPU reads over PCIe once the client has registered it (cuMemHostRegister, hipHostRegister)"
        )))
    }

    /// Whether a queue with these needs can use a region.
    ///
    /// # Errors
    ///
    /// [`ProviderError::Unfit`], with the reason and the way out.
    pub fn check(&self, region: &Region) -> Result<(), ProviderError> {
        self.check_chunk(region.chunk_size())?;
        let unfit = |text: String| Err(ProviderError::Unfit(text));
        if self.cpu_reads_payload && !region.cpu_readable() {
            return unfit(format!(
                "no CPU is to read this memory ({}), and this queue's NIC cannot promise to split off every header: \
                 use a NIC with hardware header split, or host memory (memfd, hugetlb)",
                region.kind()
            ));
        }
        if region.ways().is_empty() {
            return unfit(format!(
                "no NIC can be given access to this memory ({}): {}",
                region.kind(),
                region
                    .no_way()
                    .unwrap_or("use host memory (memfd, hugetlb)")
            ));
        }
        if !region.ways().iter().any(|way| self.ways.contains(way)) {
            let names = |ways: &[MapWay]| {
                ways.iter()
                    .map(MapWay::to_string)
                    .collect::<Vec<_>>()
                    .join(" or ")
            };
            return unfit(format!(
                "this queue cannot map this memory ({}): it maps by {}, the memory is to be had by {}; \
                 use host memory (memfd, hugetlb), or a queue of a NIC owned through VFIO",
                region.kind(),
                names(self.ways),
                names(region.ways())
            ));
        }
        Ok(())
    }
}

/// Why chunks were not to be had, and how often: the counters that the kernel's providers lack.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ProviderStats {
    /// Calls to `alloc` that found fewer chunks than were asked for.
    pub short: u64,
    /// Calls to `alloc` that found none.
    pub empty: u64,
    /// Chunks handed out.
    pub allocated: u64,
    /// Chunks taken back.
    pub released: u64,
    /// Chunks that came back though they were not out, or are none of this provider's: a defect of the caller. Not in `released`.
    pub refused: u64,
}

/// Where a pool's chunks come from and leave to.
///
/// # Guarantees an implementation gives
///
/// * `alloc` hands out each chunk of [`chunks`](Self::chunks) to at most one holder at a time; it comes out again only after
///   `release`.
/// * `alloc` and `release` may be called from any thread. They are the slow path and may lock; they do not block on anything else.
/// * The region's memory stays mapped and its file descriptors open as long as the provider or a clone of its region lives.
pub trait MemoryProvider: Send + Sync + fmt::Debug {
    /// The region the chunks are of.
    fn region(&self) -> &Arc<Region>;

    /// The chunks this provider hands out: a queue's share of the region. Shares of one region are disjoint.
    fn chunks(&self) -> Range<u32>;

    /// Sets the provider up for a queue.
    ///
    /// # Errors
    ///
    /// [`ProviderError::Unfit`] when the queue cannot use this memory, with the reason and the way out;
    /// [`ProviderError::InUse`] when another queue has it.
    fn init(&self, needs: &QueueNeeds) -> Result<(), ProviderError>;

    /// Takes the provider from its queue, after every chunk has been released. Afterwards `init` may be called again.
    fn uninstall(&self);

    /// Appends up to `want` chunks to `out` and returns how many.
    fn alloc(&self, out: &mut Vec<ChunkIndex>, want: usize) -> usize;

    /// Takes chunks back.
    fn release(&self, chunks: &[ChunkIndex]);

    /// The ways a NIC may be given access, best first.
    fn ways(&self) -> &[MapWay];

    /// Whether the CPU may read the memory: see [`Region::cpu_readable`].
    fn cpu_readable(&self) -> bool;

    /// What must happen between a NIC's write and a device's read.
    fn flush(&self) -> Flush;

    /// Counters since the provider was made.
    fn stats(&self) -> ProviderStats;
}
