//! One connection to the daemon: requests and their replies, in order.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use devrx_proto::message::{Event, Hello, HelloReply, Reply, Request};
use devrx_proto::socket::{SocketError, Stream};
use nix::sys::socket::{Shutdown, shutdown};

use crate::ClientError;

/// What arrived on a connection without being asked for.
pub(crate) enum Notice {
    /// Nothing.
    None,
    /// An attachment ended.
    Ended { reason: String },
    /// The daemon is gone.
    Closed,
}

#[derive(Debug)]
pub(crate) struct Session {
    stream: Stream,
    sequence: u16,
    ended: Option<String>,
    /// The process that connected.
    process: u32,
}

impl Session {
    /// Connects and introduces this client.
    pub(crate) fn connect(path: &Path) -> Result<(Self, HelloReply), ClientError> {
        Self::over(Stream::connect(path)?)
    }

    pub(crate) fn over(stream: Stream) -> Result<(Self, HelloReply), ClientError> {
        let mut session = Self {
            stream,
            sequence: 0,
            ended: None,
            process: std::process::id(),
        };
        let hello = Hello {
            client: concat!("devrx-client ", env!("CARGO_PKG_VERSION")).to_owned(),
        };
        match session.call(&Request::Hello(hello), &[])? {
            (Reply::Hello(hello), _) => Ok((session, hello)),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// Sends a request and waits for its reply.
    pub(crate) fn call(
        &mut self,
        request: &Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(Reply, Vec<OwnedFd>), ClientError> {
        // 0 is for what comes unasked.
        self.sequence = self.sequence.checked_add(1).unwrap_or(1);
        match self.stream.send(&request.encode(self.sequence)?, fds) {
            Err(SocketError::System { source, .. })
                if source.kind() == std::io::ErrorKind::BrokenPipe =>
            {
                // The daemon may have said why before it hung up.
            }
            result => result?,
        }
        loop {
            let Some(received) = self.stream.recv()? else {
                return Err(ClientError::Disconnected);
            };
            let (sequence, reply) = Reply::decode(&received.bytes, received.fds.len())?;
            match reply {
                Reply::Event(Event::Ended { reason, .. }) => self.ended = Some(reason),
                Reply::Failure(failure) => {
                    return Err(ClientError::Failed {
                        code: failure.code,
                        message: failure.message,
                    });
                }
                _ if sequence != self.sequence => {
                    return Err(ClientError::broken(format!(
                        "request {} was answered with number {sequence}",
                        self.sequence
                    )));
                }
                reply => return Ok((reply, received.fds)),
            }
        }
    }

    /// From now on only unasked messages are expected, and looking for them does not wait.
    pub(crate) fn listen_only(&self) -> Result<(), ClientError> {
        Ok(self.stream.set_nonblocking(true)?)
    }

    /// Whether something arrived.
    pub(crate) fn notice(&mut self) -> Result<Notice, ClientError> {
        if let Some(reason) = self.ended.take() {
            return Ok(Notice::Ended { reason });
        }
        let received = match self.stream.recv() {
            Ok(Some(received)) => received,
            Ok(None) => return Ok(Notice::Closed),
            Err(SocketError::WouldBlock) => return Ok(Notice::None),
            Err(error) => return Err(error.into()),
        };
        match Reply::decode(&received.bytes, received.fds.len())? {
            (_, Reply::Event(Event::Ended { reason, .. })) => Ok(Notice::Ended { reason }),
            (_, Reply::Failure(failure)) => Ok(Notice::Ended {
                reason: failure.message,
            }),
            (_, other) => Err(unexpected(&other)),
        }
    }
}

/// A child of `fork` has the connection too, so that closing this end of it would tell the daemon nothing while the child lives. The child's own copy
/// ends nothing: the parent goes on.
impl Drop for Session {
    fn drop(&mut self) {
        if std::process::id() == self.process {
            // It fails where the daemon is gone, which is as well.
            let _ = shutdown(self.stream.as_fd().as_raw_fd(), Shutdown::Both);
        }
    }
}

impl AsFd for Session {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

pub(crate) fn unexpected(reply: &Reply) -> ClientError {
    ClientError::broken(format!("it answered with operation {:#06x}", reply.op()))
}
