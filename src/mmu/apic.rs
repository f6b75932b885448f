// SPDX-License-Identifier: GPL-2.0

//! The local APIC's registers in memory, where hardware carries out accesses to them.
//!
//! Hardware knows such an access by the page that is mapped there, and what it does with it is each
//! vCPU's own. The nested tables are all vCPUs', and so the page is there only while every local APIC
//! is at the usual address in xAPIC mode: for one that is not, or that hardware has no share in for a
//! while, there would be memory where nothing should be. Without the page accesses fault and are emulated.

use crate::backend::Backend;
use crate::vcpu::Cx;
use crate::vm::memslot::Space;
use core::sync::atomic::Ordering;
use model::addr::Gfn;
use model::addr::Gpa;
use model::exit::NestedFault;
use model::irqchip::lapic::Mode;
use model::tdp::Map;
use model::x86::apic::base;
use model::x86::apic::DEFAULT_BASE;
use virt::tdp::PER_FAULT;

/// The page that [`DEFAULT_BASE`] is in.
fn place() -> Gfn {
    Gpa(DEFAULT_BASE & base::ADDRESS).gfn()
}

/// Maps the page if that is what a fault at an address without memory needs; true if so.
#[inline(never)]
pub(super) fn map<V: Backend>(cx: &mut Cx<'_, '_, V>, f: &NestedFault) -> bool {
    if f.gpa.gfn() != place() || f.present || f.fetch {
        return false;
    }
    // Without a local APIC that hardware knows of, the page would be memory.
    let accelerated = cx.st.apic.as_ref().is_some_and(|a| a.is_accelerated());
    if !accelerated || cx.st.tables.top_up(PER_FAULT).is_err() {
        return false;
    }
    let g = cx.vm.mmu.read();
    // Under the lock: who counts itself removes the page after that.
    if cx.vm.base.irq.apics_elsewhere.load(Ordering::Acquire) != 0 {
        return false;
    }
    let root = g.root(cx.space());
    let Some(mapped) = root.map_apic(place(), &mut cx.st.tables) else {
        return false;
    };
    cx.vm.base.stats.add_counts(&mapped.counts);
    if mapped.flush.is_needed() {
        root.flush();
    }
    matches!(mapped.outcome, Map::Done | Map::Spurious)
}

/// The mode or the address of the local APIC may have changed.
pub(crate) fn follow<V: Backend>(cx: &mut Cx<'_, '_, V>) {
    let Some(apic) = &cx.st.apic else { return };
    let here = apic.mode() == Mode::XApic && Gpa(apic.window()).gfn() == place();
    let elsewhere = !here || cx.st.debug.blocks_interrupts();
    if elsewhere == cx.st.apic_elsewhere {
        return;
    }
    cx.st.apic_elsewhere = elsewhere;
    let count = &cx.vm.base.irq.apics_elsewhere;
    if !elsewhere {
        count.fetch_sub(1, Ordering::AcqRel);
        return;
    }
    count.fetch_add(1, Ordering::AcqRel);
    for space in Space::ALL {
        super::zap::zap_range(cx.vm, space, place(), place().wrapping_add(1), true);
    }
}
