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

/// What becomes of a table.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Keep,
    Remove,
    /// The sweep ends before it.
    Stop,
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
        let start = sweep.start.0;
        let mut run = Run::new(sweep, &self.cfg, budget);
        let root = self.tables.root();
        if run.is_empty()
            || self
                .zap_table(root, self.cfg.root(), 0, start, &mut run, sink, &mut out)
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
        self.remove_tables(sweep, budget, sink, |under, level, entry| {
            let goes = !F::is_for_exec(entry) && self.is_replaceable(under, level, &mut best);
            if goes {
                Verdict::Remove
            } else {
                Verdict::Keep
            }
        })
    }

    /// Removes up to `count` tables that are there for execution ([`Format::for_exec`]), so that
    /// faults decide anew what is there. The sweep stops behind the last one.
    pub fn reclaim<K: Sink<T::Ref>>(
        &self,
        sweep: &mut Sweep,
        budget: u32,
        count: &mut u32,
        sink: &mut K,
    ) -> Zapped {
        self.remove_tables(sweep, budget, sink, |_, _, entry| {
            if *count == 0 {
                return Verdict::Stop;
            }
            if !F::is_for_exec(entry) {
                return Verdict::Keep;
            }
            *count = count.wrapping_sub(1);
            Verdict::Remove
        })
    }

    fn remove_tables<K: Sink<T::Ref>>(
        &self,
        sweep: &mut Sweep,
        budget: u32,
        sink: &mut K,
        mut judge: impl FnMut(Sweep, Level, u64) -> Verdict,
    ) -> Zapped {
        let mut out = Zapped::default();
        let start = sweep.start.0;
        let mut run = Run::new(sweep, &self.cfg, budget);
        let root = self.tables.root();
        let top = self.cfg.root();
        if run.is_empty()
            || self
                .remove_in(root, top, 0, start, &mut run, sink, &mut judge, &mut out)
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
        sink: &mut K,
        judge: &mut impl FnMut(Sweep, Level, u64) -> Verdict,
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
            let verdict = if whole && level.may_be_leaf() {
                judge(under, level, entry)
            } else {
                Verdict::Keep
            };
            if verdict == Verdict::Stop {
                run.stop(first);
                return ControlFlow::Break(());
            }
            if verdict == Verdict::Remove {
                let zapped = self.zap(&mut under, u32::MAX, sink);
                out.flush = out.flush.join(zapped.flush);
                out.counts.add(zapped.counts);
            } else if down > Level::L4K {
                let child = self.tables.child(self.cfg.address(entry));
                self.remove_in(child, down, first, start, run, sink, judge, out)?;
            }
        }
        ControlFlow::Continue(())
    }

    /// Whether the first page mapped in `under` could be mapped by a leaf of `level`.
    fn is_replaceable(
        &self,
        mut under: Sweep,
        level: Level,
        best: &mut impl FnMut(Gfn, Pfn) -> Level,
    ) -> bool {
        let mut replaceable = false;
        self.for_each_leaf(&mut under, u32::MAX, |gfn, at, _, entry| {
            replaceable = best(gfn, self.cfg.pfn(entry, at)) >= level;
            Step::Stop
        });
        replaceable
    }

    fn is_empty(&self, table: T::Ref) -> bool {
        (0..512).all(|i| self.tables.entry(table, i).load(Acquire) == 0)
    }
}
