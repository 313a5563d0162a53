//! The model as a PCI function.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use devrx_provider::MapWay;
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::{Chip, IgbModel};
use crate::DriverError;
use crate::device::{Device, Mapper, PciId};
use crate::ring::WAYS;

/// MSI-X vectors, as QEMU's 82576 has them.
const VECTORS: u32 = 10;

pub(super) fn eventfd() -> io::Result<OwnedFd> {
    Ok(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?.into())
}

fn sys(error: io::Error) -> DriverError {
    DriverError::sys("eventfd", error, "raise the limit of open files")
}

impl Device for IgbModel {
    type Registers = Chip;

    fn address(&self) -> &str {
        "model"
    }

    fn id(&self) -> PciId {
        self.id
    }

    fn registers(&self) -> Arc<Chip> {
        Arc::clone(&self.chip)
    }

    fn mapper(&self) -> Arc<dyn Mapper> {
        self.chip.iommu.clone()
    }

    fn set_bus_master(&self, on: bool) -> Result<(), DriverError> {
        let mut state = self.chip.state();
        state.bus_master = on;
        state.pump();
        Ok(())
    }

    fn reset(&self) -> Result<(), DriverError> {
        let mut state = self.chip.state();
        state.vectors.clear();
        state.bus_master = false;
        if state.fault.gone || state.fault.gone_as_zeros {
            return Ok(());
        }
        if state.fault.reset_fails {
            return Err(sys(io::Error::from_raw_os_error(libc::EIO)));
        }
        state.reset();
        state.resets += 1;
        Ok(())
    }

    fn vectors(&self) -> u32 {
        VECTORS
    }

    fn arm_vectors(&self, count: u32) -> Result<Vec<OwnedFd>, DriverError> {
        let fds = (0..count)
            .map(|_| eventfd())
            .collect::<io::Result<Vec<_>>>()
            .map_err(sys)?;
        let ours = fds
            .iter()
            .map(OwnedFd::try_clone)
            .collect::<io::Result<Vec<_>>>()
            .map_err(sys)?;
        self.chip.state().vectors = ours;
        Ok(fds)
    }

    fn trouble(&self) -> Option<BorrowedFd<'_>> {
        Some(self.trouble.as_fd())
    }

    fn trouble_text(&self) -> String {
        "the model was told to make trouble".to_owned()
    }

    fn gone(&self) -> bool {
        let fault = self.chip.state().fault;
        fault.gone || fault.gone_as_zeros
    }

    fn ways(&self) -> &'static [MapWay] {
        WAYS
    }
}
