// SPDX-License-Identifier: GPL-2.0

//! One case per rule, for both formats where it matters.

use super::super::protect::Age;
use super::super::*;
use super::arena::{Arena, Bin, Pool};
use crate::addr::{Gfn, Pfn};
use crate::svm::npt::Npt;
use crate::vmx::ept::Ept;

const NPT: Config = Config::new(false, 48, 0, true);
const NPT5: Config = Config::new(true, 52, 0, true);
const EPT: Config = Config::new(false, 46, 0, true);
const EPT_NO_AD: Config = Config::new(false, 46, 0, false);

fn ram(pfn: u64, prot: Prot) -> LeafSpec {
    LeafSpec::ram(Pfn(pfn), prot)
}

/// A page of a slot with dirty logging on, mapped for a read.
fn logged(pfn: u64) -> LeafSpec {
    LeafSpec {
        host_writable: true,
        mmu_writable: true,
        dirty: false,
        ..ram(pfn, Prot::RX)
    }
}

#[test]
fn map_walk_zap() {
    let a = Arena::new(16);
    let t = Tdp::<Npt, _>::new(NPT, &a);
    let mut pool = Pool::new(&a);
    let r = t.map(Gfn(0x1234), Level::L4K, &ram(0x99, Prot::RWX), &mut pool);
    assert_eq!(r.outcome, Map::Done);
    assert_eq!(r.flush, Flush::None);
    assert_eq!(
        r.counts,
        Counts {
            leaves_4k: 1,
            tables: 3,
            ..Counts::default()
        }
    );
    let f = t.walk(Gfn(0x1234)).unwrap();
    assert_eq!(
        (f.level, f.pfn(&NPT, Gfn(0x1234))),
        (Level::L4K, Some(Pfn(0x99)))
    );
    assert!(f.allows(Prot::RWX));
    assert!(!t.walk(Gfn(0x1235)).unwrap().is_mapped());
    assert_eq!(t.walk(Gfn(0x200000)).unwrap().level, Level::L1G);
    let r = t.map(Gfn(0x1234), Level::L4K, &ram(0x99, Prot::R), &mut pool);
    assert_eq!(r.outcome, Map::Spurious);

    // A zap of the page alone leaves the tables.
    let mut bin = Bin::new(&a);
    let z = t.zap(&mut Sweep::new(Gfn(0x1234), Gfn(0x1235)), 1000, &mut bin);
    assert_eq!(
        z.flush,
        Flush::Range {
            start: Gfn(0x1234),
            end: Gfn(0x1235)
        }
    );
    assert_eq!(
        z.counts,
        Counts {
            leaves_4k: -1,
            ..Counts::default()
        }
    );
    assert_eq!(bin.leaves.len(), 1);
    assert_eq!(bin.leaves[0].pfn, Pfn(0x99));
    assert!(bin.leaves[0].dirty && bin.leaves[0].young);
    assert_eq!(a.used_tables(), 3);
    // A zap of everything takes them out, and they ask for a flush though no page is mapped.
    let z = t.zap(&mut Sweep::all(&NPT), u32::MAX, &mut bin);
    assert!(z.flush.is_needed());
    assert_eq!(z.counts.tables, -3);
    assert_eq!(a.used_tables(), 0);
    let z = t.zap(&mut Sweep::all(&NPT), u32::MAX, &mut bin);
    assert_eq!(z, Zapped::default());
}

#[test]
fn pages_beyond_the_tables_are_refused() {
    let a = Arena::new(16);
    for (cfg, bits) in [(NPT, 36), (NPT5, 45)] {
        let t = Tdp::<Npt, _>::new(cfg, &a);
        let mut pool = Pool::new(&a);
        let beyond = Gfn(1 << bits);
        assert_eq!(
            t.map(beyond, Level::L4K, &ram(1, Prot::R), &mut pool)
                .outcome,
            Map::OutOfRange
        );
        assert!(t.walk(beyond).is_none());
        assert_eq!(t.fast_fault(beyond, Prot::R, Level::L4K), FastFault::Slow);
        let last = Gfn((1 << bits) - 1);
        assert_eq!(
            t.map(last, Level::L4K, &ram(1, Prot::R), &mut pool).outcome,
            Map::Done
        );
        let mut sweep = Sweep::new(Gfn(u64::MAX - 1), Gfn(u64::MAX));
        assert_eq!(t.zap(&mut sweep, 100, &mut Bin::new(&a)), Zapped::default());
        assert!(sweep.is_done());
        let mut sweep = Sweep::new(Gfn(0), Gfn(u64::MAX));
        assert_eq!(
            t.zap(&mut sweep, u32::MAX, &mut Bin::new(&a))
                .counts
                .leaves_4k,
            -1
        );
        assert!(sweep.is_done());
        assert_eq!(a.used_tables(), 0);
    }
}

#[test]
fn spare_tables_run_out() {
    let a = Arena::new(16);
    let t = Tdp::<Ept, _>::new(EPT, &a);
    let mut pool = Pool { arena: &a, left: 2 };
    let r = t.map(Gfn(5), Level::L4K, &ram(1, Prot::R), &mut pool);
    assert_eq!((r.outcome, r.counts.tables), (Map::NoSpare, 2));
    pool.left = 1;
    let r = t.map(Gfn(5), Level::L4K, &ram(1, Prot::R), &mut pool);
    assert_eq!((r.outcome, r.counts.tables), (Map::Done, 1));
}

#[test]
fn a_large_leaf_is_split_for_a_small_page() {
    let a = Arena::new(16);
    let t = Tdp::<Ept, _>::new(EPT, &a);
    let mut pool = Pool::new(&a);
    let big = ram(0x40000, Prot::RW);
    assert_eq!(
        t.map(Gfn(0x80000), Level::L1G, &big, &mut pool)
            .counts
            .leaves_1g,
        1
    );
    // Rights it has: spurious. Another host page: not by a shared mapper.
    let r = t.map(Gfn(0x80123), Level::L4K, &ram(0x40123, Prot::RW), &mut pool);
    assert_eq!(r.outcome, Map::Spurious);
    let r = t.map(
        Gfn(0x80123),
        Level::L4K,
        &ram(0x40124, Prot::RWX),
        &mut pool,
    );
    assert_eq!(r.outcome, Map::NeedsExclusive);
    // One page becomes executable, its neighbours do not.
    let r = t.map(
        Gfn(0x80123),
        Level::L4K,
        &ram(0x40123, Prot::RWX),
        &mut pool,
    );
    assert_eq!(r.outcome, Map::Done);
    let want = Counts {
        leaves_1g: -1,
        leaves_2m: 511,
        leaves_4k: 512,
        tables: 2,
        for_exec: 0,
    };
    assert_eq!(r.counts, want);
    for (gfn, level, prot) in [
        (0x80122, Level::L4K, Prot::RW),
        (0x80123, Level::L4K, Prot::RWX),
        (0x80200, Level::L2M, Prot::RW),
        (0xbffff, Level::L2M, Prot::RW),
    ] {
        let f = t.walk(Gfn(gfn)).unwrap();
        assert_eq!((f.level, f.prot()), (level, prot), "{gfn:x}");
        assert_eq!(f.pfn(&EPT, Gfn(gfn)), Some(Pfn(gfn - 0x40000)));
    }
}

#[test]
fn a_table_gives_way_to_a_large_leaf_only_exclusively() {
    let a = Arena::new(16);
    let t = Tdp::<Npt, _>::new(NPT, &a);
    let mut pool = Pool::new(&a);
    let _ = t.map(Gfn(0x205), Level::L4K, &ram(0x1205, Prot::RW), &mut pool);
    let big = ram(0x1200, Prot::RW);
    assert_eq!(
        t.map(Gfn(0x200), Level::L2M, &big, &mut pool).outcome,
        Map::NeedsExclusive
    );
    let mut bin = Bin::new(&a);
    let r = t.map_exclusive(Gfn(0x200), Level::L2M, &big, &mut pool, &mut bin);
    assert_eq!(r.outcome, Map::Done);
    assert_eq!(
        r.flush,
        Flush::Range {
            start: Gfn(0x200),
            end: Gfn(0x400)
        }
    );
    assert_eq!(
        r.counts,
        Counts {
            leaves_4k: -1,
            leaves_2m: 1,
            tables: -1,
            ..Counts::default()
        }
    );
    assert_eq!(bin.leaves.len(), 1);
    // Another host page below it: the whole leaf goes.
    let r = t.map_exclusive(
        Gfn(0x3ff),
        Level::L4K,
        &ram(7, Prot::R),
        &mut pool,
        &mut bin,
    );
    assert_eq!(
        (r.outcome, r.counts.leaves_2m, r.counts.leaves_4k),
        (Map::Done, -1, 1)
    );
    assert!(!t.walk(Gfn(0x200)).unwrap().is_mapped());
}

#[test]
fn dirty_logging_by_write_protection() {
    let a = Arena::new(16);
    let t = Tdp::<Npt, _>::new(NPT, &a);
    let mut pool = Pool::new(&a);
    for g in 0..4 {
        let _ = t.map(Gfn(g), Level::L4K, &ram(g + 8, Prot::RWX), &mut pool);
    }
    let f = t.write_protect(&mut Sweep::new(Gfn(1), Gfn(3)), LogMode::WriteProtect, 100);
    assert_eq!(
        f,
        Flush::Range {
            start: Gfn(1),
            end: Gfn(3)
        }
    );
    assert!(t.walk(Gfn(0)).unwrap().allows(Prot::RW));
    assert!(!t.walk(Gfn(1)).unwrap().allows(Prot::RW));
    let fixed = FastFault::Fixed {
        made_writable: true,
    };
    assert_eq!(t.fast_fault(Gfn(1), Prot::RW, Level::L4K), fixed);
    assert_eq!(
        t.fast_fault(Gfn(1), Prot::RW, Level::L4K),
        FastFault::Spurious
    );
    assert_eq!(t.fast_fault(Gfn(9), Prot::RW, Level::L4K), FastFault::Slow);
    // Harvest pages 1 and 3; 1 was written again, 3 never lost its right.
    let f = t.clean(Gfn(0), 0b1010, LogMode::WriteProtect);
    assert_eq!(
        f,
        Flush::Range {
            start: Gfn(1),
            end: Gfn(4)
        }
    );
    assert!(t.walk(Gfn(0)).unwrap().allows(Prot::RW));
    assert!(!t.walk(Gfn(3)).unwrap().allows(Prot::RW));
    assert_eq!(t.clean(Gfn(0), 0b1010, LogMode::WriteProtect), Flush::None);
    assert_eq!(t.clean(Gfn(0), 0, LogMode::WriteProtect), Flush::None);
}

#[test]
fn fast_fault_needs_both_permissions() {
    let a = Arena::new(16);
    let t = Tdp::<Ept, _>::new(EPT, &a);
    let mut pool = Pool::new(&a);
    let cases = [
        (true, true, true),
        (true, false, false),
        (false, true, false),
    ];
    for (g, (host, mmu, ok)) in cases.into_iter().enumerate() {
        let s = LeafSpec {
            host_writable: host,
            mmu_writable: mmu,
            ..logged(5)
        };
        let _ = t.map(Gfn(g as u64), Level::L4K, &s, &mut pool);
        let r = t.fast_fault(Gfn(g as u64), Prot::RW, Level::L4K);
        assert_eq!(r != FastFault::Slow, ok);
        assert_eq!(
            t.fast_fault(Gfn(g as u64), Prot::R, Level::L4K),
            FastFault::Spurious
        );
    }
    // Large pages are not made writable while the log is kept in small ones.
    let _ = t.map(Gfn(0x200), Level::L2M, &logged(0x400), &mut pool);
    assert_eq!(
        t.fast_fault(Gfn(0x203), Prot::RW, Level::L4K),
        FastFault::Slow
    );
    let fixed = FastFault::Fixed {
        made_writable: true,
    };
    assert_eq!(t.fast_fault(Gfn(0x203), Prot::RW, Level::L2M), fixed);
}

#[test]
fn dirty_logging_by_the_d_bit() {
    let a = Arena::new(16);
    let mut pool = Pool::new(&a);
    let t = Tdp::<Ept, _>::new(EPT, &a);
    let _ = t.map(Gfn(1), Level::L4K, &ram(8, Prot::RW), &mut pool);
    let _ = t.map(Gfn(0x200), Level::L2M, &ram(0x400, Prot::RW), &mut pool);
    assert!(t
        .write_protect(&mut Sweep::all(&EPT), LogMode::DirtyBit, 10000)
        .is_needed());
    let small = t.walk(Gfn(1)).unwrap();
    assert!(small.allows(Prot::RW) && !Ept::dirty(&EPT, small.entry));
    assert!(
        !t.walk(Gfn(0x200)).unwrap().allows(Prot::RW),
        "large leaves are protected"
    );
    assert_eq!(t.clean(Gfn(0), u64::MAX, LogMode::DirtyBit), Flush::None);
    // Without hardware D bits protection is all there is.
    let b = Arena::new(16);
    let t = Tdp::<Ept, _>::new(EPT_NO_AD, &b);
    let _ = t.map(Gfn(1), Level::L4K, &ram(8, Prot::RW), &mut Pool::new(&b));
    assert!(t.clean(Gfn(0), 2, LogMode::DirtyBit).is_needed());
    assert!(!t.walk(Gfn(1)).unwrap().allows(Prot::RW));
}

#[test]
fn ageing_with_and_without_a_bits() {
    for cfg in [EPT, EPT_NO_AD] {
        let a = Arena::new(16);
        let mut pool = Pool::new(&a);
        let t = Tdp::<Ept, _>::new(cfg, &a);
        let _ = t.map(Gfn(1), Level::L4K, &ram(8, Prot::RW), &mut pool);
        let all = Sweep::all(&cfg);
        assert!(t.age(&mut all.clone(), Age::Test, 10000));
        assert!(t.age(&mut all.clone(), Age::Clear, 10000));
        assert!(!t.age(&mut all.clone(), Age::Clear, 10000));
        assert!(!t.age(&mut all.clone(), Age::Test, 10000));
        // A parked leaf faults once and comes back with its rights; an old one just works.
        let r = t.fast_fault(Gfn(1), Prot::RW, Level::L4K);
        if cfg.ad() {
            assert_eq!(r, FastFault::Spurious);
        } else {
            assert_eq!(
                r,
                FastFault::Fixed {
                    made_writable: false
                }
            );
            assert!(t.age(&mut all.clone(), Age::Test, 10000));
            // Protecting a parked leaf must flush: nobody flushed when it was parked.
            let _ = t.age(&mut all.clone(), Age::Clear, 10000);
            assert!(t.clean(Gfn(0), 2, LogMode::WriteProtect).is_needed());
            let fixed = FastFault::Fixed {
                made_writable: false,
            };
            assert_eq!(t.fast_fault(Gfn(1), Prot::R, Level::L4K), fixed);
            let fixed = FastFault::Fixed {
                made_writable: true,
            };
            assert_eq!(t.fast_fault(Gfn(1), Prot::RW, Level::L4K), fixed);
        }
    }
}

#[test]
fn mmio_markers() {
    let a = Arena::new(16);
    let mut pool = Pool::new(&a);
    let t = Tdp::<Ept, _>::new(EPT, &a);
    assert_eq!(t.map_mmio(Gfn(0xfee00), 3, &mut pool).outcome, Map::Done);
    assert_eq!(
        t.map_mmio(Gfn(0xfee00), 3, &mut pool).outcome,
        Map::Spurious
    );
    assert_eq!(t.map_mmio(Gfn(0xfee00), 4, &mut pool).outcome, Map::Done);
    assert_eq!(t.walk(Gfn(0xfee00)).unwrap().mmio_gen(), Some(4));
    assert_eq!(
        t.fast_fault(Gfn(0xfee00), Prot::R, Level::L4K),
        FastFault::Slow
    );
    // Memory appears there: the marker goes, and nothing could have cached it.
    let r = t.map(Gfn(0xfee00), Level::L4K, &ram(2, Prot::RW), &mut pool);
    assert_eq!((r.outcome, r.flush), (Map::Done, Flush::None));
    assert_eq!(
        t.map_mmio(Gfn(0xfee00), 5, &mut pool).outcome,
        Map::NeedsExclusive
    );
    // Zapping a marker needs no flush by itself.
    let _ = t.map_mmio(Gfn(0xfee01), 5, &mut pool);
    let mut bin = Bin::new(&a);
    let z = t.zap(&mut Sweep::new(Gfn(0xfee01), Gfn(0xfee02)), 10, &mut bin);
    assert_eq!((z, bin.leaves.len()), (Zapped::default(), 0));
    assert_eq!(t.walk(Gfn(0xfee01)).unwrap().mmio_gen(), None);
    // So does taking one back; anything else stays.
    let _ = t.map_mmio(Gfn(0xfee01), 6, &mut pool);
    t.unmap_mmio(Gfn(0xfee01));
    assert_eq!(t.walk(Gfn(0xfee01)).unwrap().entry, 0);
    t.unmap_mmio(Gfn(0xfee00));
    assert!(t.walk(Gfn(0xfee00)).unwrap().is_mapped());
    t.unmap_mmio(EPT.end());
    // AMD has no such entry.
    let b = Arena::new(4);
    let t = Tdp::<Npt, _>::new(NPT, &b);
    assert_eq!(
        t.map_mmio(Gfn(1), 3, &mut Pool::new(&b)).outcome,
        Map::Spurious
    );
}

#[test]
fn sweeps_stop_and_resume() {
    let a = Arena::new(64);
    let mut pool = Pool::new(&a);
    let t = Tdp::<Npt, _>::new(NPT, &a);
    for i in 0..20 {
        let _ = t.map(Gfn(i * 512 + 3), Level::L4K, &ram(i, Prot::RW), &mut pool);
    }
    let mut sweep = Sweep::all(&NPT);
    let mut bin = Bin::new(&a);
    let mut calls = 0;
    let mut last = Gfn(0);
    while !sweep.is_done() {
        let _ = t.zap(&mut sweep, 1, &mut bin);
        calls += 1;
        assert!(sweep.position() > last);
        last = sweep.position();
    }
    assert_eq!((bin.leaves.len(), a.used_tables()), (20, 0));
    assert!(calls >= 20, "{calls}");

    // Pages mapped behind a paused zap survive it with their tables.
    for i in 0..4 {
        let _ = t.map(Gfn(i * 512), Level::L4K, &ram(i, Prot::RW), &mut pool);
    }
    let mut sweep = Sweep::all(&NPT);
    let _ = t.zap(&mut sweep, 1, &mut bin);
    assert!(!sweep.is_done());
    let _ = t.map(Gfn(1), Level::L4K, &ram(77, Prot::RW), &mut pool);
    while !sweep.is_done() {
        let _ = t.zap(&mut sweep, 1, &mut bin);
    }
    assert_eq!(t.walk(Gfn(1)).unwrap().pfn(&NPT, Gfn(1)), Some(Pfn(77)));
    assert_eq!(a.used_tables(), 3);
}

#[test]
fn split_and_collapse() {
    let a = Arena::new(64);
    let t = Tdp::<Ept, _>::new(EPT, &a);
    let mut pool = Pool::new(&a);
    for i in 0..4 {
        let _ = t.map(Gfn(i * 512), Level::L2M, &ram(i * 512, Prot::RW), &mut pool);
    }
    // Two spare tables: it stops, and goes on when there are more.
    let mut sweep = Sweep::new(Gfn(0), Gfn(3 * 512));
    pool.left = 2;
    let s = t.split(&mut sweep, Level::L4K, u32::MAX, &mut pool);
    assert!(s.no_spare);
    assert_eq!(
        (s.counts.leaves_2m, s.counts.tables, sweep.position()),
        (-2, 2, Gfn(1024))
    );
    pool.left = 10;
    let s = t.split(&mut sweep, Level::L4K, u32::MAX, &mut pool);
    assert!(!s.no_spare && sweep.is_done());
    assert_eq!(s.counts.leaves_4k, 512);
    assert_eq!(t.walk(Gfn(3 * 512)).unwrap().level, Level::L2M);
    // Of the three tables inside the range the host can map two large.
    let mut bin = Bin::new(&a);
    let mut sweep = Sweep::new(Gfn(0), Gfn(3 * 512));
    let best = |gfn: Gfn, pfn: Pfn| {
        assert_eq!(gfn.0, pfn.0);
        if gfn.0 < 1024 {
            Level::L2M
        } else {
            Level::L4K
        }
    };
    let z = t.collapse(&mut sweep, u32::MAX, &mut bin, best);
    assert!(sweep.is_done());
    assert_eq!((z.counts.leaves_4k, z.counts.tables), (-1024, -2));
    assert_eq!(
        z.flush,
        Flush::Range {
            start: Gfn(0),
            end: Gfn(1024)
        }
    );
    let r = t.map(Gfn(0), Level::L2M, &ram(0, Prot::RW), &mut pool);
    assert_eq!(r.outcome, Map::Done);
    assert!(t.walk(Gfn(1024)).unwrap().is_mapped());
    // A table that sticks out of the range is left alone.
    let mut sweep = Sweep::new(Gfn(1025), Gfn(2048));
    let z = t.collapse(&mut sweep, u32::MAX, &mut bin, |_, _| Level::L1G);
    assert_eq!(z, Zapped::default());
}

#[test]
fn a_split_goes_down_to_the_level_asked_for() {
    let a = Arena::new(16);
    let t = Tdp::<Npt, _>::new(NPT, &a);
    let mut pool = Pool::new(&a);
    let _ = t.map(Gfn(0), Level::L1G, &ram(0x40000, Prot::RW), &mut pool);
    let mut sweep = Sweep::new(Gfn(0), Gfn(512));
    let s = t.split(&mut sweep, Level::L4K, 10_000, &mut pool);
    assert_eq!(
        s.counts,
        Counts {
            leaves_1g: -1,
            leaves_2m: 511,
            leaves_4k: 512,
            tables: 2,
            for_exec: 0,
        }
    );
    assert_eq!(t.walk(Gfn(511)).unwrap().level, Level::L4K);
    assert_eq!(t.walk(Gfn(512)).unwrap().level, Level::L2M);
}

/// Hands out tables, and sets the A bit of one leaf each of the first few times, as hardware may
/// do between the moment a leaf is read and the moment it is replaced.
struct Interference<'a> {
    pool: Pool<'a>,
    table: usize,
    index: usize,
    times: u32,
}

impl Spare<usize> for Interference<'_> {
    fn take(&mut self) -> Option<NewTable<usize>> {
        if self.times > 0 {
            self.times -= 1;
            let slot = self.pool.arena.entry(self.table, self.index);
            slot.fetch_xor(1 << 5, std::sync::atomic::Ordering::SeqCst);
        }
        self.pool.take()
    }

    fn put_back(&mut self, t: NewTable<usize>) {
        self.pool.put_back(t);
    }
}

#[test]
fn hardware_interferes_with_a_split() {
    let a = Arena::new(16);
    let t = Tdp::<Npt, _>::new(NPT, &a);
    let big = LeafSpec {
        accessed: false,
        ..ram(0x400, Prot::RW)
    };
    let _ = t.map(Gfn(0), Level::L2M, &big, &mut Pool::new(&a));
    // The leaf is in the second table below the root.
    let mut spare = Interference {
        pool: Pool::new(&a),
        table: 2,
        index: 0,
        times: 3,
    };
    let r = t.map(Gfn(1), Level::L4K, &ram(0x401, Prot::RWX), &mut spare);
    assert_eq!((r.outcome, spare.times), (Map::Done, 0));
    assert_eq!(
        r.counts,
        Counts {
            leaves_2m: -1,
            leaves_4k: 512,
            tables: 1,
            ..Counts::default()
        }
    );
    let f = t.walk(Gfn(2)).unwrap();
    assert!(
        Npt::accessed(&NPT, f.entry),
        "the bit set last is carried over"
    );
}

/// Small pages for execution: their tables are counted, survive a collapse, and are reclaimed in
/// turn.
#[test]
fn tables_for_execution() {
    let a = Arena::new(32);
    let t = Tdp::<Ept, _>::new(EPT, &a);
    let mut pool = Pool::new(&a);
    let mut bin = Bin::new(&a);
    let small = |pfn| LeafSpec {
        instead_of: Level::L2M,
        ..ram(pfn, Prot::RWX)
    };
    // One replaces a large page, one is the first there, one is small for another reason.
    let _ = t.map(Gfn(0), Level::L2M, &ram(0x400, Prot::RW), &mut pool);
    let r = t.map(Gfn(5), Level::L4K, &small(0x405), &mut pool);
    assert_eq!((r.outcome, r.counts.for_exec), (Map::Done, 1));
    assert!(t.walk(Gfn(5)).unwrap().allows(Prot::RWX));
    assert!(!t.walk(Gfn(6)).unwrap().allows(Prot::RX));
    let r = t.map(Gfn(512), Level::L4K, &small(0x600), &mut pool);
    assert_eq!((r.counts.tables, r.counts.for_exec), (1, 1));
    let r = t.map(Gfn(1024), Level::L4K, &ram(0x800, Prot::RWX), &mut pool);
    assert_eq!((r.counts.tables, r.counts.for_exec), (1, 0));

    let mut sweep = Sweep::all(&EPT);
    let z = t.collapse(&mut sweep, u32::MAX, &mut bin, |_, _| Level::L2M);
    assert_eq!((z.counts.tables, z.counts.for_exec), (-1, 0));
    assert!(t.walk(Gfn(5)).unwrap().is_mapped());

    let mut sweep = Sweep::all(&EPT);
    let mut count = 1;
    let z = t.reclaim(&mut sweep, u32::MAX, &mut count, &mut bin);
    assert_eq!(
        (z.counts.leaves_4k, z.counts.for_exec, count),
        (-512, -1, 0)
    );
    assert!(z.flush.is_needed());
    assert!(!t.walk(Gfn(5)).unwrap().is_mapped());
    assert_eq!(sweep.position(), Gfn(512));
    count = 10;
    let z = t.reclaim(&mut sweep, u32::MAX, &mut count, &mut bin);
    assert_eq!((z.counts.for_exec, count, sweep.is_done()), (-1, 9, true));
}

/// A large table does not go in one step, nor do many small ones: what is removed costs.
#[test]
fn collapsing_and_reclaiming_keep_to_the_budget() {
    let a = Arena::new(64);
    let t = Tdp::<Ept, _>::new(EPT, &a);
    let mut pool = Pool::new(&a);
    let mut fill = |instead_of| {
        for i in 0..20 * 512 {
            let spec = LeafSpec {
                instead_of,
                ..ram(i, Prot::RWX)
            };
            let r = t.map(Gfn(i), Level::L4K, &spec, &mut pool);
            assert_eq!(r.outcome, Map::Done);
        }
    };
    for best in [Level::L1G, Level::L2M] {
        fill(Level::L4K);
        let mut sweep = Sweep::new(Gfn(0), Gfn(512 * 512));
        let (mut leaves, mut calls) = (0, 0);
        while !sweep.is_done() {
            let bin = &mut Bin::new(&a);
            let z = t.collapse(&mut sweep, 1500, bin, |_, _| best);
            assert!(z.counts.leaves_4k >= -1500 - 512, "{:?}", z.counts);
            leaves -= z.counts.leaves_4k;
            calls += 1;
        }
        assert_eq!(leaves, 20 * 512, "{best:?}");
        assert!((5..=20).contains(&calls), "{calls}");
    }
    // One table instead of 1 GiB, reclaimed in many steps, counts as one.
    let mut bin = Bin::new(&a);
    let _ = t.zap(&mut Sweep::all(&EPT), u32::MAX, &mut bin);
    assert_eq!(a.used_tables(), 0);
    fill(Level::L1G);
    let mut sweep = Sweep::all(&EPT);
    let (mut count, mut calls) = (1, 0);
    while count != 0 {
        let z = t.reclaim(&mut sweep, 1, &mut count, &mut bin);
        assert!(z.counts.leaves_4k >= -512, "{:?}", z.counts);
        calls += 1;
    }
    assert_eq!(calls, 20);
    assert!(!t.walk(Gfn(0)).unwrap().is_mapped());
    assert_eq!(t.walk(Gfn(0)).unwrap().level, Level::L1G);
}
