// SPDX-License-Identifier: GPL-2.0

//! Memory slots: guest-physical ranges backed by user memory.
//!
//! A [`SlotSet`] holds the slots of one address space (0 is ordinary memory, 1 what the guest sees
//! in SMM) and finds them by guest page, by user address and by number. [`request`] decides what a
//! KVM_SET_USER_MEMORY_REGION asks for and whether it may have it.
//!
//! # Publication
//!
//! vCPUs read a set without a lock while user space replaces it, so a set is never changed: a
//! change makes a new one in O(log n) steps, which shares the rest with the old ([`tree`]). Readers
//! have one or the other.
//!
//! Nested mappings hold no reference to their page, so a slot that is deleted or moved is first
//! published as invalid: no new mapping is made through it, while the MMU notifier still finds it.
//! Only when its mappings are gone is it published without it.

pub mod gmem;
pub mod request;
pub mod tree;

#[cfg(test)]
mod tests;

use crate::addr::{Gfn, Hva, PAGE_SHIFT};
use core::ops::ControlFlow;
use core::ops::Deref;
use tree::{Order, Tree};

pub use request::{Change, Limits, Request, SlotError};

/// The allocator said no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoMemory;

/// A shared, counted reference.
pub trait Pointer<T>: Clone + Deref<Target = T> {
    /// Moves a value to the heap.
    fn new(value: T) -> Result<Self, NoMemory>;
}

/// Chooses the kind of reference.
pub trait Storage {
    /// A reference to a `T`.
    type Ptr<T>: Pointer<T>;
}

/// One slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Number of the address space.
    pub space: u16,
    /// Number within the address space.
    pub id: u16,
    /// First guest page.
    pub base: Gfn,
    /// Number of pages, at least 1.
    pub pages: u64,
    /// User address of the first page.
    pub hva: Hva,
    /// KVM_MEM_* flags.
    pub flags: u32,
    /// About to be deleted or moved: no mapping may be made through it.
    pub invalid: bool,
}

impl Slot {
    /// One past the last guest page.
    #[inline]
    pub const fn end(&self) -> Gfn {
        self.base.wrapping_add(self.pages)
    }

    /// One past the last user address.
    #[inline]
    pub const fn hva_end(&self) -> Hva {
        self.hva.wrapping_add(self.pages << PAGE_SHIFT)
    }

    /// Whether `gfn` is one of its pages.
    #[inline]
    pub const fn contains(&self, gfn: Gfn) -> bool {
        gfn.wrapping_sub(self.base.0).0 < self.pages
    }

    /// The number of `gfn` within the slot.
    #[inline]
    pub const fn offset(&self, gfn: Gfn) -> u64 {
        gfn.wrapping_sub(self.base.0).0
    }

    /// The user address of a page of the slot.
    #[inline]
    pub const fn hva_of(&self, gfn: Gfn) -> Hva {
        self.hva.wrapping_add(self.offset(gfn) << PAGE_SHIFT)
    }

    /// The number user space knows the slot by: address space in bits 31:16.
    #[inline]
    pub const fn number(&self) -> u32 {
        ((self.space as u32) << 16) | self.id as u32
    }

    /// Whether it shares a guest page with the pages from `start` to `end` (exclusive).
    #[inline]
    pub const fn overlaps(&self, start: Gfn, end: Gfn) -> bool {
        self.base.0 < end.0 && start.0 < self.end().0
    }

    /// The guest pages backed by the user addresses from `start` to `end` (exclusive), as a range
    /// of page numbers; pages that are partly inside count. Empty if there are none.
    pub fn gfn_range(&self, start: Hva, end: Hva) -> (Gfn, Gfn) {
        let start = start.0.max(self.hva.0).wrapping_sub(self.hva.0);
        let end = end.0.min(self.hva_end().0).saturating_sub(self.hva.0);
        let first = start >> PAGE_SHIFT;
        let last = end.wrapping_add((1 << PAGE_SHIFT) - 1) >> PAGE_SHIFT;
        (
            self.base.wrapping_add(first),
            self.base.wrapping_add(last.max(first)),
        )
    }
}

/// A slot with what the caller keeps beside it.
pub trait Place {
    /// The slot.
    fn slot(&self) -> &Slot;
}

impl Place for Slot {
    fn slot(&self) -> &Slot {
        self
    }
}

/// By guest page. Slots of a set do not overlap there.
struct ByGfn;
/// By user address, then by number: user memory may back several slots.
struct ByHva;
/// By number.
struct ById;

impl<T: Place, P: Deref<Target = T>> Order<P> for ByGfn {
    type Key = u64;

    #[inline]
    fn key(item: &P) -> u64 {
        item.slot().base.0
    }

    #[inline]
    fn range(item: &P) -> (u64, u64) {
        (item.slot().base.0, item.slot().end().0)
    }
}

impl<T: Place, P: Deref<Target = T>> Order<P> for ByHva {
    type Key = (u64, u16);

    fn key(item: &P) -> (u64, u16) {
        (item.slot().hva.0, item.slot().id)
    }

    fn range(item: &P) -> (u64, u64) {
        (item.slot().hva.0, item.slot().hva_end().0)
    }
}

impl<T: Place, P: Deref<Target = T>> Order<P> for ById {
    type Key = u16;

    #[inline]
    fn key(item: &P) -> u16 {
        item.slot().id
    }

    #[inline]
    fn range(item: &P) -> (u64, u64) {
        let id = u64::from(item.slot().id);
        (id, id.wrapping_add(1))
    }
}

/// The slots of one address space. See the module documentation.
pub struct SlotSet<T: Place, S: Storage> {
    by_gfn: Tree<S::Ptr<T>, ByGfn, S>,
    by_hva: Tree<S::Ptr<T>, ByHva, S>,
    by_id: Tree<S::Ptr<T>, ById, S>,
}

impl<T: Place, S: Storage + 'static> SlotSet<T, S> {
    /// No slots.
    pub fn new() -> Self {
        SlotSet {
            by_gfn: Tree::new(),
            by_hva: Tree::new(),
            by_id: Tree::new(),
        }
    }

    /// The set with `new` instead of the slot of that number, if there is one.
    ///
    /// The caller has checked that it overlaps no other slot, is not empty and does not wrap
    /// ([`Request::change`]).
    pub fn with(&self, new: T) -> Result<Self, NoMemory> {
        let rest = self.without(new.slot().id)?;
        let item = S::Ptr::<T>::new(new)?;
        Ok(SlotSet {
            by_gfn: rest.by_gfn.with(item.clone())?,
            by_hva: rest.by_hva.with(item.clone())?,
            by_id: rest.by_id.with(item)?,
        })
    }

    /// The set without the slot numbered `id`.
    pub fn without(&self, id: u16) -> Result<Self, NoMemory> {
        let Some(old) = self.by_id.get(id) else {
            return Ok(SlotSet {
                by_gfn: self.by_gfn.clone(),
                by_hva: self.by_hva.clone(),
                by_id: self.by_id.clone(),
            });
        };
        Ok(SlotSet {
            by_gfn: self.by_gfn.without(ByGfn::key(old))?,
            by_hva: self.by_hva.without(ByHva::key(old))?,
            by_id: self.by_id.without(id)?,
        })
    }

    /// The slot `gfn` lies in.
    #[inline]
    pub fn find(&self, gfn: Gfn) -> Option<&T> {
        let item = self.by_gfn.at_or_before(gfn.0)?;
        item.slot().contains(gfn).then_some(&**item)
    }

    /// The slot numbered `id`.
    pub fn by_id(&self, id: u16) -> Option<&T> {
        self.by_id.get(id).map(|item| &**item)
    }

    /// Does a slot other than `id` share a guest page with the range?
    pub fn overlaps(&self, start: Gfn, end: Gfn, id: u16) -> bool {
        self.by_gfn
            .overlapping(start.0, end.0, |item| {
                if item.slot().id == id {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            })
            .is_break()
    }

    /// Calls `f` with each slot that is backed by some of the user addresses from `start` to `end`
    /// (exclusive), and with the range of its guest pages that are: what an MMU notifier has to
    /// look at.
    pub fn in_hva_range(&self, start: Hva, end: Hva, mut f: impl FnMut(&T, Gfn, Gfn)) {
        let _ = self.by_hva.overlapping(start.0, end.0, |item| {
            let (first, last) = item.slot().gfn_range(start, end);
            f(item, first, last);
            ControlFlow::<()>::Continue(())
        });
    }

    /// Is any slot backed by one of the user addresses from `start` to `end` (exclusive)?
    pub fn backed_by(&self, start: Hva, end: Hva) -> bool {
        self.by_hva
            .overlapping(start.0, end.0, |_| ControlFlow::Break(()))
            .is_break()
    }

    /// Calls `f` with all slots, by ascending guest page.
    pub fn for_each(&self, mut f: impl FnMut(&T)) {
        let _ = self.by_gfn.overlapping(0, u64::MAX, |item| {
            f(item);
            ControlFlow::<()>::Continue(())
        });
    }
}

impl<T: Place, S: Storage + 'static> Default for SlotSet<T, S> {
    fn default() -> Self {
        Self::new()
    }
}
