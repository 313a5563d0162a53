//! The memory of an attachment: the region, by kind, and the two memfds of rings and headers.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use devrx_proto::layout::{Layout, STATE, State};
use devrx_proto::message::FailureCode;
use devrx_proto::ring::Word;
use devrx_proto::shm::{Access, Shm};
use devrx_provider::{Mapping, Region, RegionSpec, dmabuf, hugetlb, memfd, udmabuf};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::Source;
use crate::error::Refused;

/// Makes or takes over the region.
///
/// # Errors
///
/// When there is no such kind, or the memory is not to be had or not fit.
pub(super) fn region(
    name: &str,
    source: Source,
    spec: RegionSpec,
    policy: &dmabuf::Policy,
) -> Result<Region, Refused> {
    Ok(match source {
        Source::Kind(kind) => match kind.as_str() {
            "memfd" => memfd::create(name, spec)?,
            "hugetlb" => hugetlb::create(name, spec)?,
            "udmabuf" => udmabuf::create(name, spec)?,
            "dmabuf" => {
                return Err(Refused::invalid(
                    "dmabuf memory is handed over with the request; none came",
                ));
            }
            _ => return Err(no_such(&kind)),
        },
        Source::Brought(kind, fd) => match kind.as_str() {
            "memfd" | "hugetlb" => memfd::adopt(fd, spec)?,
            "dmabuf" => dmabuf::adopt(fd, spec, policy)?,
            "udmabuf" => {
                return Err(Refused::invalid(
                    "a udmabuf is made by the daemon; hand over its memfd as memfd, or have the daemon make it",
                ));
            }
            _ => return Err(no_such(&kind)),
        },
    })
}

fn no_such(kind: &str) -> Refused {
    Refused::new(
        FailureCode::Unsupported,
        format!(
            "{kind:.40?} is no kind of memory this version has; use memfd, hugetlb, udmabuf or dmabuf"
        ),
    )
}

/// The daemon-written memfd: rings' entries and indices, counters, header slots.
pub(super) struct DaemonMemory {
    pub(super) fd: OwnedFd,
    pub(super) shm: Arc<Shm>,
    /// The header slots, mapped once more: the driver writes them.
    pub(super) headers: Arc<Mapping>,
}

/// Makes the daemon-written memfd. Whoever else gets its descriptor can neither write it nor change its size.
///
/// # Errors
///
/// When memory or descriptors are not to be had.
pub(super) fn daemon_memory(name: &str, layout: &Layout) -> Result<DaemonMemory, Refused> {
    let fail = |what: &'static str| {
        move |error: nix::Error| {
            Refused::new(
                FailureCode::Exhausted,
                format!("{what} for rings and headers: {error}; free memory, or attach less"),
            )
        }
    };
    let fd = memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)
        .map_err(fail("memfd_create"))?;
    let size = layout.daemon_size();
    let length = libc::off_t::try_from(size)
        .map_err(|_| Refused::invalid("rings and headers would be larger than a file can be"))?;
    nix::unistd::ftruncate(&fd, length).map_err(fail("ftruncate"))?;
    // Every page now: the poll loop must neither wait for one nor find that there is none.
    nix::fcntl::fallocate(&fd, nix::fcntl::FallocateFlags::empty(), 0, length)
        .map_err(fail("fallocate"))?;
    let seal = |seals| fcntl(&fd, FcntlArg::F_ADD_SEALS(seals)).map_err(fail("F_ADD_SEALS"));
    seal(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW)?;
    let shm = Shm::map(fd.as_fd(), size, Access::ReadWrite)?;
    let slots = usize::try_from(size - layout.headers()).unwrap_or(usize::MAX);
    let headers = Mapping::map_shared(fd.as_fd(), layout.headers(), slots, true)?;
    // After both mappings: from here on nobody can make another one that writes.
    seal(SealFlag::F_SEAL_FUTURE_WRITE | SealFlag::F_SEAL_SEAL)?;
    let words: Vec<u8> = layout
        .header_words()
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect();
    if !shm.copy_in(0, &words) {
        return Err(Refused::invalid(
            "the layout has no room for its own description",
        ));
    }
    shm.word_to_write(STATE)?.store(State::Running as u32);
    Ok(DaemonMemory {
        fd,
        shm,
        headers: Arc::new(headers),
    })
}
