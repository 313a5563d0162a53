//! Memory within a device's reach, through a container.

use std::ops::Range;
use std::sync::Arc;

use devrx_provider::MapWay;
use nix::errno::Errno;

use super::container::{Container, ContainerKind};
use super::owned::Owned;
use super::sys;
use crate::DriverError;
use crate::device::{Mapper, Memory};

const TYPE1: &[MapWay] = &[MapWay::HostAddress, MapWay::PfnAddress];
const COMPAT: &[MapWay] = &[MapWay::HostAddress];

/// Gives a function access to memory. Keeps the function open: the IOMMU forgets the mappings when its group leaves the container.
#[derive(Debug)]
pub struct ContainerMapper {
    owned: Arc<Owned>,
}

impl ContainerMapper {
    pub(super) fn new(owned: Arc<Owned>) -> Self {
        Self { owned }
    }

    fn container(&self) -> &Container {
        self.owned.container()
    }

    fn unfit(&self, why: impl Into<String>) -> DriverError {
        DriverError::UnfitMemory {
            nic: self.owned.name().to_owned(),
            why: why.into(),
        }
    }

    /// Whether `memory` can be mapped by the ways there are; both go by the address in this process.
    fn check_way(&self, memory: &Memory) -> Result<(), DriverError> {
        let Memory::Region(region) = memory else {
            return Ok(());
        };
        let ours = self.ways();
        if region.ways().iter().any(|way| ours.contains(way)) {
            return Ok(());
        }
        if let Some(why) = region.no_way() {
            return Err(self.unfit(why));
        }
        let theirs: Vec<String> = region.ways().iter().map(ToString::to_string).collect();
        if region.ways().contains(&MapWay::PfnAddress) {
            return Err(self.unfit(
                "it is memory of a device, and /dev/vfio/vfio is iommufd's here (CONFIG_IOMMUFD_VFIO_CONTAINER), which maps none: use a \
                 kernel with CONFIG_VFIO_CONTAINER and VFIO's type1 driver, as distributions ship it, or memory of the host (memfd, hugetlb, udmabuf)",
            ));
        }
        Err(self.unfit(format!(
            "{} memory can be mapped by {} only, and VFIO's type1 driver has none of that: use memory that this process can map",
            region.kind(),
            theirs.join(", ")
        )))
    }
}

/// The ways a container of a kind can execute.
pub(super) const fn ways(kind: ContainerKind) -> &'static [MapWay] {
    match kind {
        ContainerKind::Type1 => TYPE1,
        ContainerKind::IommufdCompat => COMPAT,
    }
}

impl Mapper for ContainerMapper {
    fn map(&self, memory: &Memory, range: Range<usize>) -> Result<u64, DriverError> {
        self.check_way(memory)?;
        let mapping = memory.mapping().ok_or_else(|| {
            self.unfit("this process has no mapping of it, which VFIO's type1 driver goes by: use memory whose exporter allows one")
        })?;
        let page = self.container().iommu().page();
        let whole = |at: usize| (at as u64).is_multiple_of(page);
        if range.start >= range.end
            || range.end > mapping.len()
            || !whole(range.start)
            || !whole(range.end)
        {
            return Err(DriverError::BadConfig {
                what: "memory range",
                value: format!("{range:?}"),
                why: format!(
                    "it must be whole pages of {page} bytes within the {} that are mapped",
                    mapping.len()
                ),
            });
        }
        if !mapping.writable() {
            return Err(
                self.unfit("it is mapped for reading only; hand over memory that can be written")
            );
        }
        let len = range.len() as u64;
        let iova = self.container().take_iova(len).ok_or_else(|| {
            self.unfit(format!(
                "no {len} bytes are left in the device's address space of {:#x}; close queues, or use smaller regions",
                self.container().iommu().last()
            ))
        })?;
        match sys::map_dma(self.owned.container_fd(), mapping, range, iova) {
            Ok(()) => Ok(iova),
            Err(error) => {
                self.container().give_back_iova(iova, len);
                let refusal = refusal(error, len);
                // Then it is the wrong memory, and nothing is wrong with the system.
                Err(match error {
                    Errno::EFAULT => self.unfit(refusal.to_string()),
                    _ => refusal,
                })
            }
        }
    }

    fn unmap(&self, iova: u64, len: usize) -> Result<(), DriverError> {
        let len = len as u64;
        let failed = |error| {
            DriverError::sys(
                "VFIO_IOMMU_UNMAP_DMA",
                error,
                "the device may still reach the memory, which is kept; restart the daemon to free it",
            )
        };
        let taken = sys::unmap_dma(self.owned.container_fd(), iova, len)
            .map_err(|error| failed(error.into()))?;
        if taken != len {
            // Then it is not known what is mapped there: the addresses are not used again.
            return Err(failed(std::io::Error::other(format!(
                "{taken} of {len} bytes at {iova:#x} were unmapped"
            ))));
        }
        self.container().give_back_iova(iova, len);
        Ok(())
    }

    fn ways(&self) -> &'static [MapWay] {
        ways(self.container().kind())
    }
}

/// What a refused `VFIO_IOMMU_MAP_DMA` means (drivers/vfio/vfio_iommu_type1.c), and the way out.
fn refusal(error: Errno, len: u64) -> DriverError {
    let fix = match error {
        Errno::EFAULT => {
            "the kernel cannot pin these pages. Ordinary memory behind a mapping of page frames (what udmabuf, DMA heaps and the dumb buffers \
             of DRM give) is not taken, only a device's own memory is: hand over the memfd under it, or let the daemon make the memory \
             (udmabuf). Otherwise the file was cut, or has a hole that cannot be filled: make the memory anew"
                .to_owned()
        }
        Errno::ENOMEM => format!(
            "the process may not lock {} KiB more, or memory has run out: raise RLIMIT_MEMLOCK (`ulimit -l unlimited`, LimitMEMLOCK=infinity in \
             a systemd unit)",
            len.div_ceil(1024)
        ),
        Errno::ENOSPC => {
            "the container has as many mappings as it may: use fewer, larger regions, or raise the module parameter \
             vfio_iommu_type1.dma_entry_limit"
                .to_owned()
        }
        Errno::EEXIST => {
            "the addresses are mapped already, which only another user of the same container can have done: restart the daemon".to_owned()
        }
        Errno::EINVAL => {
            "the IOMMU does not take these addresses: they are outside of its windows or off its page grid; `devrx doctor` shows them"
                .to_owned()
        }
        Errno::EBUSY => "the kernel is changing the container; try again".to_owned(),
        _ => "see `dmesg`".to_owned(),
    };
    DriverError::sys("VFIO_IOMMU_MAP_DMA", error.into(), fix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_names_the_call_the_errno_and_the_way_out() {
        for (error, out) in [
            (Errno::EFAULT, "hand over the memfd"),
            (Errno::EFAULT, "make the memory anew"),
            (Errno::ENOMEM, "RLIMIT_MEMLOCK"),
            (Errno::ENOSPC, "dma_entry_limit"),
            (Errno::EEXIST, "restart the daemon"),
            (Errno::EINVAL, "windows"),
        ] {
            let text = refusal(error, 8192).to_string();
            assert!(text.starts_with("VFIO_IOMMU_MAP_DMA failed ("), "{text}");
            let errno = format!("os error {}", error as i32);
            assert!(text.contains(out) && text.contains(&errno), "{text}");
        }
    }

    #[test]
    fn iommufd_in_disguise_maps_no_device_memory() {
        assert!(ways(ContainerKind::Type1).contains(&MapWay::PfnAddress));
        assert!(!ways(ContainerKind::IommufdCompat).contains(&MapWay::PfnAddress));
    }
}
