// SPDX-License-Identifier: GPL-2.0

//! The instruction at RIP: its bytes, its length, and stepping over it.

use super::run::Flow;
use super::Cx;
use crate::backend::Backend;
use crate::exit::debug;
use core::ops::ControlFlow::Continue;
use model::addr::Gva;
use model::emul::len;
use model::walk::Access;
use model::x86::ctrl::rflags;
use model::x86::state::CodeSize;
use model::x86::state::SegReg;
use model::x86::state::Segment;

/// Most bytes an instruction can have.
pub(crate) const MAX: usize = 15;

impl<V: Backend> Cx<'_, '_, V> {
    /// The sizes instructions default to at CS:RIP.
    #[inline]
    pub(crate) fn code_size(&self) -> CodeSize {
        if V::in_64_bit_mode(self.l) {
            return CodeSize::Bits64;
        }
        self.legacy_code_size()
    }

    #[inline(never)]
    fn legacy_code_size(&self) -> CodeSize {
        if !self.protected_mode() || V::rflags(self.l) & rflags::VM != 0 {
            return CodeSize::Bits16;
        }
        if V::seg(self.l, SegReg::Cs).attr & Segment::DB != 0 {
            CodeSize::Bits32
        } else {
            CodeSize::Bits16
        }
    }

    /// CS.base + RIP.
    #[inline]
    pub(crate) fn linear_rip(&self) -> u64 {
        let rip = V::rip(self.l);
        if V::in_64_bit_mode(self.l) {
            return rip;
        }
        self.legacy_linear(rip)
    }

    #[inline(never)]
    fn legacy_linear(&self, rip: u64) -> u64 {
        V::seg(self.l, SegReg::Cs).base.wrapping_add(rip) & 0xffff_ffff
    }

    /// The bytes at RIP, up to the end of the page, or beyond it if the instruction needs it. None
    /// if they cannot be read.
    pub(crate) fn fetch(&self, buf: &mut [u8; MAX]) -> usize {
        let at = Gva(self.linear_rip());
        let access = Access::fetch(V::cpl(self.l));
        let first = MAX.min(0x1000usize.wrapping_sub(at.offset() as usize));
        let Some((head, tail)) = buf.split_at_mut_checked(first) else {
            return 0;
        };
        if self.read_linear(at, head, access).is_err() {
            return 0;
        }
        if tail.is_empty() {
            return MAX;
        }
        // Only if the instruction runs into the next page may that page be touched.
        if len::length(head, self.code_size()).is_ok() {
            return first;
        }
        let next = at.wrapping_add(first as u64);
        match self.read_linear(next, tail, access) {
            Ok(()) => MAX,
            Err(_) => first,
        }
    }

    /// RIP behind the instruction that exited: from the hardware, or by decoding it.
    #[inline]
    pub(crate) fn next_rip(&mut self) -> Option<u64> {
        if let Some(next) = V::next_rip(self.l) {
            return Some(next);
        }
        let len = self.instruction()?.len;
        Some(self.rip_behind(len))
    }

    /// RIP behind an instruction of `len` bytes at RIP. Outside 64-bit mode it has 32 bits.
    pub(crate) fn rip_behind(&self, len: u8) -> u64 {
        let rip = V::rip(self.l);
        let next = rip.wrapping_add(u64::from(len));
        if (rip ^ next) >> 32 != 0 && !V::in_64_bit_mode(self.l) {
            return next & 0xffff_ffff;
        }
        next
    }

    /// A register as the operand of an instruction that has 32 bits outside 64-bit mode.
    pub(crate) fn operand(&self, gpr: u8) -> u64 {
        let v = self.gpr(gpr);
        if v >> 32 != 0 && !V::in_64_bit_mode(self.l) {
            return v & 0xffff_ffff;
        }
        v
    }
}

/// Steps over the instruction that exited.
#[inline]
pub(crate) fn skip<V: Backend>(cx: &mut Cx<'_, '_, V>) -> Flow {
    // Without an answer the guest changed its code or tables: let it run into the instruction again.
    match cx.next_rip() {
        Some(next) => advance(cx, next),
        None => Continue(()),
    }
}

/// Sets RIP behind an instruction that was carried out: the shadow ends, and a single step traps.
#[inline]
pub(crate) fn advance<V: Backend>(cx: &mut Cx<'_, '_, V>, next: u64) -> Flow {
    V::set_rip(cx.l, next);
    V::set_shadow(cx.l, 0);
    let f = V::rflags(cx.l);
    if f & (rflags::TF | rflags::RF) != 0 {
        V::set_rflags(cx.l, f & !rflags::RF);
        if f & rflags::TF != 0 {
            return debug::stepped(cx);
        }
    }
    Continue(())
}
