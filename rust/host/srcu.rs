// SPDX-License-Identifier: GPL-2.0

//! Sleepable RCU. The kernel crate has it from 7.3 on; this is for all kernels.

use kernel::bindings;
use kernel::error::to_result;
use kernel::ffi::c_int;
use kernel::prelude::*;
use kernel::sync::LockClassKey;
use kernel::types::{NotThreadSafe, Opaque};

use crate::shim;

/// A group of readers for whom a writer can wait.
#[pin_data(PinnedDrop)]
pub(crate) struct Srcu {
    #[pin]
    raw: Opaque<bindings::srcu_struct>,
}

// SAFETY: A domain is used from all threads.
unsafe impl Send for Srcu {}
// SAFETY: As above.
unsafe impl Sync for Srcu {}

impl Srcu {
    /// Makes one; ENOMEM. `name` and `key` are its lockdep class.
    pub(crate) fn new(
        name: &'static CStr,
        key: Pin<&'static LockClassKey>,
    ) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            raw <- Opaque::try_ffi_init(|raw: *mut bindings::srcu_struct| {
                // SAFETY: The place is valid for writing, and pinned from now on.
                to_result(unsafe { shim::kvmrs_srcu_init(raw, name.as_char_ptr(), key.as_ptr()) })
            }),
        })
    }

    /// Enters the read side. A guard that is forgotten leaves it never.
    #[inline]
    pub(crate) fn read_lock(&self) -> Guard<'_> {
        Guard {
            srcu: self,
            // SAFETY: Made in `new`.
            index: unsafe { shim::kvmrs_srcu_read_lock(self.raw.get()) },
            _not_send: NotThreadSafe,
        }
    }

    /// Waits for all readers there are, expedited: whoever waits is an ioctl. Sleeps.
    pub(crate) fn wait(&self) {
        // SAFETY: Made in `new`.
        unsafe { shim::kvmrs_srcu_wait(self.raw.get()) };
    }

    /// Begins to wait for all readers there are, and does not sleep.
    pub(crate) fn begin_wait(&self) -> Begun {
        // SAFETY: Made in `new`.
        Begun(unsafe { shim::kvmrs_srcu_begin_wait(self.raw.get()) })
    }

    /// Whether a wait that was begun here is over.
    pub(crate) fn waited(&self, begun: &Begun) -> bool {
        // SAFETY: Made in `new`; a number from anywhere is compared, no more.
        unsafe { shim::kvmrs_srcu_waited(self.raw.get(), begun.0) }
    }
}

/// A wait that was begun.
pub(crate) struct Begun(usize);

#[pinned_drop]
impl PinnedDrop for Srcu {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: Made in `new`. Readers borrow the domain, and nothing is called back by it.
        unsafe { shim::kvmrs_srcu_destroy(self.raw.get()) };
    }
}

/// The read side; left when dropped, by the thread that entered.
#[must_use = "the read side is left when the guard is dropped"]
pub(crate) struct Guard<'a> {
    srcu: &'a Srcu,
    index: c_int,
    _not_send: NotThreadSafe,
}

impl Drop for Guard<'_> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: Entered in `read_lock`, with this index.
        unsafe { shim::kvmrs_srcu_read_unlock(self.srcu.raw.get(), self.index) };
    }
}
