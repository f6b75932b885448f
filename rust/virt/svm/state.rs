// SPDX-License-Identifier: GPL-2.0

//! Registers in and out of the control block, traps, and the words of an exit.

use super::inject::DB_EXIT;
use super::vcpu::Vcpu;
use super::vcpu::DEBUG_TRAPS;
use super::vcpu::EXCEPTIONS;
use super::Svm;
use crate::c;
use crate::entry::flags;
use crate::tdp::RootRef;
use crate::vendor::RawExit;
use crate::vendor::Trap;
use model::exit::Exit;
use model::exit::IoAccess;
use model::exit::Quick;
use model::svm::exit;
use model::svm::exit::code;
use model::svm::exit::Words;
use model::svm::vmcb::clean;
use model::svm::vmcb::int_ctl;
use model::svm::vmcb::intercept;
use model::svm::vmcb::pat_valid;
use model::svm::vmcb::VmcbSeg;
use model::svm::vmcb::INT_STATE_SHADOW;
use model::x86::ctrl::cr0;
use model::x86::ctrl::dr6;
use model::x86::ctrl::dr7;
use model::x86::ctrl::efer;
use model::x86::state::DescTable;
use model::x86::state::SegReg;
use model::x86::state::Segment;
use model::x86::state::SHADOW_MOV_SS;
use model::x86::state::SHADOW_STI;

pub(super) use msr::TSC_AUX;

/// MSRs that live here.
mod msr {
    pub(super) const SPEC_CTRL: u32 = 0x48;
    pub(super) const SYSENTER_CS: u32 = 0x174;
    pub(super) const SYSENTER_ESP: u32 = 0x175;
    pub(super) const SYSENTER_EIP: u32 = 0x176;
    pub(super) const DEBUGCTL: u32 = 0x1d9;
    pub(super) const LAST_BRANCH_FROM: u32 = 0x1db;
    pub(super) const LAST_BRANCH_TO: u32 = 0x1dc;
    pub(super) const LAST_INT_FROM: u32 = 0x1dd;
    pub(super) const LAST_INT_TO: u32 = 0x1de;
    pub(super) const PAT: u32 = 0x277;
    pub(super) const STAR: u32 = 0xc000_0081;
    pub(super) const LSTAR: u32 = 0xc000_0082;
    pub(super) const CSTAR: u32 = 0xc000_0083;
    pub(super) const SYSCALL_MASK: u32 = 0xc000_0084;
    pub(super) const FS_BASE: u32 = 0xc000_0100;
    pub(super) const GS_BASE: u32 = 0xc000_0101;
    pub(super) const KERNEL_GS_BASE: u32 = 0xc000_0102;
    pub(crate) const TSC_AUX: u32 = 0xc000_0103;
    pub(super) const VIRT_SPEC_CTRL: u32 = 0xc001_011f;
}

/// The upper half of SYSENTER_ESP or SYSENTER_EIP. Intel's processors have one, and so have guests
/// that take theirs for one of those; the registers of an AMD processor keep 32 bits.
#[derive(Debug, Default)]
pub(super) struct UpperHalf {
    value: u32,
    /// The guest reaches the register itself: there is no upper half.
    passed: bool,
}

impl UpperHalf {
    fn of(&self, low: u64) -> u64 {
        low | u64::from(self.value) << 32
    }

    /// Keeps the upper half of a value; the rest of it.
    fn split(&mut self, v: u64) -> u64 {
        self.value = if self.passed { 0 } else { (v >> 32) as u32 };
        v & 0xffff_ffff
    }

    /// The guest's accesses do not exit any more, or do again.
    pub(super) fn pass(&mut self, on: bool) {
        self.passed = on;
        if on {
            self.value = 0;
        }
    }
}

/// SPEC_CTRL.SSBD.
const SSBD: u64 = 1 << 2;

impl Vcpu {
    fn seg_ref(&self, r: SegReg) -> &VmcbSeg {
        let s = &self.vmcb().save;
        match r {
            SegReg::Es => &s.es,
            SegReg::Cs => &s.cs,
            SegReg::Ss => &s.ss,
            SegReg::Ds => &s.ds,
            SegReg::Fs => &s.fs,
            SegReg::Gs => &s.gs,
            SegReg::Ldtr => &s.ldtr,
            SegReg::Tr => &s.tr,
        }
    }

    /// A segment register, made to look the way it does on all processors.
    pub(super) fn seg(&self, r: SegReg) -> Segment {
        let mut s = self.seg_ref(r).unpack();
        match r {
            // Some processors hide the busy bit.
            SegReg::Tr => s.attr |= 2,
            // What is cached has been accessed, whatever the descriptor says.
            SegReg::Ds | SegReg::Es | SegReg::Fs | SegReg::Gs if !s.unusable => s.attr |= 1,
            SegReg::Ss => {
                if s.unusable {
                    s.attr &= !Segment::DB;
                }
                let dpl = u16::from(self.vmcb().save.cpl & 3) << Segment::DPL_SHIFT;
                s.attr = s.attr & !(3 << Segment::DPL_SHIFT) | dpl;
            }
            _ => {}
        }
        s
    }

    /// Sets a segment register. The privilege level goes with SS.
    pub(super) fn set_seg(&mut self, r: SegReg, seg: &Segment) {
        let packed = VmcbSeg::pack(seg);
        let s = &mut self.vmcb_mut().save;
        match r {
            SegReg::Es => s.es = packed,
            SegReg::Cs => s.cs = packed,
            SegReg::Ss => {
                s.ss = packed;
                s.cpl = seg.dpl();
            }
            SegReg::Ds => s.ds = packed,
            SegReg::Fs => s.fs = packed,
            SegReg::Gs => s.gs = packed,
            SegReg::Ldtr => s.ldtr = packed,
            SegReg::Tr => s.tr = packed,
        }
        self.dirty(clean::SEG);
    }

    pub(super) fn desc_table(&self, idt: bool) -> DescTable {
        let s = &self.vmcb().save;
        let t = if idt { &s.idtr } else { &s.gdtr };
        DescTable {
            base: t.base,
            // CAST: the register has 16 bits.
            limit: t.limit as u16,
        }
    }

    pub(super) fn set_desc_table(&mut self, idt: bool, t: DescTable) {
        let s = &mut self.vmcb_mut().save;
        let to = if idt { &mut s.idtr } else { &mut s.gdtr };
        to.base = t.base;
        to.limit = u32::from(t.limit);
        self.dirty(clean::DT);
    }

    /// CR0 as the guest sees it.
    #[inline]
    pub(super) fn cr0(&self) -> u64 {
        self.vmcb().save.cr0 | self.cr0_hidden
    }

    /// Sets CR0. Hardware does not get the caching bits ([`Trap::CachingOff`]): firmware leaves them
    /// set, and a guest would run uncached. While they are set every access exits, so that the guest
    /// sees them.
    pub(super) fn set_cr0(&mut self, v: u64) {
        let hidden = if self.hide_caching {
            v & (cr0::CD | cr0::NW)
        } else {
            0
        };
        self.cr0_hidden = hidden;
        // Illegal high bits make hardware refuse the entry.
        self.vmcb_mut().save.cr0 = v & !hidden | cr0::ET;
        self.set_intercept(intercept::CR0_READ, hidden != 0);
        self.set_intercept(intercept::CR0_WRITE, hidden != 0);
        self.dirty(clean::CR);
    }

    pub(super) fn set_cr2(&mut self, v: u64) {
        self.vmcb_mut().save.cr2 = v;
        self.dirty(clean::CR2);
    }

    pub(super) fn set_cr3(&mut self, v: u64) {
        self.vmcb_mut().save.cr3 = v;
        self.dirty(clean::CR);
    }

    pub(super) fn set_cr4(&mut self, v: u64) {
        self.cr4 = v;
        let hw = self.hw_cr4(v);
        self.vmcb_mut().save.cr4 = hw;
        self.entry.set_cr4(v);
        self.dirty(clean::CR);
    }

    #[inline]
    pub(super) fn cr8(&self) -> u64 {
        u64::from(self.vmcb().control.int_ctl & int_ctl::V_TPR)
    }

    #[inline]
    pub(super) fn set_cr8(&mut self, v: u64) {
        let old = self.vmcb().control.int_ctl;
        // CAST: four bits.
        let new = old & !int_ctl::V_TPR | (v as u32 & int_ctl::V_TPR);
        if new != old {
            self.vmcb_mut().control.int_ctl = new;
            self.dirty(clean::INTR);
        }
    }

    /// EFER as the guest sees it.
    #[inline]
    pub(super) fn efer(&self) -> u64 {
        self.vmcb().save.efer & !efer::SVME
    }

    /// Sets EFER. SVME is 1 for hardware always, and 0 for the guest.
    pub(super) fn set_efer(&mut self, v: u64) {
        self.vmcb_mut().save.efer = v | efer::SVME;
        self.dirty(clean::CR);
    }

    /// Do accesses to debug registers exit?
    #[inline]
    pub(super) fn debug_registers_trap(&self) -> bool {
        self.vmcb().control.intercepts[intercept::WORD_DR] != 0
    }

    pub(super) fn dr6(&self) -> u64 {
        if self.debug_registers_trap() {
            self.dr6
        } else {
            self.vmcb().save.dr6
        }
    }

    pub(super) fn set_dr6(&mut self, v: u64) {
        let v = v & dr6::EXISTING;
        self.dr6 = v;
        if !self.debug_registers_trap() {
            self.vmcb_mut().save.dr6 = v;
            self.dirty(clean::DR);
        }
    }

    pub(super) fn set_dr7(&mut self, v: u64) {
        let v = v | dr7::FIXED_1;
        self.vmcb_mut().save.dr7 = v;
        self.entry.update_breakpoints(v);
        self.dirty(clean::DR);
    }

    /// The shadow; hardware does not say of which kind, so it is both.
    #[inline]
    pub(super) fn shadow(&self) -> u8 {
        match self.vmcb().control.int_state & INT_STATE_SHADOW {
            0 => 0,
            _ => SHADOW_STI | SHADOW_MOV_SS,
        }
    }

    #[inline]
    pub(super) fn set_shadow(&mut self, s: u8) {
        let state = &mut self.vmcb_mut().control.int_state;
        *state = *state & !INT_STATE_SHADOW | u64::from(s != 0);
    }

    /// An MSR that lives here.
    pub(super) fn msr(&self, index: u32) -> Option<u64> {
        let s = &self.vmcb().save;
        Some(match index {
            msr::STAR => s.star,
            msr::LSTAR => s.lstar,
            msr::CSTAR => s.cstar,
            msr::SYSCALL_MASK => s.sfmask,
            msr::FS_BASE => s.fs.base,
            msr::GS_BASE => s.gs.base,
            msr::KERNEL_GS_BASE => s.kernel_gs_base,
            msr::SYSENTER_CS => s.sysenter_cs,
            msr::SYSENTER_ESP => self.sysenter_esp_hi.of(s.sysenter_esp),
            msr::SYSENTER_EIP => self.sysenter_eip_hi.of(s.sysenter_eip),
            msr::PAT => s.g_pat,
            msr::DEBUGCTL => s.dbgctl,
            msr::LAST_BRANCH_FROM => s.br_from,
            msr::LAST_BRANCH_TO => s.br_to,
            msr::LAST_INT_FROM => s.last_excp_from,
            msr::LAST_INT_TO => s.last_excp_to,
            msr::TSC_AUX => u64::from(self.tsc_aux),
            msr::SPEC_CTRL if self.m.v_spec_ctrl => s.spec_ctrl,
            msr::SPEC_CTRL => self.entry.spec_ctrl,
            msr::VIRT_SPEC_CTRL => self.entry.virt_spec_ctrl,
            _ => return None,
        })
    }

    /// Sets such an MSR; false if it is not one, or hardware would not take the value.
    pub(super) fn set_msr(&mut self, index: u32, v: u64) -> bool {
        match index {
            // A wrong one would make hardware refuse the entry, or worse.
            msr::PAT if !pat_valid(v) => return false,
            msr::SPEC_CTRL => return self.set_spec_ctrl(v),
            msr::VIRT_SPEC_CTRL => {
                self.entry.virt_spec_ctrl = v & SSBD;
                return v & !SSBD == 0;
            }
            // KVM: without LBR virtualization writes are ignored.
            msr::DEBUGCTL => return true,
            msr::TSC_AUX => {
                // CAST: the upper half is reserved.
                self.tsc_aux = v as u32;
                return v >> 32 == 0;
            }
            _ => {}
        }
        let low = match index {
            msr::SYSENTER_ESP => self.sysenter_esp_hi.split(v),
            msr::SYSENTER_EIP => self.sysenter_eip_hi.split(v),
            _ => v,
        };
        let s = &mut self.vmcb_mut().save;
        match index {
            msr::STAR => s.star = v,
            msr::LSTAR => s.lstar = v,
            msr::CSTAR => s.cstar = v,
            msr::SYSCALL_MASK => s.sfmask = v,
            msr::FS_BASE => s.fs.base = v,
            msr::GS_BASE => s.gs.base = v,
            msr::KERNEL_GS_BASE => s.kernel_gs_base = v,
            msr::SYSENTER_CS => s.sysenter_cs = v,
            msr::SYSENTER_ESP => s.sysenter_esp = low,
            msr::SYSENTER_EIP => s.sysenter_eip = low,
            msr::PAT => {
                s.g_pat = v;
                self.dirty(clean::NPT);
            }
            msr::LAST_BRANCH_FROM => s.br_from = v,
            msr::LAST_BRANCH_TO => s.br_to = v,
            msr::LAST_INT_FROM => s.last_excp_from = v,
            msr::LAST_INT_TO => s.last_excp_to = v,
            _ => return false,
        }
        // Those that are left are loaded from memory at each entry, but for the branch records.
        self.dirty(clean::LBR);
        true
    }

    fn set_spec_ctrl(&mut self, v: u64) -> bool {
        // SAFETY: Tries the value on this CPU and puts the host's back.
        if v != 0 && !unsafe { c::kvmrs_svm_spec_ctrl_legal(v) } {
            return false;
        }
        if self.m.v_spec_ctrl {
            self.vmcb_mut().save.spec_ctrl = v;
        } else {
            self.entry.spec_ctrl = v;
        }
        true
    }

    /// Switches a trap.
    pub(super) fn set_trap(&mut self, t: Trap, on: bool) {
        match t {
            Trap::Hlt => self.set_intercept(intercept::HLT, on),
            Trap::Pause => self.set_intercept(intercept::PAUSE, on),
            Trap::Mwait => {
                self.set_intercept(intercept::MONITOR, on);
                self.set_intercept(intercept::MWAIT, on);
            }
            Trap::DebugRegisters => self.set_debug_trap(on),
            Trap::Cr8Write => self.set_intercept(intercept::CR8_WRITE, on),
            Trap::Rdtscp => self.set_intercept(intercept::RDTSCP, on || !self.m.features.rdtscp),
            Trap::Invpcid => self.set_intercept(intercept::INVPCID, on),
            // There are no intercepts for these.
            Trap::Xsaves | Trap::Rdrand | Trap::Rdseed => {}
            Trap::BusLock => {
                let on = on && self.m.features.bus_lock_exit;
                self.set_intercept(intercept::BUSLOCK, on);
            }
            Trap::DescriptorTables => {
                for n in 0..8 {
                    self.set_intercept(intercept::IDTR_READ + n, on);
                }
            }
            Trap::CachingOff => {
                if on != self.hide_caching {
                    self.hide_caching = on;
                    self.set_cr0(self.cr0());
                }
            }
        }
    }

    fn set_debug_trap(&mut self, on: bool) {
        if on == self.debug_registers_trap() {
            return;
        }
        let old = self.dr6();
        let word = if on { DEBUG_TRAPS } else { 0 };
        self.vmcb_mut().control.intercepts[intercept::WORD_DR] = word;
        self.entry.set_flag(flags::SAVE_DEBUGREGS, !on);
        // DR6 moves to where it is now looked for.
        self.dr6 = old;
        let hw = if on { model::x86::ctrl::dr6::INIT } else { old };
        self.vmcb_mut().save.dr6 = hw;
        if on {
            let dr7 = self.vmcb().save.dr7;
            self.entry.update_breakpoints(dr7);
        }
        self.dirty(clean::INTERCEPTS | clean::DR);
    }

    /// Which exceptions exit, besides those that do always.
    pub(super) fn set_exception_exits(&mut self, bitmap: u32) {
        self.vmcb_mut().control.intercepts[intercept::WORD_EXCEPTION] = bitmap | EXCEPTIONS;
        self.dirty(clean::INTERCEPTS);
    }

    pub(super) fn set_tsc(&mut self, offset: u64, ratio: u64) {
        self.vmcb_mut().control.tsc_offset = offset;
        self.dirty(clean::INTERCEPTS);
        // 40 bits (APM: vol 2, 15.30.5); 0 would stop the guest's time.
        let ratio = ratio & 0xff_ffff_ffff;
        if ratio != 0 {
            self.tsc_ratio = ratio;
        }
    }

    /// Runs on other nested page tables from now on.
    pub(super) fn set_root(&mut self, root: &RootRef<Svm>) -> bool {
        if root.is(&self.root) {
            return true;
        }
        if !self.m.accepts(root.config()) {
            return false;
        }
        self.vmcb_mut().control.nested_cr3 = root.hw_pa();
        self.dirty(clean::NPT);
        // Translations made through the old tables have the same tag.
        self.tlb.forget();
        self.root = root.clone();
        true
    }

    /// Did an interrupt of the host end the last run?
    #[inline]
    pub(super) fn interrupted(&self) -> bool {
        self.vmcb().control.exit_code == code::INTR
    }

    /// What the last exit was, if it is a frequent one.
    #[inline]
    pub(super) fn quick(&self) -> Quick {
        let c = &self.vmcb().control;
        exit::quick(c.exit_code, c.exit_info_1)
    }

    /// The port access that was the last exit.
    #[inline]
    pub(super) fn port_access(&self) -> IoAccess {
        exit::io(self.vmcb().control.exit_info_1)
    }

    /// Does the guest run 64-bit code?
    #[inline]
    pub(super) fn in_64_bit_mode(&self) -> bool {
        self.efer() & efer::LMA != 0 && self.vmcb().save.cs.attr & Segment::L != 0
    }

    /// What the last exit was.
    #[inline]
    pub(super) fn decode(&mut self) -> Exit {
        let c = &self.vmcb().control;
        if c.exit_code == DB_EXIT && self.nmi.stepped {
            return Exit::NmiWindow;
        }
        let words = Words {
            code: c.exit_code,
            info1: c.exit_info_1,
            info2: c.exit_info_2,
            int_info: self.aborted_info,
            dr6: self.db_dr6,
        };
        let exit = exit::decode(&words, self.m.assists);
        if exit == Exit::BusLock {
            // The instruction has not been executed yet: once it may.
            self.vmcb_mut().control.bus_lock_count = 1;
        }
        exit
    }

    /// Was the last exit a bus lock?
    pub(super) fn bus_locked(&self) -> bool {
        self.vmcb().control.exit_code == code::BUSLOCK
    }

    pub(super) fn raw_exit(&self) -> RawExit {
        let c = &self.vmcb().control;
        RawExit {
            reason: c.exit_code,
            info1: c.exit_info_1,
            info2: c.exit_info_2,
            intr_info: self.aborted_info,
            error_code: c.exit_int_info_err,
        }
    }

    /// Bytes of the instruction, for data accesses that faulted.
    pub(super) fn insn_bytes(&self) -> &[u8] {
        let c = &self.vmcb().control;
        let n = match c.exit_code {
            code::NPF if self.m.assists => c.insn_len,
            _ => 0,
        };
        c.insn_bytes.get(..usize::from(n)).unwrap_or(&[])
    }

    /// RIP of the next instruction, if hardware tells. For ports it does everywhere.
    #[inline]
    pub(super) fn next_rip(&self) -> Option<u64> {
        let c = &self.vmcb().control;
        if self.m.nrips && c.next_rip != 0 {
            return Some(c.next_rip);
        }
        (c.exit_code == code::IOIO).then_some(c.exit_info_2)
    }
}
