//! Making memfds: of their full size, with all of their memory, sealed.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::ftruncate;

use crate::layout::LayoutError;
use crate::shm::{ShmError, system};

/// A new memfd of zeroes, with its memory, sealed in size. More seals can be added.
pub(crate) fn create(name: &str, size: u64) -> Result<OwnedFd, ShmError> {
    let base = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let noexec = base | MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL);
    // MFD_NOEXEC_SEAL is known since Linux 6.3.
    let fd = memfd_create(name, noexec)
        .or_else(|errno| {
            if errno == Errno::EINVAL {
                memfd_create(name, base)
            } else {
                Err(errno)
            }
        })
        .map_err(system("memfd_create"))?;
    allocate(&fd, size)?;
    seal(&fd, SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW)?;
    Ok(fd)
}

/// Adds seals.
pub(crate) fn seal(fd: &OwnedFd, seals: SealFlag) -> Result<(), ShmError> {
    fcntl(fd.as_fd(), FcntlArg::F_ADD_SEALS(seals)).map_err(system("F_ADD_SEALS"))?;
    Ok(())
}

/// Gives a memfd its size and all of its memory. What is only promised is taken at the first touch of a page: in a poll loop, where
/// it costs time, and where it is a SIGBUS if there is none left.
fn allocate(fd: &OwnedFd, size: u64) -> Result<(), ShmError> {
    let length = libc::off_t::try_from(size).map_err(|_| LayoutError::TooLarge)?;
    // fallocate takes what there is before it finds that there is no more, and on the way the kernel may end processes to make room.
    if let Some(free) = available()
        && size > free
    {
        return Err(ShmError::NoMemory {
            size,
            why: format!("{free} are available"),
        });
    }
    ftruncate(fd, length).map_err(system("ftruncate"))?;
    if devrx_sabotage::removed("shm-allocate") {
        return Ok(());
    }
    loop {
        match fallocate(fd, FallocateFlags::empty(), 0, length) {
            Ok(()) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(errno @ (Errno::ENOMEM | Errno::ENOSPC)) => {
                return Err(ShmError::NoMemory {
                    size,
                    why: errno.desc().to_owned(),
                });
            }
            Err(errno) => return Err(system("fallocate")(errno)),
        }
    }
}

/// Bytes that could be allocated on this host without anything being ended for it. `None`: the kernel does not tell. The limit of a
/// cgroup is not looked at: the kernel keeps that, by refusing or by ending a process of the group.
fn available() -> Option<u64> {
    parse_available(&std::fs::read_to_string("/proc/meminfo").ok()?)
}

fn parse_available(meminfo: &str) -> Option<u64> {
    let field = |name: &str| {
        let line = meminfo
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
        kib.checked_mul(1024)
    };
    field("MemAvailable")?.checked_add(field("SwapFree").unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_available_is_memory_and_swap() {
        let meminfo = "MemTotal:  900 kB\nMemFree: 1 kB\nMemAvailable:     300 kB\nSwapCached: 7 kB\nSwapFree:  20 kB\n";
        assert_eq!(parse_available(meminfo), Some(320 * 1024));
        assert_eq!(parse_available("MemAvailable: 300 kB\n"), Some(300 * 1024));
        assert_eq!(parse_available("MemAvailable: many kB\n"), None);
        assert_eq!(parse_available(""), None);
    }

    /// More than there can be is refused, with what to do, before the kernel looks for memory (and ends processes for it).
    #[test]
    fn more_memory_than_there_is_is_refused() {
        assert!(available().is_some_and(|free| (1..1 << 50).contains(&free)));
        let error = create("test", 1 << 50).unwrap_err();
        assert!(
            matches!(&error, ShmError::NoMemory { size, .. } if *size == 1 << 50),
            "{error}"
        );
        let said = error.to_string();
        assert!(
            said.contains("are available") && said.contains("memory.max"),
            "{said}"
        );
        assert!(matches!(create("test", u64::MAX), Err(ShmError::Layout(_))));
    }
}
