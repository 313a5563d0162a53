//! Naming a receive buffer.

/// How many chunks a provider hands out at a time: the refill of the pool's cache, as in Linux's page pool
/// (`PP_ALLOC_CACHE_REFILL`).
pub const CHUNK_BATCH: usize = 64;

/// One receive buffer of a region, counted from the start of the *region* (not of a queue's share of it). Never a pointer: an
/// index can be range-checked, whoever wrote it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(transparent)]
pub struct ChunkIndex(pub u32);
