// SPDX-License-Identifier: GPL-2.0

//! [`KillableMutex`]: a mutex whose waiter can be killed.
//!
//! What an ioctl waits for may take as long as another thread runs a guest, so the wait must end
//! when the waiter is killed. The kernel crate's mutex has no such lock function.

use kernel::bindings;
use kernel::prelude::*;
use kernel::sync::lock::mutex::MutexGuard;
use kernel::sync::{LockClassKey, Mutex};

use crate::fd::check;

/// A kernel mutex with a killable lock function besides the plain one.
#[pin_data]
#[repr(transparent)]
pub struct KillableMutex<T> {
    #[pin]
    inner: Mutex<T>,
}

impl<T> KillableMutex<T> {
    /// Initialises the mutex. `name` and `key` are its lockdep class
    /// (`kernel::static_lock_class!()`).
    pub fn new(
        value: impl PinInit<T>,
        name: &'static CStr,
        key: Pin<&'static LockClassKey>,
    ) -> impl PinInit<Self> {
        pin_init!(Self {
            inner <- Mutex::new(value, name, key),
        })
    }

    /// Waits for the mutex, however long.
    #[inline]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.inner.lock()
    }

    /// Takes the mutex if it is free.
    #[inline]
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        self.inner.try_lock()
    }

    /// Waits for the mutex until it is ours or the task is killed.
    ///
    /// # Errors
    ///
    /// `EINTR`: a fatal signal is pending; user space will not see the value.
    #[inline]
    pub fn lock_killable(&self) -> Result<MutexGuard<'_, T>> {
        // `Lock` is `repr(C)` with its state first, a `struct mutex` for this backend.
        let raw = (&raw const self.inner).cast::<bindings::mutex>().cast_mut();
        // SAFETY: `new` initialises it in place, nothing else makes one, and `inner` is pinned.
        #[cfg(not(CONFIG_DEBUG_LOCK_ALLOC))]
        check(unsafe { bindings::mutex_lock_killable(raw) })?;
        // SAFETY: As above; it is nested in no other lock of its class.
        #[cfg(CONFIG_DEBUG_LOCK_ALLOC)]
        check(unsafe { bindings::_mutex_lock_killable(raw, 0, core::ptr::null_mut()) })?;
        // SAFETY: We own the mutex now, and the guard takes that over.
        Ok(unsafe { MutexGuard::new(&self.inner, ()) })
    }
}
