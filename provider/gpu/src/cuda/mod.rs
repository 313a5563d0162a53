//! NVIDIA's driver API: memory of a GPU that a NIC can write and another process import, and host memory that a GPU reads over PCIe.
//!
//! ```no_run
//! use devrx_gpu::{Access, cuda};
//! # fn example(region: std::os::fd::BorrowedFd<'_>, exported: std::os::fd::BorrowedFd<'_>, bytes: u64) -> Result<(), devrx_gpu::GpuError> {
//! let context = cuda::Driver::load()?.device(0)?.context()?;
//! // Shared host memory, where a kernel finds it:
//! let host = cuda::HostMemory::register(&context, region, 0, bytes, Access::ReadWrite)?;
//! // or VRAM that another process exported:
//! let vram = cuda::Allocation::import(&context, exported, bytes)?;
//! println!("{:#x} {:#x}", host.device_address(), vram.device_address());
//! # Ok(()) }
//! ```

mod context;
mod device;
mod host;
mod memory;
mod sys;

pub use context::Context;
pub use device::{Attribute, Device, Driver, Ordering};
pub use host::HostMemory;
pub use memory::Allocation;

#[cfg(test)]
mod tests;
