//! A VFIO container: the address space that devices see.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, OnceLock, PoisonError};

use nix::errno::Errno;
use vfio_bindings::bindings::vfio as uapi;

use super::iommu::IommuInfo;
use super::iova::IovaSpace;
use super::sys;
use crate::DriverError;

const NODE: &str = "/dev/vfio/vfio";

/// Who answers behind `/dev/vfio/vfio`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ContainerKind {
    /// A VFIO container with the type1 IOMMU driver: maps ordinary memory and the memory of devices.
    Type1,
    /// iommufd, speaking VFIO's language (`CONFIG_IOMMUFD_VFIO_CONTAINER`): maps ordinary memory, never the memory of devices.
    IommufdCompat,
}

/// A container and the addresses handed out in it.
#[derive(Debug)]
pub(super) struct Container {
    file: File,
    kind: ContainerKind,
    /// Set once the first group has joined: what the IOMMU can do depends on whose it is.
    space: OnceLock<(IommuInfo, Mutex<IovaSpace>)>,
}

impl AsFd for Container {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Container {
    /// An empty container.
    pub(super) fn open() -> Result<Self, DriverError> {
        let file = open_node(NODE).map_err(|error| {
            let fix = match error.raw_os_error() {
                Some(libc::ENOENT | libc::ENODEV) => {
                    "VFIO is not there: `modprobe vfio-pci`; a kernel without CONFIG_VFIO_GROUP and \
                     CONFIG_VFIO_CONTAINER cannot be used"
                }
                Some(libc::EACCES | libc::EPERM) => "run as root, or give this user the file",
                _ => "see `dmesg`",
            };
            DriverError::sys("open of /dev/vfio/vfio", error, fix)
        })?;
        let fd = file.as_fd();
        match sys::api_version(fd) {
            Ok(0) => {}
            Ok(version) => {
                return Err(DriverError::sys(
                    "VFIO_GET_API_VERSION",
                    io::Error::other(format!("version {version}")),
                    "only version 0 is known; use a Linux kernel's own VFIO",
                ));
            }
            Err(error) => {
                let fix = "/dev/vfio/vfio is not VFIO's; find out what made it";
                return Err(DriverError::sys("VFIO_GET_API_VERSION", error.into(), fix));
            }
        }
        if !sys::has_extension(fd, uapi::VFIO_TYPE1v2_IOMMU) {
            return Err(DriverError::sys(
                "VFIO_CHECK_EXTENSION(VFIO_TYPE1v2_IOMMU)",
                Errno::EOPNOTSUPP.into(),
                "this VFIO has no type1 IOMMU driver: `modprobe vfio_iommu_type1`",
            ));
        }
        let kind = if sys::is_iommufd(fd) {
            ContainerKind::IommufdCompat
        } else {
            ContainerKind::Type1
        };
        Ok(Self {
            file,
            kind,
            space: OnceLock::new(),
        })
    }

    pub(super) fn kind(&self) -> ContainerKind {
        self.kind
    }

    /// Chooses the IOMMU driver, once a group has joined, and learns what there is.
    pub(super) fn set_iommu(&self) -> Result<(), DriverError> {
        if self.space.get().is_some() {
            return Ok(());
        }
        sys::set_iommu(self.as_fd(), uapi::VFIO_TYPE1v2_IOMMU).map_err(|error| {
            let fix = match error {
                Errno::EPERM => {
                    "the IOMMU does not isolate interrupts, so a device could send those of others: turn interrupt remapping on \
                     in the firmware and leave `intremap=off` off the kernel's command line (the module parameter \
                     vfio_iommu_type1.allow_unsafe_interrupts=1 goes on without)"
                }
                Errno::ENODEV | Errno::EINVAL => {
                    "the type1 IOMMU driver does not take this device's IOMMU; see `dmesg`"
                }
                _ => "see `dmesg`",
            };
            DriverError::sys("VFIO_SET_IOMMU(VFIO_TYPE1v2_IOMMU)", error.into(), fix)
        })?;
        let bytes = sys::iommu_info(self.as_fd()).map_err(|error| {
            DriverError::sys("VFIO_IOMMU_GET_INFO", error.into(), "see `dmesg`")
        })?;
        let info = IommuInfo::parse(&bytes);
        let page = info.page().max(devrx_provider::page_size());
        let space = Mutex::new(IovaSpace::new(&info.windows, page));
        // Nobody else had the container yet.
        let _ = self.space.set((info, space));
        Ok(())
    }

    /// What the IOMMU can do; nothing before a group joined.
    pub(super) fn iommu(&self) -> IommuInfo {
        self.space
            .get()
            .map_or_else(IommuInfo::default, |(info, _)| info.clone())
    }

    /// Addresses for `len` bytes.
    pub(super) fn take_iova(&self, len: u64) -> Option<u64> {
        let (_, space) = self.space.get()?;
        space
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take(len)
    }

    pub(super) fn give_back_iova(&self, iova: u64, len: u64) {
        if let Some((_, space)) = self.space.get() {
            let mut space = space.lock().unwrap_or_else(PoisonError::into_inner);
            space.give_back(iova, len);
        }
    }
}

/// Who answers behind `/dev/vfio/vfio`.
///
/// # Errors
///
/// Why it cannot be opened, and what to do.
pub(super) fn container_kind() -> Result<ContainerKind, DriverError> {
    Container::open().map(|container| container.kind())
}

/// Opens a device node for reading and writing, closed on exec.
pub(super) fn open_node(path: impl AsRef<std::path::Path>) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}
