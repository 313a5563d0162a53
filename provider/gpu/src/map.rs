//! Shared memory mapped for nothing but to be registered with a GPU.
#![expect(unsafe_code, reason = "maps memory")]

use std::num::NonZeroUsize;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use crate::GpuError;

/// What a GPU may do with registered memory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Access {
    /// Read it. All that a client may ask for of the memory that only the daemon writes: rings of completions, header slots.
    Read,
    /// Read and write it.
    ReadWrite,
}

/// A shared mapping, unmapped when dropped. Nobody reads or writes it here: its address is given to a driver, which pins its pages.
#[derive(Debug)]
pub(crate) struct Pages {
    start: NonNull<std::ffi::c_void>,
    len: usize,
}

// SAFETY: the mapping is an address range that this value owns; nothing in it is tied to a thread, and it is not accessed.
unsafe impl Send for Pages {}
// SAFETY: as above.
unsafe impl Sync for Pages {}

impl Pages {
    /// Maps `bytes` of a file from `offset` on.
    pub(crate) fn map(
        fd: BorrowedFd<'_>,
        offset: u64,
        bytes: u64,
        access: Access,
    ) -> Result<Self, GpuError> {
        let unfit = || {
            GpuError::Unsupported(format!(
                "{bytes} bytes from {offset} on cannot be mapped; ask for a range that is not empty"
            ))
        };
        let len = usize::try_from(bytes)
            .ok()
            .and_then(NonZeroUsize::new)
            .ok_or_else(unfit)?;
        let offset = i64::try_from(offset).map_err(|_| unfit())?;
        let protection = match access {
            Access::Read => ProtFlags::PROT_READ,
            Access::ReadWrite => ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
        };
        // SAFETY: a new mapping at an address of the kernel's choice replaces nothing, and nothing here forms a reference to it.
        let start = unsafe { mmap(None, len, protection, MapFlags::MAP_SHARED, fd, offset) }.map_err(|errno| GpuError::Sys {
            call: "mmap",
            source: errno.into(),
            fix: "memory that only the daemon writes can be mapped for reading alone; an offset must be a multiple of the page size",
        })?;
        Ok(Self {
            start,
            len: len.get(),
        })
    }

    pub(crate) fn address(&self) -> *mut std::ffi::c_void {
        self.start.as_ptr()
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: this value's own mapping, of which no reference exists; whoever pinned it has let go of it, or this was forgotten.
        let _ = unsafe { munmap(self.start, self.len) };
    }
}
