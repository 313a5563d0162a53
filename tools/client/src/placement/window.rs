//! The open frames: what is in which place, and when a frame is closed.

use std::collections::VecDeque;
use std::time::Duration;

use super::rule::{Cursor, Rule, Step, step};
use super::stats::{PlacementStats, Verdict};

/// Why a frame was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FrameEnd {
    /// All of its packets are there.
    Complete,
    /// Its time was over, or that of a frame behind it.
    Expired,
    /// A packet of a later frame moved the window.
    Pushed,
    /// The stream started again.
    Restarted,
    /// The caller wanted it.
    Flushed,
}

/// Which bytes of a packet are its data, counted from the first byte of the frame on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Span {
    pub(super) start: u32,
    pub(super) len: u32,
}

/// A packet in its place: its data, and which of the frame's chunks are its own.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Place {
    pub(super) span: Span,
    pub(super) first: u32,
    pub(super) count: u32,
}

/// What a frame is made of. It is used again when its frame is dropped, so that placing a packet allocates nothing.
#[derive(Debug)]
pub(super) struct Body<C> {
    pub(super) places: Box<[Place]>,
    /// Bit `i % 64` of word `i / 64`: place `i` is taken.
    pub(super) present: Box<[u64]>,
    pub(super) chunks: Vec<C>,
    pub(super) placed: u32,
    /// When the first packet came.
    opened: u64,
}

impl<C> Body<C> {
    fn new(places: usize) -> Self {
        Self {
            places: vec![Place::default(); places].into(),
            present: vec![0; places.div_ceil(64)].into(),
            chunks: Vec::with_capacity(places),
            placed: 0,
            opened: 0,
        }
    }

    /// The place `index`, if a packet is there.
    pub(super) fn get(&self, index: usize) -> Option<(&Place, &[C])> {
        let place = self.places.get(index)?;
        let taken = self.present[index / 64] >> (index % 64) & 1 == 1;
        let first = place.first as usize;
        taken.then(|| (place, &self.chunks[first..first + place.count as usize]))
    }

    fn is_full(&self) -> bool {
        self.placed as usize == self.places.len()
    }
}

/// A frame that was closed.
#[derive(Debug)]
pub(super) struct Done<C> {
    pub(super) body: Body<C>,
    pub(super) number: u64,
    pub(super) restarts: u64,
    pub(super) end: FrameEnd,
}

/// The open frames of a stream. `C` is what is kept of a packet: its chunks.
#[derive(Debug)]
pub(super) struct Window<C> {
    rule: Rule,
    cursor: Cursor,
    /// Nanoseconds.
    deadline: Option<u64>,
    /// A ring; the oldest frame is at `oldest`.
    slots: Box<[Option<Body<C>>]>,
    oldest: usize,
    /// Bit `i`: the frame `i + 1` before the oldest open one was complete.
    history: u64,
    closed: VecDeque<Done<C>>,
    spare: Vec<Body<C>>,
    pub(super) stats: PlacementStats,
}

impl<C> Window<C> {
    pub(super) fn new(rule: Rule, deadline: Option<Duration>) -> Self {
        let frames = rule.window as usize;
        let deadline = deadline.map(|time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        let places = rule.frame_packets as usize;
        Self {
            rule,
            cursor: Cursor::default(),
            deadline,
            slots: (0..frames).map(|_| None).collect(),
            oldest: 0,
            history: 0,
            closed: VecDeque::with_capacity(2 * frames),
            spare: (0..frames).map(|_| Body::new(places)).collect(),
            stats: PlacementStats::default(),
        }
    }

    /// Finds a packet's place, and takes its `chunks` only if it has one. `now` is the caller's clock in nanoseconds.
    #[inline]
    pub(super) fn place<I: Iterator<Item = C>>(
        &mut self,
        sequence: u64,
        span: Span,
        now: u64,
        chunks: impl FnOnce() -> I,
    ) -> Verdict {
        let verdict = self.settle(sequence, span, now, chunks);
        self.stats.count(verdict);
        verdict
    }

    fn settle<I: Iterator<Item = C>>(
        &mut self,
        sequence: u64,
        span: Span,
        now: u64,
        chunks: impl FnOnce() -> I,
    ) -> Verdict {
        let (mut cursor, step) = step(&self.rule, self.cursor, sequence);
        let (slot, index) = match step {
            Step::Place { moved, slot, index } => {
                if moved == 0 {
                    (slot, index)
                } else {
                    self.advance(moved, FrameEnd::Pushed);
                    // What was complete behind the frames that were pushed out has gone with them, and moved the window on.
                    let further = self.cursor.head.wrapping_sub(cursor.head);
                    cursor.head = self.cursor.head;
                    (slot - further, index)
                }
            }
            Step::Restart { index } => {
                self.close_all(FrameEnd::Restarted);
                self.history = 0;
                self.stats.restarts += 1;
                (0, index)
            }
            Step::Late { frames } => {
                self.cursor = cursor;
                // What comes for a frame that left complete can only be a duplicate.
                let complete = frames <= 64 && self.history >> (frames - 1) & 1 == 1;
                return if complete {
                    Verdict::Duplicate
                } else {
                    Verdict::Late
                };
            }
            Step::Strange | Step::Stray => {
                self.cursor = cursor;
                return Verdict::OutOfRange;
            }
        };
        self.cursor = cursor;
        let at = self.slot(slot as usize);
        let body = match &mut self.slots[at] {
            Some(body) => body,
            empty => {
                let places = self.rule.frame_packets as usize;
                let mut body = self.spare.pop().unwrap_or_else(|| Body::new(places));
                body.opened = now;
                empty.insert(body)
            }
        };
        let index = index as usize;
        let (word, bit) = (&mut body.present[index / 64], 1 << (index % 64));
        if *word & bit != 0 {
            return Verdict::Duplicate;
        }
        *word |= bit;
        let first = body.chunks.len();
        body.chunks.extend(chunks());
        body.places[index] = Place {
            span,
            first: first as u32,
            count: (body.chunks.len() - first) as u32,
        };
        body.placed += 1;
        if body.is_full() {
            self.close_complete();
        }
        Verdict::Placed
    }

    /// The ring's place of the open frame `slot`, counted from the oldest.
    fn slot(&self, slot: usize) -> usize {
        let at = self.oldest + slot;
        if at < self.slots.len() {
            at
        } else {
            at - self.slots.len()
        }
    }

    /// Closes the oldest frame, or notes that there is nothing of it.
    fn close_oldest(&mut self, end: FrameEnd) {
        let at = self.oldest;
        self.oldest = self.slot(1);
        let number = self.cursor.head;
        self.cursor.head = number.wrapping_add(1);
        let Some(body) = self.slots[at].take() else {
            self.miss(1);
            return;
        };
        let complete = body.is_full();
        self.history = self.history << 1 | u64::from(complete);
        let end = if complete {
            self.stats.frames_complete += 1;
            FrameEnd::Complete
        } else {
            self.stats.frames_incomplete += 1;
            let missing = self.rule.frame_packets - u64::from(body.placed);
            self.stats.missing = self.stats.missing.saturating_add(missing);
            end
        };
        self.closed.push_back(Done {
            body,
            number,
            restarts: self.stats.restarts,
            end,
        });
    }

    fn miss(&mut self, frames: u64) {
        self.history = self.history.unbounded_shl(frames.min(64) as u32);
        self.stats.frames_missed = self.stats.frames_missed.saturating_add(frames);
        let places = frames.saturating_mul(self.rule.frame_packets);
        self.stats.missing = self.stats.missing.saturating_add(places);
    }

    /// Moves the window by `frames`.
    fn advance(&mut self, frames: u64, end: FrameEnd) {
        if frames == 0 {
            return;
        }
        let open = frames.min(self.slots.len() as u64);
        for _ in 0..open {
            self.close_oldest(end);
        }
        self.cursor.head = self.cursor.head.wrapping_add(frames - open);
        self.miss(frames - open);
        self.close_complete();
    }

    /// Closes the oldest frames that are complete.
    fn close_complete(&mut self) {
        while self.slots[self.oldest].as_ref().is_some_and(Body::is_full) {
            self.close_oldest(FrameEnd::Complete);
        }
    }

    /// Closes all frames up to the last that has a packet.
    pub(super) fn close_all(&mut self, end: FrameEnd) {
        let open = (0..self.slots.len())
            .rev()
            .find(|slot| self.slots[self.slot(*slot)].is_some());
        self.advance(open.map_or(0, |last| last as u64 + 1), end);
    }

    /// Closes the frames whose time is over, and those before them.
    pub(super) fn expire(&mut self, now: u64) {
        let Some(deadline) = self.deadline else {
            return;
        };
        let over = |body: &Body<C>| now.saturating_sub(body.opened) >= deadline;
        let last = (0..self.slots.len())
            .rev()
            .find(|slot| self.slots[self.slot(*slot)].as_ref().is_some_and(over));
        self.advance(last.map_or(0, |last| last as u64 + 1), FrameEnd::Expired);
    }

    /// When the time of the first frame is over, on the caller's clock.
    pub(super) fn next_deadline(&self) -> Option<u64> {
        let deadline = self.deadline?;
        let opened = self.slots.iter().flatten().map(|body| body.opened).min()?;
        Some(opened.saturating_add(deadline))
    }

    /// The next closed frame, in order.
    pub(super) fn next(&mut self) -> Option<Done<C>> {
        self.closed.pop_front()
    }

    /// Takes what a frame was made of, to use it again.
    pub(super) fn reuse(&mut self, mut body: Body<C>) {
        body.chunks.clear();
        body.present.fill(0);
        body.placed = 0;
        self.spare.push(body);
    }
}
