//! The numbers of a pool.

use crate::sync::stat::{Owned, Shared};

/// The numbers of a pool at one moment. Exact when no other thread is at work on the pool; otherwise each number is true, of a
/// slightly different moment.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    /// Chunks that entered the pool from its provider, ever; wraps.
    pub hold: u32,
    /// Chunks that left the pool to its provider, ever; wraps. Recycling touches neither.
    pub release: u32,
    /// `hold - release`: the chunks the pool answers for.
    pub in_flight: u32,
    /// Of those, in the owner's cache.
    pub cached: u32,
    /// Of those, in the recycle ring.
    pub ring: u32,
    /// Of those, with the client.
    pub with_client: u32,
    /// Chunks delivered to clients, ever.
    pub delivered: u64,
    /// Chunks that clients gave back, ever.
    pub returned: u64,
    /// Chunks taken back from clients that were gone, ever.
    pub reclaimed: u64,
    /// Calls to `take` that got fewer chunks than they asked for.
    pub empty: u64,
    /// Chunks that `take` asked for and did not get, by where they were.
    pub missing: Missing,
    /// Returns that were refused.
    pub refused: Refused,
    /// Chunks that went through the recycle ring.
    pub recycled: u64,
    /// Chunks that went to the provider because the recycle ring was full.
    pub ring_full: u64,
    /// Chunks that the owner's cache had no room for; they went to the ring, or are in `ring_full` too.
    pub spilled: u64,
}

impl Counts {
    /// Chunks in flight that are neither idle in the pool nor with the client: posted to the NIC, on their way, or retained by
    /// another thread.
    #[must_use]
    pub fn held(&self) -> u32 {
        self.in_flight
            .saturating_sub(self.cached)
            .saturating_sub(self.ring)
            .saturating_sub(self.with_client)
    }
}

/// Why chunks were not available: where those were that `take` asked for and did not get. Exclusive: every missing chunk is in one of them.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Missing {
    /// The client had them: it is slow to give them back, or the region is too small for it.
    pub with_client: u64,
    /// They were posted to the NIC, on their way, or retained by another thread.
    pub held: u64,
    /// The provider kept them, or more were asked for than it has chunks.
    pub provider: u64,
}

/// Returns that were refused, by reason; see [`crate::Refusal`].
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Refused {
    /// No such chunk, or never given to the client under this generation.
    pub forged: u64,
    /// Delivered again since.
    pub stale: u64,
    /// Returned before.
    pub repeated: u64,
}

/// Counters that only the pool's owner writes; a cache line pair of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct OwnerStats {
    pub(crate) cached: Owned,
    pub(crate) delivered: Owned,
    pub(crate) returned: Owned,
    pub(crate) spilled: Owned,
    pub(crate) empty: Owned,
    pub(crate) missing_client: Owned,
    pub(crate) missing_held: Owned,
    pub(crate) missing_provider: Owned,
    pub(crate) forged: Owned,
    pub(crate) stale: Owned,
    pub(crate) repeated: Owned,
}

/// Counters that any thread writes, on slow paths only.
#[derive(Debug, Default)]
pub(crate) struct SharedStats {
    pub(crate) reclaimed: Shared,
    pub(crate) recycled: Shared,
    pub(crate) ring_full: Shared,
}
