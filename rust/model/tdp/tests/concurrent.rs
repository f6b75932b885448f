// SPDX-License-Identifier: GPL-2.0

//! Operations that share the read lock: on real threads, and what one must leave for another.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Barrier, RwLock};

use super::super::protect::Age;
use super::super::*;
use super::arena::{Arena, Bin, Pool};
use crate::addr::{Gfn, Pfn};
use crate::svm::npt::Npt;
use crate::vmx::ept::Ept;

/// A small generator; the tests need variety, not quality.
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) % n
    }
}

fn sum(into: &RwLock<Counts>, c: Counts) {
    into.write().unwrap().add(c);
}

/// Mappers at two levels, splitters, loggers and agers under the read lock against zappers under
/// the write lock. Whatever happens, pages map to the right frame and the books balance.
fn storm<F: Format>(cfg: Config) {
    const PAGES: u64 = 4 * 512;
    let arena = Arena::new(64);
    let lock = RwLock::new(());
    let counts = RwLock::new(Counts::default());
    let start = Barrier::new(4);
    std::thread::scope(|s| {
        for id in 0..4u64 {
            let (arena, lock, counts, start) = (&arena, &lock, &counts, &start);
            s.spawn(move || {
                let tdp = Tdp::<F, _>::new(cfg, arena);
                let mut rng = Rng(id + 1);
                start.wait();
                for _ in 0..4000 {
                    let g = rng.below(PAGES);
                    let what = rng.below(40);
                    if what == 0 {
                        let _guard = lock.write().unwrap();
                        let to = Gfn((g + 700).min(PAGES));
                        let mut sweep = Sweep::new(Gfn(g), to);
                        while !sweep.is_done() {
                            let z = tdp.zap(&mut sweep, 100, &mut Bin::new(arena));
                            sum(counts, z.counts);
                        }
                        continue;
                    }
                    let _guard = lock.read().unwrap();
                    let mut pool = Pool::new(arena);
                    match what {
                        1..=15 => {
                            let level = if g % 64 == 0 { Level::L2M } else { Level::L4K };
                            let prot = if rng.below(2) == 0 { Prot::R } else { Prot::RW };
                            let pfn = Pfn(level.base(Gfn(g)).0 + 0x100000);
                            let spec = LeafSpec {
                                host_writable: true,
                                mmu_writable: true,
                                ..LeafSpec::ram(pfn, prot)
                            };
                            let m = tdp.map(Gfn(g), level, &spec, &mut pool);
                            sum(counts, m.counts);
                            if m.outcome == Map::Done && level == Level::L4K {
                                assert!(tdp.walk(Gfn(g)).unwrap().is_mapped());
                            }
                        }
                        16..=25 => {
                            let _ = tdp.fast_fault(Gfn(g), Prot::RW, Level::L2M);
                        }
                        26..=30 => {
                            let _ = tdp.clean(Gfn(g & !63), u64::MAX, LogMode::WriteProtect);
                        }
                        31..=33 => {
                            let mut sweep = Sweep::new(Gfn(g), Gfn(g + 64));
                            tdp.age(&mut sweep, Age::Clear, 1000);
                        }
                        34..=36 => {
                            let mut sweep = Sweep::new(Gfn(g), Gfn(g + 64));
                            let s = tdp.split(&mut sweep, Level::L4K, 1000, &mut pool);
                            sum(counts, s.counts);
                        }
                        _ => {
                            let f = tdp.walk(Gfn(g)).unwrap();
                            if let Some(p) = f.pfn(&cfg, Gfn(g)) {
                                assert_eq!(p, Pfn(g + 0x100000));
                            }
                        }
                    }
                }
            });
        }
    });
    let tdp = Tdp::<F, _>::new(cfg, &arena);
    for g in 0..PAGES {
        if let Some(p) = tdp.walk(Gfn(g)).unwrap().pfn(&cfg, Gfn(g)) {
            assert_eq!(p, Pfn(g + 0x100000));
        }
    }
    let z = tdp.zap(&mut Sweep::all(&cfg), u32::MAX, &mut Bin::new(&arena));
    sum(&counts, z.counts);
    assert_eq!(*counts.read().unwrap(), Counts::default());
    assert_eq!(arena.used_tables(), 0);
}

#[test]
fn npt_storm() {
    storm::<Npt>(Config::new(false, 48, 0, true));
}

#[test]
fn ept_storm_without_a_and_d() {
    storm::<Ept>(Config::new(true, 48, 0, false));
}

/// Two vCPUs fault on the same page: one installs the leaf, the tables exist once.
#[test]
fn mappers_race_for_one_page() {
    let cfg = Config::new(false, 48, 0, true);
    for round in 0..300u64 {
        let arena = Arena::new(16);
        let done = AtomicU64::new(0);
        let start = Barrier::new(2);
        std::thread::scope(|s| {
            for _ in 0..2 {
                s.spawn(|| {
                    let tdp = Tdp::<Npt, _>::new(cfg, &arena);
                    start.wait();
                    let spec = LeafSpec::ram(Pfn(9), Prot::RW);
                    let m = tdp.map(Gfn(round * 7), Level::L4K, &spec, &mut Pool::new(&arena));
                    match m.outcome {
                        Map::Done => done.fetch_add(1, SeqCst),
                        Map::Spurious => 0,
                        other => panic!("{other:?}"),
                    };
                });
            }
        });
        assert_eq!(done.load(SeqCst), 1);
        assert_eq!(arena.used_tables(), 3);
    }
}

/// The dirty-log order of the module documentation: a page whose write permission was restored
/// while the log was harvested is in the log or writable no more.
#[test]
fn no_dirty_page_is_lost() {
    let cfg = Config::new(false, 48, 0, true);
    let arena = Arena::new(16);
    let tdp = Tdp::<Npt, _>::new(cfg, &arena);
    let spec = LeafSpec::ram(Pfn(9), Prot::RW);
    let _ = tdp.map(Gfn(0), Level::L4K, &spec, &mut Pool::new(&arena));
    let log = AtomicU64::new(0);
    for _ in 0..3000 {
        let start = Barrier::new(2);
        std::thread::scope(|s| {
            s.spawn(|| {
                start.wait();
                if tdp.fast_fault(Gfn(0), Prot::RW, Level::L4K)
                    == (FastFault::Fixed {
                        made_writable: true,
                    })
                {
                    log.fetch_or(1, SeqCst);
                }
            });
            start.wait();
            log.swap(0, SeqCst);
            let _ = tdp.clean(Gfn(0), 1, LogMode::WriteProtect);
        });
        let writable = tdp.walk(Gfn(0)).unwrap().allows(Prot::RW);
        assert!(!writable || log.load(SeqCst) == 1);
    }
}

#[test]
fn a_mapper_takes_no_write_permission() {
    fn check<F: Format>(cfg: Config) {
        let a = Arena::new(16);
        let t = Tdp::<F, _>::new(cfg, &a);
        let mut pool = Pool::new(&a);
        // A page of a slot that is logged, for a fetch and as it was written before.
        let logged = LeafSpec {
            host_writable: true,
            mmu_writable: true,
            ..LeafSpec::ram(Pfn(0x99), Prot::RX)
        };
        let written = LeafSpec {
            prot: Prot {
                x: false,
                ..Prot::RWX
            },
            ..logged
        };
        let _ = t.map(Gfn(5), Level::L4K, &written, &mut pool);
        let r = t.map(Gfn(5), Level::L4K, &logged, &mut pool);
        assert_eq!((r.outcome, r.flush), (Map::Done, Flush::None));
        assert!(t.walk(Gfn(5)).unwrap().prot().allows(Prot::RWX));
        // Who harvests still finds what he has to flush for.
        assert!(t.clean(Gfn(0), 1 << 5, LogMode::WriteProtect).is_needed());
        // What the host does not let it write is taken.
        let _ = t.map(Gfn(6), Level::L4K, &written, &mut pool);
        let r = t.map(
            Gfn(6),
            Level::L4K,
            &LeafSpec::ram(Pfn(0x99), Prot::RX),
            &mut pool,
        );
        assert!(r.flush.is_needed());
        assert!(!t.walk(Gfn(6)).unwrap().prot().w);
    }
    check::<Npt>(Config::new(false, 48, 0, true));
    check::<Ept>(Config::new(false, 46, 0, true));
    check::<Ept>(Config::new(false, 46, 0, false));
}
