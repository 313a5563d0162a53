//! Shared host memory: memfds of our own, and those that clients hand over.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::region::{Place, Traits};
use crate::{Flush, MapWay, Mapping, MemoryKind, ProviderError, Region, RegionSpec};

pub(crate) const TRAITS: Traits = Traits {
    kind: MemoryKind::Memfd,
    ways: &[MapWay::HostAddress, MapWay::Memfd],
    flush: Flush::None,
    cpu_readable: true,
    no_way: None,
};

/// Makes a region of shared memory whose receivers can only read it.
///
/// The memory is allocated now, mapped for writing here, and then sealed against any change of size and against any further
/// writable mapping (`F_SEAL_FUTURE_WRITE`, Linux 5.1), so that the descriptor can be given away.
///
/// # Errors
///
/// [`ProviderError::BadSize`]; [`ProviderError::NoMemory`] or [`ProviderError::Sys`] where the memory is not to be had.
pub fn create(name: &str, spec: RegionSpec) -> Result<Region, ProviderError> {
    spec.check()?;
    check_available(spec.size)?;
    let fd = new_file(name, MFdFlags::empty())?;
    set_size(fd.as_fd(), spec.size)?;
    let mapping = map(fd.as_fd(), spec)?;
    seal(
        fd.as_fd(),
        size_seals() | SealFlag::F_SEAL_FUTURE_WRITE | SealFlag::F_SEAL_SEAL,
    )?;
    Ok(Region::new(TRAITS, spec, Place::file(fd), Some(mapping)))
}

/// Takes over memory that a client hands over: a memfd (of small or of huge pages) sealed against shrinking, at least `spec.size` bytes
/// large. It is mapped for writing. The client can still punch holes in it; see [`guard`](crate::guard).
///
/// # Errors
///
/// [`ProviderError::BadFd`] with what is wrong with the descriptor; [`ProviderError::BadSize`]; [`ProviderError::Sys`].
pub fn adopt(fd: OwnedFd, spec: RegionSpec) -> Result<Region, ProviderError> {
    spec.check()?;
    let seals = match fcntl(fd.as_fd(), FcntlArg::F_GET_SEALS) {
        Ok(seals) => SealFlag::from_bits_retain(seals),
        // Only memory files of shmem and hugetlbfs have seals.
        Err(Errno::EINVAL) => {
            let why = "it is no memfd; make one with memfd_create(2) and MFD_ALLOW_SEALING";
            return Err(ProviderError::BadFd(why.to_owned()));
        }
        Err(errno) => return Err(sys("fcntl(F_GET_SEALS)", errno, "hand over an open memfd")),
    };
    if !devrx_sabotage::removed("adopt-seal-check") && !seals.contains(SealFlag::F_SEAL_SHRINK) {
        let why = "it is not sealed against shrinking: cut short, its memory would vanish under the NIC; \
                   add F_SEAL_SHRINK with fcntl(F_ADD_SEALS)";
        return Err(ProviderError::BadFd(why.to_owned()));
    }
    if seals.intersects(SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_FUTURE_WRITE) {
        let why = "it is sealed against writing, so no NIC can receive into it; leave out F_SEAL_WRITE and F_SEAL_FUTURE_WRITE";
        return Err(ProviderError::BadFd(why.to_owned()));
    }
    let flags = fcntl(fd.as_fd(), FcntlArg::F_GETFL)
        .map_err(|errno| sys("fcntl(F_GETFL)", errno, "hand over an open memfd"))?;
    if flags & libc::O_ACCMODE != libc::O_RDWR {
        let why = "it is not open for reading and writing, so no NIC can receive into it; hand over the descriptor that \
                   memfd_create(2) made, or one opened with O_RDWR";
        return Err(ProviderError::BadFd(why.to_owned()));
    }
    let stat = nix::sys::stat::fstat(fd.as_fd())
        .map_err(|errno| sys("fstat", errno, "hand over an open memfd"))?;
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    if !devrx_sabotage::removed("adopt-size-check") && size < spec.size {
        let why = format!(
            "it holds {size} bytes, the attachment asks for {}; make it larger, or ask for less",
            spec.size
        );
        return Err(ProviderError::BadFd(why));
    }
    // A file of huge pages says so by its block size, and can only be mapped and repaired in those.
    let page = u64::try_from(stat.st_blksize)
        .unwrap_or(0)
        .max(crate::page_size());
    let is_huge = crate::hugetlb::is_hugetlb(fd.as_fd());
    let page = if is_huge { page } else { crate::page_size() };
    if !spec.size.is_multiple_of(page) {
        let why = format!("its pages are huge; use a multiple of {page} bytes");
        return Err(ProviderError::BadSize {
            what: "the region's size",
            value: spec.size,
            why,
        });
    }
    let mapping = map_pages(fd.as_fd(), spec, page)?;
    let traits = if is_huge {
        crate::hugetlb::TRAITS
    } else {
        TRAITS
    };
    Ok(Region::new(traits, spec, Place::file(fd), Some(mapping)))
}

/// A new, empty, sealable memfd.
pub(crate) fn new_file(name: &str, flags: MFdFlags) -> Result<OwnedFd, ProviderError> {
    let name = CString::new(name).map_err(|_| ProviderError::BadSize {
        what: "the region's name of length",
        value: name.len() as u64,
        why: "it has a zero byte in it".to_owned(),
    })?;
    let flags = flags | MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    memfd_create(name.as_c_str(), flags).map_err(|errno| {
        sys(
            "memfd_create",
            errno,
            "check the limit of open files (ulimit -n) and the name's length (at most 249)",
        )
    })
}

/// Gives a new file its size, and its memory now rather than at the first packet.
pub(crate) fn set_size(fd: BorrowedFd<'_>, size: u64) -> Result<(), ProviderError> {
    // Checked by `RegionSpec::check`.
    let size = i64::try_from(size).unwrap_or(i64::MAX);
    nix::unistd::ftruncate(fd, size)
        .map_err(|errno| sys("ftruncate", errno, "ask for a smaller region"))?;
    loop {
        match fallocate(fd, FallocateFlags::empty(), 0, size) {
            Ok(()) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(errno) => {
                let fix = "there is not enough free memory: ask for a smaller region, or raise the cgroup's memory.max";
                return Err(sys("fallocate", errno, fix));
            }
        }
    }
}

/// Refuses a region of small pages that this host has no memory for: `fallocate` takes what there is before it finds that there is no more, and on
/// the way the kernel ends processes to make room.
pub(crate) fn check_available(size: u64) -> Result<(), ProviderError> {
    match available() {
        Some(free) if size > free => Err(ProviderError::NoMemory {
            size,
            why: format!("{free} are available, memory and swap (/proc/meminfo)"),
        }),
        _ => Ok(()),
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

pub(crate) fn size_seals() -> SealFlag {
    SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW
}

pub(crate) fn seal(fd: BorrowedFd<'_>, seals: SealFlag) -> Result<(), ProviderError> {
    fcntl(fd, FcntlArg::F_ADD_SEALS(seals))
        .map(drop)
        .map_err(|errno| sys("fcntl(F_ADD_SEALS)", errno, "Linux 5.1 or later is needed"))
}

pub(crate) fn map(fd: BorrowedFd<'_>, spec: RegionSpec) -> Result<Mapping, ProviderError> {
    map_pages(fd, spec, crate::page_size())
}

pub(crate) fn map_pages(
    fd: BorrowedFd<'_>,
    spec: RegionSpec,
    page: u64,
) -> Result<Mapping, ProviderError> {
    let page = usize::try_from(page).unwrap_or(usize::MAX);
    Mapping::map_pages(fd, 0, spec.len(), true, page).map_err(|source| ProviderError::Sys {
        call: "mmap",
        source,
        fix: "check the limit of address space (ulimit -v) and of mappings (vm.max_map_count)"
            .to_owned(),
    })
}

pub(crate) fn sys(call: &'static str, errno: Errno, fix: &str) -> ProviderError {
    ProviderError::Sys {
        call,
        source: errno.into(),
        fix: fix.to_owned(),
    }
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
        assert!(available().is_some_and(|free| (1..1 << 44).contains(&free)));
        let spec = RegionSpec {
            size: 1 << 44,
            chunk_size: 32768,
        };
        let error = create("test", spec).unwrap_err();
        assert!(
            matches!(error, ProviderError::NoMemory { size, .. } if size == 1 << 44),
            "{error}"
        );
        let said = error.to_string();
        assert!(
            said.contains("are available") && said.contains("ask for a smaller region"),
            "{said}"
        );
        check_available(4096).unwrap();
    }
}
