// SPDX-License-Identifier: GPL-2.0

//! Work for later, in a kernel thread.
//!
//! The kernel crate's work items cannot be cancelled or waited for.

use kernel::bindings;
use kernel::ffi::c_int;
use kernel::prelude::*;
use kernel::types::Opaque;

use crate::module::ModuleRef;
use crate::shim;

/// What a work item does. It borrows nothing: an item that is forgotten runs all the same.
pub trait WorkOps: Send + Sync + 'static {
    /// The work. It may be queued again meanwhile, and then runs again; never twice at a time.
    fn run(&self);
}

/// What a delayed work item does. It borrows nothing, as above.
pub trait DelayedOps: Send + Sync + 'static {
    /// The work. It is queued again after so many milliseconds, if any are returned, unless it is
    /// being cancelled. It may be queued meanwhile, too; never runs twice at a time.
    fn run(&self) -> Option<u32>;
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
