//! The messages between daemon and client: a 16-byte header, a JSON body, and for a few of them file descriptors.
//!
//! A session is one connection. The client says [`Hello`] first. Every request is answered in order, by the reply of its kind or by
//! [`Failure`], with the request's sequence number. [`Event`]s come unasked, with sequence number 0.
//!
//! An attachment has at most one consumer, the session that opened it (`Attach` with `open`, or `Open`). When a session ends, its
//! consumption ends: the daemon takes everything the client held back. An attachment with [`Lifetime::Session`] ends with the
//! session that made it; one with [`Lifetime::Daemon`] stays until `Detach` and may be opened again.

mod body;
mod header;

pub use body::*;
pub use header::{HEADER_SIZE, Header, MAGIC, VERSION};

use std::os::fd::OwnedFd;

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::endpoints::{Endpoints, MAX_FDS};
use crate::socket::MAX_MESSAGE;

/// Why a message is refused.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MessageError {
    /// Shorter than a header.
    #[error("a message of {len} bytes has no header: {HEADER_SIZE} are needed")]
    Short {
        /// Its length.
        len: usize,
    },
    /// Not a devrx message.
    #[error("the message begins with {found:#010x}: not a devrx message")]
    Magic {
        /// What the first word is.
        found: u32,
    },
    /// Another version of the protocol.
    #[error(
        "the other side speaks version {found} of the protocol, this one {VERSION}: use the same release on both"
    )]
    Version {
        /// Its version.
        found: u16,
    },
    /// An operation that this version does not know, or not in this direction.
    #[error("unknown operation {op:#06x}")]
    Op {
        /// Its number.
        op: u16,
    },
    /// The header's length is not that of the message.
    #[error("the header announces {announced} bytes of body and {actual} came")]
    Length {
        /// What the header says.
        announced: u32,
        /// What came.
        actual: usize,
    },
    /// The number of descriptors is not what the header, or the operation, says.
    #[error("{actual} file descriptors came with a message that takes {expected}")]
    Fds {
        /// How many there must be.
        expected: usize,
        /// How many came.
        actual: usize,
    },
    /// The body is not what the operation takes.
    #[error("the body of operation {op:#06x} is not valid: {reason}")]
    Body {
        /// The operation.
        op: u16,
        /// What is wrong with it.
        reason: String,
    },
    /// Too long to send.
    #[error("a message of {len} bytes: at most {MAX_MESSAGE} are possible")]
    TooLong {
        /// Its length.
        len: usize,
    },
}

/// Makes the bytes of a message.
///
/// # Errors
/// The body is too long, or not to be written as JSON.
fn encode(
    op: u16,
    sequence: u16,
    fds: usize,
    body: &impl Serialize,
) -> Result<Vec<u8>, MessageError> {
    let mut bytes = vec![0; HEADER_SIZE];
    serde_json::to_writer(&mut bytes, body).map_err(|error| MessageError::Body {
        op,
        reason: error.to_string(),
    })?;
    let len = bytes.len();
    let (Ok(length), true) = (u32::try_from(len - HEADER_SIZE), len <= MAX_MESSAGE) else {
        return Err(MessageError::TooLong { len });
    };
    let count = u16::try_from(fds).ok().filter(|_| fds <= MAX_FDS);
    let Some(fds) = count else {
        return Err(MessageError::Fds {
            expected: MAX_FDS,
            actual: fds,
        });
    };
    bytes[..HEADER_SIZE].copy_from_slice(
        &Header {
            op,
            length,
            fds,
            sequence,
        }
        .encode(),
    );
    Ok(bytes)
}

fn body<T: DeserializeOwned>(op: u16, bytes: &[u8]) -> Result<T, MessageError> {
    serde_json::from_slice(bytes).map_err(|error| MessageError::Body {
        op,
        reason: error.to_string(),
    })
}

fn expect_fds(expected: usize, actual: usize) -> Result<(), MessageError> {
    if expected == actual || devrx_sabotage::removed("message-fds") {
        Ok(())
    } else {
        Err(MessageError::Fds { expected, actual })
    }
}

/// Declares a set of messages: `Variant(Body) = number`.
macro_rules! messages {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident($body:ty) = $op:expr,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq)]
        pub enum $name { $($(#[$doc])* $variant($body),)* }

        impl $name {
            /// The operation's number.
            #[must_use]
            pub const fn op(&self) -> u16 {
                match self { $(Self::$variant(_) => $op,)* }
            }

            /// The bytes of the message; [`fds`](Self::fds) descriptors go with it.
            ///
            /// # Errors
            /// It is too long to be sent.
            pub fn encode(&self, sequence: u16) -> Result<Vec<u8>, MessageError> {
                match self { $(Self::$variant(body) => encode($op, sequence, self.fds(), body),)* }
            }

            /// Reads a message that came with `fds` descriptors, and its sequence number.
            ///
            /// # Errors
            /// Anything about it is not as it must be.
            pub fn decode(bytes: &[u8], fds: usize) -> Result<(u16, Self), MessageError> {
                let (header, rest) = Header::decode(bytes)?;
                expect_fds(usize::from(header.fds), fds)?;
                let message = match header.op {
                    $($op => Self::$variant(body($op, rest)?),)*
                    op => return Err(MessageError::Op { op }),
                };
                expect_fds(message.fds(), fds)?;
                Ok((header.sequence, message))
            }
        }
    };
}

messages! {
    /// What a client asks for.
    Request {
        /// First message of a session.
        Hello(Hello) = 1,
        /// Make an attachment.
        Attach(Box<AttachRequest>) = 2,
        /// Become the consumer of an attachment.
        Open(OpenRequest) = 3,
        /// Stop being its consumer; everything held is taken back.
        Close(NameRequest) = 4,
        /// End an attachment.
        Detach(NameRequest) = 5,
        /// Add a flow rule to an attachment.
        FlowAdd(FlowAddRequest) = 6,
        /// Remove a flow rule.
        FlowDel(FlowDelRequest) = 7,
        /// The flow rules.
        FlowList(FlowListRequest) = 8,
        /// The numbers.
        Stats(StatsRequest) = 9,
        /// The NICs.
        Nics(Empty) = 10,
    }
}

messages! {
    /// What the daemon answers: the request's operation with its highest bit set.
    Reply {
        /// To `Hello`.
        Hello(HelloReply) = 0x8001,
        /// To `Attach`.
        Attach(Box<AttachReply>) = 0x8002,
        /// To `Open`.
        Open(Box<Opened>) = 0x8003,
        /// To `Close`.
        Close(Done) = 0x8004,
        /// To `Detach`.
        Detach(Done) = 0x8005,
        /// To `FlowAdd`.
        FlowAdd(FlowAddReply) = 0x8006,
        /// To `FlowDel`.
        FlowDel(Done) = 0x8007,
        /// To `FlowList`.
        FlowList(FlowListReply) = 0x8008,
        /// To `Stats`.
        Stats(Box<crate::stats::Stats>) = 0x8009,
        /// To `Nics`.
        Nics(NicsReply) = 0x800a,
        /// To anything: it was not done.
        Failure(Failure) = 0xffff,
        /// Not an answer: something happened. Its sequence number is 0.
        Event(Event) = 0x4000,
    }
}

impl Request {
    /// How many descriptors go with the message.
    #[must_use]
    pub fn fds(&self) -> usize {
        match self {
            Self::Attach(request) => usize::from(request.memory_fd),
            _ => 0,
        }
    }
}

impl Reply {
    /// How many descriptors go with the message.
    #[must_use]
    pub fn fds(&self) -> usize {
        match self {
            Self::Attach(reply) => reply.opened.as_ref().map_or(0, Opened::fds),
            Self::Open(opened) => opened.fds(),
            _ => 0,
        }
    }
}

impl Opened {
    /// How many descriptors go with it: see [`Endpoints`].
    #[must_use]
    pub fn fds(&self) -> usize {
        Endpoints::count(self.queues.len(), self.region.fd, self.region.export)
    }

    /// Sorts out the descriptors that came with it. `None`: not as many as it takes.
    #[must_use]
    pub fn endpoints(&self, fds: Vec<OwnedFd>) -> Option<Endpoints> {
        let RegionInfo { fd, export, .. } = self.region;
        Endpoints::sort(fds, self.queues.len(), fd, export)
    }
}
