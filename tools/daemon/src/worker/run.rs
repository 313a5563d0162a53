//! The loop of a worker.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use devrx_driver::{RxBatch, RxQueue};
use devrx_proto::ring::DaemonQueue;
use devrx_proto::wake::{Wake, WakePolicy};
use devrx_provider::{Flush, MemoryKind};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use super::marks::{self, mark};
use super::snapshot::Words;
use super::{ClientSide, Command, Finished, Manners, Parts, Worker};
use crate::config::PollMode;

/// Empty polls before an adaptive worker sleeps: some tens of microseconds, about what a sleep and a wake-up cost.
const SPINS: u32 = 2000;

/// How often the drop counters of NIC and kernel, which cost a system call, are brought into shared memory while packets come.
const REFRESH: Duration = Duration::from_millis(100);

impl<Q: RxQueue> Worker<Q> {
    /// Puts a worker together; `words` are those of its place in its memory.
    pub(super) fn new(queue: Q, parts: Parts, words: Words) -> Self {
        let Parts {
            manners,
            pool,
            region,
            layout,
            place,
            memory,
            watched,
            headers,
            rings,
            client,
            shared,
            commands,
        } = parts;
        let chunks = pool.provider().chunks();
        let flushes = region.flush() == Flush::ReadPerBatch;
        let low = queue.capacity().min(chunks.end - chunks.start) / 2;
        Self {
            wake: WakePolicy::new(manners.wake_batch, manners.wake_timeout),
            queue,
            pool,
            flushes,
            region,
            rings,
            layout,
            place,
            memory,
            watched,
            headers,
            client,
            manners,
            words,
            numbers: Default::default(),
            shared,
            commands,
            low: low.max(1),
        }
    }

    /// Runs until told to stop; then ends the queue.
    pub(crate) fn run(mut self, ready: impl FnOnce()) -> Finished {
        pin(&self.manners);
        let mut batch = RxBatch::new();
        let mut idle = 0u32;
        let mut refreshed = Instant::now();
        // Posted before anybody steers a packet here: no packet is lost to the start.
        self.queue.refill(&mut self.pool);
        self.refresh();
        ready();
        loop {
            if self.shared.commanded.load(Ordering::Acquire) && self.obey() {
                return self.finish();
            }
            mark::<{ marks::LOOK }>();
            let received = self.receive(&mut batch);
            let now = Instant::now();
            if received > 0 {
                mark::<{ marks::RECEIVED }>();
                idle = 0;
                self.publish(now);
                mark::<{ marks::PUBLISHED }>();
                self.refill(false);
                mark::<{ marks::REFILLED }>();
                self.words.store(&self.numbers);
                mark::<{ marks::COUNTED }>();
                if now.duration_since(refreshed) >= REFRESH {
                    refreshed = now;
                    self.refresh();
                }
                continue;
            }
            self.refill(true);
            if self.wake.deadline().is_some_and(|by| now >= by) {
                self.publish(now);
            }
            idle = idle.saturating_add(1);
            let sleeps = match self.manners.poll_mode {
                PollMode::Busy => false,
                PollMode::Adaptive => idle > SPINS,
                PollMode::Sleep => true,
            };
            if sleeps {
                self.refresh();
                self.sleep();
                idle = 0;
                refreshed = Instant::now();
            } else {
                if idle.is_multiple_of(SPINS) {
                    // A busy worker with nothing to do still keeps its numbers fresh: a NIC may drop all there is.
                    if now.duration_since(refreshed) >= REFRESH {
                        refreshed = now;
                        self.refresh();
                    } else {
                        self.watch();
                    }
                }
                std::hint::spin_loop();
            }
        }
    }

    /// Shows the batch to the client, and wakes it if it is time.
    pub(super) fn publish(&mut self, now: Instant) {
        if self.rings.completions.publish_for(&mut self.wake, now) == Wake::Now {
            self.numbers.wakes += 1;
            self.client.wake.notify();
        }
    }

    /// Brings the numbers of pool and NIC into the snapshot and shared memory, and looks for signs of a broken client.
    pub(super) fn refresh(&mut self) {
        self.numbers.take_pool(&self.pool.counts());
        self.numbers.take_queue(&self.queue.counters());
        self.watch();
        self.words.store(&self.numbers);
    }

    /// Looks for what a client can do to the memory it shares; ends the attachment if it did. Costs no system call.
    pub(super) fn watch(&mut self) {
        self.numbers.index_faults = self.numbers.past_index_faults
            + self.rings.completions.faults()
            + self.rings.refills.faults();
        if self.numbers.index_faults > 0 {
            self.shared.fail("the client wrote impossible ring indices; devrx_client writes none, so this is another program or a fault in it");
        }
        if self
            .region
            .mapping()
            .is_some_and(devrx_provider::Mapping::poisoned)
            && !devrx_sabotage::removed("poisoned-region")
        {
            self.shared.fail(match self.region.kind() {
                MemoryKind::Pci | MemoryKind::Dmabuf => "the device took its memory away (it was reset, or its memory access is off); bring it back, and attach again",
                _ => "the client took pages out of the region (a hole punched in the file, or its memory gone); attach again with memory that stays",
            });
        }
        if let Some(why) = self.queue.fault() {
            self.shared.fail(why);
        }
        if self.rings_lost_pages() {
            self.shared.fail("pages of the rings or header slots are gone: the client punched a hole where there is no memory to fill it, or the machine has none left; free memory and attach again");
        }
    }

    /// Whether pages of rings or header slots are gone. What is read there is zeros, and what is written there nobody sees.
    fn rings_lost_pages(&self) -> bool {
        (self.client.watched.poisoned() || self.watched.poisoned() || self.headers.poisoned())
            && !devrx_sabotage::removed("poisoned-rings")
    }

    /// Does what control asks. Returns whether to stop.
    fn obey(&mut self) -> bool {
        self.shared.commanded.store(false, Ordering::Relaxed);
        self.shared.doorbell.drain();
        // After the flag is down: a command sent from here on raises it again.
        std::sync::atomic::fence(Ordering::SeqCst);
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Consumer(client, answer) => {
                    self.change_consumer(client);
                    // Control may have given up waiting.
                    let _ = answer.try_send(self.rings.start());
                }
                Command::Report(answer) => {
                    self.take_returns(usize::MAX);
                    self.refresh();
                    let _ = answer.try_send(self.numbers);
                }
            }
        }
        self.shared.stop.load(Ordering::Acquire)
    }

    /// The consumer is gone: everything it held, read or not, comes back, and the rings start empty for the next.
    fn change_consumer(&mut self, client: ClientSide) {
        self.publish_quietly();
        self.take_returns(usize::MAX);
        if !devrx_sabotage::removed("reclaim-dead-client") {
            self.pool.reclaim_client();
        }
        let faults = self.rings.completions.faults() + self.rings.refills.faults();
        let start = self.rings.start();
        match DaemonQueue::new(
            &self.layout,
            self.place,
            &self.memory,
            &client.memory,
            start,
        ) {
            Ok(rings) => {
                self.numbers.past_index_faults += faults;
                self.rings = rings;
                self.client = client;
                self.wake = WakePolicy::new(self.manners.wake_batch, self.manners.wake_timeout);
            }
            Err(error) => {
                tracing::error!(%error, worker = self.manners.name, "no rings for a new consumer");
                self.shared
                    .fail("no rings could be made for a new consumer");
            }
        }
        self.refill(true);
        self.refresh();
    }

    /// Whatever was not shown yet is, so that the next consumer's start is right. Nobody is woken.
    fn publish_quietly(&mut self) {
        self.rings.completions.publish();
    }
}

fn pin(manners: &Manners) {
    let Some(cpu) = manners.cpu else { return };
    if let Err(error) = set_of(cpu).and_then(|set| sched_setaffinity(Pid::from_raw(0), &set)) {
        tracing::warn!(worker = manners.name, cpu, %error, "the thread runs on any processor: it could not be pinned to the one asked for");
    }
}

fn set_of(cpu: u32) -> nix::Result<CpuSet> {
    let mut set = CpuSet::new();
    set.set(usize::try_from(cpu).map_err(|_| nix::errno::Errno::EINVAL)?)?;
    Ok(set)
}

/// Whether a thread of this process can be pinned to a processor: tried on the calling thread, which is put back at once.
#[must_use]
pub fn can_pin(cpu: u32) -> bool {
    let this = Pid::from_raw(0);
    let Ok(before) = sched_getaffinity(this) else {
        return false;
    };
    let can = set_of(cpu)
        .and_then(|set| sched_setaffinity(this, &set))
        .is_ok();
    if let Err(error) = sched_setaffinity(this, &before) {
        tracing::warn!(%error, "the control thread stays on processor {cpu}");
    }
    can
}
