//! The header walk of [`crate::packet`], in BPF.
//!
//! What the rules compare is kept in stack slots; a field that is not there holds [`ABSENT`], a number that no rule can name.
//!
//! Two habits keep the verifier's work small, whatever the rules are. It follows every path through a program, and merges two
//! paths only where what it knows of them is alike; without care the paths of eight extension headers multiply.
//! * A slot is 4 bytes at an address that is *not* a multiple of 8. The verifier keeps what it knows of a number only when that is
//!   stored at a multiple of 8; here it forgets it, and a number read back is any number.
//! * Where the walk stands is an offset in such a slot, not a pointer. Each header starts anew from the packet's first byte with an
//!   offset that is any number, bounds it, and makes a pointer of it. So the state at the start of a header is the same on every way to it.

use super::asm::{Asm, Cond, Label, Op, Reg, Size};
use super::program::Depth;
use crate::packet::{ETHERNET_HEADER, MAX_EXTENSIONS, MAX_HEADERS, ether_type, protocol};
use devrx_sabotage::removed;

/// What a slot holds whose field the frame does not have.
pub(super) const ABSENT: u32 = u32::MAX;

/// A stack slot: its place under the frame pointer.
#[derive(Clone, Copy)]
pub(super) struct Slot(i16);

impl Slot {
    const fn new(number: i16) -> Self {
        Self(-8 * (number + 1) + 4)
    }

    /// The next slot but `n - 1`.
    pub(super) const fn plus(self, n: i16) -> Self {
        Self(self.0 - 8 * n)
    }

    /// Its address.
    pub(super) fn address(self, asm: &mut Asm, to: Reg) {
        asm.alu_reg(Op::Mov, to, Reg::R10);
        asm.alu(Op::Add, to, self.0.into());
    }
}

/// 4 or 6 when the addresses are there.
pub(super) const FAMILY: Slot = Slot::new(0);
pub(super) const ETHER_TYPE: Slot = Slot::new(1);
/// Two slots.
pub(super) const VLAN: Slot = Slot::new(2);
pub(super) const PROTOCOL: Slot = Slot::new(4);
pub(super) const SRC_PORT: Slot = Slot::new(5);
pub(super) const DST_PORT: Slot = Slot::new(6);
/// Four slots each, of words as they are in the packet.
pub(super) const SRC: Slot = Slot::new(7);
pub(super) const DST: Slot = Slot::new(11);
/// The Ethernet destination: a word as it is in the packet, then a half word, whose being there tells whether either is.
pub(super) const DST_MAC: Slot = Slot::new(15);
const RULE_SLOTS: i16 = 17;
/// Offset in the frame of the next header.
const OFFSET: Slot = Slot::new(17);
/// Offset in the frame that headers end at or before.
const LIMIT: Slot = Slot::new(18);
/// The next header's number, in the walk over IPv6 extension headers.
const NEXT: Slot = Slot::new(19);
/// When the walk is over: the verdict, and the queue's number as a map's key.
pub(super) const VERDICT: Slot = Slot::new(20);
pub(super) const QUEUE: Slot = Slot::new(21);

/// `struct xdp_md`.
pub(super) const MD_DATA: i16 = 0;
pub(super) const MD_DATA_END: i16 = 4;

/// Holds the context all through the program.
pub(super) const CONTEXT: Reg = Reg::R6;
/// First byte of the packet, since the last [`Walk::window`].
const DATA: Reg = Reg::R2;
const DATA_END: Reg = Reg::R3;
/// The header that the last [`Walk::window`] opened.
const HEADER: Reg = Reg::R4;
/// A header's length on its way to [`Walk::advance`].
const LENGTH: Reg = Reg::R5;
const OFF: Reg = Reg::R7;
const END: Reg = Reg::R8;
const IP_END: Reg = Reg::R9;
const TEMP: Reg = Reg::R0;
const SCRATCH: Reg = Reg::R1;

/// Reads a slot.
pub(super) fn fetch(asm: &mut Asm, to: Reg, slot: Slot) {
    asm.load(Size::Word, to, Reg::R10, slot.0);
}

/// Writes a slot.
pub(super) fn keep(asm: &mut Asm, slot: Slot, from: Reg) {
    asm.store(Size::Word, Reg::R10, slot.0, from);
}

/// Writes the walk as far as `depth`, with `done` bound behind it: there the slots say what was found.
pub(super) fn emit(asm: &mut Asm, depth: Depth) {
    let done = asm.label();
    let mut walk = Walk { asm, depth, done };
    walk.ethernet();
    asm.bind(done);
}

struct Walk<'a> {
    asm: &'a mut Asm,
    depth: Depth,
    /// Where a walk ends, at its goal or at a fault.
    done: Label,
}

impl Walk<'_> {
    /// Opens `n` bytes at the offset kept: HEADER points to them, OFF and END are loaded. Else the walk is done.
    fn window(&mut self, n: usize) {
        let (asm, done) = (&mut *self.asm, self.done);
        fetch(asm, OFF, OFFSET);
        fetch(asm, END, LIMIT);
        asm.jump_if(Cond::Gt, OFF, (MAX_HEADERS - n) as u32, done);
        asm.alu_reg(Op::Mov, SCRATCH, OFF);
        asm.alu(Op::Add, SCRATCH, n as i32);
        asm.jump_if_reg(Cond::Gt, SCRATCH, END, done);
        asm.load(Size::Word, DATA, CONTEXT, MD_DATA);
        asm.load(Size::Word, DATA_END, CONTEXT, MD_DATA_END);
        asm.alu_reg(Op::Mov, HEADER, DATA);
        asm.alu_reg(Op::Add, HEADER, OFF);
        asm.alu_reg(Op::Mov, SCRATCH, HEADER);
        asm.alu(Op::Add, SCRATCH, n as i32);
        asm.jump_if_reg(Cond::Gt, SCRATCH, DATA_END, done);
    }

    /// Moves on by LENGTH bytes, if that many are there; else the walk is done. HEADER stays.
    fn advance(&mut self) {
        let (asm, done) = (&mut *self.asm, self.done);
        asm.alu_reg(Op::Add, OFF, LENGTH);
        asm.jump_if(Cond::Gt, OFF, MAX_HEADERS as u32, done);
        asm.jump_if_reg(Cond::Gt, OFF, END, done);
        asm.alu_reg(Op::Mov, SCRATCH, DATA);
        asm.alu_reg(Op::Add, SCRATCH, OFF);
        asm.jump_if_reg(Cond::Gt, SCRATCH, DATA_END, done);
        keep(asm, OFFSET, OFF);
    }

    /// A big-endian half word of the header.
    fn half(&mut self, to: Reg, at: i16) {
        self.asm.load(Size::Half, to, HEADER, at);
        self.asm.be16(to);
    }

    /// Keeps 4-byte words of the header, `words` from `at` on.
    fn keep_words(&mut self, slot: Slot, at: i16, words: i16) {
        for word in 0..words {
            self.asm.load(Size::Word, TEMP, HEADER, at + 4 * word);
            keep(self.asm, slot.plus(word), TEMP);
        }
    }

    fn keep_number(&mut self, slot: Slot, number: u32) {
        self.asm.alu32(Op::Mov, TEMP, number);
        keep(self.asm, slot, TEMP);
    }

    /// Headers must end at IP_END, if that is before where they must end already.
    fn limit_to_ip_end(&mut self) {
        let skip = self.asm.label();
        self.asm.jump_if_reg(Cond::Ge, IP_END, END, skip);
        keep(self.asm, LIMIT, IP_END);
        self.asm.bind(skip);
    }

    fn ethernet(&mut self) {
        for slot in 0..RULE_SLOTS {
            if slot == 0 {
                self.asm.alu32(Op::Mov, TEMP, ABSENT);
            }
            keep(self.asm, Slot::new(slot), TEMP);
        }
        self.keep_number(LIMIT, MAX_HEADERS as u32);
        self.keep_number(OFFSET, 0);
        self.window(ETHERNET_HEADER);
        self.keep_words(DST_MAC, 0, 1);
        self.asm.load(Size::Half, TEMP, HEADER, 4);
        if !removed("bpf-dst-mac") {
            keep(self.asm, DST_MAC.plus(1), TEMP);
        }
        self.half(TEMP, 12);
        self.asm.alu(Op::Add, OFF, ETHERNET_HEADER as i32);
        keep(self.asm, OFFSET, OFF);

        // TEMP is the ether type.
        let inner = self.asm.label();
        let tags = if removed("bpf-vlan") { 1 } else { 2 };
        for tag in 0..tags {
            let tagged = self.asm.label();
            for kind in ether_type::VLAN {
                self.asm.jump_if(Cond::Eq, TEMP, kind.into(), tagged);
            }
            self.asm.jump(inner);
            self.asm.bind(tagged);
            self.window(4);
            self.half(TEMP, 0);
            self.asm.alu(Op::And, TEMP, 0x0fff);
            keep(self.asm, VLAN.plus(tag), TEMP);
            self.half(TEMP, 2);
            self.asm.alu(Op::Add, OFF, 4);
            keep(self.asm, OFFSET, OFF);
        }
        self.asm.bind(inner);
        keep(self.asm, ETHER_TYPE, TEMP);
        if self.depth >= Depth::Addresses {
            let (ipv4, ipv6) = (self.asm.label(), self.asm.label());
            self.asm
                .jump_if(Cond::Eq, TEMP, ether_type::IPV4.into(), ipv4);
            self.asm
                .jump_if(Cond::Eq, TEMP, ether_type::IPV6.into(), ipv6);
            self.asm.jump(self.done);
            let transport = self.asm.label();
            self.asm.bind(ipv6);
            self.ipv6(transport);
            self.asm.bind(ipv4);
            self.ipv4();
            if self.depth >= Depth::Ports {
                self.asm.bind(transport);
                self.transport();
            }
        }
    }

    /// Ends by falling through to the transport header.
    fn ipv4(&mut self) {
        let done = self.done;
        self.window(20);
        self.asm.load(Size::Byte, LENGTH, HEADER, 0);
        self.asm.alu_reg(Op::Mov, TEMP, LENGTH);
        self.asm.alu(Op::Shr, TEMP, 4);
        self.asm.jump_if(Cond::Ne, TEMP, 4, done);
        self.asm.alu(Op::And, LENGTH, 0x0f);
        self.asm.alu(Op::Shl, LENGTH, 2);
        self.asm.jump_if(Cond::Lt, LENGTH, 20, done);
        self.half(IP_END, 2);
        self.asm.jump_if_reg(Cond::Lt, IP_END, LENGTH, done);
        self.asm.alu_reg(Op::Add, IP_END, OFF);
        self.advance();
        self.keep_words(SRC, 12, 1);
        self.keep_words(DST, 16, 1);
        self.keep_number(FAMILY, 4);
        self.asm.load(Size::Byte, TEMP, HEADER, 9);
        keep(self.asm, PROTOCOL, TEMP);
        if self.depth >= Depth::Ports {
            self.half(TEMP, 6);
            self.asm.alu(
                Op::And,
                TEMP,
                if removed("bpf-fragments") { 0 } else { 0x1fff },
            );
            self.asm.jump_if(Cond::Ne, TEMP, 0, done);
            self.limit_to_ip_end();
        }
    }

    /// Ends with a jump to `transport` or to the end.
    fn ipv6(&mut self, transport: Label) {
        let done = self.done;
        self.window(40);
        self.asm.load(Size::Byte, TEMP, HEADER, 0);
        self.asm.alu(Op::Shr, TEMP, 4);
        self.asm.jump_if(Cond::Ne, TEMP, 6, done);
        self.keep_words(SRC, 8, 4);
        self.keep_words(DST, 24, 4);
        self.keep_number(FAMILY, 6);
        if self.depth < Depth::Protocol {
            self.asm.jump(done);
            return;
        }
        self.half(IP_END, 4);
        let unknown = self.asm.label();
        self.asm.jump_if(Cond::Eq, IP_END, 0, unknown);
        self.asm.alu_reg(Op::Add, IP_END, OFF);
        self.asm.alu(Op::Add, IP_END, 40);
        self.limit_to_ip_end();
        self.asm.bind(unknown);
        self.asm.alu(Op::Add, OFF, 40);
        keep(self.asm, OFFSET, OFF);
        self.asm.load(Size::Byte, TEMP, HEADER, 6);
        keep(self.asm, NEXT, TEMP);

        let (found, later) = (self.asm.label(), self.asm.label());
        for _ in 0..MAX_EXTENSIONS {
            self.extension(found, later);
        }
        self.jump_if_extension(done);
        self.asm.jump(found);

        self.asm.bind(later);
        self.jump_if_extension(done);
        keep(self.asm, PROTOCOL, TEMP);
        self.asm.jump(done);

        self.asm.bind(found);
        fetch(self.asm, TEMP, NEXT);
        keep(self.asm, PROTOCOL, TEMP);
        self.asm.jump(if self.depth >= Depth::Ports {
            transport
        } else {
            done
        });
    }

    /// Loads NEXT to TEMP, and jumps if it is the number of an extension header.
    fn jump_if_extension(&mut self, to: Label) {
        fetch(self.asm, TEMP, NEXT);
        for number in protocol::EIGHTS
            .into_iter()
            .chain([protocol::AUTHENTICATION, protocol::FRAGMENT])
        {
            self.asm.jump_if(Cond::Eq, TEMP, number.into(), to);
        }
    }

    /// Walks over one extension header if there is one, else jumps to `found`; to `later` if this is a later fragment.
    fn extension(&mut self, found: Label, later: Label) {
        let [eights, fours, fragment, step] = std::array::from_fn(|_| self.asm.label());
        fetch(self.asm, TEMP, NEXT);
        for number in protocol::EIGHTS {
            self.asm.jump_if(Cond::Eq, TEMP, number.into(), eights);
        }
        self.asm
            .jump_if(Cond::Eq, TEMP, protocol::AUTHENTICATION.into(), fours);
        self.asm
            .jump_if(Cond::Eq, TEMP, protocol::FRAGMENT.into(), fragment);
        self.asm.jump(found);

        self.asm.bind(fragment);
        self.window(8);
        self.asm.load(Size::Byte, TEMP, HEADER, 0);
        keep(self.asm, NEXT, TEMP);
        self.half(TEMP, 2);
        self.asm.alu(
            Op::And,
            TEMP,
            if removed("bpf-fragments") { 0 } else { 0xfff8 },
        );
        self.asm.jump_if(Cond::Ne, TEMP, 0, later);
        self.asm.alu(Op::Mov, LENGTH, 8);
        self.asm.jump(step);

        self.asm.bind(fours);
        self.window(2);
        self.asm.load(Size::Byte, TEMP, HEADER, 0);
        keep(self.asm, NEXT, TEMP);
        self.asm.load(Size::Byte, LENGTH, HEADER, 1);
        self.asm.jump_if(Cond::Eq, LENGTH, 0, self.done);
        self.asm.alu(Op::Add, LENGTH, 2);
        self.asm.alu(Op::Shl, LENGTH, 2);
        self.asm.jump(step);

        self.asm.bind(eights);
        self.window(2);
        self.asm.load(Size::Byte, TEMP, HEADER, 0);
        keep(self.asm, NEXT, TEMP);
        self.asm.load(Size::Byte, LENGTH, HEADER, 1);
        self.asm.alu(Op::Add, LENGTH, 1);
        self.asm.alu(Op::Shl, LENGTH, 3);

        self.asm.bind(step);
        self.advance();
    }

    /// UDP and TCP have their ports at the same place. Falls through to the end.
    fn transport(&mut self) {
        let [udp, tcp, ports] = std::array::from_fn(|_| self.asm.label());
        fetch(self.asm, TEMP, PROTOCOL);
        self.asm.jump_if(Cond::Eq, TEMP, protocol::UDP.into(), udp);
        self.asm.jump_if(Cond::Eq, TEMP, protocol::TCP.into(), tcp);
        self.asm.jump(self.done);

        self.asm.bind(tcp);
        self.window(20);
        self.asm.load(Size::Byte, LENGTH, HEADER, 12);
        self.asm.alu(Op::Shr, LENGTH, 4);
        self.asm.alu(Op::Shl, LENGTH, 2);
        self.asm.jump_if(Cond::Lt, LENGTH, 20, self.done);
        self.advance();
        self.asm.jump(ports);

        self.asm.bind(udp);
        self.window(8);

        self.asm.bind(ports);
        self.half(TEMP, 0);
        keep(self.asm, SRC_PORT, TEMP);
        self.half(TEMP, 2);
        keep(self.asm, DST_PORT, TEMP);
    }
}
