//! A batch of packets.

use std::ops::Range;

use devrx_proto::completion::Completion;
use devrx_proto::refill::RefillEntry;

use crate::attachment::Attachment;
use crate::{Held, Memory, Packet};

/// Packets that came from one queue. When it is dropped, the chunks that were not held go back, with one check whether the daemon
/// waits for them.
#[must_use = "dropping a batch gives its chunks back"]
pub struct Batch<'attachment> {
    pub(crate) attachment: &'attachment mut Attachment,
    pub(crate) queue: usize,
    /// Entries of the scratch space that are this batch: whole packets.
    pub(crate) len: usize,
}

impl Batch<'_> {
    /// Whether there is no packet: the time was over.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many packets there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries().iter().filter(|entry| !entry.more()).count()
    }

    /// The queue they came from, counted from 0 within the attachment.
    #[must_use]
    pub fn queue(&self) -> usize {
        self.queue
    }

    /// All completions, one a chunk.
    #[must_use]
    pub fn entries(&self) -> &[Completion] {
        &self.attachment.scratch[..self.len]
    }

    /// The packets, in order.
    #[must_use]
    pub fn packets(&self) -> Packets<'_> {
        Packets {
            batch: self,
            next: 0,
        }
    }

    /// Gives the chunks back: the same as dropping the batch.
    pub fn give_back(self) {}

    pub(crate) fn memory(&self) -> &Memory {
        &self.attachment.memory
    }

    pub(crate) fn chunk_size(&self) -> u32 {
        self.attachment.opened.region.chunk_size
    }

    /// Marks entries as held. `false`: they were already (a packet is held as a whole).
    pub(crate) fn mark_held(&self, range: Range<usize>) -> bool {
        self.attachment.any_held.set(true);
        let held = &self.attachment.held[range];
        let fresh = held.iter().all(|held| !held.get());
        held.iter().for_each(|held| held.set(true));
        fresh
    }

    pub(crate) fn held(&self, entry: &Completion) -> Held {
        Held {
            attachment: self.attachment.id,
            queue: self.queue as u16,
            generation: entry.generation,
            chunk: entry.chunk,
            offset: entry.offset,
            length: entry.length,
            header_length: entry.header_length,
            chunk_size: self.chunk_size(),
        }
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        if self.len == 0 {
            return;
        }
        let Attachment {
            scratch,
            held,
            any_held,
            queues,
            ..
        } = &mut *self.attachment;
        let queue = &mut queues[self.queue];
        let entries = &scratch[..self.len];
        if any_held.replace(false) {
            for (entry, held) in entries.iter().zip(held.iter()) {
                if !held.replace(false) {
                    queue.give(RefillEntry::new(entry.chunk, entry.generation));
                }
            }
        } else {
            for entry in entries {
                queue.give(RefillEntry::new(entry.chunk, entry.generation));
            }
        }
        queue.flush();
    }
}

impl std::fmt::Debug for Batch<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch")
            .field("queue", &self.queue)
            .field("entries", &self.entries())
            .finish_non_exhaustive()
    }
}

impl<'batch> IntoIterator for &'batch Batch<'_> {
    type Item = Packet<'batch>;
    type IntoIter = Packets<'batch>;

    fn into_iter(self) -> Packets<'batch> {
        self.packets()
    }
}

/// The packets of a batch.
#[derive(Debug, Clone)]
pub struct Packets<'batch> {
    batch: &'batch Batch<'batch>,
    next: usize,
}

impl<'batch> Iterator for Packets<'batch> {
    type Item = Packet<'batch>;

    fn next(&mut self) -> Option<Packet<'batch>> {
        let batch = self.batch;
        let rest = &batch.attachment.scratch[self.next..batch.len];
        let count = rest.iter().position(|entry| !entry.more())? + 1;
        let packet = Packet {
            batch,
            first: self.next,
            entries: &rest[..count],
        };
        self.next += count;
        Some(packet)
    }
}
