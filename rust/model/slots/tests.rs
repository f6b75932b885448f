// SPDX-License-Identifier: GPL-2.0

//! Tests of slots: the rules of the ioctl, and random sets against a plain list.

use proptest::prelude::*;

use super::*;
use crate::abi::vm::{KVM_MEM_GUEST_MEMFD, KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY};

/// An array with a capacity that only `reserve` extends.
struct Vector<T> {
    items: Vec<T>,
    capacity: usize,
}

impl<T> Default for Vector<T> {
    fn default() -> Self {
        Vector {
            items: Vec::new(),
            capacity: 0,
        }
    }
}

impl<T> Buffer<T> for Vector<T> {
    fn as_slice(&self) -> &[T] {
        &self.items
    }

    fn as_mut_slice(&mut self) -> &mut [T] {
        &mut self.items
    }

    fn reserve(&mut self, n: usize) -> Result<(), NoMemory> {
        self.capacity = self.capacity.max(self.items.len() + n);
        Ok(())
    }

    fn room(&self) -> usize {
        self.capacity - self.items.len()
    }

    fn push(&mut self, value: T) -> Result<(), T> {
        if self.room() == 0 {
            return Err(value);
        }
        self.items.push(value);
        Ok(())
    }

    fn pop(&mut self) -> Option<T> {
        self.items.pop()
    }
}

struct Heap;

impl Storage for Heap {
    type Buf<T> = Vector<T>;
}

type Set = SlotSet<u32, Heap>;

const LOG: u32 = KVM_MEM_LOG_DIRTY_PAGES;
const RO: u32 = KVM_MEM_READONLY;
const MEMFD: u32 = KVM_MEM_GUEST_MEMFD;

const LIMITS: Limits = Limits {
    user_slots: 32764,
    spaces: 2,
    flags: LOG | RO | MEMFD,
    last_gfn: Gfn((1 << 36) - 1),
    hva_end: 0x7fff_ffff_f000,
};

fn slot(id: u16, base: u64, pages: u64, hva: u64) -> Slot {
    Slot {
        space: 0,
        id,
        base: Gfn(base),
        pages,
        hva: Hva(hva),
        flags: 0,
        invalid: false,
    }
}

fn set(slots: &[Slot]) -> Set {
    let mut s = Set::new();
    s.reserve(slots.len()).unwrap();
    for x in slots {
        s.insert(*x, u32::from(x.id)).unwrap();
    }
    s
}

fn request(id: u32, gpa: u64, size: u64, hva: u64) -> Request {
    Request {
        slot: id,
        gpa,
        size,
        hva,
        ..Request::default()
    }
}

fn answer(r: Request, s: &Set) -> Result<Change, SlotError> {
    r.validate(&LIMITS)?;
    r.change(s, &LIMITS)
}

#[test]
fn bad_arguments() {
    let s = Set::new();
    let good = request(1, 0x1000, 0x2000, 0x10000);
    assert!(matches!(answer(good, &s), Ok(Change::Create(_))));
    let bad = [
        Request {
            gpa: 0x1001,
            ..good
        },
        Request {
            size: 0x2001,
            ..good
        },
        Request {
            hva: 0x10800,
            ..good
        },
        Request { flags: 8, ..good },
        Request {
            flags: RO | MEMFD,
            ..good
        },
        Request {
            flags: LOG | MEMFD,
            ..good
        },
        Request {
            flags: MEMFD,
            memfd_offset: 1,
            ..good
        },
        Request {
            flags: MEMFD,
            memfd_offset: !0xfff,
            ..good
        },
        Request {
            slot: 32764,
            ..good
        },
        Request {
            slot: 2 << 16 | 1,
            ..good
        },
        Request {
            gpa: !0xfff,
            ..good
        },
        Request {
            hva: !0xfff,
            ..good
        },
        Request {
            hva: 0x7fff_ffff_e000,
            ..good
        },
        Request {
            size: 1 << 43,
            ..good
        },
        Request {
            gpa: 1 << 48,
            ..good
        },
        Request {
            gpa: (1 << 48) - 0x1000,
            ..good
        },
        Request { size: 0, ..good },
    ];
    for r in bad {
        assert_eq!(answer(r, &s), Err(SlotError::Invalid), "{r:x?}");
    }
    for r in [
        Request {
            slot: 1 << 16 | 1,
            ..good
        },
        Request {
            slot: 32763,
            ..good
        },
        Request {
            size: 0x7fff_ffff << 12,
            ..good
        },
        Request {
            flags: MEMFD,
            memfd_offset: 0x5000,
            ..good
        },
        Request {
            flags: RO | LOG,
            ..good
        },
        Request {
            gpa: (1 << 48) - 0x2000,
            ..good
        },
    ] {
        assert!(answer(r, &s).is_ok(), "{r:x?}");
    }
    // Flags the VM does not know are refused whatever they mean elsewhere.
    let v1 = Limits {
        flags: LOG | RO,
        ..LIMITS
    };
    let r = Request {
        flags: MEMFD,
        ..good
    };
    assert_eq!(r.validate(&v1), Err(SlotError::Invalid));
}

#[test]
fn life_of_a_slot() {
    let old = Slot {
        flags: RO,
        ..slot(3, 0x10, 4, 0x40000)
    };
    let s = set(&[old, slot(4, 0x20, 4, 0x80000)]);
    let same = Request {
        flags: RO,
        ..request(3, 0x10000, 0x4000, 0x40000)
    };
    assert_eq!(answer(same, &s), Ok(Change::Nothing));
    let r = Request {
        flags: RO | LOG,
        ..same
    };
    let new = Slot {
        flags: RO | LOG,
        ..old
    };
    assert_eq!(answer(r, &s), Ok(Change::Flags { old, new }));
    // It may move over its own old place, and change logging in one go.
    let r = Request {
        gpa: 0x11000,
        flags: RO | LOG,
        ..same
    };
    let new = Slot {
        base: Gfn(0x11),
        ..new
    };
    assert_eq!(answer(r, &s), Ok(Change::Move { old, new }));
    let r = Request {
        gpa: 0x1d000,
        ..same
    };
    assert_eq!(answer(r, &s), Err(SlotError::Exists));
    // An overlap is reported before a place too high.
    let r = Request {
        gpa: 1 << 48,
        ..same
    };
    assert_eq!(answer(r, &s), Err(SlotError::Invalid));
    for bad in [
        Request { flags: 0, ..same },
        Request {
            flags: MEMFD,
            ..same
        },
        Request {
            size: 0x5000,
            ..same
        },
        Request {
            hva: 0x41000,
            ..same
        },
    ] {
        assert_eq!(answer(bad, &s), Err(SlotError::Invalid), "{bad:x?}");
    }
    assert_eq!(answer(request(3, 0, 0, 0), &s), Ok(Change::Delete(old)));
    assert_eq!(answer(request(5, 0, 0, 0), &s), Err(SlotError::Invalid));
    assert_eq!(
        answer(request(5, 0x23000, 0x1000, 0), &s),
        Err(SlotError::Exists)
    );
    assert!(answer(request(5, 0x24000, 0x1000, 0), &s).is_ok());
}

#[test]
fn insert_needs_room_and_a_free_place() {
    let mut s = Set::new();
    assert_eq!(s.insert(slot(1, 0, 1, 0), 0), Err(SlotError::NoMemory));
    s.reserve(2).unwrap();
    s.insert(slot(1, 0, 2, 0), 0).unwrap();
    assert_eq!(s.insert(slot(1, 9, 1, 0), 0), Err(SlotError::Exists));
    assert_eq!(s.insert(slot(2, 1, 1, 0), 0), Err(SlotError::Exists));
    assert_eq!(s.insert(slot(2, 9, 0, 0), 0), Err(SlotError::Invalid));
    assert_eq!(
        s.insert(slot(2, u64::MAX, 2, 0), 0),
        Err(SlotError::Invalid)
    );
    assert_eq!(s.insert(slot(2, 9, 2, !0xfff), 0), Err(SlotError::Invalid));
    s.insert(slot(2, 2, 1, 0), 0).unwrap();
    assert_eq!(s.insert(slot(3, 9, 1, 0), 0), Err(SlotError::NoMemory));
    assert_eq!(s.len(), 2);
}

#[test]
fn relocation_keeps_the_data() {
    let mut s = set(&[slot(1, 0, 4, 0), slot(2, 8, 4, 0x10000)]);
    assert!(!s.relocate(1, Gfn(5)), "the place is taken");
    assert!(!s.relocate(3, Gfn(50)));
    assert!(!s.relocate(1, Gfn(u64::MAX - 1)));
    assert!(s.find(Gfn(3)).is_some());
    assert!(s.relocate(1, Gfn(2)));
    assert!(s.find(Gfn(1)).is_none());
    assert_eq!(s.find(Gfn(5)).unwrap().data, 1);
    assert_eq!(s.replace_data(1, 77), Ok(1));
    assert_eq!(s.replace_data(9, 78), Err(78));
    assert!(s.set_invalid(1, true) && s.set_flags(1, LOG));
    let e = s.find(Gfn(5)).unwrap();
    assert_eq!((e.slot.invalid, e.slot.flags, e.data), (true, LOG, 77));
    assert!(!s.set_flags(9, 0));
}

#[test]
fn user_ranges_round_outwards_to_pages() {
    let s = slot(1, 0x100, 4, 0x40000);
    let r = |a, b| {
        let (x, y) = s.gfn_range(Hva(a), Hva(b));
        (x.0, y.0)
    };
    assert_eq!(r(0x40000, 0x44000), (0x100, 0x104));
    assert_eq!(r(0, u64::MAX), (0x100, 0x104));
    assert_eq!(r(0x41800, 0x41801), (0x101, 0x102));
    assert_eq!(r(0x40fff, 0x42001), (0x100, 0x103));
    assert_eq!(s.hva_of(Gfn(0x102)), Hva(0x42000));
}

#[test]
fn as_many_slots_as_there_can_be() {
    let mut s = Set::new();
    for i in 0..32764u32 {
        s.reserve(1).unwrap();
        // In an order that is neither ascending nor descending.
        let id = (i * 12347 % 32764) as u16;
        let n = u64::from(id);
        s.insert(slot(id, n * 3, 2, 0x1000_0000 + n * 0x2000), i)
            .unwrap();
    }
    let mut hint = u32::MAX;
    for i in 0..32764u64 {
        let (h, e) = s.find_near(Gfn(i * 3 + 1), hint).unwrap();
        hint = h;
        assert_eq!(u64::from(e.slot.id), i);
        assert!(s.find(Gfn(i * 3 + 2)).is_none());
    }
    for id in 0..32764u16 {
        assert!(s.remove(id).is_some());
    }
    assert!(s.is_empty());
}

#[derive(Clone, Debug)]
enum Op {
    Insert(Slot),
    Remove(u16),
    Move(u16, u64),
    FindGfn(u64),
    Gfns(u64, u64),
    Hvas(u64, u64),
}

fn op() -> impl Strategy<Value = Op> {
    let id = || 0..24u16;
    prop_oneof![
        4 => (id(), 0..64u64, 1..6u64, 0..40u64)
            .prop_map(|(i, b, p, h)| Op::Insert(slot(i, b, p, h << 12))),
        2 => id().prop_map(Op::Remove),
        1 => (id(), 0..64u64).prop_map(|(i, b)| Op::Move(i, b)),
        2 => (0..70u64).prop_map(Op::FindGfn),
        1 => (0..70u64, 0..20u64).prop_map(|(a, n)| Op::Gfns(a, a + n)),
        2 => (0..0x30000u64, 0..0x6000u64).prop_map(|(a, n)| Op::Hvas(a, a + n)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..Default::default() })]

    #[test]
    fn agrees_with_a_list(ops in prop::collection::vec(op(), 1..120)) {
        let mut s = Set::new();
        let mut list: Vec<Slot> = Vec::new();
        let mut hint = 0;
        for op in ops {
            match op {
                Op::Insert(x) => {
                    s.reserve(1).unwrap();
                    let clash = list.iter().any(|y| y.id == x.id || y.overlaps(x.base, x.end()));
                    prop_assert_eq!(s.insert(x, u32::from(x.id)).is_ok(), !clash);
                    if !clash {
                        list.push(x);
                    }
                }
                Op::Remove(id) => {
                    let want = list.iter().position(|x| x.id == id).map(|i| list.remove(i));
                    let got = s.remove(id);
                    prop_assert_eq!(got.as_ref().map(|e| e.slot), want);
                    prop_assert_eq!(got.map(|e| e.data), want.map(|w| u32::from(w.id)));
                }
                Op::Move(id, base) => {
                    let end = |x: &Slot| Gfn(base + x.pages);
                    let free = |x: &Slot| !list.iter()
                        .any(|y| y.id != id && y.overlaps(Gfn(base), end(x)));
                    let ok = list.iter().find(|x| x.id == id).is_some_and(free);
                    prop_assert_eq!(s.relocate(id, Gfn(base)), ok);
                    if ok {
                        list.iter_mut().find(|x| x.id == id).unwrap().base = Gfn(base);
                    }
                }
                Op::FindGfn(g) => {
                    let want = list.iter().find(|x| x.contains(Gfn(g))).copied();
                    let got = s.find_near(Gfn(g), hint);
                    prop_assert_eq!(got.map(|(_, e)| e.slot), want);
                    if let Some((h, e)) = got {
                        prop_assert_eq!(s.find_near(Gfn(g), h).unwrap().1.slot, e.slot);
                        hint = h;
                    }
                }
                Op::Gfns(a, b) => {
                    let mut want: Vec<_> =
                        list.iter().filter(|x| x.overlaps(Gfn(a), Gfn(b))).copied().collect();
                    want.sort_by_key(|x| x.base);
                    let got: Vec<_> = s.in_gfn_range(Gfn(a), Gfn(b)).map(|e| e.slot).collect();
                    // An empty range inside a slot overlaps nothing; the iterator need not know.
                    if a < b {
                        prop_assert_eq!(got, want);
                    }
                }
                Op::Hvas(a, b) => {
                    let mut want = Vec::new();
                    for x in &list {
                        let page = |i: u64| x.hva.0 + (i << 12);
                        let hit: Vec<_> = (0..x.pages)
                            .filter(|i| page(*i) < b && page(*i + 1) > a)
                            .map(|i| x.base.0 + i)
                            .collect();
                        if let (true, Some(f), Some(l)) = (a < b, hit.first(), hit.last()) {
                            want.push((x.id, *f, *l + 1));
                        }
                    }
                    want.sort();
                    let mut got: Vec<_> = s.in_hva_range(Hva(a), Hva(b))
                        .map(|(e, f, l)| (e.slot.id, f.0, l.0))
                        .collect();
                    got.sort();
                    if a < b {
                        prop_assert_eq!(got, want);
                    }
                }
            }
            prop_assert_eq!(s.len(), list.len());
            for x in &list {
                prop_assert_eq!(s.by_id(x.id).unwrap().slot, *x);
            }
            prop_assert!(s.iter().zip(s.iter().skip(1)).all(|(a, b)| a.slot.end() <= b.slot.base));
        }
    }
}
