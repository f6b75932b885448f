// SPDX-License-Identifier: GPL-2.0

//! Memory slots: guest-physical ranges backed by user memory.
//!
//! A [`SlotSet`] holds the slots of one address space (0 is ordinary memory, 1 what the guest sees
//! in SMM) and finds them by guest page, by user address and by number. [`request`] decides what a
//! KVM_SET_USER_MEMORY_REGION asks for and whether it may have it.
//!
//! # Publication
//!
//! vCPUs read a set without a lock while user space replaces it, so the caller keeps two equal
//! sets per address space: readers see one under SRCU, the updater changes the other, publishes
//! it, waits for the readers of the first, and repeats the change there. Both changes take O(log n)
//! steps and one pass over the tails of the
//! indices, nothing if slots come in ascending order. All memory is
//! reserved by [`SlotSet::reserve`] before the first of the two, so that the second cannot fail.
//!
//! Nested mappings hold no reference to their page, so a slot that is deleted or moved is first
//! published as invalid ([`SlotSet::set_invalid`]): no new mapping is made through it, while the
//! MMU notifier still finds it. Only when its mappings are gone is it published without it.

pub mod index;
pub mod request;

#[cfg(test)]
mod tests;

use crate::addr::{Gfn, Hva, PAGE_SHIFT};
use index::Indices;

pub use index::{Buffer, NoMemory, Storage};
pub use request::{Change, Limits, Request, SlotError};

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

/// A slot and what the caller keeps with it (dirty bitmap, attributes; usually a reference).
#[derive(Clone, Debug)]
pub struct Entry<D> {
    /// The slot.
    pub slot: Slot,
    /// The caller's data.
    pub data: D,
}

/// The slots of one address space. See the module documentation.
pub struct SlotSet<D, S: Storage> {
    entries: S::Buf<Entry<D>>,
    indices: Indices<S>,
    /// Changed by the caller with every publication, to tag what is derived from the set.
    pub generation: u64,
}

impl<D, S: Storage> SlotSet<D, S> {
    /// No slots.
    pub fn new() -> Self {
        SlotSet {
            entries: Default::default(),
            indices: Indices::new(),
            generation: 0,
        }
    }

    /// Number of slots.
    pub fn len(&self) -> usize {
        self.entries.as_slice().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes room for `n` more slots. The only function that allocates.
    pub fn reserve(&mut self, n: usize) -> Result<(), NoMemory> {
        self.entries.reserve(n)?;
        self.indices.reserve(n)
    }

    /// Adds a slot.
    ///
    /// Refused without effect if its number is taken, if it shares a page with another slot, if it
    /// is empty or wraps, or if [`reserve`](Self::reserve) did not make room.
    pub fn insert(&mut self, slot: Slot, data: D) -> Result<(), SlotError> {
        let wraps = slot.base.0.checked_add(slot.pages).is_none()
            || slot.pages > u64::MAX >> PAGE_SHIFT
            || slot.hva.0.checked_add(slot.pages << PAGE_SHIFT).is_none();
        if slot.pages == 0 || wraps {
            return Err(SlotError::Invalid);
        }
        if self.by_id(slot.id).is_some() || self.overlapping(slot.base, slot.end()).is_some() {
            return Err(SlotError::Exists);
        }
        if self.entries.room() == 0 || self.indices.room() == 0 {
            return Err(SlotError::NoMemory);
        }
        let pos = self.len() as u32;
        if self.entries.push(Entry { slot, data }).is_ok() {
            self.indices.insert(self.entries.as_slice(), pos);
        }
        Ok(())
    }

    /// Removes the slot numbered `id`.
    pub fn remove(&mut self, id: u16) -> Option<Entry<D>> {
        let pos = self.indices.find_id(self.entries.as_slice(), id)?;
        let last = (self.len() as u32).wrapping_sub(1);
        self.indices.remove(self.entries.as_slice(), pos, last);
        let moved = self.entries.pop()?;
        match self.entries.as_mut_slice().get_mut(pos as usize) {
            Some(e) => Some(core::mem::replace(e, moved)),
            None => Some(moved),
        }
    }

    /// Moves the slot numbered `id` to `base`, with its data. `false`, without effect, if there is
    /// no such slot or the new place is taken.
    pub fn relocate(&mut self, id: u16, base: Gfn) -> bool {
        let Some(slot) = self.by_id(id).map(|e| e.slot) else {
            return false;
        };
        let new = Slot { base, ..slot };
        if base.0.checked_add(slot.pages).is_none() {
            return false;
        }
        let mut others = self.in_gfn_range(base, new.end());
        if others.any(|e| e.slot.id != id) {
            return false;
        }
        drop(others);
        // The room of the removed slot is there to take it back.
        match self.remove(id) {
            Some(e) => self.insert(new, e.data).is_ok(),
            None => false,
        }
    }

    /// Changes the flags of a slot. `false` if there is no such slot.
    pub fn set_flags(&mut self, id: u16, flags: u32) -> bool {
        self.change(id, |e| e.slot.flags = flags)
    }

    /// Marks a slot as about to go, or takes the mark back. `false` if there is no such slot.
    pub fn set_invalid(&mut self, id: u16, invalid: bool) -> bool {
        self.change(id, |e| e.slot.invalid = invalid)
    }

    /// Replaces the data of a slot and returns what was there; `Err` with the new data if there is
    /// no such slot.
    pub fn replace_data(&mut self, id: u16, data: D) -> Result<D, D> {
        let pos = self.indices.find_id(self.entries.as_slice(), id);
        let entry = pos.and_then(|p| self.entries.as_mut_slice().get_mut(p as usize));
        match entry {
            Some(e) => Ok(core::mem::replace(&mut e.data, data)),
            None => Err(data),
        }
    }

    fn change(&mut self, id: u16, f: impl FnOnce(&mut Entry<D>)) -> bool {
        let pos = self.indices.find_id(self.entries.as_slice(), id);
        let entry = pos.and_then(|p| self.entries.as_mut_slice().get_mut(p as usize));
        entry.map(f).is_some()
    }

    /// The slot `gfn` lies in.
    pub fn find(&self, gfn: Gfn) -> Option<&Entry<D>> {
        self.find_near(gfn, u32::MAX).map(|(_, e)| e)
    }

    /// Like [`find`](Self::find), trying first the slot found last time: `hint` is the number that
    /// came with it. Any value is a valid hint.
    #[inline]
    pub fn find_near(&self, gfn: Gfn, hint: u32) -> Option<(u32, &Entry<D>)> {
        let entries = self.entries.as_slice();
        if let Some(e) = entries.get(hint as usize) {
            if e.slot.contains(gfn) {
                return Some((hint, e));
            }
        }
        let pos = self.indices.find_gfn(entries, gfn)?;
        entries.get(pos as usize).map(|e| (pos, e))
    }

    /// The slot numbered `id`.
    pub fn by_id(&self, id: u16) -> Option<&Entry<D>> {
        let entries = self.entries.as_slice();
        entries.get(self.indices.find_id(entries, id)? as usize)
    }

    /// A slot that shares a guest page with the range, if there is one: the lowest.
    pub fn overlapping(&self, start: Gfn, end: Gfn) -> Option<&Entry<D>> {
        self.in_gfn_range(start, end).next()
    }

    /// The slots that share a guest page with the range, in ascending order.
    pub fn in_gfn_range(&self, start: Gfn, end: Gfn) -> impl Iterator<Item = &Entry<D>> {
        let entries = self.entries.as_slice();
        self.indices
            .ending_after(entries, start)
            .filter_map(|p| entries.get(p as usize))
            .take_while(move |e| e.slot.base.0 < end.0)
    }

    /// All slots, by ascending guest page.
    pub fn iter(&self) -> impl Iterator<Item = &Entry<D>> {
        self.in_gfn_range(Gfn(0), Gfn(u64::MAX))
    }

    /// The slots backed by some of the user addresses from `start` to `end` (exclusive), each with
    /// the range of its guest pages that are: what an MMU notifier has to look at.
    pub fn in_hva_range(
        &self,
        start: Hva,
        end: Hva,
    ) -> impl Iterator<Item = (&Entry<D>, Gfn, Gfn)> {
        let entries = self.entries.as_slice();
        self.indices
            .reaching(start)
            .filter_map(|p| entries.get(p as usize))
            .take_while(move |e| e.slot.hva.0 < end.0)
            .filter(move |e| e.slot.hva_end().0 > start.0)
            .map(move |e| {
                let (first, last) = e.slot.gfn_range(start, end);
                (e, first, last)
            })
    }
}

impl<D, S: Storage> Default for SlotSet<D, S> {
    fn default() -> Self {
        Self::new()
    }
}
