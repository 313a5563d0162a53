//! The functions of `libamdhip64.so` and `libhsa-runtime64.so.1` that are used. Signatures and numbers are those of
//! `hip/hip_runtime_api.h` and `hsa/hsa_ext_amd.h`. Nothing here decides anything.
#![expect(
    unsafe_code,
    reason = "calls functions of libraries that were loaded at run time"
)]

use std::ffi::{CStr, c_char, c_void};
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::Path;

use crate::GpuError;
use crate::library::Library;
use crate::map::Pages;

/// `hipError_t`, `hsa_status_t`.
type Code = i32;

/// `hipHostRegisterPortable`, `hipHostRegisterMapped`.
const REGISTER_PORTABLE: u32 = 1;
const REGISTER_MAPPED: u32 = 2;

/// What to install where a library is not there or too old.
const INSTALL: &str = "install ROCm's runtime, 5.6 or later for dma-bufs: AMD's packages, or a distribution's libamdhip64 and libhsa-runtime64 of that version";

/// An address that `hipMalloc` returned. Kernels follow it; nothing here does.
#[derive(Debug)]
pub(super) struct Address(*mut c_void);

// SAFETY: the address is never followed here.
unsafe impl Send for Address {}
// SAFETY: as above.
unsafe impl Sync for Address {}

impl Address {
    pub(super) fn number(&self) -> u64 {
        self.0.addr() as u64
    }
}

struct Calls {
    init: unsafe extern "C" fn(u32) -> Code,
    version: unsafe extern "C" fn(*mut i32) -> Code,
    device_count: unsafe extern "C" fn(*mut i32) -> Code,
    get_device: unsafe extern "C" fn(*mut i32) -> Code,
    set_device: unsafe extern "C" fn(i32) -> Code,
    device_pci: unsafe extern "C" fn(*mut c_char, i32, i32) -> Code,
    allocate: unsafe extern "C" fn(*mut *mut c_void, usize) -> Code,
    free: unsafe extern "C" fn(*mut c_void) -> Code,
    fill: unsafe extern "C" fn(*mut c_void, i32, usize) -> Code,
    synchronize: unsafe extern "C" fn() -> Code,
    host_register: unsafe extern "C" fn(*mut c_void, usize, u32) -> Code,
    host_unregister: unsafe extern "C" fn(*mut c_void) -> Code,
    host_address: unsafe extern "C" fn(*mut *mut c_void, *mut c_void, u32) -> Code,
    error_name: unsafe extern "C" fn(Code) -> *const c_char,
    hsa_init: unsafe extern "C" fn() -> Code,
    export: unsafe extern "C" fn(*const c_void, usize, *mut i32, *mut u64) -> Code,
}

/// The loaded libraries.
pub(super) struct Sys {
    calls: Calls,
}

impl std::fmt::Debug for Sys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sys").finish_non_exhaustive()
    }
}

impl Sys {
    pub(super) fn load() -> Result<Self, GpuError> {
        let hip = [
            "libamdhip64.so.7",
            "libamdhip64.so.6",
            "libamdhip64.so.5",
            "/opt/rocm/lib/libamdhip64.so",
        ];
        let hsa = [
            "libhsa-runtime64.so.1",
            "/opt/rocm/lib/libhsa-runtime64.so.1",
        ];
        Self::of(
            &Library::open_any(&hip, INSTALL)?,
            &Library::open_any(&hsa, INSTALL)?,
        )
    }

    pub(super) fn load_from(hip: &Path, hsa: &Path) -> Result<Self, GpuError> {
        Self::of(&Library::open(hip, INSTALL)?, &Library::open(hsa, INSTALL)?)
    }

    fn of(hip: &Library, hsa: &Library) -> Result<Self, GpuError> {
        // SAFETY: the signatures are those that the two headers declare for these names.
        let calls = unsafe {
            Calls {
                init: hip.get(c"hipInit")?,
                version: hip.get(c"hipRuntimeGetVersion")?,
                device_count: hip.get(c"hipGetDeviceCount")?,
                get_device: hip.get(c"hipGetDevice")?,
                set_device: hip.get(c"hipSetDevice")?,
                device_pci: hip.get(c"hipDeviceGetPCIBusId")?,
                allocate: hip.get(c"hipMalloc")?,
                free: hip.get(c"hipFree")?,
                fill: hip.get(c"hipMemset")?,
                synchronize: hip.get(c"hipDeviceSynchronize")?,
                host_register: hip.get(c"hipHostRegister")?,
                host_unregister: hip.get(c"hipHostUnregister")?,
                host_address: hip.get(c"hipHostGetDevicePointer")?,
                error_name: hip.get(c"hipGetErrorName")?,
                hsa_init: hsa.get(c"hsa_init")?,
                export: hsa.get(c"hsa_amd_portable_export_dmabuf")?,
            }
        };
        Ok(Self { calls })
    }

    fn check(&self, call: &'static str, code: Code) -> Result<(), GpuError> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: takes a number, and returns one of the library's own strings.
        let text = unsafe { (self.calls.error_name)(code) };
        let name = if text.is_null() {
            "an error the runtime has no name for".into()
        } else {
            // SAFETY: not null, so a string that stays.
            unsafe { CStr::from_ptr(text) }
                .to_string_lossy()
                .into_owned()
        };
        Err(GpuError::Call {
            call,
            code,
            name,
            fix: fix(code),
        })
    }

    pub(super) fn init(&self) -> Result<(), GpuError> {
        // SAFETY: takes a number; it may be called again.
        self.check("hipInit", unsafe { (self.calls.init)(0) })?;
        // SAFETY: takes nothing; the runtime counts how often it was called.
        check_hsa("hsa_init", unsafe { (self.calls.hsa_init)() })
    }

    pub(super) fn version(&self) -> Result<i32, GpuError> {
        let mut version = 0;
        // SAFETY: writes one int.
        let code = unsafe { (self.calls.version)(&raw mut version) };
        self.check("hipRuntimeGetVersion", code)?;
        Ok(version)
    }

    pub(super) fn device_count(&self) -> Result<i32, GpuError> {
        let mut count = 0;
        // SAFETY: writes one int.
        let code = unsafe { (self.calls.device_count)(&raw mut count) };
        self.check("hipGetDeviceCount", code)?;
        Ok(count)
    }

    /// Runs something with a device as the calling thread's, and puts back the one that it had.
    fn with<T>(
        &self,
        device: i32,
        run: impl FnOnce() -> Result<T, GpuError>,
    ) -> Result<T, GpuError> {
        let mut old = 0;
        // SAFETY: writes one int.
        self.check("hipGetDevice", unsafe {
            (self.calls.get_device)(&raw mut old)
        })?;
        // SAFETY: takes a number.
        self.check("hipSetDevice", unsafe { (self.calls.set_device)(device) })?;
        let done = run();
        // SAFETY: takes a number, which was right before.
        let _ = unsafe { (self.calls.set_device)(old) };
        done
    }

    pub(super) fn device_pci(&self, device: i32) -> Result<String, GpuError> {
        let mut text = [0_u8; 64];
        // SAFETY: writes at most as many bytes as it is told.
        let code = unsafe { (self.calls.device_pci)(text.as_mut_ptr().cast(), 64, device) };
        self.check("hipDeviceGetPCIBusId", code)?;
        let text = CStr::from_bytes_until_nul(&text).unwrap_or_default();
        Ok(text.to_string_lossy().into_owned())
    }

    pub(super) fn allocate(&self, device: i32, bytes: usize) -> Result<Address, GpuError> {
        self.with(device, || {
            let mut address = std::ptr::null_mut();
            // SAFETY: writes one pointer.
            let code = unsafe { (self.calls.allocate)(&raw mut address, bytes) };
            self.check("hipMalloc", code)?;
            Ok(Address(address))
        })
    }

    pub(super) fn free(&self, device: i32, address: &Address) {
        let _ = self.with(device, || {
            // SAFETY: an address that `allocate` returned; its owner calls this once.
            self.check("hipFree", unsafe { (self.calls.free)(address.0) })
        });
    }

    pub(super) fn fill(
        &self,
        device: i32,
        address: &Address,
        bytes: usize,
    ) -> Result<(), GpuError> {
        self.with(device, || {
            // SAFETY: the range was allocated so, and is the GPU's.
            let code = unsafe { (self.calls.fill)(address.0, 0, bytes) };
            self.check("hipMemset", code)?;
            // SAFETY: takes nothing.
            self.check("hipDeviceSynchronize", unsafe {
                (self.calls.synchronize)()
            })
        })
    }

    pub(super) fn dmabuf(
        &self,
        address: &Address,
        bytes: usize,
    ) -> Result<(OwnedFd, u64), GpuError> {
        let call = "hsa_amd_portable_export_dmabuf";
        let (mut fd, mut offset) = (-1, 0);
        // SAFETY: writes one int and one 64-bit number; the range was allocated so.
        let code = unsafe { (self.calls.export)(address.0, bytes, &raw mut fd, &raw mut offset) };
        check_hsa(call, code)?;
        if fd < 0 {
            return Err(GpuError::Unsupported(format!(
                "{call} succeeded without a descriptor; the runtime is broken"
            )));
        }
        // SAFETY: the call succeeded, so it is a descriptor just made for us.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let cloexec = nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC);
        nix::fcntl::fcntl(&fd, cloexec).map_err(|errno| GpuError::Sys {
            call: "fcntl(F_SETFD)",
            source: errno.into(),
            fix: "this is a defect of the runtime or of devrx",
        })?;
        Ok((fd, offset))
    }

    pub(super) fn register(&self, device: i32, pages: &Pages) -> Result<u64, GpuError> {
        self.with(device, || {
            let flags = REGISTER_PORTABLE | REGISTER_MAPPED;
            // SAFETY: the range is mapped, and stays so until it is unregistered (`HostMemory` sees to that).
            let code = unsafe { (self.calls.host_register)(pages.address(), pages.len(), flags) };
            self.check("hipHostRegister", code)?;
            let mut address = std::ptr::null_mut();
            // SAFETY: writes one pointer.
            let code = unsafe { (self.calls.host_address)(&raw mut address, pages.address(), 0) };
            match self.check("hipHostGetDevicePointer", code) {
                Ok(()) => Ok(address.addr() as u64),
                Err(error) => {
                    // SAFETY: a range that was just registered.
                    let _ = unsafe { (self.calls.host_unregister)(pages.address()) };
                    Err(error)
                }
            }
        })
    }

    pub(super) fn unregister(&self, device: i32, pages: &Pages) -> Result<(), GpuError> {
        self.with(device, || {
            // SAFETY: takes the address of a range that was registered; another is refused.
            let code = unsafe { (self.calls.host_unregister)(pages.address()) };
            self.check("hipHostUnregister", code)
        })
    }
}

fn check_hsa(call: &'static str, code: Code) -> Result<(), GpuError> {
    if code == 0 {
        return Ok(());
    }
    Err(GpuError::Call {
        call,
        code,
        name: format!("HSA status {code:#x}"),
        fix: "check `rocminfo`; exporting takes amdgpu's KFD on Linux 6.0 or later, and a BAR that covers the memory (resizable BAR)",
    })
}

/// What to do about an error (`hipError_t`).
fn fix(code: Code) -> &'static str {
    match code {
        2 => "there is not enough free memory on the GPU (rocm-smi shows who has it): ask for less",
        100 => {
            "the runtime sees no GPU: check `rocminfo`, the variable HIP_VISIBLE_DEVICES, and the rights on /dev/kfd and /dev/dri (groups render and video)"
        }
        _ => "see the name in AMD's documentation of HIP, and dmesg for lines with amdgpu",
    }
}
