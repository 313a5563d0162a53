//! What is written back to a descriptor: DPDK `ice_lan_tx_rx.h` (`ice_32b_rx_flex_desc*`, `ice_32byte_rx_desc`).

use crate::bytes;
use crate::clock::Stamp;

/// Bytes of a descriptor.
pub(crate) const DESCRIPTOR: usize = 32;
/// What the flow id is when no filter matched.
pub(crate) const NO_FLOW: u32 = u32::MAX;

const DONE: u16 = 1;
const END_OF_PACKET: u16 = 1 << 1;
const OVERFLOW: u16 = 1 << 2;
const CHECKED: u16 = 1 << 3;
const IP_ERROR: u16 = 1 << 4;
const L4_ERROR: u16 = 1 << 5;
const IPV6_EXTENSIONS: u16 = 1 << 9;
const RECEIVE_ERROR: u16 = 1 << 10;
const CRC_PRESENT: u16 = 1 << 11;
const HASH_VALID: u16 = 1 << 12;
const TAG1_PRESENT: u16 = 1 << 13;
const TAG2_PRESENT: u16 = 1 << 11;
const SPLIT: u16 = 1 << 11;

/// All that a descriptor can tell of a packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Told {
    pub(crate) rxdid: u8,
    pub(crate) packet_type: u16,
    /// 0 unicast, 1 multicast, 2 broadcast.
    pub(crate) cast: u8,
    pub(crate) hash: Option<u32>,
    pub(crate) flow: Option<u32>,
    pub(crate) source_vsi: u16,
    /// The stripped tag, and whether it goes to L2TAG1.
    pub(crate) tag: Option<(u16, bool)>,
    /// There is an IP header whose checksums were looked at: bad header, bad layer 4.
    pub(crate) checked: Option<(bool, bool)>,
    pub(crate) ipv6_extensions: bool,
    pub(crate) receive_error: bool,
    pub(crate) crc_present: bool,
    pub(crate) done: bool,
    pub(crate) stamp: Option<Stamp>,
}

/// One descriptor of a packet.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Piece {
    /// Bytes in this descriptor's packet buffer.
    pub(crate) len: usize,
    pub(crate) header_len: usize,
    pub(crate) split: bool,
    pub(crate) overflow: bool,
    pub(crate) last: bool,
}

impl Told {
    /// The descriptor's bytes.
    pub(crate) fn write(&self, piece: Piece) -> [u8; DESCRIPTOR] {
        if self.rxdid < 2 {
            return self.legacy(piece);
        }
        let mut out = [0; DESCRIPTOR];
        out[0] = self.rxdid;
        out[1] = self.cast << 6;
        bytes::put16(&mut out, 2, self.packet_type);
        bytes::put16(&mut out, 4, piece.len as u16 & 0x3fff);
        let mut header = piece.header_len as u16 & 0x7ff;
        if piece.split {
            header |= SPLIT;
        }
        bytes::put16(&mut out, 6, header);
        let mut status = 0;
        if self.done {
            status |= DONE;
        }
        if piece.overflow {
            status |= OVERFLOW;
        }
        if piece.last {
            status |= END_OF_PACKET | self.status();
        }
        bytes::put16(&mut out, 8, status);
        if piece.last {
            self.fields(&mut out);
        }
        out
    }

    /// Bits of the last descriptor.
    fn status(&self) -> u16 {
        let mut status = 0;
        if let Some((ip, l4)) = self.checked {
            status |= CHECKED;
            status |= if ip { IP_ERROR } else { 0 };
            status |= if l4 { L4_ERROR } else { 0 };
        }
        for (is, bit) in [
            (self.ipv6_extensions, IPV6_EXTENSIONS),
            (self.receive_error, RECEIVE_ERROR),
            (self.crc_present, CRC_PRESENT),
            (self.hash.is_some(), HASH_VALID),
            (matches!(self.tag, Some((_, true))), TAG1_PRESENT),
        ] {
            status |= if is { bit } else { 0 };
        }
        status
    }

    /// Words whose place depends on the profile.
    fn fields(&self, out: &mut [u8; DESCRIPTOR]) {
        let hash = self.hash.unwrap_or(0);
        let flow = self.flow.unwrap_or(NO_FLOW);
        match self.tag {
            Some((tci, true)) => bytes::put16(out, 10, tci),
            Some((tci, false)) => {
                bytes::put16(out, 16, TAG2_PRESENT);
                bytes::put16(out, 22, tci);
            }
            None => {}
        }
        if let Some(stamp) = self.stamp {
            out[19] = stamp.low;
            bytes::put32(out, 28, stamp.high);
        }
        match self.rxdid {
            6 => {
                bytes::put32(out, 12, hash);
                bytes::put16(out, 24, flow as u16);
                bytes::put16(out, 26, self.source_vsi);
            }
            // The profile that DPDK's default is built on has the two the other way round.
            22 => {
                bytes::put32(out, 12, flow);
                bytes::put32(out, 24, hash);
            }
            _ => {
                bytes::put32(out, 12, hash);
                bytes::put32(out, 24, flow);
            }
        }
    }

    /// RXDID 0 and 1.
    fn legacy(&self, piece: Piece) -> [u8; DESCRIPTOR] {
        let mut out = [0; DESCRIPTOR];
        let mut qword = 0_u64;
        let mut set = |bit: u32, is: bool| qword |= u64::from(is) << bit;
        set(0, self.done);
        set(1, piece.last);
        set(19, self.receive_error);
        set(21, piece.overflow);
        if piece.last {
            set(2, self.tag.is_some());
            set(15, self.ipv6_extensions);
            if let Some((ip, l4)) = self.checked {
                set(3, true);
                set(22, ip);
                set(23, l4);
            }
            if let Some(hash) = self.hash {
                set(12, true);
                set(13, true);
                bytes::put32(&mut out, 4, hash);
            }
            bytes::put16(&mut out, 2, self.tag.map_or(0, |(tci, _)| tci));
            bytes::put32(&mut out, 28, self.flow.unwrap_or(0));
        }
        qword |= u64::from(self.cast & 0x3) << 9;
        qword |= u64::from(self.packet_type & 0xff) << 30;
        qword |= (piece.len as u64 & 0x3fff) << 38;
        qword |= (piece.header_len as u64 & 0x7ff) << 52;
        qword |= u64::from(piece.split) << 63;
        bytes::put64(&mut out, 8, qword);
        out
    }
}
