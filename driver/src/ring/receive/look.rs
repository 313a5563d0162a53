//! What the CPU looks at of a packet: the stamp in front of it, and its header.

use devrx_provider::ChunkIndex;

use super::{Part, Receive};
use crate::chunk::NO_FLOW;
use crate::packet::{MAX_HEADERS, parse};
use crate::ring::stamps::{FRONT, Stamp};
use crate::ring::{Unseen, WriteBack};

/// What was in front of a packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Front {
    /// Bytes of it that are still there, in the packet's first chunk.
    pub(super) length: u16,
    pub(super) stamp: Option<u64>,
}

impl Front {
    pub(super) const NONE: Self = Self {
        length: 0,
        stamp: None,
    };

    pub(super) const fn of(stamp: u64) -> Self {
        Self {
            length: 0,
            stamp: Some(stamp),
        }
    }
}

impl<W: WriteBack<WORDS>, const WORDS: usize> Receive<W, WORDS> {
    /// Where the stamp is of the packet that the oldest descriptor ends.
    pub(super) fn stamp(&self) -> Stamp {
        let stamped = self.stamps.as_ref().and_then(|_| self.ring.oldest());
        stamped.map_or(Stamp::None, W::stamp)
    }

    /// Takes the stamp away that is in front of the packet in `partial`, of which `header` bytes are in its slot: what is left of those, and the rest. `None`
    /// where there is none after all.
    pub(super) fn take_front(&mut self, header: u16) -> Option<(u16, Front)> {
        let first = *self.partial.first()?;
        let chunk = ChunkIndex(first.chunk);
        let mut front = [0; FRONT as usize];
        if header == 0 {
            first.length.checked_sub(FRONT)?;
            let at = self.region.offset_of(chunk)?;
            // Where the CPU does not read, nobody knows.
            let mapping = self.region.mapping();
            let mapping = mapping.filter(|_| self.region.cpu_readable());
            let copied = mapping.is_some_and(|mapping| mapping.copy_out(at as usize, &mut front));
            let stamp = match copied {
                true => Some(W::counter(front, self.mode)?),
                false => None,
            };
            let length = FRONT;
            return Some((0, Front { length, stamp }));
        }
        let left = header.checked_sub(FRONT)?;
        let slot = self.headers.offset_of(chunk)?;
        let memory = &self.headers.memory;
        if header > self.slot_size || !memory.copy_out(slot, &mut front) {
            return None;
        }
        let stamp = W::counter(front, self.mode)?;
        // To where clients look for the header; upwards, so that nothing is overwritten that is still to be moved.
        let left_bytes = usize::from(left);
        for done in (0..left_bytes).step_by(MAX_HEADERS) {
            let piece = &mut self.look[..(left_bytes - done).min(MAX_HEADERS)];
            let to = slot + done;
            if !memory.copy_out(to + usize::from(FRONT), piece) || !memory.copy_in(to, piece) {
                return None;
            }
        }
        Some((left, Front::of(stamp)))
    }

    /// The first rule that takes the packet: by its header slot, or where it was not split by the beginning of its chunk, behind `front` bytes. Copied once.
    pub(super) fn flow_of(&mut self, first: Part, header: usize, front: u16, frame: usize) -> u16 {
        let chunk = ChunkIndex(first.chunk);
        let len = if header > 0 {
            header
        } else {
            usize::from(first.length - front)
        };
        let look = &mut self.look[..len.min(MAX_HEADERS)];
        let copied = if header > 0 {
            let slot = self.headers.offset_of(chunk);
            slot.is_some_and(|slot| self.headers.memory.copy_out(slot, look))
        } else {
            // Not split, and so not dropped: the CPU may look.
            let at = self
                .region
                .offset_of(chunk)
                .filter(|_| self.manner.unseen == Unseen::Chunk);
            let mapping = self.region.mapping();
            // An offset of this process's memory fits.
            at.zip(mapping).is_some_and(|(at, mapping)| {
                mapping.copy_out(at as usize + usize::from(front), look)
            })
        };
        if !copied {
            return NO_FLOW;
        }
        self.classifier.find(&parse(look, frame).key)
    }
}
