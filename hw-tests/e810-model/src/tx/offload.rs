//! What the hardware does to a packet on its way out: tags, checksums, segments.
//!
//! Fields: DPDK `ice_lan_tx_rx.h`; the sum that software puts in the checksum field first: `ice_rxtx.c` and RFC 1071. Tunnels are sent as they are.

use crate::bytes;
use crate::checksum;

const TAG1: u64 = 1 << 3;
const TSO: u64 = 1;
const TAG2: u64 = 1 << 2;
const TPID: u16 = 0x8100;

const TCP: u64 = 1;
const UDP: u64 = 3;

/// What a packet's descriptors ask for.
#[derive(Clone, Debug, Default)]
pub(super) struct Offload {
    tag1: Option<u16>,
    tag2: Option<u16>,
    /// Segments: payload bytes of each.
    mss: Option<usize>,
    /// 1 IPv6, 2 IPv4, 3 IPv4 with its header's checksum.
    ip: u64,
    l4: u64,
    mac_len: usize,
    ip_len: usize,
    l4_len: usize,
}

impl Offload {
    /// A context descriptor.
    pub(super) fn context(&mut self, low: u64, high: u64) {
        let command = high >> 4 & 0x7f;
        if command & TSO != 0 {
            self.mss = Some((high >> 50 & 0x3fff) as usize);
        }
        if command & TAG2 != 0 {
            self.tag2 = Some((low >> 32) as u16);
        }
    }

    /// A packet's first data descriptor.
    pub(super) fn first(&mut self, high: u64) {
        let command = high >> 4 & 0xfff;
        let offset = high >> 16 & 0x3_ffff;
        self.ip = command >> 5 & 0x3;
        self.l4 = command >> 8 & 0x3;
        self.mac_len = (offset & 0x7f) as usize * 2;
        self.ip_len = (offset >> 7 & 0x7f) as usize * 4;
        self.l4_len = (offset >> 14 & 0xf) as usize * 4;
        if command & TAG1 != 0 {
            self.tag1 = Some((high >> 48) as u16);
        }
    }

    pub(super) fn segments(&self) -> bool {
        self.mss.is_some()
    }

    /// The frames that leave.
    pub(super) fn apply(&self, packet: Vec<u8>) -> Result<Vec<Vec<u8>>, String> {
        let frames = match self.mss {
            Some(mss) => self.segment(&packet, mss)?,
            None => {
                let mut frame = packet;
                self.checksums(&mut frame, None);
                vec![frame]
            }
        };
        Ok(frames.into_iter().map(|frame| self.tag(frame)).collect())
    }

    fn tag(&self, mut frame: Vec<u8>) -> Vec<u8> {
        // The inner one first, so that the outer comes to lie before it.
        for tci in [self.tag1, self.tag2].into_iter().flatten() {
            let at = 12.min(frame.len());
            let mut tag = TPID.to_be_bytes().to_vec();
            tag.extend_from_slice(&tci.to_be_bytes());
            frame.splice(at..at, tag);
        }
        frame
    }

    /// Where the layer 4 header's checksum is.
    fn sum_at(&self) -> Option<usize> {
        let at = self.mac_len + self.ip_len;
        match self.l4 {
            TCP => Some(at + 16),
            UDP => Some(at + 6),
            _ => None,
        }
    }

    /// Fills checksums. Software has put the pseudo header's sum in the field; of a segment, without the length, which is added here.
    fn checksums(&self, frame: &mut [u8], segment: Option<usize>) {
        let ip = self.mac_len;
        let l4 = ip + self.ip_len;
        if self.ip == 3 && frame.len() >= l4 && self.ip_len >= 20 {
            bytes::put(frame, ip + 10, &[0, 0]);
            let sum = !checksum::sum(&[&frame[ip..l4]]);
            bytes::put(frame, ip + 10, &sum.to_be_bytes());
        }
        let Some(at) = self.sum_at().filter(|at| at + 2 <= frame.len()) else {
            return;
        };
        // Padding is no part of it: the IP header says where the packet ends.
        let end = match self.ip {
            1 => l4.max(ip + 40 + usize::from(bytes::be16_at(frame, ip + 4))),
            _ => ip + usize::from(bytes::be16_at(frame, ip + 2)),
        };
        let end = end.clamp(at + 2, frame.len());
        let length = segment.map_or([0; 2], |len| (len as u16).to_be_bytes());
        let sum = !checksum::sum(&[&frame[l4..end], &length]);
        let sum = if sum == 0 && self.l4 == UDP {
            0xffff
        } else {
            sum
        };
        bytes::put(frame, at, &sum.to_be_bytes());
    }

    /// Cuts a packet into segments.
    fn segment(&self, packet: &[u8], mss: usize) -> Result<Vec<Vec<u8>>, String> {
        if !(64..=9668).contains(&mss) {
            return Err(format!("a segment size of {mss}; 64 to 9668 go"));
        }
        let ip = self.mac_len;
        let l4 = ip + self.ip_len;
        let header = l4 + self.l4_len;
        let least = if self.l4 == TCP { 20 } else { 8 };
        if self.ip == 0 || self.sum_at().is_none() || self.l4_len < least || self.ip_len < 20 {
            return Err("segmentation without the lengths and kinds of its headers".to_owned());
        }
        if packet.len() <= header {
            return Err(format!(
                "segmentation of {} bytes with headers of {header}",
                packet.len()
            ));
        }
        let (head, payload) = packet.split_at(header);
        let parts: Vec<&[u8]> = payload.chunks(mss).collect();
        let mut frames = Vec::with_capacity(parts.len());
        let mut done = 0_u32;
        for (i, part) in parts.iter().enumerate() {
            let mut frame = head.to_vec();
            frame.extend_from_slice(part);
            let ip_total = frame.len() - ip;
            if self.ip == 1 {
                let len = (ip_total - 40.min(ip_total)) as u16;
                bytes::put(&mut frame, ip + 4, &len.to_be_bytes());
            } else {
                bytes::put(&mut frame, ip + 2, &(ip_total as u16).to_be_bytes());
                let id = bytes::be16_at(head, ip + 4).wrapping_add(i as u16);
                bytes::put(&mut frame, ip + 4, &id.to_be_bytes());
            }
            let l4_total = frame.len() - l4;
            if self.l4 == TCP {
                let first = u32::from_be_bytes(bytes::get(head, l4 + 4));
                let sequence = first.wrapping_add(done);
                bytes::put(&mut frame, l4 + 4, &sequence.to_be_bytes());
                let mut flags = bytes::u8_at(head, l4 + 13);
                if i + 1 < parts.len() {
                    // FIN and PSH are the last segment's.
                    flags &= !0x09;
                }
                if i > 0 {
                    // CWR is the first's.
                    flags &= !0x80;
                }
                bytes::put(&mut frame, l4 + 13, &[flags]);
            } else {
                bytes::put(&mut frame, l4 + 4, &(l4_total as u16).to_be_bytes());
            }
            self.checksums(&mut frame, Some(l4_total));
            done = done.wrapping_add(part.len() as u32);
            frames.push(frame);
        }
        Ok(frames)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Frame;

    /// TCP over IPv4 with the pseudo header's sum, without the length, in the checksum field.
    fn packet(payload: usize) -> Vec<u8> {
        let mut packet = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
        let total = (40 + payload) as u16;
        packet.extend([0x45, 0]);
        packet.extend(total.to_be_bytes());
        packet.extend([0, 7, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        packet.extend([
            0, 80, 0, 81, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0x50, 0x19, 1, 0,
        ]);
        let sum = checksum::sum(&[&packet[26..34], &[0, 6]]);
        packet.extend(sum.to_be_bytes());
        packet.extend([0, 0]);
        packet.extend((0..payload).map(|i| i as u8));
        packet
    }

    #[test]
    fn segments_carry_on_and_sum_right() {
        let mut offload = Offload::default();
        offload.context(0, 1 | 1 << 4 | 1000 << 50);
        // IPv4 with checksum, TCP; 14, 20, 20 bytes.
        offload.first((3 << 5 | 1 << 8) << 4 | (7 | 5 << 7 | 5 << 14) << 16);
        let frames = offload.apply(packet(2500)).unwrap();
        assert_eq!(frames.len(), 3);
        for (i, frame) in frames.iter().enumerate() {
            let parsed = Frame::parse(frame);
            assert_eq!(checksum::verdict(&parsed), Some((false, false)), "{i}");
            let sequence = u32::from_be_bytes(bytes::get(frame, 38));
            assert_eq!(sequence, 0xffff_ff00_u32.wrapping_add(1000 * i as u32));
            assert_eq!(bytes::be16_at(frame, 18), 7 + i as u16);
            assert_eq!(frame[47] & 9, if i == 2 { 9 } else { 0 });
        }
        assert_eq!(frames[2].len(), 554);
    }

    #[test]
    fn nonsense_is_told() {
        let mut offload = Offload::default();
        offload.context(0, 1 | 1 << 4 | 1000 << 50);
        assert!(offload.apply(packet(2500)).is_err());
        offload.first((3 << 5 | 1 << 8) << 4 | (7 | 5 << 7 | 5 << 14) << 16);
        assert!(offload.apply(vec![0; 54]).is_err());
        offload.context(0, 1 | 1 << 4 | 10 << 50);
        assert!(offload.apply(packet(2500)).is_err());
    }

    #[test]
    fn tags_are_put_in() {
        let mut offload = Offload::default();
        offload.first(1 << 3 << 4 | 5 << 48);
        let frames = offload.apply(vec![1; 60]).unwrap();
        assert_eq!(frames[0][12..16], [0x81, 0, 0, 5]);
        assert_eq!(frames[0].len(), 64);
    }
}
