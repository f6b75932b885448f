// SPDX-License-Identifier: GPL-2.0

//! The MMU lock and the invalidation protocol: why a page may be mapped into a guest.
//!
//! Nested page tables hold no references to the pages they map. What keeps a mapping right is that
//! the kernel announces every change of the process's own page tables through the MMU notifier, and
//! that every mapping is made in this order:
//!
//! 1. look up the memory slot in a set that is held until 4, and [`MmuLock::sample`] the sequence
//!    number;
//! 2. [`MmuLock::fault_in`](crate::gup) the page: may sleep, no lock held;
//! 3. take the lock, for reading or writing, and [`FaultIn::validate`](crate::gup::FaultIn): it
//!    fails if an invalidation of the page is open, or any ended since the sample;
//! 4. map, before the guard is dropped.
//!
//! [`notifier`](crate::notifier) opens and closes invalidations under the lock for writing, so a
//! mapping is either made before an invalidation opens, and then the zap that follows finds it, or
//! refused. Ranges that back no slot are left out: no mapping of theirs exists or can be made, since
//! whoever maps holds a set of slots in which the page's slot is, and the published set has every
//! slot that a reader may still hold (`src/vm/memslot.rs`): a slot that goes stays in the set until
//! its readers have left, which is why sample and look-up need no order, and only then its mappings
//! are taken away. Between start and end of an invalidation the set is not swapped, so both find the
//! same. The whole argument is in this module, `gup` and `notifier`; the only source of a
//! [`GuestPage`](crate::gup::GuestPage) is step 3, and it lives no longer than the guard.
//!
//! The lock spins with preemption off: nothing may sleep under it.

use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};

use kernel::bindings;
use kernel::prelude::*;
use kernel::sync::{CondVar, SpinLock};
use kernel::types::{NotThreadSafe, Opaque};

use crate::shim;

/// The invalidations that are open of one kind. Written with the lock held for writing.
struct Ranges {
    count: AtomicU64,
    /// Union of their ranges.
    start: AtomicU64,
    end: AtomicU64,
}

impl Ranges {
    const fn none() -> Self {
        Self {
            count: AtomicU64::new(0),
            start: AtomicU64::new(u64::MAX),
            end: AtomicU64::new(0),
        }
    }
}

/// Numbers of invalidations from here on are offsets in files, those below are user addresses.
pub(crate) const OFFSETS: u64 = 1 << 63;

/// The part of an [`MmuLock`] that does not depend on what it protects.
#[pin_data]
pub struct MmuCore {
    #[pin]
    raw: Opaque<bindings::rwlock_t>,
    /// Invalidations that ended. Written with `raw` held for writing.
    seq: AtomicU64,
    /// Of user addresses, and of offsets in files: a hole in a file that the VMM has mapped is both, and
    /// their union would be nearly everything.
    addresses: Ranges,
    offsets: Ranges,
    /// The mm whose changes are announced to this lock; null before and after. Never dereferenced.
    mm: AtomicPtr<bindings::mm_struct>,
    /// A notifier has claimed the lock (at most one ever does).
    claimed: AtomicBool,
    /// Invalidations between their start and end callbacks; guards slot swaps.
    #[pin]
    open: SpinLock<u64>,
    #[pin]
    quiet: CondVar,
}

impl MmuCore {
    fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            // SAFETY: `kvmrs_rwlock_init` initialises the lock in place.
            raw <- Opaque::ffi_init(|p| unsafe { shim::kvmrs_rwlock_init(p) }),
            seq: AtomicU64::new(0),
            addresses: Ranges::none(),
            offsets: Ranges::none(),
            mm: AtomicPtr::new(ptr::null_mut()),
            claimed: AtomicBool::new(false),
            open <- kernel::new_spinlock!(0, "kvm_mmu_open"),
            quiet <- kernel::new_condvar!("kvm_mmu_quiet"),
        })
    }

    /// Runs `f` with the lock held for writing.
    fn locked(&self, f: impl FnOnce()) {
        // SAFETY: The lock is initialised; it is released below, and `f` does not sleep.
        unsafe { bindings::_raw_write_lock(self.raw.get()) };
        f();
        // SAFETY: Taken above.
        unsafe { bindings::_raw_write_unlock(self.raw.get()) };
    }

    /// An invalidation begins, of whatever range: until it ends, no slot set is swapped.
    pub(crate) fn hold_slots(&self) {
        let mut open = self.open.lock();
        *open = open.wrapping_add(1);
    }

    /// It has ended.
    pub(crate) fn release_slots(&self) {
        let mut open = self.open.lock();
        *open = open.wrapping_sub(1);
        if *open == 0 {
            self.quiet.notify_all();
        }
    }

    /// Those of the kind that `start` is of. A range of addresses may end beyond them.
    fn ranges(&self, start: u64) -> &Ranges {
        if start < OFFSETS {
            &self.addresses
        } else {
            &self.offsets
        }
    }

    /// Opens an invalidation: from now until it is closed nothing of the range is mapped.
    pub(crate) fn open(&self, start: u64, end: u64) {
        let open = self.ranges(start);
        self.locked(|| {
            let n = open.count.load(Ordering::Relaxed);
            if n == 0 {
                open.start.store(start, Ordering::Relaxed);
                open.end.store(end, Ordering::Relaxed);
            } else {
                open.start.fetch_min(start, Ordering::Relaxed);
                open.end.fetch_max(end, Ordering::Relaxed);
            }
            open.count.store(n.wrapping_add(1), Ordering::Release);
        });
    }

    /// Closes an invalidation that [`Self::open`] opened at `start`.
    pub(crate) fn close(&self, start: u64) {
        let open = self.ranges(start);
        self.locked(|| {
            self.bump();
            let n = open.count.load(Ordering::Relaxed);
            open.count.store(n.wrapping_sub(1), Ordering::Release);
        });
    }

    /// Makes every sample taken so far stale. The lock must be held for writing.
    fn bump(&self) {
        let seq = self.seq.load(Ordering::Relaxed);
        self.seq.store(seq.wrapping_add(1), Ordering::Release);
    }

    /// Claims the lock for a notifier; false if another has it.
    pub(crate) fn claim(&self) -> bool {
        !self.claimed.swap(true, Ordering::AcqRel)
    }

    /// From now on, changes of `mm` are announced to this lock.
    pub(crate) fn attach(&self, mm: *mut bindings::mm_struct) {
        self.mm.store(mm, Ordering::Release);
    }

    /// Changes of the mm are announced no longer: nothing more can be mapped.
    pub(crate) fn detach(&self) {
        self.locked(|| {
            self.bump();
            self.mm.store(ptr::null_mut(), Ordering::Release);
        });
    }

    /// Whether `mm` is the mm whose changes are announced here.
    pub(crate) fn announces(&self, mm: *const bindings::mm_struct) -> bool {
        !mm.is_null() && ptr::eq(self.mm.load(Ordering::Acquire), mm)
    }

    fn seq(&self) -> u64 {
        self.seq.load(Ordering::Acquire)
    }

    /// Whether a range overlaps an open invalidation. Exact only under the lock.
    pub(crate) fn invalidating(&self, start: u64, end: u64) -> bool {
        let open = self.ranges(start);
        open.count.load(Ordering::Acquire) != 0
            && start < open.end.load(Ordering::Relaxed)
            && end > open.start.load(Ordering::Relaxed)
    }
}

// SAFETY: The raw lock may be used from any thread, the rest is atomics and locks.
unsafe impl Send for MmuCore {}
// SAFETY: As above.
unsafe impl Sync for MmuCore {}

/// A sample of the sequence number of a lock, to be taken before anything it vouches for is looked
/// at.
#[derive(Clone, Copy)]
pub struct InvalidateSeq<'l> {
    pub(crate) core: &'l MmuCore,
    seq: u64,
}

impl InvalidateSeq<'_> {
    /// Whether an invalidation ended since. Exact only under the lock.
    pub fn is_stale(&self) -> bool {
        self.core.seq() != self.seq
    }
}

/// The MMU lock, around what it protects.
#[pin_data]
pub struct MmuLock<T> {
    #[pin]
    core: MmuCore,
    data: UnsafeCell<T>,
}

// SAFETY: Moving the lock moves the value.
unsafe impl<T: Send> Send for MmuLock<T> {}
// SAFETY: Readers on several threads share the value, and a writer on any thread has it alone.
unsafe impl<T: Send + Sync> Sync for MmuLock<T> {}

impl<T> MmuLock<T> {
    /// Initialises the lock around `value`.
    pub fn new(value: T) -> impl PinInit<Self> {
        pin_init!(Self {
            core <- MmuCore::new(),
            data: UnsafeCell::new(value),
        })
    }

    /// Takes the lock for reading: many may map at a time, by atomic operations on the tables.
    #[inline]
    pub fn read(&self) -> MmuRead<'_, T> {
        // SAFETY: The lock is initialised and pinned; the guard releases it.
        unsafe { bindings::_raw_read_lock(self.core.raw.get()) };
        MmuRead {
            lock: self,
            _here: NotThreadSafe,
        }
    }

    /// Takes the lock for writing: nobody else reads or writes.
    #[inline]
    pub fn write(&self) -> MmuWrite<'_, T> {
        // SAFETY: The lock is initialised and pinned; the guard releases it.
        unsafe { bindings::_raw_write_lock(self.core.raw.get()) };
        MmuWrite {
            lock: self,
            _here: NotThreadSafe,
        }
    }

    /// Samples the sequence number.
    #[inline]
    pub fn sample(&self) -> InvalidateSeq<'_> {
        InvalidateSeq {
            seq: self.core.seq(),
            core: &self.core,
        }
    }

    /// Runs `publish` while no invalidation is open, and none can open before it returns.
    ///
    /// A slot set must be swapped here: the zap at the start of an invalidation and the end of it
    /// see the same slots. Sleeps first; `publish` itself must not sleep, nor take this lock.
    pub fn when_quiet<R>(&self, publish: impl FnOnce() -> R) -> R {
        let mut open = self.core.open.lock();
        while *open != 0 {
            self.core.quiet.wait(&mut open);
        }
        publish()
    }

    /// The part that does not depend on `T`.
    pub(crate) fn core(&self) -> &MmuCore {
        &self.core
    }
}

mod sealed {
    pub trait Sealed {
        fn core(&self) -> &super::MmuCore;
    }
}

/// A guard of an [`MmuLock`], for reading or for writing.
pub trait MmuGuard: sealed::Sealed {}

pub(crate) fn core_of<G: MmuGuard>(guard: &G) -> &MmuCore {
    sealed::Sealed::core(guard)
}

/// The lock is held for reading.
#[must_use = "the lock is released when the guard is dropped"]
pub struct MmuRead<'a, T> {
    lock: &'a MmuLock<T>,
    _here: NotThreadSafe,
}

/// The lock is held for writing.
#[must_use = "the lock is released when the guard is dropped"]
pub struct MmuWrite<'a, T> {
    lock: &'a MmuLock<T>,
    _here: NotThreadSafe,
}

impl<T> sealed::Sealed for MmuRead<'_, T> {
    fn core(&self) -> &MmuCore {
        &self.lock.core
    }
}

impl<T> sealed::Sealed for MmuWrite<'_, T> {
    fn core(&self) -> &MmuCore {
        &self.lock.core
    }
}

impl<T> MmuGuard for MmuRead<'_, T> {}
impl<T> MmuGuard for MmuWrite<'_, T> {}

impl<T> MmuRead<'_, T> {
    /// Lets others have the lock or the CPU if they want it; true if the lock was released in
    /// between, so that nothing seen before holds. Sleeps.
    pub fn cond_resched(&mut self) -> bool {
        // SAFETY: We hold the lock for reading; `&mut` proves that no borrow of the value is out.
        unsafe { bindings::__cond_resched_rwlock_read(self.lock.core.raw.get()) != 0 }
    }
}

impl<T> MmuWrite<'_, T> {
    /// Lets others have the lock or the CPU if they want it; true if the lock was released in
    /// between, so that nothing seen before holds. Sleeps.
    pub fn cond_resched(&mut self) -> bool {
        // SAFETY: We hold the lock for writing; `&mut` proves that no borrow of the value is out.
        unsafe { bindings::__cond_resched_rwlock_write(self.lock.core.raw.get()) != 0 }
    }
}

impl<T> Deref for MmuRead<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: The lock is held for reading, so nobody writes.
        unsafe { &*self.lock.data.get() }
    }
}

impl<T> Deref for MmuWrite<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: The lock is held for writing, so nobody else writes.
        unsafe { &*self.lock.data.get() }
    }
}

impl<T> DerefMut for MmuWrite<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: The lock is held for writing, so we have the value alone.
        unsafe { &mut *self.lock.data.get() }
    }
}

impl<T> Drop for MmuRead<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: The guard owns the lock.
        unsafe { bindings::_raw_read_unlock(self.lock.core.raw.get()) };
    }
}

impl<T> Drop for MmuWrite<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: The guard owns the lock.
        unsafe { bindings::_raw_write_unlock(self.lock.core.raw.get()) };
    }
}
