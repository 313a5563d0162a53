//! The registers of a BAR.
#![expect(
    unsafe_code,
    reason = "registers are read and written by volatile accesses"
)]

use std::fmt;
use std::sync::Arc;

use devrx_provider::Mapping;
use vfio_bindings::bindings::vfio as uapi;

use super::owned::Owned;
use crate::DriverError;
use crate::device::Registers;

/// A mapped BAR. Unmapped when dropped; the device stays open until then.
pub struct Bar {
    mapping: Mapping,
    start: *mut u32,
    /// 32-bit registers.
    registers: u32,
    // Dropped after the mapping.
    _owned: Arc<Owned>,
}

// SAFETY: `start` points to the mapping, which this value owns and which is tied to no thread.
unsafe impl Send for Bar {}
// SAFETY: registers are accessed by single volatile instructions; what several accessors mean to the device is the driver's business.
unsafe impl Sync for Bar {}

impl Bar {
    /// Maps BAR `index`, whole.
    pub(super) fn map(owned: Arc<Owned>, index: u32) -> Result<Self, DriverError> {
        let region = owned.region(uapi::VFIO_PCI_BAR0_REGION_INDEX + index)?;
        let no_nic = |why: String| DriverError::NoNic {
            nic: owned.name().to_owned(),
            why,
        };
        let len = match usize::try_from(region.size) {
            Ok(len) if len > 0 && u32::try_from(len).is_ok() => len,
            _ => {
                return Err(no_nic(format!(
                    "its BAR {index} has {} bytes, which is not what registers are in; it is no NIC that devrx knows",
                    region.size
                )));
            }
        };
        if !region.mappable {
            return Err(no_nic(format!(
                "vfio-pci lets nobody map its BAR {index}: it is in I/O space, smaller than a page, or shares a page with the MSI-X table \
                 of a kernel before Linux 4.16"
            )));
        }
        let mapping =
            Mapping::map_shared(owned.fd(), region.offset, len, true).map_err(|error| {
                DriverError::sys(
                    "mmap of a BAR",
                    error,
                    "see `dmesg`; the device may be in a low-power state or gone",
                )
            })?;
        Ok(Self {
            start: mapping.as_ptr().cast(),
            // Fits: checked above.
            registers: (len / size_of::<u32>()) as u32,
            mapping,
            _owned: owned,
        })
    }

    /// Where the register at `offset` bytes is.
    #[inline]
    fn register(&self, offset: u32) -> *mut u32 {
        assert!(
            offset.is_multiple_of(4) && offset / 4 < self.registers,
            "a register within the BAR"
        );
        self.start.wrapping_add(offset as usize / 4)
    }
}

impl Registers for Bar {
    #[inline]
    fn read32(&self, offset: u32) -> u32 {
        let register = self.register(offset);
        // SAFETY: within the live mapping, and aligned: the mapping is page aligned and the offset a multiple of 4.
        let value = u32::from_le(unsafe { register.read_volatile() });
        after_read();
        // The device's memory was taken from under the mapping (unplugged, decoding turned off), and the guard put zeros there.
        if self.mapping.poisoned() {
            return u32::MAX;
        }
        value
    }

    #[inline]
    fn write32(&self, offset: u32, value: u32) {
        let register = self.register(offset);
        before_write();
        // SAFETY: as in `read32`; the mapping is writable.
        unsafe { register.write_volatile(value.to_le()) };
    }
}

/// Orders writes to memory before the register write that tells the device of them: on x86-64 stores keep their order, so only the
/// compiler must keep it too; on arm64 the barrier must reach devices.
#[inline]
fn before_write() {
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a barrier touches no memory or register.
    unsafe {
        std::arch::asm!("dmb oshst", options(nostack, preserves_flags));
    }
    #[cfg(not(target_arch = "aarch64"))]
    std::sync::atomic::fence(std::sync::atomic::Ordering::Release);
}

/// Orders a register read before the reads of memory that the device had written when it answered.
#[inline]
fn after_read() {
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        std::arch::asm!("dmb oshld", options(nostack, preserves_flags));
    }
    #[cfg(not(target_arch = "aarch64"))]
    std::sync::atomic::fence(std::sync::atomic::Ordering::Acquire);
}

impl fmt::Debug for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bar")
            .field("bytes", &self.mapping.len())
            .finish_non_exhaustive()
    }
}
