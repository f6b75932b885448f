// SPDX-License-Identifier: GPL-2.0

//! Operands: registers, effective addresses, segmentation, and memory through the bus.

use super::cpu::{Access, Stop};
use super::decode::{CodeSize, Override};
use super::Ctx;
use crate::addr::Gva;
use crate::x86::exception::{GP, SS};
use crate::x86::state::{gpr, SegReg, Segment};

/// The value mask of an operand of `size` bytes.
pub(super) const fn mask(size: u8) -> u64 {
    match size {
        1 => 0xff,
        2 => 0xffff,
        4 => 0xffff_ffff,
        _ => u64::MAX,
    }
}

/// The sign bit of an operand of `size` bytes.
pub(super) const fn sign(size: u8) -> u64 {
    match size {
        1 => 0x80,
        2 => 0x8000,
        4 => 0x8000_0000,
        _ => 1 << 63,
    }
}

/// Number of bits of an operand of `size` bytes.
pub(super) const fn bits(size: u8) -> u32 {
    match size {
        1 => 8,
        2 => 16,
        4 => 32,
        _ => 64,
    }
}

/// Where an operand lives. Memory has been checked against its segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A general-purpose register.
    Reg(u8),
    /// Linear memory.
    Mem(Gva),
}

/// What an operand is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    Read,
    Write,
    Modify,
}

/// The segment register with number `n` as instructions encode it (0 to 5).
pub(super) const fn seg_by_number(n: u8) -> SegReg {
    match n & 7 {
        0 => SegReg::Es,
        1 => SegReg::Cs,
        2 => SegReg::Ss,
        3 => SegReg::Ds,
        4 => SegReg::Fs,
        _ => SegReg::Gs,
    }
}

/// Are the upper bits of an address copies of the last of its `bits`?
const fn fits(at: u64, bits: u32) -> bool {
    let unused = 64u32.wrapping_sub(bits);
    // CAST: sign-extended.
    (at.wrapping_shl(unused) as i64).wrapping_shr(unused) as u64 == at
}

impl Ctx<'_> {
    /// A whole general-purpose register.
    pub(super) fn gpr(&self, n: usize) -> u64 {
        self.s.gpr.get(n & 15).copied().unwrap_or(0)
    }

    /// Replaces a whole general-purpose register.
    pub(super) fn set_gpr(&mut self, n: usize, value: u64) {
        if let Some(r) = self.s.gpr.get_mut(n & 15) {
            *r = value;
        }
    }

    /// Register `n` as an operand of `size` bytes: without REX, byte registers 4 to 7 are AH, CH,
    /// DH and BH.
    pub(super) fn reg(&self, n: u8, size: u8) -> u64 {
        if size == 1 && self.insn.rex == 0 && matches!(n, 4..=7) {
            return (self.gpr(usize::from(n & 3)) >> 8) & 0xff;
        }
        self.gpr(usize::from(n)) & mask(size)
    }

    /// Writes register `n` as an operand of `size` bytes; four bytes clear the upper half.
    pub(super) fn set_reg(&mut self, n: u8, size: u8, value: u64) {
        if size == 1 && self.insn.rex == 0 && matches!(n, 4..=7) {
            let i = usize::from(n & 3);
            let kept = self.gpr(i) & !0xff00;
            self.set_gpr(i, kept | ((value & 0xff) << 8));
            return;
        }
        let i = usize::from(n);
        let kept = match size {
            1 | 2 => self.gpr(i) & !mask(size),
            _ => 0,
        };
        self.set_gpr(i, kept | (value & mask(size)));
    }

    /// Writes register `n` at address size: two bytes keep the rest, four clear the upper half.
    pub(super) fn set_reg_addr(&mut self, n: usize, value: u64) {
        let size = self.insn.addr_size;
        let kept = if size == 2 { self.gpr(n) & !0xffff } else { 0 };
        self.set_gpr(n, kept | (value & mask(size)));
    }

    /// Is the code 64-bit?
    pub(super) fn long(&self) -> bool {
        self.insn.mode == CodeSize::Bits64
    }

    /// An explicit data access at the current privilege level.
    pub(super) fn data(&self) -> Access {
        Access {
            user: self.s.cpl() == 3,
            implicit: false,
            modify: false,
        }
    }

    /// The segment and the offset the ModRM operand names.
    pub(super) fn effective(&self) -> (SegReg, u64) {
        let insn = &self.insn;
        let disp = i64::from(insn.disp) as u64;
        let (base, stack) = if insn.addr_size == 2 {
            self.effective16()
        } else {
            self.effective32()
        };
        let default = if stack { SegReg::Ss } else { SegReg::Ds };
        let offset = base.wrapping_add(disp) & mask(insn.addr_size);
        (self.data_segment(default), offset)
    }

    fn effective16(&self) -> (u64, bool) {
        let r = |n| self.gpr(n) & 0xffff;
        match self.insn.modrm & 7 {
            0 => (r(gpr::RBX).wrapping_add(r(gpr::RSI)), false),
            1 => (r(gpr::RBX).wrapping_add(r(gpr::RDI)), false),
            2 => (r(gpr::RBP).wrapping_add(r(gpr::RSI)), true),
            3 => (r(gpr::RBP).wrapping_add(r(gpr::RDI)), true),
            4 => (r(gpr::RSI), false),
            5 => (r(gpr::RDI), false),
            6 if self.insn.md() == 0 => (0, false),
            6 => (r(gpr::RBP), true),
            _ => (r(gpr::RBX), false),
        }
    }

    fn effective32(&self) -> (u64, bool) {
        let insn = &self.insn;
        let rm = insn.modrm & 7;
        let Some(sib) = insn.sib else {
            if rm == 5 && insn.md() == 0 {
                return (if self.long() { self.next } else { 0 }, false);
            }
            return (self.gpr(usize::from(insn.rm())), insn.rm() == 5);
        };
        let index = ((sib >> 3) & 7) | ((insn.rex & 2) << 2);
        let scaled = if index == 4 {
            0
        } else {
            self.gpr(usize::from(index))
                .wrapping_shl(u32::from(sib >> 6))
        };
        let low = sib & 7;
        if low == 5 && insn.md() == 0 {
            return (scaled, false);
        }
        let base = low | ((insn.rex & 1) << 3);
        let mut value = self.gpr(usize::from(base));
        if base == 4 {
            // POP to memory based on RSP uses the value after the pop.
            value = value.wrapping_add(self.rsp_bias);
        }
        (value.wrapping_add(scaled), base == 4 || base == 5)
    }

    /// The segment of a data operand: the override if there is one.
    pub(super) fn data_segment(&self, default: SegReg) -> SegReg {
        match self.insn.seg {
            Some(Override(n)) => seg_by_number(n),
            None => default,
        }
    }

    /// The linear address of `len` bytes at `offset` in `seg`, if the segment permits the access.
    ///
    /// `SDM: vol 3, 5.3` (limits), `SDM: vol 3, 5.5` (types), `SDM: vol 1, 3.3.7.1` (canonical).
    pub(super) fn linear(
        &self,
        seg: SegReg,
        offset: u64,
        len: u64,
        usage: Use,
    ) -> Result<Gva, Stop> {
        let vector = if seg == SegReg::Ss { SS } else { GP };
        let bad = Err(Stop::fault(vector, 0));
        let s = *self.s.seg(seg);
        let last = len.wrapping_sub(1);
        if self.long() {
            let base = if matches!(seg, SegReg::Fs | SegReg::Gs) {
                s.base
            } else {
                0
            };
            let at = base.wrapping_add(offset);
            if self.canonical(at) && self.canonical(at.wrapping_add(last)) {
                return Ok(Gva(at));
            }
            return bad;
        }
        let protected = self.s.protected_mode() && !self.s.v8086();
        if protected {
            if s.unusable {
                return bad;
            }
            let code = s.attr & 8 != 0;
            let bit1 = s.attr & 2 != 0;
            let writable = !code && bit1;
            let readable = !code || bit1;
            let ok = match usage {
                Use::Read => readable,
                Use::Write | Use::Modify => writable,
            };
            if !ok || s.attr & Segment::S == 0 {
                return bad;
            }
        }
        let end = match offset.checked_add(last) {
            Some(end) => end,
            None => return bad,
        };
        let inside = if s.attr & 0xc == 4 {
            // Expand-down: the limit is the last offset that is *not* inside.
            let top = if s.attr & Segment::DB != 0 {
                0xffff_ffff
            } else {
                0xffff
            };
            offset > u64::from(s.limit) && end <= top
        } else {
            end <= u64::from(s.limit)
        };
        if !inside {
            return bad;
        }
        Ok(Gva(s.base.wrapping_add(offset) & 0xffff_ffff))
    }

    /// Is a linear address canonical?
    pub(super) fn canonical(&self, at: u64) -> bool {
        let bits = self.s.linear_bits();
        if bits < 48 {
            return at <= 0xffff_ffff;
        }
        fits(at, bits)
    }

    /// May this be the base of a table or of a segment, in long mode?
    pub(super) fn canonical_base(&self, base: u64) -> bool {
        fits(base, self.bus.base_bits())
    }

    /// Where the ModRM operand lives.
    pub(super) fn place(&self, size: u8, usage: Use) -> Result<Place, Stop> {
        if !self.insn.is_mem() {
            return Ok(Place::Reg(self.insn.rm()));
        }
        let (seg, offset) = self.effective();
        Ok(Place::Mem(self.linear(
            seg,
            offset,
            u64::from(size),
            usage,
        )?))
    }

    /// Reads `size` bytes (1 to 8) of linear memory.
    pub(super) fn load(&mut self, at: Gva, size: u8, access: Access) -> Result<u64, Stop> {
        let mut buf = [0u8; 8];
        if let Some(part) = buf.get_mut(..usize::from(size)) {
            self.bus.read(at, part, access)?;
        }
        Ok(u64::from_le_bytes(buf))
    }

    /// Writes `size` bytes (1 to 8) of linear memory.
    pub(super) fn store(
        &mut self,
        at: Gva,
        size: u8,
        value: u64,
        access: Access,
    ) -> Result<(), Stop> {
        match value.to_le_bytes().get(..usize::from(size)) {
            Some(part) => self.bus.write(at, part, access),
            None => Ok(()),
        }
    }

    /// Reads the operand at `place`.
    pub(super) fn get(&mut self, place: Place, size: u8) -> Result<u64, Stop> {
        match place {
            Place::Reg(n) => Ok(self.reg(n, size)),
            Place::Mem(at) => {
                let access = self.data();
                self.load(at, size, access)
            }
        }
    }

    /// Writes the operand at `place`.
    pub(super) fn put(&mut self, place: Place, size: u8, value: u64) -> Result<(), Stop> {
        match place {
            Place::Reg(n) => {
                self.set_reg(n, size, value);
                Ok(())
            }
            Place::Mem(at) => {
                let access = self.data();
                self.store(at, size, value, access)
            }
        }
    }

    /// Reads the ModRM operand.
    pub(super) fn get_rm(&mut self, size: u8) -> Result<u64, Stop> {
        let place = self.place(size, Use::Read)?;
        self.get(place, size)
    }

    /// Writes the ModRM operand.
    pub(super) fn put_rm(&mut self, size: u8, value: u64) -> Result<(), Stop> {
        let place = self.place(size, Use::Write)?;
        self.put(place, size, value)
    }

    /// Reads `size` bytes at `offset` in `seg`.
    pub(super) fn read_seg(&mut self, seg: SegReg, offset: u64, size: u8) -> Result<u64, Stop> {
        let at = self.linear(seg, offset, u64::from(size), Use::Read)?;
        let access = self.data();
        self.load(at, size, access)
    }

    /// Replaces the operand at `place` by `f(operand, flags)`. With LOCK, memory is updated in one
    /// atomic step. RFLAGS is updated only when the write has succeeded.
    pub(super) fn modify_at(
        &mut self,
        place: Place,
        size: u8,
        locked: bool,
        f: &mut dyn FnMut(u64, &mut u64) -> u64,
    ) -> Result<(), Stop> {
        let at = match place {
            Place::Reg(n) => {
                let mut flags = self.s.rflags;
                let new = f(self.reg(n, size), &mut flags);
                self.set_reg(n, size, new);
                self.s.rflags = flags;
                return Ok(());
            }
            Place::Mem(at) => at,
        };
        let access = self.data();
        let rmw = Access {
            modify: true,
            ..access
        };
        let old = self.load(at, size, rmw)?;
        let mut flags = self.s.rflags;
        let new = f(old, &mut flags);
        if !locked {
            self.store(at, size, new, access)?;
        } else if !self.swap_if(at, size, old, new)? {
            return Err(self.lost_race());
        }
        self.s.rflags = flags;
        Ok(())
    }

    /// One compare-and-exchange of linear memory.
    pub(super) fn swap_if(&mut self, at: Gva, size: u8, old: u64, new: u64) -> Result<bool, Stop> {
        let access = self.data();
        let (old, new) = (old.to_le_bytes(), new.to_le_bytes());
        match (old.get(..usize::from(size)), new.get(..usize::from(size))) {
            (Some(old), Some(new)) => self.bus.cmpxchg(at, old, new, access),
            _ => Ok(false),
        }
    }

    /// Memory changed between a read and the exchange: the old value must not be replayed.
    pub(super) fn lost_race(&mut self) -> Stop {
        self.bus.committed();
        Stop::Retry
    }

    /// Replaces the ModRM operand by `f(operand, flags)`.
    pub(super) fn modify_rm(
        &mut self,
        size: u8,
        f: &mut dyn FnMut(u64, &mut u64) -> u64,
    ) -> Result<(), Stop> {
        let place = self.place(size, Use::Modify)?;
        self.modify_at(place, size, self.insn.lock, f)
    }
}
