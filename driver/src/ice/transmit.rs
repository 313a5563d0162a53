//! Transmission, as much as sending a few packets takes: one queue with a VSI of its own, each frame copied into buffers of ours.
//!
//! The queue is the firmware's to start and stop (admin commands 0x0C30, 0x0C31), below a node of the scheduler's tree. Order and values are those of `ice_tx_queue_start` and
//! `ice_tx_queue_stop` in DPDK's `drivers/net/intel/ice/ice_rxtx.c`; descriptors: `struct ice_tx_desc` in `base/ice_lan_tx_rx.h`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::admin::{LONGEST, Port, VsiId, Why};
use super::context::TxContext;
use super::init::queues;
use super::interrupts;
use super::regs::{PF_FUNC_RID, PF_FUNC_RID_NUMBER, QTX_COMM_DBELL};
use super::scheduler;
use super::shared::{Control, Shared};
use super::vsi;
use crate::device::{Device, DmaBuffer};
use crate::ring::{Vectors, wait};
use crate::{DriverError, Transmit};

/// The queue, as the function counts its own.
const QUEUE: u16 = 0;
/// Bytes of a descriptor.
const SIZE: usize = 16;
/// Descriptors; a multiple of 32.
const RING: u32 = 64;
/// Bytes for each descriptor. Its length has 14 bits.
const BUFFER: usize = 4096;
/// The shortest frame, bytes without FCS: what is shorter is padded here, as what the MAC does with it depends on its configuration.
const SHORTEST: usize = 60;
/// How long the oldest frame may take to leave: pause frames from the other side can hold it up.
const PATIENCE: Duration = Duration::from_millis(500);

/// In a descriptor's second word: the kind, which becomes this once the device has read the frame.
const DONE: u64 = 0xf;
/// The packet ends here.
const END: u64 = 1 << 4;
/// The descriptor shall be written back.
const REPORT: u64 = 1 << 5;
/// Where the buffer's length is.
const LENGTH_SHIFT: u32 = 34;

/// What the device reads and writes.
#[derive(Debug)]
struct Buffers {
    ring: DmaBuffer,
    frames: DmaBuffer,
}

impl Buffers {
    fn leak(self) {
        self.ring.leak();
        self.frames.leak();
    }
}

/// Sends frames. One at a time for each NIC; it ends when this is dropped.
#[derive(Debug)]
pub struct Transmitter<D: Device> {
    shared: Arc<Shared<D>>,
    vectors: Arc<Vectors>,
    /// `None` once leaked.
    buffers: Option<Buffers>,
    /// The node of the scheduler's tree that the queue is below.
    group: u32,
    vsi: VsiId,
    /// The function reset it was started after.
    epoch: u32,
    /// The next descriptor to use.
    tail: u32,
    /// The frames on their way, oldest first: their last descriptor, and how many they have.
    frames: VecDeque<(u32, u32)>,
    /// Descriptors of those frames.
    used: u32,
}

impl<D: Device> Transmitter<D> {
    /// Starts the queue. `vector` is that of everything but receive queues. Under the control lock.
    pub(super) fn start(
        shared: Arc<Shared<D>>,
        control: &mut Control<D::Registers>,
        vectors: Arc<Vectors>,
        port: Port,
        vector: u32,
    ) -> Result<Self, DriverError> {
        if control.transmits {
            return Err(busy(
                &shared,
                "there is a transmitter already, or one that did not stop; end that first, or detach everything, which resets the NIC",
            ));
        }
        let mapper = shared.device.mapper();
        let ring = DmaBuffer::new(Arc::clone(&mapper), RING as usize * SIZE)?;
        let frames = DmaBuffer::new(mapper, RING as usize * BUFFER)?;
        let nic = shared.device.address();
        let group = match control.group {
            Some(group) => group,
            None => scheduler::group(nic, &mut control.admin, port)
                .map_err(|error| shared.refused(error))?,
        };
        control.group = Some(group);
        // Nothing is steered to the VSI; its receive queue is the function's last, which nobody has while there are others.
        let last = queues(&*shared.registers).map_or(0, |count| count - 1);
        let mut properties = vsi::properties(port, &(last..=last), false);
        let admin = &mut control.admin;
        let vsi = admin
            .add_vsi(&mut properties)
            .map_err(|error| shared.refused(error))?;
        let context = TxContext {
            ring: ring.iova(),
            entries: RING,
            port: port.number,
            function: shared.read(PF_FUNC_RID) & PF_FUNC_RID_NUMBER,
            vsi: vsi.0,
            queue: QUEUE,
        };
        // As DPDK does, before and after the queue begins.
        shared.write(QTX_COMM_DBELL.at(QUEUE.into()), 0);
        let added = admin.add_transmit_queue(group, QUEUE, &context.bytes());
        if let Err(error) = added {
            if matches!(error.why, Why::Code(_)) {
                // The next reset takes it off otherwise.
                let _ = admin.free_vsi(vsi);
            } else {
                // It may run.
                Buffers { ring, frames }.leak();
                control.transmits = true;
            }
            return Err(shared.refused(error));
        }
        control.transmits = true;
        interrupts::begin_transmit(&shared, QUEUE.into(), vector);
        Ok(Self {
            epoch: shared.epoch.load(Ordering::Acquire),
            shared,
            vectors,
            buffers: Some(Buffers { ring, frames }),
            group,
            vsi,
            tail: 0,
            frames: VecDeque::with_capacity(RING as usize),
            used: 0,
        })
    }

    /// Where the device finds the ring.
    #[cfg(test)]
    pub(super) fn ring(&self) -> u64 {
        self.buffers
            .as_ref()
            .map_or(0, |buffers| buffers.ring.iova())
    }

    /// Whether the frame whose last descriptor is at `last` has left.
    fn left(&self, last: u32) -> bool {
        self.buffers
            .as_ref()
            .is_some_and(|buffers| buffers.ring.acquire(last as usize * SIZE + 8) & DONE == DONE)
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

    /// Ends the queue, or the function by a reset; under the control lock.
    fn halt(&self, control: &mut Control<D::Registers>) -> Result<(), DriverError> {
        interrupts::end_transmit(&self.shared, QUEUE.into());
        match control.admin.disable_transmit_queue(self.group, QUEUE) {
            Ok(()) => {
                control.transmits = false;
                if let Err(error) = control.admin.free_vsi(self.vsi) {
                    tracing::warn!(
                        nic = self.shared.device.address(),
                        %error,
                        "the transmitter's VSI is left in the NIC until it is reset"
                    );
                }
                Ok(())
            }
            Err(error) => {
                tracing::warn!(
                    nic = self.shared.device.address(),
                    %error,
                    "the transmit queue did not stop; the NIC is reset, which ends its other queues too"
                );
                let reset = self.shared.reset(control);
                self.vectors.wake_all();
                reset
            }
        }
    }
}

fn busy<D: Device>(shared: &Shared<D>, why: &str) -> DriverError {
    DriverError::QueueBusy {
        nic: shared.device.address().to_owned(),
        queue: QUEUE.into(),
        why: why.to_owned(),
    }
}

impl<D: Device> Transmit for Transmitter<D> {
    fn send(&mut self, frame: &[u8]) -> Result<(), DriverError> {
        let most = usize::from(LONGEST - 4);
        if frame.len() < 14 || frame.len() > most {
            return Err(DriverError::BadConfig {
                what: "frame length",
                value: frame.len().to_string(),
                why: format!("use 14 to {most} bytes"),
            });
        }
        if let Some(why) = self.shared.fault_of(self.epoch) {
            return Err(busy(&self.shared, why));
        }
        let padded = frame.len().max(SHORTEST);
        let pieces = padded.div_ceil(BUFFER) as u32;
        // One stays free: a full ring would look empty.
        if !wait(PATIENCE, || {
            self.take_back();
            self.used + pieces < RING
        }) {
            return Err(busy(
                &self.shared,
                "no frame has left for half a second; is the link up (`devrx nic list`), and does the other side take frames?",
            ));
        }
        let Some(buffers) = &self.buffers else {
            return Err(busy(&self.shared, "its buffers are gone"));
        };
        let mut short = [0; SHORTEST];
        let frame = if frame.len() < SHORTEST {
            short[..frame.len()].copy_from_slice(frame);
            &short
        } else {
            frame
        };
        let mut last = self.tail;
        for (number, piece) in (1..).zip(frame.chunks(BUFFER)) {
            let at = self.tail as usize;
            if !buffers.frames.memory().copy_in(at * BUFFER, piece) {
                return Err(busy(&self.shared, "its buffers are gone"));
            }
            buffers
                .ring
                .store(at * SIZE, buffers.frames.iova() + (at * BUFFER) as u64);
            let end = if number == pieces { END | REPORT } else { 0 };
            buffers
                .ring
                .store(at * SIZE + 8, end | (piece.len() as u64) << LENGTH_SHIFT);
            last = self.tail;
            self.tail = (self.tail + 1) % RING;
        }
        self.frames.push_back((last, pieces));
        self.used += pieces;
        self.shared
            .write(QTX_COMM_DBELL.at(QUEUE.into()), self.tail);
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
        let _ = self.shared.fault_of(self.epoch).is_none() && self.flush();
        let shared = Arc::clone(&self.shared);
        let mut control = shared.control();
        if shared.epoch.load(Ordering::Acquire) != self.epoch {
            // The reset has stopped it, and there may be another.
            return;
        }
        if self.halt(&mut control).is_ok() {
            return;
        }
        tracing::error!(
            nic = shared.device.address(),
            "the transmit queue did not stop; its memory stays the NIC's until this process ends"
        );
        if let Some(buffers) = self.buffers.take() {
            buffers.leak();
        }
    }
}
