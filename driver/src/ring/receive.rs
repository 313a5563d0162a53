//! The receive path of a queue: from write-backs to batches.
//!
//! What the device says of a packet is believed as far as it can be true: lengths within the buffers, an end within as many chunks as the device's packets have. Anything
//! else costs the packet, which is counted, and never a chunk. Which rule takes a packet is read from its header slot; from its chunk only where it was not split, and only
//! in memory that is the CPU's to read ([`Unseen::Chunk`]).
//!
//! A queue with its NIC's timestamps takes every packet one by one: the stamp is looked for where the device says that it is, and a packet whose stamp is in front of it is
//! moved to the beginning of its slot, or begins that much behind the chunk's.
//!
//! In the packet of several descriptors the first has the header, and the last one's status counts; see [`WriteBack`] for what a NIC makes of that.

mod look;

use std::sync::Arc;
use std::time::Instant;

use arrayvec::ArrayVec;
use devrx_pool::{Pool, Returns};
use devrx_provider::{ChunkIndex, MemoryProvider, Region};

use self::look::Front;
use super::stamps::{Stamp, Stamps};
use super::{Counts, Header, Manner, Ring, Unseen, WriteBack};
use crate::chunk::{NO_FLOW, RxChunk, RxFlags};
use crate::clock::{self, Clock};
use crate::flow::{Classifier, RuleBoard};
#[cfg(target_arch = "x86_64")]
use crate::lanes::Avx2;
use crate::packet::MAX_HEADERS;
use crate::queue::{HeaderSlots, MAX_CHUNKS, QueueConfig};
use crate::sink::RxSink;

/// How many chunks are taken from the pool at a time.
const REFILL: usize = 64;
/// Where as many chunks are posted the device was told of one at least: tails go on by so many at the most.
pub(crate) const UNTOLD: u32 = 8;

/// A chunk of a packet, and how much of it.
#[derive(Clone, Copy, Debug)]
struct Part {
    chunk: u32,
    length: u16,
}

/// The receive path.
#[derive(Debug)]
pub(crate) struct Receive<W: WriteBack<WORDS>, const WORDS: usize> {
    pub(crate) ring: Ring<WORDS>,
    /// The chunks of a packet whose end has not arrived, or for which the batch had no room.
    partial: ArrayVec<Part, MAX_CHUNKS>,
    /// What the packet's first descriptor said.
    partial_first: W,
    /// Any descriptor of the packet said that its header overflowed.
    partial_overflow: bool,
    /// The rest of a packet is thrown away.
    discard: bool,
    /// Chunks of dropped packets, to be posted again. Never longer than the ring.
    returned: Vec<u32>,
    pub(super) classifier: Classifier,
    pub(super) headers: HeaderSlots,
    region: Arc<Region>,
    manner: Manner,
    /// Plain packets are taken in rows: they are split, and need no look for a stamp.
    in_rows: bool,
    /// On a queue with the NIC's timestamps. Elsewhere, as most have it not: what stands here costs the others.
    stamps: Option<Box<Stamps>>,
    pub(super) mode: W::Mode,
    pub(super) chunk_size: u16,
    pub(super) slot_size: u16,
    stopped: bool,
    /// The header in hand, ours alone.
    look: Box<[u8; MAX_HEADERS]>,
    pub(super) counts: Counts,
    #[cfg(target_arch = "x86_64")]
    pub(crate) avx2: Option<Avx2>,
    /// Whose chunks they are. Keeps the share.
    provider: Arc<dyn MemoryProvider>,
}

impl<W: WriteBack<WORDS>, const WORDS: usize> Receive<W, WORDS> {
    /// `config` has been checked, and `ring` made by it. `clock`: the NIC's, if it stamps this queue's packets.
    pub(crate) fn new(
        ring: Ring<WORDS>,
        config: QueueConfig,
        manner: Manner,
        mode: W::Mode,
        board: Arc<RuleBoard>,
        clock: Option<Arc<Clock>>,
    ) -> Self {
        let region = Arc::clone(config.provider.region());
        Self {
            returned: Vec::with_capacity(ring.capacity() as usize + W::MOST_PARTS),
            ring,
            partial: ArrayVec::new(),
            partial_first: W::new(0, 0),
            partial_overflow: false,
            discard: false,
            classifier: Classifier::new(board),
            manner,
            in_rows: manner.splits && clock.is_none(),
            stamps: clock.map(|clock| Box::new(Stamps::new(clock))),
            mode,
            // Both checked with the configuration: below 64 KiB.
            chunk_size: region.chunk_size() as u16,
            slot_size: config.headers.slot_size as u16,
            region,
            headers: config.headers,
            stopped: false,
            look: Box::new([0; MAX_HEADERS]),
            counts: Counts::default(),
            #[cfg(target_arch = "x86_64")]
            avx2: Avx2::detect(),
            provider: config.provider,
        }
    }

    pub(crate) const fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Chunks posted, or with a packet that is not delivered yet. Those to be posted again are missing until they are: whoever tops the ring up
    /// goes by this.
    pub(crate) fn posted(&self) -> u32 {
        self.ring.posted() + self.partial.len() as u32
    }

    /// The same with those to be posted again.
    pub(crate) fn held(&self) -> u32 {
        self.posted() + self.returned.len() as u32
    }

    /// Whether the oldest descriptor has been written back.
    #[inline(always)]
    pub(crate) fn arrived(&self) -> bool {
        let oldest = self.ring.oldest();
        oldest.is_some_and(W::is_done)
    }

    /// See [`RxQueue::poll`](crate::RxQueue::poll).
    #[inline]
    pub(crate) fn poll<S: RxSink>(&mut self, out: &mut S) -> usize {
        self.classifier.look();
        if !self.arrived() {
            self.found_empty();
            return 0;
        }
        let before = out.room();
        let now = clock::real();
        let takes_all = self.classifier.takes_all();
        // Ends: nothing is posted meanwhile, and every turn takes a descriptor out or is the last.
        loop {
            if self.in_rows && self.partial.is_empty() && !self.discard {
                self.plain(takes_all, now, out);
            }
            if !self.arrived() {
                break;
            }
            let Some((oldest, chunk)) = self.ring.oldest_with_chunk() else {
                break;
            };
            let written = W::load(oldest);
            if !self.other(written, chunk, takes_all, now, out) {
                break;
            }
            self.ring.advance(1);
        }
        before - out.room()
    }

    /// A descriptor that is not the simplest case. False, and nothing is done, when the batch has no room for the packet it ends.
    #[inline(never)]
    fn other(
        &mut self,
        written: W,
        chunk: u32,
        takes_all: Option<u16>,
        now: u64,
        out: &mut impl RxSink,
    ) -> bool {
        let last = written.is_last();
        let room = out.room();
        if last && !self.discard && self.partial.len() + 1 > room || room == 0 {
            return false;
        }
        if self.discard {
            self.returned.push(chunk);
        } else {
            if self.partial.is_empty() {
                self.partial_first = written;
                self.partial_overflow = false;
            }
            self.partial_overflow |= written.overflows();
            let length = written.length();
            // In the middle of a packet every chunk is full, at its end it may be empty only behind a header.
            let credible = length <= self.chunk_size
                && (last || length == self.chunk_size)
                && self.partial.len() < W::MOST_PARTS;
            if !credible || self.partial.try_push(Part { chunk, length }).is_err() {
                self.discard = true;
                self.returned.push(chunk);
                self.give_back();
            }
        }
        if last {
            if std::mem::take(&mut self.discard) {
                self.counts.bad_descriptor += 1;
            } else if let Err(count) = self.packet(written, takes_all, now, out) {
                *count(&mut self.counts) += 1;
                self.give_back();
            }
            self.partial.clear();
        }
        true
    }

    /// The packet in `partial` is whole. `Err` with the counter if it is to be dropped.
    fn packet(
        &mut self,
        last: W,
        takes_all: Option<u16>,
        now: u64,
        out: &mut impl RxSink,
    ) -> Result<(), fn(&mut Counts) -> &mut u64> {
        let whole = self.partial_first.ended_by(last);
        if whole.is_bad() {
            return Err(|counts| &mut counts.errors);
        }
        let header = if self.manner.splits {
            whole.header(self.partial_overflow, self.slot_size, self.mode)
        } else {
            Some(Header::NONE)
        };
        let Some(Header {
            length: header,
            split,
        }) = header
        else {
            return Err(|counts| &mut counts.unsplit_drops);
        };
        let (header, front) = match self.stamp() {
            Stamp::InFront => match self.take_front(header) {
                Some((header, front)) => (header, front),
                None => return Err(|counts| &mut counts.bad_descriptor),
            },
            Stamp::Here(stamp) => (header, Front::of(stamp)),
            Stamp::None => (header, Front::NONE),
        };
        let payload: usize = self
            .partial
            .iter()
            .map(|part| usize::from(part.length))
            .sum();
        let payload = payload - usize::from(front.length);
        let frame = usize::from(header) + payload;
        let first = match self.partial.first() {
            Some(&first) if header <= self.slot_size && frame > 0 && (header > 0 || !split) => {
                first
            }
            _ => return Err(|counts| &mut counts.bad_descriptor),
        };
        if self.manner.drops_unsplit && !split {
            return Err(|counts| &mut counts.unsplit_drops);
        }
        let flow = match takes_all {
            Some(flow) => flow,
            None if header == 0 && self.manner.unseen == Unseen::Any => {
                match self.classifier.any() {
                    NO_FLOW if self.manner.asked => return Err(|counts| &mut counts.unsplit_drops),
                    NO_FLOW => return Err(|counts| &mut counts.unwanted),
                    flow => flow,
                }
            }
            None => match self.flow_of(first, usize::from(header), front.length, frame) {
                NO_FLOW => return Err(|counts| &mut counts.unwanted),
                flow => flow,
            },
        };
        self.counts.received += 1;
        self.counts.bytes += frame as u64;
        self.counts.unsplit += u64::from(!split && self.manner.asked);
        let parts = self.partial.len();
        let mut flags = whole.flags(self.mode);
        flags.set(RxFlags::SPLIT, header > 0);
        flags.set(RxFlags::MORE, parts > 1);
        let stamped = (self.stamps.as_mut().zip(front.stamp))
            .and_then(|(stamps, stamp)| stamps.time_of(stamp, now));
        if stamped.is_some() {
            flags.remove(RxFlags::TIMESTAMP_SW);
            flags.insert(RxFlags::TIMESTAMP_HW);
        }
        let head = RxChunk {
            chunk: ChunkIndex(first.chunk),
            offset: front.length,
            length: first.length - front.length,
            header_length: header,
            vlan: whole.vlan(),
            rss_hash: whole.hash(),
            flags,
            flow,
            timestamp: stamped.unwrap_or(now),
        };
        out.push(head);
        for (at, part) in self.partial.iter().enumerate().skip(1) {
            let mut flags = RxFlags::empty();
            flags.set(RxFlags::MORE, at + 1 < parts);
            out.push(RxChunk {
                chunk: ChunkIndex(part.chunk),
                offset: 0,
                length: part.length,
                header_length: 0,
                vlan: 0,
                rss_hash: 0,
                flags,
                timestamp: 0,
                ..head
            });
        }
        Ok(())
    }

    /// The chunks of the packet in hand will be posted again.
    #[cold]
    fn give_back(&mut self) {
        self.returned
            .extend(self.partial.drain(..).map(|part| part.chunk));
    }

    /// Nothing has arrived.
    #[cold]
    fn found_empty(&mut self) {
        // Where the device has a chunk to put a packet into: else packets may wait elsewhere.
        if self.partial.is_empty()
            && self.ring.posted() >= UNTOLD
            && let Some(stamps) = &mut self.stamps
        {
            stamps.found_empty(Instant::now());
        }
        self.end_partial();
    }

    /// Nothing more will come of a packet whose end is missing, once the device has stopped.
    #[cold]
    fn end_partial(&mut self) {
        if !self.stopped || (self.partial.is_empty() && !self.discard) {
            return;
        }
        self.give_back();
        if std::mem::take(&mut self.discard) {
            self.counts.bad_descriptor += 1;
        } else {
            self.counts.incomplete += 1;
        }
    }

    /// Whether `provider` is the queue's, so that its chunks are.
    #[inline(always)]
    fn is_own(&mut self, provider: &Arc<dyn MemoryProvider>) -> bool {
        let own = std::ptr::addr_eq(Arc::as_ptr(provider), Arc::as_ptr(&self.provider));
        self.counts.refused_chunks += u64::from(!own);
        own
    }

    /// See [`RxQueue::room`](crate::RxQueue::room). The chunks of dropped packets keep theirs.
    #[inline]
    pub(crate) fn room(&self) -> u32 {
        if self.stopped {
            return 0;
        }
        self.ring.capacity().saturating_sub(self.held())
    }

    /// See [`RxQueue::post`](crate::RxQueue::post).
    #[inline]
    pub(crate) fn post<I>(&mut self, returns: Returns<'_, I>) -> bool
    where
        I: ExactSizeIterator<Item = (u32, u16)>,
    {
        let fits = returns.len() <= self.room() as usize && self.is_own(returns.provider());
        if fits {
            let mut places = self.ring.places();
            returns.take_back(|chunk| places.put(chunk));
            let end = places.end();
            self.ring.post_placed(end);
        }
        fits
    }

    /// Posts as many chunks as fit; the caller tells the device, if it were any.
    #[inline]
    pub(crate) fn refill(&mut self, pool: &mut Pool) -> u32 {
        if self.stopped || !self.is_own(pool.provider()) {
            return 0;
        }
        let start = self.ring.posted();
        while self.ring.posted() < self.ring.capacity()
            && let Some(chunk) = self.returned.pop()
        {
            self.ring.post(&[ChunkIndex(chunk)]);
        }
        loop {
            let want = (self.room() as usize).min(REFILL);
            if want == 0 {
                break;
            }
            let mut batch = [ChunkIndex(0); REFILL];
            let got = pool.take(&mut batch[..want]);
            self.ring.post(&batch[..got]);
            if got < want {
                break;
            }
        }
        self.ring.posted() - start
    }

    /// Reception has ended, the device writes no more.
    pub(crate) const fn end(&mut self) {
        self.stopped = true;
    }

    /// Gives every chunk to the pool. Only after [`end`](Self::end).
    pub(crate) fn reclaim(&mut self, pool: &mut Pool) {
        if !self.stopped {
            return;
        }
        self.give_back();
        self.ring.drain(|chunk| pool.recycle(ChunkIndex(chunk)));
        for chunk in self.returned.drain(..) {
            pool.recycle(ChunkIndex(chunk));
        }
    }
}
