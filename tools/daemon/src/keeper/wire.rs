//! What the daemon says to its keeper: one message at a time over a `SOCK_SEQPACKET` socket pair, descriptors with it. Once a
//! message is sent, its descriptors live in the socket's queue or in the keeper, whatever happens to the daemon; so there are no
//! answers to wait for.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use devrx_proto::socket::{Received, SocketError, Stream};
use serde::{Deserialize, Serialize};

/// Most descriptors with a message.
pub(super) const MAX_FDS: usize = 8;

/// One message.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(super) enum Order {
    /// The daemon's pidfd comes with it: hold until it says that the daemon is gone.
    Daemon,
    /// Hold the descriptors that come with it, under this number.
    Hold {
        /// Numbers are not reused.
        id: u64,
        /// For people.
        what: String,
    },
    /// Let go of what is held under this number.
    Drop {
        /// As given to `Hold`.
        id: u64,
    },
    /// Rules that outlive the daemon, (interface index, location): all there are; replaces what was said before.
    Rules {
        /// To be removed when the daemon is gone.
        rules: Vec<(u32, u32)>,
    },
    /// The daemon ends in order and has nothing left to hold.
    Farewell,
}

/// Sends `order` with `fds`.
pub(super) fn send(socket: &Stream, order: &Order, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let text = serde_json::to_vec(order)?;
    socket.send(&text, fds).map_err(io_error)
}

/// Receives an order and its descriptors; `None` when the daemon has closed its end.
pub(super) fn receive(socket: &Stream) -> Result<Option<(Order, Vec<OwnedFd>)>, Unread> {
    match socket.recv() {
        Ok(None) => Ok(None),
        Ok(Some(Received { bytes, fds })) => serde_json::from_slice(&bytes)
            .map(|order| Some((order, fds)))
            .map_err(Unread::Nonsense),
        Err(error) => Err(Unread::Socket(error)),
    }
}

/// Why an order could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unread {
    /// The next one may be fine.
    #[error("an order that is none: {0}")]
    Nonsense(serde_json::Error),
    /// Nothing more will come.
    #[error(transparent)]
    Socket(SocketError),
}

fn io_error(error: SocketError) -> io::Error {
    match error {
        SocketError::System { source, .. } => source,
        SocketError::WouldBlock => io::Error::new(
            io::ErrorKind::TimedOut,
            "the keeper process does not read its orders; try again in a second",
        ),
        other => io::Error::other(other),
    }
}
