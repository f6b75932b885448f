// SPDX-License-Identifier: GPL-2.0

//! The operations of a guest_memfd: mapping and touching it, holes, allocation, memory policies,
//! broken memory, its release. See [`gmem`](crate::gmem).
//!
//! Locks, from the outside in: the mapping's invalidate lock, for holes and allocation; what is told
//! of broken memory (`gmem->owner`); those of [`Backs::zap`]. A folio's lock is taken below the first
//! and, for broken memory, above the others.

use core::marker::PhantomData;
use core::ptr;
use core::sync::atomic::Ordering;

use kernel::bindings;
use kernel::ffi::{c_int, c_long, c_ulong};
use kernel::prelude::*;
use model::abi::vm::{GUEST_MEMFD_FLAG_INIT_SHARED, GUEST_MEMFD_FLAG_MMAP};
use model::slots::gmem::{Fallocate, Refused};

use crate::errno::not_supported;
use crate::fd::this_module;
use crate::gmem::{owner_of, Backs, Inode, Node, OfFile, Owner, END};
use crate::shim;

/// The kernel's operation tables of files that belong to a `C`.
pub(crate) struct Table<C>(PhantomData<C>);

impl<C: Backs> Table<C> {
    pub(crate) const FILE: bindings::file_operations = bindings::file_operations {
        owner: this_module(),
        open: Some(shim::kvmrs_gmem_open),
        release: Some(release::<C>),
        mmap: Some(mmap),
        fallocate: Some(fallocate::<C>),
        // SAFETY: All zeros is a valid `file_operations`: no flag and no operation.
        ..unsafe { core::mem::zeroed() }
    };

    pub(crate) const INODE: bindings::inode_operations = bindings::inode_operations {
        setattr: Some(setattr),
        // SAFETY: All zeros is a valid `inode_operations`: no operation.
        ..unsafe { core::mem::zeroed() }
    };

    pub(crate) const MAPPING: bindings::address_space_operations =
        bindings::address_space_operations {
            dirty_folio: Some(bindings::noop_dirty_folio),
            migrate_folio: Some(migrate_folio),
            error_remove_folio: Some(error_remove_folio::<C>),
            // SAFETY: All zeros is a valid `address_space_operations`: no operation.
            ..unsafe { core::mem::zeroed() }
        };
}

/// Areas that map a file.
const AREA: bindings::vm_operations_struct = bindings::vm_operations_struct {
    fault: Some(fault),
    #[cfg(CONFIG_NUMA)]
    set_policy: Some(set_policy),
    #[cfg(CONFIG_NUMA)]
    get_policy: Some(get_policy),
    // SAFETY: All zeros is a valid `vm_operations_struct`: no operation.
    ..unsafe { core::mem::zeroed() }
};

unsafe extern "C" fn release<C: Backs>(
    _: *mut bindings::inode,
    file: *mut bindings::file,
) -> c_int {
    // SAFETY: `create` leaked the box into the file, which will not use it again.
    let of_file = unsafe { KBox::from_raw((*file).private_data.cast::<OfFile<C>>()) };
    let owner = &of_file.owner;
    owner
        .handle()
        .file
        .store(ptr::null_mut(), Ordering::Release);
    // SAFETY: The inode is live, and its private data a `Node<C>` until it is evicted.
    let node = unsafe { &*(*(*file).f_inode).i_private.cast::<Node<C>>() };
    let told = node.owner.lock().take();
    // No fault finds the file now, and those that found a page before are refused.
    owner.without_mappings(0, END, || ());
    drop(told);
    0
}

unsafe extern "C" fn mmap(file: *mut bindings::file, vma: *mut bindings::vm_area_struct) -> c_int {
    // SAFETY: The VFS calls this for a file of ours, with an area under construction.
    let (inode, flags) = unsafe { (Inode::of(file), (*vma).__bindgen_anon_2.vm_flags) };
    if inode.common.flags & GUEST_MEMFD_FLAG_MMAP == 0 {
        return ENODEV.to_errno();
    }
    let shared = (bindings::VM_SHARED | bindings::VM_MAYSHARE) as c_ulong;
    if flags as c_ulong & shared != shared {
        return EINVAL.to_errno();
    }
    // SAFETY: As above; the table is static.
    unsafe { (*vma).vm_ops = &AREA };
    0
}

unsafe extern "C" fn fault(vmf: *mut bindings::vm_fault) -> bindings::vm_fault_t {
    // SAFETY: A valid fault in an area that `mmap` set up; the area keeps the file open.
    let (inode, index) = unsafe {
        let at = &(*vmf).__bindgen_anon_1;
        (Inode::of((*at.vma).vm_file), at.pgoff as u64)
    };
    // Private memory is not user space's. There is none beyond the end either.
    if inode.common.flags & GUEST_MEMFD_FLAG_INIT_SHARED == 0 || index >= inode.size >> 12 {
        return bindings::vm_fault_reason_VM_FAULT_SIGBUS;
    }
    let found = inode.folio(index).and_then(|f| Ok((f.page()?, f)));
    match found {
        Ok((page, folio)) => {
            folio.fill();
            // SAFETY: As above. Lock and reference go to the caller.
            unsafe { (*vmf).page = page };
            folio.into_raw();
            bindings::vm_fault_reason_VM_FAULT_LOCKED
        }
        Err(err) if err == ENOMEM => bindings::vm_fault_reason_VM_FAULT_OOM,
        Err(_) => bindings::vm_fault_reason_VM_FAULT_SIGBUS,
    }
}

#[cfg(CONFIG_NUMA)]
unsafe extern "C" fn set_policy(
    vma: *mut bindings::vm_area_struct,
    new: *mut bindings::mempolicy,
) -> c_int {
    // SAFETY: An area that `mmap` set up.
    unsafe { shim::kvmrs_policy_set(Inode::of((*vma).vm_file).common.policy, vma, new) }
}

#[cfg(CONFIG_NUMA)]
unsafe extern "C" fn get_policy(
    vma: *mut bindings::vm_area_struct,
    addr: c_ulong,
    ilx: *mut c_ulong,
) -> *mut bindings::mempolicy {
    // SAFETY: An area that `mmap` set up, and a place for a number. None is what says that there is
    // no policy.
    unsafe {
        let inode = Inode::of((*vma).vm_file);
        *ilx = (*inode.raw).i_ino as c_ulong;
        let index = shim::kvmrs_vma_index(vma, addr);
        shim::kvmrs_policy_lookup(inode.common.policy, index)
    }
}

unsafe extern "C" fn fallocate<C: Backs>(
    file: *mut bindings::file,
    mode: c_int,
    offset: bindings::loff_t,
    len: bindings::loff_t,
) -> c_long {
    // SAFETY: The VFS calls this for a file with `Table<C>::FILE` and keeps it open meanwhile.
    let (owner, inode) = unsafe { (owner_of::<C>(file), Inode::of(file)) };
    let done = match Fallocate::new(mode as u32, offset as u64, len as u64, inode.size) {
        Err(Refused::Mode) => Err(not_supported()),
        Err(Refused::Range) => Err(EINVAL),
        Ok(Fallocate::Punch { start, end }) => {
            punch(owner, &inode, start, end);
            Ok(())
        }
        Ok(Fallocate::Fill { start, end }) => populate(&inode, start, end),
    };
    if let Err(err) = done {
        return err.to_errno() as c_long;
    }
    // SAFETY: As above.
    unsafe { bindings::file_modified(file) };
    0
}

/// Takes pages away, from the guest, from who maps them, from the file.
fn punch<C: Backs>(owner: &Owner<C>, inode: &Inode<'_>, start: u64, end: u64) {
    // SAFETY: The mapping is live; sleeps.
    let lock = unsafe { &raw mut (*inode.mapping).invalidate_lock };
    // SAFETY: As above.
    unsafe { bindings::down_write(lock) };
    owner.without_mappings(start, end, || {
        // The last byte; the VFS has seen to it that there is one.
        let last = (end << 12).wrapping_sub(1);
        let first = (start << 12) as i64;
        // CAST: below 2^63, in a type that differs between kernels.
        // SAFETY: As above.
        unsafe { bindings::truncate_inode_pages_range(inode.mapping, first, last as _) };
    });
    // SAFETY: Taken above.
    unsafe { bindings::up_write(lock) };
}

/// Makes pages. EINTR if a signal comes, ENOMEM.
fn populate(inode: &Inode<'_>, start: u64, end: u64) -> Result {
    // SAFETY: The mapping is live; sleeps.
    let lock = unsafe { &raw mut (*inode.mapping).invalidate_lock };
    // SAFETY: As above.
    unsafe { bindings::down_read(lock) };
    let mut done = Ok(());
    for index in start..end {
        done = if crate::task::signal_pending() {
            Err(EINTR)
        } else {
            inode.folio(index).map(drop)
        };
        if done.is_err() {
            break;
        }
        crate::task::cond_resched();
    }
    // SAFETY: Taken above.
    unsafe { bindings::up_read(lock) };
    done
}

unsafe extern "C" fn setattr(
    _: *mut bindings::mnt_idmap,
    _: *mut bindings::dentry,
    _: *mut bindings::iattr,
) -> c_int {
    EINVAL.to_errno()
}

unsafe extern "C" fn migrate_folio(
    _: *mut bindings::address_space,
    _: *mut bindings::folio,
    _: *mut bindings::folio,
    _: bindings::migrate_mode,
) -> c_int {
    EINVAL.to_errno()
}

/// The page's memory is broken. It stays in the file, so that whoever comes to it hears of that.
///
/// The folio is locked: nothing that waits for folios with it held may be waited for here, the
/// mapping's invalidate lock in particular. The order of zap and truncation does not need it.
unsafe extern "C" fn error_remove_folio<C: Backs>(
    mapping: *mut bindings::address_space,
    folio: *mut bindings::folio,
) -> c_int {
    // SAFETY: The folio is locked and in the mapping, so the inode is live and not evicted.
    let (node, index) = unsafe {
        let node = &*(*(*mapping).host).i_private.cast::<Node<C>>();
        (node, shim::kvmrs_folio_index(folio) as u64)
    };
    if let Some(owner) = &*node.owner.lock() {
        owner.without_mappings(index, index.wrapping_add(1), || ());
    }
    bindings::mf_result_MF_DELAYED as c_int
}
