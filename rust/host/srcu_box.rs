// SPDX-License-Identifier: GPL-2.0

//! [`SrcuBox`]: a value that is read without locks and replaced as a whole.
//!
//! Several boxes share one [`SrcuDomain`]: a reader enters the domain once, for as long as it
//! likes (it may sleep), and reads any of its boxes. A writer publishes a new value and gets the old
//! one as [`Retired`], which is dropped when every reader that may see it has left: the writer waits
//! for that, or begins the wait, keeps the value and drops it once that wait is over. Never wait
//! inside the domain's own read side: that wait does not end.

use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use kernel::prelude::*;
use kernel::sync::{Arc, LockClassKey};

use crate::srcu::{Begun, Guard, Srcu};

/// A group of boxes with one read side.
#[pin_data]
pub struct SrcuDomain {
    #[pin]
    srcu: Srcu,
}

impl SrcuDomain {
    /// Makes a domain. `name` and `key` are its lockdep class (`kernel::static_lock_class!()`).
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new(name: &'static CStr, key: Pin<&'static LockClassKey>) -> Result<Arc<Self>> {
        Arc::pin_init(
            try_pin_init!(Self {
                srcu <- Srcu::new(name, key),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Enters the read side.
    #[inline]
    pub fn read(&self) -> SrcuGuard<'_> {
        SrcuGuard {
            domain: self,
            _guard: self.srcu.read_lock(),
        }
    }

    /// Waits until all readers that are in the domain now have left. Sleeps.
    pub fn synchronize(&self) {
        self.srcu.wait();
    }
}

/// The read side of a domain; left when dropped. Not `Send`.
#[must_use = "the read side is left when the guard is dropped"]
pub struct SrcuGuard<'d> {
    domain: &'d SrcuDomain,
    _guard: Guard<'d>,
}

/// A value read under SRCU and replaced as a whole.
pub struct SrcuBox<T> {
    domain: Arc<SrcuDomain>,
    /// From `KBox::into_raw`; never null.
    value: AtomicPtr<T>,
}

// SAFETY: The box owns its value, and gives it away in `replace`.
unsafe impl<T: Send> Send for SrcuBox<T> {}
// SAFETY: Readers on several threads share the value; writers move it.
unsafe impl<T: Send + Sync> Sync for SrcuBox<T> {}

/// A value read through a box that entered the domain itself.
pub struct SrcuRef<'b, T> {
    value: &'b T,
    _guard: SrcuGuard<'b>,
}

impl<T> core::ops::Deref for SrcuRef<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        self.value
    }
}

impl<T> SrcuBox<T> {
    /// Makes a box of a domain.
    pub fn new(domain: Arc<SrcuDomain>, value: KBox<T>) -> Self {
        Self {
            domain,
            value: AtomicPtr::new(KBox::into_raw(value)),
        }
    }

    /// The domain.
    pub fn domain(&self) -> &Arc<SrcuDomain> {
        &self.domain
    }

    /// The value, for as long as the reader stays in the domain.
    #[inline]
    pub fn get<'a>(&'a self, guard: &'a SrcuGuard<'_>) -> &'a T {
        if !ptr::eq(guard.domain, &*self.domain) {
            self.wrong_domain();
        }
        // SAFETY: Never null. The reader is in the domain, so a writer that takes the value out
        // waits for it before the value is dropped.
        unsafe { &*self.value.load(Ordering::Acquire) }
    }

    /// A guard of another domain protects nothing. Entering this one for ever keeps the reader
    /// right; that no writer gets through again is the lesser harm.
    #[cold]
    #[inline(never)]
    fn wrong_domain(&self) {
        pr_err!("SRCU guard of another domain\n");
        core::mem::forget(self.domain.read());
        // The domain must not be freed either.
        core::mem::forget(self.domain.clone());
    }

    /// The value, entering the domain for it.
    #[inline]
    pub fn read(&self) -> SrcuRef<'_, T> {
        let guard = self.domain.read();
        // SAFETY: As in `get`.
        let value = unsafe { &*self.value.load(Ordering::Acquire) };
        SrcuRef {
            value,
            _guard: guard,
        }
    }

    /// Publishes a new value; the old one is still read by whoever entered the domain before.
    /// Does not sleep itself.
    pub fn publish(&self, value: KBox<T>) -> Retired<T> {
        let old = self.value.swap(KBox::into_raw(value), Ordering::AcqRel);
        Retired {
            domain: self.domain.clone(),
            value: old,
            begun: None,
        }
    }

    /// Publishes a new value, waits for the readers of the old one and returns it. Sleeps.
    pub fn replace(&self, value: KBox<T>) -> KBox<T> {
        self.publish(value).wait()
    }
}

impl<T> Drop for SrcuBox<T> {
    fn drop(&mut self) {
        // SAFETY: Readers borrow the box, so there are none.
        drop(unsafe { KBox::from_raw(*self.value.get_mut()) });
    }
}

/// A value taken out of its box that readers may still see.
#[must_use = "dropping it waits for its readers unless that is over"]
pub struct Retired<T> {
    domain: Arc<SrcuDomain>,
    value: *mut T,
    /// Of this domain, and from after the value was taken out.
    begun: Option<Begun>,
}

// SAFETY: Owns a `T` that readers on other threads may share.
unsafe impl<T: Send + Sync> Send for Retired<T> {}

impl<T> Retired<T> {
    /// The value, shared with its remaining readers.
    pub fn get(&self) -> &T
    where
        T: Sync,
    {
        // SAFETY: The value is live until `wait` or the drop.
        unsafe { &*self.value }
    }

    /// Begins to wait for the readers, and leaves it at that: for who need not know when the value
    /// is out of use, and keeps it until it is.
    pub fn begin_wait(&mut self) {
        self.begun = Some(self.domain.srcu.begin_wait());
    }

    /// Whether a wait that was begun is over: then dropping the value does not sleep.
    pub fn is_over(&self) -> bool {
        let begun = self.begun.as_ref();
        begun.is_some_and(|b| self.domain.srcu.waited(b))
    }

    /// Waits for the readers and returns the value. Sleeps.
    pub fn wait(self) -> KBox<T> {
        let this = core::mem::ManuallyDrop::new(self);
        // SAFETY: `this` is not used again and not dropped, so the reference moves out once.
        let domain = unsafe { ptr::read(&this.domain) };
        domain.synchronize();
        // SAFETY: From `KBox::into_raw`, taken out of the box once, and its readers are gone.
        unsafe { KBox::from_raw(this.value) }
    }
}

impl<T> Drop for Retired<T> {
    fn drop(&mut self) {
        if !self.is_over() {
            self.domain.synchronize();
        }
        // SAFETY: From `KBox::into_raw`, taken out of the box once, and its readers are gone: the
        // wait that was begun is over, or this one is.
        drop(unsafe { KBox::from_raw(self.value) });
    }
}
