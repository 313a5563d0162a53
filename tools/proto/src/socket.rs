//! A `SOCK_SEQPACKET` Unix socket: whole messages, file descriptors with them, and the peer's identity.
#![expect(
    unsafe_code,
    reason = "descriptors that arrive as numbers, and SO_PEERPIDFD"
)]

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, MsgFlags, Shutdown, SockFlag, SockType, UnixAddr, bind,
    connect, getsockopt, listen, recv, sendmsg, shutdown, socket, socketpair, sockopt,
};
use thiserror::Error;

use crate::endpoints::MAX_FDS;

/// Most bytes of one message, header and body. (The kernel refuses a message larger than the socket's send buffer, 208 KiB by
/// default.)
pub const MAX_MESSAGE: usize = 192 * 1024;

/// Why a message could not be sent or received, or a socket not be made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SocketError {
    /// A system call failed.
    #[error("{what} failed on the control socket{}", path.as_ref().map(|path| format!(" {}", path.display())).unwrap_or_default())]
    System {
        /// The call.
        what: &'static str,
        /// The socket's path, if it is known.
        path: Option<PathBuf>,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Nothing to read, or no room to write, on a non-blocking socket.
    #[error("the control socket is not ready")]
    WouldBlock,
    /// A message is longer than [`MAX_MESSAGE`].
    #[error("a message of {len} bytes: at most {MAX_MESSAGE} are possible")]
    TooLong {
        /// Its length.
        len: usize,
    },
    /// More descriptors than a message may carry.
    #[error("a message with {count} descriptors: at most {MAX_FDS} are possible")]
    TooManyFds {
        /// How many.
        count: usize,
    },
    /// The kernel could not hand over all descriptors.
    #[error(
        "descriptors of a message were lost: this process has no more room for them (raise RLIMIT_NOFILE)"
    )]
    FdsLost {
        /// Those that arrived. Closing what the other side chose can take long, so that where is left to who receives.
        arrived: Vec<OwnedFd>,
    },
}

fn system(what: &'static str) -> impl FnOnce(nix::Error) -> SocketError {
    move |errno| match errno {
        nix::Error::EAGAIN => SocketError::WouldBlock,
        _ => SocketError::System {
            what,
            path: None,
            source: errno.into(),
        },
    }
}

/// Who is at the other end, as the kernel noted when it connected.
#[derive(Debug)]
pub struct Peer {
    /// Process id. May have been reused since: see `pidfd`.
    pub pid: i32,
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
    /// The process itself (SO_PEERPIDFD, Linux 6.5), if the kernel and its state allow.
    pub pidfd: Option<OwnedFd>,
}

/// A message as it arrived.
#[derive(Debug)]
pub struct Received {
    /// Header and body.
    pub bytes: Vec<u8>,
    /// The descriptors that came with it, owned from the start.
    pub fds: Vec<OwnedFd>,
}

/// One end of a connection.
#[derive(Debug)]
pub struct Stream(OwnedFd);

impl Stream {
    /// Connects to a daemon.
    ///
    /// # Errors
    /// There is no socket, nobody listens, or it is not allowed.
    pub fn connect(path: &Path) -> Result<Self, SocketError> {
        let at = |what| {
            move |errno: nix::Error| SocketError::System {
                what,
                path: Some(path.to_owned()),
                source: errno.into(),
            }
        };
        let fd = socket(
            AddressFamily::Unix,
            SockType::SeqPacket,
            SockFlag::SOCK_CLOEXEC,
            None,
        )
        .map_err(at("socket"))?;
        connect(fd.as_raw_fd(), &UnixAddr::new(path).map_err(at("connect"))?)
            .map_err(at("connect"))?;
        Ok(Self(fd))
    }

    /// Two connected ends.
    ///
    /// # Errors
    /// Out of descriptors or memory.
    pub fn pair() -> Result<(Self, Self), SocketError> {
        let (one, two) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .map_err(system("socketpair"))?;
        Ok((Self(one), Self(two)))
    }

    /// Takes a connected `SOCK_SEQPACKET` socket.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Makes [`send`](Self::send) and [`recv`](Self::recv) answer [`SocketError::WouldBlock`] instead of waiting.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn set_nonblocking(&self, on: bool) -> Result<(), SocketError> {
        set_nonblocking(self.0.as_fd(), on)
    }

    /// Who is at the other end.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn peer(&self) -> Result<Peer, SocketError> {
        let credentials =
            getsockopt(&self.0, sockopt::PeerCredentials).map_err(system("SO_PEERCRED"))?;
        Ok(Peer {
            pid: credentials.pid(),
            uid: credentials.uid(),
            gid: credentials.gid(),
            pidfd: peer_pidfd(&self.0),
        })
    }

    /// Ends the connection for both sides, and leaves the descriptor to be closed later.
    pub fn hang_up(&self) {
        // Fails only for what is not connected any more.
        let _ = shutdown(self.0.as_raw_fd(), Shutdown::Both);
    }

    /// Sends a message, whole or not at all.
    ///
    /// # Errors
    /// Too long, too many descriptors, no room ([`SocketError::WouldBlock`]), or the other side is gone.
    pub fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), SocketError> {
        if bytes.len() > MAX_MESSAGE {
            return Err(SocketError::TooLong { len: bytes.len() });
        }
        if fds.len() > MAX_FDS {
            return Err(SocketError::TooManyFds { count: fds.len() });
        }
        let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let control = [ControlMessage::ScmRights(&raw)];
        let control = if raw.is_empty() {
            &[][..]
        } else {
            &control[..]
        };
        loop {
            match sendmsg::<()>(
                self.0.as_raw_fd(),
                &[IoSlice::new(bytes)],
                control,
                MsgFlags::MSG_NOSIGNAL,
                None,
            ) {
                Err(nix::Error::EINTR) => {}
                result => return result.map(drop).map_err(system("sendmsg")),
            }
        }
    }

    /// Receives a message. `None`: the other side closed the connection (or sent an empty message, which nobody does).
    ///
    /// # Errors
    /// Nothing there ([`SocketError::WouldBlock`]), too long, or descriptors were lost: after the latter two the connection is to
    /// be closed. As many descriptors as Linux lets anybody send are received, though [`MAX_FDS`] is what a message may carry.
    pub fn recv(&self) -> Result<Option<Received>, SocketError> {
        let len = loop {
            // With MSG_TRUNC the answer is the length of the message, however little room there is.
            match recv(
                self.0.as_raw_fd(),
                &mut [],
                MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC,
            ) {
                Err(nix::Error::EINTR) => {}
                Err(nix::Error::ECONNRESET) => return Ok(None),
                result => break result.map_err(system("recv"))?,
            }
        };
        if len == 0 {
            return Ok(None);
        }
        if len > MAX_MESSAGE {
            return Err(SocketError::TooLong { len });
        }
        let mut bytes = vec![0; len];
        let Some((got, flags, fds)) =
            recv_with_fds(&self.0, &mut bytes).map_err(system("recvmsg"))?
        else {
            return Ok(None);
        };
        if flags & libc::MSG_CTRUNC != 0 && !devrx_sabotage::removed("socket-ctrunc") {
            return Err(SocketError::FdsLost { arrived: fds });
        }
        if flags & libc::MSG_TRUNC != 0 {
            return Err(SocketError::TooLong { len: got });
        }
        bytes.truncate(got);
        Ok(Some(Received { bytes, fds }))
    }
}

/// Most descriptors that Linux lets anybody send in a message (`SCM_MAX_FD`, net/scm.h): more than [`MAX_FDS`]. What finds no room
/// the kernel closes as it returns from recvmsg(2), and the last close of a socket or a file can take long.
const SCM_MAX_FD: usize = 253;

/// Room for the control message with [`SCM_MAX_FD`] descriptors, in words: a header, and two descriptors a word.
const CONTROL_WORDS: usize = 2 + SCM_MAX_FD.div_ceil(2);

/// Receives a message that is there, and owns every descriptor that came with it before anything can fail.
///
/// (`nix` answers an error, and forgets the descriptors that did arrive, when others were lost. So this walks the control messages
/// itself.)
fn recv_with_fds(
    socket: &OwnedFd,
    bytes: &mut [u8],
) -> nix::Result<Option<(usize, libc::c_int, Vec<OwnedFd>)>> {
    let mut control = [0_u64; CONTROL_WORDS];
    let mut part = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: all zeroes is a valid `msghdr` without address, data or control.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    let mut room = size_of_val(&control);
    if devrx_sabotage::removed("socket-fd-room") {
        room = 8 * (2 + MAX_FDS.div_ceil(2));
    }
    message.msg_controllen = room as _;
    let got = loop {
        // SAFETY: `message` leads to `bytes` and `control`, with their lengths, and both outlive the call.
        let got = unsafe {
            libc::recvmsg(
                socket.as_raw_fd(),
                &raw mut message,
                libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT,
            )
        };
        match nix::Error::result(got) {
            Err(nix::Error::EINTR) => {}
            Err(nix::Error::ECONNRESET) => return Ok(None),
            result => break result?.unsigned_abs(),
        }
    };
    let mut fds = Vec::new();
    // SAFETY: the kernel filled `control` and set its length; the macros stay within it.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    while !next.is_null() {
        // SAFETY: not null, so a whole header within `control`, which is aligned.
        let header = unsafe { next.read() };
        if (header.cmsg_level, header.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            // SAFETY: pure arithmetic.
            let empty = unsafe { libc::CMSG_LEN(0) } as usize;
            let count = (header.cmsg_len as usize).saturating_sub(empty) / size_of::<RawFd>();
            // SAFETY: the data of the message that `next` begins.
            let data: *const RawFd = unsafe { libc::CMSG_DATA(next) }.cast();
            for index in 0..count {
                // SAFETY: the kernel wrote `count` descriptors there, which it has just installed for us; nobody else knows them.
                fds.push(unsafe { OwnedFd::from_raw_fd(data.add(index).read_unaligned()) });
            }
        }
        // SAFETY: as above.
        next = unsafe { libc::CMSG_NXTHDR(&raw const message, next) };
    }
    Ok(Some((got, message.msg_flags, fds)))
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A listening socket. Its path is removed when it is dropped.
#[derive(Debug)]
pub struct Listener {
    // Before the socket: fields are dropped in this order.
    path: Bound,
    fd: OwnedFd,
}

/// The path of a listening socket, removed when this is dropped.
#[derive(Debug)]
struct Bound(PathBuf);

impl Listener {
    /// Listens at `path`, with file mode `mode` (0o600, 0o660, ...). A socket left there by a daemon that is gone is replaced; one
    /// that answers is not.
    ///
    /// # Errors
    /// Another daemon listens there, or the path cannot be made.
    pub fn bind(path: &Path, mode: u32) -> Result<Self, SocketError> {
        let at = |what, source: io::Error| SocketError::System {
            what,
            path: Some(path.to_owned()),
            source,
        };
        if let Ok(there) = std::fs::symlink_metadata(path) {
            // A file that is no socket refuses connections too, like a socket nobody listens at; it is somebody's.
            if !std::os::unix::fs::FileTypeExt::is_socket(&there.file_type()) {
                let taken = io::Error::new(
                    io::ErrorKind::AlreadyExists,
                    "there is a file that is not a socket: choose another path with --socket",
                );
                return Err(at("bind", taken));
            }
            match Stream::connect(path) {
                Ok(_) => {
                    let busy = io::Error::new(
                        io::ErrorKind::AddrInUse,
                        "another daemon answers there: stop it, or choose another path with --socket",
                    );
                    return Err(at("bind", busy));
                }
                Err(SocketError::System { source, .. })
                    if source.kind() == io::ErrorKind::ConnectionRefused =>
                {
                    std::fs::remove_file(path).map_err(|source| at("unlink", source))?;
                }
                Err(error) => return Err(error),
            }
        }
        let fd = socket(
            AddressFamily::Unix,
            SockType::SeqPacket,
            SockFlag::SOCK_CLOEXEC,
            None,
        )
        .map_err(|errno| at("socket", errno.into()))?;
        let address = UnixAddr::new(path).map_err(|errno| at("bind", errno.into()))?;
        bind(fd.as_raw_fd(), &address).map_err(|errno| at("bind", errno.into()))?;
        let this = Self {
            path: Bound(path.to_owned()),
            fd,
        };
        // Nobody can connect before `listen`, so nobody connects under a wrong mode.
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))
            .map_err(|source| at("chmod", source))?;
        listen(
            &this.fd,
            Backlog::new(64).map_err(|errno| at("listen", errno.into()))?,
        )
        .map_err(|errno| at("listen", errno.into()))?;
        Ok(this)
    }

    /// Makes [`accept`](Self::accept) answer [`SocketError::WouldBlock`] instead of waiting.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn set_nonblocking(&self, on: bool) -> Result<(), SocketError> {
        set_nonblocking(self.fd.as_fd(), on)
    }

    /// The next connection. It blocks, whatever the listener does: see [`Stream::set_nonblocking`].
    ///
    /// # Errors
    /// Nobody there ([`SocketError::WouldBlock`]), or out of descriptors.
    pub fn accept(&self) -> Result<Stream, SocketError> {
        loop {
            match nix::sys::socket::accept4(self.fd.as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
                Err(nix::Error::EINTR | nix::Error::ECONNABORTED) => {}
                // SAFETY: the kernel has just made this descriptor for us.
                Ok(number) => return Ok(Stream(unsafe { OwnedFd::from_raw_fd(number) })),
                Err(errno) => return Err(system("accept")(errno)),
            }
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path.0
    }

    /// Removes the path, and leaves it to the caller where the socket is closed: connections that nobody accepted are closed with it,
    /// and what lies in them can take long.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn set_nonblocking(fd: BorrowedFd<'_>, on: bool) -> Result<(), SocketError> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let flags = fcntl(fd, FcntlArg::F_GETFL).map_err(system("F_GETFL"))?;
    let mut flags = OFlag::from_bits_retain(flags);
    flags.set(OFlag::O_NONBLOCK, on);
    fcntl(fd, FcntlArg::F_SETFL(flags)).map_err(system("F_SETFL"))?;
    Ok(())
}

/// include/uapi/asm-generic/socket.h; not in libc for every target.
const SO_PEERPIDFD: libc::c_int = 77;

fn peer_pidfd(fd: &OwnedFd) -> Option<OwnedFd> {
    let mut number: libc::c_int = -1;
    let mut len: libc::socklen_t = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: `number` and `len` are valid for writes, and `len` says how large `number` is.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PEERPIDFD,
            (&raw mut number).cast(),
            &raw mut len,
        )
    };
    // SAFETY: on success the kernel made this descriptor (close-on-exec) for us.
    (result == 0 && number >= 0).then(|| unsafe { OwnedFd::from_raw_fd(number) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// connect(2) to a regular file answers as a socket does that nobody listens at.
    #[test]
    fn only_a_socket_nobody_listens_at_is_replaced() {
        let path = std::env::temp_dir().join(format!("devrx-socket-{}", std::process::id()));
        std::fs::write(&path, "precious").unwrap();
        assert!(Listener::bind(&path, 0o600).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        std::fs::remove_file(&path).unwrap();

        // Dropped without the path going with it, as when a daemon is killed.
        let dead = Listener::bind(&path, 0o600).unwrap();
        let Listener { fd, .. } = &*std::mem::ManuallyDrop::new(dead);
        nix::unistd::close(fd.as_raw_fd()).unwrap();
        let living = Listener::bind(&path, 0o600).unwrap();
        assert!(
            Listener::bind(&path, 0o600).is_err(),
            "one that answers stays"
        );
        drop(living);
        assert!(!path.exists());
    }
}
