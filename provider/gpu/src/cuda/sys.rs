//! The functions of `libcuda.so.1` that are used, with the types that `cuda.h` declares. Nothing here decides anything.
//!
//! Numbers and layouts are those of `cuda.h` 13.5, in the section of the driver API that each names; they are part of the ABI that
//! NVIDIA keeps. A function whose signature has changed has its newer name with `_v2`, as the header gives it.
#![expect(
    unsafe_code,
    reason = "calls functions of a library that was loaded at run time"
)]

use std::ffi::{CStr, c_char, c_void};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use crate::library::Library;
use crate::{Access, GpuError};

/// `CUresult`.
type Code = i32;
/// `CUdeviceptr`.
type Address = u64;
/// `CUmemGenericAllocationHandle`.
type Memory = u64;

/// `CUcontext`: a name for the driver, never followed here.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(super) struct RawContext(*mut c_void);

// SAFETY: a context may be used from any thread, once it is that thread's current one.
unsafe impl Send for RawContext {}
// SAFETY: as above.
unsafe impl Sync for RawContext {}

/// `CUmemLocation`.
#[repr(C)]
struct Location {
    kind: i32,
    id: i32,
}

/// `CUmemAllocationProp`.
#[repr(C)]
pub(super) struct AllocationProp {
    kind: i32,
    handle_types: i32,
    location: Location,
    windows: *mut c_void,
    compression: u8,
    gpu_direct_rdma_capable: u8,
    usage: u16,
    reserved: [u8; 4],
}

/// `CUmemAccessDesc`.
#[repr(C)]
struct AccessDesc {
    location: Location,
    flags: i32,
}

const _: () = assert!(size_of::<AllocationProp>() == 32 && size_of::<AccessDesc>() == 12);

/// `CU_MEM_LOCATION_TYPE_DEVICE`.
const LOCATION_DEVICE: i32 = 1;
/// `CU_MEM_ALLOCATION_TYPE_PINNED`.
const ALLOCATION_PINNED: i32 = 1;
/// `CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR`.
const HANDLE_POSIX: i32 = 1;
/// `CU_MEM_ALLOC_GRANULARITY_MINIMUM`.
const GRANULARITY_MINIMUM: i32 = 0;
/// `CU_MEM_ACCESS_FLAGS_PROT_READWRITE`.
const ACCESS_READ_WRITE: i32 = 3;
/// `CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD`.
const RANGE_DMA_BUF: i32 = 1;
/// `CU_MEMHOSTREGISTER_PORTABLE`, `_DEVICEMAP`, `_READ_ONLY`.
const REGISTER_PORTABLE: u32 = 1;
const REGISTER_DEVICE_MAP: u32 = 2;
const REGISTER_READ_ONLY: u32 = 8;
/// `CU_FLUSH_GPU_DIRECT_RDMA_WRITES_TARGET_CURRENT_CTX`.
const FLUSH_CURRENT_CONTEXT: i32 = 0;
/// `CU_FLUSH_GPU_DIRECT_RDMA_WRITES_TO_OWNER`.
const FLUSH_TO_OWNER: i32 = 100;

/// `CUDA_ERROR_INVALID_VALUE`: also the answer to a device attribute that the driver does not know.
pub(super) const INVALID_VALUE: i32 = 1;
/// `CUDA_ERROR_INVALID_DEVICE`.
pub(super) const INVALID_DEVICE: i32 = 101;
/// `CUDA_ERROR_NOT_SUPPORTED`.
pub(super) const NOT_SUPPORTED: i32 = 801;

/// What to install where the library is not there or too old.
const INSTALL: &str = "install NVIDIA's driver (Debian: nvidia-driver, or libcuda1 for this library alone; in a container, start it with the GPUs, \
                       as with --gpus all)";

macro_rules! calls {
    (required { $($name:ident = $symbol:literal ($($type:ty),*);)* }
     optional { $($other:ident = $other_symbol:literal ($($other_type:ty),*);)* }) => {
        /// The functions. What is optional came with a later driver.
        struct Calls {
            $($name: unsafe extern "C" fn($($type),*) -> Code,)*
            $($other: Option<unsafe extern "C" fn($($other_type),*) -> Code>,)*
        }

        impl Calls {
            fn load(library: &Library) -> Result<Self, GpuError> {
                Ok(Self {
                    // SAFETY: the signatures are those that cuda.h declares for these names.
                    $($name: unsafe { library.get($symbol) }?,)*
                    // SAFETY: as above.
                    $($other: unsafe { library.find($other_symbol) },)*
                })
            }
        }
    };
}

calls! {
    required {
        init = c"cuInit" (u32);
        driver_version = c"cuDriverGetVersion" (*mut i32);
        device_count = c"cuDeviceGetCount" (*mut i32);
        device_get = c"cuDeviceGet" (*mut i32, i32);
        device_name = c"cuDeviceGetName" (*mut c_char, i32, i32);
        device_pci = c"cuDeviceGetPCIBusId" (*mut c_char, i32, i32);
        device_attribute = c"cuDeviceGetAttribute" (*mut i32, i32, i32);
        device_memory = c"cuDeviceTotalMem_v2" (*mut usize, i32);
        context_retain = c"cuDevicePrimaryCtxRetain" (*mut RawContext, i32);
        context_release = c"cuDevicePrimaryCtxRelease_v2" (i32);
        context_push = c"cuCtxPushCurrent_v2" (RawContext);
        context_pop = c"cuCtxPopCurrent_v2" (*mut RawContext);
        context_synchronize = c"cuCtxSynchronize" ();
        granularity = c"cuMemGetAllocationGranularity" (*mut usize, *const AllocationProp, i32);
        create = c"cuMemCreate" (*mut Memory, usize, *const AllocationProp, u64);
        release = c"cuMemRelease" (Memory);
        reserve = c"cuMemAddressReserve" (*mut Address, usize, usize, Address, u64);
        unreserve = c"cuMemAddressFree" (Address, usize);
        map = c"cuMemMap" (Address, usize, usize, Memory, u64);
        unmap = c"cuMemUnmap" (Address, usize);
        set_access = c"cuMemSetAccess" (Address, usize, *const AccessDesc, usize);
        export = c"cuMemExportToShareableHandle" (*mut c_void, Memory, i32, u64);
        import = c"cuMemImportFromShareableHandle" (*mut Memory, *mut c_void, i32);
        host_register = c"cuMemHostRegister_v2" (*mut c_void, usize, u32);
        host_unregister = c"cuMemHostUnregister" (*mut c_void);
        host_address = c"cuMemHostGetDevicePointer_v2" (*mut Address, *mut c_void, u32);
        fill = c"cuMemsetD8_v2" (Address, u8, usize);
        copy_to = c"cuMemcpyHtoD_v2" (Address, *const c_void, usize);
        copy_from = c"cuMemcpyDtoH_v2" (*mut c_void, Address, usize);
        copy = c"cuMemcpyDtoD_v2" (Address, Address, usize);
    }
    optional {
        range_handle = c"cuMemGetHandleForAddressRange" (*mut c_void, Address, usize, i32, u64);
        flush = c"cuFlushGPUDirectRDMAWrites" (i32, i32);
        error_name = c"cuGetErrorName" (Code, *mut *const c_char);
    }
}

/// A loaded library. Its functions check what they are given and answer with an error; the safe functions here give them buffers of
/// the sizes they write.
pub(super) struct Sys {
    calls: Calls,
    library: Library,
}

impl std::fmt::Debug for Sys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sys")
            .field("library", &self.library)
            .finish_non_exhaustive()
    }
}

impl Sys {
    pub(super) fn load() -> Result<Self, GpuError> {
        // WSL keeps it where no loader looks by itself.
        Self::of(Library::open_any(
            &["libcuda.so.1", "/usr/lib/wsl/lib/libcuda.so.1"],
            INSTALL,
        )?)
    }

    pub(super) fn load_from(path: &Path) -> Result<Self, GpuError> {
        Self::of(Library::open(path, INSTALL)?)
    }

    fn of(library: Library) -> Result<Self, GpuError> {
        Ok(Self {
            calls: Calls::load(&library)?,
            library,
        })
    }

    fn check(&self, call: &'static str, code: Code) -> Result<(), GpuError> {
        if code == 0 {
            return Ok(());
        }
        Err(GpuError::Call {
            call,
            code,
            name: self.error_name(code),
            fix: fix(code),
        })
    }

    fn error_name(&self, code: Code) -> String {
        let mut text = std::ptr::null();
        if let Some(error_name) = self.calls.error_name {
            // SAFETY: writes one pointer.
            let _ = unsafe { error_name(code, &raw mut text) };
        }
        if text.is_null() {
            return "an error the driver has no name for".into();
        }
        // SAFETY: not null, so it is one of the library's own strings, which stay.
        unsafe { CStr::from_ptr(text) }
            .to_string_lossy()
            .into_owned()
    }

    pub(super) fn init(&self) -> Result<(), GpuError> {
        // SAFETY: takes a number. It may be called again.
        self.check("cuInit", unsafe { (self.calls.init)(0) })
    }

    pub(super) fn driver_version(&self) -> Result<i32, GpuError> {
        let mut version = 0;
        // SAFETY: writes one int.
        let code = unsafe { (self.calls.driver_version)(&raw mut version) };
        self.check("cuDriverGetVersion", code)?;
        Ok(version)
    }

    pub(super) fn device_count(&self) -> Result<i32, GpuError> {
        let mut count = 0;
        // SAFETY: writes one int.
        let code = unsafe { (self.calls.device_count)(&raw mut count) };
        self.check("cuDeviceGetCount", code)?;
        Ok(count)
    }

    pub(super) fn device(&self, index: i32) -> Result<i32, GpuError> {
        let mut device = 0;
        // SAFETY: writes one int.
        let code = unsafe { (self.calls.device_get)(&raw mut device, index) };
        self.check("cuDeviceGet", code)?;
        Ok(device)
    }

    /// A string of a device, by one of two functions of the same shape.
    fn text(
        &self,
        call: &'static str,
        function: unsafe extern "C" fn(*mut c_char, i32, i32) -> Code,
        device: i32,
    ) -> Result<String, GpuError> {
        let mut text = [0_u8; 256];
        // SAFETY: writes at most as many bytes as it is told.
        let code = unsafe { function(text.as_mut_ptr().cast(), 256, device) };
        self.check(call, code)?;
        let text = CStr::from_bytes_until_nul(&text).unwrap_or_default();
        Ok(text.to_string_lossy().into_owned())
    }

    pub(super) fn device_name(&self, device: i32) -> Result<String, GpuError> {
        self.text("cuDeviceGetName", self.calls.device_name, device)
    }

    pub(super) fn device_pci(&self, device: i32) -> Result<String, GpuError> {
        self.text("cuDeviceGetPCIBusId", self.calls.device_pci, device)
    }

    pub(super) fn device_attribute(&self, attribute: i32, device: i32) -> Result<i32, GpuError> {
        let mut value = 0;
        // SAFETY: writes one int; an attribute that it does not know is refused.
        let code = unsafe { (self.calls.device_attribute)(&raw mut value, attribute, device) };
        self.check("cuDeviceGetAttribute", code)?;
        Ok(value)
    }

    pub(super) fn device_memory(&self, device: i32) -> Result<u64, GpuError> {
        let mut bytes = 0;
        // SAFETY: writes one size_t.
        let code = unsafe { (self.calls.device_memory)(&raw mut bytes, device) };
        self.check("cuDeviceTotalMem", code)?;
        Ok(bytes as u64)
    }

    pub(super) fn retain(&self, device: i32) -> Result<RawContext, GpuError> {
        let mut context = RawContext(std::ptr::null_mut());
        // SAFETY: writes one pointer.
        let code = unsafe { (self.calls.context_retain)(&raw mut context, device) };
        self.check("cuDevicePrimaryCtxRetain", code)?;
        Ok(context)
    }

    pub(super) fn release_context(&self, device: i32) {
        // SAFETY: takes a number; the caller has retained it.
        let _ = unsafe { (self.calls.context_release)(device) };
    }

    pub(super) fn push(&self, context: RawContext) -> Result<(), GpuError> {
        // SAFETY: a context that `retain` returned and that is still retained.
        let code = unsafe { (self.calls.context_push)(context) };
        self.check("cuCtxPushCurrent", code)
    }

    pub(super) fn pop(&self) {
        let mut old = RawContext(std::ptr::null_mut());
        // SAFETY: writes one pointer.
        let _ = unsafe { (self.calls.context_pop)(&raw mut old) };
    }

    pub(super) fn synchronize(&self) -> Result<(), GpuError> {
        // SAFETY: takes nothing.
        self.check("cuCtxSynchronize", unsafe {
            (self.calls.context_synchronize)()
        })
    }

    pub(super) fn granularity(&self, prop: &AllocationProp) -> Result<usize, GpuError> {
        let mut bytes = 0;
        // SAFETY: reads the structure, writes one size_t.
        let code = unsafe { (self.calls.granularity)(&raw mut bytes, prop, GRANULARITY_MINIMUM) };
        self.check("cuMemGetAllocationGranularity", code)?;
        Ok(bytes)
    }

    pub(super) fn create(&self, bytes: usize, prop: &AllocationProp) -> Result<Memory, GpuError> {
        let mut memory = 0;
        // SAFETY: reads the structure, writes one handle.
        let code = unsafe { (self.calls.create)(&raw mut memory, bytes, prop, 0) };
        self.check("cuMemCreate", code)?;
        Ok(memory)
    }

    pub(super) fn release(&self, memory: Memory) {
        // SAFETY: takes a number.
        let _ = unsafe { (self.calls.release)(memory) };
    }

    pub(super) fn reserve(&self, bytes: usize) -> Result<Address, GpuError> {
        let mut address = 0;
        // SAFETY: writes one address.
        let code = unsafe { (self.calls.reserve)(&raw mut address, bytes, 0, 0, 0) };
        self.check("cuMemAddressReserve", code)?;
        Ok(address)
    }

    pub(super) fn unreserve(&self, address: Address, bytes: usize) {
        // SAFETY: takes numbers.
        let _ = unsafe { (self.calls.unreserve)(address, bytes) };
    }

    pub(super) fn map(
        &self,
        address: Address,
        bytes: usize,
        memory: Memory,
    ) -> Result<(), GpuError> {
        // SAFETY: takes numbers; they are addresses of the GPU's, of which none is one of this program's objects.
        let code = unsafe { (self.calls.map)(address, bytes, 0, memory, 0) };
        self.check("cuMemMap", code)
    }

    pub(super) fn unmap(&self, address: Address, bytes: usize) {
        // SAFETY: as `map`.
        let _ = unsafe { (self.calls.unmap)(address, bytes) };
    }

    /// Lets one device read and write a mapped range.
    pub(super) fn allow(
        &self,
        address: Address,
        bytes: usize,
        ordinal: i32,
    ) -> Result<(), GpuError> {
        let access = AccessDesc {
            location: Location {
                kind: LOCATION_DEVICE,
                id: ordinal,
            },
            flags: ACCESS_READ_WRITE,
        };
        // SAFETY: reads the one structure that it is told of.
        let code = unsafe { (self.calls.set_access)(address, bytes, &raw const access, 1) };
        self.check("cuMemSetAccess", code)
    }

    pub(super) fn export(&self, memory: Memory) -> Result<OwnedFd, GpuError> {
        let mut fd: i32 = -1;
        // SAFETY: for this type of handle it writes one int.
        let code = unsafe { (self.calls.export)((&raw mut fd).cast(), memory, HANDLE_POSIX, 0) };
        self.check("cuMemExportToShareableHandle", code)?;
        own("cuMemExportToShareableHandle", fd)
    }

    pub(super) fn import(&self, fd: BorrowedFd<'_>) -> Result<Memory, GpuError> {
        let mut memory = 0;
        // The descriptor itself is passed in the place of the pointer.
        let handle = std::ptr::without_provenance_mut(fd.as_raw_fd().cast_unsigned() as usize);
        // SAFETY: writes one handle; for this type of handle the pointer is a number, which is not followed.
        let code = unsafe { (self.calls.import)(&raw mut memory, handle, HANDLE_POSIX) };
        self.check("cuMemImportFromShareableHandle", code)?;
        Ok(memory)
    }

    /// A range of a mapped allocation as a dma-buf.
    pub(super) fn dmabuf(&self, address: Address, bytes: usize) -> Result<OwnedFd, GpuError> {
        let call = "cuMemGetHandleForAddressRange";
        let function = self
            .calls
            .range_handle
            .ok_or_else(|| self.library.lacks(c"cuMemGetHandleForAddressRange"))?;
        let mut fd: i32 = -1;
        // SAFETY: for this type of handle it writes one int.
        let code = unsafe { function((&raw mut fd).cast(), address, bytes, RANGE_DMA_BUF, 0) };
        self.check(call, code)?;
        own(call, fd)
    }

    pub(super) fn flush(&self) -> Result<(), GpuError> {
        let function = self
            .calls
            .flush
            .ok_or_else(|| self.library.lacks(c"cuFlushGPUDirectRDMAWrites"))?;
        // SAFETY: takes numbers.
        let code = unsafe { function(FLUSH_CURRENT_CONTEXT, FLUSH_TO_OWNER) };
        self.check("cuFlushGPUDirectRDMAWrites", code)
    }

    /// Pins a mapping for the GPU.
    pub(super) fn register(
        &self,
        pages: &crate::map::Pages,
        access: Access,
    ) -> Result<Address, GpuError> {
        let flags = REGISTER_PORTABLE
            | REGISTER_DEVICE_MAP
            | match access {
                Access::Read => REGISTER_READ_ONLY,
                Access::ReadWrite => 0,
            };
        // SAFETY: the range is mapped, and stays so until it is unregistered (`HostMemory` sees to that).
        let code = unsafe { (self.calls.host_register)(pages.address(), pages.len(), flags) };
        self.check("cuMemHostRegister", code)?;
        let mut address = 0;
        // SAFETY: writes one address.
        let code = unsafe { (self.calls.host_address)(&raw mut address, pages.address(), 0) };
        let checked = self.check("cuMemHostGetDevicePointer", code);
        if checked.is_err() {
            let _ = self.unregister(pages);
        }
        checked.map(|()| address)
    }

    pub(super) fn unregister(&self, pages: &crate::map::Pages) -> Result<(), GpuError> {
        // SAFETY: takes the address of a range that was registered; another is refused.
        let code = unsafe { (self.calls.host_unregister)(pages.address()) };
        self.check("cuMemHostUnregister", code)
    }

    pub(super) fn fill(&self, address: Address, byte: u8, bytes: usize) -> Result<(), GpuError> {
        // SAFETY: takes an address of the GPU's, which the driver checks.
        let code = unsafe { (self.calls.fill)(address, byte, bytes) };
        self.check("cuMemsetD8", code)
    }

    /// Has the GPU copy between addresses of its own, registered host memory among them.
    pub(super) fn copy(&self, to: Address, from: Address, bytes: usize) -> Result<(), GpuError> {
        // SAFETY: both ranges are within memory that the caller holds: the GPU's, or host memory that is registered and that nobody has a
        // reference to.
        let code = unsafe { (self.calls.copy)(to, from, bytes) };
        self.check("cuMemcpyDtoD", code)?;
        self.synchronize()
    }

    pub(super) fn copy_to(&self, address: Address, from: &[u8]) -> Result<(), GpuError> {
        // SAFETY: reads the slice; the other address is the GPU's, which the driver checks.
        let code = unsafe { (self.calls.copy_to)(address, from.as_ptr().cast(), from.len()) };
        self.check("cuMemcpyHtoD", code)
    }

    pub(super) fn copy_from(&self, to: &mut [u8], address: Address) -> Result<(), GpuError> {
        // SAFETY: writes the slice, and has done so when it returns; the other address is the GPU's, which the driver checks.
        let code = unsafe { (self.calls.copy_from)(to.as_mut_ptr().cast(), address, to.len()) };
        self.check("cuMemcpyDtoH", code)
    }
}

impl AllocationProp {
    /// Memory of a device that can be exported as a descriptor, and given to other devices to write where `rdma`.
    pub(super) fn of_device(ordinal: i32, rdma: bool) -> Self {
        Self {
            kind: ALLOCATION_PINNED,
            handle_types: HANDLE_POSIX,
            location: Location {
                kind: LOCATION_DEVICE,
                id: ordinal,
            },
            windows: std::ptr::null_mut(),
            compression: 0,
            gpu_direct_rdma_capable: u8::from(rdma),
            usage: 0,
            reserved: [0; 4],
        }
    }
}

fn own(call: &'static str, fd: i32) -> Result<OwnedFd, GpuError> {
    if fd < 0 {
        return Err(GpuError::Unsupported(format!(
            "{call} succeeded without a descriptor; the driver is broken"
        )));
    }
    // SAFETY: the call succeeded, so it is a descriptor just made for us.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // Drivers do not set it, and a child must not keep a GPU's memory.
    nix::fcntl::fcntl(
        &fd,
        nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC),
    )
    .map_err(|errno| GpuError::Sys {
        call: "fcntl(F_SETFD)",
        source: errno.into(),
        fix: "this is a defect of the driver or of devrx",
    })?;
    Ok(fd)
}

/// What to do about an error (`CUresult`).
fn fix(code: Code) -> &'static str {
    match code {
        2 => {
            "there is not enough free memory on the GPU (nvidia-smi shows who has it): ask for less"
        }
        34 => {
            "this is the stub that comes with the toolkit, for linking only: install NVIDIA's driver, and take the stubs out of LD_LIBRARY_PATH"
        }
        46 => {
            "another process has the GPU for itself: end it, or change its compute mode (nvidia-smi -c 0)"
        }
        100 => {
            "the driver sees no GPU: check `nvidia-smi`, the variable CUDA_VISIBLE_DEVICES, and that the container was given the GPU"
        }
        801 => "this GPU, its driver or its mode (MIG, confidential computing) does not support it",
        802 => {
            "the GPUs are not ready: start nvidia-fabricmanager, and wait until it has set them up"
        }
        803 => {
            "the library and the kernel module are of different versions: reboot, or load the module that belongs to the library"
        }
        999 => {
            "the kernel module did not answer: check that nvidia and nvidia_uvm are loaded (nvidia-modprobe -u -c=0) and their device files are there"
        }
        _ => {
            "see the name in NVIDIA's documentation of the driver API, and dmesg for lines with NVRM"
        }
    }
}
