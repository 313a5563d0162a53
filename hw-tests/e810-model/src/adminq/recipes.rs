//! Recipes that drivers add, and which profiles they go with: commands 0x0290 to 0x0293.
//!
//! Layouts: DPDK `ice_adminq_cmd.h` (`struct ice_aqc_recipe_data_elem`, `ice_aqc_recipe_to_profile`); their use: `ice_add_sw_recipe` in `ice_switch.c`.

use super::resources::RECIPE;
use super::{Code, Command, Done, answer, refuse};
use crate::bytes;
use crate::state::State;
use crate::switch::recipe::{ELEMENT, MAC, Recipe, is_fixed};

const ROOT: u8 = 1 << 7;

/// 0x0290: recipes that belong together.
pub(super) fn add(state: &mut State, command: &mut Command) -> Done {
    let count = usize::from(command.p16(0));
    if count == 0 {
        return refuse(Code::Invalid, "it has no recipes");
    }
    command.needs_input(count * ELEMENT)?;
    if state.card.strict && !state.locks.holds_change() {
        return refuse(
            Code::Access,
            "the change lock (0x0008, resource 3) is not held",
        );
    }
    let mut new = Vec::new();
    for i in 0..count {
        let raw: [u8; ELEMENT] = bytes::get(&command.buffer, i * ELEMENT);
        let number = u16::from(raw[0]);
        if is_fixed(number) || !state.resources.is_taken(RECIPE, number) {
            return refuse(
                Code::Invalid,
                format!("recipe {number} was not allocated (0x0208, type 5)"),
            );
        }
        new.push((number, Recipe::new(raw)));
    }
    for (number, recipe) in new {
        state.switch.recipes.insert(number, recipe);
    }
    command.answered = 0;
    Ok(())
}

/// 0x0292: a recipe and those it is made of.
pub(super) fn get(state: &mut State, command: &mut Command) -> Done {
    let number = command.p16(2);
    let mut all = state.switch.recipes.family(number);
    if all.is_empty() && number == MAC {
        all.push(mac());
    }
    if all.is_empty() {
        command.set16(0, 0);
        command.answered = 0;
        return answer(Code::NoEntry);
    }
    command.set16(0, all.len() as u16);
    command.reply(&all.concat());
    Ok(())
}

/// The MAC recipe as the firmware gives it: drivers make theirs of it. It looks at the three words of the destination in the package's profiles.
fn mac() -> [u8; ELEMENT] {
    let mut raw = [0; ELEMENT];
    raw[0] = MAC as u8;
    raw[4] = 1 << MAC;
    raw[16] = MAC as u8 | ROOT;
    // The switch's number, then words 5 to 7; one is not used.
    raw[17..22].copy_from_slice(&[0, 5, 6, 7, 0x80]);
    for (i, mask) in [0x00ff_u16, 0xffff, 0xffff, 0xffff, 0].iter().enumerate() {
        bytes::put16(&mut raw, 22 + i * 2, *mask);
    }
    raw[36] = 3;
    raw[37] = 3;
    raw
}

/// 0x0291: the recipes of a profile.
pub(super) fn set_profile(state: &mut State, command: &mut Command) -> Done {
    if state.card.strict && !state.locks.holds_change() {
        return refuse(
            Code::Access,
            "the change lock (0x0008, resource 3) is not held",
        );
    }
    let profile = command.p16(0);
    if profile > 255 {
        return refuse(Code::Invalid, format!("there is no profile {profile}"));
    }
    let recipes = bytes::u64_at(&command.params, 8);
    for number in (0..64).filter(|bit| recipes >> bit & 1 != 0) {
        if !state.switch.knows(number) && !state.resources.is_taken(RECIPE, number) {
            return refuse(Code::Invalid, format!("recipe {number} is not there"));
        }
    }
    // What the firmware says to this nobody has written down; the switch would compare one's result with the other's rules.
    if let Some((one, other)) = state.switch.recipes.share_a_place(recipes)
        && state.card.strict
    {
        return refuse(
            Code::Invalid,
            format!(
                "recipes {one} and {other} leave their results at the same place of profile {profile}"
            ),
        );
    }
    state.switch.recipes.associate(profile as u8, recipes);
    Ok(())
}

/// 0x0293
pub(super) fn get_profile(state: &mut State, command: &mut Command) -> Done {
    let profile = command.p16(0);
    if profile > 255 {
        return refuse(Code::Invalid, format!("there is no profile {profile}"));
    }
    let recipes = state.switch.recipes.of_profile(profile as u8);
    bytes::put64(&mut command.params, 8, recipes);
    Ok(())
}
