//! Bringing flows to the queues of an interface: the XDP program within each queue, the NIC's receive rules between them.

use std::ops::RangeInclusive;

use super::{AfXdpNic, Flow};
use crate::afxdp::ntuple;
use crate::flow::FlowRule;
use crate::{DriverError, Flows};

impl AfXdpNic {
    /// Has the program and the queues' classifiers take a rule: on all of the queues, or on none.
    fn push_rule(
        &mut self,
        queues: &RangeInclusive<u32>,
        id: u16,
        rule: &FlowRule,
    ) -> Result<(), DriverError> {
        if id == crate::NO_FLOW {
            let why = format!(
                "id {id} is reserved: it marks packets that no rule takes; use a lower one"
            );
            return Err(self.flow_error(*queues.start(), rule, why));
        }
        let mut changes = Vec::new();
        for queue in queues.clone() {
            let open = self.opened(queue)?;
            if open.flows.iter().any(|flow| flow.id == id) {
                return Err(self.flow_error(
                    queue,
                    rule,
                    format!("the queue has a flow with id {id} already; use another"),
                ));
            }
            let mut rules = open.rules();
            rules.push((id, *rule));
            changes.push((queue, rules));
        }
        // The queues first: a packet that comes by the new rule is then told from the others.
        for (queue, rules) in &changes {
            self.opened(*queue)?.board.set(rules.clone());
        }
        if let Err(error) = self.steering.set_rules(changes) {
            for queue in queues.clone() {
                let open = self.opened(queue)?;
                open.board.set(open.rules());
            }
            return Err(error);
        }
        for queue in queues.clone() {
            self.opened(queue)?.flows.push(Flow {
                id,
                rule: *rule,
                locations: Vec::new(),
            });
        }
        Ok(())
    }

    /// Takes a rule off all of the queues, or none; answers the NIC's receive rules that were set for it.
    fn pull_rule(
        &mut self,
        queues: &RangeInclusive<u32>,
        id: u16,
    ) -> Result<Vec<u32>, DriverError> {
        let mut changes = Vec::new();
        for queue in queues.clone() {
            let open = self.opened(queue)?;
            let mut rules = open.rules();
            let before = rules.len();
            rules.retain(|(other, _)| *other != id);
            if rules.len() == before {
                return Err(self.flow_error(
                    queue,
                    id,
                    "the queue has no flow with this id; `devrx flow list` shows them",
                ));
            }
            changes.push((queue, rules));
        }
        self.steering.set_rules(changes)?;
        let mut locations = Vec::new();
        for queue in queues.clone() {
            let open = self.opened(queue)?;
            for flow in open.flows.extract_if(.., |flow| flow.id == id) {
                locations.extend(flow.locations);
            }
            open.board.set(open.rules());
        }
        Ok(locations)
    }

    /// Has the NIC bring what a rule takes to the queues. Answers the receive rules set for that, and what will not arrive.
    fn bring(&self, queues: &RangeInclusive<u32>, rule: &FlowRule) -> (Vec<u32>, Vec<String>) {
        let (first, last) = (*queues.start(), *queues.end());
        if first == 0 && last + 1 >= self.queues {
            // Every queue: whichever the NIC chooses is one of them.
            return (Vec::new(), Vec::new());
        }
        let note = |why: &str| {
            let others = if first == last {
                first.to_string()
            } else {
                format!("{first}-{last}")
            };
            let name = &self.name;
            let note = format!(
                "packets of `{rule}` that {name} puts on other queues than {others} will not arrive: {why}"
            );
            (Vec::new(), vec![note])
        };
        if first != last {
            // One receive rule names one queue; several queues are the business of the hash.
            let name = &self.name;
            let count = last - first + 1;
            return note(&format!(
                "a receive rule names one queue, not a range; attach all {} queues, or spread the NIC's traffic over these only \
                 (`ethtool -X {name} start {first} equal {count}`)",
                self.queues
            ));
        }
        if !self.options.receive_rules {
            return note("setting receive rules is switched off");
        }
        ntuple::steer(&self.ethtool, &self.name, first, rule)
    }
}

impl Flows for AfXdpNic {
    fn add_flow(
        &mut self,
        queues: RangeInclusive<u32>,
        id: u16,
        rule: &FlowRule,
    ) -> Result<Vec<String>, DriverError> {
        self.push_rule(&queues, id, rule)?;
        let mut notes = rule.notes();
        let (locations, more) = self.bring(&queues, rule);
        notes.extend(more);
        if let Some(flow) = self
            .opened(*queues.start())?
            .flows
            .iter_mut()
            .find(|flow| flow.id == id)
        {
            flow.locations = locations;
        }
        Ok(notes)
    }

    fn remove_flow(&mut self, queues: RangeInclusive<u32>, id: u16) -> Result<(), DriverError> {
        let locations = self.pull_rule(&queues, id)?;
        ntuple::remove(&self.ethtool, &self.name, &locations);
        Ok(())
    }

    fn queue_packets(&self, queue: u32) -> u64 {
        self.steering.matched(queue)
    }
}
