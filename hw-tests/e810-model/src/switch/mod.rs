//! The switch: rules, lists of VSIs, and which VSIs a frame goes to.

mod fixed;
pub(crate) mod recipe;

use std::collections::{BTreeMap, BTreeSet};

use crate::frame::Frame;

/// Which way a rule's frames go.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Direction {
    /// From the port.
    Receive,
    /// From a VSI.
    Transmit,
}

/// What a rule does with its frames (`ICE_SINGLE_ACT_*` of DPDK `ice_adminq_cmd.h`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Action {
    ToVsi {
        vsi: u16,
        lan: bool,
        loopback: bool,
    },
    ToList {
        list: u16,
        lan: bool,
        loopback: bool,
    },
    Drop,
    /// A queue of the function, or 2^`region` queues that the hash chooses from.
    ToQueue {
        queue: u16,
        region: u8,
    },
    /// Frames with this VLAN are let through to a VSI, or to those of a list.
    PruneVsi {
        vsi: u16,
    },
    PruneList {
        list: u16,
    },
    /// Several actions.
    Large {
        index: u16,
    },
    /// Mirroring, counters.
    Other,
    /// Forwarding without its valid bit.
    Invalid,
}

impl Action {
    pub(crate) fn from_bits(bits: u32) -> Self {
        let target = (bits >> 4 & 0x3ff) as u16;
        let is_list = bits & 1 << 14 != 0;
        let loopback = bits & 1 << 2 != 0;
        let lan = bits & 1 << 3 != 0;
        match bits & 0x3 {
            0 if bits & 1 << 18 != 0 => Self::Drop,
            0 if bits & 1 << 17 == 0 => Self::Invalid,
            0 if is_list => Self::ToList {
                list: target,
                lan,
                loopback,
            },
            0 => Self::ToVsi {
                vsi: target,
                lan,
                loopback,
            },
            1 => Self::ToQueue {
                queue: (bits >> 4 & 0x7ff) as u16,
                region: (bits >> 15 & 0x7) as u8,
            },
            2 if bits & 1 << 18 != 0 => Self::Large {
                index: (bits >> 4 & 0x1fff) as u16,
            },
            2 if is_list => Self::PruneList { list: target },
            2 => Self::PruneVsi { vsi: target },
            _ => Self::Other,
        }
    }
}

/// A lookup rule.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) direction: Direction,
    pub(crate) recipe: u16,
    /// A port on receive, a VSI on transmit.
    pub(crate) source: u16,
    pub(crate) action: Action,
    pub(crate) raw_action: u32,
    /// What is looked up: a packet's beginning, of which the recipe takes its fields.
    pub(crate) header: Vec<u8>,
    /// Of the header, for recipes that drivers added.
    pub(crate) extracted: recipe::Extracted,
}

/// Where a received frame goes.
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct Targets {
    pub(crate) vsis: BTreeSet<u16>,
    /// A rule chose this queue of the function, and 2^ the number of queues.
    pub(crate) queue: Option<(u16, u8)>,
    pub(crate) dropped: bool,
}

/// Rules, lists and recipes.
#[derive(Debug, Default)]
pub(crate) struct Switch {
    pub(crate) rules: BTreeMap<u16, Rule>,
    pub(crate) lists: BTreeMap<u16, BTreeSet<u16>>,
    pub(crate) large_actions: BTreeMap<u16, Vec<u32>>,
    pub(crate) recipes: recipe::Recipes,
    next: u16,
}

impl Switch {
    /// The function's rules go, its lists, and the recipes it added, as their numbers are given back.
    pub(crate) fn clear(&mut self) {
        *self = Self {
            next: self.next,
            ..Self::default()
        };
    }

    pub(crate) fn knows(&self, number: u16) -> bool {
        recipe::is_fixed(number) || self.recipes.contains(number)
    }

    /// The number of a rule that looks up the same. Where neither direction nor source is looked at, they do not tell rules apart: VSIs that want frames of
    /// one address share a rule by a list, as both drivers do (DPDK `ice_add_rule_internal`).
    pub(crate) fn same(&self, rule: &Rule) -> Option<u16> {
        let is_same = |other: &Rule| match rule.recipe {
            recipe::MAC => fixed::address_of(other) == fixed::address_of(rule),
            recipe::VLAN => fixed::vlan_of(other) == fixed::vlan_of(rule),
            recipe::MAC_VLAN => {
                fixed::address_of(other) == fixed::address_of(rule)
                    && fixed::vlan_of(other) == fixed::vlan_of(rule)
            }
            _ => {
                other.direction == rule.direction
                    && other.source == rule.source
                    && other.header == rule.header
            }
        };
        self.rules
            .iter()
            .find(|(_, other)| other.recipe == rule.recipe && is_same(other))
            .map(|(index, _)| *index)
    }

    /// Takes a rule and numbers it.
    pub(crate) fn insert(&mut self, rule: Rule) -> u16 {
        loop {
            self.next = self.next.wrapping_add(1);
            if self.next != 0 && !self.rules.contains_key(&self.next) {
                break;
            }
        }
        self.rules.insert(self.next, rule);
        self.next
    }

    /// A VSI is gone: lists and rules that send to it forget it.
    pub(crate) fn forget(&mut self, vsi: u16) {
        for members in self.lists.values_mut() {
            members.remove(&vsi);
        }
        self.rules.retain(|_, rule| {
            !matches!(rule.action, Action::ToVsi { vsi: to, .. } | Action::PruneVsi { vsi: to } if to == vsi)
        });
    }

    /// The VSIs behind an action.
    fn members(&self, action: Action) -> Vec<u16> {
        match action {
            Action::ToVsi { vsi, .. } | Action::PruneVsi { vsi } => vec![vsi],
            Action::ToList { list, .. } | Action::PruneList { list } => self
                .lists
                .get(&list)
                .map(|members| members.iter().copied().collect())
                .unwrap_or_default(),
            Action::Large { index } => self
                .large_actions
                .get(&index)
                .map(|acts| {
                    acts.iter()
                        // Forwarding to a VSI: type 0, the VSI from bit 3 on, valid in bit 16, a list in bit 13.
                        .filter(|act| *act & 0x7 == 0 && *act & 1 << 16 != 0)
                        .flat_map(|act| {
                            let target = (act >> 3 & 0x3ff) as u16;
                            let to = if act & 1 << 13 != 0 {
                                Action::PruneList { list: target }
                            } else {
                                Action::PruneVsi { vsi: target }
                            };
                            self.members(to)
                        })
                        .collect()
                })
                .unwrap_or_default(),
            _ => Vec::new(),
        }
    }

    /// Looks up a frame from the port. `words` is what the package's profiles extract, for recipes that drivers added.
    pub(crate) fn lookup(&self, frame: &Frame<'_>, words: &recipe::Extracted) -> Targets {
        let mut targets = Targets::default();
        let mut hits: Vec<&Rule> = self
            .rules
            .values()
            .filter(|rule| {
                if recipe::is_fixed(rule.recipe) {
                    fixed::matches(rule, frame)
                } else {
                    self.recipes.matches(rule.recipe, &rule.extracted, words)
                }
            })
            .collect();
        let added = |rule: &&Rule| !recipe::is_fixed(rule.recipe);
        if hits.iter().any(added) {
            // Of the recipes that drivers added, the one with the highest forwarding priority decides.
            let highest = hits
                .iter()
                .filter(|rule| added(rule))
                .map(|rule| self.recipes.priority(rule.recipe))
                .max();
            hits.retain(|rule| added(rule) && Some(self.recipes.priority(rule.recipe)) == highest);
        } else if hits.iter().any(|rule| rule.recipe != recipe::DEFAULT) {
            // The default VSI takes what nothing else takes.
            hits.retain(|rule| rule.recipe != recipe::DEFAULT);
        }
        for rule in hits {
            match rule.action {
                Action::Drop => targets.dropped = true,
                Action::ToQueue { queue, region } => targets.queue = Some((queue, region)),
                _ => targets.vsis.extend(self.members(rule.action)),
            }
        }
        targets
    }

    /// Whether VLAN rules let a frame with this VLAN through to a VSI; without a tag, it is VLAN 0.
    pub(crate) fn passes_vlan(&self, vsi: u16, vlan: u16) -> bool {
        self.rules.values().any(|rule| {
            rule.recipe == recipe::VLAN
                && fixed::vlan_of(rule) == vlan
                && self.members(rule.action).contains(&vsi)
        })
    }
}
