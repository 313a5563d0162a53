//! The owner's side.

use std::fmt;
use std::sync::Arc;

use arrayvec::ArrayVec;
use devrx_provider::{ChunkIndex, MemoryProvider};

use crate::counts::Counts;
use crate::error::Refusal;
use crate::handle::{Draining, PoolHandle};
use crate::shared::{Batch, Share, Shared};
use crate::{CACHE, REFILL};

/// How a pool is made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PoolConfig {
    /// Places in the recycle ring, chunks; rounded up to a power of two. What finds no place goes to the provider.
    pub recycle_ring: usize,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self { recycle_ring: 1024 }
    }
}

/// The page pool of one queue, as its owner, the queue's thread, has it.
///
/// A chunk is in one place at a time: with the provider, or in flight, which is in the cache, in the recycle ring, with the client, or held (by the
/// owner, who took it; by the NIC it was posted to; by another thread that retains it). Dropping the pool is as
/// [`shutdown`](Self::shutdown).
pub struct Pool {
    shared: Arc<Shared>,
    /// Last in, first out: the warmest chunk goes out first.
    cache: ArrayVec<ChunkIndex, CACHE>,
    /// Where the provider puts a batch; allocated once.
    batch: Vec<ChunkIndex>,
}

impl Pool {
    /// A pool over a provider that was set up for the queue ([`MemoryProvider::init`]). It holds no chunks yet.
    #[must_use]
    pub fn new(provider: Arc<dyn MemoryProvider>, config: PoolConfig) -> (Self, PoolHandle) {
        let shared = Arc::new(Shared::new(provider, config.recycle_ring));
        let handle = PoolHandle::new(Arc::clone(&shared));
        (
            Self {
                shared,
                cache: ArrayVec::new(),
                batch: Vec::with_capacity(REFILL),
            },
            handle,
        )
    }

    /// Where the chunks come from.
    #[must_use]
    pub fn provider(&self) -> &Arc<dyn MemoryProvider> {
        self.shared.provider()
    }

    /// Another way to reach the pool, for other threads.
    #[must_use]
    pub fn handle(&self) -> PoolHandle {
        PoolHandle::new(Arc::clone(&self.shared))
    }

    /// Fills `out` from the front with idle chunks and returns how many it got: from the cache, then the recycle ring, then the
    /// provider. Fewer than asked for only when no more are to be had; that is counted, with the reason.
    #[inline]
    pub fn take(&mut self, out: &mut [ChunkIndex]) -> usize {
        let mut got = self.take_cached(out);
        while got < out.len() {
            if !self.refill() {
                self.count_empty(out.len() - got);
                break;
            }
            got += self.take_cached(&mut out[got..]);
        }
        self.shared.owner.cached.set(self.cache.len() as u64);
        got
    }

    #[inline]
    fn take_cached(&mut self, out: &mut [ChunkIndex]) -> usize {
        let count = out.len().min(self.cache.len());
        let rest = self.cache.len() - count;
        out[..count].copy_from_slice(&self.cache[rest..]);
        self.cache.truncate(rest);
        count
    }

    /// Gives back a chunk that was taken and is not with the client: an unused one, or a dropped packet's. If another thread
    /// retains it, that one recycles it.
    ///
    /// # Panics
    ///
    /// When the chunk is none of this pool's.
    #[inline]
    pub fn recycle(&mut self, chunk: ChunkIndex) {
        if self.shared.chunk(chunk).unref() {
            self.put(chunk);
            self.shared.owner.cached.set(self.cache.len() as u64);
        }
    }

    /// Gives back several chunks; as [`recycle`](Self::recycle), cheaper for each.
    ///
    /// # Panics
    ///
    /// When a chunk is none of this pool's.
    pub fn recycle_batch(&mut self, chunks: &[ChunkIndex]) {
        let share = self.shared.share();
        for &chunk in chunks {
            if share.chunk(chunk).unref() {
                put(&self.shared, &mut self.cache, chunk);
            }
        }
        self.shared.owner.cached.set(self.cache.len() as u64);
    }

    /// Gives a chunk that was taken to the client, with the owner's reference. Returns the generation the client returns it under.
    ///
    /// # Panics
    ///
    /// When the chunk is none of this pool's.
    #[inline]
    pub fn deliver(&mut self, chunk: ChunkIndex) -> u16 {
        let generation = self.shared.chunk(chunk).deliver();
        self.shared.owner.delivered.add(1);
        generation
    }

    /// For giving several chunks to the client; as [`deliver`](Self::deliver), cheaper for each.
    #[inline]
    pub fn delivery(&mut self) -> Delivery<'_> {
        Delivery {
            share: self.shared.share(),
            shared: &self.shared,
            count: 0,
        }
    }

    /// Takes back a chunk that the client says it has. Neither value is trusted.
    ///
    /// # Errors
    ///
    /// [`Refusal`], counted, when the client does not have this chunk under this generation. Nothing else happens then.
    #[inline]
    pub fn take_back(&mut self, chunk: u32, generation: u16) -> Result<(), Refusal> {
        match accept(self.shared.share(), chunk, generation) {
            Ok(last) => {
                self.shared.owner.returned.add(1);
                if last {
                    self.put(ChunkIndex(chunk));
                    self.shared.owner.cached.set(self.cache.len() as u64);
                }
                Ok(())
            }
            Err(refusal) => {
                count_refusal(&self.shared, refusal);
                Err(refusal)
            }
        }
    }

    /// Takes back several chunks; as [`take_back`](Self::take_back), cheaper for each. Returns how many were accepted.
    #[inline]
    pub fn take_back_batch(&mut self, entries: impl IntoIterator<Item = (u32, u16)>) -> u32 {
        let mut accepted = 0;
        let share = self.shared.share();
        // Collected apart first: next to so many atomics the cache's length would go to memory and back for each.
        let (mut idle, mut count) = ([ChunkIndex(0); REFILL], 0);
        for (chunk, generation) in entries {
            match accept(share, chunk, generation) {
                Ok(last) => {
                    accepted += 1;
                    if last {
                        idle[count] = ChunkIndex(chunk);
                        count += 1;
                        if count == REFILL {
                            put_batch(&self.shared, &mut self.cache, &idle);
                            count = 0;
                        }
                    }
                }
                Err(refusal) => count_refusal(&self.shared, refusal),
            }
        }
        put_batch(&self.shared, &mut self.cache, &idle[..count]);
        self.shared.owner.returned.add(accepted.into());
        self.shared.owner.cached.set(self.cache.len() as u64);
        accepted
    }

    /// For taking back chunks straight to whoever can use them, with no stop in the cache.
    #[inline]
    pub fn returns<I: ExactSizeIterator<Item = (u32, u16)>>(
        &mut self,
        entries: I,
    ) -> Returns<'_, I> {
        Returns {
            shared: &self.shared,
            entries,
        }
    }

    /// Takes back everything the client has, because it is gone. Returns how many chunks that were.
    pub fn reclaim_client(&mut self) -> u32 {
        let shared = Arc::clone(&self.shared);
        let count = shared.reclaim(|chunk| self.put(chunk));
        shared.owner.cached.set(self.cache.len() as u64);
        count
    }

    /// The numbers as they are.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.shared.counts()
    }

    /// Ends the pool: idle chunks go to the provider now, all others as soon as their holders drop them. Nobody needs to wait: who
    /// drops the last reference to a chunk gives it to the provider himself.
    #[must_use = "chunks may still be out; poll it before the memory is freed"]
    pub fn shutdown(self) -> Draining {
        // Dropping does it.
        Draining::new(Arc::clone(&self.shared))
    }

    #[inline]
    fn put(&mut self, chunk: ChunkIndex) {
        put(&self.shared, &mut self.cache, chunk);
    }

    /// A batch into the empty cache: from the ring, or else from the provider.
    #[cold]
    fn refill(&mut self) -> bool {
        for _ in 0..REFILL {
            let Some(chunk) = self.shared.ring.pop() else {
                break;
            };
            self.cache.push(ChunkIndex(chunk));
        }
        if !self.cache.is_empty() {
            return true;
        }
        self.batch.clear();
        let got = self.shared.provider().alloc(&mut self.batch, REFILL);
        self.shared.count_hold(got);
        // The first that the provider named goes out first.
        self.cache.extend(self.batch.drain(..).rev());
        got > 0
    }

    /// Counts chunks that were not available, by where they are.
    #[cold]
    fn count_empty(&self, missing: usize) {
        let owner = &self.shared.owner;
        let counts = self.shared.counts();
        let missing = missing as u64;
        let client = missing.min(counts.with_client.into());
        let held = (missing - client).min(counts.held().into());
        owner.empty.add(1);
        owner.missing_client.add(client);
        owner.missing_held.add(held);
        owner.missing_provider.add(missing - client - held);
    }
}

/// Takes a chunk from the client; whether it is idle now.
#[inline(always)]
fn accept(share: Share<'_>, chunk: u32, generation: u16) -> Result<bool, Refusal> {
    let state = share.untrusted(chunk)?;
    state.take_back(generation)?;
    Ok(state.unref())
}

/// Idle chunks into the cache.
#[inline]
fn put_batch(shared: &Shared, cache: &mut ArrayVec<ChunkIndex, CACHE>, chunks: &[ChunkIndex]) {
    if cache.try_extend_from_slice(chunks).is_err() {
        for &chunk in chunks {
            put(shared, cache, chunk);
        }
    }
}

/// An idle chunk into the cache.
#[inline(always)]
fn put(shared: &Shared, cache: &mut ArrayVec<ChunkIndex, CACHE>, chunk: ChunkIndex) {
    if let Err(full) = cache.try_push(chunk) {
        spill(shared, cache);
        cache.push(full.element());
    }
}

/// Makes room for half a cache, by what was idle longest: half, so that neither the next return nor the next take meets the
/// cache's end again. Into the ring, and to the provider what that has no room for.
#[cold]
#[inline(never)]
fn spill(shared: &Shared, cache: &mut ArrayVec<ChunkIndex, CACHE>) {
    let mut batch = Batch::new();
    let (mut pushed, mut full) = (0, 0);
    for chunk in cache.drain(..REFILL) {
        if shared.ring.push(chunk.0) {
            pushed += 1;
        } else {
            full += 1;
            batch.push(chunk);
        }
    }
    shared.to_provider(&mut batch);
    shared.stats.recycled.add(pushed);
    shared.stats.ring_full.add(full);
    shared.owner.spilled.add(pushed + full);
}

#[cold]
#[inline(never)]
fn count_refusal(shared: &Shared, refusal: Refusal) {
    let owner = &shared.owner;
    match refusal {
        Refusal::Forged => owner.forged.add(1),
        Refusal::Stale => owner.stale.add(1),
        Refusal::Repeated => owner.repeated.add(1),
    }
}

/// Chunks on their way to the client; see [`Pool::delivery`]. They are counted when it is dropped: before the client can know of any.
pub struct Delivery<'pool> {
    share: Share<'pool>,
    shared: &'pool Shared,
    count: u64,
}

impl Delivery<'_> {
    /// As [`Pool::deliver`].
    ///
    /// # Panics
    ///
    /// When the chunk is none of this pool's.
    #[inline(always)]
    pub fn deliver(&mut self, chunk: ChunkIndex) -> u16 {
        let generation = self.share.chunk(chunk).deliver();
        self.count += 1;
        generation
    }

    /// As [`deliver`](Self::deliver), for four.
    ///
    /// # Panics
    ///
    /// When one of the chunks is none of this pool's.
    #[inline(always)]
    pub fn deliver_four(&mut self, chunks: [ChunkIndex; 4]) -> [u16; 4] {
        let generations = chunks.map(|chunk| self.share.chunk(chunk).deliver());
        self.count += 4;
        generations
    }
}

impl Drop for Delivery<'_> {
    #[inline]
    fn drop(&mut self) {
        self.shared.owner.delivered.add(self.count);
    }
}

/// Chunks that the client says it gives back: see [`Pool::returns`]. Nothing has been taken back yet.
pub struct Returns<'pool, I> {
    shared: &'pool Shared,
    entries: I,
}

impl<I: ExactSizeIterator<Item = (u32, u16)>> Returns<'_, I> {
    /// How many entries there are: no more chunks than that come of them.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "nobody asks")]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whose chunks they are. All that come of them are of its share: the pool has looked.
    #[must_use]
    pub fn provider(&self) -> &Arc<dyn MemoryProvider> {
        self.shared.provider()
    }

    /// Takes them back, as [`Pool::take_back`], and gives those that are idle now to `each`, with the owner's reference: to be posted or recycled.
    #[inline(always)]
    pub fn take_back(self, mut each: impl FnMut(ChunkIndex)) {
        let Self { shared, entries } = self;
        let (share, count) = (shared.share(), entries.len());
        let mut refused = 0;
        entries.for_each(
            |(chunk, generation)| match accept(share, chunk, generation) {
                Ok(true) => each(ChunkIndex(chunk)),
                Ok(false) => {}
                Err(refusal) => {
                    refused += 1;
                    count_refusal(shared, refusal);
                }
            },
        );
        shared.owner.returned.add((count - refused) as u64);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let mut batch = Batch::new();
        while let Some(chunk) = self.cache.pop() {
            batch.push(chunk);
            if batch.is_full() {
                self.shared.to_provider(&mut batch);
            }
        }
        self.shared.to_provider(&mut batch);
        self.shared.owner.cached.set(0);
        self.shared.close();
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("provider", self.provider())
            .field("counts", &self.counts())
            .finish()
    }
}
