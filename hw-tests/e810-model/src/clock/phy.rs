//! The PHY's registers, which are reached by messages: command 0x0C00 of the admin queue, as the E810 has no queue of its own for them.
//!
//! DPDK `ice_sbq_cmd.h` (`struct ice_sbq_msg_req`, `ice_sbq_msg_cmpl`), `ice_sbq_rw_reg_lp` in `ice_common.c`, and the addresses in `ice_ptp_hw.h`. The PHY has
//! one command register for its timers: which of them a command is for the source timer's says.

use std::collections::BTreeMap;

use super::{ENABLE, TIMERS};
use crate::adminq::{Code, Command, Done, refuse};
use crate::bytes;
use crate::state::State;

/// A message to a neighbour of the card's.
pub(crate) const NEIGHBOUR: u16 = 0x0c00;

/// The device that the PHY is.
const PHY: u8 = 2;
const READ: u8 = 0;
/// Posted or not: here each is answered.
const WRITE_POSTED: u8 = 1;
const WRITE: u8 = 2;
/// Of each message: not posted; all bytes.
const FLAGS: u8 = 0x40;
const BYTES: u8 = 0x0f;
/// Bytes of a message that writes; one that reads has no data, its answer has.
const WRITES: usize = 16;
const READS: usize = 12;
const ANSWER: usize = 8;

/// What newer Linux reads so that all it has written before has arrived. What is there no source says.
const FLUSH: u32 = 0;
const COMMAND: u32 = 0x0300_0344;
const ENABLES: u32 = 0x0300_0348;
/// Shadow registers of a timer: time (fraction, low half), adjustment (low, high).
const SHADOWS: u32 = 0x0300_0368;
const SHADOWS_STRIDE: u32 = 32;
const ADJUST: u32 = 0x10;
/// Stamps of packets that were sent, 64 of 8 bytes for each port. None is ever made.
const SENT: u32 = 0x0309_0000;
const SENT_STRIDE: u32 = 0x1000;
const SENT_LEN: u32 = 64 * 8;
const PORTS: u32 = 8;

/// The registers as storage.
#[derive(Debug, Default)]
pub(super) struct Phy {
    words: BTreeMap<u32, u32>,
}

impl Phy {
    fn get(&self, address: u32) -> u32 {
        self.words.get(&address).copied().unwrap_or(0)
    }

    fn pair(&self, address: u32) -> u64 {
        u64::from(self.get(address + 4)) << 32 | u64::from(self.get(address))
    }

    /// The command that is prepared.
    pub(super) fn command(&self) -> u32 {
        self.get(COMMAND) & 0xff
    }

    /// The time that is prepared: the lower half of the nanoseconds, and their fractions.
    pub(super) fn time(&self, timer: usize) -> u64 {
        self.pair(SHADOWS + timer as u32 * SHADOWS_STRIDE)
    }

    /// The adjustment or increment that is prepared.
    pub(super) fn adjust(&self, timer: usize) -> u64 {
        self.pair(SHADOWS + timer as u32 * SHADOWS_STRIDE + ADJUST)
    }
}

/// Whether the PHY has a register there.
fn is_register(address: u32) -> bool {
    let shadow = address.wrapping_sub(SHADOWS);
    let sent = address.wrapping_sub(SENT);
    address.is_multiple_of(4)
        && (address == COMMAND
            || (ENABLES..ENABLES + TIMERS * 4).contains(&address)
            || shadow < TIMERS * SHADOWS_STRIDE
                && matches!(shadow % SHADOWS_STRIDE, 0 | 4 | 0x10 | 0x14)
            || sent < PORTS * SENT_STRIDE && sent % SENT_STRIDE < SENT_LEN)
}

/// 0x0C00
pub(crate) fn message(state: &mut State, command: &mut Command) -> Done {
    command.needs_input(READS)?;
    let [to, _, opcode, flags, enables, _] = bytes::get::<6>(&command.buffer, 0);
    let address =
        bytes::u32_at(&command.buffer, 8) << 16 | u32::from(bytes::u16_at(&command.buffer, 6));
    let len = match opcode {
        READ => READS,
        WRITE_POSTED | WRITE => WRITES,
        _ => {
            return refuse(
                Code::Invalid,
                format!("a message of kind {opcode}; 0 reads, 1 and 2 write"),
            );
        }
    };
    if command.len != len || usize::from(command.p16(0)) != len {
        return refuse(
            Code::Invalid,
            format!(
                "a message of kind {opcode} has {len} bytes, its buffer {}, its descriptor says {}",
                command.len,
                command.p16(0)
            ),
        );
    }
    if (flags, enables) != (FLAGS, BYTES) {
        return refuse(
            Code::Invalid,
            format!(
                "its flags are {flags:#x} and {enables:#x}, {FLAGS:#x} and {BYTES:#x} are taken"
            ),
        );
    }
    if to != PHY {
        return refuse(
            Code::NoEntry,
            format!("there is no device {to}; the PHY is {PHY}"),
        );
    }
    if !is_register(address) && (address, opcode) != (FLUSH, READ) {
        return refuse(
            Code::Invalid,
            format!("the PHY has no register at {address:#010x}"),
        );
    }
    let mut value = state.clock.phy.get(address);
    if opcode != READ {
        if let Err(why) = state.owns_clock() {
            return refuse(
                Code::NotPermitted,
                format!("register {address:#010x} of the PHY is written, and {why}"),
            );
        }
        value = bytes::u32_at(&command.buffer, 12);
        state.clock.phy.words.insert(address, value);
        let now = state.clock_now();
        if let Some(timer) = super::of_timer(address, ENABLES) {
            let timer = &mut state.clock.timers[timer];
            timer.phy.turn(value & ENABLE != 0, now);
            timer.together &= timer.phy.is_on();
        }
    }
    let mut answer = [0; ANSWER];
    answer[..4].copy_from_slice(&[0, PHY, opcode, flags]);
    bytes::put32(&mut answer, 4, value);
    command.set16(0, ANSWER as u16);
    command.reply(&answer);
    Ok(())
}
