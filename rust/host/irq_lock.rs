// SPDX-License-Identifier: GPL-2.0

//! [`IrqSpinLock`]: a spinning lock that may be taken in any context but NMI.
//!
//! Interrupt lines change in interrupt handlers and under other spinning locks, so interrupts are
//! off while the lock is held, and come back as they were. The kernel crate's lock counts nested
//! disabling instead, which does not mix with the entry path's own.

use core::cell::UnsafeCell;
use core::ops::Deref;
use core::ops::DerefMut;
use kernel::bindings;
use kernel::prelude::*;
use kernel::sync::LockClassKey;
use kernel::types::NotThreadSafe;
use kernel::types::Opaque;

/// A spinning lock around a `T`.
#[pin_data]
pub struct IrqSpinLock<T> {
    #[pin]
    raw: Opaque<bindings::spinlock_t>,
    data: UnsafeCell<T>,
}

// SAFETY: Moving the lock moves the value.
unsafe impl<T: Send> Send for IrqSpinLock<T> {}
// SAFETY: One thread at a time reaches the value.
unsafe impl<T: Send> Sync for IrqSpinLock<T> {}

impl<T> IrqSpinLock<T> {
    /// Initialises the lock. `name` and `key` are its lockdep class
    /// (`kernel::static_lock_class!()`).
    pub fn new(
        value: T,
        name: &'static CStr,
        key: Pin<&'static LockClassKey>,
    ) -> impl PinInit<Self> {
        pin_init!(Self {
            // SAFETY: The slot is valid and stays where it is; name and key are static.
            raw <- Opaque::ffi_init(move |slot| unsafe {
                bindings::__spin_lock_init(slot, name.as_char_ptr(), key.as_ptr())
            }),
            data: UnsafeCell::new(value),
        })
    }

    /// Takes the lock.
    #[inline]
    pub fn lock(&self) -> IrqSpinGuard<'_, T> {
        // SAFETY: The lock is initialised and pinned; a `spinlock_t` starts with its raw lock.
        let flags = unsafe { bindings::_raw_spin_lock_irqsave(self.raw.get().cast()) };
        IrqSpinGuard {
            lock: self,
            flags,
            _here: NotThreadSafe,
        }
    }
}

/// The lock is held.
#[must_use = "the lock is released at once"]
pub struct IrqSpinGuard<'a, T> {
    lock: &'a IrqSpinLock<T>,
    flags: usize,
    _here: NotThreadSafe,
}

impl<T> Deref for IrqSpinGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: A guard is made by `lock` alone and releases in `drop`: in between nobody else has
        // one, and only guards reach the data.
        unsafe { &*self.lock.data.get() }
    }
}

impl<T> DerefMut for IrqSpinGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: As in `deref`, and this guard, the only one, is borrowed mutably.
        unsafe { &mut *self.lock.data.get() }
    }
}

impl<T> Drop for IrqSpinGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: Taken in `lock` with these flags, by this thread.
        unsafe {
            bindings::_raw_spin_unlock_irqrestore(self.lock.raw.get().cast(), self.flags);
        }
    }
}
