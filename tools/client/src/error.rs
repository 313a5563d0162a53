//! What can go wrong for a client.

use devrx_proto::message::{FailureCode, MessageError};
use devrx_proto::shm::ShmError;
use devrx_proto::socket::SocketError;
use thiserror::Error;

/// Why a client's call failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The daemon cannot be reached.
    #[error(
        "cannot talk to the devrx daemon: is it running, may this user use its socket, and is the path right (DEVRX_SOCKET)?"
    )]
    Socket(#[from] SocketError),
    /// The daemon's message makes no sense.
    #[error("the devrx daemon's answer is not valid")]
    Message(#[from] MessageError),
    /// The daemon refused or failed.
    #[error("{message}")]
    Failed {
        /// The kind of failure.
        code: FailureCode,
        /// What failed, why, and what to do.
        message: String,
    },
    /// The daemon closed the connection.
    #[error("the devrx daemon closed the connection: see its log")]
    Disconnected,
    /// The attachment, or this client's hold on it, ended.
    #[error("attachment {name} has ended: {reason}")]
    Ended {
        /// The attachment.
        name: String,
        /// The daemon's reason.
        reason: String,
    },
    /// The shared memory is not as it must be.
    #[error("the shared memory of the attachment cannot be used")]
    Memory(#[from] ShmError),
    /// The daemon wrote or said something that cannot be right. The attachment is not used any further.
    #[error("the devrx daemon broke the protocol: {what}")]
    Broken {
        /// What it was.
        what: String,
    },
    /// This process cannot read the region.
    #[error(
        "the payload lies in {memory} memory, which this process cannot read ({reason}): use the chunk offsets on the device instead, \
         or attach with memory that a CPU can map, such as memfd"
    )]
    NotReadable {
        /// The kind of memory.
        memory: String,
        /// Why not.
        reason: String,
    },
    /// A chunk is given back to an attachment that it does not come from.
    #[error("chunk {chunk} does not come from this attachment")]
    Foreign {
        /// The chunk.
        chunk: u32,
    },
    /// Waiting failed.
    #[error("waiting for packets failed")]
    Wait(#[source] std::io::Error),
}

impl ClientError {
    pub(crate) fn broken(what: impl Into<String>) -> Self {
        Self::Broken { what: what.into() }
    }
}
