//! What taking and giving back a chunk costs, beside a bare stack of indices, in one run: trust the ratios, not the nanoseconds.
//!
//! `cargo bench -p devrx-pool`; with a name, only that case, for callgrind: `... -- recycle/32 1000000` runs it so many times.

use std::fmt;
use std::hint::black_box;
use std::ops::Range;
use std::sync::mpsc::{TryRecvError, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use devrx_pool::{Pool, PoolConfig};
use devrx_provider::{
    ChunkIndex, Flush, MapWay, MemoryProvider, ProviderError, ProviderStats, QueueNeeds, Region,
    RegionProvider, RegionSpec, memfd,
};

const CHUNKS: u32 = 8192;
const ROUNDS: usize = 7;

fn main() {
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    let only = args.next();
    let rounds: Option<u64> = args.next().and_then(|count| count.parse().ok());
    let mut table = Table {
        only,
        rounds,
        base: 0.0,
    };

    println!("one thread: take and give back, ns a chunk (ratio to the first line of each group)");
    table.group("batch 1", |table| {
        table.case("stack/1", 1, stack(1));
        table.case("recycle/1", 1, recycle(pool(), 1));
        table.case("client/1", 1, client(pool(), 1));
    });
    table.group("batch 32", |table| {
        table.case("stack/32", 32, stack(32));
        table.case("recycle/32", 32, recycle(pool(), 32));
        table.case("client/32", 32, client(pool(), 32));
    });
    table.group("batch 32, 4096 in flight", |table| {
        table.case("stack-deep/32", 32, stack_deep());
        table.case("client-deep/32", 32, client_deep(pool()));
    });
    println!("\nrecycling against releasing to the provider, batch 64");
    table.group("", |table| {
        table.case("recycle-cache/64", 64, recycle(pool(), 64));
        table.case("recycle-ring/64", 64, remote(pool()));
        table.case("release-batch/64", 64, release(whole(), 64));
        table.case(
            "release-one-by-one/64",
            64,
            release(Arc::new(OneByOne::new(whole())), 1),
        );
        table.case(
            "release-searching/64",
            64,
            release(Arc::new(OneByOne::new(Arc::new(Searching::new()))), 1),
        );
    });
    if table.wants("cross-thread/32") {
        println!("\ntaken on one thread, given back on another, batch 32");
        cross_thread();
    }
}

fn whole() -> Arc<dyn MemoryProvider> {
    let spec = RegionSpec {
        size: u64::from(CHUNKS) * 4096,
        chunk_size: 4096,
    };
    let region = memfd::create("bench", spec).expect("32 MiB of shared memory");
    RegionProvider::whole(Arc::new(region))
}

fn pool() -> Pool {
    Pool::new(whole(), PoolConfig::default()).0
}

/// The lower bound: a vector of indices, and nothing checked.
fn stack(batch: usize) -> impl FnMut() {
    let mut free: Vec<u32> = (0..CHUNKS).collect();
    let mut out = Vec::with_capacity(batch);
    move || {
        out.extend(free.drain(free.len() - batch..));
        black_box(&mut out);
        free.append(&mut out);
    }
}

fn stack_deep() -> impl FnMut() {
    let mut free: Vec<u32> = (0..CHUNKS).collect();
    let mut flight: Vec<u32> = free.drain(..4096).collect();
    let mut at = 0;
    move || {
        for slot in &mut flight[at..at + 32] {
            let old = std::mem::replace(slot, free.pop().expect("half are free"));
            free.push(old);
        }
        black_box(&mut flight);
        at = (at + 32) % 4096;
    }
}

/// Taken and dropped: what an unwanted packet costs.
fn recycle(mut pool: Pool, batch: usize) -> impl FnMut() {
    let mut out = vec![ChunkIndex(0); batch];
    move || {
        assert_eq!(pool.take(&mut out), batch);
        black_box(&mut out);
        pool.recycle_batch(&out);
    }
}

/// Taken, delivered to the client, returned by it: what a packet costs, references, generations, checks and accounting in it.
fn client(mut pool: Pool, batch: usize) -> impl FnMut() {
    let mut out = vec![ChunkIndex(0); batch];
    let mut held = vec![(0, 0); batch];
    move || {
        assert_eq!(pool.take(&mut out), batch);
        for (held, &chunk) in held.iter_mut().zip(&out) {
            *held = (chunk.0, pool.deliver(chunk));
        }
        black_box(&mut held);
        assert_eq!(pool.take_back_batch(held.iter().copied()), batch as u32);
    }
}

fn client_deep(mut pool: Pool) -> impl FnMut() {
    let mut out = [ChunkIndex(0); 32];
    let mut flight = Vec::new();
    while flight.len() < 4096 {
        assert_eq!(pool.take(&mut out), 32);
        flight.extend(out.map(|chunk| (chunk.0, pool.deliver(chunk))));
    }
    let mut at = 0;
    move || {
        assert_eq!(
            pool.take_back_batch(flight[at..at + 32].iter().copied()),
            32
        );
        assert_eq!(pool.take(&mut out), 32);
        for (held, &chunk) in flight[at..at + 32].iter_mut().zip(&out) {
            *held = (chunk.0, pool.deliver(chunk));
        }
        black_box(&mut flight);
        at = (at + 32) % 4096;
    }
}

/// Given back as another thread does, through the recycle ring.
fn remote(mut pool: Pool) -> impl FnMut() {
    let handle = pool.handle();
    let mut out = vec![ChunkIndex(0); 64];
    move || {
        assert_eq!(pool.take(&mut out), 64);
        black_box(&mut out);
        handle.release_batch(&out);
    }
}

/// No pool between: every chunk comes from the provider and goes back to it, `batch` at a time.
fn release(provider: Arc<dyn MemoryProvider>, batch: usize) -> impl FnMut() {
    let mut out = Vec::with_capacity(64);
    move || {
        out.clear();
        while out.len() < 64 {
            assert_eq!(provider.alloc(&mut out, batch), batch);
        }
        black_box(&mut out);
        for chunks in out.chunks(batch) {
            provider.release(chunks);
        }
    }
}

/// A provider that is asked for one chunk at a time, as the kernel's devmem provider is.
#[derive(Debug)]
struct OneByOne(Arc<dyn MemoryProvider>);

impl OneByOne {
    fn new(inner: Arc<dyn MemoryProvider>) -> Self {
        Self(inner)
    }
}

/// A provider that finds a chunk by first fit in a bitmap, as the kernel's genpool does, half of it in use.
struct Searching {
    region: Arc<Region>,
    used: Mutex<Vec<u64>>,
}

impl Searching {
    fn new() -> Self {
        let mut used = vec![0; CHUNKS as usize / 64];
        used[..CHUNKS as usize / 128].fill(u64::MAX);
        Self {
            region: Arc::clone(whole().region()),
            used: Mutex::new(used),
        }
    }
}

impl fmt::Debug for Searching {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Searching")
    }
}

/// The part of the trait that no case here uses.
macro_rules! unused {
    () => {
        fn init(&self, _: &QueueNeeds) -> Result<(), ProviderError> {
            Ok(())
        }
        fn uninstall(&self) {}
        fn chunks(&self) -> Range<u32> {
            0..CHUNKS
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
    };
}

impl MemoryProvider for Searching {
    unused!();
    fn region(&self) -> &Arc<Region> {
        &self.region
    }
    fn alloc(&self, out: &mut Vec<ChunkIndex>, want: usize) -> usize {
        let mut used = self.used.lock().expect("no panic under it");
        for _ in 0..want {
            let at = used
                .iter()
                .position(|&word| word != u64::MAX)
                .expect("half are free");
            let bit = used[at].trailing_ones();
            used[at] |= 1 << bit;
            out.push(ChunkIndex(at as u32 * 64 + bit));
        }
        want
    }
    fn release(&self, chunks: &[ChunkIndex]) {
        let mut used = self.used.lock().expect("no panic under it");
        for chunk in chunks {
            used[chunk.0 as usize / 64] &= !(1 << (chunk.0 % 64));
        }
    }
}

impl MemoryProvider for OneByOne {
    unused!();
    fn region(&self) -> &Arc<Region> {
        self.0.region()
    }
    fn alloc(&self, out: &mut Vec<ChunkIndex>, want: usize) -> usize {
        (0..want).map(|_| self.0.alloc(out, 1)).sum()
    }
    fn release(&self, chunks: &[ChunkIndex]) {
        for &chunk in chunks {
            self.0.release(&[chunk]);
        }
    }
}

/// The owner takes and hands over batches, another thread gives them back; beside it the same hand-over of indices that nobody owns.
fn cross_thread() {
    const BATCH: usize = 32;
    const TOTAL: usize = 2_000_000;
    let run = |mut pool: Option<Pool>| {
        let handle = pool.as_ref().map(Pool::handle);
        let (send, receive) = sync_channel::<[ChunkIndex; BATCH]>(64);
        let other = std::thread::spawn(move || {
            loop {
                match receive.try_recv() {
                    Ok(chunks) => match &handle {
                        Some(handle) => handle.release_batch(&chunks),
                        None => drop(black_box(chunks)),
                    },
                    Err(TryRecvError::Empty) => std::hint::spin_loop(),
                    Err(TryRecvError::Disconnected) => return,
                }
            }
        });
        let start = Instant::now();
        for _ in 0..TOTAL / BATCH {
            let mut out = [ChunkIndex(0); BATCH];
            if let Some(pool) = &mut pool {
                // The channel holds fewer chunks than there are.
                assert_eq!(pool.take(&mut out), BATCH);
            }
            while send.try_send(out).is_err() {
                std::hint::spin_loop();
            }
        }
        drop(send);
        other.join().expect("the other thread ends");
        start.elapsed().as_secs_f64() * 1e9 / TOTAL as f64
    };
    let best = |case: &dyn Fn() -> f64| (0..ROUNDS).map(|_| case()).fold(f64::MAX, f64::min);
    let bare = best(&|| run(None));
    let pooled = best(&|| run(Some(pool())));
    println!("  {:<28}{bare:>9.2} ns {:>8.1} x", "hand-over/32", 1.0);
    println!(
        "  {:<28}{pooled:>9.2} ns {:>8.1} x",
        "cross-thread/32",
        pooled / bare
    );
}

struct Table {
    only: Option<String>,
    rounds: Option<u64>,
    base: f64,
}

impl Table {
    fn wants(&self, name: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == name)
    }

    fn group(&mut self, title: &str, cases: impl FnOnce(&mut Self)) {
        if self.only.is_none() && !title.is_empty() {
            println!(" {title}");
        }
        self.base = 0.0;
        cases(self);
    }

    fn case(&mut self, name: &str, per_call: u32, mut call: impl FnMut()) {
        if !self.wants(name) {
            return;
        }
        if let Some(rounds) = self.rounds {
            // For callgrind: exactly so many, and no clock.
            (0..rounds).for_each(|_| call());
            return;
        }
        let calls = 2_000_000 / per_call;
        (0..calls / 10).for_each(|_| call());
        // The best of several: what disturbs only adds.
        let best = (0..ROUNDS).map(|_| {
            let start = Instant::now();
            (0..calls).for_each(|_| call());
            start.elapsed()
        });
        let best = best.min().unwrap_or_default();
        let ns = best.as_secs_f64() * 1e9 / f64::from(calls) / f64::from(per_call);
        if self.base == 0.0 {
            self.base = ns;
        }
        println!("  {name:<28}{ns:>9.2} ns {:>8.1} x", ns / self.base);
    }
}
