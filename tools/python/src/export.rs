//! Addresses in the region on their way out: `Py_buffer` and DLPack's structures (dlpack.h, versions 0.8 and 1.0).
//!
//! No reference is formed to the memory: what leaves is its address, with what keeps it mapped and its chunks held. The library that takes it
//! reads it as Python libraries read memory that they are lent.
#![expect(
    unsafe_code,
    reason = "fills Python's and DLPack's structures by pointers, and hands out addresses"
)]

use std::ffi::{CStr, c_int, c_void};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::ptr;

use pyo3::ffi;
use pyo3::prelude::*;

use crate::error::Failure;
use crate::payload::Exported;

const NAME: &CStr = c"dltensor";
const NAME_VERSIONED: &CStr = c"dltensor_versioned";
/// DLPACK_FLAG_BITMASK_READ_ONLY.
const READ_ONLY: u64 = 1;

#[repr(C)]
struct Tensor {
    data: *mut c_void,
    device_type: i32,
    device_id: i32,
    ndim: i32,
    /// kDLUInt, 8 bits, one lane.
    code: u8,
    bits: u8,
    lanes: u16,
    shape: *mut i64,
    strides: *mut i64,
    byte_offset: u64,
}

/// DLManagedTensor.
#[repr(C)]
struct Managed {
    tensor: Tensor,
    context: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut Self)>,
}

/// DLManagedTensorVersioned.
#[repr(C)]
struct ManagedVersioned {
    major: u32,
    minor: u32,
    context: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut Self)>,
    flags: u64,
    tensor: Tensor,
}

/// What a structure's context points to: everything is freed by its deleter.
struct Context {
    shape: [i64; 1],
    strides: [i64; 1],
    _exported: Exported,
}

/// Fills a buffer of bytes, read-only.
///
/// # Safety
/// `view` points to a `Py_buffer` to be filled; `owner` keeps what `exported` has.
pub(crate) unsafe fn fill_buffer(
    owner: &Bound<'_, PyAny>,
    exported: &Exported,
    view: *mut ffi::Py_buffer,
    flags: c_int,
) -> PyResult<()> {
    let address = ptr::with_exposed_provenance_mut(exported.address);
    // SAFETY: by the contract; the address is valid for that many bytes while `owner` lives, and the buffer holds a reference to it.
    let filled = unsafe {
        ffi::PyBuffer_FillInfo(
            view,
            owner.as_ptr(),
            address,
            exported.len as ffi::Py_ssize_t,
            c_int::from(exported.read_only),
            flags,
        )
    };
    if filled == 0 {
        Ok(())
    } else {
        Err(PyErr::fetch(owner.py()))
    }
}

/// A capsule for `from_dlpack`, with the version that says what is read-only or the one before.
pub(crate) fn capsule(
    py: Python<'_>,
    exported: Exported,
    versioned: bool,
) -> PyResult<Bound<'_, PyAny>> {
    let read_only = exported.read_only;
    let mut tensor = Tensor {
        data: ptr::with_exposed_provenance_mut(exported.address),
        device_type: exported.device.0,
        device_id: exported.device.1,
        ndim: 1,
        code: 1,
        bits: 8,
        lanes: 1,
        shape: ptr::null_mut(),
        strides: ptr::null_mut(),
        byte_offset: 0,
    };
    let context = Box::into_raw(Box::new(Context {
        shape: [exported.len as i64],
        strides: [1],
        _exported: exported,
    }));
    // SAFETY: `context` was made above, and lives until the deleter frees it.
    unsafe {
        tensor.shape = (&raw mut (*context).shape).cast();
        tensor.strides = (&raw mut (*context).strides).cast();
    }
    let context = context.cast();
    let (managed, name): (*mut c_void, _) = if versioned {
        let managed = ManagedVersioned {
            major: 1,
            minor: 0,
            context,
            deleter: Some(delete_versioned),
            flags: if read_only { READ_ONLY } else { 0 },
            tensor,
        };
        (Box::into_raw(Box::new(managed)).cast(), NAME_VERSIONED)
    } else {
        let managed = Managed {
            tensor,
            context,
            deleter: Some(delete),
        };
        (Box::into_raw(Box::new(managed)).cast(), NAME)
    };
    // SAFETY: the name is static, and `drop_capsule` frees what no consumer took.
    let made = unsafe { ffi::PyCapsule_New(managed, name.as_ptr(), Some(drop_capsule)) };
    // SAFETY: what PyCapsule_New answers is a new reference, or NULL with an exception set.
    let capsule = unsafe { Bound::from_owned_ptr_or_err(py, made) };
    if capsule.is_err() {
        // SAFETY: there is no capsule to free it.
        unsafe { free(managed, versioned) };
    }
    capsule
}

/// # Safety
/// `managed` is a structure of that version made here, and is used no more.
unsafe fn free(managed: *mut c_void, versioned: bool) {
    // SAFETY: by the contract; `context` was made together with it.
    unsafe {
        let context = if versioned {
            Box::from_raw(managed.cast::<ManagedVersioned>()).context
        } else {
            Box::from_raw(managed.cast::<Managed>()).context
        };
        drop(Box::from_raw(context.cast::<Context>()));
    }
}

/// # Safety
/// As [`free`]. May be called by any thread, with or without Python's lock.
unsafe extern "C" fn delete(managed: *mut Managed) {
    // SAFETY: by the contract.
    unsafe { free(managed.cast(), false) };
}

/// # Safety
/// As [`free`]. May be called by any thread, with or without Python's lock.
unsafe extern "C" fn delete_versioned(managed: *mut ManagedVersioned) {
    // SAFETY: by the contract.
    unsafe { free(managed.cast(), true) };
}

/// # Safety
/// Python's: `capsule` is one of ours that nobody refers to any more.
unsafe extern "C" fn drop_capsule(capsule: *mut ffi::PyObject) {
    for (name, versioned) in [(NAME, false), (NAME_VERSIONED, true)] {
        // SAFETY: `capsule` is a capsule. One that was consumed has another name, and its consumer calls the deleter.
        unsafe {
            if ffi::PyCapsule_IsValid(capsule, name.as_ptr()) == 1 {
                free(ffi::PyCapsule_GetPointer(capsule, name.as_ptr()), versioned);
            }
        }
    }
}

/// A descriptor of our own for one that Python has.
pub(crate) fn duplicate(fd: i32) -> Result<OwnedFd, Failure> {
    if fd < 0 {
        return Err(Failure::invalid(format!("{fd} is no file descriptor")));
    }
    // SAFETY: it is used for one call of fcntl, which refuses a number that is no open descriptor.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    borrowed.try_clone_to_owned().map_err(|error| {
        Failure::invalid(format!(
            "the memory's descriptor {fd} cannot be used: {error}"
        ))
    })
}
