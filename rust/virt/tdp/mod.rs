// SPDX-License-Identifier: GPL-2.0

//! Memory for the nested page tables.
//!
//! The algorithms are in `model::tdp`; this folder gives them pages. A [`Root`] owns a tree. It is
//! kept inside the MMU lock: a shared reference to it proves that the lock is held for reading, an
//! exclusive one that it is held for writing, which is what `model::tdp` asks for.
//!
//! A leaf is made only from a [`GuestPage`], which exists only while the lock under which it was
//! validated is held: safe code cannot map a host page by number.

mod page;

pub use page::Freed;
pub use page::TableCache;
pub use page::PER_FAULT;

use core::marker::PhantomData;
use core::sync::atomic::AtomicU64;
use host::gup::GuestPage;
use host::mmu::MmuRead;
use host::page::HwPage;
use kernel::prelude::*;
use model::addr::Gfn;
use model::tdp::Age;
use model::tdp::Config;
use model::tdp::Exclusive;
use model::tdp::FastFault;
use model::tdp::Flush;
use model::tdp::Format;
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
use model::tdp::Tables;
use model::tdp::Tdp;
use model::tdp::Zapped;
use page::Table;
use page::TableRef;

/// A tree of nested page tables.
///
/// # Invariants
///
/// Every table entry in the tree points to a live page made by [`HwPage::new_table`] that belongs
/// to this tree alone.
pub struct Root<F: Format> {
    page: HwPage,
    cfg: Config,
    format: PhantomData<F>,
}

/// The tree while the lock is held for reading.
struct Shared<'a>(&'a HwPage);

/// The tree while the lock is held for writing.
struct Excl<'a>(&'a HwPage);

macro_rules! tables {
    ($name:ident) => {
        impl Tables for $name<'_> {
            type Ref = TableRef;

            #[inline]
            fn root(&self) -> TableRef {
                TableRef(core::ptr::NonNull::from(self.0.words()).cast())
            }

            #[inline]
            fn child(&self, pa: u64) -> TableRef {
                // SAFETY: `pa` was read from a table entry of this tree, which by the invariant of
                // `Root` points to a live table page; the types that implement this trait do not
                // leave this module.
                unsafe { TableRef::from_pa(pa) }
            }

            #[inline]
            fn entry(&self, table: TableRef, index: usize) -> &AtomicU64 {
                // SAFETY: Tables are removed only through an exclusive reference to the root, so
                // this one lives as long as the borrow of `self`.
                let t: &Table = unsafe { table.entries() };
                // The index is below 512; the mask lets the compiler see it.
                &t[index & 511]
            }
        }
    };
}
tables!(Shared);
tables!(Excl);

impl Exclusive for Excl<'_> {}

/// How a page is to be mapped.
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
}

impl<F: Format> Root<F> {
    /// An empty tree; may sleep. ENOMEM.
    pub fn new(cfg: Config) -> Result<Self> {
        Ok(Self {
            page: HwPage::new_table()?,
            cfg,
            format: PhantomData,
        })
    }

    /// Physical address of the root table as hardware is told.
    pub fn hw_pa(&self) -> u64 {
        self.page.hw_pa()
    }

    /// How the tree was configured.
    pub fn config(&self) -> &Config {
        &self.cfg
    }

    fn exclusive<R>(&mut self, f: impl FnOnce(Tdp<'_, F, Excl<'_>>) -> R) -> R {
        f(Tdp::new(self.cfg, &Excl(&self.page)))
    }

    fn shared<R>(&self, f: impl FnOnce(Tdp<'_, F, Shared<'_>>) -> R) -> R {
        f(Tdp::new(self.cfg, &Shared(&self.page)))
    }

    /// The leaf or hole that translates `gfn`.
    pub fn walk(&self, gfn: Gfn) -> Option<Found<F>> {
        self.shared(|t| t.walk(gfn))
    }

    /// Restores rights that only dirty logging or aging took, without the host page.
    pub fn fast_fault(&self, gfn: Gfn, want: Prot, max_level: u8) -> FastFault {
        self.shared(|t| t.fast_fault(gfn, want, level_of(max_level)))
    }

    /// Marks a page without memory as device memory, to fault fast.
    pub fn map_mmio(&self, gfn: Gfn, generation: u64, spare: &mut TableCache) -> Mapped {
        self.shared(|t| t.map_mmio(gfn, generation, spare))
    }

    /// Takes write permission (or the D bit) away in a range, for dirty logging.
    pub fn write_protect(&self, sweep: &mut Sweep, mode: LogMode, budget: u32) -> Flush {
        self.shared(|t| t.write_protect(sweep, mode, budget))
    }

    /// The same for the pages of a mask from `base` on.
    pub fn clean(&self, base: Gfn, mask: u64, mode: LogMode) -> Flush {
        self.shared(|t| t.clean(base, mask, mode))
    }

    /// Looks at, or clears, the accessed state of a range.
    pub fn age(&self, sweep: &mut Sweep, how: Age, budget: u32) -> bool {
        self.shared(|t| t.age(sweep, how, budget))
    }

    /// Splits large leaves of a range.
    pub fn split(&self, sweep: &mut Sweep, spare: &mut TableCache, budget: u32) -> Split {
        self.shared(|t| t.split(sweep, Level::L4K, spare, budget))
    }

    /// Removes the mappings of a range. The tables that leave the tree are put on `freed`.
    pub fn zap(&mut self, sweep: &mut Sweep, budget: u32, freed: &mut Freed) -> Zapped {
        self.exclusive(|t| t.zap(sweep, budget, freed))
    }
}

/// Maps a page into the tree that `root` picks from what the guard protects.
///
/// The page must have been validated under the same guard; a page of another VM's is refused as out
/// of range. With `Map::NeedsExclusive` the caller maps a smaller leaf or zaps first.
pub fn map<T, F: Format>(
    guard: &MmuRead<'_, T>,
    root: impl FnOnce(&T) -> &Root<F>,
    page: &GuestPage<'_>,
    how: MapAs,
    spare: &mut TableCache,
) -> Mapped {
    let refuse = Mapped {
        outcome: Map::OutOfRange,
        flush: Flush::None,
        counts: Default::default(),
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
        ignore_guest_pat: !device,
        host_writable: page.writable(),
        mmu_writable: prot.w || (how.logged && page.writable()),
        accessed: true,
        dirty: prot.w,
        encrypt: !device,
    };
    let level = level_of(how.level);
    root(guard).shared(|t| t.map(level.base(how.gfn), level, &spec, spare))
}

fn level_of(n: u8) -> Level {
    match n {
        2 => Level::L2M,
        3 => Level::L1G,
        _ => Level::L4K,
    }
}

impl<F: Format> Drop for Root<F> {
    fn drop(&mut self) {
        // Nobody else has the tree, and the vCPUs that ran on it are gone: each of them holds the
        // VM that holds this root.
        let mut freed = Freed::new();
        let mut sweep = Sweep::all(&self.cfg);
        while !sweep.is_done() {
            let _ = self.exclusive(|t| t.zap(&mut sweep, 4096, &mut freed));
            core::mem::take(&mut freed).free_flushed();
        }
    }
}
