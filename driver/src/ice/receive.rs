//! The receive path of a queue: from write-backs to batches.
//!
//! What the device says of a packet is believed as far as it can be true: lengths within the buffers, an end within [`MAX_PARTS`] chunks. Anything
//! else costs the packet, which is counted, and never a chunk. Which rule takes a packet is read from its header slot; from the payload only where it was not
//! split, and only in memory that is the CPU's to read.
//!
//! Where the header went (both drivers agree on the first and the last row; the others no driver uses, and nobody here has seen silicon do them):
//!
//! | queue | SPH, HBO | header slot | chunk | what is done |
//! |---|---|---|---|---|
//! | splits | 1, 0 | the header's length, in the first descriptor of the packet alone | the rest | delivered |
//! | splits | any, 1 | unknown | unknown | dropped, counted as unsplit |
//! | splits | 0, 0 | nothing | everything | the attachment's choice; dropped where the CPU does not read the chunk |
//! | does not split | any | nothing | everything | delivered |

mod manner;
mod plain;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arrayvec::ArrayVec;
use devrx_pool::{Pool, Returns};
use devrx_provider::{ChunkIndex, MemoryProvider, Region};

use super::context::MOST_BUFFERS;
use super::counts::Counts;
use super::descriptor::{Info, Status};
use super::ring::Ring;
use crate::chunk::{NO_FLOW, RxChunk, RxFlags};
use crate::flow::{Classifier, RuleBoard};
#[cfg(target_arch = "x86_64")]
use crate::lanes::Avx2;
use crate::packet::{MAX_HEADERS, parse};
use crate::queue::{HeaderSlots, QueueConfig};
use crate::sink::RxSink;

pub(super) use manner::Manner;
use plain::flags;

/// The chunks of one packet at most: what the device puts it into.
pub(super) const MAX_PARTS: usize = MOST_BUFFERS as usize;
const _: () = assert!(MAX_PARTS <= crate::MAX_CHUNKS);
/// How many chunks are taken from the pool at a time.
const REFILL: usize = 64;

/// A chunk of a packet, and how much of it.
#[derive(Clone, Copy, Debug)]
struct Part {
    chunk: u32,
    length: u16,
}

/// The receive path.
#[derive(Debug)]
pub(super) struct Receive {
    pub(super) ring: Ring,
    /// The chunks of a packet whose end has not arrived, or for which the batch had no room.
    partial: ArrayVec<Part, MAX_PARTS>,
    /// The first word of the packet's first descriptor.
    partial_info: u64,
    /// Any descriptor of the packet said that its header overflowed.
    partial_overflow: bool,
    /// The rest of a packet is thrown away.
    discard: bool,
    /// Chunks of dropped packets, to be posted again. Never longer than the ring.
    returned: Vec<u32>,
    classifier: Classifier,
    headers: HeaderSlots,
    region: Arc<Region>,
    manner: Manner,
    chunk_size: u16,
    slot_size: u16,
    stopped: bool,
    /// The header in hand, ours alone.
    look: Box<[u8; MAX_HEADERS]>,
    counts: Counts,
    #[cfg(target_arch = "x86_64")]
    pub(super) avx2: Option<Avx2>,
    /// Whose chunks they are. Keeps the share.
    provider: Arc<dyn MemoryProvider>,
}

impl Receive {
    /// `config` has been checked, and `ring` made by it.
    pub(super) fn new(
        ring: Ring,
        config: QueueConfig,
        manner: Manner,
        board: Arc<RuleBoard>,
    ) -> Self {
        let region = Arc::clone(config.provider.region());
        Self {
            returned: Vec::with_capacity(ring.capacity() as usize + MAX_PARTS),
            ring,
            partial: ArrayVec::new(),
            partial_info: 0,
            partial_overflow: false,
            discard: false,
            classifier: Classifier::new(board),
            manner,
            // Both checked with the configuration: below 16 KiB and 2 KiB.
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

    pub(super) const fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Chunks posted, or with a packet that is not delivered yet. Those to be posted again are missing until they are: whoever tops the ring up
    /// goes by this.
    pub(super) fn posted(&self) -> u32 {
        self.ring.posted() + self.partial.len() as u32
    }

    /// The same with those to be posted again.
    pub(super) fn held(&self) -> u32 {
        self.posted() + self.returned.len() as u32
    }

    /// See [`RxQueue::poll`](crate::RxQueue::poll).
    #[inline]
    pub(super) fn poll<S: RxSink>(&mut self, out: &mut S) -> usize {
        self.classifier.look();
        if self.ring.done().is_none() {
            self.end_partial();
            return 0;
        }
        let before = out.room();
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_nanos() as u64);
        let takes_all = self.classifier.takes_all();
        // Ends: nothing is posted meanwhile, and every turn takes a descriptor out or is the last.
        loop {
            if self.manner.splits && self.partial.is_empty() && !self.discard {
                self.plain(takes_all, now, out);
            }
            let Some(status) = self.ring.done() else {
                break;
            };
            let (info, chunk) = self.ring.info();
            if !self.other(status, Info(info), chunk, takes_all, now, out) {
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
        status: Status,
        info: Info,
        chunk: u32,
        takes_all: Option<u16>,
        now: u64,
        out: &mut impl RxSink,
    ) -> bool {
        let last = status.has(Status::EOF);
        let room = out.room();
        if last && !self.discard && self.partial.len() + 1 > room || room == 0 {
            return false;
        }
        if self.discard {
            self.returned.push(chunk);
        } else {
            if self.partial.is_empty() {
                self.partial_info = info.0;
                self.partial_overflow = false;
            }
            self.partial_overflow |= status.has(Status::HBO);
            let part = Part {
                chunk,
                length: info.length(),
            };
            // In the middle of a packet every chunk is full, at its end it may be empty only behind a header.
            let credible =
                info.length() <= self.chunk_size && (last || info.length() == self.chunk_size);
            if !credible || self.partial.try_push(part).is_err() {
                self.discard = true;
                self.returned.push(chunk);
                self.give_back();
            }
        }
        if last {
            if std::mem::take(&mut self.discard) {
                self.counts.bad_descriptor += 1;
            } else if let Err(count) = self.packet(status, takes_all, now, out) {
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
        status: Status,
        takes_all: Option<u16>,
        now: u64,
        out: &mut impl RxSink,
    ) -> Result<(), fn(&mut Counts) -> &mut u64> {
        let info = Info(self.partial_info);
        if status.has(Status::RXE) {
            return Err(|counts| &mut counts.errors);
        }
        if self.manner.splits && self.partial_overflow {
            return Err(|counts| &mut counts.unsplit_drops);
        }
        let split = self.manner.splits && info.split();
        let header = if split { info.header_length() } else { 0 };
        let payload: usize = self
            .partial
            .iter()
            .map(|part| usize::from(part.length))
            .sum();
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
            None => match self.flow_of(first, usize::from(header), frame) {
                NO_FLOW => return Err(|counts| &mut counts.unwanted),
                flow => flow,
            },
        };
        self.counts.received += 1;
        self.counts.bytes += frame as u64;
        self.counts.unsplit += u64::from(!split && self.manner.asked);
        let parts = self.partial.len();
        let mut flags = flags(status);
        flags.set(RxFlags::SPLIT, split);
        flags.set(RxFlags::MORE, parts > 1);
        let head = RxChunk {
            chunk: ChunkIndex(first.chunk),
            offset: 0,
            length: first.length,
            header_length: header,
            vlan: status.vlan(),
            rss_hash: status.hash(),
            flags,
            flow,
            timestamp: now,
        };
        out.push(head);
        for (at, part) in self.partial.iter().enumerate().skip(1) {
            let mut flags = RxFlags::empty();
            flags.set(RxFlags::MORE, at + 1 < parts);
            out.push(RxChunk {
                chunk: ChunkIndex(part.chunk),
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

    /// The first rule that takes the packet: by its header slot, or where it was not split by the beginning of its chunk. Copied once.
    fn flow_of(&mut self, first: Part, header: usize, frame: usize) -> u16 {
        let chunk = ChunkIndex(first.chunk);
        let len = if header > 0 {
            header
        } else {
            usize::from(first.length)
        };
        let look = &mut self.look[..len.min(MAX_HEADERS)];
        let copied = if header > 0 {
            let slot = self.headers.offset_of(chunk);
            slot.is_some_and(|slot| self.headers.memory.copy_out(slot, look))
        } else {
            // Not split, and so not dropped: the CPU may look.
            let at = self
                .region
                .offset_of(chunk)
                .filter(|_| self.manner.readable);
            let mapping = self.region.mapping();
            // An offset of this process's memory fits.
            at.zip(mapping)
                .is_some_and(|(at, mapping)| mapping.copy_out(at as usize, look))
        };
        if !copied {
            return NO_FLOW;
        }
        self.classifier.find(&parse(look, frame).key)
    }

    /// The chunks of the packet in hand will be posted again.
    #[cold]
    fn give_back(&mut self) {
        self.returned
            .extend(self.partial.drain(..).map(|part| part.chunk));
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
    pub(super) fn room(&self) -> u32 {
        if self.stopped {
            return 0;
        }
        self.ring.capacity().saturating_sub(self.held())
    }

    /// See [`RxQueue::post`](crate::RxQueue::post).
    #[inline]
    pub(super) fn post<I>(&mut self, returns: Returns<'_, I>) -> bool
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
    pub(super) fn refill(&mut self, pool: &mut Pool) -> u32 {
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
    pub(super) const fn end(&mut self) {
        self.stopped = true;
    }

    /// Gives every chunk to the pool. Only after [`end`](Self::end).
    pub(super) fn reclaim(&mut self, pool: &mut Pool) {
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
