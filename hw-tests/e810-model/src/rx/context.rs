//! A receive queue's context: DPDK `ice_rlan_ctx_info` in `ice_common.c`.

use crate::bytes;

/// Bytes of the context, 8 words in registers.
pub(super) const CONTEXT: usize = 32;

/// How buffers are used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Split {
    /// One buffer for each descriptor.
    None,
    /// Headers of these kinds go to the header buffer: bit 0 L2, 1 IP, 2 TCP and UDP, 3 SCTP (HSPLIT_0).
    Headers(u8),
    /// "Split always", by HSPLIT_1: at the end of L2.
    AlwaysL2,
    /// "Split always": the header buffer is filled first, whatever is in the packet.
    Always,
}

/// What the driver configured for a queue, as it was when the queue was enabled.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Context {
    pub(crate) base: u64,
    /// Descriptors.
    pub(crate) len: u16,
    /// Bytes of a packet buffer.
    pub(crate) data: usize,
    /// Bytes of a header buffer.
    pub(crate) header: usize,
    pub(crate) split: Split,
    pub(crate) strip_crc: bool,
    /// A stripped tag goes to L2TAG1, else to the second half of L2TAG2.
    pub(crate) tag_first: bool,
    /// Bytes of the longest packet.
    pub(crate) max: usize,
    pub(crate) head: u16,
    pub(crate) rxdid: u8,
    /// Packets are stamped, which is not part of the context but beside the profile (QRXFLXP_CNTXT).
    pub(crate) stamps: bool,
}

/// Descriptor profiles with a layout that the model writes: legacy ones (0, 1), NIC (2, 6), comms (16 to 22).
pub(crate) fn has_layout(rxdid: u8) -> bool {
    matches!(rxdid, 0..=2 | 6 | 16..=22)
}

impl Context {
    /// From the registers' words; the reason if no queue can run with it.
    pub(super) fn new(words: &[u8; CONTEXT], rxdid: u8, strict: bool) -> Result<Self, String> {
        let get = |lsb, width| bytes::bits(words, lsb, width);
        let dtype = get(114, 2);
        let split = match (dtype, get(120, 4) as u8, get(124, 2)) {
            (0, ..) => Split::None,
            (1, kinds, _) => Split::Headers(kinds),
            (2, _, 0) => Split::None,
            (2, _, 1) => Split::AlwaysL2,
            (2, _, 2) => Split::Always,
            (_, _, always) => {
                return Err(format!(
                    "DTYPE {dtype} with HSPLIT_1 {always} is no way to split"
                ));
            }
        };
        let context = Self {
            base: get(32, 57) << 7,
            len: get(89, 13) as u16,
            data: get(102, 7) as usize * 128,
            header: get(109, 5) as usize * 64,
            split,
            strip_crc: get(117, 1) == 1,
            tag_first: get(119, 1) == 1,
            max: get(174, 14) as usize,
            head: get(0, 13) as u16,
            rxdid,
            stamps: false,
        };
        context.check(dtype, get(116, 1) == 1, get(201, 1) == 1, strict)?;
        Ok(context)
    }

    fn check(&self, dtype: u64, long: bool, prefetch: bool, strict: bool) -> Result<(), String> {
        if self.base == 0 || self.len == 0 {
            return Err("BASE or QLEN is 0".to_owned());
        }
        if !has_layout(self.rxdid) {
            return Err(format!("RXDID {} has no layout", self.rxdid));
        }
        if self.head >= self.len {
            return Err(format!("HEAD {} is beyond QLEN {}", self.head, self.len));
        }
        if !long {
            return Err("DSIZE 0: descriptors of 16 bytes are not modelled".to_owned());
        }
        if !strict {
            return Ok(());
        }
        if !self.len.is_multiple_of(32) || self.len > 8160 {
            return Err(format!(
                "QLEN {} is not a multiple of 32 up to 8160",
                self.len
            ));
        }
        if !prefetch {
            return Err("PREFENA is 0".to_owned());
        }
        // The queue of Linux's Flow Director VSI has neither buffers nor a maximum: it only programs filters.
        if self.data == 0 && self.max == 0 {
            return Ok(());
        }
        if self.data < 1024 {
            return Err(format!("DBUF of {} bytes; 1024 is the least", self.data));
        }
        if self.max == 0 || self.max > 5 * self.data {
            return Err(format!(
                "RXMAX {} does not lie in 1 to 5 buffers of {}",
                self.max, self.data
            ));
        }
        if dtype != 0 && !(64..=1984).contains(&self.header) {
            return Err(format!(
                "DTYPE {dtype} with HBUF of {} bytes; 64 to 1984 go",
                self.header
            ));
        }
        Ok(())
    }
}
