// SPDX-License-Identifier: GPL-2.0

//! Tables in a vector; table `i` has the physical address `(i + 1) << 12`.

use core::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::Mutex;

use super::super::{Detached, Exclusive, NewTable, Sink, Spare, Tables, ZappedLeaf};

pub(super) struct Arena {
    tables: Vec<[AtomicU64; 512]>,
    free: Mutex<Vec<usize>>,
}

impl Arena {
    pub(super) fn new(n: usize) -> Self {
        let tables = (0..n).map(|_| [const { AtomicU64::new(0) }; 512]).collect();
        Arena {
            tables,
            free: Mutex::new((1..n).rev().collect()),
        }
    }

    pub(super) fn free_tables(&self) -> usize {
        self.free.lock().unwrap().len()
    }

    pub(super) fn used_tables(&self) -> i64 {
        (self.tables.len() - 1 - self.free_tables()) as i64
    }

    fn assert_empty(&self, table: usize) {
        assert!(
            self.tables[table].iter().all(|e| e.load(SeqCst) == 0),
            "a table to free has entries"
        );
    }
}

impl Tables for Arena {
    type Ref = usize;

    fn root(&self) -> usize {
        0
    }

    fn child(&self, pa: u64) -> usize {
        assert_eq!(pa & 0xfff, 0);
        (pa >> 12) as usize - 1
    }

    fn entry(&self, table: usize, index: usize) -> &AtomicU64 {
        &self.tables[table][index]
    }
}

impl Exclusive for Arena {}

/// Takes from the arena, at most `left` tables.
pub(super) struct Pool<'a> {
    pub(super) arena: &'a Arena,
    pub(super) left: usize,
}

impl<'a> Pool<'a> {
    pub(super) fn new(arena: &'a Arena) -> Self {
        Pool {
            arena,
            left: usize::MAX,
        }
    }
}

impl Spare<usize> for Pool<'_> {
    fn take(&mut self) -> Option<NewTable<usize>> {
        if self.left == 0 {
            return None;
        }
        let table = self.arena.free.lock().unwrap().pop()?;
        self.left -= 1;
        Some(NewTable {
            table,
            pa: (table as u64 + 1) << 12,
        })
    }

    fn put_back(&mut self, t: NewTable<usize>) {
        self.arena.assert_empty(t.table);
        self.arena.free.lock().unwrap().push(t.table);
        self.left += 1;
    }
}

/// Frees tables at once, after checking that they are empty, and collects leaves.
pub(super) struct Bin<'a> {
    pub(super) arena: &'a Arena,
    pub(super) leaves: Vec<ZappedLeaf>,
}

impl<'a> Bin<'a> {
    pub(super) fn new(arena: &'a Arena) -> Self {
        Bin {
            arena,
            leaves: Vec::new(),
        }
    }
}

impl Sink<usize> for Bin<'_> {
    fn table(&mut self, t: Detached<usize>) {
        assert_eq!(t.pa, (t.table as u64 + 1) << 12);
        self.arena.assert_empty(t.table);
        let mut free = self.arena.free.lock().unwrap();
        assert!(!free.contains(&t.table), "freed twice");
        free.push(t.table);
    }

    fn leaf(&mut self, leaf: ZappedLeaf) {
        self.leaves.push(leaf);
    }
}
