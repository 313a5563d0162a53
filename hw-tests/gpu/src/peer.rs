//! A second process that uses the GPU, and how the tests talk to it: one message a step, with descriptors.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use devrx_proto::socket::Stream;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

/// How long the second process may take for a step: a driver's start is slow.
const PATIENCE: Duration = Duration::from_secs(60);

/// The second process, killed when this is dropped.
#[derive(Debug)]
pub struct Peer {
    child: Child,
    socket: Stream,
}

impl Peer {
    /// Starts the program with a role; it has the other end of the socket as its standard input.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(program: &str, role: &str) -> Result<Self> {
        let (ours, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )?;
        let child = Command::new(program)
            .arg(role)
            .stdin(Stdio::from(theirs))
            .spawn()
            .with_context(|| format!("{program} does not start"))?;
        let socket = Stream::from_fd(ours);
        socket.set_nonblocking(true)?;
        Ok(Self { child, socket })
    }

    /// Sends a message.
    ///
    /// # Errors
    /// The process is gone.
    pub fn send(&self, text: &str, fds: &[BorrowedFd<'_>]) -> Result<()> {
        Ok(self.socket.send(text.as_bytes(), fds)?)
    }

    /// Waits for a message.
    ///
    /// # Errors
    /// The process ended, or takes too long.
    pub fn receive(&mut self) -> Result<(String, Vec<OwnedFd>)> {
        let end = Instant::now() + PATIENCE;
        loop {
            match self.socket.recv() {
                Ok(Some(message)) => {
                    return Ok((String::from_utf8(message.bytes)?, message.fds));
                }
                Ok(None) => bail!("the second process ended: {:?}", self.child.wait()?),
                Err(devrx_proto::socket::SocketError::WouldBlock) => {
                    ensure!(Instant::now() < end, "the second process does not answer");
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Kills it, and waits until it is gone.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn kill(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// The second process's own end.
///
/// # Errors
/// Its standard input is no socket.
pub fn own_end() -> Result<Stream> {
    let fd = io::stdin().as_fd().try_clone_to_owned()?;
    Ok(Stream::from_fd(fd))
}
