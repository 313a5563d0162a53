//! The recycle ring: a bounded queue of chunk indices, many producers, many consumers.
//!
//! In normal times one thread, the pool's owner, takes out; after the pool was shut down, whoever puts in also takes out, so both ends are
//! shared. It is the bounded queue of Dmitry Vyukov: each slot carries a sequence number that says whose turn it is. Sequence and
//! value share one atomic word, so a slot is published and read in one access and there is no unsafe code.

use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// Keeps the two ends' counters out of each other's cache lines (two lines: x86-64 fetches them in pairs).
#[repr(align(128))]
struct Padded<T>(T);

pub(crate) struct Ring {
    /// Sequence in the high half, chunk in the low half. A slot whose sequence is its position is free for the producer of
    /// that position, one more is full for its consumer.
    slots: Box<[AtomicU64]>,
    mask: u32,
    tail: Padded<AtomicU32>,
    head: Padded<AtomicU32>,
    /// See [`Ring::look`].
    #[cfg(loom)]
    turn: AtomicU32,
}

const fn word(sequence: u32, value: u32) -> u64 {
    (sequence as u64) << 32 | value as u64
}

impl Ring {
    /// A ring of `capacity` slots, rounded up to a power of two, at least 2 and at most 2^30.
    pub(crate) fn new(capacity: usize) -> Self {
        let capacity = capacity.clamp(2, 1 << 30).next_power_of_two() as u32;
        Self {
            slots: (0..capacity)
                .map(|at| AtomicU64::new(word(at, 0)))
                .collect(),
            mask: capacity - 1,
            tail: Padded(AtomicU32::new(0)),
            head: Padded(AtomicU32::new(0)),
            #[cfg(loom)]
            turn: AtomicU32::new(0),
        }
    }

    /// Puts a value in; false when the ring is full.
    pub(crate) fn push(&self, value: u32) -> bool {
        let mut at = self.tail.0.load(Ordering::Relaxed);
        loop {
            let slot = &self.slots[(at & self.mask) as usize];
            let sequence = (self.look(slot) >> 32) as u32;
            match sequence.wrapping_sub(at).cast_signed() {
                0 => match self.tail.0.compare_exchange_weak(
                    at,
                    at.wrapping_add(1),
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                ) {
                    Ok(_) => {
                        let publish = if devrx_sabotage::removed("ring-publish") {
                            Ordering::Relaxed
                        } else {
                            Ordering::Release
                        };
                        slot.store(word(at.wrapping_add(1), value), publish);
                        return true;
                    }
                    Err(now) => at = now,
                },
                // The slot's value of one round ago is still in it.
                ..0 => return false,
                // Somebody else was faster.
                1.. => at = self.tail.0.load(Ordering::Relaxed),
            }
        }
    }

    /// Takes a value out. `None` when the ring is empty, or when whoever put in the next one is not quite done.
    pub(crate) fn pop(&self) -> Option<u32> {
        let mut at = self.head.0.load(Ordering::Relaxed);
        loop {
            let slot = &self.slots[(at & self.mask) as usize];
            let full = self.look(slot);
            let sequence = (full >> 32) as u32;
            match sequence.wrapping_sub(at.wrapping_add(1)).cast_signed() {
                0 => match self.head.0.compare_exchange_weak(
                    at,
                    at.wrapping_add(1),
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                ) {
                    Ok(_) => {
                        slot.store(
                            word(at.wrapping_add(self.mask).wrapping_add(1), 0),
                            Ordering::Release,
                        );
                        return Some(full as u32);
                    }
                    Err(now) => at = now,
                },
                ..0 => return None,
                1.. => at = self.head.0.load(Ordering::Relaxed),
            }
        }
    }

    /// Reads a slot.
    ///
    /// A model also gets a scheduling point here: loom swaps a store with another thread's load only if that load was the slot's
    /// last access, and the load in front of every store here would hide all others. A relaxed counter orders no other access.
    #[inline(always)]
    fn look(&self, slot: &AtomicU64) -> u64 {
        #[cfg(loom)]
        self.turn.fetch_add(1, Ordering::Relaxed);
        slot.load(Ordering::Acquire)
    }

    /// How many values are in; exact while nobody else is at it.
    pub(crate) fn len(&self) -> u32 {
        let head = self.head.0.load(Ordering::Relaxed);
        self.tail
            .0
            .load(Ordering::Relaxed)
            .wrapping_sub(head)
            .min(self.mask + 1)
    }
}
