//! Transmit.

use crate::state::State;

/// A queue that runs.
#[derive(Clone, Debug)]
pub(crate) struct Queue {
    pub(crate) vsi: u16,
}

impl State {
    /// Whether a VSI has transmit queues.
    pub(crate) fn transmits_from(&self, vsi: u16) -> bool {
        self.tx.values().any(|queue| queue.vsi == vsi)
    }
}
