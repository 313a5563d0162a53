//! Shared host memory that is also a dma-buf, to share with a GPU or another driver.
//!
//! NICs are given the *memfd*: a mapping of the udmabuf itself is ordinary memory behind a PFN map, which neither AF_XDP nor a
//! VFIO type1 container takes. The udmabuf is the region's exported identity only ([`Region::export_fd`]).

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::SealFlag;
use nix::sys::memfd::MFdFlags;

use crate::memfd::{check_available, map, new_file, seal, set_size, size_seals, sys};
use crate::region::{Place, Traits};
use crate::{Flush, MapWay, MemoryKind, ProviderError, Region, RegionSpec, ioctl};

const TRAITS: Traits = Traits {
    kind: MemoryKind::Udmabuf,
    ways: &[MapWay::HostAddress, MapWay::Memfd],
    flush: Flush::None,
    cpu_readable: true,
    no_way: None,
};

/// The device that makes udmabufs.
pub const DEVICE: &str = "/dev/udmabuf";

const PARAMETERS: &str = "/sys/module/udmabuf/parameters";

/// Part of a memfd, for [`Device::create_list`].
#[derive(Clone, Copy, Debug)]
pub struct Item<'a> {
    /// A memfd that is sealed against shrinking, and not against writing.
    pub memfd: BorrowedFd<'a>,
    /// Where the part starts, bytes; a multiple of the page size.
    pub offset: u64,
    /// Its size, bytes; a multiple of the page size, not 0.
    pub size: u64,
}

/// The module's limits. They differ between kernels (`size_limit_mb` was 64 for long and is boundless since), so they are read, not assumed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Most items of a list (`list_limit`).
    pub list: u64,
    /// Largest udmabuf, MiB (`size_limit_mb`).
    pub size_mb: u64,
}

/// The module's limits; `None` for a parameter that cannot be read.
#[must_use]
pub fn limits() -> Option<Limits> {
    let read = |name: &str| {
        fs::read_to_string(format!("{PARAMETERS}/{name}"))
            .ok()?
            .trim()
            .parse()
            .ok()
    };
    Some(Limits {
        list: read("list_limit")?,
        size_mb: read("size_limit_mb")?,
    })
}

/// `/dev/udmabuf`, open.
#[derive(Debug)]
pub struct Device(OwnedFd);

impl Device {
    /// Opens the device.
    ///
    /// # Errors
    ///
    /// [`ProviderError::Unavailable`] when the kernel has no udmabuf or this process may not use it, with the fix.
    pub fn open() -> Result<Self, ProviderError> {
        Self::open_at(DEVICE)
    }

    fn open_at(path: &str) -> Result<Self, ProviderError> {
        let unavailable = |fix: &str| ProviderError::Unavailable {
            what: format!("udmabuf ({path})"),
            fix: fix.to_owned(),
        };
        match fs::OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => Ok(Self(file.into())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(unavailable(
                "load it with `modprobe udmabuf`, or boot a kernel with CONFIG_UDMABUF; \
                 where no other driver needs the memory, use the memory kind memfd",
            )),
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Err(unavailable(
                "run as root, or join the group that owns the device (kvm on most systems)",
            )),
            Err(source) => Err(ProviderError::Sys {
                call: "open(/dev/udmabuf)",
                source,
                fix: "check the device node".to_owned(),
            }),
        }
    }

    /// Wraps one part of one memfd as a dma-buf (`UDMABUF_CREATE`).
    ///
    /// # Errors
    ///
    /// [`ProviderError::BadFd`] when the memfd's seals or the range do not suit; [`ProviderError::BadSize`] over the module's limit;
    /// [`ProviderError::Sys`].
    pub fn create(&self, item: Item<'_>) -> Result<OwnedFd, ProviderError> {
        check_size(item.size)?;
        ioctl::udmabuf_create(self.0.as_fd(), item.memfd, item.offset, item.size)
            .map_err(|errno| refused("ioctl(UDMABUF_CREATE)", errno))
    }

    /// Wraps parts of memfds, in their order, as one dma-buf (`UDMABUF_CREATE_LIST`).
    ///
    /// # Errors
    ///
    /// As [`create`](Self::create), and [`ProviderError::BadSize`] for an empty list or one over the module's limit.
    pub fn create_list(&self, items: &[Item<'_>]) -> Result<OwnedFd, ProviderError> {
        let most = limits().map_or(u64::MAX, |limits| limits.list);
        if items.is_empty() || items.len() as u64 > most {
            let why =
                format!("use 1 to {most} parts, or raise the parameter {PARAMETERS}/list_limit");
            return Err(ProviderError::BadSize {
                what: "a udmabuf list of length",
                value: items.len() as u64,
                why,
            });
        }
        check_size(
            items
                .iter()
                .fold(0, |sum, item| item.size.saturating_add(sum)),
        )?;
        let items: Vec<_> = items
            .iter()
            .map(|item| (item.memfd, item.offset, item.size))
            .collect();
        ioctl::udmabuf_create_list(self.0.as_fd(), &items)
            .map_err(|errno| refused("ioctl(UDMABUF_CREATE_LIST)", errno))
    }
}

fn check_size(size: u64) -> Result<(), ProviderError> {
    let most = limits().map_or(u64::MAX, |limits| limits.size_mb.saturating_mul(1 << 20));
    if size <= most {
        return Ok(());
    }
    let why = format!(
        "the udmabuf module allows {} MiB; raise it with `echo {} > {PARAMETERS}/size_limit_mb` as root",
        most >> 20,
        size.div_ceil(1 << 20)
    );
    Err(ProviderError::BadSize {
        what: "a udmabuf of size",
        value: size,
        why,
    })
}

fn refused(call: &'static str, errno: Errno) -> ProviderError {
    match errno {
        Errno::EBADFD => ProviderError::BadFd("it is no memfd of shmem or hugetlbfs, which alone udmabuf takes".to_owned()),
        Errno::EINVAL => ProviderError::BadFd(
            "udmabuf wants F_SEAL_SHRINK set, F_SEAL_WRITE and F_SEAL_FUTURE_WRITE not set, and a range of whole pages \
             within the file"
                .to_owned(),
        ),
        errno => sys(call, errno, "udmabuf pins its pages: check free memory and the memlock limit"),
    }
}

/// Makes a region of shared memory with a dma-buf over it.
///
/// The memory is sealed against any change of size, but, since udmabuf refuses that seal, not against writing: whoever gets
/// one of its descriptors can write it.
///
/// # Errors
///
/// [`ProviderError::Unavailable`] when the machine has no udmabuf; otherwise as [`Device::create`] and
/// [`memfd::create`](crate::memfd::create).
pub fn create(name: &str, spec: RegionSpec) -> Result<Region, ProviderError> {
    spec.check()?;
    let device = Device::open()?;
    check_size(spec.size)?;
    check_available(spec.size)?;
    let fd = new_file(name, MFdFlags::empty())?;
    set_size(fd.as_fd(), spec.size)?;
    let mapping = map(fd.as_fd(), spec)?;
    seal(fd.as_fd(), size_seals() | SealFlag::F_SEAL_SEAL)?;
    let export = device.create(Item {
        memfd: fd.as_fd(),
        offset: 0,
        size: spec.size,
    })?;
    let place = Place {
        export: Some(export),
        ..Place::file(fd)
    };
    Ok(Region::new(TRAITS, spec, place, Some(mapping)))
}
