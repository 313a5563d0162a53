//! Numbers that the firmware hands out: counters, lists, recipes, profiles, TCAM entries. Commands 0x0204, 0x0208 to 0x020A.
//!
//! Types and flags: DPDK `ice_adminq_cmd.h` (`ICE_AQC_RES_TYPE_*`).

use std::collections::{BTreeMap, BTreeSet};

use super::{Code, Command, Done, refuse};
use crate::bytes;
use crate::state::State;

/// The type, without its flags.
const TYPE: u16 = 0x7f;
/// Take the highest free number instead of the lowest.
const SCAN_BOTTOM: u16 = 1 << 12;

pub(crate) const VSI_LIST: u16 = 0x03;
pub(crate) const PRUNE_LIST: u16 = 0x04;
pub(crate) const RECIPE: u16 = 0x05;
pub(crate) const FD_COUNTERS: u16 = 0x21;
pub(crate) const FD_PROFILE: u16 = 0x58;
pub(crate) const FD_TCAM: u16 = 0x59;
pub(crate) const HASH_PROFILE: u16 = 0x60;
pub(crate) const HASH_TCAM: u16 = 0x61;

/// First and last number of each type that is handed out.
fn range(kind: u16) -> Option<(u16, u16)> {
    Some(match kind {
        // Counters of virtual bridges, of VLANs.
        0x00 | 0x01 => (0, 63),
        VSI_LIST | PRUNE_LIST => (1, 1023),
        // The first are the package's own.
        RECIPE => (13, 63),
        // Large actions.
        0x0a..=0x0c => (1, 511),
        // Flow Director counter blocks and entries.
        FD_COUNTERS => (0, 31),
        0x22 | 0x23 => (0, 0x3fff),
        // Profile builders: switch, ACL, Flow Director, hash; each a profile type and a TCAM type.
        0x48 | 0x50 | FD_PROFILE | HASH_PROFILE => (0, 127),
        0x49 | 0x51 | FD_TCAM | HASH_TCAM => (0, 511),
        _ => return None,
    })
}

/// Counters and filter entries come in blocks: the element has one number, the block's first, whatever its count (DPDK `ice_alloc_res_cntr`).
fn is_block(kind: u16) -> bool {
    matches!(kind, 0x00 | 0x01 | FD_COUNTERS..=0x23)
}

/// What is taken.
#[derive(Debug, Default)]
pub(crate) struct Resources {
    taken: BTreeMap<u16, BTreeSet<u16>>,
}

impl Resources {
    /// The package has its own entries, which nobody gets.
    pub(crate) fn reserve(&mut self, kind: u16, number: u16) {
        self.taken.entry(kind).or_default().insert(number);
    }

    /// What is left when a function is cleared. Its Flow Director counters stay: Linux's ice goes on with them after a reset of the function, and gives
    /// them back when it is unloaded.
    pub(crate) fn function_cleared(&mut self) {
        self.taken.retain(|kind, _| *kind == FD_COUNTERS);
    }

    pub(crate) fn is_taken(&self, kind: u16, number: u16) -> bool {
        self.taken
            .get(&kind)
            .is_some_and(|taken| taken.contains(&number))
    }

    fn take(&mut self, kind: u16, from_bottom: bool) -> Option<u16> {
        let (first, last) = range(kind)?;
        let taken = self.taken.entry(kind).or_default();
        let mut free = (first..=last).filter(|number| !taken.contains(number));
        let number = if from_bottom {
            free.next_back()
        } else {
            free.next()
        }?;
        taken.insert(number);
        Some(number)
    }

    /// As many numbers in a row; the first of them.
    fn take_block(&mut self, kind: u16, count: u16) -> Option<u16> {
        let (first, last) = range(kind)?;
        let taken = self.taken.entry(kind).or_default();
        let mut start = first;
        for number in taken.iter().copied() {
            if number >= start.checked_add(count)? {
                break;
            }
            start = start.max(number.checked_add(1)?);
        }
        let end = start.checked_add(count)?;
        if end > last + 1 {
            return None;
        }
        taken.extend(start..end);
        Some(start)
    }

    fn give_back(&mut self, kind: u16, number: u16) -> bool {
        self.taken
            .get_mut(&kind)
            .is_some_and(|taken| taken.remove(&number))
    }
}

/// 0x0208: one element after the other, each a type, a count and as many numbers.
pub(super) fn allocate(state: &mut State, command: &mut Command) -> Done {
    command.needs_input(6)?;
    let mut at = 0;
    for _ in 0..command.p16(0) {
        let (kind, count, room) = element(command, at)?;
        let from_bottom = bytes::u16_at(&command.buffer, at) & SCAN_BOTTOM != 0;
        let (numbers, block) = if is_block(kind) {
            (1, Some(count as u16))
        } else {
            (count, None)
        };
        for i in 0..numbers {
            let number = match block {
                Some(count) => state.resources.take_block(kind, count),
                None => state.resources.take(kind, from_bottom),
            };
            let Some(number) = number else {
                return refuse(
                    Code::NoSpace,
                    format!("no resource of type {kind:#x} is left"),
                );
            };
            bytes::put16(&mut command.buffer, at + 4 + i * 2, number);
        }
        at += room;
    }
    Ok(())
}

/// 0x0209
pub(super) fn free(state: &mut State, command: &mut Command) -> Done {
    command.needs_input(6)?;
    let mut at = 0;
    for _ in 0..command.p16(0) {
        let (kind, count, room) = element(command, at)?;
        for i in 0..count {
            let number = if is_block(kind) {
                bytes::u16_at(&command.buffer, at + 4).wrapping_add(i as u16)
            } else {
                bytes::u16_at(&command.buffer, at + 4 + i * 2)
            };
            if !state.resources.give_back(kind, number) {
                return refuse(
                    Code::Invalid,
                    format!("number {number} of type {kind:#x} is not allocated"),
                );
            }
            state.resource_freed(kind, number);
        }
        at += room;
    }
    Ok(())
}

/// The element's type and count, and its bytes.
fn element(command: &Command, at: usize) -> Result<(u16, usize, usize), super::Refused> {
    let kind = bytes::u16_at(&command.buffer, at) & TYPE;
    let count = usize::from(bytes::u16_at(&command.buffer, at + 2));
    let numbers = if is_block(kind) { 1 } else { count.max(1) };
    let room = 4 + numbers * 2;
    if range(kind).is_none() {
        return refuse(Code::Invalid, format!("no resource has type {kind:#x}"));
    }
    if count == 0 || at + room > command.len {
        return refuse(
            Code::Invalid,
            format!("{count} numbers do not fit the buffer"),
        );
    }
    Ok((kind, count, room))
}

/// 0x0204: nothing is dedicated.
pub(super) fn allocation(_: &mut State, command: &mut Command) -> Done {
    command.set16(0, 0);
    command.answered = 0;
    Ok(())
}

/// 0x020A: no descriptors.
pub(super) fn descriptors(_: &mut State, command: &mut Command) -> Done {
    command.set16(2, 0);
    command.set16(4, 0);
    command.answered = 0;
    Ok(())
}

impl State {
    /// What hangs on a number goes with it.
    fn resource_freed(&mut self, kind: u16, number: u16) {
        match kind {
            VSI_LIST | PRUNE_LIST => {
                self.switch.lists.remove(&number);
            }
            RECIPE => self.switch.recipes.remove(number),
            _ => {}
        }
    }
}
