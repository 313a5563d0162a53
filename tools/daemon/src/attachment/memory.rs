//! The memory of an attachment: the region, by kind, and the two memfds of rings and headers.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use devrx_proto::layout::{Layout, State};
use devrx_proto::message::FailureCode;
use devrx_proto::shm::Shm;
use devrx_provider::{Mapping, Region, RegionSpec, dmabuf, hugetlb, memfd, udmabuf};

use super::Source;
use super::bar::{Lender, Lenders};
use super::gpu::Gpus;
use crate::error::Refused;

/// Makes or takes over the region, with the function it is of where it is a BAR.
///
/// # Errors
///
/// When there is no such kind, or the memory is not to be had or not fit.
pub(super) fn region(
    name: &str,
    source: Source,
    spec: RegionSpec,
    policy: &dmabuf::Policy,
    gpus: &Gpus,
    lenders: &Lenders,
) -> Result<(Region, Option<Lender>), Refused> {
    let region = match source {
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
        Source::Bar(bar) => {
            let (region, lender) = bar.region(spec, lenders)?;
            return Ok((region, Some(lender)));
        }
        Source::Gpu(gpu) => gpu.region(spec, policy, gpus)?,
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
    };
    Ok((region, None))
}

fn no_such(kind: &str) -> Refused {
    Refused::new(
        FailureCode::Unsupported,
        format!(
            "{kind:.40?} is no kind of memory this version has; use memfd, hugetlb, udmabuf, cuda:INDEX, hip:INDEX, pci:BDF/BAR or dmabuf"
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
    let size = layout.daemon_size();
    let slots = usize::try_from(size - layout.headers()).unwrap_or(usize::MAX);
    // The header slots are mapped before the seals: afterwards nobody can make a mapping that writes.
    let (fd, shm, headers) = Shm::create_daemon_written_with(name, size, |fd| {
        Ok::<_, Refused>(Mapping::map_shared(fd, layout.headers(), slots, true)?)
    })?;
    if !layout.announce(&shm) || !Layout::set_state(&shm, State::Running) {
        return Err(Refused::invalid(
            "the layout has no room for its own description",
        ));
    }
    Ok(DaemonMemory {
        fd,
        shm,
        headers: Arc::new(headers),
    })
}
