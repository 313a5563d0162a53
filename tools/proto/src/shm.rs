//! The memfds that daemon and client share: made, sealed, mapped, and read and written; no reference is formed into them but to atomics.
//!
//! | memfd | made by | daemon maps it | seals | client maps it |
//! |---|---|---|---|---|
//! | daemon-written | daemon | read and write | SHRINK, GROW, FUTURE_WRITE, SEAL | read only: the kernel refuses more |
//! | client-written | daemon | read and write | SHRINK, GROW, SEAL | read and write |
//!
//! All of the memory is allocated when a memfd is made, so that no first touch of a page waits for one, or finds that there is none.
//!
//! Sealing against shrinking is what makes reading safe: no page of the mapping can go past the end of the file. (A client can
//! still punch holes in its own memfd. A hole in a memfd reads as zeroes, so that is only a way to write 0; only when the host is
//! out of memory does reading one raise SIGBUS, which the daemon survives.)
#![expect(
    unsafe_code,
    reason = "volatile and atomic access to memory that another process writes; and whole entries stored into slots that nobody was told of yet"
)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use memmap2::{MmapOptions, MmapRaw};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::stat::fstat;
use thiserror::Error;

use crate::layout::LayoutError;
use crate::memfd::{create, seal};
use crate::ring::{Backing, ReadSlots, Word, WriteSlots};

/// Why shared memory could not be made, mapped or accessed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ShmError {
    /// A system call failed.
    #[error("{what} failed on shared memory")]
    System {
        /// The call.
        what: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// There is not enough memory.
    #[error(
        "there is no memory for {size} bytes shared by daemon and client ({why}): end other programs, raise the memory limit of this \
         one's cgroup (memory.max), or attach with fewer or larger chunks, or smaller header slots"
    )]
    NoMemory {
        /// Bytes that were to be made.
        size: u64,
        /// What is known of it.
        why: String,
    },
    /// The file is not as long as the layout says.
    #[error(
        "the shared memory has {actual} bytes where {expected} were announced: daemon and client do not agree"
    )]
    Size {
        /// Bytes the layout needs.
        expected: u64,
        /// Bytes the file has.
        actual: u64,
    },
    /// The file could be cut short under the reader's feet.
    #[error("the shared memory is not sealed against shrinking: refused")]
    Unsealed,
    /// An access beyond the end of the mapping, or not aligned.
    #[error(
        "{len} bytes at {offset} do not lie within the {size} bytes of the shared memory, or are not aligned"
    )]
    Range {
        /// Where the access begins.
        offset: u64,
        /// How long it is.
        len: u64,
        /// How long the mapping is.
        size: u64,
    },
    /// Writing where the mapping is read-only.
    #[error("the shared memory is mapped read-only")]
    ReadOnly,
    /// No such layout.
    #[error(transparent)]
    Layout(#[from] LayoutError),
}

pub(crate) fn system(what: &'static str) -> impl FnOnce(nix::Error) -> ShmError {
    move |errno| ShmError::System {
        what,
        source: errno.into(),
    }
}

/// How shared memory is mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// To read.
    ReadOnly,
    /// To read and write.
    ReadWrite,
}

/// A mapping of a file that another process may write at the same time. Unmapped when the last user is gone.
#[derive(Debug)]
pub struct Shm {
    map: MmapRaw,
    access: Access,
}

impl Shm {
    /// Makes the daemon-written memfd of an attachment: mapped for writing here, sealed so that whoever else gets the descriptor
    /// can neither write it nor change its size.
    ///
    /// # Errors
    /// The kernel refuses: no memory, no descriptors, or a kernel before 5.1 (F_SEAL_FUTURE_WRITE).
    pub fn create_daemon_written(name: &str, size: u64) -> Result<(OwnedFd, Arc<Self>), ShmError> {
        let (fd, shm, ()) =
            Self::create_daemon_written_with(name, size, |_| Ok::<_, ShmError>(()))?;
        Ok((fd, shm))
    }

    /// As [`create_daemon_written`](Self::create_daemon_written), for a daemon that needs further mappings which write, of header
    /// slots for example: `map` gets the descriptor while it may still make them, and what it answers comes back.
    ///
    /// # Errors
    /// As `create_daemon_written`, or `map` fails.
    pub fn create_daemon_written_with<T, E: From<ShmError>>(
        name: &str,
        size: u64,
        map: impl FnOnce(BorrowedFd<'_>) -> Result<T, E>,
    ) -> Result<(OwnedFd, Arc<Self>, T), E> {
        let fd = create(name, size)?;
        let shm = Self::map_length(fd.as_fd(), size, Access::ReadWrite)?;
        let mapped = map(fd.as_fd())?;
        // From here on nobody makes another mapping that writes.
        let seals = SealFlag::F_SEAL_FUTURE_WRITE | SealFlag::F_SEAL_SEAL;
        seal(&fd, seals)?;
        Ok((fd, shm, mapped))
    }

    /// Makes the client-written memfd of an attachment: mapped for writing here, sealed in size.
    ///
    /// # Errors
    /// The kernel refuses: no memory or no descriptors.
    pub fn create_client_written(name: &str, size: u64) -> Result<(OwnedFd, Arc<Self>), ShmError> {
        let fd = create(name, size)?;
        let shm = Self::map_length(fd.as_fd(), size, Access::ReadWrite)?;
        seal(&fd, SealFlag::F_SEAL_SEAL)?;
        Ok((fd, shm))
    }

    /// Maps a memfd that came from the other side: it must be sealed against shrinking and be exactly `size` bytes long.
    ///
    /// # Errors
    /// It is not a memfd, not sealed, or not of that size, or mmap is refused (writing to a daemon-written memfd).
    pub fn map(fd: BorrowedFd<'_>, size: u64, access: Access) -> Result<Arc<Self>, ShmError> {
        let seals = fcntl(fd, FcntlArg::F_GET_SEALS).map_err(system("F_GET_SEALS"))?;
        if seals & SealFlag::F_SEAL_SHRINK.bits() == 0 && !devrx_sabotage::removed("shm-seal-check")
        {
            return Err(ShmError::Unsealed);
        }
        let actual = length(fd)?;
        if actual != size && !devrx_sabotage::removed("shm-size-check") {
            return Err(ShmError::Size {
                expected: size,
                actual,
            });
        }
        Self::map_length(fd, size, access)
    }

    /// Maps a region's memory to read payload: a memfd or a dma-buf, at least `size` bytes long.
    ///
    /// # Errors
    /// mmap is refused: the exporter of the dma-buf does not allow it.
    pub fn map_region(fd: BorrowedFd<'_>, size: u64) -> Result<Arc<Self>, ShmError> {
        Self::map_length(fd, size, Access::ReadOnly)
    }

    fn map_length(fd: BorrowedFd<'_>, size: u64, access: Access) -> Result<Arc<Self>, ShmError> {
        let len = usize::try_from(size).map_err(|_| LayoutError::TooLarge)?;
        let mut options = MmapOptions::new();
        options.len(len);
        let raw = std::os::fd::AsRawFd::as_raw_fd(&fd);
        let map = match access {
            Access::ReadOnly => options.map_raw_read_only(raw),
            Access::ReadWrite => options.map_raw(raw),
        }
        .map_err(|source| ShmError::System {
            what: "mmap",
            source,
        })?;
        Ok(Arc::new(Self { map, access }))
    }

    /// The address of the mapping: for registering it with a GPU. Memory behind it changes at any time: access by volatile or
    /// atomic operations, never through a reference.
    #[must_use]
    pub fn as_ptr(&self) -> *const u8 {
        self.map.as_ptr()
    }

    /// Bytes mapped.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.map.len() as u64
    }

    /// How it was mapped.
    #[must_use]
    pub fn access(&self) -> Access {
        self.access
    }

    /// A pointer to `len` bytes at `offset`, aligned to `align`, or the reason why there is none.
    fn at(&self, offset: u64, len: u64, align: usize) -> Result<*mut u8, ShmError> {
        let size = self.size();
        let end = offset.checked_add(len).filter(|end| *end <= size);
        let start = usize::try_from(offset).ok();
        match (start, end) {
            (Some(start), Some(_)) if start.is_multiple_of(align) => {
                // SAFETY: `start + len` lies within the mapping, so the result points into it (or one past its end).
                Ok(unsafe { self.map.as_mut_ptr().add(start) })
            }
            _ => Err(ShmError::Range { offset, len, size }),
        }
    }

    fn check_writable(&self) -> Result<(), ShmError> {
        if self.access == Access::ReadWrite {
            Ok(())
        } else {
            Err(ShmError::ReadOnly)
        }
    }

    /// The 32-bit word at `offset`.
    ///
    /// # Errors
    /// Out of range or not aligned.
    pub fn word(self: &Arc<Self>, offset: u64) -> Result<ShmWord, ShmError> {
        let at = self.at(offset, 4, 4)?.cast();
        Ok(ShmWord {
            at,
            shm: Arc::clone(self),
        })
    }

    /// The 32-bit word at `offset`, to be written.
    ///
    /// # Errors
    /// Out of range, not aligned, or mapped read-only.
    pub fn word_to_write(self: &Arc<Self>, offset: u64) -> Result<ShmWord, ShmError> {
        self.check_writable()?;
        self.word(offset)
    }

    /// `capacity` ring slots of `N` words at `offset`, to be read.
    ///
    /// # Errors
    /// Out of range, not aligned, or `capacity` is not a power of two.
    pub fn slots<const N: usize>(
        self: &Arc<Self>,
        offset: u64,
        capacity: u32,
    ) -> Result<ShmReader<N>, ShmError> {
        Ok(ShmReader(self.any_slots(offset, capacity)?))
    }

    /// `capacity` ring slots of `N` words at `offset`, to be written.
    ///
    /// # Errors
    /// Out of range, not aligned, `capacity` is not a power of two, or mapped read-only.
    pub fn slots_to_write<const N: usize>(
        self: &Arc<Self>,
        offset: u64,
        capacity: u32,
    ) -> Result<ShmWriter<N>, ShmError> {
        self.check_writable()?;
        Ok(ShmWriter(self.any_slots(offset, capacity)?))
    }

    fn any_slots<const N: usize>(
        self: &Arc<Self>,
        offset: u64,
        capacity: u32,
    ) -> Result<ShmSlots<N>, ShmError> {
        let len = u64::from(capacity)
            .checked_mul(N as u64 * 8)
            .ok_or(LayoutError::TooLarge)?;
        if !capacity.is_power_of_two() {
            return Err(LayoutError::Completions {
                completions: capacity,
            }
            .into());
        }
        let base = self.at(offset, len, 8)?.cast();
        Ok(ShmSlots {
            base,
            mask: capacity - 1,
            shm: Arc::clone(self),
        })
    }

    /// Reads the 64-bit counter at `offset`. `None`: out of range or not aligned.
    #[must_use]
    pub fn load_u64(&self, offset: u64) -> Option<u64> {
        let at: *mut u64 = self.at(offset, 8, 8).ok()?.cast();
        // SAFETY: `at` is valid for 8 bytes, aligned, and mapped while `self` lives; only atomics and volatile accesses touch it.
        Some(unsafe { AtomicU64::from_ptr(at) }.load(Ordering::Relaxed))
    }

    /// Writes the 64-bit counter at `offset`. `false`: out of range, not aligned, or mapped read-only.
    pub fn store_u64(&self, offset: u64, value: u64) -> bool {
        let (Ok(()), Ok(at)) = (self.check_writable(), self.at(offset, 8, 8)) else {
            return false;
        };
        // SAFETY: as in `load_u64`, and the mapping is writable.
        unsafe { AtomicU64::from_ptr(at.cast()) }.store(value, Ordering::Relaxed);
        true
    }

    /// Copies bytes out. `false`: out of range, and `out` is as it was.
    #[must_use]
    pub fn copy_out(&self, offset: u64, out: &mut [u8]) -> bool {
        let Ok(from) = self.at(offset, out.len() as u64, 1) else {
            return false;
        };
        // SAFETY: `from` is valid for `out.len()` bytes.
        unsafe { copy_volatile(from, out) };
        true
    }

    /// Appends `len` bytes to a vector. `false`: out of range, and `out` is as it was.
    #[must_use]
    pub fn append_to(&self, offset: u64, len: usize, out: &mut Vec<u8>) -> bool {
        if self.at(offset, len as u64, 1).is_err() {
            return false;
        }
        let start = out.len();
        out.resize(start + len, 0);
        self.copy_out(offset, &mut out[start..])
    }

    /// Copies bytes in. `false`: out of range or mapped read-only, and nothing was written.
    #[must_use]
    pub fn copy_in(&self, offset: u64, bytes: &[u8]) -> bool {
        let (Ok(()), Ok(to)) = (
            self.check_writable(),
            self.at(offset, bytes.len() as u64, 1),
        ) else {
            return false;
        };
        for (index, byte) in bytes.iter().enumerate() {
            // SAFETY: `to` is valid for `bytes.len()` bytes of writable memory.
            unsafe { to.add(index).write_volatile(*byte) };
        }
        true
    }
}

/// Copies from memory that may change meanwhile: bytes up to alignment, then words, then the rest.
///
/// # Safety
/// `from` is valid for reads of `out.len()` bytes.
unsafe fn copy_volatile(from: *const u8, out: &mut [u8]) {
    let lead = from.align_offset(8).min(out.len());
    let (head, rest) = out.split_at_mut(lead);
    for (index, byte) in head.iter_mut().enumerate() {
        // SAFETY: `index < lead <= out.len()`.
        *byte = unsafe { from.add(index).read_volatile() };
    }
    // SAFETY: `lead` bytes are within the range.
    let words: *const u64 = unsafe { from.add(lead) }.cast();
    let mut chunks = rest.chunks_exact_mut(8);
    let mut word = 0;
    for chunk in &mut chunks {
        // SAFETY: aligned by `lead`, and as many whole words are within the range as `rest` has chunks.
        chunk.copy_from_slice(&unsafe { words.add(word).read_volatile() }.to_ne_bytes());
        word += 1;
    }
    // SAFETY: `word` whole words are within the range.
    let tail: *const u8 = unsafe { words.add(word) }.cast();
    for (index, byte) in chunks.into_remainder().iter_mut().enumerate() {
        // SAFETY: the remainder is within the range.
        *byte = unsafe { tail.add(index).read_volatile() };
    }
}

fn length(fd: BorrowedFd<'_>) -> Result<u64, ShmError> {
    let stat = fstat(fd).map_err(system("fstat"))?;
    Ok(u64::try_from(stat.st_size).unwrap_or(0))
}

/// The backing of real rings.
#[derive(Debug)]
pub struct Shared;

impl Backing for Shared {
    type Word = ShmWord;
    type Reader<const N: usize> = ShmReader<N>;
    type Writer<const N: usize> = ShmWriter<N>;
}

/// A 32-bit word in shared memory.
#[derive(Debug)]
pub struct ShmWord {
    at: *mut u32,
    shm: Arc<Shm>,
}

// SAFETY: the pointer leads into the mapping, which `shm` keeps and which is not bound to a thread; access is atomic.
unsafe impl Send for ShmWord {}

impl ShmWord {
    /// Whether [`Word::store`] writes: otherwise it does nothing.
    #[must_use]
    pub fn writable(&self) -> bool {
        self.shm.access == Access::ReadWrite
    }
}

impl Word for ShmWord {
    #[inline]
    fn load(&self) -> u32 {
        // SAFETY: valid and aligned by construction, mapped while `shm` lives. Relaxed: also defined on a read-only mapping.
        unsafe { AtomicU32::from_ptr(self.at) }.load(Ordering::Relaxed)
    }

    #[inline]
    fn store(&self, value: u32) {
        if self.writable() {
            // SAFETY: as above, and the mapping is writable.
            unsafe { AtomicU32::from_ptr(self.at) }.store(value, Ordering::Relaxed);
        }
    }
}

#[derive(Debug)]
struct ShmSlots<const N: usize> {
    base: *mut [u64; N],
    mask: u32,
    #[expect(dead_code, reason = "keeps the mapping")]
    shm: Arc<Shm>,
}

// SAFETY: as for `ShmWord`.
unsafe impl<const N: usize> Send for ShmSlots<N> {}

impl<const N: usize> ShmSlots<N> {
    /// The slots that lie side by side from `index` on, `most` at most.
    #[inline(always)]
    fn row(&self, index: u32, most: u32) -> &[[AtomicU64; N]] {
        let at = index & self.mask;
        let len = most.min(self.mask + 1 - at);
        // SAFETY: `at + len` is at most the capacity, and that many slots, aligned, are within the mapping, which `shm` keeps as long as `self` lives.
        // Atomics may change while they are referred to: they are the one kind of reference to memory that others write.
        unsafe { std::slice::from_raw_parts(self.base.add(at as usize).cast(), len as usize) }
    }
}

/// Ring slots in shared memory, to read.
#[derive(Debug)]
pub struct ShmReader<const N: usize>(ShmSlots<N>);

impl<const N: usize> ReadSlots<N> for ShmReader<N> {
    fn capacity(&self) -> u32 {
        self.0.mask + 1
    }

    #[inline]
    fn read(&self, index: u32) -> [u64; N] {
        self.row(index, 1).next().unwrap_or([0; N])
    }

    #[inline(always)]
    fn row(&self, index: u32, most: u32) -> impl ExactSizeIterator<Item = [u64; N]> + '_ {
        let row = self.0.row(index, most);
        // Relaxed: also defined on a read-only mapping.
        row.iter()
            .map(|slot| std::array::from_fn(|word| slot[word].load(Ordering::Relaxed)))
    }
}

/// Ring slots in shared memory, to write.
#[derive(Debug)]
pub struct ShmWriter<const N: usize>(ShmSlots<N>);

impl<const N: usize> WriteSlots<N> for ShmWriter<N> {
    fn capacity(&self) -> u32 {
        self.0.mask + 1
    }

    #[inline]
    fn write(&self, index: u32, words: [u64; N]) {
        self.write_all(index, 1, std::iter::once(words));
    }

    #[inline(always)]
    fn write_all(&self, index: u32, most: u32, mut entries: impl Iterator<Item = [u64; N]>) -> u32 {
        let mut written = 0;
        // Two rows at the most: up to the last slot, and from the first one on. The mapping is writable: `Shm::slots_to_write` checked.
        loop {
            let row = self.0.row(index.wrapping_add(written), most - written);
            let mut count = 0;
            for (slot, words) in row.iter().zip(&mut entries) {
                for (at, word) in slot.iter().zip(words) {
                    at.store(word, Ordering::Relaxed);
                }
                count += 1;
            }
            written += count;
            if (count as usize) < row.len() || written >= most {
                return written;
            }
        }
    }

    #[inline(always)]
    fn write_four(&self, index: u32, entries: &[[u64; N]; 4], marks: [u16; 4]) {
        const { assert!(N > 0, "a mark has a word to be in") };
        let (base, mask) = (self.0.base, self.0.mask);
        let put = |at: u32, nth: usize| {
            // SAFETY: `at` is below the capacity, and that many slots, aligned, are within the mapping, which is writable (`Shm::slots_to_write` checked) and lives
            // as long as `self`. No reference is formed. The other side may read the slot meanwhile, though nobody told it to: it sees some bytes, and this side
            // reads none. Copied as a whole, so that it can be one store, and the mark stored into it after that: other than one put in before, it keeps no load waiting.
            unsafe {
                let slot = base.add(at as usize);
                slot.copy_from_nonoverlapping(&entries[nth], 1);
                // Bits 32 to 47, little-endian.
                slot.cast::<u16>().add(2).write(marks[nth]);
            }
        };
        let at = index & mask;
        if at < mask.saturating_sub(2) {
            // Side by side.
            put(at, 0);
            put(at + 1, 1);
            put(at + 2, 2);
            put(at + 3, 3);
        } else {
            // The ring begins anew among them.
            for nth in 0..4 {
                put(index.wrapping_add(nth) & mask, nth as usize);
            }
        }
    }
}
