// SPDX-License-Identifier: GPL-2.0

//! Walking: to one page, and over all leaves of a range with a bound on the work.

use core::marker::PhantomData;
use core::ops::ControlFlow;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Acquire;

use super::entry::{Config, Format, Level, Prot};
use super::{Tables, Tdp};
use crate::addr::{Gfn, Pfn};

/// Where a walk ended: a leaf, an empty entry or an MMIO entry.
#[derive(Debug)]
pub struct Found<F> {
    /// The level of the table in which the walk ended.
    pub level: Level,
    /// The entry, as it was.
    pub entry: u64,
    format: PhantomData<F>,
}

impl<F> Clone for Found<F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F> Copy for Found<F> {}

impl<F: Format> Found<F> {
    fn new(level: Level, entry: u64) -> Self {
        Found {
            level,
            entry,
            format: PhantomData,
        }
    }

    /// Whether the page is mapped. A parked leaf (see [`super::entry`]) counts.
    pub fn is_mapped(&self) -> bool {
        F::is_present(self.entry)
    }

    /// Whether hardware would let the access through: a fault on it is spurious.
    pub fn allows(&self, want: Prot) -> bool {
        self.is_mapped() && F::hw_prot(self.entry).allows(want)
    }

    /// The rights of the leaf.
    pub fn prot(&self) -> Prot {
        F::prot(self.entry)
    }

    /// The host page that backs `gfn`, `None` if it is not mapped.
    pub fn pfn(&self, cfg: &Config, gfn: Gfn) -> Option<Pfn> {
        let within = gfn.0 & self.level.pages().wrapping_sub(1);
        self.is_mapped()
            .then(|| Pfn(cfg.pfn(self.entry, self.level).0 | within))
    }

    /// The tag given to [`Tdp::map_mmio`], `None` if this is no MMIO entry.
    pub fn mmio_gen(&self) -> Option<u64> {
        F::mmio_gen(self.entry)
    }
}

/// A range of pages and how far an operation got in it.
///
/// Operations on ranges take a budget, counted in entries visited, and stop between two last-level
/// tables once they have used it up, having advanced by at least one entry. The caller carries out
/// the flush, may drop the lock, and calls again with the same sweep until it [is
/// done](Sweep::is_done).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sweep {
    pub(super) start: Gfn,
    pub(super) end: Gfn,
    pub(super) next: Gfn,
}

impl Sweep {
    /// The pages from `start` up to but not including `end`.
    pub fn new(start: Gfn, end: Gfn) -> Self {
        Sweep {
            start,
            end,
            next: start,
        }
    }

    /// All pages there are.
    pub fn all(cfg: &Config) -> Self {
        Self::new(Gfn(0), cfg.end())
    }

    /// Whether the operation has reached the end.
    pub fn is_done(&self) -> bool {
        self.next.0 >= self.end.0
    }

    /// The first page not dealt with yet.
    pub fn position(&self) -> Gfn {
        self.next
    }

    /// Goes to the end.
    pub(super) fn finish(&mut self) {
        self.next = self.end;
    }
}

/// What the visitor of a leaf wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Go on to the next entry.
    Next,
    /// Look at the same entry again: it has changed.
    Again,
    /// Stop here; the sweep resumes at this leaf.
    Stop,
}

/// The fixed and running parts of a sweep, shared by the levels of the recursion.
pub(super) struct Run<'s> {
    pub(super) sweep: &'s mut Sweep,
    /// Where this call started.
    pub(super) from: u64,
    /// One past the last page, clamped to what the tables can translate.
    pub(super) end: u64,
    /// Entries that may still be visited.
    pub(super) budget: u32,
}

impl<'s> Run<'s> {
    pub(super) fn new(sweep: &'s mut Sweep, cfg: &Config, budget: u32) -> Self {
        let end = sweep.end.0.min(cfg.end().0);
        let from = sweep.next.0;
        Run {
            sweep,
            from,
            end,
            budget,
        }
    }

    /// Whether nothing of the range is left that the tables can translate.
    pub(super) fn is_empty(&self) -> bool {
        self.from >= self.end
    }

    /// The index at which to start in the table of `level` whose first page is `base`.
    pub(super) fn first(&self, base: u64, level: Level) -> usize {
        level.index(Gfn(base.max(self.from)))
    }

    pub(super) fn spend(&mut self) {
        self.budget = self.budget.saturating_sub(1);
    }

    /// Whether to stop before the table whose first page is `base`; notes the position if so.
    pub(super) fn pause(&mut self, base: u64) -> bool {
        let at = base.max(self.from);
        let stop = self.budget == 0 && at > self.from;
        if stop {
            self.sweep.next = Gfn(at);
        }
        stop
    }

    pub(super) fn stop(&mut self, base: u64) {
        self.sweep.next = Gfn(base.max(self.from));
    }
}

impl<F: Format, T: Tables> Tdp<'_, F, T> {
    /// Finds the leaf for `gfn`, or the entry in which it is missing. `None` if the page is beyond
    /// what tables of this depth can translate.
    pub fn walk(&self, gfn: Gfn) -> Option<Found<F>> {
        self.descend(gfn, Level::L4K).map(|(found, _)| found)
    }

    /// Walks towards `gfn` until a leaf, an entry that is not present, or an entry of level `to`.
    pub(super) fn descend(&self, gfn: Gfn, to: Level) -> Option<(Found<F>, &AtomicU64)> {
        if !self.cfg.covers(gfn) {
            return None;
        }
        let mut table = self.tables.root();
        let mut level = self.cfg.root();
        loop {
            let slot = self.tables.entry(table, level.index(gfn));
            let entry = slot.load(Acquire);
            match level.down() {
                Some(down) if level > to && F::is_present(entry) && !F::is_leaf(entry, level) => {
                    table = self.tables.child(self.cfg.address(entry));
                    level = down;
                }
                _ => return Some((Found::new(level, entry), slot)),
            }
        }
    }

    /// Visits the leaves that overlap the sweep, in ascending order.
    ///
    /// The visitor gets the first page the leaf spans, its level, the entry and its value. It may
    /// change the entry by compare-exchange.
    pub fn for_each_leaf(
        &self,
        sweep: &mut Sweep,
        budget: u32,
        mut visit: impl FnMut(Gfn, Level, &AtomicU64, u64) -> Step,
    ) {
        let mut run = Run::new(sweep, &self.cfg, budget);
        let root = self.tables.root();
        if run.is_empty()
            || self
                .leaves_of(root, self.cfg.root(), 0, &mut run, &mut visit)
                .is_continue()
        {
            sweep.finish();
        }
    }

    pub(super) fn leaves_of(
        &self,
        table: T::Ref,
        level: Level,
        base: u64,
        run: &mut Run<'_>,
        visit: &mut impl FnMut(Gfn, Level, &AtomicU64, u64) -> Step,
    ) -> ControlFlow<()> {
        let mut i = run.first(base, level);
        while i < 512 {
            let first = base.wrapping_add((i as u64).wrapping_mul(level.pages()));
            if first >= run.end {
                break;
            }
            run.spend();
            let slot = self.tables.entry(table, i);
            let entry = slot.load(Acquire);
            i = i.wrapping_add(1);
            if !F::is_present(entry) {
                continue;
            }
            match level.down() {
                Some(down) if !F::is_leaf(entry, level) => {
                    if run.pause(first) {
                        return ControlFlow::Break(());
                    }
                    let child = self.tables.child(self.cfg.address(entry));
                    self.leaves_of(child, down, first, run, visit)?;
                }
                _ => match visit(Gfn(first), level, slot, entry) {
                    Step::Next => {}
                    Step::Again => i = i.wrapping_sub(1),
                    Step::Stop => {
                        run.stop(first);
                        return ControlFlow::Break(());
                    }
                },
            }
        }
        ControlFlow::Continue(())
    }
}
