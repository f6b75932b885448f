// SPDX-License-Identifier: GPL-2.0

//! Adding mappings: the fault path, MMIO markers, and splitting of large leaves.

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};

use super::cursor::{Step, Sweep};
use super::entry::{Format, LeafSpec, Level, Prot};
use super::flush::Flush;
use super::zap::Sink;
use super::{Counts, Exclusive, NewTable, Spare, Tables, Tdp};
use crate::addr::Gfn;

/// What became of an attempt to map a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Map {
    /// The leaf was written.
    Done,
    /// The page was already mapped with at least these rights; maybe another vCPU was faster.
    Spurious,
    /// The spare tables ran out. Tables linked so far stay; refill and try again.
    NoSpare,
    /// A table would have to be replaced by a large leaf, or a leaf by one for another host page.
    /// Take the lock for writing and use [`Tdp::map_exclusive`], or map a smaller page.
    NeedsExclusive,
    /// The page is beyond what tables of this depth can translate.
    OutOfRange,
}

/// The result of an attempt to map a page.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// What became of it.
    pub outcome: Map,
    /// Translations made stale: only if rights were taken away or something was replaced.
    pub flush: Flush,
    /// What was added, whatever the outcome.
    pub counts: Counts,
}

/// The result of [`Tdp::fast_fault`].
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FastFault {
    /// The entry now allows the access.
    Fixed {
        /// The page was made writable: mark it dirty now.
        made_writable: bool,
    },
    /// The entry already allowed the access.
    Spurious,
    /// The full fault path has to decide.
    Slow,
}

/// The result of [`Tdp::split`].
#[must_use]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Split {
    /// Leaves and tables added and removed.
    pub counts: Counts,
    /// The spare tables ran out before the range (or the budget) ended.
    pub no_spare: bool,
}

impl<F: Format, T: Tables> Tdp<'_, F, T> {
    /// Maps `gfn` by a leaf of `level` (at most 1 GiB) as `spec` says.
    ///
    /// Missing tables are taken from `spare`, at most one per level. A larger leaf in the way that
    /// maps the same host pages is split; one that already grants `spec.prot` makes the attempt
    /// spurious. Accessed and dirty state of a leaf that is replaced carries over.
    pub fn map<S: Spare<T::Ref>>(
        &self,
        gfn: Gfn,
        level: Level,
        spec: &LeafSpec,
        spare: &mut S,
    ) -> Mapped {
        let mut counts = Counts::default();
        let mut flush = Flush::None;
        let level = level.min(Level::L1G);
        let outcome = match self.entry_for(gfn, level, Some(spec), spare, &mut counts) {
            Ok(slot) => self.set_leaf(slot, gfn, level, spec, &mut counts, &mut flush),
            Err(outcome) => outcome,
        };
        Mapped {
            outcome,
            flush,
            counts,
        }
    }

    /// Marks `gfn`, which must have no memory, as emulated MMIO; see [`Format::mmio`] for `gen`.
    /// Spurious for formats that cannot express it.
    pub fn map_mmio<S: Spare<T::Ref>>(&self, gfn: Gfn, gen: u64, spare: &mut S) -> Mapped {
        let mut counts = Counts::default();
        let outcome = match F::mmio(gen) {
            None => Map::Spurious,
            Some(marker) => match self.entry_for(gfn, Level::L4K, None, spare, &mut counts) {
                Ok(slot) => set_marker::<F>(slot, marker),
                Err(outcome) => outcome,
            },
        };
        // Neither an empty entry nor a misconfigured one is ever cached (SDM: vol 3, 30.4.2).
        Mapped {
            outcome,
            flush: Flush::None,
            counts,
        }
    }

    /// Removes the MMIO marker of `gfn`, if there is one.
    pub fn unmap_mmio(&self, gfn: Gfn) {
        let Some((found, slot)) = self.descend(gfn, Level::L4K) else {
            return;
        };
        if F::mmio_gen(found.entry).is_some() {
            // If another one was faster, it has put something in its place. No flush, as above.
            let _ = slot.compare_exchange(found.entry, 0, AcqRel, Acquire);
        }
    }

    /// Tries to resolve a fault on a mapped page without its slot and host page: restores write
    /// permission that only dirty logging took away, and the rights of a parked leaf.
    ///
    /// Leaves above `max_level` are not made writable, so that logging stays exact.
    pub fn fast_fault(&self, gfn: Gfn, want: Prot, max_level: Level) -> FastFault {
        let Some((found, slot)) = self.descend(gfn, Level::L4K) else {
            return FastFault::Slow;
        };
        let mut entry = found.entry;
        loop {
            // The level cannot change under the read lock once the entry is a leaf of the last
            // level; a larger leaf may turn into a table by a split.
            if !F::is_present(entry) || !F::is_leaf(entry, found.level) {
                return FastFault::Slow;
            }
            if F::hw_prot(entry).allows(want) {
                return FastFault::Spurious;
            }
            let mut new = F::revived(&self.cfg, entry);
            let made_writable = want.w && !F::prot(entry).w;
            if made_writable {
                let may = F::host_writable(entry) && F::mmu_writable(entry);
                if !may || found.level > max_level {
                    return FastFault::Slow;
                }
                new = F::with_write(new);
            }
            if !F::hw_prot(new).allows(want) {
                return FastFault::Slow;
            }
            match slot.compare_exchange(entry, new, AcqRel, Acquire) {
                Ok(_) => return FastFault::Fixed { made_writable },
                Err(now) => entry = now,
            }
        }
    }

    /// Splits the leaves of the sweep that are larger than `to`. Nothing changes for the guest and
    /// no flush is due: the new leaves mean the same as the old one.
    pub fn split<S: Spare<T::Ref>>(
        &self,
        sweep: &mut Sweep,
        to: Level,
        budget: u32,
        spare: &mut S,
    ) -> Split {
        let mut out = Split::default();
        self.for_each_leaf(sweep, budget, |_, level, slot, entry| {
            if level <= to {
                return Step::Next;
            }
            match self.split_leaf(slot, entry, level, false, spare, &mut out.counts) {
                true => Step::Again,
                false => {
                    out.no_spare = true;
                    Step::Stop
                }
            }
        });
        out
    }

    /// Walks to the entry of `to` for `gfn`, adding tables and splitting leaves on the way.
    ///
    /// `spec` is what is going to be mapped: it tells a leaf in the way that is good enough from
    /// one that must be split. Without it any leaf is in the way for good.
    fn entry_for<S: Spare<T::Ref>>(
        &self,
        gfn: Gfn,
        to: Level,
        spec: Option<&LeafSpec>,
        spare: &mut S,
        counts: &mut Counts,
    ) -> Result<&AtomicU64, Map> {
        if !self.cfg.covers(gfn) {
            return Err(Map::OutOfRange);
        }
        let mut table = self.tables.root();
        let mut level = self.cfg.root();
        loop {
            let slot = self.tables.entry(table, level.index(gfn));
            let down = match level.down() {
                Some(down) if level > to => down,
                _ => return Ok(slot),
            };
            let entry = slot.load(Acquire);
            if !F::is_present(entry) {
                let new = spare.take().ok_or(Map::NoSpare)?;
                let for_exec = spec.is_some_and(|s| level <= s.instead_of);
                let link = self.link(new.pa, for_exec);
                if slot.compare_exchange(entry, link, AcqRel, Acquire).is_err() {
                    spare.put_back(new);
                    continue;
                }
                counts.add_tables(1);
                counts.add_for_exec(i64::from(for_exec));
                table = new.table;
                level = down;
            } else if F::is_leaf(entry, level) {
                let spec = spec.ok_or(Map::NeedsExclusive)?;
                let within = gfn.0 & level.pages().wrapping_sub(1) & !to.pages().wrapping_sub(1);
                let wanted = spec.pfn.0 & !to.pages().wrapping_sub(1);
                if self.cfg.pfn(entry, level).0 | within != wanted {
                    return Err(Map::NeedsExclusive);
                }
                if F::hw_prot(entry).allows(spec.prot) {
                    return Err(Map::Spurious);
                }
                let for_exec = level <= spec.instead_of;
                if !self.split_leaf(slot, entry, level, for_exec, spare, counts) {
                    return Err(Map::NoSpare);
                }
            } else {
                table = self.tables.child(self.cfg.address(entry));
                level = down;
            }
        }
    }

    fn set_leaf(
        &self,
        slot: &AtomicU64,
        gfn: Gfn,
        level: Level,
        spec: &LeafSpec,
        counts: &mut Counts,
        flush: &mut Flush,
    ) -> Map {
        let leaf = F::leaf(&self.cfg, level, spec);
        let mut old = slot.load(Acquire);
        loop {
            let present = F::is_present(old);
            let mut new = leaf;
            if present {
                if !F::is_leaf(old, level) || self.cfg.pfn(old, level) != self.cfg.pfn(leaf, level)
                {
                    return Map::NeedsExclusive;
                }
                if F::hw_prot(old).allows(spec.prot) {
                    return Map::Spurious;
                }
                if F::accessed(&self.cfg, old) {
                    new = F::revived(&self.cfg, new);
                }
                if F::prot(old).w && spec.host_writable && spec.mmu_writable {
                    // Whoever has the lock for reading as well and harvests the log would find the
                    // page protected, and not flush for the translations that can still write it.
                    new = F::with_write(new);
                }
                if F::dirty(&self.cfg, old) {
                    new = F::soiled(&self.cfg, new);
                }
            }
            match slot.compare_exchange(old, new, AcqRel, Acquire) {
                Ok(_) => {
                    if !present {
                        counts.add_leaves(level, 1);
                    } else if !F::prot(new).allows(F::prot(old)) {
                        *flush = Flush::entry(gfn, level);
                    }
                    return Map::Done;
                }
                Err(now) => old = now,
            }
        }
    }

    /// Replaces the leaf `entry` of `level` by a table of smaller ones. `false` if there is no
    /// spare table; `true` if the entry has changed, by us or by somebody else.
    fn split_leaf<S: Spare<T::Ref>>(
        &self,
        slot: &AtomicU64,
        entry: u64,
        level: Level,
        for_exec: bool,
        spare: &mut S,
        counts: &mut Counts,
    ) -> bool {
        let Some(down) = level.down() else {
            return true;
        };
        let Some(new) = spare.take() else {
            return false;
        };
        self.fill(&new, |i| F::part(&self.cfg, entry, level, i));
        let link = self.link(new.pa, for_exec);
        if slot.compare_exchange(entry, link, AcqRel, Acquire).is_ok() {
            counts.add_leaves(level, -1);
            counts.add_leaves(down, 512);
            counts.add_tables(1);
            counts.add_for_exec(i64::from(for_exec));
        } else {
            self.fill(&new, |_| 0);
            spare.put_back(new);
        }
        true
    }

    fn link(&self, pa: u64, for_exec: bool) -> u64 {
        let table = F::table(&self.cfg, pa);
        if for_exec {
            F::for_exec(table)
        } else {
            table
        }
    }

    /// Writes all entries of a table nobody else knows of; the exchange that links it publishes
    /// them.
    fn fill(&self, new: &NewTable<T::Ref>, entry: impl Fn(usize) -> u64) {
        for i in 0..512 {
            self.tables.entry(new.table, i).store(entry(i), Relaxed);
        }
    }
}

impl<F: Format, T: Exclusive> Tdp<'_, F, T> {
    /// Like [`map`](Self::map), and removes what is in the way: tables are given to `sink`, and
    /// leaves for other host pages are zapped. Never returns [`Map::NeedsExclusive`].
    pub fn map_exclusive<S: Spare<T::Ref>, K: Sink<T::Ref>>(
        &self,
        gfn: Gfn,
        level: Level,
        spec: &LeafSpec,
        spare: &mut S,
        sink: &mut K,
    ) -> Mapped {
        let mut out = self.map(gfn, level, spec, spare);
        // With mappers excluded one removal is enough.
        if out.outcome == Map::NeedsExclusive {
            if let Some((found, _)) = self.descend(gfn, level.min(Level::L1G)) {
                let base = found.level.base(gfn);
                let mut sweep = Sweep::new(base, base.wrapping_add(found.level.pages()));
                let zapped = self.zap(&mut sweep, u32::MAX, sink);
                let again = self.map(gfn, level, spec, spare);
                out.outcome = again.outcome;
                out.flush = out.flush.join(zapped.flush).join(again.flush);
                out.counts.add(zapped.counts);
                out.counts.add(again.counts);
            }
        }
        out
    }
}

/// Puts an MMIO marker in place of an empty entry or of an older marker.
fn set_marker<F: Format>(slot: &AtomicU64, marker: u64) -> Map {
    let mut old = slot.load(Acquire);
    loop {
        if F::is_present(old) {
            return Map::NeedsExclusive;
        }
        if old == marker {
            return Map::Spurious;
        }
        match slot.compare_exchange(old, marker, AcqRel, Acquire) {
            Ok(_) => return Map::Done,
            Err(now) => old = now,
        }
    }
}
