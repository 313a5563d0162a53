//! Reset and initialization, in the order of DPDK's `ice_init_hw` (`drivers/net/intel/ice/base/ice_common.c`). What only transmission needs is done when there is some.

use std::time::Duration;

use super::admin::{AdminError, Capabilities, LinkInfo, Port};
use super::options::IceOptions;
use super::package::{self, Parser};
use super::regs::{
    GL_MNG_FWSM, GL_PWR_MODE_CTL, GLGEN_RSTAT, GLGEN_RSTAT_STATE, GLGEN_RSTCTL, GLGEN_RSTCTL_DELAY,
    GLNVM_ULD, GLNVM_ULD_DONE, PFGEN_CTRL, PFGEN_CTRL_RESET, PFLAN_RX_QALLOC, RX_QUEUES,
    TX_PAUSE_MASK, TX_PAUSE_QUANTA, TX_PAUSE_REFRESH, firmware, queues,
};
use super::shared::{Control, Shared};
use crate::DriverError;
use crate::device::{Device, Registers};
use crate::ring::wait;

/// How long a reset of the function may take: half a second, and three for a package that another function is just loading.
pub(super) const FUNCTION_PATIENCE: Duration = Duration::from_millis(3500);
/// How long the units may take to be loaded, once the device is active.
const LOAD_PATIENCE: Duration = Duration::from_secs(2);

/// What is known of the NIC once it is initialized.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub capabilities: Capabilities,
    pub port: Port,
    pub station: [u8; 6],
    pub parser: Parser,
}

/// Waits while a reset of the whole device is under way; an error in words where it does not end.
pub(super) fn active<R: Registers>(registers: &R) -> Result<(), String> {
    // In units of 100 ms, and a second for commands that were under way.
    let delay = match registers.read32(GLGEN_RSTCTL) {
        u32::MAX => 0,
        value => value & GLGEN_RSTCTL_DELAY,
    };
    let patience = Duration::from_millis(u64::from(delay) * 100 + 1000);
    let state = || registers.read32(GLGEN_RSTAT);
    if !wait(patience, || {
        let value = state();
        value != u32::MAX && value & GLGEN_RSTAT_STATE == 0
    }) {
        return Err(format!(
            "it is in reset and does not come out of it (GLGEN_RSTAT reads {:#010x})",
            state()
        ));
    }
    let loaded = || registers.read32(GLNVM_ULD);
    if !wait(LOAD_PATIENCE, || {
        loaded() & GLNVM_ULD_DONE == GLNVM_ULD_DONE
    }) {
        return Err(format!(
            "its units are not loaded after a reset (GLNVM_ULD reads {:#010x})",
            loaded()
        ));
    }
    Ok(())
}

/// How many receive queues the function has been given. Their numbers begin with 0: `base_queue` of a VSI in DPDK's `ice_ethdev.c`, to which the device's number of the
/// function's first is added only where the switch is told of a queue, in `ice_switch_filter.c`.
pub(super) fn queues<R: Registers>(registers: &R) -> Result<u32, String> {
    let value = registers.read32(PFLAN_RX_QALLOC);
    let (first, last) = (
        value & queues::FIRST,
        value >> queues::LAST_SHIFT & queues::FIRST,
    );
    if value == u32::MAX || value & queues::VALID == 0 || last < first || last >= RX_QUEUES {
        return Err(format!(
            "it has no receive queues (PFLAN_RX_QALLOC reads {value:#010x}); see whether the port is enabled in the card's configuration"
        ));
    }
    Ok(last - first + 1)
}

/// The granularity of interrupt throttles, microseconds: by the device's clock.
pub(super) fn throttle_unit<R: Registers>(registers: &R) -> u32 {
    if registers.read32(GL_PWR_MODE_CTL) >> 30 == 3 {
        4
    } else {
        2
    }
}

/// Resets the function and brings it to where queues can be set up. Nothing is steered yet.
pub(super) fn init<D: Device>(
    shared: &Shared<D>,
    control: &mut Control<D::Registers>,
    options: &IceOptions,
) -> Result<Facts, DriverError> {
    let nic = shared.device.address();
    let broken = |why: String| DriverError::NoNic {
        nic: nic.to_owned(),
        why: format!(
            "{why}; turn the machine off and on, or see that the card's firmware is current"
        ),
    };
    reset(shared).map_err(broken)?;
    control.forget();
    shared.device.set_bus_master(true)?;
    control.admin.start().map_err(broken)?;
    shared.events().start();
    let facts = ask(shared, control, options).map_err(|error| error.of(nic))?;
    Ok(facts)
}

/// Resets the function (PFR), or waits for the reset of the device that is under way.
fn reset<D: Device>(shared: &Shared<D>) -> Result<(), String> {
    let registers = &*shared.registers;
    active(registers)?;
    let mode = shared.read(GL_MNG_FWSM);
    if mode & firmware::MODES & firmware::RECOVERY != 0 {
        return Err(
            "its firmware is in recovery mode and does nothing but take an update".to_owned(),
        );
    }
    shared.write(PFGEN_CTRL, shared.read(PFGEN_CTRL) | PFGEN_CTRL_RESET);
    if !wait(FUNCTION_PATIENCE, || {
        let value = shared.read(PFGEN_CTRL);
        value != u32::MAX && value & PFGEN_CTRL_RESET == 0
    }) {
        return Err(format!(
            "its function does not come out of reset (PFGEN_CTRL reads {:#010x})",
            shared.read(PFGEN_CTRL)
        ));
    }
    active(registers)
}

/// What is asked of the firmware.
fn ask<D: Device>(
    shared: &Shared<D>,
    control: &mut Control<D::Registers>,
    options: &IceOptions,
) -> Result<Facts, AdminError> {
    let nic = shared.device.address();
    let admin = &mut control.admin;
    let (version, interface) = admin.version()?;
    tracing::debug!(nic, firmware = version, "firmware");
    admin.clear_function()?;
    // Linux asks for reports of health from interface 1.7.6 on.
    if interface >= (7, 6)
        && let Err(error) = admin.want_health()
    {
        tracing::debug!(nic, %error, "going on");
    }
    if let Err(error) = admin.clear_pxe() {
        // There is nothing to end where it has been done before.
        tracing::debug!(nic, %error, "going on");
    }
    let capabilities = admin.capabilities()?;
    let port = admin.port()?;
    let station = admin.station()?;
    // Flow control stays as it is, as DPDK has it (`ice_aq_set_mac_pfc_cfg`): with zeros the card's pauses would end at once.
    let pause = |register| (shared.read(register) & TX_PAUSE_MASK) as u16;
    admin.set_mac(pause(TX_PAUSE_QUANTA), pause(TX_PAUSE_REFRESH))?;
    let parser = package::load(nic, admin, options)?;
    admin.set_link_events(port)?;
    let link = admin.link(port)?;
    shared.set_link(link);
    tracing::info!(
        nic,
        up = link.up,
        media = link.media,
        speed = link.speed,
        "link"
    );
    if !link.up
        && let Err(error) = admin.restart_link(port)
    {
        tracing::warn!(nic, %error, "the link is left as it is");
    }
    if let Some(trouble) = link.trouble {
        tracing::warn!(nic, trouble, "link");
    }
    if let Err(error) = admin.tell_driver() {
        tracing::debug!(nic, %error, "going on");
    }
    Ok(Facts {
        capabilities,
        port,
        station,
        parser,
    })
}

/// The link as it is before anybody has asked.
pub(super) const fn no_link() -> LinkInfo {
    LinkInfo {
        up: false,
        media: false,
        speed: None,
        loopback: false,
        trouble: None,
    }
}
