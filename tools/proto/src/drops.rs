//! Why packets are dropped: the names that CLI, JSON and metrics use, and the index of each in the counters in shared memory.

/// A reason for which a packet that a NIC counted was not delivered. A packet is counted under one reason only.
///
/// The number of a reason is its place in the counters of a queue ([`crate::layout::Counter`]); numbers are never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum DropReason {
    /// The NIC had no descriptor to receive into: chunks did not come back in time.
    NoDescriptor = 0,
    /// The pool was empty where a packet needed one more chunk.
    PoolEmpty = 1,
    /// The client's completion ring had no room for the packet.
    RingFull = 2,
    /// The kernel's or the NIC's receive ring was full: the daemon did not poll in time.
    RxRingFull = 3,
    /// The NIC did not split off the header on a queue whose payload the CPU may not read.
    Unsplit = 4,
    /// The packet is longer than the queue takes.
    Oversize = 5,
    /// The NIC wrote a descriptor that cannot be right.
    BadDescriptor = 6,
    /// No attachment held the queue, or it was being taken down.
    Detached = 7,
    /// No attachment wanted the packet (only NICs that the daemon owns).
    Unwanted = 8,
    /// The NIC received the packet with an error.
    Error = 9,
    /// Any reason that came after this version.
    Other = 10,
}

impl DropReason {
    /// Every reason, by number.
    pub const ALL: [Self; 11] = [
        Self::NoDescriptor,
        Self::PoolEmpty,
        Self::RingFull,
        Self::RxRingFull,
        Self::Unsplit,
        Self::Oversize,
        Self::BadDescriptor,
        Self::Detached,
        Self::Unwanted,
        Self::Error,
        Self::Other,
    ];

    /// The name, as JSON and metrics spell it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoDescriptor => "no_descriptor",
            Self::PoolEmpty => "pool_empty",
            Self::RingFull => "ring_full",
            Self::RxRingFull => "rx_ring_full",
            Self::Unsplit => "unsplit",
            Self::Oversize => "oversize",
            Self::BadDescriptor => "bad_descriptor",
            Self::Detached => "detached",
            Self::Unwanted => "unwanted",
            Self::Error => "error",
            Self::Other => "other",
        }
    }

    /// The number: the place among the drop counters.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The reason of a name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.name() == name)
    }
}

impl std::fmt::Display for DropReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_one_to_one() {
        for (number, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), number);
            assert_eq!(DropReason::from_name(reason.name()), Some(reason));
        }
        assert_eq!(DropReason::from_name("gremlins"), None);
    }
}
