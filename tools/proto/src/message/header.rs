//! The 16 bytes in front of every message.

use super::MessageError;
use crate::socket::MAX_MESSAGE;

/// The first four bytes: "DVRX".
pub const MAGIC: u32 = u32::from_le_bytes(*b"DVRX");
/// The version of the protocol. Both sides must speak the same; bodies may gain optional keys within a version.
pub const VERSION: u16 = 1;
/// Bytes of a header.
pub const HEADER_SIZE: usize = 16;

/// The header: u32 magic, u16 version, u16 operation, u32 length of the body, u16 descriptors, u16 sequence number. Little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The operation.
    pub op: u16,
    /// Bytes of body.
    pub length: u32,
    /// File descriptors that go with the message.
    pub fds: u16,
    /// Which request this is, or which it answers. Wraps.
    pub sequence: u16,
}

impl Header {
    /// The bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_SIZE] {
        let mut bytes = [0; HEADER_SIZE];
        bytes[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4..6].copy_from_slice(&VERSION.to_le_bytes());
        bytes[6..8].copy_from_slice(&self.op.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.length.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.fds.to_le_bytes());
        bytes[14..16].copy_from_slice(&self.sequence.to_le_bytes());
        bytes
    }

    /// Reads the header of a whole message, and answers it with the body.
    ///
    /// # Errors
    /// Too short or too long, wrong magic or version, or a length that is not that of the body.
    pub fn decode(bytes: &[u8]) -> Result<(Self, &[u8]), MessageError> {
        if bytes.len() > MAX_MESSAGE {
            return Err(MessageError::TooLong { len: bytes.len() });
        }
        let Some((header, body)) = bytes.split_first_chunk::<HEADER_SIZE>() else {
            return Err(MessageError::Short { len: bytes.len() });
        };
        let u16_at = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        let u32_at = |at: usize| {
            u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let found = u32_at(0);
        if found != MAGIC {
            return Err(MessageError::Magic { found });
        }
        let found = u16_at(4);
        if found != VERSION {
            return Err(MessageError::Version { found });
        }
        let header = Self {
            op: u16_at(6),
            length: u32_at(8),
            fds: u16_at(12),
            sequence: u16_at(14),
        };
        if header.length as usize != body.len() && !devrx_sabotage::removed("message-length") {
            return Err(MessageError::Length {
                announced: header.length,
                actual: body.len(),
            });
        }
        Ok((header, body))
    }
}
