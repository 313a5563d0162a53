//! Switch rules: commands 0x02A0 to 0x02A2.
//!
//! Elements: DPDK `ice_adminq_cmd.h` (`struct ice_sw_rule_lkup_rx_tx`, `ice_sw_rule_vsi_list`, `ice_sw_rule_lg_act`) and `ice_switch.c`.

use super::resources::{PRUNE_LIST, VSI_LIST};
use super::{Code, Command, Done, Refused, port, refuse};
use crate::bytes;
use crate::frame::Frame;
use crate::state::State;
use crate::switch::recipe::{Extracted, is_fixed};
use crate::switch::{Action, Direction, Rule, recipe};

/// Bytes of a lookup rule before its header data; of a list and a large action before their entries.
const LOOKUP: usize = 16;
const LIST: usize = 8;
/// Rules that the switch takes.
const RULES: usize = 4096;

/// One element of a command's buffer.
struct Element {
    kind: u16,
    at: usize,
    len: usize,
}

fn elements(command: &Command) -> Result<Vec<Element>, Refused> {
    let mut all = Vec::new();
    let mut at = 0;
    for i in 0..command.p16(0) {
        let kind = bytes::u16_at(&command.buffer, at);
        let len = match kind {
            0 | 1 => LOOKUP + usize::from(bytes::u16_at(&command.buffer, at + 14)),
            2 => LIST + usize::from(bytes::u16_at(&command.buffer, at + 6)) * 4,
            3..=6 => LIST + usize::from(bytes::u16_at(&command.buffer, at + 6)) * 2,
            _ => {
                return refuse(
                    Code::Invalid,
                    format!("element {i}: no rule has type {kind}"),
                );
            }
        };
        if at + len > command.len {
            return refuse(
                Code::Invalid,
                format!(
                    "element {i} ends at byte {}, the buffer at {}",
                    at + len,
                    command.len
                ),
            );
        }
        all.push(Element { kind, at, len });
        at += len;
    }
    if all.is_empty() {
        return refuse(Code::Invalid, "it has no elements");
    }
    Ok(all)
}

/// Does each element, notes its status, and fails with the first that failed.
fn each(
    state: &mut State,
    command: &mut Command,
    go: fn(&mut State, &mut Command, &Element) -> Done,
) -> Done {
    command.needs_input(LIST)?;
    let all = elements(command)?;
    let mut first = Ok(());
    for element in all {
        let done = go(state, command, &element);
        let status = done.as_ref().err().map_or(0, |refused| refused.code as u16);
        bytes::put16(&mut command.buffer, element.at + 2, status);
        if first.is_ok() {
            first = done;
        }
    }
    first
}

pub(super) fn add(state: &mut State, command: &mut Command) -> Done {
    each(state, command, add_one)
}

pub(super) fn update(state: &mut State, command: &mut Command) -> Done {
    each(state, command, update_one)
}

pub(super) fn remove(state: &mut State, command: &mut Command) -> Done {
    each(state, command, remove_one)
}

fn add_one(state: &mut State, command: &mut Command, element: &Element) -> Done {
    match element.kind {
        0 | 1 => {
            let rule = lookup(state, command, element)?;
            if let Some(same) = state.switch.same(&rule) {
                return refuse(
                    Code::Exists,
                    format!(
                        "recipe {} has this rule, as number {same}; another VSI joins it by a list (0x0208 type 3, 0x02A0 type 3, 0x02A1)",
                        rule.recipe
                    ),
                );
            }
            if state.switch.rules.len() >= RULES {
                return refuse(Code::NoSpace, "the rule table is full");
            }
            let index = state.switch.insert(rule);
            bytes::put16(&mut command.buffer, element.at + 12, index);
            Ok(())
        }
        _ => update_one(state, command, element),
    }
}

/// A lookup rule as the switch keeps it.
fn lookup(state: &State, command: &Command, element: &Element) -> Result<Rule, Refused> {
    let buffer = &command.buffer;
    let at = element.at;
    let direction = if element.kind == 0 {
        Direction::Receive
    } else {
        Direction::Transmit
    };
    let mut rule = Rule {
        direction,
        extracted: Extracted::default(),
        recipe: bytes::u16_at(buffer, at + 4),
        source: bytes::u16_at(buffer, at + 6),
        action: Action::from_bits(bytes::u32_at(buffer, at + 8)),
        raw_action: bytes::u32_at(buffer, at + 8),
        header: buffer
            .get(at + LOOKUP..at + element.len)
            .map(<[u8]>::to_vec)
            .unwrap_or_default(),
    };
    if rule.recipe > 63 || !state.switch.knows(rule.recipe) {
        return refuse(
            Code::Invalid,
            format!("recipe {} is not there (0x0290 adds one)", rule.recipe),
        );
    }
    if state.card.strict {
        source(state, &rule)?;
    }
    target(state, &rule)?;
    if rule.header.len() < 14 {
        return refuse(
            Code::Invalid,
            format!(
                "header data of {} bytes; an Ethernet header has 14",
                rule.header.len()
            ),
        );
    }
    if !is_fixed(rule.recipe) {
        rule.extracted = state.extract(&Frame::parse(&rule.header), rule.direction);
    }
    Ok(rule)
}

/// Whom the rule is for: the port on receive, a VSI on transmit.
fn source(state: &State, rule: &Rule) -> Done {
    match rule.direction {
        Direction::Receive if rule.source != u16::from(port::LPORT) => refuse(
            Code::Invalid,
            format!(
                "a receive rule of port {}; the port is {}",
                rule.source,
                port::LPORT
            ),
        ),
        Direction::Receive if rule.recipe == recipe::MAC => refuse(
            Code::Invalid,
            "a MAC rule of type receive: Linux and DPDK add them as transmit rules of the VSI, which match on receive too",
        ),
        Direction::Transmit if !state.vsis.contains_key(&rule.source) => refuse(
            Code::Invalid,
            format!("a transmit rule of VSI {}, which is not there", rule.source),
        ),
        _ => Ok(()),
    }
}

/// Where the rule sends must be there.
fn target(state: &State, rule: &Rule) -> Done {
    match rule.action {
        Action::ToVsi { vsi, .. } | Action::PruneVsi { vsi } if !state.vsis.contains_key(&vsi) => {
            refuse(
                Code::Invalid,
                format!("its target is VSI {vsi}, which is not there"),
            )
        }
        Action::ToList { list, .. } | Action::PruneList { list }
            if !state.switch.lists.contains_key(&list) =>
        {
            refuse(
                Code::Invalid,
                format!("its target is VSI list {list}, which is not there"),
            )
        }
        Action::ToQueue { queue, region } => {
            // As the device numbers them.
            let first = state.card.first_queue();
            let last = u32::from(queue) + (1 << region) - 1;
            if queue < first || last >= u32::from(first) + u32::from(state.card.queues) {
                return refuse(
                    Code::Invalid,
                    format!(
                        "its target is queue {last} of the device; the function has {} from {first} on",
                        state.card.queues
                    ),
                );
            }
            Ok(())
        }
        Action::Invalid if state.card.strict => refuse(
            Code::Invalid,
            format!(
                "the action {:#x} has the valid bit (17) clear",
                rule.raw_action
            ),
        ),
        _ => Ok(()),
    }
}

fn update_one(state: &mut State, command: &mut Command, element: &Element) -> Done {
    let at = element.at;
    match element.kind {
        0 | 1 => {
            let index = bytes::u16_at(&command.buffer, at + 12);
            let Some(mut rule) = state.switch.rules.get(&index).cloned() else {
                return refuse(Code::NoEntry, format!("there is no rule {index}"));
            };
            rule.raw_action = bytes::u32_at(&command.buffer, at + 8);
            rule.action = Action::from_bits(rule.raw_action);
            target(state, &rule)?;
            state.switch.rules.insert(index, rule);
            Ok(())
        }
        2 => {
            let index = bytes::u16_at(&command.buffer, at + 4);
            let count = usize::from(bytes::u16_at(&command.buffer, at + 6));
            let acts = (0..count.min(4))
                .map(|i| bytes::u32_at(&command.buffer, at + LIST + i * 4))
                .collect();
            state.switch.large_actions.insert(index, acts);
            Ok(())
        }
        _ => list(state, command, element),
    }
}

/// VSIs join a list (types 3, 5) or leave it (4, 6).
fn list(state: &mut State, command: &Command, element: &Element) -> Done {
    let at = element.at;
    let index = bytes::u16_at(&command.buffer, at + 4);
    let count = usize::from(bytes::u16_at(&command.buffer, at + 6));
    let kind = if element.kind < 5 {
        VSI_LIST
    } else {
        PRUNE_LIST
    };
    if state.card.strict && !state.resources.is_taken(kind, index) {
        return refuse(
            Code::Invalid,
            format!("list {index} was not allocated (0x0208, type {kind})"),
        );
    }
    let mut members = state.switch.lists.get(&index).cloned().unwrap_or_default();
    for i in 0..count {
        let vsi = bytes::u16_at(&command.buffer, at + LIST + i * 2) & 0x3ff;
        if matches!(element.kind, 3 | 5) {
            if !state.vsis.contains_key(&vsi) {
                return refuse(Code::Invalid, format!("there is no VSI {vsi}"));
            }
            members.insert(vsi);
        } else if !members.remove(&vsi) {
            return refuse(Code::NoEntry, format!("VSI {vsi} is not in list {index}"));
        }
    }
    state.switch.lists.insert(index, members);
    Ok(())
}

fn remove_one(state: &mut State, command: &mut Command, element: &Element) -> Done {
    match element.kind {
        0 | 1 => {
            let index = bytes::u16_at(&command.buffer, element.at + 12);
            match state.switch.rules.remove(&index) {
                Some(_) => Ok(()),
                None => refuse(Code::NoEntry, format!("there is no rule {index}")),
            }
        }
        2 => {
            let index = bytes::u16_at(&command.buffer, element.at + 4);
            state.switch.large_actions.remove(&index);
            Ok(())
        }
        _ => list(state, command, element),
    }
}
