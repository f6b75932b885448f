// SPDX-License-Identifier: GPL-2.0

//! [`Notifier`]: the kernel's announcements of changes to the VMM's page tables.
//!
//! It keeps the invalidation state of the [`MmuLock`] and calls the VM to zap. See
//! [`mmu`](crate::mmu) for the protocol.

use core::marker::PhantomData;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use kernel::bindings;
use kernel::ffi::{c_int, c_ulong};
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::types::Opaque;
use model::addr::Hva;

use crate::fd::check;
use crate::mm::MmRef;
use crate::mmu::{MmuCore, MmuLock};
use crate::module::ModuleRef;

/// What a VM does when its memory changes. The callbacks may run on any thread.
pub trait MmuEvents: Send + Sync + 'static {
    /// What the VM's MMU lock protects.
    type Data: Send + Sync;

    /// The VM's MMU lock.
    fn mmu(&self) -> &MmuLock<Self::Data>;

    /// Whether any slot is backed by an address of `[start, end)`. Between the start and the end of
    /// an invalidation the slots do not change, so both get the same answer. Does not sleep.
    fn covers(&self, start: Hva, end: Hva) -> bool;

    /// Zaps every mapping of `[start, end)` and flushes, before it returns. The MMU lock is not
    /// held; an invalidation is open, so nothing of the range gets mapped again. Must not sleep
    /// unless `may_block`. Must not allocate: memory may be what the caller is after.
    fn invalidate(&self, start: Hva, end: Hva, may_block: bool);

    /// Whether the guest used `[start, end)` since this was last asked with `clear`. Does not sleep.
    fn age(&self, start: Hva, end: Hva, clear: bool) -> bool;

    /// The address space ends: zaps everything and never maps again. May be called twice.
    fn release(&self);
}

/// What the kernel's list points into; the kernel calls with the address of the first field.
#[repr(C)]
struct Node<E> {
    raw: Opaque<bindings::mmu_notifier>,
    registered: AtomicBool,
    /// An `Arc<E>`, held from before registration to after deregistration; null outside.
    events: AtomicPtr<E>,
    /// The core of `events.mmu()`, asked for once; valid while `events` is held.
    core: AtomicPtr<MmuCore>,
}

/// A registration on the current process's address space.
///
/// It holds an `Arc` of the VM, which commonly holds the registration: [`Notifier::unregister`]
/// breaks the cycle. A forgotten registration keeps the VM and the module forever.
pub struct Notifier<E: MmuEvents> {
    node: KBox<Node<E>>,
    mm: MmRef,
    _module: ModuleRef,
}

// SAFETY: A handle; `E` is `Send + Sync`, and the node is reached through atomics.
unsafe impl<E: MmuEvents> Send for Notifier<E> {}
// SAFETY: As above.
unsafe impl<E: MmuEvents> Sync for Notifier<E> {}

struct Table<E>(PhantomData<E>);

impl<E: MmuEvents> Table<E> {
    const OPS: bindings::mmu_notifier_ops = bindings::mmu_notifier_ops {
        release: Some(release::<E>),
        clear_flush_young: Some(clear_young::<E>),
        clear_young: Some(clear_young::<E>),
        test_young: Some(test_young::<E>),
        invalidate_range_start: Some(range_start::<E>),
        invalidate_range_end: Some(range_end::<E>),
        // SAFETY: All zeros is a valid `mmu_notifier_ops`: no callback.
        ..unsafe { core::mem::zeroed() }
    };
}

impl<E: MmuEvents> Notifier<E> {
    /// Registers `events` for the current process. From here on pages can be faulted in through
    /// its lock. Sleeps; callbacks may come before this returns.
    ///
    /// # Errors
    ///
    /// `EBUSY` if the lock has, or had, a notifier; `EINTR`, `ENOMEM`.
    pub fn register(events: Arc<E>) -> Result<Self> {
        let raw = bindings::mmu_notifier {
            ops: &Table::<E>::OPS,
            // SAFETY: All zeros is a valid `mmu_notifier` that is not registered.
            ..unsafe { core::mem::zeroed() }
        };
        let node = Node {
            raw: Opaque::new(raw),
            registered: AtomicBool::new(false),
            events: AtomicPtr::new(ptr::null_mut()),
            core: AtomicPtr::new(ptr::null_mut()),
        };
        let this = Self {
            node: KBox::new(node, GFP_KERNEL_ACCOUNT)?,
            mm: MmRef::current()?,
            _module: ModuleRef::get()?,
        };
        let node = &*this.node;
        let events = Arc::into_raw(events);
        node.events.store(events.cast_mut(), Ordering::Release);
        // SAFETY: The node holds the `Arc`; `core` is used only as long as it does.
        let core = unsafe { &*events }.mmu().core();
        node.core
            .store(ptr::from_ref(core).cast_mut(), Ordering::Release);
        if !core.claim() {
            return Err(EBUSY);
        }
        // SAFETY: The node is in a box, and is deregistered before the box is freed. The mm is the
        // current one, so it has users, and no mmap lock is held.
        check(unsafe { bindings::mmu_notifier_register(node.raw.get(), this.mm.as_ptr()) })?;
        node.registered.store(true, Ordering::Release);
        core.attach(this.mm.as_ptr());
        Ok(this)
    }

    /// Ends the registration and drops the reference to the VM; does nothing the second time.
    ///
    /// Sleeps until running callbacks are through. [`MmuEvents::release`] is called unless it was.
    /// Nothing can be mapped after that. Must not be called from a callback.
    pub fn unregister(&self) {
        if !self.node.registered.swap(false, Ordering::AcqRel) {
            return;
        }
        // SAFETY: Registered on this mm, which `mm` keeps, and the swap lets only one caller here.
        unsafe { bindings::mmu_notifier_unregister(self.node.raw.get(), self.mm.as_ptr()) };
        self.forget_events();
    }

    /// Drops the `Arc`; no callback may run or come.
    fn forget_events(&self) {
        self.node.core.store(ptr::null_mut(), Ordering::Relaxed);
        let events = self.node.events.swap(ptr::null_mut(), Ordering::AcqRel);
        if !events.is_null() {
            // SAFETY: `register` stored the `Arc`, and the swap takes it once.
            drop(unsafe { Arc::from_raw(events.cast_const()) });
        }
    }
}

impl<E: MmuEvents> Drop for Notifier<E> {
    fn drop(&mut self) {
        self.unregister();
        // Left if registration failed.
        self.forget_events();
    }
}

/// What the callbacks work on.
///
/// # Safety
///
/// Only in a callback on a registered `Node<E>`.
unsafe fn parts<'a, E: MmuEvents>(raw: *mut bindings::mmu_notifier) -> (&'a E, &'a MmuCore) {
    // SAFETY: The notifier is the first field of its node, which stays until deregistration has
    // waited for all callbacks; so does the `Arc`, and with it the core.
    unsafe {
        let node = &*raw.cast::<Node<E>>();
        (
            &*node.events.load(Ordering::Acquire),
            &*node.core.load(Ordering::Acquire),
        )
    }
}

unsafe extern "C" fn range_start<E: MmuEvents>(
    raw: *mut bindings::mmu_notifier,
    range: *const bindings::mmu_notifier_range,
) -> c_int {
    // SAFETY: A callback of a registered node, with a valid range.
    let ((events, core), range) = unsafe { (parts::<E>(raw), &*range) };
    let (start, end) = (range.start as u64, range.end as u64);
    core.hold_slots();
    if !events.covers(Hva(start), Hva(end)) {
        return 0;
    }
    core.open(start, end);
    let may_block = range.flags & bindings::MMU_NOTIFIER_RANGE_BLOCKABLE != 0;
    events.invalidate(Hva(start), Hva(end), may_block);
    0
}

unsafe extern "C" fn range_end<E: MmuEvents>(
    raw: *mut bindings::mmu_notifier,
    range: *const bindings::mmu_notifier_range,
) {
    // SAFETY: A callback of a registered node, with a valid range. The kernel pairs it with a start
    // on the same node and range: a node that is added between the two gets neither.
    let ((events, core), range) = unsafe { (parts::<E>(raw), &*range) };
    if events.covers(Hva(range.start as u64), Hva(range.end as u64)) {
        core.close(range.start as u64);
    }
    core.release_slots();
}

unsafe extern "C" fn clear_young<E: MmuEvents>(
    raw: *mut bindings::mmu_notifier,
    _mm: *mut bindings::mm_struct,
    start: c_ulong,
    end: c_ulong,
) -> bool {
    // SAFETY: A callback of a registered node.
    let (events, _) = unsafe { parts::<E>(raw) };
    events.age(Hva(start as u64), Hva(end as u64), true)
}

unsafe extern "C" fn test_young<E: MmuEvents>(
    raw: *mut bindings::mmu_notifier,
    _mm: *mut bindings::mm_struct,
    address: c_ulong,
) -> bool {
    // SAFETY: A callback of a registered node.
    let (events, _) = unsafe { parts::<E>(raw) };
    let start = address as u64;
    events.age(Hva(start), Hva(start.wrapping_add(0x1000)), false)
}

unsafe extern "C" fn release<E: MmuEvents>(
    raw: *mut bindings::mmu_notifier,
    _mm: *mut bindings::mm_struct,
) {
    // SAFETY: A callback of a registered node.
    let (events, core) = unsafe { parts::<E>(raw) };
    core.detach();
    events.release();
}
