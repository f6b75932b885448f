// SPDX-License-Identifier: GPL-2.0

//! guest_memfd: what may be asked of such a file, and which guest pages its pages back.
//!
//! A page of the file backs at most one slot, so that a hole in the file is a few ranges of guest
//! pages. Where a function is asked about the whole file its end is [`u64::MAX`].

use super::tree::{Order, Tree};
use super::{NoMemory, Slot, SlotError, Storage};
use crate::abi::vm::{KvmCreateGuestMemfd, KvmMemoryAttributes};
use crate::abi::vm::{GUEST_MEMFD_FLAG_INIT_SHARED, GUEST_MEMFD_FLAG_MMAP};
use crate::addr::{Gfn, PAGE_SHIFT, PAGE_SIZE};
use core::ops::ControlFlow;

/// The flags that KVM_CREATE_GUEST_MEMFD takes in a VM without private memory.
pub const FLAGS: u64 = GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED;

/// The largest offset in a file.
const MAX_OFFSET: u64 = i64::MAX as u64;

/// `FALLOC_FL_KEEP_SIZE`.
const KEEP_SIZE: u32 = 1;
/// `FALLOC_FL_PUNCH_HOLE`.
const PUNCH_HOLE: u32 = 2;

const fn aligned(x: u64) -> bool {
    x & (PAGE_SIZE - 1) == 0
}

/// Can there be such a file? EINVAL if not. The reserved words do not matter.
pub const fn may_create(r: &KvmCreateGuestMemfd) -> bool {
    r.flags & !FLAGS == 0 && r.size != 0 && r.size <= MAX_OFFSET && aligned(r.size)
}

/// Does KVM_SET_MEMORY_ATTRIBUTES ask for what can be in a VM without private memory, which is
/// that a range has no attributes? EINVAL if not.
pub const fn may_set_attributes(r: &KvmMemoryAttributes) -> bool {
    r.flags == 0
        && r.attributes == 0
        && r.size != 0
        && r.address.checked_add(r.size).is_some()
        && aligned(r.address)
        && aligned(r.size)
}

/// Can a slot of `bytes` begin at `offset`, both page-aligned, of a file of `size` bytes?
pub const fn holds(size: u64, offset: u64, bytes: u64) -> bool {
    match offset.checked_add(bytes) {
        Some(end) => end <= size,
        None => false,
    }
}

/// Why an fallocate() is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// EOPNOTSUPP: there is no such mode here.
    Mode,
    /// EINVAL.
    Range,
}

/// What an fallocate() asks for, in pages of the file; the end is exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallocate {
    /// The pages go, and are zeros when they are asked for again.
    Punch {
        /// The first.
        start: u64,
        /// One past the last; may be beyond the file's end.
        end: u64,
    },
    /// The pages that are not there are made.
    Fill {
        /// The first.
        start: u64,
        /// One past the last.
        end: u64,
    },
}

impl Fallocate {
    /// From the arguments, of which the VFS has checked that offset and length are positive and end
    /// below 2^63; `size` is the file's, in bytes.
    ///
    /// The size is fixed: only with FALLOC_FL_KEEP_SIZE does anything exist.
    pub const fn new(mode: u32, offset: u64, len: u64, size: u64) -> Result<Self, Refused> {
        if mode & KEEP_SIZE == 0 || mode & !(KEEP_SIZE | PUNCH_HOLE) != 0 {
            return Err(Refused::Mode);
        }
        if !aligned(offset) || !aligned(len) {
            return Err(Refused::Range);
        }
        let (start, end) = (
            offset >> PAGE_SHIFT,
            offset.saturating_add(len) >> PAGE_SHIFT,
        );
        if mode & PUNCH_HOLE != 0 {
            Ok(Self::Punch { start, end })
        } else if holds(size, offset, len) {
            Ok(Self::Fill { start, end })
        } else {
            Err(Refused::Range)
        }
    }
}

/// The pages of a file that back a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The first page of the file.
    pub start: u64,
    /// How many there are.
    pub pages: u64,
    /// The slot's address space.
    pub space: u16,
    /// The guest page that `start` backs.
    pub base: Gfn,
}

impl Binding {
    /// The binding of a slot that begins at page `start` of the file.
    pub const fn of(slot: &Slot, start: u64) -> Self {
        Self {
            start,
            pages: slot.pages,
            space: slot.space,
            base: slot.base,
        }
    }

    const fn end(&self) -> u64 {
        self.start.saturating_add(self.pages)
    }

    /// The guest pages that the file's pages from `start` to `end` (exclusive) back here.
    fn guest_pages(&self, start: u64, end: u64) -> (Gfn, Gfn) {
        let first = start.max(self.start).wrapping_sub(self.start);
        let last = end.min(self.end()).saturating_sub(self.start);
        (
            self.base.wrapping_add(first),
            self.base.wrapping_add(last.max(first)),
        )
    }
}

/// By page of the file. Bindings do not overlap there.
struct ByPage;

impl Order<Binding> for ByPage {
    type Key = u64;

    fn key(item: &Binding) -> u64 {
        item.start
    }

    fn range(item: &Binding) -> (u64, u64) {
        (item.start, item.end())
    }
}

/// What backs what in one file.
pub struct Bindings<S: Storage> {
    tree: Tree<Binding, ByPage, S>,
}

impl<S: Storage + 'static> Bindings<S> {
    /// Nothing is bound.
    pub fn new() -> Self {
        Self { tree: Tree::new() }
    }

    /// These and one more. `Exists` if one of its pages backs something already.
    pub fn with(&self, new: Binding) -> Result<Self, SlotError> {
        let taken = self
            .tree
            .overlapping(new.start, new.end(), |_| ControlFlow::Break(()))
            .is_break();
        if taken {
            return Err(SlotError::Exists);
        }
        let tree = self.tree.with(new).map_err(|_| SlotError::NoMemory)?;
        Ok(Self { tree })
    }

    /// These without the one that begins at page `start` of the file.
    pub fn without(&self, start: u64) -> Result<Self, NoMemory> {
        Ok(Self {
            tree: self.tree.without(start)?,
        })
    }

    /// Calls `f` with address space and guest pages (first, one past the last) of what the file's
    /// pages from `start` to `end` (exclusive) back.
    pub fn for_each(&self, start: u64, end: u64, mut f: impl FnMut(u16, Gfn, Gfn)) {
        if start >= end {
            return;
        }
        let _ = self.tree.overlapping(start, end, |b| {
            let (first, last) = b.guest_pages(start, end);
            f(b.space, first, last);
            ControlFlow::<()>::Continue(())
        });
    }
}

impl<S: Storage + 'static> Default for Bindings<S> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::Heap;
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn files_that_can_be() {
        let may = |size, flags| {
            may_create(&KvmCreateGuestMemfd {
                size,
                flags,
                reserved: [u64::MAX; 6],
            })
        };
        for flags in 0..4 {
            assert!(may(PAGE_SIZE, flags));
            assert!(may(MAX_OFFSET & !(PAGE_SIZE - 1), flags));
        }
        assert!(!may(PAGE_SIZE, 4));
        assert!(!may(PAGE_SIZE, 1 << 63));
        for size in [0, 1, PAGE_SIZE + 1, 1 << 63, !(PAGE_SIZE - 1)] {
            assert!(!may(size, 0), "{size:#x}");
        }
    }

    #[test]
    fn attributes_that_can_be() {
        let may = |address, size, attributes, flags| {
            may_set_attributes(&KvmMemoryAttributes {
                address,
                size,
                attributes,
                flags,
            })
        };
        assert!(may(0, PAGE_SIZE, 0, 0));
        assert!(!may(0, PAGE_SIZE, 8, 0));
        assert!(!may(0, PAGE_SIZE, 0, 1));
        assert!(!may(0, 0, 0, 0));
        assert!(!may(1, PAGE_SIZE, 0, 0));
        assert!(!may(0, 1, 0, 0));
        assert!(!may(!(PAGE_SIZE - 1), PAGE_SIZE, 0, 0));
    }

    #[test]
    fn fallocate_modes_and_ranges() {
        let ask = |mode, offset, len| Fallocate::new(mode, offset, len, 4 * PAGE_SIZE);
        let (p, q) = (PAGE_SIZE, PAGE_SIZE - 1);
        // Without KEEP_SIZE, or with what else there is.
        for mode in [0, 2, 4, 8, 0x10, 0x11, 5, 7, 0x41] {
            assert_eq!(ask(mode, 0, p), Err(Refused::Mode), "{mode:#x}");
            // The mode comes first.
            assert_eq!(ask(mode, 1, p), Err(Refused::Mode), "{mode:#x}");
        }
        for mode in [1, 3] {
            for (offset, len) in [(1, p), (q, p), (0, 1), (p, q), (p, p + 1)] {
                assert_eq!(ask(mode, offset, len), Err(Refused::Range));
            }
        }
        assert_eq!(ask(1, 0, 4 * p), Ok(Fallocate::Fill { start: 0, end: 4 }));
        assert_eq!(ask(1, 3 * p, p), Ok(Fallocate::Fill { start: 3, end: 4 }));
        assert_eq!(ask(1, 3 * p, 2 * p), Err(Refused::Range));
        assert_eq!(ask(1, 4 * p, p), Err(Refused::Range));
        assert_eq!(ask(3, 4 * p, p), Ok(Fallocate::Punch { start: 4, end: 5 }));
        assert_eq!(
            ask(3, p, 1 << 40),
            Ok(Fallocate::Punch {
                start: 1,
                end: 1 + (1 << 28)
            })
        );
    }

    #[test]
    fn slots_that_a_file_holds() {
        assert!(holds(MIB, 0, MIB));
        assert!(holds(MIB, MIB - PAGE_SIZE, PAGE_SIZE));
        assert!(!holds(MIB, PAGE_SIZE, MIB));
        assert!(!holds(MIB, MIB, PAGE_SIZE));
        assert!(!holds(MIB, u64::MAX & !(PAGE_SIZE - 1), PAGE_SIZE));
    }

    fn binding() -> impl Strategy<Value = Binding> {
        (0..40u64, 1..9u64, 0..2u16, 0..1000u64).prop_map(|(start, pages, space, base)| Binding {
            start,
            pages,
            space,
            base: Gfn(base),
        })
    }

    proptest! {
        /// Against a plain table: for each page of the file the guest page that it backs.
        #[test]
        fn as_a_table(ops in prop::collection::vec((any::<bool>(), binding()), 1..60),
                      start in 0..50u64, len in 0..20u64) {
            let mut set = Bindings::<Heap>::new();
            let mut table: Vec<Option<(u64, u16, u64)>> = vec![None; 64];
            for (add, b) in ops {
                let range = b.start as usize..(b.start + b.pages) as usize;
                if add {
                    let free = table[range.clone()].iter().all(Option::is_none);
                    match set.with(b) {
                        Ok(s) => { prop_assert!(free); set = s; }
                        Err(e) => { prop_assert_eq!((free, e), (false, SlotError::Exists)); continue; }
                    }
                    for (i, page) in range.enumerate() {
                        table[page] = Some((b.start, b.space, b.base.0 + i as u64));
                    }
                } else {
                    set = set.without(b.start).unwrap();
                    for t in &mut table {
                        if t.is_some_and(|(s, _, _)| s == b.start) { *t = None; }
                    }
                }
            }
            for end in [start + len, u64::MAX] {
                let mut seen = Vec::new();
                set.for_each(start, end, |space, first, last| {
                    assert!(first < last);
                    seen.extend((first.0..last.0).map(|g| (space, g)));
                });
                let to = end.min(64) as usize;
                let want: Vec<_> = table[start as usize..to.max(start as usize)]
                    .iter().flatten().map(|(_, s, g)| (*s, *g)).collect();
                prop_assert_eq!(seen, want);
            }
        }
    }
}
