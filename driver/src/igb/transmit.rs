//! Transmission, as much as sending a few packets takes: one queue, each frame copied into buffers of ours.
//!
//! A descriptor has a page: QEMU's model drops frames whose buffer goes over the end of a page behind an IOMMU, since it maps the buffer in one
//! piece. A longer frame takes several descriptors.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::descriptor::{SIZE, TRANSMITTED, transmit_command};
use super::init::{LONGEST, wait};
use super::regs::{TCTL, TXDCTL_ENABLE, TxQueueRegs, tctl};
use super::shared::Shared;
use crate::DriverError;
use crate::device::{Device, DmaBuffer};

/// Descriptors.
const RING: u32 = 64;
/// Bytes for each descriptor.
const BUFFER: usize = 4096;
/// How long the oldest frame may take to leave: pause frames from the other side can hold it up.
const PATIENCE: Duration = Duration::from_millis(500);

/// Sends frames. One at a time for each NIC; it ends when this is dropped.
#[derive(Debug)]
pub struct Transmitter<D: Device> {
    shared: Arc<Shared<D>>,
    ring: DmaBuffer,
    buffers: DmaBuffer,
    /// The next descriptor to use.
    tail: u32,
    /// The frames on their way, oldest first: their last descriptor, and how many they have.
    frames: VecDeque<(u32, u32)>,
    /// Descriptors of those frames.
    used: u32,
}

impl<D: Device> Transmitter<D> {
    /// Sets transmit queue 0 up (82576 datasheet 4.6.10).
    pub(super) fn start(shared: Arc<Shared<D>>) -> Result<Self, DriverError> {
        let mapper = shared.device.mapper();
        let ring = DmaBuffer::new(Arc::clone(&mapper), RING as usize * SIZE)?;
        let buffers = DmaBuffer::new(mapper, RING as usize * BUFFER)?;
        let regs = TxQueueRegs::of(0);
        let control = shared.control();
        shared.write(regs.txdctl(), 0);
        // 64 bits; TDBAL takes the low half.
        shared.write(regs.tdbal(), ring.iova() as u32);
        shared.write(regs.tdbah(), (ring.iova() >> 32) as u32);
        shared.write(regs.tdlen(), RING * SIZE as u32);
        shared.write(regs.tdh(), 0);
        shared.write(regs.tdt(), 0);
        shared.write(TCTL, tctl::EN | tctl::PSP | tctl::DEFAULTS);
        shared.write(regs.txdctl(), TXDCTL_ENABLE);
        drop(control);
        Ok(Self {
            shared,
            ring,
            buffers,
            tail: 0,
            frames: VecDeque::with_capacity(RING as usize),
            used: 0,
        })
    }

    /// Whether the frame whose last descriptor is at `last` has left.
    fn left(&self, last: u32) -> bool {
        self.ring.acquire(last as usize * SIZE + 8) & TRANSMITTED != 0
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

    /// Sends a frame, Ethernet header first, without FCS. It is on its way when this returns; frames shorter than 60 bytes are padded by the NIC.
    ///
    /// # Errors
    ///
    /// [`DriverError::BadConfig`] for a length that no frame has; [`DriverError::QueueBusy`] when nothing has left for half a second.
    pub fn send(&mut self, frame: &[u8]) -> Result<(), DriverError> {
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
        let mut whole = len;
        let mut last = self.tail;
        for (number, piece) in (1..).zip(frame.chunks(BUFFER)) {
            let at = self.tail as usize;
            if !self.buffers.memory().copy_in(at * BUFFER, piece) {
                return Err(busy("its buffers are gone"));
            }
            self.ring
                .store(at * SIZE, self.buffers.iova() + (at * BUFFER) as u64);
            // A page at most.
            let command = transmit_command(piece.len() as u16, whole, number == pieces);
            self.ring.store(at * SIZE + 8, command);
            whole = 0;
            last = self.tail;
            self.tail = (self.tail + 1) % RING;
        }
        self.frames.push_back((last, pieces));
        self.used += pieces;
        self.shared.write(TxQueueRegs::of(0).tdt(), self.tail);
        Ok(())
    }

    /// Waits until everything has left, half a second at most; whether it has.
    #[must_use]
    pub fn flush(&self) -> bool {
        wait(PATIENCE, || {
            self.frames.iter().all(|&(last, _)| self.left(last))
        })
    }
}

impl<D: Device> Drop for Transmitter<D> {
    fn drop(&mut self) {
        // What is not sent yet need not be; the device only reads here, and loses its access with the buffers.
        let _ = self.flush();
        let _control = self.shared.control();
        self.shared.write(TCTL, tctl::PSP | tctl::DEFAULTS);
        self.shared.write(TxQueueRegs::of(0).txdctl(), 0);
    }
}
