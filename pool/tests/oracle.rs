//! The pool against a naive oracle: any sequence of operations, the whole accounting checked after each.
#![cfg(not(loom))]
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock};

use devrx_pool::{DrainState, Pool, PoolConfig, PoolHandle, Refusal, Refused};
use devrx_provider::{
    ChunkIndex, Flush, MapWay, MemoryProvider, ProviderError, ProviderStats, QueueNeeds, Region,
    RegionSpec, memfd,
};
use proptest::prelude::*;

/// What passed between the pool and its provider.
#[derive(Clone, Copy, Debug)]
enum Passed {
    Out(ChunkIndex),
    Back(ChunkIndex),
}

/// A provider that writes down what passes, and hands chunks out first in, first out.
#[derive(Debug)]
struct Provider {
    chunks: Range<u32>,
    state: Mutex<(Vec<ChunkIndex>, Vec<Passed>)>,
}

impl MemoryProvider for Provider {
    fn region(&self) -> &Arc<Region> {
        static REGION: OnceLock<Arc<Region>> = OnceLock::new();
        REGION.get_or_init(|| {
            Arc::new(
                memfd::create(
                    "oracle",
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
        self.chunks.clone()
    }

    fn init(&self, _: &QueueNeeds) -> Result<(), ProviderError> {
        Ok(())
    }

    fn uninstall(&self) {}

    fn alloc(&self, out: &mut Vec<ChunkIndex>, want: usize) -> usize {
        let (free, log) = &mut *self.state.lock().unwrap();
        let got: Vec<_> = free.drain(..want.min(free.len())).collect();
        log.extend(got.iter().copied().map(Passed::Out));
        out.extend(&got);
        got.len()
    }

    fn release(&self, chunks: &[ChunkIndex]) {
        let (free, log) = &mut *self.state.lock().unwrap();
        free.extend(chunks);
        log.extend(chunks.iter().copied().map(Passed::Back));
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

/// What somebody does. Numbers pick among what is there, modulo how many there are.
#[derive(Clone, Debug)]
enum Op {
    Take(usize),
    Recycle(usize),
    RecycleBatch(usize),
    Deliver(usize),
    Return(usize),
    ReturnBatch(usize),
    /// A return of a chunk of the share, of an index near it, or of any, under a generation so far behind the right one.
    ReturnForged {
        chunk: u32,
        behind: i16,
    },
    ReclaimByOwner,
    ReclaimByHandle,
    Retain(usize),
    Release(usize),
    ReleaseBatch(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let near = prop_oneof![0..500_u32, Just(u32::MAX), any::<u32>()];
    let behind = prop_oneof![Just(0_i16), Just(1), Just(-1), any::<i16>()];
    prop_oneof![
        6 => (0..200_usize).prop_map(Op::Take),
        2 => any::<usize>().prop_map(Op::Recycle),
        2 => (0..300_usize).prop_map(Op::RecycleBatch),
        8 => any::<usize>().prop_map(Op::Deliver),
        6 => any::<usize>().prop_map(Op::Return),
        1 => (0..300_usize).prop_map(Op::ReturnBatch),
        6 => (near, behind).prop_map(|(chunk, behind)| Op::ReturnForged { chunk, behind }),
        1 => Just(Op::ReclaimByOwner),
        1 => Just(Op::ReclaimByHandle),
        3 => any::<usize>().prop_map(Op::Retain),
        3 => any::<usize>().prop_map(Op::Release),
        1 => (0..300_usize).prop_map(Op::ReleaseBatch),
    ]
}

/// Where one chunk is, as plainly as it can be said.
#[derive(Clone, Debug, Default)]
struct Place {
    /// The provider lent it to the pool.
    lent: bool,
    /// The owner took it and still has it.
    owned: bool,
    /// The client has it.
    with_client: bool,
    /// References of other threads.
    retained: usize,
    /// How often it was delivered; the low half is the generation.
    deliveries: u32,
}

impl Place {
    fn idle(&self) -> bool {
        self.lent && !self.owned && !self.with_client && self.retained == 0
    }
}

#[derive(Debug, Default)]
struct Oracle {
    places: BTreeMap<u32, Place>,
    hold: u32,
    release: u32,
    delivered: u64,
    returned: u64,
    reclaimed: u64,
    empty: u64,
    missing: u64,
    refused: Refused,
}

impl Oracle {
    fn pick(&self, which: usize, has: impl Fn(&Place) -> bool) -> Option<u32> {
        let all: Vec<u32> = self.all(has);
        (!all.is_empty()).then(|| all[which % all.len()])
    }

    fn all(&self, has: impl Fn(&Place) -> bool) -> Vec<u32> {
        self.places
            .iter()
            .filter(|(_, place)| has(place))
            .map(|(&chunk, _)| chunk)
            .collect()
    }

    fn place(&mut self, chunk: u32) -> &mut Place {
        self.places.get_mut(&chunk).expect("a chunk of the share")
    }

    /// What a return must be answered with.
    fn judge(&self, chunk: u32, generation: u16) -> Result<(), Refusal> {
        let place = self.places.get(&chunk).ok_or(Refusal::Forged)?;
        let now = place.deliveries as u16;
        let behind = (65536 + u32::from(now) - u32::from(generation)) % 65536;
        match behind {
            _ if place.deliveries == 0 => Err(Refusal::Forged),
            0 if place.with_client => Ok(()),
            0 => Err(Refusal::Repeated),
            1..32768 => Err(Refusal::Stale),
            _ => Err(Refusal::Forged),
        }
    }

    fn count(&mut self, result: Result<(), Refusal>) {
        match result {
            Ok(()) => self.returned += 1,
            Err(Refusal::Forged) => self.refused.forged += 1,
            Err(Refusal::Stale) => self.refused.stale += 1,
            Err(Refusal::Repeated) => self.refused.repeated += 1,
        }
    }

    /// Follows what passed between pool and provider; a chunk may only leave when nobody has it.
    fn follow(&mut self, log: Vec<Passed>) {
        for passed in log {
            match passed {
                Passed::Out(chunk) => {
                    let place = self.place(chunk.0);
                    assert!(!place.lent, "the provider had chunk {chunk:?}");
                    place.lent = true;
                    self.hold = self.hold.wrapping_add(1);
                }
                Passed::Back(chunk) => {
                    let place = self.place(chunk.0);
                    assert!(
                        place.idle(),
                        "chunk {chunk:?} went to the provider while somebody had it: {place:?}"
                    );
                    place.lent = false;
                    self.release = self.release.wrapping_add(1);
                }
            }
        }
    }
}

struct Run {
    provider: Arc<Provider>,
    pool: Pool,
    handle: PoolHandle,
    oracle: Oracle,
}

impl Run {
    fn new(chunks: Range<u32>, ring: usize) -> Self {
        let free = chunks.clone().map(ChunkIndex).collect();
        let provider = Arc::new(Provider {
            chunks: chunks.clone(),
            state: Mutex::new((free, Vec::new())),
        });
        let (pool, handle) = Pool::new(provider.clone(), PoolConfig { recycle_ring: ring });
        let oracle = Oracle {
            places: chunks.map(|chunk| (chunk, Place::default())).collect(),
            ..Oracle::default()
        };
        Self {
            provider,
            pool,
            handle,
            oracle,
        }
    }

    fn follow(&mut self) {
        let log = std::mem::take(&mut self.provider.state.lock().unwrap().1);
        self.oracle.follow(log);
    }

    fn step(&mut self, op: &Op) {
        let oracle = &mut self.oracle;
        match *op {
            Op::Take(want) => {
                let mut out = vec![ChunkIndex(u32::MAX); want];
                let there = oracle.all(|place| place.idle() || !place.lent).len();
                let got = self.pool.take(&mut out);
                assert_eq!(got, want.min(there), "take gets all there is to get");
                self.follow();
                let unique: BTreeSet<_> = out[..got].iter().collect();
                assert_eq!(unique.len(), got, "no chunk is handed out twice");
                for chunk in &out[..got] {
                    let place = self.oracle.place(chunk.0);
                    assert!(
                        place.idle(),
                        "chunk {chunk:?} was handed out while somebody had it: {place:?}"
                    );
                    place.owned = true;
                }
                self.oracle.empty += u64::from(got < want);
                self.oracle.missing += (want - got) as u64;
            }
            Op::Recycle(which) => {
                if let Some(chunk) = oracle.pick(which, |place| place.owned) {
                    oracle.place(chunk).owned = false;
                    self.pool.recycle(ChunkIndex(chunk));
                }
            }
            Op::RecycleBatch(count) => {
                let chunks: Vec<u32> = oracle
                    .all(|place| place.owned)
                    .into_iter()
                    .take(count)
                    .collect();
                for &chunk in &chunks {
                    oracle.place(chunk).owned = false;
                }
                self.pool
                    .recycle_batch(&chunks.into_iter().map(ChunkIndex).collect::<Vec<_>>());
            }
            Op::Deliver(which) => {
                if let Some(chunk) = oracle.pick(which, |place| place.owned) {
                    let place = oracle.place(chunk);
                    (place.owned, place.with_client) = (false, true);
                    place.deliveries += 1;
                    let generation = place.deliveries as u16;
                    oracle.delivered += 1;
                    assert_eq!(self.pool.deliver(ChunkIndex(chunk)), generation);
                }
            }
            Op::Return(which) => {
                if let Some(chunk) = oracle.pick(which, |place| place.with_client) {
                    let place = oracle.place(chunk);
                    place.with_client = false;
                    let generation = place.deliveries as u16;
                    oracle.returned += 1;
                    assert_eq!(self.pool.take_back(chunk, generation), Ok(()));
                }
            }
            Op::ReturnBatch(count) => {
                let chunks: Vec<u32> = oracle
                    .all(|place| place.with_client)
                    .into_iter()
                    .take(count)
                    .collect();
                let mut entries = Vec::new();
                for &chunk in &chunks {
                    let place = oracle.place(chunk);
                    place.with_client = false;
                    entries.push((chunk, place.deliveries as u16));
                }
                // Each twice: the second is repeated.
                entries.extend(entries.clone());
                oracle.returned += chunks.len() as u64;
                oracle.refused.repeated += chunks.len() as u64;
                if count % 2 == 0 {
                    assert_eq!(self.pool.take_back_batch(entries), chunks.len() as u32);
                } else {
                    // Straight to who can use them, here the owner.
                    let mut got = Vec::new();
                    let returns = self.pool.returns(entries.into_iter());
                    assert_eq!(returns.len(), 2 * chunks.len());
                    returns.take_back(|chunk| got.push(chunk));
                    let idle = chunks
                        .into_iter()
                        .filter(|chunk| oracle.place(*chunk).retained == 0);
                    assert_eq!(got, idle.map(ChunkIndex).collect::<Vec<_>>());
                    self.pool.recycle_batch(&got);
                }
            }
            Op::ReturnForged { chunk, behind } => {
                // Every other one aims at a chunk that the client does have.
                let aimed = oracle.pick(chunk as usize / 2, |place| place.with_client);
                let chunk = aimed.filter(|_| chunk.is_multiple_of(2)).unwrap_or(chunk);
                let now = oracle
                    .places
                    .get(&chunk)
                    .map_or(0, |place| place.deliveries as u16);
                let generation = now.wrapping_sub(behind.cast_unsigned());
                let expected = oracle.judge(chunk, generation);
                oracle.count(expected);
                if expected.is_ok() {
                    oracle.place(chunk).with_client = false;
                }
                assert_eq!(
                    self.pool.take_back(chunk, generation),
                    expected,
                    "chunk {chunk}, generation {generation}"
                );
            }
            Op::ReclaimByOwner | Op::ReclaimByHandle => {
                let chunks = oracle.all(|place| place.with_client);
                for &chunk in &chunks {
                    oracle.place(chunk).with_client = false;
                }
                oracle.reclaimed += chunks.len() as u64;
                let count = match op {
                    Op::ReclaimByOwner => self.pool.reclaim_client(),
                    _ => self.handle.reclaim_client(),
                };
                assert_eq!(count, chunks.len() as u32);
            }
            Op::Retain(which) => {
                let has = |place: &Place| place.owned || place.with_client || place.retained > 0;
                if let Some(chunk) = oracle.pick(which, has) {
                    oracle.place(chunk).retained += 1;
                    self.handle.retain(ChunkIndex(chunk));
                }
            }
            Op::Release(which) => {
                if let Some(chunk) = oracle.pick(which, |place| place.retained > 0) {
                    oracle.place(chunk).retained -= 1;
                    self.handle.release(ChunkIndex(chunk));
                }
            }
            Op::ReleaseBatch(count) => {
                let chunks: Vec<u32> = oracle
                    .all(|place| place.retained > 0)
                    .into_iter()
                    .take(count)
                    .collect();
                for &chunk in &chunks {
                    oracle.place(chunk).retained -= 1;
                }
                self.handle
                    .release_batch(&chunks.into_iter().map(ChunkIndex).collect::<Vec<_>>());
            }
        }
        self.follow();
        self.check();
    }

    fn check(&self) {
        let (oracle, counts) = (&self.oracle, self.pool.counts());
        let count = |has: fn(&Place) -> bool| oracle.all(has).len() as u32;
        assert_eq!((counts.hold, counts.release), (oracle.hold, oracle.release));
        assert_eq!(counts.in_flight, count(|place| place.lent));
        assert_eq!(counts.cached + counts.ring, count(Place::idle));
        assert_eq!(counts.with_client, count(|place| place.with_client));
        assert_eq!(
            counts.held(),
            count(|place| !place.with_client && (place.owned || place.retained > 0))
        );
        assert_eq!(
            (
                counts.delivered,
                counts.returned,
                counts.reclaimed,
                counts.refused
            ),
            (
                oracle.delivered,
                oracle.returned,
                oracle.reclaimed,
                oracle.refused
            )
        );
        assert_eq!(counts.empty, oracle.empty);
        let missing = counts.missing;
        assert_eq!(
            missing.with_client + missing.held + missing.provider,
            oracle.missing
        );
        assert_eq!(self.handle.counts(), counts);
    }

    /// Shuts the pool down and lets everybody drop what they have, one after the other.
    fn end(self) {
        let Self {
            provider,
            pool,
            handle,
            mut oracle,
        } = self;
        let draining = pool.shutdown();
        oracle.follow(std::mem::take(&mut provider.state.lock().unwrap().1));
        assert_eq!(
            oracle.all(Place::idle),
            [],
            "idle chunks go to the provider at once"
        );
        let mut left = oracle.all(|place| place.lent).len() as u32;
        let state = |left| {
            if left == 0 {
                DrainState::Drained
            } else {
                DrainState::InFlight(left)
            }
        };
        assert_eq!(draining.poll(), state(left));
        for chunk in oracle.all(|place| place.owned || place.retained > 0) {
            let place = oracle.place(chunk);
            let last = !place.with_client;
            for _ in 0..place.retained + usize::from(place.owned) {
                assert_eq!(draining.poll(), state(left));
                handle.release(ChunkIndex(chunk));
            }
            (place.owned, place.retained) = (false, 0);
            left -= u32::from(last);
            assert_eq!(draining.poll(), state(left));
        }
        assert_eq!(draining.handle().reclaim_client(), left);
        assert_eq!(draining.poll(), DrainState::Drained);
        let counts = draining.counts();
        assert_eq!(
            (counts.hold, counts.in_flight, counts.cached, counts.ring),
            (counts.release, 0, 0, 0)
        );
        let free: BTreeSet<u32> = provider
            .state
            .lock()
            .unwrap()
            .0
            .iter()
            .map(|chunk| chunk.0)
            .collect();
        assert_eq!(
            free,
            provider.chunks.clone().collect(),
            "the provider has every chunk"
        );
        assert_eq!(provider.state.lock().unwrap().0.len(), free.len(), "once");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn pool_agrees_with_the_oracle(
        start in prop_oneof![Just(0_u32), 1..1000_u32, Just(u32::MAX - 500)],
        chunks in 1..450_u32,
        ring in prop_oneof![1..8_usize, Just(1024)],
        ops in prop::collection::vec(op(), 1..120),
    ) {
        let mut run = Run::new(start..start + chunks, ring);
        for op in &ops {
            // Forged indices are near the share, wherever that starts.
            let op = match op.clone() {
                Op::ReturnForged { chunk, behind } if chunk < 500 => {
                    Op::ReturnForged { chunk: start.wrapping_add(chunk).wrapping_sub(20), behind }
                }
                op => op,
            };
            run.step(&op);
        }
        run.end();
    }
}
