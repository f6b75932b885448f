// SPDX-License-Identifier: GPL-2.0

//! Registers in and out of the VMCS, traps, and the words of an exit.

use super::vcpu::cached;
use super::vcpu::Vcpu;
use super::vcpu::EXCEPTIONS;
use super::vcpu::VTPR;
use super::vmcs;
use super::Vmx;
use crate::c;
use crate::entry::flags;
use crate::tdp::RootRef;
use crate::vendor::RawExit;
use crate::vendor::Trap;
use core::sync::atomic::Ordering::Relaxed;
use model::exit::Exit;
use model::exit::IoAccess;
use model::exit::Quick;
use model::policy::mtrr::pat_valid;
use model::vmx::ctrl::interruptibility;
use model::vmx::ctrl::proc;
use model::vmx::ctrl::proc2;
use model::vmx::ctrl::unpack_rights;
use model::vmx::ctrl::PENDING_BS;
use model::vmx::exit;
use model::vmx::exit::info;
use model::vmx::exit::reason;
use model::vmx::field;
use model::x86::ctrl::cr0;
use model::x86::ctrl::cr4;
use model::x86::ctrl::dr6;
use model::x86::ctrl::dr7;
use model::x86::ctrl::efer;
use model::x86::ctrl::rflags;
use model::x86::exception;
use model::x86::msr;
use model::x86::state::DescTable;
use model::x86::state::SegReg;
use model::x86::state::Segment;
use model::x86::state::SHADOW_MOV_SS;
use model::x86::state::SHADOW_STI;

/// DEBUGCTL bits that guests write without having what they are for: branch records and branch
/// trap. KVM: they are dropped.
const DEBUGCTL_DROPPED: u64 = 3;

/// Interrupt shadows of both kinds.
pub(super) const SHADOW: u32 = interruptibility::STI | interruptibility::MOV_SS;

impl Vcpu {
    #[inline]
    pub(super) fn rip(&self) -> u64 {
        let c = &self.cache;
        c.get(cached::RIP, &c.rip, || vmcs::read(field::GUEST_RIP))
    }

    #[inline]
    pub(super) fn set_rip(&mut self, v: u64) {
        vmcs::write(field::GUEST_RIP, v);
        self.cache.put(cached::RIP, &self.cache.rip, v);
    }

    #[inline]
    pub(super) fn rsp(&self) -> u64 {
        let c = &self.cache;
        c.get(cached::RSP, &c.rsp, || vmcs::read(field::GUEST_RSP))
    }

    #[inline]
    pub(super) fn set_rsp(&mut self, v: u64) {
        vmcs::write(field::GUEST_RSP, v);
        self.cache.put(cached::RSP, &self.cache.rsp, v);
    }

    #[inline]
    pub(super) fn rflags(&self) -> u64 {
        let c = &self.cache;
        c.get(cached::RFLAGS, &c.rflags, || {
            vmcs::read(field::GUEST_RFLAGS)
        })
    }

    /// Sets RFLAGS. A single step that begins in an interrupt shadow ends the shadow: hardware wants
    /// the step pending then, and it would be reported before anything was executed.
    #[inline]
    pub(super) fn set_rflags(&mut self, v: u64) {
        let v = v | rflags::FIXED;
        if v & rflags::TF != 0 && self.rflags() & rflags::TF == 0 && self.shadow_bits() != 0 {
            self.write_shadow(0);
        }
        self.runnable.set(None);
        vmcs::write(field::GUEST_RFLAGS, v);
        self.cache.put(cached::RFLAGS, &self.cache.rflags, v);
    }

    #[inline]
    pub(super) fn rights(&self, r: SegReg) -> u32 {
        let read = || vmcs::read(field::segment(r).rights);
        let c = &self.cache;
        match r {
            SegReg::Cs => c.get(cached::CS_RIGHTS, &c.cs_rights, read),
            SegReg::Ss => c.get(cached::SS_RIGHTS, &c.ss_rights, read),
            _ => read(),
        }
    }

    pub(super) fn seg(&self, r: SegReg) -> Segment {
        let f = field::segment(r);
        unpack_rights(
            self.rights(r),
            vmcs::read(f.selector),
            vmcs::read(f.limit),
            vmcs::read(f.base),
        )
    }

    pub(super) fn set_seg(&mut self, r: SegReg, s: &Segment) {
        let f = field::segment(r);
        let s = &self.fitting(r, s);
        let rights = Self::rights_of(r, s);
        vmcs::write(f.selector, s.selector);
        vmcs::write(f.limit, s.limit);
        vmcs::write(f.base, s.base);
        vmcs::write(f.rights, rights);
        self.runnable.set(None);
        self.cache.drop_slot(cached::CS_RIGHTS | cached::SS_RIGHTS);
    }

    #[inline]
    pub(super) fn cpl(&self) -> u8 {
        // CAST: two bits.
        (self.rights(SegReg::Ss) >> Segment::DPL_SHIFT & 3) as u8
    }

    pub(super) fn desc_table(&self, idt: bool) -> DescTable {
        let (base, limit) = if idt {
            (field::GUEST_IDTR_BASE, field::GUEST_IDTR_LIMIT)
        } else {
            (field::GUEST_GDTR_BASE, field::GUEST_GDTR_LIMIT)
        };
        DescTable {
            base: vmcs::read(base),
            // CAST: the register has 16 bits.
            limit: vmcs::read(limit) as u16,
        }
    }

    pub(super) fn set_desc_table(&mut self, idt: bool, t: DescTable) {
        let (base, limit) = if idt {
            (field::GUEST_IDTR_BASE, field::GUEST_IDTR_LIMIT)
        } else {
            (field::GUEST_GDTR_BASE, field::GUEST_GDTR_LIMIT)
        };
        vmcs::write(base, t.base);
        vmcs::write(limit, u32::from(t.limit));
    }

    pub(super) fn update_table_trap(&mut self) {
        let umip = self.cr4 & cr4::UMIP != 0 && !self.m.umip;
        let on = (umip || self.trap.tables) && self.m.cfg.proc2(proc2::DESC_EXITING);
        self.set_proc2_bit(proc2::DESC_EXITING, on);
    }

    fn set_proc2_bit(&mut self, bit: u32, on: bool) {
        let v = if on {
            self.proc2 | bit
        } else {
            self.proc2 & !bit
        };
        self.set_proc2(v);
    }

    #[inline]
    fn tpr_shadow(&self) -> bool {
        self.m.cfg.proc(proc::TPR_SHADOW)
    }

    #[inline]
    pub(super) fn cr8(&self) -> u64 {
        if self.tpr_shadow() {
            u64::from(self.vapic.words32()[VTPR].load(Relaxed) >> 4 & 0xf)
        } else {
            u64::from(self.tpr)
        }
    }

    #[inline]
    pub(super) fn set_cr8(&mut self, v: u64) {
        // CAST: four bits.
        let v = (v & 0xf) as u8;
        if self.apic_shared {
            // The local APIC has done it.
        } else if self.tpr_shadow() {
            self.vapic.words32()[VTPR].store(u32::from(v) << 4, Relaxed);
        } else {
            self.tpr = v;
        }
    }

    /// Do accesses to debug registers exit?
    #[inline]
    fn debug_registers_trap(&self) -> bool {
        self.proc & proc::MOV_DR_EXITING != 0
    }

    pub(super) fn dr6(&self) -> u64 {
        if self.debug_registers_trap() {
            self.dr6
        } else {
            self.run.dr6
        }
    }

    pub(super) fn set_dr6(&mut self, v: u64) {
        let v = v & dr6::EXISTING;
        self.dr6 = v;
        self.run.dr6 = v;
    }

    pub(super) fn dr7(&self) -> u64 {
        vmcs::read(field::GUEST_DR7)
    }

    pub(super) fn set_dr7(&mut self, v: u64) {
        let v = v & 0xffff_ffff | dr7::FIXED_1;
        vmcs::write(field::GUEST_DR7, v);
        self.entry.update_breakpoints(v);
    }

    pub(super) fn pdptes(&self) -> [u64; 4] {
        [
            vmcs::read(field::GUEST_PDPTE0),
            vmcs::read(field::GUEST_PDPTE1),
            vmcs::read(field::GUEST_PDPTE2),
            vmcs::read(field::GUEST_PDPTE3),
        ]
    }

    pub(super) fn set_pdptes(&mut self, p: &[u64; 4]) {
        vmcs::write(field::GUEST_PDPTE0, p[0]);
        vmcs::write(field::GUEST_PDPTE1, p[1]);
        vmcs::write(field::GUEST_PDPTE2, p[2]);
        vmcs::write(field::GUEST_PDPTE3, p[3]);
        // An entry leaves what was translated with the old ones, if CR3 is the same.
        self.flush_linear = true;
    }

    #[inline]
    pub(super) fn interruptibility(&self) -> u32 {
        let c = &self.cache;
        c.get(cached::INTERRUPTIBILITY, &c.interruptibility, || {
            vmcs::read(field::GUEST_INTERRUPTIBILITY)
        })
    }

    pub(super) fn set_interruptibility(&mut self, v: u32) {
        vmcs::write(field::GUEST_INTERRUPTIBILITY, v);
        self.cache
            .put(cached::INTERRUPTIBILITY, &self.cache.interruptibility, v);
    }

    /// The interrupt shadow in hardware's bits.
    #[inline]
    pub(super) fn shadow_bits(&self) -> u32 {
        self.interruptibility() & SHADOW
    }

    fn write_shadow(&mut self, bits: u32) {
        let v = self.interruptibility() & !SHADOW | bits;
        self.set_interruptibility(v);
    }

    #[inline]
    pub(super) fn shadow(&self) -> u8 {
        let bits = self.shadow_bits();
        let mut s = 0;
        if bits & interruptibility::STI != 0 {
            s |= SHADOW_STI;
        }
        if bits & interruptibility::MOV_SS != 0 {
            s |= SHADOW_MOV_SS;
        }
        s
    }

    #[inline]
    pub(super) fn set_shadow(&mut self, s: u8) {
        // Hardware does not take both at once (SDM: vol 3, 27.3.1.5).
        let bits = if s & SHADOW_MOV_SS != 0 {
            interruptibility::MOV_SS
        } else if s & SHADOW_STI != 0 {
            interruptibility::STI
        } else {
            0
        };
        if self.shadow_bits() != bits {
            self.write_shadow(bits);
            if bits != 0 && self.rflags() & rflags::TF != 0 {
                // In a shadow a single step has to be pending.
                vmcs::write(field::GUEST_PENDING_DEBUG, PENDING_BS);
            }
            if bits == 0 && (self.rflags() & rflags::TF != 0 || !self.m.cfg.unrestricted) {
                // Emulated code may have cleared TF by now.
                self.end_step();
            }
        }
    }

    /// Software ended a shadow: a step that was pending in it is not hardware's to report any more.
    /// Whoever carried out the instruction does.
    #[cold]
    fn end_step(&self) {
        let pending = vmcs::read(field::GUEST_PENDING_DEBUG);
        if pending & PENDING_BS != 0 {
            vmcs::write(field::GUEST_PENDING_DEBUG, pending & !PENDING_BS);
        }
    }

    /// An MSR that lives here.
    pub(super) fn msr(&self, index: u32) -> Option<u64> {
        Some(match index {
            msr::STAR => self.syscall.star,
            msr::LSTAR => self.syscall.lstar,
            msr::CSTAR => self.syscall.cstar,
            msr::SYSCALL_MASK => self.syscall.mask,
            msr::TSC_AUX => self.syscall.tsc_aux,
            msr::TSX_CTRL => self.tsx_ctrl,
            msr::FS_BASE => vmcs::read(field::GUEST_FS_BASE),
            msr::GS_BASE => vmcs::read(field::GUEST_GS_BASE),
            msr::KERNEL_GS_BASE => {
                // SAFETY: The vCPU is loaded: nobody else looks at its swapped registers.
                unsafe { c::kvmrs_vmx_kernel_gs(self.vmcs.as_raw()) }
            }
            msr::SYSENTER_CS => u64::from(vmcs::read(field::GUEST_SYSENTER_CS)),
            msr::SYSENTER_ESP => vmcs::read(field::GUEST_SYSENTER_ESP),
            msr::SYSENTER_EIP => vmcs::read(field::GUEST_SYSENTER_EIP),
            msr::PAT => self.pat,
            // What the VMCS has is the host's.
            msr::DEBUGCTL => 0,
            msr::SPEC_CTRL => self.entry.spec_ctrl,
            _ => return None,
        })
    }

    /// Sets such an MSR; false if it is not one, or hardware would not take the value. The ones kept
    /// in registers get there with the next entry.
    pub(super) fn set_msr(&mut self, index: u32, v: u64) -> bool {
        let address = matches!(
            index,
            msr::LSTAR
                | msr::CSTAR
                | msr::FS_BASE
                | msr::GS_BASE
                | msr::KERNEL_GS_BASE
                | msr::SYSENTER_ESP
                | msr::SYSENTER_EIP
        );
        if address && !self.is_canonical(v) {
            return false;
        }
        match index {
            msr::STAR => self.syscall.star = v,
            msr::LSTAR => self.syscall.lstar = v,
            msr::CSTAR => self.syscall.cstar = v,
            msr::SYSCALL_MASK => self.syscall.mask = v,
            msr::TSX_CTRL => self.tsx_ctrl = v,
            msr::TSC_AUX => {
                self.syscall.tsc_aux = v & 0xffff_ffff;
                return v >> 32 == 0;
            }
            msr::FS_BASE => vmcs::write(field::GUEST_FS_BASE, v),
            msr::GS_BASE => vmcs::write(field::GUEST_GS_BASE, v),
            msr::KERNEL_GS_BASE => self.set_kernel_gs(v),
            // CAST: the field has 32 bits, of which 16 are used.
            msr::SYSENTER_CS => vmcs::write(field::GUEST_SYSENTER_CS, v as u32),
            msr::SYSENTER_ESP => vmcs::write(field::GUEST_SYSENTER_ESP, v),
            msr::SYSENTER_EIP => vmcs::write(field::GUEST_SYSENTER_EIP, v),
            msr::PAT => {
                if !pat_valid(v) {
                    return false;
                }
                self.pat = v;
                vmcs::write(field::GUEST_PAT, v);
            }
            msr::DEBUGCTL => return v & !DEBUGCTL_DROPPED == 0,
            msr::SPEC_CTRL => {
                // SAFETY: Tries the value on this CPU and puts the host's back.
                if v != 0 && !unsafe { c::kvmrs_vmx_spec_ctrl_legal(v) } {
                    return false;
                }
                self.entry.spec_ctrl = v;
            }
            _ => return false,
        }
        true
    }

    fn is_canonical(&self, v: u64) -> bool {
        let unused = 64u32.wrapping_sub(self.m.linear_bits);
        // CAST: the sign bit is copied upwards.
        ((v as i64).wrapping_shl(unused).wrapping_shr(unused)) as u64 == v
    }

    pub(super) fn set_kernel_gs(&mut self, v: u64) {
        // SAFETY: The vCPU is loaded, or is being made. The callers have seen to a canonical value.
        unsafe { c::kvmrs_vmx_set_kernel_gs(self.vmcs.as_raw(), v) };
    }

    /// Switches a trap.
    pub(super) fn set_trap(&mut self, t: Trap, on: bool) {
        match t {
            Trap::Hlt => {
                self.trap.hlt = on;
                self.set_proc_bit(proc::HLT_EXITING, on);
            }
            Trap::Pause => {
                let on = on && self.m.cfg.proc2(proc2::PAUSE_LOOP_EXITING);
                self.set_proc2_bit(proc2::PAUSE_LOOP_EXITING, on);
            }
            Trap::Mwait => self.set_proc_bit(proc::MWAIT_EXITING | proc::MONITOR_EXITING, on),
            Trap::DebugRegisters => self.set_debug_trap(on),
            Trap::Cr8Write => {
                let on = on && !self.apic_shared || !self.tpr_shadow();
                self.set_proc_bit(proc::CR8_LOAD_EXITING, on);
            }
            // Without their controls these instructions do not exist.
            Trap::Rdtscp => {
                let on = !on && self.m.features.rdtscp;
                self.set_proc2_bit(proc2::RDTSCP, on);
            }
            Trap::Invpcid => {
                let on = !on && self.m.features.invpcid;
                self.set_proc2_bit(proc2::INVPCID, on);
            }
            Trap::Xsaves => {
                let on = !on && self.m.features.xsaves;
                self.set_proc2_bit(proc2::XSAVES, on);
            }
            Trap::Rdrand => self.set_optional(proc2::RDRAND_EXITING, on),
            Trap::Rdseed => self.set_optional(proc2::RDSEED_EXITING, on),
            Trap::BusLock => {
                let on = on && self.m.features.bus_lock_exit;
                self.set_proc2_bit(proc2::BUS_LOCK_DETECTION, on);
            }
            Trap::DescriptorTables => {
                self.trap.tables = on;
                self.update_table_trap();
            }
            // Entries do not load the bits (SDM: vol 3, 27.3.2.1).
            Trap::CachingOff => {}
        }
    }

    /// Has an instruction exit, where there is a control for it.
    fn set_optional(&mut self, control: u32, on: bool) {
        let on = on && self.m.cfg.proc2(control);
        self.set_proc2_bit(control, on);
    }

    fn set_debug_trap(&mut self, on: bool) {
        if on == self.debug_registers_trap() {
            return;
        }
        let old = self.dr6();
        self.set_proc_bit(proc::MOV_DR_EXITING, on);
        self.set_dr6(old);
        self.entry.set_flag(flags::SAVE_DEBUGREGS, !on);
        if on {
            let dr7 = self.dr7();
            self.entry.update_breakpoints(dr7);
        }
    }

    /// Which exceptions exit, besides those that do always.
    pub(super) fn set_exception_exits(&mut self, bitmap: u32) {
        vmcs::write(field::EXCEPTION_BITMAP, bitmap | EXCEPTIONS);
    }

    pub(super) fn set_tsc(&mut self, offset: u64, ratio: u64) {
        vmcs::write(field::TSC_OFFSET, offset);
        // 0 would stop the guest's time.
        if self.m.features.tsc_scaling && ratio != 0 {
            vmcs::write(field::TSC_MULTIPLIER, ratio);
        }
    }

    /// Runs on other nested page tables from now on.
    pub(super) fn set_root(&mut self, root: &RootRef<Vmx>) -> bool {
        if root.is(&self.root) {
            return true;
        }
        if !self.m.accepts(root.config()) {
            return false;
        }
        // Translations made through tables that were at the same address have the same tag.
        self.tlb.forget();
        self.root = root.clone();
        self.write_root();
        true
    }

    /// Did an interrupt of the host end the last run?
    #[inline]
    pub(super) fn interrupted(&self) -> bool {
        self.run.reason == reason::EXTERNAL_INTERRUPT
    }

    /// What the last exit was.
    #[inline]
    pub(super) fn quick(&self) -> Quick {
        exit::quick(self.run.reason)
    }

    /// The port access that was the last exit.
    #[inline]
    pub(super) fn port_access(&self) -> IoAccess {
        exit::io(self.qualification())
    }

    /// What the last exit was.
    #[inline]
    pub(super) fn decode(&mut self) -> Exit {
        if self.failure != 0 {
            return Exit::EntryFailed {
                reason: u64::from(self.failure),
            };
        }
        let reason = self.run.reason;
        let e = exit::decode(reason, self);
        if exit::reports_nmi_unblocking(reason) {
            self.recover_nmi_blocking(self.qualification() as u32);
        }
        match e {
            Exit::InterruptWindow => self.window_exit(),
            Exit::Exception(x) if x.vector == exception::AC => self.alignment_check(e),
            e => e,
        }
    }

    /// A split lock of the guest is the host's to complain about, and not a fault of the guest's.
    #[cold]
    fn alignment_check(&self, e: Exit) -> Exit {
        let own = self.cpl() == 3 && self.cr0() & cr0::AM != 0 && self.rflags() & rflags::AC != 0;
        if !self.m.split_lock || own {
            return e;
        }
        // SAFETY: The vCPU's thread is preemptible here.
        unsafe { c::kvmrs_vmx_split_lock(self.rip()) };
        // Nothing is left to do but to go on; where split locks are fatal SIGBUS is pending now, which
        // ends the run.
        //
        // KVM: the in-tree module reports the exception to user space besides.
        Exit::HostInterrupt
    }

    #[inline]
    fn qualification(&self) -> u64 {
        let c = &self.cache;
        c.get(cached::QUALIFICATION, &c.qualification, || {
            vmcs::read(field::EXIT_QUALIFICATION)
        })
    }

    pub(super) fn raw_exit(&self) -> RawExit {
        if self.failure != 0 {
            return RawExit {
                reason: u64::from(self.failure),
                ..RawExit::default()
            };
        }
        RawExit {
            reason: u64::from(self.run.reason),
            info1: self.qualification(),
            info2: u64::from(self.run.vectoring),
            intr_info: self.run.intr_info,
            error_code: if self.run.intr_info & info::ERROR_CODE != 0 {
                vmcs::read(field::EXIT_INTR_ERROR)
            } else {
                0
            },
        }
    }

    /// RIP of the next instruction, if an instruction exited. Outside 64-bit mode it wraps.
    #[inline]
    pub(super) fn next_rip(&self) -> Option<u64> {
        if !exit::has_length(self.run.reason) && !self.misconfig_has_length() {
            return None;
        }
        let rip = self.rip();
        let next = rip.wrapping_add(u64::from(vmcs::read(field::EXIT_INSN_LENGTH)));
        if (rip ^ next) >> 31 == 3 && !self.in_64_bit_mode() {
            return Some(next & 0xffff_ffff);
        }
        Some(next)
    }

    /// Was the exit a misconfiguration, and is there the length of the instruction? The manual does
    /// not promise it (`SDM: vol 3, 28.2.5`).
    ///
    /// KVM: processors are taken to give it, other hypervisors are not.
    #[inline(never)]
    fn misconfig_has_length(&self) -> bool {
        self.run.reason == reason::EPT_MISCONFIG && !self.m.on_hypervisor
    }

    /// Does the guest run 64-bit code?
    #[inline]
    pub(super) fn in_64_bit_mode(&self) -> bool {
        /// Access rights: a 64-bit code segment.
        const L: u32 = 1 << 13;
        self.efer & efer::LMA != 0 && self.rights(SegReg::Cs) & L != 0
    }
}

impl exit::Words for Vcpu {
    #[inline]
    fn qualification(&self) -> u64 {
        Vcpu::qualification(self)
    }

    fn linear_address(&self) -> u64 {
        vmcs::read(field::GUEST_LINEAR_ADDRESS)
    }

    fn physical_address(&self) -> u64 {
        vmcs::read(field::GUEST_PHYSICAL_ADDRESS)
    }

    fn intr_info(&self) -> u32 {
        self.run.intr_info
    }

    fn intr_error(&self) -> u32 {
        vmcs::read(field::EXIT_INTR_ERROR)
    }

    fn insn_info(&self) -> u32 {
        vmcs::read(field::EXIT_INSN_INFO)
    }

    fn vectoring_info(&self) -> u32 {
        self.run.vectoring
    }

    fn vectoring_error(&self) -> u32 {
        vmcs::read(field::IDT_VECTORING_ERROR)
    }
}
