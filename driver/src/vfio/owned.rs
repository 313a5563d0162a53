//! An open function: its device file, its group, its container, closed in that order.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use nix::errno::Errno;
use vfio_bindings::bindings::vfio as uapi;

use super::container::Container;
use super::group::Group;
use super::sysfs::Sysfs;
use super::{PciAddress, sys};
use crate::DriverError;

/// A region of a device file: a BAR, the configuration space.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct RegionInfo {
    /// Bytes; 0 where there is none.
    pub size: u64,
    /// Where in the device file.
    pub offset: u64,
    /// Whether it can be mapped.
    pub mappable: bool,
}

/// An open function. What must not outlive it (mappings of BARs, mappings for DMA) keeps it.
#[derive(Debug)]
pub(super) struct Owned {
    name: String,
    // In the order in which they are closed: the device, the group (which leaves the container), the container.
    device: File,
    group: Group,
    info: uapi::vfio_device_info,
    config: RegionInfo,
}

impl Owned {
    /// Opens a function, in a container that only functions of its group are in.
    pub(super) fn open(sysfs: &Sysfs, address: PciAddress) -> Result<Arc<Self>, DriverError> {
        let function = sysfs.function(address)?;
        let group = Group::join(sysfs, &function)?;
        let device = File::from(group.open()?);
        let info = sys::device_info(device.as_fd()).map_err(|error| {
            DriverError::sys("VFIO_DEVICE_GET_INFO", error.into(), "see `dmesg`")
        })?;
        let mut owned = Self {
            name: address.to_string(),
            device,
            group,
            info,
            config: RegionInfo::default(),
        };
        owned.config = owned.region(uapi::VFIO_PCI_CONFIG_REGION_INDEX)?;
        Ok(Arc::new(owned))
    }

    /// The PCI address.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }

    pub(super) fn container(&self) -> &Container {
        self.group.container()
    }

    pub(super) fn container_fd(&self) -> BorrowedFd<'_> {
        self.group.container().as_fd()
    }

    /// Whether the function can be reset.
    pub(super) fn can_reset(&self) -> bool {
        self.info.flags & uapi::VFIO_DEVICE_FLAGS_RESET != 0
    }

    /// A region (`VFIO_PCI_*_REGION_INDEX`). Empty where the device has none of that number.
    pub(super) fn region(&self, index: u32) -> Result<RegionInfo, DriverError> {
        if index >= self.info.num_regions {
            return Ok(RegionInfo::default());
        }
        let info = sys::region_info(self.fd(), index).map_err(|error| {
            DriverError::sys("VFIO_DEVICE_GET_REGION_INFO", error.into(), "see `dmesg`")
        })?;
        Ok(RegionInfo {
            size: info.size,
            offset: info.offset,
            mappable: info.flags & uapi::VFIO_REGION_INFO_FLAG_MMAP != 0,
        })
    }

    /// How many interrupts of a kind (`VFIO_PCI_*_IRQ_INDEX`) there are; 0 where the device has none of the kind.
    pub(super) fn irqs(&self, index: u32) -> u32 {
        if index >= self.info.num_irqs {
            return 0;
        }
        // EINVAL: a kind that this device does not have (the error interrupt of a conventional PCI device).
        sys::irq_count(self.fd(), index).unwrap_or(0)
    }

    /// Reads from the configuration space. EINVAL beyond its end.
    pub(super) fn read_config(&self, at: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.check_config(at, bytes.len())?;
        self.device.read_exact_at(bytes, self.config.offset + at)
    }

    /// Writes to the configuration space. EINVAL beyond its end.
    pub(super) fn write_config(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.check_config(at, bytes.len())?;
        self.device.write_all_at(bytes, self.config.offset + at)
    }

    fn check_config(&self, at: u64, len: usize) -> io::Result<()> {
        let end = at.checked_add(len as u64);
        if end.is_none_or(|end| end > self.config.size) {
            return Err(Errno::EINVAL.into());
        }
        Ok(())
    }

    /// Has the interrupts of a kind write `eventfds`; none disarms them all.
    pub(super) fn set_irqs(
        &self,
        index: u32,
        eventfds: &[BorrowedFd<'_>],
    ) -> Result<(), DriverError> {
        sys::set_irq_eventfds(self.fd(), index, eventfds).map_err(|error| {
            let fix = match error {
                Errno::ENOSPC | Errno::ENOMEM => {
                    "the machine has no interrupt vectors left; give the device to a machine with more processors, or use fewer queues"
                }
                _ => "see `dmesg`",
            };
            DriverError::sys("VFIO_DEVICE_SET_IRQS", error.into(), fix)
        })
    }
}
