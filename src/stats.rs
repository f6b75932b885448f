// SPDX-License-Identifier: GPL-2.0

//! Statistics of a VM.

use core::sync::atomic::AtomicI64;
use core::sync::atomic::Ordering::Relaxed;
use model::tdp::Counts;

/// How many leaves and tables the nested page tables have.
#[derive(Default)]
pub(crate) struct VmStats {
    pages_4k: AtomicI64,
    pages_2m: AtomicI64,
    pages_1g: AtomicI64,
    tables: AtomicI64,
}

impl VmStats {
    /// All zero.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Adds what an operation on the tables changed.
    pub(crate) fn add_counts(&self, c: &Counts) {
        for (n, d) in [
            (&self.pages_4k, c.leaves_4k),
            (&self.pages_2m, c.leaves_2m),
            (&self.pages_1g, c.leaves_1g),
            (&self.tables, c.tables),
        ] {
            if d != 0 {
                n.fetch_add(d, Relaxed);
            }
        }
    }
}
