//! Transmission, as much as sending a few packets takes: one queue, each frame copied into buffers of ours.
//!
//! A descriptor has a page: QEMU's model drops frames whose buffer goes over the end of a page behind an IOMMU, since it maps the buffer in one
//! piece. A longer frame takes several descriptors.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::descriptor::{SIZE, TRANSMITTED, transmit_command};
use super::init::LONGEST;
use super::queue::STOP_SETTLE;
use super::regs::{TCTL, TXDCTL_ENABLE, TxQueueRegs, tctl};
use super::shared::{RESET, Shared};
use crate::device::{Device, DmaBuffer};
use crate::ring::{pause, wait};
use crate::{DriverError, Transmit};

/// Descriptors.
const RING: u32 = 64;
/// Bytes for each descriptor.
const BUFFER: usize = 4096;
/// How long the queue may take to be enabled, and to stop: what it has fetched is sent first.
const SWITCH_PATIENCE: Duration = Duration::from_millis(100);
/// How long the oldest frame may take to leave: pause frames from the other side can hold it up.
const PATIENCE: Duration = Duration::from_millis(500);

/// What the device reads and writes.
#[derive(Debug)]
struct Buffers {
    ring: DmaBuffer,
    frames: DmaBuffer,
}

/// Sends frames. One at a time for each NIC; it ends when this is dropped.
#[derive(Debug)]
pub struct Transmitter<D: Device> {
    shared: Arc<Shared<D>>,
    /// `None` once leaked.
    buffers: Option<Buffers>,
    /// The function reset it was started after.
    epoch: u32,
    /// The next descriptor to use.
    tail: u32,
    /// The frames on their way, oldest first: their last descriptor, and how many they have.
    frames: VecDeque<(u32, u32)>,
    /// Descriptors of those frames.
    used: u32,
}

/// Turns the queue off, and sees that it is: until then the device reads frames and writes that they have left.
fn off<D: Device>(shared: &Shared<D>) -> bool {
    let txdctl = TxQueueRegs::of(0).txdctl();
    shared.write(txdctl, 0);
    let off = wait(SWITCH_PATIENCE, || {
        // All ones, when it is gone, has the bit set too.
        shared.read(txdctl) & TXDCTL_ENABLE == 0
    });
    // What was written is behind the answer of a read; as with receive queues.
    pause(STOP_SETTLE);
    shared.read(txdctl);
    off
}

impl<D: Device> Transmitter<D> {
    /// Sets transmit queue 0 up (82576 datasheet 4.6.10).
    pub(super) fn start(shared: Arc<Shared<D>>) -> Result<Self, DriverError> {
        let mapper = shared.device.mapper();
        let ring = DmaBuffer::new(Arc::clone(&mapper), RING as usize * SIZE)?;
        let frames = DmaBuffer::new(mapper, RING as usize * BUFFER)?;
        let regs = TxQueueRegs::of(0);
        let busy = |why: &str| DriverError::QueueBusy {
            nic: shared.device.address().to_owned(),
            queue: 0,
            why: why.to_owned(),
        };
        let control = shared.control();
        let epoch = shared.epoch.load(Ordering::Acquire);
        if shared.transmitter.load(Ordering::Relaxed) == epoch.wrapping_add(1) {
            return Err(busy(
                "there is a transmitter already, or one that did not stop; end that first, or detach everything, which resets the NIC",
            ));
        }
        if !off(&shared) {
            return Err(busy(
                "its transmit queue does not stop; detach everything, which resets the NIC, and try again",
            ));
        }
        // 64 bits; TDBAL takes the low half.
        shared.write(regs.tdbal(), ring.iova() as u32);
        shared.write(regs.tdbah(), (ring.iova() >> 32) as u32);
        shared.write(regs.tdlen(), RING * SIZE as u32);
        shared.write(regs.tdh(), 0);
        shared.write(regs.tdt(), 0);
        shared.write(TCTL, tctl::EN | tctl::PSP | tctl::DEFAULTS);
        shared.write(regs.txdctl(), TXDCTL_ENABLE);
        shared
            .transmitter
            .store(epoch.wrapping_add(1), Ordering::Relaxed);
        let on = wait(SWITCH_PATIENCE, || {
            let value = shared.read(regs.txdctl());
            // All ones is no answer.
            value != u32::MAX && value & TXDCTL_ENABLE != 0
        });
        let error = (!on).then(|| busy("the NIC does not enable its transmit queue; detach everything, which resets the NIC, and try again"));
        // Silicon takes the tail only once the queue is enabled (4.6.10).
        shared.write(regs.tdt(), 0);
        drop(control);
        // From here on dropping it ends what was begun.
        let new = Self {
            shared,
            buffers: Some(Buffers { ring, frames }),
            epoch,
            tail: 0,
            frames: VecDeque::with_capacity(RING as usize),
            used: 0,
        };
        error.map_or(Ok(new), Err)
    }

    /// Whether the frame whose last descriptor is at `last` has left.
    fn left(&self, last: u32) -> bool {
        self.buffers.as_ref().is_some_and(|buffers| {
            buffers.ring.acquire(last as usize * SIZE + 8) & TRANSMITTED != 0
        })
    }

    /// Takes back the descriptors of frames that have left.
    fn take_back(&mut self) {
        while let Some(&(last, count)) = self.frames.front()
            && self.left(last)
        {
            self.frames.pop_front();
            self.used -= count;
        }
    }
}

impl<D: Device> Transmit for Transmitter<D> {
    /// The NIC pads short frames.
    fn send(&mut self, frame: &[u8]) -> Result<(), DriverError> {
        let most = (LONGEST - 4) as usize;
        let len = u16::try_from(frame.len()).unwrap_or(u16::MAX);
        if frame.len() < 14 || frame.len() > most {
            return Err(DriverError::BadConfig {
                what: "frame length",
                value: frame.len().to_string(),
                why: format!("use 14 to {most} bytes"),
            });
        }
        let nic = self.shared.device.address().to_owned();
        let busy = |why: &str| DriverError::QueueBusy {
            nic,
            queue: 0,
            why: why.to_owned(),
        };
        if self.shared.epoch.load(Ordering::Acquire) != self.epoch {
            return Err(busy(RESET));
        }
        let pieces = frame.len().div_ceil(BUFFER) as u32;
        // One stays free: a full ring would look empty.
        if !wait(PATIENCE, || {
            self.take_back();
            self.used + pieces < RING
        }) {
            return Err(busy(
                "no frame has left for half a second; is the link up (`devrx nic list`), and does the other side take frames?",
            ));
        }
        let Some(buffers) = &self.buffers else {
            return Err(busy("its buffers are gone"));
        };
        let mut whole = len;
        let mut last = self.tail;
        for (number, piece) in (1..).zip(frame.chunks(BUFFER)) {
            let at = self.tail as usize;
            if !buffers.frames.memory().copy_in(at * BUFFER, piece) {
                return Err(busy("its buffers are gone"));
            }
            buffers
                .ring
                .store(at * SIZE, buffers.frames.iova() + (at * BUFFER) as u64);
            // A page at most.
            let command = transmit_command(piece.len() as u16, whole, number == pieces);
            buffers.ring.store(at * SIZE + 8, command);
            whole = 0;
            last = self.tail;
            self.tail = (self.tail + 1) % RING;
        }
        self.frames.push_back((last, pieces));
        self.used += pieces;
        self.shared.write(TxQueueRegs::of(0).tdt(), self.tail);
        Ok(())
    }

    fn flush(&self) -> bool {
        wait(PATIENCE, || {
            self.frames.iter().all(|&(last, _)| self.left(last))
        })
    }
}

impl<D: Device> Drop for Transmitter<D> {
    fn drop(&mut self) {
        // What is not sent yet need not be.
        let _ = self.flush();
        let _control = self.shared.control();
        if self.shared.epoch.load(Ordering::Acquire) != self.epoch {
            // The reset has stopped it, and there may be another.
            return;
        }
        self.shared.write(TCTL, tctl::PSP | tctl::DEFAULTS);
        if off(&self.shared) {
            self.shared.transmitter.store(0, Ordering::Relaxed);
            return;
        }
        tracing::error!(
            nic = self.shared.device.address(),
            "the transmit queue did not stop; its memory stays the NIC's until this process ends"
        );
        if let Some(Buffers { ring, frames }) = self.buffers.take() {
            ring.leak();
            frames.leak();
        }
    }
}
