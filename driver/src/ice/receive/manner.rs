//! How a queue's packets come, and what becomes of those that were not split.

use crate::queue::{QueueConfig, Unsplit};

/// How a queue's packets come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::ice) struct Manner {
    /// Headers are split off by the NIC.
    pub splits: bool,
    /// Splitting was asked for, whether the NIC does it or not.
    pub asked: bool,
    /// What is not split is dropped.
    pub drops_unsplit: bool,
    /// The CPU may read chunks.
    pub readable: bool,
}

impl Manner {
    /// What a configuration comes to, on a NIC that splits or does not.
    pub(in crate::ice) fn of(config: &QueueConfig, parser: bool) -> Self {
        let readable = config.provider.region().cpu_readable();
        Self {
            splits: config.split && parser,
            asked: config.split,
            drops_unsplit: config.split && (config.unsplit == Unsplit::Drop || !readable),
            readable,
        }
    }
}
