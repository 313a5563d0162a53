//! The system calls that no safe wrapper covers.
#![expect(
    unsafe_code,
    reason = "pidfd_open, SO_PEERGROUPS, signal, preadv2 and watching shared memory have no safe wrapper"
)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use devrx_proto::shm::Shm;
use devrx_provider::guard::Watch;

/// Memory shared with a client, watched for pages that are gone: a hole was punched where there is no memory to fill it, or the
/// machine has none left. The daemon reads zeros there and goes on; that attachment ends.
#[derive(Debug)]
pub struct Watched {
    // Before the memory: fields are dropped in this order.
    watch: Watch,
    _memory: Arc<Shm>,
}

impl Watched {
    /// Watches `memory` from here on.
    ///
    /// # Errors
    ///
    /// When too many mappings are watched already.
    pub fn new(memory: &Arc<Shm>) -> io::Result<Self> {
        let len = usize::try_from(memory.size()).unwrap_or(usize::MAX);
        // SAFETY: an `Shm` is one whole shared mapping that forms no reference to its bytes; it lives as long as the watch, which is
        // dropped before it.
        let watch = unsafe { Watch::new(memory.as_ptr(), len) }?;
        Ok(Self {
            watch,
            _memory: memory.clone(),
        })
    }

    /// Whether a page was lost.
    #[inline]
    #[must_use]
    pub fn poisoned(&self) -> bool {
        self.watch.poisoned()
    }

    /// For tests: what says of `memory` what is true of another mapping, a page of which is lost. That one has to be made here,
    /// because memory that can be shared with a client cannot be cut.
    #[cfg(test)]
    pub fn with_a_lost_page(memory: &Arc<Shm>) -> Self {
        use nix::sys::mman::{MapFlags, ProtFlags, mmap};
        let page = usize::try_from(devrx_provider::page_size()).expect("small");
        let fd = nix::sys::memfd::memfd_create(c"cut", nix::sys::memfd::MFdFlags::empty())
            .expect("memfd_create");
        nix::unistd::ftruncate(&fd, 2 * page as i64).expect("ftruncate");
        let len = std::num::NonZeroUsize::new(2 * page).expect("not zero");
        let (prot, flags) = (ProtFlags::PROT_READ, MapFlags::MAP_SHARED);
        // SAFETY: a new mapping at a place of the kernel's choice, which stays until the process ends.
        let at = unsafe { mmap(None, len, prot, flags, &fd, 0) }.expect("mmap");
        let at = at.as_ptr().cast::<u8>();
        // SAFETY: the whole mapping, to which there is no reference.
        let watch = unsafe { Watch::new(at, 2 * page) }.expect("a place in the table");
        nix::unistd::ftruncate(&fd, page as i64).expect("ftruncate");
        // SAFETY: within the mapping; the page is lost, and the handler puts another.
        unsafe { at.add(page).read_volatile() };
        Self {
            watch,
            _memory: memory.clone(),
        }
    }
}

/// A descriptor that becomes readable when the process `pid` has ended: pidfd_open(2), Linux 5.3. When it does, every descriptor of
/// that process has been closed.
///
/// # Errors
///
/// What the kernel answers.
pub fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: takes two integers and touches no memory of ours.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_pidfd_open,
            libc::c_long::from(pid),
            0 as libc::c_long,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd =
        i32::try_from(fd).map_err(|_| io::Error::other("pidfd_open answered no descriptor"))?;
    // SAFETY: the kernel has just made this descriptor for us; nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The supplementary groups that the peer of a Unix socket had when it connected: `SO_PEERGROUPS`, Linux 4.13 (net/core/sock.c).
///
/// # Errors
///
/// What the kernel answers.
pub fn peer_groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    // The kernel answers ERANGE and the size it needs when the buffer is short. NGROUPS_MAX is 65536.
    let mut groups = vec![0u32; 64];
    loop {
        let mut len = libc::socklen_t::try_from(size_of_val(groups.as_slice()))
            .unwrap_or(libc::socklen_t::MAX);
        // SAFETY: the pointer and `len` describe `groups`, which the kernel fills with at most `len` bytes.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut len,
            )
        };
        let needed = usize::try_from(len).unwrap_or(0) / size_of::<u32>();
        if result == 0 {
            groups.truncate(needed);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ERANGE) || needed <= groups.len() || needed > 65536 {
            return Err(error);
        }
        groups.resize(needed, 0);
    }
}

/// Has the whole process ignore a signal from now on: sigaction(2).
pub fn ignore_signal(signal: nix::sys::signal::Signal) {
    use nix::sys::signal::{SigHandler, signal as set};
    // SAFETY: `SIG_IGN` runs no code. It fails for no signal that can be ignored.
    let _ = unsafe { set(signal, SigHandler::SigIgn) };
}

/// Empties an eventfd without ever waiting, even if whoever shares it made it blocking; returns what it held, 0 if nothing.
/// preadv2(2) with `RWF_NOWAIT`, which eventfds know since Linux 5.8.
pub fn drain_eventfd(event: BorrowedFd<'_>) -> u64 {
    let mut count = 0u64;
    let part = libc::iovec {
        iov_base: (&raw mut count).cast(),
        iov_len: size_of::<u64>(),
    };
    // SAFETY: one part that describes `count`, which the kernel fills with at most its size; -1 is for files without a position.
    let read =
        unsafe { libc::preadv2(event.as_raw_fd(), &raw const part, 1, -1, libc::RWF_NOWAIT) };
    if read == 8 { count } else { 0 }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn the_peer_of_a_socketpair_has_this_process_groups() {
        let (left, _right) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut ours: Vec<u32> = nix::unistd::getgroups()
            .unwrap()
            .iter()
            .map(|gid| gid.as_raw())
            .collect();
        let mut theirs = peer_groups(left.as_fd()).unwrap();
        ours.sort_unstable();
        theirs.sort_unstable();
        assert_eq!(theirs, ours);
    }

    #[test]
    fn a_pidfd_tells_the_end_of_its_process() {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let mut child = std::process::Command::new("sleep")
            .arg("30")
            .spawn()
            .unwrap();
        let pidfd = pidfd_open(child.id()).unwrap();
        let ended = |wait: u16| {
            poll(
                &mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)],
                PollTimeout::from(wait),
            )
            .unwrap()
                == 1
        };
        assert!(!ended(0), "it lives");
        child.kill().unwrap();
        assert!(ended(5000), "it was killed");
        child.wait().unwrap();
    }

    /// A client shares the file description of its events, and may make them blocking.
    #[test]
    fn draining_never_waits() {
        use nix::fcntl::{FcntlArg, OFlag, fcntl};
        let event = devrx_proto::event::Event::new().unwrap();
        fcntl(event.as_fd(), FcntlArg::F_SETFL(OFlag::empty())).unwrap();
        assert_eq!(drain_eventfd(event.as_fd()), 0);
        event.notify();
        event.notify();
        assert_eq!(drain_eventfd(event.as_fd()), 2);
    }
}
