//! What the receive path counts.

/// What the receive path counts. Packets, if not said otherwise.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub received: u64,
    pub bytes: u64,
    pub bad_descriptor: u64,
    pub incomplete: u64,
    pub unsplit_drops: u64,
    pub unwanted: u64,
    pub errors: u64,
    pub unsplit: u64,
    pub refused_chunks: u64,
}

impl Counts {
    /// Packets that the device put into this queue and that are dealt with.
    pub(super) const fn arrived(&self) -> u64 {
        self.received
            + self.bad_descriptor
            + self.incomplete
            + self.unsplit_drops
            + self.unwanted
            + self.errors
    }
}
