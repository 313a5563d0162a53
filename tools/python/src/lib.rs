//! The compiled half of the Python package `devrx`: attaching, receiving, and lending payload to numpy and to others without a copy. The other
//! half, which a program imports, is Python, in `python/devrx/`.

mod attachment;
mod batch;
mod cuda;
mod error;
mod export;
mod frames;
mod gather;
mod home;
mod payload;

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

/// `devrx._arrays`: what is easier said to numpy in Python.
fn arrays(py: Python<'_>) -> PyResult<&Bound<'_, PyModule>> {
    static MODULE: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    MODULE
        .get_or_try_init(py, || py.import("devrx._arrays").map(Bound::unbind))
        .map(|module| module.bind(py))
}

/// The compiled half of devrx: use the package `devrx`.
#[pymodule]
mod _devrx {
    use std::path::PathBuf;

    use devrx_client::proto::message::AttachRequest;
    use devrx_client::{AttachOptions, Client};
    use pyo3::prelude::*;

    #[pymodule_export]
    use crate::attachment::Attachment;
    #[pymodule_export]
    use crate::batch::{Batch, Packet};
    use crate::error::Failure;
    #[pymodule_export]
    use crate::frames::Frame;
    #[pymodule_export]
    use crate::payload::Payload;

    fn connect(socket: Option<PathBuf>) -> Result<Client, Failure> {
        Ok(Client::connect(
            socket.unwrap_or_else(Client::default_path),
        )?)
    }

    /// Makes an attachment and becomes its consumer. `request` is the JSON of an attach message; `memory` a file descriptor, or None.
    #[pyfunction]
    #[pyo3(signature = (socket, request, memory))]
    fn attach(
        py: Python<'_>,
        socket: Option<PathBuf>,
        request: &str,
        memory: Option<i32>,
    ) -> PyResult<Attachment> {
        let request: AttachRequest = serde_json::from_str(request).map_err(|error| {
            Failure::invalid(format!("no attachment can be like this: {error}"))
        })?;
        let memory = memory.map(crate::export::duplicate).transpose()?;
        let options = AttachOptions { request, memory };
        let made = py.detach(|| Attachment::new(connect(socket)?.attach(&options)?));
        Ok(made?)
    }

    /// Becomes the consumer of an attachment that exists.
    #[pyfunction]
    #[pyo3(signature = (socket, name))]
    fn open(py: Python<'_>, socket: Option<PathBuf>, name: &str) -> PyResult<Attachment> {
        let made = py.detach(|| Attachment::new(connect(socket)?.open(name)?));
        Ok(made?)
    }

    /// The daemon's numbers, as JSON.
    #[pyfunction]
    #[pyo3(signature = (socket, name))]
    fn stats(py: Python<'_>, socket: Option<PathBuf>, name: Option<&str>) -> PyResult<String> {
        let stats = py.detach(|| {
            let stats = connect(socket)?.stats(name)?;
            serde_json::to_string(&stats)
                .map_err(|error| Failure::invalid(format!("the numbers are no JSON: {error}")))
        });
        Ok(stats?)
    }

    /// Ends an attachment. Answers the daemon's warnings.
    #[pyfunction]
    #[pyo3(signature = (socket, name))]
    fn detach(py: Python<'_>, socket: Option<PathBuf>, name: &str) -> PyResult<Vec<String>> {
        let warnings = py.detach(|| Ok::<_, Failure>(connect(socket)?.detach(name)?));
        Ok(warnings?)
    }
}
