//! Steering: which packets come to which attachment.
//!
//! Each attachment has a VSI with its queues, and rules of the switch bring packets to it:
//!
//! * **By destination address**, which needs no package: a rule with `dst-mac=`.
//! * **By what the package's parser finds**: addresses, protocol and ports of IP packets ([`lookup`](super::lookup), [`recipe`](super::recipe)). These rules count before those by
//!   destination address.
//! * **What is left** goes to the one attachment that has a rule which neither can express, `any` above all.
//!
//! Within a VSI of several queues the hash chooses. Packets that no rule brings anywhere the NIC drops.
//!
//! [`Plan::of`] decides, without touching hardware; [`Switch::apply`](super::switch::Switch::apply) tells the firmware what is new and takes off what is gone, so that queues whose packets do not change
//! lose none.

use std::ops::RangeInclusive;

use super::lookup::Lookup;
use super::vsi::HASHED_QUEUES;
use crate::flow::FlowRule;

/// A rule and the queues it was added to.
#[derive(Clone, Debug)]
pub(super) struct Flow {
    pub id: u16,
    pub rule: FlowRule,
    pub queues: RangeInclusive<u32>,
    /// The function reset that its queues were opened after.
    pub epoch: u32,
}

/// What brings packets to a VSI.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) enum Bring {
    /// Packets to an address.
    Address([u8; 6]),
    /// Packets like these.
    Like(Lookup),
    /// What nothing else brings anywhere.
    Rest,
}

/// What one attachment asks for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Group {
    pub queues: RangeInclusive<u32>,
    /// No two alike.
    pub brings: Vec<Bring>,
}

/// What the hardware shall do.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Plan {
    pub groups: Vec<Group>,
}

/// What the NIC has, as far as steering goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Means {
    /// The port's own address.
    pub station: [u8; 6],
    /// Its parser knows IP, UDP and TCP, and this driver knows where it finds them.
    pub lookups: bool,
    /// It hashes.
    pub hashes: bool,
    /// Why not, where it does neither.
    pub unparsed: &'static str,
}

/// `queue 3` or `queues 0 to 3`.
fn text(queues: &RangeInclusive<u32>) -> String {
    if queues.start() == queues.end() {
        format!("queue {}", queues.start())
    } else {
        format!("queues {} to {}", queues.start(), queues.end())
    }
}

impl Plan {
    /// What `flows` ask for. `Err` with what is there and what to do, when the last of them does not go with the others.
    pub(super) fn of(means: &Means, flows: &[Flow]) -> Result<Self, String> {
        let mut plan = Self::default();
        for flow in flows {
            plan.take(means, flow)?;
        }
        // The port's own address and broadcasts belong to who has the rest, if no rule names them: silicon may have other ideas of what is left.
        let usual = [means.station, [0xff; 6]].map(Bring::Address);
        let usual: Vec<_> = usual
            .into_iter()
            .filter(|bring| plan.owner(bring).is_none())
            .collect();
        let rest = plan.groups.iter_mut();
        if let Some(rest) = rest
            .into_iter()
            .find(|group| group.brings.contains(&Bring::Rest))
        {
            rest.brings.extend(usual);
        }
        Ok(plan)
    }

    /// Who has `bring`.
    fn owner(&self, bring: &Bring) -> Option<&Group> {
        self.groups
            .iter()
            .find(|group| group.brings.contains(bring))
    }

    fn take(&mut self, means: &Means, flow: &Flow) -> Result<(), String> {
        let count = flow.queues.end() - flow.queues.start() + 1;
        if count > HASHED_QUEUES {
            return Err(format!(
                "this NIC spreads an attachment's packets over {HASHED_QUEUES} queues at most, and {} are {count}",
                text(&flow.queues)
            ));
        }
        if count > 1 && !means.hashes {
            return Err(format!(
                "{} would share packets by hash, which this NIC does not do now: {}; attach with one queue",
                text(&flow.queues),
                means.unparsed
            ));
        }
        let overlaps = |group: &&Group| {
            group.queues != flow.queues
                && group.queues.start() <= flow.queues.end()
                && flow.queues.start() <= group.queues.end()
        };
        if let Some(other) = self.groups.iter().find(overlaps) {
            return Err(format!(
                "{} have rules together; end those first",
                text(&other.queues)
            ));
        }
        for bring in Self::brings(means, &flow.rule) {
            self.give(means, flow, bring)?;
        }
        Ok(())
    }

    fn give(&mut self, means: &Means, flow: &Flow, bring: Bring) -> Result<(), String> {
        if let Some(owner) = self.owner(&bring)
            && owner.queues != flow.queues
        {
            let owner = text(&owner.queues);
            return Err(match bring {
                Bring::Rest if means.lookups => format!(
                    "{owner} takes what no other rule names already, and this NIC cannot tell the packets of this rule apart by itself; name a destination \
                     address (`dst-mac=`), or IP addresses, or `udp` or `tcp` with ports"
                ),
                Bring::Rest => format!(
                    "{owner} takes what no other rule names already, and this NIC tells packets apart by destination address alone now ({}); \
                     add `dst-mac=ADDRESS` to the rule",
                    means.unparsed
                ),
                Bring::Address(_) => format!(
                    "{owner} has the packets to that address already; end its rule first, or ask for another address"
                ),
                Bring::Like(_) => {
                    format!("{owner} has these packets already; end its rule first")
                }
            });
        }
        let group = self
            .groups
            .iter()
            .position(|group| group.queues == flow.queues);
        let group = group.unwrap_or_else(|| {
            self.groups.push(Group {
                queues: flow.queues.clone(),
                brings: Vec::new(),
            });
            self.groups.len() - 1
        });
        let brings = &mut self.groups[group].brings;
        if !brings.contains(&bring) {
            brings.push(bring);
        }
        Ok(())
    }

    /// What brings the packets of a rule; whatever else it asks, its queue's thread looks for.
    fn brings(means: &Means, rule: &FlowRule) -> Vec<Bring> {
        if let Some(address) = rule.dst_mac() {
            return vec![Bring::Address(address)];
        }
        let lookups = if means.lookups {
            Lookup::of(rule)
        } else {
            Vec::new()
        };
        if lookups.is_empty() {
            return vec![Bring::Rest];
        }
        lookups.into_iter().map(Bring::Like).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEANS: Means = Means {
        station: [2, 0xe8, 0x10, 0, 0, 1],
        lookups: true,
        hashes: true,
        unparsed: "",
    };

    fn flow(queues: RangeInclusive<u32>, rule: &str) -> Flow {
        Flow {
            id: 0,
            rule: rule.parse().unwrap(),
            queues,
            epoch: 0,
        }
    }

    fn plan(means: &Means, flows: &[(RangeInclusive<u32>, &str)]) -> Result<Plan, String> {
        let flows: Vec<_> = flows
            .iter()
            .map(|(queues, rule)| flow(queues.clone(), rule))
            .collect();
        Plan::of(means, &flows)
    }

    #[test]
    fn the_rest_has_the_ports_own_address_unless_another_names_it() {
        let any = plan(&MEANS, &[(0..=0, "any")]).unwrap();
        assert_eq!(
            any.groups[0].brings,
            [
                Bring::Rest,
                Bring::Address(MEANS.station),
                Bring::Address([0xff; 6])
            ]
        );
        let two = plan(
            &MEANS,
            &[(0..=0, "any"), (1..=1, "dst-mac=02:e8:10:00:00:01")],
        )
        .unwrap();
        assert_eq!(
            two.groups[0].brings,
            [Bring::Rest, Bring::Address([0xff; 6])]
        );
        assert_eq!(two.groups[1].brings, [Bring::Address(MEANS.station)]);
        let both = plan(
            &MEANS,
            &[(0..=0, "any"), (0..=0, "dst-mac=02:e8:10:00:00:01")],
        )
        .unwrap();
        assert_eq!(both.groups[0].brings.len(), 3, "once is enough");
    }

    #[test]
    fn what_does_not_go_together_is_told() {
        let safe = Means {
            lookups: false,
            hashes: false,
            unparsed: "there is no package",
            ..MEANS
        };
        let why = |means, flows: &[_]| plan(means, flows).unwrap_err();
        let text = why(&safe, &[(0..=0, "any"), (1..=1, "udp,dst-port=5000")]);
        assert!(
            text.contains("dst-mac=ADDRESS") && text.contains("no package"),
            "{text}"
        );
        let text = why(&safe, &[(0..=1, "any")]);
        assert!(text.contains("by hash"), "{text}");
        let text = why(&MEANS, &[(0..=16, "any")]);
        assert!(text.contains("16 queues"), "{text}");
        let text = why(&MEANS, &[(0..=1, "any"), (1..=1, "udp,dst-port=1")]);
        assert!(text.contains("together"), "{text}");
        let text = why(&MEANS, &[(0..=0, "any"), (1..=1, "vlan=7")]);
        assert!(text.contains("cannot tell"), "{text}");
        let text = why(
            &MEANS,
            &[(0..=0, "udp,dst-port=7,ip"), (1..=1, "udp,dst-port=7,ip")],
        );
        assert!(text.contains("these packets already"), "{text}");
        assert!(
            plan(&MEANS, &[(0..=3, "any"), (4..=4, "udp,dst-port=7")]).is_ok(),
            "a flow elsewhere"
        );
    }
}
