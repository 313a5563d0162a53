//! Nearly every packet: one chunk, header split off, no error; and a rule that takes all, or a header of everyday shape. As many as there are in a row, four at a time where the
//! processor can.

use std::sync::atomic::Ordering;

use devrx_provider::ChunkIndex;

use super::Receive;
use crate::chunk::{RxChunk, RxFlags};
use crate::flow::Classifier;
use crate::ice::descriptor::{Info, Status};
#[cfg(target_arch = "x86_64")]
use crate::ice::quads::Quads;
use crate::queue::HeaderSlots;
use crate::sink::{Row, RxSink};

impl Receive {
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
        let (chunk_size, slot_size) = (self.chunk_size, self.slot_size);
        let (ring, room) = (&self.ring, out.room());
        let (packets, (header_bytes, payload_bytes)) = avx2.run(|| {
            let mut row = ring.quads(room);
            let mut quads = Quads::new(avx2, chunk_size, slot_size, flow, now);
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
        let (classifier, headers) = (&self.classifier, &self.headers);
        let row = self.ring.row(out.room());
        let Row {
            packets,
            header_bytes,
            payload_bytes,
        } = out.extend(row.map_while(|([info, status, ..], &chunk)| {
            // The status first: it has the done bit, behind which the rest is there.
            let status = Status(u64::from_le(status.load(Ordering::Acquire)));
            let info = Info(u64::from_le(info.load(Ordering::Relaxed)));
            let length = info.length();
            let header = info.split_length();
            // A header that was split off is not empty.
            if status.0 & Status::LOOK != Status::PLAIN
                || header.wrapping_sub(1) >= slot_size
                || length > chunk_size
            {
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
                vlan: status.vlan(),
                rss_hash: status.hash(),
                flags: RxFlags::SPLIT | flags(status),
                flow,
                timestamp: now,
            })
        }));
        self.took(packets, header_bytes + payload_bytes);
    }
}

/// What a packet's last descriptor says of checksums, tag and hash.
#[inline(always)]
pub(super) fn flags(status: Status) -> RxFlags {
    let mut bits = RxFlags::TIMESTAMP_SW.bits()
        | (status.0 & Status::HASHED) as u32 >> 6
        | (status.0 & Status::TAGGED) as u32 >> 8;
    bits |= if status.has(Status::BAD) {
        RxFlags::CSUM_BAD.bits()
    } else {
        (status.0 & Status::L3L4P) as u32 >> 1
    };
    RxFlags::from_bits_retain(bits)
}

const _: () = assert!(
    RxFlags::CSUM_GOOD.bits() as u64 == Status::L3L4P >> 1
        && RxFlags::VLAN.bits() as u64 == Status::TAGGED >> 8
        && RxFlags::HASH.bits() as u64 == Status::HASHED >> 6,
    "flags are moved there from the status"
);
