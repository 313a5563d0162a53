//! Closing what belongs to users rather than to one session: refused connections, and what consumers had. In turn for each user, on a
//! thread that lives while there is something, so that a user whose descriptors are slow to close keeps waiting only its own.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Closes things, a thread for each user that has some.
#[derive(Clone)]
pub struct Closers {
    most: usize,
    lots: Arc<Mutex<Lots>>,
}

#[derive(Default)]
struct Lots {
    /// To be closed, by user.
    waiting: VecDeque<(u32, Box<dyn Send>)>,
    /// Users who have a thread.
    closing: BTreeSet<u32>,
    /// How much of each user is not closed yet.
    left: BTreeMap<u32, usize>,
}

impl Closers {
    /// At most so many threads. With all of them stuck, everybody's waits: how much, [`left`](Self::left) says.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self {
            most,
            lots: Arc::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Lots> {
        self.lots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops something that a user chose, behind what was given before.
    pub fn close<T: Send + 'static>(&self, uid: u32, what: T) {
        if devrx_sabotage::removed("close-aside") {
            return drop(what);
        }
        let mut lots = self.lock();
        lots.waiting.push_back((uid, Box::new(what)));
        *lots.left.entry(uid).or_default() += 1;
        // Who closes this user's will come to it, and so will whoever is done first.
        if lots.closing.contains(&uid) || lots.closing.len() >= self.most {
            return;
        }
        lots.closing.insert(uid);
        drop(lots);
        let all = self.clone();
        let name = "devrx-close".to_owned();
        if let Err(error) = std::thread::Builder::new()
            .name(name)
            .spawn(move || all.work(uid))
        {
            tracing::error!(%error, "no thread to close a user's descriptors; they stay open for now");
            self.lock().closing.remove(&uid);
        }
    }

    /// Closes until there is nothing left that nobody closes. `uid` has this thread.
    fn work(&self, mut uid: u32) {
        let mut lots = self.lock();
        loop {
            lots.closing.remove(&uid);
            let Lots {
                waiting, closing, ..
            } = &mut *lots;
            let free = waiting.iter().position(|(uid, _)| !closing.contains(uid));
            let Some((of, what)) = free.and_then(|at| waiting.remove(at)) else {
                return;
            };
            closing.insert(of);
            uid = of;
            drop(lots);
            drop(what);
            lots = self.lock();
            if let Entry::Occupied(mut left) = lots.left.entry(uid) {
                *left.get_mut() -= 1;
                if *left.get() == 0 {
                    left.remove();
                }
            }
        }
    }

    /// How much of a user's is not closed yet.
    #[must_use]
    pub fn left_of(&self, uid: u32) -> usize {
        self.lock().left.get(&uid).copied().unwrap_or(0)
    }

    /// How much is not closed yet.
    #[must_use]
    pub fn left(&self) -> usize {
        self.lock().left.values().sum()
    }
}

impl fmt::Debug for Closers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Closers")
            .field("left", &self.left())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;
    use crate::testing::wait_for;

    /// Slow to close: until the other end is dropped.
    struct Slow(Receiver<()>);

    impl Drop for Slow {
        fn drop(&mut self) {
            let _ = self.0.recv();
        }
    }

    fn slow() -> (Sender<()>, Slow) {
        let (end, waits) = channel();
        (end, Slow(waits))
    }

    #[test]
    fn a_user_that_is_slow_keeps_only_its_own_waiting() {
        let closers = Closers::new(2);
        let (end, waits) = slow();
        closers.close(1, waits);
        for uid in [1, 2, 2, 3] {
            closers.close(uid, ());
        }
        wait_for("others' is closed", || closers.left() == 2);
        assert_eq!([1, 2, 3].map(|uid| closers.left_of(uid)), [2, 0, 0]);
        drop(end);
        wait_for("all is closed", || closers.left() == 0);
    }

    #[test]
    fn with_every_thread_stuck_nobody_is_waited_for() {
        let closers = Closers::new(2);
        let (ends, all): (Vec<_>, Vec<_>) = (0..2).map(|_| slow()).unzip();
        for (uid, waits) in (0..).zip(all) {
            closers.close(uid, waits);
        }
        closers.close(7, ());
        assert_eq!((closers.left_of(7), closers.left()), (1, 3));
        drop(ends);
        wait_for("all is closed", || closers.left() == 0);
    }
}
