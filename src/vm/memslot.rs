// SPDX-License-Identifier: GPL-2.0

//! Memory slots: which guest-physical pages user space backs with memory, and where.
//!
//! A set of slots is immutable once published; a change makes a new set and replaces the old one
//! under SRCU. `slots_lock` serialises changes. A slot that goes is first published as *invalid*:
//! nothing new is mapped from it, but the notifier still finds it while its mappings are removed.

use super::caps::USER_SLOTS;
use super::dirty::DirtyLog;
use super::VmCore;
use crate::backend::Backend;
use crate::mmu;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering;
use host::srcu_box::SrcuBox;
use host::srcu_box::SrcuDomain;
use host::srcu_box::SrcuRef;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::sync::Mutex;
use model::abi;
use model::addr::Gfn;
use model::addr::Hva;
use model::addr::PAGE_SHIFT;
use model::addr::PAGE_SIZE;

/// Most pages of one slot: dirty-log ioctls count in 31 bits.
const MAX_PAGES: u64 = (1 << 31) - 1;
/// The id of the identity map's slot, the first that user space cannot name.
const PRIVATE_SLOT: u32 = USER_SLOTS;
/// User addresses end below this: 56 bits with five-level host paging.
const USER_END: u64 = 1 << 56;

/// A memory slot.
#[derive(Clone)]
pub(crate) struct Slot {
    /// Id chosen by user space.
    pub(crate) id: u32,
    /// First guest page.
    pub(crate) base: Gfn,
    /// Number of pages.
    pub(crate) npages: u64,
    /// User address of the first page.
    hva: Hva,
    /// KVM_MEM_*.
    pub(crate) flags: u32,
    /// Going away: nothing may be mapped from it.
    invalid: bool,
    /// The dirty log, while logging is on.
    dirty: Option<Arc<DirtyLog>>,
}

impl Slot {
    /// Is it going away?
    pub(crate) fn invalid(&self) -> bool {
        self.invalid
    }

    /// May the guest not write to it?
    pub(crate) fn readonly(&self) -> bool {
        self.flags & abi::KVM_MEM_READONLY != 0
    }

    /// Are writes logged?
    pub(crate) fn logging(&self) -> bool {
        self.dirty.is_some()
    }

    /// The dirty log.
    pub(crate) fn dirty(&self) -> Option<&Arc<DirtyLog>> {
        self.dirty.as_ref()
    }

    /// The user address of a page of the slot.
    #[inline]
    pub(crate) fn hva_of(&self, gfn: Gfn) -> Hva {
        self.hva
            .wrapping_add(gfn.0.wrapping_sub(self.base.0) << PAGE_SHIFT)
    }

    /// Marks a page of the slot dirty.
    #[inline]
    pub(crate) fn mark_dirty(&self, gfn: Gfn) {
        if let Some(d) = &self.dirty {
            d.mark(gfn.0.wrapping_sub(self.base.0));
        }
    }

    /// The largest leaf (1 to 3) that maps `gfn`, lies within the slot, and has guest and user
    /// addresses equally aligned.
    pub(crate) fn max_level(&self, gfn: Gfn) -> u8 {
        let mut level = 3u8;
        while level > 1 {
            let pages = 1u64 << (u32::from(level).wrapping_sub(1).wrapping_mul(9));
            let mask = pages.wrapping_sub(1);
            let start = gfn.0 & !mask;
            let hva_pages = self.hva.0 >> PAGE_SHIFT;
            if start >= self.base.0
                && start.wrapping_sub(self.base.0).wrapping_add(pages) <= self.npages
                && (hva_pages ^ self.base.0) & mask == 0
            {
                break;
            }
            level = level.wrapping_sub(1);
        }
        level
    }

    fn end(&self) -> u64 {
        self.base.0.wrapping_add(self.npages)
    }
}

/// An immutable set of slots, sorted by guest page.
pub(crate) struct SlotSet {
    slots: KVVec<Slot>,
}

impl SlotSet {
    /// The slot that has `gfn`.
    #[inline]
    pub(crate) fn find(&self, gfn: Gfn) -> Option<&Slot> {
        // A binary search whose arithmetic cannot overflow: the library's is compiled with checks.
        let (mut low, mut high) = (0usize, self.slots.len());
        while low < high {
            let mid = low.wrapping_add(high.wrapping_sub(low) / 2);
            if self.slots.get(mid)?.base <= gfn {
                low = mid.wrapping_add(1);
            } else {
                high = mid;
            }
        }
        let s = self.slots.get(low.checked_sub(1)?)?;
        (gfn.0 < s.end()).then_some(s)
    }

    /// The slot with this id.
    pub(crate) fn by_id(&self, id: u32) -> Option<&Slot> {
        self.slots.iter().find(|s| s.id == id)
    }

    /// The user address of `gfn`, if it may be read (or, with `write`, written).
    #[inline]
    pub(crate) fn hva(&self, gfn: Gfn, write: bool) -> Option<(Hva, &Slot)> {
        let s = self.find(gfn)?;
        if s.invalid || (write && s.readonly()) {
            return None;
        }
        Some((s.hva_of(gfn), s))
    }

    /// Is any slot logged?
    pub(crate) fn any_logging(&self) -> bool {
        self.slots.iter().any(Slot::logging)
    }

    /// Does a slot other than `id` have a page of `base .. base + npages`?
    fn overlaps(&self, id: u32, base: u64, npages: u64) -> bool {
        let end = base.wrapping_add(npages);
        self.slots
            .iter()
            .any(|s| s.id != id && s.base.0 < end && s.end() > base)
    }

    /// A copy without slot `id`, and with `add`.
    fn with(&self, id: u32, add: Option<Slot>) -> Result<KBox<SlotSet>> {
        let n = self.slots.len().wrapping_add(usize::from(add.is_some()));
        let mut slots = KVVec::with_capacity(n, GFP_KERNEL_ACCOUNT)?;
        let mut add = add;
        for s in self.slots.iter().filter(|s| s.id != id) {
            if let Some(a) = add.take_if(|a| a.base < s.base) {
                slots.push(a, GFP_KERNEL_ACCOUNT)?;
            }
            slots.push(s.clone(), GFP_KERNEL_ACCOUNT)?;
        }
        if let Some(a) = add {
            slots.push(a, GFP_KERNEL_ACCOUNT)?;
        }
        Ok(KBox::new(SlotSet { slots }, GFP_KERNEL_ACCOUNT)?)
    }
}

/// The slots of a VM.
#[pin_data]
pub(crate) struct Slots {
    set: SrcuBox<SlotSet>,
    /// How often the set was replaced.
    generation: AtomicU64,
    /// `kvm->slots_lock`.
    #[pin]
    lock: Mutex<()>,
}

impl Slots {
    /// No slots.
    pub(crate) fn new(domain: Arc<SrcuDomain>) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            set: SrcuBox::new(
                domain,
                KBox::new(SlotSet { slots: KVVec::new() }, GFP_KERNEL_ACCOUNT)?,
            ),
            generation: AtomicU64::new(0),
            lock <- new_mutex!((), "kvm->slots_lock"),
        }? Error)
    }

    /// Keeps the slots from changing.
    pub(crate) fn lock(&self) -> kernel::sync::MutexGuard<'_, ()> {
        self.lock.lock()
    }

    /// The slots now, for as long as the answer is kept.
    #[inline]
    pub(crate) fn read(&self) -> SrcuRef<'_, SlotSet> {
        self.set.read()
    }

    /// Changes with every change of the slots. Taken before looking at them, it tells later whether
    /// what was found still holds.
    #[inline]
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Marks a page dirty, if it is in a slot with logging on.
    pub(crate) fn mark_dirty(&self, gfn: Gfn) {
        if let Some(s) = self.read().find(gfn) {
            s.mark_dirty(gfn);
        }
    }

    /// Calls `f` with the guest pages that the user addresses `start .. end` back.
    pub(crate) fn for_each_in_hva(&self, start: Hva, end: Hva, mut f: impl FnMut(Gfn, Gfn)) {
        let set = self.read();
        for s in set.slots.iter() {
            let s_end = s.hva.0.wrapping_add(s.npages << PAGE_SHIFT);
            let first = start.0.max(s.hva.0);
            let last = end.0.min(s_end);
            if first < last {
                let page = |hva: u64| s.base.wrapping_add(hva.wrapping_sub(s.hva.0) >> PAGE_SHIFT);
                f(page(first), page(last.wrapping_add(PAGE_SIZE - 1)));
            }
        }
    }
}

/// What a request asks for, after all checks.
enum Change {
    Nothing,
    Create(Slot),
    Delete,
    Move(Slot),
    Flags(Slot),
}

/// KVM_SET_USER_MEMORY_REGION and its second form.
pub(crate) fn set_region<V: Backend>(
    vm: &VmCore<V>,
    r: &abi::KvmUserspaceMemoryRegion,
) -> Result<isize> {
    let slots = &vm.base.slots;
    let _lock = slots.lock.lock();
    let (change, old) = {
        let set = slots.read();
        let old = set.by_id(r.slot).cloned();
        (decide(&set, old.as_ref(), r)?, old)
    };
    match (change, old) {
        (Change::Create(new), _) => {
            let new = with_log(vm, new)?;
            publish(vm, r.slot, Some(new))?;
        }
        (Change::Delete, Some(old)) => {
            withdraw(vm, &old)?;
            publish(vm, r.slot, None)?;
        }
        (Change::Move(new), Some(old)) => {
            let new = with_log(vm, new)?;
            withdraw(vm, &old)?;
            publish(vm, r.slot, Some(new))?;
        }
        (Change::Flags(mut new), Some(old)) => {
            if new.flags & abi::KVM_MEM_LOG_DIRTY_PAGES != 0 {
                new.dirty = old.dirty.clone();
                new = with_log(vm, new)?;
                publish(vm, r.slot, Some(new.clone()))?;
                mmu::log::switched(vm);
                mmu::log::started(vm, &new);
            } else {
                publish(vm, r.slot, Some(new.clone()))?;
                mmu::log::stopped(vm, &new);
            }
        }
        _ => {}
    }
    mmu::log::switched(vm);
    Ok(0)
}

/// Checks a request against the slots there are. See spec `KVM_SET_USER_MEMORY_REGION`.
fn decide(set: &SlotSet, old: Option<&Slot>, r: &abi::KvmUserspaceMemoryRegion) -> Result<Change> {
    let mut known = abi::KVM_MEM_LOG_DIRTY_PAGES;
    known |= abi::KVM_MEM_READONLY;
    if r.flags & !known != 0 {
        return Err(EINVAL);
    }
    let low = PAGE_SIZE - 1;
    if (r.memory_size | r.guest_phys_addr | r.userspace_addr) & low != 0 {
        return Err(EINVAL);
    }
    match r.userspace_addr.checked_add(r.memory_size) {
        Some(end) if end <= USER_END => {}
        _ => return Err(EINVAL),
    }
    // One address space, and three slots above the user's that the in-tree module keeps for itself.
    if r.slot >> 16 != 0 || r.slot >= USER_SLOTS {
        return Err(EINVAL);
    }
    if r.guest_phys_addr.checked_add(r.memory_size).is_none() {
        return Err(EINVAL);
    }
    let npages = r.memory_size >> PAGE_SHIFT;
    if npages > MAX_PAGES {
        return Err(EINVAL);
    }
    if npages == 0 {
        return if old.is_some() {
            Ok(Change::Delete)
        } else {
            Err(EINVAL)
        };
    }
    let base = r.guest_phys_addr >> PAGE_SHIFT;
    let new = Slot {
        id: r.slot,
        base: Gfn(base),
        npages,
        hva: Hva(r.userspace_addr),
        flags: r.flags,
        invalid: false,
        dirty: None,
    };
    // Checked where pages get a new place only: nothing else can fail then.
    let bits = u32::from(host::cpu::raw_phys_bits());
    let moves = old.is_none_or(|o| o.base != new.base);
    if moves && new.end() > 1u64.wrapping_shl(bits.wrapping_sub(PAGE_SHIFT)) {
        return Err(EINVAL);
    }
    let Some(old) = old else {
        if set.overlaps(r.slot, base, npages) {
            return Err(EEXIST);
        }
        return Ok(Change::Create(new));
    };
    if old.hva != new.hva
        || old.npages != npages
        || (old.flags ^ r.flags) & abi::KVM_MEM_READONLY != 0
    {
        return Err(EINVAL);
    }
    if old.base != new.base {
        if set.overlaps(r.slot, base, npages) {
            return Err(EEXIST);
        }
        return Ok(Change::Move(new));
    }
    if old.flags != new.flags {
        return Ok(Change::Flags(new));
    }
    Ok(Change::Nothing)
}

/// Gives a slot its dirty log if its flags ask for one.
fn with_log<V: Backend>(vm: &VmCore<V>, mut s: Slot) -> Result<Slot> {
    if s.flags & abi::KVM_MEM_LOG_DIRTY_PAGES != 0 && s.dirty.is_none() {
        let all = vm.base.caps.manual_dirty() & abi::KVM_DIRTY_LOG_INITIALLY_SET != 0;
        s.dirty = Some(DirtyLog::new(s.npages, all)?);
    }
    Ok(s)
}

/// Publishes a set without slot `id` and with `add`. The set is not swapped while the host
/// invalidates a range: both ends of the invalidation must see the same slots.
fn publish<V: Backend>(vm: &VmCore<V>, id: u32, add: Option<Slot>) -> Result {
    let slots = &vm.base.slots;
    let new = slots.read().with(id, add)?;
    let old = vm.mmu.when_quiet(|| slots.set.publish(new));
    slots.generation.fetch_add(1, Ordering::Release);
    drop(old.wait());
    Ok(())
}

/// Publishes the slot as invalid and removes its mappings.
fn withdraw<V: Backend>(vm: &VmCore<V>, old: &Slot) -> Result {
    let gone = Slot {
        invalid: true,
        ..old.clone()
    };
    publish(vm, old.id, Some(gone))?;
    mmu::zap::zap_range(vm, old.base, Gfn(old.end()), true);
    Ok(())
}

/// A slot that the kernel needs for itself, with an id beyond user space's. EEXIST where user space has
/// memory already.
pub(crate) fn add_private<V: Backend>(vm: &VmCore<V>, gfn: Gfn, npages: u64, hva: Hva) -> Result {
    let slots = &vm.base.slots;
    let _lock = slots.lock.lock();
    let id = PRIVATE_SLOT;
    if slots.read().overlaps(id, gfn.0, npages) {
        return Err(EEXIST);
    }
    let slot = Slot {
        id,
        base: gfn,
        npages,
        hva,
        flags: 0,
        invalid: false,
        dirty: None,
    };
    publish(vm, id, Some(slot))
}

/// KVM_SET_USER_MEMORY_REGION2: the same, with room for a guest_memfd, which does not exist here.
pub(crate) fn set_region2<V: Backend>(
    vm: &VmCore<V>,
    r: &abi::KvmUserspaceMemoryRegion2,
) -> Result<isize> {
    let plain = abi::KvmUserspaceMemoryRegion {
        slot: r.slot,
        flags: r.flags,
        guest_phys_addr: r.guest_phys_addr,
        memory_size: r.memory_size,
        userspace_addr: r.userspace_addr,
    };
    set_region(vm, &plain)
}
