//! When a daemon wakes a client that sleeps: after a batch, or after a time, whichever is first.

use std::time::{Duration, Instant};

use crate::ring::Published;

/// What to do about a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    /// It does not sleep, or sleeps with nothing to read.
    No,
    /// It sleeps and has entries to read, not yet enough: wake it by this time.
    By(Instant),
    /// Wake it now.
    Now,
}

/// Decides when a sleeping client is woken: once `batch` entries were published since it fell asleep, or `timeout` after the
/// first of them. A pure state machine: it neither reads a clock nor writes an eventfd.
#[derive(Debug, Clone)]
pub struct WakePolicy {
    batch: u32,
    timeout: Duration,
    /// The sleep that is being counted for; 0: none.
    sleep: u32,
    pending: u32,
    by: Option<Instant>,
}

impl WakePolicy {
    /// A policy that wakes after `batch` entries (0 counts as 1) or after `timeout`.
    #[must_use]
    pub fn new(batch: u32, timeout: Duration) -> Self {
        Self {
            batch: batch.max(1),
            timeout,
            sleep: 0,
            pending: 0,
            by: None,
        }
    }

    /// What to do after [`crate::ring::Producer::publish`] answered `published`, at the time `now`. After [`Wake::Now`] the
    /// sleep counts as answered.
    #[inline]
    pub fn decide(&mut self, published: Published, now: Instant) -> Wake {
        let Some(sleep) = published.sleeper else {
            if self.sleep != 0 {
                self.forget();
            }
            return Wake::No;
        };
        if sleep != self.sleep {
            self.forget();
            self.sleep = sleep;
        }
        self.pending = self.pending.saturating_add(published.entries);
        if self.pending == 0 {
            return Wake::No;
        }
        let by = *self
            .by
            .get_or_insert_with(|| now.checked_add(self.timeout).unwrap_or(now));
        if self.pending >= self.batch || (now >= by && !devrx_sabotage::removed("wake-timeout")) {
            self.forget();
            return Wake::Now;
        }
        Wake::By(by)
    }

    /// By when the client must be woken, if it must: the longest that the worker may itself wait before it calls
    /// [`crate::ring::Producer::publish_for`] again.
    #[inline]
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.by
    }

    fn forget(&mut self) {
        self.sleep = 0;
        self.pending = 0;
        self.by = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn published(entries: u32, sleeper: u32) -> Published {
        Published {
            entries,
            sleeper: (sleeper != 0).then_some(sleeper),
        }
    }

    #[test]
    fn wakes_after_a_batch() {
        let now = Instant::now();
        let mut policy = WakePolicy::new(4, MS);
        assert_eq!(policy.decide(published(3, 1), now), Wake::By(now + MS));
        assert_eq!(policy.deadline(), Some(now + MS));
        assert_eq!(policy.decide(published(1, 1), now), Wake::Now);
        assert_eq!(policy.deadline(), None);
    }

    #[test]
    fn wakes_after_the_timeout_counted_from_the_first_entry() {
        let now = Instant::now();
        let mut policy = WakePolicy::new(4, MS);
        assert_eq!(policy.decide(published(0, 1), now), Wake::No);
        assert_eq!(policy.deadline(), None);
        assert_eq!(
            policy.decide(published(1, 1), now + MS),
            Wake::By(now + 2 * MS)
        );
        assert_eq!(
            policy.decide(published(1, 1), now + MS * 3 / 2),
            Wake::By(now + 2 * MS)
        );
        assert_eq!(policy.decide(published(0, 1), now + 2 * MS), Wake::Now);
    }

    #[test]
    fn counts_anew_for_another_sleep() {
        let now = Instant::now();
        let mut policy = WakePolicy::new(4, MS);
        assert_eq!(policy.decide(published(3, 1), now), Wake::By(now + MS));
        assert_eq!(policy.decide(published(3, 2), now), Wake::By(now + MS));
        assert_eq!(policy.decide(published(3, 0), now), Wake::No);
        assert_eq!(policy.deadline(), None);
        assert_eq!(policy.decide(published(0, 2), now), Wake::No);
    }
}
