//! The atomics of the protocol, which are loom's in a model.

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};

/// Statistics: no decision rests on them, so a model does not explore them.
pub(crate) mod stat {
    use std::sync::atomic::{AtomicU64, Ordering};

    /// A counter that one thread writes and any reads: an increment is a plain addition, no locked instruction.
    #[derive(Debug, Default)]
    pub(crate) struct Owned(AtomicU64);

    impl Owned {
        #[inline(always)]
        pub(crate) fn add(&self, n: u64) {
            self.0.store(
                self.0.load(Ordering::Relaxed).wrapping_add(n),
                Ordering::Relaxed,
            );
        }

        #[inline(always)]
        pub(crate) fn set(&self, n: u64) {
            self.0.store(n, Ordering::Relaxed);
        }

        #[inline(always)]
        pub(crate) fn get(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }
    }

    /// A counter that any thread writes.
    #[derive(Debug, Default)]
    pub(crate) struct Shared(AtomicU64);

    impl Shared {
        pub(crate) fn add(&self, n: u64) {
            self.0.fetch_add(n, Ordering::Relaxed);
        }

        pub(crate) fn get(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }
    }
}
