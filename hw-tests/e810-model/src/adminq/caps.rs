//! What the device and the function can do: commands 0x000A and 0x000B.
//!
//! Elements of 32 bytes, DPDK `struct ice_aqc_list_caps_elem` and `ice_parse_common_caps` in `ice_common.c`. Left out is what would make drivers ask for what
//! is not modelled: virtual functions, DCB, RDMA, firmware updates.

use super::{Code, Command, Done, answer};
use crate::personality::ClockOwner;
use crate::state::State;

const FUNCTION: u16 = 0x000a;

/// IEEE 1588: the number's bits, and, for the device, the ports that it is for and the functions that have timers. `ICE_TS_*` in DPDK's `ice_type.h`.
fn clock(owner: ClockOwner, device: bool) -> Option<(u32, u32)> {
    // A function's number, of three bits: this one is 0.
    let (timer, of) = match owner {
        ClockOwner::None => return None,
        ClockOwner::This(timer) => (timer, 0_u32),
        ClockOwner::Other { timer, .. } => (timer, 1),
    };
    let index = u32::from(timer & 1);
    let number = if device {
        // Each timer's owner, and that it has one; there is a clock; the timer is enabled.
        (of | 1 << 3) << (index * 4) | 1 << 24 | 1 << (25 + index)
    } else {
        let owned = of == 0;
        // There is a clock; the timer is this function's; it is enabled; which is owned, which is used.
        1 | u32::from(owned) << 1 | 1 << 2 | (u32::from(owned) * index) << 4 | index << 24
    };
    Some((number, if device { 1 << of } else { 0 }))
}

pub(super) fn list(state: &mut State, command: &mut Command) -> Done {
    let card = &state.card;
    let queues = u32::from(card.queues);
    let first = u32::from(card.first_queue());
    let (guaranteed, shared) = card.flow_director;
    let device = command.opcode != FUNCTION;
    // Capability, number, logical id, physical id.
    let filters = if device {
        u32::from(guaranteed) + u32::from(shared)
    } else {
        0
    };
    let mut list = vec![
        (0x0005, 1, 0, 0),
        (0x0017, super::vsi::LIMIT, 0, 0),
        // Table entries, bits of an entry.
        (0x0040, 2048, 11, 0),
        (0x0041, queues, 0, first),
        (0x0042, queues, 0, first),
        (0x0043, u32::from(card.vectors), 0, 0),
        (0x0047, 9728, 0, 0),
    ];
    if guaranteed > 0 || shared > 0 {
        list.push((0x0045, filters, 0, 0));
    }
    if let Some((number, map)) = clock(card.clock, device) {
        list.push((0x0046, number, map, map));
    }
    command.set32(4, list.len() as u32);
    if list.len() * 32 > command.len {
        command.answered = 0;
        return answer(Code::NoMemory);
    }
    let mut out = Vec::with_capacity(list.len() * 32);
    for (capability, number, logical, physical) in list {
        out.extend_from_slice(&u16::to_le_bytes(capability));
        out.extend_from_slice(&[1, 0]);
        for word in [number, logical, physical] {
            out.extend_from_slice(&u32::to_le_bytes(word));
        }
        out.extend_from_slice(&[0; 16]);
    }
    command.reply(&out);
    Ok(())
}
