//! The recipes that the firmware has from the start, matched by what they mean: DPDK `ice_switch.h` (`enum ice_sw_lkup_type`), `ice_fill_sw_rule`.

use super::recipe;
use super::{Direction, Rule};
use crate::bytes;
use crate::frame::Frame;

/// The VLAN a rule of recipes 2, 4 or 9 looks up.
pub(super) fn vlan_of(rule: &Rule) -> u16 {
    bytes::be16_at(&rule.header, 14) & 0xfff
}

pub(super) fn address_of(rule: &Rule) -> [u8; 6] {
    bytes::get(&rule.header, 0)
}

/// Whether a frame from the port is the rule's.
pub(super) fn matches(rule: &Rule, frame: &Frame<'_>) -> bool {
    let receive = rule.direction == Direction::Receive;
    let same_address = || address_of(rule) == frame.destination();
    // Rules for all of a kind look at the multicast bit only.
    let same_kind = || address_of(rule)[0] & 1 == frame.destination()[0] & 1;
    let ether_type = || bytes::be16_at(&rule.header, 12) == frame.ether_type;
    match rule.recipe {
        recipe::ETHER_TYPE => receive && ether_type(),
        // Added as transmit rules, and valid for both directions: neither looks at the direction.
        recipe::MAC => same_address(),
        recipe::MAC_VLAN => same_address() && vlan_of(rule) == frame.vlan(),
        recipe::PROMISCUOUS => receive && same_kind(),
        recipe::DEFAULT => receive,
        recipe::ETHER_TYPE_MAC => receive && ether_type() && same_address(),
        recipe::PROMISCUOUS_VLAN => receive && same_kind() && vlan_of(rule) == frame.vlan(),
        _ => false,
    }
}
