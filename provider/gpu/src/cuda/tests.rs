//! What is refused and what is undone, with a stand-in as the driver's library.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::*;
use crate::{Access, GpuError, standin};

struct Rig {
    driver: Driver,
    path: std::path::PathBuf,
    _dir: tempfile::TempDir,
}

impl Rig {
    fn new(definitions: &[&str]) -> Self {
        Self::try_new(definitions).unwrap()
    }

    fn try_new(definitions: &[&str]) -> Result<Self, GpuError> {
        let dir = tempfile::tempdir().unwrap();
        let path = standin::build(dir.path(), "cuda", definitions);
        Ok(Self {
            driver: Driver::load_from(&path)?,
            path,
            _dir: dir,
        })
    }

    fn context(&self) -> Context {
        self.driver.device(0).unwrap().context().unwrap()
    }

    /// What the stand-in was not given back.
    fn held(&self) -> i32 {
        standin::held(&self.path)
    }
}

fn file(bytes: i64) -> OwnedFd {
    let fd = memfd_create(c"shared", MFdFlags::MFD_CLOEXEC).unwrap();
    nix::unistd::ftruncate(&fd, bytes).unwrap();
    fd
}

#[test]
fn without_the_library_it_says_what_to_install() {
    let error = Driver::load_from(Path::new("/nonexistent/libcuda.so.1")).unwrap_err();
    assert!(matches!(error, GpuError::NoLibrary { .. }), "{error:?}");
    let text = error.to_string();
    assert!(
        text.contains("/nonexistent/libcuda.so.1 cannot be loaded")
            && text.contains("nvidia-driver")
            && text.contains("--gpus all"),
        "{text}"
    );
    // A library that is another.
    let error = Driver::load_from(Path::new("libc.so.6")).unwrap_err();
    assert!(
        error.to_string().contains("libc.so.6 has no cuInit"),
        "{error}"
    );
}

#[test]
fn an_old_driver_is_refused_by_what_it_lacks() {
    let error = Rig::try_new(&["LACKS_cuMemCreate"]).err().unwrap();
    assert!(
        error
            .to_string()
            .contains("has no cuMemCreate: install NVIDIA's driver"),
        "{error}"
    );
    // What came later is missed only where it is used.
    let rig = Rig::new(&["LACKS_cuMemGetHandleForAddressRange"]);
    let memory = Allocation::new(&rig.context(), 4096).unwrap();
    let error = memory.export_dmabuf(4096).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("has no cuMemGetHandleForAddressRange"),
        "{error}"
    );
}

#[test]
fn no_gpu_and_no_such_gpu_are_refused() {
    let error = Rig::try_new(&["FAIL_cuInit=100"]).err().unwrap();
    let text = error.to_string();
    assert!(
        text.contains("cuInit failed (CUDA_ERROR_NO_DEVICE, 100)") && text.contains("nvidia-smi"),
        "{text}"
    );
    let error = Rig::try_new(&["FAIL_cuInit=803"]).err().unwrap();
    assert!(
        error.to_string().contains("different versions: reboot"),
        "{error}"
    );
    let rig = Rig::new(&["DEVICES=2"]);
    for index in [2, u32::MAX] {
        let error = rig.driver.device(index).unwrap_err().to_string();
        assert!(
            error.contains(&format!("no CUDA device {index}: the driver has 2")),
            "{error}"
        );
    }
    assert_eq!(rig.driver.device(1).unwrap().index(), 1);
    assert_eq!(rig.driver.version(), 13030);
}

#[test]
fn attributes_that_a_driver_does_not_know_are_a_no() {
    let rig = Rig::new(&["ATTRIBUTE_152=-1", "ATTRIBUTE_118=-1", "ATTRIBUTE_124=0"]);
    let device = rig.driver.device(0).unwrap();
    assert_eq!(device.attribute(Attribute::DmaBufMmap).unwrap(), None);
    assert_eq!(device.attribute(Attribute::DmaBuf).unwrap(), Some(0));
    assert!(!device.can(Attribute::DmaBufMmap).unwrap() && !device.can(Attribute::DmaBuf).unwrap());
    assert!(device.can(Attribute::VirtualMemory).unwrap());
    assert_eq!(device.ordering().unwrap(), Ordering::NeedsFlush);
    for (value, ordering) in [
        ("0", Ordering::NeedsFlush),
        ("100", Ordering::Owner),
        ("200", Ordering::AllDevices),
    ] {
        let rig = Rig::new(&[&format!("ATTRIBUTE_118={value}")]);
        assert_eq!(rig.driver.device(0).unwrap().ordering().unwrap(), ordering);
    }
}

#[test]
fn memory_that_cannot_be_shared_is_refused() {
    for missing in ["ATTRIBUTE_102=0", "ATTRIBUTE_103=0"] {
        let rig = Rig::new(&[missing]);
        let error = Allocation::new(&rig.context(), 4096)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("another process imports") && error.contains("memfd"),
            "{error}"
        );
        assert_eq!(rig.held(), 0);
    }
    let rig = Rig::new(&[]);
    let context = rig.context();
    for bytes in [0, u64::MAX] {
        let error = Allocation::new(&context, bytes).unwrap_err().to_string();
        assert!(error.contains("at least one"), "{error}");
    }
}

#[test]
fn a_step_that_fails_undoes_those_before() {
    for step in [
        "cuMemCreate",
        "cuMemAddressReserve",
        "cuMemMap",
        "cuMemSetAccess",
        "cuMemsetD8_v2",
    ] {
        let rig = Rig::new(&[&format!("FAIL_{step}=2")]);
        let context = rig.context();
        let error = Allocation::new(&context, 5 << 20).unwrap_err().to_string();
        let call = step.trim_end_matches("_v2");
        assert!(
            error.contains(&format!(
                "{call} failed (CUDA_ERROR_OUT_OF_MEMORY, 2): there is not enough"
            )),
            "{error}"
        );
        assert_eq!(rig.held(), 1, "{step}: only the context");
        drop(context);
        assert_eq!(rig.held(), 0, "{step}");
    }
}

#[test]
fn everything_is_given_back() {
    let rig = Rig::new(&[]);
    let context = rig.context();
    let memory = Allocation::new(&context, 5 << 20).unwrap();
    assert_eq!(memory.bytes(), 6 << 20);
    assert_ne!(memory.device_address(), 0);
    let flags = |fd: &OwnedFd| nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_GETFD).unwrap();
    let exported = memory.export().unwrap();
    assert_eq!(
        flags(&exported),
        libc::FD_CLOEXEC,
        "the driver does not set it"
    );
    assert_eq!(
        flags(&memory.export_dmabuf(4096).unwrap()),
        libc::FD_CLOEXEC
    );
    assert!(memory.export_dmabuf((6 << 20) + 4096).is_err());
    assert!(memory.read(6 << 20, &mut [0]).is_err() && memory.write(usize::MAX, &[0]).is_err());
    let imported = Allocation::import(&context, exported.as_fd(), 5 << 20).unwrap();
    drop((memory, imported, context));
    assert_eq!(rig.held(), 0);
}

#[test]
fn host_memory_is_registered_and_let_go() {
    let rig = Rig::new(&[]);
    let context = rig.context();
    let fd = file(1 << 16);
    let whole = HostMemory::register(&context, fd.as_fd(), 0, 1 << 16, Access::ReadWrite).unwrap();
    let part = HostMemory::register(&context, fd.as_fd(), 4096, 4096, Access::Read).unwrap();
    assert_ne!(whole.device_address(), part.device_address());
    assert_eq!((whole.bytes(), part.bytes()), (1 << 16, 4096));
    let vram = Allocation::new(&context, 4096).unwrap();
    let vram_len = usize::try_from(vram.bytes()).unwrap();
    vram.copy_from(vram_len - 9, &part, 4096 - 9, 9).unwrap();
    vram.copy_to(8, &whole, 0, 1 << 16).unwrap();
    for (ours, theirs, len) in [
        (0, 4088, 9),
        (vram_len - 8, 0, 9),
        (usize::MAX, 0, 1),
        (0, usize::MAX, 2),
    ] {
        assert!(vram.copy_from(ours, &part, theirs, len).is_err());
    }
    let error = vram.copy_to(0, &part, 0, 1).unwrap_err();
    assert!(error.to_string().contains("read only"), "{error}");
    assert!(vram.copy_to(0, &whole, 1 << 16, 1).is_err());
    drop((whole, part, vram));
    for (offset, bytes) in [(0, 0), (1, 4096), (u64::MAX, 4096)] {
        assert!(HostMemory::register(&context, fd.as_fd(), offset, bytes, Access::Read).is_err());
    }
    drop(context);
    assert_eq!(rig.held(), 0);
}

#[test]
fn host_memory_that_the_gpu_cannot_have_is_refused() {
    let fd = file(4096);
    let rig = Rig::new(&["ATTRIBUTE_113=0"]);
    let context = rig.context();
    let error = HostMemory::register(&context, fd.as_fd(), 0, 4096, Access::Read).unwrap_err();
    assert!(
        error.to_string().contains("let the CPU read completions"),
        "{error}"
    );
    assert!(HostMemory::register(&context, fd.as_fd(), 0, 4096, Access::ReadWrite).is_ok());
    let rig = Rig::new(&["ATTRIBUTE_99=0"]);
    let error =
        HostMemory::register(&rig.context(), fd.as_fd(), 0, 4096, Access::ReadWrite).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("takes no registered host memory"),
        "{error}"
    );
    // Memory that only its maker may write.
    let sealed = memfd_create(
        c"sealed",
        MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING,
    )
    .unwrap();
    nix::unistd::ftruncate(&sealed, 4096).unwrap();
    let seal = nix::fcntl::SealFlag::F_SEAL_FUTURE_WRITE;
    nix::fcntl::fcntl(&sealed, nix::fcntl::FcntlArg::F_ADD_SEALS(seal)).unwrap();
    let rig = Rig::new(&[]);
    let context = rig.context();
    let error =
        HostMemory::register(&context, sealed.as_fd(), 0, 4096, Access::ReadWrite).unwrap_err();
    assert!(error.to_string().contains("for reading alone"), "{error}");
    HostMemory::register(&context, sealed.as_fd(), 0, 4096, Access::Read).unwrap();
}

#[test]
fn memory_that_the_driver_keeps_stays_mapped() {
    let rig = Rig::new(&["FAIL_cuMemHostUnregister=1"]);
    let context = rig.context();
    let fd = memfd_create(c"kept-by-the-driver", MFdFlags::MFD_CLOEXEC).unwrap();
    nix::unistd::ftruncate(&fd, 4096).unwrap();
    let mapped = || {
        std::fs::read_to_string("/proc/self/maps")
            .unwrap()
            .contains("kept-by-the-driver")
    };
    assert!(!mapped());
    drop(HostMemory::register(&context, fd.as_fd(), 0, 4096, Access::ReadWrite).unwrap());
    assert!(mapped());
}
