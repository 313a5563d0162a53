//! Host memory that a GPU reads, and writes where it may, over PCIe.

use std::os::fd::BorrowedFd;

use super::{Attribute, Context};
use crate::map::Pages;
use crate::{Access, GpuError};

/// Shared host memory, registered with a GPU (`cuMemHostRegister`): rings and header slots for a kernel that consumes them itself, and
/// regions of the kinds `memfd` and `hugetlb`.
///
/// It maps the memory anew, so that it does not depend on another mapping of the same memory; the GPU and every mapping see the same bytes.
#[derive(Debug)]
pub struct HostMemory {
    context: Context,
    // None only in `drop`.
    pages: Option<Pages>,
    bytes: u64,
    address: u64,
    access: Access,
}

impl HostMemory {
    /// Maps `bytes` of a memfd from `offset` on, a multiple of the page size, and registers them.
    ///
    /// # Errors
    ///
    /// When the memory cannot be mapped so (what only the daemon writes can be had for reading alone), or the GPU cannot have it.
    pub fn register(
        context: &Context,
        fd: BorrowedFd<'_>,
        offset: u64,
        bytes: u64,
        access: Access,
    ) -> Result<Self, GpuError> {
        let device = context.device();
        // Older drivers do not know the attribute of registering, and can do it all the same.
        if device.attribute(Attribute::HostRegister)? == Some(0) {
            return Err(GpuError::Unsupported(format!(
                "cuda:{} takes no registered host memory",
                device.index()
            )));
        }
        if access == Access::Read && !device.can(Attribute::ReadOnlyHostRegister)? {
            return Err(GpuError::Unsupported(format!(
                "cuda:{} takes no host memory that it may only read, as the completion rings are: a newer driver may; \
                 otherwise let the CPU read completions, and register the region for reading and writing",
                device.index()
            )));
        }
        let pages = Pages::map(fd, offset, bytes, access)?;
        let address = context.with(|sys| sys.register(&pages, access))?;
        Ok(Self {
            context: context.clone(),
            pages: Some(pages),
            bytes,
            address,
            access,
        })
    }

    /// Where kernels of this process find it.
    #[must_use]
    pub fn device_address(&self) -> u64 {
        self.address
    }

    /// What the GPU may do with it.
    #[must_use]
    pub fn access(&self) -> Access {
        self.access
    }

    /// Where a range of it is for the GPU.
    pub(super) fn at(&self, offset: usize, len: usize) -> Result<u64, GpuError> {
        match offset.checked_add(len) {
            Some(end) if end as u64 <= self.bytes => Ok(self.address + offset as u64),
            _ => Err(GpuError::Unsupported(format!(
                "{len} bytes from {offset} on are outside of memory of {} bytes",
                self.bytes
            ))),
        }
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
        if self.context.with(|sys| sys.unregister(&pages)).is_err() {
            // The driver did not let go of it, so a GPU may still use its pages: they stay mapped.
            std::mem::forget(pages);
        }
    }
}
