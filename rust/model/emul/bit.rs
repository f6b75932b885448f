// SPDX-License-Identifier: GPL-2.0

//! Bit tests, bit scans, byte swaps, CRC32.

use super::alu::{result_flags, set_flags};
use super::cpu::Stop;
use super::decode::{sign_extend, Rep};
use super::operand::{bits, mask, Place, Use};
use super::Ctx;
use crate::x86::ctrl::rflags;

/// What happens to the bit after it went to CF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Test,
    Set,
    Reset,
    Complement,
}

fn apply(op: Op, a: u64, index: u32, flags: &mut u64) -> u64 {
    let bit = 1u64.wrapping_shl(index);
    let cf = if a & bit != 0 { rflags::CF } else { 0 };
    set_flags(flags, rflags::CF, cf);
    match op {
        Op::Test => a,
        Op::Set => a | bit,
        Op::Reset => a & !bit,
        Op::Complement => a ^ bit,
    }
}

/// One step of the CRC-32C that CRC32 computes, over a byte.
fn crc_byte(crc: u32, byte: u8) -> u32 {
    let mut crc = crc ^ u32::from(byte);
    for _ in 0..8 {
        let low = crc & 1 != 0;
        crc >>= 1;
        if low {
            crc ^= 0x82f6_3b78;
        }
    }
    crc
}

impl Ctx<'_> {
    /// BT, BTS, BTR and BTC, with the index in a register (0F A3, AB, B3, BB) or immediate (BA).
    pub(super) fn bit_test(&mut self) -> Result<(), Stop> {
        let size = self.insn.op_size;
        let immediate = self.insn.opcode == 0xba;
        let kind = if immediate {
            self.insn.reg3()
        } else {
            self.insn.opcode >> 3
        };
        let op = match kind & 3 {
            0 => Op::Test,
            1 => Op::Set,
            2 => Op::Reset,
            _ => Op::Complement,
        };
        let index = if immediate {
            self.insn.imm
        } else {
            self.reg(self.insn.reg(), size)
        };
        // CAST: masked to six bits.
        let low = (index & u64::from(bits(size).wrapping_sub(1))) as u32;
        let usage = if op == Op::Test {
            Use::Read
        } else {
            Use::Modify
        };
        let place = if self.insn.is_mem() && !immediate {
            self.bit_place(size, index, usage)?
        } else {
            self.place(size, usage)?
        };
        if op == Op::Test {
            let a = self.get(place, size)?;
            apply(op, a, low, &mut self.s.rflags);
            return Ok(());
        }
        self.modify_at(place, size, self.insn.lock, &mut |a, f| {
            apply(op, a, low, f)
        })
    }

    /// With a register index and a memory operand the index is signed and reaches any operand
    /// below or above the address.
    fn bit_place(&mut self, size: u8, index: u64, usage: Use) -> Result<Place, Stop> {
        let (seg, offset) = self.effective();
        let signed = sign_extend(index, size) as i64;
        // Operands to skip, then bytes.
        let skip = match size {
            2 => signed >> 4 << 1,
            4 => signed >> 5 << 2,
            _ => signed >> 6 << 3,
        };
        let at = offset.wrapping_add(skip as u64) & mask(self.insn.addr_size);
        Ok(Place::Mem(self.linear(seg, at, u64::from(size), usage)?))
    }

    /// BSF and TZCNT (0F BC), BSR and LZCNT (0F BD).
    pub(super) fn bit_scan(&mut self) -> Result<(), Stop> {
        let size = self.insn.op_size;
        let a = self.get_rm(size)?;
        let forward = self.insn.opcode == 0xbc;
        let zero = a == 0;
        let trailing = a.trailing_zeros();
        let leading = a
            .leading_zeros()
            .wrapping_sub(64u32.wrapping_sub(bits(size)));
        if self.insn.rep == Rep::E {
            let n = match (zero, forward) {
                (true, _) => bits(size),
                (false, true) => trailing,
                (false, false) => leading,
            };
            let mut f = 0;
            if zero {
                f |= rflags::CF;
            }
            if n == 0 {
                f |= rflags::ZF;
            }
            // The others are undefined; Intel clears them.
            set_flags(&mut self.s.rflags, rflags::STATUS, f);
            self.set_reg(self.insn.reg(), size, u64::from(n));
            return Ok(());
        }
        // The destination is left alone for zero, as all CPUs do and some manuals promise. ZF is
        // the only defined flag; of the others, Intel sets PF from the result and clears the rest.
        let mut f = rflags::ZF | rflags::PF;
        if !zero {
            let n = if forward {
                trailing
            } else {
                bits(size).wrapping_sub(1).wrapping_sub(leading)
            };
            f = result_flags(1, u64::from(n)) & rflags::PF;
            self.set_reg(self.insn.reg(), size, u64::from(n));
        }
        set_flags(&mut self.s.rflags, rflags::STATUS, f);
        Ok(())
    }

    /// POPCNT.
    pub(super) fn popcnt(&mut self) -> Result<(), Stop> {
        let size = self.insn.op_size;
        let a = self.get_rm(size)?;
        let f = if a == 0 { rflags::ZF } else { 0 };
        set_flags(&mut self.s.rflags, rflags::STATUS, f);
        self.set_reg(self.insn.reg(), size, u64::from(a.count_ones()));
        Ok(())
    }

    /// BSWAP. A 16-bit operand is undefined; CPUs store zero.
    pub(super) fn bswap(&mut self) {
        let (n, size) = (self.insn.opcode_reg(), self.insn.op_size);
        let v = self.reg(n, size);
        let r = match size {
            8 => v.swap_bytes(),
            4 => v.swap_bytes() >> 32,
            _ => 0,
        };
        self.set_reg(n, size, r);
    }

    /// MOVBE: 0F 38 F0 loads, F1 stores.
    pub(super) fn movbe(&mut self) -> Result<(), Stop> {
        if !self.insn.is_mem() {
            return Err(Stop::UD);
        }
        let (n, size) = (self.insn.reg(), self.insn.op_size);
        let swap = |v: u64| v.swap_bytes().wrapping_shr(64u32.wrapping_sub(bits(size)));
        if self.insn.opcode == 0xf0 {
            let v = self.get_rm(size)?;
            self.set_reg(n, size, swap(v));
            Ok(())
        } else {
            let v = self.reg(n, size);
            self.put_rm(size, swap(v))
        }
    }

    /// CRC32: F2 0F 38 F0 over a byte, F1 over an operand. The destination is 32 or 64 bits wide.
    pub(super) fn crc32(&mut self) -> Result<(), Stop> {
        let size = if self.insn.opcode == 0xf0 {
            1
        } else {
            self.insn.op_size
        };
        let data = self.get_rm(size)?;
        let n = self.insn.reg();
        let mut crc = self.reg(n, 4) as u32;
        for byte in data.to_le_bytes().iter().take(usize::from(size)) {
            crc = crc_byte(crc, *byte);
        }
        self.set_reg(n, 4, u64::from(crc));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_check_value() {
        // The check value of CRC-32C, which starts and ends inverted.
        let crc = b"123456789".iter().fold(!0, |c, b| crc_byte(c, *b));
        assert_eq!(!crc, 0xe306_9283);
    }

    #[test]
    fn bit_ops() {
        let mut f = 0;
        assert_eq!(apply(Op::Set, 0, 5, &mut f), 0x20);
        assert_eq!(f, 0);
        assert_eq!(apply(Op::Reset, 0x20, 5, &mut f), 0);
        assert_eq!(f, rflags::CF);
        assert_eq!(apply(Op::Complement, 0, 63, &mut f), 1 << 63);
        assert_eq!(f, 0);
    }
}
