//! What a hostile device of any kind may do, and what must hold all the same: the parts of the bodies that property tests and the fuzz targets in `driver/fuzz`
//! have in common. A NIC's model brings the rest (`igb::model::hostile`, `ice::model::hostile`).
//!
//! Whatever the device answers, the driver must not panic, must hand out a chunk to one holder at a time, must report lengths within the buffers, must post only
//! addresses of its own, must come to an end, and give back every chunk.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::ThreadId;

use devrx_pool::{DrainState, Pool, PoolConfig};
use devrx_provider::{ChunkIndex, Mapping, MemoryProvider, RegionProvider, RegionSpec, memfd};

use crate::clock;
use crate::{
    HeaderSlots, Nic, QueueConfig, RxBatch, RxChunk, RxFlags, RxQueue, Timestamps, Unsplit,
    ZeroCopy,
};

/// A model that can be told to misbehave, as far as the shared parts need it.
pub(crate) trait Device {
    /// The tail of `queue` as the device was told it last.
    fn tail(&self, queue: u32) -> u32;

    /// Panics unless the descriptors that `queue` was given since its tail was `before`, `count` of them where that is known, name buffers within the
    /// device's reach: `chunk` bytes of payload, `slot` of header.
    fn check_posted(&self, queue: u32, before: u32, count: u32, chunk: u32, slot: u32);

    /// From now on it does what it should.
    fn behave(&self);
}

/// Answers for register reads of one thread, used up from the front; after them the registers are themselves again.
#[derive(Debug, Default)]
pub(crate) struct Tape {
    words: VecDeque<u32>,
    of: Option<ThreadId>,
}

impl Tape {
    /// The next answer.
    pub(crate) fn next(&mut self) -> Option<u32> {
        if self.words.is_empty() || self.of != Some(std::thread::current().id()) {
            return None;
        }
        self.words.pop_front()
    }

    /// More answers, for this thread.
    pub(crate) fn extend(&mut self, words: impl IntoIterator<Item = u32>) {
        self.words.extend(words);
        self.of = Some(std::thread::current().id());
    }
}

/// Bytes to make decisions from; zeros when they are used up.
pub(crate) struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        let count = N.min(self.0.len());
        out[..count].copy_from_slice(&self.0[..count]);
        self.0 = &self.0[count..];
        out
    }

    pub(crate) fn byte(&mut self) -> u8 {
        let [byte] = self.take();
        byte
    }

    pub(crate) fn below(&mut self, end: u32) -> u32 {
        u32::from(u16::from_le_bytes(self.take())) % end.max(1)
    }
}

/// A queue, its pool, and the chunks that were handed out.
pub(crate) struct Held<Q> {
    pub(crate) index: u32,
    pub(crate) queue: Q,
    pool: Pool,
    pub(crate) config: QueueConfig,
    out: Vec<u32>,
}

pub(crate) const CHUNKS: u32 = 64;

/// How far a timestamp may be from when a packet was polled, nanoseconds.
const WIDE: u64 = 2_100_000_000;

/// What is in a batch already.
const FILLER: RxChunk = RxChunk {
    chunk: ChunkIndex(u32::MAX),
    offset: 0,
    length: 0,
    header_length: 0,
    vlan: 0,
    rss_hash: 0,
    flags: RxFlags::empty(),
    flow: 0,
    timestamp: 0,
};

impl<Q: RxQueue> Held<Q> {
    pub(crate) fn open<N: Nic<Queue = Q>>(
        nic: &mut N,
        index: u32,
        config: &QueueConfig,
    ) -> Option<Self> {
        let queue = nic.open_queue(index, config.clone()).ok()?;
        let provider: Arc<dyn MemoryProvider> = config.provider.clone();
        Some(Self {
            index,
            queue,
            pool: Pool::new(provider, PoolConfig::default()).0,
            config: config.clone(),
            out: Vec::new(),
        })
    }

    /// One poll, with some of the batch taken already.
    pub(crate) fn poll(&mut self, taken: usize) -> usize {
        let mut batch = RxBatch::new();
        for _ in 0..taken {
            batch.push(FILLER);
        }
        let before = clock::real();
        let count = self.queue.poll(&mut batch);
        let after = clock::real();
        assert_eq!(count, batch.len() - taken, "poll says what it appended");
        let chunk_size = self.config.provider.region().chunk_size();
        let mut more = false;
        for entry in &batch[taken..] {
            let length = u32::from(entry.offset) + u32::from(entry.length);
            assert!(length <= chunk_size, "the payload lies within its chunk");
            let header = u32::from(entry.header_length);
            assert!(header <= self.config.headers.slot_size);
            assert_eq!(entry.flags.contains(RxFlags::SPLIT), header > 0);
            assert!(!more || header == 0, "a header belongs to the first chunk");
            if !more {
                let by_nic = entry.flags.contains(RxFlags::TIMESTAMP_HW);
                let by_software = entry.flags.contains(RxFlags::TIMESTAMP_SW);
                assert!(by_nic != by_software, "a time from one of the two");
                assert!(!by_nic || self.config.timestamps == Timestamps::Nic);
                let just_now = before.saturating_sub(WIDE)..=after + WIDE;
                assert!(just_now.contains(&entry.timestamp), "a time of just now");
            }
            assert!(self.config.provider.chunks().contains(&entry.chunk.0));
            assert!(!self.out.contains(&entry.chunk.0), "a chunk for one holder");
            self.out.push(entry.chunk.0);
            more = entry.flags.contains(RxFlags::MORE);
        }
        assert!(!more, "packets come whole");
        count
    }

    /// `posted`: chunks that were posted since the device heard of any.
    pub(crate) fn refill(&mut self, posted: u32, model: &impl Device) {
        let before = model.tail(self.index);
        let posted = posted + self.queue.refill(&mut self.pool) as u32;
        assert!(self.queue.posted() <= self.queue.capacity());
        let size = self.config.provider.region().chunk_size();
        // A device that is gone hears of nothing.
        if model.tail(self.index) != before {
            model.check_posted(
                self.index,
                before,
                posted,
                size,
                self.config.headers.slot_size,
            );
        }
    }

    pub(crate) fn recycle(&mut self, at: u32) {
        if !self.out.is_empty() {
            let at = at as usize % self.out.len();
            let chunk = self.out.swap_remove(at);
            self.pool.recycle(ChunkIndex(chunk));
        }
    }

    /// What was handed out goes to a client, which returns it, some of it twice: straight to the queue if that has room for it.
    pub(crate) fn give_back(&mut self, keep: u8, twice: u32, model: &impl Device) {
        let mut entries: Vec<(u32, u16)> = Vec::new();
        while self.out.len() > usize::from(keep)
            && let Some(chunk) = self.out.pop()
        {
            entries.push((chunk, self.pool.deliver(ChunkIndex(chunk))));
        }
        let honest = entries.len();
        entries.extend_from_within(..honest.min(twice as usize % 4));
        let before = self.queue.posted();
        if self.queue.post(self.pool.returns(entries.iter().copied())) {
            assert_eq!(self.queue.posted() - before, honest as u32);
            self.refill(honest as u32, model);
        } else {
            assert!(entries.len() as u32 > self.queue.room());
            assert_eq!(self.pool.take_back_batch(entries), honest as u32);
        }
        assert_eq!(self.pool.counts().with_client, 0);
    }

    /// The end, as the daemon does it: everything comes back.
    pub(crate) fn end<N: Nic<Queue = Q>>(mut self, nic: &mut N, model: &impl Device) {
        let _ = nic.close_queue(self.index);
        if self.queue.stop().is_err() {
            // It could not be proven; once the device behaves, it can.
            model.behave();
            assert!(self.queue.stop().is_ok(), "a reset that works ends a queue");
        }
        let mut polls = 0;
        while self.poll(0) > 0 {
            polls += 1;
            assert!(polls <= self.config.ring, "what arrived is finite");
        }
        while !self.out.is_empty() {
            self.recycle(0);
        }
        self.queue.reclaim(&mut self.pool);
        let counters = self.queue.counters();
        assert_eq!(counters.refused_chunks, 0);
        drop(self.queue);
        assert_eq!(
            self.pool.shutdown().poll(),
            DrainState::Drained,
            "every chunk came back"
        );
    }
}

fn slots(count: u32, size: u32) -> Option<Arc<Mapping>> {
    let fd =
        nix::sys::memfd::memfd_create(c"devrx-hostile", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)
            .ok()?;
    let len = (count * size).next_multiple_of(4096);
    nix::unistd::ftruncate(&fd, i64::from(len)).ok()?;
    let mapping = Mapping::map_shared(fd.as_fd(), 0, len as usize, true).ok()?;
    Some(Arc::new(mapping))
}

/// One or two queues' memory and manners; `rings`: entries to choose from.
pub(crate) fn configs(bytes: &mut Bytes<'_>, rings: [u32; 4]) -> Option<Vec<QueueConfig>> {
    let chunk = [1024, 2048, 4096, 3072][bytes.byte() as usize % 4];
    let slot = [64, 128, 256, 960][bytes.byte() as usize % 4];
    let ring = rings[bytes.byte() as usize % 4];
    let manner = bytes.byte();
    let queues = 1 + u32::from(manner >> 4 & 1);
    let region = memfd::create(
        "devrx-hostile",
        RegionSpec {
            size: u64::from(queues * CHUNKS * chunk),
            chunk_size: chunk,
        },
    )
    .ok()?;
    let providers = RegionProvider::split(Arc::new(region), queues).ok()?;
    let mut configs = Vec::new();
    for provider in providers {
        let chunks = provider.chunks();
        configs.push(QueueConfig {
            headers: HeaderSlots {
                memory: slots(chunks.end - chunks.start, slot)?,
                start: 0,
                slot_size: slot,
                first: ChunkIndex(chunks.start),
            },
            provider,
            split: manner & 3 != 0,
            ring,
            busy_poll: false,
            zero_copy: ZeroCopy::Auto,
            split_extra: 0,
            unsplit: [
                Unsplit::Deliver,
                Unsplit::Drop,
                Unsplit::Header,
                Unsplit::Header,
            ][usize::from(manner >> 2 & 3)],
            timestamps: Timestamps::Software,
        });
    }
    Some(configs)
}

/// One thing that a daemon does with a queue, whatever the device: `op` is from 0 to 10.
pub(crate) fn common<N: Nic>(
    op: u8,
    bytes: &mut Bytes<'_>,
    model: &impl Device,
    nic: &mut N,
    held: &mut Held<N::Queue>,
) {
    match op {
        0..=3 => {
            held.poll(0);
        }
        4 => {
            let taken = bytes.below(257) as usize;
            held.poll(taken);
        }
        5..=6 => held.refill(0, model),
        7 => {
            let how = bytes.byte();
            if how & 0x10 != 0 {
                held.give_back(how >> 5, bytes.below(64), model);
            } else {
                for _ in 0..how % 16 {
                    held.recycle(bytes.below(64));
                }
            }
        }
        8 => {
            let _ = held.queue.arm();
            let counters = held.queue.counters();
            assert!(counters.unsplit <= counters.received);
            let _ = (held.queue.fault(), nic.link(), nic.statistics());
            let _ = (nic.port_losses(), nic.warnings());
        }
        9 => {
            let rules = [
                "any",
                "udp,dst-port=5000",
                "arp",
                "vlan=3,tcp",
                "dst-mac=02:00:00:00:00:07",
                "ip6,src=fd77:1::/48",
            ];
            let [rule, id, last] = bytes.take();
            let range = held.index..=held.index + u32::from(last & 1);
            if last & 2 == 0 {
                #[expect(clippy::expect_used, reason = "rules of this file's own")]
                let rule = rules[usize::from(rule) % rules.len()]
                    .parse()
                    .expect("a rule");
                let _ = nic.add_flow(range, u16::from(id % 4), &rule);
            } else {
                let _ = nic.remove_flow(range, u16::from(id % 4));
            }
            let _ = nic.set_moderation(held.index, u32::from(rule) * 100);
        }
        _ => {
            // What the device writes into header slots.
            let slot = held.config.headers.slot_size as usize;
            let offset = bytes.below(CHUNKS) as usize * slot;
            let header: [u8; 32] = bytes.take();
            let _ = held.config.headers.memory.copy_in(offset, &header);
        }
    }
}

/// A frame of IPv4 to `station` with a payload of anything.
pub(crate) fn frame(bytes: &mut Bytes<'_>, station: [u8; 6]) -> Vec<u8> {
    let len = 60 + bytes.below(9600) as usize;
    let mut frame = vec![bytes.byte(); len];
    frame[..6].copy_from_slice(&station);
    frame[12..20].copy_from_slice(&[8, 0, 0x45, 0, (len >> 8) as u8, len as u8, 0, 0]);
    frame[20..24].copy_from_slice(&[bytes.byte() & 0x40, 0, 64, 17]);
    frame
}
