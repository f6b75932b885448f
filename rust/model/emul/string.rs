// SPDX-License-Identifier: GPL-2.0

//! String instructions: MOVS, STOS, LODS, CMPS, SCAS, INS and OUTS, with REP.
//!
//! Registers are committed after each element, so an exception or a trip to user space in the
//! middle of REP leaves exactly the elements done so far, as on hardware. A call does a bounded
//! number of elements and then returns [`Flow::Repeat`], so that interrupts are not held up.

use super::alu::sub;
use super::cpu::{Flow, Intercept, Stop};
use super::decode::Rep;
use super::operand::{mask, Use};
use super::Ctx;
use crate::addr::{Gva, PAGE_SIZE};
use crate::x86::ctrl::rflags;
use crate::x86::state::{gpr, SegReg};

/// Below each multiple of this many elements that are left, a call of `emulate` ends.
const BATCH: u64 = 512;

impl Ctx<'_> {
    /// 6C to 6F, A4 to A7, AA to AF.
    pub(super) fn string(&mut self) -> Result<(), Stop> {
        // Whatever ends this, the elements done stay done.
        self.partial = true;
        let io = matches!(self.insn.opcode, 0x6c..=0x6f);
        // There is no 64-bit port access.
        let size = if io {
            self.insn.op_size.min(4)
        } else {
            self.insn.op_size
        };
        if io {
            self.string_io_allowed(size)?;
        }
        if self.insn.rep == Rep::None {
            return self.string_element(size, 1).map(|_| ());
        }
        let width = mask(self.insn.addr_size);
        // The caller wants to see every element while single-stepping. A shadow ends with the first one.
        let alone = self.s.rflags & rflags::TF != 0 || self.s.shadow != 0;
        loop {
            let count = self.gpr(gpr::RCX) & width;
            if count == 0 {
                return Ok(());
            }
            let done = self.string_element(size, count)?;
            let left = count.wrapping_sub(u64::from(done)) & width;
            self.set_reg_addr(gpr::RCX, left);
            self.bus.committed();
            if left == 0 || self.compare_ends() {
                return Ok(());
            }
            // A count of the calls would begin anew with each element that user space answers.
            let batch_ends = left / BATCH != count / BATCH;
            if alone || batch_ends || self.bus.is_wanted() {
                self.flow = Flow::Repeat;
                return Ok(());
            }
        }
    }

    /// Has REPE or REPNE of a comparison met its condition?
    fn compare_ends(&self) -> bool {
        if !matches!(self.insn.opcode, 0xa6 | 0xa7 | 0xae | 0xaf) {
            return false;
        }
        let zf = self.s.rflags & rflags::ZF != 0;
        zf == (self.insn.rep == Rep::Ne)
    }

    /// Does one element, or up to `left` of INS and OUTS, and moves the index registers.
    fn string_element(&mut self, size: u8, left: u64) -> Result<u32, Stop> {
        let src = self.gpr(gpr::RSI) & mask(self.insn.addr_size);
        let dst = self.gpr(gpr::RDI) & mask(self.insn.addr_size);
        let from = self.data_segment(SegReg::Ds);
        match self.insn.opcode {
            0x6c | 0x6d => return self.ins(size, dst, left),
            0x6e | 0x6f => return self.outs(size, from, src, left),
            0xa4 | 0xa5 => {
                let v = self.read_seg(from, src, size)?;
                self.write_es(dst, size, v)?;
                self.advance(gpr::RSI, size, 1);
                self.advance(gpr::RDI, size, 1);
            }
            0xa6 | 0xa7 => {
                let a = self.read_seg(from, src, size)?;
                let b = self.read_seg(SegReg::Es, dst, size)?;
                sub(size, a, b, false, &mut self.s.rflags);
                self.advance(gpr::RSI, size, 1);
                self.advance(gpr::RDI, size, 1);
            }
            0xaa | 0xab => {
                let v = self.reg(0, size);
                self.write_es(dst, size, v)?;
                self.advance(gpr::RDI, size, 1);
            }
            0xac | 0xad => {
                let v = self.read_seg(from, src, size)?;
                self.set_reg(0, size, v);
                self.advance(gpr::RSI, size, 1);
            }
            _ => {
                let a = self.reg(0, size);
                let b = self.read_seg(SegReg::Es, dst, size)?;
                sub(size, a, b, false, &mut self.s.rflags);
                self.advance(gpr::RDI, size, 1);
            }
        }
        Ok(1)
    }

    /// The destination of a string instruction is in ES, which cannot be overridden.
    fn write_es(&mut self, offset: u64, size: u8, value: u64) -> Result<(), Stop> {
        let at = self.linear(SegReg::Es, offset, u64::from(size), Use::Write)?;
        let access = self.data();
        self.store(at, size, value, access)
    }

    /// Moves an index register by `count` elements in the direction DF says.
    fn advance(&mut self, n: usize, size: u8, count: u32) {
        let step = u64::from(size).wrapping_mul(u64::from(count));
        let v = self.gpr(n);
        let new = if self.s.rflags & rflags::DF != 0 {
            v.wrapping_sub(step)
        } else {
            v.wrapping_add(step)
        };
        self.set_reg_addr(n, new);
    }

    /// How many elements from `at` on, at most `left`, can go in one batch: upward, inside the
    /// page, and inside the segment.
    fn batch(&self, seg: SegReg, offset: u64, at: Gva, size: u8, left: u64, usage: Use) -> u32 {
        if self.s.rflags & (rflags::DF | rflags::TF) != 0 {
            return 1;
        }
        let room = PAGE_SIZE.wrapping_sub(at.offset());
        let fit = room.checked_div(u64::from(size)).unwrap_or(0);
        let mut count = fit.min(left).max(1);
        let wraps = offset
            .checked_add(room)
            .is_none_or(|end| end > mask(self.insn.addr_size));
        let bytes = count.wrapping_mul(u64::from(size));
        if wraps || self.linear(seg, offset, bytes, usage).is_err() {
            count = 1;
        }
        // CAST: at most a page.
        count as u32
    }

    fn string_io_allowed(&mut self, size: u8) -> Result<(), Stop> {
        let port = self.gpr(gpr::RDX) as u16;
        self.check_port(port, size)?;
        let op = Intercept::Io {
            port,
            size,
            input: matches!(self.insn.opcode, 0x6c | 0x6d),
            string: true,
            rep: self.insn.rep != Rep::None,
        };
        self.bus.intercept(self.s, op)
    }

    fn ins(&mut self, size: u8, dst: u64, left: u64) -> Result<u32, Stop> {
        let port = self.gpr(gpr::RDX) as u16;
        let access = self.data();
        let at = self.linear(SegReg::Es, dst, u64::from(size), Use::Write)?;
        let batch = self.batch(SegReg::Es, dst, at, size, left, Use::Write);
        let mut done = 0;
        if batch > 1 {
            done = self
                .bus
                .port_in_string(port, size, batch, at, access)?
                .min(batch);
        }
        if done == 0 {
            // The device must not be read if the memory then faults.
            self.bus.check_write(at, u32::from(size), access)?;
            let v = self.port_read(port, size)?;
            self.store(at, size, v, access)?;
            done = 1;
        }
        self.advance(gpr::RDI, size, done);
        Ok(done)
    }

    fn outs(&mut self, size: u8, seg: SegReg, src: u64, left: u64) -> Result<u32, Stop> {
        let port = self.gpr(gpr::RDX) as u16;
        let access = self.data();
        let at = self.linear(seg, src, u64::from(size), Use::Read)?;
        let batch = self.batch(seg, src, at, size, left, Use::Read);
        let mut done = 0;
        if batch > 1 {
            done = self
                .bus
                .port_out_string(port, size, batch, at, access)?
                .min(batch);
        }
        if done == 0 {
            let v = self.load(at, size, access)?;
            self.port_write(port, size, v)?;
            done = 1;
        }
        self.advance(gpr::RSI, size, done);
        Ok(done)
    }
}
