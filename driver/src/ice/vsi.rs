//! VSIs: the switch's targets. Each attachment has one, with its queues: what the switch brings to the VSI is the attachment's, and what it discards is
//! counted for it.
//!
//! Layout: `struct ice_aqc_vsi_props` in DPDK's `drivers/net/intel/ice/base/ice_adminq_cmd.h`.

use std::ops::RangeInclusive;

use super::admin::{Port, put};

/// Queues that a VSI's own hash table can name: its entries have four bits (`VSIQF_HLUT_LUT0_M`).
pub(super) const HASHED_QUEUES: u32 = 16;

/// Which sections count.
mod section {
    pub const SWITCH: u16 = 1 << 0;
    pub const SECURITY: u16 = 1 << 1;
    pub const VLAN: u16 = 1 << 2;
    pub const INGRESS: u16 = 1 << 4;
    pub const EGRESS: u16 = 1 << 5;
    pub const QUEUES: u16 = 1 << 6;
    pub const QUEUE_OPTIONS: u16 = 1 << 7;
}

/// Priorities as they are: entry `i` of three bits is `i`.
const PRIORITIES: u32 = 0o76_543_210;

/// The properties of a VSI with `queues`, numbered from 0 within the function, as in the registers of its BAR.
pub(super) fn properties(port: Port, queues: &RangeInclusive<u32>, strip_vlan: bool) -> [u8; 128] {
    let mut new = [0; 128];
    let sections = section::SWITCH
        | section::SECURITY
        | section::VLAN
        | section::INGRESS
        | section::EGRESS
        | section::QUEUES
        | section::QUEUE_OPTIONS;
    put(&mut new, 0, &sections.to_le_bytes());
    // The number has eight bits here.
    new[2] = port.switch as u8;
    // It sees the LAN.
    new[4] = 1 << 4;
    // Tagged and untagged frames may be sent; bits 4 and 3: a tag stays in a received frame (3), or goes to the descriptor (0).
    new[12] = 3 | if strip_vlan { 0 } else { 3 << 3 };
    put(&mut new, 16, &PRIORITIES.to_le_bytes());
    put(&mut new, 20, &PRIORITIES.to_le_bytes());
    let count = queues.end() - queues.start() + 1;
    // Contiguous queues: the first, and how many as a power of two for the one traffic class there is.
    put(&mut new, 30, &(*queues.start() as u16).to_le_bytes());
    let power = count.next_power_of_two().trailing_zeros() as u16;
    put(&mut new, 62, &(power << 11).to_le_bytes());
    // Byte 78: a hash table of its own, hashed by Toeplitz: all 0.
    new
}

/// The hash table for so many queues: each in turn.
pub(super) fn table(queues: u32) -> [u8; 64] {
    let queues = queues.clamp(1, HASHED_QUEUES);
    // Below 16.
    std::array::from_fn(|at| (at as u32 % queues) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_lie_where_both_drivers_have_them() {
        let port = Port {
            number: 0,
            switch: 1,
        };
        let new = properties(port, &(5..=7), false);
        assert_eq!(new[..6], [0xf7, 0, 1, 0, 0x10, 0]);
        assert_eq!(new[12], 0x1b, "tags stay");
        assert_eq!(new[16..20], 0x00fa_c688_u32.to_le_bytes());
        assert_eq!(new[28..32], [0, 0, 5, 0]);
        assert_eq!(
            new[62..64],
            (2_u16 << 11).to_le_bytes(),
            "four, of which three"
        );
        assert_eq!(properties(port, &(5..=5), true)[12], 0x03);
        assert_eq!(properties(port, &(5..=5), true)[62..64], [0, 0]);
    }

    #[test]
    fn tables_name_each_queue() {
        let three = table(3);
        assert_eq!(three[..4], [0, 1, 2, 0]);
        assert!(three.iter().all(|&queue| queue < 3));
        assert!(table(1).iter().all(|&queue| queue == 0));
    }
}
