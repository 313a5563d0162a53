//! Recipes: which fields of a packet a rule compares.

use std::collections::BTreeMap;

use crate::bytes;

pub(crate) const ETHER_TYPE: u16 = 0;
pub(crate) const MAC: u16 = 1;
pub(crate) const MAC_VLAN: u16 = 2;
pub(crate) const PROMISCUOUS: u16 = 3;
pub(crate) const VLAN: u16 = 4;
pub(crate) const DEFAULT: u16 = 5;
pub(crate) const ETHER_TYPE_MAC: u16 = 8;
pub(crate) const PROMISCUOUS_VLAN: u16 = 9;
const FIXED: [u16; 8] = [
    ETHER_TYPE,
    MAC,
    MAC_VLAN,
    PROMISCUOUS,
    VLAN,
    DEFAULT,
    ETHER_TYPE_MAC,
    PROMISCUOUS_VLAN,
];

/// Bytes of a recipe in a command.
pub(crate) const ELEMENT: usize = 64;

/// Whether the firmware has it from the start.
pub(crate) fn is_fixed(number: u16) -> bool {
    FIXED.contains(&number)
}

/// What the package's profiles extract from a packet.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Extracted {
    pub(crate) profile: u8,
    pub(crate) words: Vec<u16>,
}

/// A recipe that a driver added.
#[derive(Clone, Debug)]
pub(crate) struct Recipe {
    raw: [u8; ELEMENT],
    /// Words of the field vector and which of their bits count. The switch's number, always the first, is not among them.
    words: Vec<(u8, u16)>,
    /// Where its result goes, if it is part of another.
    result: Option<u8>,
    /// Those it is made of, its own number included.
    family: u64,
    priority: u8,
}

impl Recipe {
    pub(crate) fn new(raw: [u8; ELEMENT]) -> Self {
        let words = (0..5)
            .map(|i| (raw[17 + i], bytes::u16_at(&raw, 22 + i * 2)))
            .filter(|(index, mask)| *index != 0 && index & 0x80 == 0 && *mask != 0)
            .collect();
        Self {
            words,
            result: (raw[32] & 0x80 != 0).then_some(raw[32] & 0x3f),
            family: bytes::u64_at(&raw, 4),
            priority: raw[37],
            raw,
        }
    }
}

/// Recipes that drivers added, and which of all go with which profile.
#[derive(Debug, Default)]
pub(crate) struct Recipes {
    all: BTreeMap<u16, Recipe>,
    profiles: BTreeMap<u8, u64>,
}

impl Recipes {
    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(crate) fn contains(&self, number: u16) -> bool {
        self.all.contains_key(&number)
    }

    pub(crate) fn insert(&mut self, number: u16, recipe: Recipe) {
        self.all.insert(number, recipe);
    }

    pub(crate) fn remove(&mut self, number: u16) {
        self.all.remove(&number);
        for recipes in self.profiles.values_mut() {
            *recipes &= !(1 << (number & 63));
        }
    }

    fn members(&self, number: u16) -> impl Iterator<Item = &Recipe> {
        let family = self.all.get(&number).map_or(0, |recipe| recipe.family);
        self.all
            .iter()
            .filter(move |(other, _)| **other == number || family >> (**other & 63) & 1 != 0)
            .map(|(_, recipe)| recipe)
    }

    /// A recipe as it was added, after those it is made of.
    pub(crate) fn family(&self, number: u16) -> Vec<[u8; ELEMENT]> {
        if !self.contains(number) {
            return Vec::new();
        }
        self.members(number).map(|recipe| recipe.raw).collect()
    }

    /// The recipes of a profile; a new one has those the firmware has.
    pub(crate) fn of_profile(&self, profile: u8) -> u64 {
        let fixed = FIXED.iter().fold(0, |bits, number| bits | 1 << number);
        self.profiles.get(&profile).copied().unwrap_or(fixed)
    }

    /// Two of the recipes that would leave their results at the same place of a packet's field vector.
    pub(crate) fn share_a_place(&self, recipes: u64) -> Option<(u16, u16)> {
        let mut places = BTreeMap::new();
        let asked = self.all.iter();
        asked
            .filter(|(number, _)| recipes >> (**number & 63) & 1 != 0)
            .find_map(|(number, recipe)| {
                let other = places.insert(recipe.result?, *number)?;
                Some((other, *number))
            })
    }

    pub(crate) fn associate(&mut self, profile: u8, recipes: u64) {
        self.profiles.insert(profile, recipes);
    }

    pub(crate) fn priority(&self, number: u16) -> u8 {
        self.all.get(&number).map_or(0, |recipe| recipe.priority)
    }

    /// The words that a recipe compares, its parts' included; what the parts result in is not a word of the packet.
    fn words(&self, number: u16) -> Vec<(u8, u16)> {
        let results: Vec<u8> = self
            .members(number)
            .filter_map(|recipe| recipe.result)
            .collect();
        self.members(number)
            .flat_map(|recipe| recipe.words.iter().copied())
            .filter(|(index, _)| !results.contains(index))
            .collect()
    }

    /// Whether a packet has in the recipe's words what a rule's header has. Its profile must have the recipe; that the header's was the same is not asked, as
    /// the words alone are the key.
    pub(crate) fn matches(&self, number: u16, rule: &Extracted, packet: &Extracted) -> bool {
        let words = self.words(number);
        !words.is_empty()
            && self.of_profile(packet.profile) >> (number & 63) & 1 != 0
            && words.iter().all(|(index, mask)| {
                let at = usize::from(*index);
                match (rule.words.get(at), packet.words.get(at)) {
                    (Some(rule), Some(packet)) => rule & mask == packet & mask,
                    _ => false,
                }
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn element(number: u8, root: bool, words: &[(u8, u16)], result: u8, family: u64) -> Recipe {
        let mut raw = [0; ELEMENT];
        raw[0] = number;
        raw[4..12].copy_from_slice(&family.to_le_bytes());
        raw[16] = if root { number | 0x80 } else { 0 };
        raw[17..22].copy_from_slice(&[0, 0x80, 0x80, 0x80, 0x80]);
        for (i, (index, mask)) in words.iter().enumerate() {
            raw[18 + i] = *index;
            bytes::put16(&mut raw, 24 + i * 2, *mask);
        }
        raw[32] = result;
        Recipe::new(raw)
    }

    #[test]
    fn chained_recipes_compare_the_words_of_all() {
        let mut recipes = Recipes::default();
        recipes.insert(20, element(20, false, &[(1, 0xffff)], 0x80 | 40, 1 << 20));
        recipes.insert(21, element(21, false, &[(2, 0xff00)], 0x80 | 41, 1 << 21));
        recipes.insert(
            22,
            element(22, true, &[(40, 0xffff), (41, 0xffff)], 0, 7 << 20),
        );
        let mut rule = Extracted {
            profile: 5,
            words: vec![0, 0x1234, 0x5600],
        };
        let packet = Extracted {
            profile: 5,
            words: vec![9, 0x1234, 0x56ff],
        };
        assert!(
            !recipes.matches(22, &rule, &packet),
            "the profile has it not"
        );
        recipes.associate(5, 1 << 22);
        assert!(recipes.matches(22, &rule, &packet));
        rule.words[1] = 0x1235;
        assert!(!recipes.matches(22, &rule, &packet));
        assert_eq!(recipes.family(22).len(), 3);
        recipes.remove(22);
        assert_eq!(recipes.of_profile(5), 0);
    }
}
