//! What the client gives back.

use devrx_driver::RxQueue;

use super::Worker;

/// Chunks that must be missing before a busy queue is topped up: one index publication for so many.
const TOP_UP: usize = 32;

impl<Q: RxQueue> Worker<Q> {
    /// Tops the queue up: from what the client returned first, because those chunks are warm, then from the pool.
    ///
    /// The queue's own refill is called every time: it may have to answer a NIC that asked to be woken.
    pub(super) fn refill(&mut self, idle: bool) {
        loop {
            let missing = self.queue.capacity().saturating_sub(self.queue.posted()) as usize;
            if missing > 0 && missing < TOP_UP && !idle {
                return;
            }
            // No more at a time than the cache has room for: the rest would take the longer way.
            let most = missing.min(self.pool.room());
            let read = if most > 0 { self.take_returns(most) } else { 0 };
            let posted = self.queue.refill(&mut self.pool);
            if most == missing || read < most || posted == 0 {
                return;
            }
        }
    }

    /// Reads up to `most` entries of the refill ring and gives them to the pool, which refuses and counts what cannot be right. Returns how many
    /// were read.
    pub(super) fn take_returns(&mut self, most: usize) -> usize {
        // A client may write faster than this reads. One look at the whole ring is enough.
        let entries = self.rings.refills.oldest(most);
        let count = entries.len();
        // Refusals are counted by the pool, by reason; there is nobody to tell.
        self.pool
            .take_back_batch(entries.map(|entry| (entry.chunk, entry.generation)));
        self.rings.refills.advance(count);
        count
    }
}
