//! The driver and its devices.

use std::path::Path;
use std::sync::Arc;

use super::Context;
use super::sys::{INVALID_DEVICE, INVALID_VALUE, NOT_SUPPORTED, Sys};
use crate::GpuError;

/// `libcuda.so.1`, loaded and initialised.
#[derive(Clone, Debug)]
pub struct Driver {
    sys: Arc<Sys>,
    version: i32,
}

/// A GPU.
#[derive(Clone, Debug)]
pub struct Device {
    sys: Arc<Sys>,
    version: i32,
    index: i32,
    device: i32,
}

/// What a GPU can do (`CUdevice_attribute`, with the number that it has there).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Attribute {
    /// It has no memory but the host's.
    Integrated = 18,
    /// Host memory can be registered.
    HostRegister = 99,
    /// `cuMemCreate` and its like.
    VirtualMemory = 102,
    /// Memory can be exported as a descriptor that CUDA imports.
    PosixHandle = 103,
    /// `cuMemCreate` takes the flag for memory that other devices write.
    RdmaWithVirtualMemory = 110,
    /// Host memory can be registered to be read only.
    ReadOnlyHostRegister = 113,
    /// `nvidia_p2p_get_pages`, which gdrdrv uses.
    Rdma = 116,
    /// How writes of other devices can be flushed: 1 by `cuFlushGPUDirectRDMAWrites`, 2 by operations of a stream.
    RdmaFlush = 117,
    /// Who sees writes of other devices without a flush: see [`Ordering`].
    RdmaOrdering = 118,
    /// Memory can be exported as a dma-buf.
    DmaBuf = 124,
    /// Pinned host memory of CUDA's own can be exported as a dma-buf.
    HostDmaBuf = 146,
    /// A dma-buf of the GPU's memory can be mapped by a CPU (CUDA 13.3).
    DmaBufMmap = 152,
}

/// Whose reads see what another device wrote into a GPU, once that device has said that it is done
/// (`CUGPUDirectRDMAWritesOrdering`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ordering {
    /// Nobody's before a flush.
    NeedsFlush,
    /// Those of the GPU itself.
    Owner,
    /// Those of every CUDA device.
    AllDevices,
}

impl Driver {
    /// Loads the library by its usual name, and initialises it.
    ///
    /// # Errors
    ///
    /// When it is not there ([`GpuError::NoLibrary`], with what to install), too old, or finds no GPU.
    pub fn load() -> Result<Self, GpuError> {
        Self::of(Sys::load()?)
    }

    /// Loads the library from a path. What is there is run with this process's rights: take no path from a stranger.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub fn load_from(path: &Path) -> Result<Self, GpuError> {
        Self::of(Sys::load_from(path)?)
    }

    fn of(sys: Sys) -> Result<Self, GpuError> {
        sys.init()?;
        let version = sys.driver_version()?;
        Ok(Self {
            sys: Arc::new(sys),
            version,
        })
    }

    /// The CUDA version that the driver has: 13030 for 13.3.
    #[must_use]
    pub fn version(&self) -> i32 {
        self.version
    }

    /// How many GPUs there are.
    ///
    /// # Errors
    ///
    /// What the driver answers.
    pub fn devices(&self) -> Result<u32, GpuError> {
        Ok(self.sys.device_count()?.max(0).cast_unsigned())
    }

    /// A GPU by its number, counted as CUDA counts them.
    ///
    /// # Errors
    ///
    /// [`GpuError::NoDevice`], with how many there are.
    pub fn device(&self, index: u32) -> Result<Device, GpuError> {
        let no_device = || GpuError::NoDevice {
            kind: "CUDA",
            index,
            found: match self.devices() {
                Ok(1) => "the driver has one, cuda:0; `nvidia-smi -L` lists them".into(),
                Ok(count) => format!(
                    "the driver has {count}, numbered from 0; `nvidia-smi -L` lists them, CUDA_VISIBLE_DEVICES can hide some"
                ),
                Err(error) => error.to_string(),
            },
        };
        let number = i32::try_from(index).map_err(|_| no_device())?;
        match self.sys.device(number) {
            Ok(device) => Ok(Device {
                sys: self.sys.clone(),
                version: self.version,
                index: number,
                device,
            }),
            Err(error) if error.code() == Some(INVALID_DEVICE) => Err(no_device()),
            Err(error) => Err(error),
        }
    }
}

impl Device {
    /// Its number.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index.cast_unsigned()
    }

    /// The CUDA version of its driver: see [`Driver::version`].
    #[must_use]
    pub fn driver_version(&self) -> i32 {
        self.version
    }

    /// Its name.
    ///
    /// # Errors
    ///
    /// What the driver answers.
    pub fn name(&self) -> Result<String, GpuError> {
        self.sys.device_name(self.device)
    }

    /// Its address on the PCI buses, as `0000:3B:00.0`.
    ///
    /// # Errors
    ///
    /// What the driver answers.
    pub fn pci_address(&self) -> Result<String, GpuError> {
        self.sys.device_pci(self.device)
    }

    /// Its memory, bytes.
    ///
    /// # Errors
    ///
    /// What the driver answers.
    pub fn memory(&self) -> Result<u64, GpuError> {
        self.sys.device_memory(self.device)
    }

    /// What it answers for an attribute; `None` for one that its driver does not know yet, which is a no.
    ///
    /// # Errors
    ///
    /// What the driver answers.
    pub fn attribute(&self, attribute: Attribute) -> Result<Option<i32>, GpuError> {
        match self.sys.device_attribute(attribute as i32, self.device) {
            Ok(value) => Ok(Some(value)),
            Err(error) if matches!(error.code(), Some(INVALID_VALUE | NOT_SUPPORTED)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether it can do something.
    ///
    /// # Errors
    ///
    /// What the driver answers.
    pub fn can(&self, attribute: Attribute) -> Result<bool, GpuError> {
        Ok(self.attribute(attribute)?.is_some_and(|value| value != 0))
    }

    /// Who sees writes of other devices. A driver that does not say is taken for one that needs the flush.
    ///
    /// # Errors
    ///
    /// What the driver answers.
    pub fn ordering(&self) -> Result<Ordering, GpuError> {
        Ok(match self.attribute(Attribute::RdmaOrdering)? {
            Some(200..) => Ordering::AllDevices,
            Some(100..) => Ordering::Owner,
            _ => Ordering::NeedsFlush,
        })
    }

    /// Its primary context, the one that the CUDA runtime and PyTorch use as well: addresses are good in all of them.
    ///
    /// # Errors
    ///
    /// What the driver answers.
    pub fn context(&self) -> Result<Context, GpuError> {
        Context::retain(self.sys.clone(), self.clone(), self.device)
    }
}
