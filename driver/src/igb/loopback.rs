//! Loopback, for a test that needs neither cable nor a second machine.
//!
//! Copper parts of the 82576 family loop in the PHY, at a forced gigabit (82576 datasheet 3.5.6.3.1); their MAC ignores RCTL.LBM. QEMU's model ignores
//! the PHY's bit and has RCTL.LBM. Both are set. Not run on silicon.

use super::link::{self, bmcr};
use super::regs::{CTRL, ctrl};
use super::shared::Shared;
use crate::DriverError;
use crate::device::Device;

/// Lets the PHY send back what it is given, or negotiates the link again.
pub(super) fn set_phy<D: Device>(shared: &Shared<D>, on: bool) -> Result<(), DriverError> {
    let forced = ctrl::FORCE_SPEED | ctrl::FORCE_DUPLEX | ctrl::SPEED_1000 | ctrl::FULL_DUPLEX;
    let control = shared.read(CTRL);
    if on {
        link::write_phy(
            shared,
            link::BMCR,
            bmcr::LOOPBACK | bmcr::FULL_DUPLEX | bmcr::SPEED_1000,
        )?;
        shared.write(CTRL, control | forced | ctrl::SLU);
        return Ok(());
    }
    shared.write(CTRL, control & !forced | ctrl::SLU);
    link::restart(shared)
}
