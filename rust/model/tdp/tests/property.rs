// SPDX-License-Identifier: GPL-2.0

//! Random operations, checked against a page-by-page account and a simulated TLB.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::SeqCst;

use proptest::prelude::*;

use super::super::protect::Age;
use super::super::*;
use super::arena::{Arena, Bin, Pool};
use crate::addr::{Gfn, Pfn};
use crate::svm::npt::Npt;
use crate::vmx::ept::Ept;

/// Page numbers around the boundaries of all levels; only these are looked at.
const PROBES: [u64; 17] = [
    0,
    1,
    63,
    64,
    0x1ff,
    0x200,
    0x201,
    0x3ff,
    0x400,
    0x3ffff,
    0x40000,
    0x40001,
    0x40200,
    0x7ffffff,
    0x8000000,
    0xfffffffff,
    0xffffffe00,
];

const OFFSETS: [u64; 2] = [0x4000000, 0x8000000];

#[derive(Clone, Debug)]
enum Op {
    Map {
        at: usize,
        level: Level,
        prot: Prot,
        mmu_writable: bool,
        offset: usize,
        exclusive: bool,
    },
    Mmio {
        at: usize,
    },
    Zap {
        from: usize,
        to: usize,
        budget: u32,
    },
    Protect {
        from: usize,
        to: usize,
        mode: LogMode,
        budget: u32,
    },
    Clean {
        at: usize,
        mask: u64,
        mode: LogMode,
    },
    Age {
        from: usize,
        to: usize,
        budget: u32,
    },
    Fast {
        at: usize,
        want: Prot,
    },
    Split {
        from: usize,
        to: usize,
        level: Level,
        budget: u32,
    },
    Collapse {
        from: usize,
        to: usize,
        budget: u32,
    },
    Access {
        at: usize,
        write: bool,
    },
}

fn level() -> impl Strategy<Value = Level> {
    prop_oneof![4 => Just(Level::L4K), 2 => Just(Level::L2M), 1 => Just(Level::L1G)]
}

fn prot() -> impl Strategy<Value = Prot> {
    prop_oneof![
        Just(Prot::R),
        Just(Prot::RW),
        Just(Prot::RX),
        Just(Prot::RWX)
    ]
}

fn mode() -> impl Strategy<Value = LogMode> {
    prop_oneof![Just(LogMode::WriteProtect), Just(LogMode::DirtyBit)]
}

fn op() -> impl Strategy<Value = Op> {
    let at = || 0..PROBES.len();
    let budget = || prop_oneof![Just(1u32), Just(600), Just(u32::MAX)];
    prop_oneof![
        6 => (at(), level(), prot(), any::<bool>(), 0..2usize, any::<bool>()).prop_map(
            |(at, level, prot, mmu_writable, offset, exclusive)|
                Op::Map { at, level, prot, mmu_writable, offset, exclusive }),
        1 => at().prop_map(|at| Op::Mmio { at }),
        2 => (at(), at(), budget()).prop_map(|(from, to, budget)| Op::Zap { from, to, budget }),
        2 => (at(), at(), mode(), budget())
            .prop_map(|(from, to, mode, budget)| Op::Protect { from, to, mode, budget }),
        2 => (at(), any::<u64>(), mode()).prop_map(|(at, mask, mode)| Op::Clean { at, mask, mode }),
        1 => (at(), at(), budget()).prop_map(|(from, to, budget)| Op::Age { from, to, budget }),
        2 => (at(), prot()).prop_map(|(at, want)| Op::Fast { at, want }),
        1 => (at(), at(), level(), budget())
            .prop_map(|(from, to, level, budget)| Op::Split { from, to, level, budget }),
        1 => (at(), at(), budget()).prop_map(|(from, to, budget)| Op::Collapse { from, to, budget }),
        6 => (at(), any::<bool>()).prop_map(|(at, write)| Op::Access { at, write }),
    ]
}

/// What one probed page should look like.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Page {
    level: Level,
    pfn: u64,
    prot: Prot,
    fast_writable: bool,
    dirty: bool,
    young: bool,
}

/// A translation that a CPU may have cached.
#[derive(Clone, Copy, Debug)]
struct Cached {
    pfn: u64,
    prot: Prot,
    dirty: bool,
}

struct World<'a, F: Format> {
    cfg: Config,
    arena: &'a Arena,
    tdp: Tdp<'a, F, Arena>,
    pages: BTreeMap<u64, Page>,
    tlb: BTreeMap<u64, Cached>,
    counts: Counts,
}

impl<'a, F: Format> World<'a, F> {
    fn new(cfg: Config, arena: &'a Arena) -> Self {
        let tdp = Tdp::new(cfg, arena);
        let (pages, tlb) = Default::default();
        World {
            cfg,
            arena,
            tdp,
            pages,
            tlb,
            counts: Counts::default(),
        }
    }

    fn flush(&mut self, f: Flush) {
        match f {
            Flush::None => {}
            Flush::Range { start, end } => self.tlb.retain(|g, _| *g < start.0 || *g >= end.0),
            Flush::All => self.tlb.clear(),
        }
    }

    fn range(a: usize, b: usize) -> (u64, u64) {
        let (a, b) = (PROBES[a], PROBES[b]);
        (a.min(b), a.max(b) + 1)
    }

    /// Applies `f` to the probed pages whose leaf overlaps the range.
    fn overlapping(&mut self, from: u64, to: u64, mut f: impl FnMut(u64, &mut Page) -> bool) {
        self.pages.retain(|g, p| {
            let base = p.level.base(Gfn(*g)).0;
            let overlaps = base < to && base + p.level.pages() > from;
            !overlaps || f(*g, p)
        });
    }

    fn arm(cfg: &Config, mode: LogMode, p: &mut Page) {
        if mode == LogMode::DirtyBit && p.level == Level::L4K && cfg.ad() {
            p.dirty = false;
        } else {
            p.prot.w = false;
        }
    }

    fn apply(&mut self, op: &Op) {
        let cfg = self.cfg;
        match *op {
            Op::Map {
                at,
                level,
                prot,
                mmu_writable,
                offset,
                exclusive,
            } => {
                self.map(
                    PROBES[at],
                    level,
                    prot,
                    mmu_writable,
                    OFFSETS[offset],
                    exclusive,
                );
            }
            Op::Mmio { at } => {
                let r = self
                    .tdp
                    .map_mmio(Gfn(PROBES[at]), 9, &mut Pool::new(self.arena));
                self.counts.add(r.counts);
                assert!(!r.flush.is_needed());
                if self.pages.contains_key(&PROBES[at]) {
                    assert!(matches!(r.outcome, Map::NeedsExclusive | Map::Spurious));
                }
            }
            Op::Zap { from, to, budget } => {
                let (from, to) = Self::range(from, to);
                let mut sweep = Sweep::new(Gfn(from), Gfn(to));
                while !sweep.is_done() {
                    let z = self.tdp.zap(&mut sweep, budget, &mut Bin::new(self.arena));
                    self.flush(z.flush);
                    self.counts.add(z.counts);
                }
                self.overlapping(from, to, |_, _| false);
            }
            Op::Protect {
                from,
                to,
                mode,
                budget,
            } => {
                let (from, to) = Self::range(from, to);
                let mut sweep = Sweep::new(Gfn(from), Gfn(to));
                while !sweep.is_done() {
                    let f = self.tdp.write_protect(&mut sweep, mode, budget);
                    self.flush(f);
                }
                self.overlapping(from, to, |_, p| {
                    Self::arm(&cfg, mode, p);
                    true
                });
            }
            Op::Clean { at, mask, mode } => {
                let base = PROBES[at] & !63;
                let f = self.tdp.clean(Gfn(base), mask, mode);
                self.flush(f);
                if mask != 0 {
                    let from = base + u64::from(mask.trailing_zeros());
                    let to = base + 64 - u64::from(mask.leading_zeros());
                    self.overlapping(from, to, |g, p| {
                        if p.level > Level::L4K || mask >> (g - base) & 1 != 0 {
                            Self::arm(&cfg, mode, p);
                        }
                        true
                    });
                }
            }
            Op::Age { from, to, budget } => {
                let (from, to) = Self::range(from, to);
                let mut want = false;
                self.overlapping(from, to, |_, p| {
                    want |= p.young;
                    p.young = false;
                    true
                });
                let mut young = false;
                let mut sweep = Sweep::new(Gfn(from), Gfn(to));
                while !sweep.is_done() {
                    young |= self.tdp.age(&mut sweep, Age::Clear, budget);
                }
                // Pages that are not probed may be young too.
                assert!(young || !want);
            }
            Op::Fast { at, want } => {
                let before = self.pages.get(&PROBES[at]).copied();
                match self.tdp.fast_fault(Gfn(PROBES[at]), want, Level::L4K) {
                    FastFault::Spurious => assert!(before.unwrap().prot.allows(want)),
                    FastFault::Slow => {
                        let may_write =
                            |p: Page| p.prot.w || p.fast_writable && p.level == Level::L4K;
                        assert!(!before
                            .is_some_and(|p| (!want.w || may_write(p)) && (!want.x || p.prot.x)));
                    }
                    FastFault::Fixed { made_writable } => {
                        let b = before.unwrap();
                        assert_eq!(made_writable, want.w && !b.prot.w);
                        let touched = PROBES[at];
                        self.overlapping(touched, touched + 1, |_, p| {
                            p.young = true;
                            p.prot.w |= made_writable;
                            p.dirty |= made_writable && !cfg.ad();
                            true
                        });
                    }
                }
            }
            Op::Split {
                from,
                to,
                level,
                budget,
            } => {
                let (from, to) = Self::range(from, to);
                let mut sweep = Sweep::new(Gfn(from), Gfn(to));
                let mut pool = Pool::new(self.arena);
                while !sweep.is_done() {
                    let s = self.tdp.split(&mut sweep, level, budget, &mut pool);
                    self.counts.add(s.counts);
                    if s.no_spare {
                        assert_eq!(self.arena.free_tables(), 0);
                        break;
                    }
                }
                // How far it came depends on the tables left; the meaning must not change.
                self.read_levels();
            }
            Op::Collapse { from, to, budget } => {
                let (from, to) = Self::range(from, to);
                let mut sweep = Sweep::new(Gfn(from), Gfn(to));
                while !sweep.is_done() {
                    let bin = &mut Bin::new(self.arena);
                    let z = self
                        .tdp
                        .collapse(&mut sweep, budget, bin, |_, _| Level::L2M);
                    self.flush(z.flush);
                    self.counts.add(z.counts);
                }
                self.pages.retain(|g, p| {
                    let base = Level::L2M.base(Gfn(*g)).0;
                    p.level > Level::L4K || base < from || base + 512 > to
                });
            }
            Op::Access { at, write } => self.access(PROBES[at], write),
        }
    }

    fn map(&mut self, g: u64, level: Level, prot: Prot, mmu: bool, offset: u64, exclusive: bool) {
        let cfg = self.cfg;
        let spec = LeafSpec {
            host_writable: true,
            mmu_writable: prot.w || mmu,
            accessed: g % 2 == 0,
            dirty: prot.w,
            ..LeafSpec::ram(Pfn(level.base(Gfn(g)).0 + offset), prot)
        };
        let mut pool = Pool::new(self.arena);
        let bin = &mut Bin::new(self.arena);
        let r = if exclusive {
            self.tdp.map_exclusive(Gfn(g), level, &spec, &mut pool, bin)
        } else {
            self.tdp.map(Gfn(g), level, &spec, &mut pool)
        };
        self.flush(r.flush);
        self.counts.add(r.counts);
        let old = self.pages.get(&g).copied();
        match r.outcome {
            Map::Done => {
                if exclusive {
                    for l in &bin.leaves {
                        self.pages.retain(|p, _| l.level.base(Gfn(*p)) != l.gfn);
                    }
                }
                let old = self.pages.get(&g).copied();
                // A page that may be written stays so, if only logging is against it.
                let mut prot = prot;
                prot.w |= spec.mmu_writable && old.is_some_and(|o| o.prot.w);
                let base = level.base(Gfn(g)).0;
                for p in PROBES
                    .iter()
                    .filter(|p| (base..base + level.pages()).contains(*p))
                {
                    self.pages.insert(
                        *p,
                        Page {
                            level,
                            pfn: p + offset,
                            prot,
                            fast_writable: spec.mmu_writable,
                            dirty: if cfg.ad() {
                                spec.dirty || old.is_some_and(|o| o.dirty)
                            } else {
                                prot.w
                            },
                            young: spec.accessed || old.is_some_and(|o| o.young),
                        },
                    );
                }
                self.read_levels();
                assert_eq!(self.pages[&g].level, level);
            }
            Map::Spurious => assert!(old.unwrap().prot.allows(prot)),
            Map::NoSpare => {
                assert_eq!(self.arena.free_tables(), 0);
                // Whatever was removed or split before that happened is gone or smaller.
                for l in &bin.leaves {
                    self.pages.retain(|p, _| l.level.base(Gfn(*p)) != l.gfn);
                }
                self.read_levels();
            }
            Map::NeedsExclusive => {
                assert!(!exclusive);
                assert!(old.is_none_or(|o| o.pfn != g + offset || o.level < level));
            }
            Map::OutOfRange => unreachable!(),
        }
    }

    /// Takes over the levels after splits, and only the levels.
    fn read_levels(&mut self) {
        for (g, p) in &mut self.pages {
            let now = self.tdp.walk(Gfn(*g)).unwrap().level;
            assert!(now <= p.level);
            p.level = now;
        }
    }

    /// What a CPU in the guest does.
    fn access(&mut self, g: u64, write: bool) {
        let cfg = self.cfg;
        let want = if write { Prot::RW } else { Prot::R };
        if self
            .tlb
            .get(&g)
            .is_some_and(|c| c.prot.allows(want) && (c.dirty || !write))
        {
            return;
        }
        let found = self.tdp.walk(Gfn(g)).unwrap();
        if !found.allows(want) {
            self.tlb.remove(&g);
            return;
        }
        let mut entry = found.entry;
        if cfg.ad() {
            entry = F::revived(&cfg, entry);
            if write {
                entry = F::soiled(&cfg, entry);
            }
            let slot = self.tdp.descend(Gfn(g), Level::L4K).unwrap().1;
            assert_eq!(slot.swap(entry, SeqCst), found.entry);
            self.overlapping(g, g + 1, |_, p| {
                p.young = true;
                p.dirty |= write;
                true
            });
        }
        let pfn = found.pfn(&cfg, Gfn(g)).unwrap().0;
        let dirty = F::dirty(&cfg, entry);
        self.tlb.insert(
            g,
            Cached {
                pfn,
                prot: F::hw_prot(entry),
                dirty,
            },
        );
    }

    fn check(&self) {
        for g in PROBES {
            let found = self.tdp.walk(Gfn(g)).unwrap();
            let seen = found.is_mapped().then(|| Page {
                level: found.level,
                pfn: found.pfn(&self.cfg, Gfn(g)).unwrap().0,
                prot: found.prot(),
                fast_writable: F::host_writable(found.entry) && F::mmu_writable(found.entry),
                dirty: F::dirty(&self.cfg, found.entry),
                young: F::accessed(&self.cfg, found.entry),
            });
            let mut want = self.pages.get(&g).copied();
            if let (false, Some(p)) = (self.cfg.ad(), &mut want) {
                p.dirty = p.prot.w;
            }
            assert_eq!(seen, want, "page {g:x}");
            // A cached translation never allows more than the tables do.
            if let Some(c) = self.tlb.get(&g) {
                let p = seen.unwrap_or_else(|| panic!("page {g:x}: stale translation {c:?}"));
                assert_eq!(c.pfn, p.pfn);
                assert!(p.prot.allows(c.prot), "page {g:x}: stale rights");
                assert!(
                    !(c.prot.w && c.dirty) || p.dirty,
                    "page {g:x}: writes go unlogged"
                );
            }
        }
        let mut leaves = Counts {
            tables: self.arena.used_tables(),
            ..Counts::default()
        };
        self.tdp
            .for_each_leaf(&mut Sweep::all(&self.cfg), u32::MAX, |_, level, _, _| {
                leaves.add_leaves(level, 1);
                Step::Next
            });
        assert_eq!(self.counts, leaves);
    }
}

fn run<F: Format>(cfg: Config, ops: &[Op]) {
    let arena = Arena::new(120);
    let mut w = World::<F>::new(cfg, &arena);
    for op in ops {
        w.apply(op);
        w.check();
    }
    let mut bin = Bin::new(&arena);
    let z = w.tdp.zap(&mut Sweep::all(&cfg), u32::MAX, &mut bin);
    w.counts.add(z.counts);
    assert_eq!(w.counts, Counts::default());
    assert_eq!(arena.used_tables(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

    #[test]
    fn npt_4_levels(ops in prop::collection::vec(op(), 1..60)) {
        run::<Npt>(Config::new(false, 52, 1 << 51, true), &ops);
    }

    #[test]
    fn npt_5_levels(ops in prop::collection::vec(op(), 1..60)) {
        run::<Npt>(Config::new(true, 52, 0, true), &ops);
    }

    #[test]
    fn ept_4_levels(ops in prop::collection::vec(op(), 1..60)) {
        run::<Ept>(Config::new(false, 52, 0, true), &ops);
    }

    #[test]
    fn ept_5_levels(ops in prop::collection::vec(op(), 1..60)) {
        run::<Ept>(Config::new(true, 52, 0, true), &ops);
    }

    #[test]
    fn ept_without_a_and_d(ops in prop::collection::vec(op(), 1..60)) {
        run::<Ept>(Config::new(false, 52, 0, false), &ops);
    }
}
