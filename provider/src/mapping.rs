//! Shared memory in this process's address space.
#![expect(
    unsafe_code,
    reason = "maps memory that others write, and copies it with volatile accesses"
)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

use crate::guard::Guarded;
use crate::page_size;

/// A word at any address. Packed, so that a volatile access needs no alignment; it stays one instruction where the machine has it.
#[repr(C, packed)]
#[derive(Clone, Copy)]
struct Word(u64);

const WORD: usize = size_of::<Word>();

/// A shared mapping, unmapped when dropped.
///
/// NICs, GPUs and other processes write the bytes at any time, so no reference to them exists anywhere: they are copied by volatile
/// words. A copy taken while somebody writes is a mixture of old and new bytes, nothing worse. Every mapping is watched by
/// [`guard`](crate::guard): where its pages vanish (a hole punched, a file cut, a device reset), the copy goes on with zeros and
/// [`poisoned`](Self::poisoned) says so, provided that the process installed the guard.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<u8>,
    len: usize,
    writable: bool,
    // Leaves the guard's table in `drop`, before the range is unmapped.
    guarded: Option<Guarded>,
}

// SAFETY: the mapping is an address range that this value owns; nothing in it is tied to a thread.
unsafe impl Send for Mapping {}
// SAFETY: all accesses through `&Mapping` are volatile copies of memory that others write anyway; none forms a reference.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes of `fd` from `offset` on, `MAP_SHARED`.
    ///
    /// # Errors
    ///
    /// What `mmap` answers; `InvalidInput` for a length of 0 or an offset off the page grid; `OutOfMemory` when the guard's table is full
    /// (see [`guard::CAPACITY`](crate::guard::CAPACITY)).
    pub fn map_shared(
        fd: BorrowedFd<'_>,
        offset: u64,
        len: usize,
        writable: bool,
    ) -> io::Result<Self> {
        Self::map_pages(fd, offset, len, writable, page_size() as usize)
    }

    /// As [`map_shared`](Self::map_shared), for memory in pages of `page` bytes.
    pub(crate) fn map_pages(
        fd: BorrowedFd<'_>,
        offset: u64,
        len: usize,
        writable: bool,
        page: usize,
    ) -> io::Result<Self> {
        let bad = |why| io::Error::new(io::ErrorKind::InvalidInput, why);
        if len == 0 || isize::try_from(len).is_err() {
            return Err(bad(
                "a mapping needs a length that an address space can hold",
            ));
        }
        if !offset.is_multiple_of(page as u64) {
            return Err(bad("a mapping starts on a page boundary"));
        }
        let offset =
            libc::off_t::try_from(offset).map_err(|_| bad("the offset is beyond any file"))?;
        let prot = if writable {
            libc::PROT_READ | libc::PROT_WRITE
        } else {
            libc::PROT_READ
        };
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory this process has.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                prot,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                offset,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let Some(start) = NonNull::new(start.cast::<u8>()) else {
            return Err(io::Error::other(
                "the kernel mapped the memory at address 0",
            ));
        };
        let mut mapping = Self {
            start,
            len,
            writable,
            guarded: None,
        };
        mapping.guarded = Some(Guarded::register(start.as_ptr() as usize, len, page)?);
        Ok(mapping)
    }

    /// The first byte. For the kernel (registering the memory with a device), and for atomics that several processes share;
    /// payload is copied by [`copy_out`](Self::copy_out).
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// Bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a mapping is never empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the memory is mapped for writing.
    #[must_use]
    pub fn writable(&self) -> bool {
        self.writable
    }

    /// Whether pages of the memory vanished under an access since it was mapped: what was copied since may be zeros. Stays true.
    #[must_use]
    pub fn poisoned(&self) -> bool {
        self.guarded.as_ref().is_some_and(Guarded::poisoned)
    }

    /// Copies from `offset` on into `dst`. False, and `dst` untouched, when the range is not within the mapping.
    #[must_use]
    #[inline]
    pub fn copy_out(&self, offset: usize, dst: &mut [u8]) -> bool {
        if !self.contains(offset, dst.len()) {
            return false;
        }
        let src = self.start.as_ptr().wrapping_add(offset);
        let len = dst.len();
        let mut at = 0;
        while at + WORD <= len {
            // SAFETY: at + WORD <= len, and offset + len is within the live mapping.
            let word = unsafe { read_word(src.wrapping_add(at)) };
            dst[at..at + WORD].copy_from_slice(&word);
            at += WORD;
        }
        if at < len && len >= WORD {
            // The last bytes by one word that overlaps the one before.
            at = len - WORD;
            // SAFETY: at + WORD = len, and offset + len is within the live mapping.
            let word = unsafe { read_word(src.wrapping_add(at)) };
            dst[at..].copy_from_slice(&word);
            return true;
        }
        for (at, byte) in dst.iter_mut().enumerate().skip(at) {
            // SAFETY: at < len, and offset + len is within the live mapping.
            *byte = unsafe { src.wrapping_add(at).read_volatile() };
        }
        true
    }

    /// Reads the byte at `offset` for the sake of reading: what a device had written towards this memory before is there when this
    /// returns. False when the byte is not within the mapping.
    #[inline]
    pub fn touch(&self, offset: usize) -> bool {
        if !self.contains(offset, 1) {
            return false;
        }
        // SAFETY: within the live mapping.
        unsafe { self.start.as_ptr().wrapping_add(offset).read_volatile() };
        true
    }

    /// Copies `src` to `offset`. False, and nothing written, when the range is not within the mapping or it is mapped read-only.
    #[must_use]
    #[inline]
    pub fn copy_in(&self, offset: usize, src: &[u8]) -> bool {
        if !self.writable || !self.contains(offset, src.len()) {
            return false;
        }
        let dst = self.start.as_ptr().wrapping_add(offset);
        let (words, tail) = src.as_chunks::<WORD>();
        for (at, word) in words.iter().enumerate() {
            let word = Word(u64::from_ne_bytes(*word));
            // SAFETY: the word ends before src.len(), offset + src.len() is within the live mapping, which is writable.
            unsafe {
                dst.wrapping_add(at * WORD)
                    .cast::<Word>()
                    .write_volatile(word)
            };
        }
        for (at, &byte) in tail.iter().enumerate() {
            // SAFETY: as above.
            unsafe {
                dst.wrapping_add(words.len() * WORD + at)
                    .write_volatile(byte)
            };
        }
        true
    }

    /// Copies `len` bytes at `from` of this mapping to `to` of another, without a buffer between. False, and nothing written, when
    /// either range is not within its mapping or the target is mapped read-only.
    #[must_use]
    pub fn copy_to(&self, from: usize, target: &Self, to: usize, len: usize) -> bool {
        if !target.writable || !self.contains(from, len) || !target.contains(to, len) {
            return false;
        }
        let src = self.start.as_ptr().wrapping_add(from);
        let dst = target.start.as_ptr().wrapping_add(to);
        let words = len / WORD;
        for at in (0..words * WORD).step_by(WORD) {
            // SAFETY: at + WORD <= len; both ranges are within live mappings, and the target is writable.
            unsafe {
                dst.wrapping_add(at)
                    .cast::<Word>()
                    .write_volatile(src.wrapping_add(at).cast::<Word>().read_volatile())
            };
        }
        for at in words * WORD..len {
            // SAFETY: as above.
            unsafe {
                dst.wrapping_add(at)
                    .write_volatile(src.wrapping_add(at).read_volatile())
            };
        }
        true
    }

    #[inline]
    fn contains(&self, offset: usize, len: usize) -> bool {
        devrx_sabotage::removed("mapping-range-check")
            || (offset <= self.len && len <= self.len - offset)
    }
}

/// Reads one word.
///
/// # Safety
///
/// The eight bytes from `src` on are mapped and readable.
#[inline]
unsafe fn read_word(src: *const u8) -> [u8; WORD] {
    // SAFETY: the caller promises that the bytes are mapped; a packed word has no alignment.
    let word = unsafe { src.cast::<Word>().read_volatile() };
    // By value: a packed field is never referred to.
    { word.0 }.to_ne_bytes()
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // Out of the guard's table first: a range that is mapped again later belongs to somebody else.
        self.guarded = None;
        // SAFETY: the range was mapped by `map_pages`, is owned by this value alone, and nobody has it borrowed any more.
        let result = unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
        if result != 0 {
            tracing::error!(error = %io::Error::last_os_error(), len = self.len, "munmap failed; the memory stays mapped");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use nix::sys::memfd::{MFdFlags, memfd_create};

    use super::*;

    fn mapping(len: usize, writable: bool) -> Mapping {
        let fd = memfd_create(c"devrx-test", MFdFlags::MFD_CLOEXEC).unwrap();
        nix::unistd::ftruncate(&fd, len as i64).unwrap();
        Mapping::map_shared(fd.as_fd(), 0, len, writable).unwrap()
    }

    #[test]
    fn copies_are_exact_at_every_offset_and_length() {
        let mapping = mapping(4096, true);
        let pattern: Vec<u8> = (0..4096_u32).map(|at| (at * 7 % 251) as u8).collect();
        assert!(mapping.copy_in(0, &pattern));
        for offset in 0..20 {
            for len in 0..40 {
                let mut out = vec![0xee; len];
                assert!(mapping.copy_out(offset, &mut out));
                assert_eq!(
                    out,
                    pattern[offset..offset + len],
                    "offset {offset}, length {len}"
                );
            }
        }
        for offset in 100..120 {
            for len in 0..40 {
                let src = vec![offset as u8; len];
                let mut before = vec![0; 4096];
                assert!(mapping.copy_out(0, &mut before));
                assert!(mapping.copy_in(offset, &src));
                before[offset..offset + len].copy_from_slice(&src);
                let mut after = vec![0; 4096];
                assert!(mapping.copy_out(0, &mut after));
                assert_eq!(after, before, "offset {offset}, length {len}");
            }
        }
    }

    #[test]
    fn a_copy_between_mappings_moves_just_the_range() {
        let (from, to) = (mapping(4096, true), mapping(4096, true));
        let pattern: Vec<u8> = (0..4096_u32).map(|at| (at * 13 % 249) as u8).collect();
        assert!(from.copy_in(0, &pattern));
        assert!(from.copy_to(5, &to, 9, 101));
        let mut out = vec![0; 4096];
        assert!(to.copy_out(0, &mut out));
        assert_eq!(out[9..110], pattern[5..106]);
        assert!(out[..9].iter().chain(&out[110..]).all(|&byte| byte == 0));
    }

    #[test]
    fn ranges_outside_are_refused() {
        let a = mapping(4096, true);
        let b = mapping(4096, true);
        let cases = [
            (4096, 1),
            (4095, 2),
            (0, 4097),
            (usize::MAX, 1),
            (usize::MAX - 3, 8),
            (1, usize::MAX / 2),
        ];
        for (offset, len) in cases {
            assert!(!a.copy_to(offset, &b, 0, len), "{offset} {len}");
            assert!(!a.copy_to(0, &b, offset, len), "{offset} {len}");
            let mut buffer = vec![7; len.min(5000)];
            assert!(!a.copy_out(offset, &mut buffer), "{offset} {len}");
            assert!(!a.copy_in(offset, &buffer), "{offset} {len}");
            assert!(buffer.iter().all(|&byte| byte == 7));
        }
        assert!(a.copy_out(4096, &mut []));
        assert!(a.touch(4095) && !a.touch(4096) && !a.touch(usize::MAX));
    }

    #[test]
    fn a_read_only_mapping_refuses_writes() {
        let a = mapping(4096, false);
        assert!(!a.copy_in(0, &[1]));
        assert!(!a.copy_to(0, &a, 8, 8));
        assert!(Mapping::map_shared(std::io::stdin().as_fd(), 1, 4096, false).is_err());
    }
}
