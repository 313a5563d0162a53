//! One span of memory that a NIC may write.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use crate::{ChunkIndex, Flush, MapWay, Mapping, MemoryKind, ProviderError};

/// The smallest chunk, bytes: a cache line.
pub const MIN_CHUNK: u32 = 64;

/// The largest chunk, bytes: offsets and lengths within a chunk are 16 bits wide in a completion, and the fields of a NIC's
/// descriptors are narrower still.
pub const MAX_CHUNK: u32 = 32 * 1024;

/// Bytes in a page of this machine.
#[must_use]
pub fn page_size() -> u64 {
    static SIZE: OnceLock<u64> = OnceLock::new();
    *SIZE.get_or_init(|| {
        let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE);
        size.ok()
            .flatten()
            .and_then(|size| u64::try_from(size).ok())
            .unwrap_or(4096)
    })
}

/// How large a region shall be and how it is cut.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RegionSpec {
    /// Bytes; a multiple of the page size.
    pub size: u64,
    /// Bytes in a chunk: [`MIN_CHUNK`] to [`MAX_CHUNK`], a multiple of [`MIN_CHUNK`]; what a NIC accepts is narrower
    /// ([`crate::QueueNeeds`]). What is left over at the region's end when `size` is no multiple of it stays unused.
    pub chunk_size: u32,
}

impl RegionSpec {
    /// Checks both sizes.
    ///
    /// # Errors
    ///
    /// [`ProviderError::BadSize`], which says what to use instead.
    pub fn check(&self) -> Result<(), ProviderError> {
        let page = page_size();
        let bad = |what, value, why| Err(ProviderError::BadSize { what, value, why });
        if self.chunk_size < MIN_CHUNK
            || self.chunk_size > MAX_CHUNK
            || !self.chunk_size.is_multiple_of(MIN_CHUNK)
        {
            let why =
                format!("use a multiple of {MIN_CHUNK} bytes between {MIN_CHUNK} and {MAX_CHUNK}");
            return bad("the chunk size", self.chunk_size.into(), why);
        }
        if self.size == 0 || !self.size.is_multiple_of(page) {
            let up = self
                .size
                .max(1)
                .checked_next_multiple_of(page)
                .unwrap_or(page);
            return bad(
                "the region's size",
                self.size,
                format!("use a multiple of the page size, such as {up}"),
            );
        }
        if self.size < u64::from(self.chunk_size) {
            let why = format!("use at least one chunk of {} bytes", self.chunk_size);
            return bad("the region's size", self.size, why);
        }
        // Half the index space stays free, so that counters of chunks can be told apart in serial arithmetic.
        if self.size / u64::from(self.chunk_size) > u64::from(u32::MAX / 2) {
            let why = format!("use larger chunks, or at most {} of them", u32::MAX / 2);
            return bad("the region's size", self.size, why);
        }
        if usize::try_from(self.size).is_err() || i64::try_from(self.size).is_err() {
            return bad(
                "the region's size",
                self.size,
                "use what this machine can address".to_owned(),
            );
        }
        Ok(())
    }

    /// The size as a length in this process. The specification has been checked, so it fits.
    pub(crate) fn len(&self) -> usize {
        usize::try_from(self.size).unwrap_or(usize::MAX)
    }
}

/// What the kind of memory says about a region besides its descriptors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Traits {
    pub(crate) kind: MemoryKind,
    pub(crate) ways: &'static [MapWay],
    pub(crate) flush: Flush,
    /// Why `ways` is empty and what to do, where it is.
    pub(crate) no_way: Option<&'static str>,
}

/// One span of memory that a NIC may write, held by file descriptor, with a fixed chunk size.
///
/// Dropping it unmaps the memory before it closes the descriptors. Whoever gave a device access keeps the region until
/// that access is gone.
#[derive(Debug)]
pub struct Region {
    // First, so that it is dropped first: unmap, then close.
    mapping: Option<Mapping>,
    spec: RegionSpec,
    traits: Traits,
    /// What is mapped: a memfd, or a dma-buf.
    fd: OwnedFd,
    /// The identity under which other drivers import the memory, where there is one (udmabuf).
    export: Option<OwnedFd>,
}

impl Region {
    /// Puts a region together; `spec` has been checked, `mapping` covers it.
    pub(crate) fn new(
        traits: Traits,
        spec: RegionSpec,
        fd: OwnedFd,
        export: Option<OwnedFd>,
        mapping: Option<Mapping>,
    ) -> Self {
        debug_assert!(
            mapping
                .as_ref()
                .is_none_or(|mapping| mapping.len() as u64 == spec.size)
        );
        Self {
            mapping,
            spec,
            traits,
            fd,
            export,
        }
    }

    /// The kind of memory.
    #[must_use]
    pub fn kind(&self) -> MemoryKind {
        self.traits.kind
    }

    /// Bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.spec.size
    }

    /// Bytes in a chunk.
    #[must_use]
    pub fn chunk_size(&self) -> u32 {
        self.spec.chunk_size
    }

    /// How many chunks there are; their indices are 0 to this, exclusive.
    #[must_use]
    pub fn chunks(&self) -> u32 {
        // Fits: checked by `RegionSpec::check`.
        (self.spec.size / u64::from(self.spec.chunk_size)) as u32
    }

    /// What is mapped, and what a client maps: a memfd, or a dma-buf.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The dma-buf under which other drivers import the memory, where it differs from [`fd`](Self::fd) (udmabuf).
    #[must_use]
    pub fn export_fd(&self) -> Option<BorrowedFd<'_>> {
        self.export.as_ref().map(AsFd::as_fd)
    }

    /// The memory in this process's address space; `None` where its exporter allows no mapping.
    #[must_use]
    pub fn mapping(&self) -> Option<&Mapping> {
        self.mapping.as_ref()
    }

    /// Where a chunk starts, bytes from the region's start; `None` for an index that no chunk of the region has.
    #[must_use]
    pub fn offset_of(&self, chunk: ChunkIndex) -> Option<u64> {
        (chunk.0 < self.chunks()).then(|| u64::from(chunk.0) * u64::from(self.spec.chunk_size))
    }

    /// The chunk that holds a byte, and where in it; `None` outside of every chunk.
    #[must_use]
    pub fn chunk_at(&self, offset: u64) -> Option<(ChunkIndex, u32)> {
        let size = u64::from(self.spec.chunk_size);
        let index = u32::try_from(offset / size)
            .ok()
            .filter(|&index| index < self.chunks())?;
        Some((ChunkIndex(index), (offset % size) as u32))
    }

    /// The ways a NIC may be given access, best first; empty where none exists.
    #[must_use]
    pub fn ways(&self) -> &'static [MapWay] {
        self.traits.ways
    }

    /// What must happen between a NIC's write and a device's read.
    #[must_use]
    pub fn flush(&self) -> Flush {
        self.traits.flush
    }

    /// Whether the CPU may read the memory.
    #[must_use]
    pub fn cpu_readable(&self) -> bool {
        self.mapping.is_some()
    }

    /// Why no NIC can be given access, and what to do, where [`ways`](Self::ways) is empty.
    #[must_use]
    pub fn no_way(&self) -> Option<&'static str> {
        self.traits.no_way
    }
}
