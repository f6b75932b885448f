// SPDX-License-Identifier: GPL-2.0

//! [`VcpuWait`]: how a halted vCPU's thread sleeps and is woken.
//!
//! One thread waits, any thread or interrupt handler wakes. The waiter looks at its condition after
//! it has made itself known, and the waker stores before it looks for a waiter; both sides have a
//! full barrier between, so no wakeup is lost.

use kernel::bindings;
use kernel::prelude::*;
use kernel::types::Opaque;

use crate::shim;
use crate::task::signal_pending;

/// Why a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// The condition holds.
    Ready,
    /// A signal is pending.
    Signal,
}

/// The place where one thread waits.
#[pin_data]
pub struct VcpuWait {
    #[pin]
    raw: Opaque<bindings::rcuwait>,
}

// SAFETY: Made to be woken from anywhere.
unsafe impl Send for VcpuWait {}
// SAFETY: As above. Two waiters at a time may lose wakeups, nothing worse: the task pointer in it
// is protected by RCU, and each waiter takes it out before it leaves.
unsafe impl Sync for VcpuWait {}

impl VcpuWait {
    /// Nobody waits.
    pub fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            // SAFETY: Initialises the structure in place.
            raw <- Opaque::ffi_init(|p| unsafe { shim::kvmrs_rcuwait_init(p) }),
        })
    }

    /// Sleeps until `ready` holds or a signal is pending. `ready` is called again after each
    /// wakeup, and must not sleep.
    pub fn block(&self, mut ready: impl FnMut() -> bool) -> Woken {
        // SAFETY: Initialised and pinned.
        unsafe { shim::kvmrs_rcuwait_prepare(self.raw.get()) };
        let woken = loop {
            // SAFETY: `finish_rcuwait` sets the state back.
            unsafe { shim::kvmrs_set_interruptible() };
            if ready() {
                break Woken::Ready;
            }
            if signal_pending() {
                break Woken::Signal;
            }
            // SAFETY: In process context; the state is set, so a wakeup since then ends this.
            unsafe { bindings::schedule() };
        };
        // SAFETY: Prepared above.
        unsafe { bindings::finish_rcuwait(self.raw.get()) };
        woken
    }

    /// Wakes the waiter; whether there was one. Any context. What makes the condition hold must be
    /// stored before.
    #[inline]
    pub fn wake(&self) -> bool {
        // SAFETY: Initialised and pinned.
        unsafe { bindings::rcuwait_wake_up(self.raw.get()) != 0 }
    }
}
