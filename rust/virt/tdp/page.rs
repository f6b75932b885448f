// SPDX-License-Identifier: GPL-2.0

//! Table pages: from physical address to reference and back, and the lists they travel in.

use core::ptr::NonNull;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;
use host::page::HwPage;
use kernel::prelude::*;
use model::tdp::Detached;
use model::tdp::NewTable;
use model::tdp::Sink;
use model::tdp::Spare;

/// A table: 512 entries that hardware and other CPUs change under our feet.
pub(super) type Table = [AtomicU64; 512];

/// Names a table page by its address in the direct map.
#[derive(Clone, Copy)]
pub(super) struct TableRef(pub(super) NonNull<Table>);

impl TableRef {
    /// The table at physical address `pa`.
    ///
    /// # Safety
    ///
    /// `pa` is the address of a live table page made by [`HwPage::new_table`].
    #[inline]
    pub(super) unsafe fn from_pa(pa: u64) -> Self {
        // SAFETY: The variable is set at boot and constant after.
        let base = unsafe { kernel::bindings::page_offset_base };
        let va = (base as u64).wrapping_add(pa);
        // SAFETY: The direct map of a page that exists is never at address 0.
        Self(unsafe { NonNull::new_unchecked(va as *mut Table) })
    }

    /// The entries.
    ///
    /// # Safety
    ///
    /// The page stays alive for `'a`.
    #[inline]
    pub(super) unsafe fn entries<'a>(self) -> &'a Table {
        // SAFETY: The page is live by this function's contract, aligned, and full of atomics.
        unsafe { self.0.as_ref() }
    }

    /// Takes the page back from the tree.
    ///
    /// # Safety
    ///
    /// The page came from [`HwPage::into_raw`] of a table page, is in no tree and no list, and no
    /// CPU can reach it any more.
    pub(super) unsafe fn into_page(self) -> HwPage {
        // SAFETY: By this function's contract.
        unsafe { HwPage::from_raw(self.0.cast(), true) }
    }
}

/// Table pages allocated before the MMU lock is taken. Each vCPU has one; its owner tops it up.
pub struct TableCache {
    pages: KVec<HwPage>,
}

/// Pages that one fault can need: one for each level below the root of five-level tables.
pub const PER_FAULT: usize = 4;

impl TableCache {
    /// An empty cache.
    pub const fn new() -> Self {
        Self { pages: KVec::new() }
    }

    /// Fills the cache to `n` pages; may sleep. ENOMEM leaves what there is.
    pub fn top_up(&mut self, n: usize) -> Result {
        if self.pages.len() >= n {
            return Ok(());
        }
        self.pages.reserve(n.saturating_sub(self.pages.len()), GFP_KERNEL_ACCOUNT)?;
        while self.pages.len() < n {
            self.pages.push(HwPage::new_table()?, GFP_KERNEL_ACCOUNT)?;
        }
        Ok(())
    }
}

impl Default for TableCache {
    fn default() -> Self {
        Self::new()
    }
}

impl Spare<TableRef> for TableCache {
    fn take(&mut self) -> Option<NewTable<TableRef>> {
        let page = self.pages.pop()?;
        let pa = page.pa();
        let table = TableRef(page.into_raw().cast());
        Some(NewTable { table, pa })
    }

    fn put_back(&mut self, t: NewTable<TableRef>) {
        // SAFETY: `take` made it from a page of ours, and the caller says it is in no tree.
        let page = unsafe { t.table.into_page() };
        // There is room for what was taken; a page that does not fit is freed.
        let _ = self.pages.push_within_capacity(page);
    }
}

/// Table pages that left the tree and wait for the flush after which no CPU knows them.
///
/// They are chained through their first entry: an aligned address has the low bits clear, so what a
/// stale paging-structure cache finds there is still a non-present entry of either format.
///
/// Dropping the list without [`Freed::free_flushed`] leaks the pages: late is safe, early is not.
#[must_use = "the pages are leaked if the list is dropped"]
pub struct Freed {
    head: Option<TableRef>,
    /// Pages in the list.
    count: usize,
}

impl Freed {
    /// An empty list.
    pub const fn new() -> Self {
        Self { head: None, count: 0 }
    }

    /// How many pages wait.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Does none wait?
    pub fn is_empty(&self) -> bool {
        self.head.is_none()
    }

    /// Frees the pages. The caller has carried out the flush that the removal asked for: every CPU
    /// that was in the guest has left it since, and flushes before it enters again.
    pub fn free_flushed(mut self) {
        while let Some(t) = self.head.take() {
            // SAFETY: Pages in the list are alive until they are freed here.
            let next = unsafe { t.entries() }[0].load(Relaxed);
            self.head = NonNull::new(next as *mut Table).map(TableRef);
            // SAFETY: The page was detached from its tree, has just left the list, and after the
            // flush no CPU's caches point to it.
            drop(unsafe { t.into_page() });
        }
    }
}

impl Default for Freed {
    fn default() -> Self {
        Self::new()
    }
}

impl Sink<TableRef> for Freed {
    fn table(&mut self, t: Detached<TableRef>) {
        let next = self.head.map_or(0, |h| h.0.as_ptr() as u64);
        // SAFETY: A detached table is alive until it is freed, which only `free_flushed` does.
        let entries = unsafe { t.table.entries() };
        entries[0].store(next, Relaxed);
        self.head = Some(t.table);
        self.count = self.count.wrapping_add(1);
    }
}
