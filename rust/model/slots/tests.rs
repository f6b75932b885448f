// SPDX-License-Identifier: GPL-2.0

//! Tests of slots: the rules of the ioctl, and random sets against a plain list.

use proptest::prelude::*;

use super::*;
use crate::abi::vm::{KVM_MEM_GUEST_MEMFD, KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY};

#[derive(Debug)]
pub(super) struct Counted<T>(std::sync::Arc<T>);

impl<T> Clone for Counted<T> {
    fn clone(&self) -> Self {
        Counted(self.0.clone())
    }
}

impl<T> Deref for Counted<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

thread_local! {
    /// How many allocations may succeed.
    static LEFT: std::cell::Cell<usize> = const { std::cell::Cell::new(usize::MAX) };
}

impl<T> Pointer<T> for Counted<T> {
    fn new(value: T) -> Result<Self, NoMemory> {
        let left = LEFT.get().checked_sub(1).ok_or(NoMemory)?;
        LEFT.set(left);
        Ok(Counted(std::sync::Arc::new(value)))
    }
}

pub(super) struct Heap;

impl Storage for Heap {
    type Ptr<T> = Counted<T>;
}

type Set = SlotSet<Slot, Heap>;

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
    slots.iter().fold(Set::new(), |s, x| s.with(*x).unwrap())
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
    let change = r.change(s)?;
    change.reachable(&LIMITS)?;
    Ok(change)
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

/// A set that is replaced stays as it was, and so does one that memory for a change was missing.
#[test]
fn old_sets_stay() {
    let old = set(&[slot(1, 0, 4, 0), slot(2, 8, 4, 0x10000), slot(3, 20, 4, 0)]);
    let new = old.with(slot(2, 100, 1, 0x9000)).unwrap();
    assert_eq!(old.find(Gfn(9)).unwrap().id, 2);
    assert!(new.find(Gfn(9)).is_none());
    assert_eq!(new.find(Gfn(100)).unwrap().hva, Hva(0x9000));
    for n in 0.. {
        LEFT.set(n);
        let made = old.without(1).and_then(|s| s.with(slot(7, 50, 1, 0)));
        LEFT.set(usize::MAX);
        assert_eq!(old.by_id(1).unwrap().pages, 4);
        if made.is_ok() {
            assert!(n > 6);
            break;
        }
    }
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
        // In an order that is neither ascending nor descending.
        let id = (i * 12347 % 32764) as u16;
        let n = u64::from(id);
        s = s
            .with(slot(id, n * 3, 2, 0x1000_0000 + n * 0x2000))
            .unwrap();
    }
    assert!(s.by_gfn.check().unwrap() <= 21);
    for i in 0..32764u64 {
        assert_eq!(u64::from(s.find(Gfn(i * 3 + 1)).unwrap().id), i);
        assert!(s.find(Gfn(i * 3 + 2)).is_none());
    }
    for id in 0..32764u16 {
        assert!(s.by_id(id).is_some());
        s = s.without(id).unwrap();
    }
    assert_eq!(s.by_hva.check(), Some(0));
}

#[derive(Clone, Debug)]
enum Op {
    Insert(Slot),
    Remove(u16),
    FindGfn(u64),
    Gfns(u64, u64, u16),
    Hvas(u64, u64),
}

fn op() -> impl Strategy<Value = Op> {
    let id = || 0..24u16;
    prop_oneof![
        4 => (id(), 0..64u64, 1..6u64, 0..40u64)
            .prop_map(|(i, b, p, h)| Op::Insert(slot(i, b, p, h << 12))),
        2 => id().prop_map(Op::Remove),
        2 => (0..70u64).prop_map(Op::FindGfn),
        1 => (0..70u64, 1..20u64, id()).prop_map(|(a, n, i)| Op::Gfns(a, a + n, i)),
        2 => (0..0x30000u64, 1..0x6000u64).prop_map(|(a, n)| Op::Hvas(a, a + n)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..Default::default() })]

    #[test]
    fn agrees_with_a_list(ops in prop::collection::vec(op(), 1..120)) {
        let mut s = Set::new();
        let mut list: Vec<Slot> = Vec::new();
        for op in ops {
            match op {
                Op::Insert(x) => {
                    let others = |y: &Slot| y.id != x.id && y.overlaps(x.base, x.end());
                    let clash = list.iter().any(others);
                    prop_assert_eq!(s.overlaps(x.base, x.end(), x.id), clash);
                    if !clash {
                        s = s.with(x).unwrap();
                        list.retain(|y| y.id != x.id);
                        list.push(x);
                    }
                }
                Op::Remove(id) => {
                    s = s.without(id).unwrap();
                    list.retain(|x| x.id != id);
                }
                Op::FindGfn(g) => {
                    let want = list.iter().find(|x| x.contains(Gfn(g)));
                    prop_assert_eq!(s.find(Gfn(g)), want);
                }
                Op::Gfns(a, b, id) => {
                    let want = list.iter().any(|x| x.id != id && x.overlaps(Gfn(a), Gfn(b)));
                    prop_assert_eq!(s.overlaps(Gfn(a), Gfn(b), id), want);
                }
                Op::Hvas(a, b) => {
                    let mut want = Vec::new();
                    for x in &list {
                        let page = |i: u64| x.hva.0 + (i << 12);
                        let hit: Vec<_> = (0..x.pages)
                            .filter(|i| page(*i) < b && page(*i + 1) > a)
                            .map(|i| x.base.0 + i)
                            .collect();
                        if let (Some(f), Some(l)) = (hit.first(), hit.last()) {
                            want.push((x.id, *f, *l + 1));
                        }
                    }
                    want.sort();
                    let mut got = Vec::new();
                    s.in_hva_range(Hva(a), Hva(b), |x, f, l| got.push((x.id, f.0, l.0)));
                    got.sort();
                    prop_assert_eq!(s.backed_by(Hva(a), Hva(b)), !want.is_empty());
                    prop_assert_eq!(got, want);
                }
            }
            prop_assert!(s.by_gfn.check().is_some());
            prop_assert!(s.by_hva.check().is_some());
            prop_assert!(s.by_id.check().is_some());
            list.sort_by_key(|x| x.base);
            let mut all = Vec::new();
            s.for_each(|x| all.push(*x));
            prop_assert_eq!(&all, &list);
            for x in &list {
                prop_assert_eq!(s.by_id(x.id), Some(x));
            }
        }
    }
}
