//! Flow rules of attachments, and the lists of what there is.

use devrx_driver::flow::FlowRule;
use devrx_proto::message::{FlowAddReply, FlowInfo, NicAttachment, NicInfo};

use super::Registry;
use crate::attachment::Attachment;
use crate::error::Refused;
use crate::nic::NicSlot;
use crate::policy::Peer;

impl Registry {
    /// Adds a rule.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn flow_add(
        &mut self,
        peer: &Peer,
        name: &str,
        rule: &str,
    ) -> Result<FlowAddReply, Refused> {
        let rule: FlowRule = rule
            .parse()
            .map_err(|e| Refused::invalid(format!("flow rule {rule:.200?}: {e}")))?;
        self.usable(peer, name)?;
        let Some(attachment) = self.attachments.get_mut(name) else {
            return Err(Refused::not_found("gone"));
        };
        let text = rule.to_string();
        let (id, warnings) = attachment.add_flow(&mut self.nics[attachment.nic], rule)?;
        self.tell_rules();
        Ok(FlowAddReply {
            flow: FlowInfo {
                name: name.to_owned(),
                id,
                rule: text,
            },
            warnings,
        })
    }

    /// Removes a rule.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn flow_del(&mut self, peer: &Peer, name: &str, id: u16) -> Result<(), Refused> {
        self.usable(peer, name)?;
        let Some(attachment) = self.attachments.get_mut(name) else {
            return Err(Refused::not_found("gone"));
        };
        attachment.remove_flow(&mut self.nics[attachment.nic], id)?;
        self.tell_rules();
        Ok(())
    }

    /// The rules of one attachment or of all.
    ///
    /// # Errors
    ///
    /// When there is no such attachment.
    pub fn flow_list(&self, name: Option<&str>) -> Result<Vec<FlowInfo>, Refused> {
        if let Some(name) = name
            && !self.attachments.contains_key(name)
        {
            return Err(Refused::not_found(format!(
                "there is no attachment {name:.80?} (`devrx stats` lists them)"
            )));
        }
        let asked = self
            .attachments
            .values()
            .filter(|attachment| name.is_none_or(|name| attachment.name == name));
        Ok(asked.flat_map(Attachment::flow_infos).collect())
    }

    /// The NICs, and who has their queues.
    #[must_use]
    pub fn nic_infos(&self) -> Vec<NicInfo> {
        let on = |place: usize| {
            self.attachments
                .values()
                .filter(move |attachment| attachment.nic == place)
                .map(|attachment| NicAttachment {
                    name: attachment.name.clone(),
                    queue_first: *attachment.queues.start(),
                    queue_last: *attachment.queues.end(),
                })
        };
        let info = |(place, slot): (usize, &NicSlot)| NicInfo {
            nic: slot.nic.name().to_owned(),
            driver: slot.nic.driver().to_owned(),
            queues: slot.nic.queues(),
            attachments: on(place).collect(),
            gone: slot.gone,
            notes: slot.nic.warnings(),
        };
        self.nics.iter().enumerate().map(info).collect()
    }
}
