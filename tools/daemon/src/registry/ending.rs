//! Ending attachments, for whichever reason, and letting go of NICs.

use devrx_proto::message;

use super::Registry;
use crate::attachment::{Attachment, SessionId};

/// Ended attachments that statistics still show.
const REMEMBERED: usize = 64;

impl Registry {
    /// Ends an attachment. Its consumer will be told.
    pub(crate) fn end(&mut self, name: &str, reason: String) {
        let Some(attachment) = self.attachments.remove(name) else {
            return;
        };
        let slot = &mut self.nics[attachment.nic];
        let consumer = attachment.consumer;
        let mut ended = attachment.end(slot, &mut self.keeper);
        slot.remember(&ended);
        if ended.leaked {
            self.leaked.push(ended.memory.clone());
        }
        self.tell_rules();
        if let Some(consumer) = consumer {
            let event = message::Event::Ended {
                name: name.to_owned(),
                reason: reason.clone(),
            };
            self.news.push((consumer.session, event));
        }
        tracing::info!(name, reason, "detached");
        ended.reason = reason;
        self.ended.push_back(ended);
        if self.ended.len() > REMEMBERED {
            self.ended.pop_front();
        }
    }

    /// Takes back what the consumer of an attachment had. What cannot have another ends.
    pub(super) fn drop_consumer(&mut self, name: &str) {
        let Some(attachment) = self.attachments.get_mut(name) else {
            return;
        };
        if let Err(refused) = attachment.drop_consumer() {
            tracing::error!(name, %refused, "the next consumer cannot be prepared for");
            self.end(
                name,
                format!("no next consumer could be prepared for: {refused}"),
            );
        }
    }

    /// A session is over: what it consumed is taken back, what lived with it ends.
    pub fn session_ended(&mut self, session: SessionId) {
        if devrx_sabotage::removed("session-end") {
            return;
        }
        let named = |attachment: &&Attachment| attachment.owner.session == Some(session);
        let own: Vec<String> = self
            .attachments
            .values()
            .filter(named)
            .map(|a| a.name.clone())
            .collect();
        for name in own {
            self.end(&name, "its session ended".into());
        }
        let consumed =
            |attachment: &&Attachment| attachment.consumer.is_some_and(|c| c.session == session);
        let consumed: Vec<String> = self
            .attachments
            .values()
            .filter(consumed)
            .map(|a| a.name.clone())
            .collect();
        for name in consumed {
            self.drop_consumer(&name);
        }
    }

    /// Ends attachments whose workers say that they must, and lets go of NICs that have failed.
    pub fn sweep(&mut self) {
        for place in 0..self.nics.len() {
            if let Some(why) = self.nics[place].nic.fault() {
                self.let_go(place, why);
            }
        }
        let faulty =
            |attachment: &Attachment| attachment.fault().map(|why| (attachment.name.clone(), why));
        let faults: Vec<_> = self.attachments.values().filter_map(faulty).collect();
        for (name, why) in faults {
            tracing::warn!(name, why, "ending an attachment");
            self.counters.faulted_attachments += 1;
            self.end(&name, why);
        }
    }

    /// Ends everything on a NIC that has failed, and then the NIC: whoever wants it back waits for that.
    fn let_go(&mut self, place: usize, why: String) {
        let of_it = |attachment: &&Attachment| attachment.nic == place;
        let names: Vec<String> = self
            .attachments
            .values()
            .filter(of_it)
            .map(|attachment| attachment.name.clone())
            .collect();
        for name in names {
            self.counters.faulted_attachments += 1;
            self.end(&name, why.clone());
        }
        tracing::error!(nic = self.nics[place].nic.name(), why, "a NIC is let go of");
        self.nics[place].let_go(why);
    }

    /// Ends everything in order.
    pub fn shut_down(mut self) {
        let names: Vec<String> = self.attachments.keys().cloned().collect();
        for name in names {
            self.end(&name, "the daemon ends".into());
        }
        drop(self.nics);
        self.keeper.farewell();
    }
}
