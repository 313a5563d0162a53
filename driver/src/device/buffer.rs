//! Host memory that a driver and its device share: descriptor rings, transmit buffers.
#![expect(
    unsafe_code,
    reason = "reads and writes words that a device writes at the same time, as atomics"
)]

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use devrx_provider::Mapping;
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::{DmaMapping, Mapper, Memory};
use crate::DriverError;

/// Host memory within a device's reach, zeroed when made.
///
/// Words are read and written as atomics, so that an entry is looked at in the order that a driver needs: first the word with the
/// done bit, by [`acquire`](Self::acquire), then the rest.
#[derive(Debug)]
pub struct DmaBuffer {
    memory: Arc<Mapping>,
    // Dropped before what it keeps alive is, by its own reference.
    mapping: DmaMapping,
    iova: u64,
}

impl DmaBuffer {
    /// Makes `len` bytes, rounded up to whole pages, and gives the device access.
    ///
    /// # Errors
    ///
    /// When memory is not to be had, or see [`Mapper::map`].
    pub fn new(mapper: Arc<dyn Mapper>, len: usize) -> Result<Self, DriverError> {
        let fail = |call, error| {
            DriverError::sys(
                call,
                error,
                "the machine has no memory or descriptors left; free some",
            )
        };
        let len = len.next_multiple_of(devrx_provider::page_size() as usize);
        let fd = memfd_create(c"devrx-dma", MFdFlags::MFD_CLOEXEC)
            .map_err(|error| fail("memfd_create", error.into()))?;
        nix::unistd::ftruncate(&fd, i64::try_from(len).unwrap_or(i64::MAX))
            .map_err(|error| fail("ftruncate", error.into()))?;
        let memory =
            Mapping::map_shared(fd.as_fd(), 0, len, true).map_err(|error| fail("mmap", error))?;
        let memory = Arc::new(memory);
        let mapping = DmaMapping::new(mapper, Memory::Host(memory.clone()), 0..len)?;
        let iova = mapping.iova_of(0).unwrap_or(0);
        Ok(Self {
            memory,
            mapping,
            iova,
        })
    }

    /// Where the device finds the first byte; page aligned, never 0.
    #[must_use]
    pub const fn iova(&self) -> u64 {
        self.iova
    }

    /// Bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a buffer is never empty")]
    pub fn len(&self) -> usize {
        self.memory.len()
    }

    /// The bytes, to copy out of and in to.
    #[must_use]
    pub fn memory(&self) -> &Mapping {
        &self.memory
    }

    /// Reads the eight bytes at `offset`; no later read of this thread is done before it.
    ///
    /// # Panics
    ///
    /// When `offset` is not a multiple of 8 within the buffer.
    #[inline]
    #[must_use]
    pub fn acquire(&self, offset: usize) -> u64 {
        u64::from_le(self.word(offset).load(Ordering::Acquire))
    }

    /// Reads the eight bytes at `offset`, in no particular order.
    ///
    /// # Panics
    ///
    /// As [`acquire`](Self::acquire).
    #[inline]
    #[must_use]
    pub fn load(&self, offset: usize) -> u64 {
        u64::from_le(self.word(offset).load(Ordering::Relaxed))
    }

    /// Writes the eight bytes at `offset`. The device sees them before any register that is written afterwards
    /// ([`Registers::write32`](super::Registers::write32)).
    ///
    /// # Panics
    ///
    /// As [`acquire`](Self::acquire).
    #[inline]
    pub fn store(&self, offset: usize, value: u64) {
        self.word(offset).store(value.to_le(), Ordering::Relaxed);
    }

    /// All of it as rows of `WORDS` words, at least one, for loops over a ring of descriptors of so many. Little endian, as the device has them.
    #[inline]
    #[must_use]
    pub fn rows<const WORDS: usize>(&self) -> &[[AtomicU64; WORDS]] {
        const { assert!(WORDS > 0, "rows of something") };
        let rows = self.memory.len() / (8 * WORDS);
        // SAFETY: as in `word`: the mapping is page aligned and whole pages long, so that so many rows are within it, and stays mapped as long as `self`. Atomics may
        // change while they are referred to: they are the one kind of reference to memory that a device writes.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().cast(), rows) }
    }

    #[inline]
    fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(
            offset.is_multiple_of(8) && offset < self.memory.len(),
            "a word within the buffer"
        );
        // SAFETY: the mapping is page aligned and whole pages long, so the word is aligned and within it; it stays mapped as long as
        // `self`. The device writes it as an agent outside the program, which atomics are made for.
        unsafe { AtomicU64::from_ptr(self.memory.as_ptr().add(offset).cast()) }
    }

    /// Keeps memory and access for as long as the process lives: see [`DmaMapping::leak`].
    pub fn leak(self) {
        self.mapping.leak();
    }
}
