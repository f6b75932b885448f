// SPDX-License-Identifier: GPL-2.0

//! Into the guest and back.
//!
//! What happens at every entry is here in a straight line. What happens now and then hangs on a few
//! tests: something that belongs to the CPU has to be looked at ([`Presence`](crate::presence::Presence)),
//! translations have to go, NMIs are blocked by software.

use super::timer::NEVER;
use super::vcpu::Cpu;
use super::vcpu::Vcpu;
use super::vmcs;
use crate::c;
use crate::entry::flags;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::Relaxed;
use host::pin::IrqsOff;
use host::uret::UretMsr;
use model::vmx::ctrl::proc2;
use model::vmx::exit::basic;
use model::vmx::exit::reason;
use model::vmx::exit::ENTRY_FAILED;
use model::vmx::field;
use model::x86::ctrl::efer;
use model::x86::msr;

#[inline]
pub(super) fn enter(hw: &mut Vcpu, cpu: &Cpu, irqs: &IrqsOff<'_>) {
    if cpu.presence.is_fresh() && !arrive(hw, cpu, irqs) {
        return;
    }
    let seen = if hw.checked.is_some() {
        hw.root.generation()
    } else {
        0
    };
    if let Some(gen) = hw.tlb.begin(&hw.root, irqs) {
        hw.flush_root(gen, irqs);
    }
    if hw.flush_linear {
        hw.flush_vpid(irqs);
    }
    if hw.work != 0 {
        hw.before_entry(irqs);
    }
    if hw.deadline != NEVER {
        hw.load_timer();
    }
    let launched = hw.vmcs.launched(irqs);
    hw.entry.set_flag(flags::VMRESUME, launched);
    if hw.checked.is_some() {
        hw.check(seen, irqs);
    }

    // SAFETY:
    // 1. Interrupts are off, and the thread stays on this CPU.
    // 2. VMX is on here: the module part exists, and its owner keeps it on while vCPUs exist. If the
    //    kernel takes it away on its way down, the fixups pass over the faults.
    // 3. The VMCS is current: the vCPU is loaded. The C side wrote its host state, all of it, and
    //    `arrive` what belongs to this CPU.
    // 4. This crate alone writes its controls: interrupts and NMIs exit, extended page tables are on
    //    and kept alive by `hw.root`, ports exit, and the MSR bitmap opens nothing but what hardware
    //    or the entry code switches.
    unsafe { c::kvmrs_vmx_enter((&raw mut hw.entry).cast(), &mut hw.run) };
    hw.tlb.end(irqs);
    hw.cache.forget();

    let word = hw.run.reason;
    if hw.run.failed != 0 || word & ENTRY_FAILED != 0 {
        refused(hw, cpu);
        return;
    }
    hw.failure = 0;
    hw.delivered();
    if !launched {
        hw.vmcs.set_launched(irqs);
    }
    let reason = basic(word);
    if hw.work != 0 {
        hw.after_exit();
    }
    if reason == reason::EXCEPTION_OR_NMI {
        hw.recover_after_exception();
    }
    if l1d_marks() && !is_confined(reason) {
        // SAFETY: Sets a flag of this CPU.
        unsafe { c::kvmrs_vmx_l1d_mark() };
    }
}

/// Do entries flush the L1 data cache where it is marked?
#[inline(always)]
fn l1d_marks() -> bool {
    // SAFETY: It lives as long as the module; C changes it with one store, and only reads besides.
    unsafe { AtomicBool::from_ptr(&raw mut c::kvmrs_vmx_l1d_marks) }.load(Relaxed)
}

/// Exits whose handling touches nothing that another guest should not see in the cache. An interrupt
/// marks the cache itself.
fn is_confined(reason: u32) -> bool {
    matches!(
        reason,
        reason::EXTERNAL_INTERRUPT
            | reason::INTERRUPT_WINDOW
            | reason::NMI_WINDOW
            | reason::CPUID
            | reason::HLT
            | reason::INVD
            | reason::INVLPG
            | reason::RDTSC
            | reason::RDTSCP
            | reason::RDMSR
            | reason::WRMSR
            | reason::CR_ACCESS
            | reason::DR_ACCESS
            | reason::PAUSE
            | reason::WBINVD
            | reason::XSETBV
            | reason::PREEMPTION_TIMER
            | reason::TPR_BELOW_THRESHOLD
    )
}

/// The first entry since the thread came to this CPU or came back from user space, or since something
/// changed that is in a register of the CPU. False if no guest can be entered here.
#[cold]
#[inline(never)]
fn arrive(hw: &mut Vcpu, cpu: &Cpu, irqs: &IrqsOff<'_>) -> bool {
    // SAFETY: Interrupts are off, and the VMCS is current if VMX is on.
    if !unsafe { c::kvmrs_vmx_guest_in(hw.vmcs.as_raw()) } {
        hw.run.failed = 1;
        hw.run.reason = u32::MAX;
        hw.run.vectoring = 0;
        hw.failure = u32::MAX;
        return false;
    }
    let away = cpu.presence.arrive();
    // SAFETY: Interrupts are off.
    unsafe {
        c::kvmrs_entry_switch(hw.id);
        if l1d_marks() {
            c::kvmrs_vmx_l1d_mark();
        }
    }
    let here = irqs.cpu_id();
    if cpu.moved.swap(false, Relaxed) || hw.last_cpu != here {
        hw.last_cpu = here;
        // What this CPU knows of our translations may be of long ago.
        hw.tlb.forget();
        hw.flush_linear = true;
    }
    load_user_msrs(hw, irqs);
    if away {
        hw.shrink_pause_window();
    }
    true
}

/// Puts the guest's values into MSRs that the kernel does not look at itself.
fn load_user_msrs(hw: &Vcpu, irqs: &IrqsOff<'_>) {
    let uret = &hw.m.uret;
    let pinned = irqs.pinned();
    let set_masked = |msr, value, mask| {
        // A value that this processor refuses: the guest has the host's, which user space has, too.
        // EBUSY it is never: the module part from before left this CPU when VMX went off.
        let _ = uret.set(pinned, msr, value, mask);
    };
    let set = |msr, value| set_masked(msr, value, u64::MAX);
    let s = &hw.syscall;
    // SYSCALL exists in 64-bit mode only, so that CSTAR is not used.
    if hw.efer & (efer::LMA | efer::SCE) == efer::LMA | efer::SCE {
        set(UretMsr::Star, s.star);
        set(UretMsr::Lstar, s.lstar);
        set(UretMsr::SyscallMask, s.mask);
    }
    if hw.proc2 & proc2::RDTSCP != 0 {
        set(UretMsr::TscAux, s.tsc_aux);
    }
    if hw.m.tsx_ctrl {
        // What the guest hides from itself is hidden where its CPUID is answered: the host's programs
        // look at the register's bit.
        set_masked(UretMsr::TsxCtrl, hw.tsx_ctrl, !msr::TSX_CTRL_CPUID_CLEAR);
    }
}

/// The guest did not run.
#[cold]
#[inline(never)]
fn refused(hw: &mut Vcpu, cpu: &Cpu) {
    hw.failure = if hw.run.failed == 0 {
        hw.run.reason
    } else {
        // 0 if there is not even a current VMCS.
        match vmcs::read(field::INSTRUCTION_ERROR) {
            0 => u32::MAX,
            n => n,
        }
    };
    hw.keep_event();
    hw.tlb.forget();
    hw.flush_linear = true;
    cpu.presence.refresh();
}
