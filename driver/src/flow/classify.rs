//! Telling a queue's thread which rules it has, without a lock on its way.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use devrx_provider::ChunkIndex;

use super::FlowRule;
use super::everyday::{Everyday, HEADER, LOOK};
use crate::chunk::NO_FLOW;
use crate::packet::PacketKey;
use crate::queue::HeaderSlots;

/// The rules of a queue: the id that packets are marked with, and the rule, in the order they were added.
pub type Rules = Vec<(u16, FlowRule)>;

/// The controlling side: says what the rules are.
#[derive(Debug, Default)]
pub(crate) struct RuleBoard {
    version: AtomicU32,
    /// What the queue shall take next; or what it gave back, which the next `set` frees.
    slot: Mutex<Set>,
}

/// The rules, as they are and as they apply to everyday packets.
#[derive(Debug, Default)]
struct Set {
    rules: Rules,
    everyday: Everyday,
}

impl RuleBoard {
    /// From its next poll on the queue goes by `rules`.
    pub(crate) fn set(&self, rules: Rules) {
        let everyday = Everyday::new(&rules);
        let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        *slot = Set { rules, everyday };
        // Under the lock: a version and what is in the slot belong together, or the queue would swap twice and end with what it had.
        if !devrx_sabotage::removed("rules-version-under-lock") {
            self.version.fetch_add(1, Ordering::Release);
        }
        drop(slot);
        if devrx_sabotage::removed("rules-version-under-lock") {
            std::thread::yield_now();
            self.version.fetch_add(1, Ordering::Release);
        }
    }
}

/// The queue's side.
#[derive(Debug)]
pub(crate) struct Classifier {
    board: Arc<RuleBoard>,
    seen: u32,
    set: Set,
}

impl Classifier {
    pub(crate) fn new(board: Arc<RuleBoard>) -> Self {
        // The board's version is behind by one for sure: the first look takes what is there.
        let seen = board.version.load(Ordering::Relaxed).wrapping_sub(1);
        let mut new = Self {
            board,
            seen,
            set: Set::default(),
        };
        new.look();
        new
    }

    /// Takes new rules, if there are any: one load when there are none. Never waits: when the other side is just writing, the next look will do. The
    /// old rules are left with the other side, so that nothing is freed here.
    #[inline]
    pub(crate) fn look(&mut self) {
        let version = self.board.version.load(Ordering::Acquire);
        if version != self.seen
            && let Ok(mut slot) = self.board.slot.try_lock()
        {
            std::mem::swap(&mut *slot, &mut self.set);
            self.seen = self.board.version.load(Ordering::Acquire);
        }
    }

    /// Whether a packet's headers decide which rule takes it: not while there is but one and was none before, since that one brought
    /// it. What a rule brought that is gone may still be on its way.
    #[inline]
    pub(crate) fn needs_key(&self) -> bool {
        self.set.rules.len() > 1 || self.seen > 1
    }

    /// The rule for any packet, where [`needs_key`](Self::needs_key) is false.
    #[inline]
    pub(crate) fn only(&self) -> u16 {
        self.set.rules.first().map_or(NO_FLOW, |(id, _)| *id)
    }

    /// The rule that takes every packet before any other is asked, if there is one. For a NIC that filters nothing itself: there the
    /// headers decide even where the rule is the only one.
    #[inline]
    pub(crate) fn takes_all(&self) -> Option<u16> {
        self.set
            .rules
            .first()
            .filter(|(_, rule)| rule.is_any())
            .map(|(id, _)| *id)
    }

    /// The first rule that takes a packet of which nothing is known; [`NO_FLOW`] if none.
    #[inline]
    pub(crate) fn any(&self) -> u16 {
        let any = self.set.rules.iter().find(|(_, rule)| rule.is_any());
        any.map_or(NO_FLOW, |(id, _)| *id)
    }

    /// The first rule that takes a packet with these headers, whatever brought it; [`NO_FLOW`] if none.
    #[inline]
    pub(crate) fn find(&self, key: &PacketKey) -> u16 {
        let rule = self.set.rules.iter().find(|(_, rule)| rule.matches(key));
        rule.map_or(NO_FLOW, |(id, _)| *id)
    }

    /// The same for a packet with a header of everyday shape, `header` bytes long, by its slot. `None` where that does not tell, and the headers are to be walked;
    /// and where no rule takes it, since such packets are counted there.
    #[inline(always)]
    pub(crate) fn everyday(
        &self,
        headers: &HeaderSlots,
        chunk: ChunkIndex,
        header: u16,
    ) -> Option<u16> {
        let mut look = [0; LOOK];
        let seen = usize::from(header) == HEADER
            && headers.slot_size as usize >= LOOK
            && headers
                .memory
                .copy_out(headers.offset_of(chunk)?, &mut look);
        let flow = seen.then(|| self.set.everyday.find(&look)).flatten()?;
        (flow != NO_FLOW).then_some(flow)
    }

    /// The first rule that takes a packet with these headers.
    #[inline]
    pub(crate) fn classify(&self, key: &PacketKey) -> u16 {
        if !self.needs_key() {
            return self.only();
        }
        self.find(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::FlowRule;

    fn key(port: u16) -> PacketKey {
        PacketKey {
            protocol: Some(17),
            dst_port: Some(port),
            src_port: Some(1),
            ether_type: Some(0x0800),
            ..PacketKey::default()
        }
    }

    #[test]
    fn the_first_rule_that_matches_names_the_flow() {
        let board = Arc::new(RuleBoard::default());
        let mut classifier = Classifier::new(Arc::clone(&board));
        assert_eq!(classifier.classify(&key(5000)), NO_FLOW);
        board.set(vec![(7, FlowRule::ANY)]);
        assert_eq!(classifier.only(), NO_FLOW, "not looked yet");
        classifier.look();
        assert!(!classifier.needs_key());
        assert_eq!(
            classifier.classify(&PacketKey::default()),
            7,
            "one rule: whatever came is its"
        );
        let udp: FlowRule = "udp,dst-port=5000".parse().unwrap();
        let other: FlowRule = "udp,dst-port=5001".parse().unwrap();
        board.set(vec![(1, udp), (2, other), (3, udp)]);
        classifier.look();
        assert_eq!(
            [5000, 5001, 5002].map(|port| classifier.classify(&key(port))),
            [1, 2, NO_FLOW]
        );
        board.set(Vec::new());
        classifier.look();
        assert_eq!(classifier.classify(&key(5000)), NO_FLOW);
    }

    /// A packet that a removed rule has brought is not passed off as one of the rule that is left.
    #[test]
    fn what_a_removed_rule_brought_is_not_the_others() {
        let board = Arc::new(RuleBoard::default());
        let mut classifier = Classifier::new(Arc::clone(&board));
        classifier.look();
        assert!(!classifier.needs_key(), "no rules yet");
        let rule = |port: u16| format!("udp,dst-port={port}").parse::<FlowRule>().unwrap();
        // The queue need not have seen the rule that brought it.
        board.set(vec![(1, rule(5000))]);
        board.set(vec![(1, rule(5000)), (2, rule(5001))]);
        board.set(vec![(2, rule(5001))]);
        classifier.look();
        assert!(classifier.needs_key());
        assert_eq!(
            [5000, 5001].map(|port| classifier.classify(&key(port))),
            [NO_FLOW, 2]
        );
        board.set(vec![(3, FlowRule::ANY)]);
        classifier.look();
        assert_eq!(classifier.classify(&key(5000)), 3);
    }

    /// However the two sides meet, once the writer is done one look gets its last word.
    #[test]
    fn rules_never_go_back() {
        let board = Arc::new(RuleBoard::default());
        let mut classifier = Classifier::new(Arc::clone(&board));
        for round in 0..200 {
            let writer = std::thread::spawn({
                let board = Arc::clone(&board);
                move || (0..=200).for_each(|id| board.set(vec![(id, FlowRule::ANY)]))
            });
            let mut last = 0;
            while !writer.is_finished() {
                classifier.look();
                let now = classifier.only();
                if now != 200 && now != NO_FLOW {
                    assert!(now >= last, "round {round}: {now} after {last}");
                    last = now;
                }
            }
            writer.join().unwrap();
            classifier.look();
            assert_eq!(classifier.only(), 200);
        }
    }
}
