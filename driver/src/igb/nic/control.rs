//! What a NIC does besides opening queues: rules, link, statistics, moderation.

use std::ops::RangeInclusive;
use std::sync::atomic::Ordering;

use super::IgbNic;
use crate::device::Device;
use crate::flow::{FlowRule, Rules};
use crate::igb::regs::EITR_MOST;
use crate::igb::steer::{self, Flow, Manners, Plan};
use crate::igb::write_back::Split;
use crate::igb::{interrupts, link};
use crate::{
    DriverError, Flows, Interrupts, Link, LinkState, NO_FLOW, Nic, NicStatistics, Statistics,
};

impl<D: Device> IgbNic<D> {
    fn manners(&self) -> Manners {
        Manners {
            station: self.station,
            promiscuous: self.options.promiscuous,
            strip_vlan: self.options.vlan_strip,
            loopback: self.loopback,
        }
    }

    /// What `flows` ask of the hardware. Rules of queues that a reset has ended ask nothing.
    fn plan(&self, flows: &[Flow]) -> Result<Plan, String> {
        let live: Vec<Flow> = flows
            .iter()
            .filter(|flow| flow.epoch == self.epoch)
            .cloned()
            .collect();
        Plan::of(self.shared.part, &live)
    }

    /// Tells hardware and the queues of `queues` what is left of their rules, or that something else of the port has changed.
    pub(super) fn steer_again(&self, queues: RangeInclusive<u32>) {
        match self.plan(&self.flows) {
            Ok(plan) => self.steer(&plan, queues),
            Err(why) => tracing::error!(
                nic = self.name(),
                why,
                "rules that went together do so no more, and the hardware is left as it was; this is a fault in this program"
            ),
        }
    }

    /// What `rule` takes and the queues' NIC will not deliver by it: it looks rules up in headers that were split off.
    fn split_notes(&self, queues: RangeInclusive<u32>, rule: &FlowRule) -> Option<String> {
        let only_ip = queues
            .filter_map(|queue| self.open.get(&queue))
            .any(|open| open.split == Split::Headers);
        let kind = rule.ether_type();
        if !only_ip || rule.is_any() || rule.needs_ip() || kind.is_some_and(FlowRule::is_ip) {
            return None;
        }
        let (takes, rest) = if kind.is_some() {
            ("takes none of its packets", "them")
        } else {
            ("takes only IP packets", "others, such as ARP,")
        };
        Some(format!(
            "`{rule}` {takes} as the queue is attached: this NIC splits off headers of IP alone, and a packet without one lies in memory that is not read \
             here; attach with `--unsplit header` to have {rest} too, or add `any`"
        ))
    }

    /// Tells hardware and the queues of `queues` what their rules are now.
    fn steer(&self, plan: &Plan, queues: RangeInclusive<u32>) {
        let _control = self.shared.control();
        // What somebody else has reset stays off: there may be rings of before that are on, at no address.
        if self.shared.epoch.load(Ordering::Acquire) == self.epoch
            && !self.shared.look_for_reset(self.epoch)
        {
            steer::apply(&self.shared, plan, self.manners());
        }
        for queue in queues {
            if let Some(open) = self.open.get(&queue) {
                open.board.set(self.rules(queue));
            }
        }
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

impl<D: Device> Flows for IgbNic<D> {
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
            if open.split == Split::No && !rule.is_any() {
                return Err(self.flow_error(
                    queue,
                    rule,
                    "this NIC leaves rules to the headers, and the queue splits none off; attach with header split, or use `any`",
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
        self.flows = flows;
        self.steer(&plan, queues.clone());
        let mut notes = rule.notes();
        notes.extend(self.split_notes(queues, rule));
        Ok(notes)
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
        self.flows = flows;
        self.steer(&plan, queues);
        Ok(())
    }

    fn queue_packets(&self, queue: u32) -> u64 {
        let arrived = self.shared.arrived.get(queue as usize);
        arrived.map_or(0, |count| count.load(Ordering::Relaxed))
    }
}

impl<D: Device> Link for IgbNic<D> {
    fn link(&self) -> Result<LinkState, DriverError> {
        link::state(&self.shared)
    }
}

impl<D: Device> Statistics for IgbNic<D> {
    fn statistics(&self) -> Result<NicStatistics, DriverError> {
        self.shared.look_for_reset(self.epoch);
        Ok(self.shared.statistics())
    }
}

impl<D: Device> Interrupts for IgbNic<D> {
    fn set_moderation(&mut self, queue: u32, microseconds: u32) -> Result<(), DriverError> {
        if queue >= self.queues {
            return Err(DriverError::NoQueue {
                nic: self.name().to_owned(),
                queue,
                queues: self.queues,
            });
        }
        let _control = self.shared.control();
        if interrupts::moderate(&self.shared, queue, microseconds) {
            self.moderation.insert(queue, microseconds);
            return Ok(());
        }
        Err(Self::bad(
            "interrupt moderation",
            microseconds,
            format!("this NIC holds an interrupt back for at most {EITR_MOST} microseconds"),
        ))
    }
}

impl<D: Device> Drop for IgbNic<D> {
    fn drop(&mut self) {
        self.monitor = None;
        let _control = self.shared.control();
        if self.shared.epoch.load(Ordering::Acquire) == self.epoch {
            // Queues that still live are stopped by their own threads; nothing new comes to them.
            steer::apply(&self.shared, &Plan::Off, self.manners());
            interrupts::mask_all(&self.shared);
        }
    }
}
