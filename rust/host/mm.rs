// SPDX-License-Identifier: GPL-2.0

//! [`MmRef`]: the address space a VM belongs to.
//!
//! Guest memory is the memory of the process that created the VM. An ioctl of any other process is
//! refused.

use core::ptr::NonNull;

use kernel::bindings;
use kernel::prelude::*;

use model::addr::Hva;

use crate::shim;
use crate::task::current;

/// The current task's mm; null for a kernel thread.
#[inline]
pub(crate) fn current_mm() -> *mut bindings::mm_struct {
    // SAFETY: The current task is live, and only itself changes its mm.
    unsafe { (*current()).mm }
}

/// A reference to an address space (the structure, not the memory in it).
pub struct MmRef(NonNull<bindings::mm_struct>);

// SAFETY: The reference count is atomic, and the pointer is only compared.
unsafe impl Send for MmRef {}
// SAFETY: As above.
unsafe impl Sync for MmRef {}

impl MmRef {
    /// The address space of the current process.
    ///
    /// # Errors
    ///
    /// `EINVAL` in a kernel thread.
    pub fn current() -> Result<Self> {
        let mm = NonNull::new(current_mm()).ok_or(EINVAL)?;
        // SAFETY: The current mm is live.
        unsafe { bindings::mmgrab(mm.as_ptr()) };
        Ok(Self(mm))
    }

    /// Whether the current process runs in it.
    #[inline]
    pub fn is_current(&self) -> bool {
        core::ptr::eq(current_mm(), self.0.as_ptr())
    }

    pub(crate) fn as_ptr(&self) -> *mut bindings::mm_struct {
        self.0.as_ptr()
    }
}

impl Drop for MmRef {
    fn drop(&mut self) {
        // SAFETY: We own a reference.
        unsafe { bindings::mmdrop(self.0.as_ptr()) };
    }
}

/// Maps `len` bytes of zeroed memory into the current process, for what the guest's memory has to hold
/// on the kernel's behalf. The process can reach it like any memory of its own.
///
/// # Errors
///
/// Those of mmap(2).
pub fn map_memory(len: usize) -> Result<Hva> {
    // SAFETY: Maps fresh memory where nothing is.
    let at = unsafe { shim::kvmrs_map_memory(len) };
    if at < 0 {
        // CAST: a negative error number.
        return Err(Error::from_errno(at as i32));
    }
    Ok(Hva(at as u64))
}

/// Unmaps what [`map_memory`] mapped in the current process.
pub fn unmap_memory(at: Hva, len: usize) {
    // SAFETY: What is user memory the kernel does not rely on.
    unsafe { shim::kvmrs_unmap_memory(at.0 as usize, len) };
}
