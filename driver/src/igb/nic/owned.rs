//! Sending, and hearing itself.

use std::sync::Arc;

use super::IgbNic;
use crate::device::Device;
use crate::igb::transmit::Transmitter;
use crate::igb::{interrupts, loopback};
use crate::{DriverError, Link, Owned};

impl<D: Device> Owned for IgbNic<D> {
    type Transmitter = Transmitter<D>;

    fn station(&self) -> [u8; 6] {
        self.station
    }

    fn transmitter(&mut self) -> Result<Transmitter<D>, DriverError> {
        Transmitter::start(Arc::clone(&self.shared))
    }

    /// Silicon loops in the PHY, which takes half a second, QEMU's model in the MAC.
    fn set_loopback(&mut self, on: bool) -> Result<(), DriverError> {
        let control = self.shared.control();
        loopback::set_phy(&self.shared, on)?;
        drop(control);
        self.loopback = on;
        self.steer_again(0..=self.queues - 1);
        Ok(())
    }

    /// The PHY in loopback has a link, like any other.
    fn hears_itself(&self) -> Result<bool, DriverError> {
        Ok(self.link()?.up)
    }

    fn raise_interrupt(&mut self, queue: u32) {
        interrupts::raise(&self.shared, queue);
    }

    fn splits_without_ip(&self) -> usize {
        0
    }
}
