//! The libraries of GPU drivers, loaded at run time: nothing of a vendor's is needed to build, and a machine without a GPU gets a refusal
//! that says what is missing.
//!
//! [`cuda`] is NVIDIA's driver API (`libcuda.so.1`, which comes with the driver, not with the toolkit), [`hip`] AMD's runtime. Both
//! sides of devrx use them: the daemon allocates memory of a GPU and exports it, a client imports it, and gets addresses for its
//! kernels; and where no NIC can write into a GPU, host memory is registered with it, which it reads over PCIe.
//!
//! A library is looked for by its usual name, as the system's loader looks for every library, or where the caller says
//! ([`cuda::Driver::load_from`]). There is no variable of devrx's for it: whoever could set one would run code in the daemon, which is root.

pub mod bar;
pub mod cuda;
mod error;
pub mod hip;
mod library;
mod map;
#[cfg(any(test, feature = "standin"))]
pub mod standin;

pub use error::GpuError;
pub use map::Access;
