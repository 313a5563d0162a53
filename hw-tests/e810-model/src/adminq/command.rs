//! One command of the admin queue: its descriptor, its buffer, and how it ends.
//!
//! The descriptor's layout and the codes are from DPDK `ice_adminq_cmd.h` (`struct ice_aq_desc`, `enum ice_aq_err`).

use crate::bytes;

/// Bytes of a control queue's descriptor.
pub(crate) const DESCRIPTOR: usize = 32;
/// A buffer's limit, and from where on the flag for large buffers must be set.
pub(crate) const BUFFER_MAX: usize = 4096;
pub(crate) const BUFFER_LARGE: usize = 512;

pub(crate) const FLAG_DONE: u16 = 1;
pub(crate) const FLAG_COMPLETED: u16 = 1 << 1;
pub(crate) const FLAG_ERROR: u16 = 1 << 2;
pub(crate) const FLAG_LARGE: u16 = 1 << 9;
pub(crate) const FLAG_READ: u16 = 1 << 10;
pub(crate) const FLAG_BUFFER: u16 = 1 << 12;

/// Why a command failed, as the firmware numbers it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u16)]
pub(crate) enum Code {
    NotPermitted = 1,
    NoEntry = 2,
    Io = 5,
    NoMemory = 9,
    Access = 10,
    Busy = 12,
    Exists = 13,
    Invalid = 14,
    NoSpace = 16,
    NoSystem = 17,
    BadAddress = 20,
    BadSignature = 25,
}

impl Code {
    /// Every code that the model gives.
    pub(crate) const ALL: [Self; 12] = [
        Self::NotPermitted,
        Self::NoEntry,
        Self::Io,
        Self::NoMemory,
        Self::Access,
        Self::Busy,
        Self::Exists,
        Self::Invalid,
        Self::NoSpace,
        Self::NoSystem,
        Self::BadAddress,
        Self::BadSignature,
    ];

    /// The code with this number; `EIO` for one that the model never gives.
    pub(crate) fn of(number: u16) -> Self {
        let mut all = Self::ALL.into_iter();
        all.find(|code| *code as u16 == number).unwrap_or(Self::Io)
    }
}

/// A command that is not carried out.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) code: Code,
    /// Empty when a driver that does all it should still gets this answer: then it is no refusal to report.
    pub(crate) why: String,
}

/// The end of a command.
pub(crate) type Done = Result<(), Refused>;

/// A command fails with this code, and why.
pub(crate) fn refuse<T>(code: Code, why: impl Into<String>) -> Result<T, Refused> {
    Err(Refused {
        code,
        why: why.into(),
    })
}

/// A command fails with this code; it is an ordinary answer.
pub(crate) fn answer<T>(code: Code) -> Result<T, Refused> {
    refuse(code, "")
}

/// A command as it came, and what becomes of it.
#[derive(Clone, Debug)]
pub(crate) struct Command {
    pub(crate) opcode: u16,
    pub(crate) flags: u16,
    /// Bytes the driver gave for the buffer, 0 for a direct command.
    pub(crate) len: usize,
    /// The 16 bytes that each command has its own layout for; for a command with a buffer, its address is in the last 8.
    pub(crate) params: [u8; 16],
    /// `len` bytes: what the driver wrote if it set the read flag, else zeros; what goes back.
    pub(crate) buffer: Vec<u8>,
    /// Bytes of the buffer that the answer has; the descriptor's length becomes this.
    pub(crate) answered: usize,
}

impl Command {
    /// From a descriptor in memory.
    pub(crate) fn new(descriptor: &[u8; DESCRIPTOR]) -> Self {
        let flags = bytes::u16_at(descriptor, 0);
        let len = if flags & FLAG_BUFFER == 0 {
            0
        } else {
            usize::from(bytes::u16_at(descriptor, 4))
        };
        Self {
            opcode: bytes::u16_at(descriptor, 2),
            flags,
            len,
            params: bytes::get(descriptor, 16),
            buffer: Vec::new(),
            answered: len,
        }
    }

    /// Where the buffer is.
    pub(crate) fn address(&self) -> u64 {
        u64::from(self.p32(8)) << 32 | u64::from(self.p32(12))
    }

    /// Whether the driver said that the device shall read the buffer.
    pub(crate) fn reads(&self) -> bool {
        self.flags & FLAG_READ != 0
    }

    pub(crate) fn p8(&self, at: usize) -> u8 {
        bytes::u8_at(&self.params, at)
    }

    pub(crate) fn p16(&self, at: usize) -> u16 {
        bytes::u16_at(&self.params, at)
    }

    pub(crate) fn p32(&self, at: usize) -> u32 {
        bytes::u32_at(&self.params, at)
    }

    pub(crate) fn set8(&mut self, at: usize, value: u8) {
        bytes::put(&mut self.params, at, &[value]);
    }

    pub(crate) fn set16(&mut self, at: usize, value: u16) {
        bytes::put16(&mut self.params, at, value);
    }

    pub(crate) fn set32(&mut self, at: usize, value: u32) {
        bytes::put32(&mut self.params, at, value);
    }

    /// The buffer must have come with the read flag and hold `least` bytes.
    pub(crate) fn needs_input(&self, least: usize) -> Done {
        if self.len < least {
            return refuse(
                Code::Invalid,
                format!(
                    "its buffer has {} bytes, it takes at least {least}",
                    self.len
                ),
            );
        }
        if !self.reads() {
            return refuse(
                Code::Invalid,
                "the buffer is input, and the descriptor's RD flag is clear",
            );
        }
        Ok(())
    }

    /// The answer fills the buffer from its beginning; what does not fit is left off.
    pub(crate) fn reply(&mut self, with: &[u8]) {
        bytes::put(&mut self.buffer, 0, with);
        self.answered = with.len().min(self.len);
    }

    /// The descriptor as it goes back.
    pub(crate) fn finished(
        &self,
        descriptor: &[u8; DESCRIPTOR],
        code: Option<Code>,
    ) -> [u8; DESCRIPTOR] {
        let mut out = *descriptor;
        let mut flags = self.flags | FLAG_DONE | FLAG_COMPLETED;
        if code.is_some() {
            flags |= FLAG_ERROR;
        }
        bytes::put16(&mut out, 0, flags);
        if self.flags & FLAG_BUFFER != 0 {
            bytes::put16(&mut out, 4, self.answered as u16);
        }
        bytes::put16(&mut out, 6, code.map_or(0, |code| code as u16));
        bytes::put(&mut out, 16, &self.params);
        out
    }
}
