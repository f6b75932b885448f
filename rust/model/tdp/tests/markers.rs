// SPDX-License-Identifier: GPL-2.0

//! Marks of device memory against slots that come and go: a mark that is taken as valid never stands
//! where there is memory, also when the tags begin anew.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::super::entry::MMIO_GEN_BITS;
use super::super::*;
use super::arena::{Arena, Bin, Pool};
use crate::addr::{Gfn, Pfn};
use crate::vmx::ept::Ept;

const CFG: Config = Config::new(false, 46, 0, true);
const PAGES: u64 = 6;
const ROUND: u64 = 1 << MMIO_GEN_BITS;

#[derive(Clone, Debug)]
enum Op {
    /// Memory appears at a page, or goes; many changes of other slots come before.
    Change { page: u64, skipped: u64 },
    /// A write to a page: what the fault handler does, and the handler of a marked page.
    Write { page: u64 },
    /// The mark of a page is removed.
    Unmark { page: u64 },
    /// All mappings are removed.
    Zap,
}

fn op() -> impl Strategy<Value = Op> {
    let page = || 0..PAGES;
    let skipped = prop_oneof![
        6 => Just(0),
        2 => 0..5u64,
        1 => Just(ROUND - 1),
        1 => ROUND - 3..ROUND + 3,
    ];
    prop_oneof![
        3 => (page(), skipped).prop_map(|(page, skipped)| Op::Change { page, skipped }),
        6 => page().prop_map(|page| Op::Write { page }),
        1 => page().prop_map(|page| Op::Unmark { page }),
        1 => Just(Op::Zap),
    ]
}

struct World<'a> {
    arena: &'a Arena,
    tdp: Tdp<'a, Ept, Arena>,
    gen: u64,
    memory: BTreeSet<u64>,
    counts: Counts,
}

impl World<'_> {
    fn zap(&mut self, mut sweep: Sweep) {
        while !sweep.is_done() {
            let z = self.tdp.zap(&mut sweep, 1, &mut Bin::new(self.arena));
            self.counts.add(z.counts);
        }
    }

    /// The generation moves on by `n`, as one by one.
    fn advance(&mut self, n: u64) {
        let to = self.gen + n;
        // Whether one of the generations up to there begins anew.
        if to / ROUND != self.gen / ROUND {
            assert!(mmio_tag_wraps(to / ROUND * ROUND));
            self.zap(Sweep::all(&CFG));
        }
        self.gen = to;
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Change { page, skipped } => {
                self.advance(skipped);
                self.advance(1);
                if self.memory.remove(&page) {
                    self.zap(Sweep::new(Gfn(page), Gfn(page + 1)));
                } else {
                    self.memory.insert(page);
                }
            }
            Op::Write { page } => self.write(page),
            Op::Unmark { page } => {
                self.tdp.unmap_mmio(Gfn(page));
                let found = self.tdp.walk(Gfn(page)).unwrap();
                assert_eq!(found.mmio_gen(), None);
            }
            Op::Zap => self.zap(Sweep::all(&CFG)),
        }
    }

    fn write(&mut self, page: u64) {
        let has_memory = self.memory.contains(&page);
        let found = self.tdp.walk(Gfn(page)).unwrap();
        if found.is_mapped() {
            assert!(has_memory);
            return;
        }
        if found.mmio_gen() == Some(mmio_tag(self.gen)) {
            assert!(!has_memory, "a mark of {page:#x} is taken as valid");
            return;
        }
        self.tdp.unmap_mmio(Gfn(page));
        let mut pool = Pool::new(self.arena);
        let r = if has_memory {
            let spec = LeafSpec::ram(Pfn(page + 0x100), Prot::RW);
            self.tdp.map(Gfn(page), Level::L4K, &spec, &mut pool)
        } else {
            self.tdp.map_mmio(Gfn(page), self.gen, &mut pool)
        };
        self.counts.add(r.counts);
        assert_eq!((r.outcome, r.flush), (Map::Done, Flush::None));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..Default::default() })]

    #[test]
    fn no_mark_is_valid_where_memory_is(
        start in prop_oneof![Just(0), ROUND - 4..ROUND + 1],
        ops in prop::collection::vec(op(), 1..80),
    ) {
        let arena = Arena::new(16);
        let mut w = World {
            arena: &arena,
            tdp: Tdp::new(CFG, &arena),
            gen: start,
            memory: BTreeSet::new(),
            counts: Counts::default(),
        };
        for op in &ops {
            w.apply(op);
        }
        w.zap(Sweep::all(&CFG));
        assert_eq!((w.counts, arena.used_tables()), (Counts::default(), 0));
    }
}
