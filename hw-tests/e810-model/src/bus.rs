//! What the model needs from the machine it sits in: memory it reaches by DMA, and a way to raise its interrupts.

use std::sync::{Mutex, PoisonError};

/// An address that the device may not reach: not mapped, mapped for reading only, or bus mastering is off.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("DMA at {address:#x}, {len} bytes, reaches no mapped memory")]
pub struct Unmapped {
    /// Where the access began, as the device sees it (an IOVA).
    pub address: u64,
    /// Bytes of the access.
    pub len: usize,
}

/// Memory as the device sees it, behind the IOMMU if there is one.
///
/// An access succeeds as a whole or fails; what a failed write left behind is not defined, as on a bus.
pub trait Dma: Send + Sync {
    /// The device reads.
    ///
    /// # Errors
    ///
    /// [`Unmapped`] if any byte of the range is out of reach.
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), Unmapped>;

    /// The device writes.
    ///
    /// # Errors
    ///
    /// [`Unmapped`] if any byte of the range is out of reach or not writable.
    fn write(&self, address: u64, from: &[u8]) -> Result<(), Unmapped>;
}

/// Where MSI-X messages go.
pub trait Interrupts: Send + Sync {
    /// Raises a vector, counted from 0. It is called with no lock of the model held, so it may call the model.
    fn raise(&self, vector: u16);
}

/// No memory at all: what the device has before [`set_memory`](crate::E810::set_memory).
#[derive(Debug)]
pub(crate) struct Nothing;

impl Dma for Nothing {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), Unmapped> {
        Err(Unmapped {
            address,
            len: into.len(),
        })
    }

    fn write(&self, address: u64, from: &[u8]) -> Result<(), Unmapped> {
        Err(Unmapped {
            address,
            len: from.len(),
        })
    }
}

impl Interrupts for Nothing {
    fn raise(&self, _vector: u16) {}
}

/// Plain memory from address `base` on, for tests in one process.
#[derive(Debug)]
pub struct Ram {
    base: u64,
    bytes: Mutex<Vec<u8>>,
}

impl Ram {
    /// `len` bytes of zeros, which the device reaches at `base` and up.
    #[must_use]
    pub fn new(base: u64, len: usize) -> Self {
        Self {
            base,
            bytes: Mutex::new(vec![0; len]),
        }
    }

    fn reach<T>(
        &self,
        address: u64,
        len: usize,
        go: impl FnOnce(&mut [u8]) -> T,
    ) -> Result<T, Unmapped> {
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        address
            .checked_sub(self.base)
            .and_then(|start| usize::try_from(start).ok())
            .and_then(|start| Some(start..start.checked_add(len)?))
            .and_then(|range| bytes.get_mut(range))
            .map(go)
            .ok_or(Unmapped { address, len })
    }
}

impl Dma for Ram {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), Unmapped> {
        self.reach(address, into.len(), |bytes| into.copy_from_slice(bytes))
    }

    fn write(&self, address: u64, from: &[u8]) -> Result<(), Unmapped> {
        self.reach(address, from.len(), |bytes| bytes.copy_from_slice(from))
    }
}
