//! Messages of the protocol: a header of 16 bytes, a body, and file descriptors beside them.

use std::fs::File;
use std::io::{self, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::unix::net::UnixStream;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

/// Bytes of a header.
const HEADER: usize = 16;
/// The longest message that is taken: data of the size that the server names in its answer to `VERSION`, and what goes before it.
const LONGEST: usize = (1 << 20) + 256;
/// The most descriptors beside one message.
pub(super) const DESCRIPTORS: usize = 16;

/// Bits of the header's flags.
const REPLY: u32 = 1;
const NO_REPLY: u32 = 1 << 4;
const ERROR: u32 = 1 << 5;

/// What the client sent.
#[derive(Debug)]
pub(super) struct Message {
    id: u16,
    pub(super) command: u16,
    no_reply: bool,
    pub(super) body: Vec<u8>,
    pub(super) files: Vec<File>,
}

impl Message {
    /// The number at `at` of the body; past its end is zero, which a handler refuses or takes as a default.
    pub(super) fn u32(&self, at: usize) -> u32 {
        let bytes = self
            .body
            .get(at..at + 4)
            .and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u32::from_le_bytes)
    }

    /// The same with eight bytes.
    pub(super) fn u64(&self, at: usize) -> u64 {
        u64::from(self.u32(at)) | u64::from(self.u32(at + 4)) << 32
    }
}

/// The connection.
#[derive(Debug)]
pub(super) struct Channel(UnixStream);

impl Channel {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self(stream)
    }

    /// The next message; `None` when the client has gone.
    pub(super) fn receive(&mut self) -> io::Result<Option<Message>> {
        let (mut header, mut files) = ([0; HEADER], Vec::new());
        let mut have = 0;
        while have < HEADER {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let into = &mut [IoSliceMut::new(&mut header[have..])];
            let got = match recvmsg(&self.0, into, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Err(rustix::io::Errno::INTR) => continue,
                Err(rustix::io::Errno::CONNRESET) => return Ok(None),
                got => got?.bytes,
            };
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                    files.extend(descriptors.map(File::from));
                }
            }
            if got == 0 && have == 0 {
                return Ok(None);
            }
            if got == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            have += got;
        }
        let half = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        let word = |at: usize| u32::from(half(at)) | u32::from(half(at + 2)) << 16;
        let length = word(4) as usize;
        if !(HEADER..=LONGEST).contains(&length) {
            let why = format!("a message of {length} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        // The body is always read, also of a command that is refused: the next message begins after it.
        let mut body = vec![0; length - HEADER];
        self.0.read_exact(&mut body)?;
        Ok(Some(Message {
            id: half(0),
            command: half(2),
            no_reply: word(8) & NO_REPLY != 0,
            body,
            files,
        }))
    }

    /// Answers a message: with a body, or with the number of an error. Nothing is sent where the client wants none.
    pub(super) fn answer(&mut self, to: &Message, with: Result<Vec<u8>, i32>) -> io::Result<()> {
        if to.no_reply {
            return Ok(());
        }
        let (body, flags, error) = match with {
            Ok(body) => (body, REPLY, 0),
            Err(error) => (Vec::new(), REPLY | ERROR, error.unsigned_abs()),
        };
        let length = u32::try_from(HEADER + body.len())
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        let mut bytes = Vec::with_capacity(HEADER + body.len());
        bytes.extend(to.id.to_le_bytes());
        bytes.extend(to.command.to_le_bytes());
        bytes.extend(length.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(error.to_le_bytes());
        bytes.extend(body);
        self.0.write_all(&bytes)
    }
}
