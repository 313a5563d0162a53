//! A BAR of a PCI function as receive memory: a NIC writes into another device, and no byte of payload touches host memory.
//!
//! Whoever owns the function opens it and says where its BAR is ([`PciBar`]); nothing here knows how. A NIC is given access by the BAR's
//! address in this process: that is PFN-mapped memory, which a VFIO type1 container maps for peer-to-peer (vfio_iommu_type1.c,
//! `follow_fault_pfn`). Such a mapping is not tied to the BAR: it outlives munmap, and the NIC goes on writing into the function after
//! everybody has closed it. So the region holds what it is of ([`PciBar::owner`]) until it is dropped itself, which is after the NIC's access ended.

use std::any::Any;
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};

use crate::region::{Owner, Place, Shared, Traits};
use crate::{Flush, MapWay, Mapping, MemoryKind, ProviderError, Region, RegionSpec, dmabuf};

const TRAITS: Traits = Traits {
    kind: MemoryKind::Pci,
    ways: &[MapWay::PfnAddress],
    // Posted writes to a peer may still be on their way when the NIC's own completion has arrived in host memory.
    flush: Flush::ReadPerBatch,
    cpu_readable: false,
    no_way: None,
};

const EXPORTED: Traits = Traits {
    ways: &[MapWay::PfnAddress, MapWay::VfioDmabuf],
    ..TRAITS
};

/// A BAR, as whoever owns the function hands it over.
pub struct PciBar {
    /// What is mapped: the descriptor of the VFIO device. It never leaves this process but to the keeper.
    pub fd: OwnedFd,
    /// Where in `fd` the BAR begins, bytes.
    pub offset: u64,
    /// How large the BAR is, bytes.
    pub len: u64,
    /// A dma-buf of the BAR's first bytes, as many as the region has, where the kernel exports one (`VFIO_DEVICE_FEATURE_DMA_BUF`, Linux
    /// 6.19): what others are given of it.
    pub export: Option<OwnedFd>,
    /// The function, open; dropped after everything else.
    pub owner: Box<dyn Any + Send + Sync>,
}

impl fmt::Debug for PciBar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PciBar")
            .field("offset", &self.offset)
            .field("len", &self.len)
            .field("export", &self.export)
            .finish_non_exhaustive()
    }
}

/// Makes a region of a BAR's first bytes.
///
/// # Errors
///
/// [`ProviderError::BadSize`] when the BAR is smaller; [`ProviderError::BadFd`] when the dma-buf is not of just these bytes;
/// [`ProviderError::Sys`] when the BAR cannot be mapped.
pub fn region(bar: PciBar, spec: RegionSpec) -> Result<Region, ProviderError> {
    spec.check()?;
    let PciBar {
        fd,
        offset,
        len,
        export,
        owner,
    } = bar;
    if spec.size > len && !devrx_sabotage::removed("pci-bar-size") {
        return Err(ProviderError::BadSize {
            what: "the region's size",
            value: spec.size,
            why: format!("the BAR has {len} bytes; use that or less"),
        });
    }
    if let Some(export) = &export {
        let exported = dmabuf::size(export.as_fd())?;
        if exported != spec.size {
            return Err(ProviderError::BadFd(format!(
                "the dma-buf of the BAR has {exported} bytes, the region {}; who gets it must get the region and no more",
                spec.size
            )));
        }
    }
    let mapping = Mapping::map_shared(fd.as_fd(), offset, spec.len(), true).map_err(|source| {
        ProviderError::Sys {
            call: "mmap of the BAR",
            source,
            fix: "use a memory BAR of whole pages that the device lets be mapped, not one with its MSI-X table"
                .to_owned(),
        }
    })?;
    let (traits, shared) = match export {
        Some(export) => (EXPORTED, Shared::Own(export)),
        None => (TRAITS, Shared::Nothing),
    };
    let place = Place {
        fd,
        offset,
        shared,
        export: None,
        owner: Some(Owner(owner)),
    };
    Ok(Region::new(traits, spec, place, Some(mapping)))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use nix::sys::memfd::{MFdFlags, memfd_create};

    use super::*;

    const SPEC: RegionSpec = RegionSpec {
        size: 1 << 16,
        chunk_size: 2048,
    };

    /// Shared memory plays the device: what is here does not depend on what is behind a descriptor.
    fn file(size: i64) -> OwnedFd {
        let fd = memfd_create(c"device", MFdFlags::MFD_CLOEXEC).unwrap();
        nix::unistd::ftruncate(&fd, size).unwrap();
        fd
    }

    fn bar(export: Option<OwnedFd>) -> PciBar {
        PciBar {
            fd: file(1 << 20),
            offset: 1 << 19,
            len: 1 << 17,
            export,
            owner: Box::new(()),
        }
    }

    #[test]
    fn a_region_is_the_bars_beginning() {
        let bar = bar(None);
        let device = bar.fd.try_clone().unwrap();
        let region = region(bar, SPEC).unwrap();
        assert_eq!((region.kind(), region.size()), (MemoryKind::Pci, SPEC.size));
        assert_eq!(region.offset(), 1 << 19);
        assert!(region.mapping().unwrap().copy_in(100, b"here"));
        let whole = Mapping::map_shared(device.as_fd(), 0, 1 << 20, false).unwrap();
        let mut out = [0; 4];
        assert!(whole.copy_out((1 << 19) + 100, &mut out));
        assert_eq!(&out, b"here");
        assert!(!region.cpu_readable(), "mapped, but not for a CPU to read");
        assert_eq!(region.flush(), Flush::ReadPerBatch);
        assert_eq!(region.ways(), [MapWay::PfnAddress]);
    }

    #[test]
    fn a_device_is_given_to_nobody() {
        let bare = region(bar(None), SPEC).unwrap();
        assert!(bare.shareable().is_none());
        assert!(bare.export_fd().is_none());
        let kept: Vec<_> = bare.fds().map(|fd| fd.as_raw_fd()).collect();
        assert_eq!(kept, [bare.mapped_fd().as_raw_fd()], "but it is kept");

        let exported = region(bar(Some(file(1 << 16))), SPEC).unwrap();
        let shared = exported.shareable().unwrap().as_raw_fd();
        assert_ne!(shared, exported.mapped_fd().as_raw_fd());
        assert_eq!(exported.fds().count(), 2);
        assert_eq!(exported.ways(), [MapWay::PfnAddress, MapWay::VfioDmabuf]);
    }

    #[test]
    fn what_does_not_fit_the_bar_is_refused() {
        let large = RegionSpec {
            size: (1 << 17) + 4096,
            ..SPEC
        };
        let error = region(bar(None), large).unwrap_err().to_string();
        assert!(error.contains("131072 bytes; use that or less"), "{error}");
        let whole = RegionSpec {
            size: 1 << 17,
            ..SPEC
        };
        region(bar(None), whole).unwrap();
        // Who got such a dma-buf would get more than the region.
        let error = region(bar(Some(file(1 << 17))), SPEC).unwrap_err();
        assert!(error.to_string().contains("no more"), "{error}");
        let mut crooked = bar(None);
        crooked.offset += 1;
        let error = region(crooked, SPEC).unwrap_err();
        assert!(matches!(error, ProviderError::Sys { .. }), "{error}");
    }

    #[test]
    fn the_device_goes_last() {
        struct Tells {
            path: String,
            was_mapped: Arc<AtomicBool>,
            gone: Arc<AtomicBool>,
        }
        impl Drop for Tells {
            fn drop(&mut self) {
                let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
                self.was_mapped
                    .store(maps.contains(&self.path), Ordering::Relaxed);
                self.gone.store(true, Ordering::Relaxed);
            }
        }
        let (was_mapped, gone) = (Arc::default(), Arc::default());
        let mut bar = bar(None);
        bar.fd = memfd_create(c"goes-last", MFdFlags::MFD_CLOEXEC).unwrap();
        nix::unistd::ftruncate(&bar.fd, 1 << 20).unwrap();
        let path = "memfd:goes-last".to_owned();
        assert!(
            !std::fs::read_to_string("/proc/self/maps")
                .unwrap()
                .contains(&path)
        );
        bar.owner = Box::new(Tells {
            path: path.clone(),
            was_mapped: Arc::clone(&was_mapped),
            gone: Arc::clone(&gone),
        });
        let region = region(bar, SPEC).unwrap();
        assert!(
            std::fs::read_to_string("/proc/self/maps")
                .unwrap()
                .contains(&path)
        );
        assert!(!gone.load(Ordering::Relaxed));
        drop(region);
        assert!(gone.load(Ordering::Relaxed));
        assert!(!was_mapped.load(Ordering::Relaxed), "unmapped before");
    }
}
