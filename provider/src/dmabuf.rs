//! Memory that somebody hands over as a dma-buf, and the ioctls every dma-buf has (linux/dma-buf.h).
//!
//! A dma-buf is memory that its exporter may *move* while nobody with a say has it mapped, and a NIC given the address of a
//! mapping has no say: it would go on writing where the memory used to be. So only the exporters on the [`Policy`]'s list are taken.
//!
//! Never ask for CPU read access ([`sync_start`] with [`Access::Read`]) to memory of a GPU: amdgpu and xe answer by
//! migrating it to system memory.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use crate::memfd::sys;
use crate::region::{Place, Traits};
use crate::{Flush, MapWay, Mapping, MemoryKind, ProviderError, Region, RegionSpec, ioctl};

/// `DMA_BUF_MAGIC` (linux/magic.h), "DMAB".
const MAGIC: i64 = 0x444d_4142;

/// Most bytes of a name, with the zero at its end (`DMA_BUF_NAME_LEN`).
const NAME_LEN: usize = 32;

const PFN: Traits = Traits {
    kind: MemoryKind::Dmabuf,
    ways: &[MapWay::PfnAddress],
    flush: Flush::ReadPerBatch,
    cpu_readable: false,
    no_way: None,
};

const VFIO: Traits = Traits {
    kind: MemoryKind::Dmabuf,
    ways: &[MapWay::VfioDmabuf],
    flush: Flush::ReadPerBatch,
    cpu_readable: false,
    no_way: None,
};

const RAM: Traits = Traits {
    kind: MemoryKind::Dmabuf,
    ways: &[],
    flush: Flush::None,
    cpu_readable: true,
    no_way: Some(
        "it is ordinary memory behind a PFN map, which neither AF_XDP nor VFIO takes; hand over the memfd under it \
         (the memory kind memfd), or let the daemon make it (the memory kind udmabuf)",
    ),
};

/// Which exporters' dma-bufs are taken.
///
/// Names are those that the kernel shows as `exp_name` in `/proc/self/fdinfo`. Drivers that export through DRM's common code
/// (amdgpu, xe, i915, qxl, nouveau) all show as `drm`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Policy {
    /// Exporters that never move memory once it is exported.
    pub pinned: Vec<String>,
    /// Exporters that may move it.
    pub unpinned: Vec<String>,
    /// Take those too. A NIC then corrupts memory of others when the exporter does move it.
    pub allow_unpinned: bool,
}

impl Default for Policy {
    /// NVIDIA's and VFIO's exporters, and those of ordinary memory (which are told why they cannot be used); nothing that moves.
    fn default() -> Self {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let pinned = ["nv_dmabuf", "nvidia", "vfio_pci", "vfio_pci_core"];
        let pinned = [&pinned[..], RAM_EXPORTERS].concat();
        Self {
            pinned: names(&pinned),
            unpinned: names(&["drm", "amdgpu", "xe", "i915", "qxl", "nouveau"]),
            allow_unpinned: false,
        }
    }
}

/// Exporters of ordinary memory: the udmabuf driver and the kernel's heaps.
const RAM_EXPORTERS: &[&str] = &[
    "udmabuf",
    "system",
    "default_cma_region",
    "reserved",
    "linux,cma",
];

impl Policy {
    /// Whether an exporter's memory is taken.
    ///
    /// # Errors
    ///
    /// [`ProviderError::Unfit`], with what an administrator can do.
    pub fn check(&self, exporter: &str) -> Result<(), ProviderError> {
        let listed = |names: &[String]| names.iter().any(|name| name == exporter);
        if devrx_sabotage::removed("dmabuf-policy") || listed(&self.pinned) {
            return Ok(());
        }
        if listed(&self.unpinned) {
            if self.allow_unpinned {
                return Ok(());
            }
            return Err(ProviderError::Unfit(format!(
                "the exporter of this dma-buf ({exporter}) may move its memory while the NIC writes to it, and tells nobody: \
                 use memory of an exporter that pins, or let the administrator set allow_unpinned and keep the memory pinned \
                 (an RDMA device's registration does)"
            )));
        }
        Err(ProviderError::Unfit(format!(
            "the exporter of this dma-buf ({exporter:?}) is not on the list of those that never move memory ({}): \
             the administrator can add it to that list once its driver is known to pin what it exports",
            self.pinned.join(", ")
        )))
    }
}

/// Takes over a dma-buf.
///
/// It is mapped where its exporter allows that; what then executes the mapping depends on the exporter
/// ([`Region::ways`]). Ordinary memory behind a dma-buf is adopted but fits no queue, and says why ([`Region::no_way`]).
///
/// # Errors
///
/// [`ProviderError::BadFd`] when it is no dma-buf or too small; [`ProviderError::Unfit`] when the policy refuses its exporter.
pub fn adopt(fd: OwnedFd, spec: RegionSpec, policy: &Policy) -> Result<Region, ProviderError> {
    spec.check()?;
    let exporter = exporter(fd.as_fd())?;
    policy.check(&exporter)?;
    let size = size(fd.as_fd())?;
    if size < spec.size {
        let why = format!(
            "it holds {size} bytes, the attachment asks for {}; make it larger, or ask for less",
            spec.size
        );
        return Err(ProviderError::BadFd(why));
    }
    let mapping = Mapping::map_shared(fd.as_fd(), 0, spec.len(), true);
    let is_vfio = exporter.starts_with("vfio_pci");
    let traits = if RAM_EXPORTERS.contains(&exporter.as_str()) {
        RAM
    } else if is_vfio {
        VFIO
    } else {
        PFN
    };
    let mapping = match mapping {
        Ok(mapping) => Some(mapping),
        // VFIO's dma-bufs have no mmap; iommufd takes the descriptor.
        Err(_) if is_vfio => None,
        Err(source) => {
            return Err(ProviderError::Sys {
                call: "mmap of the dma-buf",
                source,
                fix: format!(
                    "the exporter ({exporter}) allows no CPU mapping of this memory, without which no NIC can be given \
                     access: allocate it CPU-visible (resizable BAR; for CUDA, export with a mappable handle)"
                ),
            });
        }
    };
    Ok(Region::new(traits, spec, Place::file(fd), mapping))
}

/// Who exported a dma-buf: `exp_name` of its fdinfo.
///
/// # Errors
///
/// [`ProviderError::BadFd`] when it is no dma-buf.
pub fn exporter(fd: BorrowedFd<'_>) -> Result<String, ProviderError> {
    let no_dmabuf = || {
        ProviderError::BadFd(
            "it is no dma-buf; hand over one that a device driver exported".to_owned(),
        )
    };
    let stat = nix::sys::statfs::fstatfs(fd)
        .map_err(|errno| sys("fstatfs", errno, "hand over an open dma-buf"))?;
    if stat.filesystem_type().0 != MAGIC {
        return Err(no_dmabuf());
    }
    let path = format!("/proc/self/fdinfo/{}", fd.as_raw_fd());
    let info = fs::read_to_string(path).map_err(|source| ProviderError::Sys {
        call: "read of /proc/self/fdinfo",
        source,
        fix: "mount /proc".to_owned(),
    })?;
    parse_exporter(&info)
        .map(str::to_owned)
        .ok_or_else(no_dmabuf)
}

/// The first `exp_name` line. The first on purpose: a `name` line follows it, and whoever holds the dma-buf can give it a name with
/// line breaks in it ([`set_name`]) that spells any other line.
fn parse_exporter(info: &str) -> Option<&str> {
    let mut lines = info.lines().filter(|line| line.starts_with("exp_name:"));
    let line = if devrx_sabotage::removed("dmabuf-first-line") {
        lines.next_back()
    } else {
        lines.next()
    };
    line?
        .strip_prefix("exp_name:")
        .map(str::trim)
        .filter(|name| !name.is_empty())
}

/// Size of a dma-buf, bytes (by `lseek`, as the header prescribes).
///
/// # Errors
///
/// [`ProviderError::BadFd`] when the descriptor cannot be asked.
pub fn size(fd: BorrowedFd<'_>) -> Result<u64, ProviderError> {
    let bad = |errno: Errno| {
        ProviderError::BadFd(format!(
            "its size cannot be asked ({errno}); hand over a dma-buf"
        ))
    };
    let end = lseek(fd, 0, Whence::SeekEnd).map_err(bad)?;
    lseek(fd, 0, Whence::SeekSet).map_err(bad)?;
    u64::try_from(end).map_err(|_| bad(Errno::EOVERFLOW))
}

/// What a CPU is going to do, or a fence is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Access {
    /// `DMA_BUF_SYNC_READ`. Never on memory of a GPU: amdgpu and xe migrate it to system memory.
    Read,
    /// `DMA_BUF_SYNC_WRITE`.
    Write,
    /// `DMA_BUF_SYNC_RW`. The same warning.
    ReadWrite,
}

impl Access {
    fn flags(self) -> u32 {
        match self {
            Self::Read => 1,
            Self::Write => 2,
            Self::ReadWrite => 3,
        }
    }
}

/// `DMA_BUF_SYNC_END`; `DMA_BUF_SYNC_START` is 0.
const SYNC_END: u64 = 4;

/// Begins CPU access through a mapping (`DMA_BUF_IOCTL_SYNC`). Blocks until the exporter has made the memory coherent for it; to be ended by
/// [`sync_end`] with the same access.
///
/// # Errors
///
/// What the ioctl answers, `EINTR` apart: that is tried again.
pub fn sync_start(fd: BorrowedFd<'_>, access: Access) -> io::Result<()> {
    sync(fd, access.flags().into())
}

/// Ends CPU access.
///
/// # Errors
///
/// As [`sync_start`].
pub fn sync_end(fd: BorrowedFd<'_>, access: Access) -> io::Result<()> {
    sync(fd, u64::from(access.flags()) | SYNC_END)
}

fn sync(fd: BorrowedFd<'_>, flags: u64) -> io::Result<()> {
    loop {
        match ioctl::dma_buf_sync(fd, flags) {
            // The header tells callers to repeat on both.
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            result => return result.map_err(io::Error::from),
        }
    }
}

/// The dma-buf's present fences as a sync file that can be polled (`DMA_BUF_IOCTL_EXPORT_SYNC_FILE`, Linux 6.0): what somebody with this
/// `access` would have to wait for.
///
/// # Errors
///
/// What the ioctl answers; `ENOTTY` on older kernels.
pub fn export_sync_file(fd: BorrowedFd<'_>, access: Access) -> io::Result<OwnedFd> {
    Ok(ioctl::dma_buf_export_sync_file(fd, access.flags())?)
}

/// Adds a sync file's fence to the dma-buf (`DMA_BUF_IOCTL_IMPORT_SYNC_FILE`, Linux 6.0), as one of somebody who reads or writes it.
///
/// # Errors
///
/// What the ioctl answers; `ENOTTY` on older kernels.
pub fn import_sync_file(
    fd: BorrowedFd<'_>,
    access: Access,
    sync_file: BorrowedFd<'_>,
) -> io::Result<()> {
    Ok(ioctl::dma_buf_import_sync_file(
        fd,
        access.flags(),
        sync_file,
    )?)
}

/// Names the dma-buf for `/proc` and debugfs (`DMA_BUF_SET_NAME`).
///
/// # Errors
///
/// `InvalidInput` when the name is longer than 31 bytes or has a zero byte in it; `EBUSY` on kernels that refuse it while devices are
/// attached.
pub fn set_name(fd: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    let bad = || {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            "a dma-buf's name has at most 31 bytes and no zero byte",
        )
    };
    if name.len() >= NAME_LEN {
        return Err(bad());
    }
    let name = CString::new(name).map_err(|_| bad())?;
    Ok(ioctl::dma_buf_set_name(fd, &name)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_spell_another_exporter() {
        let info = "pos:\t0\nflags:\t02000002\nmnt_id:\t14\nino:\t5\nsize:\t4096\ncount:\t1\nexp_name:\tudmabuf\n\
                    name:\tx\nexp_name:\tnvidia\n";
        assert_eq!(parse_exporter(info), Some("udmabuf"));
        assert_eq!(parse_exporter("pos:\t0\nflags:\t0\n"), None);
        assert_eq!(parse_exporter("exp_name:\t\n"), None);
    }
}
