//! What is refused and what is undone, with a stand-in as the runtime's libraries.

use std::os::fd::AsFd;
use std::path::Path;

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::*;
use crate::standin;

struct Rig {
    runtime: Runtime,
    path: std::path::PathBuf,
    _dir: tempfile::TempDir,
}

impl Rig {
    fn new(definitions: &[&str]) -> Self {
        Self::try_new(definitions).unwrap()
    }

    fn try_new(definitions: &[&str]) -> Result<Self, GpuError> {
        let dir = tempfile::tempdir().unwrap();
        let path = standin::build(dir.path(), "hip", definitions);
        Ok(Self {
            runtime: Runtime::load_from(&path, &path)?,
            path,
            _dir: dir,
        })
    }

    fn held(&self) -> i32 {
        standin::held(&self.path)
    }
}

#[test]
fn without_the_libraries_it_says_what_to_install() {
    let nowhere = Path::new("/nonexistent/libamdhip64.so");
    let error = Runtime::load_from(nowhere, nowhere).unwrap_err();
    assert!(matches!(error, GpuError::NoLibrary { .. }), "{error:?}");
    let text = error.to_string();
    assert!(
        text.contains("libamdhip64.so cannot be loaded") && text.contains("install ROCm's runtime"),
        "{text}"
    );
    // HIP without an HSA runtime that exports.
    let error = Rig::try_new(&["LACKS_export"]).err().unwrap();
    assert!(error.to_string().contains("has no hsa_init"), "{error}");
    let error = Rig::try_new(&["FAIL_hipInit=100"]).err().unwrap();
    assert!(error.to_string().contains("rights on /dev/kfd"), "{error}");
}

#[test]
fn no_such_gpu_is_refused() {
    let rig = Rig::new(&["DEVICES=2"]);
    let error = rig.runtime.device(2).unwrap_err().to_string();
    assert!(
        error.contains("no HIP device 2: the runtime has 2"),
        "{error}"
    );
    assert_eq!(
        rig.runtime.device(1).unwrap().pci_address().unwrap(),
        "0000:03:00.0"
    );
    assert_eq!(rig.runtime.version().unwrap(), 60_342_134);
}

#[test]
fn a_step_that_fails_undoes_those_before() {
    for (step, call) in [
        (
            "FAIL_hipMalloc=2",
            "hipMalloc failed (hipErrorOutOfMemory, 2): there is not enough",
        ),
        ("FAIL_hipMemset=2", "hipMemset failed"),
    ] {
        let rig = Rig::new(&[step, "DEVICES=2"]);
        let error = Allocation::new(&rig.runtime.device(1).unwrap(), 4096)
            .unwrap_err()
            .to_string();
        assert!(error.contains(call), "{error}");
        assert_eq!(rig.held(), 0, "{step}");
    }
    let rig = Rig::new(&["FAIL_export=4096"]);
    let memory = Allocation::new(&rig.runtime.device(0).unwrap(), 4096).unwrap();
    let error = memory.export_dmabuf().unwrap_err().to_string();
    assert!(
        error.contains("hsa_amd_portable_export_dmabuf failed (HSA status 0x1000"),
        "{error}"
    );
}

#[test]
fn everything_is_given_back_and_the_threads_device_put_back() {
    let rig = Rig::new(&["DEVICES=2"]);
    let device = rig.runtime.device(1).unwrap();
    let memory = Allocation::new(&device, 4096).unwrap();
    assert_eq!(memory.bytes(), 2 << 20);
    assert_ne!(memory.device_address(), 0);
    let (fd, offset) = memory.export_dmabuf().unwrap();
    assert_eq!(offset, 0);
    let flags = nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_GETFD).unwrap();
    assert_eq!(flags, libc::FD_CLOEXEC);
    let file = memfd_create(c"shared", MFdFlags::MFD_CLOEXEC).unwrap();
    nix::unistd::ftruncate(&file, 8192).unwrap();
    let host = HostMemory::register(&device, file.as_fd(), 4096, 4096).unwrap();
    assert!(host.bytes() == 4096 && host.device_address() != 0);
    drop((memory, host));
    assert_eq!(rig.held(), 0);
    let rig = Rig::new(&["FAIL_hipHostGetDevicePointer=1"]);
    let device = rig.runtime.device(0).unwrap();
    assert!(HostMemory::register(&device, file.as_fd(), 0, 4096).is_err());
    assert_eq!(rig.held(), 0);
}
