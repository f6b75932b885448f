// SPDX-License-Identifier: GPL-2.0

//! Segment registers and descriptors: loading data segments, SS, LDTR and TR.
//!
//! `SDM: vol 3, 3.4` (descriptors), `SDM: vol 3, 5.6` to `5.7` (privilege checks).

use super::cpu::Stop;
use super::io::SYSTEM;
use super::Ctx;
use crate::addr::Gva;
use crate::x86::exception::{GP, NP, SS};
use crate::x86::state::{CodeSize, SegReg, Segment};

/// A descriptor as it is in memory, and where.
#[derive(Clone, Copy, Debug)]
pub(super) struct Descriptor {
    pub(super) raw: u64,
    pub(super) at: Gva,
}

/// Accessed, in a code or data descriptor; bit 40.
const ACCESSED: u64 = 1 << 40;
/// Busy, in a TSS descriptor; bit 41.
pub(super) const BUSY: u64 = 1 << 41;

/// Executable, in the type of a code or data segment.
pub(super) const EXECUTABLE: u16 = 8;
/// Conforming (code), expand-down (data).
pub(super) const CONFORMING: u16 = 4;
/// Readable (code), writable (data).
pub(super) const READ_WRITE: u16 = 2;

impl Descriptor {
    /// The segment register this descriptor makes, with `selector`.
    pub(super) fn segment(&self, selector: u16) -> Segment {
        let d = self.raw;
        // CAST: the fields are masked to their widths.
        let attr = ((d >> 40) & 0xff) as u16 | ((d >> 44) & 0xf00) as u16;
        let limit = (d & 0xffff) as u32 | ((d >> 32) & 0xf_0000) as u32;
        let limit = if attr & Segment::G != 0 {
            (limit << 12) | 0xfff
        } else {
            limit
        };
        let base = ((d >> 16) & 0xff_ffff) | ((d >> 32) & 0xff00_0000);
        Segment {
            selector,
            attr,
            limit,
            base,
            unusable: false,
        }
    }
}

/// The error code that names a selector.
pub(super) const fn code(selector: u16) -> u32 {
    (selector & !3) as u32
}

/// `vector` with the selector as its error code.
pub(super) const fn fault<T>(vector: u8, selector: u16) -> Result<T, Stop> {
    Err(Stop::fault(vector, code(selector)))
}

impl Ctx<'_> {
    /// In protected mode, not virtual-8086 mode?
    pub(super) fn protected(&self) -> bool {
        self.s.protected_mode() && !self.s.v8086()
    }

    /// The descriptor `selector` names; `vector` (with the selector) if it is outside its table.
    pub(super) fn descriptor(&mut self, selector: u16, vector: u8) -> Result<Descriptor, Stop> {
        let (base, limit) = if selector & 4 != 0 {
            let ldt = self.s.seg(SegReg::Ldtr);
            if ldt.unusable || ldt.selector & !3 == 0 {
                return fault(vector, selector);
            }
            (ldt.base, ldt.limit)
        } else {
            (self.s.gdtr.base, u32::from(self.s.gdtr.limit))
        };
        let offset = u64::from(selector & !7);
        if offset | 7 > u64::from(limit) {
            return fault(vector, selector);
        }
        let at = self.table(base, offset);
        let raw = self.load(at, 8, SYSTEM)?;
        Ok(Descriptor { raw, at })
    }

    /// A linear address in a system structure.
    pub(super) fn table(&self, base: u64, offset: u64) -> Gva {
        let at = base.wrapping_add(offset);
        Gva(if self.s.long_mode() {
            at
        } else {
            at & 0xffff_ffff
        })
    }

    /// The upper half of a 16-byte system descriptor: base bits 63:32.
    fn upper_base(&mut self, d: &Descriptor, selector: u16) -> Result<u64, Stop> {
        let (base, limit) = (self.s.gdtr.base, u64::from(self.s.gdtr.limit));
        let offset = u64::from(selector & !7).wrapping_add(8);
        if offset | 7 > limit {
            return fault(GP, selector);
        }
        let high = self.load(self.table(base, offset), 8, SYSTEM)?;
        let base = d.segment(selector).base | (high << 32);
        if high & (0x1f << 40) != 0 || !self.canonical_base(base) {
            return fault(GP, selector);
        }
        Ok(base)
    }

    /// Sets bits of a descriptor in memory.
    pub(super) fn mark(&mut self, d: &Descriptor, bits: u64) -> Result<(), Stop> {
        self.replace(d, d.raw | bits)
    }

    /// Replaces a descriptor in memory.
    pub(super) fn replace(&mut self, d: &Descriptor, new: u64) -> Result<(), Stop> {
        if d.raw == new {
            return Ok(());
        }
        let (old, new) = (d.raw.to_le_bytes(), new.to_le_bytes());
        if self.bus.cmpxchg(d.at, &old, &new, SYSTEM)? {
            Ok(())
        } else {
            Err(self.lost_race())
        }
    }

    /// Sets the accessed bit, in memory and in the segment about to be loaded.
    pub(super) fn mark_accessed(&mut self, d: &Descriptor, s: &mut Segment) -> Result<(), Stop> {
        self.mark(d, ACCESSED)?;
        s.attr |= 1;
        Ok(())
    }

    /// Loads a segment register the way real and virtual-8086 mode do.
    pub(super) fn load_real(&mut self, seg: SegReg, selector: u16) {
        let v8086 = self.s.v8086();
        let s = self.s.seg_mut(seg);
        s.selector = selector;
        s.base = u64::from(selector) << 4;
        s.unusable = false;
        if v8086 {
            s.attr = 0xf3;
            s.limit = 0xffff;
        }
        // In real mode limit and attributes stay: that is how "unreal mode" comes about.
    }

    /// Loads ES, SS, DS, FS or GS at the current privilege level.
    pub(super) fn load_segment(&mut self, seg: SegReg, selector: u16) -> Result<(), Stop> {
        if !self.protected() {
            self.load_real(seg, selector);
            return Ok(());
        }
        let cpl = self.s.cpl();
        let new = if seg == SegReg::Ss {
            self.stack_segment(selector, cpl, GP)?
        } else {
            self.data_descriptor(selector, cpl, GP)?
        };
        *self.s.seg_mut(seg) = new;
        Ok(())
    }

    /// What a null selector loads. In VMX terms the register is unusable.
    pub(super) fn null_segment(selector: u16) -> Segment {
        Segment {
            selector,
            unusable: true,
            ..Segment::default()
        }
    }

    /// What ES, DS, FS or GS becomes at privilege level `cpl`; faults but `#NP` are `vector`.
    pub(super) fn data_descriptor(
        &mut self,
        selector: u16,
        cpl: u8,
        vector: u8,
    ) -> Result<Segment, Stop> {
        if selector & !3 == 0 {
            return Ok(Self::null_segment(selector));
        }
        let d = self.descriptor(selector, vector)?;
        let mut s = d.segment(selector);
        // CAST: two bits.
        let rpl = (selector & 3) as u8;
        let code = s.attr & EXECUTABLE != 0;
        if s.attr & Segment::S == 0 || (code && s.attr & READ_WRITE == 0) {
            return fault(vector, selector);
        }
        let conforming = code && s.attr & CONFORMING != 0;
        if !conforming && (rpl > s.dpl() || cpl > s.dpl()) {
            return fault(vector, selector);
        }
        if s.attr & Segment::P == 0 {
            return fault(NP, selector);
        }
        self.mark_accessed(&d, &mut s)?;
        Ok(s)
    }

    /// The segment that SS becomes at privilege level `cpl`; type and privilege faults are
    /// `vector` (`#GP`, or `#TS` in a task or privilege switch).
    pub(super) fn stack_segment(
        &mut self,
        selector: u16,
        cpl: u8,
        vector: u8,
    ) -> Result<Segment, Stop> {
        // CAST: two bits.
        let rpl = (selector & 3) as u8;
        if selector & !3 == 0 {
            // 64-bit code below CPL 3 may run without a stack segment.
            if self.s.code_size() != CodeSize::Bits64 || cpl == 3 || rpl != cpl {
                return Err(Stop::fault(vector, 0));
            }
            return Ok(Self::null_stack(selector, cpl));
        }
        let d = self.descriptor(selector, vector)?;
        let mut s = d.segment(selector);
        let kind = s.attr & (Segment::S | EXECUTABLE | READ_WRITE);
        if rpl != cpl || kind != Segment::S | READ_WRITE || s.dpl() != cpl {
            return fault(vector, selector);
        }
        if s.attr & Segment::P == 0 {
            return fault(SS, selector);
        }
        self.mark_accessed(&d, &mut s)?;
        Ok(s)
    }

    /// A null SS: it still carries the privilege level.
    pub(super) fn null_stack(selector: u16, cpl: u8) -> Segment {
        Segment {
            selector,
            attr: 0x93 | Segment::DB | Segment::G | (u16::from(cpl) << Segment::DPL_SHIFT),
            limit: 0xffff_ffff,
            base: 0,
            unusable: true,
        }
    }

    /// LLDT.
    pub(super) fn load_ldtr(&mut self, selector: u16) -> Result<(), Stop> {
        if selector & !3 == 0 {
            *self.s.seg_mut(SegReg::Ldtr) = Self::null_segment(selector);
            return Ok(());
        }
        let s = self.system_segment(selector, |t| t == 2)?.1;
        *self.s.seg_mut(SegReg::Ldtr) = s;
        Ok(())
    }

    /// LTR: the descriptor becomes busy.
    pub(super) fn load_tr(&mut self, selector: u16) -> Result<(), Stop> {
        if selector & !3 == 0 {
            return Err(Stop::GP0);
        }
        let long = self.s.long_mode();
        let (d, mut s) = self.system_segment(selector, |t| t == 9 || (t == 1 && !long))?;
        self.mark(&d, BUSY)?;
        s.attr |= 2;
        *self.s.seg_mut(SegReg::Tr) = s;
        Ok(())
    }

    /// A present system descriptor of the GDT whose type `accept` agrees to.
    fn system_segment(
        &mut self,
        selector: u16,
        accept: impl Fn(u16) -> bool,
    ) -> Result<(Descriptor, Segment), Stop> {
        if selector & 4 != 0 {
            return fault(GP, selector);
        }
        let d = self.descriptor(selector, GP)?;
        let mut s = d.segment(selector);
        if s.attr & Segment::S != 0 || !accept(s.attr & Segment::TYPE) {
            return fault(GP, selector);
        }
        if s.attr & Segment::P == 0 {
            return fault(NP, selector);
        }
        if self.s.long_mode() {
            s.base = self.upper_base(&d, selector)?;
        }
        Ok((d, s))
    }

    /// LAR (0F 02), LSL (0F 03), VERR and VERW (0F 00 /4, /5): looks without loading. Returns the
    /// segment and its raw second dword if the selector is visible.
    pub(super) fn probe_selector(&mut self, selector: u16) -> Result<Option<(Segment, u32)>, Stop> {
        if selector & !3 == 0 {
            return Ok(None);
        }
        let d = match self.descriptor(selector, GP) {
            Ok(d) => d,
            Err(Stop::Fault(e)) if e.vector == GP => return Ok(None),
            Err(e) => return Err(e),
        };
        let s = d.segment(selector);
        let conforming =
            s.attr & (Segment::S | EXECUTABLE | CONFORMING) == Segment::S | EXECUTABLE | CONFORMING;
        let rpl = (selector & 3) as u8;
        if !conforming && (s.dpl() < self.s.cpl() || s.dpl() < rpl) {
            return Ok(None);
        }
        // CAST: the upper half.
        Ok(Some((s, (d.raw >> 32) as u32)))
    }
}
