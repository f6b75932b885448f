// SPDX-License-Identifier: GPL-2.0

//! Work for later: in a kernel thread ([`Work`], [`DelayedWork`]), or in an interrupt of this CPU as
//! soon as one can be taken ([`IrqWork`]).
//!
//! The kernel crate's work items cannot be cancelled or waited for.

use core::marker::PhantomData;

use kernel::bindings;
use kernel::ffi::c_int;
use kernel::prelude::*;
use kernel::types::Opaque;

use crate::module::ModuleRef;
use crate::shim;

/// What a work item does.
pub trait WorkOps: Send + Sync {
    /// The work. It may be queued again meanwhile, and then runs again; never twice at a time.
    fn run(&self);
}

/// What a delayed work item does.
pub trait DelayedOps: Send + Sync {
    /// The work. It is queued again after so many milliseconds, if any are returned, unless it is
    /// being cancelled. It may be queued meanwhile, too; never runs twice at a time.
    fn run(&self) -> Option<u32>;
}

/// A workqueue of our own, for work that is waited for as a whole.
pub struct Queue(*mut bindings::workqueue_struct);

// SAFETY: Queues may be used from any thread.
unsafe impl Send for Queue {}
// SAFETY: As above.
unsafe impl Sync for Queue {}

impl Queue {
    /// Makes a queue bound to no CPU.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new(name: &CStr) -> Result<Self> {
        // SAFETY: The name is copied.
        let raw = unsafe { shim::kvmrs_alloc_workqueue(name.as_char_ptr()) };
        if raw.is_null() {
            return Err(ENOMEM);
        }
        Ok(Self(raw))
    }

    /// Waits until everything that is queued now has run. Sleeps; not from work of this queue.
    pub fn flush(&self) {
        // SAFETY: The queue is live.
        unsafe { bindings::__flush_workqueue(self.0) };
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: Runs what is queued and frees the queue. Work that is queued borrows the queue,
        // so nothing is queued any more.
        unsafe { bindings::destroy_workqueue(self.0) };
    }
}

macro_rules! item {
    (
        $(#[$doc:meta])*
        $name:ident, $node:ident, $raw:ident, $ops:ident, $init:ident, $callback:ident, $cancel:expr
    ) => {
        #[repr(C)]
        #[pin_data]
        struct $node<T> {
            #[pin]
            raw: Opaque<bindings::$raw>,
            ops: T,
        }

        $(#[$doc])*
        #[pin_data(PinnedDrop)]
        pub struct $name<T: $ops> {
            #[pin]
            node: $node<T>,
            _module: ModuleRef,
        }

        // SAFETY: The item may be used from any thread; `T` is `Send + Sync`.
        unsafe impl<T: $ops> Send for $name<T> {}
        // SAFETY: As above.
        unsafe impl<T: $ops> Sync for $name<T> {}

        impl<T: $ops> $name<T> {
            /// Makes an item, not queued.
            ///
            /// # Errors
            ///
            /// `ENODEV` while the module is being unloaded.
            pub fn new(ops: T) -> impl PinInit<Self, Error> {
                try_pin_init!(Self {
                    node <- pin_init!($node {
                        raw <- Opaque::ffi_init(|p| {
                            // SAFETY: Initialises the item in place; it is waited for before it
                            // is freed.
                            unsafe { shim::$init(p, Some($callback::<T>)) }
                        }),
                        ops,
                    }),
                    _module: ModuleRef::get()?,
                })
            }

            /// What the item was made around.
            #[inline]
            pub fn ops(&self) -> &T {
                &self.node.ops
            }

            fn raw(&self) -> *mut bindings::$raw {
                self.node.raw.get()
            }
        }

        #[pinned_drop]
        impl<T: $ops> PinnedDrop for $name<T> {
            fn drop(self: Pin<&mut Self>) {
                let raw = self.raw();
                // SAFETY: The item is initialised. Waits, so it is not running when it is freed.
                unsafe { $cancel(raw) };
            }
        }
    };
}

item!(
    /// Work in a kernel thread. Dropping it cancels it and waits; never from its own `run`.
    Work, WorkNode, work_struct, WorkOps, kvmrs_init_work, run, bindings::cancel_work_sync
);

item!(
    /// Work in a kernel thread after a delay. Dropping it cancels it and waits; never from its own
    /// `run`.
    DelayedWork, DelayedNode, delayed_work, DelayedOps, kvmrs_init_delayed_work, run_delayed,
    bindings::cancel_delayed_work_sync
);

/// The pseudo CPU number for "any".
const ANY_CPU: c_int = bindings::wq_misc_consts_WORK_CPU_UNBOUND as c_int;

/// The system's queue for work of any length, bound to no CPU.
fn system() -> *mut bindings::workqueue_struct {
    // SAFETY: Set at boot.
    unsafe { (&raw const bindings::system_dfl_wq).read() }
}

impl<T: WorkOps> Work<T> {
    /// Queues the work; false if it was queued already. Any context but a non-maskable interrupt.
    #[inline]
    pub fn queue(&self) -> bool {
        // SAFETY: Item and queue are initialised; the item is waited for before it is freed.
        unsafe { bindings::queue_work_on(ANY_CPU, system(), self.raw()) }
    }

    /// Queues the work on a queue of ours, which must live as long.
    pub fn queue_on<'q>(&'q self, queue: &'q Queue) -> bool {
        // SAFETY: As above. A queue runs what is on it before it is freed, and items of a queue
        // that is freed meanwhile are done with it.
        unsafe { bindings::queue_work_on(ANY_CPU, queue.0, self.raw()) }
    }

    /// Takes the work out of its queue and waits if it runs right now; whether it was queued.
    /// Sleeps.
    pub fn cancel(&self) -> bool {
        // SAFETY: The item is initialised.
        unsafe { bindings::cancel_work_sync(self.raw()) }
    }

    /// Waits until the work, if queued, has run. Sleeps.
    pub fn flush(&self) -> bool {
        // SAFETY: The item is initialised.
        unsafe { bindings::flush_work(self.raw()) }
    }
}

impl<T: DelayedOps> DelayedWork<T> {
    /// Queues the work after `ms` milliseconds, in place of an earlier call.
    pub fn queue_after(&self, ms: u32) {
        let ticks = kernel::time::msecs_to_jiffies(ms);
        // SAFETY: Item and queue are initialised; the item is waited for before it is freed.
        unsafe { bindings::mod_delayed_work_on(ANY_CPU, system(), self.raw(), ticks) };
    }

    /// Cancels the work and waits if it runs right now; whether it was queued. Sleeps.
    pub fn cancel(&self) -> bool {
        // SAFETY: The item is initialised.
        unsafe { bindings::cancel_delayed_work_sync(self.raw()) }
    }
}

unsafe extern "C" fn run<T: WorkOps>(raw: *mut bindings::work_struct) {
    // SAFETY: The item is the first field of a pinned node, which waits for this function.
    unsafe { (*raw.cast::<WorkNode<T>>()).ops.run() };
}

unsafe extern "C" fn run_delayed<T: DelayedOps>(raw: *mut bindings::work_struct) {
    // SAFETY: As in `run`; the item is the first field of its delayed item.
    let again = unsafe { (*raw.cast::<DelayedNode<T>>()).ops.run() };
    if let Some(ms) = again {
        let ticks = kernel::time::msecs_to_jiffies(ms);
        // SAFETY: As in `queue_after`; an item that is being cancelled does not get queued.
        unsafe { bindings::mod_delayed_work_on(ANY_CPU, system(), raw.cast(), ticks) };
    }
}

const _: () = assert!(core::mem::offset_of!(bindings::delayed_work, work) == 0);

/// What an [`IrqWork`] does.
pub trait IrqWorkOps: Send + Sync {
    /// The work, in an interrupt.
    fn run(&self);
}

item!(
    /// Work in an interrupt of this CPU: for contexts in which not even a work item may be queued.
    /// Dropping it waits for it.
    IrqWork, IrqNode, irq_work, IrqWorkOps, kvmrs_init_irq_work, run_irq, bindings::irq_work_sync
);

impl<T: IrqWorkOps> IrqWork<T> {
    /// Queues the work on this CPU; false if it was queued already. Any context.
    #[inline]
    pub fn queue(&self) -> bool {
        // SAFETY: The item is initialised, and waited for before it is freed.
        unsafe { bindings::irq_work_queue(self.raw()) }
    }
}

unsafe extern "C" fn run_irq<T: IrqWorkOps>(raw: *mut bindings::irq_work) {
    // SAFETY: As in `run`.
    unsafe { (*raw.cast::<IrqNode<T>>()).ops.run() };
}

/// A closure as work.
pub struct Call<F>(pub F, PhantomData<()>);

impl<F: Fn() + Send + Sync> Call<F> {
    /// Makes `f` usable as [`WorkOps`] and [`IrqWorkOps`].
    pub fn new(f: F) -> Self {
        Self(f, PhantomData)
    }
}

impl<F: Fn() + Send + Sync> WorkOps for Call<F> {
    fn run(&self) {
        (self.0)();
    }
}

impl<F: Fn() + Send + Sync> IrqWorkOps for Call<F> {
    fn run(&self) {
        (self.0)();
    }
}
