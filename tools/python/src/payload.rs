//! Payload as other libraries take it: the buffer protocol, DLPack, CUDA's array interface.

use std::ffi::c_int;
use std::sync::Arc;

use pyo3::exceptions::{PyAttributeError, PyBufferError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::batch::{Chunks, unreadable};
use crate::cuda::Mapped;
use crate::error::Failure;
use crate::export;

/// DLPack's number for memory of a CPU.
pub(crate) const CPU: i32 = 1;
/// For that of a CUDA device, also host memory by the device's address.
const CUDA: i32 = 2;
/// Its numbers for devices that the region can be told to be in.
const DEVICES: [(&str, i32); 5] = [
    ("cuda", CUDA),
    ("cuda_host", 3),
    ("rocm", 10),
    ("rocm_host", 11),
    ("cuda_managed", 13),
];

/// Where a device has the region.
pub(crate) struct Device {
    pub(crate) pointer: u64,
    kind: i32,
    id: i32,
    /// What owns the device's mapping; it lives as long as anything exported from here.
    _keep: Keep,
}

/// Who gave the region to the device.
enum Keep {
    /// The program, by an object of its own.
    Program { _object: Py<PyAny> },
    /// This package.
    Cuda { _mapped: Mapped },
}

impl Device {
    pub(crate) fn new(pointer: u64, kind: &str, id: i32, keep: Py<PyAny>) -> Result<Self, Failure> {
        let known = DEVICES.iter().find(|(name, _)| *name == kind);
        let Some((_, kind)) = known else {
            let names = DEVICES.map(|(name, _)| name).join(", ");
            return Err(Failure::invalid(format!(
                "{kind:?} is no kind of device memory; it is one of {names}"
            )));
        };
        if pointer == 0 {
            return Err(Failure::invalid("the device's address of the region is 0"));
        }
        Ok(Self {
            pointer,
            kind: *kind,
            id,
            _keep: Keep::Program { _object: keep },
        })
    }

    /// A CUDA device that was given the region here.
    pub(crate) fn cuda(id: i32, mapped: Mapped) -> Self {
        Self {
            pointer: mapped.address(),
            kind: CUDA,
            id,
            _keep: Keep::Cuda { _mapped: mapped },
        }
    }

    fn is_cuda(&self) -> bool {
        matches!(self.kind, 2 | 3 | 13)
    }
}

/// One piece of a packet's payload, in one chunk.
#[pyclass(module = "devrx", frozen)]
pub(crate) struct Payload {
    chunks: Arc<Chunks>,
    index: usize,
}

/// What is handed out: the address, what keeps it valid, and where it is.
pub(crate) struct Exported {
    pub(crate) address: usize,
    pub(crate) len: usize,
    pub(crate) device: (i32, i32),
    pub(crate) read_only: bool,
    /// What must live as long as the address is used.
    pub(crate) _keep: (Arc<Chunks>, Option<Arc<Device>>),
}

impl Payload {
    pub(crate) fn new(chunks: Arc<Chunks>, index: usize) -> Self {
        Self { chunks, index }
    }

    fn place(&self) -> (u64, usize) {
        let held = &self.chunks.held()[self.index];
        (held.offset(), held.len())
    }

    /// In this process's mapping of the region.
    fn on_host(&self) -> Result<Exported, Failure> {
        let (offset, len) = self.place();
        let memory = &self.chunks.home.memory;
        let Some(region) = memory.region() else {
            return Err(unreadable(memory, &self.chunks));
        };
        if offset + len as u64 > region.size() {
            return Err(Failure::invalid("the payload lies outside of the region"));
        }
        Ok(Exported {
            address: region.as_ptr() as usize + offset as usize,
            len,
            device: (CPU, 0),
            read_only: true,
            _keep: (Arc::clone(&self.chunks), None),
        })
    }

    /// Where it is: with the device, if one has the region.
    fn exported(&self) -> Result<Exported, Failure> {
        let Some(device) = self.chunks.home.device() else {
            return self.on_host();
        };
        let (offset, len) = self.place();
        Ok(Exported {
            address: (device.pointer + offset) as usize,
            len,
            device: (device.kind, device.id),
            read_only: false,
            _keep: (Arc::clone(&self.chunks), Some(device)),
        })
    }
}

#[pymethods]
impl Payload {
    /// Where it begins in the region, in bytes. It holds for every mapping of the region, a GPU's included.
    #[getter]
    fn offset(&self) -> u64 {
        self.place().0
    }

    /// The chunk's index in the region.
    #[getter]
    fn chunk(&self) -> u32 {
        self.chunks.held()[self.index].chunk()
    }

    fn __len__(&self) -> usize {
        self.place().1
    }

    /// # Safety
    /// Python hands over a `Py_buffer` to be filled.
    #[expect(
        unsafe_code,
        reason = "the slot of the buffer protocol is unsafe by its signature"
    )]
    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut pyo3::ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        let exported = slf.get().on_host()?;
        // SAFETY: by the contract of the slot, which is this function's as well.
        unsafe { export::fill_buffer(slf.as_any(), &exported, view, flags) }
    }

    #[pyo3(signature = (*, stream=None, max_version=None, dl_device=None, copy=None))]
    pub(crate) fn __dlpack__<'py>(
        &self,
        py: Python<'py>,
        stream: Option<&Bound<'py, PyAny>>,
        max_version: Option<(u32, u32)>,
        dl_device: Option<(i32, i32)>,
        copy: Option<bool>,
    ) -> PyResult<Bound<'py, PyAny>> {
        // What was received is complete before the packet is told of: there is nothing that a stream would have to wait for.
        let _ = stream;
        let exported = self.exported()?;
        if dl_device.is_some_and(|wanted| wanted != exported.device) || copy == Some(true) {
            return Err(PyBufferError::new_err(
                "devrx does not copy payload for DLPack: take it where it is, and copy it there",
            ));
        }
        let versioned = max_version.is_some_and(|(major, _)| major >= 1);
        if exported.read_only && !versioned {
            return Err(PyBufferError::new_err(
                "the payload is read-only, and this library asks for DLPack of a version that cannot say so: hand it numpy.array(packet.payload), \
                 a copy, or take a version of it that asks for DLPack 1.0",
            ));
        }
        export::capsule(py, exported, versioned)
    }

    pub(crate) fn __dlpack_device__(&self) -> PyResult<(i32, i32)> {
        Ok(self.exported()?.device)
    }

    #[getter]
    pub(crate) fn __cuda_array_interface__<'py>(
        &self,
        py: Python<'py>,
    ) -> PyResult<Bound<'py, PyAny>> {
        // An attribute that is not there is how such an object says that it is none of CUDA's.
        if !self.chunks.home.device().is_some_and(|at| at.is_cuda()) {
            return Err(PyAttributeError::new_err(
                "the payload is not known to be in a CUDA device's memory: tell where the device has the region (Receiver.device_memory)",
            ));
        }
        let exported = self.exported()?;
        let dict = PyDict::new(py);
        dict.set_item("shape", (exported.len,))?;
        dict.set_item("typestr", "|u1")?;
        dict.set_item("data", (exported.address, exported.read_only))?;
        dict.set_item("strides", py.None())?;
        dict.set_item("version", 3)?;
        Ok(dict.into_any())
    }

    fn __repr__(&self) -> String {
        let (offset, len) = self.place();
        format!("<devrx.Payload: {len} bytes at {offset} of the region>")
    }
}
