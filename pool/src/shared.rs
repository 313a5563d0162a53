//! What the owner and everybody else have in common.

use std::sync::Arc;

use arrayvec::ArrayVec;
use devrx_provider::{ChunkIndex, MemoryProvider};

use crate::counts::{Counts, Missing, OwnerStats, Refused, SharedStats};
use crate::ring::Ring;
use crate::state::Chunk;
use crate::sync::{AtomicBool, AtomicU32, Ordering, fence};
use crate::{REFILL, error::Refusal};

/// Chunks on their way to the provider.
pub(crate) type Batch = ArrayVec<ChunkIndex, REFILL>;

pub(crate) struct Shared {
    provider: Arc<dyn MemoryProvider>,
    /// Index of the first chunk of the provider's share.
    start: u32,
    chunks: Box<[Chunk]>,
    pub(crate) ring: Ring,
    /// No owner takes from the ring any more.
    closed: AtomicBool,
    /// Written by the owner only.
    hold: AtomicU32,
    release: AtomicU32,
    pub(crate) owner: OwnerStats,
    pub(crate) stats: SharedStats,
}

/// The states of the provider's share of chunks.
#[derive(Clone, Copy)]
pub(crate) struct Share<'a> {
    start: u32,
    chunks: &'a [Chunk],
}

impl<'a> Share<'a> {
    /// The state of a chunk that this process handed out itself.
    #[inline(always)]
    pub(crate) fn chunk(self, chunk: ChunkIndex) -> &'a Chunk {
        &self.chunks[chunk.0.wrapping_sub(self.start) as usize]
    }

    /// The state of a chunk that somebody else names.
    #[inline(always)]
    pub(crate) fn untrusted(self, chunk: u32) -> Result<&'a Chunk, Refusal> {
        let at = chunk.wrapping_sub(self.start) as usize;
        if devrx_sabotage::removed("pool-range") {
            return Ok(&self.chunks[at]);
        }
        self.chunks.get(at).ok_or(Refusal::Forged)
    }
}

impl Shared {
    pub(crate) fn new(provider: Arc<dyn MemoryProvider>, ring: usize) -> Self {
        let share = provider.chunks();
        Self {
            start: share.start,
            chunks: share.map(|_| Chunk::new()).collect(),
            ring: Ring::new(ring),
            closed: AtomicBool::new(false),
            hold: AtomicU32::new(0),
            release: AtomicU32::new(0),
            owner: OwnerStats::default(),
            stats: SharedStats::default(),
            provider,
        }
    }

    pub(crate) fn provider(&self) -> &Arc<dyn MemoryProvider> {
        &self.provider
    }

    /// The chunks' states. A copy of where they are: a loop keeps it in registers, which it could not do through `self`, next to so
    /// many atomics.
    #[inline(always)]
    pub(crate) fn share(&self) -> Share<'_> {
        Share {
            start: self.start,
            chunks: &self.chunks,
        }
    }

    /// The state of a chunk that this process handed out itself.
    #[inline(always)]
    pub(crate) fn chunk(&self, chunk: ChunkIndex) -> &Chunk {
        self.share().chunk(chunk)
    }

    /// Chunks that came from the provider. The owner only.
    pub(crate) fn count_hold(&self, chunks: usize) {
        if devrx_sabotage::removed("pool-hold-count") {
            return;
        }
        let hold = self.hold.load(Ordering::Relaxed);
        // A batch.
        self.hold
            .store(hold.wrapping_add(chunks as u32), Ordering::Relaxed);
    }

    /// Gives idle chunks to the provider, and then counts them out: whoever sees the count finds them there.
    pub(crate) fn to_provider(&self, batch: &mut Batch) {
        if batch.is_empty() {
            return;
        }
        let count = batch.len() as u32;
        let early = devrx_sabotage::removed("pool-release-after");
        if early {
            self.release.fetch_add(count, Ordering::Release);
        }
        self.provider.release(batch);
        if !early && !devrx_sabotage::removed("pool-release-count") {
            self.release.fetch_add(count, Ordering::Release);
        }
        batch.clear();
    }

    /// Empties the recycle ring into the provider.
    fn drain_ring(&self) {
        let mut batch = Batch::new();
        while let Some(chunk) = self.ring.pop() {
            batch.push(ChunkIndex(chunk));
            if batch.is_full() {
                self.to_provider(&mut batch);
            }
        }
        self.to_provider(&mut batch);
    }

    /// Takes idle chunks from a thread that is not the owner: into the ring, or to the provider if it is full or nobody empties it.
    pub(crate) fn put(&self, chunks: impl IntoIterator<Item = ChunkIndex>) {
        let mut batch = Batch::new();
        let mut pushed = 0;
        let closed = self.closed.load(Ordering::Acquire);
        for chunk in chunks {
            if !closed {
                if self.ring.push(chunk.0) {
                    pushed += 1;
                    continue;
                }
                self.stats.ring_full.add(1);
                if devrx_sabotage::removed("pool-ring-full") {
                    continue;
                }
            }
            batch.push(chunk);
            if batch.is_full() {
                self.to_provider(&mut batch);
            }
        }
        self.to_provider(&mut batch);
        if pushed == 0 {
            return;
        }
        self.stats.recycled.add(pushed);
        // The pool may have been closed and its ring emptied between the look at `closed` and the push. Either this sees `closed`
        // now, or the one who closed sees what was pushed: the fence pairs with the one in `close`. Those who both pushed late
        // pair by it, too: whoever is last finds the ring in order.
        if !devrx_sabotage::removed("pool-closed-recheck") {
            if !devrx_sabotage::removed("pool-put-fence") {
                fence(Ordering::SeqCst);
            }
            if self.closed.load(Ordering::Relaxed) {
                self.drain_ring();
            }
        }
    }

    /// No owner any more: what is in the ring goes to the provider, now and whenever somebody puts something in.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        if !devrx_sabotage::removed("pool-close-fence") {
            fence(Ordering::SeqCst);
        }
        self.drain_ring();
    }

    /// Takes everything from a client that is gone; `put` gets the chunks to which nobody else holds a reference.
    pub(crate) fn reclaim(&self, mut put: impl FnMut(ChunkIndex)) -> u32 {
        let mut count = 0;
        for (index, chunk) in (self.start..).zip(&self.chunks) {
            if chunk.reclaim() {
                count += 1;
                if chunk.unref() {
                    put(ChunkIndex(index));
                }
            }
        }
        self.stats.reclaimed.add(count.into());
        count
    }

    /// `hold - release`, in serial arithmetic.
    pub(crate) fn in_flight(&self) -> u32 {
        // Release first: it never runs ahead of the hold it belongs to.
        let release = self.release.load(Ordering::Acquire);
        self.hold.load(Ordering::Relaxed).wrapping_sub(release)
    }

    pub(crate) fn counts(&self) -> Counts {
        let release = self.release.load(Ordering::Acquire);
        let hold = self.hold.load(Ordering::Relaxed);
        let (owner, stats) = (&self.owner, &self.stats);
        // What left the client first, then what it was given. Another thread may still reclaim a delivery before it is counted.
        let (returned, reclaimed) = (owner.returned.get(), stats.reclaimed.get());
        let delivered = owner.delivered.get();
        Counts {
            hold,
            release,
            in_flight: hold.wrapping_sub(release),
            cached: owner.cached.get() as u32,
            ring: self.ring.len(),
            with_client: delivered.saturating_sub(returned).saturating_sub(reclaimed) as u32,
            delivered,
            returned,
            reclaimed,
            empty: owner.empty.get(),
            missing: Missing {
                with_client: owner.missing_client.get(),
                held: owner.missing_held.get(),
                provider: owner.missing_provider.get(),
            },
            refused: Refused {
                forged: owner.forged.get(),
                stale: owner.stale.get(),
                repeated: owner.repeated.get(),
            },
            recycled: stats.recycled.get(),
            ring_full: stats.ring_full.get(),
            spilled: owner.spilled.get(),
        }
    }
}
