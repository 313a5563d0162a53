//! Commands that start and stop transmit queues: 0x0C30 and 0x0C31.
//!
//! Layouts: DPDK `ice_adminq_cmd.h` (`struct ice_aqc_add_tx_qgrp`, `ice_aqc_dis_txq_item`); that the generic section must be valid says `ice_ena_vsi_txq` in
//! `ice_common.c`.

use super::{Code, Command, Done, Refused, refuse};
use crate::bytes;
use crate::state::State;
use crate::tree::DATA;
use crate::tx::{CONTEXT, Context, Queue};

/// Bytes of a group's header, of a queue in it.
const GROUP: usize = 8;
const QUEUE: usize = 48;

/// 0x0C30: groups, each a parent node and its queues.
pub(super) fn add(state: &mut State, command: &mut Command) -> Done {
    command.needs_input(GROUP + QUEUE)?;
    let mut at = 0;
    for _ in 0..command.p8(0) {
        let parent = bytes::u32_at(&command.buffer, at);
        let count = usize::from(bytes::u8_at(&command.buffer, at + 4));
        if count == 0 || at + GROUP + count * QUEUE > command.len {
            return refuse(
                Code::Invalid,
                format!("{count} queues do not fit the buffer"),
            );
        }
        for i in 0..count {
            let from = at + GROUP + i * QUEUE;
            let teid = add_one(state, parent, &bytes::get(&command.buffer, from))?;
            bytes::put32(&mut command.buffer, from + 4, teid);
        }
        at += GROUP + count * QUEUE;
    }
    Ok(())
}

fn add_one(state: &mut State, parent: u32, queue: &[u8; QUEUE]) -> Result<u32, Refused> {
    let number = bytes::u16_at(queue, 0);
    if number >= state.card.queues {
        return refuse(
            Code::Invalid,
            format!(
                "transmit queue {number}; the function has {}",
                state.card.queues
            ),
        );
    }
    if state.tx.contains_key(&u32::from(number)) {
        return refuse(Code::Exists, format!("transmit queue {number} runs"));
    }
    let raw: [u8; CONTEXT] = bytes::get(queue, 8);
    let context = Context::new(&raw);
    if state.card.strict {
        context
            .check()
            .or_else(|why| refuse(Code::Invalid, format!("transmit queue {number}: {why}")))?;
    }
    if !state.vsis.contains_key(&context.vsi) {
        return refuse(
            Code::Invalid,
            format!(
                "transmit queue {number}: its VSI {} is not there",
                context.vsi
            ),
        );
    }
    let data: [u8; DATA] = bytes::get(queue, 32);
    if state.card.strict && data[1] & 1 == 0 {
        return refuse(
            Code::Invalid,
            format!("transmit queue {number}: the element's generic section is not valid"),
        );
    }
    let teid = state
        .tree
        .add(parent, data, true)
        .or_else(|trouble| refuse(Code::Invalid, trouble.to_string()))?;
    state
        .tx
        .insert(u32::from(number), Queue::new(context, teid));
    Ok(teid)
}

/// 0x0C31: groups, each a parent node and numbers of queues, padded to 4 bytes.
pub(super) fn disable(state: &mut State, command: &mut Command) -> Done {
    let groups = command.p8(1);
    if groups == 0 {
        // For a reset of the function or of a virtual one: nothing to stop.
        return Ok(());
    }
    command.needs_input(GROUP)?;
    let mut at = 0;
    for _ in 0..groups {
        let parent = bytes::u32_at(&command.buffer, at);
        let count = usize::from(bytes::u8_at(&command.buffer, at + 4));
        let len = (6 + count * 2).next_multiple_of(4);
        if at + len > command.len {
            return refuse(
                Code::Invalid,
                format!("{count} queues do not fit the buffer"),
            );
        }
        for i in 0..count {
            let number = bytes::u16_at(&command.buffer, at + 6 + i * 2) & 0x7fff;
            stop(state, parent, number)?;
        }
        at += len;
    }
    Ok(())
}

fn stop(state: &mut State, parent: u32, number: u16) -> Done {
    let Some(teid) = state.tx.get(&u32::from(number)).map(|queue| queue.teid) else {
        return refuse(
            Code::Invalid,
            format!("transmit queue {number} does not run"),
        );
    };
    state
        .tree
        .remove(parent, teid)
        .or_else(|trouble| refuse(Code::Invalid, trouble.to_string()))?;
    state.tx.remove(&u32::from(number));
    Ok(())
}
