// SPDX-License-Identifier: GPL-2.0

//! Dirty logging in the nested tables: which pages are write-protected when.

use super::zap;
use crate::backend::Backend;
use crate::vm::memslot::Slot;
use crate::vm::VmCore;
use model::abi;
use model::addr::Gfn;
use model::tdp::Flush;
use model::tdp::LogMode;
use model::tdp::Sweep;

/// Entries looked at before the lock is offered to others.
const BUDGET: u32 = 4096;

fn end(s: &Slot) -> Gfn {
    s.base.wrapping_add(s.npages)
}

/// Logging was turned on for a slot: makes the first write to each of its pages noticeable.
pub(crate) fn started<V: Backend>(vm: &VmCore<V>, slot: &Slot) {
    let manual = vm.base.caps.manual_dirty();
    if manual & abi::KVM_DIRTY_LOG_INITIALLY_SET != 0 {
        // Every page counts as dirty, so nothing needs to fault before it is cleared.
        return;
    }
    let mut sweep = Sweep::new(slot.base, end(slot));
    let mut g = vm.mmu.read();
    while !sweep.is_done() {
        let stale = g
            .root
            .write_protect(&mut sweep, LogMode::WriteProtect, BUDGET);
        if stale.is_needed() {
            g.root.flush();
        }
        if !sweep.is_done() {
            g.cond_resched();
        }
    }
}

/// Logging was turned off: small pages go, so that large ones can come back.
pub(crate) fn stopped<V: Backend>(vm: &VmCore<V>, slot: &Slot) {
    zap::zap_range(vm, slot.base, end(slot), true);
}

/// Makes the next write to the pages of `words` noticeable; bit 0 of the first word is page `first`
/// of the slot.
pub(crate) fn clean<V: Backend>(vm: &VmCore<V>, slot: &Slot, first: u64, words: &[u64]) {
    let g = vm.mmu.read();
    let mut stale = Flush::None;
    for (i, &w) in (0u64..).zip(words) {
        if w != 0 {
            let base = slot
                .base
                .wrapping_add(first)
                .wrapping_add(i.wrapping_mul(64));
            stale = stale.join(g.root.clean(base, w, LogMode::WriteProtect));
        }
    }
    // Before the lock is dropped: whoever finds an entry protected must be able to conclude that
    // nobody writes through it any more.
    if stale.is_needed() {
        g.root.flush();
    }
}
