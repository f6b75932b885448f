// SPDX-License-Identifier: GPL-2.0

//! [`KillableMutex`]: a mutex whose waiter can be killed. [`IrqSpinLock`]: a spinlock that interrupt
//! handlers take as well.
//!
//! What an ioctl waits for may take as long as another thread runs a guest, so the wait must end
//! when the waiter is killed. Interrupt handlers (timers, eventfd wakeups) need a lock that spins in
//! every kernel configuration and turns interrupts off. The kernel crate has neither.

use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};

use kernel::bindings;
use kernel::prelude::*;
use kernel::sync::lock::mutex::MutexGuard;
use kernel::sync::{LockClassKey, Mutex};
use kernel::types::{NotThreadSafe, Opaque};

use crate::fd::check;
use crate::shim;

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
        // SAFETY: The mutex is initialised and pinned.
        check(unsafe { bindings::mutex_lock_killable(raw) })?;
        // SAFETY: We own the mutex now, and the guard takes that over.
        Ok(unsafe { MutexGuard::new(&self.inner, ()) })
    }
}

/// A raw spinlock around `T`, taken with interrupts off.
#[pin_data]
pub struct IrqSpinLock<T> {
    #[pin]
    raw: Opaque<bindings::raw_spinlock_t>,
    data: UnsafeCell<T>,
}

// SAFETY: Moving the lock moves the value.
unsafe impl<T: Send> Send for IrqSpinLock<T> {}
// SAFETY: One thread at a time has the value.
unsafe impl<T: Send> Sync for IrqSpinLock<T> {}

/// The lock is held and interrupts are off; they come on again with its release if they were on.
/// Release several in the reverse order of taking them.
#[must_use = "the lock is released when the guard is dropped"]
pub struct IrqSpinGuard<'a, T> {
    lock: &'a IrqSpinLock<T>,
    flags: usize,
    _here: NotThreadSafe,
}

impl<T> IrqSpinLock<T> {
    /// Initialises the lock around `value`.
    pub fn new(value: T) -> impl PinInit<Self> {
        pin_init!(Self {
            // SAFETY: Initialises the lock in place.
            raw <- Opaque::ffi_init(|p| unsafe { shim::kvmrs_raw_spin_init(p) }),
            data: UnsafeCell::new(value),
        })
    }

    /// Takes the lock. Any context but a non-maskable interrupt.
    #[inline]
    pub fn lock(&self) -> IrqSpinGuard<'_, T> {
        // SAFETY: Initialised and pinned; the guard releases it.
        let flags = unsafe { bindings::_raw_spin_lock_irqsave(self.raw.get()) };
        IrqSpinGuard {
            lock: self,
            flags,
            _here: NotThreadSafe,
        }
    }
}

impl<T> Deref for IrqSpinGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: The lock is held.
        unsafe { &*self.lock.data.get() }
    }
}

impl<T> DerefMut for IrqSpinGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: The lock is held.
        unsafe { &mut *self.lock.data.get() }
    }
}

impl<T> Drop for IrqSpinGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: The guard owns the lock, and has the flags it was taken with.
        unsafe { bindings::_raw_spin_unlock_irqrestore(self.lock.raw.get(), self.flags) };
    }
}
