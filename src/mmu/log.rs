// SPDX-License-Identifier: GPL-2.0

//! Dirty logging in the nested tables: which pages are write-protected when.

use crate::backend::Backend;
use crate::vcpu::shared::Request;
use crate::vm::memslot::Slot;
use crate::vm::memslot::Space;
use crate::vm::VmCore;
use core::sync::atomic::Ordering;
use model::abi;
use model::addr::Gfn;
use model::tdp::Flush;
use model::tdp::Level;
use model::tdp::LogMode;
use model::tdp::Sweep;
use virt::tdp::TableCache;

/// How a write to a page is noticed.
pub(crate) fn mode<V: Backend>() -> LogMode {
    if V::host_features().write_log {
        LogMode::DirtyBit
    } else {
        LogMode::WriteProtect
    }
}

/// A slot's logging went on or off: whether hardware writes down what vCPUs write changes with the
/// first and the last such slot. Before the sweep that makes writes noticeable.
pub(crate) fn switched<V: Backend>(vm: &VmCore<V>) {
    if !V::host_features().write_log {
        return;
    }
    let any = vm.base.slots.any_logging();
    if vm.base.write_log.swap(any, Ordering::Relaxed) != any {
        vm.base.request_all(Request::WriteLog);
        if any {
            // From here on nobody runs without it, so that no write after the sweep goes unnoticed.
            let g = vm.mmu.read();
            for space in Space::ALL {
                g.root(space).flush();
            }
        }
    }
}

/// Makes vCPUs hand over what hardware wrote down for them.
pub(crate) fn collect<V: Backend>(vm: &VmCore<V>) {
    if vm.base.write_log.load(Ordering::Relaxed) {
        vm.base.request_all(Request::Event);
    }
}

/// Entries looked at before the lock is offered to others.
const BUDGET: u32 = 4096;
/// The same where a flush follows each time.
const COLLAPSE_BUDGET: u32 = 32768;
/// Tables allocated at a time for splitting.
const SPLIT_TABLES: usize = 64;

/// Logging was turned on for a slot: makes the first write to each of its pages noticeable.
pub(crate) fn started<V: Backend>(vm: &VmCore<V>, slot: &Slot) {
    let manual = vm.base.caps.manual_dirty();
    if manual & abi::KVM_DIRTY_LOG_INITIALLY_SET != 0 {
        // Every page counts as dirty, so nothing needs to fault before it is cleared.
        return;
    }
    if host::params::eager_page_split() {
        split(vm, slot.space(), slot.base, slot.end());
    }
    let mut sweep = Sweep::new(slot.base, slot.end());
    let mut g = vm.mmu.read();
    while !sweep.is_done() {
        let stale = g
            .root(slot.space())
            .write_protect(&mut sweep, mode::<V>(), BUDGET);
        if stale.is_needed() {
            g.root(slot.space()).flush();
        }
        if !sweep.is_done() {
            g.cond_resched();
        }
    }
}

/// Splits the large pages of a range ahead of the writes that would. Without memory for the tables
/// the rest is left to those writes.
fn split<V: Backend>(vm: &VmCore<V>, space: Space, start: Gfn, end: Gfn) {
    let mut tables = TableCache::new();
    let mut sweep = Sweep::new(start, end);
    while !sweep.is_done() {
        let mut g = vm.mmu.read();
        let mut no_spare = false;
        while !sweep.is_done() && !no_spare {
            let split = g.root(space).split(&mut sweep, &mut tables, BUDGET);
            vm.base.stats.add_counts(&split.counts);
            no_spare = split.no_spare;
            if !no_spare && !sweep.is_done() {
                g.cond_resched();
            }
        }
        drop(g);
        if no_spare && tables.top_up(SPLIT_TABLES).is_err() {
            return;
        }
    }
}

/// Logging was turned off: small pages go where the host has a large one, which then comes back
/// with the next fault. The others stay.
pub(crate) fn stopped<V: Backend>(vm: &VmCore<V>, slot: &Slot) {
    let most = V::host_features().tdp_max_level;
    let mut sweep = Sweep::new(slot.base, slot.end());
    let mut g = vm.mmu.write();
    while !sweep.is_done() {
        let counts = g
            .root_mut(slot.space())
            .collapse(&mut sweep, COLLAPSE_BUDGET, |gfn, _| {
                let host = host::gup::level_of(slot.hva_of(gfn));
                match slot.max_level(gfn).min(host).min(most) {
                    3 => Level::L1G,
                    2 => Level::L2M,
                    _ => Level::L4K,
                }
            });
        vm.base.stats.add_counts(&counts);
        if !sweep.is_done() {
            g.cond_resched();
        }
    }
}

/// Makes the next write to the pages of `words` noticeable; bit 0 of the first word is page `first`
/// of the slot.
pub(crate) fn clean<V: Backend>(vm: &VmCore<V>, slot: &Slot, first: u64, words: &[u64]) {
    let all_set = vm.base.caps.manual_dirty() & abi::KVM_DIRTY_LOG_INITIALLY_SET != 0;
    if all_set && host::params::eager_page_split() {
        split_named(vm, slot, first, words);
    }
    let g = vm.mmu.read();
    let mut stale = Flush::None;
    for (i, &w) in (0u64..).zip(words) {
        if w != 0 {
            let base = slot
                .base
                .wrapping_add(first)
                .wrapping_add(i.wrapping_mul(64));
            stale = stale.join(g.root(slot.space()).clean(base, w, mode::<V>()));
        }
    }
    // Before the lock is dropped: whoever finds an entry protected must be able to conclude that
    // nobody writes through it any more.
    if stale.is_needed() {
        g.root(slot.space()).flush();
    }
}

/// Splits the large pages of the pages named by `words`, before they are write-protected for the
/// first time. Nothing was split when logging began if all pages counted as dirty.
fn split_named<V: Backend>(vm: &VmCore<V>, slot: &Slot, first: u64, words: &[u64]) {
    let (mut low, mut high) = (u64::MAX, 0);
    for (i, &w) in (0u64..).zip(words) {
        if w != 0 {
            let base = i.wrapping_mul(64);
            low = low.min(base.wrapping_add(u64::from(w.trailing_zeros())));
            high = base
                .wrapping_add(64)
                .wrapping_sub(u64::from(w.leading_zeros()));
        }
    }
    if low < high {
        let base = slot.base.wrapping_add(first);
        split(
            vm,
            slot.space(),
            base.wrapping_add(low),
            base.wrapping_add(high),
        );
    }
}
