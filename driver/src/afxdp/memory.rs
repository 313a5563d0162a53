//! The memory a ring lives in: a mapping of a socket, or for tests plain memory.

#![expect(unsafe_code, reason = "mmap and munmap of a socket's rings")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

/// Zeroed or kernel-shared memory, aligned to 8, unmapped on drop. No reference is ever formed to it.
pub(super) struct RingMemory {
    base: NonNull<u8>,
    len: usize,
    #[cfg(test)]
    heap: Option<Box<[std::cell::UnsafeCell<u64>]>>,
}

// SAFETY: a range of memory with no thread affinity; all access goes through atomics or volatile operations of the ring code.
unsafe impl Send for RingMemory {}
// SAFETY: as above.
unsafe impl Sync for RingMemory {}

impl RingMemory {
    /// Maps `len` bytes of a socket's ring. `offset` is one of the `XDP_*_PGOFF_*` constants.
    pub(super) fn map(socket: BorrowedFd<'_>, offset: libc::off_t, len: usize) -> io::Result<Self> {
        Self::mmap(len, libc::MAP_SHARED, socket.as_raw_fd(), offset)
    }

    /// Private zeroed pages.
    pub(super) fn anonymous(len: usize) -> io::Result<Self> {
        Self::mmap(len, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
    }

    fn mmap(len: usize, flags: i32, fd: i32, offset: libc::off_t) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice; nothing else is touched.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                flags | libc::MAP_POPULATE,
                fd,
                offset,
            )
        };
        match NonNull::new(at.cast::<u8>()) {
            Some(base) if at != libc::MAP_FAILED => Ok(Self {
                base,
                len,
                #[cfg(test)]
                heap: None,
            }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Plain zeroed memory.
    #[cfg(test)]
    pub(super) fn heap(len: usize) -> Self {
        let mut heap: Box<[std::cell::UnsafeCell<u64>]> = (0..len.div_ceil(8))
            .map(|_| std::cell::UnsafeCell::new(0))
            .collect();
        let base = NonNull::new(heap.as_mut_ptr().cast()).expect("a box is never null");
        Self {
            base,
            len,
            heap: Some(heap),
        }
    }

    pub(super) const fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }
}

impl Drop for RingMemory {
    fn drop(&mut self) {
        #[cfg(test)]
        if self.heap.is_some() {
            return;
        }
        // SAFETY: exactly the range that `map` mapped, which nobody uses any more: rings hold an `Arc` of this.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}
