// SPDX-License-Identifier: GPL-2.0

//! Removing mappings: for slots that go, for pages the host takes away, for the end of the VM.

use crate::backend::Backend;
use crate::vm::memslot::Space;
use crate::vm::VmCore;
use model::addr::Gfn;
use model::tdp::Sweep;

/// Entries looked at before the lock is offered to others. Each time what was removed is flushed,
/// for which every CPU in the guest leaves it.
const BUDGET: u32 = 32768;

/// Removes every mapping of the pages from `start` up to but not including `end`, and flushes.
/// Sleeps only if `may_block`.
pub(crate) fn zap_range<V: Backend>(
    vm: &VmCore<V>,
    space: Space,
    start: Gfn,
    end: Gfn,
    may_block: bool,
) {
    let mut sweep = Sweep::new(start, end);
    run(vm, space, &mut sweep, may_block);
}

/// Removes every mapping of the VM.
pub(crate) fn zap_all<V: Backend>(vm: &VmCore<V>) {
    for space in Space::ALL {
        let mut sweep = {
            let g = vm.mmu.read();
            Sweep::all(g.root(space).config())
        };
        run(vm, space, &mut sweep, true);
    }
}

fn run<V: Backend>(vm: &VmCore<V>, space: Space, sweep: &mut Sweep, may_block: bool) {
    let mut g = vm.mmu.write();
    // Nobody else gets the lock if this may not sleep.
    let budget = if may_block { BUDGET } else { u32::MAX };
    while !sweep.is_done() {
        let counts = g.root_mut(space).zap(sweep, budget);
        vm.base.stats.add_counts(&counts);
        if may_block && !sweep.is_done() {
            g.cond_resched();
        }
    }
}
