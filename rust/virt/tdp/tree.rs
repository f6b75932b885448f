// SPDX-License-Identifier: GPL-2.0

//! [`Root`]: nested page tables and the operations on them.

use super::cache::Stock;
use super::page::Alone;
use super::page::Removed;
use super::page::View;
use super::root::RootRef;
use super::root::Shared;
use super::TableCache;
use crate::vendor::Vendor;
use core::sync::atomic::Ordering::Relaxed;
use host::gup::GuestPage;
use host::mmu::MmuRead;
use kernel::prelude::*;
use kernel::sync::Arc;
use model::addr::Gfn;
use model::addr::Pfn;
use model::addr::PAGE_SHIFT;
use model::tdp::Age;
use model::tdp::Config;
use model::tdp::Counts;
use model::tdp::FastFault;
use model::tdp::Flush;
use model::tdp::FlushGen;
use model::tdp::Found;
use model::tdp::LeafSpec;
use model::tdp::Level;
use model::tdp::LogMode;
use model::tdp::Map;
use model::tdp::Mapped;
use model::tdp::MemType;
use model::tdp::Prot;
use model::tdp::Split;
use model::tdp::Sweep;
use model::tdp::Tdp;

/// How a page is to be mapped. Which page is said by a [`GuestPage`].
#[derive(Clone, Copy, Debug)]
pub struct MapAs {
    /// The guest page.
    pub gfn: Gfn,
    /// Level of the leaf: 1 for 4 KiB, 2 for 2 MiB, 3 for 1 GiB.
    pub level: u8,
    /// The guest may write now.
    pub write: bool,
    /// The guest may execute.
    pub exec: bool,
    /// Only dirty logging forbids writing.
    pub logged: bool,
    /// The guest's own memory types count, where the format can ignore them.
    pub guest_pat: bool,
    /// The level it would have, were it not that large pages must not be executed.
    pub instead_of: u8,
}

/// Nested page tables, empty at first.
///
/// # Invariants
///
/// This is the only handle through which the tables change; `&mut self` is exclusive.
pub struct Root<V: Vendor> {
    shared: Arc<Shared<V>>,
}

impl<V: Vendor> Root<V> {
    /// Makes an empty tree with `levels` levels, for a VM with this vendor part. Sleeps.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the hardware cannot use that many; `ENOMEM`.
    pub fn new(module: &V::Module, vm: &V::Vm, levels: u8) -> Result<Self> {
        let cfg = V::tdp_config(module, levels)?;
        Ok(Self {
            shared: Shared::new(cfg, V::apic_access_page(vm))?,
        })
    }

    /// The shape of the tree.
    #[inline]
    pub fn config(&self) -> &Config {
        &self.shared.cfg
    }

    /// What a vCPU is given to run on these tables.
    pub fn handle(&self) -> RootRef<V> {
        RootRef {
            shared: self.shared.clone(),
        }
    }

    /// Makes every CPU that uses the tables forget what it has cached of them, and waits until none
    /// runs on old translations. IRQs must be on; spinning locks may be held.
    pub fn flush(&self) {
        self.shared.flush();
    }

    /// How often translations were flushed, and how often a CPU had to be forced out of the guest
    /// for it.
    pub fn flushes(&self) -> (u64, u64) {
        // The generation begins with 1.
        let asked = self
            .shared
            .gen
            .current()
            .wrapping_sub(FlushGen::new().current());
        (asked, self.shared.forced.load(Relaxed))
    }

    fn view(&self) -> View<'_> {
        // SAFETY: Tables are freed by functions that take `&mut self`, and by dropping the last
        // reference to `shared`.
        unsafe { View::new(self.shared.table()) }
    }

    fn alone(&mut self) -> Alone<'_> {
        // SAFETY: As in `view`; what the exclusive operations take out is freed after they are done.
        Alone(unsafe { View::new(self.shared.table()) })
    }

    /// Finds the leaf for `gfn`, or the entry in which it is missing. `None` beyond the end.
    pub fn walk(&self, gfn: Gfn) -> Option<Found<V::Format>> {
        let view = self.view();
        Tdp::new(self.shared.cfg, &view).walk(gfn)
    }

    /// Marks `gfn`, where there is no memory, as emulated MMIO. See `model::tdp::Tdp::map_mmio`.
    pub fn map_mmio(&self, gfn: Gfn, gen: u64, cache: &mut TableCache) -> Mapped {
        let view = self.view();
        let tdp = Tdp::<V::Format, _>::new(self.shared.cfg, &view);
        tdp.map_mmio(gfn, gen, &mut Stock(cache))
    }

    /// Removes that mark. See `model::tdp::Tdp::unmap_mmio`.
    pub fn unmap_mmio(&self, gfn: Gfn) {
        let view = self.view();
        Tdp::<V::Format, _>::new(self.shared.cfg, &view).unmap_mmio(gfn);
    }

    /// Maps the page that stands for the registers of the local APIC ([`Vendor::apic_access_page`]) for
    /// reading and writing. `None` if there is none.
    pub fn map_apic(&self, gfn: Gfn, cache: &mut TableCache) -> Option<Mapped> {
        // The tree keeps the page for as long as an entry may point to it.
        let page = self.shared.apic.as_ref()?;
        let spec = LeafSpec {
            pfn: Pfn(page.pa() >> PAGE_SHIFT),
            prot: Prot {
                r: true,
                w: true,
                x: false,
            },
            mem: MemType::Wb,
            ignore_guest_pat: true,
            host_writable: true,
            mmu_writable: true,
            accessed: true,
            dirty: true,
            encrypt: true,
            instead_of: Level::L4K,
        };
        let view = self.view();
        let tdp = Tdp::<V::Format, _>::new(self.shared.cfg, &view);
        Some(tdp.map(gfn, Level::L4K, &spec, &mut Stock(cache)))
    }

    /// Tries to resolve a fault on a mapped page on the spot. See `model::tdp::Tdp::fast_fault`.
    pub fn fast_fault(&self, gfn: Gfn, want: Prot, max_level: u8) -> FastFault {
        let view = self.view();
        let tdp = Tdp::<V::Format, _>::new(self.shared.cfg, &view);
        tdp.fast_fault(gfn, want, level_of(max_level))
    }

    /// Splits the large leaves of the sweep. See `model::tdp::Tdp::split`.
    pub fn split(&self, sweep: &mut Sweep, cache: &mut TableCache, budget: u32) -> Split {
        let view = self.view();
        let tdp = Tdp::<V::Format, _>::new(self.shared.cfg, &view);
        tdp.split(sweep, Level::L4K, budget, &mut Stock(cache))
    }

    /// Makes the next write to every page of the sweep noticeable.
    /// See `model::tdp::Tdp::write_protect`.
    pub fn write_protect(&self, sweep: &mut Sweep, mode: LogMode, budget: u32) -> Flush {
        let view = self.view();
        Tdp::<V::Format, _>::new(self.shared.cfg, &view).write_protect(sweep, mode, budget)
    }

    /// Makes the next write to some of 64 pages noticeable. See `model::tdp::Tdp::clean`.
    pub fn clean(&self, base: Gfn, mask: u64, mode: LogMode) -> Flush {
        let view = self.view();
        Tdp::<V::Format, _>::new(self.shared.cfg, &view).clean(base, mask, mode)
    }

    /// Was a page of the sweep used since it was last aged? See `model::tdp::Tdp::age`.
    pub fn age(&self, sweep: &mut Sweep, how: Age, budget: u32) -> bool {
        let view = self.view();
        Tdp::<V::Format, _>::new(self.shared.cfg, &view).age(sweep, how, budget)
    }

    /// Removes everything in the sweep, as far as the budget goes, and flushes. Returns what was
    /// removed, as negative numbers. See `model::tdp::Tdp::zap`.
    pub fn zap(&mut self, sweep: &mut Sweep, budget: u32) -> Counts {
        let cfg = self.shared.cfg;
        let mut removed = Removed::new();
        let view = self.alone();
        let zapped = Tdp::<V::Format, _>::new(cfg, &view).zap(sweep, budget, &mut removed);
        self.finish(removed, zapped.flush);
        zapped.counts
    }

    /// Removes tables that one large leaf could replace, and flushes. `best` is asked for the
    /// largest level at which the host can map a page now. See `model::tdp::Tdp::collapse`.
    pub fn collapse(
        &mut self,
        sweep: &mut Sweep,
        budget: u32,
        best: impl FnMut(Gfn, Pfn) -> Level,
    ) -> Counts {
        let cfg = self.shared.cfg;
        let mut removed = Removed::new();
        let view = self.alone();
        let zapped =
            Tdp::<V::Format, _>::new(cfg, &view).collapse(sweep, budget, &mut removed, best);
        self.finish(removed, zapped.flush);
        zapped.counts
    }

    /// Removes up to `count` tables that are there for execution, and flushes.
    /// See `model::tdp::Tdp::reclaim`.
    pub fn reclaim(&mut self, sweep: &mut Sweep, budget: u32, count: &mut u32) -> Counts {
        let cfg = self.shared.cfg;
        let mut removed = Removed::new();
        let view = self.alone();
        let zapped =
            Tdp::<V::Format, _>::new(cfg, &view).reclaim(sweep, budget, count, &mut removed);
        self.finish(removed, zapped.flush);
        zapped.counts
    }

    /// Carries out the flush of a removal, then frees the tables.
    fn finish(&mut self, removed: Removed, flush: Flush) {
        if flush.is_needed() || !removed.is_empty() {
            self.flush();
        }
        // SAFETY: The tables are out of the tree, and the flush above is done.
        unsafe { removed.free() };
    }
}

impl<V: Vendor> Drop for Root<V> {
    /// Nobody keeps the mappings right any more, so they go, even if a vCPU still has the root.
    fn drop(&mut self) {
        let mut sweep = Sweep::all(&self.shared.cfg);
        while !sweep.is_done() {
            self.zap(&mut sweep, 4096);
        }
    }
}

/// Maps a page into the tree that `root` picks from what the guard protects.
///
/// The page must have been validated under the same guard; a page of another VM's is refused as out
/// of range, and so is a level that the page does not reach. See `model::tdp::Tdp::map`.
#[inline]
pub fn map<T, V: Vendor>(
    guard: &MmuRead<'_, T>,
    root: impl FnOnce(&T) -> &Root<V>,
    page: &GuestPage<'_>,
    how: MapAs,
    cache: &mut TableCache,
) -> Mapped {
    let refuse = Mapped {
        outcome: Map::OutOfRange,
        flush: Flush::None,
        counts: Counts::default(),
    };
    if !page.belongs_to(guard) {
        return refuse;
    }
    let Some(pfn) = page.at_level(how.gfn, how.level) else {
        return refuse;
    };
    let prot = Prot {
        r: true,
        w: how.write && page.writable(),
        x: how.exec,
    };
    let device = page.is_mmio();
    let spec = LeafSpec {
        pfn,
        prot,
        mem: if device { MemType::Uc } else { MemType::Wb },
        ignore_guest_pat: !device && !how.guest_pat,
        host_writable: page.writable(),
        mmu_writable: prot.w || (how.logged && page.writable()),
        accessed: true,
        dirty: prot.w,
        encrypt: !device,
        instead_of: level_of(how.instead_of),
    };
    let root = root(guard);
    let view = root.view();
    let tdp = Tdp::<V::Format, _>::new(root.shared.cfg, &view);
    let level = level_of(how.level);
    tdp.map(level.base(how.gfn), level, &spec, &mut Stock(cache))
}

fn level_of(n: u8) -> Level {
    match n {
        2 => Level::L2M,
        3 => Level::L1G,
        _ => Level::L4K,
    }
}
