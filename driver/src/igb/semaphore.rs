//! Whose turn it is at the PHY: firmware that manages the card uses it too, and on some cards so do drivers of its other ports.
//!
//! Two semaphores (82576 datasheet, chapter 4, "Software and Firmware Synchronization"; the other parts have the same). SW_FW_SYNC says who has which PHY, a bit for
//! software and one for firmware; SWSM is held while that register is looked at and changed. Reading SWSM sets its bit SMBI, so that whoever reads it clear
//! has it before other software; SWESMBI takes a one only while firmware is not at it.
//!
//! Whoever dies with a semaphore leaves it taken, and a reset of the port need not free it. SWSM is held for microseconds, and a PHY has one driver, so
//! what software holds for longer than the patience is taken from it, with a warning, as DPDK does. From firmware nothing is taken.

use std::time::Duration;

use super::regs::{STATUS, SW_FW_SYNC, SWSM, status, sw_fw_sync, swsm};
use super::shared::Shared;
use crate::DriverError;
use crate::device::Device;
use crate::ring::{pause, wait};

/// How long others may hold SWSM: 2000 looks, 50 us apart, in Intel's driver.
const SWSM_PATIENCE: Duration = Duration::from_millis(100);
/// How long others may use the PHY: 200 looks, 5 ms apart, in Intel's driver.
const PHY_PATIENCE: Duration = Duration::from_secs(1);
/// Between two looks at SW_FW_SYNC, when whoever gives it back can have SWSM.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// The PHY of this port is this driver's until this is dropped. Whoever asks for it holds the control lock, or has the NIC alone.
pub(super) struct Phy<'a, D: Device> {
    shared: &'a Shared<D>,
    /// Its bit in SW_FW_SYNC.
    bit: u32,
}

impl<'a, D: Device> Phy<'a, D> {
    /// Waits for the PHY, a second or a little more.
    pub(super) fn take(shared: &'a Shared<D>) -> Result<Self, DriverError> {
        let port = shared.read(STATUS) >> status::PORT_SHIFT & 3;
        let bit = sw_fw_sync::PHY[port as usize];
        let mut held = 0;
        let mut entered = Ok(());
        let free = wait(PHY_PATIENCE, || {
            entered = enter(shared);
            if entered.is_err() {
                return true;
            }
            held = shared.read(SW_FW_SYNC);
            let free = held & (bit | bit << sw_fw_sync::FIRMWARE_SHIFT) == 0;
            if free {
                shared.write(SW_FW_SYNC, held | bit);
            }
            leave(shared);
            if !free {
                pause(LOOK_AGAIN);
            }
            free
        });
        entered?;
        if !free {
            if held & bit << sw_fw_sync::FIRMWARE_SHIFT != 0 {
                return Err(refused(
                    shared,
                    &format!(
                        "the card's firmware has held its PHY for {} s (SW_FW_SYNC reads {held:#010x}); turn off the management of the card by a BMC, or \
                         power the machine off and on",
                        PHY_PATIENCE.as_secs()
                    ),
                ));
            }
            tracing::warn!(
                nic = shared.device.address(),
                sw_fw_sync = format_args!("{held:#010x}"),
                "the PHY was held by another driver of this port, which must have died; it is taken over"
            );
        }
        Ok(Self { shared, bit })
    }
}

impl<D: Device> Drop for Phy<'_, D> {
    fn drop(&mut self) {
        if let Err(error) = enter(self.shared) {
            // Given back all the same: nobody else would.
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the PHY is given back out of turn"
            );
        }
        let held = self.shared.read(SW_FW_SYNC);
        self.shared.write(SW_FW_SYNC, held & !self.bit);
        leave(self.shared);
    }
}

fn refused<D: Device>(shared: &Shared<D>, why: &str) -> DriverError {
    DriverError::NoNic {
        nic: shared.device.address().to_owned(),
        why: why.to_owned(),
    }
}

/// Takes SWSM, or says who has it.
fn enter<D: Device>(shared: &Shared<D>) -> Result<(), DriverError> {
    let mut last = 0;
    let mut software = || {
        wait(SWSM_PATIENCE, || {
            last = shared.read(SWSM);
            last & swsm::SMBI == 0 || last == u32::MAX
        })
    };
    if !software() {
        tracing::warn!(
            nic = shared.device.address(),
            "the card's semaphore (SWSM.SMBI) was held by a driver, which must have died; it is taken over"
        );
        leave(shared);
        if !software() {
            return Err(refused(
                shared,
                "a driver of another port of this card holds the card's semaphore (SWSM.SMBI) for ever; unload that driver, or power the machine off and on",
            ));
        }
    }
    if last == u32::MAX {
        return Err(refused(
            shared,
            "it does not answer any more (SWSM reads all ones); bind it again",
        ));
    }
    let latched = wait(SWSM_PATIENCE, || {
        shared.write(SWSM, shared.read(SWSM) | swsm::SWESMBI);
        shared.read(SWSM) & swsm::SWESMBI != 0
    });
    if !latched {
        leave(shared);
        return Err(refused(
            shared,
            "the card's firmware holds the card's semaphore (SWSM.SWESMBI does not take) for ever; turn off the management of the card by a BMC, or power \
             the machine off and on",
        ));
    }
    Ok(())
}

/// Gives SWSM back.
fn leave<D: Device>(shared: &Shared<D>) {
    let value = shared.read(SWSM);
    shared.write(SWSM, value & !(swsm::SMBI | swsm::SWESMBI));
}
