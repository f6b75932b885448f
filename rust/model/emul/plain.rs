// SPDX-License-Identifier: GPL-2.0

//! Plain moves: one access to memory, one register or immediate, no flags.
//!
//! Drivers reach device memory by these almost only. Where the hardware has told the address, such an
//! instruction needs neither the emulator nor a bus: what is left is which bytes to write, or where
//! what was read goes.
//!
//! SDM: vol 2, MOV, MOVZX, MOVSX.

use super::decode::{sign_extend, Insn, Map};
use super::operand::mask;

/// A register operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reg {
    /// Its number, 0 to 15.
    n: u8,
    /// It is AH, CH, DH or BH.
    high: bool,
}

impl Reg {
    fn of(insn: &Insn, n: u8, size: u8) -> Self {
        // Without REX the encodings of SPL to DIL are those of AH to BH.
        if size == 1 && insn.rex == 0 && n & !3 == 4 {
            Self {
                n: n & 3,
                high: true,
            }
        } else {
            Self { n, high: false }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// Memory to a register of `size` bytes.
    Load { to: Reg, size: u8, signed: bool },
    /// A register to memory.
    Store(Reg),
    /// A constant to memory.
    Imm(u64),
}

/// A plain move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plain {
    /// Bytes of memory: 1, 2, 4 or 8.
    pub size: u8,
    what: What,
}

impl Plain {
    /// The instruction, if it is one of these.
    pub fn of(insn: &Insn) -> Option<Self> {
        let byte = insn.opcode & 1 == 0;
        let wide = if byte { 1 } else { insn.op_size };
        let reg = Reg::of(insn, insn.reg(), wide);
        let load = |to: Reg, size: u8, signed: bool| What::Load { to, size, signed };
        let (size, what) = match (insn.map, insn.opcode) {
            (Map::One, 0x88 | 0x89) if insn.is_mem() => (wide, What::Store(reg)),
            (Map::One, 0x8a | 0x8b) if insn.is_mem() => (wide, load(reg, wide, false)),
            (Map::One, 0xa0 | 0xa1) => (wide, load(Reg { n: 0, high: false }, wide, false)),
            (Map::One, 0xa2 | 0xa3) => (wide, What::Store(Reg { n: 0, high: false })),
            (Map::One, 0xc6 | 0xc7) if insn.is_mem() && insn.reg3() == 0 => {
                (wide, What::Imm(insn.imm))
            }
            (Map::Two, 0xb6 | 0xb7 | 0xbe | 0xbf) if insn.is_mem() => {
                let from = if byte { 1 } else { 2 };
                let to = Reg {
                    n: insn.reg(),
                    high: false,
                };
                (from, load(to, insn.op_size, insn.opcode & 8 != 0))
            }
            _ => return None,
        };
        Some(Self { size, what })
    }

    /// It writes memory.
    pub fn writes(&self) -> bool {
        !matches!(self.what, What::Load { .. })
    }

    /// What it writes, given the registers; only the low [`size`](Self::size) bytes count.
    pub fn data(&self, gpr: impl FnOnce(u8) -> u64) -> u64 {
        match self.what {
            What::Store(r) => gpr(r.n) >> if r.high { 8 } else { 0 },
            What::Imm(v) => v,
            What::Load { .. } => 0,
        }
    }

    /// The register that takes what was read, and its new value.
    pub fn loaded(&self, data: u64, gpr: impl FnOnce(u8) -> u64) -> Option<(u8, u64)> {
        let What::Load { to, size, signed } = self.what else {
            return None;
        };
        let v = if signed {
            sign_extend(data, self.size)
        } else {
            data & mask(self.size)
        };
        let v = match size {
            8 => v,
            // The upper half is cleared.
            4 => v & mask(4),
            _ => {
                let shift = if to.high { 8 } else { 0 };
                let m = mask(size) << shift;
                gpr(to.n) & !m | v << shift & m
            }
        };
        Some((to.n, v))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emul::decode::{decode, CodeSize};

    fn plain(bytes: &[u8]) -> Option<Plain> {
        Plain::of(&decode(bytes, CodeSize::Bits64).unwrap())
    }

    /// Registers whose value tells their number.
    fn gpr(n: u8) -> u64 {
        0x1111_2222_3333_4000 | u64::from(n)
    }

    #[test]
    fn stores() {
        let cases: &[(&[u8], u8, u64)] = &[
            (&[0x88, 0x07], 1, gpr(0)),                               // mov [rdi], al
            (&[0x88, 0x27], 1, gpr(0) >> 8),                          // mov [rdi], ah
            (&[0x40, 0x88, 0x27], 1, gpr(4)),                         // mov [rdi], spl
            (&[0x66, 0x89, 0x0f], 2, gpr(1)),                         // mov [rdi], cx
            (&[0x89, 0x07], 4, gpr(0)),                               // mov [rdi], eax
            (&[0x4c, 0x89, 0x3f], 8, gpr(15)),                        // mov [rdi], r15
            (&[0xc7, 0x07, 1, 2, 3, 0x84], 4, 0xffff_ffff_8403_0201), // mov dword [rdi], imm
            (&[0xc6, 0x07, 0x12], 1, 0x12),                           // mov byte [rdi], imm
        ];
        for (bytes, size, data) in cases {
            let p = plain(bytes).unwrap();
            assert!(p.writes());
            let m = mask(p.size);
            assert_eq!((p.size, p.data(gpr) & m), (*size, data & m), "{bytes:x?}");
            assert_eq!(p.loaded(0, gpr), None);
        }
    }

    #[test]
    fn loads() {
        let d = 0x8877_6655_f4c3_9281;
        let cases: &[(&[u8], u8, u8, u64)] = &[
            (&[0x8a, 0x0f], 1, 1, gpr(1) & !0xff | 0x81), // mov cl, [rdi]
            (&[0x8a, 0x2f], 1, 1, gpr(1) & !0xff00 | 0x8100), // mov ch, [rdi]
            (&[0x66, 0x8b, 0x07], 2, 0, gpr(0) & !0xffff | 0x9281), // mov ax, [rdi]
            (&[0x8b, 0x07], 4, 0, 0xf4c3_9281),           // mov eax, [rdi]
            (&[0x48, 0x8b, 0x07], 8, 0, d),               // mov rax, [rdi]
            (&[0x0f, 0xb6, 0x07], 1, 0, 0x81),            // movzx eax, byte [rdi]
            (&[0x0f, 0xbe, 0x07], 1, 0, 0xffff_ff81),     // movsx eax, byte [rdi]
            (&[0x48, 0x0f, 0xbf, 0x07], 2, 0, 0xffff_ffff_ffff_9281), // movsx rax, word [rdi]
            (&[0x66, 0x0f, 0xb6, 0x07], 1, 0, gpr(0) & !0xffff | 0x81), // movzx ax, byte [rdi]
        ];
        for (bytes, size, n, v) in cases {
            let p = plain(bytes).unwrap();
            assert!(!p.writes());
            assert_eq!(p.size, *size, "{bytes:x?}");
            assert_eq!(p.loaded(d, gpr), Some((*n, *v)), "{bytes:x?}");
        }
    }

    #[test]
    fn others_are_left_to_the_emulator() {
        for bytes in [
            &[0x89, 0xc8][..],         // mov eax, ecx
            &[0x87, 0x07],             // xchg
            &[0x01, 0x07],             // add
            &[0xa4],                   // movsb
            &[0x8c, 0x07],             // mov [rdi], es
            &[0xff, 0x37],             // push [rdi]
            &[0x0f, 0x6f, 0x07],       // movq mm0, [rdi]
            &[0xf0, 0x0f, 0xb1, 0x07], // lock cmpxchg
        ] {
            assert_eq!(plain(bytes), None, "{bytes:x?}");
        }
    }
}
