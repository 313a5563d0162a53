//! A GPU's primary context.

use std::sync::Arc;

use super::Device;
use super::sys::{RawContext, Sys};
use crate::GpuError;

/// The primary context of a GPU, held until the last clone is gone.
#[derive(Clone, Debug)]
pub struct Context(Arc<Held>);

#[derive(Debug)]
struct Held {
    sys: Arc<Sys>,
    raw: RawContext,
    device: Device,
    number: i32,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.sys.release_context(self.number);
    }
}

impl Context {
    pub(super) fn retain(sys: Arc<Sys>, device: Device, number: i32) -> Result<Self, GpuError> {
        let raw = sys.retain(number)?;
        Ok(Self(Arc::new(Held {
            sys,
            raw,
            device,
            number,
        })))
    }

    /// The GPU.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.0.device
    }

    /// Runs something with this context as the calling thread's, and puts back what it had.
    pub(super) fn with<T>(
        &self,
        run: impl FnOnce(&Sys) -> Result<T, GpuError>,
    ) -> Result<T, GpuError> {
        self.0.sys.push(self.0.raw)?;
        let done = run(&self.0.sys);
        self.0.sys.pop();
        done
    }

    /// Waits until what other devices have written into the GPU's memory can be seen by its kernels
    /// (`cuFlushGPUDirectRDMAWrites`): once a batch, where [`ordering`](Device::ordering) asks for it.
    ///
    /// # Errors
    ///
    /// What the driver answers; one before CUDA 11.3 has no such function.
    pub fn flush(&self) -> Result<(), GpuError> {
        self.with(Sys::flush)
    }

    /// Waits until everything the GPU was given to do is done.
    ///
    /// # Errors
    ///
    /// What the driver answers, also of a kernel that failed meanwhile.
    pub fn synchronize(&self) -> Result<(), GpuError> {
        self.with(Sys::synchronize)
    }
}
