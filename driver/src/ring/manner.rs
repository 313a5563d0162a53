//! How a queue's packets come, and what becomes of those that were not split.

/// How a queue's packets come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Manner {
    /// Headers are split off by the NIC.
    pub splits: bool,
    /// Splitting was asked for, whether the NIC does it or not.
    pub asked: bool,
    /// What is not split is dropped.
    pub drops_unsplit: bool,
    /// Which rule takes the rest of that.
    pub unseen: Unseen,
}

/// Which rule takes a packet that has nothing in its header slot.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Unseen {
    /// The first that takes everything: nobody looks into chunks.
    Any,
    /// The first that the beginning of the chunk fits, which the CPU may read.
    Chunk,
    /// None but one that takes all and comes first.
    None,
}
