//! What the receive path counts.

use crate::QueueCounters;

/// What the receive path counts. Packets, if not said otherwise.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
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
    pub(crate) const fn arrived(&self) -> u64 {
        self.received
            + self.bad_descriptor
            + self.incomplete
            + self.unsplit_drops
            + self.unwanted
            + self.errors
    }

    /// The queue's counters as far as they are counted here. Not [`exact`](QueueCounters::exact), for that is not known here.
    pub(crate) fn queue_counters(&self) -> QueueCounters {
        QueueCounters {
            received: self.received,
            bytes: self.bytes,
            bad_descriptor: self.bad_descriptor,
            incomplete: self.incomplete,
            unsplit_drops: self.unsplit_drops,
            unwanted: self.unwanted,
            errors: self.errors,
            unsplit: self.unsplit,
            refused_chunks: self.refused_chunks,
            ..QueueCounters::default()
        }
    }
}
