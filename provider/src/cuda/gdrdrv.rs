//! gdrdrv, the kernel module of NVIDIA's GDRCopy: maps a GPU's memory where the driver itself does not (src/gdrdrv/gdrdrv.h there).

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use crate::{ProviderError, ioctl};

/// The units in which it pins, bytes (`GPU_PAGE_SIZE`).
const GPU_PAGE: u64 = 1 << 16;

/// Pinned memory of a GPU. It is unpinned when the last duplicate of the descriptor is closed.
#[derive(Debug)]
pub(super) struct Pinned {
    pub(super) fd: OwnedFd,
    /// Where in `fd` it is mapped, bytes: the module names what it pinned so.
    pub(super) offset: u64,
}

/// Pins a range of a GPU's memory; both ends are whole pages of the GPU's.
pub(super) fn pin(device: &Path, address: u64, bytes: u64) -> Result<Pinned, ProviderError> {
    debug_assert!(address.is_multiple_of(GPU_PAGE) && bytes.is_multiple_of(GPU_PAGE));
    let sys = |call, source, fix: &str| ProviderError::Sys {
        call,
        source,
        fix: fix.to_owned(),
    };
    let fd: OwnedFd = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(device)
        .map_err(|source| {
            sys(
                "open(/dev/gdrdrv)",
                source,
                "load gdrdrv, and run as a user who may open its device",
            )
        })?
        .into();
    let handle = ioctl::gdrdrv_pin(fd.as_fd(), address, bytes.next_multiple_of(GPU_PAGE)).map_err(|errno| {
        sys(
            "ioctl(GDRDRV_IOC_PIN_BUFFER)",
            errno.into(),
            "the GPU's window on the bus (BAR1) may be full, or gdrdrv built for another driver: see dmesg",
        )
    })?;
    let offset = handle.checked_mul(crate::page_size()).ok_or_else(|| {
        ProviderError::Unfit("gdrdrv gave a handle that no offset can name".to_owned())
    })?;
    Ok(Pinned { fd, offset })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_gdrdrv_is_refused() {
        let error = pin(Path::new("/nonexistent/gdrdrv"), 0, GPU_PAGE).unwrap_err();
        assert!(error.to_string().contains("load gdrdrv"), "{error}");
        let error = pin(Path::new("/dev/null"), 0, GPU_PAGE).unwrap_err();
        assert!(
            error.to_string().contains("GDRDRV_IOC_PIN_BUFFER"),
            "{error}"
        );
    }
}
