//! The receive path of a queue: rings, chunk bookkeeping, the split. Knows no socket, so that tests can be the kernel.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arrayvec::ArrayVec;
use devrx_pool::{Pool, Returns};
use devrx_provider::{ChunkIndex, MemoryProvider, Region};

use super::frame::{Chunks, MAX_CHUNKS, Part};
use super::ring::{Consumer, Desc, Producer};
use crate::chunk::{RxChunk, RxFlags};
use crate::flow::{Classifier, RuleBoard};
use crate::packet::{MAX_HEADERS, parse};
use crate::{HeaderSlots, QueueConfig, RxSink};

/// Bytes looked at first: enough for all but long chains of options and extension headers.
const FIRST_LOOK: usize = 128;
/// How many chunks are taken from the pool at a time.
const REFILL: usize = 64;

/// What the receive path counts. Packets, if not said otherwise.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub received: u64,
    pub bytes: u64,
    pub bad_descriptor: u64,
    pub oversize: u64,
    pub incomplete: u64,
    pub unsplit: u64,
    pub refused_chunks: u64,
}

/// Why the rest of a frame is thrown away.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Discard {
    BadDescriptor,
    Oversize,
}

/// Where descriptors come from.
enum Source {
    /// The kernel still writes, or may.
    Ring {
        rx: Consumer<Desc>,
        fill: Producer<u64>,
    },
    /// Reception has ended: what was in the ring then, and how much of it is done.
    Drained { descs: Vec<Desc>, done: usize },
}

/// The receive path.
pub(super) struct Receive {
    source: Source,
    /// Room for `Source::Drained`, made in advance.
    spare: Vec<Desc>,
    chunks: Chunks,
    /// The parts of a frame whose last has not arrived, or for which the batch had no room.
    partial: ArrayVec<Part, MAX_CHUNKS>,
    discard: Option<Discard>,
    /// Chunks of dropped frames, to be posted again. Never longer than `capacity`.
    returned: Vec<ChunkIndex>,
    capacity: u32,
    /// The region itself, so that no packet costs a call through the provider.
    region: Arc<Region>,
    /// Keeps the share.
    _provider: Arc<dyn MemoryProvider>,
    /// Bytes from the region's start to the umem's.
    base: usize,
    headers: HeaderSlots,
    split: bool,
    split_extra: usize,
    /// Bytes of a frame that are looked at at first: where the headers are no longer than usual, all that goes to the slot.
    first_look: usize,
    slot_size: usize,
    classifier: Classifier,
    /// The first bytes of the frame in hand, ours alone.
    look: Box<[u8; MAX_HEADERS]>,
    counts: Counts,
}

impl Receive {
    /// `base`, `chunks`: the umem within the provider's region, checked by whoever registered it. `slots` have been checked to cover `chunks`.
    pub(super) fn new(
        rx: Consumer<Desc>,
        fill: Producer<u64>,
        config: QueueConfig,
        base: usize,
        board: Arc<RuleBoard>,
    ) -> Self {
        let chunks = config.provider.chunks();
        let size = config.provider.region().chunk_size();
        Self {
            source: Source::Ring { rx, fill },
            spare: Vec::with_capacity(config.ring as usize),
            chunks: Chunks::new(chunks.start, chunks.end - chunks.start, size),
            partial: ArrayVec::new(),
            discard: None,
            returned: Vec::with_capacity(config.ring as usize),
            capacity: config.ring,
            region: Arc::clone(config.provider.region()),
            _provider: config.provider,
            base,
            slot_size: config.headers.slot_size as usize,
            headers: config.headers,
            split: config.split,
            split_extra: usize::from(config.split_extra),
            first_look: (FIRST_LOOK + usize::from(config.split_extra)).min(MAX_HEADERS),
            classifier: Classifier::new(board),
            look: Box::new([0; MAX_HEADERS]),
            counts: Counts::default(),
        }
    }

    pub(super) const fn posted(&self) -> u32 {
        self.chunks.held()
    }

    pub(super) const fn capacity(&self) -> u32 {
        self.capacity
    }

    pub(super) const fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Whether there is a descriptor to look at.
    pub(super) fn has_work(&mut self) -> bool {
        match &mut self.source {
            Source::Ring { rx, .. } => rx.available(1) > 0,
            Source::Drained { descs, done } => *done < descs.len(),
        }
    }

    /// See [`RxQueue::poll`](crate::RxQueue::poll).
    pub(super) fn poll<S: RxSink>(&mut self, out: &mut S) -> usize {
        self.classifier.look();
        // Once: however the kernel's index moves, this ends.
        let available = match &mut self.source {
            // All that is there, so that the producer's index is looked at once a batch.
            Source::Ring { rx, .. } => rx.available(out.room() as u32),
            Source::Drained { descs, done } => (descs.len() - *done) as u32,
        };
        if available == 0 {
            self.end_partial();
            return 0;
        }
        let before = out.room();
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_nanos() as u64);
        let mut done = 0;
        while done < available {
            let desc = match &self.source {
                Source::Ring { rx, .. } => rx.read(done),
                Source::Drained { descs, done: at } => descs[at + done as usize],
            };
            if self.discard.is_none()
                && self.partial.len() + 1 > out.room()
                && desc.options & libc::XDP_PKT_CONTD == 0
            {
                // No room for the whole frame: its last descriptor stays where it is.
                break;
            }
            done += 1;
            self.descriptor(desc, now, out);
        }
        match &mut self.source {
            Source::Ring { rx, .. } => rx.release(done),
            Source::Drained { done: at, .. } => *at += done as usize,
        }
        before - out.room()
    }

    /// One descriptor: a whole frame, or a part of one.
    #[inline]
    fn descriptor(&mut self, desc: Desc, now: u64, out: &mut impl RxSink) {
        let last = desc.options & libc::XDP_PKT_CONTD == 0;
        match self.chunks.receive(desc) {
            Ok(part) if last && self.partial.is_empty() && self.discard.is_none() => {
                return self.deliver(&[part], now, out);
            }
            Ok(part) if self.discard.is_some() => self.returned.push(part.chunk),
            Ok(part) => {
                if self.partial.try_push(part).is_err() {
                    self.drop_frame(Discard::Oversize);
                    self.returned.push(part.chunk);
                }
            }
            Err(saved) => {
                if self.discard.is_none() {
                    self.drop_frame(Discard::BadDescriptor);
                }
                if !devrx_sabotage::removed("bad-chunk-is-kept") {
                    self.returned.extend(saved);
                }
            }
        }
        if last {
            match self.discard.take() {
                None => {
                    let parts = std::mem::take(&mut self.partial);
                    self.deliver(&parts, now, out);
                }
                Some(Discard::BadDescriptor) => self.counts.bad_descriptor += 1,
                Some(Discard::Oversize) => self.counts.oversize += 1,
            }
        }
    }

    /// What has come of the frame goes back, what comes of it will.
    #[cold]
    fn drop_frame(&mut self, why: Discard) {
        self.discard = Some(why);
        self.returned
            .extend(self.partial.drain(..).map(|part| part.chunk));
    }

    /// The frame is whole: to the batch with it. There is room, `poll` has looked.
    #[inline]
    fn deliver(&mut self, parts: &[Part], now: u64, out: &mut impl RxSink) {
        let Some((&first, rest)) = parts.split_first() else {
            return;
        };
        let frame_len = parts
            .iter()
            .map(|part| usize::from(part.length))
            .sum::<usize>();
        self.counts.received += 1;
        self.counts.bytes += frame_len as u64;
        let (header, flow) = self.headers_of(first, frame_len);
        let mut flags = RxFlags::TIMESTAMP_SW;
        flags.set(RxFlags::SPLIT, header > 0);
        flags.set(RxFlags::MORE, !rest.is_empty());
        let chunk = RxChunk {
            chunk: first.chunk,
            offset: first.offset + header,
            length: first.length - header,
            header_length: header,
            vlan: 0,
            rss_hash: 0,
            flags,
            flow,
            timestamp: now,
        };
        self.hand_out(chunk, out);
        for (at, part) in rest.iter().enumerate() {
            let flags = if at + 1 < rest.len() {
                RxFlags::MORE
            } else {
                RxFlags::empty()
            };
            let chunk = RxChunk {
                chunk: part.chunk,
                offset: part.offset,
                length: part.length,
                header_length: 0,
                flags,
                timestamp: 0,
                ..chunk
            };
            self.hand_out(chunk, out);
        }
    }

    #[inline]
    fn hand_out(&mut self, chunk: RxChunk, out: &mut impl RxSink) {
        self.chunks.hand_out(chunk.chunk);
        out.push(chunk);
    }

    /// Copies the header to its slot; returns its length, 0 if nothing is split, and the flow.
    #[inline]
    fn headers_of(&mut self, first: Part, frame_len: usize) -> (u16, u16) {
        if !self.split && !self.classifier.needs_key() {
            return (0, self.classifier.only());
        }
        let in_chunk = usize::from(first.length);
        let mut have = in_chunk.min(self.first_look);
        if !self.look_at(first, have) {
            return (0, crate::NO_FLOW);
        }
        let mut parsed = parse(&self.look[..have], frame_len);
        if parsed.need > 0 && have < in_chunk {
            // Copied anew as a whole: what is parsed and what goes to the slot are the same bytes, whoever writes to the
            // chunk meanwhile.
            have = in_chunk.min(MAX_HEADERS);
            if !self.look_at(first, have) {
                return (0, crate::NO_FLOW);
            }
            parsed = parse(&self.look[..have], frame_len);
        }
        let flow = self.classifier.classify(&parsed.key);
        if !self.split {
            return (0, flow);
        }
        let header = usize::from(parsed.header_len);
        // The header may end in a later chunk, or not fit the slot.
        if parsed.need > 0 || header == 0 || header > have.min(self.slot_size) {
            self.counts.unsplit += 1;
            return (0, flow);
        }
        let length = (header + self.split_extra).min(self.slot_size).min(have);
        let slot = self.headers.offset_of(first.chunk);
        if !slot.is_some_and(|slot| self.headers.memory.copy_in(slot, &self.look[..length])) {
            self.counts.unsplit += 1;
            return (0, flow);
        }
        (length as u16, flow)
    }

    /// Copies the first `have` bytes of a part to `look`. False if they cannot be read.
    #[inline]
    fn look_at(&mut self, part: Part, have: usize) -> bool {
        let offset = self.chunks.umem_offset(part.chunk) + self.base + usize::from(part.offset);
        let Some(bytes) = self.look.get_mut(..have) else {
            return false;
        };
        self.region
            .mapping()
            .is_some_and(|mapping| mapping.copy_out(offset, bytes))
    }

    /// See [`RxQueue::room`](crate::RxQueue::room). Chunks of dropped frames keep theirs.
    pub(super) const fn room(&self) -> u32 {
        match self.source {
            Source::Ring { .. } => self.capacity.saturating_sub(self.chunks.held()),
            Source::Drained { .. } => 0,
        }
    }

    /// See [`RxQueue::post`](crate::RxQueue::post).
    #[inline]
    pub(super) fn post<I>(&mut self, returns: Returns<'_, I>) -> bool
    where
        I: ExactSizeIterator<Item = (u32, u16)>,
    {
        let (count, room) = (returns.len(), self.room());
        let Source::Ring { fill, .. } = &mut self.source else {
            return false;
        };
        if count > room.min(fill.free(room)) as usize {
            return false;
        }
        let mut posted = 0;
        returns.take_back(|chunk| {
            if self.chunks.take(chunk) {
                fill.write(posted, self.chunks.post(chunk));
                posted += 1;
            } else {
                self.counts.refused_chunks += 1;
            }
        });
        fill.submit(posted);
        true
    }

    /// See [`RxQueue::refill`](crate::RxQueue::refill). The kick is the caller's.
    pub(super) fn refill(&mut self, pool: &mut Pool) -> usize {
        let Source::Ring { fill, .. } = &mut self.source else {
            return 0;
        };
        let mut posted = 0;
        while !self.returned.is_empty() && fill.free(1) > 0 {
            if let Some(chunk) = self.returned.pop() {
                fill.write(0, self.chunks.post(chunk));
                fill.submit(1);
                posted += 1;
            }
        }
        loop {
            let room = self.capacity.saturating_sub(self.chunks.held()) as usize;
            let want = room.min(REFILL);
            let want = want.min(fill.free(want as u32) as usize);
            if want == 0 {
                return posted;
            }
            let mut batch = [ChunkIndex(0); REFILL];
            let got = pool.take(&mut batch[..want]);
            let mut good = 0;
            for &chunk in &batch[..got] {
                if self.chunks.take(chunk) {
                    fill.write(good, self.chunks.post(chunk));
                    good += 1;
                } else {
                    self.counts.refused_chunks += 1;
                }
            }
            fill.submit(good);
            posted += good as usize;
            if got < want {
                return posted;
            }
        }
    }

    /// Whether the kernel wants to be woken to see what was posted.
    pub(super) fn needs_wakeup(&self) -> bool {
        match &self.source {
            Source::Ring { fill, .. } => fill.needs_wakeup(),
            Source::Drained { .. } => false,
        }
    }

    /// Takes what is in the ring to private memory and gives the rings up.
    pub(super) fn end(&mut self) {
        let Source::Ring { rx, .. } = &mut self.source else {
            return;
        };
        let mut descs = std::mem::take(&mut self.spare);
        let mut available = rx.available(u32::MAX);
        if devrx_sabotage::removed("end-drains-ring") {
            available = 0;
        }
        descs.extend((0..available).map(|ahead| rx.read(ahead)));
        rx.release(available);
        self.source = Source::Drained { descs, done: 0 };
    }

    /// Nothing more will come of a frame whose end is missing.
    fn end_partial(&mut self) {
        if !matches!(self.source, Source::Drained { .. })
            || (self.partial.is_empty() && self.discard.is_none())
        {
            return;
        }
        self.returned
            .extend(self.partial.drain(..).map(|part| part.chunk));
        match self.discard.take() {
            None => self.counts.incomplete += 1,
            Some(Discard::BadDescriptor) => self.counts.bad_descriptor += 1,
            Some(Discard::Oversize) => self.counts.oversize += 1,
        }
    }

    /// Gives every chunk to the pool. Only once nobody writes to them any more.
    pub(super) fn reclaim(&mut self, pool: &mut Pool) {
        if let Source::Drained { descs, done } = &mut self.source {
            *done = descs.len();
            self.partial.clear();
            self.returned.clear();
            self.chunks.drain(|chunk| pool.recycle(chunk));
        }
    }
}

#[cfg(test)]
#[path = "receive_tests.rs"]
mod tests;
