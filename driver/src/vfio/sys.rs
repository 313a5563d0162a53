//! The ioctls of VFIO (linux/vfio.h): container, group, device.
#![expect(unsafe_code, reason = "ioctl hands pointers to the kernel")]

use std::ffi::CStr;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use devrx_provider::Mapping;
use nix::errno::Errno;
use vfio_bindings::bindings::vfio as uapi;

/// VFIO's requests carry no size: each structure begins with its own (`argsz`).
const fn request(offset: u32) -> u64 {
    nix::request_code_none!(uapi::VFIO_TYPE, uapi::VFIO_BASE + offset)
}

mod raw {
    use super::{request, uapi};

    nix::ioctl_none_bad!(get_api_version, request(0));
    nix::ioctl_write_int_bad!(check_extension, request(1));
    nix::ioctl_write_int_bad!(set_iommu, request(2));
    nix::ioctl_readwrite_bad!(group_get_status, request(3), uapi::vfio_group_status);
    nix::ioctl_write_ptr_bad!(group_set_container, request(4), i32);
    nix::ioctl_none_bad!(group_unset_container, request(5));
    nix::ioctl_write_ptr_bad!(group_get_device_fd, request(6), libc::c_char);
    nix::ioctl_readwrite_bad!(device_get_info, request(7), uapi::vfio_device_info);
    nix::ioctl_readwrite_bad!(device_get_region_info, request(8), uapi::vfio_region_info);
    nix::ioctl_readwrite_bad!(device_get_irq_info, request(9), uapi::vfio_irq_info);
    nix::ioctl_write_ptr_bad!(device_set_irqs, request(10), u32);
    nix::ioctl_none_bad!(device_reset, request(11));
    nix::ioctl_readwrite_bad!(iommu_get_info, request(12), u64);
    nix::ioctl_readwrite_bad!(iommu_map_dma, request(13), uapi::vfio_iommu_type1_dma_map);
    nix::ioctl_readwrite_bad!(
        iommu_unmap_dma,
        request(14),
        uapi::vfio_iommu_type1_dma_unmap
    );
    nix::ioctl_readwrite_bad!(device_feature, request(17), u64);
    // IOMMU_VFIO_IOAS (linux/iommufd.h): type as VFIO's, number 0x88.
    nix::ioctl_readwrite_bad!(
        iommufd_vfio_ioas,
        nix::request_code_none!(uapi::VFIO_TYPE, 0x88),
        super::IommuVfioIoas
    );
}

/// `struct iommu_vfio_ioas` (linux/iommufd.h).
#[repr(C)]
struct IommuVfioIoas {
    size: u32,
    ioas_id: u32,
    op: u16,
    reserved: u16,
}

/// Bytes of a structure, as `argsz` has them.
const fn argsz<T>() -> u32 {
    size_of::<T>() as u32
}

pub(super) fn api_version(container: BorrowedFd<'_>) -> Result<i32, Errno> {
    // SAFETY: no memory is passed.
    unsafe { raw::get_api_version(container.as_raw_fd()) }
}

/// Whether a container can do `extension` (`VFIO_TYPE1v2_IOMMU` ...).
pub(super) fn has_extension(container: BorrowedFd<'_>, extension: u32) -> bool {
    let extension = extension.cast_signed();
    // SAFETY: no memory is passed.
    unsafe { raw::check_extension(container.as_raw_fd(), extension) }.is_ok_and(|answer| answer > 0)
}

/// Whether a container is an iommufd that speaks VFIO's language. An iommufd answers its own request to name the address space behind it
/// (ENODEV while there is none); a VFIO container knows no such request: EINVAL before it has an IOMMU (drivers/vfio/container.c),
/// ENOTTY afterwards (vfio_iommu_type1.c).
pub(super) fn is_iommufd(container: BorrowedFd<'_>) -> bool {
    let mut data = IommuVfioIoas {
        size: argsz::<IommuVfioIoas>(),
        ioas_id: 0,
        op: 0,
        reserved: 0,
    };
    // SAFETY: the structure lives through the call, which reads and writes it alone.
    let answer = unsafe { raw::iommufd_vfio_ioas(container.as_raw_fd(), &mut data) };
    !matches!(answer, Err(Errno::EINVAL | Errno::ENOTTY))
}

pub(super) fn set_iommu(container: BorrowedFd<'_>, kind: u32) -> Result<(), Errno> {
    // SAFETY: no memory is passed.
    unsafe { raw::set_iommu(container.as_raw_fd(), kind.cast_signed()) }.map(drop)
}

/// `VFIO_GROUP_FLAGS_*`.
pub(super) fn group_status(group: BorrowedFd<'_>) -> Result<u32, Errno> {
    let mut status = uapi::vfio_group_status {
        argsz: argsz::<uapi::vfio_group_status>(),
        ..Default::default()
    };
    // SAFETY: the structure lives through the call, and says how large it is.
    unsafe { raw::group_get_status(group.as_raw_fd(), &mut status) }?;
    Ok(status.flags)
}

pub(super) fn set_container(group: BorrowedFd<'_>, container: BorrowedFd<'_>) -> Result<(), Errno> {
    let fd: RawFd = container.as_raw_fd();
    // SAFETY: the integer lives through the call, which only reads it.
    unsafe { raw::group_set_container(group.as_raw_fd(), &fd) }.map(drop)
}

pub(super) fn unset_container(group: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: no memory is passed.
    unsafe { raw::group_unset_container(group.as_raw_fd()) }.map(drop)
}

/// Opens a device of a group by its name, a PCI address.
pub(super) fn device_fd(group: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    // SAFETY: the kernel copies a string that ends with a zero byte, which a CStr is.
    let fd = unsafe { raw::group_get_device_fd(group.as_raw_fd(), name.as_ptr()) }?;
    // SAFETY: the call succeeded, so what it returned is a descriptor just made for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(super) fn device_info(device: BorrowedFd<'_>) -> Result<uapi::vfio_device_info, Errno> {
    let mut info = uapi::vfio_device_info {
        argsz: argsz::<uapi::vfio_device_info>(),
        ..Default::default()
    };
    // SAFETY: the structure lives through the call, and says how large it is.
    unsafe { raw::device_get_info(device.as_raw_fd(), &mut info) }?;
    Ok(info)
}

/// A region's place and size. Its capabilities are left out: nothing here needs them.
pub(super) fn region_info(
    device: BorrowedFd<'_>,
    index: u32,
) -> Result<uapi::vfio_region_info, Errno> {
    let mut info = uapi::vfio_region_info {
        argsz: argsz::<uapi::vfio_region_info>(),
        index,
        ..Default::default()
    };
    // SAFETY: the structure lives through the call, and says how large it is.
    unsafe { raw::device_get_region_info(device.as_raw_fd(), &mut info) }?;
    Ok(info)
}

/// How many interrupts of a kind (`VFIO_PCI_*_IRQ_INDEX`) there are.
pub(super) fn irq_count(device: BorrowedFd<'_>, index: u32) -> Result<u32, Errno> {
    let mut info = uapi::vfio_irq_info {
        argsz: argsz::<uapi::vfio_irq_info>(),
        index,
        ..Default::default()
    };
    // SAFETY: the structure lives through the call, and says how large it is.
    unsafe { raw::device_get_irq_info(device.as_raw_fd(), &mut info) }?;
    Ok(info.count)
}

/// Has interrupts 0 to the number of `eventfds`, exclusive, of a kind write those; none disarms all of the kind.
pub(super) fn set_irq_eventfds(
    device: BorrowedFd<'_>,
    index: u32,
    eventfds: &[BorrowedFd<'_>],
) -> Result<(), Errno> {
    let data = if eventfds.is_empty() {
        uapi::VFIO_IRQ_SET_DATA_NONE
    } else {
        uapi::VFIO_IRQ_SET_DATA_EVENTFD
    };
    let count = u32::try_from(eventfds.len()).map_err(|_| Errno::EINVAL)?;
    let words = 5 + eventfds.len();
    // struct vfio_irq_set: argsz, flags, index, start, count; then one s32 an eventfd.
    let mut set = Vec::with_capacity(words);
    let bytes = u32::try_from(words * size_of::<u32>()).map_err(|_| Errno::EINVAL)?;
    set.extend([
        bytes,
        data | uapi::VFIO_IRQ_SET_ACTION_TRIGGER,
        index,
        0,
        count,
    ]);
    set.extend(eventfds.iter().map(|fd| fd.as_raw_fd().cast_unsigned()));
    // SAFETY: the buffer lives through the call, which only reads it, and says how large it is.
    unsafe { raw::device_set_irqs(device.as_raw_fd(), set.as_ptr()) }.map(drop)
}

pub(super) fn reset(device: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: no memory is passed.
    unsafe { raw::device_reset(device.as_raw_fd()) }.map(drop)
}

/// `struct vfio_iommu_type1_info` and the capabilities behind it, as bytes.
pub(super) fn iommu_info(container: BorrowedFd<'_>) -> Result<Vec<u8>, Errno> {
    let mut bytes = size_of::<uapi::vfio_iommu_type1_info>();
    // The kernel answers how large the whole is; it may grow between two calls, once.
    for _ in 0..4 {
        let mut words = vec![0_u64; bytes.div_ceil(size_of::<u64>())];
        let room = u32::try_from(words.len() * size_of::<u64>()).map_err(|_| Errno::E2BIG)?;
        words[0] = pack(room, 0);
        // SAFETY: the buffer lives through the call, has the structure's alignment, and says how large it is.
        unsafe { raw::iommu_get_info(container.as_raw_fd(), words.as_mut_ptr()) }?;
        let answer: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let (needed, _) = unpack(words[0]);
        if needed <= room {
            return Ok(answer);
        }
        bytes = needed as usize;
    }
    Err(Errno::E2BIG)
}

/// Has a device see `range` of `memory` at `iova`. The kernel pins ordinary pages, so what a device writes there lands in no memory
/// of others even if the mapping is gone; pages of a device it cannot pin, so their owner must stay.
pub(super) fn map_dma(
    container: BorrowedFd<'_>,
    memory: &Mapping,
    range: Range<usize>,
    iova: u64,
) -> Result<(), Errno> {
    if range.start > range.end || range.end > memory.len() {
        return Err(Errno::EINVAL);
    }
    let write = if memory.writable() {
        uapi::VFIO_DMA_MAP_FLAG_WRITE
    } else {
        0
    };
    let mut map = uapi::vfio_iommu_type1_dma_map {
        argsz: argsz::<uapi::vfio_iommu_type1_dma_map>(),
        flags: uapi::VFIO_DMA_MAP_FLAG_READ | write,
        vaddr: memory.as_ptr().addr() as u64 + range.start as u64,
        iova,
        size: range.len() as u64,
    };
    // SAFETY: the structure lives through the call. The addresses in it are within a live mapping, whose bytes others write at any
    // time anyway: nothing in the program refers to them.
    unsafe { raw::iommu_map_dma(container.as_raw_fd(), &mut map) }.map(drop)
}

/// Takes `len` bytes at `iova` from a device; returns how many were taken.
pub(super) fn unmap_dma(container: BorrowedFd<'_>, iova: u64, len: u64) -> Result<u64, Errno> {
    let mut unmap = uapi::vfio_iommu_type1_dma_unmap {
        argsz: argsz::<uapi::vfio_iommu_type1_dma_unmap>(),
        iova,
        size: len,
        ..Default::default()
    };
    // SAFETY: the structure lives through the call, and says how large it is.
    unsafe { raw::iommu_unmap_dma(container.as_raw_fd(), &mut unmap) }?;
    Ok(unmap.size)
}

/// Whether the kernel exports BARs as dma-bufs (Linux 6.19, `CONFIG_VFIO_PCI_DMABUF`).
pub(super) fn has_dmabuf_export(device: BorrowedFd<'_>) -> bool {
    let flags = uapi::VFIO_DEVICE_FEATURE_PROBE
        | uapi::VFIO_DEVICE_FEATURE_GET
        | uapi::VFIO_DEVICE_FEATURE_DMA_BUF;
    // struct vfio_device_feature: argsz, flags.
    let mut words = [pack(8, flags)];
    // SAFETY: the buffer lives through the call, and says how large it is.
    unsafe { raw::device_feature(device.as_raw_fd(), words.as_mut_ptr()) }.is_ok()
}

/// Exports `len` bytes from `offset` on of a BAR as a dma-buf (`VFIO_DEVICE_FEATURE_DMA_BUF`).
pub(super) fn export_dmabuf(
    device: BorrowedFd<'_>,
    bar: u32,
    offset: u64,
    len: u64,
) -> Result<OwnedFd, Errno> {
    let flags = uapi::VFIO_DEVICE_FEATURE_GET | uapi::VFIO_DEVICE_FEATURE_DMA_BUF;
    let open = (libc::O_RDWR | libc::O_CLOEXEC).cast_unsigned();
    // struct vfio_device_feature, then struct vfio_device_feature_dma_buf { region_index, open_flags, flags, nr_ranges } and one
    // struct vfio_region_dma_range { u64 offset, u64 length }.
    let mut words = [pack(40, flags), pack(bar, open), pack(0, 1), offset, len];
    // SAFETY: the buffer lives through the call, and says how large it is.
    let fd = unsafe { raw::device_feature(device.as_raw_fd(), words.as_mut_ptr()) }?;
    // SAFETY: the call succeeded, so what it returned is a descriptor just made for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Two 32-bit fields, in memory order, as one word.
fn pack(first: u32, second: u32) -> u64 {
    let (a, b) = (first.to_ne_bytes(), second.to_ne_bytes());
    u64::from_ne_bytes([a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]])
}

/// The two fields that [`pack`] joined.
fn unpack(word: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = word.to_ne_bytes();
    (
        u32::from_ne_bytes([a, b, c, d]),
        u32::from_ne_bytes([e, f, g, h]),
    )
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    /// The numbers that the kernel's header gives: `_IO(';', 100 + n)`.
    #[test]
    fn the_request_codes_are_the_kernels() {
        assert_eq!(request(0), 0x3b64);
        assert_eq!(request(13), 0x3b71);
        assert_eq!(request(17), 0x3b75);
        assert_eq!(nix::request_code_none!(uapi::VFIO_TYPE, 0x88), 0x3b88);
        assert_eq!(size_of::<IommuVfioIoas>(), 12);
        assert_eq!(
            size_of::<uapi::vfio_device_feature>()
                + size_of::<uapi::vfio_device_feature_dma_buf>()
                + size_of::<uapi::vfio_region_dma_range>(),
            40
        );
    }

    #[test]
    fn words_keep_their_fields() {
        assert_eq!(unpack(pack(7, 0x8000_0009)), (7, 0x8000_0009));
    }

    #[test]
    fn what_is_no_vfio_file_is_refused() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(api_version(file.as_fd()), Err(Errno::ENOTTY));
        assert!(!has_extension(file.as_fd(), uapi::VFIO_TYPE1v2_IOMMU));
        assert!(!is_iommufd(file.as_fd()));
        assert!(!has_dmabuf_export(file.as_fd()));
    }
}
