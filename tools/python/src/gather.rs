//! Writing into a Python object's buffer without Python's lock.
#![expect(
    unsafe_code,
    reason = "a slice of a buffer that Python lends, which nobody else may use meanwhile"
)]

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyBufferError;
use pyo3::prelude::*;

use crate::error::Failure;

/// Runs `work` with the bytes of `out`, while Python's other threads go on.
pub(crate) fn into_buffer<T: Send>(
    py: Python<'_>,
    out: &Bound<'_, PyAny>,
    work: impl FnOnce(&mut [u8]) -> Result<T, Failure> + Send,
) -> PyResult<T> {
    let buffer = PyBuffer::<u8>::get(out)?;
    if buffer.readonly() || !buffer.is_c_contiguous() {
        return Err(PyBufferError::new_err(
            "a frame is gathered into one contiguous piece of writable memory, and this is none",
        ));
    }
    let len = buffer.len_bytes();
    let address = buffer.buf_ptr().expose_provenance();
    let done = py.detach(|| {
        let start = if len == 0 {
            std::ptr::dangling_mut()
        } else {
            std::ptr::with_exposed_provenance_mut(address)
        };
        // SAFETY: the buffer has that many contiguous writable bytes, and does not move or go while it is exported. That nobody else uses them
        // meanwhile is the documented contract of the caller, as of `readinto`.
        work(unsafe { std::slice::from_raw_parts_mut(start, len) })
    });
    drop(buffer);
    Ok(done?)
}
