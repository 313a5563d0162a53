//! The switch as this driver has set it up: VSIs, and the rules that bring packets to them.

use std::ops::RangeInclusive;

use super::admin::{Admin, AdminError, Port, RuleId, VsiId, code, opcode};
use super::fields::Fields;
use super::hash;
use super::package::Package;
use super::recipe::Recipes;
use super::rules;
use super::shared::{Control, Shared};
use super::steer::{Bring, Plan};
use super::vsi;
use crate::device::{Device, Registers};

/// What brings packets to a VSI, as the firmware knows it.
#[derive(Debug)]
struct Brought {
    bring: Bring,
    rule: RuleId,
}

/// One attachment's part.
#[derive(Debug)]
struct Target {
    queues: RangeInclusive<u32>,
    vsi: VsiId,
    brought: Vec<Brought>,
}

/// The switch.
#[derive(Debug)]
pub(super) struct Switch {
    port: Port,
    fields: Fields,
    hash: hash::Hash,
    recipes: Recipes,
    targets: Vec<Target>,
    strip_vlan: bool,
}

impl Switch {
    /// Nothing is set up.
    pub(super) fn new(port: Port, package: Option<&Package>, strip_vlan: bool) -> Self {
        Self {
            port,
            fields: package.map(Fields::of).unwrap_or_default(),
            hash: package.map(hash::Hash::of).unwrap_or_default(),
            recipes: Recipes::default(),
            targets: Vec::new(),
            strip_vlan,
        }
    }

    /// Whether IP, UDP and TCP can be compared.
    pub(super) fn compares(&self) -> bool {
        !self.fields.is_empty()
    }

    /// Whether an attachment of several queues has its packets hashed.
    pub(super) fn hashes(&self) -> bool {
        self.hash.works()
    }

    /// Why a lookup cannot be, whatever the firmware says.
    pub(super) fn check(&self, bring: &Bring) -> Result<(), String> {
        match bring {
            Bring::Like(lookup) if self.fields.places(lookup).is_none() => Err(
                "the NIC's package has no packets in which all of this can be compared; use fewer terms, or `dst-mac=`"
                    .to_owned(),
            ),
            _ => Ok(()),
        }
    }

    /// Does what `plan` says. What stays as it was is not touched. Where the firmware refuses, everything is as it was before, as far as that can be.
    pub(super) fn apply<D: Device>(
        &mut self,
        shared: &Shared<D>,
        control: &mut Control<D::Registers>,
        plan: &Plan,
    ) -> Result<(), AdminError> {
        let before = self.plan();
        let done = self.change(shared, control, plan);
        if done.is_err()
            && control.admin.alive()
            && let Err(error) = self.change(shared, control, &before)
        {
            tracing::error!(
                nic = shared.device.address(),
                %error,
                "rules that were there before are gone"
            );
        }
        done
    }

    /// As if another driver had made them.
    #[cfg(test)]
    pub(super) fn forget_recipes(&mut self) {
        self.recipes = Recipes::default();
    }

    #[cfg(test)]
    pub(super) fn rules_of(&self, queue: u32) -> usize {
        let targets = self.targets.iter();
        let mut own = targets.filter(|target| target.queues.contains(&queue));
        own.next().map_or(0, |target| target.brought.len())
    }

    /// What is set up.
    fn plan(&self) -> Plan {
        let groups = self.targets.iter().map(|target| super::steer::Group {
            queues: target.queues.clone(),
            brings: target
                .brought
                .iter()
                .map(|brought| brought.bring.clone())
                .collect(),
        });
        Plan {
            groups: groups.collect(),
        }
    }

    fn change<D: Device>(
        &mut self,
        shared: &Shared<D>,
        control: &mut Control<D::Registers>,
        plan: &Plan,
    ) -> Result<(), AdminError> {
        let wanted = |queues: &RangeInclusive<u32>, bring: &Bring| {
            plan.groups
                .iter()
                .any(|group| group.queues == *queues && group.brings.contains(bring))
        };
        let admin = &mut control.admin;
        // What is gone first: a rule that moves to another VSI would be there twice.
        let mut refused = None;
        for target in &mut self.targets {
            let (stay, go): (Vec<_>, Vec<_>) = target
                .brought
                .drain(..)
                .partition(|brought| wanted(&target.queues, &brought.bring));
            target.brought = stay;
            for brought in go {
                if let Err(error) = remove(admin, &mut self.recipes, brought.rule) {
                    refused = Some(error);
                }
            }
        }
        let gone = |target: &Target| !plan.groups.iter().any(|g| g.queues == target.queues);
        for target in self.targets.extract_if(.., |target| gone(target)) {
            shared.end_discards(*target.queues.start());
            let left = self.hash.leave(admin, target.vsi);
            if let Err(error) = left.and(admin.free_vsi(target.vsi)) {
                refused = Some(error);
            }
        }
        if let Some(error) = refused {
            return Err(error);
        }
        for group in &plan.groups {
            let at = match self
                .targets
                .iter()
                .position(|target| target.queues == group.queues)
            {
                Some(at) => at,
                None => self.add_target(shared, admin, &group.queues)?,
            };
            for bring in &group.brings {
                let there = self.targets[at].brought.iter();
                if there.into_iter().any(|brought| brought.bring == *bring) {
                    continue;
                }
                let rule = self.add(admin, self.targets[at].vsi, bring)?;
                self.targets[at].brought.push(Brought {
                    bring: bring.clone(),
                    rule,
                });
            }
        }
        Ok(())
    }

    /// Makes a VSI; where it is among the targets.
    fn add_target<D: Device>(
        &mut self,
        shared: &Shared<D>,
        admin: &mut Admin<D::Registers>,
        queues: &RangeInclusive<u32>,
    ) -> Result<usize, AdminError> {
        let mut properties = vsi::properties(self.port, queues, self.strip_vlan);
        let vsi = admin.add_vsi(&mut properties)?;
        shared.begin_discards(vsi.0, queues.clone());
        self.targets.push(Target {
            queues: queues.clone(),
            vsi,
            brought: Vec::new(),
        });
        let count = queues.end() - queues.start() + 1;
        if self.hash.works() {
            // One queue is hashed too: clients see the hash.
            self.hash.add(shared, admin, vsi)?;
            admin.set_hash_table(vsi, &vsi::table(count))?;
        }
        Ok(self.targets.len() - 1)
    }

    fn add<R: Registers>(
        &mut self,
        admin: &mut Admin<R>,
        vsi: VsiId,
        bring: &Bring,
    ) -> Result<RuleId, AdminError> {
        match bring {
            Bring::Address(address) => admin.add_rule(&mut rules::address(vsi, *address)),
            Bring::Rest => admin.add_rule(&mut rules::default(vsi, self.port)),
            Bring::Like(lookup) => {
                let places = self.fields.places(lookup).ok_or_else(|| {
                    AdminError::garbled(opcode::ADD_RECIPE, "the package has no such packets")
                })?;
                let recipe = self.recipes.take(admin, lookup, &places)?;
                let mut rule = rules::like(recipe, vsi, self.port, &lookup.packet());
                admin.add_rule(&mut rule).inspect_err(|_| {
                    // The next of its shape makes it anew.
                    let _ = self.recipes.leave(admin, recipe);
                })
            }
        }
    }
}

fn remove<R: Registers>(
    admin: &mut Admin<R>,
    recipes: &mut Recipes,
    rule: RuleId,
) -> Result<(), AdminError> {
    match admin.remove_rule(rule) {
        // It is gone, whoever took it.
        Err(error) if error.is(code::ENOENT) => {}
        done => done?,
    }
    recipes.leave(admin, rule.recipe)
}
