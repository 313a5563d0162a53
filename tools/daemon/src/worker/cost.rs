//! What a packet costs a worker without its NIC: completion, publication, return, pool. Asserts nothing that a clock says; run it with
//! `cargo test --release -p devrx-daemon -- --ignored --nocapture cost_of_a_packet`, or under callgrind with
//! `--toggle-collect='*worker::cost::round*'`; `DEVRX_COST_BATCH` chooses one size of batch.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use devrx_driver::{DriverError, QueueCounters, RxBatch, RxChunk, RxFlags, RxQueue};
use devrx_pool::{Pool, PoolConfig};
use devrx_proto::completion::Completion;
use devrx_proto::event::Event;
use devrx_proto::layout::{Layout, LayoutParams};
use devrx_proto::refill::RefillEntry;
use devrx_proto::ring::{ClientQueue, DaemonQueue, Start};
use devrx_proto::shm::Shm;
use devrx_provider::{ChunkIndex, Mapping, MemoryProvider, RegionProvider, RegionSpec, memfd};

use super::{ClientSide, Manners, Parts, Shared, Worker, commands};
use crate::config::PollMode;
use crate::sys::Watched;
use crate::testing::needs;

const CHUNKS: u32 = 1024;
const RING: u32 = 512;

/// A queue that costs next to nothing: every posted chunk is a packet at once, as many in a poll as `burst`.
struct Lean {
    chunks: Vec<ChunkIndex>,
    head: usize,
    tail: usize,
    burst: usize,
    event: Event,
}

impl RxQueue for Lean {
    #[inline(never)]
    fn poll(&mut self, out: &mut RxBatch) -> usize {
        for _ in 0..self.burst {
            let chunk = self.chunks[self.head % RING as usize];
            self.head += 1;
            out.push(RxChunk {
                chunk,
                offset: 0,
                length: 1000,
                header_length: 42,
                vlan: 0,
                rss_hash: 0,
                flags: RxFlags::SPLIT,
                flow: 0,
                timestamp: 0,
            });
        }
        self.burst
    }

    #[inline(never)]
    fn refill(&mut self, pool: &mut Pool) -> usize {
        let free = RING as usize - (self.tail - self.head);
        let mut chunks = [ChunkIndex(0); 256];
        let got = pool.take(&mut chunks[..free.min(256)]);
        for &chunk in &chunks[..got] {
            self.chunks[self.tail % RING as usize] = chunk;
            self.tail += 1;
        }
        got
    }

    fn posted(&self) -> u32 {
        (self.tail - self.head) as u32
    }

    fn capacity(&self) -> u32 {
        RING
    }

    fn wait_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    fn arm(&mut self) -> bool {
        false
    }

    fn counters(&self) -> QueueCounters {
        QueueCounters::default()
    }

    fn stop(&mut self) -> Result<(), DriverError> {
        Ok(())
    }

    fn reclaim(&mut self, _pool: &mut Pool) {}
}

fn worker(burst: usize) -> (Worker<Lean>, ClientQueue) {
    let spec = RegionSpec {
        size: u64::from(CHUNKS) * 4096,
        chunk_size: 4096,
    };
    let region = Arc::new(memfd::create("cost", spec).unwrap());
    let provider: Arc<dyn MemoryProvider> = RegionProvider::whole(region.clone());
    provider.init(&needs()).unwrap();
    let layout = Layout::new(&LayoutParams {
        queues: 1,
        completions: 1024,
        chunks: CHUNKS,
        header_slot: 256,
    })
    .unwrap();
    let (fd, memory) = Shm::create_client_written("cost", layout.daemon_size()).unwrap();
    let headers = Mapping::map_shared(fd.as_fd(), layout.headers(), 4096, true).unwrap();
    let (_, client_memory) = Shm::create_client_written("cost", 1 << 20).unwrap();
    let rings = DaemonQueue::new(&layout, 0, &memory, &client_memory, Start::default()).unwrap();
    let client = ClientQueue::new(&layout, 0, &memory, &client_memory, Start::default()).unwrap();
    let recycle_ring = CHUNKS as usize;
    let (pool, _) = Pool::new(provider, PoolConfig { recycle_ring });
    let (_, commands) = commands();
    let parts = Parts {
        manners: Manners {
            name: "cost".into(),
            cpu: None,
            poll_mode: PollMode::Busy,
            wake_batch: 1,
            wake_timeout: Duration::from_millis(1),
            polls_refill: false,
        },
        pool,
        region,
        layout,
        place: 0,
        watched: Arc::new(Watched::new(&memory).unwrap()),
        headers: Arc::new(headers),
        memory,
        rings,
        client: ClientSide {
            watched: Arc::new(Watched::new(&client_memory).unwrap()),
            memory: client_memory,
            wake: Event::new().unwrap(),
            kick: Event::new().unwrap(),
        },
        shared: Arc::new(Shared::new(Arc::new(Event::new().unwrap())).unwrap()),
        commands,
    };
    let queue = Lean {
        chunks: vec![ChunkIndex(0); RING as usize],
        head: 0,
        tail: 0,
        burst,
        event: Event::new().unwrap(),
    };
    let words = super::Words::new(&parts.layout, parts.place, &parts.memory).unwrap();
    (Worker::new(queue, parts, words), client)
}

/// One round of the loop in which packets came.
#[inline(never)]
fn round(worker: &mut Worker<Lean>, batch: &mut RxBatch, now: Instant) {
    batch.clear();
    worker.queue.poll(batch);
    worker.deliver(batch);
    worker.publish(now);
    worker.refill(false);
    worker.words.store(&worker.numbers);
}

#[test]
#[ignore = "a measurement"]
fn cost_of_a_packet() {
    let only = std::env::var("DEVRX_COST_BATCH")
        .ok()
        .and_then(|burst| burst.parse().ok());
    for burst in [32, 64, 128, 256] {
        if only.is_some_and(|only: usize| only != burst) {
            continue;
        }
        let (mut worker, mut client) = worker(burst);
        let mut batch = RxBatch::new();
        let mut entries = [Completion::default(); 256];
        let mut spent = Duration::ZERO;
        let rounds = 2000;
        while worker.queue.refill(&mut worker.pool) > 0 {}
        for _ in 0..rounds {
            let start = Instant::now();
            round(&mut worker, &mut batch, start);
            spent += start.elapsed();
            let count = client.completions.take(&mut entries);
            assert_eq!(count, burst);
            let back: Vec<_> = entries[..count]
                .iter()
                .map(|entry| RefillEntry::new(entry.chunk, entry.generation))
                .collect();
            assert!(client.refills.push(&back));
            client.refills.publish();
        }
        let packets = burst as u32 * rounds;
        println!(
            "batch {burst}: {:.1} ns a packet",
            spent.as_secs_f64() * 1e9 / f64::from(packets)
        );
    }
}
