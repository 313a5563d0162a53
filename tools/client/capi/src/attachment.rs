//! An attachment's handle: opening, waiting, numbers.
#![expect(unsafe_code, reason = "pointers of a C program")]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;

use devrx_client::proto::drops::DropReason;
use devrx_client::proto::layout::Counter;
use devrx_client::{Attachment, Client, ClientError};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

use crate::batch::BatchHandle;
use crate::error::{Error, Failure, guard};
use crate::{DEVRX_ABI_VERSION, SharedMemory, Stats};

/// What `devrx_attachment` is.
pub struct AttachmentHandle {
    pub(crate) attachment: Attachment,
    /// All that can wake this client, as one descriptor.
    wake: Epoll,
    /// Batches that were given back, to be used again.
    #[expect(
        clippy::vec_box,
        reason = "the box is what C has a pointer to, and goes there without a new allocation"
    )]
    pub(crate) spare: Vec<Box<BatchHandle>>,
    pub(crate) id: u64,
    /// It was about to wait, and has not received since.
    pub(crate) slept: bool,
}

/// The version of the interface that this library has.
#[unsafe(no_mangle)]
pub extern "C" fn devrx_abi_version() -> u32 {
    DEVRX_ABI_VERSION
}

/// The library's version, as text that lives as long as it.
#[unsafe(no_mangle)]
pub extern "C" fn devrx_version() -> *const c_char {
    const VERSION: &CStr =
        match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
            Ok(version) => version,
            Err(_) => panic!("the version has no 0 in it"),
        };
    VERSION.as_ptr()
}

/// Becomes the consumer of the attachment `name`, of the daemon that listens at `socket` (NULL: `DEVRX_SOCKET`, or the default).
///
/// # Safety
/// `socket` and `error` are NULL or valid, `name` is a string, `out` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn devrx_open(
    abi_version: u32,
    socket: *const c_char,
    name: *const c_char,
    out: *mut *mut AttachmentHandle,
    error: *mut Error,
) -> c_int {
    let body = || {
        if out.is_null() {
            return Err(Failure::null("out"));
        }
        // SAFETY: by the contract it can be written.
        unsafe { out.write(ptr::null_mut()) };
        // SAFETY: by the contract.
        let handle = open(unsafe { attach(abi_version, socket, name)? })?;
        // SAFETY: as above.
        unsafe { out.write(Box::into_raw(Box::new(handle))) };
        Ok(0)
    };
    // SAFETY: by the contract `error` is NULL or valid.
    unsafe { guard(error, body) as c_int }
}

/// Connects, after a look at the version that the program was compiled for.
///
/// # Safety
/// `socket` is NULL or a string, and `name` as well.
pub(crate) unsafe fn attach(
    abi_version: u32,
    socket: *const c_char,
    name: *const c_char,
) -> Result<Attachment, Failure> {
    if abi_version != DEVRX_ABI_VERSION {
        return Err(Failure::new(
            libc::EPROTONOSUPPORT,
            format!(
                "this program was compiled for version {abi_version} of the interface, and this libdevrx has version \
                 {DEVRX_ABI_VERSION}: compile it with the devrx.h of this library"
            ),
        ));
    }
    // SAFETY: by the contract they are NULL or strings.
    let (socket, name) = unsafe { (text(socket, "socket")?, text(name, "name")?) };
    let name = name.ok_or_else(|| Failure::null("name"))?;
    let path = socket.map_or_else(Client::default_path, Into::into);
    Ok(Client::connect(path)?.open(name)?)
}

fn open(attachment: Attachment) -> Result<AttachmentHandle, Failure> {
    let wake = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(|errno| {
        Failure::new(
            errno as c_int,
            format!("cannot make an epoll descriptor: {errno}"),
        )
    })?;
    for fd in attachment.wake_fds() {
        wake.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, 0))
            .map_err(|errno| {
                Failure::new(
                    errno as c_int,
                    format!("cannot watch a descriptor: {errno}"),
                )
            })?;
    }
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    Ok(AttachmentHandle {
        attachment,
        wake,
        spare: Vec::new(),
        id: NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed),
        slept: false,
    })
}

/// # Safety
/// `text` is NULL or a string.
unsafe fn text<'a>(text: *const c_char, what: &str) -> Result<Option<&'a str>, Failure> {
    if text.is_null() {
        return Ok(None);
    }
    // SAFETY: by the contract.
    let text = unsafe { CStr::from_ptr(text) };
    let wrong = || Failure::new(libc::EINVAL, format!("{what} is no UTF-8"));
    text.to_str().map(Some).map_err(|_| wrong())
}

/// Ends the consumption. Chunks that were not given back go back with it; batches that are left are to be freed, not used.
///
/// # Safety
/// `attachment` is NULL, or came from `devrx_open` and is used no more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn devrx_close(attachment: *mut AttachmentHandle) {
    if !attachment.is_null() {
        let body = || {
            // SAFETY: by the contract it is a box of ours, and nobody else's.
            drop(unsafe { Box::from_raw(attachment) });
            Ok(0)
        };
        // SAFETY: there is no error to write.
        unsafe { guard(ptr::null_mut(), body) };
    }
}

/// The handle behind a pointer.
///
/// # Safety
/// `attachment` is NULL, or came from `devrx_open`, and no other thread uses it.
pub(crate) unsafe fn handle<'a>(
    attachment: *mut AttachmentHandle,
) -> Result<&'a mut AttachmentHandle, Failure> {
    // SAFETY: by the contract.
    unsafe { attachment.as_mut() }.ok_or_else(|| Failure::null("attachment"))
}

/// The descriptor to `poll()` for `POLLIN`, after `devrx_arm` answered 1. It belongs to the handle.
///
/// # Safety
/// `attachment` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn devrx_wake_fd(attachment: *mut AttachmentHandle) -> c_int {
    // SAFETY: by the contract; there is no error to write.
    unsafe {
        guard(ptr::null_mut(), || {
            Ok(handle(attachment)?.wake.0.as_fd().as_raw_fd().into())
        }) as c_int
    }
}

/// About to wait. 1: wait; 0: there are packets, do not.
///
/// # Safety
/// `attachment` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn devrx_arm(attachment: *mut AttachmentHandle) -> c_int {
    // SAFETY: by the contract; there is no error to write.
    unsafe {
        guard(ptr::null_mut(), || {
            let handle = handle(attachment)?;
            handle.slept = handle.attachment.arm();
            Ok(handle.slept.into())
        }) as c_int
    }
}

/// Awake after waiting.
///
/// # Safety
/// `attachment` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn devrx_disarm(attachment: *mut AttachmentHandle) {
    // SAFETY: by the contract; there is no error to write.
    unsafe {
        guard(ptr::null_mut(), || {
            handle(attachment)?.attachment.disarm();
            Ok(0)
        });
    }
}

/// The region as this process maps it, and its bytes. NULL: it cannot be read here.
///
/// # Safety
/// `attachment` is NULL or a handle, `size` NULL or valid for writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn devrx_region(
    attachment: *mut AttachmentHandle,
    size: *mut u64,
) -> *const c_void {
    let mut found = ptr::null();
    let body = || {
        // SAFETY: by the contract.
        let handle = unsafe { handle(attachment)? };
        let mut bytes = 0;
        if let Some(region) = handle.attachment.memory().region() {
            (found, bytes) = (region.as_ptr().cast(), region.size());
        }
        if !size.is_null() {
            // SAFETY: by the contract.
            unsafe { size.write(bytes) };
        }
        Ok(0)
    };
    // SAFETY: there is no error to write.
    unsafe { guard(ptr::null_mut(), body) };
    found
}

/// The region's descriptor, to map it elsewhere. It belongs to the handle.
///
/// # Safety
/// `attachment` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn devrx_region_fd(attachment: *mut AttachmentHandle) -> c_int {
    // SAFETY: by the contract; there is no error to write.
    unsafe {
        guard(ptr::null_mut(), || {
            let fd = handle(attachment)?.attachment.region_fd();
            fd.map(|fd| fd.as_raw_fd().into())
                .ok_or_else(|| Failure::new(libc::EOPNOTSUPP, "the region has no descriptor"))
        }) as c_int
    }
}

/// What the region was exported as, beside its own descriptor.
///
/// # Safety
/// `attachment` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn devrx_export_fd(attachment: *mut AttachmentHandle) -> c_int {
    // SAFETY: by the contract; there is no error to write.
    unsafe {
        guard(ptr::null_mut(), || {
            let fd = handle(attachment)?.attachment.export_fd();
            fd.map(|fd| fd.as_raw_fd().into())
                .ok_or_else(|| Failure::new(libc::EOPNOTSUPP, "the region was exported as nothing"))
        }) as c_int
    }
}

/// The memories that daemon and client share.
///
/// # Safety
/// `attachment` is NULL or a handle, `out` and `error` NULL or valid for writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn devrx_shared_memory(
    attachment: *mut AttachmentHandle,
    out: *mut SharedMemory,
    error: *mut Error,
) -> c_int {
    let body = || {
        // SAFETY: by the contract.
        let attachment = &unsafe { handle(attachment)? }.attachment;
        if out.is_null() {
            return Err(Failure::null("out"));
        }
        let (daemon, client) = (attachment.daemon_memory(), attachment.client_memory());
        let layout = attachment.opened().layout;
        let found = SharedMemory {
            daemon_memory: daemon.as_ptr().cast(),
            daemon_size: daemon.size(),
            client_memory: client.as_ptr().cast_mut().cast(),
            client_size: client.size(),
            queues: layout.queues,
            chunk_size: attachment.opened().region.chunk_size,
            chunks: layout.chunks,
            polls_refill: attachment.opened().polls_refill.into(),
        };
        // SAFETY: by the contract.
        unsafe { out.write(found) };
        Ok(0)
    };
    // SAFETY: by the contract.
    unsafe { guard(error, body) as c_int }
}

/// The numbers.
///
/// # Safety
/// `attachment` is NULL or a handle, `out` and `error` NULL or valid for writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn devrx_read_stats(
    attachment: *mut AttachmentHandle,
    out: *mut Stats,
    error: *mut Error,
) -> c_int {
    let body = || {
        // SAFETY: by the contract.
        let attachment = &unsafe { handle(attachment)? }.attachment;
        if out.is_null() {
            return Err(Failure::null("out"));
        }
        let stats = stats(attachment)?;
        // SAFETY: by the contract.
        unsafe { out.write(stats) };
        Ok(0)
    };
    // SAFETY: by the contract.
    unsafe { guard(error, body) as c_int }
}

fn stats(attachment: &Attachment) -> Result<Stats, ClientError> {
    let sum = |counters: &[Counter]| {
        let queues = 0..attachment.queues().len();
        queues
            .flat_map(|queue| counters.iter().map(move |counter| (queue, *counter)))
            .filter_map(|(queue, counter)| attachment.counter(queue, counter))
            .fold(0, u64::wrapping_add)
    };
    Ok(Stats {
        packets: sum(&[Counter::Packets]),
        bytes: sum(&[Counter::Bytes]),
        delivered: sum(&[Counter::Delivered]),
        completions: sum(&[Counter::Completions]),
        returned: sum(&[Counter::Returned]),
        dropped: sum(&DropReason::ALL.map(Counter::Dropped)),
        refused: sum(&[
            Counter::RefusedForged,
            Counter::RefusedStale,
            Counter::RefusedRepeated,
        ]),
        payload_bytes_copied: sum(&[Counter::PayloadBytesCopied]),
        held: attachment.held(),
    })
}
