// SPDX-License-Identifier: GPL-2.0

//! Two-dimensional paging: table algorithms over a [`Tables`] trait.
//!
//! The tables translate guest-physical to host-physical addresses and are walked by hardware. This
//! folder decides what goes into each entry; it owns no memory. The caller implements [`Tables`]
//! over real pages (or an arena in tests), hands in a [`Spare`] for new tables and a [`Sink`] for
//! removed ones, and performs the TLB flushes that operations ask for.
//!
//! # Locking
//!
//! There is one lock, the mmu lock of the VM, and it is taken around every operation.
//!
//! * **Held for reading** (any `T: Tables`): [`Tdp::walk`], [`Tdp::map`], [`Tdp::map_mmio`],
//!   [`Tdp::unmap_mmio`], [`Tdp::fast_fault`], [`Tdp::write_protect`], [`Tdp::clean`], [`Tdp::age`], [`Tdp::split`]. These
//!   run concurrently with each other, with vCPUs in the guest, and change an entry only by
//!   compare-exchange against the value on which the decision was based. They never remove a
//!   table, so a table reached by a walk stays a table until the lock is dropped.
//! * **Held for writing** (`T: Exclusive`): [`Tdp::zap`], [`Tdp::collapse`],
//!   [`Tdp::reclaim`], [`Tdp::map_exclusive`]. They alone remove tables. Hardware still sets accessed and dirty bits
//!   under them, so leaves are taken out by an atomic swap.
//!
//! Since no software walks the tables without the lock, a removed table needs no grace period: its
//! entries are empty when the [`Sink`] gets it, and it may be freed once the flush that the
//! operation returned has been carried out on all CPUs that may hold the VM's translations.
//!
//! # Flushes
//!
//! A [`Flush`] other than `None` is carried out before the lock is dropped. Otherwise a second
//! thread could find the entry already in the state it wants, conclude that no flush is due, and
//! proceed while a vCPU still uses the old translation. For the same reason no mapper takes the
//! write permission of a page that the host lets be written: of one that is logged only those who
//! make the next write noticeable do, one at a time. [`flush`] has the protocol that makes a
//! vCPU that was out of the guest at the time flush before it enters.
//!
//! # Dirty logging
//!
//! A mapper that makes a page writable (`map` with `prot.w`, or `fast_fault` that restored it) marks
//! the page in the dirty log *after* the operation succeeded. Harvesting clears the log first and
//! then takes the write permission (or the D bit) away. In this order, with both sides under the
//! read lock, a write to the page is in the log no later than the moment the writing vCPU leaves
//! its fault, whatever the interleaving; at worst a page is reported twice.

pub mod cursor;
pub mod entry;
pub mod flush;
pub mod map;
pub mod protect;
pub mod zap;

#[cfg(test)]
mod tests;

use core::marker::PhantomData;
use core::sync::atomic::AtomicU64;

pub use cursor::{Found, Step, Sweep};
pub use entry::{mmio_tag, mmio_tag_wraps, Config, Format, LeafSpec, Level, MemType, Prot};
pub use flush::{Flush, FlushGen, TlbState};
pub use map::{FastFault, Map, Mapped, Split};
pub use protect::{Age, LogMode};
pub use zap::{Detached, Sink, Zapped, ZappedLeaf};

/// The memory of the tables.
///
/// An implementation is a view that exists while the mmu lock is held, for reading unless it also
/// implements [`Exclusive`].
pub trait Tables {
    /// Names one table: 512 entries.
    type Ref: Copy;

    /// The root table.
    fn root(&self) -> Self::Ref;

    /// The table at host-physical address `pa`, which was read from an entry written by this module
    /// and thus came from [`NewTable::pa`].
    fn child(&self, pa: u64) -> Self::Ref;

    /// Entry `index` of `table`; `index` is below 512.
    fn entry(&self, table: Self::Ref, index: usize) -> &AtomicU64;
}

/// A view of the tables while the mmu lock is held for writing: nobody else looks at them but
/// hardware.
pub trait Exclusive: Tables {}

/// A table that is not yet part of the tree: all its entries are 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewTable<R> {
    /// Its name for [`Tables::entry`].
    pub table: R,
    /// Its host-physical address.
    pub pa: u64,
}

/// Tables allocated before the lock was taken.
pub trait Spare<R> {
    /// Takes one, `None` if there are no more.
    fn take(&mut self) -> Option<NewTable<R>>;

    /// Returns a table that turned out not to be needed. Its entries are 0.
    fn put_back(&mut self, table: NewTable<R>);
}

/// Changes in the number of leaves per level and of tables, to be added to statistics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Leaves of 4 KiB.
    pub leaves_4k: i64,
    /// Leaves of 2 MiB.
    pub leaves_2m: i64,
    /// Leaves of 1 GiB.
    pub leaves_1g: i64,
    /// Tables, the root not counted.
    pub tables: i64,
    /// Of these, marked ones ([`Format::for_exec`]).
    pub for_exec: i64,
}

impl Counts {
    /// Adds `n` leaves of `level`.
    pub fn add_leaves(&mut self, level: Level, n: i64) {
        let c = match level {
            Level::L4K => &mut self.leaves_4k,
            Level::L2M => &mut self.leaves_2m,
            _ => &mut self.leaves_1g,
        };
        *c = c.wrapping_add(n);
    }

    /// Adds `n` tables.
    pub fn add_tables(&mut self, n: i64) {
        self.tables = self.tables.wrapping_add(n);
    }

    /// Says that `n` of them are marked.
    pub fn add_for_exec(&mut self, n: i64) {
        self.for_exec = self.for_exec.wrapping_add(n);
    }

    /// Adds the changes `other` describes.
    pub fn add(&mut self, other: Counts) {
        self.leaves_4k = self.leaves_4k.wrapping_add(other.leaves_4k);
        self.leaves_2m = self.leaves_2m.wrapping_add(other.leaves_2m);
        self.leaves_1g = self.leaves_1g.wrapping_add(other.leaves_1g);
        self.add_tables(other.tables);
        self.add_for_exec(other.for_exec);
    }
}

/// One tree of tables of format `F`, seen through `T`.
pub struct Tdp<'a, F: Format, T: Tables> {
    pub(super) cfg: Config,
    pub(super) tables: &'a T,
    format: PhantomData<F>,
}

impl<'a, F: Format, T: Tables> Tdp<'a, F, T> {
    /// The tree with the root `tables.root()`.
    pub fn new(cfg: Config, tables: &'a T) -> Self {
        Tdp {
            cfg,
            tables,
            format: PhantomData,
        }
    }

    /// The configuration the tree was made with.
    pub fn config(&self) -> &Config {
        &self.cfg
    }
}
