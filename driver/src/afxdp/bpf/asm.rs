//! A small BPF assembler: instructions as method calls, jumps to labels, resolved at the end.
//!
//! The instruction set is that of Linux's Documentation/bpf/standardization/instruction-set.rst (RFC 9669). Only what the
//! [program](super::program) needs is here.

/// A register. R0 holds what a helper returns and the program's verdict, R1 to R5 are arguments and lost in a call, R6 to R9
/// survive calls, R10 is the frame pointer and read-only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[expect(missing_docs, reason = "registers have no other names")]
pub enum Reg {
    R0,
    R1,
    R2,
    R3,
    R4,
    R5,
    R6,
    R7,
    R8,
    R9,
    R10,
}

/// Bytes that a load or store moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Size {
    /// 4 bytes.
    Word = 0x00,
    /// 2 bytes.
    Half = 0x08,
    /// 1 byte.
    Byte = 0x10,
}

/// A comparison of unsigned numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Cond {
    /// Equal.
    Eq = 0x10,
    /// Greater.
    Gt = 0x20,
    /// Greater or equal.
    Ge = 0x30,
    /// Not equal.
    Ne = 0x50,
    /// Less.
    Lt = 0xa0,
}

/// Arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Op {
    /// Addition.
    Add = 0x00,
    /// And, bit by bit.
    And = 0x50,
    /// Shift left.
    Shl = 0x60,
    /// Shift right, zeroes coming in.
    Shr = 0x70,
    /// Set.
    Mov = 0xb0,
}

/// One instruction, as the kernel reads it (`struct bpf_insn` in linux/bpf.h).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Insn {
    code: u8,
    /// Destination register in one half, source register in the other.
    regs: u8,
    off: i16,
    imm: i32,
}

/// A place in the program to jump to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label(usize);

/// Why a program could not be put together. Only a fault in the generator, or far too many rules, can be the cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AsmError {
    /// A label was jumped to and never bound.
    #[error(
        "the generated BPF program jumps to a place that does not exist; this is a fault in devrx, please report it"
    )]
    Unbound,
    /// A jump of more than 32767 instructions.
    #[error("the generated BPF program is too long for its jumps; attach fewer rules")]
    TooFar,
}

const ALU32: u8 = 0x04;
const ALU64: u8 = 0x07;
const JMP: u8 = 0x05;
const JMP32: u8 = 0x06;
/// The operand is a register, not the immediate.
const REGISTER: u8 = 0x08;
/// `BPF_MEM`: an ordinary load or store.
const MEM: u8 = 0x60;

/// A program being written.
#[derive(Debug, Default)]
pub struct Asm {
    insns: Vec<Insn>,
    /// Where each label is bound.
    labels: Vec<Option<usize>>,
    /// Jumps to resolve: instruction, label.
    jumps: Vec<(usize, Label)>,
}

impl Asm {
    /// An empty program.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn push(&mut self, code: u8, dst: Reg, src: Reg, off: i16, imm: i32) {
        let (dst, src) = (dst as u8, src as u8);
        let regs = if cfg!(target_endian = "little") {
            src << 4 | dst
        } else {
            dst << 4 | src
        };
        self.insns.push(Insn {
            code,
            regs,
            off,
            imm,
        });
    }

    /// A label to be bound later.
    pub fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// Binds `label` to the next instruction.
    pub fn bind(&mut self, label: Label) {
        self.labels[label.0] = Some(self.insns.len());
    }

    /// 64-bit arithmetic with a number.
    pub fn alu(&mut self, op: Op, dst: Reg, imm: i32) {
        self.push(ALU64 | op as u8, dst, Reg::R0, 0, imm);
    }

    /// 64-bit arithmetic with a register.
    pub fn alu_reg(&mut self, op: Op, dst: Reg, src: Reg) {
        self.push(ALU64 | REGISTER | op as u8, dst, src, 0, 0);
    }

    /// 32-bit arithmetic with a number; the upper half of `dst` becomes zero.
    pub fn alu32(&mut self, op: Op, dst: Reg, imm: u32) {
        self.push(ALU32 | op as u8, dst, Reg::R0, 0, imm.cast_signed());
    }

    /// The lower 16 bits of `dst`, read as big-endian; the rest becomes zero.
    pub fn be16(&mut self, dst: Reg) {
        self.push(ALU32 | REGISTER | 0xd0, dst, Reg::R0, 0, 16);
    }

    /// `dst = *(size *)(base + off)`, the rest of `dst` zero.
    pub fn load(&mut self, size: Size, dst: Reg, base: Reg, off: i16) {
        self.push(0x01 | MEM | size as u8, dst, base, off, 0);
    }

    /// `*(size *)(base + off) = src`.
    pub fn store(&mut self, size: Size, base: Reg, off: i16, src: Reg) {
        self.push(0x03 | MEM | size as u8, base, src, off, 0);
    }

    /// `*(u64 *)(base + off) += src`, atomically.
    pub fn atomic_add64(&mut self, base: Reg, off: i16, src: Reg) {
        self.push(0x03 | 0xc0 | 0x18, base, src, off, 0);
    }

    /// Jumps always.
    pub fn jump(&mut self, to: Label) {
        self.jumps.push((self.insns.len(), to));
        self.push(JMP, Reg::R0, Reg::R0, 0, 0);
    }

    /// Jumps if the lower 32 bits of `reg` compare so with a number.
    pub fn jump_if(&mut self, cond: Cond, reg: Reg, imm: u32, to: Label) {
        self.jumps.push((self.insns.len(), to));
        self.push(JMP32 | cond as u8, reg, Reg::R0, 0, imm.cast_signed());
    }

    /// Jumps if `reg`, all 64 bits, is null: what a look-up answered may be used where it does not jump.
    pub fn jump_if_null(&mut self, reg: Reg, to: Label) {
        self.jumps.push((self.insns.len(), to));
        self.push(JMP | Cond::Eq as u8, reg, Reg::R0, 0, 0);
    }

    /// Jumps if all 64 bits of `reg` compare so with `other`; the only comparison that packet pointers allow.
    pub fn jump_if_reg(&mut self, cond: Cond, reg: Reg, other: Reg, to: Label) {
        self.jumps.push((self.insns.len(), to));
        self.push(JMP | REGISTER | cond as u8, reg, other, 0, 0);
    }

    /// `dst` = the map of file descriptor `fd`.
    pub fn map(&mut self, dst: Reg, fd: i32) {
        // The one instruction of 16 bytes; source register 1 is BPF_PSEUDO_MAP_FD.
        self.push(0x18, dst, Reg::R1, 0, fd);
        self.push(0, Reg::R0, Reg::R0, 0, 0);
    }

    /// Calls a helper by its number in linux/bpf.h.
    pub fn call(&mut self, helper: i32) {
        self.push(JMP | 0x80, Reg::R0, Reg::R0, 0, helper);
    }

    /// Ends the program with the verdict in R0.
    pub fn exit(&mut self) {
        self.push(JMP | 0x90, Reg::R0, Reg::R0, 0, 0);
    }

    /// How many instructions there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.insns.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.insns.is_empty()
    }

    /// The program with all jumps resolved.
    ///
    /// # Errors
    ///
    /// A label that was never bound, or a jump that is too far.
    pub fn finish(mut self) -> Result<Vec<Insn>, AsmError> {
        for (at, label) in self.jumps {
            let target = self.labels[label.0].ok_or(AsmError::Unbound)?;
            // Jumps count from the instruction behind them.
            let distance = target as i64 - at as i64 - 1;
            self.insns[at].off = i16::try_from(distance).map_err(|_| AsmError::TooFar)?;
        }
        Ok(self.insns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(insn: Insn) -> u64 {
        let regs = if cfg!(target_endian = "little") {
            insn.regs
        } else {
            insn.regs.rotate_left(4)
        };
        u64::from(insn.code)
            | u64::from(regs) << 8
            | u64::from(insn.off.cast_unsigned()) << 16
            | u64::from(insn.imm.cast_unsigned()) << 32
    }

    /// What `llvm-objdump -d` shows for the same instructions.
    #[test]
    fn instructions_are_those_of_the_kernel() {
        let mut asm = Asm::new();
        asm.load(Size::Word, Reg::R2, Reg::R1, 4);
        asm.alu(Op::Mov, Reg::R0, 2);
        asm.alu_reg(Op::Add, Reg::R4, Reg::R2);
        asm.store(Size::Half, Reg::R10, -4, Reg::R5);
        asm.be16(Reg::R3);
        asm.atomic_add64(Reg::R1, 64, Reg::R2);
        asm.call(51);
        asm.exit();
        let code: Vec<u64> = asm.finish().unwrap().into_iter().map(raw).collect();
        assert_eq!(
            code,
            [
                0x0000_0000_0004_1261, // r2 = *(u32 *)(r1 + 4)
                0x0000_0002_0000_00b7, // r0 = 2
                0x0000_0000_0000_240f, // r4 += r2
                0x0000_0000_fffc_5a6b, // *(u16 *)(r10 - 4) = r5
                0x0000_0010_0000_03dc, // r3 = be16 r3
                0x0000_0000_0040_21db, // lock *(u64 *)(r1 + 64) += r2
                0x0000_0033_0000_0085, // call 51
                0x0000_0000_0000_0095, // exit
            ]
        );
    }

    #[test]
    fn jumps_count_from_the_next_instruction() {
        let mut asm = Asm::new();
        let (back, forth) = (asm.label(), asm.label());
        asm.bind(back);
        asm.jump_if(Cond::Eq, Reg::R0, 7, forth);
        asm.jump(back);
        asm.bind(forth);
        asm.exit();
        let code: Vec<u64> = asm.finish().unwrap().into_iter().map(raw).collect();
        assert_eq!(
            code,
            [
                0x0000_0007_0001_0016,
                0x0000_0000_fffe_0005,
                0x0000_0000_0000_0095
            ]
        );
    }

    #[test]
    fn a_jump_to_nowhere_or_too_far_is_an_error() {
        let mut asm = Asm::new();
        let nowhere = asm.label();
        asm.jump(nowhere);
        assert_eq!(asm.finish(), Err(AsmError::Unbound));

        let mut asm = Asm::new();
        let far = asm.label();
        asm.jump(far);
        for _ in 0..32768 {
            asm.exit();
        }
        asm.bind(far);
        assert_eq!(asm.finish(), Err(AsmError::TooFar));
    }
}
