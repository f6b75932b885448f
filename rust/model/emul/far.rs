// SPDX-License-Identifier: GPL-2.0

//! Far control transfers: JMP, CALL, RET and IRET across code segments, and interrupts.
//!
//! Transfers through call gates, task gates and TSSs are not emulated; nor is delivery through the
//! IDT, which the hardware does better when it is asked to inject. `SDM: vol 3, 5.8`, `6.12`.

use super::cpu::{Flow, Intercept, SoftInt, Stop};
use super::io::SYSTEM;
use super::operand::mask;
use super::segment::{fault, CONFORMING, EXECUTABLE};
use super::Ctx;
use crate::x86::ctrl::rflags;
use crate::x86::exception::{GP, NP};
use crate::x86::state::{gpr, SegReg, Segment};

/// Flags that IRET may change at any privilege level with a 16-bit operand.
const IRET_FLAGS: u64 = rflags::STATUS | rflags::TF | rflags::DF | rflags::NT;
/// And with a wider one.
const IRET_WIDE: u64 = rflags::RF | rflags::AC | rflags::ID;

impl Ctx<'_> {
    /// 9A, EA: the pointer is in the instruction.
    pub(super) fn far_immediate(&mut self, call: bool) -> Result<(), Stop> {
        self.far_branch(self.insn.imm2, self.insn.imm, call)
    }

    /// FF /3, /5: the pointer is in memory.
    pub(super) fn far_memory(&mut self, call: bool) -> Result<(), Stop> {
        let size = self.insn.op_size;
        let (seg, at) = self.effective();
        let offset = self.read_seg(seg, at, size)?;
        let behind = at.wrapping_add(u64::from(size)) & mask(self.insn.addr_size);
        // CAST: two bytes were read.
        let selector = self.read_seg(seg, behind, 2)? as u16;
        self.far_branch(selector, offset, call)
    }

    fn far_branch(&mut self, selector: u16, offset: u64, call: bool) -> Result<(), Stop> {
        let size = self.insn.op_size;
        let back = (u64::from(self.s.seg(SegReg::Cs).selector), self.next);
        let new = if self.protected() {
            Some(self.code_segment(selector)?)
        } else {
            None
        };
        self.check_target(new.as_ref(), offset)?;
        if call {
            self.push(back.0, size)?;
            self.push(back.1, size)?;
        }
        self.enter_code(new, selector, offset);
        Ok(())
    }

    /// Loads CS and sets the next instruction; both have been checked.
    fn enter_code(&mut self, new: Option<Segment>, selector: u16, offset: u64) {
        match new {
            Some(s) => *self.s.seg_mut(SegReg::Cs) = s,
            None => self.load_real(SegReg::Cs, selector),
        }
        self.next = offset;
    }

    /// Is `offset` inside the code segment it is about to go to?
    fn check_target(&self, new: Option<&Segment>, offset: u64) -> Result<(), Stop> {
        let s = new.unwrap_or(self.s.seg(SegReg::Cs));
        let ok = if new.is_some() && self.s.long_mode() && s.attr & Segment::L != 0 {
            self.canonical(offset)
        } else {
            offset <= u64::from(s.limit)
        };
        if ok {
            Ok(())
        } else {
            Err(Stop::GP0)
        }
    }

    /// The code segment that JMP or CALL to `selector` enters, at the same privilege level.
    fn code_segment(&mut self, selector: u16) -> Result<Segment, Stop> {
        if selector & !3 == 0 {
            return Err(Stop::GP0);
        }
        let cpl = self.s.cpl();
        let d = self.descriptor(selector, GP)?;
        // CAST: two bits.
        let rpl = (selector & 3) as u8;
        let mut s = d.segment((selector & !3) | u16::from(cpl));
        if s.attr & Segment::S == 0 {
            // A gate or a TSS.
            return Err(Stop::UNHANDLED);
        }
        let allowed = if s.attr & CONFORMING != 0 {
            s.dpl() <= cpl
        } else {
            rpl <= cpl && s.dpl() == cpl
        };
        if s.attr & EXECUTABLE == 0 || !allowed {
            return fault(GP, selector);
        }
        self.check_code(&s, selector)?;
        self.mark_accessed(&d, &mut s)?;
        Ok(s)
    }

    /// The code segment that RET or IRET to `selector` enters; its RPL becomes the CPL.
    fn return_segment(&mut self, selector: u16) -> Result<Segment, Stop> {
        // CAST: two bits.
        if selector & !3 != 0 && ((selector & 3) as u8) < self.s.cpl() {
            return fault(GP, selector);
        }
        self.code_by_rpl(selector, GP)
    }

    /// The code segment `selector` names, if its RPL is a privilege level the segment allows;
    /// faults but `#NP` are `vector`.
    pub(super) fn code_by_rpl(&mut self, selector: u16, vector: u8) -> Result<Segment, Stop> {
        if selector & !3 == 0 {
            return Err(Stop::fault(vector, 0));
        }
        let d = self.descriptor(selector, vector)?;
        // CAST: two bits.
        let rpl = (selector & 3) as u8;
        let mut s = d.segment(selector);
        let code = Segment::S | EXECUTABLE;
        let allowed = if s.attr & CONFORMING != 0 {
            s.dpl() <= rpl
        } else {
            s.dpl() == rpl
        };
        if s.attr & code != code || !allowed {
            return fault(vector, selector);
        }
        self.check_code(&s, selector)?;
        self.mark_accessed(&d, &mut s)?;
        Ok(s)
    }

    /// Checks common to both: sizes that contradict, then presence.
    fn check_code(&self, s: &Segment, selector: u16) -> Result<(), Stop> {
        let both = Segment::L | Segment::DB;
        if self.s.long_mode() && s.attr & both == both {
            return fault(GP, selector);
        }
        if s.attr & Segment::P == 0 {
            return fault(NP, selector);
        }
        Ok(())
    }

    /// CA, CB: RET far.
    pub(super) fn ret_far(&mut self) -> Result<(), Stop> {
        let size = self.insn.op_size;
        let step = u64::from(size);
        let extra = self.insn.imm;
        let target = self.peek(0, size)?;
        // CAST: a selector is two bytes.
        let selector = self.peek(step, size)? as u16;
        let frame = step.wrapping_mul(2).wrapping_add(extra);
        if !self.protected() {
            self.check_target(None, target)?;
            self.drop_stack(frame);
            self.enter_code(None, selector, target);
            return Ok(());
        }
        let cpl = self.s.cpl();
        let new = self.return_segment(selector)?;
        self.check_target(Some(&new), target)?;
        if (selector & 3) as u8 == cpl {
            self.drop_stack(frame);
            self.enter_code(Some(new), selector, target);
            return Ok(());
        }
        let sp = self.peek(frame, size)?;
        let ss = self.peek(frame.wrapping_add(step), size)? as u16;
        self.enter_code(Some(new), selector, target);
        self.switch_stack(ss, sp.wrapping_add(extra), (selector & 3) as u8)
    }

    /// Loads SS:rSP on a return to privilege level `cpl`. CS is the new one already.
    fn switch_stack(&mut self, ss: u16, sp: u64, cpl: u8) -> Result<(), Stop> {
        let outward = cpl != self.s.cpl();
        let new = self.stack_segment(ss, cpl, GP)?;
        *self.s.seg_mut(SegReg::Ss) = new;
        self.set_sp(sp);
        if outward {
            self.drop_privileged_segments(cpl);
        }
        Ok(())
    }

    /// After a return to a less privileged level, data segments it may not use become null.
    ///
    /// A register that is null already names no segment and stays as it is: 64-bit kernels return
    /// with a null FS whose base is the thread's. `SDM: vol 2, IRET`; `APM: vol 3, IRET`.
    fn drop_privileged_segments(&mut self, cpl: u8) {
        for r in [SegReg::Es, SegReg::Ds, SegReg::Fs, SegReg::Gs] {
            let s = self.s.seg_mut(r);
            let code = Segment::S | EXECUTABLE | CONFORMING;
            let conforming = s.attr & code == code;
            if !s.unusable && !conforming && s.dpl() < cpl {
                *s = Self::null_segment(0);
            }
        }
    }

    /// CF: IRET.
    pub(super) fn iret(&mut self) -> Result<(), Stop> {
        self.check_v8086_iopl()?;
        self.bus.intercept(self.s, Intercept::Iret)?;
        let size = self.insn.op_size;
        let step = u64::from(size);
        let target = self.peek(0, size)?;
        // CAST: a selector is two bytes.
        let selector = self.peek(step, size)? as u16;
        let flags = self.peek(step.wrapping_mul(2), size)?;
        let frame = step.wrapping_mul(3);
        self.unblock_nmi = true;
        self.keep_rf = size != 2;
        if !self.protected() {
            self.check_target(None, target)?;
            self.drop_stack(frame);
            self.iret_flags(flags, 0);
            self.enter_code(None, selector, target);
            return Ok(());
        }
        if self.s.rflags & rflags::NT != 0 {
            // A return from a nested task, which long mode does not have.
            return Err(if self.s.long_mode() {
                Stop::GP0
            } else {
                Stop::UNHANDLED
            });
        }
        let cpl = self.s.cpl();
        if flags & rflags::VM != 0 && size == 4 && cpl == 0 && !self.s.long_mode() {
            return self.iret_v8086(target, selector, flags);
        }
        let new = self.return_segment(selector)?;
        self.check_target(Some(&new), target)?;
        // CAST: two bits.
        let rpl = (selector & 3) as u8;
        if rpl == cpl && !self.long() {
            self.drop_stack(frame);
            self.iret_flags(flags, cpl);
            self.enter_code(Some(new), selector, target);
            return Ok(());
        }
        let sp = self.peek(frame, size)?;
        let ss = self.peek(frame.wrapping_add(step), size)? as u16;
        self.iret_flags(flags, cpl);
        self.enter_code(Some(new), selector, target);
        self.switch_stack(ss, sp, rpl)
    }

    /// Loads the flags IRET may change at the privilege level it started from.
    fn iret_flags(&mut self, value: u64, cpl: u8) {
        let mut which = IRET_FLAGS | IRET_WIDE;
        if cpl == 0 {
            which |= rflags::IOPL;
            if self.protected() {
                which |= rflags::VIF | rflags::VIP;
            }
        }
        if cpl <= self.iopl() {
            which |= rflags::IF;
        }
        if self.s.v8086() {
            which = (which & !rflags::IOPL) | rflags::IF;
        }
        self.set_rflags(value, which & mask(self.insn.op_size));
    }

    /// IRET from CPL 0 to virtual-8086 mode: the frame holds all segment registers.
    fn iret_v8086(&mut self, target: u64, cs: u16, flags: u64) -> Result<(), Stop> {
        let sp = self.peek(12, 4)?;
        let mut selectors = [0u16; 5];
        let mut skip = 16u64;
        for s in &mut selectors {
            *s = self.peek(skip, 4)? as u16;
            skip = skip.wrapping_add(4);
        }
        if target > 0xffff {
            return Err(Stop::GP0);
        }
        self.iret_flags(flags, 0);
        self.s.rflags |= rflags::VM;
        let order = [SegReg::Ss, SegReg::Es, SegReg::Ds, SegReg::Fs, SegReg::Gs];
        for (r, s) in order.into_iter().zip(selectors) {
            self.load_real(r, s);
        }
        self.load_real(SegReg::Cs, cs);
        self.set_gpr(gpr::RSP, sp);
        self.next = target;
        Ok(())
    }

    /// CC, CD, CE, F1: in real mode through the vector table, else left to the caller to inject.
    pub(super) fn software_interrupt(&mut self) -> Result<(), Stop> {
        let (vector, kind) = match self.insn.opcode {
            0xcc => (3, SoftInt::Exception),
            0xce => {
                if self.s.rflags & rflags::OF == 0 {
                    return Ok(());
                }
                (4, SoftInt::Exception)
            }
            0xf1 => (1, SoftInt::Privileged),
            // CAST: an 8-bit immediate.
            _ => (self.insn.imm as u8, SoftInt::Int),
        };
        if kind == SoftInt::Int {
            self.check_v8086_iopl()?;
            self.bus.intercept(self.s, Intercept::IntN)?;
        }
        if self.s.protected_mode() {
            if kind != SoftInt::Privileged {
                self.check_gate(vector)?;
            }
            self.flow = Flow::Interrupt { vector, kind };
            return Ok(());
        }
        self.no_trap = true;
        self.enter_vector(vector, self.next)
    }

    /// May the guest's INT n, INT3 or INTO go through the gate of `vector`?
    ///
    /// Hardware that injects an exception or hands over a task switch does not ask, and where RIP
    /// has to be moved for an injection the fault would name the instruction behind.
    /// `SDM: vol 3, 6.12.1.2`; the error code of a gate has IDT set, `SDM: vol 3, 6.13`.
    pub(super) fn check_gate(&mut self, vector: u8) -> Result<(), Stop> {
        let long = self.s.long_mode();
        let size = if long { 16u64 } else { 8 };
        let entry = u64::from(vector).wrapping_mul(size);
        let code = u32::from(vector) << 3 | 2;
        let gp = Err(Stop::fault(GP, code));
        if entry.wrapping_add(size.wrapping_sub(1)) > u64::from(self.s.idtr.limit) {
            return gp;
        }
        let at = self.table(self.s.idtr.base, entry);
        let raw = self.load(at, 8, SYSTEM)?;
        // CAST: eight bits.
        let attr = (raw >> 40) as u8;
        let kind = attr & 0x1f;
        let gate = matches!(kind, 0xe | 0xf) || !long && matches!(kind, 5..=7);
        if !gate || (attr >> 5) & 3 < self.s.cpl() {
            return gp;
        }
        if attr & 0x80 == 0 {
            return Err(Stop::fault(NP, code));
        }
        Ok(())
    }

    /// Delivers `vector` through the real-mode vector table; `back` is the return address.
    pub(super) fn enter_vector(&mut self, vector: u8, back: u64) -> Result<(), Stop> {
        let entry = u64::from(vector).wrapping_mul(4);
        if entry | 3 > u64::from(self.s.idtr.limit) {
            return Err(Stop::GP0);
        }
        let at = self.table(self.s.idtr.base, entry);
        let pointer = self.load(at, 4, SYSTEM)?;
        let cs = u64::from(self.s.seg(SegReg::Cs).selector);
        self.push(self.s.rflags & 0xffff, 2)?;
        self.push(cs, 2)?;
        self.push(back & 0xffff, 2)?;
        self.s.rflags &= !(rflags::IF | rflags::TF | rflags::AC);
        // CAST: the upper half of four bytes.
        self.enter_code(None, (pointer >> 16) as u16, pointer & 0xffff);
        Ok(())
    }

    /// 62: BOUND.
    pub(super) fn bound(&mut self) -> Result<(), Stop> {
        let size = self.insn.op_size;
        let (seg, offset) = self.effective();
        let behind = offset.wrapping_add(u64::from(size)) & mask(self.insn.addr_size);
        let extend = |v| super::decode::sign_extend(v, size) as i64;
        let low = extend(self.read_seg(seg, offset, size)?);
        let high = extend(self.read_seg(seg, behind, size)?);
        let v = extend(self.reg(self.insn.reg(), size));
        if v < low || v > high {
            return Err(Stop::Fault(crate::x86::exception::Exception::new(
                crate::x86::exception::BR,
            )));
        }
        Ok(())
    }
}
