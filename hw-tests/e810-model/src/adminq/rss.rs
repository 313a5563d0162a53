//! Hash keys and tables: commands 0x0B02 to 0x0B05.
//!
//! Layouts: DPDK `ice_adminq_cmd.h` (`struct ice_aqc_get_set_rss_key`, `ice_aqc_get_set_rss_lut`).

use super::{Code, Command, Done, Refused, refuse};
use crate::state::State;
use crate::vsi::HASH_KEY;

const VSI_VALID: u16 = 1 << 15;

/// The VSI that the command names.
fn interface(state: &State, command: &Command) -> Result<u16, Refused> {
    let asked = command.p16(0);
    let number = asked & 0x3ff;
    if state.card.strict && asked & VSI_VALID == 0 {
        return refuse(Code::Invalid, "the VSI number's valid bit (15) is clear");
    }
    if !state.vsis.contains_key(&number) {
        return refuse(Code::Invalid, format!("there is no VSI {number}"));
    }
    Ok(number)
}

/// 0x0B02
pub(super) fn set_key(state: &mut State, command: &mut Command) -> Done {
    command.needs_input(HASH_KEY)?;
    let number = interface(state, command)?;
    if let Some(vsi) = state.vsis.get_mut(&number) {
        vsi.key.copy_from_slice(&command.buffer[..HASH_KEY]);
    }
    Ok(())
}

/// 0x0B04
pub(super) fn get_key(state: &mut State, command: &mut Command) -> Done {
    let number = interface(state, command)?;
    let key = state.vsis.get(&number).map_or([0; HASH_KEY], |vsi| vsi.key);
    command.reply(&key);
    Ok(())
}

/// Whose table it is: 0 the VSI's, 1 the function's, 2 a global one. Its size follows from the flags, too.
fn table<'a>(
    state: &'a mut State,
    command: &Command,
    number: u16,
) -> Result<(&'a mut Vec<u16>, usize), Refused> {
    let flags = command.p16(2);
    let size = match (flags & 0x3, flags >> 2 & 0x3) {
        (0, _) => 64,
        (1, 0) => 128,
        (1 | 2, 1) => 512,
        (1, 2) => 2048,
        (kind, size) => {
            return refuse(
                Code::Invalid,
                format!("no table is of type {kind} with size code {size}"),
            );
        }
    };
    let table = match flags & 0x3 {
        0 => match state.vsis.get_mut(&number) {
            Some(vsi) => &mut vsi.lut,
            None => return refuse(Code::Invalid, format!("there is no VSI {number}")),
        },
        1 => &mut state.function_table,
        _ => &mut state.global_table,
    };
    Ok((table, size))
}

/// 0x0B03
pub(super) fn set_table(state: &mut State, command: &mut Command) -> Done {
    let number = interface(state, command)?;
    command.needs_input(1)?;
    let (table, size) = table(state, command, number)?;
    if command.len != size {
        return refuse(
            Code::Invalid,
            format!("{} entries for a table of {size}", command.len),
        );
    }
    *table = command
        .buffer
        .iter()
        .map(|entry| u16::from(*entry))
        .collect();
    Ok(())
}

/// 0x0B05
pub(super) fn get_table(state: &mut State, command: &mut Command) -> Done {
    let number = interface(state, command)?;
    let (table, size) = table(state, command, number)?;
    if command.len < size {
        return refuse(
            Code::Invalid,
            format!("a buffer of {} bytes for a table of {size}", command.len),
        );
    }
    let mut out: Vec<u8> = table.iter().map(|entry| *entry as u8).collect();
    out.resize(size, 0);
    command.reply(&out);
    Ok(())
}
