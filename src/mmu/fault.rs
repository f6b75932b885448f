// SPDX-License-Identifier: GPL-2.0

//! A fault in the nested page tables: find the memory, map it, or say that it is a device.

use crate::backend::Backend;
use crate::exit;
use crate::vcpu::run::Flow;
use crate::vcpu::user_exit::UserExit;
use crate::vcpu::Cx;
use crate::vm::memslot::Slot;
use crate::vm::memslot::Space;
use crate::vm::VmCore;
use core::ops::ControlFlow::Continue;
use host::gup::FaultErr;
use host::gup::FaultIn;
use host::gup::Want;
use kernel::prelude::*;
use model::abi::KVM_X86_QUIRK_IGNORE_GUEST_PAT;
use model::addr::Gfn;
use model::addr::PAGE_SHIFT;
use model::exit::NestedFault;
use model::stats::VcpuStat;
use model::tdp::FastFault;
use model::tdp::Map;
use model::tdp::Prot;
use virt::tdp::MapAs;
use virt::tdp::TableCache;
use virt::tdp::PER_FAULT;

/// What became of an attempt to map a page.
pub(super) enum Outcome {
    /// Mapped by a leaf of this level.
    Fixed(u8),
    /// Somebody else had mapped it, probably at this level.
    Spurious(u8),
    /// Something changed meanwhile.
    Retry,
    /// No memory there, or not for writing.
    Device,
    /// A signal came while waiting for the page.
    Signal,
    /// The VMM has nothing mapped at the slot's address (EFAULT), or the slot's guest_memfd does not
    /// give the page.
    Unbacked(Error),
    /// No memory for page tables.
    NoMemory,
}

/// Handles a fault of the guest.
pub(crate) fn handle<V: Backend>(cx: &mut Cx<'_, '_, V>, f: &NestedFault) -> Flow {
    let gfn = f.gpa.gfn();
    let want = Prot {
        r: true,
        w: f.write,
        x: f.fetch,
    };
    cx.count(VcpuStat::PfTaken);
    // As in a page fault's error code (`SDM: vol 3, 4.7`).
    let code = u64::from(f.present)
        | u64::from(f.write) << 1
        | u64::from(f.reserved) << 3
        | u64::from(f.fetch) << 4;
    host::trace::page_fault(cx.vcpu.shared.id, || V::rip(cx.l), f.gpa.0, code);
    if f.present && !f.reserved && fast(cx, gfn, want) {
        return Continue(());
    }
    let space = cx.space();
    loop {
        match attempt(cx.vm, space, &mut cx.st.tables, gfn, want) {
            Outcome::Fixed(_) => {
                cx.count(VcpuStat::PfFixed);
                return Continue(());
            }
            Outcome::Spurious(_) => {
                cx.count(VcpuStat::PfSpurious);
                return Continue(());
            }
            Outcome::Retry => {
                if host::task::signal_pending() {
                    return UserExit::Signal.leave(cx);
                }
                host::task::cond_resched();
            }
            Outcome::Device if super::apic::map(cx, f) => return Continue(()),
            Outcome::Device => {
                cx.count(VcpuStat::PfEmulate);
                return exit::mmio::handle(cx, f);
            }
            Outcome::Signal => return UserExit::Signal.leave(cx),
            Outcome::Unbacked(error) => {
                return UserExit::MemoryFault {
                    gpa: gfn.gpa().0,
                    size: model::addr::PAGE_SIZE,
                    error,
                }
                .leave(cx);
            }
            Outcome::NoMemory => return UserExit::Error(ENOMEM).leave(cx),
        }
    }
}

/// Resolves a fault that only dirty logging or ageing caused.
fn fast<V: Backend>(cx: &Cx<'_, '_, V>, gfn: Gfn, want: Prot) -> bool {
    let g = cx.vm.mmu.read();
    // A large page made writable would hide later writes from the log.
    let max_level = if want.w { 1 } else { 3 };
    match g.root(cx.space()).fast_fault(gfn, want, max_level) {
        FastFault::Fixed { made_writable } => {
            cx.count(VcpuStat::PfFast);
            cx.count(VcpuStat::PfFixed);
            if made_writable {
                let slots = cx.vm.base.slots.space(cx.space());
                if let Some(s) = slots.find(gfn) {
                    cx.vm.base.mark_dirty(s, gfn);
                }
            }
            true
        }
        FastFault::Spurious => {
            cx.count(VcpuStat::PfFast);
            cx.count(VcpuStat::PfSpurious);
            true
        }
        FastFault::Slow => false,
    }
}

/// The same by a small page.
fn small(how: MapAs) -> MapAs {
    MapAs {
        level: 1,
        exec: true,
        ..how
    }
}

/// Finds the page that backs `gfn`, and at which level the host maps it if it may be `large`.
fn find_page<'l, V: Backend>(
    vm: &'l VmCore<V>,
    slot: &Slot,
    gfn: Gfn,
    want: Prot,
    large: bool,
) -> Result<FaultIn<'l>, Outcome> {
    let seq = vm.mmu.sample();
    if let Some(file) = slot.file() {
        let found = file.fault_in(vm, seq, slot, gfn);
        return found.map_err(|e| {
            if e == EAGAIN {
                Outcome::Retry
            } else {
                Outcome::Unbacked(e)
            }
        });
    }
    let hva = slot.hva_of(gfn);
    let fault = vm.mmu.fault_in(
        seq,
        hva,
        Want {
            write: want.w,
            writable: !slot.readonly(),
            interruptible: true,
            nowait: false,
            level: large,
        },
    );
    fault.map_err(|e| match e {
        FaultErr::Retry => Outcome::Retry,
        FaultErr::Interrupted => Outcome::Signal,
        FaultErr::HwPoison => {
            // The signal ends KVM_RUN; a VMM that ignores it comes here again and again.
            host::task::send_hwpoison(hva, PAGE_SHIFT);
            Outcome::Retry
        }
        // KVM: a driver's memory that may not be written is a device to a write.
        FaultErr::ReadOnly => Outcome::Device,
        FaultErr::NeedsIo | FaultErr::Fault => Outcome::Unbacked(EFAULT),
    })
}

/// Finds the page that backs `gfn` and maps it.
pub(super) fn attempt<V: Backend>(
    vm: &VmCore<V>,
    space: Space,
    tables: &mut TableCache,
    gfn: Gfn,
    want: Prot,
) -> Outcome {
    let slots = vm.base.slots.space(space);
    let Some(slot) = slots.find(gfn) else {
        return Outcome::Device;
    };
    if slot.invalid {
        return Outcome::Retry;
    }
    if want.w && slot.readonly() {
        return Outcome::Device;
    }
    if tables.top_up(PER_FAULT).is_err() {
        return Outcome::NoMemory;
    }
    let large = !slot.logging();
    let fault = match find_page(vm, slot, gfn, want, large) {
        Ok(f) => f,
        Err(outcome) => return outcome,
    };
    let g = vm.mmu.read();
    let Some(page) = fault.validate(&g) else {
        return Outcome::Retry;
    };
    let writable = page.writable() && !slot.readonly();
    // Under logging a page becomes writable by a write only, so that the write is seen.
    let write = writable && (want.w || !slot.logging());
    let mut level = if large {
        let most = V::host_features().tdp_max_level;
        slot.max_level(gfn).min(page.max_level()).min(most)
    } else {
        1
    };
    while level > 1 && page.at_level(gfn, level).is_none() {
        level = level.wrapping_sub(1);
    }
    let nx = vm.base.nx.on();
    let instead_of = if nx && want.x { level } else { 1 };
    if nx && want.x {
        level = 1;
    }
    let how = MapAs {
        gfn,
        level,
        write,
        exec: !nx || level == 1,
        logged: writable,
        guest_pat: !vm.base.caps.quirk(KVM_X86_QUIRK_IGNORE_GUEST_PAT),
        instead_of,
    };
    let mut mapped = virt::tdp::map(&g, |t| t.root(space), &page, how, tables);
    if mapped.outcome == Map::NeedsExclusive && level > 1 {
        // Small pages are in the way of a large one; they do as well.
        vm.base.stats.add_counts(&mapped.counts);
        level = 1;
        mapped = virt::tdp::map(&g, |t| t.root(space), &page, small(how), tables);
    }
    vm.base.stats.add_counts(&mapped.counts);
    if write && slot.logging() {
        vm.base.mark_dirty(slot, gfn);
    }
    if mapped.flush.is_needed() {
        g.root(space).flush();
    }
    match mapped.outcome {
        Map::Done => Outcome::Fixed(level),
        Map::Spurious => Outcome::Spurious(level),
        Map::NoSpare => Outcome::Retry,
        Map::NeedsExclusive => {
            drop(g);
            super::zap::zap_range(vm, space, gfn, gfn.wrapping_add(1), true);
            Outcome::Retry
        }
        // Beyond what the nested tables reach there is no memory.
        Map::OutOfRange => Outcome::Device,
    }
}
