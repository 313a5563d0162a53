//! Failures on their way to Python: the classes are `python/devrx/_errors.py`'s.

use devrx_client::ClientError;
use devrx_client::placement::PlacementError;
use devrx_client::proto::message::FailureCode;
use devrx_gpu::GpuError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

/// What failed, made without Python's lock.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The exception's class.
    class: &'static str,
    /// A positive errno.
    errno: i32,
    /// The kind, in a word.
    code: &'static str,
    message: String,
}

impl Failure {
    fn new(
        class: &'static str,
        errno: i32,
        code: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self {
            class,
            errno,
            code,
            message: message.into(),
        }
    }

    /// The caller asked for what cannot be.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new("Error", libc::EINVAL, "invalid", message)
    }

    /// Python's side closed it.
    pub(crate) fn closed() -> Self {
        Self::new("Closed", libc::EBADF, "closed", "this receiver is closed")
    }

    /// This process is a child of the one that made the receiver.
    pub(crate) fn forked() -> Self {
        Self::new(
            "Error",
            libc::EPERM,
            "forked",
            "this receiver belongs to the process that this one was forked from, which goes on using its rings: attach or open in the \
             process that receives (with multiprocessing, the start method `spawn`)",
        )
    }

    /// A packet's chunks are not its any more.
    pub(crate) fn released(what: &str) -> Self {
        Self::new(
            "Error",
            libc::EINVAL,
            "released",
            format!(
                "this {what} has been given back: take what is to stay (a packet, its payload) before the next one, or receive with recv(), \
                 which gives nothing back by itself"
            ),
        )
    }

    /// Nothing can be received, because this program has all there is.
    pub(crate) fn exhausted(queue: u32, chunks: u32) -> Self {
        Self::new(
            "Exhausted",
            libc::ENOBUFS,
            "exhausted",
            format!(
                "this program holds all {chunks} chunks of queue {queue}, so that no packet can come on it: let go of arrays, packets, batches and \
                 frames (a copy does not hold a chunk), or attach with more memory"
            ),
        )
    }

    /// A system call failed.
    pub(crate) fn system(what: &str, errno: nix::Error) -> Self {
        Self::new(
            "Error",
            errno as i32,
            "system",
            format!("{what} failed: {errno}"),
        )
    }

    /// The memory is not a CPU's to read.
    pub(crate) fn unreadable(message: impl Into<String>) -> Self {
        Self::new("NotReadable", libc::EOPNOTSUPP, "not_readable", message)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let message = whole(&error);
        let (class, errno, code) = match &error {
            ClientError::Socket(_) => ("Unreachable", libc::ECONNREFUSED, "unreachable"),
            ClientError::Disconnected => ("Unreachable", libc::ECONNRESET, "disconnected"),
            ClientError::Failed { code, .. } => {
                let (errno, code) = of_daemon(*code);
                ("Refused", errno, code)
            }
            ClientError::Ended { .. } => ("Ended", libc::ESHUTDOWN, "ended"),
            ClientError::NotReadable { .. } => ("NotReadable", libc::EOPNOTSUPP, "not_readable"),
            ClientError::Memory(_) => ("Error", libc::ENOMEM, "memory"),
            ClientError::Wait(error) => {
                ("Error", error.raw_os_error().unwrap_or(libc::EIO), "system")
            }
            // Also what a later version adds.
            _ => ("Error", libc::EPROTO, "protocol"),
        };
        Self::new(class, errno, code, message)
    }
}

impl From<PlacementError> for Failure {
    fn from(error: PlacementError) -> Self {
        match error {
            PlacementError::Client(error) => error.into(),
            PlacementError::Event(_) => Self::new("Error", libc::EMFILE, "system", whole(&error)),
            error => Self::invalid(whole(&error)),
        }
    }
}

impl From<GpuError> for Failure {
    fn from(error: GpuError) -> Self {
        let errno = match &error {
            GpuError::NoLibrary { .. } | GpuError::NoSymbol { .. } | GpuError::NoDevice { .. } => {
                libc::ENODEV
            }
            GpuError::Sys { source, .. } => source.raw_os_error().unwrap_or(libc::EIO),
            GpuError::Unsupported(_) => libc::EOPNOTSUPP,
            _ => libc::EIO,
        };
        Self::new("Error", errno, "gpu", whole(&error))
    }
}

fn of_daemon(code: FailureCode) -> (i32, &'static str) {
    match code {
        FailureCode::Protocol => (libc::EPROTO, "protocol"),
        FailureCode::Invalid => (libc::EINVAL, "invalid"),
        FailureCode::NotFound => (libc::ENOENT, "not_found"),
        FailureCode::Busy => (libc::EBUSY, "busy"),
        FailureCode::Denied => (libc::EACCES, "denied"),
        FailureCode::Unsupported => (libc::EOPNOTSUPP, "unsupported"),
        FailureCode::Exhausted => (libc::ENOMEM, "exhausted"),
        // Internal, and what a later daemon says.
        _ => (libc::EIO, "internal"),
    }
}

/// The message with what caused it.
fn whole(error: &dyn std::error::Error) -> String {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        message.push_str(": ");
        message.push_str(&error.to_string());
        cause = error.source();
    }
    message
}

impl From<Failure> for PyErr {
    fn from(failure: Failure) -> Self {
        static MODULE: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
        Python::attach(|py| {
            let made = || {
                let module = MODULE
                    .get_or_try_init(py, || py.import("devrx._errors").map(Bound::unbind))?
                    .bind(py);
                module.getattr(failure.class)?.call1((
                    &failure.message,
                    failure.errno,
                    failure.code,
                ))
            };
            made().map_or_else(|error| error, PyErr::from_value)
        })
    }
}
