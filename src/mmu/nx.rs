// SPDX-License-Identifier: GPL-2.0

//! Large pages that must not be executed, on processors that a change of page size between two
//! fetches can bring down (ITLB multihit; parameters `nx_huge_pages*`).
//!
//! Where the guest executes, small pages take the place of a large one; their tables are marked. From
//! time to time some of them are removed, so that memory which is no longer executed gets its large
//! pages back.

use crate::backend::Backend;
use crate::vm::memslot::Space;
use crate::vm::VmCore;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;
use host::params;
use host::work::DelayedOps;
use host::work::DelayedWork;
use kernel::prelude::*;
use kernel::sync::Arc;
use model::addr::Gfn;
use model::stats::VmStat;
use model::tdp::Sweep;

/// Entries looked at, or removed, before the lock is offered to others.
const BUDGET: u32 = 16384;
/// How often the parameters are looked at, ms.
const LOOK_MS: u64 = 10_000;
/// With `nx_huge_pages_recovery_period_ms` 0, everything has had its turn after this, ms.
const ROUND_MS: u64 = 3_600_000;

/// What a VM does about it.
pub(crate) struct Nx {
    /// KVM_CAP_VM_DISABLE_NX_HUGE_PAGES.
    exempt: AtomicBool,
    /// Where the next round of recovery begins.
    cursor: AtomicU64,
    /// When, ns of the host's clock.
    due: AtomicU64,
}

impl Nx {
    /// As the parameter says.
    pub(crate) fn new() -> Self {
        Self {
            exempt: AtomicBool::new(false),
            cursor: AtomicU64::new(0),
            due: AtomicU64::new(0),
        }
    }

    /// Must large pages not be executable? To be asked under the MMU lock: what was mapped before a
    /// change of the parameter is removed after it.
    pub(crate) fn on(&self) -> bool {
        params::nx_huge_pages() && !self.exempt.load(Relaxed)
    }

    /// The VM's guest is trusted. It has no vCPUs yet, so nothing is mapped.
    pub(crate) fn exempt(&self) {
        self.exempt.store(true, Relaxed);
    }
}

/// The recovery of a VM.
pub(crate) struct Recovery<V: Backend>(Arc<VmCore<V>>);

/// Makes the work item of a VM, not queued. ENOMEM, ENODEV while the module is being unloaded.
pub(crate) fn recovery<V: Backend>(
    vm: Arc<VmCore<V>>,
) -> Result<Pin<KBox<DelayedWork<Recovery<V>>>>> {
    KBox::pin_init(DelayedWork::new(Recovery(vm)), GFP_KERNEL_ACCOUNT)
}

/// Time between two rounds, ms; `None`: there are none.
fn period_ms() -> Option<u64> {
    let ratio = u64::from(params::nx_huge_pages_recovery_ratio());
    let given = u64::from(params::nx_huge_pages_recovery_period_ms());
    let derived = ROUND_MS.checked_div(ratio)?;
    Some(if given == 0 { derived } else { given }.max(1))
}

/// When to look for the first time, ms.
pub(crate) fn first_look_ms() -> u32 {
    // CAST: at most LOOK_MS.
    period_ms().unwrap_or(LOOK_MS).min(LOOK_MS) as u32
}

impl<V: Backend> DelayedOps for Recovery<V> {
    fn run(&self) -> Option<u32> {
        let vm = &*self.0;
        let Some(period) = period_ms() else {
            return Some(first_look_ms());
        };
        let now = host::clock::now_ns();
        let due = &vm.base.nx.due;
        // Asleep at most LOOK_MS, so that changes of the parameters are noticed.
        if now >= due.load(Relaxed) || period <= LOOK_MS {
            due.store(now.wrapping_add(period.wrapping_mul(1_000_000)), Relaxed);
            recover(vm);
        }
        Some(first_look_ms())
    }
}

/// One of so many of the marked tables goes, in turn.
fn recover<V: Backend>(vm: &VmCore<V>) {
    let marked = vm.base.stats.get(VmStat::NxLpageSplits);
    let ratio = u64::from(params::nx_huge_pages_recovery_ratio());
    // Rounded up.
    let Some(share) = marked
        .wrapping_add(ratio)
        .wrapping_sub(1)
        .checked_div(ratio)
    else {
        return;
    };
    if marked == 0 {
        return;
    }
    let mut left = u32::try_from(share).unwrap_or(u32::MAX);
    let cursor = &vm.base.nx.cursor;
    let begin = cursor.load(Relaxed);
    for (space, from) in [(Space::Normal, begin), (Space::Normal, 0), (Space::Smm, 0)] {
        let mut g = vm.mmu.write();
        let mut sweep = Sweep::new(Gfn(from), g.root(space).config().end());
        while left != 0 && !sweep.is_done() {
            let counts = g.root_mut(space).reclaim(&mut sweep, BUDGET, &mut left);
            vm.base.stats.add_counts(&counts);
            if left != 0 && !sweep.is_done() {
                g.cond_resched();
            }
        }
        let next = if sweep.is_done() {
            0
        } else {
            sweep.position().0
        };
        if space == Space::Normal {
            cursor.store(next, Relaxed);
        }
        if left == 0 {
            return;
        }
    }
}
