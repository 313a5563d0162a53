//! Nearly every packet: one chunk, header split off, no error; and a rule that takes all, or a header of everyday shape. As many as there are in a row, four at a time where the
//! processor can.

use devrx_provider::ChunkIndex;

#[cfg(target_arch = "x86_64")]
use super::quads::{Lanes, Quads};
use super::{Receive, WriteBack};
use crate::chunk::RxChunk;
use crate::flow::Classifier;
use crate::queue::HeaderSlots;
use crate::sink::{Row, RxSink};

impl<W: WriteBack<WORDS>, const WORDS: usize> Receive<W, WORDS> {
    /// As many as there are, on a queue that splits.
    #[inline(always)]
    pub(super) fn plain(&mut self, takes_all: Option<u16>, now: u64, out: &mut impl RxSink) {
        match takes_all {
            Some(flow) => {
                #[cfg(target_arch = "x86_64")]
                self.plain_quads(flow, now, out);
                self.plain_row(|_, _, _, _| Some(flow), now, out);
            }
            None => self.plain_row(Classifier::everyday, now, out),
        }
    }

    /// [`plain_row`](Self::plain_row), for as long as there are four plain packets in a row, where the processor can take four at a time.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn plain_quads(&mut self, flow: u16, now: u64, out: &mut impl RxSink) {
        let Some(avx2) = self.avx2 else { return };
        let (chunk_size, slot_size, mode) = (self.chunk_size, self.slot_size, self.mode);
        let (ring, room) = (&self.ring, out.room());
        let (packets, (header_bytes, payload_bytes)) = avx2.run(|| {
            let mut row = ring.quads(room);
            let lanes = W::Lanes::new(avx2, chunk_size, slot_size, mode);
            let mut quads = Quads::new(avx2, lanes, flow, now);
            let packets = out.extend_by_four(|| {
                let (descriptors, chunks) = row.next()?;
                Some((*chunks, quads.next(descriptors, chunks)?))
            });
            (packets, quads.bytes())
        });
        out.add_bytes(header_bytes, payload_bytes);
        self.took(packets, header_bytes + payload_bytes);
    }

    /// As many descriptors were plain packets.
    #[inline(always)]
    fn took(&mut self, packets: usize, bytes: u64) {
        // At most a ring.
        self.ring.advance(packets as u32);
        self.counts.received += packets as u64;
        self.counts.bytes += bytes;
    }

    /// One by one; `flow_of` says which rule takes a packet, if it can.
    #[inline(always)]
    fn plain_row(
        &mut self,
        flow_of: impl Fn(&Classifier, &HeaderSlots, ChunkIndex, u16) -> Option<u16>,
        now: u64,
        out: &mut impl RxSink,
    ) {
        let (slot_size, chunk_size) = (u32::from(self.slot_size), self.chunk_size);
        let (classifier, headers, mode) = (&self.classifier, &self.headers, self.mode);
        let row = self.ring.row(out.room());
        let Row {
            packets,
            header_bytes,
            payload_bytes,
        } = out.extend(row.map_while(|(descriptor, &chunk)| {
            let packet = W::load(descriptor);
            let length = packet.length();
            let header = packet.split_length();
            // A header that was split off is not empty.
            if !packet.is_plain() || header.wrapping_sub(1) >= slot_size || length > chunk_size {
                return None;
            }
            // Not above the slot's size.
            let header_length = header as u16;
            let chunk = ChunkIndex(chunk);
            let flow = flow_of(classifier, headers, chunk, header_length)?;
            Some(RxChunk {
                chunk,
                offset: 0,
                length,
                header_length,
                vlan: packet.vlan(),
                rss_hash: packet.hash(),
                flags: packet.plain_flags(mode),
                flow,
                timestamp: now,
            })
        }));
        self.took(packets, header_bytes + payload_bytes);
    }
}
