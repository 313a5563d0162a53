//! What the receive path counts, and how headers come to it.

use crate::queue::{QueueConfig, Unsplit};

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

/// How headers come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Split {
    /// Not: DESCTYPE 001.
    No,
    /// Where the device knows the headers: DESCTYPE 010.
    Headers,
    /// The slot is always used: DESCTYPE 101.
    Always,
}

impl Split {
    /// What a configuration asks for.
    pub(super) const fn of(config: &QueueConfig) -> Self {
        match (config.split, config.unsplit) {
            (false, _) => Self::No,
            (true, Unsplit::Header) => Self::Always,
            (true, _) => Self::Headers,
        }
    }
}
