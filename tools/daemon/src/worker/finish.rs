//! The end of a queue, in the order that keeps memory safe: steering is closed already; stop, drain, reclaim, shut the pool down,
//! close. Memory goes only after that.

use std::time::{Duration, Instant};

use devrx_driver::{RxBatch, RxFlags, RxQueue};
use devrx_pool::DrainState;

use super::Worker;
use super::snapshot::Snapshot;

/// How often and how long a queue that does not stop is asked again.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is left of a queue.
#[derive(Debug, Default)]
pub struct Finished {
    /// The last numbers.
    pub numbers: Snapshot,
    /// The queue could not be proven stopped. It, its pool and its memory were leaked on purpose: a NIC may still write there.
    pub leaked: Option<String>,
}

impl<Q: RxQueue> Worker<Q> {
    /// Ends the queue.
    pub(super) fn finish(mut self) -> Finished {
        if let Err(error) = self.stop()
            && !devrx_sabotage::removed("leak-unstopped")
        {
            self.refresh();
            let leaked = Finished {
                numbers: self.numbers,
                leaked: Some(error),
            };
            // Never freed: the NIC may write there until the process ends, and the keeper holds the memory beyond that.
            std::mem::forget(self);
            return leaked;
        }
        self.drain();
        self.take_returns(usize::MAX);
        self.queue.reclaim(&mut self.pool);
        self.pool.reclaim_client();
        self.refresh();
        let Self {
            queue,
            pool,
            mut numbers,
            words,
            manners,
            client,
            ..
        } = self;
        let provider = pool.provider().clone();
        let draining = pool.shutdown();
        let deadline = Instant::now() + PATIENCE;
        let mut left = 0;
        while let DrainState::InFlight(count) = draining.poll() {
            left = count;
            if Instant::now() >= deadline {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
            left = 0;
        }
        if left > 0 {
            tracing::error!(
                worker = manners.name,
                left,
                "chunks are missing at the end of a queue; this is a fault in the daemon"
            );
        }
        numbers.take_pool(&draining.counts());
        words.store(&numbers);
        drop(queue);
        provider.uninstall();
        client.wake.notify();
        Finished {
            numbers,
            leaked: None,
        }
    }

    fn stop(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.queue.stop() {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() >= deadline => return Err(error.to_string()),
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    /// Packets that had arrived belong to nobody now.
    fn drain(&mut self) {
        let mut batch = RxBatch::new();
        loop {
            batch.clear();
            if self.queue.poll(&mut batch) == 0 {
                return;
            }
            for entry in &batch {
                self.pool.recycle(entry.chunk);
                if !entry.flags.contains(RxFlags::MORE) {
                    self.numbers.drained += 1;
                }
            }
        }
    }
}
