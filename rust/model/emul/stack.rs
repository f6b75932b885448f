// SPDX-License-Identifier: GPL-2.0

//! The stack: PUSH, POP and their multiples, flags, ENTER and LEAVE.

use super::cpu::{Intercept, Stop};
use super::operand::{mask, Place, Use};
use super::Ctx;
use crate::x86::ctrl::{cr4, rflags};
use crate::x86::state::{gpr, CodeSize, SegReg, Segment};

/// Flags that POPF and IRET may change at CPL 0, besides IOPL and VM.
const POPF_FLAGS: u64 =
    rflags::STATUS | rflags::TF | rflags::DF | rflags::NT | rflags::AC | rflags::ID;

impl Ctx<'_> {
    /// Width of the stack pointer, bytes.
    pub(super) fn stack_size(&self) -> u8 {
        if self.s.code_size() == CodeSize::Bits64 {
            8
        } else if self.s.seg(SegReg::Ss).attr & Segment::DB != 0 {
            4
        } else {
            2
        }
    }

    /// Moves the stack pointer, leaving the bits above the stack's width alone for 16 bits.
    pub(super) fn set_sp(&mut self, value: u64) {
        let size = self.stack_size();
        let kept = if size == 2 {
            self.gpr(gpr::RSP) & !0xffff
        } else {
            0
        };
        self.set_gpr(gpr::RSP, kept | (value & mask(size)));
    }

    /// Pushes `size` bytes.
    pub(super) fn push(&mut self, value: u64, size: u8) -> Result<(), Stop> {
        self.push_wide(value, size, size)
    }

    /// Moves the stack pointer by `size` bytes but writes only `bytes` of them.
    fn push_wide(&mut self, value: u64, size: u8, bytes: u8) -> Result<(), Stop> {
        let sp = self.gpr(gpr::RSP).wrapping_sub(u64::from(size)) & mask(self.stack_size());
        let at = self.linear(SegReg::Ss, sp, u64::from(bytes), Use::Write)?;
        self.put(Place::Mem(at), bytes, value)?;
        self.set_sp(sp);
        Ok(())
    }

    /// Pops `size` bytes.
    pub(super) fn pop(&mut self, size: u8) -> Result<u64, Stop> {
        let v = self.peek(0, size)?;
        self.drop_stack(u64::from(size));
        Ok(v)
    }

    /// Reads `size` bytes at `skip` bytes above the stack pointer.
    pub(super) fn peek(&mut self, skip: u64, size: u8) -> Result<u64, Stop> {
        let sp = self.gpr(gpr::RSP).wrapping_add(skip) & mask(self.stack_size());
        self.read_seg(SegReg::Ss, sp, size)
    }

    /// Removes `bytes` from the stack.
    pub(super) fn drop_stack(&mut self, bytes: u64) {
        self.set_sp(self.gpr(gpr::RSP).wrapping_add(bytes));
    }

    /// 50 to 57.
    pub(super) fn push_reg(&mut self) -> Result<(), Stop> {
        let size = self.insn.op_size;
        let v = self.reg(self.insn.opcode_reg(), size);
        self.push(v, size)
    }

    /// 58 to 5F. POP rSP ends with the value popped.
    pub(super) fn pop_reg(&mut self) -> Result<(), Stop> {
        let size = self.insn.op_size;
        let v = self.pop(size)?;
        self.set_reg(self.insn.opcode_reg(), size, v);
        Ok(())
    }

    /// FF /6.
    pub(super) fn push_rm(&mut self) -> Result<(), Stop> {
        let size = self.insn.op_size;
        let v = self.get_rm(size)?;
        self.push(v, size)
    }

    /// 8F /0. An address based on rSP is computed after the pop.
    pub(super) fn pop_rm(&mut self) -> Result<(), Stop> {
        let size = self.insn.op_size;
        let v = self.peek(0, size)?;
        self.rsp_bias = u64::from(size);
        let place = self.place(size, Use::Write)?;
        if let Place::Mem(_) = place {
            self.put(place, size, v)?;
            self.drop_stack(u64::from(size));
        } else {
            self.drop_stack(u64::from(size));
            self.put(place, size, v)?;
        }
        Ok(())
    }

    /// PUSH of a segment register: 32-bit pushes write only the selector's two bytes.
    pub(super) fn push_seg(&mut self, seg: SegReg) -> Result<(), Stop> {
        let size = self.insn.op_size;
        let v = u64::from(self.s.seg(seg).selector);
        let bytes = if size == 4 { 2 } else { size };
        self.push_wide(v, size, bytes)
    }

    /// POP of a segment register: only the selector's two bytes are read.
    pub(super) fn pop_seg(&mut self, seg: SegReg) -> Result<(), Stop> {
        let size = self.insn.op_size;
        // CAST: two bytes were read.
        let selector = self.peek(0, 2)? as u16;
        // The width of the stack is that of the old SS.
        let width = self.stack_size();
        self.load_segment(seg, selector)?;
        let sp = self.gpr(gpr::RSP);
        let new = sp.wrapping_add(u64::from(size));
        let kept = if width == 2 { sp & !0xffff } else { 0 };
        self.set_gpr(gpr::RSP, kept | (new & mask(width)));
        if seg == SegReg::Ss {
            self.shadow_mov_ss();
        }
        Ok(())
    }

    /// 60: PUSHA.
    pub(super) fn pusha(&mut self) -> Result<(), Stop> {
        let size = self.insn.op_size;
        let sp = self.gpr(gpr::RSP);
        for n in 0..8u8 {
            let v = if n == 4 {
                sp & mask(size)
            } else {
                self.reg(n, size)
            };
            self.push(v, size)?;
        }
        Ok(())
    }

    /// 61: POPA. The saved SP is skipped.
    pub(super) fn popa(&mut self) -> Result<(), Stop> {
        let size = self.insn.op_size;
        for n in (0..8u8).rev() {
            if n == 4 {
                self.drop_stack(u64::from(size));
            } else {
                let v = self.pop(size)?;
                self.set_reg(n, size, v);
            }
        }
        Ok(())
    }

    /// In virtual-8086 mode, instructions that IOPL guards fault below 3. The virtual interrupt
    /// flag of CR4.VME is not emulated.
    pub(super) fn check_v8086_iopl(&self) -> Result<(), Stop> {
        if self.s.v8086() && self.s.rflags & rflags::IOPL != rflags::IOPL {
            if self.s.cr4 & cr4::VME != 0 {
                return Err(Stop::UNHANDLED);
            }
            return Err(Stop::GP0);
        }
        Ok(())
    }

    /// 9C: PUSHF. VM and RF read as zero.
    pub(super) fn pushf(&mut self) -> Result<(), Stop> {
        self.check_v8086_iopl()?;
        self.bus.intercept(self.s, Intercept::Pushf)?;
        let v = self.s.rflags & !(rflags::VM | rflags::RF);
        self.push(v, self.insn.op_size)
    }

    /// 9D: POPF.
    pub(super) fn popf(&mut self) -> Result<(), Stop> {
        self.check_v8086_iopl()?;
        self.bus.intercept(self.s, Intercept::Popf)?;
        let size = self.insn.op_size;
        let v = self.pop(size)?;
        let cpl = self.s.cpl();
        let mut which = POPF_FLAGS;
        if cpl == 0 {
            which |= rflags::IOPL;
        }
        if cpl <= self.iopl() {
            which |= rflags::IF;
        }
        self.set_rflags(v, which & mask(size));
        Ok(())
    }

    /// I/O privilege level.
    pub(super) fn iopl(&self) -> u8 {
        // CAST: two bits.
        ((self.s.rflags & rflags::IOPL) >> 12) as u8
    }

    /// Replaces the flags in `which`.
    pub(super) fn set_rflags(&mut self, value: u64, which: u64) {
        self.s.rflags = (self.s.rflags & !which) | (value & which) | rflags::FIXED;
    }

    /// C8: ENTER.
    pub(super) fn enter(&mut self) -> Result<(), Stop> {
        let size = self.insn.op_size;
        let level = self.insn.imm2 & 31;
        let width = mask(self.stack_size());
        let bp = self.gpr(gpr::RBP);
        self.push(bp & mask(size), size)?;
        let frame = self.gpr(gpr::RSP);
        if level > 0 {
            let mut link = bp;
            for _ in 1..level {
                link = link.wrapping_sub(u64::from(size)) & width;
                let v = self.read_seg(SegReg::Ss, link, size)?;
                self.push(v, size)?;
            }
            self.push(frame & mask(size), size)?;
        }
        let sp = self.gpr(gpr::RSP).wrapping_sub(self.insn.imm) & width;
        // The new stack top must be writable.
        let at = self.linear(SegReg::Ss, sp, u64::from(size), Use::Write)?;
        let access = self.data();
        self.bus.check_write(at, u32::from(size), access)?;
        self.set_reg(gpr::RBP as u8, size, frame);
        self.set_sp(sp);
        Ok(())
    }

    /// C9: LEAVE.
    pub(super) fn leave(&mut self) -> Result<(), Stop> {
        let size = self.insn.op_size;
        self.set_sp(self.gpr(gpr::RBP));
        let v = self.pop(size)?;
        self.set_reg(gpr::RBP as u8, size, v);
        Ok(())
    }
}
