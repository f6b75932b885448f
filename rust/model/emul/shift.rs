// SPDX-License-Identifier: GPL-2.0

//! Shifts, rotates and double shifts.
//!
//! `SDM: vol 2, SAL/SAR/SHL/SHR, RCL/RCR/ROL/ROR, SHLD, SHRD`. Where the manual leaves OF
//! undefined (counts above one) the formula for a count of one is applied to the last step, which
//! is what CPUs do for most of them.

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
    match op {
        Op::Rol | Op::Ror => rotate(op, size, a, n, flags),
        Op::Rcl | Op::Rcr => rotate_carry(op, size, a, n, flags),
        Op::Shl => {
            // The last bit shifted out, or zero if all are long gone.
            let before = shl(a, n.wrapping_sub(1));
            let r = shl(a, n) & mask(size);
            let cf = before & sign(size) != 0;
            let of = cf != (r & sign(size) != 0);
            shift_flags(size, r, cf, of, flags)
        }
        Op::Shr => {
            let r = shr(a, n);
            let cf = shr(a, n.wrapping_sub(1)) & 1 != 0;
            let of = (r ^ (r << 1)) & sign(size) != 0;
            shift_flags(size, r, cf, of, flags)
        }
        Op::Sar => {
            let wide = extend(size, a);
            let r = sar(wide, n) & mask(size);
            let cf = sar(wide, n.wrapping_sub(1)) & 1 != 0;
            shift_flags(size, r, cf, false, flags)
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

fn rotate(op: Op, size: u8, a: u64, n: u32, flags: &mut u64) -> u64 {
    let width = bits(size);
    // PANIC: width is a power of two, so the mask is the remainder.
    let n = n & width.wrapping_sub(1);
    let left = if op == Op::Rol {
        n
    } else {
        width.wrapping_sub(n)
    };
    let right = width.wrapping_sub(left);
    let r = (shl(a, left) | shr(a, right)) & mask(size);
    let top = r & sign(size) != 0;
    let (cf, of) = if op == Op::Rol {
        let cf = r & 1 != 0;
        (cf, cf != top)
    } else {
        (top, (r ^ (r << 1)) & sign(size) != 0)
    };
    set_flags(
        flags,
        rflags::CF | rflags::OF,
        flag(cf, rflags::CF) | flag(of, rflags::OF),
    );
    r
}

fn rotate_carry(op: Op, size: u8, a: u64, n: u32, flags: &mut u64) -> u64 {
    let width = bits(size);
    let mut r = a;
    let mut cf = *flags & rflags::CF != 0;
    // CF is a bit of the rotated value, so the period is one more than the width. Counts below
    // 2^6 make a loop cheap enough.
    let period = width.wrapping_add(1);
    let steps = n.checked_rem(period).unwrap_or(0);
    for _ in 0..steps {
        if op == Op::Rcl {
            let out = r & sign(size) != 0;
            r = ((r << 1) | u64::from(cf)) & mask(size);
            cf = out;
        } else {
            let out = r & 1 != 0;
            r = (r >> 1) | flag(cf, sign(size));
            cf = out;
        }
    }
    let top = r & sign(size) != 0;
    let of = if op == Op::Rcl {
        cf != top
    } else {
        (r ^ (r << 1)) & sign(size) != 0
    };
    set_flags(
        flags,
        rflags::CF | rflags::OF,
        flag(cf, rflags::CF) | flag(of, rflags::OF),
    );
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
    // OF: the sign changed (defined for a count of one).
    let of = (r ^ a) & sign(size) != 0;
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
        self.modify_rm(size, &mut |a, flags| shift(op, size, a, count, flags))
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
            (Op::Shl, 8, 1, 63, 0, 1 << 63, PF | SF | OF),
            (Op::Shl, 1, 0xff, 8, 0, 0, CF | PF | ZF | OF),
            (Op::Shr, 2, 0x8001, 1, 0, 0x4000, CF | PF | OF),
            (Op::Shr, 1, 0xff, 9, 0, 0, PF | ZF),
            (Op::Sar, 1, 0x81, 1, 0, 0xc0, CF | PF | SF),
            (Op::Sar, 4, 0x8000_0000, 31, 0, 0xffff_ffff, PF | SF),
            (Op::Sar, 1, 0x80, 31, 0, 0xff, CF | PF | SF),
            (Op::Rol, 1, 0x81, 1, ZF, 0x03, CF | OF | ZF),
            (Op::Rol, 1, 0x81, 8, 0, 0x81, CF),
            (Op::Ror, 4, 1, 1, 0, 0x8000_0000, CF | OF),
            (Op::Rcl, 1, 0x80, 1, 0, 0, CF | OF),
            (Op::Rcl, 2, 0x1234, 17, CF, 0x1234, CF | OF),
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
