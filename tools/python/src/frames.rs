//! Frames from numbered packets.

use std::sync::{Arc, Mutex, PoisonError};

use devrx_client::ClientError;
use devrx_client::placement::{Frame as Placed, FrameEnd};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyBytes;

use crate::error::Failure;
use crate::home::{Home, Open};
use crate::{arrays, gather};

/// Batches placed in one look, at most.
const BATCHES: usize = 16;

/// A frame of a stream: packets by their places.
#[pyclass(module = "devrx", frozen)]
pub(crate) struct Frame {
    /// None: given back.
    placed: Mutex<Option<Placed>>,
    array: PyOnceLock<Py<PyAny>>,
    present: Vec<u64>,
    #[pyo3(get)]
    number: u64,
    #[pyo3(get)]
    restarts: u64,
    #[pyo3(get)]
    missing: usize,
    #[pyo3(get)]
    packets: usize,
    /// Why it was closed.
    #[pyo3(get)]
    end: &'static str,
    bytes: usize,
    fill: u8,
    home: Arc<Home>,
}

impl Frame {
    /// The next frame, if there is one now.
    pub(crate) fn look(
        home: &Arc<Home>,
        open: &mut Open,
        fill: u8,
    ) -> Result<Option<Self>, Failure> {
        let now = open.now();
        let Open {
            attachment,
            placement,
            ..
        } = open;
        let placement = placement
            .as_mut()
            .ok_or_else(|| Failure::invalid("this attachment is not received as frames"))?;
        let mut found = placement.next_frame();
        // Packets without a place make no frame. If they came faster than they are looked at, the caller's timeout and Ctrl-C would not be seen.
        for _ in 0..BATCHES {
            if found.is_some() {
                break;
            }
            let batch = match attachment.recv(Some(std::time::Duration::ZERO)) {
                Err(error @ ClientError::Ended { .. }) => {
                    placement.flush();
                    found = Some(placement.next_frame().ok_or(error)?);
                    break;
                }
                batch => batch?,
            };
            let empty = batch.is_empty();
            placement.place_batch(&batch, now);
            drop(batch);
            placement.expire(now);
            found = placement.next_frame();
            if empty {
                break;
            }
        }
        Ok(found.map(|placed| Self {
            present: placed.present().to_vec(),
            number: placed.number(),
            restarts: placed.restarts(),
            missing: placed.missing(),
            packets: placed.places(),
            end: match placed.end() {
                FrameEnd::Complete => "complete",
                FrameEnd::Expired => "expired",
                FrameEnd::Pushed => "pushed",
                FrameEnd::Restarted => "restarted",
                FrameEnd::Flushed => "flushed",
                // What a later version adds.
                _ => "other",
            },
            bytes: placed.size() / placed.places().max(1),
            placed: Mutex::new(Some(placed)),
            array: PyOnceLock::new(),
            fill,
            home: Arc::clone(home),
        }))
    }

    fn with<T>(&self, work: impl FnOnce(&Placed) -> Result<T, Failure>) -> Result<T, Failure> {
        let placed = self.placed.lock().unwrap_or_else(PoisonError::into_inner);
        placed
            .as_ref()
            .ok_or_else(|| Failure::released("frame"))
            .and_then(work)
    }

    fn let_go(&self) {
        let taken = self
            .placed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if taken.is_some() {
            drop(taken);
            self.home.give_frames_back();
        }
    }

    fn column<'py, const N: usize>(
        &self,
        py: Python<'py>,
        kind: &str,
        value: impl Fn(&Placed, usize) -> [u8; N],
    ) -> PyResult<Bound<'py, PyAny>> {
        let bytes = self.with(|placed| {
            let all = (0..placed.places()).flat_map(|index| value(placed, index));
            Ok(all.collect::<Vec<u8>>())
        })?;
        arrays(py)?.call_method1("column", (PyBytes::new(py, &bytes), kind))
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        self.let_go();
    }
}

#[pymethods]
impl Frame {
    /// The frame in one piece: `uint8`, a row a packet, filled where one is missing or shorter. Gathered at the first look, which is a copy; the
    /// packets' chunks are given back then.
    #[getter]
    fn array<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let array = self.array.get_or_try_init(py, || {
            let array = arrays(py)?.call_method1("empty", (self.packets, self.bytes))?;
            self.copy_into(py, &array, self.fill)?;
            self.let_go();
            Ok::<_, PyErr>(array.unbind())
        })?;
        Ok(array.bind(py).clone())
    }

    /// Gathers the frame into memory of the caller's: anything with a contiguous, writable buffer of at least `packets * bytes` bytes, such as pinned
    /// memory. Nobody else may use that memory meanwhile. Answers how many packets are missing.
    #[pyo3(signature = (out, fill=0))]
    fn copy_into(&self, py: Python<'_>, out: &Bound<'_, PyAny>, fill: u8) -> PyResult<usize> {
        gather::into_buffer(py, out, |out| {
            self.with(|placed| Ok(placed.copy_into(out, fill)?))
        })
    }

    /// Which packets are there: a `bool` array.
    #[getter]
    fn present<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let bits = (0..self.packets).map(|at| self.present[at / 64] >> (at % 64) & 1);
        let bytes: Vec<u8> = bits.map(|bit| bit as u8).collect();
        arrays(py)?.call_method1("column", (PyBytes::new(py, &bytes), "?"))
    }

    /// Whether every packet is there.
    #[getter]
    fn complete(&self) -> bool {
        self.missing == 0
    }

    /// Where each packet's data begins in the region (`int64`; -1: it is missing, not in the region, or in several chunks): for a
    /// kernel on a GPU. Holds until the frame is given back.
    #[getter]
    fn offsets<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.column(py, "=i8", |placed, index| {
            let mut pieces = placed.segments(index);
            let one = pieces.next().filter(|_| pieces.next().is_none());
            one.and_then(|piece| i64::try_from(piece.offset).ok())
                .unwrap_or(-1)
                .to_ne_bytes()
        })
    }

    /// Bytes of data of each packet (`uint32`; 0: it is missing).
    #[getter]
    fn lengths<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.column(py, "=u4", |placed, index| {
            (placed.data_len(index).unwrap_or(0) as u32).to_ne_bytes()
        })
    }

    /// Gives the frame's chunks back. Further calls do nothing; an array that was gathered stays.
    fn release(&self) {
        self.let_go();
    }

    fn __repr__(&self) -> String {
        format!(
            "<devrx.Frame {}: {} of {} packets missing, {}>",
            self.number, self.missing, self.packets, self.end
        )
    }
}
