//! Transmission, as much as sending a few packets takes: one queue, each frame copied into a buffer of ours.

use std::sync::Arc;
use std::time::Duration;

use super::descriptor::{SIZE, TRANSMITTED, transmit_command};
use super::init::{LONGEST, wait};
use super::regs::{TCTL, TXDCTL_ENABLE, TxQueueRegs, tctl};
use super::shared::Shared;
use crate::DriverError;
use crate::device::{Device, DmaBuffer};

/// Descriptors.
const RING: u32 = 32;
/// Bytes for each frame: the longest, FCS not included.
const BUFFER: usize = 10 * 1024;
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
}

impl<D: Device> Transmitter<D> {
    /// Sets transmit queue 0 up (82576 datasheet 4.6.10).
    pub(super) fn start(shared: Arc<Shared<D>>) -> Result<Self, DriverError> {
        let mapper = shared.device.mapper();
        let ring = DmaBuffer::new(Arc::clone(&mapper), RING as usize * SIZE)?;
        let buffers = DmaBuffer::new(mapper, RING as usize * BUFFER)?;
        for at in 0..RING as usize {
            // Free from the start.
            ring.store(at * SIZE + 8, TRANSMITTED);
        }
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
        })
    }

    /// Whether the descriptor at `at` is free.
    fn free(&self, at: u32) -> bool {
        self.ring.acquire(at as usize * SIZE + 8) & TRANSMITTED != 0
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
        let busy = |why: &str| DriverError::QueueBusy {
            nic: self.shared.device.address().to_owned(),
            queue: 0,
            why: why.to_owned(),
        };
        // One stays free: a full ring would look empty.
        let next = (self.tail + 1) % RING;
        if !wait(PATIENCE, || self.free(self.tail) && self.free(next)) {
            return Err(busy(
                "no frame has left for half a second; is the link up (`devrx nic list`), and does the other side take frames?",
            ));
        }
        let at = self.tail as usize;
        if !self.buffers.memory().copy_in(at * BUFFER, frame) {
            return Err(busy("its buffers are gone"));
        }
        self.ring
            .store(at * SIZE, self.buffers.iova() + (at * BUFFER) as u64);
        self.ring.store(at * SIZE + 8, transmit_command(len));
        self.tail = next;
        self.shared.write(TxQueueRegs::of(0).tdt(), self.tail);
        Ok(())
    }

    /// Waits until everything has left, half a second at most; whether it has.
    #[must_use]
    pub fn flush(&self) -> bool {
        wait(PATIENCE, || (0..RING).all(|at| self.free(at)))
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
