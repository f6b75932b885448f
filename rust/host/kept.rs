// SPDX-License-Identifier: GPL-2.0

//! [`Kept`]: values that stay until the module is unloaded, of which one is in use.
//!
//! What is found out about the processor depends on the parameters, and these can change as long as
//! there is no VM. Everything above holds a plain `&'static` to it; so nothing that was once in use
//! is freed before the module's code is, and what was found out before for the same parameters is
//! used again. There are as many values as different sets of parameters, as a rule one.

use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use kernel::prelude::*;

struct Node<T> {
    value: T,
    older: *mut Node<T>,
}

/// A set of values that only grows.
pub struct Kept<T> {
    newest: AtomicPtr<Node<T>>,
    chosen: AtomicPtr<Node<T>>,
}

// SAFETY: Values are added from any thread and shared by all of them.
unsafe impl<T: Send + Sync> Sync for Kept<T> {}

impl<T: Send + Sync + 'static> Kept<T> {
    /// Nothing yet.
    pub const fn new() -> Self {
        Self {
            newest: AtomicPtr::new(ptr::null_mut()),
            chosen: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// The value in use.
    #[inline]
    pub fn get(&'static self) -> Option<&'static T> {
        // SAFETY: A node lives until the module's root object is dropped, which is the end of
        // everything that is called static in a module; it does not change.
        unsafe { self.chosen.load(Ordering::Acquire).as_ref() }.map(|n| &n.value)
    }

    /// Adds a value and uses it.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn keep(&'static self, value: T) -> Result<&'static T> {
        let node = KBox::into_raw(KBox::new(
            Node {
                value,
                older: self.newest.load(Ordering::Relaxed),
            },
            GFP_KERNEL,
        )?);
        loop {
            // SAFETY: Not published, so still ours alone.
            let older = unsafe { (*node).older };
            match self
                .newest
                .compare_exchange(older, node, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) => break,
                // SAFETY: As above.
                Err(now) => unsafe { (*node).older = now },
            }
        }
        self.chosen.store(node, Ordering::Release);
        // SAFETY: As in `get`.
        Ok(unsafe { &(*node).value })
    }

    /// Uses the newest value that `want` takes, if there is one.
    pub fn choose(&'static self, want: impl Fn(&T) -> bool) -> Option<&'static T> {
        let mut at = self.newest.load(Ordering::Acquire);
        // SAFETY: As in `get`.
        while let Some(node) = unsafe { at.as_ref() } {
            if want(&node.value) {
                self.chosen.store(at, Ordering::Release);
                return Some(&node.value);
            }
            at = node.older;
        }
        None
    }

    /// Frees the values when the result is dropped.
    ///
    /// Owned by the module's root object, as its last field.
    pub fn until_unload(&'static self) -> UntilUnload<T> {
        UntilUnload(self)
    }
}

impl<T: Send + Sync + 'static> Default for Kept<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// Frees the values of a [`Kept`] when it is dropped, at the end of the module.
pub struct UntilUnload<T: Send + Sync + 'static>(&'static Kept<T>);

impl<T: Send + Sync + 'static> Drop for UntilUnload<T> {
    fn drop(&mut self) {
        self.0.chosen.store(ptr::null_mut(), Ordering::Release);
        let mut at = self.0.newest.swap(ptr::null_mut(), Ordering::AcqRel);
        while !at.is_null() {
            // SAFETY: The module's root object is going, after everything that could run code of
            // this module; the list is ours alone.
            let node = unsafe { KBox::from_raw(at) };
            at = node.older;
        }
    }
}
