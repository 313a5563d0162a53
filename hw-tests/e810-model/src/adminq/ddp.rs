//! The package: commands 0x0C40 to 0x0C43.
//!
//! Layouts and the order of locks: DPDK `ice_ddp.c`.

use super::{Code, Command, Done, answer, refuse};
use crate::bytes;
use crate::pipeline::BUFFER;
use crate::state::State;

const LAST: u8 = 1;

/// Bytes of an entry of the list (`struct ice_aqc_get_pkg_info`).
const INFO: usize = 40;

/// 0x0C40: one buffer after the other, under the global configuration lock.
pub(super) fn download(state: &mut State, command: &mut Command) -> Done {
    command.needs_input(BUFFER)?;
    if !state.card.ddp {
        return answer(Code::BadSignature);
    }
    if state.package.is_loaded() {
        return refuse(Code::Exists, "a package is loaded; a core reset takes it");
    }
    if state.card.strict && !state.locks.holds_global() {
        return refuse(
            Code::Access,
            "the global configuration lock (0x0008, resource 4) is not held",
        );
    }
    let last = command.p8(0) & LAST != 0;
    take(state, command, false)?;
    if last {
        state.package.activate();
        state.package_reserves();
    }
    Ok(())
}

fn take(state: &mut State, command: &mut Command, update: bool) -> Done {
    let done = state.package.take(&command.buffer, update);
    command.set32(0, 0);
    command.set32(4, 0);
    command.answered = 0;
    done.or_else(|why| refuse(Code::Invalid, why))
}

/// 0x0C41: no section is given back. Without them, drivers take it that the package knows one VLAN tag only.
pub(super) fn upload(_: &mut State, command: &mut Command) -> Done {
    command.answered = 0;
    answer(Code::NoEntry)
}

/// 0x0C42: sections replace entries of tables, under the change lock.
///
/// Linux sends as many bytes of the buffer as it has used.
pub(super) fn update(state: &mut State, command: &mut Command) -> Done {
    command.needs_input(4)?;
    if !state.package.is_loaded() {
        return refuse(Code::NotPermitted, "no package is loaded");
    }
    if state.card.strict && !state.locks.holds_change() {
        return refuse(
            Code::Access,
            "the change lock (0x0008, resource 3) is not held",
        );
    }
    take(state, command, true)
}

/// 0x0C43: the package that is active, if one is.
pub(super) fn list(state: &mut State, command: &mut Command) -> Done {
    let mut out = vec![0; 4];
    if state.package.is_loaded() {
        bytes::put32(&mut out, 0, 1);
        let mut info = [0; INFO];
        info[..4].copy_from_slice(&state.package.version);
        info[4..32].copy_from_slice(&state.package.name);
        // The track id, then: in flash, active, active at boot, modified.
        bytes::put32(&mut info, 32, 0xc000_0001);
        info[37] = 1;
        out.extend_from_slice(&info);
    }
    if command.len < out.len() {
        return refuse(Code::Invalid, "its buffer is too short for the list");
    }
    command.reply(&out);
    Ok(())
}
