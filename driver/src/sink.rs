//! Where a poll puts packets: a batch in plain memory, or straight into the ring that a client reads.

use crate::{RxBatch, RxChunk, RxFlags, RxWords};

/// Takes the packets that [`RxQueue::poll`](crate::RxQueue::poll) finds. Static, so that a packet's entry is made in registers and stored once, where it
/// is wanted.
pub trait RxSink {
    /// How many more entries there is room for.
    fn room(&self) -> usize;

    /// Takes an entry. There is [room](Self::room), for all of the packet it begins.
    fn push(&mut self, entry: RxChunk);

    /// Takes entries that are a packet each (none has [`RxFlags::MORE`]): as many as there are and as there is [room](Self::room) for. No entry is taken out of the
    /// iterator that finds no room.
    fn extend(&mut self, packets: impl Iterator<Item = RxChunk>) -> Row;

    /// As [`extend`](Self::extend), four at a time, for as long as there is room for four: their chunks, and all that is said of them. Returns how many packets that were; their bytes are
    /// still to be [told](Self::add_bytes).
    fn extend_by_four(
        &mut self,
        packets: impl FnMut() -> Option<([u32; 4], [RxWords; 4])>,
    ) -> usize;

    /// Bytes in header slots and in chunks of what [`extend_by_four`](Self::extend_by_four) took.
    fn add_bytes(&mut self, header_bytes: u64, payload_bytes: u64);
}

/// What [`RxSink::extend`] took.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Row {
    /// Packets.
    pub packets: usize,
    /// Bytes in their header slots.
    pub header_bytes: u64,
    /// Bytes in their chunks.
    pub payload_bytes: u64,
}

impl Row {
    /// Counts a packet.
    #[inline(always)]
    pub fn add(&mut self, packet: &RxChunk) {
        debug_assert!(!packet.flags.contains(RxFlags::MORE));
        self.packets += 1;
        self.header_bytes += u64::from(packet.header_length);
        self.payload_bytes += u64::from(packet.length);
    }
}

impl RxSink for RxBatch {
    fn room(&self) -> usize {
        self.remaining_capacity()
    }

    #[inline]
    fn push(&mut self, entry: RxChunk) {
        Self::push(self, entry);
    }

    #[inline(always)]
    fn extend(&mut self, packets: impl Iterator<Item = RxChunk>) -> Row {
        let mut row = Row::default();
        let room = self.remaining_capacity();
        // At most what there is room for: `extend` does not panic.
        Extend::extend(self, packets.take(room).inspect(|packet| row.add(packet)));
        row
    }

    #[inline(always)]
    fn extend_by_four(
        &mut self,
        mut packets: impl FnMut() -> Option<([u32; 4], [RxWords; 4])>,
    ) -> usize {
        let before = self.len();
        while self.remaining_capacity() >= 4
            && let Some((_, words)) = packets()
        {
            Extend::extend(self, words.map(RxChunk::from));
        }
        self.len() - before
    }

    fn add_bytes(&mut self, _: u64, _: u64) {}
}
