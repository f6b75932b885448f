// SPDX-License-Identifier: GPL-2.0

//! The current task: its flags, read without a call; its signal mask; its place in the run queue.

use core::arch::asm;
use core::ptr::NonNull;

use kernel::bindings;
use kernel::error::to_result;
use kernel::prelude::*;
use model::addr::Hva;

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
    #[cfg(CONFIG_NO_HZ_FULL)]
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

/// Runs `f` with other signals blocked: bit N of the mask is signal N + 1. `None` changes nothing.
/// SIGKILL and SIGSTOP are never blocked.
///
/// If a signal is pending at the end, it is delivered as if the mask had never changed.
pub fn with_signal_mask<R>(mask: Option<u64>, f: impl FnOnce() -> R) -> R {
    let Some(mask) = mask else {
        return f();
    };
    // SAFETY: Undone below.
    unsafe { shim::kvmrs_sigmask_enter(mask) };
    let result = f();
    // SAFETY: Entered above.
    unsafe { shim::kvmrs_sigmask_leave() };
    result
}

/// Sends the current task the SIGBUS for broken memory in the page at `hva`, of which `shift` is
/// log2 of the size.
pub fn send_hwpoison(hva: Hva, shift: u32) {
    // SAFETY: No requirements: the address is only reported.
    unsafe { shim::kvmrs_send_mceerr(hva.0 as usize, shift as i32) };
}

/// Whether the current task may reboot the host (CAP_SYS_BOOT).
pub fn may_reboot() -> bool {
    const CAP_SYS_BOOT: i32 = 22;
    // SAFETY: No requirements.
    unsafe { shim::capable(CAP_SYS_BOOT) }
}

/// Time the current task has spent waiting for a CPU since it exists, nanoseconds: steal time.
pub fn run_delay() -> u64 {
    // SAFETY: The current task is live; only the scheduler writes the word, on this CPU.
    unsafe { (&raw const (*current()).sched_info.run_delay).read_volatile() }
}

/// The thread id and the process id of the current task, as the first namespace counts.
pub fn current_ids() -> (i32, i32) {
    // SAFETY: The current task is live, and the ids are constant.
    unsafe { ((*current()).pid, (*current()).tgid) }
}

/// Names a thread, whether or not it still exists.
pub struct ThreadRef(NonNull<bindings::pid>);

// SAFETY: The reference count is atomic, and the lookup of the task locks.
unsafe impl Send for ThreadRef {}
// SAFETY: As above.
unsafe impl Sync for ThreadRef {}

impl ThreadRef {
    /// The current thread.
    pub fn current() -> Option<Self> {
        // SAFETY: Returns a reference that we own.
        NonNull::new(unsafe { shim::kvmrs_current_pid() }).map(Self)
    }

    /// Whether it is the current thread.
    #[inline]
    pub fn is_current(&self) -> bool {
        // SAFETY: The current task holds its pid.
        core::ptr::eq(self.0.as_ptr(), unsafe { (*current()).thread_pid })
    }

    /// Gives the current thread's turn to this one, if the scheduler agrees. Sleeps.
    ///
    /// # Errors
    ///
    /// `ESRCH` if the thread is gone or cannot take it, so that another should be tried.
    pub fn yield_to(&self) -> Result<bool> {
        // SAFETY: We hold a reference.
        match unsafe { shim::kvmrs_yield_to(self.0.as_ptr()) } {
            n if n < 0 => Err(ESRCH),
            n => Ok(n > 0),
        }
    }
}

impl Drop for ThreadRef {
    fn drop(&mut self) {
        // SAFETY: We own a reference.
        unsafe { bindings::put_pid(self.0.as_ptr()) };
    }
}
