//! The side that reads entries.

use std::marker::PhantomData;
use std::sync::atomic::Ordering;

use super::fence;
use super::{Backing, Entry, ReadSlots, Word};

/// What a consumer is made of.
pub struct ConsumerParts<B: Backing, const N: usize> {
    /// The consumer's index, written here.
    pub own: B::Word,
    /// The producer's index, read and checked here.
    pub peer: B::Word,
    /// The consumer's sleep word, written here.
    pub sleep: B::Word,
    /// The entries.
    pub slots: B::Reader<N>,
    /// The index both sides begin with.
    pub start: u32,
}

/// The consuming half of a ring. See the [module](super) for the protocol.
pub struct Consumer<B: Backing, E: Entry<N>, const N: usize> {
    own: B::Word,
    peer: B::Word,
    sleep: B::Word,
    slots: B::Reader<N>,
    capacity: u32,
    /// Entries before this index were read and given free.
    head: u32,
    /// The producer's index when it was last looked at and found right.
    tail: u32,
    /// The number of the last sleep.
    sleeps: u32,
    armed: bool,
    faults: u64,
    entry: PhantomData<fn() -> E>,
}

impl<B: Backing, E: Entry<N>, const N: usize> Consumer<B, E, N> {
    /// Makes a consumer that starts at `parts.start`. Does not write any word.
    pub fn new(parts: ConsumerParts<B, N>) -> Self {
        let capacity = parts.slots.capacity();
        let start = parts.start;
        Self {
            own: parts.own,
            peer: parts.peer,
            sleep: parts.sleep,
            slots: parts.slots,
            capacity,
            head: start,
            tail: start,
            sleeps: 0,
            armed: false,
            faults: 0,
            entry: PhantomData,
        }
    }

    /// How many entries the ring holds.
    #[inline]
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// The index of the next entry to read: what a new producer would start from.
    #[inline]
    #[must_use]
    pub fn position(&self) -> u32 {
        self.head
    }

    /// How often the producer's index was found to be impossible. Rises by at most one a look.
    #[inline]
    #[must_use]
    pub fn faults(&self) -> u64 {
        self.faults
    }

    /// Looks at the producer's index and answers how many entries there are to read: 0 to [`capacity`](Self::capacity).
    pub fn available(&mut self) -> u32 {
        let tail = self.peer.load();
        if !devrx_sabotage::removed("ring-consume-acquire") {
            // Entries are read after the index that shows them.
            fence(Ordering::Acquire);
        }
        // An honest index lies between the last one seen and a full ring.
        let added = tail.wrapping_sub(self.tail);
        let known = self.tail.wrapping_sub(self.head);
        if added <= self.capacity - known || devrx_sabotage::removed("ring-consumer-clamp") {
            self.tail = tail;
        } else {
            self.faults += 1;
        }
        self.tail.wrapping_sub(self.head)
    }

    /// Copies entries out, oldest first, without freeing them. Looks at the producer's index only if `out` is longer than what is
    /// known to be there.
    #[inline]
    pub fn peek(&mut self, out: &mut [E]) -> usize {
        let mut known = self.tail.wrapping_sub(self.head) as usize;
        if known < out.len() {
            known = self.available() as usize;
        }
        let count = known.min(out.len());
        let mut index = self.head;
        for entry in &mut out[..count] {
            *entry = E::from_words(self.slots.read(index));
            index = index.wrapping_add(1);
        }
        count
    }

    /// The oldest entries that lie side by side, `most` at most, without freeing them; none only if there is none. Each is copied out when the iterator comes
    /// to it. Looks at the producer's index only if fewer are known to be there.
    #[inline]
    pub fn oldest(&mut self, most: usize) -> impl ExactSizeIterator<Item = E> + '_ {
        let most = u32::try_from(most).unwrap_or(u32::MAX);
        let mut known = self.tail.wrapping_sub(self.head);
        if known < most {
            known = self.available();
        }
        self.slots
            .row(self.head, known.min(most))
            .map(E::from_words)
    }

    /// Frees the `count` oldest entries (at most those known to be there): the producer may overwrite them. Once a batch.
    #[inline]
    pub fn advance(&mut self, count: usize) {
        let known = self.tail.wrapping_sub(self.head);
        let count = u32::try_from(count).unwrap_or(known).min(known);
        if count == 0 {
            return;
        }
        if !devrx_sabotage::removed("ring-consume-release") {
            // The entries were read before they are given free.
            fence(Ordering::Release);
        }
        self.head = self.head.wrapping_add(count);
        self.own.store(self.head);
    }

    /// Copies entries out and frees them; answers how many.
    #[inline]
    pub fn take(&mut self, out: &mut [E]) -> usize {
        let count = self.peek(out);
        self.advance(count);
        count
    }

    /// About to wait on the eventfd: announces the sleep and looks once more. `false`: there are entries, do not wait.
    ///
    /// After waiting, for whatever reason it ended, call [`disarm`](Self::disarm).
    pub fn arm(&mut self) -> bool {
        if self.available() > 0 {
            return false;
        }
        self.sleeps = match self.sleeps.wrapping_add(1) {
            0 => 1,
            sleep if devrx_sabotage::removed("sleep-number") => sleep.min(1),
            sleep => sleep,
        };
        self.sleep.store(self.sleeps);
        self.armed = true;
        if !devrx_sabotage::removed("sleep-consumer-fence") {
            // Pairs with the fence in `Producer::publish`: it sees the number, or the next look sees its entries.
            fence(Ordering::SeqCst);
        }
        if !devrx_sabotage::removed("sleep-second-look") && self.available() > 0 {
            self.disarm();
            return false;
        }
        true
    }

    /// Awake: nobody needs to write the eventfd. Without effect when not armed.
    pub fn disarm(&mut self) {
        if self.armed {
            self.sleep.store(0);
            self.armed = false;
        }
    }
}
