//! Versions, locks, the port's address: commands 0x0001 to 0x0110, and clearing what the function configured (0x02A4).

use super::{Code, Command, Done, Event, answer, refuse};
use crate::state::State;

/// What 0x0001 tells: firmware 7.3.1.
const FIRMWARE: [u8; 4] = [0, 7, 3, 1];
/// From this interface on Linux asks for reports of the health of the card; whether firmware knew them before is not known.
const HEALTH_SINCE: (u8, u8, u8) = (1, 7, 6);

/// What a report has in place of data that it has not.
const NO_DATA: u32 = 0xdead_beef;

const LOCK_NVM: u16 = 1;
const LOCK_CHANGE: u16 = 3;
const LOCK_GLOBAL: u16 = 4;
/// Of the global configuration lock: it is yours; the package is loaded, so nobody needs it.
const GLOBAL_SUCCESS: u16 = 0;
const GLOBAL_DONE: u16 = 2;

/// Locks that the firmware keeps between functions, each with the time a holder has, in milliseconds.
#[derive(Debug, Default)]
pub(crate) struct Locks {
    held: Vec<u16>,
}

impl Locks {
    pub(crate) fn holds_global(&self) -> bool {
        self.held.contains(&LOCK_GLOBAL)
    }

    pub(crate) fn holds_change(&self) -> bool {
        self.held.contains(&LOCK_CHANGE)
    }
}

pub(super) fn get_version(state: &mut State, command: &mut Command) -> Done {
    command.set32(0, 0x0001_0002);
    command.set32(4, 0x0000_d5a1);
    command.params[8..12].copy_from_slice(&FIRMWARE);
    let (major, minor, patch) = state.card.api;
    command.params[12..16].copy_from_slice(&[0, major, minor, patch]);
    Ok(())
}

pub(super) fn driver_version(_: &mut State, command: &mut Command) -> Done {
    command.needs_input(1)
}

/// The queue is not used after this; the driver disables it itself.
pub(super) fn shut_down(state: &mut State, _: &mut Command) -> Done {
    state.locks = Locks::default();
    Ok(())
}

pub(super) fn request(state: &mut State, command: &mut Command) -> Done {
    let lock = command.p16(0);
    let access = command.p16(2);
    let timeout = match lock {
        LOCK_NVM if access == 1 => 3000,
        LOCK_NVM => 180_000,
        LOCK_CHANGE => 1000,
        LOCK_GLOBAL => 3000,
        _ => {
            return refuse(Code::Invalid, format!("no resource has the number {lock}"));
        }
    };
    if !(1..=2).contains(&access) {
        return refuse(Code::Invalid, format!("access {access}; 1 reads, 2 writes"));
    }
    command.set32(4, timeout);
    if lock == LOCK_GLOBAL && state.package.is_loaded() {
        command.set16(12, GLOBAL_DONE);
        return Ok(());
    }
    if state.locks.held.contains(&lock) {
        return refuse(
            Code::Busy,
            format!("resource {lock} is held by this function already"),
        );
    }
    state.locks.held.push(lock);
    command.set16(12, GLOBAL_SUCCESS);
    Ok(())
}

pub(super) fn release(state: &mut State, command: &mut Command) -> Done {
    let lock = command.p16(0);
    let before = state.locks.held.len();
    state.locks.held.retain(|held| *held != lock);
    if state.locks.held.len() == before {
        return refuse(Code::Invalid, format!("resource {lock} is not held"));
    }
    Ok(())
}

/// Flag: the LAN address is valid.
const LAN_VALID: u16 = 1 << 4;

pub(super) fn read_mac(state: &mut State, command: &mut Command) -> Done {
    if command.len < 16 {
        return refuse(Code::Invalid, "its buffer is too short for two addresses");
    }
    command.set16(0, LAN_VALID);
    command.set8(4, 1);
    let mut entry = [0; 8];
    entry[2..8].copy_from_slice(&state.station);
    command.reply(&entry);
    Ok(())
}

pub(super) fn write_mac(state: &mut State, command: &mut Command) -> Done {
    let mut address = [0; 6];
    address.copy_from_slice(&command.params[2..8]);
    if address[0] & 1 != 0 || address == [0; 6] {
        return refuse(
            Code::Invalid,
            format!("{address:02x?} is no station address"),
        );
    }
    state.station = address;
    Ok(())
}

pub(super) fn clear_pxe(_: &mut State, command: &mut Command) -> Done {
    if command.p8(0) != 2 {
        return refuse(Code::Invalid, "the receive count must be 2");
    }
    // Cleared already: the same answer as on a card that booted from disk.
    answer(Code::Exists)
}

pub(super) fn clear_configuration(state: &mut State, _: &mut Command) -> Done {
    state.clear_function();
    Ok(())
}

/// 0xFF20: which reports the driver wants, this function's, all functions', the card's.
pub(super) fn want_health(state: &mut State, command: &mut Command) -> Done {
    if state.card.api < HEALTH_SINCE {
        return answer(Code::NoSystem);
    }
    state.health = command.p8(0) & 0x7;
    Ok(())
}

impl State {
    /// The firmware reports a condition of the card, if the driver wants to hear of its source: 1 a function, 2 a port, 3 the card
    /// (DPDK `struct ice_aqc_health_status_elem`).
    pub(crate) fn report_health(&mut self, code: u16, source: u16) {
        let wanted = match source {
            3 => self.health & 1 << 2,
            _ => self.health & 0x3,
        };
        if wanted == 0 {
            return;
        }
        let mut buffer = code.to_le_bytes().to_vec();
        buffer.extend(source.to_le_bytes());
        for _ in 0..2 {
            buffer.extend(NO_DATA.to_le_bytes());
        }
        let mut params = [0; 16];
        params[0] = 1;
        self.post_event(Event {
            opcode: 0xff22,
            params,
            buffer,
        });
    }
}
