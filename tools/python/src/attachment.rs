//! The receiving half: what `python/devrx/_receiver.py` builds on.

use std::sync::Arc;
use std::time::Duration;

use devrx_client::Attachment as Client;
use devrx_client::placement::{ByteOrder, PlacementOptions};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::batch::Batch;
use crate::error::Failure;
use crate::frames::Frame;
use crate::home::Home;
use crate::payload::Device;

/// An attachment that this process consumes.
#[pyclass(module = "devrx._devrx", frozen)]
pub(crate) struct Attachment {
    home: Arc<Home>,
    #[pyo3(get)]
    name: String,
    #[pyo3(get)]
    nic: String,
    #[pyo3(get)]
    memory: String,
    #[pyo3(get)]
    warnings: Vec<String>,
    #[pyo3(get)]
    chunks: u64,
    #[pyo3(get)]
    chunk_size: u32,
    #[pyo3(get)]
    size: u64,
    #[pyo3(get)]
    zero_copy: bool,
    #[pyo3(get)]
    queues: Vec<u32>,
}

impl Attachment {
    pub(crate) fn new(client: Client) -> Result<Self, Failure> {
        let opened = client.opened();
        Ok(Self {
            name: opened.name.clone(),
            nic: opened.nic.clone(),
            memory: opened.region.memory.clone(),
            warnings: opened.warnings.clone(),
            chunk_size: opened.region.chunk_size,
            size: opened.region.size,
            zero_copy: opened.zero_copy,
            queues: client.queues().map(|queue| queue.queue).collect(),
            chunks: client.queues().map(|queue| u64::from(queue.chunks)).sum(),
            home: Arc::new(Home::new(client)?),
        })
    }
}

#[pymethods]
impl Attachment {
    /// The next batch, or None after `timeout` seconds.
    #[pyo3(signature = (timeout=None))]
    fn recv(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Option<Batch>> {
        self.home
            .wait(py, timeout, |open| Batch::look(&self.home, open))
    }

    /// The next frame, or None after `timeout` seconds.
    #[pyo3(signature = (timeout, fill))]
    fn recv_frame(
        &self,
        py: Python<'_>,
        timeout: Option<f64>,
        fill: u8,
    ) -> PyResult<Option<Frame>> {
        self.home
            .wait(py, timeout, |open| Frame::look(&self.home, open, fill))
    }

    /// About to wait for `fileno`: False where there is something to look at first.
    fn arm(&self) -> PyResult<bool> {
        Ok(self.home.with(|open| {
            self.home.check_full(open)?;
            Ok(open.attachment.arm())
        })?)
    }

    /// Waited.
    fn disarm(&self) -> PyResult<()> {
        Ok(self.home.with(|open| {
            open.attachment.disarm();
            Ok(())
        })?)
    }

    /// Becomes readable when there is something to look at, after `arm`.
    fn fileno(&self) -> i32 {
        self.home.wake_fd()
    }

    /// Seconds until the next frame's time is over, or None.
    fn deadline(&self) -> PyResult<Option<f64>> {
        Ok(self.home.with(|open| {
            let at = open.placement.as_ref().and_then(|all| all.next_deadline());
            Ok(at.map(|at| Duration::from_nanos(at.saturating_sub(open.now())).as_secs_f64()))
        })?)
    }

    /// How many chunks this process has.
    fn held(&self) -> PyResult<u64> {
        Ok(self.home.with(|open| Ok(open.attachment.held()))?)
    }

    /// From here on the attachment is received as frames.
    #[pyo3(signature = (packets, bytes, sequence, window, deadline, data_offset, stride, first, reach, restart_after))]
    #[expect(
        clippy::too_many_arguments,
        reason = "called by keyword, from one place"
    )]
    fn place(
        &self,
        packets: u32,
        bytes: u32,
        sequence: (u16, u8, &str),
        window: u32,
        deadline: Option<f64>,
        data_offset: Option<u16>,
        stride: u64,
        first: u64,
        reach: Option<(u64, u64)>,
        restart_after: u32,
    ) -> PyResult<()> {
        let (offset, width, order) = sequence;
        let order = match order {
            "big" => ByteOrder::Big,
            "little" => ByteOrder::Little,
            other => {
                return Err(Failure::invalid(format!(
                    "the order of a sequence number's bytes is \"big\" or \"little\", not {other:?}"
                ))
                .into());
            }
        };
        let mut options = PlacementOptions::new(packets, bytes)
            .sequence(offset, width)
            .byte_order(order)
            .window(window)
            .stride(stride)
            .first(first)
            .restart_after(restart_after);
        if let Some(offset) = data_offset {
            options = options.data_offset(offset);
        }
        if let Some((ahead, behind)) = reach {
            options = options.reach(ahead, behind);
        }
        if let Some(seconds) = deadline {
            options = options.deadline(
                Duration::try_from_secs_f64(seconds)
                    .map_err(|_| Failure::invalid(format!("{seconds} is no number of seconds")))?,
            );
        }
        Ok(self.home.place(&options)?)
    }

    /// Closes all open frames; they are received next.
    fn flush(&self) -> PyResult<()> {
        Ok(self.home.with(|open| {
            if let Some(placement) = &mut open.placement {
                placement.flush();
            }
            Ok(())
        })?)
    }

    /// The counters of the frames, or None.
    fn placed<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDict>>> {
        let Some(stats) = self.home.placed()? else {
            return Ok(None);
        };
        let dict = PyDict::new(py);
        for (name, value) in [
            ("packets", stats.packets),
            ("placed", stats.placed),
            ("late", stats.late),
            ("duplicate", stats.duplicate),
            ("out_of_range", stats.out_of_range),
            ("oversize", stats.oversize),
            ("unreadable", stats.unreadable),
            ("restarts", stats.restarts),
            ("frames_complete", stats.frames_complete),
            ("frames_incomplete", stats.frames_incomplete),
            ("frames_missed", stats.frames_missed),
            ("missing", stats.missing),
        ] {
            dict.set_item(name, value)?;
        }
        Ok(Some(dict))
    }

    /// A new descriptor of the region, to map or to import; with `export`, of the dma-buf that it is exported as. None: there is none.
    #[pyo3(signature = (export=false))]
    fn region_fd(&self, export: bool) -> PyResult<Option<i32>> {
        Ok(self.home.with(|open| {
            let fd = if export {
                open.attachment.export_fd()
            } else {
                open.attachment.region_fd()
            };
            let copy = fd.map(|fd| fd.try_clone_to_owned()).transpose();
            copy.map(|fd| fd.map(std::os::fd::IntoRawFd::into_raw_fd))
                .map_err(|error| {
                    Failure::invalid(format!("cannot duplicate the descriptor: {error}"))
                })
        })?)
    }

    /// Tells where a device has the region; a pointer of None takes that back.
    #[pyo3(signature = (pointer, kind, device_id, keep))]
    fn set_device(
        &self,
        pointer: Option<u64>,
        kind: &str,
        device_id: i32,
        keep: Py<PyAny>,
    ) -> PyResult<()> {
        let device = pointer.map(|pointer| Device::new(pointer, kind, device_id, keep));
        self.home.set_device(device.transpose()?);
        Ok(())
    }

    /// Gives the region to a CUDA device.
    fn cuda(&self, py: Python<'_>, device: u32) -> PyResult<()> {
        let mapped = py.detach(|| {
            self.home
                .with(|open| crate::cuda::map(&open.attachment, device))
        });
        self.home.set_device(Some(mapped?));
        Ok(())
    }

    /// Ends the consumption; who waits is woken. Arrays stay readable, but the memory is not this program's any more.
    fn close(&self, py: Python<'_>) {
        py.detach(|| self.home.close());
    }

    /// Whether it was closed, or is another process's.
    fn closed(&self) -> bool {
        self.home.with(|_| Ok(())).is_err()
    }
}
