// SPDX-License-Identifier: GPL-2.0

//! Table pages: their names, and how an address in an entry becomes one.

use core::marker::PhantomData;
use core::ptr::NonNull;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering;
use host::page::HwPage;
use kernel::bindings;
use model::tdp::Exclusive;
use model::tdp::NewTable;
use model::tdp::Tables;

/// The name of a table: its address in the direct map.
///
/// # Invariants
///
/// Points to a page made by [`HwPage::new_table`] that has not been freed.
#[derive(Clone, Copy)]
pub(super) struct Table(NonNull<u8>);

impl Table {
    /// The name of a page.
    pub(super) fn of(page: HwPage) -> NewTable<Table> {
        let pa = page.pa();
        // INVARIANT: The caller made the page; from here on it is freed by `free` alone.
        NewTable {
            table: Table(page.into_raw()),
            pa,
        }
    }

    /// The table whose host-physical address an entry holds.
    ///
    /// # Safety
    ///
    /// `pa` must come from an entry of a tree that points to a table, and the table must not have
    /// been freed.
    pub(super) unsafe fn at(pa: u64) -> Table {
        // SAFETY: The variable is set at boot and constant after.
        let base = unsafe { bindings::page_offset_base } as u64;
        // INVARIANT: The entry was written with the address that `of` returned.
        // SAFETY: The direct map starts far above 0, and physical addresses do not make it wrap.
        Table(unsafe { NonNull::new_unchecked(base.wrapping_add(pa) as *mut u8) })
    }

    /// Where it is in the direct map.
    pub(super) fn as_ptr(self) -> NonNull<u8> {
        self.0
    }

    /// The 512 entries.
    #[inline]
    pub(super) fn words(&self) -> &[AtomicU64; 512] {
        // SAFETY: By the type invariant this is a live page, aligned, with 512 initialised words
        // that all parties access atomically.
        unsafe { self.0.cast::<[AtomicU64; 512]>().as_ref() }
    }

    /// Frees the page.
    ///
    /// # Safety
    ///
    /// No entry and no paging-structure cache may refer to it, and nobody may use the name again.
    pub(super) unsafe fn free(self) {
        // SAFETY: The page was made by `new_table` (type invariant), and is taken back once (the
        // caller's promise).
        drop(unsafe { HwPage::from_raw(self.0, true) });
    }
}

/// The tables of one tree, as the algorithms see them.
pub(super) struct View<'t> {
    root: Table,
    _tree: PhantomData<&'t ()>,
}

impl<'t> View<'t> {
    /// The tables below `root`.
    ///
    /// # Safety
    ///
    /// No table of the tree may be freed during `'t`.
    pub(super) unsafe fn new(root: Table) -> View<'t> {
        View {
            root,
            _tree: PhantomData,
        }
    }
}

impl Tables for View<'_> {
    type Ref = Table;

    #[inline]
    fn root(&self) -> Table {
        self.root
    }

    #[inline]
    fn child(&self, pa: u64) -> Table {
        // SAFETY: The algorithms pass the address in an entry that points to a table, and no table
        // is freed while this view exists.
        unsafe { Table::at(pa) }
    }

    #[inline]
    fn entry(&self, table: Table, index: usize) -> &AtomicU64 {
        // SAFETY: The index is in bounds by the mask; the page lives as long as the view.
        unsafe { &*table.0.cast::<AtomicU64>().as_ptr().add(index & 511) }
    }
}

/// The same while nobody else looks at the tables.
pub(super) struct Alone<'t>(pub(super) View<'t>);

impl Tables for Alone<'_> {
    type Ref = Table;

    #[inline]
    fn root(&self) -> Table {
        self.0.root()
    }

    #[inline]
    fn child(&self, pa: u64) -> Table {
        self.0.child(pa)
    }

    #[inline]
    fn entry(&self, table: Table, index: usize) -> &AtomicU64 {
        self.0.entry(table, index)
    }
}

impl Exclusive for Alone<'_> {}

/// Tables that were taken out of a tree and wait for the flush.
///
/// They are chained through their first words. Hardware that still has one of them cached may read
/// the link as an entry: as an address of a page it has no low bits, which is "not present" in both
/// formats.
pub(super) struct Removed {
    head: Option<Table>,
}

impl Removed {
    pub(super) const fn new() -> Self {
        Self { head: None }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.head.is_none()
    }

    /// Frees them.
    ///
    /// # Safety
    ///
    /// No CPU may have them cached: the flush after their removal has been carried out.
    pub(super) unsafe fn free(mut self) {
        while let Some(table) = self.head {
            let link = table.words()[0].swap(0, Ordering::Relaxed);
            self.head = NonNull::new(link as *mut u8).map(Table);
            // SAFETY: The table was taken out of its tree; caches are the caller's promise.
            unsafe { table.free() };
        }
    }
}

impl model::tdp::Sink<Table> for Removed {
    fn table(&mut self, table: model::tdp::Detached<Table>) {
        let link = self.head.map_or(0, |t| t.0.as_ptr() as u64);
        table.table.words()[0].store(link, Ordering::Relaxed);
        self.head = Some(table.table);
    }
}
