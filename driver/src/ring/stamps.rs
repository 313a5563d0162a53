//! When packets came, by their NIC's clock.

use std::sync::Arc;

use crate::clock::{Clock, Relation};

/// Where a device has put the stamp of a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Stamp {
    /// It has stamped none.
    None,
    /// In the descriptor: the counter's low bits.
    Here(u64),
    /// In front of the packet: [`FRONT`] bytes at the beginning of its header slot if that has anything, else of its chunk. They are part of the length.
    InFront,
}

/// Bytes in front of a packet with its stamp in them.
pub(crate) const FRONT: u16 = 16;

/// What a queue knows of the clock.
#[derive(Debug)]
pub(super) struct Stamps {
    clock: Arc<Clock>,
    relation: Option<Relation>,
    /// Of which batch that is.
    batch: u64,
}

impl Stamps {
    pub(super) const fn new(clock: Arc<Clock>) -> Self {
        Self {
            clock,
            relation: None,
            batch: 0,
        }
    }

    /// When a packet came that was taken from the ring at `now`, by its stamp: if that can be. Packets of one batch have the same `now`, and the same relation.
    pub(super) fn time_of(&mut self, stamp: u64, now: u64) -> Option<u64> {
        if self.batch != now {
            self.batch = now;
            // While it is being changed, that of the batch before is good.
            if let Ok(relation) = self.clock.read() {
                self.relation = relation;
            }
        }
        self.relation?.time_of(stamp, now)
    }
}
