//! The page pool of one receive queue.
//!
//! Owner cache, recycle ring, provider as the slow path; one reference count a chunk, where idle is exactly one; a second count
//! for what a client owns, with a generation for every delivery. The owner (the queue's thread) has the [`Pool`]; everybody else
//! reaches it through a [`PoolHandle`].
//!
//! # The protocol
//!
//! * Every chunk has one reference count. It is exactly one while the chunk is idle, and while one party has it. Whoever drops the
//!   last reference, and only that one, goes on with the chunk: back to the cache or the ring (it is *recycled*), or to the provider
//!   (it is *released*).
//! * A delivery hands the owner's reference to the client and gives it a new generation. A return names both, and is accepted by one
//!   compare-exchange on the word that holds both: a forged, stale or repeated one finds another word. Taking everything from a client
//!   that is gone goes by the same word, so either that or a late return gets the chunk.
//! * `hold` counts chunks in from the provider, `release` chunks out to it, after they are there. Recycling touches neither.
//!   `hold - release` is what the pool answers for; a pool that was shut down is done when it is 0, and gets there without being
//!   driven.
//!
//! All of it is checked by models of every interleaving (`cfg(loom)`), and against an oracle.
//!
//! # Example
//!
//! ```
//! use devrx_pool::{DrainState, Pool, PoolConfig};
//! use devrx_provider::{ChunkIndex, RegionProvider, RegionSpec, memfd};
//!
//! let region = memfd::create("example", RegionSpec { size: 1 << 20, chunk_size: 4096 })?;
//! let (mut pool, _handle) = Pool::new(RegionProvider::whole(region.into()), PoolConfig::default());
//! let mut chunks = [ChunkIndex(0); 32];
//! assert_eq!(pool.take(&mut chunks), 32);
//! // A packet arrives in the first: the client gets it, and gives it back.
//! let generation = pool.deliver(chunks[0]);
//! pool.take_back(chunks[0].0, generation)?;
//! // The others were never used.
//! pool.recycle_batch(&chunks[1..]);
//! assert_eq!(pool.shutdown().poll(), DrainState::Drained);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod counts;
mod error;
mod handle;
mod pool;
mod ring;
mod shared;
mod state;
mod sync;

pub use counts::{Counts, Missing, Refused};
pub use error::Refusal;
pub use handle::{DrainState, Draining, PoolHandle};
pub use pool::{Delivery, Pool, PoolConfig, Returns};

/// Chunks that move between the pool and its provider at a time.
#[cfg(not(loom))]
const REFILL: usize = devrx_provider::CHUNK_BATCH;
#[cfg(loom)]
const REFILL: usize = 2;

/// Chunks in the owner's cache: two refills, as in Linux's page pool (`PP_ALLOC_CACHE_SIZE`).
const CACHE: usize = 2 * REFILL;
