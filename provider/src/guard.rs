//! Surviving memory that vanishes.
//!
//! A seal keeps a client's file from shrinking, but not from having holes punched where there is no memory to fill them, and device
//! memory goes away with its device. The next access of the CPU then raises SIGBUS. The process that reads such memory calls
//! [`install`] once: on a fault within a [`Mapping`](crate::Mapping), the handler marks that mapping
//! [poisoned](crate::Mapping::poisoned) and puts a page of zeros where the fault was, so that the access goes on. The owner looks at
//! the mark once a batch and ends that attachment; nobody else notices. Any other SIGBUS goes where it went before.
//!
//! The table is static and lock-free, because a signal handler may neither lock nor allocate.
#![expect(unsafe_code, reason = "a signal handler that remaps pages")]

use std::io;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

/// How many mappings can be watched at a time. More are refused.
pub const CAPACITY: usize = 4096;

/// One watched range. An entry is free when `end` is 0.
struct Entry {
    start: AtomicUsize,
    end: AtomicUsize,
    /// Bytes in a page of this mapping: what a replacement must cover.
    page: AtomicUsize,
    taken: AtomicBool,
    poisoned: AtomicBool,
}

impl Entry {
    const fn new() -> Self {
        Self {
            start: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
            page: AtomicUsize::new(0),
            taken: AtomicBool::new(false),
            poisoned: AtomicBool::new(false),
        }
    }
}

static TABLE: [Entry; CAPACITY] = [const { Entry::new() }; CAPACITY];

/// One more than the highest entry ever taken, so that the handler's search is short.
static USED: AtomicUsize = AtomicUsize::new(0);

/// Faults that were survived.
static SURVIVED: AtomicU64 = AtomicU64::new(0);

/// What handled SIGBUS before.
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

/// An SA_SIGINFO handler.
type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);

/// A place in the table, given back when dropped.
#[derive(Debug)]
pub(crate) struct Guarded(usize);

impl Guarded {
    pub(crate) fn register(start: usize, len: usize, page: usize) -> io::Result<Self> {
        for (index, entry) in TABLE.iter().enumerate() {
            if entry
                .taken
                .compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed)
                .is_err()
            {
                continue;
            }
            entry.poisoned.store(false, Ordering::Relaxed);
            entry.page.store(page, Ordering::Relaxed);
            entry.start.store(start, Ordering::Relaxed);
            // Published last: the handler looks at nothing else of an entry whose end is 0.
            entry.end.store(start + len, Ordering::Release);
            USED.fetch_max(index + 1, Ordering::Release);
            return Ok(Self(index));
        }
        let why = format!(
            "{CAPACITY} mappings are watched for lost pages already; end attachments, or use larger regions"
        );
        Err(io::Error::new(io::ErrorKind::OutOfMemory, why))
    }

    pub(crate) fn poisoned(&self) -> bool {
        TABLE[self.0].poisoned.load(Ordering::Acquire)
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let entry = &TABLE[self.0];
        entry.end.store(0, Ordering::Release);
        entry.taken.store(false, Ordering::Release);
    }
}

/// Watches memory that something other than a [`Mapping`](crate::Mapping) has mapped, such as the rings shared with a client.
#[derive(Debug)]
pub struct Watch(Guarded);

impl Watch {
    /// Watches `len` bytes from `start` on.
    ///
    /// # Errors
    ///
    /// When [`CAPACITY`] mappings are watched already.
    ///
    /// # Safety
    ///
    /// * The range is a whole shared mapping of pages of the system's size, and stays mapped as long as this watch lives.
    /// * No reference to it exists, so that its bytes may turn to zeros at any time.
    pub unsafe fn new(start: *const u8, len: usize) -> io::Result<Self> {
        let page = usize::try_from(crate::page_size()).unwrap_or(4096);
        Guarded::register(start as usize, len.next_multiple_of(page), page).map(Self)
    }

    /// Whether a page of it was lost. What is read there now are zeros, and what is written there nobody sees.
    #[inline]
    #[must_use]
    pub fn poisoned(&self) -> bool {
        self.0.poisoned()
    }
}

/// How many lost pages were survived, in all mappings, since the process started.
#[must_use]
pub fn survived() -> u64 {
    SURVIVED.load(Ordering::Relaxed)
}

/// Handles SIGBUS for the whole process from now on. Further calls do nothing.
///
/// # Errors
///
/// What `sigaction` answers.
pub fn install() -> io::Result<()> {
    static INSTALLED: Mutex<bool> = Mutex::new(false);
    let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
    if *installed {
        return Ok(());
    }
    let mut previous = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: asks for the present action, which the kernel writes; changes nothing.
    if unsafe { libc::sigaction(libc::SIGBUS, std::ptr::null(), previous.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel filled it in. Kept before the handler is in place, which reads it.
    PREVIOUS.get_or_init(|| unsafe { previous.assume_init() });
    // SAFETY: all zeros is a valid `sigaction`: no flags, nothing masked.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_sigbus as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: `on_sigbus` has the signature that SA_SIGINFO asks for and calls only what a signal handler may.
    if unsafe { libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    *installed = true;
    Ok(())
}

/// The handler. Calls nothing but atomics, `mmap` and `sigaction`, all of which a signal handler may.
///
/// # Safety
///
/// Called by the kernel only, for SIGBUS, with SA_SIGINFO.
unsafe extern "C" fn on_sigbus(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    // SAFETY: the kernel hands a valid siginfo to an SA_SIGINFO handler; SIGBUS fills in the address.
    let (address, code) = unsafe { ((*info).si_addr() as usize, (*info).si_code) };
    // A positive code comes from the kernel; anything else was sent by a process and names no address.
    if code > 0 && !devrx_sabotage::removed("guard-survives") && survive(address) {
        return;
    }
    // Not ours. A fault goes to whoever handled it before; where that was nobody, the access runs again and ends the process. A
    // signal that was sent, not raised, ends it too: an earlier handler would take it for a fault.
    let handler = PREVIOUS
        .get()
        .map_or(libc::SIG_DFL, |previous| previous.sa_sigaction);
    if code <= 0 && handler == libc::SIG_IGN {
        return;
    }
    let takes_info = PREVIOUS
        .get()
        .is_some_and(|previous| previous.sa_flags & libc::SA_SIGINFO != 0);
    if code > 0 && takes_info && handler != libc::SIG_DFL && handler != libc::SIG_IGN {
        // SAFETY: the previous owner installed this address as an SA_SIGINFO handler.
        let handler = unsafe { std::mem::transmute::<usize, Handler>(handler) };
        handler(signal, info, context);
        return;
    }
    // SAFETY: all zeros is the default action; both calls are async-signal-safe, and the signal arrives when the handler returns.
    unsafe {
        let default: libc::sigaction = std::mem::zeroed();
        libc::sigaction(libc::SIGBUS, &default, std::ptr::null_mut());
        if code <= 0 {
            libc::raise(signal);
        }
    }
}

/// Replaces the page at `address` by zeros and marks its mapping, if it is in a watched one.
fn survive(address: usize) -> bool {
    let used = USED.load(Ordering::Acquire).min(CAPACITY);
    for entry in &TABLE[..used] {
        let end = entry.end.load(Ordering::Acquire);
        let start = entry.start.load(Ordering::Acquire);
        // The thread that faulted is inside the mapping, which it borrows: the entry that holds the address can't change now. Any
        // other may, and a start and an end of two different mappings must not be taken for one.
        if end == 0 || !(start..end).contains(&address) || entry.end.load(Ordering::Relaxed) != end
        {
            continue;
        }
        let page = entry.page.load(Ordering::Relaxed);
        let at = start + (address - start) / page * page;
        let len = page.min(end - at).next_multiple_of(page);
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: errno is this thread's own; it is restored below, since the interrupted code may be about to read it.
        let errno = unsafe { *libc::__errno_location() };
        // SAFETY: replaces pages of a mapping that a `Mapping` of this process owns, and to which no reference exists; it is unmapped
        // with the rest of the range.
        let page = unsafe { libc::mmap(at as *mut libc::c_void, len, prot, flags, -1, 0) };
        // SAFETY: as above.
        unsafe { *libc::__errno_location() = errno };
        if page == libc::MAP_FAILED {
            return false;
        }
        if !devrx_sabotage::removed("guard-poisons") {
            entry.poisoned.store(true, Ordering::Release);
        }
        SURVIVED.fetch_add(1, Ordering::Relaxed);
        return true;
    }
    false
}
