//! Reset and initialization, in the order of the 82576 datasheet, chapter 4.

use std::time::Duration;

use super::interrupts;
use super::link;
use super::regs::{
    CTRL, CTRL_EXT, CTRL_EXT_DRV_LOAD, EECD, EECD_AUTO_RD, GCR, GCR_RESEND, ICR, MTA,
    OFFLOAD_STRIP_CRC, OFFLOAD_STRIP_VLAN, PSRTYPE, PSRTYPE_ALL, RCTL, RLPML, RXCSUM, RXCSUM_ALL,
    RxQueueRegs, STATUS, TCTL, VFTA, ctrl, receive_address, status,
};
use super::shared::Shared;
use crate::DriverError;
use crate::device::{Device, Registers};
use crate::ring::{pause, wait};

/// The longest frame taken, bytes with FCS: the device's limit (82576 datasheet 8.10.16).
pub(super) const LONGEST: u32 = 9728;

/// How long a reset may take: the datasheet says 1 ms (4.6.3), EEPROM reading some more.
const RESET_PATIENCE: Duration = Duration::from_millis(50);
/// How long bus transactions may be under way (5.2.3.3.1; the largest completion timeout in use).
const MASTER_PATIENCE: Duration = Duration::from_millis(80);

/// Resets the port and brings it to where rings can be set up. Reception stays off, and nothing is steered.
pub(super) fn init<D: Device>(shared: &Shared<D>, strip_vlan: bool) -> Result<(), DriverError> {
    reset(shared)?;
    setup(shared, strip_vlan);
    link::restart(shared)
}

/// 4.3.1 and 4.6.3: no interrupts, no new bus transactions, software reset.
fn reset<D: Device>(shared: &Shared<D>) -> Result<(), DriverError> {
    interrupts::mask_all(shared);
    shared.write(RCTL, 0);
    shared.write(TCTL, 0);
    shared.write(CTRL, shared.read(CTRL) | ctrl::MASTER_DISABLE);
    if !wait(MASTER_PATIENCE, || {
        shared.read(STATUS) & status::MASTER_ENABLE == 0
    }) {
        // The reset cuts them off. Linux goes on as well.
        tracing::debug!(
            nic = shared.device.address(),
            "bus transactions did not end before the reset"
        );
    }
    shared.write(CTRL, shared.read(CTRL) | ctrl::RST);
    pause(Duration::from_millis(1));
    if !wait(RESET_PATIENCE, || {
        let value = shared.read(CTRL);
        value != u32::MAX && value & ctrl::RST == 0
    }) {
        return Err(DriverError::NoNic {
            nic: shared.device.address().to_owned(),
            why: format!(
                "it does not come out of reset (CTRL reads {:#010x}); turn the machine off and on, or try the card in another slot",
                shared.read(CTRL)
            ),
        });
    }
    // Until the EEPROM is read the address and PHY settings are not there. QEMU never says so; real parts without an EEPROM neither.
    if !wait(Duration::from_millis(10), || {
        shared.read(EECD) & EECD_AUTO_RD != 0
    }) {
        tracing::debug!(
            nic = shared.device.address(),
            "the EEPROM was not reported read; going on"
        );
    }
    // The reset unmasks nothing, but causes may have been latched meanwhile.
    interrupts::mask_all(shared);
    shared.registers.read32(ICR);
    Ok(())
}

/// 4.6.4 to 4.6.9: what does not depend on queues.
fn setup<D: Device>(shared: &Shared<D>, strip_vlan: bool) {
    let part = shared.part;
    if part.completion_resend {
        // With it a lost completion is asked for again and may come twice (82576 specification update).
        shared.write(GCR, shared.read(GCR) & !GCR_RESEND);
    }
    let forced = ctrl::FORCE_SPEED | ctrl::FORCE_DUPLEX | ctrl::MASTER_DISABLE | ctrl::VME;
    let vme = if strip_vlan { ctrl::VME } else { 0 };
    shared.write(CTRL, shared.read(CTRL) & !forced | ctrl::SLU | vme);
    shared.write(CTRL_EXT, shared.read(CTRL_EXT) | CTRL_EXT_DRV_LOAD);
    for queue in 0..part.queues {
        let regs = RxQueueRegs::of(queue);
        // Queue 0 is enabled after a reset, and an enabled queue without descriptors takes packets.
        shared.write(regs.rxdctl(), 0);
        if part.queue_strips_crc {
            let vlan = if strip_vlan { OFFLOAD_STRIP_VLAN } else { 0 };
            shared.write(regs.dvmolr(), OFFLOAD_STRIP_CRC | vlan);
        }
    }
    shared.write(RXCSUM, RXCSUM_ALL);
    shared.write(RLPML, LONGEST);
    for index in 0..PSRTYPE.count() {
        shared.write(PSRTYPE.at(index), PSRTYPE_ALL);
    }
    for index in 0..MTA.count() {
        shared.write(MTA.at(index), 0);
    }
    for index in 0..VFTA.count() {
        shared.write(VFTA.at(index), 0);
    }
}

/// The address the EEPROM gave the port: the first receive address after a reset.
pub(super) fn station<D: Device>(shared: &Shared<D>) -> [u8; 6] {
    let (low, high) = receive_address(0);
    let (low, high) = (
        shared.read(low).to_le_bytes(),
        shared.read(high).to_le_bytes(),
    );
    [low[0], low[1], low[2], low[3], high[0], high[1]]
}
