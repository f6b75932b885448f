// SPDX-License-Identifier: GPL-2.0

//! Dirty logging in the nested tables: which pages are write-protected when.

use super::zap;
use crate::backend::Backend;
use crate::vcpu::shared::Request;
use crate::vm::memslot::Slot;
use crate::vm::VmCore;
use core::sync::atomic::Ordering;
use model::abi;
use model::addr::Gfn;
use model::tdp::Flush;
use model::tdp::LogMode;
use model::tdp::Sweep;

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
    let any = vm.base.slots.read().any_logging();
    if vm.base.write_log.swap(any, Ordering::Relaxed) != any {
        vm.base.request_all(Request::WriteLog);
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
        let stale = g.root.write_protect(&mut sweep, mode::<V>(), BUDGET);
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
            stale = stale.join(g.root.clean(base, w, mode::<V>()));
        }
    }
    // Before the lock is dropped: whoever finds an entry protected must be able to conclude that
    // nobody writes through it any more.
    if stale.is_needed() {
        g.root.flush();
    }
}
