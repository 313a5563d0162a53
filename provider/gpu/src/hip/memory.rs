//! Memory of a GPU.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::Device;
use super::sys::{Address, Sys};
use crate::GpuError;

/// What an allocation is rounded up to, bytes. amdgpu gives one so large a buffer of its own, which begins where the dma-buf does: who
/// gets that gets nothing else.
const UNIT: u64 = 2 << 20;

/// Memory of a GPU. A dma-buf of it keeps it when this is dropped.
#[derive(Debug)]
pub struct Allocation {
    sys: Arc<Sys>,
    index: i32,
    address: Address,
    bytes: usize,
}

impl Allocation {
    /// Allocates memory, filled with zeros, rounded up to 2 MiB.
    ///
    /// # Errors
    ///
    /// What the runtime answers.
    pub fn new(device: &Device, bytes: u64) -> Result<Self, GpuError> {
        let rounded = bytes.max(1).checked_next_multiple_of(UNIT);
        let bytes = rounded
            .and_then(|bytes| usize::try_from(bytes).ok())
            .ok_or_else(|| {
                GpuError::Unsupported(format!(
                    "{bytes} bytes of a GPU's memory: ask for what an address can name"
                ))
            })?;
        let sys = device.sys.clone();
        let address = sys.allocate(device.index, bytes)?;
        let made = Self {
            sys,
            index: device.index,
            address,
            bytes,
        };
        made.sys.fill(made.index, &made.address, made.bytes)?;
        Ok(made)
    }

    /// Where kernels of this process find it.
    #[must_use]
    pub fn device_address(&self) -> u64 {
        self.address.number()
    }

    /// Bytes, with what it was rounded up by.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes as u64
    }

    /// All of it as a dma-buf, and where in that it begins, bytes.
    ///
    /// # Errors
    ///
    /// What the runtime answers.
    pub fn export_dmabuf(&self) -> Result<(OwnedFd, u64), GpuError> {
        self.sys.dmabuf(&self.address, self.bytes)
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        self.sys.free(self.index, &self.address);
    }
}
