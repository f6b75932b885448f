// SPDX-License-Identifier: GPL-2.0

//! The MMX, SSE and AVX moves that software uses on device memory. Arithmetic is not emulated.

use super::cpu::{Stop, VecReg};
use super::decode::Rep;
use super::operand::Use;
use super::Ctx;
use crate::x86::ctrl::{cr0, cr4};
use crate::x86::exception::{Exception, NM};
use crate::x86::xsave::component;

/// Most bytes that a bus takes at once.
const PART: usize = 16;

/// What a move does to the register beyond the bytes it moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Upper {
    Keep,
    Clear,
}

/// Which registers a move uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum File {
    Mmx,
    Sse,
    /// Both lengths of AVX: what is not moved of a register is cleared.
    Avx,
}

/// The shape of a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Move {
    file: File,
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
    file: File::Sse,
    load: true,
    size: 16,
    at: 0,
    aligned: false,
    memory: Upper::Keep,
    register: Upper::Keep,
    memory_only: false,
};

impl Move {
    fn reg(&self, n: u8) -> VecReg {
        match self.file {
            File::Mmx => VecReg::Mm(n & 7),
            File::Sse => VecReg::Xmm(n),
            File::Avx => VecReg::Ymm(n),
        }
    }
}

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

    /// Are the registers usable? `SDM: vol 2, 2.5` and 2.7; for MMX `SDM: vol 3, 14.1`.
    fn check_file(&self, file: File) -> Result<(), Stop> {
        let s = &*self.s;
        let usable = match file {
            File::Mmx => s.cr0 & cr0::EM == 0,
            File::Sse => s.cr0 & cr0::EM == 0 && s.cr4 & cr4::OSFXSR != 0,
            File::Avx => {
                let need = component::SSE | component::AVX;
                self.protected() && s.cr4 & cr4::OSXSAVE != 0 && s.xcr0 & need == need
            }
        };
        if !usable {
            return Err(Stop::UD);
        }
        if s.cr0 & cr0::TS != 0 {
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
        let mmx = Move {
            file: File::Mmx,
            size: 8,
            ..FULL
        };
        let m = match (self.simd_prefix(), self.insn.opcode) {
            // MOVSS, MOVSD.
            (0xf3, 0x10 | 0x11) => scalar(4),
            (0xf2, 0x10 | 0x11) => scalar(8),
            // MOVLPS, MOVLPD, MOVHPS, MOVHPD.
            (0 | 0x66, 0x12 | 0x13) => half(0),
            (0 | 0x66, 0x16 | 0x17) => half(8),
            // LDDQU.
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
            // MOVQ and MOVNTQ of MMX.
            (0, 0x6f) => mmx,
            (0, 0x7f) => Move { load: false, ..mmx },
            (0, 0xe7) => Move {
                load: false,
                memory_only: true,
                ..mmx
            },
            (prefix, opcode) => full_move(prefix, opcode)?,
        };
        self.vector_move(m)
    }

    /// VEX: the moves of whole registers, 16 or 32 bytes.
    pub(super) fn avx_move(&mut self) -> Result<(), Stop> {
        let vex = self.insn.vex;
        let prefix = match vex & 3 {
            0 => 0,
            1 => 0x66,
            2 => 0xf3,
            _ => 0xf2,
        };
        let m = match (self.insn.submap, self.insn.opcode) {
            (1, opcode) => full_move(prefix, opcode)?,
            (2, 0x2a) if prefix == 0x66 => NON_TEMPORAL_LOAD,
            _ => return Err(Stop::UNHANDLED),
        };
        // There is no second source: vvvv, inverted, names nothing.
        if vex & 0x78 != 0x78 {
            return Err(Stop::UD);
        }
        self.vector_move(Move {
            file: File::Avx,
            size: if vex & 4 != 0 { 32 } else { 16 },
            memory: Upper::Clear,
            register: Upper::Clear,
            ..m
        })
    }

    /// MOVNTDQA: 66 0F 38 2A.
    pub(super) fn sse_load_nt(&mut self) -> Result<(), Stop> {
        if self.simd_prefix() != 0x66 {
            return Err(Stop::UNHANDLED);
        }
        self.vector_move(NON_TEMPORAL_LOAD)
    }

    fn vector_move(&mut self, m: Move) -> Result<(), Stop> {
        let reg = self.insn.reg();
        if !self.insn.is_mem() {
            if m.memory_only {
                // MOVHLPS and MOVLHPS live there, or nothing does.
                return Err(Stop::UNHANDLED);
            }
            self.check_file(m.file)?;
            let (to, from) = if m.load {
                (reg, self.insn.rm())
            } else {
                (self.insn.rm(), reg)
            };
            let source = self.bus.read_vec(m.reg(from))?;
            let mut target = self.bus.read_vec(m.reg(to))?;
            if m.register == Upper::Clear {
                target = [0; 32];
            }
            copy(&mut target, 0, &source, 0, m.size);
            return self.bus.write_vec(m.reg(to), target);
        }
        self.check_file(m.file)?;
        let (seg, offset) = self.effective();
        let usage = if m.load { Use::Read } else { Use::Write };
        let at = self.linear(seg, offset, u64::from(m.size), usage)?;
        if m.aligned && at.get() & u64::from(m.size.wrapping_sub(1)) != 0 {
            return Err(Stop::GP0);
        }
        let access = self.data();
        let mut register = self.bus.read_vec(m.reg(reg))?;
        let mut buf = [0u8; 32];
        let moved = match buf.get_mut(..usize::from(m.size)) {
            Some(part) => part,
            None => return Err(Stop::UNHANDLED),
        };
        if !m.load {
            copy(
                moved,
                0,
                register.get(usize::from(m.at)..).unwrap_or(&[]),
                0,
                m.size,
            );
            if moved.len() > PART {
                // Both halves are permitted before the first is written.
                self.bus.check_write(at, m.size.into(), access)?;
            }
            let mut to = at;
            for part in moved.chunks(PART) {
                self.bus.write(to, part, access)?;
                to = to.wrapping_add(PART as u64);
            }
            return Ok(());
        }
        let mut from = at;
        for part in moved.chunks_mut(PART) {
            self.bus.read(from, part, access)?;
            from = from.wrapping_add(PART as u64);
        }
        if m.memory == Upper::Clear {
            register = [0; 32];
        }
        copy(&mut register, m.at, &buf, 0, m.size);
        self.bus.write_vec(m.reg(reg), register)
    }

    /// 66 0F 6E and 7E: MOVD, or MOVQ with REX.W.
    fn sse_gpr(&mut self) -> Result<(), Stop> {
        self.check_file(File::Sse)?;
        let size = if self.insn.rex_w() { 8 } else { 4 };
        let reg = VecReg::Xmm(self.insn.reg());
        if self.insn.opcode == 0x6e {
            let v = self.get_rm(size)?;
            let mut value = [0u8; 32];
            copy(&mut value, 0, &v.to_le_bytes(), 0, size);
            return self.bus.write_vec(reg, value);
        }
        let value = self.bus.read_vec(reg)?;
        let mut low = [0u8; 8];
        copy(&mut low, 0, &value, 0, size);
        self.put_rm(size, u64::from_le_bytes(low))
    }

    /// 0F C3: MOVNTI, of 32 bits in 16-bit code too.
    pub(super) fn movnti(&mut self) -> Result<(), Stop> {
        if !self.insn.is_mem() || self.simd_prefix() != 0 {
            return Err(Stop::UD);
        }
        let size = if self.insn.rex_w() { 8 } else { 4 };
        let v = self.reg(self.insn.reg(), size);
        self.put_rm(size, v)
    }
}

/// MOVNTDQA.
const NON_TEMPORAL_LOAD: Move = Move {
    aligned: true,
    memory_only: true,
    ..FULL
};

/// The moves of whole registers in the 0F map, which SSE and AVX have in common.
fn full_move(prefix: u8, opcode: u8) -> Result<Move, Stop> {
    let aligned = Move {
        aligned: true,
        ..FULL
    };
    let store = |m| Move { load: false, ..m };
    Ok(match (prefix, opcode) {
        // MOVUPS, MOVUPD.
        (0 | 0x66, 0x10) => FULL,
        (0 | 0x66, 0x11) => store(FULL),
        // MOVAPS, MOVAPD.
        (0 | 0x66, 0x28) => aligned,
        (0 | 0x66, 0x29) => store(aligned),
        // MOVNTPS, MOVNTPD, MOVNTDQ.
        (0 | 0x66, 0x2b) | (0x66, 0xe7) => Move {
            memory_only: true,
            ..store(aligned)
        },
        // MOVDQA, MOVDQU.
        (0x66, 0x6f) => aligned,
        (0xf3, 0x6f) => FULL,
        (0x66, 0x7f) => store(aligned),
        (0xf3, 0x7f) => store(FULL),
        _ => return Err(Stop::UNHANDLED),
    })
}

/// Copies `len` bytes from `from` at `start` to `to` at `at`.
fn copy(to: &mut [u8], at: u8, from: &[u8], start: u8, len: u8) {
    let source = from.iter().skip(usize::from(start)).take(usize::from(len));
    for (t, f) in to.iter_mut().skip(usize::from(at)).zip(source) {
        *t = *f;
    }
}
