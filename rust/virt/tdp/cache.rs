// SPDX-License-Identifier: GPL-2.0

//! Table pages allocated ahead of need.
//!
//! Tables are linked in under a spinning lock, where nothing can be allocated. Each vCPU has a
//! cache; it tops it up before it takes the lock.

use super::page::Table;
use core::ptr::NonNull;
use host::page::HwPage;
use kernel::prelude::*;
use model::tdp::NewTable;
use model::tdp::Spare;

/// Pages that one fault can need: one for each level below the root of five-level tables.
pub const PER_FAULT: usize = 4;

/// A stock of zeroed table pages.
pub struct TableCache {
    pages: KVec<HwPage>,
}

impl TableCache {
    /// An empty stock.
    pub const fn new() -> Self {
        Self { pages: KVec::new() }
    }

    /// Allocates until there are at least `n`; may sleep. A fault needs up to [`PER_FAULT`],
    /// splitting one for each leaf that is split.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; what was allocated stays.
    pub fn top_up(&mut self, n: usize) -> Result {
        while self.pages.len() < n {
            self.pages.push(HwPage::new_table()?, GFP_KERNEL_ACCOUNT)?;
        }
        Ok(())
    }

    /// Number of pages in stock.
    #[inline]
    pub fn len(&self) -> usize {
        self.pages.len()
    }

    /// Is there none?
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }
}

impl Default for TableCache {
    fn default() -> Self {
        Self::new()
    }
}

/// The stock as the algorithms take from it. Kept apart, because a page that leaves through this
/// trait is freed by the tree.
pub(super) struct Stock<'c>(pub(super) &'c mut TableCache);

impl Spare<Table> for Stock<'_> {
    fn take(&mut self) -> Option<NewTable<Table>> {
        self.0.pages.pop().map(Table::of)
    }

    fn put_back(&mut self, table: NewTable<Table>) {
        let page = table.table.into_page();
        // There is room for what was taken; a page that does not fit is freed.
        let _ = self.0.pages.push_within_capacity(page);
    }
}

impl Table {
    /// The page of a table that is not part of a tree.
    fn into_page(self) -> HwPage {
        let raw: NonNull<u8> = self.as_ptr();
        // SAFETY: Made by `HwPage::new_table` (type invariant). The algorithms return only what they
        // took and did not link, once.
        unsafe { HwPage::from_raw(raw, true) }
    }
}
