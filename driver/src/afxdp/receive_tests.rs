//! The receive path with a kernel made of plain memory: a well-behaved one, a broken one, a hostile one.

use std::collections::VecDeque;
use std::os::fd::AsFd;

use devrx_pool::PoolConfig;
use devrx_provider::{Mapping, RegionProvider, RegionSpec, memfd};
use proptest::prelude::*;

use super::super::ring::testing::pair;
use super::*;
use crate::{NO_FLOW, RxBatch, ZeroCopy};

const CHUNKS: u32 = 32;
const CHUNK: u32 = 2048;
const SLOT: u32 = 256;

/// Everything but the kernel, and the kernel's ends of the rings.
struct Bench {
    receive: Receive,
    pool: Pool,
    rx: Producer<Desc>,
    fill: Consumer<u64>,
    board: Arc<RuleBoard>,
    /// Addresses taken from the fill ring.
    ours: VecDeque<u64>,
}

fn slots(count: u32) -> Arc<Mapping> {
    let fd = nix::sys::memfd::memfd_create(c"devrx-test", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)
        .unwrap();
    nix::unistd::ftruncate(&fd, i64::from(count * SLOT)).unwrap();
    Arc::new(Mapping::map_shared(fd.as_fd(), 0, (count * SLOT) as usize, true).unwrap())
}

/// The second of two queues, so that indices of region and share differ.
fn bench(ring: u32, split: bool) -> Bench {
    bench_with(ring, split, 0)
}

fn bench_with(ring: u32, split: bool, split_extra: u16) -> Bench {
    let region = memfd::create(
        "devrx-test",
        RegionSpec {
            size: u64::from(2 * CHUNKS * CHUNK),
            chunk_size: CHUNK,
        },
    )
    .unwrap();
    let provider = RegionProvider::split(Arc::new(region), 2)
        .unwrap()
        .swap_remove(1);
    assert_eq!(provider.chunks(), CHUNKS..2 * CHUNKS);
    let (pool, _) = Pool::new(provider.clone(), PoolConfig::default());
    let (rx, fill) = (pair::<Desc>(ring), pair::<u64>(ring));
    let board = Arc::new(RuleBoard::default());
    let config = QueueConfig {
        provider,
        headers: HeaderSlots {
            memory: slots(CHUNKS),
            start: 0,
            slot_size: SLOT,
            first: ChunkIndex(CHUNKS),
        },
        split,
        ring,
        busy_poll: false,
        zero_copy: ZeroCopy::Auto,
        split_extra,
        unsplit: crate::Unsplit::default(),
        timestamps: crate::Timestamps::default(),
    };
    let base = (CHUNKS * CHUNK) as usize;
    let receive = Receive::new(rx.consumer, fill.producer, config, base, Arc::clone(&board));
    Bench {
        receive,
        pool,
        rx: rx.producer,
        fill: fill.consumer,
        board,
        ours: VecDeque::new(),
    }
}

impl Bench {
    fn refill(&mut self) -> usize {
        let posted = self.receive.refill(&mut self.pool);
        let filled = self.fill.available(u32::MAX);
        self.ours
            .extend((0..filled).map(|ahead| self.fill.read(ahead)));
        self.fill.release(filled);
        posted
    }

    /// A descriptor as it is.
    fn push(&mut self, address: u64, length: u32, more: bool) {
        assert!(self.rx.free(1) > 0);
        self.rx.write(
            0,
            Desc {
                address,
                length,
                options: u32::from(more),
            },
        );
        self.rx.submit(1);
    }

    /// What the kernel does with a frame: cut over as many posted chunks as it takes, 256 bytes into each.
    fn frame(&mut self, frame: &[u8]) {
        let room = (CHUNK - 256) as usize;
        let parts: Vec<&[u8]> = frame.chunks(room).collect();
        for (at, part) in parts.iter().enumerate() {
            let address = self.ours.pop_front().expect("a posted chunk") + 256;
            let region = &self.receive.region;
            assert!(
                region
                    .mapping()
                    .unwrap()
                    .copy_in(self.receive.base + address as usize, part)
            );
            self.push(address, part.len() as u32, at + 1 < parts.len());
        }
    }

    fn poll(&mut self) -> RxBatch {
        let mut batch = RxBatch::new();
        self.receive.poll(&mut batch);
        batch
    }

    /// Invariant 1: every chunk is somewhere. `client`: handed out by `poll` and not given back.
    fn accounted(&self, client: u32) {
        let counts = self.pool.counts();
        let elsewhere = self.receive.posted() + client;
        assert_eq!(
            counts.in_flight,
            counts.cached + counts.ring + elsewhere,
            "{counts:?}"
        );
    }
}

fn udp(payload: usize) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0];
    frame.extend(((28 + payload) as u16).to_be_bytes());
    frame.extend([
        0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0x13, 0x87, 0x13, 0x88,
    ]);
    frame.extend(((8 + payload) as u16).to_be_bytes());
    frame.extend([0, 0]);
    frame.extend((0..payload).map(|at| at as u8));
    frame
}

#[test]
fn a_frame_is_split_and_its_chunk_changes_hands() {
    let mut bench = bench(16, true);
    bench.board.set(vec![(4, crate::flow::FlowRule::ANY)]);
    assert_eq!(bench.refill(), 16);
    bench.frame(&udp(100));
    let batch = bench.poll();
    let entry = batch[0];
    assert_eq!(
        (batch.len(), entry.header_length, entry.offset, entry.length),
        (1, 42, 256 + 42, 100)
    );
    assert_eq!(
        (entry.flow, entry.flags),
        (4, RxFlags::SPLIT | RxFlags::TIMESTAMP_SW)
    );
    assert!(entry.chunk.0 >= CHUNKS, "counted in the region");
    let mut header = [0; 42];
    let slot = bench.receive.headers.offset_of(entry.chunk).unwrap();
    assert!(bench.receive.headers.memory.copy_out(slot, &mut header));
    assert_eq!(header[..], udp(100)[..42]);
    assert_eq!(bench.receive.posted(), 15);
    bench.accounted(1);
}

#[test]
fn an_empty_payload_is_an_entry() {
    let mut bench = bench(16, true);
    bench.refill();
    bench.frame(&udp(0));
    let batch = bench.poll();
    assert_eq!(
        (
            batch.len(),
            batch[0].length,
            batch[0].header_length,
            batch[0].flow
        ),
        (1, 0, 42, NO_FLOW)
    );
}

#[test]
fn the_split_can_take_payload_along() {
    let mut bench = bench_with(16, true, 200);
    bench.refill();
    for payload in [100, 300, 5] {
        bench.frame(&udp(payload));
    }
    let batch = bench.poll();
    let cuts: Vec<_> = (0..3)
        .map(|at| (batch[at].header_length, batch[at].length))
        .collect();
    assert_eq!(
        cuts,
        [(142, 0), (242, 100), (47, 0)],
        "no more than there is"
    );
}

#[test]
fn a_header_longer_than_its_slot_is_not_split() {
    let mut bench = bench(16, true);
    bench.refill();
    // IPv6 with hop-by-hop options of 264 bytes.
    let mut frame = vec![
        2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xdd, 0x60, 0, 0, 0,
    ];
    frame.extend((264_u16 + 8).to_be_bytes());
    frame.extend([0, 64]);
    frame.extend([0; 32]);
    frame.extend([17, 32]);
    frame.extend([0; 262]);
    frame.extend([0, 1, 0, 2, 0, 8, 0, 0]);
    bench.frame(&frame);
    bench.frame(&frame[..200]);
    let batch = bench.poll();
    for (entry, length) in batch.iter().zip([frame.len(), 200]) {
        assert_eq!(
            (entry.header_length, usize::from(entry.length), entry.flags),
            (0, length, RxFlags::TIMESTAMP_SW)
        );
    }
    assert_eq!(bench.receive.counts().unsplit, 2);
    // With room it is split, although the first look is not enough.
    bench.receive.slot_size = 512;
    bench.receive.headers = HeaderSlots {
        memory: slots(4 * CHUNKS),
        start: 0,
        slot_size: 512,
        first: ChunkIndex(CHUNKS),
    };
    bench.frame(&frame);
    let batch = bench.poll();
    assert_eq!(usize::from(batch[0].header_length), frame.len());
}

#[test]
fn a_frame_stays_back_until_it_is_whole_and_has_room() {
    let mut bench = bench(16, true);
    bench.refill();
    bench.frame(&udp(10));
    let jumbo = udp(4000);
    let addresses: Vec<u64> = bench.ours.drain(..3).collect();
    for address in &addresses[..2] {
        bench.push(address + 256, 1792, true);
    }
    assert_eq!(bench.poll().len(), 1, "the jumbo frame's end is missing");
    assert_eq!(bench.poll().len(), 0);
    bench.push(addresses[2] + 256, (jumbo.len() - 2 * 1792) as u32, false);
    let filler = RxChunk {
        chunk: ChunkIndex(0),
        offset: 0,
        length: 0,
        header_length: 0,
        vlan: 0,
        rss_hash: 0,
        flags: RxFlags::empty(),
        flow: 0,
        timestamp: 0,
    };
    let mut batch: RxBatch = std::iter::repeat_n(filler, 254).collect();
    assert_eq!(
        bench.receive.poll(&mut batch),
        0,
        "three entries do not fit in two"
    );
    assert_eq!(batch.len(), 254);
    batch.pop();
    assert_eq!(bench.receive.poll(&mut batch), 3);
    let flags: Vec<bool> = batch[253..]
        .iter()
        .map(|entry| entry.flags.contains(RxFlags::MORE))
        .collect();
    assert_eq!(flags, [true, true, false]);
    assert_eq!(bench.receive.counts().received, 2);
    assert_eq!(
        bench.receive.counts().bytes as usize,
        udp(10).len() + jumbo.len()
    );
    bench.accounted(4);
}

/// What a client returns goes to the kernel as it is, each chunk once; or not at all, if there is no room for all of it.
#[test]
fn returns_are_posted_at_their_addresses() {
    let mut bench = bench(16, true);
    bench.refill();
    for _ in 0..6 {
        bench.frame(&udp(10));
    }
    let chunks: Vec<ChunkIndex> = bench.poll().iter().map(|entry| entry.chunk).collect();
    assert_eq!(chunks.len(), 6);
    let entries: Vec<(u32, u16)> = chunks
        .iter()
        .map(|chunk| (chunk.0, bench.pool.deliver(*chunk)))
        .collect();
    // One that is given back twice is refused, and takes no place from the others.
    let named = [&entries[..4], &entries[..1]].concat();
    assert_eq!(bench.receive.room(), 6);
    assert!(bench.receive.post(bench.pool.returns(named.into_iter())));
    let posted: Vec<u64> = (0..bench.fill.available(u32::MAX))
        .map(|ahead| bench.fill.read(ahead))
        .collect();
    let addresses: Vec<u64> = chunks[..4]
        .iter()
        .map(|chunk| bench.receive.chunks.umem_offset(*chunk) as u64)
        .collect();
    assert_eq!(posted, addresses);
    assert_eq!(bench.pool.counts().refused.repeated, 1);
    // Three for two places: none is taken back.
    let named = [&entries[4..], &entries[..1]].concat();
    assert!(!bench.receive.post(bench.pool.returns(named.into_iter())));
    assert_eq!(bench.pool.counts().with_client, 2);
    assert_eq!(bench.receive.room(), 2);
    assert!(
        bench
            .receive
            .post(bench.pool.returns(entries[4..].iter().copied()))
    );
    assert_eq!(
        (bench.receive.room(), bench.pool.counts().with_client),
        (0, 0)
    );
    bench.accounted(0);
}

#[test]
fn hostile_descriptor_costs_its_frame_and_no_chunk() {
    let mut bench = bench(16, true);
    bench.refill();
    let first = bench.ours.pop_front().unwrap();
    let second = bench.ours.pop_front().unwrap();
    bench.push(u64::from(CHUNKS * CHUNK), 60, false); // behind the umem
    bench.push(first + 2000, 100, false); // leaves its chunk
    bench.push(first, 60, false); // taken back already
    bench.push(second, 60, true); // a good start,
    bench.push(u64::MAX, 60, true); // a bad middle,
    bench.push(second, 60, false); // and an end
    bench.frame(&udp(10)); // innocent
    let batch = bench.poll();
    assert_eq!(batch.len(), 1);
    assert_eq!(
        (
            bench.receive.counts().bad_descriptor,
            bench.receive.counts().received
        ),
        (4, 1)
    );
    assert_eq!(bench.receive.posted(), 15);
    // What could be saved is posted again, and the batch's entry comes from the pool.
    assert_eq!(bench.refill(), 3);
    assert_eq!(bench.receive.posted(), 16);
    bench.accounted(1);
}

#[test]
fn a_frame_of_too_many_chunks_is_oversize() {
    let mut bench = bench(32, true);
    bench.refill();
    let addresses: Vec<u64> = bench.ours.drain(..MAX_CHUNKS + 2).collect();
    for (at, address) in addresses.iter().enumerate() {
        bench.push(*address, 100, at + 1 < addresses.len());
    }
    bench.frame(&udp(10));
    assert_eq!(bench.poll().len(), 1);
    assert_eq!(
        (
            bench.receive.counts().oversize,
            bench.receive.counts().received
        ),
        (1, 1)
    );
    assert_eq!(bench.refill(), MAX_CHUNKS + 2, "the pool has none left");
    // 18 are fine.
    let addresses: Vec<u64> = bench.ours.drain(..MAX_CHUNKS).collect();
    for (at, address) in addresses.iter().enumerate() {
        bench.push(*address, 100, at + 1 < addresses.len());
    }
    assert_eq!(bench.poll().len(), MAX_CHUNKS);
}

#[test]
fn hostile_producer_cannot_keep_a_poll_busy() {
    let mut bench = bench(16, true);
    bench.refill();
    for _ in 0..3 {
        bench.rx.claim(u32::MAX);
        assert_eq!(bench.poll().len(), 0, "empty descriptors");
    }
    assert_eq!(
        bench.receive.counts().bad_descriptor,
        3 * 16,
        "no more of them than the ring is long"
    );
    assert_eq!(bench.refill(), 1);
    bench.accounted(0);
}

#[test]
fn the_end_gives_everything_back() {
    let mut bench = bench(16, true);
    bench.refill();
    bench.frame(&udp(10));
    bench.frame(&udp(20));
    let address = bench.ours.pop_front().unwrap();
    bench.push(address, 100, true); // its end never comes
    bench.receive.end();
    assert!(bench.receive.has_work());
    assert_eq!(
        bench.receive.refill(&mut bench.pool),
        0,
        "nothing is posted any more"
    );
    assert_eq!(bench.poll().len(), 2);
    assert_eq!(bench.poll().len(), 0);
    assert_eq!(bench.receive.counts().incomplete, 1);
    assert!(!bench.receive.has_work());
    bench.receive.reclaim(&mut bench.pool);
    assert_eq!(bench.receive.posted(), 0);
    bench.accounted(2);
}

#[test]
fn the_kernel_asks_to_be_woken() {
    let fill = pair::<u64>(4);
    let mut kernel = fill.producer;
    assert!(!kernel.needs_wakeup());
    kernel.set_flags(1);
    assert!(kernel.needs_wakeup());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever the kernel writes into the rx ring: no panic, no entry outside its chunk or of a chunk that was not posted, and no chunk lost or doubled.
    #[test]
    fn hostile_kernel_loses_no_chunk(steps in prop::collection::vec((0_u8..6, any::<u64>(), any::<u32>(), any::<bool>()), 1..200)) {
        let mut bench = bench(16, true);
        let mut client: Vec<ChunkIndex> = Vec::new();
        for (what, address, length, more) in steps {
            match what {
                0 => { bench.refill(); }
                1 => {
                    for entry in bench.poll() {
                        prop_assert!(u32::from(entry.offset) + u32::from(entry.length) <= CHUNK);
                        prop_assert!((CHUNKS..2 * CHUNKS).contains(&entry.chunk.0));
                        prop_assert!(!client.contains(&entry.chunk), "delivered twice");
                        client.push(entry.chunk);
                    }
                }
                2 => if let Some(chunk) = client.pop() { bench.pool.recycle(chunk) },
                3 => if bench.rx.free(1) > 0 { bench.push(address, length, more) },
                // Nearly right: in the umem, of a plausible length.
                _ => if bench.rx.free(1) > 0 { bench.push(address % u64::from(CHUNKS * CHUNK), length % 2500, more) },
            }
            bench.accounted(client.len() as u32);
        }
        bench.receive.end();
        client.extend(bench.poll().iter().map(|entry| entry.chunk));
        while !bench.poll().is_empty() {}
        bench.receive.reclaim(&mut bench.pool);
        prop_assert_eq!(bench.receive.posted(), 0);
        bench.accounted(client.len() as u32);
    }
}

/// `cargo test --release -p devrx-driver -- --ignored --nocapture the_cost_of_a_packet`
#[test]
#[ignore = "a measurement"]
fn the_cost_of_a_packet() {
    for (name, split, rules) in [
        ("split, one rule", true, 1),
        ("split, two rules", true, 2),
        ("no split, one rule", false, 1),
    ] {
        let mut bench = bench(32, split);
        bench.board.set(
            (0..rules)
                .map(|id| (id, "udp,dst-port=5000".parse().unwrap()))
                .collect(),
        );
        let frame = udp(18);
        bench.refill();
        for address in bench.ours.clone() {
            let region = &bench.receive.region;
            let at = bench.receive.base + address as usize + 256;
            assert!(region.mapping().unwrap().copy_in(at, &frame));
        }
        let (mut packets, mut spent) = (0_u64, std::time::Duration::ZERO);
        let mut batch = RxBatch::new();
        for _ in 0..100_000 {
            while let Some(address) = bench.ours.pop_front() {
                bench.push(address + 256, frame.len() as u32, false);
            }
            let start = std::time::Instant::now();
            bench.receive.poll(&mut batch);
            packets += batch.len() as u64;
            for entry in batch.drain(..) {
                bench.pool.recycle(entry.chunk);
            }
            bench.receive.refill(&mut bench.pool);
            spent += start.elapsed();
            bench.refill();
        }
        let each = spent.as_nanos() as f64 / packets as f64;
        eprintln!("{name}: {each:.1} ns a packet for poll, recycle and refill, 32 a batch");
    }
}
