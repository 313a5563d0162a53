//! Every interleaving of small uses of the pool.
//!
//! `RUSTFLAGS="--cfg loom" cargo test --release -p devrx-pool --test loom`
//!
//! In these builds a batch is 2 chunks and the owner's cache holds 4. Each chunk has a cell that stands for its bytes: whoever has the
//! chunk may write it, whoever holds one reference of several may read it, and the model fails when two accesses are not
//! ordered by what the pool does.
#![cfg(loom)]
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]
#![expect(
    unsafe_code,
    reason = "shares a cell whose accesses the model itself checks"
)]

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use devrx_pool::{DrainState, Pool, PoolConfig, PoolHandle, Refusal};
use devrx_provider::{
    ChunkIndex, Flush, MapWay, MemoryProvider, ProviderError, ProviderStats, QueueNeeds, Region,
    RegionSpec, memfd,
};
use loom::cell::UnsafeCell;
use loom::sync::Mutex;
use loom::thread;

/// A provider whose lock the model sees.
struct Provider {
    free: Mutex<Vec<ChunkIndex>>,
    chunks: u32,
}

impl Provider {
    fn new(chunks: u32) -> Arc<Self> {
        let free = (0..chunks).map(ChunkIndex).collect();
        Arc::new(Self {
            free: Mutex::new(free),
            chunks,
        })
    }

    /// Asserts that every chunk is here once.
    fn has_all(&self) {
        let mut free = self.free.lock().unwrap().clone();
        free.sort();
        let all: Vec<_> = (0..self.chunks).map(ChunkIndex).collect();
        assert_eq!(free, all, "every chunk is with the provider, once");
    }
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Provider")
            .field("chunks", &self.chunks)
            .finish()
    }
}

impl MemoryProvider for Provider {
    fn region(&self) -> &Arc<Region> {
        // No model looks at the memory.
        static REGION: OnceLock<Arc<Region>> = OnceLock::new();
        REGION.get_or_init(|| {
            Arc::new(
                memfd::create(
                    "loom",
                    RegionSpec {
                        size: 1 << 16,
                        chunk_size: 4096,
                    },
                )
                .unwrap(),
            )
        })
    }

    fn chunks(&self) -> Range<u32> {
        0..self.chunks
    }

    fn init(&self, _: &QueueNeeds) -> Result<(), ProviderError> {
        Ok(())
    }

    fn uninstall(&self) {}

    fn alloc(&self, out: &mut Vec<ChunkIndex>, want: usize) -> usize {
        let mut free = self.free.lock().unwrap();
        let got = want.min(free.len());
        let at = free.len() - got;
        out.extend(free.drain(at..));
        got
    }

    fn release(&self, chunks: &[ChunkIndex]) {
        self.free.lock().unwrap().extend_from_slice(chunks);
    }

    fn ways(&self) -> &[MapWay] {
        &[]
    }

    fn cpu_readable(&self) -> bool {
        true
    }

    fn flush(&self) -> Flush {
        Flush::None
    }

    fn stats(&self) -> ProviderStats {
        ProviderStats::default()
    }
}

/// The bytes of the chunks.
struct Bytes(Vec<UnsafeCell<()>>);

// SAFETY: the cells hold nothing; the model reports accesses that are not ordered.
unsafe impl Sync for Bytes {}
// SAFETY: as above.
unsafe impl Send for Bytes {}

impl Bytes {
    fn new(chunks: u32) -> Arc<Self> {
        Arc::new(Self((0..chunks).map(|_| UnsafeCell::new(())).collect()))
    }

    fn read(&self, chunk: ChunkIndex) {
        self.0[chunk.0 as usize].with(|_| ());
    }

    fn write(&self, chunk: ChunkIndex) {
        self.0[chunk.0 as usize].with_mut(|_| ());
    }
}

/// Explores all interleavings with up to `preemptions` switches away from a thread that could go on.
fn explore(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

fn pool(chunks: u32, ring: usize) -> (Arc<Provider>, Pool, PoolHandle) {
    let provider = Provider::new(chunks);
    let (pool, handle) = Pool::new(provider.clone(), PoolConfig { recycle_ring: ring });
    (provider, pool, handle)
}

fn take(pool: &mut Pool) -> Option<ChunkIndex> {
    let mut out = [ChunkIndex(u32::MAX)];
    (pool.take(&mut out) == 1).then_some(out[0])
}

/// Ends a pool nobody else is at.
fn end(pool: Pool, provider: &Provider) {
    let draining = pool.shutdown();
    let counts = draining.counts();
    assert_eq!(draining.poll(), DrainState::Drained, "{counts:?}");
    assert_eq!(counts.hold, counts.release);
    provider.has_all();
}

#[test]
fn two_releasers_race_on_the_last_reference() {
    explore(3, || {
        let (provider, mut pool, handle) = pool(1, 2);
        let bytes = Bytes::new(1);
        let chunk = take(&mut pool).unwrap();
        bytes.write(chunk);
        handle.retain(chunk);
        // One reference each.
        let threads = [(); 2].map(|()| {
            let (handle, bytes) = (handle.clone(), bytes.clone());
            thread::spawn(move || {
                bytes.read(chunk);
                handle.release(chunk);
            })
        });
        // The owner may have it again as soon as both are done with it, and only then.
        let early = take(&mut pool);
        if let Some(chunk) = early {
            bytes.write(chunk);
        }
        for thread in threads {
            thread.join().unwrap();
        }
        let chunk = early
            .or_else(|| take(&mut pool))
            .expect("whoever dropped the last reference recycled the chunk");
        bytes.write(chunk);
        assert_eq!(take(&mut pool), None, "and did so once");
        assert_eq!(pool.counts().in_flight, 1);
        pool.recycle(chunk);
        end(pool, &provider);
    });
}

#[test]
fn owner_and_another_race_on_the_last_reference() {
    explore(3, || {
        let (provider, mut pool, handle) = pool(1, 2);
        let bytes = Bytes::new(1);
        let chunk = take(&mut pool).unwrap();
        handle.retain(chunk);
        let other = {
            let (handle, bytes) = (handle.clone(), bytes.clone());
            thread::spawn(move || {
                bytes.read(chunk);
                handle.release(chunk);
            })
        };
        let generation = pool.deliver(chunk);
        bytes.read(chunk);
        pool.take_back(chunk.0, generation).unwrap();
        let early = take(&mut pool);
        if let Some(chunk) = early {
            bytes.write(chunk);
        }
        other.join().unwrap();
        let chunk = early
            .or_else(|| take(&mut pool))
            .expect("one of both recycled the chunk");
        bytes.write(chunk);
        assert_eq!(take(&mut pool), None);
        pool.recycle(chunk);
        end(pool, &provider);
    });
}

#[test]
fn what_was_written_comes_back_with_the_chunk() {
    explore(3, || {
        let (provider, mut pool, handle) = pool(1, 2);
        let bytes = Bytes::new(1);
        let chunk = take(&mut pool).unwrap();
        let other = {
            let (handle, bytes) = (handle.clone(), bytes.clone());
            thread::spawn(move || {
                bytes.write(chunk);
                handle.release(chunk);
            })
        };
        let early = take(&mut pool);
        if let Some(chunk) = early {
            bytes.write(chunk);
            pool.recycle(chunk);
        }
        other.join().unwrap();
        end(pool, &provider);
    });
}

#[test]
fn releases_race_with_shutdown() {
    explore(2, || {
        let (provider, mut pool, handle) = pool(2, 2);
        let mut chunks = [ChunkIndex(0); 2];
        assert_eq!(pool.take(&mut chunks), 2);
        let threads = chunks.map(|chunk| {
            let handle = handle.clone();
            thread::spawn(move || handle.release(chunk))
        });
        let draining = pool.shutdown();
        if draining.poll() == DrainState::Drained {
            provider.has_all();
        }
        for thread in threads {
            thread.join().unwrap();
        }
        // Nobody drove it, and it is done.
        assert_eq!(
            draining.poll(),
            DrainState::Drained,
            "{:?}",
            draining.counts()
        );
        provider.has_all();
    });
}

#[test]
fn the_last_reference_races_with_shutdown() {
    explore(3, || {
        let (provider, mut pool, handle) = pool(1, 2);
        let chunk = take(&mut pool).unwrap();
        handle.retain(chunk);
        let other = {
            let handle = handle.clone();
            thread::spawn(move || handle.release(chunk))
        };
        pool.recycle(chunk);
        let draining = pool.shutdown();
        if draining.poll() == DrainState::Drained {
            provider.has_all();
        }
        other.join().unwrap();
        assert_eq!(
            draining.poll(),
            DrainState::Drained,
            "{:?}",
            draining.counts()
        );
        provider.has_all();
    });
}

#[test]
fn the_ring_is_full_while_the_owner_refills() {
    explore(2, || {
        let (provider, mut pool, handle) = pool(4, 2);
        let mut chunks = [ChunkIndex(0); 4];
        assert_eq!(pool.take(&mut chunks), 4);
        let other = thread::spawn(move || {
            for chunk in &chunks[..3] {
                handle.release(*chunk);
            }
        });
        let mut again = [ChunkIndex(u32::MAX); 2];
        let got = pool.take(&mut again);
        other.join().unwrap();
        let mut seen = again[..got].to_vec();
        while let Some(chunk) = take(&mut pool) {
            seen.push(chunk);
        }
        seen.push(chunks[3]);
        seen.sort();
        assert_eq!(
            seen,
            (0..4).map(ChunkIndex).collect::<Vec<_>>(),
            "no chunk is lost, none is handed out twice"
        );
        pool.recycle_batch(&seen);
        end(pool, &provider);
    });
}

#[test]
fn the_owner_spills_while_another_releases() {
    explore(2, || {
        let (provider, mut pool, handle) = pool(6, 2);
        let mut chunks = [ChunkIndex(0); 6];
        assert_eq!(pool.take(&mut chunks), 6);
        let other = thread::spawn(move || handle.release(chunks[5]));
        // One more than the cache holds.
        pool.recycle_batch(&chunks[..5]);
        other.join().unwrap();
        let counts = pool.counts();
        assert_eq!(
            (counts.in_flight, counts.cached + counts.ring),
            (counts.cached + counts.ring, counts.in_flight)
        );
        end(pool, &provider);
    });
}

#[test]
fn a_return_races_with_reclaim_after_death() {
    explore(3, || {
        let (provider, mut pool, handle) = pool(1, 2);
        let bytes = Bytes::new(1);
        let chunk = take(&mut pool).unwrap();
        let generation = pool.deliver(chunk);
        let reaper = thread::spawn(move || handle.reclaim_client());
        let result = pool.take_back(chunk.0, generation);
        let early = take(&mut pool);
        if let Some(chunk) = early {
            bytes.write(chunk);
        }
        let reclaimed = reaper.join().unwrap();
        match result {
            Ok(()) => assert_eq!(reclaimed, 0),
            Err(refusal) => assert_eq!((refusal, reclaimed), (Refusal::Repeated, 1)),
        }
        let chunk = early
            .or_else(|| take(&mut pool))
            .expect("one of both brought it back");
        bytes.write(chunk);
        assert_eq!(take(&mut pool), None, "and not both");
        let counts = pool.counts();
        assert_eq!(
            (counts.with_client, counts.returned + counts.reclaimed),
            (0, 1)
        );
        pool.recycle(chunk);
        end(pool, &provider);
    });
}

#[test]
fn a_reclaim_meets_the_next_delivery() {
    explore(3, || {
        let (provider, mut pool, handle) = pool(1, 2);
        let chunk = take(&mut pool).unwrap();
        let first = pool.deliver(chunk);
        let reaper = thread::spawn(move || handle.reclaim_client());
        // The chunk goes round once more under the reaper's hands.
        let mut second = None;
        if pool.take_back(chunk.0, first).is_ok() {
            let chunk = take(&mut pool).expect("it is in the cache");
            second = Some(pool.deliver(chunk));
        }
        let reclaimed = reaper.join().unwrap();
        match second {
            Some(second) => {
                assert_eq!(pool.take_back(chunk.0, first), Err(Refusal::Stale));
                let late = pool.take_back(chunk.0, second);
                assert_eq!(
                    late,
                    if reclaimed == 1 {
                        Err(Refusal::Repeated)
                    } else {
                        Ok(())
                    }
                );
            }
            None => assert_eq!(reclaimed, 1),
        }
        assert_eq!(pool.counts().with_client, 0);
        assert_eq!(take(&mut pool), Some(chunk));
        assert_eq!(take(&mut pool), None);
        pool.recycle(chunk);
        end(pool, &provider);
    });
}

#[test]
fn a_reclaim_races_with_shutdown() {
    explore(3, || {
        let (provider, mut pool, handle) = pool(2, 2);
        let mut chunks = [ChunkIndex(0); 2];
        assert_eq!(pool.take(&mut chunks), 2);
        for chunk in chunks {
            pool.deliver(chunk);
        }
        let reaper = thread::spawn(move || handle.reclaim_client());
        let draining = pool.shutdown();
        assert_eq!(
            draining.handle().reclaim_client() + reaper.join().unwrap(),
            2
        );
        assert_eq!(
            draining.poll(),
            DrainState::Drained,
            "{:?}",
            draining.counts()
        );
        provider.has_all();
    });
}
