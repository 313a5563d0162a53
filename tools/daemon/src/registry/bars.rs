//! Whose memory a BAR is.

use super::Registry;
use crate::attachment::BarName;
use crate::error::Refused;

impl Registry {
    /// Whether a BAR is free: it is one attachment's memory, for two queues would write the same chunks.
    ///
    /// # Errors
    ///
    /// Who has it.
    pub(super) fn check_bar(&self, bar: &BarName) -> Result<(), Refused> {
        if let Some(other) = self
            .attachments
            .values()
            .find(|other| other.memory == bar.text())
            && !devrx_sabotage::removed("one-bar-one-attachment")
        {
            return Err(Refused::busy(format!(
                "{} is the memory of the attachment {:?} of uid {}; use another BAR, or end it with `devrx detach {}`",
                bar.text(),
                other.name,
                other.owner.uid,
                other.name
            )));
        }
        if let Some(slot) = self.nics.iter().find(|slot| bar.is_of(slot.nic.name())) {
            return Err(Refused::invalid(format!(
                "{} holds registers of {}, a NIC that this daemon serves; name another function's memory",
                bar.text(),
                slot.nic.name()
            )));
        }
        Ok(())
    }
}
