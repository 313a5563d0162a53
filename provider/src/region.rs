//! One span of memory that a NIC may write.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::{ChunkIndex, Mapping, MemoryKind, ProviderError};

/// How large a region shall be and how it is cut.
#[derive(Clone, Copy, Debug)]
pub struct RegionSpec {
    /// Bytes; a multiple of the page size.
    pub size: u64,
    /// Bytes in a chunk: at most 32 KiB; what a NIC accepts is narrower ([`crate::QueueNeeds`]).
    pub chunk_size: u32,
}

/// One span of memory that a NIC may write, held by file descriptor, with a fixed chunk size.
#[derive(Debug)]
pub struct Region {
    kind: MemoryKind,
    spec: RegionSpec,
    /// What is mapped: a memfd, or a dma-buf.
    fd: OwnedFd,
    /// The identity under which other drivers import the memory, where there is one (udmabuf).
    export: Option<OwnedFd>,
    mapping: Option<Mapping>,
}
