//! A receive queue.

use std::cell::Cell;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use devrx_pool::{Pool, Returns};

use super::interrupts;
use super::regs::{RXDCTL_ENABLE, RxQueueRegs};
use super::shared::Shared;
use super::write_back::Receive;
use crate::device::{Device, Registers};
use crate::ring::{Vectors, drain, pause, ring, wait};
use crate::{DriverError, QueueCounters, RxQueue, RxSink};

/// How long a queue may take to stop: what is under way to memory then is written (82576 datasheet 4.6.9.1; the time is Linux's).
pub(super) const STOP_PATIENCE: Duration = Duration::from_millis(100);
/// After the enable bit is clear, write-backs may still be on the bus (4.6.9.1).
pub(super) const STOP_SETTLE: Duration = Duration::from_micros(100);

/// One queue of an [`IgbNic`](super::IgbNic), owned by the thread that polls it.
///
/// Dropped without a [`stop`](RxQueue::stop) that succeeded, it leaves its memory within the NIC's reach until the process ends.
pub struct IgbQueue<D: Device> {
    receive: Receive,
    shared: Arc<Shared<D>>,
    registers: Arc<D::Registers>,
    vectors: Arc<Vectors>,
    /// Where the tail is written.
    rdt: u32,
    /// The ring's tail when it was written last.
    told: u32,
    index: u32,
    /// The vector is unmasked.
    armed: bool,
    /// The function reset it was opened after.
    epoch: u32,
    /// Overruns of the port before it was opened.
    overruns: u64,
    /// Packets that had come to this queue number before.
    arrived_before: u64,
    drops: Drops,
    stopped: bool,
    /// A reset of the function ended it, with whatever the NIC held and had not counted.
    cut_off: bool,
}

/// Reads the queue's drop counter.
#[derive(Debug, Default)]
struct Drops {
    /// What it counted in all.
    total: Cell<u64>,
    /// Its last value, where reading does not clear it.
    last: Cell<u32>,
    /// It has been at its end: there may have been more.
    full: Cell<bool>,
}

impl<D: Device> IgbQueue<D> {
    /// The queue is set up and enabled, its interrupt masked. Under the control lock.
    pub(super) fn new(
        receive: Receive,
        shared: Arc<Shared<D>>,
        vectors: Arc<Vectors>,
        index: u32,
    ) -> Self {
        // Nothing of what was before.
        drain(vectors.queue(index));
        shared.take_causes();
        let new = Self {
            receive,
            registers: Arc::clone(&shared.registers),
            vectors,
            rdt: RxQueueRegs::of(index).rdt(),
            // As a new ring's.
            told: 0,
            index,
            armed: false,
            epoch: shared.epoch.load(Ordering::Acquire),
            overruns: shared.overruns.load(Ordering::Relaxed),
            arrived_before: shared.arrived[index as usize].load(Ordering::Relaxed),
            drops: Drops::default(),
            stopped: false,
            cut_off: false,
            shared,
        };
        new.count_drops();
        new.drops.total.set(0);
        new.drops.full.set(false);
        new.show_arrived();
        new
    }

    /// The queue's number.
    #[must_use]
    pub const fn index(&self) -> u32 {
        self.index
    }

    /// From now on one packet at a time is looked at, as where the processor can do no more.
    #[cfg(all(test, target_arch = "x86_64"))]
    pub(super) const fn look_at_each(&mut self) {
        self.receive.avx2 = None;
    }

    /// Whether the hardware queue is still this one's: no reset has come between.
    fn current(&self) -> bool {
        self.shared.epoch.load(Ordering::Acquire) == self.epoch
    }

    /// Adds up what the drop counter says. Called without the control lock too, so a reset may come at any time.
    fn count_drops(&self) {
        let value = self.shared.read(RxQueueRegs::of(self.index).rqdpc());
        let part = self.shared.part;
        let mask = u32::MAX >> (32 - part.drop_bits);
        if value == u32::MAX {
            // Gone, or full: either way nothing exact can be said.
            self.drops.full.set(true);
            return;
        }
        if !self.current() {
            // What it says may be the next queue's.
            return;
        }
        let value = value & mask;
        let new = if part.drop_clears {
            value
        } else {
            // Less than before: it began anew with a reset. It stays at its end, and does not go over it.
            let last = self.drops.last.replace(value);
            value.checked_sub(last).unwrap_or(value)
        };
        self.drops.full.set(self.drops.full.get() || value == mask);
        self.drops
            .total
            .set(self.drops.total.get() + u64::from(new));
        self.show_arrived();
    }

    /// What has come so far, for [`Flows::queue_packets`](crate::Flows::queue_packets).
    fn show_arrived(&self) {
        let arrived =
            self.arrived_before + self.receive.counts().arrived() + self.drops.total.get();
        // Only this queue writes it while it is open.
        self.shared.arrived[self.index as usize].store(arrived, Ordering::Relaxed);
    }

    /// Ends the hardware queue: by its enable bit, or by a reset of the function. Under the control lock.
    fn halt(&mut self) -> Result<(), DriverError> {
        let rxdctl = RxQueueRegs::of(self.index).rxdctl();
        // What the monitor may not have found yet cut the queue off all the same.
        self.shared.look_for_reset(self.epoch);
        self.shared.write(rxdctl, 0);
        interrupts::mask(&self.shared, self.index);
        let off = wait(STOP_PATIENCE, || {
            // All ones, when it is gone, has the bit set too.
            self.shared.read(rxdctl) & RXDCTL_ENABLE == 0
        });
        if off {
            pause(STOP_SETTLE);
            // A read is answered behind the writes that the device has under way (PCIe ordering).
            self.count_drops();
            self.shared.take_causes();
            return Ok(());
        }
        tracing::warn!(
            nic = self.shared.device.address(),
            queue = self.index,
            "the queue did not stop; the NIC is reset, which ends its other queues too"
        );
        self.count_drops();
        let reset = self.shared.reset();
        self.vectors.wake_all();
        reset
    }
}

impl<D: Device> RxQueue for IgbQueue<D> {
    #[inline]
    fn poll<S: RxSink>(&mut self, out: &mut S) -> usize {
        if self.armed {
            // Awake: no interrupts from here on.
            self.armed = false;
            interrupts::mask(&self.shared, self.index);
        }
        let count = self.receive.poll(out);
        self.show_arrived();
        count
    }

    #[inline(always)]
    fn post<I>(&mut self, returns: Returns<'_, I>) -> bool
    where
        I: ExactSizeIterator<Item = (u32, u16)>,
    {
        self.receive.post(returns)
    }

    #[inline]
    fn refill(&mut self, pool: &mut Pool) -> usize {
        let posted = self.receive.refill(pool);
        let ring = &self.receive.ring;
        if ring.tail() != self.told {
            self.told = ring.tail();
            self.registers.write32(self.rdt, ring.tail_register());
        }
        posted as usize
    }

    fn posted(&self) -> u32 {
        self.receive.posted()
    }

    fn capacity(&self) -> u32 {
        self.receive.ring.capacity()
    }

    fn room(&self) -> u32 {
        self.receive.room()
    }

    fn wait_fd(&self) -> BorrowedFd<'_> {
        self.vectors.queue(self.index)
    }

    fn arm(&mut self) -> bool {
        if self.stopped {
            return !self.receive.arrived();
        }
        drain(self.wait_fd());
        self.armed = true;
        interrupts::listen(&self.shared, self.index);
        // What came before may have raised no interrupt; and a fault that came before the drain would go unseen.
        !self.receive.arrived() && self.fault().is_none()
    }

    fn counters(&self) -> QueueCounters {
        if !self.stopped && self.current() {
            self.count_drops();
            self.shared.take_causes();
            self.shared.look_for_reset(self.epoch);
        }
        let overruns = self.shared.overruns.load(Ordering::Relaxed);
        QueueCounters {
            no_descriptor: self.drops.total.get(),
            exact: overruns == self.overruns
                && !self.drops.full.get()
                && !self.cut_off
                && (self.stopped || self.fault().is_none()),
            ..self.receive.counts().queue_counters()
        }
    }

    fn fault(&self) -> Option<&'static str> {
        self.shared.fault_of(self.epoch)
    }

    fn stop(&mut self) -> Result<(), DriverError> {
        if self.stopped {
            return Ok(());
        }
        let shared = Arc::clone(&self.shared);
        let control = shared.control();
        // A reset of the function has ended it already.
        if self.current() {
            self.halt()?;
        }
        // By its own halt or by another queue's, or by whatever failed before.
        self.cut_off = self.fault().is_some();
        drop(control);
        self.stopped = true;
        self.armed = false;
        self.receive.end();
        ring(self.wait_fd());
        Ok(())
    }

    fn reclaim(&mut self, pool: &mut Pool) {
        self.receive.reclaim(pool);
    }
}

impl<D: Device> Drop for IgbQueue<D> {
    fn drop(&mut self) {
        if !self.stopped {
            tracing::error!(
                nic = self.shared.device.address(),
                queue = self.index,
                "a queue was given up without having been stopped; its memory stays the NIC's until this process ends"
            );
            self.receive.ring.leak();
        }
    }
}

impl<D: Device> std::fmt::Debug for IgbQueue<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IgbQueue")
            .field("index", &self.index)
            .field("posted", &self.receive.posted())
            .field("stopped", &self.stopped)
            .finish_non_exhaustive()
    }
}
