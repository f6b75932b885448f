// SPDX-License-Identifier: GPL-2.0

//! The orders in which a slot set is searched, as sorted arrays of positions.

use super::Entry;
use crate::addr::{Gfn, Hva};

/// The allocator said no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoMemory;

/// A growable array of the caller's.
pub trait Buffer<T>: Default {
    /// The elements.
    fn as_slice(&self) -> &[T];

    /// The elements, to be changed.
    fn as_mut_slice(&mut self) -> &mut [T];

    /// Makes room for `n` more elements; may move the elements.
    fn reserve(&mut self, n: usize) -> Result<(), NoMemory>;

    /// For how many more elements there is room.
    fn room(&self) -> usize;

    /// Appends an element if there is room, and returns it if not. Does not allocate.
    fn push(&mut self, value: T) -> Result<(), T>;

    /// Removes the last element.
    fn pop(&mut self) -> Option<T>;
}

/// Chooses the array type.
pub trait Storage {
    /// An array of `T`.
    type Buf<T>: Buffer<T>;
}

/// A slot in the order of user addresses.
#[derive(Clone, Copy, Debug)]
struct ByHva {
    pos: u32,
    /// The highest end of this slot and of all before it. Slots may overlap in user memory; with
    /// this, the first one that can reach a given address is found by bisection.
    reach: u64,
}

/// Positions in the array of entries, sorted in three ways.
pub(super) struct Indices<S: Storage> {
    by_gfn: S::Buf<u32>,
    by_id: S::Buf<u32>,
    by_hva: S::Buf<ByHva>,
}

impl<S: Storage> Indices<S> {
    pub(super) fn new() -> Self {
        Indices {
            by_gfn: Default::default(),
            by_id: Default::default(),
            by_hva: Default::default(),
        }
    }

    pub(super) fn reserve(&mut self, n: usize) -> Result<(), NoMemory> {
        self.by_gfn.reserve(n)?;
        self.by_id.reserve(n)?;
        self.by_hva.reserve(n)
    }

    pub(super) fn room(&self) -> usize {
        let room = self.by_gfn.room().min(self.by_id.room());
        room.min(self.by_hva.room())
    }

    /// Adds the entry at `pos`; there is room.
    pub(super) fn insert<D>(&mut self, entries: &[Entry<D>], pos: u32) {
        let at = gfn_place(entries, self.by_gfn.as_slice(), gfn_key(entries, pos));
        insert_at(&mut self.by_gfn, at, pos);
        let at = id_place(entries, self.by_id.as_slice(), id_key(entries, pos));
        insert_at(&mut self.by_id, at, pos);
        let at = hva_place(entries, self.by_hva.as_slice(), hva_key(entries, pos));
        insert_at(&mut self.by_hva, at, ByHva { pos, reach: 0 });
        self.update_reach(entries, at);
    }

    /// Takes the entry at `pos` out, and gives its position to the one at `last`, which is about
    /// to be moved there.
    pub(super) fn remove<D>(&mut self, entries: &[Entry<D>], pos: u32, last: u32) {
        let gfn = |p| gfn_key(entries, p);
        let id = |p| id_key(entries, p);
        let hva = |p| hva_key(entries, p);
        let at = gfn_place(entries, self.by_gfn.as_slice(), gfn(pos));
        remove_at(&mut self.by_gfn, at);
        let at = id_place(entries, self.by_id.as_slice(), id(pos));
        remove_at(&mut self.by_id, at);
        let at = hva_place(entries, self.by_hva.as_slice(), hva(pos));
        remove_at(&mut self.by_hva, at);
        self.update_reach(entries, at);
        if pos == last {
            return;
        }
        let at = gfn_place(entries, self.by_gfn.as_slice(), gfn(last));
        if let Some(p) = self.by_gfn.as_mut_slice().get_mut(at) {
            *p = pos;
        }
        let at = id_place(entries, self.by_id.as_slice(), id(last));
        if let Some(p) = self.by_id.as_mut_slice().get_mut(at) {
            *p = pos;
        }
        let at = hva_place(entries, self.by_hva.as_slice(), hva(last));
        if let Some(h) = self.by_hva.as_mut_slice().get_mut(at) {
            h.pos = pos;
        }
    }

    /// Computes the reaches from place `from` on, where a slot was added or removed.
    fn update_reach<D>(&mut self, entries: &[Entry<D>], from: usize) {
        let slice = self.by_hva.as_mut_slice();
        let mut reach = match from.checked_sub(1) {
            Some(before) => slice.get(before).map_or(0, |h| h.reach),
            None => 0,
        };
        for h in slice.iter_mut().skip(from) {
            let end = entries
                .get(h.pos as usize)
                .map_or(0, |e| e.slot.hva_end().0);
            reach = reach.max(end);
            // From the first one that did not change, the rest does not change either. (A new one
            // comes with a reach of 0 and always changes.)
            if h.reach == reach {
                break;
            }
            h.reach = reach;
        }
    }

    pub(super) fn find_gfn<D>(&self, entries: &[Entry<D>], gfn: Gfn) -> Option<u32> {
        let index = self.by_gfn.as_slice();
        let after = index.partition_point(|p| gfn_key(entries, *p) <= gfn.0);
        let pos = *index.get(after.checked_sub(1)?)?;
        let entry = entries.get(pos as usize)?;
        entry.slot.contains(gfn).then_some(pos)
    }

    pub(super) fn find_id<D>(&self, entries: &[Entry<D>], id: u16) -> Option<u32> {
        let index = self.by_id.as_slice();
        let pos = *index.get(id_place(entries, index, id))?;
        (id_key(entries, pos) == id).then_some(pos)
    }

    /// The positions in ascending order, from the first slot that ends after `gfn`.
    pub(super) fn ending_after<D>(
        &self,
        entries: &[Entry<D>],
        gfn: Gfn,
    ) -> impl Iterator<Item = u32> + '_ {
        let index = self.by_gfn.as_slice();
        let end = |p: u32| entries.get(p as usize).map_or(0, |e| e.slot.end().0);
        let first = index.partition_point(|p| end(*p) <= gfn.0);
        index.iter().skip(first).copied()
    }

    /// The positions in ascending order of user addresses, leaving out slots at the front that end
    /// before or at `hva`.
    pub(super) fn reaching(&self, hva: Hva) -> impl Iterator<Item = u32> + '_ {
        let index = self.by_hva.as_slice();
        let first = index.partition_point(|h| h.reach <= hva.0);
        index.iter().skip(first).map(|h| h.pos)
    }
}

fn gfn_key<D>(entries: &[Entry<D>], pos: u32) -> u64 {
    entries.get(pos as usize).map_or(0, |e| e.slot.base.0)
}

fn id_key<D>(entries: &[Entry<D>], pos: u32) -> u16 {
    entries.get(pos as usize).map_or(0, |e| e.slot.id)
}

/// The number makes it unique.
fn hva_key<D>(entries: &[Entry<D>], pos: u32) -> (u64, u16) {
    entries
        .get(pos as usize)
        .map_or((0, 0), |e| (e.slot.hva.0, e.slot.id))
}

fn gfn_place<D>(entries: &[Entry<D>], index: &[u32], key: u64) -> usize {
    index.partition_point(|p| gfn_key(entries, *p) < key)
}

fn id_place<D>(entries: &[Entry<D>], index: &[u32], key: u16) -> usize {
    index.partition_point(|p| id_key(entries, *p) < key)
}

fn hva_place<D>(entries: &[Entry<D>], index: &[ByHva], key: (u64, u16)) -> usize {
    index.partition_point(|h| hva_key(entries, h.pos) < key)
}

fn insert_at<T, B: Buffer<T>>(buf: &mut B, at: usize, value: T) {
    if buf.push(value).is_ok() {
        if let Some(tail @ [_, ..]) = buf.as_mut_slice().get_mut(at..) {
            tail.rotate_right(1);
        }
    }
}

fn remove_at<T, B: Buffer<T>>(buf: &mut B, at: usize) {
    if let Some(tail @ [_, ..]) = buf.as_mut_slice().get_mut(at..) {
        tail.rotate_left(1);
        buf.pop();
    }
}
