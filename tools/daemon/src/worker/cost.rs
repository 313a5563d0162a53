//! What a packet costs a worker: descriptor, completion, publication, return, descriptor again. The queue is igb's or ice's, on the model of its registers, which writes
//! descriptors outside of what is counted. What is measured is tested for what it does, never for what a clock says: the measurement is run by `cargo xtask bench` and under callgrind,
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
use devrx_driver::{
    HeaderSlots, Nic, QueueConfig, RxBatch, RxChunk, RxQueue, RxSink, RxWords, Timestamps, Unsplit,
    ZeroCopy,
};
use devrx_pool::{Pool, PoolConfig};
use devrx_proto::completion::{Completion, CompletionFlags};
use devrx_proto::event::Event;
use devrx_proto::layout::{Layout, LayoutParams};
use devrx_proto::refill::RefillEntry;
use devrx_proto::ring::{ClientQueue, DaemonQueue, Start};
use devrx_proto::shm::Shm;
use devrx_provider::{ChunkIndex, Mapping, MemoryProvider, RegionProvider, RegionSpec, memfd};

use super::sink::RingSink;
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

fn worker<N: Nic>(nic: &mut N, rule: &str) -> (Worker<N::Queue>, ClientQueue) {
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
        timestamps: Timestamps::Software,
    };
    let queue = nic.open_queue(0, config).unwrap();
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

/// What is measured is right: every entry reaches the client as the descriptor says, comes back, and is counted, by four and one by one, in batches of all sizes, over the rings' ends.
#[test]
fn packets_reach_the_client_as_they_came_and_come_back() {
    for (rule, flushes) in [
        ("any", false),
        ("any", true),
        ("udp,dst-port=5000", false),
        ("udp,dst-port=5000", true),
    ] {
        let model = IgbModel::new(0x10c9);
        let mut nic = IgbNic::open(Arc::clone(&model), IgbOptions::default()).unwrap();
        let (mut worker, mut client) = worker(&mut nic, rule);
        worker.flushes = flushes;
        let mut batch = RxBatch::new();
        let mut entries = [Completion::default(); 256];
        let (mut packets, mut payload) = (0_u32, 0);
        worker.refill(true);
        for burst in (1..=256).chain([1, 3, 4, 7, 255, 256, 31, 32, 33]) {
            let length = |nth: u32| 1 + nth % 1400;
            for nth in 0..burst {
                // As in the measurement, but for hash and length.
                let hash = u64::from(packets + nth) << 32;
                model.scribble(
                    0,
                    (packets + nth) % RING,
                    [hash | 0x8540_0217, u64::from(length(nth)) << 32 | 0x33],
                );
            }
            round(&mut worker, &mut batch, Instant::now());
            let count = client.completions.take(&mut entries);
            assert_eq!(count, burst as usize, "{rule}");
            for (entry, nth) in entries[..count].iter().zip(0..) {
                let expected = Completion {
                    chunk: entry.chunk,
                    generation: entry.generation,
                    timestamp: entry.timestamp,
                    flow: 7,
                    offset: 0,
                    length: length(nth) as u16,
                    header_length: 42,
                    vlan: 0,
                    rss_hash: packets + nth,
                    flags: entry.flags,
                };
                assert_eq!(*entry, expected);
                let flags =
                    CompletionFlags::SPLIT | CompletionFlags::HASH | CompletionFlags::CSUM_GOOD;
                assert!(entry.flags().contains(flags) && !entry.more());
                payload += u64::from(length(nth));
            }
            let back: Vec<_> = entries[..count]
                .iter()
                .map(|entry| RefillEntry::new(entry.chunk, entry.generation))
                .collect();
            assert!(client.refills.push(&back));
            client.refills.publish();
            packets += burst;
        }
        worker.take_returns(usize::MAX);
        worker.refresh();
        let numbers = worker.numbers;
        assert_eq!(
            (
                numbers.forged,
                numbers.stale,
                numbers.repeated,
                numbers.with_client
            ),
            (0, 0, 0, 0)
        );
        assert_eq!(
            [numbers.delivered, numbers.completions, numbers.returned],
            [u64::from(packets); 3]
        );
        assert_eq!(numbers.payload_bytes, payload);
        assert_eq!(numbers.bytes, payload + 42 * u64::from(packets));
        assert_eq!(numbers.flush_reads, if flushes { 265 } else { 0 });
        worker.queue.stop().unwrap();
        drop(nic);
    }
}

/// Where the last payload ends is known however entries come.
#[test]
fn the_last_payload_is_known() {
    type Put = fn(&mut RingSink<'_, true>, [RxWords; 4]);
    let ways: [(&str, Put); 3] = [
        ("by four", |sink, words| {
            let mut once = Some((words.map(|RxWords([chunk, ..])| chunk as u32), words));
            sink.extend_by_four(|| once.take());
        }),
        ("in a row", |sink, words| {
            sink.extend(words.into_iter().map(RxChunk::from));
        }),
        ("one by one", |sink, words| {
            words.into_iter().for_each(|words| sink.push(words.into()));
        }),
    ];
    let model = IgbModel::new(0x10c9);
    let mut nic = IgbNic::open(Arc::clone(&model), IgbOptions::default()).unwrap();
    let (mut worker, _client) = worker(&mut nic, "any");
    for (way, put) in ways {
        for (lengths, last) in [
            ([10, 20, 30, 40], Some(3)),
            ([10, 20, 0, 0], Some(1)),
            ([5, 0, 0, 0], Some(0)),
            ([0; 4], None),
        ] {
            let mut chunks = [ChunkIndex(0); 4];
            assert_eq!(worker.pool.take(&mut chunks), 4);
            let words = std::array::from_fn(|nth| {
                RxWords([chunks[nth].0.into(), 16 | lengths[nth] << 16, 0, 0])
            });
            let group = worker.rings.completions.reserve_some(8, 8).unwrap();
            let mut sink = RingSink::<true>::new(group, worker.pool.delivery());
            put(&mut sink, words);
            let expected = last.map(|nth: usize| (chunks[nth], 16 + lengths[nth] as u32));
            assert_eq!(sink.finish().last, expected, "{lengths:?} {way}");
        }
    }
    worker.queue.stop().unwrap();
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
    let rule = std::env::var("DEVRX_COST_RULE").unwrap_or("any".into());
    let (mut worker, mut client) = worker(&mut nic, &rule);
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
