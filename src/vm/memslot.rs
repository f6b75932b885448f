// SPDX-License-Identifier: GPL-2.0

//! Memory slots: which guest-physical pages user space backs with memory, and where.
//!
//! A set of slots is immutable once published; a change makes a new set, which shares most of its
//! memory with the old one, and replaces it under SRCU. `slots_lock` serialises changes. A slot that
//! goes is first published as *invalid*: nothing new is mapped from it, but the notifier still finds
//! it while its mappings are removed.

use super::caps::USER_SLOTS;
use super::dirty::DirtyLog;
use super::gmem::Backing;
use super::VmCore;
use crate::backend::Backend;
use crate::mmu;
use core::ops::Deref;
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
use model::slots;
use model::slots::Change;
use model::slots::Limits;
use model::slots::NoMemory;
use model::slots::Request;
use model::slots::SlotError;
use model::tdp;
use model::tdp::Level;
use model::x86::ctrl::cr4;

/// The id of the identity map's slot, the first that user space cannot name.
// CAST: a number below 2^16.
const PRIVATE_SLOT: u16 = USER_SLOTS as u16;

/// A memory slot.
#[derive(Clone)]
pub(crate) struct Slot {
    /// Where it is, and what user space said of it.
    place: slots::Slot,
    /// The dirty log, while logging is on.
    dirty: Option<Arc<DirtyLog>>,
    /// The guest_memfd, if one was given.
    gmem: Option<Backing>,
}

impl Deref for Slot {
    type Target = slots::Slot;

    #[inline]
    fn deref(&self) -> &slots::Slot {
        &self.place
    }
}

impl slots::Place for Slot {
    #[inline]
    fn slot(&self) -> &slots::Slot {
        &self.place
    }
}

impl Slot {
    /// Its address space.
    pub(crate) fn space(&self) -> Space {
        Space::of(self.place.space)
    }

    /// May the guest not write to it?
    pub(crate) fn readonly(&self) -> bool {
        self.flags & abi::KVM_MEM_READONLY != 0
    }

    /// Are writes logged?
    pub(crate) fn logging(&self) -> bool {
        is_logged(&self.place)
    }

    /// The dirty log; none without logging, nor in a VM with dirty rings.
    pub(crate) fn dirty(&self) -> Option<&Arc<DirtyLog>> {
        self.dirty.as_ref()
    }

    /// The guest_memfd whose pages are the guest's memory here, if it is not user memory.
    pub(crate) fn file(&self) -> Option<&Backing> {
        self.gmem.as_ref().filter(|b| b.serves())
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
                && start.wrapping_sub(self.base.0).wrapping_add(pages) <= self.pages
                && (hva_pages ^ self.base.0) & mask == 0
            {
                break;
            }
            level = level.wrapping_sub(1);
        }
        level
    }
}

/// Counted references to the nodes of the sets.
pub(crate) struct Shared;

/// One of them.
pub(crate) struct Counted<T>(Arc<T>);

impl<T> Clone for Counted<T> {
    #[inline]
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Deref for Counted<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> slots::Pointer<T> for Counted<T> {
    fn new(value: T) -> Result<Self, NoMemory> {
        match Arc::new(value, GFP_KERNEL_ACCOUNT) {
            Ok(p) => Ok(Self(p)),
            Err(_) => Err(NoMemory),
        }
    }
}

impl slots::Storage for Shared {
    type Ptr<T> = Counted<T>;
}

/// An immutable set of slots.
pub(crate) type SlotSet = slots::SlotSet<Slot, Shared>;

/// An address space of a VM: what guest-physical addresses mean to a vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Space {
    /// Outside of system management mode.
    Normal,
    /// In system management mode.
    Smm,
}

impl Space {
    /// How many there are, as the answer of KVM_CAP_MULTI_ADDRESS_SPACE.
    pub(crate) const COUNT: u16 = 2;

    /// Both.
    pub(crate) const ALL: [Self; 2] = [Self::Normal, Self::Smm];

    /// By its number in the ABI.
    #[inline]
    pub(crate) fn of(number: u16) -> Self {
        if number == 0 {
            Self::Normal
        } else {
            Self::Smm
        }
    }

    /// Its number.
    fn number(self) -> u16 {
        match self {
            Self::Normal => 0,
            Self::Smm => 1,
        }
    }
}

/// The slots of a VM.
#[pin_data]
pub(crate) struct Slots {
    normal: SrcuBox<SlotSet>,
    smm: SrcuBox<SlotSet>,
    /// How often a set was replaced.
    generation: AtomicU64,
    /// Slots that are logged.
    logged: AtomicU64,
    /// `kvm->slots_lock`.
    #[pin]
    lock: Mutex<()>,
}

impl Slots {
    /// No slots.
    pub(crate) fn new(domain: Arc<SrcuDomain>) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            normal: SrcuBox::new(domain.clone(), KBox::new(SlotSet::new(), GFP_KERNEL_ACCOUNT)?),
            smm: SrcuBox::new(domain, KBox::new(SlotSet::new(), GFP_KERNEL_ACCOUNT)?),
            generation: AtomicU64::new(0),
            logged: AtomicU64::new(0),
            lock <- new_mutex!((), "kvm->slots_lock"),
        }? Error)
    }

    /// Keeps the slots from changing.
    pub(crate) fn lock(&self) -> kernel::sync::MutexGuard<'_, ()> {
        self.lock.lock()
    }

    #[inline]
    fn of(&self, space: Space) -> &SrcuBox<SlotSet> {
        match space {
            Space::Normal => &self.normal,
            Space::Smm => &self.smm,
        }
    }

    /// The slots of an address space now, for as long as the answer is kept.
    #[inline]
    pub(crate) fn space(&self, space: Space) -> SrcuRef<'_, SlotSet> {
        self.of(space).read()
    }

    /// Changes with every change of the slots. Taken before looking at them, it tells later whether
    /// what was found still holds.
    #[inline]
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Is any slot logged?
    pub(crate) fn any_logging(&self) -> bool {
        self.logged.load(Ordering::Relaxed) != 0
    }

    /// One more slot is logged, or one less.
    fn count_logged(&self, before: bool, after: bool) {
        let change = u64::from(after).wrapping_sub(u64::from(before));
        self.logged.fetch_add(change, Ordering::Relaxed);
    }

    /// Is any slot backed by one of the user addresses?
    pub(crate) fn covers(&self, start: Hva, end: Hva) -> bool {
        Space::ALL
            .iter()
            .any(|s| self.space(*s).backed_by(start, end))
    }

    /// Calls `f` with the guest pages that the user addresses `start .. end` back.
    pub(crate) fn for_each_in_hva(&self, start: Hva, end: Hva, mut f: impl FnMut(Space, Gfn, Gfn)) {
        for space in Space::ALL {
            let set = self.space(space);
            set.in_hva_range(start, end, |_, first, last| f(space, first, last));
        }
    }
}

/// The user address of a guest page, if it may be read (or, with `write`, written).
#[inline]
pub(crate) fn hva(set: &SlotSet, gfn: Gfn, write: bool) -> Option<(Hva, &Slot)> {
    let s = set.find(gfn)?;
    if s.invalid || (write && s.readonly()) {
        return None;
    }
    Some((s.hva_of(gfn), s))
}

/// What slots of a VM may be like, with these flags.
fn limits(flags: u32) -> Limits {
    // User addresses are half of those there are, less the last page, which the kernel keeps free.
    let levels_5 = host::cpu::cr4() & cr4::LA57 != 0;
    let user: u64 = if levels_5 { 1 << 56 } else { 1 << 47 };
    let gfn_bits = u32::from(host::cpu::raw_phys_bits()).saturating_sub(PAGE_SHIFT);
    Limits {
        // CAST: a number below 2^16.
        user_slots: USER_SLOTS as u16,
        spaces: Space::COUNT,
        flags,
        last_gfn: Gfn(1u64.wrapping_shl(gfn_bits).wrapping_sub(1)),
        hva_end: user.wrapping_sub(PAGE_SIZE),
    }
}

/// KVM_SET_USER_MEMORY_REGION: the second form without a guest_memfd.
pub(crate) fn set_region<V: Backend>(
    vm: &VmCore<V>,
    r: &abi::KvmUserspaceMemoryRegion,
) -> Result<isize> {
    let mut full = abi::KvmUserspaceMemoryRegion2::zeroed();
    full.slot = r.slot;
    full.flags = r.flags;
    full.guest_phys_addr = r.guest_phys_addr;
    full.memory_size = r.memory_size;
    full.userspace_addr = r.userspace_addr;
    set(vm, &full, FLAGS)
}

/// KVM_SET_USER_MEMORY_REGION2.
pub(crate) fn set_region2<V: Backend>(
    vm: &VmCore<V>,
    r: &abi::KvmUserspaceMemoryRegion2,
) -> Result<isize> {
    set(vm, r, FLAGS | abi::KVM_MEM_GUEST_MEMFD)
}

/// The flags of both.
const FLAGS: u32 = abi::KVM_MEM_LOG_DIRTY_PAGES | abi::KVM_MEM_READONLY;

/// Changes the slots as `r` asks, which may have these flags.
///
/// EINVAL for what no slot can be, EEXIST for an overlap with another one or of what backs them,
/// EBADF for a guest_memfd that is no descriptor, ENOMEM.
fn set<V: Backend>(
    vm: &VmCore<V>,
    r: &abi::KvmUserspaceMemoryRegion2,
    flags: u32,
) -> Result<isize> {
    let refused = |e: SlotError| match e {
        SlotError::Invalid => EINVAL,
        SlotError::Exists => EEXIST,
        SlotError::NoMemory => ENOMEM,
    };
    let request = Request {
        slot: r.slot,
        flags: r.flags,
        gpa: r.guest_phys_addr,
        size: r.memory_size,
        hva: r.userspace_addr,
        memfd_offset: r.guest_memfd_offset,
    };
    let limits = limits(flags);
    request.validate(&limits).map_err(refused)?;
    let slots = &vm.base.slots;
    let space = Space::of(request.space());
    let mut asked = None;
    let _lock = slots.lock.lock();
    let (change, old) = {
        let set = slots.space(space);
        let change = request.change(&set).map_err(refused)?;
        (change, set.by_id(request.id()).cloned())
    };
    let gmem = match &change {
        Change::Create(new) if r.flags & abi::KVM_MEM_GUEST_MEMFD != 0 => {
            let (fd, offset) = (r.guest_memfd, r.guest_memfd_offset);
            Some(Backing::find(vm, new, fd, offset, &mut asked)?)
        }
        // Such a slot is neither moved nor changed.
        _ => None,
    };
    change.reachable(&limits).map_err(refused)?;
    let (log, bound) = old.map_or((None, None), |s| (s.dirty, s.gmem));
    match change {
        Change::Nothing => {}
        Change::Create(new) => {
            let mut new = with_log(vm, new, None)?;
            new.gmem = gmem.clone();
            let logged = new.logging();
            // Statements of their own: the first leaves the read side that the last waits for.
            let place = *new;
            let set = prepare(slots.space(space).with(new))?;
            if let Some(gmem) = &gmem {
                gmem.bind(&place)?;
            }
            swap(vm, space, set);
            count_logged(vm, false, logged);
        }
        // What comes after is made before the old slot goes: from then on nothing may fail.
        Change::Delete(old) => {
            let after = prepare(slots.space(space).without(old.id))?;
            let unbound = match &bound {
                Some(gmem) => Some((gmem, gmem.without()?)),
                None => None,
            };
            withdraw(vm, old, log)?;
            swap(vm, space, after);
            if let Some((gmem, rest)) = unbound {
                gmem.put(rest);
            }
            count_logged(vm, is_logged(&old), false);
        }
        // What was written at the old place is still to be reported: the log comes along.
        Change::Move { old, new } => {
            let new = with_log(vm, new, log.clone())?;
            let logged = new.logging();
            let after = prepare(slots.space(space).with(new))?;
            withdraw(vm, old, log)?;
            swap(vm, space, after);
            count_logged(vm, is_logged(&old), logged);
        }
        Change::Flags { old, new } => {
            let new = with_log(vm, new, log)?;
            let set = prepare(slots.space(space).with(new.clone()))?;
            swap(vm, space, set);
            // Before the sweep that makes writes noticeable.
            count_logged(vm, is_logged(&old), new.logging());
            if new.logging() {
                mmu::log::started(vm, &new);
            } else {
                mmu::log::stopped(vm, &new);
            }
        }
    }
    Ok(0)
}

/// One more slot is logged, or one less, or as many as before.
fn count_logged<V: Backend>(vm: &VmCore<V>, before: bool, after: bool) {
    if before != after {
        vm.base.slots.count_logged(before, after);
        mmu::log::switched(vm);
    }
}

fn is_logged(s: &slots::Slot) -> bool {
    s.flags & abi::KVM_MEM_LOG_DIRTY_PAGES != 0
}

/// The slot with a dirty log if it needs one: `log`, or a new one.
fn with_log<V: Backend>(
    vm: &VmCore<V>,
    place: slots::Slot,
    log: Option<Arc<DirtyLog>>,
) -> Result<Slot> {
    let mut s = Slot {
        place,
        dirty: None,
        gmem: None,
    };
    if s.logging() && vm.base.rings.as_ref().is_none() {
        let all = vm.base.caps.manual_dirty() & abi::KVM_DIRTY_LOG_INITIALLY_SET != 0;
        s.dirty = Some(match log {
            Some(log) => log,
            None => DirtyLog::new(s.pages, all)?,
        });
    }
    Ok(s)
}

/// A set that can be published.
fn prepare(new: Result<SlotSet, NoMemory>) -> Result<KBox<SlotSet>> {
    Ok(KBox::new(new.map_err(|_| ENOMEM)?, GFP_KERNEL_ACCOUNT)?)
}

/// Publishes a set. It is not swapped while the host invalidates a range: both ends of the
/// invalidation must see the same slots.
fn swap<V: Backend>(vm: &VmCore<V>, space: Space, new: KBox<SlotSet>) {
    let slots = &vm.base.slots;
    let anew = tdp::mmio_tag_wraps(slots.generation().wrapping_add(1));
    if anew {
        // The marks of device memory there are would be taken for new ones.
        mmu::zap::zap_all(vm);
    }
    let old = vm.mmu.when_quiet(|| slots.of(space).publish(new));
    slots.generation.fetch_add(1, Ordering::Release);
    if anew {
        // And those made since by vCPUs that did not see it begin anew.
        mmu::zap::zap_all(vm);
    }
    drop(old.wait());
}

/// Publishes the slot as invalid and removes its mappings.
fn withdraw<V: Backend>(
    vm: &VmCore<V>,
    place: slots::Slot,
    dirty: Option<Arc<DirtyLog>>,
) -> Result {
    let place = slots::Slot {
        invalid: true,
        ..place
    };
    let gone = Slot {
        place,
        dirty,
        gmem: None,
    };
    let space = Space::of(place.space);
    let after = prepare(vm.base.slots.space(space).with(gone))?;
    swap(vm, space, after);
    let (start, end) = with_room(&vm.base.slots.space(space), &place);
    mmu::zap::zap_range(vm, space, start, end, true);
    Ok(())
}

/// The pages of a slot, and those around it up to where another slot needs the same table: so that
/// tables which only this one needed go with it, at each level.
fn with_room(set: &SlotSet, place: &slots::Slot) -> (Gfn, Gfn) {
    let (mut start, mut end) = (place.base, place.end());
    // What a table of the last level translates, of the next, and so on.
    for level in [Level::L2M, Level::L1G, Level::L512G, Level::L256T] {
        let rest = level.pages().wrapping_sub(1);
        let first = Gfn(start.0 & !rest);
        if !set.overlaps(first, start, place.id) {
            start = first;
        }
        let last = Gfn(end.0.wrapping_add(rest) & !rest);
        if !set.overlaps(end, last, place.id) {
            end = last;
        }
    }
    (start, end)
}

/// A slot that the kernel needs for itself, with an id beyond user space's, in each address space.
/// EEXIST where user space has memory already, ENOMEM.
pub(crate) fn add_private<V: Backend>(vm: &VmCore<V>, gfn: Gfn, pages: u64, hva: Hva) -> Result {
    let slots = &vm.base.slots;
    let _lock = slots.lock.lock();
    let with = |space: Space| {
        let place = slots::Slot {
            space: space.number(),
            id: PRIVATE_SLOT,
            base: gfn,
            pages,
            hva,
            flags: 0,
            invalid: false,
        };
        let old = slots.space(space);
        if old.overlaps(place.base, place.end(), place.id) {
            return Err(EEXIST);
        }
        prepare(old.with(Slot {
            place,
            dirty: None,
            gmem: None,
        }))
    };
    let (normal, smm) = (with(Space::Normal)?, with(Space::Smm)?);
    swap(vm, Space::Normal, normal);
    swap(vm, Space::Smm, smm);
    Ok(())
}
