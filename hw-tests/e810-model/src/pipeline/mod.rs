//! The flexible pipeline: the package that programs it, hashes, Flow Director.

use crate::frame::Frame;
use crate::rx::Choice;
use crate::state::State;
use crate::switch::recipe::Extracted;

/// The package that was downloaded.
#[derive(Debug, Default)]
pub(crate) struct Package {
    loaded: bool,
}

impl Package {
    pub(crate) fn is_loaded(&self) -> bool {
        self.loaded
    }
}

/// A filter descriptor of a transmit ring.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Program {
    low: u64,
    high: u64,
}

impl Program {
    pub(crate) fn new(low: u64, high: u64) -> Self {
        Self { low, high }
    }
}

impl State {
    /// A filter is programmed with a packet that shows what it matches.
    pub(crate) fn program(&mut self, _vsi: u16, _program: Program, _packet: &[u8]) {}

    /// Whether headers are found at all.
    pub(crate) fn parses(&self) -> bool {
        self.package.loaded || self.card.parses_without_package
    }

    /// A queue for a VSI's packet.
    pub(crate) fn choose(&mut self, vsi: u16, _frame: &Frame<'_>) -> Choice {
        let queue = self.vsis.get(&vsi).and_then(|vsi| vsi.queue(0));
        Choice {
            queue: queue.unwrap_or(0),
            ..Choice::default()
        }
    }

    /// The words that switch recipes compare.
    pub(crate) fn extract_for_switch(&self, _frame: &Frame<'_>) -> Extracted {
        Extracted
    }

    /// A reset takes the package.
    pub(crate) fn package_lost(&mut self) {
        self.package = Package::default();
    }

    /// The package's own entries are not handed out.
    pub(crate) fn package_reserves(&mut self) {}

    /// Flow Director filters go.
    pub(crate) fn clear_filters(&mut self) {}
}
