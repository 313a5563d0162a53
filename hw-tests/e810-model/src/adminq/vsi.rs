//! Virtual station interfaces: commands 0x0210 to 0x0213.
//!
//! The context is `struct ice_aqc_vsi_props` of DPDK `ice_adminq_cmd.h`, 128 bytes in sections; an update replaces the sections it names.

use super::{Code, Command, Done, Refused, answer, port, refuse};
use crate::bytes;
use crate::state::State;
use crate::vsi::{CONTEXT, Vsi};

/// VSIs of the device; the first numbers are the firmware's own.
pub(super) const LIMIT: u32 = 768;
const FIRST: u16 = 8;

const NUMBER: u16 = 0x3ff;
const NUMBER_VALID: u16 = 1 << 15;

/// Sections: bit in the context's first word, first byte, end.
const SECTIONS: &[(u16, usize, usize)] = &[
    (0, 2, 6),
    (1, 6, 8),
    (2, 8, 16),
    (3, 24, 28),
    (4, 16, 20),
    (5, 20, 24),
    (6, 28, 78),
    (7, 78, 84),
    (8, 84, 88),
    (10, 88, 90),
    (11, 90, 100),
    (12, 100, 104),
];
const SECTIONS_ALL: u16 = 0x1dff;
const SECTION_SWITCH: u16 = 1;
const SECTION_QUEUES: u16 = 1 << 6;

fn counts(state: &State, command: &mut Command) {
    let used = state.vsis.len() as u16;
    command.set16(4, used);
    command.set16(6, LIMIT as u16 - used);
}

pub(super) fn add(state: &mut State, command: &mut Command) -> Done {
    command.needs_input(CONTEXT)?;
    let kind = command.p16(6) & 0x3;
    if state.card.strict && !(1..=2).contains(&kind) {
        return refuse(
            Code::Invalid,
            format!(
                "VSI type {kind}; 1 is VMDq, 2 the function's own, and there are no virtual functions"
            ),
        );
    }
    let asked = command.p16(0);
    let number = if asked & NUMBER_VALID != 0 {
        let number = asked & NUMBER;
        if number < FIRST || u32::from(number) >= LIMIT {
            return refuse(Code::Invalid, format!("VSI {number} is not the function's"));
        }
        if state.vsis.contains_key(&number) {
            return refuse(Code::Exists, format!("VSI {number} is in use"));
        }
        number
    } else {
        let free = (FIRST..LIMIT as u16).find(|number| !state.vsis.contains_key(number));
        match free {
            Some(number) => number,
            None => return refuse(Code::NoSpace, "all VSIs are in use"),
        }
    };
    let context: [u8; CONTEXT] = bytes::get(&command.buffer, 0);
    // Both drivers fill sections of a new VSI that they do not mark as valid, and rely on them.
    let mut vsi = Vsi::new(number);
    merge(state, &mut vsi, &context, SECTIONS_ALL)?;
    state.vsis.insert(number, vsi);
    command.set16(0, number);
    command.set16(2, 0);
    counts(state, command);
    command.answered = 0;
    Ok(())
}

/// Takes the sections whose bits are set.
fn merge(state: &State, vsi: &mut Vsi, context: &[u8; CONTEXT], valid: u16) -> Result<(), Refused> {
    if state.card.strict {
        if valid & SECTION_SWITCH != 0 && u16::from(context[2]) != port::SWITCH_ID {
            return refuse(
                Code::Invalid,
                format!(
                    "switch {}; the port's is {} (command 0x0200)",
                    context[2],
                    port::SWITCH_ID
                ),
            );
        }
        if valid & SECTION_QUEUES != 0 {
            queues(state, context)?;
        }
    }
    for (bit, from, to) in SECTIONS {
        if valid & 1 << bit != 0 {
            vsi.context[*from..*to].copy_from_slice(&context[*from..*to]);
        }
    }
    let before = bytes::u16_at(&vsi.context, 0);
    bytes::put16(&mut vsi.context, 0, before | valid);
    Ok(())
}

/// All queues of the map must be the function's.
fn queues(state: &State, context: &[u8; CONTEXT]) -> Result<(), Refused> {
    let limit = u32::from(state.card.queues);
    let contiguous = bytes::u16_at(context, 28) & 1 == 0;
    for tc in 0..8 {
        let map = bytes::u16_at(context, 62 + tc * 2);
        let offset = u32::from(map & 0x7ff);
        let count = 1_u32 << (map >> 11 & 0xf);
        let last = offset + count - 1;
        let queue = if contiguous {
            u32::from(bytes::u16_at(context, 30) & 0x7ff) + last
        } else if last < 16 {
            u32::from(bytes::u16_at(context, 30 + last as usize * 2) & 0x7ff)
        } else {
            return refuse(
                Code::Invalid,
                format!("traffic class {tc} ends at queue {last} of a scattered map of 16"),
            );
        };
        if queue >= limit {
            return refuse(
                Code::Invalid,
                format!(
                    "traffic class {tc} ends at receive queue {queue}; the function has {limit}"
                ),
            );
        }
    }
    Ok(())
}

fn named(state: &State, command: &Command) -> Result<u16, Refused> {
    let number = command.p16(0);
    if state.card.strict && number & NUMBER_VALID == 0 {
        return refuse(Code::Invalid, "the VSI number's valid bit (15) is clear");
    }
    let number = number & NUMBER;
    if !state.vsis.contains_key(&number) {
        return refuse(Code::NoEntry, format!("there is no VSI {number}"));
    }
    Ok(number)
}

pub(super) fn update(state: &mut State, command: &mut Command) -> Done {
    command.needs_input(CONTEXT)?;
    let number = named(state, command)?;
    let context: [u8; CONTEXT] = bytes::get(&command.buffer, 0);
    let Some(mut vsi) = state.vsis.get(&number).cloned() else {
        return answer(Code::NoEntry);
    };
    merge(state, &mut vsi, &context, bytes::u16_at(&context, 0))?;
    state.vsis.insert(number, vsi);
    command.set16(0, number);
    command.set16(2, 0);
    counts(state, command);
    command.answered = 0;
    Ok(())
}

pub(super) fn get(state: &mut State, command: &mut Command) -> Done {
    let number = named(state, command)?;
    let context = state
        .vsis
        .get(&number)
        .map_or([0; CONTEXT], |vsi| vsi.context);
    command.reply(&context);
    command.set16(0, number);
    command.set8(2, 0);
    command.set8(3, 2);
    counts(state, command);
    Ok(())
}

pub(super) fn free(state: &mut State, command: &mut Command) -> Done {
    let number = named(state, command)?;
    if state.card.strict && state.transmits_from(number) {
        return refuse(
            Code::Busy,
            format!("VSI {number} still has transmit queues (0x0C31 disables them)"),
        );
    }
    state.vsis.remove(&number);
    state.switch.forget(number);
    command.set16(2, 0);
    counts(state, command);
    Ok(())
}
