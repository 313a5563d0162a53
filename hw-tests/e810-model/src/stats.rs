//! Statistics: registers that count up and are never cleared by reading, 40 bits in two words where a name has a high part.
//!
//! Which: DPDK `ice_ethdev.c`, `ice_read_stats_registers` and `ice_update_vsi_stats`; octets count the FCS.

use crate::frame::Frame;
use crate::state::State;

/// Port counters, of port 0.
const GLPRT_GORC: u32 = 0x38_0000;
const GLPRT_UPRC: u32 = 0x38_1300;
const GLPRT_MPRC: u32 = 0x38_1340;
const GLPRT_BPRC: u32 = 0x38_1380;
const GLPRT_GOTC: u32 = 0x38_0b40;
const GLPRT_UPTC: u32 = 0x38_11c0;
const GLPRT_MPTC: u32 = 0x38_1200;
const GLPRT_BPTC: u32 = 0x38_1240;
const GLPRT_CRCERRS: u32 = 0x38_0100;
const GLPRT_ROC: u32 = 0x38_0240;
/// Counters by frame size, 64 bytes apart: up to 64, 127, 255, 511, 1023, 1522, 9522.
const GLPRT_PRC: u32 = 0x38_0900;
const GLPRT_PTC: u32 = 0x38_0b80;
const SIZES: [usize; 6] = [64, 127, 255, 511, 1023, 1522];
/// VSI counters, 8 bytes apart; the last four 4 bytes.
const GLV_GORC: u32 = 0x3b_0000;
const GLV_UPRC: u32 = 0x3b_2000;
const GLV_MPRC: u32 = 0x3b_4000;
const GLV_BPRC: u32 = 0x3b_6000;
const GLV_GOTC: u32 = 0x30_0000;
const GLV_UPTC: u32 = 0x30_a000;
const GLV_MPTC: u32 = 0x30_c000;
const GLV_BPTC: u32 = 0x30_e000;
const GLV_RDPC: u32 = 0x29_4c04;
const GLV_REPC: u32 = 0x29_5804;
const GLV_TEPC: u32 = 0x31_2000;

/// Why a queue did not take a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Lost {
    NoDescriptor,
    Error,
}

impl State {
    /// Adds to a counter of two words.
    pub(crate) fn add40(&mut self, low: u32, more: u64) {
        let before = u64::from(self.regs.get(low)) | u64::from(self.regs.get(low + 4)) << 32;
        let now = before.wrapping_add(more) & ((1 << 40) - 1);
        self.regs.set(low, now as u32);
        self.regs.set(low + 4, (now >> 32) as u32);
    }

    fn add32(&mut self, at: u32) {
        self.regs.set(at, self.regs.get(at).wrapping_add(1));
    }

    pub(crate) fn count_damaged(&mut self) {
        self.add40(GLPRT_CRCERRS, 1);
    }

    pub(crate) fn count_oversize(&mut self) {
        self.add40(GLPRT_ROC, 1);
    }

    pub(crate) fn count_port_received(&mut self, frame: &[u8]) {
        self.add40(GLPRT_GORC, frame.len() as u64 + 4);
        let kind = [GLPRT_UPRC, GLPRT_MPRC, GLPRT_BPRC][cast(frame)];
        self.add40(kind, 1);
        self.add40(GLPRT_PRC + size_class(frame), 1);
    }

    pub(crate) fn count_port_sent(&mut self, frame: &[u8]) {
        self.add40(GLPRT_GOTC, frame.len() as u64 + 4);
        let kind = [GLPRT_UPTC, GLPRT_MPTC, GLPRT_BPTC][cast(frame)];
        self.add40(kind, 1);
        self.add40(GLPRT_PTC + size_class(frame), 1);
    }

    pub(crate) fn count_vsi_received(&mut self, vsi: u16, frame: &Frame<'_>) {
        let at = u32::from(vsi) * 8;
        self.add40(GLV_GORC + at, frame.bytes.len() as u64 + 4);
        let kind = [GLV_UPRC, GLV_MPRC, GLV_BPRC][cast(frame.bytes)];
        self.add40(kind + at, 1);
    }

    pub(crate) fn count_vsi_sent(&mut self, vsi: u16, frame: &[u8]) {
        let at = u32::from(vsi) * 8;
        self.add40(GLV_GOTC + at, frame.len() as u64 + 4);
        let kind = [GLV_UPTC, GLV_MPTC, GLV_BPTC][cast(frame)];
        self.add40(kind + at, 1);
    }

    /// A VSI's packet was not sent.
    pub(crate) fn count_not_sent(&mut self, vsi: u16) {
        self.add32(GLV_TEPC + u32::from(vsi) * 4);
    }

    /// A VSI's packet was lost: counted in GLV_RDPC, and by its reason in one half of GLV_REPC, which stops at its end.
    pub(crate) fn count_lost(&mut self, vsi: u16, lost: Lost) {
        let at = u32::from(vsi) * 4;
        self.add32(GLV_RDPC + at);
        let shift = if lost == Lost::NoDescriptor { 0 } else { 16 };
        let value = self.regs.get(GLV_REPC + at);
        if value >> shift & 0xffff != 0xffff {
            self.regs.set(GLV_REPC + at, value + (1 << shift));
        }
    }
}

/// 0 unicast, 1 multicast, 2 broadcast.
fn cast(frame: &[u8]) -> usize {
    match frame.get(..6) {
        Some([0xff, 0xff, 0xff, 0xff, 0xff, 0xff]) => 2,
        Some([first, ..]) => usize::from(first & 1),
        _ => 0,
    }
}

/// Where in an array of counters a frame's size counts, in bytes.
fn size_class(frame: &[u8]) -> u32 {
    let len = frame.len() + 4;
    let class = SIZES.iter().position(|most| len <= *most);
    class.unwrap_or(SIZES.len()) as u32 * 0x40
}
