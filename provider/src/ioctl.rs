//! The ioctls of dma-buf, udmabuf and gdrdrv, each with the structure its header declares.
#![expect(unsafe_code, reason = "ioctl hands pointers to the kernel")]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

/// `struct dma_buf_sync` (linux/dma-buf.h).
#[repr(C)]
struct DmaBufSync {
    flags: u64,
}

/// `struct dma_buf_export_sync_file` (linux/dma-buf.h, Linux 6.0).
#[repr(C)]
struct DmaBufExportSyncFile {
    flags: u32,
    fd: i32,
}

/// `struct dma_buf_import_sync_file` (linux/dma-buf.h, Linux 6.0).
#[repr(C)]
struct DmaBufImportSyncFile {
    flags: u32,
    fd: i32,
}

/// `struct udmabuf_create` (linux/udmabuf.h).
#[repr(C)]
struct UdmabufCreate {
    memfd: u32,
    flags: u32,
    offset: u64,
    size: u64,
}

/// The head of `struct udmabuf_create_list` (linux/udmabuf.h); `count` items follow it.
#[repr(C)]
struct UdmabufCreateList {
    flags: u32,
    count: u32,
}

/// `struct GDRDRV_IOC_PIN_BUFFER_PARAMS` (gdrdrv.h, version 2 of the module).
#[repr(C)]
struct GdrdrvPin {
    addr: u64,
    size: u64,
    p2p_token: u64,
    va_space: u32,
    handle: u64,
}

const _: () = assert!(size_of::<GdrdrvPin>() == 40);
const _: () = assert!(size_of::<UdmabufCreate>() == 24 && size_of::<DmaBufSync>() == 8);
const _: () =
    assert!(size_of::<UdmabufCreateList>() == 8 && size_of::<DmaBufExportSyncFile>() == 8);

/// `UDMABUF_FLAGS_CLOEXEC`.
const UDMABUF_CLOEXEC: u32 = 1;

mod raw {
    use super::{
        DmaBufExportSyncFile, DmaBufImportSyncFile, DmaBufSync, GdrdrvPin, UdmabufCreate,
        UdmabufCreateList,
    };

    nix::ioctl_write_ptr!(dma_buf_sync, b'b', 0, DmaBufSync);
    // DMA_BUF_SET_NAME_B; the kernel reads a string, not the 8 bytes that the number encodes.
    nix::ioctl_write_ptr!(dma_buf_set_name, b'b', 1, u64);
    nix::ioctl_readwrite!(dma_buf_export_sync_file, b'b', 2, DmaBufExportSyncFile);
    nix::ioctl_write_ptr!(dma_buf_import_sync_file, b'b', 3, DmaBufImportSyncFile);
    nix::ioctl_readwrite!(gdrdrv_pin, 0xDA, 1, GdrdrvPin);
    nix::ioctl_write_ptr!(udmabuf_create, b'u', 0x42, UdmabufCreate);
    nix::ioctl_write_ptr!(udmabuf_create_list, b'u', 0x43, UdmabufCreateList);
}

pub(crate) fn dma_buf_sync(fd: BorrowedFd<'_>, flags: u64) -> Result<(), Errno> {
    // SAFETY: the structure lives through the call, which only reads it.
    unsafe { raw::dma_buf_sync(fd.as_raw_fd(), &DmaBufSync { flags }) }.map(drop)
}

pub(crate) fn dma_buf_set_name(fd: BorrowedFd<'_>, name: &std::ffi::CStr) -> Result<(), Errno> {
    // SAFETY: the kernel copies a string that ends with a zero byte (at most DMA_BUF_NAME_LEN bytes of it), which a CStr is.
    unsafe { raw::dma_buf_set_name(fd.as_raw_fd(), name.as_ptr().cast()) }.map(drop)
}

pub(crate) fn dma_buf_export_sync_file(fd: BorrowedFd<'_>, flags: u32) -> Result<OwnedFd, Errno> {
    let mut data = DmaBufExportSyncFile { flags, fd: -1 };
    // SAFETY: the structure lives through the call, which reads it and writes `fd`.
    unsafe { raw::dma_buf_export_sync_file(fd.as_raw_fd(), &mut data) }?;
    // SAFETY: the call succeeded, so `fd` is a descriptor just made for us.
    Ok(unsafe { OwnedFd::from_raw_fd(data.fd) })
}

pub(crate) fn dma_buf_import_sync_file(
    fd: BorrowedFd<'_>,
    flags: u32,
    sync_file: BorrowedFd<'_>,
) -> Result<(), Errno> {
    let data = DmaBufImportSyncFile {
        flags,
        fd: sync_file.as_raw_fd(),
    };
    // SAFETY: the structure lives through the call, which only reads it.
    unsafe { raw::dma_buf_import_sync_file(fd.as_raw_fd(), &data) }.map(drop)
}

pub(crate) fn udmabuf_create(
    device: BorrowedFd<'_>,
    memfd: BorrowedFd<'_>,
    offset: u64,
    size: u64,
) -> Result<OwnedFd, Errno> {
    let data = UdmabufCreate {
        memfd: memfd.as_raw_fd().cast_unsigned(),
        flags: UDMABUF_CLOEXEC,
        offset,
        size,
    };
    // SAFETY: the structure lives through the call, which only reads it.
    let fd = unsafe { raw::udmabuf_create(device.as_raw_fd(), &data) }?;
    // SAFETY: the call succeeded, so what it returned is a descriptor just made for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(crate) fn udmabuf_create_list(
    device: BorrowedFd<'_>,
    items: &[(BorrowedFd<'_>, u64, u64)],
) -> Result<OwnedFd, Errno> {
    let count = u32::try_from(items.len()).map_err(|_| Errno::EINVAL)?;
    // Head and items (`struct udmabuf_create_item`: u32 memfd, u32 pad, u64 offset, u64 size) in one buffer of words, which has
    // the alignment of both.
    let mut words = Vec::with_capacity(1 + 3 * items.len());
    words.push(pack(UDMABUF_CLOEXEC, count));
    for (memfd, offset, size) in items {
        words.extend([pack(memfd.as_raw_fd().cast_unsigned(), 0), *offset, *size]);
    }
    // SAFETY: the buffer holds the head and the `count` items after it, and lives through the call, which only reads it.
    let fd = unsafe { raw::udmabuf_create_list(device.as_raw_fd(), words.as_ptr().cast()) }?;
    // SAFETY: the call succeeded, so what it returned is a descriptor just made for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Pins memory of a GPU by its address in this process's CUDA, and returns the module's name for it (`GDRDRV_IOC_PIN_BUFFER`).
pub(crate) fn gdrdrv_pin(device: BorrowedFd<'_>, addr: u64, size: u64) -> Result<u64, Errno> {
    let mut data = GdrdrvPin {
        addr,
        size,
        p2p_token: 0,
        va_space: 0,
        handle: 0,
    };
    // SAFETY: the structure lives through the call, which reads it and writes `handle`.
    unsafe { raw::gdrdrv_pin(device.as_raw_fd(), &mut data) }?;
    Ok(data.handle)
}

/// Two 32-bit fields, in memory order, as one word.
fn pack(first: u32, second: u32) -> u64 {
    let (a, b) = (first.to_ne_bytes(), second.to_ne_bytes());
    u64::from_ne_bytes([a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers that the kernel's headers give on x86-64 and arm64.
    #[test]
    fn the_request_codes_are_the_kernels() {
        assert_eq!(
            nix::request_code_write!(b'b', 0, size_of::<DmaBufSync>()),
            0x4008_6200
        );
        assert_eq!(
            nix::request_code_write!(b'b', 1, size_of::<u64>()),
            0x4008_6201
        );
        assert_eq!(
            nix::request_code_readwrite!(b'b', 2, size_of::<DmaBufExportSyncFile>()),
            0xc008_6202
        );
        assert_eq!(
            nix::request_code_write!(b'b', 3, size_of::<DmaBufImportSyncFile>()),
            0x4008_6203
        );
        assert_eq!(
            nix::request_code_write!(b'u', 0x42, size_of::<UdmabufCreate>()),
            0x4018_7542
        );
        assert_eq!(
            nix::request_code_write!(b'u', 0x43, size_of::<UdmabufCreateList>()),
            0x4008_7543
        );
        assert_eq!(
            nix::request_code_readwrite!(0xDA, 1, size_of::<GdrdrvPin>()),
            0xc028_da01
        );
    }

    #[test]
    fn list_items_have_the_headers_layout() {
        assert_eq!(
            pack(1, 2).to_ne_bytes(),
            [1_u32.to_ne_bytes(), 2_u32.to_ne_bytes()].concat()[..]
        );
        // struct udmabuf_create_list: flags, count, then items of { u32 memfd, u32 pad, u64 offset, u64 size }.
        assert_eq!(size_of::<UdmabufCreateList>(), 8);
    }
}
