// SPDX-License-Identifier: GPL-2.0

//! The current task: its flags, read without a call.

use core::arch::asm;

use kernel::bindings;
use kernel::error::to_result;
use kernel::prelude::*;

use crate::pin::IrqsOff;
use crate::shim;

/// The current task. It is the same as long as the thread runs this function.
#[inline(always)]
pub(crate) fn current() -> *mut bindings::task_struct {
    let task: *mut bindings::task_struct;
    // SAFETY: Reads a per-CPU word that is constant for a thread.
    unsafe {
        asm!("mov {}, qword ptr gs:[rip + {}]", out(reg) task, sym bindings::const_current_task,
            options(pure, nomem, nostack, preserves_flags));
    }
    task
}

/// The current thread's flags, which other CPUs set.
#[inline(always)]
fn flags() -> u64 {
    // SAFETY: The current task is live; the flags are read once.
    unsafe { (&raw const (*current()).thread_info.flags).read_volatile() as u64 }
}

/// Whether the scheduler wants the CPU.
#[inline(always)]
pub fn need_resched() -> bool {
    flags() & u64::from(shim::kvmrs_thread_flags_KVMRS_NEED_RESCHED) != 0
}

/// Whether a signal is pending.
#[inline(always)]
pub fn signal_pending() -> bool {
    flags() & u64::from(shim::kvmrs_thread_flags_KVMRS_SIGNAL) != 0
}

/// Whether the FPU registers are not the current task's (see [`crate::fpu`]).
#[inline(always)]
pub fn needs_fpu_load() -> bool {
    flags() & u64::from(shim::kvmrs_thread_flags_KVMRS_NEED_FPU_LOAD) != 0
}

/// Whether this CPU's run queue has nothing else to run.
#[inline]
pub fn single_task_running() -> bool {
    // SAFETY: No requirements.
    unsafe { shim::single_task_running() }
}

/// Lets others run if the scheduler wants it. Sleeps.
#[inline]
pub fn cond_resched() {
    // SAFETY: No requirements; the caller may sleep.
    unsafe { shim::kvmrs_cond_resched() };
}

/// Whether the thread has work to do before it may enter a guest: a quick look, which
/// [`guest_work_pending`] must repeat with interrupts off.
#[inline(always)]
pub fn guest_work_likely() -> bool {
    flags() & u64::from(shim::kvmrs_thread_flags_KVMRS_GUEST_WORK) != 0
}

/// Whether the thread has work to do before it may enter a guest: to be asked with interrupts off,
/// right before. If so, turn them on and call [`handle_guest_work`].
#[inline(always)]
pub fn guest_work_pending(irqs: &IrqsOff<'_>) -> bool {
    let _ = irqs;
    // SAFETY: The variable is set at boot.
    if unsafe { (&raw const shim::tick_nohz_full_running).read() } {
        // SAFETY: Interrupts are off.
        unsafe { shim::kvmrs_xfer_prepare() };
    }
    guest_work_likely()
}

/// Does the work that is pending: schedules, runs task work. Sleeps.
///
/// # Errors
///
/// `EINTR`: a signal is pending, so the thread must return to user space.
pub fn handle_guest_work() -> Result {
    // SAFETY: Called from process context without locks.
    to_result(unsafe { shim::xfer_to_guest_mode_handle_work() })
}

/// Tells the kernel that KVM_RUN returns to user space.
#[inline]
pub fn run_returns_to_user() {
    // SAFETY: No requirements.
    unsafe { shim::kvmrs_rseq_userspace_exit() };
}
