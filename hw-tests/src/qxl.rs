//! Buffers of a DRM device, as dma-bufs: QEMU's qxl card plays the GPU. Its buffer objects lie in the card's VRAM, which is a BAR; its dumb
//! buffers lie in memory of the host, as those of most virtual cards and of the kernel's DMA heaps do.
#![expect(
    unsafe_code,
    reason = "ioctls of DRM and of DMA heaps: each hands one plain structure to the kernel"
)]

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result};

/// `struct drm_qxl_alloc` (drm/qxl_drm.h).
#[repr(C)]
#[derive(Default)]
struct Alloc {
    size: u32,
    handle: u32,
}

/// `struct drm_mode_create_dumb` (drm/drm_mode.h).
#[repr(C)]
#[derive(Default)]
struct CreateDumb {
    height: u32,
    width: u32,
    bpp: u32,
    flags: u32,
    handle: u32,
    pitch: u32,
    size: u64,
}

/// `struct drm_prime_handle` (drm/drm.h).
#[repr(C)]
#[derive(Default)]
struct PrimeHandle {
    handle: u32,
    flags: u32,
    fd: i32,
}

/// `struct dma_heap_allocation_data` (linux/dma-heap.h).
#[repr(C)]
#[derive(Default)]
struct HeapAllocation {
    len: u64,
    fd: u32,
    fd_flags: u32,
    heap_flags: u64,
}

mod raw {
    use super::{Alloc, CreateDumb, HeapAllocation, PrimeHandle};

    nix::ioctl_readwrite!(qxl_alloc, b'd', 0x40, Alloc);
    nix::ioctl_readwrite!(mode_create_dumb, b'd', 0xb2, CreateDumb);
    nix::ioctl_readwrite!(heap_alloc, b'H', 0, HeapAllocation);
    nix::ioctl_readwrite!(prime_handle_to_fd, b'd', 0x2d, PrimeHandle);
}

/// An open DRM device. Buffers live as long as it, or as their dma-buf.
#[derive(Debug)]
pub struct Card(File);

impl Card {
    /// Opens `/dev/dri/card0`.
    pub fn open() -> Result<Self> {
        let path = "/dev/dri/card0";
        let file = File::options().read(true).write(true).open(path);
        Ok(Self(file.with_context(|| format!("cannot open {path}"))?))
    }

    /// A buffer of `size` bytes in the card's VRAM (`DRM_IOCTL_QXL_ALLOC`).
    pub fn vram(&self, size: u32) -> Result<OwnedFd> {
        let mut alloc = Alloc { size, handle: 0 };
        // SAFETY: the structure lives through the call, which reads `size` and writes `handle`.
        unsafe { raw::qxl_alloc(self.0.as_raw_fd(), &mut alloc) }.context("QXL_ALLOC")?;
        self.export(alloc.handle)
    }

    /// A dumb buffer of `size` bytes, a multiple of 4096: memory of the host (`DRM_IOCTL_MODE_CREATE_DUMB`).
    pub fn dumb(&self, size: u32) -> Result<OwnedFd> {
        let mut dumb = CreateDumb {
            width: 1024,
            height: size / 4096,
            bpp: 32,
            ..CreateDumb::default()
        };
        // SAFETY: the structure lives through the call, which reads and writes it.
        unsafe { raw::mode_create_dumb(self.0.as_raw_fd(), &mut dumb) }.context("CREATE_DUMB")?;
        self.export(dumb.handle)
    }

    /// The buffer as a dma-buf (`DRM_IOCTL_PRIME_HANDLE_TO_FD`).
    fn export(&self, handle: u32) -> Result<OwnedFd> {
        let mut prime = PrimeHandle {
            handle,
            flags: (nix::libc::O_RDWR | nix::libc::O_CLOEXEC).cast_unsigned(),
            fd: -1,
        };
        // SAFETY: the structure lives through the call, which reads it and writes `fd`.
        unsafe { raw::prime_handle_to_fd(self.0.as_raw_fd(), &mut prime) }
            .context("PRIME_HANDLE_TO_FD")?;
        // SAFETY: the call succeeded, so `fd` is a descriptor just made for us.
        Ok(unsafe { OwnedFd::from_raw_fd(prime.fd) })
    }
}

/// A dma-buf of `size` bytes of the kernel's system heap: memory of the host (`DMA_HEAP_IOCTL_ALLOC`).
pub fn system_heap(size: u64) -> Result<OwnedFd> {
    let path = "/dev/dma_heap/system";
    let heap = File::options().read(true).write(true).open(path);
    let heap = heap.with_context(|| format!("cannot open {path}"))?;
    let mut allocation = HeapAllocation {
        len: size,
        fd_flags: (nix::libc::O_RDWR | nix::libc::O_CLOEXEC).cast_unsigned(),
        ..HeapAllocation::default()
    };
    // SAFETY: the structure lives through the call, which reads it and writes `fd`.
    unsafe { raw::heap_alloc(heap.as_raw_fd(), &mut allocation) }
        .context("DMA_HEAP_IOCTL_ALLOC")?;
    // SAFETY: the call succeeded, so `fd` is a descriptor just made for us.
    Ok(unsafe { OwnedFd::from_raw_fd(allocation.fd.cast_signed()) })
}
