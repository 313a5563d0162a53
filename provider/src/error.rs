//! What can go wrong with memory.

use std::io;

/// Why memory was refused or could not be had. The text says what failed, why, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProviderError {
    /// A size, chunk size or offset that no region can have.
    #[error("{what} {value} is not usable: {why}")]
    BadSize {
        /// Which quantity.
        what: &'static str,
        /// Its value, bytes unless `what` says otherwise.
        value: u64,
        /// The rule it breaks and what to use instead.
        why: String,
    },
    /// A file descriptor that is not what it must be.
    #[error("the file descriptor is refused: {0}")]
    BadFd(String),
    /// The memory cannot serve this queue.
    #[error("{0}")]
    Unfit(String),
    /// More memory than this host can give.
    #[error("cannot allocate {size} bytes: {why}; ask for a smaller region, or free memory")]
    NoMemory {
        /// Bytes.
        size: u64,
        /// What there is.
        why: String,
    },
    /// Another queue has this memory.
    #[error("the memory is in use by another queue; detach that first")]
    InUse,
    /// The machine lacks something.
    #[error("{what} is not available: {fix}")]
    Unavailable {
        /// What is missing.
        what: String,
        /// What to do about it.
        fix: String,
    },
    /// A GPU's driver or library.
    #[error(transparent)]
    Gpu(#[from] devrx_gpu::GpuError),
    /// A system call failed.
    #[error("{call} failed ({source}): {fix}")]
    Sys {
        /// The system call or ioctl.
        call: &'static str,
        /// What the kernel answered.
        source: io::Error,
        /// What to do about it.
        fix: String,
    },
}
