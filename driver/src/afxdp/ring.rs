//! The rings a socket shares with the kernel: single producer, single consumer, two indices that only ever grow.
//!
//! Each side caches the other's index and looks again only when the cache does not suffice. An index is believed only as far as
//! the ring is long, in release builds too. Layout: `struct xdp_ring` in net/xdp/xsk_queue.h; order of accesses: the comment on
//! top of that file.

#![expect(
    unsafe_code,
    reason = "ring memory is shared with the kernel: raw pointers, atomics and volatile accesses only"
)]

use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::memory::RingMemory;

/// A receive descriptor: `struct xdp_desc` in linux/if_xdp.h.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub(super) struct Desc {
    /// Bytes from the start of the umem.
    pub address: u64,
    /// Bytes of the frame in this chunk.
    pub length: u32,
    /// `XDP_PKT_CONTD` and others.
    pub options: u32,
}

/// What a ring may hold: any bit pattern is a value.
///
/// # Safety
///
/// The type must be valid for every bit pattern.
pub(super) unsafe trait Entry: Copy {}
// SAFETY: integers only, no padding (8 + 4 + 4).
unsafe impl Entry for Desc {}
// SAFETY: an integer.
unsafe impl Entry for u64 {}

/// Where the parts of a ring are in its memory, bytes (`struct xdp_ring_offset`).
#[derive(Clone, Copy, Debug)]
pub(super) struct Offsets {
    pub producer: usize,
    pub consumer: usize,
    pub flags: usize,
    pub entries: usize,
}

/// One ring's memory, checked: every access below stays inside.
struct Ring<T: Entry> {
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    entries: NonNull<T>,
    mask: u32,
    /// Keeps what the pointers point to.
    _memory: Arc<RingMemory>,
    _entry: PhantomData<T>,
}

// SAFETY: the pointers are into memory kept by `_memory`, which is `Send`; each half is used by one thread at a time (`&mut self`).
unsafe impl<T: Entry + Send> Send for Ring<T> {}

impl<T: Entry> Ring<T> {
    /// `None` if the ring does not lie in the memory, is misaligned, or its size is no power of two.
    fn new(memory: Arc<RingMemory>, offsets: Offsets, size: u32) -> Option<Self> {
        let word = |offset: usize| -> Option<NonNull<AtomicU32>> {
            let ok = offset.is_multiple_of(4) && offset.checked_add(4)? <= memory.len();
            // SAFETY: inside the memory, checked on the line above.
            ok.then(|| unsafe { memory.base().add(offset) }.cast())
        };
        let bytes = usize::try_from(size).ok()?.checked_mul(size_of::<T>())?;
        let fits = offsets.entries.is_multiple_of(align_of::<T>())
            && offsets.entries.checked_add(bytes)? <= memory.len();
        if !size.is_power_of_two() || !fits || memory.base().as_ptr().align_offset(8) != 0 {
            return None;
        }
        Some(Self {
            producer: word(offsets.producer)?,
            consumer: word(offsets.consumer)?,
            flags: word(offsets.flags)?,
            // SAFETY: inside the memory, `fits` says.
            entries: unsafe { memory.base().add(offsets.entries) }.cast(),
            mask: size - 1,
            _memory: memory,
            _entry: PhantomData,
        })
    }

    const fn size(&self) -> u32 {
        self.mask + 1
    }

    fn word(word: &NonNull<AtomicU32>) -> &AtomicU32 {
        // SAFETY: aligned and inside memory that lives as long as the ring; everybody, the kernel too, accesses it atomically.
        unsafe { AtomicU32::from_ptr(word.as_ptr().cast()) }
    }

    fn slot(&self, index: u32) -> *mut T {
        // SAFETY: the mask keeps the index below the size, for which `new` has checked the room.
        unsafe { self.entries.as_ptr().add((index & self.mask) as usize) }
    }
}

/// The half that takes entries out.
pub(super) struct Consumer<T: Entry> {
    ring: Ring<T>,
    /// Ours; what others see of it is stored by `release`.
    consumer: u32,
    /// What we last saw of the producer's.
    producer: u32,
}

impl<T: Entry> Consumer<T> {
    pub(super) fn new(memory: Arc<RingMemory>, offsets: Offsets, size: u32) -> Option<Self> {
        let ring = Ring::new(memory, offsets, size)?;
        let consumer = Ring::<T>::word(&ring.consumer).load(Ordering::Relaxed);
        Some(Self {
            ring,
            consumer,
            producer: consumer,
        })
    }

    /// How many entries can be read, never more than the ring is long. Looks at the producer's index only when fewer than `want` are known of.
    #[inline]
    pub(super) fn available(&mut self, want: u32) -> u32 {
        let mut known = self.producer.wrapping_sub(self.consumer);
        if known < want {
            self.producer = Ring::<T>::word(&self.ring.producer).load(Ordering::Acquire);
            known = self.producer.wrapping_sub(self.consumer);
            if known > self.ring.size() && !devrx_sabotage::removed("ring-clamp-consumer") {
                self.producer = self.consumer.wrapping_add(self.ring.size());
                known = self.ring.size();
            }
        }
        known
    }

    /// Copies out the entry `ahead` of the next one. Anything outside [`available`](Self::available) is old or half-written, never out of bounds.
    #[inline]
    pub(super) fn read(&self, ahead: u32) -> T {
        // SAFETY: `slot` is inside the ring; volatile, as the producer may write (it must not, but is not trusted); any bits are a T.
        unsafe {
            self.ring
                .slot(self.consumer.wrapping_add(ahead))
                .read_volatile()
        }
    }

    /// Gives `count` entries back to the producer.
    #[inline]
    pub(super) fn release(&mut self, count: u32) {
        self.consumer = self.consumer.wrapping_add(count);
        Ring::<T>::word(&self.ring.consumer).store(self.consumer, Ordering::Release);
    }
}

/// The half that puts entries in.
pub(super) struct Producer<T: Entry> {
    ring: Ring<T>,
    producer: u32,
    consumer: u32,
}

impl<T: Entry> Producer<T> {
    pub(super) fn new(memory: Arc<RingMemory>, offsets: Offsets, size: u32) -> Option<Self> {
        let ring = Ring::new(memory, offsets, size)?;
        let producer = Ring::<T>::word(&ring.producer).load(Ordering::Relaxed);
        // As if full: the first question looks at the consumer's index.
        let consumer = producer.wrapping_sub(ring.size());
        Some(Self {
            ring,
            producer,
            consumer,
        })
    }

    /// How many entries can be written, never more than the ring is long; 0 if the consumer's index makes no sense. Looks at that index only
    /// when fewer than `want` are known of.
    #[inline]
    pub(super) fn free(&mut self, want: u32) -> u32 {
        let mut used = self.producer.wrapping_sub(self.consumer);
        if self.ring.size().saturating_sub(used) < want {
            let seen = Ring::<T>::word(&self.ring.consumer).load(Ordering::Acquire);
            used = self.producer.wrapping_sub(seen);
            if used > self.ring.size() && !devrx_sabotage::removed("ring-clamp-producer") {
                return 0;
            }
            self.consumer = seen;
        }
        self.ring.size().wrapping_sub(used)
    }

    /// Writes the entry `ahead` of the next one. Must be below [`free`](Self::free), else it overwrites what the consumer has not read.
    #[inline]
    pub(super) fn write(&mut self, ahead: u32, entry: T) {
        // SAFETY: `slot` is inside the ring.
        unsafe {
            self.ring
                .slot(self.producer.wrapping_add(ahead))
                .write_volatile(entry)
        }
    }

    /// Shows `count` entries to the consumer.
    #[inline]
    pub(super) fn submit(&mut self, count: u32) {
        self.producer = self.producer.wrapping_add(count);
        Ring::<T>::word(&self.ring.producer).store(self.producer, Ordering::Release);
    }

    /// The consumer asks to be woken (`XDP_RING_NEED_WAKEUP`).
    #[inline]
    pub(super) fn needs_wakeup(&self) -> bool {
        Ring::<T>::word(&self.ring.flags).load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }
}

#[cfg(test)]
pub(super) mod testing {
    //! Rings in plain memory, with access to both sides: what the kernel does, a test can do, and worse.

    use super::*;

    const OFFSETS: Offsets = Offsets {
        producer: 0,
        consumer: 64,
        flags: 128,
        entries: 192,
    };

    /// Both halves of one ring, and its raw indices.
    pub(crate) struct Pair<T: Entry> {
        pub(crate) producer: Producer<T>,
        pub(crate) consumer: Consumer<T>,
    }

    pub(crate) fn pair<T: Entry>(size: u32) -> Pair<T> {
        let memory = Arc::new(RingMemory::heap(192 + size as usize * size_of::<T>()));
        let producer = Producer::new(Arc::clone(&memory), OFFSETS, size).expect("fits");
        let consumer = Consumer::new(memory, OFFSETS, size).expect("fits");
        Pair { producer, consumer }
    }

    impl<T: Entry> Producer<T> {
        /// Claims any producer index, as a broken or hostile producer would.
        pub(crate) fn claim(&mut self, index: u32) {
            Ring::<T>::word(&self.ring.producer).store(index, Ordering::Release);
        }

        /// Sets the wake-up flag.
        pub(crate) fn set_flags(&mut self, flags: u32) {
            Ring::<T>::word(&self.ring.flags).store(flags, Ordering::Relaxed);
        }
    }

    impl<T: Entry> Consumer<T> {
        /// Claims any consumer index.
        pub(crate) fn claim(&mut self, index: u32) {
            Ring::<T>::word(&self.ring.consumer).store(index, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::testing::pair;
    use super::*;

    /// A queue of unbounded memory is the oracle; indices wrap around 2^32 on the way.
    #[test]
    fn carries_everything_in_order() {
        let mut ring = pair::<u64>(8);
        for half in [true, false] {
            let start = u32::MAX - 20;
            if half {
                ring.producer.producer = start;
                ring.producer.consumer = start.wrapping_sub(8);
                ring.producer.claim(start);
            } else {
                ring.consumer.consumer = start;
                ring.consumer.producer = start;
                ring.consumer.claim(start);
            }
        }
        let mut oracle = VecDeque::new();
        let mut next = 0_u64;
        let mut random = 1_u32;
        for _ in 0..10_000 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let count = random >> 28;
            if random & 0x100 == 0 {
                let free = ring.producer.free(count);
                assert!(free as usize <= 8 - oracle.len());
                let count = count.min(free);
                for i in 0..count {
                    ring.producer.write(i, next);
                    oracle.push_back(next);
                    next += 1;
                }
                ring.producer.submit(count);
            } else {
                let available = ring.consumer.available(count);
                assert!(available as usize <= oracle.len());
                let count = count.min(available);
                for i in 0..count {
                    assert_eq!(Some(ring.consumer.read(i)), oracle.pop_front());
                }
                ring.consumer.release(count);
            }
        }
        assert!(next > 1_000, "the ring moved");
    }

    #[test]
    fn full_ring_is_full_and_drained_ring_is_empty() {
        let mut ring = pair::<u64>(4);
        assert_eq!(ring.producer.free(4), 4);
        ring.producer.submit(4);
        assert_eq!(ring.producer.free(1), 0);
        assert_eq!(ring.consumer.available(1), 4);
        ring.consumer.release(4);
        assert_eq!(ring.consumer.available(1), 0);
        assert_eq!(ring.producer.free(1), 4);
    }

    #[test]
    fn hostile_producer_index_is_clamped() {
        let mut ring = pair::<u64>(8);
        for index in [9, 1000, u32::MAX, 1 << 31] {
            ring.producer.claim(index);
            let available = ring.consumer.available(1);
            assert!(
                available <= 8,
                "{available} entries believed of a ring of 8"
            );
            ring.consumer.producer = ring.consumer.consumer;
        }
    }

    #[test]
    fn hostile_consumer_index_frees_nothing() {
        let mut ring = pair::<u64>(8);
        assert_eq!(ring.producer.free(8), 8);
        ring.producer.submit(8);
        for index in [9, 1000, 1 << 31, u32::MAX - 8] {
            ring.consumer.claim(index);
            let free = ring.producer.free(8);
            assert_eq!(free, 0, "{free} slots believed free");
        }
    }

    #[test]
    fn a_ring_must_fit_its_memory() {
        let memory = Arc::new(RingMemory::heap(256));
        let good = Offsets {
            producer: 0,
            consumer: 64,
            flags: 128,
            entries: 192,
        };
        assert!(Consumer::<u64>::new(Arc::clone(&memory), good, 8).is_some());
        assert!(
            Consumer::<u64>::new(Arc::clone(&memory), good, 16).is_none(),
            "too long"
        );
        assert!(
            Consumer::<u64>::new(Arc::clone(&memory), good, 6).is_none(),
            "no power of two"
        );
        for bad in [
            Offsets {
                producer: 256,
                ..good
            },
            Offsets {
                consumer: usize::MAX - 3,
                ..good
            },
            Offsets { flags: 2, ..good },
            Offsets {
                entries: 196,
                ..good
            },
            Offsets {
                entries: usize::MAX - 7,
                ..good
            },
        ] {
            assert!(
                Producer::<u64>::new(Arc::clone(&memory), bad, 8).is_none(),
                "{bad:?}"
            );
        }
    }
}
