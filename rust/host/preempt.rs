// SPDX-License-Identifier: GPL-2.0

//! [`SchedHook`]: what belongs to a vCPU follows its thread from CPU to CPU.
//!
//! While a vCPU is loaded its thread stays preemptible. The scheduler calls the hook when the thread
//! is switched out and in, on the same stack that may hold `&mut` to the vCPU: so the hook sees
//! shared state only.

use core::sync::atomic::{AtomicBool, Ordering};

use kernel::bindings;
use kernel::ffi::c_int;
use kernel::prelude::*;
use kernel::types::Opaque;

use crate::pin::{preemptible, with_preempt_off, PinnedCpu};
use crate::shim;
use crate::task::current;

/// Whether this thread may get a hook: it has none, and it can be preempted, so that this is no
/// interrupt either. Then no vCPU is loaded by it.
#[inline]
pub fn has_no_hook() -> bool {
    // SAFETY: The current task is live. The list is changed by the thread itself alone, and only by
    // this file: the kernel has no other user.
    let first = unsafe { (&raw const (*current()).preempt_notifiers.first).read() };
    first.is_null() && preemptible()
}

/// What happens when the thread comes to a CPU and leaves it. Neither may sleep or take a lock that
/// is not a raw spinlock with interrupts off.
pub trait SchedOps: Send + Sync {
    /// The thread starts to run on this CPU; `back` if it was switched out before, with the hook
    /// registered.
    fn sched_in(&self, cpu: &PinnedCpu<'_>, back: bool);
    /// The thread leaves this CPU; `preempted` if it could have gone on.
    fn sched_out(&self, cpu: &PinnedCpu<'_>, preempted: bool);
}

/// A scheduler hook around `T`.
#[pin_data(PinnedDrop)]
pub struct SchedHook<T: SchedOps> {
    #[pin]
    node: Node<T>,
    /// Whether a thread has the hook registered.
    loaded: AtomicBool,
}

/// What the scheduler calls with the address of the first field.
#[repr(C)]
#[pin_data]
struct Node<T> {
    #[pin]
    raw: Opaque<bindings::preempt_notifier>,
    ops: T,
}

// SAFETY: The node is touched by the thread that has it registered; `T` is `Send + Sync`.
unsafe impl<T: SchedOps> Send for SchedHook<T> {}
// SAFETY: As above.
unsafe impl<T: SchedOps> Sync for SchedHook<T> {}

/// A use of the scheduler's hooks. They are compiled out by a static branch until somebody uses
/// them; the module holds one use all the time, so that no VM patches the kernel's text.
pub struct HooksEnabled(());

impl HooksEnabled {
    /// Enables the hooks. Sleeps.
    pub fn new() -> Self {
        // SAFETY: Counted; undone in `drop`.
        unsafe { bindings::preempt_notifier_inc() };
        Self(())
    }
}

impl Default for HooksEnabled {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for HooksEnabled {
    fn drop(&mut self) {
        // SAFETY: Undoes `new`.
        unsafe { bindings::preempt_notifier_dec() };
    }
}

/// The table for hooks around `T`.
struct Table<T>(core::marker::PhantomData<T>);

impl<T: SchedOps> Table<T> {
    const OPS: bindings::preempt_ops = bindings::preempt_ops {
        sched_in: Some(sched_in::<T>),
        sched_out: Some(sched_out::<T>),
    };
}

impl<T: SchedOps> SchedHook<T> {
    /// Makes a hook around `ops`.
    pub fn new(ops: T) -> impl PinInit<Self> {
        // The hook's own use, undone when it is dropped: hooks work whatever the module forgets.
        core::mem::forget(HooksEnabled::new());
        let raw = bindings::preempt_notifier {
            ops: (&raw const *<&bindings::preempt_ops>::from(&Table::<T>::OPS)).cast_mut(),
            // SAFETY: All zeros is a list node that is in no list.
            ..unsafe { core::mem::zeroed() }
        };
        pin_init!(Self {
            node <- pin_init!(Node {
                raw <- Opaque::ffi_init(move |slot: *mut bindings::preempt_notifier| {
                    // SAFETY: The slot is valid for writing.
                    unsafe { slot.write(raw) }
                }),
                ops,
            }),
            loaded: AtomicBool::new(false),
        })
    }

    /// What the hook was made around.
    #[inline(always)]
    pub fn ops(&self) -> &T {
        &self.node.ops
    }

    /// Runs `f`, preemptible, with the hook registered for this thread: `sched_in` is called
    /// before, `sched_out` after, and both around every switch between.
    ///
    /// # Errors
    ///
    /// `EBUSY` if the hook is registered already, or if this thread has one (of whatever type) or
    /// cannot be preempted ([`has_no_hook`]).
    #[inline]
    pub fn with_loaded<R>(&self, f: impl FnOnce() -> R) -> Result<R> {
        if !has_no_hook() || self.loaded.swap(true, Ordering::Acquire) {
            return Err(EBUSY);
        }
        with_preempt_off(|cpu| {
            // SAFETY: The node is pinned, in no list (the flag), and taken out below, before the
            // thread can leave this function. The hooks are enabled.
            unsafe { bindings::preempt_notifier_register(self.node.raw.get()) };
            self.node.ops.sched_in(cpu, false);
        });
        let result = f();
        with_preempt_off(|cpu| {
            // Before the thread may get another hook.
            self.node.ops.sched_out(cpu, false);
            // SAFETY: Registered above, by this thread.
            unsafe { bindings::preempt_notifier_unregister(self.node.raw.get()) };
        });
        self.loaded.store(false, Ordering::Release);
        Ok(result)
    }
}

#[pinned_drop]
impl<T: SchedOps> PinnedDrop for SchedHook<T> {
    fn drop(self: Pin<&mut Self>) {
        drop(HooksEnabled(()));
    }
}

/// The object around a notifier.
///
/// # Safety
///
/// `raw` must be registered by [`SchedHook::<T>::with_loaded`] for `'a`.
unsafe fn ops<'a, T: SchedOps>(raw: *mut bindings::preempt_notifier) -> &'a T {
    // SAFETY: The notifier is the first field of a pinned `Node<T>`, borrowed while registered.
    unsafe { &(*raw.cast::<Node<T>>()).ops }
}

unsafe extern "C" fn sched_in<T: SchedOps>(raw: *mut bindings::preempt_notifier, _cpu: c_int) {
    // SAFETY: The scheduler calls this for a registered notifier with preemption off.
    unsafe { ops::<T>(raw).sched_in(&PinnedCpu::assume(), true) };
}

unsafe extern "C" fn sched_out<T: SchedOps>(
    raw: *mut bindings::preempt_notifier,
    _next: *mut bindings::task_struct,
) {
    // SAFETY: As in `sched_in`, with interrupts off as well.
    unsafe {
        let preempted = shim::kvmrs_current_runnable();
        ops::<T>(raw).sched_out(&PinnedCpu::assume(), preempted);
    }
}
