//! The admin queue: how the firmware is asked, and what it says by itself.
//!
//! One command at a time, each with its answer awaited: this is control, nothing here is done for a packet. What the firmware answers is checked: that it is
//! the answer to this command, that it came in time, and that the command was carried out.
//!
//! Formats: DPDK's `drivers/net/intel/ice/base/ice_adminq_cmd.h`, the handling `ice_controlq.c`.

mod calls;
mod command;
mod events;
mod health;
pub(super) mod phy;
mod send;
mod transmit;

pub(super) use calls::{Capabilities, LONGEST, Port, RuleId, VsiId, full, half, put};
pub(super) use command::{AdminError, Command, Why, code, opcode};
pub(super) use events::{Event, Events, LinkInfo};
pub(super) use health::Health;
pub(super) use send::Admin;
pub(super) use transmit::{CONTEXT, Node, kind};

/// Bytes of a descriptor.
const SIZE: usize = 32;
/// Bytes of a command's buffer at most.
pub(super) const BUFFER: usize = 4096;

/// Flags of a descriptor.
mod flag {
    /// The firmware is done.
    pub const DONE: u16 = 1 << 0;
    /// It has answered.
    pub const COMPLETE: u16 = 1 << 1;
    /// It refused.
    pub const ERROR: u16 = 1 << 2;
    /// The buffer is longer than 512 bytes.
    pub const LARGE: u16 = 1 << 9;
    /// The firmware reads the buffer.
    pub const READ: u16 = 1 << 10;
    /// There is a buffer.
    pub const BUFFER: u16 = 1 << 12;
    /// Software does not want an interrupt.
    pub const SILENT: u16 = 1 << 13;
}

/// A descriptor as four words.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Descriptor([u64; 4]);

impl Descriptor {
    const fn new(flags: u16, opcode: u16, len: u16, params: [u8; 16]) -> Self {
        let head = flags as u64 | (opcode as u64) << 16 | (len as u64) << 32;
        let (low, high) = params.split_at(8);
        Self([head, 0, word(low), word(high)])
    }

    const fn flags(self) -> u16 {
        self.0[0] as u16
    }

    const fn opcode(self) -> u16 {
        (self.0[0] >> 16) as u16
    }

    const fn len(self) -> u16 {
        (self.0[0] >> 32) as u16
    }

    const fn code(self) -> u16 {
        (self.0[0] >> 48) as u16
    }

    fn params(self) -> [u8; 16] {
        let mut params = [0; 16];
        params[..8].copy_from_slice(&self.0[2].to_le_bytes());
        params[8..].copy_from_slice(&self.0[3].to_le_bytes());
        params
    }
}

/// Eight bytes, little endian.
const fn word(bytes: &[u8]) -> u64 {
    match bytes.first_chunk() {
        Some(eight) => u64::from_le_bytes(*eight),
        None => 0,
    }
}

/// The last eight bytes of the parameters of a command with a buffer: where the buffer is, high half first.
fn address(iova: u64) -> [u8; 8] {
    iova.rotate_left(32).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_laid_out_as_both_drivers_have_them() {
        let mut params = [0; 16];
        params[0] = 7;
        params[8..].copy_from_slice(&address(0x1_2345_6000));
        let descriptor = Descriptor::new(flag::SILENT | flag::BUFFER, 0x0210, 128, params);
        let bytes: Vec<u8> = descriptor.0.iter().flat_map(|w| w.to_le_bytes()).collect();
        assert_eq!(
            bytes[..16],
            [0, 0x30, 0x10, 2, 128, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        );
        assert_eq!(bytes[16], 7);
        // addr_high at 24, addr_low at 28.
        assert_eq!(bytes[24..], [1, 0, 0, 0, 0, 0x60, 0x45, 0x23]);
        assert_eq!(descriptor.params(), params);
        assert_eq!((descriptor.opcode(), descriptor.len()), (0x0210, 128));
    }
}
