//! AMD's runtime: memory of a GPU as a dma-buf, and host memory that a GPU reads over PCIe.
//!
//! `libamdhip64.so` allocates and registers, `libhsa-runtime64.so.1` exports. Both come with ROCm.
//!
//! amdgpu may move memory that it exported (to make room for another process's, or because an importer without peer-to-peer access
//! attached), and tells a NIC nothing of it. Host memory does not move: register that.

mod host;
mod memory;
mod sys;

use std::path::Path;
use std::sync::Arc;

pub use host::HostMemory;
pub use memory::Allocation;

use crate::GpuError;
use sys::Sys;

/// The two libraries, loaded and initialised.
#[derive(Clone, Debug)]
pub struct Runtime {
    sys: Arc<Sys>,
}

/// A GPU.
#[derive(Clone, Debug)]
pub struct Device {
    sys: Arc<Sys>,
    index: i32,
}

impl Runtime {
    /// Loads the libraries by their usual names, and initialises them.
    ///
    /// # Errors
    ///
    /// When they are not there ([`GpuError::NoLibrary`], with what to install), too old, or find no GPU.
    pub fn load() -> Result<Self, GpuError> {
        Self::of(Sys::load()?)
    }

    /// Loads the libraries from paths: HIP's and HSA's. What is there is run with this process's rights: take no path from a stranger.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub fn load_from(hip: &Path, hsa: &Path) -> Result<Self, GpuError> {
        Self::of(Sys::load_from(hip, hsa)?)
    }

    fn of(sys: Sys) -> Result<Self, GpuError> {
        sys.init()?;
        Ok(Self { sys: Arc::new(sys) })
    }

    /// The runtime's version: 60342134 for HIP 6.3.42134.
    ///
    /// # Errors
    ///
    /// What the runtime answers.
    pub fn version(&self) -> Result<i32, GpuError> {
        self.sys.version()
    }

    /// How many GPUs there are.
    ///
    /// # Errors
    ///
    /// What the runtime answers.
    pub fn devices(&self) -> Result<u32, GpuError> {
        Ok(self.sys.device_count()?.max(0).cast_unsigned())
    }

    /// A GPU by its number, counted as HIP counts them.
    ///
    /// # Errors
    ///
    /// [`GpuError::NoDevice`], with how many there are.
    pub fn device(&self, index: u32) -> Result<Device, GpuError> {
        let count = self.devices()?;
        match i32::try_from(index) {
            Ok(number) if index < count => Ok(Device {
                sys: self.sys.clone(),
                index: number,
            }),
            _ => Err(GpuError::NoDevice {
                kind: "HIP",
                index,
                found: format!(
                    "the runtime has {count}, numbered from 0; `rocminfo` lists them, HIP_VISIBLE_DEVICES can hide some"
                ),
            }),
        }
    }
}

impl Device {
    /// Its number.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index.cast_unsigned()
    }

    /// Its address on the PCI buses, as `0000:03:00.0`.
    ///
    /// # Errors
    ///
    /// What the runtime answers.
    pub fn pci_address(&self) -> Result<String, GpuError> {
        self.sys.device_pci(self.index)
    }
}

#[cfg(test)]
mod tests;
