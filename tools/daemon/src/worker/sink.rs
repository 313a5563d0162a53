//! From the NIC's queue straight into the completion ring: what a packet says is put together in registers and stored once.

use devrx_driver::{Row, RxChunk, RxFlags, RxSink, RxWords};
use devrx_pool::Delivery;
use devrx_proto::completion::Completion;
use devrx_proto::ring::{CompletionGroup, Entry};
use devrx_provider::ChunkIndex;

/// Takes packets for a client. What it took shows after [`finish`](Self::finish) and the ring's next publication. With `LAST` it remembers where the last payload ends.
pub(super) struct RingSink<'a, const LAST: bool> {
    group: CompletionGroup<'a>,
    delivery: Delivery<'a>,
    taken: Taken,
}

/// What a [`RingSink`] took.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Taken {
    /// Whole packets.
    pub(super) packets: u64,
    /// Their chunks.
    pub(super) entries: u32,
    /// Bytes in header slots.
    pub(super) header_bytes: u64,
    /// Bytes in chunks.
    pub(super) payload_bytes: u64,
    /// The last chunk with payload in it, and where that ends, bytes from the chunk's start; if that was asked for.
    pub(super) last: Option<(ChunkIndex, u32)>,
}

impl<'a, const LAST: bool> RingSink<'a, LAST> {
    pub(super) fn new(group: CompletionGroup<'a>, delivery: Delivery<'a>) -> Self {
        Self {
            group,
            delivery,
            taken: Taken::default(),
        }
    }

    /// The entries are complete.
    pub(super) fn finish(self) -> Taken {
        drop(self.delivery);
        self.group.commit();
        self.taken
    }
}

impl<const LAST: bool> RxSink for RingSink<'_, LAST> {
    #[inline]
    fn room(&self) -> usize {
        self.group.room() as usize
    }

    #[inline]
    fn push(&mut self, entry: RxChunk) {
        let generation = self.delivery.deliver(entry.chunk);
        let written = self.group.push(completion(&entry, generation));
        debug_assert!(written, "the driver looked for room");
        let taken = &mut self.taken;
        taken.entries += 1;
        taken.packets += u64::from(!entry.flags.contains(RxFlags::MORE));
        taken.header_bytes += u64::from(entry.header_length);
        taken.payload_bytes += u64::from(entry.length);
        if LAST {
            taken.last = end(&entry).or(taken.last);
        }
    }

    #[inline(always)]
    fn extend(&mut self, packets: impl Iterator<Item = RxChunk>) -> Row {
        let Self {
            group, delivery, ..
        } = self;
        let (mut row, mut last) = (Row::default(), self.taken.last);
        group.extend(packets.map(|packet| {
            row.add(&packet);
            if LAST {
                last = end(&packet).or(last);
            }
            completion(&packet, delivery.deliver(packet.chunk)).to_words()
        }));
        let taken = &mut self.taken;
        taken.last = last;
        // At most what a ring holds.
        taken.entries += row.packets as u32;
        taken.packets += row.packets as u64;
        taken.header_bytes += row.header_bytes;
        taken.payload_bytes += row.payload_bytes;
        row
    }

    #[inline(always)]
    fn extend_by_four(
        &mut self,
        mut packets: impl FnMut() -> Option<([u32; 4], [RxWords; 4])>,
    ) -> usize {
        let Self {
            group,
            delivery,
            taken,
        } = self;
        let mut last = taken.last;
        let count = group.extend_by_four(|| {
            let (chunks, words) = packets()?;
            let generations = delivery.deliver_four(chunks.map(ChunkIndex));
            if LAST {
                let ends = words.into_iter().map(|words| end(&words.into()));
                last = ends.rev().flatten().next().or(last);
            }
            Some((words.map(|words| words.0), generations))
        });
        taken.last = last;
        // At most what a ring holds.
        taken.entries += count;
        taken.packets += u64::from(count);
        count as usize
    }

    fn add_bytes(&mut self, header_bytes: u64, payload_bytes: u64) {
        self.taken.header_bytes += header_bytes;
        self.taken.payload_bytes += payload_bytes;
    }
}

/// What the client reads of a chunk; [`RxWords`] has it in the same places.
#[inline(always)]
pub(super) fn completion(entry: &RxChunk, generation: u16) -> Completion {
    Completion {
        chunk: entry.chunk.0,
        generation,
        flow: entry.flow,
        offset: entry.offset,
        length: entry.length,
        header_length: entry.header_length,
        vlan: entry.vlan,
        rss_hash: entry.rss_hash,
        flags: entry.flags.bits(),
        timestamp: entry.timestamp,
    }
}

/// Where the payload of a chunk ends, if there is some.
#[inline(always)]
pub(super) fn end(entry: &RxChunk) -> Option<(ChunkIndex, u32)> {
    (entry.length > 0).then(|| {
        (
            entry.chunk,
            u32::from(entry.offset) + u32::from(entry.length),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four at a time are copied as they are.
    #[test]
    fn an_entry_in_words_is_a_completion_without_its_generation() {
        let words = RxWords([
            0x0102_0000_0304_0506,
            0x0708_090a_0b0c_0d0e,
            0x0000_0142_1112_1314,
            0x1516_1718_191a_1b1c,
        ]);
        assert_eq!(completion(&words.into(), 0).to_words(), words.0);
        let marked = completion(&words.into(), 0xabcd).to_words();
        assert_eq!(marked[0], words.0[0] | 0xabcd << 32);
        assert_eq!(marked[1..], words.0[1..]);
    }
}
