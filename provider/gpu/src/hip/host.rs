//! Host memory that a GPU reads, and writes, over PCIe.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::Device;
use super::sys::Sys;
use crate::map::Pages;
use crate::{Access, GpuError};

/// Shared host memory, registered with a GPU (`hipHostRegister`). It maps the memory anew, so that it does not depend on another mapping of
/// the same memory; the GPU and every mapping see the same bytes.
#[derive(Debug)]
pub struct HostMemory {
    sys: Arc<Sys>,
    index: i32,
    // None only in `drop`.
    pages: Option<Pages>,
    bytes: u64,
    address: u64,
}

impl HostMemory {
    /// Maps `bytes` of a memfd from `offset` on, a multiple of the page size, for reading and writing, and registers them. HIP registers
    /// nothing for reading alone: the rings that only the daemon writes cannot be had.
    ///
    /// # Errors
    ///
    /// When the memory cannot be mapped so, or the runtime refuses.
    pub fn register(
        device: &Device,
        fd: BorrowedFd<'_>,
        offset: u64,
        bytes: u64,
    ) -> Result<Self, GpuError> {
        let pages = Pages::map(fd, offset, bytes, Access::ReadWrite)?;
        let address = device.sys.register(device.index, &pages)?;
        Ok(Self {
            sys: device.sys.clone(),
            index: device.index,
            pages: Some(pages),
            bytes,
            address,
        })
    }

    /// Where kernels of this process find it.
    #[must_use]
    pub fn device_address(&self) -> u64 {
        self.address
    }

    /// Bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        let Some(pages) = self.pages.take() else {
            return;
        };
        if self.sys.unregister(self.index, &pages).is_err() {
            // The runtime did not let go of it, so a GPU may still use its pages: they stay mapped.
            std::mem::forget(pages);
        }
    }
}
