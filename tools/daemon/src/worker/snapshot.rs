//! The numbers of one queue of an attachment: kept by its worker, written into shared memory once a batch, and the source of all
//! that statistics show.

use std::sync::Arc;

use devrx_driver::QueueCounters;
use devrx_pool::Counts;
use devrx_proto::drops::DropReason;
use devrx_proto::layout::{COUNTERS, Counter, Layout, LayoutError};
use devrx_proto::ring::WriteSlots;
use devrx_proto::shm::{Shm, ShmError, ShmWriter};

/// How many reasons for a drop there are.
const REASONS: usize = DropReason::ALL.len();

/// The numbers since the queue was attached. Every packet that was steered to the queue and got to its end, one way or the other, is
/// in `delivered` or in one of `drops`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Snapshot {
    /// Packets delivered.
    pub delivered: u64,
    /// Their bytes, header and payload.
    pub bytes: u64,
    /// Their payload's.
    pub payload_bytes: u64,
    /// Their chunks.
    pub completions: u64,
    /// Chunks given back.
    pub returned: u64,
    /// Chunks in from the provider.
    pub hold: u64,
    /// Chunks out to the provider.
    pub release: u64,
    /// Chunks with the client now.
    pub with_client: u64,
    /// Returns refused: no such chunk, or not with the client.
    pub forged: u64,
    /// Returns refused: of an earlier delivery.
    pub stale: u64,
    /// Returns refused: given back before.
    pub repeated: u64,
    /// Impossible ring indices.
    pub index_faults: u64,
    /// Those of consumers that are gone.
    pub(super) past_index_faults: u64,
    /// Times the client was woken.
    pub wakes: u64,
    /// Reads that pushed what a NIC wrote to the device whose memory it is: one a batch.
    pub flush_reads: u64,
    /// Packets not delivered, by [`DropReason::index`].
    pub drops: [u64; REASONS],
    /// Packets that had arrived when the queue was ended, and belonged to nobody.
    pub(super) drained: u64,
    /// Packets that arrived unsplit although splitting was asked for; part of `delivered`.
    pub unsplit: u64,
    /// The kernel copies payload into the region.
    pub copied: bool,
    /// Every packet steered here is accounted for.
    pub exact: bool,
}

impl Snapshot {
    /// Payload bytes that were copied on their way into the region.
    #[must_use]
    pub fn payload_bytes_copied(&self) -> u64 {
        if self.copied { self.payload_bytes } else { 0 }
    }

    /// Packets that came to their end here.
    #[must_use]
    pub fn packets(&self) -> u64 {
        self.delivered + self.drops.iter().sum::<u64>()
    }

    /// Adds the numbers of another time or queue. Two are exact together if both are.
    pub fn add(&mut self, other: &Self) {
        let Self {
            delivered,
            bytes,
            payload_bytes,
            completions,
            returned,
            hold,
            release,
            with_client,
            forged,
            stale,
            repeated,
            index_faults,
            past_index_faults,
            wakes,
            flush_reads,
            drops,
            drained,
            unsplit,
            copied,
            exact,
        } = self;
        for (sum, more) in [
            (delivered, other.delivered),
            (bytes, other.bytes),
            (payload_bytes, other.payload_bytes),
            (completions, other.completions),
            (returned, other.returned),
            (hold, other.hold),
            (release, other.release),
            (with_client, other.with_client),
            (forged, other.forged),
            (stale, other.stale),
            (repeated, other.repeated),
            (index_faults, other.index_faults),
            (past_index_faults, other.past_index_faults),
            (wakes, other.wakes),
            (flush_reads, other.flush_reads),
            (drained, other.drained),
            (unsplit, other.unsplit),
        ] {
            *sum += more;
        }
        for (sum, more) in drops.iter_mut().zip(other.drops) {
            *sum += more;
        }
        *copied |= other.copied;
        *exact &= other.exact;
    }

    /// Nothing counted yet, and nothing missed: what others are added to.
    #[must_use]
    pub fn zero() -> Self {
        Self {
            exact: true,
            ..Self::default()
        }
    }

    /// Takes over what the pool counted.
    pub(super) fn take_pool(&mut self, counts: &Counts) {
        self.returned = counts.returned;
        self.hold = counts.hold.into();
        self.release = counts.release.into();
        self.with_client = counts.with_client.into();
        self.forged = counts.refused.forged;
        self.stale = counts.refused.stale;
        self.repeated = counts.refused.repeated;
    }

    /// Takes over what the NIC's queue counted.
    pub(super) fn take_queue(&mut self, counters: &QueueCounters) {
        self.copied = counters.copied;
        self.exact = counters.exact;
        self.unsplit = counters.unsplit;
        let mut set = |reason: DropReason, count: u64| self.drops[reason.index()] = count;
        set(DropReason::NoDescriptor, counters.no_descriptor);
        set(DropReason::RxRingFull, counters.rx_ring_full);
        set(DropReason::BadDescriptor, counters.bad_descriptor);
        set(DropReason::Oversize, counters.oversize);
        set(DropReason::Unsplit, counters.unsplit_drops);
        set(DropReason::Unwanted, counters.unwanted);
        set(DropReason::Error, counters.errors);
        // Only the end of the queue leaves a packet incomplete.
        set(DropReason::Detached, self.drained + counters.incomplete);
    }
}

/// Where the numbers lie in shared memory: a slot a counter.
#[derive(Debug)]
pub(super) struct Words(ShmWriter<1>);

impl Words {
    pub(super) fn new(layout: &Layout, place: u32, memory: &Arc<Shm>) -> Result<Self, ShmError> {
        let counters = layout
            .queue(place)
            .ok_or(LayoutError::NoSuchQueue { queue: place })?
            .counters;
        let capacity = u32::try_from(COUNTERS).map_err(|_| LayoutError::TooLarge)?;
        Ok(Self(memory.slots_to_write(counters, capacity)?))
    }

    /// Writes the numbers: some thirty relaxed stores, once a batch.
    pub(super) fn store(&self, numbers: &Snapshot) {
        // The index is below COUNTERS.
        let put = |counter: Counter, value: u64| self.0.write(counter.index() as u32, [value]);
        put(Counter::Packets, numbers.packets());
        put(Counter::Bytes, numbers.bytes);
        put(Counter::Delivered, numbers.delivered);
        put(Counter::Completions, numbers.completions);
        put(Counter::Returned, numbers.returned);
        put(Counter::Hold, numbers.hold);
        put(Counter::Release, numbers.release);
        put(Counter::PayloadBytesCopied, numbers.payload_bytes_copied());
        put(Counter::RefusedForged, numbers.forged);
        put(Counter::RefusedStale, numbers.stale);
        put(Counter::RefusedRepeated, numbers.repeated);
        put(Counter::IndexFaults, numbers.index_faults);
        put(Counter::Wakes, numbers.wakes);
        for reason in DropReason::ALL {
            put(Counter::Dropped(reason), numbers.drops[reason.index()]);
        }
    }
}
