//! Batches and packets.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use devrx_client::proto::completion::Completion;
use devrx_client::{Batch as Received, CompletionFlags, Held, Memory};
use pyo3::exceptions::PyIndexError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyTuple};

use crate::arrays;
use crate::error::Failure;
use crate::home::{Home, Open};
use crate::payload::Payload;

/// Bytes of a row of `Batch.headers`; `python/devrx/_arrays.py` has the same.
const ROW: usize = 48;

/// A packet's chunks. They go back when the last object that refers to the packet is gone.
pub(crate) struct Chunks {
    first: Completion,
    held: Vec<Held>,
    queue: u16,
    pub(crate) home: Arc<Home>,
}

impl Chunks {
    pub(crate) fn held(&self) -> &[Held] {
        &self.held
    }

    fn payload_len(&self) -> usize {
        self.held.iter().map(Held::len).sum()
    }

    /// Copies the payload, as much as fits.
    fn copy_payload(&self, out: &mut [u8], fill: u8) -> Result<(), Failure> {
        let memory = &self.home.memory;
        let region = memory.region().ok_or_else(|| unreadable(memory, self))?;
        let mut done = 0;
        for held in &self.held {
            let len = held.len().min(out.len() - done);
            if !region.copy_out(held.offset(), &mut out[done..done + len]) {
                return Err(Failure::invalid("the payload lies outside of the region"));
            }
            done += len;
        }
        out[done..].fill(fill);
        Ok(())
    }

    fn row(&self, out: &mut [u8]) {
        let first = &self.first;
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &first.chunk.to_ne_bytes());
        put(4, &first.generation.to_ne_bytes());
        put(6, &(self.held.len() as u16).to_ne_bytes());
        put(8, &self.held[0].offset().to_ne_bytes());
        put(16, &first.timestamp.to_ne_bytes());
        put(24, &(self.payload_len() as u32).to_ne_bytes());
        put(28, &first.rss_hash.to_ne_bytes());
        put(32, &first.flags.to_ne_bytes());
        put(36, &first.header_length.to_ne_bytes());
        put(38, &first.flow.to_ne_bytes());
        put(40, &first.vlan.to_ne_bytes());
        put(42, &self.queue.to_ne_bytes());
    }
}

/// Why the region is not readable here, in the client's words: a look that must fail says them.
pub(crate) fn unreadable(memory: &Memory, chunks: &Chunks) -> Failure {
    match memory.copy_payload_to(&chunks.held[0], &mut Vec::new()) {
        Err(error) => error.into(),
        Ok(()) => Failure::unreadable("this process cannot read the region"),
    }
}

impl Drop for Chunks {
    fn drop(&mut self) {
        // A batch that is given back as a whole has taken them out.
        if !self.held.is_empty() {
            self.home.give_back(self.held.drain(..));
        }
    }
}

/// Packets that came together, from one queue.
#[pyclass(module = "devrx", frozen, sequence)]
pub(crate) struct Batch {
    /// None: given back.
    packets: Mutex<Option<Vec<Arc<Chunks>>>>,
    len: usize,
    home: Arc<Home>,
}

impl Batch {
    /// The next packets, if there are any now.
    pub(crate) fn look(home: &Arc<Home>, open: &mut Open) -> Result<Option<Self>, Failure> {
        if open.placement.is_some() {
            return Err(Failure::invalid(
                "this attachment is received as frames: take them, not packets",
            ));
        }
        let batch = open.attachment.recv(Some(std::time::Duration::ZERO))?;
        Ok((!batch.is_empty()).then(|| Self::take(home, &batch)))
    }

    fn take(home: &Arc<Home>, batch: &Received<'_>) -> Self {
        let packets: Vec<_> = batch
            .packets()
            .map(|packet| {
                Arc::new(Chunks {
                    first: packet.entries()[0],
                    held: packet.hold().collect(),
                    queue: batch.queue() as u16,
                    home: Arc::clone(home),
                })
            })
            .collect();
        Self {
            len: packets.len(),
            packets: Mutex::new(Some(packets)),
            home: Arc::clone(home),
        }
    }

    fn with<T>(&self, work: impl FnOnce(&[Arc<Chunks>]) -> T) -> Result<T, Failure> {
        let packets = self.packets.lock().unwrap_or_else(PoisonError::into_inner);
        packets
            .as_ref()
            .map(|packets| work(packets))
            .ok_or_else(|| Failure::released("batch"))
    }

    fn let_go(&self) {
        let taken = self
            .packets
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        // All at once, with one look whether the daemon waits for them.
        let free = taken.into_iter().flatten().filter_map(Arc::into_inner);
        let held: Vec<Held> = free
            .flat_map(|mut chunks| std::mem::take(&mut chunks.held))
            .collect();
        if !held.is_empty() {
            self.home.give_back(held);
        }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.let_go();
    }
}

#[pymethods]
impl Batch {
    fn __len__(&self) -> usize {
        self.len
    }

    fn __getitem__(&self, index: isize) -> PyResult<Packet> {
        let at = if index < 0 {
            index + self.len as isize
        } else {
            index
        };
        let found = self.with(|packets| {
            usize::try_from(at)
                .ok()
                .and_then(|at| packets.get(at).cloned())
        })?;
        found
            .map(|chunks| Packet { chunks })
            .ok_or_else(|| PyIndexError::new_err("there is no packet of this number in the batch"))
    }

    fn __iter__(slf: Py<Self>) -> Packets {
        Packets {
            batch: slf,
            next: AtomicUsize::new(0),
        }
    }

    /// The packets' metadata: a structured array with a row a packet (dtype `devrx.HEADER`). A copy.
    #[getter]
    fn headers<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let bytes = self.with(|packets| {
            PyBytes::new_with(py, packets.len() * ROW, |out| {
                for (packet, row) in packets.iter().zip(out.chunks_exact_mut(ROW)) {
                    packet.row(row);
                }
                Ok(())
            })
        })??;
        arrays(py)?.call_method1("headers", (bytes,))
    }

    /// The bytes of the headers: `uint8`, a row a packet, as wide as the longest, 0 behind the shorter ones. A copy: headers are small.
    #[getter]
    fn header_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let (width, bytes) = self.with(|packets| {
            let width = packets.iter().map(|packet| packet.held[0].header_len());
            let width = width.max().unwrap_or(0);
            let bytes = PyBytes::new_with(py, packets.len() * width, |out| {
                for (packet, row) in packets.iter().zip(out.chunks_exact_mut(width.max(1))) {
                    self.home.memory.copy_header(&packet.held[0], row);
                }
                Ok(())
            });
            bytes.map(|bytes| (width, bytes))
        })??;
        arrays(py)?.call_method1("rows", (bytes, self.len, width))
    }

    /// The payload of each packet: a list of arrays, as `Packet.payload`.
    #[getter]
    fn payloads<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let packets = self.with(<[_]>::to_vec)?;
        let views = packets.into_iter().map(|chunks| payload(py, &chunks));
        PyList::new(py, views.collect::<PyResult<Vec<_>>>()?)
    }

    /// The payloads in one piece: `uint8`, a row a packet, `bytes` of each at most, `fill` behind the shorter ones. A copy, made without Python's lock.
    #[pyo3(signature = (bytes, fill=0))]
    fn gather<'py>(&self, py: Python<'py>, bytes: usize, fill: u8) -> PyResult<Bound<'py, PyAny>> {
        let packets = self.with(<[_]>::to_vec)?;
        let array = arrays(py)?.call_method1("empty", (packets.len(), bytes))?;
        if bytes > 0 {
            crate::gather::into_buffer(py, &array, |out| {
                packets
                    .iter()
                    .zip(out.chunks_exact_mut(bytes))
                    .try_for_each(|(packet, row)| packet.copy_payload(row, fill))
            })?;
        }
        Ok(array)
    }

    /// Gives the batch's packets back, but for those that a packet object or an array still refers to. Further calls do nothing.
    fn release(&self) {
        self.let_go();
    }

    /// Whether it was given back.
    #[getter]
    fn released(&self) -> bool {
        self.with(|_| ()).is_err()
    }

    fn __enter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, _exception: &Bound<'_, PyTuple>) {
        self.let_go();
    }

    fn __repr__(&self) -> String {
        let state = if self.released() { ", given back" } else { "" };
        format!("<devrx.Batch: {} packets{state}>", self.len)
    }
}

/// The packets of a batch, one after another.
#[pyclass(module = "devrx._devrx", frozen)]
pub(crate) struct Packets {
    batch: Py<Batch>,
    next: AtomicUsize,
}

#[pymethods]
impl Packets {
    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(&self) -> PyResult<Option<Packet>> {
        let at = self.next.fetch_add(1, Ordering::Relaxed);
        let found = self.batch.get().with(|packets| packets.get(at).cloned())?;
        Ok(found.map(|chunks| Packet { chunks }))
    }
}

/// A packet. As long as it, or an array of its payload, is referred to, its chunks are this program's.
#[pyclass(module = "devrx", frozen)]
pub(crate) struct Packet {
    chunks: Arc<Chunks>,
}

impl Packet {
    fn flags_set(&self) -> CompletionFlags {
        self.chunks.first.flags()
    }

    /// What stands for the whole payload: there is such a thing where it lies in one chunk.
    fn single(&self) -> Result<Payload, Failure> {
        if self.chunks.held.len() > 1 {
            return Err(Failure::invalid(
                "the payload lies in several chunks: use segments, one by one",
            ));
        }
        Ok(Payload::new(Arc::clone(&self.chunks), 0))
    }
}

/// The payload as an array: without a copy where it lies in one chunk.
fn payload<'py>(py: Python<'py>, chunks: &Arc<Chunks>) -> PyResult<Bound<'py, PyAny>> {
    let segments = segments(chunks);
    if segments.len() == 1 {
        return arrays(py)?.call_method1("view", (segments.into_iter().next(),));
    }
    arrays(py)?.call_method1("joined", (segments,))
}

fn segments(chunks: &Arc<Chunks>) -> Vec<Payload> {
    (0..chunks.held.len())
        .map(|index| Payload::new(Arc::clone(chunks), index))
        .collect()
}

#[pymethods]
impl Packet {
    /// The payload: a read-only `uint8` array, the region's own memory where the packet lies in one chunk. A packet of several chunks is
    /// joined, which is a copy; `segments` has its pieces without one.
    #[getter]
    fn payload<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        payload(py, &self.chunks)
    }

    /// The payload's pieces, one a chunk: for numpy (`numpy.asarray`), DLPack, or as offsets.
    #[getter]
    fn segments(&self) -> Vec<Payload> {
        segments(&self.chunks)
    }

    /// The header that was split off: its bytes. Empty: everything is payload.
    #[getter]
    fn header<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let first = &self.chunks.held[0];
        PyBytes::new_with(py, first.header_len(), |out| {
            self.chunks.home.memory.copy_header(first, out);
            Ok(())
        })
    }

    /// Bytes of payload.
    fn __len__(&self) -> usize {
        self.chunks.payload_len()
    }

    /// A packet without payload is a packet.
    fn __bool__(&self) -> bool {
        true
    }

    /// The number of the flow rule that matched.
    #[getter]
    fn flow(&self) -> u16 {
        self.chunks.first.flow
    }

    /// The queue, counted from 0 within the attachment.
    #[getter]
    fn queue(&self) -> u16 {
        self.chunks.queue
    }

    /// The VLAN tag (TCI) that the NIC took off the frame, or None.
    #[getter]
    fn vlan(&self) -> Option<u16> {
        let has = self.flags_set().contains(CompletionFlags::VLAN);
        has.then_some(self.chunks.first.vlan)
    }

    /// The RSS hash, or None.
    #[getter]
    fn hash(&self) -> Option<u32> {
        let has = self.flags_set().contains(CompletionFlags::HASH);
        has.then_some(self.chunks.first.rss_hash)
    }

    /// When it came, in nanoseconds, or None. The flags say on which clock.
    #[getter]
    fn timestamp(&self) -> Option<u64> {
        let stamped = CompletionFlags::TIMESTAMP_SW | CompletionFlags::TIMESTAMP_HW;
        let has = self.flags_set().intersects(stamped);
        has.then_some(self.chunks.first.timestamp)
    }

    /// What else is known of it: bits of `devrx.Flags`.
    #[getter]
    fn flags<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        arrays(py)?.call_method1("Flags", (self.flags_set().bits(),))
    }

    /// DLPack of the payload, where it lies in one chunk.
    #[pyo3(signature = (*, stream=None, max_version=None, dl_device=None, copy=None))]
    fn __dlpack__<'py>(
        &self,
        py: Python<'py>,
        stream: Option<&Bound<'py, PyAny>>,
        max_version: Option<(u32, u32)>,
        dl_device: Option<(i32, i32)>,
        copy: Option<bool>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.single()?
            .__dlpack__(py, stream, max_version, dl_device, copy)
    }

    /// DLPack's device of the payload.
    fn __dlpack_device__(&self) -> PyResult<(i32, i32)> {
        self.single()?.__dlpack_device__()
    }

    /// The payload as CUDA libraries take it, where it lies in one chunk and in a CUDA device's memory.
    #[getter]
    fn __cuda_array_interface__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.single()?.__cuda_array_interface__(py)
    }

    fn __repr__(&self) -> String {
        format!(
            "<devrx.Packet: {} bytes of header, {} of payload>",
            self.chunks.held[0].header_len(),
            self.chunks.payload_len()
        )
    }
}
