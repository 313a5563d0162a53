//! A frame's way from the wire to descriptors.

use super::Late;
use super::descriptor::{DESCRIPTOR, NO_FLOW, Piece, Told};
use super::split::{self, Part};
use crate::Unmapped;
use crate::bytes;
use crate::checksum;
use crate::fault::Fault;
use crate::frame::Frame;
use crate::regs;
use crate::state::State;
use crate::stats::Lost;
use crate::vsi::Strip;

/// Bytes of the shortest frame without its FCS; shorter ones are padded with zeros, as every sender's MAC does.
const SHORTEST: usize = 60;
/// Where a fault goes astray to: above 30 GiB, in nobody's memory.
const STRAY: u64 = 0x7_6543_2000;
/// Descriptors that one packet may use.
const CHAIN: usize = 5;

/// Which queue a VSI's packet goes to, and what the filters say of it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Choice {
    /// Queue of the function.
    pub(crate) queue: u16,
    pub(crate) hash: Option<u32>,
    pub(crate) flow: Option<u32>,
    pub(crate) drop: bool,
}

impl State {
    /// A frame comes from the wire. False when nobody got it.
    pub(crate) fn receive(&mut self, frame: &[u8]) -> bool {
        self.flush_late();
        self.reset_goes_on(4);
        if !self.link_is_up() || self.reset_is_pending() || frame.len() < 14 {
            return false;
        }
        // Only here: what the MAC sends back does not come by the PHY.
        self.clock.arrival = self.stamp();
        let taken = self.take_in(frame);
        self.clock.arrival = None;
        taken
    }

    /// A frame with a bad check sequence comes from the wire: it is counted and goes nowhere.
    pub(crate) fn receive_damaged(&mut self) {
        if self.link_is_up() && !self.reset_is_pending() {
            self.count_damaged();
        }
    }

    /// The MAC has a frame: from the wire, or looped back.
    pub(crate) fn take_in(&mut self, frame: &[u8]) -> bool {
        let mut padded = frame.to_vec();
        if padded.len() < SHORTEST {
            padded.resize(SHORTEST, 0);
        }
        if padded.len() + 4 > usize::from(self.port.max_frame) {
            self.count_oversize();
            return false;
        }
        self.count_port_received(&padded);
        let parsed = Frame::parse(&padded);
        let words = self.extract_for_switch(&parsed);
        let targets = self.switch.lookup(&parsed, &words);
        if targets.dropped || self.fault == Fault::NoRules {
            return false;
        }
        let mut delivered = false;
        if let Some((queue, region)) = targets.queue {
            delivered |= self.give_by_rule(queue, region, &parsed);
        } else {
            for vsi in targets.vsis {
                delivered |= self.give_to_vsi(vsi, &parsed);
            }
        }
        delivered
    }

    /// A rule chose the queue, or several that the hash chooses from. The VSI is the one whose queue it is.
    fn give_by_rule(&mut self, queue: u16, region: u8, frame: &Frame<'_>) -> bool {
        // The rule has the device's number.
        let queue = queue.wrapping_sub(self.card.first_queue());
        let owner = self.vsis.values().find(|vsi| {
            (0..self.card.queues)
                .map_while(|i| vsi.queue(i))
                .any(|have| have == queue)
        });
        let Some(vsi) = owner.map(|vsi| vsi.number) else {
            return false;
        };
        let mut choice = self.choose(vsi, frame);
        let spread = choice.hash.unwrap_or(0) & ((1 << region) - 1);
        choice.queue = queue.saturating_add(spread as u16);
        choice.drop = false;
        self.give_to_queue(vsi, choice, frame)
    }

    /// A frame of another VSI of the port comes to this one.
    pub(crate) fn loop_back(&mut self, vsi: u16, frame: &[u8]) {
        let mut padded = frame.to_vec();
        if padded.len() < SHORTEST {
            padded.resize(SHORTEST, 0);
        }
        self.give_to_vsi(vsi, &Frame::parse(&padded));
    }

    /// A frame for a VSI: VLAN rules, then the choice of a queue.
    fn give_to_vsi(&mut self, number: u16, frame: &Frame<'_>) -> bool {
        let Some(vsi) = self.vsis.get(&number) else {
            return false;
        };
        if vsi.prunes_vlans() && !self.switch.passes_vlan(number, frame.vlan()) {
            return false;
        }
        let choice = self.choose(number, frame);
        if choice.drop {
            return false;
        }
        self.give_to_queue(number, choice, frame)
    }

    /// A frame for a queue: the tag is stripped, the packet parted, descriptors filled.
    fn give_to_queue(&mut self, vsi: u16, choice: Choice, frame: &Frame<'_>) -> bool {
        let parsed = self.parses();
        let tag = match (
            self.vsis.get(&vsi).map(|vsi| vsi.strip()),
            frame.tags.first(),
        ) {
            (Some(Strip::Tag), Some((0x8100, tci))) if parsed => Some(*tci),
            _ => None,
        };
        let mut packet = frame.bytes.to_vec();
        if tag.is_some() {
            packet.drain(12..16);
        }
        match self.place(choice, tag, &packet, frame, parsed) {
            Ok(()) => {
                self.count_vsi_received(vsi, frame);
                self.cause(regs::QINT_RQCTL + u32::from(choice.queue) * 4);
                true
            }
            Err(lost) => {
                self.count_lost(vsi, lost);
                false
            }
        }
    }

    /// Writes a packet to a queue's buffers and descriptors.
    fn place(
        &mut self,
        choice: Choice,
        tag: Option<u16>,
        packet: &[u8],
        frame: &Frame<'_>,
        parsed: bool,
    ) -> Result<(), Lost> {
        let queue = u32::from(choice.queue);
        let Some(running) = self.rx.get(&queue) else {
            return Err(Lost::NoDescriptor);
        };
        let context = running.context.clone();
        let head = running.head;
        let mut data = packet.to_vec();
        if !context.strip_crc {
            data.extend_from_slice(&checksum::crc(packet));
        }
        if context.data == 0 || data.len() > context.max {
            return Err(Lost::Error);
        }
        let seen = Frame::parse(packet);
        let part = split::part(&context, &seen, parsed, self.fault);
        let payload = data.len() - part.header;
        let needed = payload.div_ceil(context.data).max(1);
        // The hardware ignores the tail's low 3 bits: DPDK and Linux say so where they write it.
        let tail = self.regs.get(regs::QRX_TAIL + queue * 4) as u16 & !7;
        let len = context.len;
        let free = (tail + len - head) % len;
        if needed > CHAIN {
            return Err(Lost::Error);
        }
        if usize::from(free) < needed {
            return Err(Lost::NoDescriptor);
        }
        let told = Told {
            rxdid: context.rxdid,
            packet_type: if parsed { seen.packet_type() } else { 1 },
            cast: frame.cast(),
            hash: choice.hash.map(|hash| match self.fault {
                Fault::WrongHash => !hash,
                _ => hash,
            }),
            flow: choice.flow.or(Some(NO_FLOW)),
            source_vsi: 0,
            tag: tag.map(|tci| (tci, context.tag_first)),
            checked: checksum::verdict(&seen).filter(|_| parsed),
            ipv6_extensions: seen
                .ip
                .is_some_and(|ip| ip.version == 6 && ip.end > ip.at + 40 && parsed),
            receive_error: self.fault == Fault::ReceiveError,
            crc_present: !context.strip_crc,
            done: self.fault != Fault::NoDoneBit,
            stamp: self.clock.arrival.filter(|_| context.stamps),
        };
        let (header, mut rest) = data.split_at(part.header);
        for i in 0..needed {
            let at = context.base + u64::from((head + i as u16) % len) * DESCRIPTOR as u64;
            let take = rest.len().min(context.data);
            let (now, later) = rest.split_at(take);
            rest = later;
            let first = (i == 0).then_some((header, part));
            if let Err(error) = self.fill(queue, at, first, now, i + 1 == needed, &told) {
                self.unreadable(queue, (head + i as u16) % len, error);
                return Err(Lost::Error);
            }
        }
        if let Some(running) = self.rx.get_mut(&queue) {
            running.head = (head + needed as u16) % len;
        }
        Ok(())
    }

    /// A descriptor cannot be read: the packet is lost, and the card reports an error of the bus. Said once for a queue; more are counted until it stops.
    fn unreadable(&mut self, queue: u32, index: u16, error: Unmapped) {
        let is_master = self.config.bus_master();
        let Some(running) = self.rx.get_mut(&queue) else {
            return;
        };
        running.unreadable += 1;
        if running.unreadable > 1 {
            return;
        }
        let why = if is_master {
            error.to_string()
        } else {
            "bus mastering is off (bit 2 of the PCI command register)".to_owned()
        };
        self.refuse(format!(
            "receive queue {queue}: descriptor {index} cannot be read: {why}; its packets are lost until it is set up anew"
        ));
        // A read that nobody answers ends in an error that the card sees. Without bus mastering it does not read.
        if is_master {
            self.raise_other(regs::OICR_PCI_EXCEPTION);
        }
    }

    /// One descriptor's buffers and write-back; an error if the descriptor cannot be read.
    fn fill(
        &mut self,
        queue: u32,
        at: u64,
        first: Option<(&[u8], Part)>,
        data: &[u8],
        last: bool,
        told: &Told,
    ) -> Result<(), Unmapped> {
        let from = match self.fault {
            Fault::StrayRing => STRAY,
            _ => at,
        };
        let mut read = [0; DESCRIPTOR];
        self.dma_read(from, &mut read)?;
        let mut packet_at = bytes::u64_at(&read, 0);
        let mut header_at = bytes::u64_at(&read, 8);
        if self.card.strict && header_at & 1 != 0 {
            self.refuse(format!(
                "a descriptor's header address {header_at:#x} is odd: bit 0 is the done bit"
            ));
        }
        header_at &= !1;
        if self.fault == Fault::SwappedBuffers && first.is_some_and(|(_, part)| part.split) {
            std::mem::swap(&mut packet_at, &mut header_at);
        }
        let mut piece = Piece {
            len: data.len(),
            last,
            ..Piece::default()
        };
        // Writes on the bus are posted: the device does not learn that one went nowhere.
        if let Some((header, part)) = first {
            if !header.is_empty() {
                self.post(queue, header_at, header);
            }
            piece.header_len = part.told;
            piece.split = part.split;
            piece.overflow = part.overflow;
            if self.fault == Fault::WrongPacketLength {
                piece.len += header.len();
            }
        }
        if self.fault == Fault::StrayBuffers {
            packet_at = STRAY;
        }
        self.post(queue, packet_at, data);
        let bytes = told.write(piece);
        if self.fault == Fault::LateDescriptor {
            self.late.push(Late { queue, at, bytes });
        } else {
            self.write_back(queue, at, &bytes);
        }
        Ok(())
    }

    /// A posted write: the card does not learn what becomes of it. One that reaches no memory is said once for a queue; more are counted until it stops.
    fn post(&mut self, queue: u32, address: u64, data: &[u8]) {
        let Err(error) = self.dma_write(address, data) else {
            return;
        };
        let count = self.rx.get_mut(&queue).map(|running| {
            running.astray += 1;
            running.astray
        });
        if count.is_none_or(|count| count == 1) {
            self.refuse(format!(
                "receive queue {queue}: a write for a packet: {error}"
            ));
        }
    }

    /// The quarter with the done bit is written last.
    fn write_back(&mut self, queue: u32, at: u64, written: &[u8; DESCRIPTOR]) {
        self.post(queue, at.wrapping_add(16), &written[16..]);
        self.post(queue, at, &written[..8]);
        self.post(queue, at.wrapping_add(8), &written[8..16]);
    }

    /// Descriptors that a fault held back are written.
    pub(crate) fn flush_late(&mut self) {
        for late in std::mem::take(&mut self.late) {
            self.write_back(late.queue, late.at, &late.bytes);
        }
    }
}
