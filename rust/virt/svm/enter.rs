// SPDX-License-Identifier: GPL-2.0

//! Into the guest and back.
//!
//! What happens at every entry is here in a straight line. What happens now and then hangs on three
//! tests: the vCPU came to this CPU ([`Presence`](crate::presence::Presence)), translations have to go, and
//! [`work`](super::inject::work) of the event code.

use super::asid::this_cpu;
use super::inject::DB_EXIT;
use super::vcpu::Cpu;
use super::vcpu::Vcpu;
use crate::c;
use core::sync::atomic::Ordering::Relaxed;
use host::pin::IrqsOff;
use model::svm::exit::code;
use model::svm::exit::is_entry_failure;
use model::svm::vmcb::intercept;
use model::svm::vmcb::tlb;

/// Exit codes after which there is work, as bits from [`code::EXCEPTION`] on.
const RARE: u64 =
    bit(DB_EXIT) | bit(code::VINTR) | bit(code::IRET) | bit(code::PAUSE) | bit(code::SHUTDOWN);

const fn bit(code: u64) -> u64 {
    1 << (code - code::EXCEPTION)
}

#[inline]
fn is_rare(code: u64) -> bool {
    let n = code.wrapping_sub(code::EXCEPTION);
    n < 64 && RARE >> n & 1 != 0
}

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
        flush(hw, gen, irqs);
    }
    if hw.work != 0 {
        hw.before_entry(irqs);
    }
    if hw.checked.is_some() {
        hw.check(seen);
    }

    // SAFETY:
    // 1. Interrupts are off, and the thread stays on this CPU.
    // 2. SVM is on here: the module part exists, and its owner keeps it on while vCPUs exist. If
    //    the kernel takes it away on its way down, the fixups of vmenter.S pass over the faults.
    // 3. `arrive` saved the host's state here since the vCPU came to this CPU.
    // 4. `entry` names the control block, which lives as long as `hw`, and which this crate alone
    //    writes: it intercepts what guards the host, has nested paging on, with tables that are kept
    //    alive by `hw.root`, an ASID other than 0, and permission maps that open nothing but what
    //    hardware or the entry code switches.
    // 5. No reference into the control block is alive.
    unsafe { c::kvmrs_svm_enter((&raw mut hw.entry).cast()) };
    hw.tlb.end(irqs);

    let claim = hw.m.clean;
    let control = &mut hw.vmcb_mut().control;
    control.event_inj = 0;
    let code = control.exit_code;
    if is_entry_failure(code) {
        hw.refused();
        cpu.presence.refresh();
        return;
    }
    control.clean = claim;
    if control.tlb_ctl != tlb::KEEP {
        hw.flushed(irqs);
    }
    hw.asid_new = false;
    if hw.work != 0 || is_rare(code) {
        hw.after_exit(code, irqs);
    }
    if hw.checked.is_some() {
        hw.remember();
    }
}

/// The first entry since the thread came to this CPU or came back from user space, or since something
/// changed that is in a register of the CPU. False if no guest can be entered here.
#[cold]
#[inline(never)]
fn arrive(hw: &mut Vcpu, cpu: &Cpu, irqs: &IrqsOff<'_>) -> bool {
    if this_cpu(irqs).save_pa == 0 {
        // SVM is not on here: whoever wants to enter forgot to switch it on.
        hw.vmcb_mut().control.exit_code = code::INVALID;
        return false;
    }
    let away = cpu.presence.arrive();
    // SAFETY: Interrupts are off, SVM is on, and the save page of this CPU is registered.
    unsafe {
        c::kvmrs_svm_resident();
        c::kvmrs_entry_switch(hw.id);
    }

    let here = irqs.cpu_id();
    if hw.last_cpu != here {
        hw.last_cpu = here;
        // This CPU knows nothing of the control block, or what it was long ago.
        hw.vmcb_mut().control.clean = 0;
        hw.asid_generation = 0;
    }
    let (generation, ratio) = {
        let pc = this_cpu(irqs);
        (pc.asid_generation, pc.tsc_ratio)
    };
    if hw.asid_generation != generation {
        hw.take_asid(irqs);
        hw.tlb.forget();
    }
    if hw.m.features.tsc_scaling && ratio != hw.tsc_ratio {
        // SAFETY: Interrupts are off; any ratio is a legal value within its 40 bits.
        unsafe { c::kvmrs_svm_set_tsc_ratio(hw.tsc_ratio) };
    }
    load_tsc_aux(hw, cpu);
    if away {
        hw.shrink_pause_window();
    }
    true
}

/// Gives the guest its TSC_AUX, if it can read it.
fn load_tsc_aux(hw: &Vcpu, cpu: &Cpu) {
    if hw.vmcb().control.intercepts(intercept::RDTSCP) {
        return;
    }
    // SAFETY: RDTSCP exists where it is not intercepted, and with it the MSR; any 32-bit value is
    // legal. `put` restores the host's before the thread leaves this CPU or returns to user space.
    unsafe { c::kvmrs_svm_load_tsc_aux(hw.tsc_aux) };
    cpu.tsc_aux.store(true, Relaxed);
}

/// Translations have to go before this entry.
#[cold]
#[inline(never)]
fn flush(hw: &mut Vcpu, gen: u64, irqs: &IrqsOff<'_>) {
    hw.flush_asid(irqs);
    if hw.checked.is_some() {
        hw.check_flush();
    }
    hw.tlb.done(gen);
}
