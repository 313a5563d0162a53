//! What a packet costs a worker: descriptor, completion, publication, return, descriptor again. The queue is igb's or ice's, on the model of its registers, which writes
//! descriptors outside of what is counted. Asserts nothing that a clock says: it is run by `cargo xtask bench` and under callgrind,
//!
//! ```text
//! cargo test --release -p devrx-daemon --lib --no-run
//! DEVRX_COST_BATCH=256 valgrind --tool=callgrind --toggle-collect='*worker::cost::round*' TEST --ignored --exact worker::cost::cost_of_a_packet
//! ```
//!
//! where the collected instructions, divided by the packets printed, are what a packet costs. `DEVRX_COST_RULE` is the queue's rule, `any` if there is none:
//! `udp,dst-port=5000` takes the packets, too. `DEVRX_COST_NIC=ice` is for ice, for which `DEVRX_TEST_DDP` names Intel's package (`ice.pkg`).

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use devrx_driver::ice::model::{IceModel, Personality};
use devrx_driver::ice::{IceNic, IceOptions, PackageSource};
use devrx_driver::igb::model::IgbModel;
use devrx_driver::igb::{IgbNic, IgbOptions};
use devrx_driver::{HeaderSlots, Nic, QueueConfig, RxBatch, RxQueue, Unsplit, ZeroCopy};
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

const CHUNKS: u32 = 2048;
const RING: u32 = 1024;
const SLOT: u32 = 256;

/// Ethernet, IPv4 and UDP to port 5000, for 58 bytes of payload.
const HEADER: [u8; 42] = [
    0x52, 0x54, 0, 0, 0, 0x10, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, 0, 86, 0, 1, 0x40, 0, 64, 17, 0, 0,
    10, 0, 0, 1, 10, 0, 0, 2, 0x13, 0x87, 0x13, 0x88, 0, 66, 0, 0,
];

fn worker<N: Nic>(nic: &mut N) -> (Worker<N::Queue>, ClientQueue) {
    let spec = RegionSpec {
        size: u64::from(CHUNKS) * 4096,
        chunk_size: 4096,
    };
    let region = Arc::new(memfd::create("cost", spec).unwrap());
    let provider: Arc<dyn MemoryProvider> = RegionProvider::whole(region.clone());
    let layout = Layout::new(&LayoutParams {
        queues: 1,
        completions: CHUNKS,
        chunks: CHUNKS,
        header_slot: SLOT,
    })
    .unwrap();
    let (fd, memory) = Shm::create_client_written("cost", layout.daemon_size()).unwrap();
    let slots = (CHUNKS * SLOT) as usize;
    let headers = Arc::new(Mapping::map_shared(fd.as_fd(), layout.headers(), slots, true).unwrap());
    let (_, client_memory) = Shm::create_client_written("cost", 1 << 20).unwrap();
    let rings = DaemonQueue::new(&layout, 0, &memory, &client_memory, Start::default()).unwrap();
    let client = ClientQueue::new(&layout, 0, &memory, &client_memory, Start::default()).unwrap();

    provider.init(&nic.needs()).unwrap();
    let config = QueueConfig {
        provider: provider.clone(),
        headers: HeaderSlots {
            memory: Arc::clone(&headers),
            start: 0,
            slot_size: SLOT,
            first: ChunkIndex(0),
        },
        split: true,
        ring: RING,
        busy_poll: false,
        zero_copy: ZeroCopy::Auto,
        split_extra: 0,
        unsplit: Unsplit::Deliver,
    };
    let queue = nic.open_queue(0, config).unwrap();
    let rule = std::env::var("DEVRX_COST_RULE").unwrap_or("any".into());
    nic.add_flow(0..=0, 7, &rule.parse().unwrap()).unwrap();
    for slot in 0..CHUNKS {
        assert!(headers.copy_in((slot * SLOT) as usize, &HEADER));
    }

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
        headers,
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
    let words = super::Words::new(&parts.layout, parts.place, &parts.memory).unwrap();
    (Worker::new(queue, parts, words), client)
}

/// One round of the loop in which packets came.
#[inline(never)]
fn round<Q: RxQueue>(worker: &mut Worker<Q>, batch: &mut RxBatch, now: Instant) {
    worker.receive(batch);
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
    let ice = std::env::var("DEVRX_COST_NIC").is_ok_and(|nic| nic == "ice");
    for burst in [32, 64, 128, 256] {
        if only.is_some_and(|only: u32| only != burst) {
            continue;
        }
        // UDP over IPv4, 58 bytes of payload, split, checksum right, hashed.
        if ice {
            let package = std::env::var_os("DEVRX_TEST_DDP").expect("Intel's package");
            let model = IceModel::new(Personality::default());
            let mut options = IceOptions::default();
            options.package = PackageSource::Bytes(std::fs::read(package).unwrap().into());
            let nic = IceNic::open(Arc::clone(&model), options).unwrap();
            let info = 2 | 24 << 16 | 58 << 32 | (42 | 1 << 11) << 48;
            let words = [info, 0xdead_beef_0000_100b, 0, 0];
            measure(nic, burst, |at| model.scribble(0, at, words));
        } else {
            let model = IgbModel::new(0x10c9);
            let nic = IgbNic::open(Arc::clone(&model), IgbOptions::default()).unwrap();
            let words = [0xdead_beef_8540_0217, 0x0000_003a_0000_0033];
            measure(nic, burst, |at| model.scribble(0, at, words));
        }
    }
}

/// Many rounds; `arrive` writes the descriptor of a packet back.
fn measure(mut nic: impl Nic, burst: u32, arrive: impl Fn(u32)) {
    let (mut worker, mut client) = worker(&mut nic);
    let mut batch = RxBatch::new();
    let mut entries = [Completion::default(); 256];
    let mut spent = Duration::ZERO;
    let (rounds, mut at) = (1000, 0);
    worker.refill(true);
    for _ in 0..rounds {
        for _ in 0..burst {
            arrive(at % RING);
            at += 1;
        }
        let start = Instant::now();
        round(&mut worker, &mut batch, start);
        spent += start.elapsed();
        let count = client.completions.take(&mut entries);
        assert_eq!(count, burst as usize);
        let back: Vec<_> = entries[..count]
            .iter()
            .map(|entry| RefillEntry::new(entry.chunk, entry.generation))
            .collect();
        assert!(client.refills.push(&back));
        client.refills.publish();
    }
    let packets = burst * rounds;
    println!(
        "batch {burst}: {packets} packets, {:.1} ns each",
        spent.as_secs_f64() * 1e9 / f64::from(packets)
    );
    worker.queue.stop().unwrap();
    drop(nic);
}
