// SPDX-License-Identifier: GPL-2.0

//! Shifts, rotates and double shifts.
//!
//! `SDM: vol 2, SAL/SAR/SHL/SHR, RCL/RCR/ROL/ROR, SHLD, SHRD`. OF is defined for a count of one
//! only. For other counts it is computed as if the count were one, as Intel CPUs do, except that
//! ROL and ROR of a register by an immediate leave it alone.

use super::alu::{result_flags, set_flags};
use super::cpu::Stop;
use super::operand::{bits, mask, sign};
use super::Ctx;
use crate::x86::ctrl::rflags;

/// The operations of group 2, by ModRM.reg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Rol,
    Ror,
    Rcl,
    Rcr,
    Shl,
    Shr,
    Sar,
}

impl Op {
    pub(super) const fn from_bits(n: u8) -> Self {
        match n & 7 {
            0 => Self::Rol,
            1 => Self::Ror,
            2 => Self::Rcl,
            3 => Self::Rcr,
            5 => Self::Shr,
            7 => Self::Sar,
            _ => Self::Shl,
        }
    }
}

/// The count after masking: six bits for 64-bit operands, else five.
fn masked(size: u8, count: u64) -> u32 {
    let m = if size == 8 { 0x3f } else { 0x1f };
    // CAST: masked to six bits.
    (count & m) as u32
}

fn flag(on: bool, bit: u64) -> u64 {
    if on {
        bit
    } else {
        0
    }
}

/// `a op count` with its flags. A masked count of zero changes nothing.
pub(super) fn shift(op: Op, size: u8, a: u64, count: u64, flags: &mut u64) -> u64 {
    let n = masked(size, count);
    let a = a & mask(size);
    if n == 0 {
        return a;
    }
    let top = a & sign(size) != 0;
    let next = (a << 1) & sign(size) != 0;
    let carry = *flags & rflags::CF != 0;
    match op {
        Op::Rol => rotate(size, a, n, true, top != next, flags),
        Op::Ror => rotate(size, a, n, false, top != (a & 1 != 0), flags),
        Op::Rcl => rotate_carry(size, a, n, true, top != next, flags),
        Op::Rcr => rotate_carry(size, a, n, false, top != carry, flags),
        Op::Shl => {
            // The last bit shifted out, or zero if all are long gone.
            let cf = shl(a, n.wrapping_sub(1)) & sign(size) != 0;
            shift_flags(size, shl(a, n) & mask(size), cf, top != next, flags)
        }
        Op::Shr => {
            let cf = shr(a, n.wrapping_sub(1)) & 1 != 0;
            shift_flags(size, shr(a, n), cf, top, flags)
        }
        Op::Sar => {
            let wide = extend(size, a);
            let cf = sar(wide, n.wrapping_sub(1)) & 1 != 0;
            shift_flags(size, sar(wide, n) & mask(size), cf, false, flags)
        }
    }
}

fn shl(a: u64, n: u32) -> u64 {
    a.checked_shl(n).unwrap_or(0)
}

fn shr(a: u64, n: u32) -> u64 {
    a.checked_shr(n).unwrap_or(0)
}

/// Sign-extends from `size` bytes.
fn extend(size: u8, a: u64) -> i64 {
    super::decode::sign_extend(a, size) as i64
}

fn sar(a: i64, n: u32) -> u64 {
    a.wrapping_shr(if n > 63 { 63 } else { n }) as u64
}

fn shift_flags(size: u8, r: u64, cf: bool, of: bool, flags: &mut u64) -> u64 {
    let f = result_flags(size, r) | flag(cf, rflags::CF) | flag(of, rflags::OF);
    // AF is undefined; clear it.
    set_flags(flags, rflags::STATUS, f);
    r
}

fn set_cf_of(cf: bool, of: bool, flags: &mut u64) {
    let new = flag(cf, rflags::CF) | flag(of, rflags::OF);
    set_flags(flags, rflags::CF | rflags::OF, new);
}

fn rotate(size: u8, a: u64, n: u32, left: bool, of: bool, flags: &mut u64) -> u64 {
    let width = bits(size);
    // The width is a power of two, so the mask is the remainder.
    let n = n & width.wrapping_sub(1);
    let left_by = if left { n } else { width.wrapping_sub(n) };
    let right_by = width.wrapping_sub(left_by);
    let r = (shl(a, left_by) | shr(a, right_by)) & mask(size);
    let cf = if left {
        r & 1 != 0
    } else {
        r & sign(size) != 0
    };
    set_cf_of(cf, of, flags);
    r
}

fn rotate_carry(size: u8, a: u64, n: u32, left: bool, of: bool, flags: &mut u64) -> u64 {
    let mut r = a;
    let mut cf = *flags & rflags::CF != 0;
    // CF is a bit of the rotated value, so the period is one more than the width. Counts below
    // 2^6 make a loop cheap enough.
    let period = bits(size).wrapping_add(1);
    let steps = n.checked_rem(period).unwrap_or(0);
    for _ in 0..steps {
        if left {
            let out = r & sign(size) != 0;
            r = ((r << 1) | u64::from(cf)) & mask(size);
            cf = out;
        } else {
            let out = r & 1 != 0;
            r = (r >> 1) | flag(cf, sign(size));
            cf = out;
        }
    }
    let of = if steps == 0 {
        *flags & rflags::OF != 0
    } else {
        of
    };
    set_cf_of(cf, of, flags);
    r
}

/// SHLD or SHRD: shifts `a`, filling from `b`. Counts above the width of a 16-bit operand are
/// undefined by the manual; `a:b:a` is shifted then, as CPUs do.
pub(super) fn double(left: bool, size: u8, a: u64, b: u64, count: u64, flags: &mut u64) -> u64 {
    let n = masked(size, count);
    let (a, b) = (a & mask(size), b & mask(size));
    if n == 0 {
        return a;
    }
    let width = bits(size);
    let (r, cf);
    if size == 2 {
        // 48 bits hold a:b:a, which covers counts up to 31.
        let wide = (a << 32) | (b << 16) | a;
        if left {
            r = (shl(wide, n) >> 32) & 0xffff;
            cf = shr(wide, 48u32.wrapping_sub(n)) & 1 != 0;
        } else {
            r = shr(wide, n) & 0xffff;
            cf = shr(wide, n.wrapping_sub(1)) & 1 != 0;
        }
    } else if left {
        r = (shl(a, n) | shr(b, width.wrapping_sub(n))) & mask(size);
        cf = shr(a, width.wrapping_sub(n)) & 1 != 0;
    } else {
        r = (shr(a, n) | shl(b, width.wrapping_sub(n))) & mask(size);
        cf = shr(a, n.wrapping_sub(1)) & 1 != 0;
    }
    // The bit that a count of one would move to the top.
    let next = if left {
        (a << 1) & sign(size) != 0
    } else {
        b & 1 != 0
    };
    let of = next != (a & sign(size) != 0);
    shift_flags(size, r, cf, of, flags)
}

impl Ctx<'_> {
    /// C0, C1, D0 to D3.
    pub(super) fn shift_group(&mut self) -> Result<(), Stop> {
        let op = Op::from_bits(self.insn.reg3());
        let size = self.insn.op_size;
        let count = match self.insn.opcode {
            0xc0 | 0xc1 => self.insn.imm,
            0xd0 | 0xd1 => 1,
            _ => self.reg(1, 1),
        };
        let immediate = matches!(self.insn.opcode, 0xc0 | 0xc1) && !self.insn.is_mem();
        let keep_of = immediate && matches!(op, Op::Rol | Op::Ror) && masked(size, count) != 1;
        self.modify_rm(size, &mut |a, flags| {
            let before = *flags;
            let r = shift(op, size, a, count, flags);
            if keep_of {
                set_flags(flags, rflags::OF, before);
            }
            r
        })
    }

    /// 0F A4, A5, AC, AD.
    pub(super) fn double_shift(&mut self) -> Result<(), Stop> {
        let size = self.insn.op_size;
        let left = self.insn.opcode & 8 == 0;
        let count = if self.insn.opcode & 1 == 0 {
            self.insn.imm
        } else {
            self.gpr(1)
        };
        let b = self.reg(self.insn.reg(), size);
        self.modify_rm(size, &mut |a, flags| double(left, size, a, b, count, flags))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CF: u64 = rflags::CF;
    const PF: u64 = rflags::PF;
    const ZF: u64 = rflags::ZF;
    const SF: u64 = rflags::SF;
    const OF: u64 = rflags::OF;

    #[test]
    fn values_and_flags() {
        // op, size, a, count, flags before, result, flags after
        let table: [(Op, u8, u64, u64, u64, u64, u64); 16] = [
            (Op::Shl, 1, 0x81, 1, 0, 0x02, CF | OF),
            (Op::Shl, 4, 1, 32, CF | ZF, 1, CF | ZF),
            (Op::Shl, 8, 1, 63, 0, 1 << 63, PF | SF),
            (Op::Shl, 1, 0xff, 8, 0, 0, CF | PF | ZF),
            (Op::Shr, 2, 0x8001, 1, 0, 0x4000, CF | PF | OF),
            (Op::Shr, 1, 0xff, 9, 0, 0, PF | ZF | OF),
            (Op::Sar, 1, 0x81, 1, 0, 0xc0, CF | PF | SF),
            (Op::Sar, 4, 0x8000_0000, 31, 0, 0xffff_ffff, PF | SF),
            (Op::Sar, 1, 0x80, 31, 0, 0xff, CF | PF | SF),
            (Op::Rol, 1, 0x81, 1, ZF, 0x03, CF | OF | ZF),
            (Op::Rol, 1, 0x81, 8, 0, 0x81, CF | OF),
            (Op::Ror, 4, 1, 1, 0, 0x8000_0000, CF | OF),
            (Op::Rcl, 1, 0x80, 1, 0, 0, CF | OF),
            (Op::Rcl, 2, 0x1234, 17, CF, 0x1234, CF),
            (Op::Rcr, 8, 1, 1, CF, 1 << 63, CF | OF),
            (Op::Rcr, 1, 0x12, 9, CF, 0x12, CF),
        ];
        for (op, size, a, n, before, want, after) in table {
            let mut f = before;
            let r = shift(op, size, a, n, &mut f);
            assert_eq!(
                (r, f),
                (want, after),
                "{op:?} {size} {a:x} {n}: {f:x} not {after:x}"
            );
        }
    }

    #[test]
    fn double_shifts() {
        let mut f = 0;
        assert_eq!(double(true, 4, 0x8000_0001, 0xc000_0000, 1, &mut f), 3);
        assert_eq!(f, CF | PF | OF);
        let mut f = 0;
        assert_eq!(double(false, 8, 1, 1, 1, &mut f), 1 << 63);
        assert_eq!(f, CF | PF | SF | OF);
        let mut f = ZF;
        assert_eq!(double(false, 8, 7, 1, 64, &mut f), 7);
        assert_eq!(f, ZF);
    }
}
