// SPDX-License-Identifier: GPL-2.0

//! Moves: MOV and its relatives, exchanges, conditional moves, LEA, far pointer loads.

use super::alu::{set_flags, sub};
use super::cpu::{Access, Stop};
use super::decode::sign_extend;
use super::operand::{mask, Place, Use};
use super::Ctx;
use crate::addr::Gva;
use crate::x86::ctrl::rflags;
use crate::x86::state::{gpr, SegReg};

impl Ctx<'_> {
    /// Evaluates the condition in the low four bits of an opcode.
    pub(super) fn condition(&self, code: u8) -> bool {
        let f = self.s.rflags;
        let has = |bits| f & bits != 0;
        let less = has(rflags::SF) != has(rflags::OF);
        let met = match (code >> 1) & 7 {
            0 => has(rflags::OF),
            1 => has(rflags::CF),
            2 => has(rflags::ZF),
            3 => has(rflags::CF | rflags::ZF),
            4 => has(rflags::SF),
            5 => has(rflags::PF),
            6 => less,
            _ => less || has(rflags::ZF),
        };
        met != (code & 1 != 0)
    }

    /// 88 to 8B.
    pub(super) fn mov_forms(&mut self) -> Result<(), Stop> {
        let (n, size) = (self.insn.reg(), self.insn.op_size);
        if self.insn.opcode & 2 == 0 {
            let v = self.reg(n, size);
            self.put_rm(size, v)
        } else {
            let v = self.get_rm(size)?;
            self.set_reg(n, size, v);
            Ok(())
        }
    }

    /// C6, C7.
    pub(super) fn mov_rm_imm(&mut self) -> Result<(), Stop> {
        if self.insn.reg3() != 0 {
            // XABORT outside a transaction does nothing; XBEGIN would have to abort.
            return Err(Stop::UNHANDLED);
        }
        let size = self.insn.op_size;
        self.put_rm(size, self.insn.imm)
    }

    /// B0 to BF.
    pub(super) fn mov_reg_imm(&mut self) {
        self.set_reg(self.insn.opcode_reg(), self.insn.op_size, self.insn.imm);
    }

    /// A0 to A3.
    pub(super) fn mov_moffs(&mut self) -> Result<(), Stop> {
        let size = self.insn.op_size;
        let seg = self.data_segment(SegReg::Ds);
        let offset = self.insn.imm;
        let load = self.insn.opcode & 2 == 0;
        let usage = if load { Use::Read } else { Use::Write };
        let place = Place::Mem(self.linear(seg, offset, u64::from(size), usage)?);
        if load {
            let v = self.get(place, size)?;
            self.set_reg(0, size, v);
            Ok(())
        } else {
            let v = self.reg(0, size);
            self.put(place, size, v)
        }
    }

    /// MOVZX, MOVSX and MOVSXD from `from` bytes.
    pub(super) fn mov_extend(&mut self, from: u8, signed: bool) -> Result<(), Stop> {
        let v = self.get_rm(from)?;
        let v = if signed { sign_extend(v, from) } else { v };
        self.set_reg(self.insn.reg(), self.insn.op_size, v);
        Ok(())
    }

    /// LEA.
    pub(super) fn lea(&mut self) {
        let (_, offset) = self.effective();
        self.set_reg(self.insn.reg(), self.insn.op_size, offset);
    }

    /// 86, 87: always atomic on memory.
    pub(super) fn xchg_rm(&mut self) -> Result<(), Stop> {
        let (n, size) = (self.insn.reg(), self.insn.op_size);
        let new = self.reg(n, size);
        let place = self.place(size, Use::Modify)?;
        let mut old = 0;
        self.modify_at(place, size, true, &mut |a, _| {
            old = a;
            new
        })?;
        self.set_reg(n, size, old);
        Ok(())
    }

    /// 91 to 97, and 90 with REX.B. Plain 90 is NOP even where the register would be truncated.
    pub(super) fn xchg_acc(&mut self) {
        let (n, size) = (self.insn.opcode_reg(), self.insn.op_size);
        if n == 0 {
            return;
        }
        let (a, b) = (self.reg(0, size), self.reg(n, size));
        self.set_reg(0, size, b);
        self.set_reg(n, size, a);
    }

    /// CMPXCHG.
    pub(super) fn cmpxchg(&mut self) -> Result<(), Stop> {
        let (n, size) = (self.insn.reg(), self.insn.op_size);
        let place = self.place(size, Use::Modify)?;
        let old = match place {
            Place::Reg(m) => self.reg(m, size),
            Place::Mem(at) => {
                let access = Access {
                    modify: true,
                    ..self.data()
                };
                self.load(at, size, access)?
            }
        };
        let acc = self.reg(0, size);
        let new = self.reg(n, size);
        let mut flags = self.s.rflags;
        sub(size, acc, old, false, &mut flags);
        if acc != old {
            // The destination is written in any case.
            if let Place::Mem(at) = place {
                if !self.swap_if(at, size, old, old)? {
                    return Err(self.lost_race());
                }
            }
            self.set_reg(0, size, old);
        } else {
            match place {
                Place::Reg(m) => self.set_reg(m, size, new),
                Place::Mem(at) => {
                    if !self.swap_if(at, size, old, new)? {
                        return Err(self.lost_race());
                    }
                }
            }
        }
        self.s.rflags = flags;
        Ok(())
    }

    /// CMPXCHG8B and CMPXCHG16B.
    pub(super) fn cmpxchg_pair(&mut self) -> Result<(), Stop> {
        if !self.insn.is_mem() {
            return Err(Stop::UNHANDLED);
        }
        let half: u8 = if self.insn.rex_w() { 8 } else { 4 };
        let len = half << 1;
        let (seg, offset) = self.effective();
        let at = self.linear(seg, offset, u64::from(len), Use::Modify)?;
        if half == 8 && at.get() & 15 != 0 {
            return Err(Stop::GP0);
        }
        let access = self.data();
        let mut old = [0u8; 16];
        if let Some(part) = old.get_mut(..usize::from(len)) {
            self.bus.read(
                at,
                part,
                Access {
                    modify: true,
                    ..access
                },
            )?;
        }
        let (low, high) = split(u128::from_le_bytes(old), half);
        let reg = |c: &Self, n: usize| c.gpr(n) & mask(half);
        let equal = low == reg(self, gpr::RAX) && high == reg(self, gpr::RDX);
        if equal {
            let new = join(reg(self, gpr::RBX), reg(self, gpr::RCX), half).to_le_bytes();
            self.swap_wide(at, len, &old, &new, access)?;
        } else {
            // The destination is written in any case.
            self.swap_wide(at, len, &old, &old, access)?;
            self.set_gpr(gpr::RAX, low);
            self.set_gpr(gpr::RDX, high);
        }
        let zf = if equal { rflags::ZF } else { 0 };
        set_flags(&mut self.s.rflags, rflags::ZF, zf);
        Ok(())
    }

    fn swap_wide(
        &mut self,
        at: Gva,
        len: u8,
        old: &[u8; 16],
        new: &[u8; 16],
        access: Access,
    ) -> Result<(), Stop> {
        let n = usize::from(len);
        let done = match (old.get(..n), new.get(..n)) {
            (Some(old), Some(new)) => self.bus.cmpxchg(at, old, new, access)?,
            _ => false,
        };
        if done {
            Ok(())
        } else {
            Err(self.lost_race())
        }
    }

    /// SETcc.
    pub(super) fn setcc(&mut self) -> Result<(), Stop> {
        let v = u64::from(self.condition(self.insn.opcode));
        self.put_rm(1, v)
    }

    /// CMOVcc: the source is read, and a 32-bit destination truncated, whatever the condition.
    pub(super) fn cmov(&mut self) -> Result<(), Stop> {
        let (n, size) = (self.insn.reg(), self.insn.op_size);
        let v = self.get_rm(size)?;
        let v = if self.condition(self.insn.opcode) {
            v
        } else {
            self.reg(n, size)
        };
        self.set_reg(n, size, v);
        Ok(())
    }

    /// XLAT.
    pub(super) fn xlat(&mut self) -> Result<(), Stop> {
        let base = self.gpr(gpr::RBX);
        let al = self.gpr(gpr::RAX) & 0xff;
        let offset = base.wrapping_add(al) & mask(self.insn.addr_size);
        let v = self.read_seg(self.data_segment(SegReg::Ds), offset, 1)?;
        self.set_reg(0, 1, v);
        Ok(())
    }

    /// LES, LDS, LSS, LFS and LGS.
    pub(super) fn load_far_pointer(&mut self, seg: SegReg) -> Result<(), Stop> {
        let size = self.insn.op_size;
        let (from, offset) = self.effective();
        let value = self.read_seg(from, offset, size)?;
        let behind = offset.wrapping_add(u64::from(size)) & mask(self.insn.addr_size);
        // CAST: two bytes were read.
        let selector = self.read_seg(from, behind, 2)? as u16;
        self.load_segment(seg, selector)?;
        self.set_reg(self.insn.reg(), size, value);
        Ok(())
    }

    /// 8C: MOV from a segment register. A register destination gets operand size, memory 16 bits.
    pub(super) fn mov_from_seg(&mut self) -> Result<(), Stop> {
        let seg = super::operand::seg_by_number(self.insn.reg3());
        let v = u64::from(self.s.seg(seg).selector);
        let size = if self.insn.is_mem() {
            2
        } else {
            self.insn.op_size
        };
        self.put_rm(size, v)
    }

    /// 8E: MOV to a segment register.
    pub(super) fn mov_to_seg(&mut self) -> Result<(), Stop> {
        let seg = super::operand::seg_by_number(self.insn.reg3());
        // CAST: two bytes were read.
        let selector = self.get_rm(2)? as u16;
        self.load_segment(seg, selector)?;
        if seg == SegReg::Ss {
            self.shadow_mov_ss();
        }
        Ok(())
    }
}

/// The two halves of `half` bytes each: low, high.
fn split(v: u128, half: u8) -> (u64, u64) {
    if half == 8 {
        // CAST: the two halves.
        (v as u64, (v >> 64) as u64)
    } else {
        (v as u64 & 0xffff_ffff, (v >> 32) as u64 & 0xffff_ffff)
    }
}

fn join(low: u64, high: u64, half: u8) -> u128 {
    if half == 8 {
        u128::from(low) | (u128::from(high) << 64)
    } else {
        u128::from(low | (high << 32))
    }
}
