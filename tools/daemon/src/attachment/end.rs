//! Ending an attachment, in the order that keeps memory safe: close steering, wait until no packet is on its way, stop the queue,
//! drain it, take every chunk back, shut the pool down, unmap, close; the keeper lets go last. A queue that cannot be proven stopped
//! keeps its memory: leaked and reported, never freed.
//!
//! What a client can make slow to close, its events and dma-bufs, is closed aside ([`Closers`](crate::closers::Closers)); the last
//! duplicate of a dma-buf after all that.

use std::ops::RangeInclusive;

use devrx_proto::layout::{STATE, State};
use devrx_proto::ring::Word;

use super::Attachment;
use crate::keeper::Keeper;
use crate::nic::NicSlot;
use crate::worker::snapshot::Snapshot;

/// What is left of an attachment: its numbers.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Its name.
    pub name: String,
    /// The NIC's place in the daemon's table.
    pub nic: usize,
    /// The NIC's name.
    pub nic_name: String,
    /// The queues it had.
    pub queues: RangeInclusive<u32>,
    /// The kind of memory.
    pub memory: String,
    /// The chunks it had.
    pub chunks: u32,
    /// The last numbers, by queue.
    pub numbers: Vec<(u32, Snapshot)>,
    /// Why it ended.
    pub reason: String,
    /// Its memory is kept, because a NIC may still write it.
    pub leaked: bool,
}

impl Attachment {
    /// Ends it. Never fails: what goes wrong is reported, and costs memory rather than safety.
    #[must_use]
    pub fn end(self, nic: &mut NicSlot, keeper: &mut Keeper) -> Ended {
        let open: Vec<u32> = self.live.iter().map(|queue| queue.number).collect();
        if devrx_sabotage::removed("steering-first") {
            // As it must not be: the queues stop while packets are still brought to them.
            for queue in &self.live {
                queue.worker.stop();
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        // Its rules go with a queue, in one step: taking them off one by one would make the NIC's filter anew for each.
        for queue in &open {
            if let Err(error) = nic.nic.close_queue(*queue) {
                tracing::error!(attachment = self.name, queue, %error, "closing a queue's steering; the queue is stopped all the same");
            }
        }
        // The client sees the end before its workers, which wake it once more, are gone.
        if let Ok(state) = self.daemon_memory.word_to_write(STATE) {
            state.store(State::Ended as u32);
        }
        for queue in &self.live {
            queue.worker.stop();
        }
        let mut leaked = false;
        let mut numbers = Vec::with_capacity(self.live.len());
        for queue in self.live {
            let finished = queue.worker.join();
            if let Some(why) = finished.leaked {
                leaked = true;
                tracing::error!(
                    attachment = self.name,
                    queue = queue.number,
                    why,
                    "the queue is not proven stopped; its memory is kept until the daemon ends, and by the keeper until after that"
                );
            }
            numbers.push((queue.number, finished.numbers));
        }
        let ended = Ended {
            name: self.name,
            nic: self.nic,
            nic_name: self.nic_name,
            queues: self.queues,
            memory: self.memory,
            chunks: self.region.chunks(),
            numbers,
            reason: String::new(),
            leaked,
        };
        let user = self
            .consumer
            .map_or(self.owner.uid, |consumer| consumer.uid);
        self.client.let_go(&self.closers, user);
        if leaked {
            std::mem::forget((
                self.region,
                self.daemon_memory,
                self.watched,
                self.daemon_fd,
                self.given,
            ));
            return ended;
        }
        // Unmapped and closed here; the keeper, last of all, frees it.
        drop((
            self.region,
            self.lender,
            self.daemon_memory,
            self.watched,
            self.daemon_fd,
        ));
        if let Some(hold) = self.hold {
            keeper.release(hold);
        }
        if !self.given.is_empty() {
            self.closers.close(self.owner.uid, self.given);
        }
        ended
    }
}
