//! Where everything lies in the two memfds of an attachment. Pure arithmetic, the same on both sides.
//!
//! Every block begins on a cache line of its own, every queue on a page of its own. All words are little-endian.
//!
//! **Daemon-written memfd** (the client's view is read-only):
//!
//! | offset | what |
//! |---|---|
//! | 0 | u32 magic, u32 version, u32 queues, u32 completions, u32 chunks, u32 header slot, u32 refill entries |
//! | 64 | u32 state: 0 running, 1 ended |
//! | 4096 + q x stride | queue q: u32 completion producer index |
//! | + 64 | u32 refill consumer index |
//! | + 128 | u32 NEED_KICK |
//! | + 192 | 64 x u64 counters, by [`Counter`] |
//! | + 704 | completion entries, 32 bytes each |
//! | [`Layout::headers`] | header slots; the slot of chunk i is the i-th |
//!
//! **Client-written memfd**:
//!
//! | offset | what |
//! |---|---|
//! | q x stride | queue q: u32 completion consumer index |
//! | + 64 | u32 SLEEPING |
//! | + 128 | u32 refill producer index |
//! | + 192 | refill entries, 8 bytes each |

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::completion::Completion;
use crate::drops::DropReason;
use crate::refill::RefillEntry;
use crate::ring::Word;
use crate::shm::Shm;

/// The first word of a daemon-written memfd: "dvrx".
pub const MAGIC: u32 = u32::from_le_bytes(*b"dvrx");
/// The version of the layout.
pub const VERSION: u32 = 1;
/// Bytes of a cache line.
pub const LINE: u64 = 64;
/// Queues, and the area of header slots, begin at multiples of this.
pub const PAGE: u64 = 4096;
/// Offset of the state word in the daemon-written memfd.
pub const STATE: u64 = LINE;
/// Counters of a queue.
pub const COUNTERS: u64 = 64;

/// Most queues of one attachment.
pub const MAX_QUEUES: u32 = 64;
/// Most chunks of one region.
pub const MAX_CHUNKS: u32 = 1 << 24;
/// Most entries of a completion ring.
pub const MAX_COMPLETIONS: u32 = 1 << 20;
/// Fewest entries of a completion ring.
pub const MIN_COMPLETIONS: u32 = 16;
/// Smallest and largest header slot.
pub const HEADER_SLOTS: std::ops::RangeInclusive<u32> = 64..=4096;

const QUEUE_LINES: u64 = 3;
const REFILLS: u64 = 3 * LINE;

/// What the state word of an attachment says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum State {
    /// Packets may come.
    Running = 0,
    /// No more packets come; the control socket says why.
    Ended = 1,
}

/// The counters of a queue in shared memory: u64, written by the daemon about once a batch or slower, never reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counter {
    /// Packets the NIC counted.
    Packets,
    /// Bytes of packets delivered.
    Bytes,
    /// Packets delivered.
    Delivered,
    /// Chunks delivered.
    Completions,
    /// Chunks given back.
    Returned,
    /// Chunks that entered the pool from the provider.
    Hold,
    /// Chunks that left the pool to the provider.
    Release,
    /// Payload bytes a CPU copied.
    PayloadBytesCopied,
    /// Returns refused: no such chunk, or not with the client.
    RefusedForged,
    /// Returns refused: delivered under another generation.
    RefusedStale,
    /// Returns refused: given back already.
    RefusedRepeated,
    /// Impossible indices found in client memory.
    IndexFaults,
    /// Times the client was woken.
    Wakes,
    /// Packets dropped for a reason.
    Dropped(DropReason),
}

impl Counter {
    /// The counter's place, 0 to [`COUNTERS`] - 1.
    #[must_use]
    pub const fn index(self) -> u64 {
        match self {
            Self::Packets => 0,
            Self::Bytes => 1,
            Self::Delivered => 2,
            Self::Completions => 3,
            Self::Returned => 4,
            Self::Hold => 5,
            Self::Release => 6,
            Self::PayloadBytesCopied => 7,
            Self::RefusedForged => 8,
            Self::RefusedStale => 9,
            Self::RefusedRepeated => 10,
            Self::IndexFaults => 11,
            Self::Wakes => 12,
            Self::Dropped(reason) => 32 + reason.index() as u64,
        }
    }
}

/// What a layout depends on. Travels in messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayoutParams {
    /// Queues, 1 to [`MAX_QUEUES`].
    pub queues: u32,
    /// Entries of each completion ring: a power of two, [`MIN_COMPLETIONS`] to [`MAX_COMPLETIONS`].
    pub completions: u32,
    /// Chunks of the region, 1 to [`MAX_CHUNKS`].
    pub chunks: u32,
    /// Bytes of a header slot: a multiple of 64 within [`HEADER_SLOTS`].
    pub header_slot: u32,
}

/// Why there is no such layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// Queue count out of range.
    #[error("{queues} queues for one attachment: 1 to {MAX_QUEUES} are possible")]
    Queues {
        /// What was asked for.
        queues: u32,
    },
    /// Ring size out of range.
    #[error(
        "a completion ring of {completions} entries: a power of two from {MIN_COMPLETIONS} to {MAX_COMPLETIONS} is possible"
    )]
    Completions {
        /// What was asked for.
        completions: u32,
    },
    /// Chunk count out of range.
    #[error(
        "a region of {chunks} chunks: 1 to {MAX_CHUNKS} are possible; choose larger chunks or a smaller region"
    )]
    Chunks {
        /// What was asked for.
        chunks: u32,
    },
    /// Header slot size out of range.
    #[error("a header slot of {header_slot} bytes: a multiple of 64 from 64 to 4096 is possible")]
    HeaderSlot {
        /// What was asked for.
        header_slot: u32,
    },
    /// More than fits the address space.
    #[error("the rings would be larger than the address space")]
    TooLarge,
    /// A queue the attachment does not have.
    #[error("the attachment has no queue {queue} (counted from 0)")]
    NoSuchQueue {
        /// The queue's place in the attachment.
        queue: u32,
    },
}

/// Where the blocks of one queue lie: byte offsets. The first five in the daemon-written memfd, the others in the client-written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueLayout {
    /// u32, written by the daemon: entries before this index are published.
    pub completion_producer: u64,
    /// u32, written by the daemon: refill entries before this index were read.
    pub refill_consumer: u64,
    /// u32, written by the daemon: NEED_KICK, 0 or the number of a sleep.
    pub need_kick: u64,
    /// [`COUNTERS`] u64s, written by the daemon.
    pub counters: u64,
    /// The completion entries, written by the daemon.
    pub completions: u64,
    /// u32, written by the client: completions before this index were read.
    pub completion_consumer: u64,
    /// u32, written by the client: SLEEPING, 0 or the number of a sleep.
    pub sleeping: u64,
    /// u32, written by the client: refill entries before this index are published.
    pub refill_producer: u64,
    /// The refill entries, written by the client.
    pub refills: u64,
}

/// The layout of an attachment's two memfds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    params: LayoutParams,
    refill_capacity: u32,
    daemon_stride: u64,
    client_stride: u64,
    headers: u64,
    daemon_size: u64,
    client_size: u64,
}

impl Layout {
    /// Computes the layout.
    ///
    /// # Errors
    /// A parameter is out of range, or the whole does not fit the address space.
    pub fn new(params: &LayoutParams) -> Result<Self, LayoutError> {
        let LayoutParams {
            queues,
            completions,
            chunks,
            header_slot,
        } = *params;
        if !(1..=MAX_QUEUES).contains(&queues) {
            return Err(LayoutError::Queues { queues });
        }
        if !(MIN_COMPLETIONS..=MAX_COMPLETIONS).contains(&completions)
            || !completions.is_power_of_two()
        {
            return Err(LayoutError::Completions { completions });
        }
        if !(1..=MAX_CHUNKS).contains(&chunks) {
            return Err(LayoutError::Chunks { chunks });
        }
        if !HEADER_SLOTS.contains(&header_slot) || !u64::from(header_slot).is_multiple_of(LINE) {
            return Err(LayoutError::HeaderSlot { header_slot });
        }
        Self::compute(*params)
            .filter(|layout| usize::try_from(layout.daemon_size).is_ok())
            .ok_or(LayoutError::TooLarge)
    }

    fn compute(params: LayoutParams) -> Option<Self> {
        let queues = u64::from(params.queues);
        let refill_capacity = params
            .chunks
            .checked_next_power_of_two()?
            .max(MIN_COMPLETIONS);
        let completions = u64::from(params.completions).checked_mul(Completion::SIZE as u64)?;
        let daemon_stride = (QUEUE_LINES * LINE + COUNTERS * 8)
            .checked_add(completions)?
            .checked_next_multiple_of(PAGE)?;
        let refills = u64::from(refill_capacity).checked_mul(RefillEntry::SIZE as u64)?;
        let client_stride = REFILLS
            .checked_add(refills)?
            .checked_next_multiple_of(PAGE)?;
        let headers = daemon_stride.checked_mul(queues)?.checked_add(PAGE)?;
        let slots = u64::from(params.chunks).checked_mul(u64::from(params.header_slot))?;
        let daemon_size = headers.checked_add(slots)?.checked_next_multiple_of(PAGE)?;
        let client_size = client_stride.checked_mul(queues)?;
        Some(Self {
            params,
            refill_capacity,
            daemon_stride,
            client_stride,
            headers,
            daemon_size,
            client_size,
        })
    }

    /// What the layout was computed from.
    #[must_use]
    pub fn params(&self) -> &LayoutParams {
        &self.params
    }

    /// Entries of each refill ring: a power of two, with room for every chunk of the region.
    #[must_use]
    pub fn refill_capacity(&self) -> u32 {
        self.refill_capacity
    }

    /// Bytes of the daemon-written memfd.
    #[must_use]
    pub fn daemon_size(&self) -> u64 {
        self.daemon_size
    }

    /// Bytes of the client-written memfd.
    #[must_use]
    pub fn client_size(&self) -> u64 {
        self.client_size
    }

    /// Where the header slots begin in the daemon-written memfd: a multiple of [`PAGE`]. They go on to its end.
    #[must_use]
    pub fn headers(&self) -> u64 {
        self.headers
    }

    /// The header slot of a chunk, in the daemon-written memfd. `None`: the region has no such chunk.
    #[inline]
    #[must_use]
    pub fn header_slot(&self, chunk: u32) -> Option<u64> {
        (chunk < self.params.chunks)
            .then(|| self.headers + u64::from(chunk) * u64::from(self.params.header_slot))
    }

    /// The blocks of a queue, counted from 0 within the attachment. `None`: it has no such queue.
    #[must_use]
    pub fn queue(&self, queue: u32) -> Option<QueueLayout> {
        if queue >= self.params.queues {
            return None;
        }
        let daemon = PAGE + u64::from(queue) * self.daemon_stride;
        let client = u64::from(queue) * self.client_stride;
        Some(QueueLayout {
            completion_producer: daemon,
            refill_consumer: daemon + LINE,
            need_kick: daemon + 2 * LINE,
            counters: daemon + QUEUE_LINES * LINE,
            completions: daemon + QUEUE_LINES * LINE + COUNTERS * 8,
            completion_consumer: client,
            sleeping: client + LINE,
            refill_producer: client + 2 * LINE,
            refills: client + REFILLS,
        })
    }

    /// The words at the beginning of the daemon-written memfd.
    #[must_use]
    pub fn header_words(&self) -> [u32; 7] {
        let LayoutParams {
            queues,
            completions,
            chunks,
            header_slot,
        } = self.params;
        [
            MAGIC,
            VERSION,
            queues,
            completions,
            chunks,
            header_slot,
            self.refill_capacity,
        ]
    }

    /// Daemon: writes [`header_words`](Self::header_words) into a new daemon-written memfd. `false`: it is too short.
    pub fn announce(&self, daemon: &Shm) -> bool {
        let bytes = self.header_words().map(u32::to_le_bytes);
        daemon.copy_in(0, bytes.as_flattened())
    }

    /// Daemon: says in shared memory whether packets may come. `false`: not a daemon-written memfd.
    pub fn set_state(daemon: &Arc<Shm>, state: State) -> bool {
        daemon
            .word_to_write(STATE)
            .map(|word| word.store(state as u32))
            .is_ok()
    }

    /// Client: whether the daemon-written memfd begins as this layout says.
    #[must_use]
    pub fn is_announced_in(&self, daemon: &Shm) -> bool {
        let mut found = [[0; 4]; 7];
        daemon.copy_out(0, found.as_flattened_mut())
            && found.map(u32::from_le_bytes) == self.header_words()
    }
}
