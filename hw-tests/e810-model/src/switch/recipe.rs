//! Recipes: which fields of a packet a rule compares.

use super::Rule;

pub(crate) const ETHER_TYPE: u16 = 0;
pub(crate) const MAC: u16 = 1;
pub(crate) const MAC_VLAN: u16 = 2;
pub(crate) const PROMISCUOUS: u16 = 3;
pub(crate) const VLAN: u16 = 4;
pub(crate) const DEFAULT: u16 = 5;
pub(crate) const ETHER_TYPE_MAC: u16 = 8;
pub(crate) const PROMISCUOUS_VLAN: u16 = 9;

/// Whether the firmware has it from the start.
pub(crate) fn is_fixed(number: u16) -> bool {
    matches!(
        number,
        ETHER_TYPE
            | MAC
            | MAC_VLAN
            | PROMISCUOUS
            | VLAN
            | DEFAULT
            | ETHER_TYPE_MAC
            | PROMISCUOUS_VLAN
    )
}

/// What the package's profiles extract from a packet.
#[derive(Debug, Default)]
pub(crate) struct Extracted;

/// Recipes that drivers added.
#[derive(Debug, Default)]
pub(crate) struct Recipes;

impl Recipes {
    pub(crate) fn contains(&self, _number: u16) -> bool {
        false
    }

    pub(crate) fn matches(&self, _rule: &Rule, _words: &Extracted) -> bool {
        false
    }
}
