//! Memory of an AMD GPU. It moves unless somebody pins it, so it is taken only where the administrator said that it may be; host
//! memory registered with `hipHostRegister` is the first choice with these GPUs.
//!
//! amdgpu moves a buffer to make room, or when an importer attaches that has no peer-to-peer access, and the NIC's mapping stays where the
//! buffer was. See [`dmabuf::Policy`].

use std::os::fd::AsFd;
use std::path::PathBuf;

use devrx_gpu::bar;
use devrx_gpu::hip::{Allocation, Runtime};

use crate::region::{Owner, Place, Shared, Traits};
use crate::{Flush, MapWay, Mapping, MemoryKind, ProviderError, Region, RegionSpec, dmabuf};

const TRAITS: Traits = Traits {
    kind: MemoryKind::Hip,
    ways: &[MapWay::PfnAddress],
    flush: Flush::ReadPerBatch,
    cpu_readable: false,
    no_way: None,
};

const HOST_MEMORY: &str = "use host memory (the kinds memfd and hugetlb), which the GPU reads over PCIe: the client registers it with hipHostRegister, \
                           and it never moves";

/// The BAR through which an AMD GPU shows its memory.
const MEMORY_BAR: usize = 0;

/// Where things are, for a machine on which they are elsewhere. From a configuration file or a test, never from the environment.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Options {
    /// HIP's library and HSA's; by their usual names if none.
    pub libraries: Option<(PathBuf, PathBuf)>,
    /// Where the kernel shows PCI functions.
    pub sysfs: PathBuf,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            libraries: None,
            sysfs: bar::SYSFS.into(),
        }
    }
}

impl Options {
    /// Loads the runtime's libraries.
    ///
    /// # Errors
    ///
    /// When they are not there, with what to install.
    pub fn runtime(&self) -> Result<Runtime, ProviderError> {
        Ok(match &self.libraries {
            Some((hip, hsa)) => Runtime::load_from(hip, hsa),
            None => Runtime::load(),
        }?)
    }
}

/// Makes a region of a GPU's memory.
///
/// # Errors
///
/// [`ProviderError::Unfit`] where memory that may move is not allowed, which is the default; [`ProviderError::Gpu`] when there is no library, no
/// such GPU, or not enough memory; [`ProviderError::BadSize`] when it is larger than the GPU's window on the bus; [`ProviderError::Sys`] when the
/// kernel does not map it.
pub fn create(
    index: u32,
    spec: RegionSpec,
    policy: &dmabuf::Policy,
    options: &Options,
) -> Result<Region, ProviderError> {
    spec.check()?;
    if !policy.allow_unpinned && !devrx_sabotage::removed("hip-unpinned") {
        return Err(ProviderError::Unfit(format!(
            "the driver of hip:{index} (amdgpu) may move its memory while the NIC writes to it, and tells nobody: {HOST_MEMORY}; or let the administrator \
             set allow_unpinned (in [dmabuf] of the daemon's configuration) on a machine on which nothing else wants the GPU's memory"
        )));
    }
    let device = options.runtime()?.device(index)?;
    let pci = device.pci_address()?;
    if let Some(bar) = bar::bar_size(&options.sysfs, &pci, MEMORY_BAR)
        && spec.size > bar
    {
        return Err(ProviderError::BadSize {
            what: "the region's size",
            value: spec.size,
            why: format!(
                "hip:{index} (at {pci}) shows {} MiB of its memory on the bus (BAR0): ask for less than that, or turn on resizable BAR (Above 4G \
                 Decoding) in the machine's firmware; for more, {HOST_MEMORY}",
                bar >> 20
            ),
        });
    }
    let memory = Allocation::new(&device, spec.size)?;
    let (fd, offset) = memory.export_dmabuf()?;
    let exporter = dmabuf::exporter(fd.as_fd())?;
    policy.check(&exporter)?;
    let mapping = Mapping::map_shared(fd.as_fd(), offset, spec.len(), true).map_err(|source| {
        ProviderError::Sys {
            call: "mmap of the GPU's dma-buf",
            source,
            fix: format!("the memory must lie in the GPU's window on the bus (resizable BAR); otherwise {HOST_MEMORY}"),
        }
    })?;
    // Who gets the dma-buf must get this memory, and nothing beside it.
    let alone = offset == 0 && dmabuf::size(fd.as_fd())? == memory.bytes();
    let place = Place {
        offset,
        shared: if alone {
            Shared::Mapped
        } else {
            Shared::Nothing
        },
        owner: Some(Owner(Box::new(memory))),
        ..Place::file(fd)
    };
    Ok(Region::new(TRAITS, spec, place, Some(mapping)))
}

#[cfg(test)]
#[path = "hip_tests.rs"]
mod tests;
