//! Hands out the chunks of a region.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{
    ChunkIndex, Flush, MapWay, MemoryProvider, ProviderError, ProviderStats, QueueNeeds, Region,
    page_size,
};

/// The provider of every kind of memory that is a [`Region`]: one queue's share of it, as a free list.
///
/// The list is last in, first out, so that warm chunks go out again first. A chunk that comes back though it was not out is refused and counted
/// ([`ProviderStats::refused`]) rather than handed to two holders.
#[derive(Debug)]
pub struct RegionProvider {
    region: Arc<Region>,
    chunks: Range<u32>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    free: Vec<ChunkIndex>,
    /// One bit a chunk: it is handed out.
    out: Vec<u64>,
    in_use: bool,
    stats: ProviderStats,
}

impl RegionProvider {
    /// The whole region for one queue.
    #[must_use]
    pub fn whole(region: Arc<Region>) -> Arc<Self> {
        let chunks = 0..region.chunks();
        Arc::new(Self::new(region, chunks))
    }

    /// Cuts a region into `queues` shares, as [`shares`](Self::shares) says.
    ///
    /// # Errors
    ///
    /// As [`shares`](Self::shares).
    pub fn split(region: Arc<Region>, queues: u32) -> Result<Vec<Arc<Self>>, ProviderError> {
        let shares = Self::shares(region.chunks(), region.chunk_size(), queues)?;
        let share = |chunks| Arc::new(Self::new(Arc::clone(&region), chunks));
        Ok(shares.into_iter().map(share).collect())
    }

    /// Which chunks each of `queues` queues gets of a region of `chunks` chunks of `chunk_size` bytes (not 0), made or not: shares of whole pages, as equal
    /// as they get. No chunk lies in two shares, and none is left out.
    ///
    /// # Errors
    ///
    /// [`ProviderError::BadSize`] when there are more queues than groups of chunks that start and end on page boundaries.
    pub fn shares(
        chunks: u32,
        chunk_size: u32,
        queues: u32,
    ) -> Result<Vec<Range<u32>>, ProviderError> {
        let chunk = u64::from(chunk_size);
        // The smallest number of chunks that is a whole number of pages: at most page / MIN_CHUNK.
        let page = page_size();
        let unit = (page / gcd(page, chunk)) as u32;
        let units = chunks / unit;
        // A region of less than one unit is still good for one queue.
        let most = units.max(1);
        if queues == 0 || queues > most {
            let bytes = u64::from(unit) * chunk;
            let why = format!(
                "the region has {most} shares of {bytes} bytes to give (whole chunks on page boundaries); \
                 use fewer queues or a region of at least {} bytes",
                u64::from(queues.max(1)) * bytes
            );
            return Err(ProviderError::BadSize {
                what: "the number of queues",
                value: queues.into(),
                why,
            });
        }
        let (each, more) = (units / queues, units % queues);
        let mut start = 0;
        let shares = (0..queues).map(|queue| {
            let len = (each + u32::from(queue < more)) * unit;
            // What is no whole unit at the end goes to the last share.
            let end = if queue == queues - 1 {
                chunks
            } else {
                start + len
            };
            let range = start..end;
            start = end;
            range
        });
        Ok(shares.collect())
    }

    fn new(region: Arc<Region>, chunks: Range<u32>) -> Self {
        let free = chunks.clone().rev().map(ChunkIndex).collect();
        let out = vec![0; chunks.len().div_ceil(64)];
        let state = State {
            free,
            out,
            in_use: false,
            stats: ProviderStats::default(),
        };
        Self {
            region,
            chunks,
            state: Mutex::new(state),
        }
    }

    /// How many chunks nobody has.
    #[must_use]
    pub fn free(&self) -> u32 {
        // At most the share's chunks.
        self.lock().free.len() as u32
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code of others runs under the lock, so a poisoned one guards a sound state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Marks a chunk as out or back; false if it was already.
    fn mark(&mut self, at: u32, out: bool) -> bool {
        let (word, bit) = ((at / 64) as usize, 1 << (at % 64));
        let was = self.out[word] & bit != 0;
        self.out[word] ^= if was == out { 0 } else { bit };
        was != out
    }
}

impl MemoryProvider for RegionProvider {
    fn region(&self) -> &Arc<Region> {
        &self.region
    }

    fn chunks(&self) -> Range<u32> {
        self.chunks.clone()
    }

    fn init(&self, needs: &QueueNeeds) -> Result<(), ProviderError> {
        needs.check(&self.region)?;
        let mut state = self.lock();
        if state.in_use {
            return Err(ProviderError::InUse);
        }
        state.in_use = true;
        Ok(())
    }

    fn uninstall(&self) {
        let mut state = self.lock();
        let out = self.chunks.len() - state.free.len();
        if out == 0 {
            state.in_use = false;
        } else {
            // A NIC may still write them: the memory stays taken.
            tracing::error!(
                out,
                "a provider was taken from its queue with chunks out; it stays in use"
            );
        }
    }

    fn alloc(&self, out: &mut Vec<ChunkIndex>, want: usize) -> usize {
        let mut state = self.lock();
        let got = want.min(state.free.len());
        let at = state.free.len() - got;
        let start = self.chunks.start;
        let first = out.len();
        out.extend(state.free.drain(at..).rev());
        for chunk in &out[first..] {
            state.mark(chunk.0 - start, true);
        }
        state.stats.allocated += got as u64;
        state.stats.short += u64::from(got < want);
        state.stats.empty += u64::from(got == 0 && want > 0);
        got
    }

    fn release(&self, chunks: &[ChunkIndex]) {
        let mut state = self.lock();
        for &chunk in chunks {
            let ours = self.chunks.contains(&chunk.0);
            let was_out = ours && state.mark(chunk.0 - self.chunks.start, false);
            if was_out || (ours && devrx_sabotage::removed("provider-once")) {
                state.free.push(chunk);
                state.stats.released += 1;
            } else {
                state.stats.refused += 1;
            }
        }
    }

    fn ways(&self) -> &[MapWay] {
        self.region.ways()
    }

    fn cpu_readable(&self) -> bool {
        self.region.cpu_readable()
    }

    fn flush(&self) -> Flush {
        self.region.flush()
    }

    fn stats(&self) -> ProviderStats {
        self.lock().stats
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
