//! The XDP program for a set of rules.
//!
//! Its shape: the queue the packet came in on has rules, or the packet passes; the headers are walked once, as deep as the
//! rules need (module `parser`); then the queue's rules are compared one by one, each a straight line of comparisons that leaves
//! for the next rule at the first one that does not hold. What a program takes is exactly what
//! [`FlowRule::matches`] takes of the frame's [`PacketKey`](crate::packet::PacketKey).
//!
//! A packet that a rule takes goes to the queue's socket by `bpf_redirect_map`, which answers `XDP_REDIRECT` if the queue has one, and
//! only then is it counted. One step can still lose it behind that: the socket's own rings, which count what they lose, and a
//! socket closed between the answer and the delivery; hence the order of ending a queue in [`super::Steering`].
//!
//! The headers of a frame that lies in several buffers are looked for in its first one.

use super::asm::{Asm, AsmError, Cond, Insn, Label, Op, Reg, Size};
use super::parser::{
    self, CONTEXT, DST, DST_PORT, ETHER_TYPE, FAMILY, PROTOCOL, SRC, SRC_PORT, Slot, VLAN,
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

/// `rx_queue_index` in `struct xdp_md`.
const MD_QUEUE: i16 = 16;

/// What the program does with a packet that a rule takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Sends it to its queue's socket and counts it.
    Redirect {
        /// File descriptor of the map of sockets by queue.
        sockets: RawFd,
        /// File descriptor of the array whose one value has a counter every [`COUNTER_STRIDE`] bytes.
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

/// Writes the program. `queues` has the rules of each queue that has any, by rising queue number.
///
/// # Errors
///
/// [`AsmError::TooFar`] for more rules than a program can hold; [`super::MAX_RULES`] are far fewer.
pub fn generate(queues: &[(u32, Vec<FlowRule>)], target: Target) -> Result<Vec<Insn>, AsmError> {
    let mut asm = Asm::new();
    let queues: Vec<&(u32, Vec<FlowRule>)> = queues
        .iter()
        .filter(|(_, rules)| !rules.is_empty())
        .collect();
    let pass = asm.label();
    if !queues.is_empty() {
        asm.alu_reg(Op::Mov, CONTEXT, Reg::R1);
        let depth = queues
            .iter()
            .flat_map(|(_, rules)| rules)
            .map(Depth::of)
            .max()
            .unwrap_or(Depth::Nothing);
        if depth > Depth::Nothing {
            let start = asm.label();
            let all: Vec<(u32, Label)> = queues.iter().map(|(queue, _)| (*queue, start)).collect();
            asm.load(Size::Word, Reg::R1, CONTEXT, MD_QUEUE);
            dispatch(&mut asm, &all, pass);
            asm.bind(start);
            parser::emit(&mut asm, depth);
        }
        let starts: Vec<(u32, Label)> = queues
            .iter()
            .map(|(queue, _)| (*queue, asm.label()))
            .collect();
        asm.load(Size::Word, Reg::R1, CONTEXT, MD_QUEUE);
        dispatch(&mut asm, &starts, pass);
        for ((queue, rules), (_, start)) in queues.into_iter().zip(starts) {
            asm.bind(start);
            queue_rules(&mut asm, *queue, rules, target, pass);
        }
    }
    asm.bind(pass);
    asm.alu(Op::Mov, Reg::R0, XDP_PASS as i32);
    asm.exit();
    asm.finish()
}

/// Jumps to the label of the queue in R1, by bisection; to `miss` if it is none of them.
fn dispatch(asm: &mut Asm, queues: &[(u32, Label)], miss: Label) {
    if queues.len() <= 2 {
        for (queue, label) in queues {
            asm.jump_if(Cond::Eq, Reg::R1, *queue, *label);
        }
        asm.jump(miss);
        return;
    }
    let (low, high) = queues.split_at(queues.len() / 2);
    let upper = asm.label();
    asm.jump_if(Cond::Ge, Reg::R1, high[0].0, upper);
    dispatch(asm, low, miss);
    asm.bind(upper);
    dispatch(asm, high, miss);
}

/// The rules of one queue, and what is done when one takes the packet.
fn queue_rules(asm: &mut Asm, queue: u32, rules: &[FlowRule], target: Target, pass: Label) {
    let hit = asm.label();
    let mut all = false;
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
            // Nothing gets past it, and the verifier refuses instructions that nothing reaches.
            all = true;
            break;
        }
    }
    if !all {
        asm.jump(pass);
    }
    if let Target::Redirect { sockets, counters } = target {
        let end = asm.label();
        asm.bind(hit);
        asm.map(Reg::R1, sockets);
        asm.load(Size::Word, Reg::R2, CONTEXT, MD_QUEUE);
        // What it answers when the queue has no socket.
        asm.alu(Op::Mov, Reg::R3, XDP_PASS as i32);
        asm.call(REDIRECT_MAP);
        if !removed("bpf-count-redirected") {
            asm.jump_if(Cond::Ne, Reg::R0, XDP_REDIRECT, end);
        }
        asm.map_value(Reg::R1, counters, queue * COUNTER_STRIDE);
        asm.alu(Op::Mov, Reg::R2, 1);
        asm.atomic_add64(Reg::R1, 0, Reg::R2);
        asm.bind(end);
        asm.exit();
    }
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
