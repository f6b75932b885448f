// SPDX-License-Identifier: GPL-2.0

//! Add, subtract, logic, compare, increment, negate, and their flags.

use super::cpu::Stop;
use super::operand::{mask, sign, Use};
use super::Ctx;
use crate::x86::ctrl::rflags;

/// The eight two-operand operations, in encoding order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Add,
    Or,
    Adc,
    Sbb,
    And,
    Sub,
    Xor,
    Cmp,
}

impl Op {
    /// From the opcode bits 5:3 or ModRM.reg.
    pub(super) const fn from_bits(n: u8) -> Self {
        match n & 7 {
            0 => Self::Add,
            1 => Self::Or,
            2 => Self::Adc,
            3 => Self::Sbb,
            4 => Self::And,
            5 => Self::Sub,
            6 => Self::Xor,
            _ => Self::Cmp,
        }
    }
}

/// SF, ZF and PF of a result.
pub(super) fn result_flags(size: u8, value: u64) -> u64 {
    let value = value & mask(size);
    let mut f = 0;
    if value == 0 {
        f |= rflags::ZF;
    }
    if value & sign(size) != 0 {
        f |= rflags::SF;
    }
    // CAST: PF looks at the low byte only.
    if (value as u8).count_ones() & 1 == 0 {
        f |= rflags::PF;
    }
    f
}

/// Replaces the flags in `which` by those of `new`.
pub(super) fn set_flags(flags: &mut u64, which: u64, new: u64) {
    *flags = (*flags & !which) | (new & which);
}

/// `a + b + carry`, with all six status flags.
pub(super) fn add(size: u8, a: u64, b: u64, carry: bool, flags: &mut u64) -> u64 {
    let r = a.wrapping_add(b).wrapping_add(u64::from(carry));
    // The carry out of each bit position.
    let out = (a & b) | ((a | b) & !r);
    arith_flags(size, r, out, a ^ b ^ r, (a ^ r) & (b ^ r), flags)
}

/// `a - b - borrow`, with all six status flags.
pub(super) fn sub(size: u8, a: u64, b: u64, borrow: bool, flags: &mut u64) -> u64 {
    let r = a.wrapping_sub(b).wrapping_sub(u64::from(borrow));
    let out = (!a & b) | ((!a | b) & r);
    arith_flags(size, r, out, a ^ b ^ r, (a ^ b) & (a ^ r), flags)
}

fn arith_flags(size: u8, r: u64, out: u64, half: u64, over: u64, flags: &mut u64) -> u64 {
    let mut f = result_flags(size, r);
    if out & sign(size) != 0 {
        f |= rflags::CF;
    }
    if half & 0x10 != 0 {
        f |= rflags::AF;
    }
    if over & sign(size) != 0 {
        f |= rflags::OF;
    }
    set_flags(flags, rflags::STATUS, f);
    r & mask(size)
}

/// A logic result: CF and OF are cleared; AF, which is undefined, too.
pub(super) fn logic(size: u8, r: u64, flags: &mut u64) -> u64 {
    set_flags(flags, rflags::STATUS, result_flags(size, r));
    r & mask(size)
}

/// `a op b`. For `Cmp` the result is the difference, which the caller drops.
pub(super) fn binary(op: Op, size: u8, a: u64, b: u64, flags: &mut u64) -> u64 {
    let cf = *flags & rflags::CF != 0;
    match op {
        Op::Add => add(size, a, b, false, flags),
        Op::Adc => add(size, a, b, cf, flags),
        Op::Sub | Op::Cmp => sub(size, a, b, false, flags),
        Op::Sbb => sub(size, a, b, cf, flags),
        Op::And => logic(size, a & b, flags),
        Op::Or => logic(size, a | b, flags),
        Op::Xor => logic(size, a ^ b, flags),
    }
}

impl Ctx<'_> {
    /// 00 to 3D: `op` in all six operand forms.
    pub(super) fn alu_forms(&mut self) -> Result<(), Stop> {
        let op = Op::from_bits(self.insn.opcode >> 3);
        let size = self.insn.op_size;
        match self.insn.opcode & 7 {
            0 | 1 => {
                let b = self.reg(self.insn.reg(), size);
                self.alu_rm(op, size, b)
            }
            2 | 3 => {
                let b = self.get_rm(size)?;
                self.alu_reg(op, size, self.insn.reg(), b);
                Ok(())
            }
            _ => {
                self.alu_reg(op, size, 0, self.insn.imm & mask(size));
                Ok(())
            }
        }
    }

    fn alu_reg(&mut self, op: Op, size: u8, n: u8, b: u64) {
        let a = self.reg(n, size);
        let mut flags = self.s.rflags;
        let r = binary(op, size, a, b, &mut flags);
        if op != Op::Cmp {
            self.set_reg(n, size, r);
        }
        self.s.rflags = flags;
    }

    fn alu_rm(&mut self, op: Op, size: u8, b: u64) -> Result<(), Stop> {
        if op == Op::Cmp {
            let a = self.get_rm(size)?;
            sub(size, a, b, false, &mut self.s.rflags);
            return Ok(());
        }
        self.modify_rm(size, &mut |a, flags| binary(op, size, a, b, flags))
    }

    /// 80 to 83.
    pub(super) fn alu_group1(&mut self) -> Result<(), Stop> {
        let size = self.insn.op_size;
        let b = self.insn.imm & mask(size);
        self.alu_rm(Op::from_bits(self.insn.reg3()), size, b)
    }

    /// TEST with a register (84, 85) or an immediate.
    pub(super) fn test_rm(&mut self, b: u64) -> Result<(), Stop> {
        let size = self.insn.op_size;
        let a = self.get_rm(size)?;
        logic(size, a & b, &mut self.s.rflags);
        Ok(())
    }

    /// A8, A9.
    pub(super) fn test_acc(&mut self) {
        let size = self.insn.op_size;
        let r = self.reg(0, size) & self.insn.imm;
        logic(size, r, &mut self.s.rflags);
    }

    /// NOT: no flags.
    pub(super) fn not(&mut self) -> Result<(), Stop> {
        let size = self.insn.op_size;
        self.modify_rm(size, &mut |a, _| !a & mask(size))
    }

    /// NEG.
    pub(super) fn neg(&mut self) -> Result<(), Stop> {
        let size = self.insn.op_size;
        self.modify_rm(size, &mut |a, flags| sub(size, 0, a, false, flags))
    }

    /// INC or DEC of the ModRM operand: CF is left alone.
    pub(super) fn inc_dec(&mut self, dec: bool) -> Result<(), Stop> {
        let size = self.insn.op_size;
        self.modify_rm(size, &mut |a, flags| inc_dec(size, a, dec, flags))
    }

    /// 40 to 4F outside 64-bit mode.
    pub(super) fn inc_dec_reg(&mut self) {
        let (n, size) = (self.insn.opcode & 7, self.insn.op_size);
        let dec = self.insn.opcode & 8 != 0;
        let a = self.reg(n, size);
        let r = inc_dec(size, a, dec, &mut self.s.rflags);
        self.set_reg(n, size, r);
    }

    /// XADD.
    pub(super) fn xadd(&mut self) -> Result<(), Stop> {
        let (n, size) = (self.insn.reg(), self.insn.op_size);
        let b = self.reg(n, size);
        let place = self.place(size, Use::Modify)?;
        let mut old = 0;
        // The register is written first: in XADD r, r with one register the sum remains.
        if let super::operand::Place::Reg(m) = place {
            let a = self.reg(m, size);
            let mut flags = self.s.rflags;
            let r = add(size, a, b, false, &mut flags);
            self.set_reg(n, size, a);
            self.set_reg(m, size, r);
            self.s.rflags = flags;
            return Ok(());
        }
        self.modify_at(place, size, self.insn.lock, &mut |a, flags| {
            old = a;
            add(size, a, b, false, flags)
        })?;
        self.set_reg(n, size, old);
        Ok(())
    }
}

fn inc_dec(size: u8, a: u64, dec: bool, flags: &mut u64) -> u64 {
    let cf = *flags & rflags::CF;
    let r = if dec {
        sub(size, a, 1, false, flags)
    } else {
        add(size, a, 1, false, flags)
    };
    set_flags(flags, rflags::CF, cf);
    r
}

#[cfg(test)]
mod tests {
    use super::*;

    const CF: u64 = rflags::CF;
    const PF: u64 = rflags::PF;
    const AF: u64 = rflags::AF;
    const ZF: u64 = rflags::ZF;
    const SF: u64 = rflags::SF;
    const OF: u64 = rflags::OF;

    #[test]
    fn values_and_flags() {
        // op, size, a, b, flags before, result, flags after
        let table: [(Op, u8, u64, u64, u64, u64, u64); 17] = [
            (Op::Add, 1, 0xff, 1, 0, 0, CF | PF | AF | ZF),
            (Op::Add, 1, 0x7f, 1, 0, 0x80, AF | SF | OF),
            (Op::Add, 2, 0x8000, 0x8000, 0, 0, CF | PF | ZF | OF),
            (Op::Add, 8, u64::MAX, 1, 0, 0, CF | PF | AF | ZF),
            (Op::Adc, 4, 0xffff_fffe, 0, CF, 0xffff_ffff, PF | SF),
            (Op::Adc, 4, 0xffff_ffff, 0, CF, 0, CF | PF | AF | ZF),
            (
                Op::Adc,
                8,
                u64::MAX,
                u64::MAX,
                CF,
                u64::MAX,
                CF | PF | AF | SF,
            ),
            (Op::Sub, 1, 0, 1, 0, 0xff, CF | PF | AF | SF),
            (Op::Sub, 1, 0x80, 1, 0, 0x7f, AF | OF),
            (Op::Sbb, 8, 0, u64::MAX, CF, 0, CF | PF | AF | ZF),
            (Op::Sbb, 4, 5, 4, CF, 0, PF | ZF),
            (Op::Cmp, 2, 1, 1, CF, 0, PF | ZF),
            (Op::And, 1, 0xf0, 0x8f, CF | OF, 0x80, SF),
            (Op::Or, 4, 0, 0, CF, 0, PF | ZF),
            (Op::Xor, 8, u64::MAX, 1, OF, u64::MAX - 1, SF),
            (Op::Xor, 8, 3, 0, OF, 3, PF),
            (Op::Sub, 8, 1 << 63, 1, 0, u64::MAX >> 1, PF | AF | OF),
        ];
        for (op, size, a, b, before, want, after) in table {
            let mut f = before;
            let r = binary(op, size, a, b, &mut f);
            assert_eq!(
                (r, f),
                (want, after),
                "{op:?} {size} {a:x} {b:x}: {f:x} not {after:x}"
            );
        }
    }

    #[test]
    fn inc_and_dec_leave_carry() {
        let mut f = CF;
        assert_eq!(inc_dec(1, 0xff, false, &mut f), 0);
        assert_eq!(f, CF | PF | AF | ZF);
        let mut f = 0;
        assert_eq!(inc_dec(4, 0, true, &mut f), 0xffff_ffff);
        assert_eq!(f, PF | AF | SF);
    }
}
