//! Registers of the PHY, by messages to the card's neighbours.
//!
//! The E810 takes them with the admin queue. Formats: DPDK's `ice_sbq_cmd.h` and `ice_sbq_rw_reg_lp` in `ice_common.c`; addresses: `ice_ptp_hw.h`.

use super::Admin;
use super::command::{AdminError, Command, opcode};
use crate::device::Registers;

/// The PHY among the neighbours (`rmn_0`).
const PHY: u8 = 2;
/// Writes.
const WRITE: u8 = 1;
/// An answer is wanted; all four bytes count.
const FLAGS: u8 = 0x40;
const BYTES: u8 = 0x0f;

/// The command that the PHY's timers carry out together with the source timer.
pub(in crate::ice) const COMMAND: u32 = 0x0300_0344;

/// Turns timer `timer` on.
pub(in crate::ice) const fn enable(timer: u32) -> u32 {
    0x0300_0348 + timer * 4
}

/// What the timer is set to: fractions of a nanosecond.
pub(in crate::ice) const fn time_fraction(timer: u32) -> u32 {
    0x0300_0368 + timer * 32
}

/// What the timer is set to: nanoseconds.
pub(in crate::ice) const fn time_low(timer: u32) -> u32 {
    0x0300_036c + timer * 32
}

/// What a tick adds, low half.
pub(in crate::ice) const fn adjust_low(timer: u32) -> u32 {
    0x0300_0378 + timer * 32
}

/// What a tick adds, high half.
pub(in crate::ice) const fn adjust_high(timer: u32) -> u32 {
    0x0300_037c + timer * 32
}

/// A message that writes.
fn message(address: u32, value: u32) -> [u8; 16] {
    let mut message = [PHY, 0, WRITE, FLAGS, BYTES, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let [a, b, c, d] = address.to_le_bytes();
    message[6..10].copy_from_slice(&[a, b, c, d]);
    message[12..].copy_from_slice(&value.to_le_bytes());
    message
}

impl<R: Registers> Admin<R> {
    /// Writes a register of the PHY.
    pub(in crate::ice) fn write_phy(&mut self, address: u32, value: u32) -> Result<(), AdminError> {
        let mut message = message(address, value);
        // The message's length, once more.
        let command = Command::new(opcode::NEIGHBOUR, [message.len() as u8, 0]).reading();
        self.run(command, &mut message).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_laid_out_as_both_drivers_have_them() {
        let message = message(enable(1), 0x1234_5678);
        // The address in two halves, the second 32 bits wide.
        assert_eq!(message[..6], [2, 0, 1, 0x40, 0x0f, 0]);
        assert_eq!(message[6..12], [0x4c, 0x03, 0x00, 0x03, 0, 0]);
        assert_eq!(message[12..], [0x78, 0x56, 0x34, 0x12]);
    }
}
