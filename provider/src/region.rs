//! One span of memory that a NIC may write.

use std::any::Any;
use std::fmt;
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
    /// Whether a CPU is to read it, where it is mapped.
    pub(crate) cpu_readable: bool,
    /// Why `ways` is empty and what to do, where it is.
    pub(crate) no_way: Option<&'static str>,
}

/// What else must stay as long as the memory does: the device whose memory it is.
pub(crate) struct Owner(pub(crate) Box<dyn Any + Send + Sync>);

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Owner").field(&(*self.0).type_id()).finish()
    }
}

/// What others are given of a region.
#[derive(Debug)]
pub(crate) enum Shared {
    /// The descriptor that is mapped.
    Mapped,
    /// One of its own.
    Own(OwnedFd),
    /// Nothing.
    Nothing,
}

/// Where a region's bytes are.
#[derive(Debug)]
pub(crate) struct Place {
    /// What is mapped.
    pub(crate) fd: OwnedFd,
    /// Where in it the region begins, bytes.
    pub(crate) offset: u64,
    /// What others are given.
    pub(crate) shared: Shared,
    /// The identity under which other drivers import the memory, where it is none of the above (udmabuf).
    pub(crate) export: Option<OwnedFd>,
    /// Last, so that it is dropped last.
    #[expect(dead_code, reason = "held, not used")]
    pub(crate) owner: Option<Owner>,
}

impl Place {
    /// A file that is the region and may be given away.
    pub(crate) fn file(fd: OwnedFd) -> Self {
        Self {
            fd,
            offset: 0,
            shared: Shared::Mapped,
            export: None,
            owner: None,
        }
    }
}

/// One span of memory that a NIC may write, held by file descriptor, with a fixed chunk size.
///
/// Dropping it unmaps the memory before it closes the descriptors, and lets go of the device whose memory it is after that. Whoever
/// gave a device access keeps the region until that access is gone.
#[derive(Debug)]
pub struct Region {
    // First, so that it is dropped first: unmap, then close.
    mapping: Option<Mapping>,
    spec: RegionSpec,
    traits: Traits,
    place: Place,
}

impl Region {
    /// Puts a region together; `spec` has been checked, `mapping` covers it.
    pub(crate) fn new(
        traits: Traits,
        spec: RegionSpec,
        place: Place,
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
            place,
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

    /// What is mapped, from [`offset`](Self::offset) on: a memfd, a dma-buf, or a device. For whoever gives a NIC access and whoever keeps
    /// the memory alive. Never for a client: who has a VFIO device's descriptor has the device. Clients get [`shareable`](Self::shareable).
    #[must_use]
    pub fn mapped_fd(&self) -> BorrowedFd<'_> {
        self.place.fd.as_fd()
    }

    /// Where in [`mapped_fd`](Self::mapped_fd) the region begins, bytes; a multiple of the page size.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.place.offset
    }

    /// What may be given to others, the region from its first byte on: a memfd, or a dma-buf (which not every exporter allows to be mapped).
    /// `None` where the memory has no descriptor that gives access to it alone.
    #[must_use]
    pub fn shareable(&self) -> Option<BorrowedFd<'_>> {
        match &self.place.shared {
            Shared::Mapped => Some(self.place.fd.as_fd()),
            Shared::Own(fd) => Some(fd.as_fd()),
            Shared::Nothing if devrx_sabotage::removed("device-fd-stays") => {
                Some(self.place.fd.as_fd())
            }
            Shared::Nothing => None,
        }
    }

    /// The dma-buf under which other drivers import the memory, where it differs from [`shareable`](Self::shareable) (udmabuf).
    #[must_use]
    pub fn export_fd(&self) -> Option<BorrowedFd<'_>> {
        self.place.export.as_ref().map(AsFd::as_fd)
    }

    /// Everything whose closing could give the memory, or the device that it is of, to somebody else: what a second process holds to keep
    /// that from happening.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let own = match &self.place.shared {
            Shared::Own(fd) => Some(fd.as_fd()),
            Shared::Mapped | Shared::Nothing => None,
        };
        [self.place.fd.as_fd()]
            .into_iter()
            .chain(own)
            .chain(self.export_fd())
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

    /// Whether the CPU may read the memory. Device memory may be mapped and yet not be for a CPU to read: every word is a trip over the bus, and
    /// what a NIC wrote lately need not have arrived. The one read of a [`Flush`] is what it allows.
    #[must_use]
    pub fn cpu_readable(&self) -> bool {
        self.traits.cpu_readable && self.mapping.is_some()
    }

    /// Why no NIC can be given access, and what to do, where [`ways`](Self::ways) is empty.
    #[must_use]
    pub fn no_way(&self) -> Option<&'static str> {
        self.traits.no_way
    }
}
