// SPDX-License-Identifier: GPL-2.0

//! The SSE moves that software uses on device memory. Arithmetic is not emulated.

use super::cpu::Stop;
use super::decode::Rep;
use super::operand::Use;
use super::Ctx;
use crate::x86::ctrl::{cr0, cr4};
use crate::x86::exception::{Exception, NM};

/// What a move does to the register beyond the bytes it moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Upper {
    Keep,
    Clear,
}

/// The shape of a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Move {
    /// To the register; else from it.
    load: bool,
    /// Bytes moved.
    size: u8,
    /// First byte of the register.
    at: u8,
    /// A memory operand must be aligned to its size.
    aligned: bool,
    /// What a load from memory does to the rest of the register.
    memory: Upper,
    /// What a move from another register does to it.
    register: Upper,
    /// The register form means something else or nothing.
    memory_only: bool,
}

const FULL: Move = Move {
    load: true,
    size: 16,
    at: 0,
    aligned: false,
    memory: Upper::Keep,
    register: Upper::Keep,
    memory_only: false,
};

impl Ctx<'_> {
    /// Mandatory prefix: 0 for none, 66, F3 or F2.
    fn simd_prefix(&self) -> u8 {
        match self.insn.rep {
            Rep::E => 0xf3,
            Rep::Ne => 0xf2,
            Rep::None if self.insn.opsize_prefix => 0x66,
            Rep::None => 0,
        }
    }

    /// Are SSE instructions usable?
    fn check_sse(&self) -> Result<(), Stop> {
        if self.s.cr0 & cr0::EM != 0 || self.s.cr4 & cr4::OSFXSR == 0 {
            return Err(Stop::UD);
        }
        if self.s.cr0 & cr0::TS != 0 {
            return Err(Stop::Fault(Exception::new(NM)));
        }
        Ok(())
    }

    /// The moves of the 0F map. Anything else there is unhandled.
    pub(super) fn sse_move(&mut self) -> Result<(), Stop> {
        let load = self.insn.opcode & 1 == 0;
        let scalar = |size| Move {
            load,
            size,
            memory: Upper::Clear,
            ..FULL
        };
        let half = |at| Move {
            load,
            size: 8,
            at,
            memory_only: true,
            ..FULL
        };
        let aligned = Move {
            aligned: true,
            ..FULL
        };
        let m = match (self.simd_prefix(), self.insn.opcode) {
            // MOVUPS, MOVUPD, MOVSS, MOVSD.
            (0 | 0x66, 0x10 | 0x11) => Move { load, ..FULL },
            (0xf3, 0x10 | 0x11) => scalar(4),
            (0xf2, 0x10 | 0x11) => scalar(8),
            // MOVLPS, MOVLPD, MOVHPS, MOVHPD.
            (0 | 0x66, 0x12 | 0x13) => half(0),
            (0 | 0x66, 0x16 | 0x17) => half(8),
            // MOVAPS, MOVAPD.
            (0 | 0x66, 0x28 | 0x29) => Move { load, ..aligned },
            // MOVNTPS, MOVNTPD, MOVNTDQ.
            (0 | 0x66, 0x2b) | (0x66, 0xe7) => Move {
                load: false,
                memory_only: true,
                ..aligned
            },
            // MOVDQA, MOVDQU, LDDQU.
            (0x66, 0x6f) => aligned,
            (0xf3, 0x6f) => FULL,
            (0x66, 0x7f) => Move {
                load: false,
                ..aligned
            },
            (0xf3, 0x7f) => Move {
                load: false,
                ..FULL
            },
            (0xf2, 0xf0) => Move {
                memory_only: true,
                ..FULL
            },
            // MOVQ between vector registers and memory: always clears the upper half.
            (0xf3, 0x7e) => Move {
                load: true,
                register: Upper::Clear,
                ..scalar(8)
            },
            (0x66, 0xd6) => Move {
                load: false,
                register: Upper::Clear,
                ..scalar(8)
            },
            // MOVD, MOVQ with a general-purpose register or memory.
            (0x66, 0x6e | 0x7e) => return self.sse_gpr(),
            _ => return Err(Stop::UNHANDLED),
        };
        self.check_sse()?;
        self.sse_do(m)
    }

    /// MOVNTDQA: 66 0F 38 2A.
    pub(super) fn sse_load_nt(&mut self) -> Result<(), Stop> {
        if self.simd_prefix() != 0x66 {
            return Err(Stop::UNHANDLED);
        }
        self.check_sse()?;
        self.sse_do(Move {
            aligned: true,
            memory_only: true,
            ..FULL
        })
    }

    fn sse_do(&mut self, m: Move) -> Result<(), Stop> {
        let reg = self.insn.reg();
        if !self.insn.is_mem() {
            if m.memory_only {
                // MOVHLPS and MOVLHPS live there, or nothing does.
                return Err(Stop::UNHANDLED);
            }
            let (to, from) = if m.load {
                (reg, self.insn.rm())
            } else {
                (self.insn.rm(), reg)
            };
            let source = self.bus.read_xmm(from)?;
            let mut target = self.bus.read_xmm(to)?;
            if m.register == Upper::Clear {
                target = [0; 16];
            }
            copy(&mut target, 0, &source, 0, m.size);
            return self.bus.write_xmm(to, target);
        }
        let (seg, offset) = self.effective();
        let usage = if m.load { Use::Read } else { Use::Write };
        let at = self.linear(seg, offset, u64::from(m.size), usage)?;
        if m.aligned && at.get() & u64::from(m.size.wrapping_sub(1)) != 0 {
            return Err(Stop::GP0);
        }
        let access = self.data();
        let mut register = self.bus.read_xmm(reg)?;
        let mut buf = [0u8; 16];
        let part = match buf.get_mut(..usize::from(m.size)) {
            Some(part) => part,
            None => return Err(Stop::UNHANDLED),
        };
        if !m.load {
            for (to, from) in part.iter_mut().zip(register.iter().skip(usize::from(m.at))) {
                *to = *from;
            }
            return self.bus.write(at, part, access);
        }
        self.bus.read(at, part, access)?;
        if m.memory == Upper::Clear {
            register = [0; 16];
        }
        copy(&mut register, m.at, &buf, 0, m.size);
        self.bus.write_xmm(reg, register)
    }

    /// 66 0F 6E and 7E: MOVD, or MOVQ with REX.W.
    fn sse_gpr(&mut self) -> Result<(), Stop> {
        self.check_sse()?;
        let size = if self.insn.rex_w() { 8 } else { 4 };
        let reg = self.insn.reg();
        if self.insn.opcode == 0x6e {
            let v = self.get_rm(size)?;
            let mut value = [0u8; 16];
            copy(&mut value, 0, &v.to_le_bytes(), 0, size);
            return self.bus.write_xmm(reg, value);
        }
        let value = self.bus.read_xmm(reg)?;
        let mut low = [0u8; 8];
        copy(&mut low, 0, &value, 0, size);
        self.put_rm(size, u64::from_le_bytes(low))
    }

    /// 0F C3: MOVNTI.
    pub(super) fn movnti(&mut self) -> Result<(), Stop> {
        if !self.insn.is_mem() || self.simd_prefix() != 0 {
            return Err(Stop::UD);
        }
        let size = self.insn.op_size;
        let v = self.reg(self.insn.reg(), size);
        self.put_rm(size, v)
    }
}

/// Copies `len` bytes from `from` at `start` to `to` at `at`.
fn copy(to: &mut [u8], at: u8, from: &[u8], start: u8, len: u8) {
    let source = from.iter().skip(usize::from(start)).take(usize::from(len));
    for (t, f) in to.iter_mut().skip(usize::from(at)).zip(source) {
        *t = *f;
    }
}
