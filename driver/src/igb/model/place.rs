//! Frames into memory (82576 datasheet 7.1.4 to 7.1.6).

use super::frame::Seen;
use super::steer::Hash;
use super::{FIFO, State};
use crate::igb::regs::{
    CTRL, MRQC, OFFLOAD_STRIP_VLAN, PSRTYPE, RCTL, RLPML, RPLOLR, RXCSUM, RXDCTL_ENABLE,
    RxQueueRegs, VMOLR, ctrl, icr, mrqc, rctl, srrctl, statistics,
};

/// Where a frame's bytes go: so many to the header buffer, the rest to packet buffers; and what the descriptors say.
struct Layout {
    header: usize,
    header_length: usize,
    split: bool,
    overflow: bool,
}

impl State {
    /// A frame from the wire.
    pub(super) fn arrive(&mut self, frame: &[u8]) {
        if self.fault.gone || !self.link || self.get(RCTL) & rctl::EN == 0 {
            return;
        }
        let mut frame = frame.to_vec();
        if frame.len() < 60 {
            frame.resize(60, 0);
        }
        let with_fcs = frame.len() + 4;
        let most = if self.get(RCTL) & rctl::LPE == 0 {
            1522
        } else {
            self.get(RLPML) as usize
        };
        if with_fcs > most {
            self.count(statistics::ROC, 1, 32);
            return;
        }
        let waiting: usize = self.fifo.iter().map(|(frame, _)| frame.len()).sum();
        if waiting + frame.len() > FIFO {
            self.count(statistics::MPC, 1, 32);
            self.raise_other(icr::RXO);
            return;
        }
        self.fifo.push_back((frame, self.now()));
        self.pump();
    }

    /// From the FIFO to memory, as far as it goes.
    pub(super) fn pump(&mut self) {
        while self.bus_master
            && let Some((frame, time)) = self.fifo.pop_front()
        {
            let (vlan, frame) = self.strip(frame);
            let seen = Seen::of(&frame);
            let (queues, hash) = self.queues(&frame, &seen);
            if !queues.is_empty() {
                self.count(statistics::GPRC, 1, 32);
                let bytes = frame.len() as u32 + 4;
                self.count(statistics::GORCL, bytes, 32);
            }
            for queue in queues {
                let ring = RxQueueRegs::of(queue);
                if self.get(ring.rxdctl()) & RXDCTL_ENABLE == 0 {
                    continue;
                }
                let front = self.front(queue, time);
                if self.place(queue, &frame, &seen, hash, vlan, front) {
                    self.raise_queue(queue);
                } else if self.get(ring.srrctl()) & srrctl::DROP_EN != 0 {
                    self.count(ring.rqdpc(), 1, self.part.drop_bits);
                    self.raise_other(icr::RXO);
                } else {
                    // Waits, and everything behind it.
                    self.fifo.push_front((frame, time));
                    return;
                }
            }
        }
    }

    /// Takes the outer tag out, if tags are to be.
    fn strip(&self, mut frame: Vec<u8>) -> (Option<u16>, Vec<u8>) {
        if frame.get(12..14) != Some(&[0x81, 0]) || !self.strips(&frame) {
            return (None, frame);
        }
        let tag = u16::from_be_bytes([frame[14], frame[15]]);
        frame.drain(12..16);
        (Some(tag), frame)
    }

    /// Whether tags are to be taken out of this frame. An 82576 with pools goes by the pool's register and not the port's (7.10.3.8); all pools of a frame
    /// are taken to be alike.
    fn strips(&self, frame: &[u8]) -> bool {
        let pools = self.get(MRQC) & 7 == mrqc::VMDQ && !self.part.queue_strips_crc;
        if !pools {
            return self.get(CTRL) & ctrl::VME != 0;
        }
        let mut destination = [0; 6];
        destination.copy_from_slice(&frame[..6]);
        let offloads = if destination[0] & 1 == 1 {
            RPLOLR
        } else {
            VMOLR.at(self.pools(destination).first().copied().unwrap_or(0))
        };
        self.get(offloads) & OFFLOAD_STRIP_VLAN != 0
    }

    /// `front`: bytes in front of the header, which count as part of it.
    fn layout(&self, queue: u32, frame: &[u8], seen: &Seen, front: usize) -> Layout {
        let control = self.get(RxQueueRegs::of(queue).srrctl());
        let room = (control >> srrctl::HEADER_SHIFT & 0x3f) as usize * 64;
        let split = seen.split(self.get(PSRTYPE.at(queue % PSRTYPE.count())));
        let split = split.map(|end| end + front);
        let fits = split.is_some_and(|end| end <= room);
        let whole = Layout {
            header: 0,
            header_length: split.unwrap_or(room).min(0x3ff),
            split: split.is_some(),
            overflow: split.is_some() && !fits,
        };
        match control & 7 << 25 {
            srrctl::SPLIT if fits => Layout {
                header: whole.header_length,
                ..whole
            },
            srrctl::SPLIT => whole,
            srrctl::SPLIT_ALWAYS if frame.len() <= room => Layout {
                header: frame.len(),
                header_length: frame.len(),
                split: false,
                overflow: false,
            },
            srrctl::SPLIT_ALWAYS if fits => Layout {
                header: whole.header_length,
                ..whole
            },
            srrctl::SPLIT_ALWAYS => Layout {
                header: room,
                ..whole
            },
            _ => Layout {
                header: 0,
                header_length: 0,
                split: false,
                overflow: false,
            },
        }
    }

    /// Writes the frame to `queue`. False if it has too few descriptors.
    fn place(
        &mut self,
        queue: u32,
        frame: &[u8],
        seen: &Seen,
        hash: Option<Hash>,
        vlan: Option<u16>,
        front: Option<[u8; 16]>,
    ) -> bool {
        let ring = RxQueueRegs::of(queue);
        let entries = self.get(ring.rdlen()) / 16;
        let buffer = (self.get(ring.srrctl()) & 0x7f) as usize * 1024;
        if entries == 0 || buffer == 0 {
            return false;
        }
        let before = front.as_ref().map_or(&[][..], |front| front);
        let frame = &[before, frame].concat()[..];
        let layout = self.layout(queue, frame, seen, before.len());
        let payload = frame.get(layout.header..).unwrap_or_default();
        let parts: Vec<&[u8]> = if payload.is_empty() {
            vec![payload]
        } else {
            payload.chunks(buffer).collect()
        };
        let (mut head, tail) = (
            self.get(ring.rdh()) % entries,
            self.get(ring.rdt()) % entries,
        );
        if (tail + entries - head) % entries < parts.len() as u32 {
            return false;
        }
        let (hash, kind) = hash.unwrap_or((0, 0));
        let info = kind
            | seen.packet_type() << 4
            | (layout.header_length as u64) << 21
            | u64::from(layout.split) << 31
            | u64::from(hash) << 32;
        let mut done = 1 << 1 | u64::from(layout.overflow) << 23;
        if self.get(RXCSUM) & 3 << 8 != 0 {
            done |= seen.checksums;
        }
        if front.is_some() {
            done |= 1 << 15;
        }
        if let Some(tag) = vlan {
            done |= 1 << 3 | u64::from(tag) << 48;
        }
        let last = parts.len() - 1;
        for (index, part) in parts.into_iter().enumerate() {
            let at = self.ring_base(queue) + u64::from(head) * 16;
            let (packet, header) = (self.iommu.word(at), self.iommu.word(at + 8));
            if index == 0 && layout.header > 0 {
                let _ = self.iommu.write(header, &frame[..layout.header]);
            }
            if !part.is_empty() {
                let _ = self.iommu.write(packet, part);
            }
            let status = if index == last { done | 1 } else { 1 };
            let _ = self.iommu.write(at, &info.to_le_bytes());
            let word = status | (part.len() as u64) << 32;
            let _ = self.iommu.write(at + 8, &word.to_le_bytes());
            head = (head + 1) % entries;
        }
        self.put(ring.rdh(), head);
        true
    }
}
