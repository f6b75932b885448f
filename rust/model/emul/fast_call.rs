// SPDX-License-Identifier: GPL-2.0

//! SYSCALL, SYSENTER and SYSEXIT, for modes in which only the guest's own vendor has them.
//!
//! Intel has no SYSCALL outside 64-bit mode, AMD no SYSENTER in long mode. A guest that was given
//! the other vendor's CPUID relies on them. `SDM: vol 2, SYSCALL, SYSENTER, SYSEXIT`,
//! `APM: vol 3, SYSCALL, SYSENTER, SYSEXIT`.

use super::cpu::Stop;
use super::Ctx;
use crate::x86::ctrl::{efer, rflags};
use crate::x86::state::{gpr, SegReg, Segment};

/// The MSRs that say where to go.
const STAR: u32 = 0xc000_0081;
const LSTAR: u32 = 0xc000_0082;
const CSTAR: u32 = 0xc000_0083;
const SFMASK: u32 = 0xc000_0084;
const SYSENTER_CS: u32 = 0x174;
const SYSENTER_ESP: u32 = 0x175;
const SYSENTER_EIP: u32 = 0x176;

/// The register SYSCALL saves the flags in.
const R11: usize = 11;

/// EBX, ECX and EDX of CPUID leaf 0: "GenuineIntel".
const INTEL: [u32; 3] = [0x756e_6547, 0x6c65_746e, 0x4965_6e69];

impl Ctx<'_> {
    /// Does the guest take the processor for one of Intel's?
    fn intel(&mut self) -> Result<bool, Stop> {
        let [_, b, c, d] = self.bus.cpuid(self.s, 0, 0)?;
        Ok([b, c, d] == INTEL)
    }

    /// Loads flat code and stack segments: 64-bit code or 32-bit code.
    fn flat_segments(&mut self, cs: u16, ss: u16, cpl: u16, long: bool) {
        let dpl = cpl << Segment::DPL_SHIFT;
        let size = if long { Segment::L } else { Segment::DB };
        for (r, selector, attr) in [
            (SegReg::Cs, cs, 0xb | size),
            (SegReg::Ss, ss, 0x3 | Segment::DB),
        ] {
            *self.s.seg_mut(r) = Segment {
                selector,
                base: 0,
                limit: u32::MAX,
                attr: attr | Segment::S | Segment::P | Segment::G | dpl,
                unusable: false,
            };
        }
    }

    /// 0F 05.
    pub(super) fn syscall(&mut self) -> Result<(), Stop> {
        if !self.protected() || self.s.efer & efer::SCE == 0 {
            return Err(Stop::UD);
        }
        if !self.long() && self.intel()? {
            return Err(Stop::UD);
        }
        let star = self.bus.rdmsr(self.s, STAR)?;
        // CAST: bits 47 to 32.
        let cs = (star >> 32) as u16 & !3;
        let back = self.next;
        if self.s.long_mode() {
            let target = if self.long() { LSTAR } else { CSTAR };
            self.next = self.bus.rdmsr(self.s, target)?;
            let mask = self.bus.rdmsr(self.s, SFMASK)?;
            self.set_gpr(R11, self.s.rflags & !rflags::RF);
            self.s.rflags = self.s.rflags & !mask & !rflags::RF | rflags::FIXED;
        } else {
            self.next = star & 0xffff_ffff;
            self.s.rflags &= !(rflags::VM | rflags::IF | rflags::RF);
        }
        self.set_gpr(gpr::RCX, back);
        let long = self.s.long_mode();
        self.flat_segments(cs, cs.wrapping_add(8), 0, long);
        self.no_trap = self.s.rflags & rflags::TF == 0;
        Ok(())
    }

    /// SYSENTER_CS, which must name something.
    fn sysenter_cs(&mut self) -> Result<u16, Stop> {
        let v = self.bus.rdmsr(self.s, SYSENTER_CS)?;
        if v & 0xfffc == 0 {
            return Err(Stop::GP0);
        }
        // CAST: a selector.
        Ok(v as u16 & !3)
    }

    /// 0F 34.
    pub(super) fn sysenter(&mut self) -> Result<(), Stop> {
        if !self.s.protected_mode() {
            return Err(Stop::GP0);
        }
        let long = self.s.long_mode();
        if long && !self.intel()? {
            return Err(Stop::UD);
        }
        let cs = self.sysenter_cs()?;
        let width = if long { u64::MAX } else { 0xffff_ffff };
        let rip = self.bus.rdmsr(self.s, SYSENTER_EIP)?;
        let rsp = self.bus.rdmsr(self.s, SYSENTER_ESP)?;
        self.next = rip & width;
        self.set_gpr(gpr::RSP, rsp & width);
        self.s.rflags &= !(rflags::VM | rflags::IF | rflags::RF);
        self.flat_segments(cs, cs.wrapping_add(8), 0, long);
        Ok(())
    }

    /// 0F 35.
    pub(super) fn sysexit(&mut self) -> Result<(), Stop> {
        if !self.protected() || self.s.cpl() != 0 {
            return Err(Stop::GP0);
        }
        let long = self.s.long_mode();
        if long && !self.intel()? {
            return Err(Stop::UD);
        }
        let cs = self.sysenter_cs()?;
        let (rip, rsp) = (self.gpr(gpr::RDX), self.gpr(gpr::RCX));
        let wide = self.insn.rex_w();
        let (offset, width) = if wide {
            (32, u64::MAX)
        } else {
            (16, 0xffff_ffff)
        };
        if wide && !(self.canonical(rip) && self.canonical(rsp)) {
            return Err(Stop::GP0);
        }
        let cs = cs.wrapping_add(offset) | 3;
        self.next = rip & width;
        self.set_gpr(gpr::RSP, rsp & width);
        self.flat_segments(cs, cs.wrapping_add(8), 3, wide);
        Ok(())
    }
}
