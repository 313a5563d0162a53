//! Whose memory a BAR is.

use super::Registry;
use crate::attachment::BarName;
use crate::error::Refused;

impl Registry {
    /// Whether a BAR is free. A function's memory is one attachment's: two queues would write the same chunks, and what a client was
    /// given of one BAR ends only when the whole function is closed (drivers/vfio/pci/vfio_pci_dmabuf.c). Memory that was leaked, because
    /// a NIC may still write it, stays taken.
    ///
    /// # Errors
    ///
    /// Who has it.
    pub(super) fn check_bar(&self, bar: &BarName) -> Result<(), Refused> {
        if let Some(other) = self
            .attachments
            .values()
            .find(|other| bar.shares_function(&other.memory))
            && !devrx_sabotage::removed("one-bar-one-attachment")
        {
            return Err(Refused::busy(format!(
                "{} is of a function whose memory is that of the attachment {:?} of uid {}; use another function, or end it with `devrx detach {}`",
                bar.text(),
                other.name,
                other.owner.uid,
                other.name
            )));
        }
        if self.leaked.iter().any(|word| bar.shares_function(word)) {
            return Err(Refused::busy(format!(
                "a queue that could not be proven stopped may still write to the function of {}; restart the daemon to free it",
                bar.text()
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
