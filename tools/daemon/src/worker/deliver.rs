//! A batch of packets becomes completions.

use devrx_driver::{RxBatch, RxChunk, RxFlags, RxQueue};
use devrx_proto::completion::Completion;
use devrx_proto::drops::DropReason;
use devrx_proto::ring::Entry;

use super::Worker;

impl<Q: RxQueue> Worker<Q> {
    /// Writes a completion for each chunk of each packet, all of a packet's or none. Nothing shows before the next publish.
    pub(super) fn deliver(&mut self, batch: &RxBatch) {
        let chunks = u32::try_from(batch.len()).unwrap_or(u32::MAX);
        if self.rings.completions.reserve(chunks).is_some() {
            self.deliver_packets(batch);
            return;
        }
        // Not all fit: packet by packet, until the ring is full.
        let mut rest = batch.as_slice();
        while !rest.is_empty() {
            // The driver hands out whole packets; should the last one lack its end, what is there is the packet.
            let length = rest
                .iter()
                .position(|entry| !entry.flags.contains(RxFlags::MORE))
                .map_or(rest.len(), |last| last + 1);
            let (packet, others) = rest.split_at(length);
            rest = others;
            self.deliver_packets(packet);
        }
    }

    /// To be called between a batch and its publication. What a NIC wrote to another device's memory may still be on its way when the
    /// descriptor is done; a read of it comes back after it has arrived. Host memory needs none.
    #[inline]
    pub(super) fn flush(&mut self, batch: &RxBatch) {
        if self.flushes {
            self.read_back(batch);
        }
    }

    /// Reads the last payload byte of a batch: posted writes do not overtake each other, so the ones before it have arrived as well.
    fn read_back(&mut self, batch: &RxBatch) {
        if devrx_sabotage::removed("flush-read") {
            return;
        }
        let Some(last) = batch.iter().rfind(|entry| entry.length > 0) else {
            return;
        };
        let at = self
            .region
            .offset_of(last.chunk)
            .map(|chunk| chunk + u64::from(last.offset) + u64::from(last.length) - 1);
        let at = at.and_then(|at| usize::try_from(at).ok());
        if let (Some(at), Some(mapping)) = (at, self.region.mapping())
            && mapping.touch(at)
        {
            self.numbers.flush_reads += 1;
        }
    }

    /// Delivers one packet or several, whole ones, or drops them all where the ring has no room for all.
    #[inline]
    fn deliver_packets(&mut self, chunks: &[RxChunk]) {
        let entries = u32::try_from(chunks.len()).unwrap_or(u32::MAX);
        let Some(mut group) = self.rings.completions.reserve(entries) else {
            for entry in chunks {
                self.pool.recycle(entry.chunk);
            }
            self.numbers.drops[DropReason::RingFull.index()] += packets(chunks);
            return;
        };
        let mut delivery = self.pool.delivery();
        let mut sums = Sums::default();
        group.extend(chunks, |entry| {
            let generation = delivery.deliver(entry.chunk);
            let words = Completion {
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
            .to_words();
            sums.add(words);
            words
        });
        drop(delivery);
        group.commit();
        self.numbers.delivered += if sums.more() {
            packets(chunks)
        } else {
            u64::from(entries)
        };
        self.numbers.completions += u64::from(entries);
        self.numbers.bytes += sums.header() + sums.payload();
        self.numbers.payload_bytes += sums.payload();
    }
}

/// What is counted of a batch, straight from the completions' words, two numbers to a word: a batch is too short to carry from one into the other.
#[derive(Default)]
struct Sums {
    /// Payload bytes in the low half.
    low: u64,
    /// Header bytes in the high half.
    high: u64,
    /// All flags, in the high half.
    flags: u64,
}

impl Sums {
    /// Two of the four fields of 16 bits that `offset`, `length`, `header_length` and `vlan` are.
    const TWO: u64 = 0x0000_ffff_0000_ffff;

    #[inline(always)]
    fn add(&mut self, words: [u64; 4]) {
        self.low += words[1] >> 16 & Self::TWO;
        self.high += words[1] & Self::TWO;
        self.flags |= words[2];
    }

    fn payload(&self) -> u64 {
        self.low & u64::from(u32::MAX)
    }

    fn header(&self) -> u64 {
        self.high >> 32
    }

    fn more(&self) -> bool {
        self.flags >> 32 & u64::from(RxFlags::MORE.bits()) != 0
    }
}

/// How many packets these chunks are. One that lacks its end counts.
fn packets(chunks: &[RxChunk]) -> u64 {
    let ends = chunks
        .iter()
        .filter(|entry| !entry.flags.contains(RxFlags::MORE))
        .count();
    let cut = chunks
        .last()
        .is_some_and(|last| last.flags.contains(RxFlags::MORE));
    ends as u64 + u64::from(cut)
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
