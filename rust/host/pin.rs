// SPDX-License-Identifier: GPL-2.0

//! [`PinnedCpu`] and [`IrqsOff`]: evidence that this thread stays on its CPU, and that it is not
//! interrupted.
//!
//! Both exist only inside closures, so the state they vouch for is always undone, and undone in the
//! right order. This is on the path of every guest entry, so it is inline code on the kernel's
//! per-CPU words instead of calls. Nothing may sleep inside; the compiler does not see that.

use core::arch::asm;
use core::marker::PhantomData;

use kernel::bindings;
use kernel::types::NotThreadSafe;

use crate::shim;

/// Preemption is off: the thread stays on this CPU.
pub struct PinnedCpu<'a> {
    _scope: PhantomData<&'a ()>,
    _here: NotThreadSafe,
}

/// Interrupts are off on this CPU (non-maskable ones and machine checks still come).
pub struct IrqsOff<'a> {
    pinned: &'a PinnedCpu<'a>,
}

/// This CPU's number; it means something only as long as the thread is pinned.
#[inline(always)]
fn this_cpu() -> u32 {
    let cpu: u32;
    // SAFETY: Reads a constant per-CPU word. `pure` would let the compiler merge reads across a
    // migration, so it is not claimed.
    unsafe {
        asm!("mov {:e}, dword ptr gs:[rip + {}]", out(reg) cpu, sym bindings::cpu_number,
            options(readonly, nostack, preserves_flags));
    }
    cpu
}

/// The number of a CPU this thread ran on a moment ago.
#[inline(always)]
pub fn some_cpu_id() -> u32 {
    this_cpu()
}

#[inline(always)]
fn preempt_disable() {
    // SAFETY: Counts up this CPU's preemption count in one instruction, so that it does not matter
    // on which CPU that happens. Without `nomem` it is a compiler barrier.
    unsafe {
        asm!("inc qword ptr gs:[rip + {}]", sym bindings::__preempt_count, options(nostack));
    }
}

/// Undoes [`preempt_disable`].
#[inline(always)]
fn preempt_enable() {
    // SAFETY: Counts down what `preempt_disable` counted up. The word is zero when the count is and
    // the scheduler wants the CPU (its inverted flag is part of the word).
    unsafe {
        asm!("dec qword ptr gs:[rip + {}]", "jz {}", sym bindings::__preempt_count,
            label { resched() }, options(nostack));
    }
}

/// Whether this thread may be preempted: it has no [`PinnedCpu`] and no spinlock, and this is no
/// interrupt.
#[inline(always)]
pub(crate) fn preemptible() -> bool {
    /// Without the highest bit of the lower half, which is the inverted flag of kernels whose word has
    /// 32 bits. In others it counts NMIs, which count as interrupts besides.
    const COUNT: u32 = !0 >> 1;
    let word: u32;
    // SAFETY: Reads the preemption count, which is this thread's own on whatever CPU it runs.
    unsafe {
        asm!("mov {:e}, dword ptr gs:[rip + {}]", out(reg) word, sym bindings::__preempt_count,
            options(readonly, nostack, preserves_flags));
    }
    word & COUNT == 0
}

#[cold]
#[inline(never)]
fn resched() {
    // SAFETY: Checks again, and schedules.
    unsafe { shim::kvmrs_preempt_check_resched() };
}

/// Runs `f` with preemption off.
#[inline(always)]
pub fn with_preempt_off<R>(f: impl FnOnce(&PinnedCpu<'_>) -> R) -> R {
    preempt_disable();
    // SAFETY: Preemption is off until `f` has returned.
    let result = f(&unsafe { PinnedCpu::assume() });
    preempt_enable();
    result
}

impl PinnedCpu<'_> {
    /// The evidence, for a context that is pinned already.
    ///
    /// # Safety
    ///
    /// The thread must stay on this CPU as long as the result exists.
    #[inline(always)]
    pub unsafe fn assume() -> Self {
        Self {
            _scope: PhantomData,
            _here: NotThreadSafe,
        }
    }

    /// This CPU's number.
    #[inline(always)]
    pub fn cpu_id(&self) -> u32 {
        this_cpu()
    }

    /// Runs `f` with interrupts off. They come on again after it if they were on before.
    #[inline(always)]
    pub fn with_irqs_off<R>(&self, f: impl FnOnce(&mut IrqsOff<'_>) -> R) -> R {
        let were_on = irqs_on();
        irq_disable();
        let result = f(&mut IrqsOff { pinned: self });
        if were_on {
            irq_enable();
        }
        result
    }
}

/// Runs `f` with interrupts off (and so on one CPU).
#[inline(always)]
pub fn with_irqs_off<R>(f: impl FnOnce(&mut IrqsOff<'_>) -> R) -> R {
    with_preempt_off(|cpu| cpu.with_irqs_off(f))
}

impl<'a> IrqsOff<'a> {
    /// The evidence, for a context in which interrupts are off already.
    ///
    /// # Safety
    ///
    /// Interrupts must be off on this CPU as long as the result exists.
    #[inline(always)]
    pub unsafe fn assume(pinned: &'a PinnedCpu<'a>) -> Self {
        Self { pinned }
    }

    /// The evidence that the thread is pinned.
    #[inline(always)]
    pub fn pinned(&self) -> &PinnedCpu<'a> {
        self.pinned
    }

    /// This CPU's number.
    #[inline(always)]
    pub fn cpu_id(&self) -> u32 {
        this_cpu()
    }
}

/// Whether interrupts are on.
#[inline(always)]
pub(crate) fn irqs_on() -> bool {
    let flags: u64;
    // SAFETY: Reads RFLAGS by way of the stack.
    unsafe { asm!("pushfq", "pop {}", out(reg) flags, options(nomem, preserves_flags)) };
    flags & 0x200 != 0
}

#[inline(always)]
fn irq_disable() {
    if cfg!(CONFIG_TRACE_IRQFLAGS) {
        // SAFETY: No requirements; the caller undoes it.
        unsafe { shim::kvmrs_irq_disable() };
    } else {
        // SAFETY: As above. A compiler barrier, as `nomem` is not claimed. Under Xen's
        // paravirtualized interrupts there is no hardware virtualization, so plain CLI is right.
        unsafe { asm!("cli", options(nostack)) };
    }
}

#[inline(always)]
fn irq_enable() {
    if cfg!(CONFIG_TRACE_IRQFLAGS) {
        // SAFETY: No requirements; only called where interrupts were on before.
        unsafe { shim::kvmrs_irq_enable() };
    } else {
        // SAFETY: As above.
        unsafe { asm!("sti", options(nostack)) };
    }
}
