//! Everybody else's side, and what is left of a pool that was shut down.

use std::fmt;
use std::sync::Arc;

use arrayvec::ArrayVec;
use devrx_provider::ChunkIndex;

use crate::REFILL;
use crate::counts::Counts;
use crate::shared::Shared;

/// A pool, as threads other than its owner reach it. Outlives the pool.
#[derive(Clone)]
pub struct PoolHandle {
    shared: Arc<Shared>,
}

impl PoolHandle {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// One more reference to a chunk that the caller holds, or was given by somebody who does. Each is dropped once, by
    /// [`release`](Self::release).
    ///
    /// # Panics
    ///
    /// When the chunk is none of this pool's.
    pub fn retain(&self, chunk: ChunkIndex) {
        self.shared.chunk(chunk).retain();
    }

    /// Drops a reference. Whoever drops the last gives the chunk back: through the recycle ring, or to the provider if the ring is full
    /// or the pool was shut down.
    ///
    /// # Panics
    ///
    /// When the chunk is none of this pool's.
    pub fn release(&self, chunk: ChunkIndex) {
        self.release_batch(&[chunk]);
    }

    /// Drops a reference to each of several chunks; as [`release`](Self::release), cheaper for each.
    ///
    /// # Panics
    ///
    /// When a chunk is none of this pool's.
    pub fn release_batch(&self, chunks: &[ChunkIndex]) {
        self.shared.put(
            chunks
                .iter()
                .copied()
                .filter(|&chunk| self.shared.chunk(chunk).unref()),
        );
    }

    /// Takes back everything the client has, because it is gone; may race with the owner's `take_back`. Returns how many chunks
    /// that were. What the owner delivers afterwards is the client's again: it stops delivering first.
    pub fn reclaim_client(&self) -> u32 {
        let mut batch: ArrayVec<ChunkIndex, REFILL> = ArrayVec::new();
        let count = self.shared.reclaim(|chunk| {
            batch.push(chunk);
            if batch.is_full() {
                self.shared.put(batch.drain(..));
            }
        });
        self.shared.put(batch);
        count
    }

    /// The numbers as they are.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.shared.counts()
    }
}

impl fmt::Debug for PoolHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolHandle")
            .field("counts", &self.counts())
            .finish()
    }
}

/// How far the shutdown of a pool is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DrainState {
    /// Every chunk is with the provider: `hold` = `release`. The provider can be taken from its queue.
    Drained,
    /// So many chunks are still with the client or held by others.
    InFlight(u32),
}

/// A pool that was shut down. It needs no driving: holders of chunks give them to the provider themselves. Dropping it only gives up
/// looking.
#[derive(Clone, Debug)]
pub struct Draining {
    handle: PoolHandle,
}

impl Draining {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            handle: PoolHandle::new(shared),
        }
    }

    /// Whether everything is accounted for.
    #[must_use]
    pub fn poll(&self) -> DrainState {
        match self.handle.shared.in_flight() {
            0 => DrainState::Drained,
            chunks => DrainState::InFlight(chunks),
        }
    }

    /// For those who still hold chunks, and for taking back what the client has.
    #[must_use]
    pub fn handle(&self) -> &PoolHandle {
        &self.handle
    }

    /// The numbers as they are.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.handle.counts()
    }
}
