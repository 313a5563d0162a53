//! What the client gives back.

use devrx_driver::RxQueue;
use devrx_proto::refill::RefillEntry;

use super::Worker;

/// Entries copied out of the refill ring at a time.
const BATCH: usize = 64;

/// Chunks that must be missing before a busy queue is topped up: one index publication for so many.
const TOP_UP: u32 = 32;

impl<Q: RxQueue> Worker<Q> {
    /// Tops the queue up: from what the client returned first, because those chunks are warm, then from the pool.
    ///
    /// The queue's own refill is called every time: it may have to answer a NIC that asked to be woken.
    pub(super) fn refill(&mut self, idle: bool) {
        let missing = self.queue.capacity().saturating_sub(self.queue.posted());
        if missing >= TOP_UP || (idle && missing > 0) {
            // No more than the cache has room for: the rest would take the longer way, and comes next time.
            self.take_returns((missing as usize).min(self.pool.room()));
        } else if missing > 0 {
            return;
        }
        self.queue.refill(&mut self.pool);
    }

    /// Reads up to `most` entries of the refill ring (rounded up to a batch) and gives them to the pool, which refuses and counts
    /// what cannot be right. Returns how many were read.
    pub(super) fn take_returns(&mut self, most: usize) -> usize {
        let mut entries = [RefillEntry::default(); BATCH];
        // A client may write faster than this reads. One look at the whole ring is enough.
        let most = most.min(self.rings.refills.capacity() as usize);
        let mut read = 0;
        while read < most {
            let count = self.rings.refills.take(&mut entries);
            // Refusals are counted by the pool, by reason; there is nobody to tell.
            self.pool.take_back_batch(
                entries[..count]
                    .iter()
                    .map(|entry| (entry.chunk, entry.generation)),
            );
            read += count;
            if count < BATCH {
                break;
            }
        }
        read
    }
}
