// SPDX-License-Identifier: GPL-2.0

//! Multiplication and division.
//!
//! A 128-bit division would call into a compiler runtime that the kernel does not have, so DIV of
//! RDX:RAX is a bit-by-bit long division: it is rare, and 64 steps cost less than an exit.

use super::alu::{result_flags, set_flags};
use super::cpu::Stop;
use super::decode::sign_extend;
use super::operand::{bits, mask, sign};
use super::Ctx;
use crate::x86::ctrl::rflags;
use crate::x86::exception::{Exception, DE};
use crate::x86::state::gpr;

const DIVIDE: Stop = Stop::Fault(Exception::new(DE));

/// The full product of two 64-bit values: high and low half.
fn wide_mul(a: u64, b: u64) -> (u64, u64) {
    let p = u128::from(a).wrapping_mul(u128::from(b));
    // CAST: the two halves.
    ((p >> 64) as u64, p as u64)
}

/// The product of two operands of `size` bytes as high and low parts of `size` bytes each, and
/// whether the high part is significant.
fn multiply(size: u8, a: u64, b: u64, signed: bool) -> (u64, u64, bool) {
    let (a, b) = if signed {
        (sign_extend(a, size), sign_extend(b, size))
    } else {
        (a & mask(size), b & mask(size))
    };
    let (mut high, low) = wide_mul(a, b);
    if signed {
        // From unsigned to two's complement.
        if (a as i64) < 0 {
            high = high.wrapping_sub(b);
        }
        if (b as i64) < 0 {
            high = high.wrapping_sub(a);
        }
    }
    let (high, low) = if size == 8 {
        (high, low)
    } else {
        // The product of two narrow values fits the low half.
        (low.wrapping_shr(bits(size)) & mask(size), low & mask(size))
    };
    let plain = if signed && low & sign(size) != 0 {
        mask(size)
    } else {
        0
    };
    (high, low, high != plain)
}

/// `high:low / divisor` for 64-bit values, unsigned: quotient and remainder, or nothing if the
/// quotient does not fit.
fn divide_wide(high: u64, low: u64, divisor: u64) -> Option<(u64, u64)> {
    if high >= divisor {
        return None;
    }
    if high == 0 {
        return Some((low.checked_div(divisor)?, low.checked_rem(divisor)?));
    }
    let (mut rem, mut quot) = (high, low);
    for _ in 0..64 {
        let carry = rem >> 63 != 0;
        rem = (rem << 1) | (quot >> 63);
        quot <<= 1;
        if carry || rem >= divisor {
            rem = rem.wrapping_sub(divisor);
            quot |= 1;
        }
    }
    Some((quot, rem))
}

/// Unsigned division of a dividend of two parts of `size` bytes.
fn divide(size: u8, high: u64, low: u64, divisor: u64) -> Option<(u64, u64)> {
    if size == 8 {
        return divide_wide(high, low, divisor);
    }
    let dividend = high.wrapping_shl(bits(size)) | low;
    let quot = dividend.checked_div(divisor)?;
    if quot > mask(size) {
        return None;
    }
    Some((quot, dividend.checked_rem(divisor)?))
}

/// Signed division; the quotient truncates toward zero and the remainder has the dividend's sign.
fn divide_signed(size: u8, high: u64, low: u64, divisor: u64) -> Option<(u64, u64)> {
    let m = mask(size);
    let neg_a = high & sign(size) != 0;
    let neg_b = divisor & sign(size) != 0;
    let (h, l) = if neg_a {
        let l = low.wrapping_neg() & m;
        let borrow = u64::from(l != 0);
        (high.wrapping_neg().wrapping_sub(borrow) & m, l)
    } else {
        (high, low)
    };
    let d = if neg_b {
        divisor.wrapping_neg() & m
    } else {
        divisor
    };
    let (quot, rem) = divide(size, h, l, d)?;
    let negative = neg_a != neg_b;
    let limit = if negative {
        sign(size)
    } else {
        sign(size).wrapping_sub(1)
    };
    if quot > limit {
        return None;
    }
    let quot = if negative { quot.wrapping_neg() } else { quot };
    let rem = if neg_a { rem.wrapping_neg() } else { rem };
    Some((quot & m, rem & m))
}

impl Ctx<'_> {
    /// The accumulator pair of `size` bytes: AH:AL, or rDX:rAX.
    fn pair(&self, size: u8) -> (u64, u64) {
        if size == 1 {
            let ax = self.gpr(gpr::RAX);
            return ((ax >> 8) & 0xff, ax & 0xff);
        }
        (
            self.reg(gpr::RDX as u8, size),
            self.reg(gpr::RAX as u8, size),
        )
    }

    fn set_pair(&mut self, size: u8, high: u64, low: u64) {
        if size == 1 {
            self.set_reg(gpr::RAX as u8, 2, ((high & 0xff) << 8) | (low & 0xff));
            return;
        }
        self.set_reg(gpr::RAX as u8, size, low);
        self.set_reg(gpr::RDX as u8, size, high);
    }

    fn mul_flags(&mut self, size: u8, low: u64, over: bool) {
        // SF, ZF, AF and PF are undefined; CPUs leave something of the low part in them.
        let mut f = result_flags(size, low) & !rflags::ZF;
        if over {
            f |= rflags::CF | rflags::OF;
        }
        set_flags(&mut self.s.rflags, rflags::STATUS, f);
    }

    /// F6, F7: MUL (/4) and IMUL (/5).
    pub(super) fn mul(&mut self, signed: bool) -> Result<(), Stop> {
        let size = self.insn.op_size;
        let b = self.get_rm(size)?;
        let a = self.reg(0, size);
        let (high, low, over) = multiply(size, a, b, signed);
        self.set_pair(size, high, low);
        self.mul_flags(size, low, over);
        Ok(())
    }

    /// IMUL with two operands (0F AF) or three (69, 6B).
    pub(super) fn imul_reg(&mut self, a: Option<u64>) -> Result<(), Stop> {
        let size = self.insn.op_size;
        let b = self.get_rm(size)?;
        let n = self.insn.reg();
        let a = a.unwrap_or_else(|| self.reg(n, size));
        let (_, low, over) = multiply(size, a, b, true);
        self.set_reg(n, size, low);
        self.mul_flags(size, low, over);
        Ok(())
    }

    /// F6, F7: DIV (/6) and IDIV (/7). All status flags are undefined and left alone.
    pub(super) fn div(&mut self, signed: bool) -> Result<(), Stop> {
        let size = self.insn.op_size;
        let divisor = self.get_rm(size)?;
        let (high, low) = self.pair(size);
        let result = if signed {
            divide_signed(size, high, low, divisor)
        } else {
            divide(size, high, low, divisor)
        };
        let (quot, rem) = result.ok_or(DIVIDE)?;
        self.set_pair(size, rem, quot);
        Ok(())
    }

    /// AAM: AL into digits of base imm8.
    pub(super) fn aam(&mut self) -> Result<(), Stop> {
        let base = self.insn.imm & 0xff;
        let al = self.gpr(gpr::RAX) & 0xff;
        let high = al.checked_div(base).ok_or(DIVIDE)?;
        let low = al.checked_rem(base).ok_or(DIVIDE)?;
        self.set_reg(0, 2, (high << 8) | low);
        set_flags(&mut self.s.rflags, rflags::STATUS, result_flags(1, low));
        Ok(())
    }

    /// AAD: digits of base imm8 into AL.
    pub(super) fn aad(&mut self) {
        let ax = self.gpr(gpr::RAX);
        let high = ((ax >> 8) & 0xff).wrapping_mul(self.insn.imm & 0xff);
        let al = (ax & 0xff).wrapping_add(high) & 0xff;
        self.set_reg(0, 2, al);
        set_flags(&mut self.s.rflags, rflags::STATUS, result_flags(1, al));
    }

    /// DAA and DAS. `SDM: vol 2, DAA, DAS`.
    pub(super) fn decimal_adjust(&mut self, subtract: bool) {
        let old = self.gpr(gpr::RAX) & 0xff;
        let f = self.s.rflags;
        let cf = f & rflags::CF != 0;
        let step = |al: u64, n: u64| {
            let r = if subtract {
                al.wrapping_sub(n)
            } else {
                al.wrapping_add(n)
            };
            r & 0xff
        };
        let mut al = old;
        let mut new = 0;
        if old & 0xf > 9 || f & rflags::AF != 0 {
            al = step(al, 6);
            new |= rflags::AF;
            // DAS: a borrow out of the first step sets CF on its own.
            if cf || (subtract && old < 6) {
                new |= rflags::CF;
            }
        }
        if old > 0x99 || cf {
            al = step(al, 0x60);
            new |= rflags::CF;
        }
        new |= result_flags(1, al);
        self.set_reg(0, 1, al);
        set_flags(&mut self.s.rflags, rflags::STATUS, new);
    }

    /// AAA and AAS.
    pub(super) fn ascii_adjust(&mut self, subtract: bool) {
        let ax = self.gpr(gpr::RAX) & 0xffff;
        let adjust = ax & 0xf > 9 || self.s.rflags & rflags::AF != 0;
        let mut r = ax;
        let mut new = 0;
        if adjust {
            // AX moves by 106h, so that a carry out of AL reaches AH.
            r = if subtract {
                r.wrapping_sub(0x106)
            } else {
                r.wrapping_add(0x106)
            };
            new = rflags::AF | rflags::CF;
        }
        r &= 0xff0f;
        self.set_reg(0, 2, r);
        new |= result_flags(1, r);
        set_flags(&mut self.s.rflags, rflags::STATUS, new);
    }

    /// 98: CBW, CWDE, CDQE.
    pub(super) fn extend_acc(&mut self) {
        let size = self.insn.op_size;
        let half = size >> 1;
        let v = sign_extend(self.reg(0, half), half);
        self.set_reg(0, size, v);
    }

    /// 99: CWD, CDQ, CQO.
    pub(super) fn extend_to_pair(&mut self) {
        let size = self.insn.op_size;
        let negative = self.reg(0, size) & sign(size) != 0;
        self.set_reg(gpr::RDX as u8, size, if negative { u64::MAX } else { 0 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn products() {
        assert_eq!(multiply(1, 0xff, 0xff, false), (0xfe, 0x01, true));
        assert_eq!(multiply(1, 0xff, 0xff, true), (0, 1, false));
        assert_eq!(multiply(2, 0x8000, 1, true), (0xffff, 0x8000, false));
        assert_eq!(
            multiply(8, u64::MAX, 2, true),
            (u64::MAX, u64::MAX - 1, false)
        );
        assert_eq!(multiply(8, 1 << 63, 2, true), (u64::MAX, 0, true));
    }

    #[test]
    fn quotients_that_do_not_fit() {
        assert_eq!(divide(4, 1, 0, 1), None);
        assert_eq!(divide(8, 5, 0, 5), None);
        assert_eq!(divide(1, 0, 7, 0), None);
        assert_eq!(divide_signed(1, 0xff, 0x80, 0xff), None); // -128 / -1
        assert_eq!(divide_signed(1, 0xff, 0x80, 1), Some((0x80, 0)));
        assert_eq!(
            divide_signed(8, 0, 7, u64::MAX - 1),
            Some((u64::MAX - 2, 1))
        );
    }

    proptest! {
        #[test]
        fn division_undoes_multiplication(q in any::<u64>(), d in 1u64.., r in any::<u64>()) {
            let r = r % d;
            let (mut high, low) = wide_mul(q, d);
            let (low, carry) = low.overflowing_add(r);
            high += u64::from(carry);
            prop_assert_eq!(divide_wide(high, low, d), Some((q, r)));
        }

        #[test]
        fn signed_division_matches_wide_arithmetic(a in any::<i128>(), d in any::<i64>(), s in 0u32..100) {
            let a = a >> s;
            let got = divide_signed(8, (a >> 64) as u64, a as u64, d as u64);
            let want = a.checked_div(d.into()).and_then(|q| i64::try_from(q).ok());
            prop_assert_eq!(got.map(|g| g.0 as i64), want);
            if let Some((_, r)) = got {
                prop_assert_eq!(i128::from(r as i64), a % i128::from(d));
            }
        }
    }
}
