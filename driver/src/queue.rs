//! What a receive queue is.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use devrx_pool::{Pool, Returns};
use devrx_provider::{ChunkIndex, Mapping, MemoryProvider};

use crate::{DriverError, RxSink};

/// The header slots of a queue: host memory, one slot for each chunk, reused only with it.
#[derive(Clone, Debug)]
pub struct HeaderSlots {
    /// The memory the slots are in, writable.
    pub memory: Arc<Mapping>,
    /// Where the first slot begins, bytes from the start of `memory`.
    pub start: usize,
    /// Bytes in a slot.
    pub slot_size: u32,
    /// The chunk of the first slot, counted in the region: chunk `c` has slot `c - first`.
    pub first: ChunkIndex,
}

impl HeaderSlots {
    /// Where the slot of `chunk` begins in [`memory`](Self::memory), if it lies within it.
    #[must_use]
    pub fn offset_of(&self, chunk: ChunkIndex) -> Option<usize> {
        let slot = usize::try_from(chunk.0.checked_sub(self.first.0)?).ok()?;
        let size = usize::try_from(self.slot_size).ok()?;
        let offset = self.start.checked_add(slot.checked_mul(size)?)?;
        (offset.checked_add(size)? <= self.memory.len()).then_some(offset)
    }
}

/// Whether the NIC shall write the region itself, or the kernel copy into it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum ZeroCopy {
    /// Zero-copy where it can be had, else copy; [`QueueCounters::copied`] tells which.
    #[default]
    Auto,
    /// The kernel copies.
    Copy,
    /// The NIC writes the region, or the queue is refused.
    ZeroCopy,
}

/// What becomes of packets whose header the NIC cannot split off, on a queue that splits: ARP and other frames without an IP header, headers
/// longer than a slot.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Unsplit {
    /// They are delivered whole in the chunk; where the CPU does not read that, only the rule `any` takes them.
    #[default]
    Deliver,
    /// They are dropped, and counted as `unsplit`.
    Drop,
    /// Their first bytes, as many as a header slot holds, go to the slot. With some NICs every frame no longer than a slot then goes there
    /// whole, payload and all.
    Header,
}

/// Whose clock says when a packet came. Either way a packet carries nanoseconds of `CLOCK_REALTIME`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Timestamps {
    /// The CPU's, when the packet is taken from its ring: one reading for a batch.
    #[default]
    Software,
    /// The NIC's, when the packet arrived, or the queue is refused ([`Nic::timestamps`](crate::Nic::timestamps)). A packet that the NIC gave no stamp carries
    /// software's; its flags say which it is.
    Nic,
}

/// What a queue is opened with. Abstract: the same for every NIC and every kind of memory.
#[derive(Clone, Debug)]
pub struct QueueConfig {
    /// The chunks it receives into; its pool must be made of the same provider.
    pub provider: Arc<dyn MemoryProvider>,
    /// Where headers go.
    pub headers: HeaderSlots,
    /// Split headers from payload.
    pub split: bool,
    /// How many chunks can be posted at once; a power of two.
    pub ring: u32,
    /// Have the kernel process packets in the polling thread where the NIC allows that. Not faster by itself: measure.
    pub busy_poll: bool,
    /// Whether a copy is accepted.
    pub zero_copy: ZeroCopy,
    /// Payload bytes to put in the header slot after the header, as far as it has room. 0 for an exact split.
    pub split_extra: u16,
    /// What becomes of packets that cannot be split.
    pub unsplit: Unsplit,
    /// Whose clock says when packets came.
    pub timestamps: Timestamps,
}

/// What happened on a queue since it was opened. Every packet steered to it is in exactly one of `received` and the drop counters
/// where `exact` is true.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct QueueCounters {
    /// Packets returned by [`RxQueue::poll`].
    pub received: u64,
    /// Bytes of those packets, header and payload, without FCS.
    pub bytes: u64,
    /// Packets dropped by the NIC or kernel for want of a posted chunk.
    pub no_descriptor: u64,
    /// Packets dropped by the NIC or kernel because the queue was not polled in time.
    pub rx_ring_full: u64,
    /// Packets dropped here because the NIC's or kernel's word on them was not credible.
    pub bad_descriptor: u64,
    /// Packets dropped here because they spread over more chunks than a packet may.
    pub oversize: u64,
    /// Packets of which the queue's end left only the first part.
    pub incomplete: u64,
    /// Packets dropped here because they were not split and the queue was told to drop those ([`Unsplit::Drop`]), or because what could tell whether a
    /// rule takes them lies in memory that the CPU does not read.
    pub unsplit_drops: u64,
    /// Packets dropped here because no rule takes them; only on NICs that do not leave such packets to Linux.
    pub unwanted: u64,
    /// Packets dropped here because the NIC received them with an error.
    pub errors: u64,
    /// Packets that arrived but were not split although splitting was asked for: cut off or malformed headers, or longer than a
    /// slot. Part of `received`.
    pub unsplit: u64,
    /// Chunks the queue refused to post, because they are not of its provider or posted already, or times that it refused a pool. Always 0 unless there is a fault in this program.
    pub refused_chunks: u64,
    /// The kernel copies every packet into the region.
    pub copied: bool,
    /// Whether the drop counters name every packet that was steered here and not received.
    pub exact: bool,
}

impl QueueCounters {
    /// The drops by the names under which statistics show them.
    #[must_use]
    pub fn drops(&self) -> [(&'static str, u64); 8] {
        [
            ("no_descriptor", self.no_descriptor),
            ("rx_ring_full", self.rx_ring_full),
            ("bad_descriptor", self.bad_descriptor),
            ("oversize", self.oversize),
            ("incomplete", self.incomplete),
            ("unsplit", self.unsplit_drops),
            ("unwanted", self.unwanted),
            ("error", self.errors),
        ]
    }
}

/// Chunks that one packet can have, with any NIC.
pub const MAX_CHUNKS: usize = 32;

/// One receive queue, owned by the thread that polls it.
///
/// # Life
///
/// [`refill`](Self::refill) and [`poll`](Self::poll) in turn; [`arm`](Self::arm) and a wait on [`wait_fd`](Self::wait_fd) when
/// idle. To end it: [`Nic::close_queue`](crate::Nic::close_queue), [`stop`](Self::stop), `poll` until it returns 0,
/// [`counters`](Self::counters), [`reclaim`](Self::reclaim). After that every chunk is the pool's or was handed out by `poll`.
pub trait RxQueue: Send {
    /// Appends arrived packets to `out` and returns how many entries. Packets are appended whole: one of several chunks stays back until all of it has
    /// arrived and `out` has room for all of it. Room for [`MAX_CHUNKS`](crate::MAX_CHUNKS) is room for any. 0 means that nothing (whole) has arrived.
    ///
    /// No system call, lock, allocation, dynamic call or log line. Chunks of packets dropped here stay with the queue and are posted again by the next `refill`.
    fn poll<S: RxSink>(&mut self, out: &mut S) -> usize;

    /// Takes back what a client returns to the pool that [`refill`](Self::refill) takes from, and posts it. `false`, and nothing is done, where there is no [room](Self::room) for all of it,
    /// where it is another pool's, and after [`stop`](Self::stop).
    /// The NIC need not see it before the next `refill`, which is to follow. No system call.
    fn post<I>(&mut self, returns: Returns<'_, I>) -> bool
    where
        I: ExactSizeIterator<Item = (u32, u16)>;

    /// Posts as many chunks of `pool` as fit, and returns how many. At most one system call, and that only if the NIC asked to be woken or
    /// the queue is busy-polled. Nothing is posted after [`stop`](Self::stop).
    fn refill(&mut self, pool: &mut Pool) -> usize;

    /// Chunks the queue has: posted, being filled, or filled and not yet returned by [`poll`](Self::poll).
    fn posted(&self) -> u32;

    /// How many chunks it can have at most.
    fn capacity(&self) -> u32;

    /// How many more can be posted now; 0 once [stopped](Self::stop).
    fn room(&self) -> u32;

    /// Becomes readable when there is something to poll, once [`arm`](Self::arm) has returned true; always after [`stop`](Self::stop). May be readable
    /// for nothing. Changes identity with `stop`.
    fn wait_fd(&self) -> BorrowedFd<'_>;

    /// Prepares for sleep. `false`: there is work already, poll first.
    fn arm(&mut self) -> bool;

    /// What happened so far. May make a system call; not for every packet. After [`stop`](Self::stop), the final drops of the NIC or kernel.
    fn counters(&self) -> QueueCounters;

    /// Why the queue can receive no more, once something has ended it from outside: the NIC is gone or was reset. Costs next to nothing.
    fn fault(&self) -> Option<&'static str> {
        None
    }

    /// Ends reception. After it returns `Ok`, the NIC and kernel write no more to any chunk; [`poll`](Self::poll) still returns what had arrived.
    /// Calling it again does nothing.
    ///
    /// # Errors
    ///
    /// When it could not be proven that writing has ended: the memory must then not be freed or used for anything else. May be called again.
    fn stop(&mut self) -> Result<(), DriverError>;

    /// After [`stop`](Self::stop) succeeded: gives every chunk that `poll` has not returned back to `pool`. Call it when `poll` returns 0: what had arrived
    /// and is not polled is lost. Does nothing if the queue is not stopped.
    fn reclaim(&mut self, pool: &mut Pool);
}
