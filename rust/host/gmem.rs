// SPDX-License-Identifier: GPL-2.0

//! guest_memfd: files whose pages back guest memory without being anybody's own memory.
//!
//! A file belongs to one VM, which it keeps alive; the VM's slots have a [`Handle`], which does not
//! keep the file. Pages are in the inode's page cache, unevictable, zeros when they are made, and
//! leave it by a hole that is punched, by the end of the inode, never by reclaim. What system calls
//! and the memory manager do with a file is in [`gmem_ops`](crate::gmem_ops).
//!
//! # Why a page may be mapped
//!
//! As in [`mmu`](crate::mmu), with a hole instead of a change of the VMM's page tables:
//! [`MmuLock::fault_in_file`] finds the page, and what takes pages away ([`without_mappings`])
//! opens an invalidation first, has the VM zap, and closes it when the pages are gone. Invalidations
//! of the VM's lock are ranges of numbers: below 2^63 user addresses, above offsets in files, those
//! of all its files alike. When the last reference to the file goes, faults find it no more, and
//! what was mapped is zapped before its pages are freed.

use core::any::TypeId;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use kernel::bindings;
use kernel::error::from_err_ptr;
use kernel::ffi::{c_int, c_void};
use kernel::fs::file::{File, FileDescriptorReservation, LocalFile};
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::sync::{Arc, Mutex};

use crate::errno::hwpoison;
use crate::gmem_fs;
use crate::gmem_ops::Table;
use crate::gup::FaultIn;
use crate::mmu::{InvalidateSeq, MmuCore, MmuLock, OFFSETS};
use crate::module::ModuleRef;
use crate::shim;

/// The name of files and inodes.
const NAME: &CStr = c"[kvm-gmem]";
/// One past the last page of any file.
pub(crate) const END: u64 = (i64::MAX as u64) >> 12;

/// A page of a file, as invalidations have it.
const fn place(index: u64) -> u64 {
    let index = if index < END { index } else { END };
    OFFSETS | index << 12
}

/// What a file belongs to: a VM and what its slots have of the file.
pub trait Backs: Send + Sync + Sized + 'static {
    /// What the VM's MMU lock protects.
    type Data: Send + Sync;

    /// The VM's MMU lock.
    fn mmu(&self) -> &MmuLock<Self::Data>;

    /// By what the VM's slots find the file.
    fn handle(&self) -> &Handle;

    /// Zaps every mapping of the file's pages from `start` to `end` (exclusive) and flushes, before
    /// it returns. The MMU lock is not held; an invalidation is open, so none of these pages is
    /// mapped meanwhile. Sleeps; the folio's lock may be held, so it must wait for no page.
    fn zap(&self, start: u64, end: u64);
}

/// A way to the file that does not keep it: it finds nothing once the file is closed.
pub struct Handle {
    /// Cleared when the file is released.
    pub(crate) file: AtomicPtr<bindings::file>,
    /// The lock to which the file's holes are announced. Only compared.
    core: AtomicPtr<MmuCore>,
}

impl Handle {
    /// Of no file yet.
    pub const fn new() -> Self {
        Self {
            file: AtomicPtr::new(ptr::null_mut()),
            core: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// The file, if it is not closed, for as long as the answer is kept.
    fn file(&self) -> Option<ARef<File>> {
        let file = self.file.as_ptr();
        // SAFETY: The function reads the pointer itself, takes a reference, and reads it again. The
        // memory of a file may be another file's at once, but `release` clears the pointer before that.
        let file = unsafe { bindings::get_file_active(file) };
        // SAFETY: The reference is ours. Nobody uses the file's position, whose lock a read(2) of it,
        // which fails, does not take.
        ptr::NonNull::new(file).map(|f| unsafe { ARef::from_raw(f.cast::<File>()) })
    }
}

impl Default for Handle {
    fn default() -> Self {
        Self::new()
    }
}

/// What belongs to a file, asked for once.
pub(crate) struct Owner<C: Backs> {
    client: Arc<C>,
    /// Of `client`, which keeps both.
    core: *const MmuCore,
    handle: *const Handle,
}

// SAFETY: `C`, the handle and the core are `Send + Sync`, and the pointers are to parts of `C`.
unsafe impl<C: Backs> Send for Owner<C> {}
// SAFETY: As above.
unsafe impl<C: Backs> Sync for Owner<C> {}

impl<C: Backs> Owner<C> {
    fn new(client: Arc<C>) -> Self {
        Self {
            core: client.mmu().core(),
            handle: client.handle(),
            client,
        }
    }

    fn core(&self) -> &MmuCore {
        // SAFETY: `client` is borrowed, and therefore what it lent, as long as `self` holds it.
        unsafe { &*self.core }
    }

    pub(crate) fn handle(&self) -> &Handle {
        // SAFETY: As in `core`.
        unsafe { &*self.handle }
    }

    /// Runs `take` while no page from `start` to `end` (exclusive) is mapped or can be.
    pub(crate) fn without_mappings(&self, start: u64, end: u64, take: impl FnOnce()) {
        let (start, end, pages) = (place(start), place(end), (start, end));
        self.core().open(start, end);
        self.client.zap(pages.0, pages.1);
        take();
        self.core().close(start);
    }
}

/// What `inode::i_private` points to, for those who need no type. Dropped with the inode.
pub(crate) struct OfInode {
    pub(crate) policy: *mut shim::shared_policy,
    /// GUEST_MEMFD_FLAG_*.
    pub(crate) flags: u64,
    /// Drops the node of whichever type that this is the beginning of.
    free: unsafe fn(*mut OfInode),
    _module: ModuleRef,
}

impl Drop for OfInode {
    fn drop(&mut self) {
        // SAFETY: Made by `kvmrs_policy_new`; nobody maps or makes pages any more.
        unsafe { shim::kvmrs_policy_free(self.policy) };
    }
}

// SAFETY: The policy has a lock of its own.
unsafe impl Send for OfInode {}
// SAFETY: As above.
unsafe impl Sync for OfInode {}

/// The whole of it.
#[pin_data]
#[repr(C)]
pub(crate) struct Node<C: Backs> {
    common: OfInode,
    /// Whom to tell of broken memory; none once the file is released.
    #[pin]
    pub(crate) owner: Mutex<Option<Arc<Owner<C>>>>,
}

impl<C: Backs> Node<C> {
    fn new(flags: u64) -> Result<Pin<KBox<Self>>> {
        let module = ModuleRef::get()?;
        // SAFETY: Allocates.
        let policy = unsafe { shim::kvmrs_policy_new() };
        if policy.is_null() {
            return Err(ENOMEM);
        }
        let common = OfInode {
            policy,
            flags,
            free: Self::free,
            _module: module,
        };
        KBox::pin_init(
            pin_init!(Self {
                common,
                owner <- new_mutex!(None, "gmem->owner"),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// # Safety
    ///
    /// `of` must be the beginning of a node that was leaked and that nobody uses any more.
    unsafe fn free(of: *mut OfInode) {
        // SAFETY: The caller's promise; it was pinned, and is dropped in place.
        drop(unsafe { Pin::new_unchecked(KBox::from_raw(of.cast::<Self>())) });
    }
}

/// What `file::private_data` points to. The type comes first, at a place that does not depend on it.
#[repr(C)]
pub(crate) struct OfFile<C: Backs> {
    kind: TypeId,
    pub(crate) owner: Arc<Owner<C>>,
}

/// The parts of an inode that all of its users need.
#[derive(Clone, Copy)]
pub(crate) struct Inode<'a> {
    pub(crate) raw: *mut bindings::inode,
    pub(crate) common: &'a OfInode,
    pub(crate) mapping: *mut bindings::address_space,
    /// Bytes.
    pub(crate) size: u64,
}

impl<'a> Inode<'a> {
    /// # Safety
    ///
    /// `file` must be a file made here that stays open for `'a`.
    pub(crate) unsafe fn of(file: *mut bindings::file) -> Self {
        // SAFETY: The file keeps its inode, whose size never changes, nor does `i_private` before
        // the inode is evicted; a `Node<C>` begins with an `OfInode`.
        unsafe {
            let raw = (*file).f_inode;
            Self {
                raw,
                common: &*(*raw).i_private.cast::<OfInode>(),
                mapping: (*raw).i_mapping,
                size: (*raw).i_size as u64,
            }
        }
    }

    /// The folio of a page, made if it is not there.
    pub(crate) fn folio(&self, index: u64) -> Result<Folio> {
        if index >= self.size >> 12 {
            return Err(EFAULT);
        }
        let index = index as usize;
        // SAFETY: The mapping is live; sleeps.
        let found = from_err_ptr(unsafe { shim::kvmrs_filemap_lock(self.mapping, index) });
        let raw = match found {
            Ok(folio) => folio,
            Err(_) => {
                // SAFETY: The policy is live; what is looked up is put.
                let policy = unsafe { shim::kvmrs_policy_lookup(self.common.policy, index) };
                // SAFETY: As above.
                let made = unsafe { shim::kvmrs_filemap_create(self.mapping, index, policy) };
                // SAFETY: As above.
                unsafe { shim::kvmrs_policy_put(policy) };
                from_err_ptr(made)?
            }
        };
        Ok(Folio(raw))
    }
}

/// A locked folio of one page, with a reference.
pub(crate) struct Folio(*mut bindings::folio);

impl Folio {
    /// Whether its memory is broken.
    fn poisoned(&self) -> bool {
        // SAFETY: We have a reference.
        unsafe { shim::kvmrs_folio_poisoned(self.0) }
    }

    /// Makes it zeros if it is new.
    pub(crate) fn fill(&self) {
        // SAFETY: We have a reference and the lock.
        unsafe { shim::kvmrs_folio_fill(self.0) }
    }

    /// The page, for a holder of a reference. Files make no larger folios, and mappings that are
    /// inaccessible get none; one would have begun at another page.
    pub(crate) fn page(&self) -> Result<*mut bindings::page> {
        // SAFETY: We have a reference.
        if unsafe { shim::kvmrs_folio_small(self.0) } {
            // A folio begins with its first page.
            Ok(self.0.cast())
        } else {
            Err(EIO)
        }
    }

    /// Gives up lock and reference to the caller.
    pub(crate) fn into_raw(self) {
        core::mem::forget(self);
    }
}

impl Drop for Folio {
    fn drop(&mut self) {
        // SAFETY: The lock and the reference are ours.
        unsafe {
            bindings::folio_unlock(self.0);
            shim::kvmrs_put_page(self.0.cast());
        }
    }
}

impl<T> MmuLock<T> {
    /// Finds page `index` of a file whose holes are announced to this lock. Sleeps; hold no
    /// spinning lock.
    ///
    /// # Errors
    ///
    /// `EFAULT` if the file is closed, has no such page or is another VM's, `EHWPOISON` if the
    /// page's memory is broken, `ENOMEM`; `EAGAIN`, with nothing done, while the page is taken away.
    pub fn fault_in_file<'l>(
        &'l self,
        seq: InvalidateSeq<'l>,
        file: &Handle,
        index: u64,
    ) -> Result<FaultIn<'l>> {
        let core: *const MmuCore = self.core();
        if !ptr::eq(seq.core, core) || !ptr::eq(file.core.load(Ordering::Acquire), core) {
            return Err(EFAULT);
        }
        let open = file.file().ok_or(EFAULT)?;
        // A page made now would be taken away again, and who punches the hole goes round until he finds
        // none: a guest could keep him at it.
        let at = place(index);
        if seq.is_stale() || seq.core.invalidating(at, at.wrapping_add(0x1000)) {
            return Err(EAGAIN);
        }
        // SAFETY: Only `create` puts a file into a handle; `open` keeps it open.
        let inode = unsafe { Inode::of(open.as_ptr()) };
        let folio = inode.folio(index)?;
        if folio.poisoned() {
            return Err(hwpoison());
        }
        folio.fill();
        let page = folio.page()?;
        // SAFETY: `folio` has a reference to the page; the result gets one of its own.
        unsafe { shim::kvmrs_get_page(page) };
        Ok(FaultIn::of_file(seq, at, page))
    }
}

/// Makes a file of `size` bytes that belongs to `client`, whose handle is for one file only; its
/// descriptor.
///
/// The arguments are those that `model::slots::gmem::may_create` lets pass.
///
/// # Errors
///
/// `EMFILE`, `ENFILE`, `ENOMEM`, `EBUSY` for a handle that was used, what a security module says.
pub fn create<C: Backs>(client: Arc<C>, size: u64, flags: u64) -> Result<i32> {
    let mnt = gmem_fs::mount();
    if mnt.is_null() {
        return Err(ENODEV);
    }
    // KVM: the descriptor is not closed by exec.
    let reservation = FileDescriptorReservation::get_unused_fd_flags(0)?;
    let owner = Arc::new(Owner::new(client), GFP_KERNEL_ACCOUNT)?;
    // First, and for good: what a fault finds by a handle that has its lock is announced to that lock.
    let handle = owner.handle();
    let claimed = handle.core.compare_exchange(
        ptr::null_mut(),
        owner.core.cast_mut(),
        Ordering::AcqRel,
        Ordering::Relaxed,
    );
    if claimed.is_err() {
        return Err(EBUSY);
    }
    let of_file = KBox::new(
        OfFile {
            kind: TypeId::of::<C>(),
            owner: owner.clone(),
        },
        GFP_KERNEL_ACCOUNT,
    )?;
    let node = Node::<C>::new(flags)?;
    // For the file, which drops it by its operations' owner.
    let module = ModuleRef::get()?;
    // SAFETY: The mount and the name are valid.
    let inode = from_err_ptr(unsafe {
        bindings::anon_inode_make_secure_inode((*mnt).mnt_sb, NAME.as_char_ptr(), ptr::null())
    })?;
    // SAFETY: The inode is new: nobody else has it. The tables are static. The node goes to it, to
    // be taken back by `evicted`; it is not moved meanwhile.
    let node: &Node<C> = unsafe {
        let raw = KBox::into_raw(Pin::into_inner_unchecked(node));
        (*inode).i_private = raw.cast::<c_void>();
        (*inode).i_op = &Table::<C>::INODE;
        (*inode).i_mode |= bindings::S_IFREG as u16;
        (*inode).i_size = size as i64;
        (*(*inode).i_mapping).a_ops = &Table::<C>::MAPPING;
        shim::kvmrs_gmem_mapping((*inode).i_mapping);
        &*raw
    };
    // SAFETY: All are valid, the table for as long as the module, which the file pins.
    let file = from_err_ptr(unsafe {
        bindings::alloc_file_pseudo(
            inode,
            mnt,
            NAME.as_char_ptr(),
            bindings::O_RDWR as c_int,
            &Table::<C>::FILE,
        )
    });
    let file = match file {
        Ok(file) => file,
        Err(err) => {
            // SAFETY: No file was made, so the inode is still ours.
            unsafe { bindings::iput(inode) };
            return Err(err);
        }
    };
    core::mem::forget(module);
    // SAFETY: The file is new: nobody else has it. The box goes to it, to be taken back by `release`.
    let file = unsafe {
        (*file).f_flags |= bindings::O_LARGEFILE;
        (*file).private_data = KBox::into_raw(of_file).cast::<c_void>();
        ARef::from_raw(ptr::NonNull::new_unchecked(file).cast::<File>())
    };
    *node.owner.lock() = Some(owner.clone());
    handle.file.store(file.as_ptr(), Ordering::Release);
    let number = reservation.reserved_fd();
    reservation.fd_install(file);
    Ok(number as i32)
}

/// What a descriptor of the current process belongs to, and the file's size (bytes) and flags.
///
/// # Errors
///
/// `EBADF` if there is no such descriptor, `EINVAL` if it is not a file made for `C`.
pub fn from_fd<C: Backs>(fd: u32) -> Result<(Arc<C>, u64, u64)> {
    let file = LocalFile::fget(fd).map_err(|_| EBADF)?;
    let raw = file.as_ptr();
    // SAFETY: We hold a reference to the file; `f_op` never changes and points to a live table.
    let open = unsafe { (*raw).f_op.as_ref() }.and_then(|ops| ops.open);
    let ours: unsafe extern "C" fn(*mut bindings::inode, *mut bindings::file) -> c_int =
        shim::kvmrs_gmem_open;
    if open.map(|f| f as usize) != Some(ours as usize) {
        return Err(EINVAL);
    }
    // SAFETY: Only `Table` uses `kvmrs_gmem_open`, so the private data is an `OfFile` of some type,
    // which is `repr(C)` and begins with the type's id.
    let kind = unsafe { *(*raw).private_data.cast::<TypeId>() };
    if kind != TypeId::of::<C>() {
        return Err(EINVAL);
    }
    // SAFETY: As above, and it is `C`; our reference keeps the file open.
    let (owner, inode) = unsafe { (owner_of::<C>(raw), Inode::of(raw)) };
    Ok((owner.client.clone(), inode.size, inode.common.flags))
}

/// # Safety
///
/// `file` must be a file made by `create::<C>` that stays open for `'a`.
pub(crate) unsafe fn owner_of<'a, C: Backs>(file: *mut bindings::file) -> &'a Owner<C> {
    // SAFETY: `create` stored an `OfFile<C>` there, which lives until `release`.
    unsafe { &(*(*file).private_data.cast::<OfFile<C>>()).owner }
}

/// The inode ends: frees what it has of ours.
///
/// # Safety
///
/// Only from `evict_inode` of the file system, at its end.
pub(crate) unsafe fn evicted(inode: *mut bindings::inode) {
    // SAFETY: The inode is the caller's. The file system's root has no private data.
    let of = unsafe { (*inode).i_private.cast::<OfInode>() };
    if !of.is_null() {
        // SAFETY: `create` leaked the node, and it begins with an `OfInode`. With it goes a reference to
        // the module, whose end waits for the caller (`GmemFs::drop`).
        unsafe { ((*of).free)(of) };
    }
}
