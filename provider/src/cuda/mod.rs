//! Memory of an NVIDIA GPU: a NIC writes into it, and no byte of payload touches host memory.
//!
//! It is allocated here, so that it can be given away under two descriptors: a dma-buf, which is mapped for the NIC, and the one that CUDA
//! in another process imports ([`Region::export_fd`]). Either keeps the memory, also after this process is gone.
//!
//! What executes the mapping is a VFIO type1 container: it is PFN-mapped memory ([`MapWay::PfnAddress`]). Which way leads to one is
//! chosen by what is true on the machine ([`Facts::way`]); where none does, the refusal says what each lacks, and names host memory that
//! the GPU reads over PCIe.

mod facts;
mod gdrdrv;

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use devrx_gpu::cuda::{Allocation, Driver};

pub use facts::{Facts, Gdrdrv, Way};

use crate::region::{Owner, Place, Shared, Traits};
use crate::{Flush, MapWay, Mapping, MemoryKind, ProviderError, Region, RegionSpec, dmabuf};

/// What the memory is had by instead.
pub(crate) const HOST_MEMORY: &str = "use host memory (the kinds memfd and hugetlb), which the GPU reads over PCIe: the client registers it with cuMemHostRegister";

const TRAITS: Traits = Traits {
    kind: MemoryKind::Cuda,
    ways: &[MapWay::PfnAddress],
    flush: Flush::ReadPerBatch,
    cpu_readable: false,
    no_way: None,
};

/// Where things are, for a machine on which they are elsewhere.
///
/// From a configuration file or a test, never from the environment: the daemon is root, and what is named here is run.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Options {
    /// The driver's library; by its usual name if none.
    pub library: Option<PathBuf>,
    /// gdrdrv's device.
    pub gdrdrv: PathBuf,
    /// Where gdrdrv says how it was loaded.
    pub gdrdrv_params: PathBuf,
    /// Where the kernel shows PCI functions.
    pub sysfs: PathBuf,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            library: None,
            gdrdrv: "/dev/gdrdrv".into(),
            gdrdrv_params: "/proc/driver/gdrdrv/params".into(),
            sysfs: devrx_gpu::bar::SYSFS.into(),
        }
    }
}

impl Options {
    /// Loads the driver's library.
    ///
    /// # Errors
    ///
    /// When it is not there, with what to install.
    pub fn driver(&self) -> Result<Driver, ProviderError> {
        Ok(match &self.library {
            Some(path) => Driver::load_from(path),
            None => Driver::load(),
        }?)
    }
}

/// Makes a region of a GPU's memory.
///
/// # Errors
///
/// [`ProviderError::Gpu`] when there is no library, no such GPU, or not enough memory; [`ProviderError::Unfit`] when no NIC could be given access to
/// it, with what each way lacks; [`ProviderError::BadSize`] when it is larger than the GPU's window on the bus; [`ProviderError::Sys`] when
/// the kernel does not map it.
pub fn create(index: u32, spec: RegionSpec, options: &Options) -> Result<Region, ProviderError> {
    spec.check()?;
    let device = options.driver()?.device(index)?;
    let facts = Facts::of(&device, options)?;
    let way = facts.way()?;
    facts.check_size(spec.size)?;
    let memory = Allocation::new(&device.context()?, spec.size)?;
    facts.check_size(memory.bytes())?;
    let export = memory.export()?;
    let dmabuf = if facts.dmabuf {
        let fd = memory.export_dmabuf(spec.size)?;
        // What is handed to others as a dma-buf is one.
        dmabuf::exporter(fd.as_fd())?;
        Some(fd)
    } else {
        None
    };
    let (place, mapping) = match (way, dmabuf) {
        (Way::DmabufMmap, Some(fd)) => mapped_dmabuf(fd, export, spec, &facts)?,
        (_, dmabuf) => pinned(&memory, dmabuf, export, spec, options)?,
    };
    let place = Place {
        owner: Some(Owner(Box::new(memory))),
        ..place
    };
    let traits = Traits {
        flush: facts.flush(),
        ..TRAITS
    };
    Ok(Region::new(traits, spec, place, Some(mapping)))
}

fn mapped_dmabuf(
    fd: OwnedFd,
    export: OwnedFd,
    spec: RegionSpec,
    facts: &Facts,
) -> Result<(Place, Mapping), ProviderError> {
    let mapping = Mapping::map_shared(fd.as_fd(), 0, spec.len(), true).map_err(|source| {
        ProviderError::Sys {
            call: "mmap of the GPU's dma-buf",
            source,
            fix: format!(
                "{} says that it can be mapped; its window on the bus (BAR1) may be full: detach what uses it, or ask for less; \
                 otherwise {HOST_MEMORY}",
                facts.device
            ),
        }
    })?;
    let place = Place {
        export: Some(export),
        ..Place::file(fd)
    };
    Ok((place, mapping))
}

/// By gdrdrv. Its descriptor is for this process and the keeper alone; others get the dma-buf, where there is one.
fn pinned(
    memory: &Allocation,
    dmabuf: Option<OwnedFd>,
    export: OwnedFd,
    spec: RegionSpec,
    options: &Options,
) -> Result<(Place, Mapping), ProviderError> {
    let pinned = gdrdrv::pin(&options.gdrdrv, memory.device_address(), memory.bytes())?;
    let mapping = Mapping::map_shared(pinned.fd.as_fd(), pinned.offset, spec.len(), true)
        .map_err(|source| ProviderError::Sys {
            call: "mmap of /dev/gdrdrv",
            source,
            fix: format!("the GPU's window on the bus (BAR1) may be full: detach what uses it, or ask for less; otherwise {HOST_MEMORY}"),
        })?;
    let place = Place {
        fd: pinned.fd,
        offset: pinned.offset,
        shared: dmabuf.map_or(Shared::Nothing, Shared::Own),
        export: Some(export),
        owner: None,
    };
    Ok((place, mapping))
}

#[cfg(test)]
mod tests;
