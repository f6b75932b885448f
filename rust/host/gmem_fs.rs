// SPDX-License-Identifier: GPL-2.0

//! The pseudo file system that the inodes of guest_memfd are on.
//!
//! It is mounted while the module is loaded and cannot be seen in any name space. An inode holds a
//! reference to the module until it is evicted, so that neither a descriptor nor a path to it (as
//! `O_PATH` makes one) outlives the code. Whoever drops the last path still has the mount for a
//! moment after that: unloading waits until nobody has. What drops an inode without a path, a watch
//! of inotify, is waited for by `kern_unmount`.

use core::cell::UnsafeCell;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use kernel::bindings;
use kernel::error::from_err_ptr;
use kernel::ffi::c_int;
use kernel::prelude::*;

use crate::gmem::evicted;
use crate::shim;

/// `struct file_system_type`, which the kernel writes to.
struct FsType(UnsafeCell<bindings::file_system_type>);

// SAFETY: Written by `GmemFs::mount` before anybody knows of it, and then by the kernel only.
unsafe impl Sync for FsType {}

// In the module's data, as lock classes must be. It has no owner: the mount would keep the module
// for ever.
static FS: FsType = FsType(UnsafeCell::new(
    // SAFETY: All zeros is a valid `file_system_type` that is not in use.
    unsafe { core::mem::zeroed() },
));

/// The mount, while there is one.
static MOUNT: AtomicPtr<bindings::vfsmount> = AtomicPtr::new(ptr::null_mut());

/// The mount; null before [`GmemFs::mount`].
pub(crate) fn mount() -> *mut bindings::vfsmount {
    MOUNT.load(Ordering::Acquire)
}

const SUPER: bindings::super_operations = bindings::super_operations {
    statfs: Some(bindings::simple_statfs),
    evict_inode: Some(evict_inode),
    // SAFETY: All zeros is a valid `super_operations`: no operation.
    ..unsafe { core::mem::zeroed() }
};

/// The mounted file system. Owned by the module's root object, and dropped before what its files
/// refer to.
pub struct GmemFs(());

impl GmemFs {
    /// Mounts it.
    ///
    /// # Errors
    ///
    /// `EBUSY` if it is mounted, `ENOMEM`.
    pub fn mount() -> Result<Self> {
        if !mount().is_null() {
            return Err(EBUSY);
        }
        let fs = FS.0.get();
        // SAFETY: Nobody uses the structure: the module's root object is made once, and alone.
        unsafe {
            (*fs).name = c"guest_memfd".as_char_ptr();
            (*fs).init_fs_context = Some(init_context);
            (*fs).kill_sb = Some(bindings::kill_anon_super);
        }
        // SAFETY: The structure is static and complete.
        let mnt = from_err_ptr(unsafe { bindings::kern_mount(fs) })?;
        // SAFETY: The mount is ours; nobody uses it yet. A second reference, for `drop`.
        unsafe {
            (*mnt).mnt_flags |= bindings::mount_flags_MNT_NOEXEC as c_int;
            bindings::mntget(mnt);
        }
        MOUNT.store(mnt, Ordering::Release);
        Ok(Self(()))
    }
}

impl Drop for GmemFs {
    fn drop(&mut self) {
        let mnt = MOUNT.swap(ptr::null_mut(), Ordering::AcqRel);
        // No file is open and no inode is left, as both hold the module, which goes. Threads that
        // closed one may have the mount for a few instructions more; the two references that do
        // not count are ours.
        // SAFETY: We have references to the mount.
        while unsafe { shim::may_umount(mnt) } == 0 {
            // SAFETY: Sleeps; module exit holds no lock.
            unsafe { bindings::msleep(1) };
        }
        // SAFETY: The references of `mount`.
        unsafe {
            bindings::mntput(mnt);
            bindings::kern_unmount(mnt);
        }
    }
}

unsafe extern "C" fn init_context(fc: *mut bindings::fs_context) -> c_int {
    // SAFETY: The VFS passes a new context; the operations are static.
    unsafe { shim::kvmrs_gmem_fs(fc, &SUPER) }
}

unsafe extern "C" fn evict_inode(inode: *mut bindings::inode) {
    // SAFETY: The VFS passes an inode of this file system that nobody else has any more.
    unsafe {
        bindings::truncate_inode_pages_final(&raw mut (*inode).i_data);
        bindings::clear_inode(inode);
        evicted(inode);
    }
}
