//! Results as C knows them: 0 or more is success, a negative errno is failure, and a message goes to the caller's buffer.
#![expect(unsafe_code, reason = "writes to the caller's error struct")]

use std::ffi::{c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};

use devrx_client::ClientError;
use devrx_client::proto::message::FailureCode;

/// Bytes of a message, its closing 0 included.
pub const DEVRX_MESSAGE_SIZE: usize = 508;

/// What failed, why, and what to do. Filled where a function fails; else it stays as it was.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Error {
    /// The errno, positive.
    pub code: c_int,
    /// UTF-8, closed by 0. Cut where it is too long.
    pub message: [c_char; DEVRX_MESSAGE_SIZE],
}

/// A failure on its way to C.
pub(crate) struct Failure {
    code: c_int,
    message: String,
}

impl Failure {
    pub(crate) fn new(code: c_int, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    pub(crate) fn null(what: &str) -> Self {
        Self::new(libc::EINVAL, format!("{what} is NULL"))
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let code = match &error {
            ClientError::Socket(_) => libc::ECONNREFUSED,
            ClientError::Failed { code, .. } => of_daemon(*code),
            ClientError::Disconnected => libc::ECONNRESET,
            ClientError::Ended { .. } => libc::ESHUTDOWN,
            ClientError::Memory(_) => libc::ENOMEM,
            ClientError::NotReadable { .. } => libc::EOPNOTSUPP,
            ClientError::Foreign { .. } => libc::EINVAL,
            ClientError::Wait(error) => error.raw_os_error().unwrap_or(libc::EIO),
            // Also what a later version adds.
            _ => libc::EPROTO,
        };
        // With what caused it: a C program has no other way to ask.
        let mut message = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(error) = cause {
            message.push_str(": ");
            message.push_str(&error.to_string());
            cause = error.source();
        }
        Self { code, message }
    }
}

fn of_daemon(code: FailureCode) -> c_int {
    match code {
        FailureCode::Protocol => libc::EPROTO,
        FailureCode::Invalid => libc::EINVAL,
        FailureCode::NotFound => libc::ENOENT,
        FailureCode::Busy => libc::EBUSY,
        FailureCode::Denied => libc::EACCES,
        FailureCode::Unsupported => libc::EOPNOTSUPP,
        FailureCode::Exhausted => libc::ENOMEM,
        // Internal, and what a later daemon says.
        _ => libc::EIO,
    }
}

/// Runs a function's body: catches panics, writes the error. `error` may be NULL.
///
/// # Safety
/// `error` is NULL, or valid for writes of an [`Error`].
pub(crate) unsafe fn guard(error: *mut Error, body: impl FnOnce() -> Result<i64, Failure>) -> i64 {
    // What a body changes lies behind a handle, and after a panic that handle is not to be used: documented in the header.
    let failure = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(value)) => return value,
        Ok(Err(failure)) => failure,
        Err(_) => Failure::new(
            libc::ENOTRECOVERABLE,
            "a defect in libdevrx: see stderr; close this handle, and report it",
        ),
    };
    if !error.is_null() {
        // SAFETY: by this function's contract it can be written; its fields are written one by one, never read.
        unsafe {
            (&raw mut (*error).code).write(failure.code);
            let to = (&raw mut (*error).message).cast::<c_char>();
            let mut len = failure.message.len().min(DEVRX_MESSAGE_SIZE - 1);
            while !failure.message.is_char_boundary(len) {
                len -= 1;
            }
            failure.message.as_ptr().cast::<c_char>().copy_to(to, len);
            to.add(len).write(0);
        }
    }
    -i64::from(failure.code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CStr;

    fn fail(body: impl FnOnce() -> Result<i64, Failure>) -> (i64, c_int, String) {
        let mut error = Error {
            code: 0,
            message: [1; DEVRX_MESSAGE_SIZE],
        };
        // SAFETY: it lives here.
        let result = unsafe { guard(&raw mut error, body) };
        let bytes = error.message.map(|byte| byte as u8);
        let text = CStr::from_bytes_until_nul(&bytes).expect("closed by 0");
        let text = text.to_str().expect("whole characters").to_owned();
        (result, error.code, text)
    }

    #[test]
    fn a_panic_is_an_error() {
        let (result, code, text) = fail(|| panic!("a defect made for this test"));
        assert_eq!((result, code), (-131, libc::ENOTRECOVERABLE));
        assert!(text.starts_with("a defect in libdevrx"));
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        for more in 0..3 {
            let long = "x".repeat(more) + &"\u{20ac}".repeat(300);
            let (_, _, text) = fail(|| Err(Failure::new(libc::EINVAL, long.clone())));
            assert!(text.len() > DEVRX_MESSAGE_SIZE - 4 && long.starts_with(&text));
        }
        // Nobody wants to know.
        // SAFETY: there is no error to write.
        let result = unsafe { guard(std::ptr::null_mut(), || Err(Failure::null("batch"))) };
        assert_eq!(result, -i64::from(libc::EINVAL));
    }
}
