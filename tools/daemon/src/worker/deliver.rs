//! A batch of packets becomes completions.

use devrx_driver::{RxBatch, RxChunk, RxFlags, RxQueue};
use devrx_proto::completion::Completion;
use devrx_proto::drops::DropReason;

use super::Worker;

impl<Q: RxQueue> Worker<Q> {
    /// Writes a completion for each chunk of each packet, all of a packet's or none. Nothing shows before the next publish.
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

    #[inline]
    fn deliver_packet(&mut self, packet: &[RxChunk]) {
        let entries = u32::try_from(packet.len()).unwrap_or(u32::MAX);
        let Some(mut group) = self.rings.completions.reserve(entries) else {
            for entry in packet {
                self.pool.recycle(entry.chunk);
            }
            self.numbers.drops[DropReason::RingFull.index()] += 1;
            return;
        };
        let mut payload = 0u64;
        let mut header = 0u64;
        for entry in packet {
            payload += u64::from(entry.length);
            header += u64::from(entry.header_length);
            let generation = self.pool.deliver(entry.chunk);
            group.push(Completion {
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
            });
        }
        group.commit();
        self.numbers.delivered += 1;
        self.numbers.completions += u64::from(entries);
        self.numbers.bytes += header + payload;
        self.numbers.payload_bytes += payload;
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
