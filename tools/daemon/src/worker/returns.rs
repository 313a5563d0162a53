//! What the client gives back.

use devrx_driver::RxQueue;

use super::Worker;

/// Chunks that must be missing before a busy queue is topped up: one index publication for so many.
const TOP_UP: usize = 32;

impl<Q: RxQueue> Worker<Q> {
    /// Tops the queue up: from what the client returned first, because those chunks are warm, then from the pool.
    ///
    /// The queue's own refill is called every time: it may have to answer a NIC that asked to be woken.
    #[inline]
    pub(super) fn refill(&mut self, idle: bool) {
        let missing = self.queue.capacity().saturating_sub(self.queue.posted()) as usize;
        if missing > 0 && missing < TOP_UP && !idle {
            return;
        }
        self.post_returns();
        self.queue.refill(&mut self.pool);
    }

    /// Posts what the client returns, as far as there is room: from its ring to the queue, with no stop in the pool, which refuses and counts what cannot be right.
    #[inline]
    fn post_returns(&mut self) {
        // In two rows at the most. A client may write faster than this reads: one look at the whole ring is enough.
        for _ in 0..2 {
            let room = self.queue.room() as usize;
            let entries = self.rings.refills.oldest(room);
            let count = entries.len();
            if count == 0 {
                return;
            }
            let named = entries.map(|entry| (entry.chunk, entry.generation));
            if !self.queue.post(self.pool.returns(named)) {
                // The NIC's queue knows best. The pool has room, if not in its cache.
                self.take_returns(room);
                return;
            }
            self.rings.refills.advance(count);
        }
    }

    /// Reads up to `most` entries of the refill ring and gives them to the pool, which refuses and counts what cannot be right.
    /// A client may write faster than this reads: no more than a ring of them is read. Returns how many were.
    pub(super) fn take_returns(&mut self, most: usize) -> usize {
        let most = most.min(self.rings.refills.capacity() as usize);
        let mut left = most;
        while left > 0 {
            let entries = self.rings.refills.oldest(left);
            let count = entries.len();
            // Refusals are counted by the pool, by reason; there is nobody to tell.
            self.pool
                .take_back_batch(entries.map(|entry| (entry.chunk, entry.generation)));
            self.rings.refills.advance(count);
            left -= count;
            if count == 0 {
                break;
            }
        }
        most - left
    }
}
