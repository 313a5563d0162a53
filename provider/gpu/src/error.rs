//! What can go wrong with a GPU.

/// Why a GPU or its memory was not to be had. The text says what failed, why, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GpuError {
    /// The library is not there, or is no such library.
    #[error("{library} cannot be loaded ({why}): {fix}")]
    NoLibrary {
        /// The library.
        library: String,
        /// What the loader said.
        why: String,
        /// What to install.
        fix: &'static str,
    },
    /// The library lacks a function: it is too old, or another one.
    #[error("{library} has no {symbol}: {fix}")]
    NoSymbol {
        /// The library.
        library: String,
        /// The function.
        symbol: String,
        /// What to install.
        fix: &'static str,
    },
    /// There is no such GPU.
    #[error("there is no {kind} device {index}: {found}")]
    NoDevice {
        /// `CUDA` or `HIP`.
        kind: &'static str,
        /// What was asked for.
        index: u32,
        /// How many there are, and what to do.
        found: String,
    },
    /// A function of the library failed.
    #[error("{call} failed ({name}, {code}): {fix}")]
    Call {
        /// The function.
        call: &'static str,
        /// The number that it answered.
        code: i32,
        /// What the library calls it.
        name: String,
        /// What to do about it.
        fix: &'static str,
    },
    /// A system call failed.
    #[error("{call} failed ({source}): {fix}")]
    Sys {
        /// The system call.
        call: &'static str,
        /// What the kernel answered.
        source: std::io::Error,
        /// What to do about it.
        fix: &'static str,
    },
    /// The GPU, its driver or this machine cannot do it.
    #[error("{0}")]
    Unsupported(String),
}

impl GpuError {
    /// The number of a failed call; `None` where no call failed.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        match self {
            Self::Call { code, .. } => Some(*code),
            _ => None,
        }
    }
}
