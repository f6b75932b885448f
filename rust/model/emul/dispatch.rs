// SPDX-License-Identifier: GPL-2.0

//! From opcode to the function that carries it out.
//!
//! What is not named here is `Stop::UNHANDLED`: x87, most of SSE and AVX, SVM and VMX instructions.

use super::cpu::Stop;
use super::decode::{Map, Rep};
use super::operand::seg_by_number;
use super::Ctx;
use crate::x86::ctrl::rflags;
use crate::x86::state::{gpr, SegReg};

impl Ctx<'_> {
    /// Carries out the instruction.
    pub(super) fn dispatch(&mut self) -> Result<(), Stop> {
        match self.insn.map {
            Map::One => self.one(),
            Map::Two => self.two(),
            Map::Op38 => self.op38(),
            Map::Vex => self.avx_move(),
            Map::Op3a | Map::Now3d | Map::Evex | Map::Xop => Err(Stop::UNHANDLED),
        }
    }

    /// The one-byte map.
    fn one(&mut self) -> Result<(), Stop> {
        let op = self.insn.opcode;
        match op {
            0x06 | 0x0e | 0x16 | 0x1e => return self.push_seg(seg_by_number(op >> 3)),
            0x07 | 0x17 | 0x1f => return self.pop_seg(seg_by_number(op >> 3)),
            0x27 | 0x2f => self.decimal_adjust(op == 0x2f),
            0x37 | 0x3f => self.ascii_adjust(op == 0x3f),
            0x00..=0x3f => return self.alu_forms(),
            0x40..=0x4f => self.inc_dec_reg(),
            0x50..=0x57 => return self.push_reg(),
            0x58..=0x5f => return self.pop_reg(),
            0x60 => return self.pusha(),
            0x61 => return self.popa(),
            0x62 => return self.bound(),
            0x63 if self.long() => return self.mov_extend(self.insn.op_size.min(4), true),
            0x63 => return self.arpl(),
            0x68 | 0x6a => return self.push(self.insn.imm, self.insn.op_size),
            0x69 | 0x6b => return self.imul_reg(Some(self.insn.imm)),
            0x6c..=0x6f | 0xa4..=0xa7 | 0xaa..=0xaf => return self.string(),
            0x70..=0x7f => return self.jump_if(),
            0x80..=0x83 => return self.alu_group1(),
            0x84 | 0x85 => return self.test_rm(self.reg(self.insn.reg(), self.insn.op_size)),
            0x86 | 0x87 => return self.xchg_rm(),
            0x88..=0x8b => return self.mov_forms(),
            0x8c => return self.mov_from_seg(),
            0x8d => self.lea(),
            0x8e => return self.mov_to_seg(),
            0x8f => return self.pop_rm(),
            0x90 if self.insn.rep == Rep::E => return self.pause(),
            0x90..=0x97 => self.xchg_acc(),
            0x98 => self.extend_acc(),
            0x99 => self.extend_to_pair(),
            0x9a => return self.far_immediate(true),
            0x9b => return self.fwait(),
            0x9c => return self.pushf(),
            0x9d => return self.popf(),
            0x9e => self.sahf(),
            0x9f => self.lahf(),
            0xa0..=0xa3 => return self.mov_moffs(),
            0xa8 | 0xa9 => self.test_acc(),
            0xb0..=0xbf => self.mov_reg_imm(),
            0xc0 | 0xc1 | 0xd0..=0xd3 => return self.shift_group(),
            0xc2 | 0xc3 => return self.ret(),
            0xc4 => return self.load_far_pointer(SegReg::Es),
            0xc5 => return self.load_far_pointer(SegReg::Ds),
            0xc6 | 0xc7 => return self.mov_rm_imm(),
            0xc8 => return self.enter(),
            0xc9 => return self.leave(),
            0xca | 0xcb => return self.ret_far(),
            0xcc..=0xce | 0xf1 => return self.software_interrupt(),
            0xcf => return self.iret(),
            0xd4 => return self.aam(),
            0xd5 => self.aad(),
            0xd6 => self.salc(),
            0xd7 => return self.xlat(),
            0xd9 | 0xdb | 0xdd | 0xdf => return self.x87(),
            0xe0..=0xe3 => return self.loop_or_jcxz(),
            0xe4..=0xe7 | 0xec..=0xef => return self.in_out(),
            0xe8 => return self.call_relative(),
            0xe9 | 0xeb => return self.jump_relative(),
            0xea => return self.far_immediate(false),
            0xf4 => return self.hlt(),
            0xf5 => self.s.rflags ^= rflags::CF,
            0xf6 | 0xf7 => return self.group3(),
            0xf8 => self.s.rflags &= !rflags::CF,
            0xf9 => self.s.rflags |= rflags::CF,
            0xfa | 0xfb => return self.cli_sti(op == 0xfb),
            0xfc => self.s.rflags &= !rflags::DF,
            0xfd => self.s.rflags |= rflags::DF,
            0xfe | 0xff => return self.group45(),
            _ => return Err(Stop::UNHANDLED),
        }
        Ok(())
    }

    /// F6, F7.
    fn group3(&mut self) -> Result<(), Stop> {
        match self.insn.reg3() {
            0 | 1 => self.test_rm(self.insn.imm),
            2 => self.not(),
            3 => self.neg(),
            4 => self.mul(false),
            5 => self.mul(true),
            6 => self.div(false),
            _ => self.div(true),
        }
    }

    /// FE, FF.
    fn group45(&mut self) -> Result<(), Stop> {
        match self.insn.reg3() {
            n @ (0 | 1) => self.inc_dec(n == 1),
            2 => self.branch_rm(true),
            3 => self.far_memory(true),
            4 => self.branch_rm(false),
            5 => self.far_memory(false),
            _ => self.push_rm(),
        }
    }

    /// 9E: SAHF.
    fn sahf(&mut self) {
        let ah = (self.gpr(gpr::RAX) >> 8) & 0xff;
        self.set_rflags(ah, rflags::STATUS & !rflags::OF);
    }

    /// 9F: LAHF.
    fn lahf(&mut self) {
        let kept = self.gpr(gpr::RAX) & !0xff00;
        self.set_gpr(gpr::RAX, kept | ((self.s.rflags & 0xff) << 8));
    }

    /// D6: SALC.
    fn salc(&mut self) {
        let set = self.s.rflags & rflags::CF != 0;
        self.set_reg(0, 1, if set { 0xff } else { 0 });
    }

    /// The 0F map.
    fn two(&mut self) -> Result<(), Stop> {
        let op = self.insn.opcode;
        match op {
            0x00 => self.group6(),
            0x01 => self.group7(),
            0x02 | 0x03 => self.lar_lsl(),
            0x05 => self.syscall(),
            0x06 => self.clts(),
            0x08 | 0x09 => self.cache(op == 9),
            0x0b | 0xb9 | 0xff => Err(Stop::UD),
            // Hints: prefetches and the reserved NOPs. ENDBR is one of them.
            0x0d | 0x18 | 0x19 | 0x1c..=0x1f => Ok(()),
            0x20 | 0x22 => self.mov_cr(),
            0x21 | 0x23 => self.mov_dr(),
            0x30 => self.wrmsr(),
            0x31 => self.rdtsc(),
            0x32 => self.rdmsr(),
            0x33 => self.rdpmc(),
            0x34 => self.sysenter(),
            0x35 => self.sysexit(),
            0x40..=0x4f => self.cmov(),
            0x80..=0x8f => self.jump_if(),
            0x90..=0x9f => self.setcc(),
            0xa0 => self.push_seg(SegReg::Fs),
            0xa1 => self.pop_seg(SegReg::Fs),
            0xa2 => self.cpuid(),
            0xa3 | 0xab | 0xb3 | 0xbb | 0xba => self.bit_test(),
            0xa4 | 0xa5 | 0xac | 0xad => self.double_shift(),
            0xa8 => self.push_seg(SegReg::Gs),
            0xa9 => self.pop_seg(SegReg::Gs),
            0xaa => {
                self.rsm();
                Ok(())
            }
            0xae => self.group15(),
            0xaf => self.imul_reg(None),
            0xb0 | 0xb1 => self.cmpxchg(),
            0xb2 => self.load_far_pointer(SegReg::Ss),
            0xb4 => self.load_far_pointer(SegReg::Fs),
            0xb5 => self.load_far_pointer(SegReg::Gs),
            0xb6 | 0xb7 | 0xbe | 0xbf => {
                self.mov_extend(if op & 1 == 0 { 1 } else { 2 }, op & 8 != 0)
            }
            0xb8 => self.popcnt(),
            0xbc | 0xbd => self.bit_scan(),
            0xc0 | 0xc1 => self.xadd(),
            0xc3 => self.movnti(),
            0xc7 if self.insn.reg3() == 1 => self.cmpxchg_pair(),
            0xc7 if self.insn.modrm >= 0xf8 && self.insn.rep == Rep::E => self.rdpid(),
            0xc8..=0xcf => {
                self.bswap();
                Ok(())
            }
            0x10..=0x17 | 0x28..=0x2b | 0x6e | 0x6f | 0x7e | 0x7f | 0xd6 | 0xe7 | 0xf0 => {
                self.sse_move()
            }
            _ => Err(Stop::UNHANDLED),
        }
    }

    /// The 0F 38 map.
    fn op38(&mut self) -> Result<(), Stop> {
        match (self.insn.opcode, self.insn.rep) {
            (0xf0 | 0xf1, Rep::Ne) => self.crc32(),
            (0xf0 | 0xf1, Rep::None) => self.movbe(),
            (0x2a, Rep::None) => self.sse_load_nt(),
            _ => Err(Stop::UNHANDLED),
        }
    }
}
