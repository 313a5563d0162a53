//! A NIC that answers with whatever it likes: registers and descriptors from arbitrary bytes, and the driver driven by the same bytes.
//!
//! [`exercise`] is the body of a property test and of the fuzz target in `driver/fuzz`. Whatever the device answers, the driver must not panic, must
//! hand out a chunk to one holder at a time, must report lengths within the buffers, must post only addresses of its own, must come to an
//! end, and give back every chunk.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::ThreadId;

use devrx_pool::{DrainState, Pool, PoolConfig};
use devrx_provider::{ChunkIndex, Mapping, MemoryProvider, RegionProvider, RegionSpec, memfd};

use super::{Fault, IgbModel};
use crate::igb::{IgbNic, IgbOptions, IgbQueue};
use crate::{
    Flows, HeaderSlots, Interrupts, Link, Nic, QueueConfig, RxBatch, RxChunk, RxFlags, RxQueue,
    Statistics, Unsplit, ZeroCopy,
};

/// Answers for register reads of one thread, used up from the front; after them the registers are themselves again.
#[derive(Debug, Default)]
pub(super) struct Tape {
    words: std::collections::VecDeque<u32>,
    of: Option<ThreadId>,
}

impl Tape {
    /// The next answer.
    pub(super) fn next(&mut self) -> Option<u32> {
        if self.words.is_empty() || self.of != Some(std::thread::current().id()) {
            return None;
        }
        self.words.pop_front()
    }
}

impl IgbModel {
    /// The next register reads of this thread are answered with `words`.
    pub fn answer(&self, words: impl IntoIterator<Item = u32>) {
        let mut state = self.chip.state();
        state.tape.words.extend(words);
        state.tape.of = Some(std::thread::current().id());
    }
}

/// Bytes to make decisions from; zeros when they are used up.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        let count = N.min(self.0.len());
        out[..count].copy_from_slice(&self.0[..count]);
        self.0 = &self.0[count..];
        out
    }

    fn byte(&mut self) -> u8 {
        let [byte] = self.take();
        byte
    }

    fn below(&mut self, end: u32) -> u32 {
        u32::from(u16::from_le_bytes(self.take())) % end.max(1)
    }
}

/// A queue, its pool, and the chunks that were handed out.
struct Held {
    index: u32,
    queue: IgbQueue<IgbModel>,
    pool: Pool,
    config: QueueConfig,
    out: Vec<u32>,
}

const CHUNKS: u32 = 64;

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

impl Held {
    fn open(nic: &mut IgbNic<IgbModel>, index: u32, config: &QueueConfig) -> Option<Self> {
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
    fn poll(&mut self, taken: usize) -> usize {
        let mut batch = RxBatch::new();
        for _ in 0..taken {
            batch.push(FILLER);
        }
        let count = self.queue.poll(&mut batch);
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
            assert!(self.config.provider.chunks().contains(&entry.chunk.0));
            assert!(!self.out.contains(&entry.chunk.0), "a chunk for one holder");
            self.out.push(entry.chunk.0);
            more = entry.flags.contains(RxFlags::MORE);
        }
        assert!(!more, "packets come whole");
        count
    }

    /// `posted`: chunks that were posted since the device heard of any.
    fn refill(&mut self, posted: u32, model: &IgbModel) {
        let before = model.tail(self.index);
        let posted = posted + self.queue.refill(&mut self.pool) as u32;
        assert!(self.queue.posted() <= self.queue.capacity());
        let size = self.config.provider.region().chunk_size();
        // A device that is gone hears of nothing.
        if model.tail(self.index) != before {
            model.check_posted(self.index, posted, size, self.config.headers.slot_size);
        }
    }

    fn recycle(&mut self, at: u32) {
        if !self.out.is_empty() {
            let at = at as usize % self.out.len();
            let chunk = self.out.swap_remove(at);
            self.pool.recycle(ChunkIndex(chunk));
        }
    }

    /// What was handed out goes to a client, which returns it, some of it twice: straight to the queue if that has room for it.
    fn give_back(&mut self, keep: u8, twice: u32, model: &IgbModel) {
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
    fn end(mut self, nic: &mut IgbNic<IgbModel>, model: &IgbModel) {
        let _ = nic.close_queue(self.index);
        if self.queue.stop().is_err() {
            // It could not be proven; once the device behaves, it can.
            model.set_fault(Fault::default());
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

fn configs(bytes: &mut Bytes<'_>) -> Option<Vec<QueueConfig>> {
    let chunk = [1024, 2048, 4096, 3072][bytes.byte() as usize % 4];
    let slot = [64, 128, 256, 960][bytes.byte() as usize % 4];
    let ring = [8, 16, 32, 64][bytes.byte() as usize % 4];
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
        });
    }
    Some(configs)
}

/// Drives a NIC whose answers, and what is asked of it, come from `input`. Panics if the driver does what it must not.
pub fn exercise(input: &[u8]) {
    let mut bytes = Bytes(input);
    let Some(configs) = configs(&mut bytes) else {
        return;
    };
    let manner = bytes.byte();
    let device = [0x10c9, 0x1521, 0x1533, 0x1539][manner as usize % 4];
    let model = IgbModel::new(device);
    if manner & 0x80 != 0 {
        let words: [[u8; 4]; 8] = std::array::from_fn(|_| bytes.take());
        model.answer(words.map(u32::from_le_bytes));
    }
    let options = IgbOptions {
        promiscuous: manner & 0x40 != 0,
        vlan_strip: manner & 0x20 != 0,
    };
    let Ok(mut nic) = IgbNic::open(Arc::clone(&model), options) else {
        return;
    };
    let mut held: Vec<Held> = (0..)
        .zip(&configs)
        .filter_map(|(index, config)| Held::open(&mut nic, index, config))
        .collect();
    while !bytes.0.is_empty() && !held.is_empty() {
        let op = bytes.byte();
        let at = usize::from(op >> 7) % held.len();
        step(op & 0x7f, &mut bytes, &model, &mut nic, &mut held, at);
    }
    for held in held {
        held.end(&mut nic, &model);
    }
}

/// One thing that the device or the daemon does.
fn step(
    op: u8,
    bytes: &mut Bytes<'_>,
    model: &IgbModel,
    nic: &mut IgbNic<IgbModel>,
    all: &mut Vec<Held>,
    at: usize,
) {
    let held = &mut all[at];
    let ring = held.config.ring;
    match op % 18 {
        0..=3 => {
            held.poll(0);
        }
        4 => {
            let taken = bytes.below(257) as usize;
            held.poll(taken);
        }
        5..=6 => held.refill(0, model),
        7 => {
            // Anything at all.
            let words = [
                u64::from_le_bytes(bytes.take()),
                u64::from_le_bytes(bytes.take()),
            ];
            model.scribble(held.index, bytes.below(ring), words);
        }
        8..=9 => {
            // Nearly a packet: done, lengths of about the buffers' sizes.
            let [flags, high, info, step] = bytes.take();
            let status =
                u64::from(flags) | u64::from(high) << 24 | u64::from(bytes.below(4200)) << 32;
            let word = u64::from(bytes.below(1024)) << 21
                | u64::from(info & 15)
                | u64::from(info >> 7) << 31;
            let start = bytes.below(ring);
            for more in 0..=u32::from(step % 12) {
                // One packet of several descriptors, or a row of packets.
                let last = info & 0x40 != 0 || more == u32::from(step % 12);
                let status = if last { status | 3 } else { (status | 1) & !2 };
                model.scribble(held.index, (start + more) % ring, [word, status]);
            }
        }
        10..=11 => {
            let how = bytes.byte();
            if how & 0x10 != 0 {
                held.give_back(how >> 5, bytes.below(64), model);
            } else {
                for _ in 0..how % 16 {
                    held.recycle(bytes.below(64));
                }
            }
        }
        12 => {
            let _ = held.queue.arm();
            let counters = held.queue.counters();
            assert!(counters.unsplit <= counters.received);
            let _ = (held.queue.fault(), nic.link(), nic.statistics());
        }
        13 => {
            let len = 60 + bytes.below(9600) as usize;
            let mut frame = vec![bytes.byte(); len];
            frame[..6].copy_from_slice(&IgbModel::STATION);
            frame[12..20].copy_from_slice(&[8, 0, 0x45, 0, (len >> 8) as u8, len as u8, 0, 0]);
            frame[20..24].copy_from_slice(&[bytes.byte() & 0x40, 0, 64, 17]);
            model.receive(&frame);
        }
        14 => {
            let count = bytes.byte() % 16;
            for _ in 0..count {
                model.answer([u32::from_le_bytes(bytes.take())]);
            }
        }
        15 => {
            let rules = ["any", "udp,dst-port=5000", "arp", "vlan=3,tcp"];
            let [rule, id, last] = bytes.take();
            let range = held.index..=held.index + u32::from(last & 1);
            if last & 2 == 0 {
                #[expect(clippy::expect_used, reason = "rules of this file's own")]
                let rule = rules[rule as usize % 4].parse().expect("a rule");
                let _ = nic.add_flow(range, u16::from(id % 4), &rule);
            } else {
                let _ = nic.remove_flow(range, u16::from(id % 4));
            }
            let _ = nic.set_moderation(held.index, u32::from(rule) * 100);
        }
        16 => {
            // What the device writes into header slots.
            let slot = held.config.headers.slot_size as usize;
            let offset = bytes.below(CHUNKS) as usize * slot;
            let header: [u8; 32] = bytes.take();
            let _ = held.config.headers.memory.copy_in(offset, &header);
        }
        _ => {
            let kind = bytes.byte();
            model.set_fault(Fault {
                will_not_stop: kind & 1 != 0,
                gone: kind & 6 == 6,
                reset_fails: kind & 24 == 24,
                gone_when_enabled: kind & 0xc1 == 0xc1,
                ..Fault::default()
            });
            if kind & 32 != 0 {
                let held = all.swap_remove(at);
                let (index, config) = (held.index, held.config.clone());
                held.end(nic, model);
                all.extend(Held::open(nic, index, &config));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::exercise;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn a_hostile_device_does_no_harm(input in proptest::collection::vec(any::<u8>(), 0..600)) {
            exercise(&input);
        }
    }
}
