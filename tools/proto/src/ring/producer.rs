//! The side that writes entries.

use std::marker::PhantomData;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::fence;
use super::{Backing, Entry, Word, WriteSlots};
use crate::wake::{Wake, WakePolicy};

/// What a producer is made of.
pub struct ProducerParts<B: Backing, const N: usize> {
    /// The producer's index, written here.
    pub own: B::Word,
    /// The consumer's index, read and checked here.
    pub peer: B::Word,
    /// The consumer's sleep word, read here.
    pub sleep: B::Word,
    /// The entries.
    pub slots: B::Writer<N>,
    /// The index both sides begin with.
    pub start: u32,
}

/// What [`Producer::publish`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Published {
    /// Entries that the consumer can see now and could not before.
    pub entries: u32,
    /// The sleep number of a consumer that sleeps and was not woken for it; pass it to [`Producer::woken`] after waking.
    pub sleeper: Option<u32>,
}

/// The producing half of a ring. See the [module](super) for the protocol.
pub struct Producer<B: Backing, E: Entry<N>, const N: usize> {
    own: B::Word,
    peer: B::Word,
    sleep: B::Word,
    slots: B::Writer<N>,
    capacity: u32,
    /// Entries before this index are complete groups.
    tail: u32,
    /// Entries before this index are visible to the consumer.
    published: u32,
    /// The consumer's index when it was last looked at and found right.
    head: u32,
    /// The sleep number last answered.
    answered: u32,
    faults: u64,
    entry: PhantomData<fn(E)>,
}

impl<B: Backing, E: Entry<N>, const N: usize> Producer<B, E, N> {
    /// Makes a producer that starts at `parts.start`. Does not write any word.
    pub fn new(parts: ProducerParts<B, N>) -> Self {
        let capacity = parts.slots.capacity();
        let start = parts.start;
        Self {
            own: parts.own,
            peer: parts.peer,
            sleep: parts.sleep,
            slots: parts.slots,
            capacity,
            tail: start,
            published: start,
            head: start,
            answered: 0,
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

    /// The index of the next entry: what a new consumer would start from after [`publish`](Self::publish).
    #[inline]
    #[must_use]
    pub fn position(&self) -> u32 {
        self.tail
    }

    /// How often the consumer's index was found to be impossible. Rises by at most one a call.
    #[inline]
    #[must_use]
    pub fn faults(&self) -> u64 {
        self.faults
    }

    /// Room for entries, as of the last look at the consumer's index.
    #[inline]
    fn room(&self) -> u32 {
        self.capacity - self.tail.wrapping_sub(self.head)
    }

    /// Looks at the consumer's index and answers the room there is for entries: 0 to [`capacity`](Self::capacity).
    pub fn free(&mut self) -> u32 {
        let head = self.peer.load();
        if !devrx_sabotage::removed("ring-consume-release") {
            // What the consumer read from the slots happened before it freed them.
            fence(Ordering::Acquire);
        }
        // An honest index lies between the last one seen and what was published.
        let freed = head.wrapping_sub(self.head);
        let held = self.published.wrapping_sub(self.head);
        if freed <= held || devrx_sabotage::removed("ring-producer-clamp") {
            self.head = head;
        } else {
            self.faults += 1;
        }
        if devrx_sabotage::removed("ring-producer-clamp") {
            return self
                .capacity
                .wrapping_sub(self.tail.wrapping_sub(self.head));
        }
        self.room()
    }

    /// Entries published that the consumer has not freed, as of the last look.
    #[inline]
    #[must_use]
    pub fn unread(&self) -> u32 {
        self.published.wrapping_sub(self.head)
    }

    /// Makes room for a group of `count` entries, or answers `None`: then the whole group is to be dropped or tried later.
    #[inline]
    pub fn reserve(&mut self, count: u32) -> Option<Group<'_, B, E, N>> {
        if self.room() < count && self.free() < count {
            return None;
        }
        let next = self.tail;
        let end = self.tail.wrapping_add(count);
        Some(Group {
            ring: self,
            next,
            end,
        })
    }

    /// Makes room for a group of as many entries as the ring has room for, `most` at most, or answers `None` where it has none for `least`.
    #[inline]
    pub fn reserve_some(&mut self, least: u32, most: u32) -> Option<Group<'_, B, E, N>> {
        let mut room = self.room();
        if room < most {
            room = self.free();
        }
        if room < least {
            return None;
        }
        self.reserve(room.min(most))
    }

    /// Writes a whole group, to be seen with the next [`publish`](Self::publish). `false`: no room, and nothing was written.
    #[inline]
    pub fn push(&mut self, entries: &[E]) -> bool {
        let Ok(count) = u32::try_from(entries.len()) else {
            return false;
        };
        let Some(mut group) = self.reserve(count) else {
            return false;
        };
        for entry in entries {
            group.push(*entry);
        }
        group.commit();
        true
    }

    /// Writes as many of the entries as fit, each a group of its own, and answers how many.
    pub fn push_some(&mut self, entries: &[E]) -> usize {
        let wanted = u32::try_from(entries.len()).unwrap_or(u32::MAX);
        let mut room = self.room();
        if room < wanted {
            room = self.free();
        }
        let count = (room.min(wanted)) as usize;
        if self.push(&entries[..count]) {
            count
        } else {
            0
        }
    }

    /// Shows all complete groups to the consumer, then looks whether it sleeps. Once a batch, not once a packet.
    #[inline]
    pub fn publish(&mut self) -> Published {
        let entries = self.tail.wrapping_sub(self.published);
        if entries == 0 {
            return Published {
                entries,
                sleeper: self.sleeper(),
            };
        }
        if !devrx_sabotage::removed("ring-publish-release") {
            // The entries happened before the index that shows them.
            fence(Ordering::Release);
        }
        self.own.store(self.tail);
        self.published = self.tail;
        if !devrx_sabotage::removed("sleep-producer-fence") {
            // Pairs with the fence in `Consumer::arm`: it sees the index, or the next line sees its number.
            fence(Ordering::SeqCst);
        }
        Published {
            entries,
            sleeper: self.sleeper(),
        }
    }

    /// [`publish`](Self::publish), and what the policy says about waking a sleeper. Answers [`Wake::Now`] once for a sleep; the
    /// caller then writes the eventfd. On [`Wake::By`] call again (with or without new entries) at that time.
    #[inline]
    pub fn publish_for(&mut self, policy: &mut WakePolicy, now: Instant) -> Wake {
        let published = self.publish();
        let wake = policy.decide(published, now);
        if let (Wake::Now, Some(sleep)) = (wake, published.sleeper) {
            self.woken(sleep);
        }
        wake
    }

    /// The number of a sleep that was not answered yet, if the consumer sleeps.
    #[inline]
    #[must_use]
    pub fn sleeper(&self) -> Option<u32> {
        let sleep = self.sleep.load();
        (sleep != 0 && sleep != self.answered).then_some(sleep)
    }

    /// Notes that the consumer's eventfd was or is about to be written for this sleep.
    #[inline]
    pub fn woken(&mut self, sleep: u32) {
        self.answered = sleep;
    }
}

/// Room for a group of entries that will be published together. Dropped without [`commit`](Group::commit), it leaves no trace.
pub struct Group<'ring, B: Backing, E: Entry<N>, const N: usize> {
    ring: &'ring mut Producer<B, E, N>,
    next: u32,
    end: u32,
}

impl<B: Backing, E: Entry<N>, const N: usize> Group<'_, B, E, N> {
    /// Writes the next entry of the group. `false`, and nothing written, when the group is complete.
    #[inline]
    pub fn push(&mut self, entry: E) -> bool {
        if self.next == self.end {
            return false;
        }
        self.ring.slots.write(self.next, entry.to_words());
        self.next = self.next.wrapping_add(1);
        if devrx_sabotage::removed("ring-group") {
            self.ring.tail = self.next;
        }
        true
    }

    /// How many more entries it has room for.
    #[inline]
    #[must_use]
    pub fn room(&self) -> u32 {
        self.end.wrapping_sub(self.next)
    }

    /// Writes the next entries of the group, as many as there are and as it has [room](Self::room) for, and returns how many. As [`push`](Self::push), cheaper
    /// for each. Entries that find no room stay in the iterator.
    #[inline(always)]
    pub fn extend(&mut self, entries: impl Iterator<Item = [u64; N]>) -> u32 {
        let written = self.ring.slots.write_all(self.next, self.room(), entries);
        self.next = self.next.wrapping_add(written);
        if devrx_sabotage::removed("ring-group") {
            self.ring.tail = self.next;
        }
        written
    }

    /// Writes the next entries of the group by four, for as long as there are some and [room](Self::room) for four, and returns how many. Each comes with a mark, which goes to
    /// bits 32 to 47 of its first word, which are 0. Fours that find no room are not asked for.
    #[inline(always)]
    pub fn extend_by_four(
        &mut self,
        mut entries: impl FnMut() -> Option<([[u64; N]; 4], [u16; 4])>,
    ) -> u32 {
        let (first, room) = (self.next, self.room());
        let slots = &self.ring.slots;
        let mut written = 0;
        while written + 4 <= room
            && let Some((words, marks)) = entries()
        {
            slots.write_four(first.wrapping_add(written), &words, marks);
            written += 4;
        }
        self.next = first.wrapping_add(written);
        if devrx_sabotage::removed("ring-group") {
            self.ring.tail = self.next;
        }
        written
    }

    /// The group is complete with the entries written so far; [`Producer::publish`] will show it.
    #[inline]
    pub fn commit(self) {
        self.ring.tail = self.next;
    }
}
