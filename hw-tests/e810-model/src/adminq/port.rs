//! The port: its place in the switch, the PHY and the link. Commands 0x0200, 0x0203, 0x020D, 0x06xx.
//!
//! Layouts: DPDK `ice_adminq_cmd.h`.

use super::{Code, Command, Done, Event, answer, refuse};
use crate::bytes;
use crate::regs;
use crate::state::State;

/// The port's number, logical and physical.
pub(crate) const LPORT: u8 = 0;
/// The switch that the port belongs to.
pub(crate) const SWITCH_ID: u16 = 1;

/// 100GBASE-SR4.
const PHY_TYPE_LOW: u64 = 1 << 52;
const SPEED_100G: u16 = 1 << 10;
/// Capabilities: transmit and receive pause, link enabled, autonegotiation.
const PHY_CAPS: u8 = 0x0b;
const PHY_ENABLE_LINK: u8 = 1 << 3;
/// QSFP28 with an optical module.
const MODULE: [u8; 3] = [0x80, 0x00, 0x86];

/// Link events and their bits in the mask: up or down.
const EVENT_UP_DOWN: u16 = 1 << 1;

/// How the driver configured the port.
#[derive(Debug)]
pub(crate) struct Port {
    /// Bytes of the longest frame, with its FCS.
    pub(crate) max_frame: u16,
    /// The MAC sends back what is transmitted.
    pub(crate) loopback: bool,
    phy_caps: u8,
    fec: u8,
    enabled: bool,
    events: bool,
    event_mask: u16,
}

impl Default for Port {
    fn default() -> Self {
        Self {
            max_frame: 1522,
            loopback: false,
            phy_caps: PHY_CAPS,
            fec: 0,
            enabled: true,
            events: false,
            event_mask: 0,
        }
    }
}

impl State {
    /// Whether frames go through.
    pub(crate) fn link_is_up(&self) -> bool {
        self.link && self.port.enabled
    }

    /// The cable is plugged in or pulled.
    pub(crate) fn set_link(&mut self, up: bool) {
        let before = self.link_is_up();
        self.link = up;
        self.link_changed(before);
    }

    fn link_changed(&mut self, before: bool) {
        if self.link_is_up() == before {
            return;
        }
        self.raise_other(regs::OICR_LINK_STAT_CHANGE);
        if self.port.events && self.port.event_mask & EVENT_UP_DOWN == 0 {
            let mut params = [0; 16];
            params[0] = LPORT;
            // Link status events are enabled.
            params[2] = 1;
            let buffer = self.status_bytes();
            self.post_event(Event {
                opcode: 0x0607,
                params,
                buffer,
            });
        }
    }

    /// `struct ice_aqc_get_link_status_data`, version 1.
    fn status_bytes(&self) -> Vec<u8> {
        let mut out = vec![0; 32];
        let up = self.link_is_up();
        // Media available; link up, the external port's too, signal detected.
        out[2] = if up { 0xe1 } else { 0x40 };
        if up {
            // Autonegotiation completed by both sides, module qualified.
            out[3] = 0x83;
            bytes::put16(&mut out, 10, SPEED_100G);
            bytes::put64(&mut out, 16, PHY_TYPE_LOW);
        } else {
            out[3] = 0x80;
            bytes::put16(&mut out, 10, 1 << 15);
        }
        if self.port.loopback {
            out[5] = 1 << 2;
        }
        bytes::put16(&mut out, 6, self.port.max_frame);
        out
    }
}

/// 0x0200: one element, the physical port.
pub(super) fn switch_config(_: &mut State, command: &mut Command) -> Done {
    let mut element = [0; 6];
    bytes::put16(&mut element, 0, u16::from(LPORT));
    bytes::put16(&mut element, 2, SWITCH_ID);
    if command.len < element.len() {
        return refuse(Code::Invalid, "its buffer is too short for one element");
    }
    command.set16(2, 0);
    command.set16(4, 1);
    command.reply(&element);
    Ok(())
}

/// 0x0203. Bad frames are never saved, short ones always padded.
pub(super) fn set_params(_: &mut State, _: &mut Command) -> Done {
    Ok(())
}

/// 0x020D: single VLAN mode.
pub(super) fn vlan_mode(_: &mut State, command: &mut Command) -> Done {
    let mut mode = [0; 100];
    mode[1] = 0x4;
    command.reply(&mode);
    Ok(())
}

/// 0x0600, `struct ice_aqc_get_phy_caps_data`.
pub(super) fn phy_caps(state: &mut State, command: &mut Command) -> Done {
    // Topology with media, active configuration; bit 3, the default configuration, is newer than this firmware.
    let mode = command.p16(2) & 0xe;
    if mode & 0x8 != 0 {
        return answer(Code::Invalid);
    }
    let mut out = vec![0; 560];
    bytes::put64(&mut out, 0, PHY_TYPE_LOW);
    out[16] = state.port.phy_caps;
    out[32] = state.port.fec;
    out[35..38].copy_from_slice(&MODULE);
    command.reply(&out);
    Ok(())
}

/// 0x0601, `struct ice_aqc_set_phy_cfg_data`.
pub(super) fn set_phy(state: &mut State, command: &mut Command) -> Done {
    command.needs_input(24)?;
    let types = bytes::u64_at(&command.buffer, 0);
    let high = bytes::u64_at(&command.buffer, 8);
    if state.card.strict && (types & !PHY_TYPE_LOW != 0 || high != 0) {
        return refuse(
            Code::Invalid,
            format!("PHY types {types:#x} {high:#x}; the module has {PHY_TYPE_LOW:#x}"),
        );
    }
    let before = state.link_is_up();
    state.port.phy_caps = command.buffer[16];
    state.port.fec = command.buffer[22];
    state.port.enabled = command.buffer[16] & PHY_ENABLE_LINK != 0;
    state.link_changed(before);
    Ok(())
}

/// 0x0603
pub(super) fn set_mac_config(state: &mut State, command: &mut Command) -> Done {
    let frame = command.p16(0);
    if frame == 0 || frame > 9728 {
        return refuse(
            Code::Invalid,
            format!("a maximum frame of {frame} bytes; 9728 is the limit"),
        );
    }
    state.port.max_frame = frame;
    // Whatever is said counts, 0 too: DPDK's `ice_aq_set_mac_pfc_cfg` reads the registers first to keep them.
    for (register, at) in [
        (regs::PRTMAC_HSEC_CTL_TX_PAUSE_QUANTA, 4),
        (regs::PRTMAC_HSEC_CTL_TX_PAUSE_REFRESH_TIMER, 6),
    ] {
        state.regs.set(register, command.p16(at).into());
    }
    Ok(())
}

/// 0x0605: link restart, and whether the link is enabled.
pub(super) fn restart_link(state: &mut State, command: &mut Command) -> Done {
    let before = state.link_is_up();
    state.port.enabled = command.p8(2) & 1 << 2 != 0;
    state.link_changed(before);
    Ok(())
}

/// 0x0607
pub(super) fn link_status(state: &mut State, command: &mut Command) -> Done {
    match command.p16(2) & 0x3 {
        2 => state.port.events = false,
        3 => state.port.events = true,
        _ => {}
    }
    command.set16(2, u16::from(state.port.events));
    let status = state.status_bytes();
    if command.len < status.len() {
        return refuse(
            Code::Invalid,
            format!("its buffer has {} bytes, the status 32", command.len),
        );
    }
    command.reply(&status);
    Ok(())
}

/// 0x0613: bits that are set suppress events.
pub(super) fn event_mask(state: &mut State, command: &mut Command) -> Done {
    state.port.event_mask = command.p16(8);
    Ok(())
}

/// 0x0620
pub(super) fn set_loopback(state: &mut State, command: &mut Command) -> Done {
    state.port.loopback = command.p8(0) & 1 != 0;
    Ok(())
}

/// 0x06EA, `struct ice_aqc_get_port_options`: the port can be one thing, a port of four lanes and 100 Gbit/s; the board has no other ports.
pub(super) fn options(_: &mut State, command: &mut Command) -> Done {
    /// The option in use is told; there are no more than so many bytes of it.
    const ACTIVE: u8 = 1 << 7;
    const ELEMENT: usize = 8;
    let there = command.p8(1) & 1 == 0 || command.p8(0) == LPORT;
    if command.len < ELEMENT {
        return refuse(Code::Invalid, "its buffer is too short for one option");
    }
    command.set8(2, u8::from(there));
    command.set8(4, if there { ACTIVE } else { 0 });
    command.set8(5, 0);
    // One port, of up to 100 Gbit/s.
    let option = [1, 7, 0, 0, 0, 0, 0, 0];
    command.reply(if there { &option } else { &[] });
    Ok(())
}

/// 0x06E9: a LED blinks.
pub(super) fn identify(_: &mut State, _: &mut Command) -> Done {
    Ok(())
}
