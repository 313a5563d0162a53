//! The XDP program for a set of rules.
//!
//! Its shape: the queue the packet came in on has rules, or the packet passes; the headers are walked once, as deep as the
//! rules need (module `parser`); then the queue's rules are compared one by one, each a straight line of comparisons that leaves
//! for the next rule at the first one that does not hold. Queues with the same rules, as those of one attachment have, share them. What a program takes is exactly what
//! [`FlowRule::matches`] takes of the frame's [`PacketKey`](crate::packet::PacketKey).
//!
//! A packet that a rule takes goes to the queue's socket by `bpf_redirect_map`, which answers `XDP_REDIRECT` if the queue has one, and
//! only then is it counted. One step can still lose it behind that: the socket's own rings, which count what they lose, and a
//! socket closed between the answer and the delivery; hence the order of ending a queue in [`super::Steering`].
//!
//! The headers of a frame that lies in several buffers are looked for in its first one.

use super::asm::{Asm, AsmError, Cond, Insn, Label, Op, Reg, Size};
use super::parser::{
    self, CONTEXT, DST, DST_MAC, DST_PORT, ETHER_TYPE, FAMILY, PROTOCOL, QUEUE, SRC, SRC_PORT,
    Slot, VERDICT, VLAN,
};
use crate::flow::{FlowRule, PortRange, Prefix};
use devrx_sabotage::removed;
use std::os::fd::RawFd;

/// Bytes between the counters of two queues: a cache line, so that two CPUs never share one.
pub const COUNTER_STRIDE: u32 = 64;

/// What a program in [`Target::Test`] answers for the first rule of a queue; one more for each further rule.
pub const TEST_VERDICT: u32 = 100;

/// The verdict that gives the packet to the kernel (uapi/linux/bpf.h, `enum xdp_action`).
pub const XDP_PASS: u32 = 2;
/// The verdict that gives it to a socket.
pub const XDP_REDIRECT: u32 = 4;

/// `bpf_redirect_map`, by its number in uapi/linux/bpf.h.
const REDIRECT_MAP: i32 = 51;
/// `bpf_map_lookup_elem`: the address of a value, or null. The kernel puts it in line for arrays.
const MAP_LOOKUP_ELEM: i32 = 1;

/// `rx_queue_index` in `struct xdp_md`.
const MD_QUEUE: i16 = 16;

/// What the program does with a packet that a rule takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Sends it to its queue's socket and counts it.
    Redirect {
        /// File descriptor of the map of sockets by queue.
        sockets: RawFd,
        /// File descriptor of the array of a value for each queue, [`COUNTER_STRIDE`] bytes, that begins with its counter.
        counters: RawFd,
    },
    /// Answers [`TEST_VERDICT`] plus the rule's position: which rule took it can be seen from outside, and no socket is needed.
    Test,
}

/// How far the headers have to be walked for a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Depth {
    Nothing,
    Ethernet,
    Addresses,
    Protocol,
    Ports,
}

impl Depth {
    fn of(rule: &FlowRule) -> Self {
        if rule.has_ports() {
            Self::Ports
        } else if rule.protocol().is_some() {
            Self::Protocol
        } else if rule.src().is_some() || rule.dst().is_some() {
            Self::Addresses
        } else if rule.is_any() {
            Self::Nothing
        } else {
            Self::Ethernet
        }
    }
}

/// The queues that have the same rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shared<'a> {
    pub(super) rules: &'a [FlowRule],
    /// Rising.
    pub(super) queues: Vec<u32>,
}

/// The lists of rules there are, each once, with the queues that have it. By rising first queue; queues without rules have no list.
pub(super) fn shared(queues: &[(u32, Vec<FlowRule>)]) -> Vec<Shared<'_>> {
    let mut lists: Vec<Shared<'_>> = Vec::new();
    for (queue, rules) in queues.iter().filter(|(_, rules)| !rules.is_empty()) {
        match lists
            .iter_mut()
            .find(|list| list.rules == rules && !removed("bpf-shared-lists"))
        {
            Some(list) => list.queues.push(*queue),
            None => lists.push(Shared {
                rules,
                queues: vec![*queue],
            }),
        }
    }
    lists
}

/// Rules from one place where jumps are relayed to the next. A jump reaches 32767 instructions; a rule takes 41 at the most.
const RELAY: usize = 512;

/// Writes the program. `queues` has the rules of each queue that has any, by rising queue number, all below [`super::MAX_QUEUES`].
/// Queues with the same rules share their code.
///
/// # Errors
///
/// [`AsmError::TooFar`] for more rules than a program can hold; [`super::MAX_RULES`] are far fewer.
pub fn generate(queues: &[(u32, Vec<FlowRule>)], target: Target) -> Result<Vec<Insn>, AsmError> {
    let mut asm = Asm::new();
    let lists = shared(queues);
    let pass = asm.label();
    if !lists.is_empty() {
        asm.alu_reg(Op::Mov, CONTEXT, Reg::R1);
        let depth = lists
            .iter()
            .flat_map(|list| list.rules)
            .map(Depth::of)
            .max()
            .unwrap_or(Depth::Nothing);
        if depth > Depth::Nothing {
            let start = asm.label();
            asm.load(Size::Word, Reg::R1, CONTEXT, MD_QUEUE);
            dispatch(
                &mut asm,
                &steps(lists.iter().map(|list| (list, start)), pass),
            );
            asm.bind(start);
            parser::emit(&mut asm, depth);
        }
        let mut starts: Vec<Label> = lists.iter().map(|_| asm.label()).collect();
        asm.load(Size::Word, Reg::R1, CONTEXT, MD_QUEUE);
        dispatch(
            &mut asm,
            &steps(lists.iter().zip(starts.iter().copied()), pass),
        );
        asm.bind(pass);
        pass_on(&mut asm);
        let mut next = 0;
        while next < lists.len() {
            let mut rules = 0;
            let end = lists[next..]
                .iter()
                .position(|list| {
                    rules += list.rules.len();
                    rules > RELAY
                })
                // A list alone is never too long.
                .map_or(lists.len(), |many| next + many.max(1));
            group(&mut asm, &lists[next..end], &starts[next..end], target);
            // Those further on are jumped to in several steps.
            for start in &mut starts[end..] {
                asm.bind(*start);
                *start = asm.label();
                asm.jump(*start);
            }
            next = end;
        }
    } else {
        asm.bind(pass);
        pass_on(&mut asm);
    }
    asm.finish()
}

fn pass_on(asm: &mut Asm) {
    asm.alu(Op::Mov, Reg::R0, XDP_PASS as i32);
    asm.exit();
}

/// Where each queue number goes: a label for all from one number to the next.
fn steps<'a>(
    lists: impl Iterator<Item = (&'a Shared<'a>, Label)>,
    miss: Label,
) -> Vec<(u32, Label)> {
    let mut to: Vec<(u32, Label)> = lists
        .flat_map(|(list, label)| list.queues.iter().map(move |queue| (*queue, label)))
        .collect();
    to.sort_unstable_by_key(|(queue, _)| *queue);
    let mut steps = vec![(0, miss)];
    for (queue, label) in to {
        // The last step holds from its number on, and is a miss.
        match steps.last_mut() {
            Some((from, last)) if *from == queue => *last = label,
            _ => steps.push((queue, label)),
        }
        if let [.., (_, before), (_, now)] = steps[..]
            && before == now
        {
            steps.pop();
        }
        steps.push((queue + 1, miss));
    }
    steps
}

/// Jumps to the label of the queue in R1, by bisection.
fn dispatch(asm: &mut Asm, steps: &[(u32, Label)]) {
    match steps {
        [] => {}
        [(_, label)] => asm.jump(*label),
        _ => {
            let (low, high) = steps.split_at(steps.len() / 2);
            let upper = asm.label();
            asm.jump_if(Cond::Ge, Reg::R1, high[0].0, upper);
            dispatch(asm, low);
            asm.bind(upper);
            dispatch(asm, high);
        }
    }
}

/// Some lists, and behind them what is done when a rule takes the packet, and when none does.
fn group(asm: &mut Asm, lists: &[Shared<'_>], starts: &[Label], target: Target) {
    let (hit, pass) = (asm.label(), asm.label());
    // The verifier refuses instructions that nothing reaches.
    let mut passes = false;
    for (list, start) in lists.iter().zip(starts) {
        asm.bind(*start);
        passes |= list_rules(asm, list.rules, target, hit, pass);
    }
    if passes {
        asm.bind(pass);
        pass_on(asm);
    }
    if let Target::Redirect { sockets, counters } = target {
        asm.bind(hit);
        redirect(asm, sockets, counters);
    }
}

/// One list of rules. Says whether it jumps to `pass`: not if it ends with a rule that takes everything.
fn list_rules(asm: &mut Asm, rules: &[FlowRule], target: Target, hit: Label, pass: Label) -> bool {
    for (position, rule) in rules.iter().enumerate() {
        let next = asm.label();
        compare(asm, rule, next);
        match target {
            Target::Redirect { .. } => asm.jump(hit),
            Target::Test => {
                asm.alu(Op::Mov, Reg::R0, (TEST_VERDICT as usize + position) as i32);
                asm.exit();
            }
        }
        asm.bind(next);
        if rule.is_any() {
            // Nothing gets past it.
            return false;
        }
    }
    asm.jump(pass);
    true
}

/// Gives the packet to the socket of its queue, and counts it if there is one.
fn redirect(asm: &mut Asm, sockets: RawFd, counters: RawFd) {
    let end = asm.label();
    asm.map(Reg::R1, sockets);
    asm.load(Size::Word, Reg::R2, CONTEXT, MD_QUEUE);
    // What it answers when the queue has no socket.
    asm.alu(Op::Mov, Reg::R3, XDP_PASS as i32);
    asm.call(REDIRECT_MAP);
    parser::keep(asm, VERDICT, Reg::R0);
    if !removed("bpf-count-redirected") {
        asm.jump_if(Cond::Ne, Reg::R0, XDP_REDIRECT, end);
    }
    asm.load(Size::Word, Reg::R1, CONTEXT, MD_QUEUE);
    parser::keep(asm, QUEUE, Reg::R1);
    asm.map(Reg::R1, counters);
    QUEUE.address(asm, Reg::R2);
    asm.call(MAP_LOOKUP_ELEM);
    asm.jump_if_null(Reg::R0, end);
    asm.alu(Op::Mov, Reg::R2, 1);
    asm.atomic_add64(Reg::R0, 0, Reg::R2);
    asm.bind(end);
    parser::fetch(asm, Reg::R0, VERDICT);
    asm.exit();
}

/// Falls through if `rule` takes the packet, else jumps to `next`.
fn compare(asm: &mut Asm, rule: &FlowRule, next: Label) {
    let mut equal = |slot, value: Option<u32>| {
        if let Some(value) = value {
            parser::fetch(asm, Reg::R0, slot);
            asm.jump_if(Cond::Ne, Reg::R0, value, next);
        }
    };
    // First what tells most frames apart.
    equal(ETHER_TYPE, rule.ether_type().map(u32::from));
    if let Some([a, b, c, d, e, f]) = rule.dst_mac() {
        equal(DST_MAC.plus(1), Some(u16::from_ne_bytes([e, f]).into()));
        equal(DST_MAC, Some(u32::from_ne_bytes([a, b, c, d])));
    }
    equal(PROTOCOL, rule.protocol().map(u32::from));
    equal(VLAN, rule.vlan().map(u32::from));
    equal(VLAN.plus(1), rule.inner_vlan().map(u32::from));
    compare_ports(asm, DST_PORT, rule.dst_port(), next);
    compare_ports(asm, SRC_PORT, rule.src_port(), next);
    compare_address(asm, SRC, rule.src(), next);
    compare_address(asm, DST, rule.dst(), next);
}

fn compare_ports(asm: &mut Asm, slot: Slot, range: Option<PortRange>, next: Label) {
    let Some(range) = range else { return };
    parser::fetch(asm, Reg::R0, slot);
    if range.first() == range.last() {
        asm.jump_if(Cond::Ne, Reg::R0, range.first().into(), next);
    } else {
        asm.jump_if(Cond::Lt, Reg::R0, range.first().into(), next);
        // An absent port is above every range.
        asm.jump_if(Cond::Gt, Reg::R0, range.last().into(), next);
    }
}

fn compare_address(asm: &mut Asm, slot: Slot, prefix: Option<Prefix>, next: Label) {
    let Some(prefix) = prefix else { return };
    parser::fetch(asm, Reg::R0, FAMILY);
    asm.jump_if(
        Cond::Ne,
        Reg::R0,
        if prefix.is_ipv4() { 4 } else { 6 },
        next,
    );
    for (word, (value, mask)) in prefix.words().into_iter().enumerate() {
        let (value, mask) = (u32::from_ne_bytes(value), u32::from_ne_bytes(mask));
        if mask == 0 {
            break;
        }
        parser::fetch(asm, Reg::R0, slot.plus(word as i16));
        if mask != u32::MAX {
            asm.alu32(Op::And, Reg::R0, mask);
        }
        asm.jump_if(Cond::Ne, Reg::R0, value, next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_with_the_same_rules_share_them() {
        let rules = |texts: &[&str]| -> Vec<FlowRule> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        let queues = [
            (0, rules(&["udp", "tcp"])),
            (1, rules(&["tcp", "udp"])),
            (2, vec![]),
            (5, rules(&["udp", "tcp"])),
        ];
        let lists: Vec<Vec<u32>> = shared(&queues)
            .into_iter()
            .map(|list| list.queues)
            .collect();
        assert_eq!(lists, [vec![0, 5], vec![1]], "the order of rules counts");
    }

    #[test]
    fn each_queue_number_goes_to_its_list() {
        let mut asm = Asm::new();
        let [miss, one, two] = std::array::from_fn(|_| asm.label());
        let rules = [FlowRule::ANY];
        let list = |queues: &[u32]| Shared {
            rules: &rules,
            queues: queues.to_vec(),
        };
        let (a, b) = (list(&[0, 1, 2, 4, 9]), list(&[3, 6, 8]));
        assert_eq!(
            steps([(&a, one), (&b, two)].into_iter(), miss),
            [
                (0, one),
                (3, two),
                (4, one),
                (5, miss),
                (6, two),
                (7, miss),
                (8, two),
                (9, one),
                (10, miss)
            ]
        );
        assert_eq!(
            steps([(&b, one)].into_iter(), miss)[..2],
            [(0, miss), (3, one)]
        );
    }
}
