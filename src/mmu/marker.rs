// SPDX-License-Identifier: GPL-2.0

//! Pages of device memory that guests write to often: entries of the nested tables mark them.
//!
//! A write to an address at which an event for any length is registered needs neither its data nor
//! its instruction, only the knowledge that there is no memory. A marked entry says that: hardware
//! reports it as a misconfiguration, and a vCPU that meets it signals the event and steps over the
//! instruction. Whatever else is done to such a page removes the mark, and the fault that follows
//! tells all about the access. Where the format of the tables has no such entry nothing is marked.
//!
//! A mark holds as long as the slots stay as they were: it has the generation of the slots in it, as
//! far as there is room for it. Before that begins anew, all marks go (`vm/memslot.rs`).

use crate::backend::Backend;
use crate::vcpu::Cx;
use crate::vm::memslot::Space;
use model::addr::Gfn;
use model::stats::VcpuStat;
use model::tdp;
use model::tdp::Format;
use model::tdp::Map;
use virt::tdp::PER_FAULT;

/// A page without memory, and the generation of the slots that this is known of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Known {
    gfn: Gfn,
    space: Space,
    generation: u64,
}

/// Can the tables of this vendor mark anything?
#[inline]
fn exists<V: Backend>() -> bool {
    V::Format::mmio(0).is_some()
}

/// Marks a page in which a write met with an event for any length.
#[inline]
pub(crate) fn mark<V: Backend>(cx: &mut Cx<'_, '_, V>, gfn: Gfn) {
    if exists::<V>() {
        mark_page(cx, gfn);
    }
}

#[cold]
#[inline(never)]
fn mark_page<V: Backend>(cx: &mut Cx<'_, '_, V>, gfn: Gfn) {
    let (slots, space) = (&cx.vm.base.slots, cx.space());
    // Before the look at the slots: if they change after it, the mark is void.
    let generation = slots.generation();
    if slots.space(space).find(gfn).is_some() || cx.st.tables.top_up(PER_FAULT).is_err() {
        return;
    }
    let g = cx.vm.mmu.read();
    // Under the lock, so that a mark of a part that began anew meanwhile is not made.
    if slots.generation() != generation {
        return;
    }
    let mapped = g.root(space).map_mmio(gfn, generation, &mut cx.st.tables);
    cx.vm.base.stats.add_counts(&mapped.counts);
    drop(g);
    if mapped.outcome == Map::Done {
        cx.count(VcpuStat::PfMmioSpteCreated);
    }
}

/// Is there no memory, as the mark of the page says?
#[inline]
pub(crate) fn holds<V: Backend>(cx: &mut Cx<'_, '_, V>, gfn: Gfn) -> bool {
    let known = Known {
        gfn,
        space: cx.space(),
        generation: cx.vm.base.slots.generation(),
    };
    cx.st.no_memory == Some(known) || look(cx, known)
}

/// Looks at the mark. What it says is kept, so that the next write takes no lock.
#[inline(never)]
fn look<V: Backend>(cx: &mut Cx<'_, '_, V>, known: Known) -> bool {
    let g = cx.vm.mmu.read();
    let found = g.root(known.space).walk(known.gfn);
    let tag = tdp::mmio_tag(known.generation);
    let holds = found.is_some_and(|f| f.mmio_gen() == Some(tag));
    if holds {
        cx.st.no_memory = Some(known);
    }
    holds
}

/// Removes the mark of a page, if there is one.
#[cold]
#[inline(never)]
pub(crate) fn unmark<V: Backend>(cx: &Cx<'_, '_, V>, gfn: Gfn) {
    let g = cx.vm.mmu.read();
    g.root(cx.space()).unmap_mmio(gfn);
}
