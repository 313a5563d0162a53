//! Recipes: what the switch compares of which packets. A recipe has four words; a lookup of more has several, each of which leaves its result in an empty
//! place of the field vector, and one more that compares the results.
//!
//! Only drivers say how this is done: `ice_add_sw_recipe` and `ice_add_adv_recipe` in DPDK's `drivers/net/intel/ice/base/ice_switch.c`. The layout is that of
//! `struct ice_aqc_recipe_data_elem` in `ice_adminq_cmd.h`.

use std::collections::BTreeSet;

use super::admin::{Admin, AdminError, Command, code, half, opcode};
use super::fields::Places;
use super::lookup::Lookup;
use super::package::{CHANGES, with_lock};
use crate::device::Registers;

/// Words of one recipe.
const WORDS: usize = 4;
/// Bytes of a recipe in a command.
const SIZE: usize = 64;
/// Recipes of the device.
const RECIPES: u16 = 64;
/// How a rule of ours counts against others: above those by destination address, which have no priority (Linux's `ICE_SWITCH_FLTR_PRIO_VSI`).
const PRIORITY: u8 = 5;
/// The resource.
const RESOURCE: u16 = 5;
/// It can be freed by whoever knows its number.
const SHARED: u16 = 1 << 7;

/// A place for a result is given (`ICE_AQ_RECIPE_RESULT_EN`).
const RESULT: u8 = 1 << 7;

/// What tells recipes apart.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Shape {
    places: Places,
    masks: Vec<u16>,
}

/// A recipe, with those that it chains.
#[derive(Clone, Debug)]
struct Made {
    shape: Shape,
    root: u16,
    all: Vec<u16>,
    /// Places that hold results.
    results: Vec<u8>,
    rules: u32,
}

/// The recipes that this driver has made.
#[derive(Debug, Default)]
pub(super) struct Recipes(Vec<Made>);

/// One recipe as a command has it.
struct Packed {
    index: u16,
    /// Places and masks.
    words: Vec<(u8, u16)>,
    result: Option<u8>,
    root: bool,
    /// Those that it depends on, itself included.
    chain: Vec<u16>,
}

impl Packed {
    fn bytes(&self) -> [u8; SIZE] {
        let mut new = [0; SIZE];
        // At most 63.
        let index = self.index as u8;
        new[0] = index;
        for &recipe in &self.chain {
            new[4 + usize::from(recipe / 8) % 8] |= 1 << (recipe % 8);
        }
        if self.root {
            new[16] = index | 1 << 7;
        }
        // Place 0 is the switch's number; places that do not count have bit 7.
        new[17..22].copy_from_slice(&[0, 0x80, 0x80, 0x80, 0x80]);
        new[22] = 0xff;
        for (at, &(place, mask)) in self.words.iter().enumerate().take(WORDS) {
            new[18 + at] = place;
            new[24 + 2 * at..26 + 2 * at].copy_from_slice(&mask.to_le_bytes());
        }
        if let Some(result) = self.result {
            new[32] = result | RESULT;
        }
        new[37] = PRIORITY;
        new
    }

    /// Where a recipe of a command leaves its result.
    fn result_of(bytes: &[u8]) -> Option<u8> {
        (bytes[32] & RESULT != 0).then_some(bytes[32] & !RESULT)
    }
}

impl Recipes {
    /// The recipe for a lookup; made if there is none. It counts one rule more.
    pub(super) fn take<R: Registers>(
        &mut self,
        admin: &mut Admin<R>,
        lookup: &Lookup,
        places: &Places,
    ) -> Result<u16, AdminError> {
        let shape = Shape {
            places: places.clone(),
            masks: lookup.words.iter().map(|word| word.mask).collect(),
        };
        if let Some(made) = self.0.iter_mut().find(|made| made.shape == shape) {
            made.rules += 1;
            return Ok(made.root);
        }
        let made = self.make(admin, shape)?;
        let root = made.root;
        self.0.push(made);
        Ok(root)
    }

    /// One rule of the recipe is gone; the recipe goes with the last.
    pub(super) fn leave<R: Registers>(
        &mut self,
        admin: &mut Admin<R>,
        root: u16,
    ) -> Result<(), AdminError> {
        let Some(at) = self.0.iter().position(|made| made.root == root) else {
            return Ok(());
        };
        let made = &mut self.0[at];
        made.rules = made.rules.saturating_sub(1);
        if made.rules > 0 {
            return Ok(());
        }
        let made = self.0.swap_remove(at);
        let unmapped = map(admin, &made.shape.places.profiles, &made.all, false);
        for &recipe in &made.all {
            free(admin, recipe)?;
        }
        unmapped
    }

    fn make<R: Registers>(&self, admin: &mut Admin<R>, shape: Shape) -> Result<Made, AdminError> {
        let mut made = Made {
            root: 0,
            all: Vec::new(),
            results: Vec::new(),
            rules: 1,
            shape,
        };
        let done = self.make_all(admin, &mut made);
        if let Err(error) = done {
            for &recipe in &made.all {
                // What cannot be given back is lost until the card is reset.
                let _ = free(admin, recipe);
            }
            return Err(error);
        }
        Ok(made)
    }

    fn make_all<R: Registers>(
        &self,
        admin: &mut Admin<R>,
        made: &mut Made,
    ) -> Result<(), AdminError> {
        let words: Vec<(u8, u16)> = made
            .shape
            .places
            .words
            .iter()
            .copied()
            .zip(made.shape.masks.iter().copied())
            .collect();
        let groups: Vec<_> = words.chunks(WORDS).collect();
        let mut packed = Vec::new();
        if let [only] = groups[..] {
            let index = allocate(admin, &mut made.all)?;
            packed.push(Packed {
                index,
                words: only.to_vec(),
                result: None,
                root: true,
                chain: vec![index],
            });
        } else {
            let others = self.results_of_others(admin, &made.shape.places.profiles)?;
            let free = self.free_results(&made.shape.places).into_iter();
            let mut free = free.filter(|place| !others.contains(place));
            for group in groups {
                let result = free.next().ok_or_else(|| {
                    AdminError::garbled(
                        opcode::ADD_RECIPE,
                        "the package leaves no place for the results of so long a rule; use fewer terms",
                    )
                })?;
                let index = allocate(admin, &mut made.all)?;
                made.results.push(result);
                packed.push(Packed {
                    index,
                    words: group.to_vec(),
                    result: Some(result),
                    root: false,
                    chain: vec![index],
                });
            }
            let index = allocate(admin, &mut made.all)?;
            packed.push(Packed {
                index,
                words: made
                    .results
                    .iter()
                    .map(|&result| (result, 0xffff))
                    .collect(),
                result: None,
                root: true,
                chain: made.all.clone(),
            });
        }
        made.root = packed.last().map_or(0, |root| root.index);
        let mut buffer: Vec<u8> = packed.iter().flat_map(Packed::bytes).collect();
        // Five at the most.
        let command = Command::new(opcode::ADD_RECIPE, [packed.len() as u8, 0]).reading();
        with_lock(admin, CHANGES, |admin| {
            admin.run(command, &mut buffer).map(drop)
        })?;
        map(admin, &made.shape.places.profiles, &made.all, true).inspect_err(|_| {
            // As it was, as far as it goes.
            let _ = map(admin, &made.shape.places.profiles, &made.all, false);
        })
    }

    /// Places in which recipes that are not ours leave results of the same packets. Profiles are the card's: drivers of its other ports have
    /// theirs there, and so may whoever had this function before.
    fn results_of_others<R: Registers>(
        &self,
        admin: &mut Admin<R>,
        profiles: &[u16],
    ) -> Result<BTreeSet<u8>, AdminError> {
        let mut recipes = 0;
        for &profile in profiles {
            recipes |= recipes_of(admin, profile)?;
        }
        for &own in self.0.iter().flat_map(|made| &made.all) {
            recipes &= !(1 << own);
        }
        let mut results = BTreeSet::new();
        let mut buffer = vec![0; usize::from(RECIPES) * SIZE];
        for recipe in (0..RECIPES).filter(|recipe| recipes >> recipe & 1 == 1) {
            let [low, high] = recipe.to_le_bytes();
            let command = Command::new(opcode::GET_RECIPE, [0, 0, low, high]);
            let count = match admin.run(command, &mut buffer) {
                Ok(answer) => usize::from(answer.half(0)),
                // It went meanwhile, or is one of the firmware's own, which leave no results.
                Err(error) if error.is(code::ENOENT) => 0,
                Err(error) => return Err(error),
            };
            let elements = buffer.chunks_exact(SIZE).take(count);
            results.extend(elements.filter_map(Packed::result_of));
        }
        Ok(results)
    }

    /// Places for results that no recipe of ours uses for the same packets.
    fn free_results(&self, places: &Places) -> Vec<u8> {
        let used: BTreeSet<u8> = self
            .0
            .iter()
            .filter(|made| {
                let mut profiles = made.shape.places.profiles.iter();
                profiles.any(|profile| places.profiles.contains(profile))
            })
            .flat_map(|made| made.results.iter().copied())
            .collect();
        let free = places.free.iter().copied();
        free.filter(|place| !used.contains(place)).collect()
    }
}

/// Gets a recipe's number.
fn allocate<R: Registers>(admin: &mut Admin<R>, all: &mut Vec<u16>) -> Result<u16, AdminError> {
    let mut buffer = resource(RESOURCE | SHARED, 0);
    let command = Command::new(opcode::ALLOCATE, [1, 0]).reading();
    admin.run(command, &mut buffer)?;
    let recipe = half(&buffer, 4);
    if recipe >= RECIPES || all.contains(&recipe) {
        return Err(AdminError::garbled(
            opcode::ALLOCATE,
            format!("there is no other recipe {recipe}"),
        ));
    }
    all.push(recipe);
    Ok(recipe)
}

fn free<R: Registers>(admin: &mut Admin<R>, recipe: u16) -> Result<(), AdminError> {
    let mut buffer = resource(RESOURCE | SHARED, recipe);
    let command = Command::new(opcode::FREE, [1, 0]).reading();
    admin.run(command, &mut buffer).map(drop)
}

/// One entry of one kind (`struct ice_aqc_alloc_free_res_elem`).
pub(super) fn resource(kind: u16, which: u16) -> [u8; 6] {
    let ([a, b], [e, f]) = (kind.to_le_bytes(), which.to_le_bytes());
    [a, b, 1, 0, e, f]
}

/// The recipes for which a profile's packets are compared, a bit each.
fn recipes_of<R: Registers>(admin: &mut Admin<R>, profile: u16) -> Result<u64, AdminError> {
    let [low, high] = profile.to_le_bytes();
    let answer = admin.plain(Command::new(opcode::GET_PROFILE_RECIPES, [low, high]))?;
    let mut bits = [0; 8];
    bits.copy_from_slice(&answer.params[8..16]);
    Ok(u64::from_le_bytes(bits))
}

/// From now on the profiles' packets are compared by the recipes, or no more.
fn map<R: Registers>(
    admin: &mut Admin<R>,
    profiles: &[u16],
    recipes: &[u16],
    on: bool,
) -> Result<(), AdminError> {
    for &profile in profiles {
        let before = recipes_of(admin, profile)?;
        let bits = recipes.iter().fold(0, |bits, recipe| bits | 1 << recipe);
        let after = if on { before | bits } else { before & !bits };
        let mut params = [0; 16];
        params[..2].copy_from_slice(&profile.to_le_bytes());
        params[8..].copy_from_slice(&after.to_le_bytes());
        let command = Command::new(opcode::SET_PROFILE_RECIPES, params);
        with_lock(admin, CHANGES, |admin| admin.plain(command).map(drop))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_the_same_packets_have_places_of_their_own() {
        let places = |profiles: &[u16]| Places {
            words: vec![1, 2],
            profiles: profiles.to_vec(),
            free: vec![40, 41, 42],
        };
        let recipes = Recipes(vec![Made {
            shape: Shape {
                places: places(&[5, 6]),
                masks: Vec::new(),
            },
            root: 12,
            all: vec![10, 11, 12],
            results: vec![40, 41],
            rules: 1,
        }]);
        assert_eq!(recipes.free_results(&places(&[6, 7])), [42]);
        assert_eq!(recipes.free_results(&places(&[7])), [40, 41, 42]);
    }

    #[test]
    fn recipes_are_laid_out_as_both_drivers_have_them() {
        let packed = Packed {
            index: 10,
            words: vec![(25, 0xffff), (28, 0xff00)],
            result: None,
            root: true,
            chain: vec![10],
        };
        let bytes = packed.bytes();
        assert_eq!(bytes[..12], [10, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[16], 10 | 0x80);
        assert_eq!(bytes[17..22], [0, 25, 28, 0x80, 0x80]);
        assert_eq!(bytes[22..32], [0xff, 0, 0xff, 0xff, 0, 0xff, 0, 0, 0, 0]);
        assert_eq!((bytes[32], bytes[36], bytes[37], bytes[38]), (0, 0, 5, 0));
        let part = Packed {
            result: Some(45),
            root: false,
            ..packed
        };
        assert_eq!((part.bytes()[16], part.bytes()[32]), (0, 45 | 0x80));
        assert_eq!(resource(0x85, 0), [0x85, 0, 1, 0, 0, 0]);
    }
}
