//! A receive queue.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use devrx_pool::{Pool, Returns};

use super::init;
use super::interrupts;
use super::regs::{QRX_CTRL, QRX_TAIL, enable};
use super::shared::{Control, Shared};
use super::statistics::Discarded;
use super::write_back::Receive;
use crate::device::{Device, Registers};
use crate::ring::{UNTOLD, Vectors, drain, ring, wait};
use crate::{DriverError, QueueCounters, RxQueue, RxSink};

/// How long a queue may take to stop. Both drivers give it one to ten milliseconds; a reset costs more than waiting.
pub(super) const STOP_PATIENCE: Duration = Duration::from_millis(100);

/// The device takes descriptors by so many: it ignores the lowest three bits of the tail (`ice_release_rx_desc` in Linux), so up to seven wait for more.
pub(super) const TAIL_STEP: u32 = 8;
const _: () = assert!(TAIL_STEP <= UNTOLD);

/// Turns a queue off, and sees that it is: until then the device writes.
pub(super) fn off<D: Device>(shared: &Shared<D>, queue: u32) -> bool {
    let register = QRX_CTRL.at(queue);
    shared.write(register, 0);
    // The answer to a read comes behind what the device has written before (PCIe ordering).
    wait(STOP_PATIENCE, || {
        // All ones, when it is gone, has the bit set too.
        shared.read(register) & enable::STATUS == 0
    })
}

/// One queue of an [`IceNic`](super::IceNic), owned by the thread that polls it.
///
/// Dropped without a [`stop`](RxQueue::stop) that succeeded, it leaves its memory within the NIC's reach until the process ends.
pub struct IceQueue<D: Device> {
    receive: Receive,
    shared: Arc<Shared<D>>,
    registers: Arc<D::Registers>,
    vectors: Arc<Vectors>,
    /// Where the tail is written.
    tail: u32,
    /// What was written there last.
    told: u32,
    index: u32,
    /// The vector is unmasked.
    armed: bool,
    /// The function reset it was opened after.
    epoch: u32,
    /// Packets that the port had lost before it was opened.
    missed: u64,
    /// Packets that had come to this queue number before.
    arrived_before: u64,
    stopped: bool,
    /// A reset or a failure ended it, with whatever the NIC held and had not counted.
    cut_off: bool,
}

impl<D: Device> IceQueue<D> {
    /// The queue is set up and enabled, its interrupt masked. Under the control lock.
    pub(super) fn new(
        receive: Receive,
        shared: Arc<Shared<D>>,
        vectors: Arc<Vectors>,
        index: u32,
    ) -> Self {
        // Nothing of what was before.
        drain(vectors.queue(index));
        shared.forget_discards(index);
        Self {
            receive,
            registers: Arc::clone(&shared.registers),
            vectors,
            tail: QRX_TAIL.at(index),
            // As a new ring's.
            told: 0,
            index,
            armed: false,
            epoch: shared.epoch.load(Ordering::Acquire),
            missed: shared.missed(),
            arrived_before: shared.arrived[index as usize].load(Ordering::Relaxed),
            stopped: false,
            cut_off: false,
            shared,
        }
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

    /// Ends the hardware queue: by its enable bit, or by a reset of the function.
    fn halt(&self, control: &mut Control<D::Registers>) -> Result<(), DriverError> {
        interrupts::mask(&self.shared, self.index);
        // While the whole device is in reset its registers say nothing.
        let awake = init::active(&*self.registers).is_ok();
        if awake && off(&self.shared, self.index) {
            return Ok(());
        }
        tracing::warn!(
            nic = self.shared.device.address(),
            queue = self.index,
            "the queue did not stop; the NIC is reset, which ends its other queues too"
        );
        let reset = self.shared.reset(control);
        self.vectors.wake_all();
        reset
    }
}

impl<D: Device> RxQueue for IceQueue<D> {
    #[inline]
    fn poll<S: RxSink>(&mut self, out: &mut S) -> usize {
        if self.armed {
            // Awake: no interrupts from here on.
            self.armed = false;
            interrupts::mask(&self.shared, self.index);
        }
        let count = self.receive.poll(out);
        let arrived = self.arrived_before + self.receive.counts().arrived();
        // Only this queue writes it while it is open.
        self.shared.arrived[self.index as usize].store(arrived, Ordering::Relaxed);
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
        let tail = self.receive.ring.tail_register() & !(TAIL_STEP - 1);
        if tail != self.told {
            self.told = tail;
            self.registers.write32(self.tail, tail);
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
        let counts = self.receive.counts().queue_counters();
        let (discarded, alone) = self.shared.discards_of(self.index);
        let cut_off = if self.stopped {
            self.cut_off
        } else {
            self.fault().is_some()
        };
        let own = if alone {
            discarded
        } else {
            Discarded::default()
        };
        QueueCounters {
            no_descriptor: own.total - own.errors,
            errors: counts.errors + own.errors,
            exact: (alone || discarded.total == 0)
                && self.shared.missed() == self.missed
                && !cut_off,
            ..counts
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
        let mut control = shared.control();
        // A reset of the function has ended it already.
        if self.current() {
            self.halt(&mut control)?;
        }
        // By its own halt, another queue's, or whatever failed before.
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

impl<D: Device> Drop for IceQueue<D> {
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

impl<D: Device> std::fmt::Debug for IceQueue<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IceQueue")
            .field("index", &self.index)
            .field("posted", &self.receive.posted())
            .field("stopped", &self.stopped)
            .finish_non_exhaustive()
    }
}
