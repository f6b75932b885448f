// SPDX-License-Identifier: GPL-2.0

//! Near branches: jumps, calls, returns, loops.

use super::cpu::Stop;
use super::operand::mask;
use super::Ctx;
use crate::x86::ctrl::rflags;
use crate::x86::state::{gpr, SegReg};

impl Ctx<'_> {
    /// Checks a near target of operand size and makes it the next instruction.
    pub(super) fn jump(&mut self, target: u64) -> Result<(), Stop> {
        let target = target & mask(self.insn.op_size);
        let ok = if self.long() {
            self.canonical(target)
        } else {
            target <= u64::from(self.s.seg(SegReg::Cs).limit)
        };
        if !ok {
            return Err(Stop::GP0);
        }
        self.next = target;
        Ok(())
    }

    /// EB, E9: JMP rel.
    pub(super) fn jump_relative(&mut self) -> Result<(), Stop> {
        self.jump(self.next.wrapping_add(self.insn.imm))
    }

    /// 70 to 7F, 0F 80 to 8F.
    pub(super) fn jump_if(&mut self) -> Result<(), Stop> {
        if self.condition(self.insn.opcode) {
            self.jump_relative()?;
        }
        Ok(())
    }

    /// E8: CALL rel.
    pub(super) fn call_relative(&mut self) -> Result<(), Stop> {
        self.call(self.next.wrapping_add(self.insn.imm))
    }

    fn call(&mut self, target: u64) -> Result<(), Stop> {
        let back = self.next;
        self.jump(target)?;
        self.push(back, self.insn.op_size)
    }

    /// FF /2: CALL, and /4: JMP, through a register or memory.
    pub(super) fn branch_rm(&mut self, call: bool) -> Result<(), Stop> {
        let target = self.get_rm(self.insn.op_size)?;
        if call {
            self.call(target)
        } else {
            self.jump(target)
        }
    }

    /// C2, C3: RET.
    pub(super) fn ret(&mut self) -> Result<(), Stop> {
        let target = self.pop(self.insn.op_size)?;
        self.jump(target)?;
        self.drop_stack(self.insn.imm);
        Ok(())
    }

    /// E0 to E2: LOOPNE, LOOPE, LOOP; E3: JCXZ. The counter has address size.
    pub(super) fn loop_or_jcxz(&mut self) -> Result<(), Stop> {
        let width = mask(self.insn.addr_size);
        let count = self.gpr(gpr::RCX) & width;
        let zf = self.s.rflags & rflags::ZF != 0;
        if self.insn.opcode == 0xe3 {
            if count == 0 {
                self.jump_relative()?;
            }
            return Ok(());
        }
        let count = count.wrapping_sub(1) & width;
        let taken = count != 0
            && match self.insn.opcode {
                0xe0 => !zf,
                0xe1 => zf,
                _ => true,
            };
        if taken {
            self.jump_relative()?;
        }
        self.set_reg_addr(gpr::RCX, count);
        Ok(())
    }
}
