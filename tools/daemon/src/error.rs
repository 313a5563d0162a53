//! Why a request was not done: a kind for programs, and what failed, why, and what to do, for people.

use devrx_driver::DriverError;
use devrx_proto::layout::LayoutError;
use devrx_proto::message::{Failure, FailureCode};
use devrx_proto::shm::ShmError;
use devrx_provider::{GpuError, ProviderError};

use crate::policy::Denied;

/// Why a request was not done.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    /// The kind.
    pub code: FailureCode,
    /// What failed, why, and what to do.
    pub message: String,
}

impl Refused {
    /// A refusal.
    pub fn new(code: FailureCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// Something in the request cannot be right.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(FailureCode::Invalid, message)
    }

    /// What is asked for does not exist.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(FailureCode::NotFound, message)
    }

    /// What is asked for is taken.
    pub fn busy(message: impl Into<String>) -> Self {
        Self::new(FailureCode::Busy, message)
    }

    /// Says what was being done.
    #[must_use]
    pub fn while_doing(self, what: &str) -> Self {
        Self {
            message: format!("{what}: {}", self.message),
            ..self
        }
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        Self {
            code: refused.code,
            message: refused.message,
        }
    }
}

impl From<Denied> for Refused {
    fn from(denied: Denied) -> Self {
        Self::new(FailureCode::Denied, denied.0)
    }
}

impl From<DriverError> for Refused {
    fn from(error: DriverError) -> Self {
        let code = match &error {
            DriverError::NoNic { .. } | DriverError::NoQueue { .. } => FailureCode::NotFound,
            DriverError::QueueBusy { .. } => FailureCode::Busy,
            DriverError::BadConfig { .. } | DriverError::Flow { .. } => FailureCode::Invalid,
            DriverError::UnfitMemory { .. } | DriverError::Unsupported { .. } => {
                FailureCode::Unsupported
            }
            DriverError::Provider(provider) => code_of(provider),
            _ => FailureCode::Internal,
        };
        Self::new(code, error.to_string())
    }
}

impl From<ProviderError> for Refused {
    fn from(error: ProviderError) -> Self {
        Self::new(code_of(&error), error.to_string())
    }
}

fn code_of(error: &ProviderError) -> FailureCode {
    match error {
        ProviderError::BadSize { .. } | ProviderError::BadFd(_) => FailureCode::Invalid,
        ProviderError::Unfit(_)
        | ProviderError::Unavailable { .. }
        | ProviderError::Gpu(
            GpuError::NoLibrary { .. } | GpuError::NoSymbol { .. } | GpuError::Unsupported(_),
        ) => FailureCode::Unsupported,
        ProviderError::Gpu(GpuError::NoDevice { .. }) => FailureCode::NotFound,
        ProviderError::InUse => FailureCode::Busy,
        _ => FailureCode::Exhausted,
    }
}

impl From<LayoutError> for Refused {
    fn from(error: LayoutError) -> Self {
        Self::invalid(error.to_string())
    }
}

impl From<ShmError> for Refused {
    fn from(error: ShmError) -> Self {
        let source = std::error::Error::source(&error)
            .map(|e| format!(" ({e})"))
            .unwrap_or_default();
        Self::new(
            FailureCode::Exhausted,
            format!("{error}{source}; free memory, or attach less"),
        )
    }
}

/// A failed system call on the way to an attachment: out of memory or descriptors.
impl From<std::io::Error> for Refused {
    fn from(error: std::io::Error) -> Self {
        Self::new(FailureCode::Exhausted, error.to_string())
    }
}

impl From<anyhow::Error> for Refused {
    fn from(error: anyhow::Error) -> Self {
        Self::new(FailureCode::Internal, format!("{error:#}"))
    }
}
