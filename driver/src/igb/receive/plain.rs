//! Nearly every packet: one chunk, header split off, no error; and a rule that takes all, or a header of everyday shape. As many as there are in a row, four at a
//! time where the processor can.

use std::sync::atomic::Ordering;

use devrx_provider::ChunkIndex;

use super::{Receive, Split};
use crate::chunk::{RxChunk, RxFlags};
use crate::flow::Classifier;
use crate::igb::descriptor::{Info, Status};
#[cfg(target_arch = "x86_64")]
use crate::igb::quads::Quads;
use crate::queue::HeaderSlots;
use crate::sink::{Row, RxSink};

impl Receive {
    /// Nearly every packet: one chunk, header split off, no error; and a rule that takes all, or a header of everyday shape. As many as there are in a row.
    #[inline(always)]
    pub(super) fn plain(&mut self, takes_all: Option<u16>, now: u64, out: &mut impl RxSink) {
        let tagged = if self.strip_vlan { Status::VP } else { 0 };
        match takes_all {
            _ if self.split == Split::No => {}
            Some(flow) => {
                #[cfg(target_arch = "x86_64")]
                self.plain_quads(tagged, flow, now, out);
                self.plain_row(tagged, |_, _, _, _| Some(flow), now, out);
            }
            None => self.plain_row(tagged, Classifier::everyday, now, out),
        }
    }

    /// [`plain_row`](Self::plain_row), for as long as there are four plain packets in a row, where the processor can take four at a time.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn plain_quads(&mut self, tagged: u64, flow: u16, now: u64, out: &mut impl RxSink) {
        let Some(avx2) = self.avx2 else { return };
        let (chunk_size, slot_size) = (self.chunk_size, self.slot_size);
        let (ring, room) = (&self.ring, out.room());
        let (packets, (header_bytes, payload_bytes)) = avx2.run(|| {
            let mut row = ring.quads(room);
            let mut quads = Quads::new(avx2, chunk_size, slot_size, tagged, flow, now);
            let packets = out.extend_by_four(|| {
                let (pairs, chunks) = row.next()?;
                Some((*chunks, quads.next(pairs, chunks)?))
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

    /// [`plain`](Self::plain), where `tagged` is the bit that says of a packet that its tag was taken out, if that is done at all; and `flow_of` says which rule takes
    /// a packet, if it can.
    #[inline(always)]
    fn plain_row(
        &mut self,
        tagged: u64,
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
        } = out.extend(row.map_while(|([info, status], &chunk)| {
            // The status first: it has the done bit, behind which the rest is there.
            let status = Status(u64::from_le(status.load(Ordering::Acquire)));
            let info = Info(u64::from_le(info.load(Ordering::Relaxed)));
            let length = status.length();
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
                header_length: header as u16,
                vlan: status.vlan(),
                rss_hash: info.hash(),
                flags: plain_flags(info.hash_type(), status.0 & (Status::L4CS | tagged)),
                flow,
                timestamp: now,
            })
        }));
        self.took(packets, header_bytes + payload_bytes);
    }
}

/// The flags of a plain packet, by what was hashed (four bits) and of the status whether the checksum was checked and whether a tag was taken out.
#[inline(always)]
fn plain_flags(hash_type: u64, status: u64) -> RxFlags {
    const FLAGS: [u32; 128] = {
        let mut flags = [0; 128];
        let mut at = 0;
        while at < flags.len() {
            flags[at] = RxFlags::SPLIT.bits()
                | RxFlags::TIMESTAMP_SW.bits()
                | if at & 0xf != 0 {
                    RxFlags::HASH.bits()
                } else {
                    0
                }
                | if at as u64 & Status::VP << 1 != 0 {
                    RxFlags::VLAN.bits()
                } else {
                    0
                }
                | if at as u64 & Status::L4CS << 1 != 0 {
                    RxFlags::CSUM_GOOD.bits()
                } else {
                    0
                };
            at += 1;
        }
        flags
    };
    // One bit higher than in the status, to be out of the hash's way.
    let at = hash_type | (status & (Status::VP | Status::L4CS)) << 1;
    RxFlags::from_bits_retain(FLAGS[at as usize & 127])
}
