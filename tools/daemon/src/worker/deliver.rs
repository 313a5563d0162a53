//! Packets become completions.

use devrx_driver::{RxBatch, RxChunk, RxFlags, RxQueue, RxSink};
use devrx_proto::drops::DropReason;
use devrx_provider::ChunkIndex;

use super::Worker;
use super::sink::{RingSink, Taken, end};

/// Room in the completion ring for every packet, of however many chunks.
const WHOLE: u32 = devrx_driver::MAX_CHUNKS as u32;
/// Packets at a time.
const BATCH: u32 = 256;

impl<Q: RxQueue> Worker<Q> {
    /// Takes what has arrived, a batch of it, and writes completions. Nothing shows before the next publish. Returns how many chunks that were.
    #[inline]
    pub(super) fn receive(&mut self, batch: &mut RxBatch) -> usize {
        let received = if self.flushes {
            self.receive_to_ring::<true>()
        } else {
            self.receive_to_ring::<false>()
        };
        received.unwrap_or_else(|| self.receive_to_full_ring(batch))
    }

    /// Straight into the ring. `None` where it may not have room for a packet.
    #[inline]
    fn receive_to_ring<const FLUSHES: bool>(&mut self) -> Option<usize> {
        let group = self.rings.completions.reserve_some(WHOLE, BATCH)?;
        let mut sink = RingSink::<FLUSHES>::new(group, self.pool.delivery());
        let received = self.queue.poll(&mut sink);
        let taken = sink.finish();
        self.count(&taken);
        if FLUSHES {
            self.flush(taken.last);
        }
        Some(received)
    }

    /// What the ring has no room for is dropped: packets are taken out of the queue first, all the same.
    #[cold]
    #[inline(never)]
    fn receive_to_full_ring(&mut self, batch: &mut RxBatch) -> usize {
        batch.clear();
        let received = self.queue.poll(batch);
        self.deliver(batch);
        self.flush(batch.iter().rev().find_map(end));
        received
    }

    fn count(&mut self, taken: &Taken) {
        self.numbers.delivered += taken.packets;
        self.numbers.completions += u64::from(taken.entries);
        self.numbers.bytes += taken.header_bytes + taken.payload_bytes;
        self.numbers.payload_bytes += taken.payload_bytes;
    }

    /// Writes a completion for each chunk of each packet, all of a packet's or none.
    pub(super) fn deliver(&mut self, batch: &RxBatch) {
        let mut rest = batch.as_slice();
        while !rest.is_empty() {
            // The driver hands out whole packets; should the last one lack its end, what is there is the packet.
            let length = rest
                .iter()
                .position(|entry| !entry.flags.contains(RxFlags::MORE))
                .map_or(rest.len(), |last| last + 1);
            let (packet, others) = rest.split_at(length);
            rest = others;
            self.deliver_packet(packet);
        }
    }

    /// Delivers a packet, or drops it where the ring has no room for all of it.
    fn deliver_packet(&mut self, chunks: &[RxChunk]) {
        let entries = u32::try_from(chunks.len()).unwrap_or(u32::MAX);
        let Some(group) = self.rings.completions.reserve(entries) else {
            for entry in chunks {
                self.pool.recycle(entry.chunk);
            }
            self.numbers.drops[DropReason::RingFull.index()] += 1;
            return;
        };
        let mut sink = RingSink::<false>::new(group, self.pool.delivery());
        for &entry in chunks {
            sink.push(entry);
        }
        let mut taken = sink.finish();
        // One that lacks its end counts.
        taken.packets = 1;
        self.count(&taken);
    }

    /// To be called between packets and their publication, with where the last payload ends. What a NIC wrote to another device's memory may still be on its
    /// way when the descriptor is done; a read of it comes back after it has arrived. Host memory needs none.
    ///
    /// It reads the last payload byte: posted writes do not overtake each other, so those before it have arrived as well.
    #[inline]
    fn flush(&mut self, last: Option<(ChunkIndex, u32)>) {
        if !self.flushes || devrx_sabotage::removed("flush-read") {
            return;
        }
        let Some((chunk, end)) = last else { return };
        let at = self
            .region
            .offset_of(chunk)
            .and_then(|chunk| usize::try_from(chunk + u64::from(end) - 1).ok());
        if let (Some(at), Some(mapping)) = (at, self.region.mapping())
            && mapping.touch(at)
        {
            self.numbers.flush_reads += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use devrx_driver::RxFlags;
    use devrx_proto::completion::CompletionFlags;

    /// The worker copies the bits as they are.
    #[test]
    fn flags_of_driver_and_completion_are_the_same_bits() {
        for (name, flag) in CompletionFlags::all().iter_names() {
            let ours =
                RxFlags::from_name(name).unwrap_or_else(|| panic!("the driver has no flag {name}"));
            assert_eq!(ours.bits(), flag.bits(), "{name}");
        }
        assert_eq!(RxFlags::all().bits(), CompletionFlags::all().bits());
    }
}
