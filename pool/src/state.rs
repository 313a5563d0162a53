//! What is known of one chunk: its references, and what the client has of it.

use crate::error::Refusal;
use crate::sync::{AtomicU32, Ordering};

/// The state of one chunk.
pub(crate) struct Chunk {
    /// References. Exactly one while the chunk is idle (in the cache, in the ring, with the provider) and while one party has it; more
    /// only while other threads retain it. Never zero, but for the moment between the last drop and the reset.
    refs: AtomicU32,
    /// What the client has: see [`User`].
    user: AtomicU32,
}

/// The client's side of a chunk, in one word, so that a return is checked and taken in one compare-exchange: generation in
/// bits 0 to 15, user count in bits 16 to 30 (0 or 1: one client, one delivery at a time), and in bit 31 whether it was ever
/// delivered.
#[derive(Clone, Copy)]
struct User(u32);

impl User {
    const ONE: u32 = 1 << 16;
    const EVER: u32 = 1 << 31;

    const fn generation(self) -> u16 {
        self.0 as u16
    }

    const fn count(self) -> u32 {
        (self.0 & !Self::EVER) >> 16
    }

    /// Whether the client may return this chunk under `generation`.
    #[inline]
    fn check(self, generation: u16) -> Result<(), Refusal> {
        if generation == self.generation() {
            if self.count() > 0 || devrx_sabotage::removed("pool-user-count") {
                return Ok(());
            }
            return Err(if self.0 & Self::EVER == 0 {
                Refusal::Forged
            } else {
                Refusal::Repeated
            });
        }
        if devrx_sabotage::removed("pool-generation") && self.count() > 0 {
            return Ok(());
        }
        // Serial arithmetic, as the generations wrap: what is behind was delivered before, what is ahead never was.
        let behind = self.generation().wrapping_sub(generation).cast_signed() > 0;
        Err(if behind && self.0 & Self::EVER != 0 {
            Refusal::Stale
        } else {
            Refusal::Forged
        })
    }
}

impl Chunk {
    pub(crate) fn new() -> Self {
        Self {
            refs: AtomicU32::new(1),
            user: AtomicU32::new(0),
        }
    }

    /// One more reference, for somebody who was given the chunk by a holder.
    pub(crate) fn retain(&self) {
        let before = self.refs.fetch_add(1, Ordering::Relaxed);
        debug_assert!(
            before > 0,
            "a chunk was retained by somebody who does not hold it"
        );
    }

    /// Drops a reference; true when it was the last, for exactly one of those who drop theirs. The chunk is idle then, with
    /// the one reference of whoever now recycles or releases it, and everything the others did with it has happened.
    #[inline]
    pub(crate) fn unref(&self) -> bool {
        // Whoever reads 1 holds that one: nobody else can add or drop any. No locked instruction on the common path. Acquire, to see
        // what those who dropped theirs before did.
        let acquire = if devrx_sabotage::removed("pool-unref-acquire") {
            Ordering::Relaxed
        } else {
            Ordering::Acquire
        };
        if self.refs.load(acquire) == 1 {
            return true;
        }
        let before = if devrx_sabotage::removed("pool-unref-atomic") {
            let before = self.refs.load(Ordering::Acquire);
            self.refs.store(before.wrapping_sub(1), Ordering::Release);
            before
        } else {
            self.refs.fetch_sub(1, Ordering::AcqRel)
        };
        debug_assert!(
            before > 0 || cfg!(devrx_sabotage),
            "a chunk was dropped by somebody who does not hold it"
        );
        if before == 1 && !devrx_sabotage::removed("pool-idle-is-one") {
            // Ours alone; published with the chunk itself.
            self.refs.store(1, Ordering::Relaxed);
        }
        before == 1
    }

    /// Gives the chunk to the client. Only its owner does that, while the client does not have it, when nobody else writes the word.
    #[inline]
    pub(crate) fn deliver(&self) -> u16 {
        let before = User(self.user.load(Ordering::Relaxed));
        debug_assert!(
            before.count() == 0 || cfg!(devrx_sabotage),
            "a chunk was delivered that the client has already"
        );
        let generation = before.generation().wrapping_add(1);
        self.user.store(
            User::EVER | User::ONE | u32::from(generation),
            Ordering::Release,
        );
        generation
    }

    /// Takes the chunk from the client, which says that it has it under `generation`. The caller then has the client's
    /// reference.
    #[inline]
    pub(crate) fn take_back(&self, generation: u16) -> Result<(), Refusal> {
        // What an honest return finds: taken by one exchange, with no look before it.
        let honest = User::EVER | User::ONE | u32::from(generation);
        match self.swap_user(honest, honest - User::ONE) {
            Ok(()) => Ok(()),
            Err(word) => self.judge(word, generation),
        }
    }

    #[cold]
    fn judge(&self, mut word: u32, generation: u16) -> Result<(), Refusal> {
        loop {
            User(word).check(generation)?;
            match self.swap_user(word, word.wrapping_sub(User::ONE)) {
                Ok(()) => return Ok(()),
                // Somebody reclaimed it meanwhile: judge again.
                Err(now) => word = now,
            }
        }
    }

    /// Takes the chunk from the client if it has it, whatever the generation. The caller then has the client's reference.
    pub(crate) fn reclaim(&self) -> bool {
        let mut word = self.user.load(Ordering::Acquire);
        while User(word).count() > 0 {
            match self.swap_user(word, word.wrapping_sub(User::ONE)) {
                Ok(()) => return true,
                Err(now) => word = now,
            }
        }
        false
    }

    #[inline]
    fn swap_user(&self, word: u32, new: u32) -> Result<(), u32> {
        if devrx_sabotage::removed("pool-user-exchange") {
            self.user.store(new, Ordering::Release);
            return Ok(());
        }
        self.user
            .compare_exchange(word, new, Ordering::AcqRel, Ordering::Relaxed)
            .map(drop)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn generations_are_told_apart_across_their_wrap() {
        let chunk = Chunk::new();
        assert_eq!(chunk.take_back(0), Err(Refusal::Forged));
        assert_eq!(chunk.take_back(1), Err(Refusal::Forged));
        assert_eq!(chunk.take_back(u16::MAX), Err(Refusal::Forged));
        for round in 1..=200_000_u32 {
            let generation = chunk.deliver();
            assert_eq!(generation, round as u16);
            assert_eq!(
                chunk.take_back(generation.wrapping_add(1)),
                Err(Refusal::Forged)
            );
            assert_eq!(
                chunk.take_back(generation.wrapping_sub(1)),
                Err(Refusal::Stale)
            );
            assert_eq!(chunk.take_back(generation), Ok(()));
            assert_eq!(chunk.take_back(generation), Err(Refusal::Repeated));
        }
    }

    #[test]
    fn only_the_last_reference_counts_and_leaves_one() {
        let chunk = Chunk::new();
        for holders in 1..10 {
            for _ in 1..holders {
                chunk.retain();
            }
            for _ in 1..holders {
                assert!(!chunk.unref());
            }
            assert!(chunk.unref());
        }
    }

    #[test]
    fn reclaim_takes_what_the_client_has_once() {
        let chunk = Chunk::new();
        assert!(!chunk.reclaim());
        let generation = chunk.deliver();
        assert!(chunk.reclaim());
        assert!(!chunk.reclaim());
        assert_eq!(chunk.take_back(generation), Err(Refusal::Repeated));
    }
}
