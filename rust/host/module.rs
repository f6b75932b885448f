// SPDX-License-Identifier: GPL-2.0

//! References to this module: whatever the kernel may call back holds one, so that even a forgotten
//! registration cannot outlive the code it calls.

use core::marker::PhantomData;

use kernel::bindings;
use kernel::prelude::*;

use crate::fd::this_module;

/// A reference that keeps the module loaded.
pub struct ModuleRef(PhantomData<()>);

impl ModuleRef {
    /// Takes a reference.
    ///
    /// # Errors
    ///
    /// `ENODEV` while the module is being unloaded.
    pub fn get() -> Result<Self> {
        // SAFETY: The module is loaded while its code runs.
        if unsafe { bindings::try_module_get(this_module()) } {
            Ok(Self(PhantomData))
        } else {
            Err(ENODEV)
        }
    }
}

impl ModuleRef {
    /// Takes a reference even while the module is being unloaded: a last resort, to be forgotten.
    pub(crate) fn pin() -> Self {
        // SAFETY: The module is loaded while its code runs.
        unsafe { bindings::__module_get(this_module()) };
        Self(PhantomData)
    }
}

impl Drop for ModuleRef {
    fn drop(&mut self) {
        // SAFETY: We own a reference. The code that runs now is held by a reference of its own: an
        // open file, or module exit.
        unsafe { bindings::module_put(this_module()) };
    }
}
