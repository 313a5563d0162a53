//! The link: autonegotiation through the PHY, and what became of it.

use std::time::Duration;

use super::init::LONGEST;
use super::regs::{MDIC, STATUS, mdic, status};
use super::semaphore::Phy;
use super::shared::Shared;
use crate::device::Device;
use crate::ring::wait;
use crate::{DriverError, LinkState};

/// The PHY's control register (IEEE 802.3, 22.2.4.1).
pub(super) const BMCR: u32 = 0;
/// Its bits.
pub(super) mod bmcr {
    /// 1000 Mbit/s, where nothing is negotiated.
    pub const SPEED_1000: u16 = 1 << 6;
    /// Full duplex.
    pub const FULL_DUPLEX: u16 = 1 << 8;
    /// Negotiates again.
    pub const RESTART: u16 = 1 << 9;
    /// Negotiates.
    pub const AUTONEGOTIATE: u16 = 1 << 12;
    /// Sends back what it is given.
    pub const LOOPBACK: u16 = 1 << 14;
}

/// How long an access to the PHY may take: 64 us on the wire.
const PHY_PATIENCE: Duration = Duration::from_millis(10);

/// Writes a PHY register (82576 datasheet 8.2.5), when it is this driver's turn.
pub(super) fn write_phy<D: Device>(
    shared: &Shared<D>,
    register: u32,
    value: u16,
) -> Result<(), DriverError> {
    let _phy = Phy::take(shared)?;
    shared.write(
        MDIC,
        u32::from(value) | register << mdic::REGISTER_SHIFT | mdic::PHY_1 | mdic::WRITE,
    );
    let mut last = 0;
    let done = wait(PHY_PATIENCE, || {
        last = shared.read(MDIC);
        last & mdic::READY != 0
    });
    if !done || last & mdic::ERROR != 0 || last == u32::MAX {
        return Err(DriverError::NoNic {
            nic: shared.device.address().to_owned(),
            why: format!(
                "its PHY does not answer (MDIC reads {last:#010x}), so there is no link; a port for fibre or backplane is not supported yet"
            ),
        });
    }
    Ok(())
}

/// Negotiates the link anew. It comes up later: 2 to 3 s on silicon, 0.5 s in QEMU, where nothing is received before that.
pub(super) fn restart<D: Device>(shared: &Shared<D>) -> Result<(), DriverError> {
    write_phy(
        shared,
        BMCR,
        bmcr::AUTONEGOTIATE | bmcr::RESTART | bmcr::FULL_DUPLEX | bmcr::SPEED_1000,
    )
}

/// The link as the MAC sees it.
pub(super) fn state<D: Device>(shared: &Shared<D>) -> Result<LinkState, DriverError> {
    let value = shared.read(STATUS);
    if value == u32::MAX {
        return Err(DriverError::NoNic {
            nic: shared.device.address().to_owned(),
            why: "it does not answer any more; bind it again".to_owned(),
        });
    }
    let up = value & status::LU != 0;
    let speed = match value >> status::SPEED_SHIFT & 3 {
        0 => 10,
        1 => 100,
        _ => 1000,
    };
    Ok(LinkState {
        up,
        speed: up.then_some(speed),
        // Without Ethernet header and FCS.
        mtu: LONGEST - 18,
    })
}
