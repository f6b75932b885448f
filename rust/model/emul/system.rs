// SPDX-License-Identifier: GPL-2.0

//! System instructions: control and debug registers, descriptor tables, MSRs, and the rest that
//! needs CPL 0 or an answer from the vCPU.
//!
//! Faults that depend on privilege come first, then the guest hypervisor's intercept, then checks
//! on operands (`SDM: vol 3, 26.1.1`).

use super::cpu::{Flow, Intercept, Stop, SystemOp, X87};
use super::decode::Rep;
use super::operand::{mask, Use};
use super::Ctx;
use crate::x86::ctrl::{cr0, cr4, dr6, dr7, rflags};
use crate::x86::exception::{Exception, DB, NM};
use crate::x86::state::{gpr, DescTable, SegReg, Segment, SHADOW_STI};

/// MSR that holds the GS base SWAPGS swaps in.
const KERNEL_GS_BASE: u32 = 0xc000_0102;
/// MSR that RDTSCP and RDPID return.
const TSC_AUX: u32 = 0xc000_0103;

/// A leaf of CPUID, and a bit of its ECX (`APM: vol 3, E.4.2`).
const EXTENDED_FEATURES: u32 = 0x8000_0001;
const CR8_LEGACY: u32 = 1 << 4;

impl Ctx<'_> {
    fn need_cpl0(&self) -> Result<(), Stop> {
        if self.s.cpl() == 0 {
            Ok(())
        } else {
            Err(Stop::GP0)
        }
    }

    fn need_cr4(&self, bit: u64) -> Result<(), Stop> {
        if self.s.cr4 & bit != 0 {
            Ok(())
        } else {
            Err(Stop::UD)
        }
    }

    /// SGDT, SIDT, SLDT, STR and SMSW fault outside CPL 0 with UMIP.
    fn check_umip(&self) -> Result<(), Stop> {
        if self.s.cr4 & cr4::UMIP != 0 {
            self.need_cpl0()?;
        }
        Ok(())
    }

    fn ask(&mut self, op: Intercept) -> Result<(), Stop> {
        self.bus.intercept(self.s, op)
    }

    /// RCX as an index.
    fn ecx(&self) -> u32 {
        // CAST: the low half.
        self.gpr(gpr::RCX) as u32
    }

    /// Splits a value over EDX:EAX.
    fn set_edx_eax(&mut self, v: u64) {
        self.set_gpr(gpr::RAX, v & 0xffff_ffff);
        self.set_gpr(gpr::RDX, v >> 32);
    }

    fn edx_eax(&self) -> u64 {
        (self.gpr(gpr::RAX) & 0xffff_ffff) | (self.gpr(gpr::RDX) << 32)
    }

    /// Is LOCK MOV CR0 a way to CR8, as on some of AMD's processors?
    fn need_cr8_legacy(&mut self) -> Result<(), Stop> {
        let [_, _, ecx, _] = self.bus.cpuid(self.s, EXTENDED_FEATURES, 0)?;
        if ecx & CR8_LEGACY == 0 {
            return Err(Stop::UD);
        }
        Ok(())
    }

    /// 0F 20, 22.
    pub(super) fn mov_cr(&mut self) -> Result<(), Stop> {
        if self.insn.lock {
            self.need_cr8_legacy()?;
        }
        self.need_cpl0()?;
        let n = if self.insn.lock { 8 } else { self.insn.reg() };
        let (r, size) = (self.insn.rm(), self.insn.op_size);
        if self.insn.opcode == 0x22 {
            let v = self.reg(r, size);
            return self.write_cr(n, v);
        }
        self.ask(Intercept::ReadCr(n))?;
        let v = match n {
            0 => self.s.cr0,
            2 => self.s.cr2,
            3 => self.s.cr3,
            4 => self.s.cr4,
            _ => self.s.cr8,
        };
        self.set_reg(r, size, v);
        Ok(())
    }

    fn write_cr(&mut self, n: u8, v: u64) -> Result<(), Stop> {
        self.ask(Intercept::WriteCr(n, v))?;
        self.bus.set_cr(self.s, n, v)
    }

    /// 0F 06: CLTS.
    pub(super) fn clts(&mut self) -> Result<(), Stop> {
        self.need_cpl0()?;
        self.write_cr(0, self.s.cr0 & !cr0::TS)
    }

    /// 0F 21, 23.
    pub(super) fn mov_dr(&mut self) -> Result<(), Stop> {
        let n = match self.insn.reg() {
            n @ (4 | 5) => {
                if self.s.cr4 & cr4::DE != 0 {
                    return Err(Stop::UD);
                }
                n | 2
            }
            n => n,
        };
        self.need_cpl0()?;
        if self.s.dr7 & dr7::GD != 0 {
            let e = Exception {
                vector: DB,
                error_code: None,
                payload: dr6::BD,
            };
            return Err(Stop::Fault(e));
        }
        let (r, size) = (self.insn.rm(), self.insn.op_size);
        if self.insn.opcode == 0x23 {
            let v = self.reg(r, size);
            self.ask(Intercept::WriteDr(n))?;
            return self.bus.set_dr(self.s, n, v);
        }
        self.ask(Intercept::ReadDr(n))?;
        let v = match n {
            6 => self.s.dr6,
            7 => self.s.dr7,
            n => self.s.dr.get(usize::from(n)).copied().unwrap_or(0),
        };
        self.set_reg(r, size, v);
        Ok(())
    }

    /// 0F 00.
    pub(super) fn group6(&mut self) -> Result<(), Stop> {
        if !self.protected() {
            return Err(Stop::UD);
        }
        match self.insn.reg3() {
            n @ (0 | 1) => {
                self.check_umip()?;
                let (r, op) = if n == 0 {
                    (SegReg::Ldtr, Intercept::StoreLdtr)
                } else {
                    (SegReg::Tr, Intercept::StoreTr)
                };
                self.ask(op)?;
                let v = u64::from(self.s.seg(r).selector);
                let size = if self.insn.is_mem() {
                    2
                } else {
                    self.insn.op_size
                };
                self.put_rm(size, v)
            }
            n @ (2 | 3) => {
                self.need_cpl0()?;
                let op = if n == 2 {
                    Intercept::LoadLdtr
                } else {
                    Intercept::LoadTr
                };
                self.ask(op)?;
                // CAST: two bytes were read.
                let selector = self.get_rm(2)? as u16;
                if n == 2 {
                    self.load_ldtr(selector)
                } else {
                    self.load_tr(selector)
                }
            }
            n @ (4 | 5) => self.verify(n == 5),
            _ => Err(Stop::UNHANDLED),
        }
    }

    /// VERR, VERW.
    fn verify(&mut self, write: bool) -> Result<(), Stop> {
        let selector = self.get_rm(2)? as u16;
        let ok = self.probe_selector(selector)?.is_some_and(|(s, _)| {
            let code = s.attr & 8 != 0;
            let rw = s.attr & 2 != 0;
            let fits = if write { !code && rw } else { !code || rw };
            s.attr & Segment::S != 0 && fits
        });
        self.set_zf(ok);
        Ok(())
    }

    fn set_zf(&mut self, on: bool) {
        let zf = if on { rflags::ZF } else { 0 };
        super::alu::set_flags(&mut self.s.rflags, rflags::ZF, zf);
    }

    /// 0F 02: LAR; 0F 03: LSL.
    pub(super) fn lar_lsl(&mut self) -> Result<(), Stop> {
        if !self.protected() {
            return Err(Stop::UD);
        }
        let lsl = self.insn.opcode == 3;
        let selector = self.get_rm(2)? as u16;
        let long = self.s.long_mode();
        let found = self.probe_selector(selector)?.filter(|(s, _)| {
            let kind = s.attr & Segment::TYPE;
            s.attr & Segment::S != 0
                || match kind {
                    2 | 9 | 11 => true,
                    1 | 3 => !long,
                    12 => !lsl,
                    4 | 5 => !lsl && !long,
                    _ => false,
                }
        });
        if let Some((s, high)) = found {
            let v = if lsl { s.limit } else { high & 0x00ff_ff00 };
            self.set_reg(self.insn.reg(), self.insn.op_size, u64::from(v));
        }
        self.set_zf(found.is_some());
        Ok(())
    }

    /// 63 outside 64-bit mode: ARPL.
    pub(super) fn arpl(&mut self) -> Result<(), Stop> {
        if !self.protected() {
            return Err(Stop::UD);
        }
        let rpl = self.reg(self.insn.reg(), 2) & 3;
        self.modify_rm(2, &mut |a, flags| {
            let raise = a & 3 < rpl;
            let zf = if raise { rflags::ZF } else { 0 };
            super::alu::set_flags(flags, rflags::ZF, zf);
            if raise {
                (a & !3) | rpl
            } else {
                a
            }
        })
    }

    /// 0F 01.
    pub(super) fn group7(&mut self) -> Result<(), Stop> {
        let reg = self.insn.reg3();
        match (reg, self.insn.is_mem()) {
            (0 | 1, true) => self.store_table(reg == 0),
            (2 | 3, true) => self.load_table(reg == 2),
            (4, _) => self.smsw(),
            (6, _) => self.lmsw(),
            (7, true) => self.invlpg(),
            (_, true) => Err(Stop::UNHANDLED),
            _ => self.group7_reg(),
        }
    }

    /// SGDT, SIDT. A 16-bit operand size stores 24 bits of base.
    fn store_table(&mut self, global: bool) -> Result<(), Stop> {
        self.check_umip()?;
        self.ask(if global {
            Intercept::StoreGdtr
        } else {
            Intercept::StoreIdtr
        })?;
        let t = if global { self.s.gdtr } else { self.s.idtr };
        let (len, base) = match (self.long(), self.insn.op_size) {
            (true, _) => (8u8, t.base),
            (false, 2) => (4, t.base & 0xff_ffff),
            _ => (4, t.base),
        };
        let (seg, offset) = self.effective();
        let behind = offset.wrapping_add(2) & mask(self.insn.addr_size);
        let access = self.data();
        let first = self.linear(seg, offset, 2, Use::Write)?;
        let second = self.linear(seg, behind, u64::from(len), Use::Write)?;
        self.store(first, 2, u64::from(t.limit), access)?;
        self.store(second, len, base, access)
    }

    /// LGDT, LIDT.
    fn load_table(&mut self, global: bool) -> Result<(), Stop> {
        self.need_cpl0()?;
        self.ask(if global {
            Intercept::LoadGdtr
        } else {
            Intercept::LoadIdtr
        })?;
        let (seg, offset) = self.effective();
        let behind = offset.wrapping_add(2) & mask(self.insn.addr_size);
        // CAST: two bytes were read.
        let limit = self.read_seg(seg, offset, 2)? as u16;
        let mut base = self.read_seg(seg, behind, if self.long() { 8 } else { 4 })?;
        if self.long() {
            if !self.canonical_base(base) {
                return Err(Stop::GP0);
            }
        } else if self.insn.op_size == 2 {
            base &= 0xff_ffff;
        }
        let t = DescTable { base, limit };
        if global {
            self.s.gdtr = t;
        } else {
            self.s.idtr = t;
        }
        Ok(())
    }

    fn smsw(&mut self) -> Result<(), Stop> {
        self.check_umip()?;
        self.ask(Intercept::ReadCr(0))?;
        let size = if self.insn.is_mem() {
            2
        } else {
            self.insn.op_size
        };
        self.put_rm(size, self.s.cr0)
    }

    /// LMSW: loads the low four bits of CR0, but cannot clear PE.
    fn lmsw(&mut self) -> Result<(), Stop> {
        self.need_cpl0()?;
        let v = self.get_rm(2)?;
        let cr0 = (self.s.cr0 & !0xe) | (v & 0xf);
        self.write_cr(0, cr0)
    }

    fn invlpg(&mut self) -> Result<(), Stop> {
        self.need_cpl0()?;
        let (seg, offset) = self.effective();
        let use_base = !self.long() || matches!(seg, SegReg::Fs | SegReg::Gs);
        let base = if use_base { self.s.seg(seg).base } else { 0 };
        let at = self.table(base, offset);
        self.ask(Intercept::Invlpg(at))?;
        self.bus.system(self.s, SystemOp::Invlpg(at))
    }

    /// The register forms of 0F 01, one instruction per ModRM byte.
    fn group7_reg(&mut self) -> Result<(), Stop> {
        match self.insn.modrm {
            0xc1 | 0xd9 => self.bus.system(self.s, SystemOp::Hypercall),
            0xc8 | 0xfa => self.monitor(),
            0xc9 | 0xfb => {
                if self.s.cpl() != 0 {
                    return Err(Stop::UD);
                }
                self.ask(Intercept::Mwait)?;
                self.bus.system(self.s, SystemOp::Mwait)
            }
            n @ (0xca | 0xcb) => {
                if self.s.cpl() != 0 {
                    return Err(Stop::UD);
                }
                let ac = if n == 0xcb { rflags::AC } else { 0 };
                super::alu::set_flags(&mut self.s.rflags, rflags::AC, ac);
                Ok(())
            }
            0xd0 => {
                self.need_cr4(cr4::OSXSAVE)?;
                if self.ecx() != 0 {
                    return Err(Stop::GP0);
                }
                self.set_edx_eax(self.s.xcr0);
                Ok(())
            }
            0xd1 => {
                self.need_cr4(cr4::OSXSAVE)?;
                self.need_cpl0()?;
                self.ask(Intercept::Xsetbv)?;
                let (n, v) = (self.ecx(), self.edx_eax());
                self.bus.set_xcr(self.s, n, v)
            }
            0xf8 => self.swapgs(),
            0xf9 => self.rdtscp(),
            _ => Err(Stop::UNHANDLED),
        }
    }

    fn monitor(&mut self) -> Result<(), Stop> {
        if self.s.cpl() != 0 {
            return Err(Stop::UD);
        }
        let seg = self.data_segment(SegReg::Ds);
        let offset = self.gpr(gpr::RAX) & mask(self.insn.addr_size);
        self.ask(Intercept::Monitor)?;
        if self.gpr(gpr::RCX) != 0 {
            // No extension is defined.
            return Err(Stop::GP0);
        }
        let at = self.linear(seg, offset, 1, Use::Read)?;
        self.bus.system(self.s, SystemOp::Monitor(at))
    }

    fn swapgs(&mut self) -> Result<(), Stop> {
        if !self.long() {
            return Err(Stop::UD);
        }
        self.need_cpl0()?;
        let new = self.bus.rdmsr(self.s, KERNEL_GS_BASE)?;
        let old = self.s.seg(SegReg::Gs).base;
        self.bus.wrmsr(self.s, KERNEL_GS_BASE, old)?;
        self.s.seg_mut(SegReg::Gs).base = new;
        Ok(())
    }

    fn check_tsd(&self) -> Result<(), Stop> {
        if self.s.cr4 & cr4::TSD != 0 {
            self.need_cpl0()?;
        }
        Ok(())
    }

    /// 0F 31: RDTSC.
    pub(super) fn rdtsc(&mut self) -> Result<(), Stop> {
        self.check_tsd()?;
        self.ask(Intercept::Rdtsc)?;
        let v = self.bus.rdtsc()?;
        self.set_edx_eax(v);
        Ok(())
    }

    /// F3 0F C7 /7: RDPID.
    pub(super) fn rdpid(&mut self) -> Result<(), Stop> {
        let aux = self.bus.rdmsr(self.s, TSC_AUX)?;
        let size = if self.long() { 8 } else { 4 };
        self.set_reg(self.insn.rm(), size, aux & 0xffff_ffff);
        Ok(())
    }

    fn rdtscp(&mut self) -> Result<(), Stop> {
        self.check_tsd()?;
        self.ask(Intercept::Rdtscp)?;
        let aux = self.bus.rdmsr(self.s, TSC_AUX)?;
        let v = self.bus.rdtsc()?;
        self.set_edx_eax(v);
        self.set_gpr(gpr::RCX, aux & 0xffff_ffff);
        Ok(())
    }

    /// 0F 33: RDPMC.
    pub(super) fn rdpmc(&mut self) -> Result<(), Stop> {
        if self.s.cr4 & cr4::PCE == 0 {
            self.need_cpl0()?;
        }
        self.ask(Intercept::Rdpmc)?;
        let v = self.bus.rdpmc(self.ecx())?;
        self.set_edx_eax(v);
        Ok(())
    }

    /// 0F 32: RDMSR.
    pub(super) fn rdmsr(&mut self) -> Result<(), Stop> {
        self.need_cpl0()?;
        let index = self.ecx();
        self.ask(Intercept::Rdmsr(index))?;
        let v = self.bus.rdmsr_insn(self.s, index)?;
        self.set_edx_eax(v);
        Ok(())
    }

    /// 0F 30: WRMSR.
    pub(super) fn wrmsr(&mut self) -> Result<(), Stop> {
        self.need_cpl0()?;
        let (index, v) = (self.ecx(), self.edx_eax());
        self.ask(Intercept::Wrmsr(index))?;
        self.bus.wrmsr_insn(self.s, index, v)
    }

    /// 0F A2: CPUID.
    pub(super) fn cpuid(&mut self) -> Result<(), Stop> {
        self.ask(Intercept::Cpuid)?;
        // CAST: the low half.
        let leaf = self.gpr(gpr::RAX) as u32;
        let [a, b, c, d] = self.bus.cpuid(self.s, leaf, self.ecx())?;
        self.set_gpr(gpr::RAX, u64::from(a));
        self.set_gpr(gpr::RBX, u64::from(b));
        self.set_gpr(gpr::RCX, u64::from(c));
        self.set_gpr(gpr::RDX, u64::from(d));
        Ok(())
    }

    /// F4: HLT.
    pub(super) fn hlt(&mut self) -> Result<(), Stop> {
        self.need_cpl0()?;
        self.ask(Intercept::Hlt)?;
        self.flow = Flow::Halt;
        Ok(())
    }

    /// 0F AA: RSM. Whether it may be executed depends on the mode, not on the privilege.
    pub(super) fn rsm(&mut self) {
        self.flow = Flow::Resume;
        // The flags that it brings decide about the next trap.
        self.no_trap = true;
    }

    /// 0F 08: INVD; 0F 09: WBINVD.
    pub(super) fn cache(&mut self, writeback: bool) -> Result<(), Stop> {
        self.need_cpl0()?;
        let (ask, op) = if writeback {
            (Intercept::Wbinvd, SystemOp::Wbinvd)
        } else {
            (Intercept::Invd, SystemOp::Invd)
        };
        self.ask(ask)?;
        self.bus.system(self.s, op)
    }

    /// F3 90: PAUSE.
    pub(super) fn pause(&mut self) -> Result<(), Stop> {
        self.ask(Intercept::Pause)?;
        self.bus.system(self.s, SystemOp::Pause)
    }

    /// FA: CLI; FB: STI. With CR4.VME or PVI the virtual flag would take their place; that is
    /// not emulated.
    pub(super) fn cli_sti(&mut self, set: bool) -> Result<(), Stop> {
        if self.s.protected_mode() && self.s.cpl() > self.iopl() {
            let bit = if self.s.v8086() { cr4::VME } else { cr4::PVI };
            let virtual_flag = self.s.cpl() == 3 && self.s.cr4 & bit != 0;
            return Err(if virtual_flag {
                Stop::UNHANDLED
            } else {
                Stop::GP0
            });
        }
        if set {
            if self.s.rflags & rflags::IF == 0 {
                self.shadow = SHADOW_STI;
            }
            self.s.rflags |= rflags::IF;
        } else {
            self.s.rflags &= !rflags::IF;
        }
        Ok(())
    }

    /// 9B: WAIT faults like an x87 instruction if both MP and TS are set.
    pub(super) fn fwait(&self) -> Result<(), Stop> {
        let both = cr0::MP | cr0::TS;
        if self.s.cr0 & both == both {
            return Err(Stop::Fault(Exception::new(NM)));
        }
        Ok(())
    }

    /// FNSTCW, FNINIT and FNSTSW, by which programs find out whether there is an FPU.
    pub(super) fn x87(&mut self) -> Result<(), Stop> {
        let i = &self.insn;
        let op = match (i.opcode, i.is_mem(), i.reg3(), i.modrm) {
            (0xd9, true, 7, _) => X87::StoreControl,
            (0xdd, true, 7, _) | (0xdf, false, _, 0xe0) => X87::StoreStatus,
            (0xdb, false, _, 0xe3) => X87::Init,
            _ => return Err(Stop::UNHANDLED),
        };
        if self.s.cr0 & (cr0::EM | cr0::TS) != 0 {
            return Err(Stop::Fault(Exception::new(NM)));
        }
        let word = u64::from(self.bus.x87(op)?);
        if op == X87::Init {
            return Ok(());
        }
        if self.insn.is_mem() {
            return self.put_rm(2, word);
        }
        self.set_reg(0, 2, word);
        Ok(())
    }

    /// 0F AE: fences, cache line flushes, and the FS and GS base instructions.
    pub(super) fn group15(&mut self) -> Result<(), Stop> {
        let reg = self.insn.reg3();
        if self.insn.is_mem() {
            // CLFLUSH, CLFLUSHOPT; CLWB is 66 /6. Memory is coherent, so nothing is to be done
            // but the checks on the address.
            let flush = reg == 7 || (reg == 6 && self.insn.opsize_prefix);
            if !flush || self.insn.rep != Rep::None {
                return Err(Stop::UNHANDLED);
            }
            let at = match self.place(1, Use::Read)? {
                super::operand::Place::Mem(at) => at,
                super::operand::Place::Reg(_) => return Err(Stop::UD),
            };
            let access = self.data();
            self.load(at, 1, access)?;
            return Ok(());
        }
        match (self.insn.rep, reg) {
            // LFENCE, MFENCE, SFENCE.
            (Rep::None, 5..=7) if !self.insn.opsize_prefix => Ok(()),
            (Rep::E, 0..=3) if self.long() => self.fs_gs_base(reg),
            _ => Err(Stop::UNHANDLED),
        }
    }

    /// RDFSBASE, RDGSBASE, WRFSBASE, WRGSBASE.
    fn fs_gs_base(&mut self, which: u8) -> Result<(), Stop> {
        self.need_cr4(cr4::FSGSBASE)?;
        let seg = if which & 1 == 0 {
            SegReg::Fs
        } else {
            SegReg::Gs
        };
        let (r, size) = (self.insn.rm(), self.insn.op_size);
        if which & 2 == 0 {
            let v = self.s.seg(seg).base;
            self.set_reg(r, size, v);
            return Ok(());
        }
        let v = self.reg(r, size);
        if !self.canonical_base(v) {
            return Err(Stop::GP0);
        }
        self.s.seg_mut(seg).base = v;
        Ok(())
    }
}
