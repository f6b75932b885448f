// SPDX-License-Identifier: GPL-2.0

//! Removing mappings and tables, with the mmu lock held for writing.

use core::ops::ControlFlow;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Release};

use super::cursor::{Run, Step, Sweep};
use super::entry::{Format, Level};
use super::flush::Flush;
use super::{Counts, Exclusive, Tdp};
use crate::addr::{Gfn, Pfn};

/// A table that was taken out of the tree. All its entries are 0.
///
/// Free it once the flush returned by the operation has been carried out: a CPU's
/// paging-structure caches may point to it until then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Detached<R> {
    /// The table.
    pub table: R,
    /// Its host-physical address.
    pub pa: u64,
}

/// A leaf that was taken out of the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZappedLeaf {
    /// The first guest page it mapped.
    pub gfn: Gfn,
    /// Its level.
    pub level: Level,
    /// The first host page it mapped.
    pub pfn: Pfn,
    /// The pages may have been written.
    pub dirty: bool,
    /// The pages were used since they were last aged.
    pub young: bool,
}

/// Receives what an operation removes.
pub trait Sink<R> {
    /// A table. The sink cannot refuse it: it needs room that it does not have to allocate.
    fn table(&mut self, table: Detached<R>);

    /// A leaf.
    fn leaf(&mut self, leaf: ZappedLeaf) {
        let _ = leaf;
    }
}

/// The result of removing mappings.
#[must_use]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Zapped {
    /// Translations made stale.
    pub flush: Flush,
    /// What was removed, as negative numbers.
    pub counts: Counts,
}

impl<F: Format, T: Exclusive> Tdp<'_, F, T> {
    /// Removes every leaf that overlaps the sweep (a large one as a whole), every MMIO marker in
    /// it, and every table that lies inside it as a whole.
    pub fn zap<K: Sink<T::Ref>>(&self, sweep: &mut Sweep, budget: u32, sink: &mut K) -> Zapped {
        let mut out = Zapped::default();
        self.zap_some(sweep, budget, sink, &mut out);
        out
    }

    /// [`Tdp::zap`]; returns what is left of the budget.
    fn zap_some<K: Sink<T::Ref>>(
        &self,
        sweep: &mut Sweep,
        budget: u32,
        sink: &mut K,
        out: &mut Zapped,
    ) -> u32 {
        let start = sweep.start.0;
        let mut run = Run::new(sweep, &self.cfg, budget);
        let root = self.tables.root();
        let done = run.is_empty()
            || self
                .zap_table(root, self.cfg.root(), 0, start, &mut run, sink, out)
                .is_continue();
        let left = run.budget;
        if done {
            sweep.finish();
        }
        left
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the state of a recursion, private to it"
    )]
    fn zap_table<K: Sink<T::Ref>>(
        &self,
        table: T::Ref,
        level: Level,
        base: u64,
        start: u64,
        run: &mut Run<'_>,
        sink: &mut K,
        out: &mut Zapped,
    ) -> ControlFlow<()> {
        for i in run.first(base, level)..512 {
            let first = base.wrapping_add((i as u64).wrapping_mul(level.pages()));
            if first >= run.end {
                break;
            }
            run.spend();
            let slot = self.tables.entry(table, i);
            let entry = slot.load(Acquire);
            if entry == 0 {
                continue;
            }
            let down = match level.down() {
                Some(down) if F::is_present(entry) && !F::is_leaf(entry, level) => down,
                _ => {
                    // Hardware may set A and D until this very moment.
                    let entry = slot.swap(0, AcqRel);
                    self.removed_leaf(Gfn(first), level, entry, sink, out);
                    continue;
                }
            };
            if run.pause(first) {
                return ControlFlow::Break(());
            }
            let pa = self.cfg.address(entry);
            let child = self.tables.child(pa);
            self.zap_table(child, down, first, start, run, sink, out)?;
            let whole = first >= start && first.wrapping_add(level.pages()) <= run.end;
            // Of a table that an earlier call has begun, entries may have been added since.
            if whole && (first >= run.from || self.is_empty(child)) {
                slot.store(0, Release);
                out.counts.add_tables(-1);
                if F::is_for_exec(entry) {
                    out.counts.add_for_exec(-1);
                }
                out.flush = out.flush.join(Flush::entry(Gfn(first), level));
                sink.table(Detached { table: child, pa });
            }
        }
        ControlFlow::Continue(())
    }

    fn removed_leaf<K: Sink<T::Ref>>(
        &self,
        gfn: Gfn,
        level: Level,
        entry: u64,
        sink: &mut K,
        out: &mut Zapped,
    ) {
        if !F::is_present(entry) {
            return;
        }
        out.counts.add_leaves(level, -1);
        out.flush = out.flush.join(Flush::entry(gfn, level));
        sink.leaf(ZappedLeaf {
            gfn,
            level,
            pfn: self.cfg.pfn(entry, level),
            dirty: F::dirty(&self.cfg, entry),
            young: F::accessed(&self.cfg, entry),
        });
    }

    /// Removes tables that one large leaf could replace, so that the next fault installs it.
    ///
    /// For each table inside the sweep as a whole, `best` is asked with the first page mapped under
    /// it, and the host page, for the largest level at which the host can map that page now. Tables
    /// that are there for execution stay.
    pub fn collapse<K: Sink<T::Ref>>(
        &self,
        sweep: &mut Sweep,
        budget: u32,
        sink: &mut K,
        mut best: impl FnMut(Gfn, Pfn) -> Level,
    ) -> Zapped {
        let mut count = u32::MAX;
        self.remove_tables(
            sweep,
            budget,
            &mut count,
            sink,
            |under, level, entry, left| {
                !F::is_for_exec(entry) && self.is_replaceable(under, level, left, &mut best)
            },
        )
    }

    /// Removes up to `count` tables that are there for execution ([`Format::for_exec`]), so that
    /// faults decide anew what is there. The sweep stops behind the last one. A table counts once
    /// it is gone: a budget may end in the middle of one.
    pub fn reclaim<K: Sink<T::Ref>>(
        &self,
        sweep: &mut Sweep,
        budget: u32,
        count: &mut u32,
        sink: &mut K,
    ) -> Zapped {
        self.remove_tables(sweep, budget, count, sink, |_, _, entry, _| {
            F::is_for_exec(entry)
        })
    }

    /// Removes up to `count` tables of which `goes` says so: it gets what the table spans, at which
    /// level, the entry that points to it, and the budget, to be reduced by what the answer costs.
    fn remove_tables<K: Sink<T::Ref>>(
        &self,
        sweep: &mut Sweep,
        budget: u32,
        count: &mut u32,
        sink: &mut K,
        mut goes: impl FnMut(Sweep, Level, u64, &mut u32) -> bool,
    ) -> Zapped {
        let mut out = Zapped::default();
        let start = sweep.start.0;
        let mut run = Run::new(sweep, &self.cfg, budget);
        let root = self.tables.root();
        let top = self.cfg.root();
        if run.is_empty()
            || self
                .remove_in(
                    root, top, 0, start, &mut run, count, sink, &mut goes, &mut out,
                )
                .is_continue()
        {
            sweep.finish();
        }
        out
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the state of a recursion, private to it"
    )]
    fn remove_in<K: Sink<T::Ref>>(
        &self,
        table: T::Ref,
        level: Level,
        base: u64,
        start: u64,
        run: &mut Run<'_>,
        count: &mut u32,
        sink: &mut K,
        goes: &mut impl FnMut(Sweep, Level, u64, &mut u32) -> bool,
        out: &mut Zapped,
    ) -> ControlFlow<()> {
        for i in run.first(base, level)..512 {
            let first = base.wrapping_add((i as u64).wrapping_mul(level.pages()));
            if first >= run.end {
                break;
            }
            run.spend();
            let entry = self.tables.entry(table, i).load(Acquire);
            let down = match level.down() {
                Some(down) if F::is_present(entry) && !F::is_leaf(entry, level) => down,
                _ => continue,
            };
            if run.pause(first) {
                return ControlFlow::Break(());
            }
            let end = first.wrapping_add(level.pages());
            let whole = first >= start && end <= run.end;
            let mut under = Sweep::new(Gfn(first), Gfn(end));
            let candidate = whole && level.may_be_leaf();
            if candidate && *count == 0 {
                run.stop(first);
                return ControlFlow::Break(());
            }
            if candidate && goes(under, level, entry, &mut run.budget) {
                // An earlier call may have come as far as here.
                under.next = Gfn(first.max(run.from));
                run.budget = self.zap_some(&mut under, run.budget, sink, out);
                if !under.is_done() {
                    run.stop(under.next.0);
                    return ControlFlow::Break(());
                }
                *count = count.wrapping_sub(1);
            } else if down > Level::L4K {
                let child = self.tables.child(self.cfg.address(entry));
                self.remove_in(child, down, first, start, run, count, sink, goes, out)?;
            }
        }
        ControlFlow::Continue(())
    }

    /// Whether the first page mapped in `under` could be mapped by a leaf of `level`. Looking for it
    /// costs some of the budget.
    fn is_replaceable(
        &self,
        mut under: Sweep,
        level: Level,
        budget: &mut u32,
        best: &mut impl FnMut(Gfn, Pfn) -> Level,
    ) -> bool {
        let mut replaceable = false;
        let mut run = Run::new(&mut under, &self.cfg, u32::MAX);
        let root = self.tables.root();
        let _ = self.leaves_of(
            root,
            self.cfg.root(),
            0,
            &mut run,
            &mut |gfn, at, _, entry| {
                replaceable = best(gfn, self.cfg.pfn(entry, at)) >= level;
                Step::Stop
            },
        );
        *budget = budget.saturating_sub(u32::MAX.wrapping_sub(run.budget));
        replaceable
    }

    fn is_empty(&self, table: T::Ref) -> bool {
        (0..512).all(|i| self.tables.entry(table, i).load(Acquire) == 0)
    }
}
