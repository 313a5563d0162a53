//! Commands on the transmit scheduler's tree: 0x0400 to 0x0415.
//!
//! Layouts: DPDK `ice_adminq_cmd.h` (`struct ice_aqc_txsched_elem_data` and those around it).

use super::{Code, Command, Done, Refused, refuse};
use crate::bytes;
use crate::state::State;
use crate::tree::{CHILDREN, DATA, GENERIC, LAYERS, Node, Trouble};

/// Bytes of a group's header, of an element in it.
const GROUP: usize = 8;
const ELEMENT: usize = 24;
/// Of a move's header.
const MOVE: usize = 12;
/// An element's flag: it is suspended.
const SUSPENDED: u8 = 1;
/// Rate limiter profiles of a kind and layer that there are.
const PROFILES: u16 = 1024;

fn refused(trouble: &Trouble) -> Refused {
    let code = match trouble {
        Trouble::Full(_) => Code::NoSpace,
        Trouble::HasChildren(_) => Code::Busy,
        _ => Code::Invalid,
    };
    Refused {
        code,
        why: trouble.to_string(),
    }
}

fn element(teid: u32, node: &Node) -> [u8; ELEMENT] {
    let mut out = [0; ELEMENT];
    bytes::put32(&mut out, 0, node.parent);
    bytes::put32(&mut out, 4, teid);
    out[8..].copy_from_slice(&node.data);
    out
}

/// 0x0400: the branch the tree has after a reset.
pub(super) fn default_topology(state: &mut State, command: &mut Command) -> Done {
    if command.p8(0) != super::port::LPORT {
        return refuse(Code::Invalid, format!("there is no port {}", command.p8(0)));
    }
    let branch = state.tree.branch();
    let mut out = vec![0; GROUP];
    bytes::put16(&mut out, 4, branch.len() as u16);
    for (teid, node) in &branch {
        out.extend_from_slice(&element(*teid, node));
    }
    if command.len < out.len() {
        return refuse(Code::Invalid, "its buffer is too short for a branch");
    }
    command.set8(1, 1);
    command.reply(&out);
    Ok(())
}

/// 0x0401: groups, each a parent and its new children.
pub(super) fn add(state: &mut State, command: &mut Command) -> Done {
    command.needs_input(GROUP + ELEMENT)?;
    let groups = command.p16(0);
    let mut at = 0;
    for done in 0..groups {
        command.set16(2, done);
        let parent = bytes::u32_at(&command.buffer, at);
        let count = usize::from(bytes::u16_at(&command.buffer, at + 4));
        if count == 0 || at + GROUP + count * ELEMENT > command.len {
            return refuse(
                Code::Invalid,
                format!("{count} elements do not fit the buffer"),
            );
        }
        for i in 0..count {
            let from = at + GROUP + i * ELEMENT;
            let data: [u8; DATA] = bytes::get(&command.buffer, from + 8);
            if state.card.strict && data[0] != GENERIC {
                return refuse(
                    Code::Invalid,
                    format!(
                        "an element of type {}; generic ones (3) can be added",
                        data[0]
                    ),
                );
            }
            if state.card.strict && bytes::u32_at(&command.buffer, from) != parent {
                return refuse(
                    Code::Invalid,
                    format!("the element's parent is not the group's, {parent:#x}"),
                );
            }
            let teid = state
                .tree
                .add(parent, data, false)
                .map_err(|trouble| refused(&trouble))?;
            bytes::put32(&mut command.buffer, from + 4, teid);
        }
        at += GROUP + count * ELEMENT;
    }
    command.set16(2, groups);
    Ok(())
}

/// 0x0403: elements with new data.
pub(super) fn configure(state: &mut State, command: &mut Command) -> Done {
    command.needs_input(ELEMENT)?;
    let count = command.p16(0);
    for i in 0..usize::from(count) {
        let at = i * ELEMENT;
        let teid = bytes::u32_at(&command.buffer, at + 4);
        let data: [u8; DATA] = bytes::get(&command.buffer, at + 8);
        let Some(node) = state.tree.get_mut(teid) else {
            return refuse(Code::Invalid, format!("there is no node {teid:#x}"));
        };
        let valid = data[1];
        // Generic, CIR, EIR, shared: the section's bytes.
        for (bit, from, to) in [(0, 2, 3), (1, 4, 8), (2, 8, 12), (3, 12, 14)] {
            if valid & 1 << bit != 0 {
                node.data[from..to].copy_from_slice(&data[from..to]);
            }
        }
        node.data[1] |= valid & 0xf;
    }
    command.set16(2, count);
    Ok(())
}

/// 0x0404
pub(super) fn query(state: &mut State, command: &mut Command) -> Done {
    command.needs_input(ELEMENT)?;
    let count = command.p16(0);
    for i in 0..usize::from(count) {
        let at = i * ELEMENT;
        if at + ELEMENT > command.len {
            return refuse(Code::Invalid, "more elements than the buffer holds");
        }
        let teid = bytes::u32_at(&command.buffer, at + 4);
        let Some(node) = state.tree.get(teid) else {
            return refuse(Code::Invalid, format!("there is no node {teid:#x}"));
        };
        bytes::put(&mut command.buffer, at, &element(teid, node));
    }
    command.set16(2, count);
    Ok(())
}

/// 0x0408: groups of nodes get another parent.
pub(super) fn move_nodes(state: &mut State, command: &mut Command) -> Done {
    command.needs_input(MOVE + 4)?;
    let mut at = 0;
    for done in 0..command.p16(0) {
        let from = bytes::u32_at(&command.buffer, at);
        let to = bytes::u32_at(&command.buffer, at + 4);
        let count = usize::from(bytes::u16_at(&command.buffer, at + 8));
        if at + MOVE + count * 4 > command.len {
            return refuse(
                Code::Invalid,
                format!("{count} nodes do not fit the buffer"),
            );
        }
        for i in 0..count {
            let teid = bytes::u32_at(&command.buffer, at + MOVE + i * 4);
            state
                .tree
                .move_to(from, to, teid)
                .map_err(|trouble| refused(&trouble))?;
        }
        at += MOVE + count * 4;
        command.set16(2, done + 1);
    }
    Ok(())
}

/// 0x0409 and 0x040A
pub(super) fn suspend_or_resume(state: &mut State, command: &mut Command) -> Done {
    command.needs_input(4)?;
    let count = command.p16(0);
    for i in 0..usize::from(count) {
        let teid = bytes::u32_at(&command.buffer, i * 4);
        let Some(node) = state.tree.get_mut(teid) else {
            return refuse(Code::Invalid, format!("there is no node {teid:#x}"));
        };
        if command.opcode == 0x0409 {
            node.data[3] |= SUSPENDED;
        } else {
            node.data[3] &= !SUSPENDED;
        }
    }
    command.set16(2, count);
    Ok(())
}

/// 0x040E: one traffic class, with all user priorities.
pub(super) fn query_port_ets(state: &mut State, command: &mut Command) -> Done {
    let mut out = [0; 64];
    out[0] = 1;
    out[8] = 100;
    let root = state.tree.root();
    for (i, (teid, _)) in state.tree.children(root).take(8).enumerate() {
        bytes::put32(&mut out, 32 + i * 4, teid);
    }
    command.reply(&out);
    Ok(())
}

/// 0x040F: groups of nodes go.
pub(super) fn delete(state: &mut State, command: &mut Command) -> Done {
    command.needs_input(GROUP + 4)?;
    let mut at = 0;
    for done in 0..command.p16(0) {
        let parent = bytes::u32_at(&command.buffer, at);
        let count = usize::from(bytes::u16_at(&command.buffer, at + 4));
        if count == 0 || at + GROUP + count * 4 > command.len {
            return refuse(
                Code::Invalid,
                format!("{count} nodes do not fit the buffer"),
            );
        }
        for i in 0..count {
            let teid = bytes::u32_at(&command.buffer, at + GROUP + i * 4);
            state
                .tree
                .remove(parent, teid)
                .map_err(|trouble| refused(&trouble))?;
        }
        at += GROUP + count * 4;
        command.set16(2, done + 1);
    }
    Ok(())
}

/// 0x0410: rate limits are taken and not applied.
pub(super) fn add_rate_profiles(state: &mut State, command: &mut Command) -> Done {
    command.needs_input(12)?;
    let count = command.p16(0);
    for i in 0..usize::from(count) {
        if state.rate_profiles >= PROFILES {
            return refuse(Code::NoSpace, "all rate limiter profiles are in use");
        }
        state.rate_profiles += 1;
        bytes::put16(&mut command.buffer, i * 12 + 2, state.rate_profiles);
    }
    command.set16(2, count);
    Ok(())
}

/// 0x0415
pub(super) fn remove_rate_profiles(_: &mut State, command: &mut Command) -> Done {
    command.needs_input(12)?;
    let count = command.p16(0);
    command.set16(2, count);
    Ok(())
}

/// 0x0412: layers, and how many children a node may have.
pub(super) fn query_resources(_: &mut State, command: &mut Command) -> Done {
    let mut out = vec![0; 32 + usize::from(LAYERS) * 32];
    bytes::put16(&mut out, 0, u16::from(LAYERS));
    bytes::put16(&mut out, 2, u16::from(LAYERS));
    out[5] = 32;
    out[6] = 8;
    for layer in 0..LAYERS {
        let at = 32 + usize::from(layer) * 32;
        out[at] = layer;
        bytes::put16(&mut out, at + 2, 2048);
        bytes::put16(&mut out, at + 4, 1024);
        // A layer's sibling groups are as large as the layer above allows children.
        let siblings = layer
            .checked_sub(1)
            .map_or(1, |above| CHILDREN[usize::from(above)]);
        bytes::put16(&mut out, at + 10, siblings as u16);
        bytes::put16(&mut out, at + 12, 64);
        bytes::put16(&mut out, at + 14, 64);
        bytes::put16(&mut out, at + 16, 64);
    }
    if command.len < out.len() {
        return refuse(
            Code::Invalid,
            format!(
                "its buffer has {} bytes, the answer {}",
                command.len,
                out.len()
            ),
        );
    }
    command.reply(&out);
    Ok(())
}

/// 0x0413: a node and all above it, from the root on.
pub(super) fn node_to_root(state: &mut State, command: &mut Command) -> Done {
    let mut teid = command.p32(0);
    let mut path = Vec::new();
    while let Some(node) = state.tree.get(teid) {
        path.push(element(teid, node));
        teid = node.parent;
    }
    if path.is_empty() {
        return refuse(Code::Invalid, format!("there is no node {teid:#x}"));
    }
    path.reverse();
    command.set32(4, path.len() as u32);
    command.reply(&path.concat());
    Ok(())
}
