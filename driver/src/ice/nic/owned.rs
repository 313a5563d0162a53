//! Sending, and hearing itself.

use std::sync::Arc;

use super::IceNic;
use crate::device::Device;
use crate::ice::interrupts;
use crate::ice::shared::Control;
use crate::ice::transmit::Transmitter;
use crate::{DriverError, Nic, Owned};

impl<D: Device> IceNic<D> {
    /// Has the firmware turn the MAC's loopback on or off.
    pub(super) fn loop_back(&self, control: &mut Control<D::Registers>) -> Result<(), DriverError> {
        let admin = &mut control.admin;
        let link = admin
            .set_loopback(self.loopback)
            .and_then(|()| admin.link(self.facts.port))
            .map_err(|error| self.shared.refused(error))?;
        if link.loopback != self.loopback {
            // No driver looks at this bit, so that it may mean less than it says.
            tracing::warn!(
                nic = self.name(),
                asked = self.loopback,
                told = link.loopback,
                "the firmware took the loopback command, and the link status says otherwise"
            );
        }
        self.shared.set_link(link);
        Ok(())
    }
}

impl<D: Device> Owned for IceNic<D> {
    type Transmitter = Transmitter<D>;

    fn station(&self) -> [u8; 6] {
        self.facts.station
    }

    fn transmitter(&mut self) -> Result<Transmitter<D>, DriverError> {
        let shared = Arc::clone(&self.shared);
        let mut control = shared.control();
        self.revive(&mut control, 0)?;
        Transmitter::start(
            Arc::clone(&self.shared),
            &mut control,
            Arc::clone(&self.vectors),
            self.facts.port,
            self.queues,
        )
    }

    /// In the MAC, as Linux does for its own test (`ethtool -t`, admin command 0x0620). A reset of the NIC keeps it.
    fn set_loopback(&mut self, on: bool) -> Result<(), DriverError> {
        let shared = Arc::clone(&self.shared);
        let mut control = shared.control();
        self.revive(&mut control, 0)?;
        let before = std::mem::replace(&mut self.loopback, on);
        self.loop_back(&mut control).inspect_err(|_| {
            self.loopback = before;
        })
    }

    /// The MAC needs neither module nor cable for it; that it needs no link is the model's word, and Linux does not look.
    fn hears_itself(&self) -> Result<bool, DriverError> {
        match self.fault() {
            Some(why) => Err(DriverError::NoNic {
                nic: self.name().to_owned(),
                why,
            }),
            None => Ok(self.loopback),
        }
    }

    fn raise_interrupt(&mut self, queue: u32) {
        interrupts::raise(&self.shared, queue);
    }

    fn splits_without_ip(&self) -> usize {
        if self.facts.parser.splits() { 14 } else { 0 }
    }
}
