//! What a NIC does besides opening queues: rules, link, statistics, moderation.

use std::ops::RangeInclusive;
use std::sync::atomic::Ordering;

use super::IceNic;
use crate::device::Device;
use crate::flow::{FlowRule, Rules};
use crate::ice::admin::LONGEST;
use crate::ice::interrupts;
use crate::ice::steer::{Flow, Means, Plan};
use crate::ring::Unseen;
use crate::{
    DriverError, Flows, Interrupts, Link, LinkState, NO_FLOW, Nic, NicStatistics, Statistics,
};

impl<D: Device> IceNic<D> {
    fn means(&self) -> Means {
        Means {
            station: self.facts.station,
            lookups: self.switch.compares(),
            hashes: self.switch.hashes(),
            unparsed: if self.facts.parser.splits() {
                "the package that is in it is not the one that was found"
            } else {
                "it has no package (DDP)"
            },
        }
    }

    /// What `flows` ask of the hardware. Rules of queues that a reset has ended ask nothing.
    fn plan(&self, flows: &[Flow]) -> Result<Plan, String> {
        let live: Vec<Flow> = flows
            .iter()
            .filter(|flow| flow.epoch == self.epoch)
            .cloned()
            .collect();
        let plan = Plan::of(&self.means(), &live)?;
        let brings = plan.groups.iter().flat_map(|group| &group.brings);
        brings
            .into_iter()
            .try_for_each(|bring| self.switch.check(bring))?;
        Ok(plan)
    }

    /// Tells hardware and the queues of `queues` what is left of their rules.
    pub(super) fn steer_again(&mut self, queues: RangeInclusive<u32>) -> Result<(), DriverError> {
        match self.plan(&self.flows) {
            Ok(plan) => self.steer(&plan, queues),
            Err(why) => {
                tracing::error!(
                    nic = self.name(),
                    why,
                    "rules that went together do so no more, and the hardware is left as it was; this is a fault in this program"
                );
                Ok(())
            }
        }
    }

    /// Tells hardware and the queues of `queues` what their rules are now.
    fn steer(&mut self, plan: &Plan, queues: RangeInclusive<u32>) -> Result<(), DriverError> {
        let shared = std::sync::Arc::clone(&self.shared);
        let mut control = shared.control();
        // After a reset that is not ours the firmware knows of nothing.
        if shared.epoch.load(Ordering::Acquire) == self.epoch && shared.failed() == 0 {
            self.switch
                .apply(&shared, &mut control, plan)
                .map_err(|error| shared.refused(error))?;
        }
        drop(control);
        for queue in queues {
            if let Some(open) = self.open.get(&queue) {
                open.board.set(self.rules(queue));
            }
        }
        Ok(())
    }

    fn rules(&self, queue: u32) -> Rules {
        let flows = self.flows.iter();
        flows
            .filter(|flow| flow.queues.contains(&queue))
            .map(|flow| (flow.id, flow.rule))
            .collect()
    }

    fn flow_error(&self, queue: u32, rule: impl ToString, why: impl Into<String>) -> DriverError {
        DriverError::Flow {
            nic: self.name().to_owned(),
            queue,
            rule: rule.to_string(),
            why: why.into(),
        }
    }
}

impl<D: Device> Flows for IceNic<D> {
    fn add_flow(
        &mut self,
        queues: RangeInclusive<u32>,
        id: u16,
        rule: &FlowRule,
    ) -> Result<Vec<String>, DriverError> {
        let first = *queues.start();
        if id == NO_FLOW
            || self.flows.iter().any(|flow| {
                flow.id == id
                    && flow.queues.start() <= queues.end()
                    && queues.start() <= flow.queues.end()
            })
        {
            return Err(self.flow_error(first, rule, format!("the id {id} cannot be used: another rule has it, or it marks no rule; use another")));
        }
        for queue in queues.clone() {
            let Some(open) = self.open.get(&queue) else {
                return Err(DriverError::QueueClosed {
                    nic: self.name().to_owned(),
                    queue,
                });
            };
            if let Some(why) = self.shared.fault_of(open.epoch) {
                return Err(self.flow_error(queue, rule, why));
            }
            if !open.manner.splits && open.manner.unseen != Unseen::Chunk && !rule.is_any() {
                return Err(self.flow_error(
                    queue,
                    rule,
                    "rules are looked up in headers, and the queue splits none off into memory that the CPU reads; attach with header split, or use `any`",
                ));
            }
        }
        if self.options.vlan_strip && (rule.vlan().is_some() || rule.inner_vlan().is_some()) {
            return Err(self.flow_error(
                first,
                rule,
                "the NIC takes VLAN tags out of frames, so a rule cannot see them; take the NIC without VLAN stripping",
            ));
        }
        let mut flows = self.flows.clone();
        flows.push(Flow {
            id,
            rule: *rule,
            queues: queues.clone(),
            epoch: self.epoch,
        });
        let plan = self
            .plan(&flows)
            .map_err(|why| self.flow_error(first, rule, why))?;
        let before = std::mem::replace(&mut self.flows, flows);
        if let Err(error) = self.steer(&plan, queues) {
            self.flows = before;
            return Err(error);
        }
        Ok(rule.notes())
    }

    fn remove_flow(&mut self, queues: RangeInclusive<u32>, id: u16) -> Result<(), DriverError> {
        let at = self
            .flows
            .iter()
            .position(|flow| flow.id == id && flow.queues == queues);
        let Some(at) = at else {
            return Err(self.flow_error(
                *queues.start(),
                format!("#{id}"),
                "there is no such rule; `devrx flow list` shows what there is",
            ));
        };
        let mut flows = self.flows.clone();
        let gone = flows.remove(at);
        let plan = self.plan(&flows).map_err(|why| {
            let why = format!("other rules need it: {why}; end those first");
            self.flow_error(*queues.start(), gone.rule, why)
        })?;
        let before = std::mem::replace(&mut self.flows, flows);
        if let Err(error) = self.steer(&plan, queues) {
            self.flows = before;
            return Err(error);
        }
        Ok(())
    }

    fn queue_packets(&self, queue: u32) -> u64 {
        self.shared.steered(queue)
    }
}

impl<D: Device> Link for IceNic<D> {
    fn link(&self) -> Result<LinkState, DriverError> {
        if let Some(why) = self.shared.ended() {
            return Err(DriverError::NoNic {
                nic: self.name().to_owned(),
                why,
            });
        }
        let link = self.shared.link();
        Ok(LinkState {
            up: link.up,
            speed: link.speed,
            // Without Ethernet header and FCS.
            mtu: u32::from(LONGEST) - 18,
        })
    }
}

impl<D: Device> Statistics for IceNic<D> {
    fn statistics(&self) -> Result<NicStatistics, DriverError> {
        Ok(self.shared.statistics(u32::from(self.port().number)))
    }
}

impl<D: Device> Interrupts for IceNic<D> {
    fn set_moderation(&mut self, queue: u32, microseconds: u32) -> Result<(), DriverError> {
        if queue >= self.queues {
            return Err(DriverError::NoQueue {
                nic: self.name().to_owned(),
                queue,
                queues: self.queues,
            });
        }
        let _control = self.shared.control();
        interrupts::moderate(&self.shared, queue, microseconds).map_err(|most| {
            Self::bad(
                "interrupt moderation",
                microseconds,
                format!("this NIC holds an interrupt back for at most {most} microseconds"),
            )
        })?;
        self.moderation.insert(queue, microseconds);
        Ok(())
    }
}

impl<D: Device> Drop for IceNic<D> {
    fn drop(&mut self) {
        self.monitor = None;
        let shared = std::sync::Arc::clone(&self.shared);
        let mut control = shared.control();
        if shared.epoch.load(Ordering::Acquire) == self.epoch {
            // Queues that still live are stopped by their own threads; nothing new comes to them.
            if shared.failed() == 0
                && control.admin.alive()
                && let Err(error) = self.switch.apply(&shared, &mut control, &Plan::default())
            {
                tracing::warn!(nic = shared.device.address(), %error, "rules are left in the NIC until it is reset");
            }
            interrupts::mask_all(&shared, self.queues);
        }
    }
}
