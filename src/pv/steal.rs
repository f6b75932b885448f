// SPDX-License-Identifier: GPL-2.0

//! Stolen time: how long the vCPU's thread waited for a CPU, told to the guest in a page of its own;
//! and whether it waits for one right now, so that other vCPUs need not wait for it.

use crate::backend::Backend;
use crate::vcpu::shared::Request;
use crate::vcpu::Cx;
use crate::vm::memslot::Space;
use crate::vm::VmBase;
use core::mem::offset_of;
use core::sync::atomic::fence;
use core::sync::atomic::Ordering;
use model::abi::para::KVM_VCPU_FLUSH_TLB;
use model::abi::para::KVM_VCPU_PREEMPTED;
use model::abi::KvmStealTime;
use model::abi::KVM_MSR_ENABLED;
use model::addr::Gpa;
use model::policy::pv::PV_TLB_FLUSH;

/// The structure is aligned to its size.
const ADDRESS: u64 = !63;
/// How often a mark that changes under our hands is read again.
const TRIES: u32 = 8;

/// The guest, or user space for it, wrote the MSR.
pub(crate) fn enable<V: Backend>(cx: &mut Cx<'_, '_, V>) {
    let msr = cx.st.msrs.state.steal_time;
    let on = msr & KVM_MSR_ENABLED != 0;
    if on && !cx.vcpu.shared.reports_steal() {
        // What the thread waited before is not the guest's.
        cx.st.pv.waited = None;
    }
    cx.vcpu.shared.report_steal(if on { msr } else { 0 });
    if on {
        cx.vcpu.shared.request(Request::StealTime);
    }
}

/// Adds to the page what the thread has waited since the last time, if it did. Asked for whenever
/// the vCPU is loaded.
pub(crate) fn update<V: Backend>(cx: &mut Cx<'_, '_, V>) {
    let msr = cx.st.msrs.state.steal_time;
    if msr & KVM_MSR_ENABLED == 0 {
        return;
    }
    let gpa = Gpa(msr & ADDRESS);
    if tell_back(&cx.vm.base, gpa) && cx.st.pv_features() & PV_TLB_FLUSH != 0 {
        V::flush_guest(cx.l);
    }
    cx.vcpu.shared.told_back();
    let waited = host::task::run_delay();
    let last = cx.st.pv.waited.replace(waited);
    if last == Some(waited) {
        return;
    }
    // Another thread may run the vCPU now, which has waited less so far.
    let more = waited.saturating_sub(last.unwrap_or(waited));
    let vm = &cx.vm.base;
    let Ok(mut s) = vm.read_guest_val::<KvmStealTime>(gpa) else {
        return;
    };
    // Odd while it is written; the guest may have left anything there.
    s.version = s.version.wrapping_add(s.version & 1).wrapping_add(1);
    s.preempted = 0;
    s.steal = s.steal.wrapping_add(more);
    if vm.write_guest_val(gpa, &s).is_err() {
        return;
    }
    fence(Ordering::SeqCst);
    s.version = s.version.wrapping_add(1);
    let _ = vm.write_guest_val(gpa, &s);
}

/// Where the page at the address in `msr` says that the vCPU is preempted.
fn mark(at: Gpa) -> Gpa {
    at.wrapping_add(offset_of!(KvmStealTime, preempted) as u64)
}

/// Marks the vCPU as preempted; false if that is not possible at once. Does not sleep: the scheduler
/// asks for it.
pub(crate) fn tell_preempted(vm: &VmBase, msr: u64) -> bool {
    vm.write_guest_now(mark(Gpa(msr & ADDRESS)), KVM_VCPU_PREEMPTED)
        .is_ok()
}

/// Takes the mark back. Says whether another vCPU left word in it that the TLB is to be flushed, which
/// it does, in one step, while it sees the mark.
fn tell_back(vm: &VmBase, gpa: Gpa) -> bool {
    let at = mark(gpa);
    for _ in 0..TRIES {
        match vm.read_guest_val::<u8>(at) {
            Ok(0) | Err(_) => return false,
            Ok(old) => match vm.cmpxchg_space(Space::Normal, at, &[old], &[0]) {
                Ok(Some(true)) => return old & KVM_VCPU_FLUSH_TLB != 0,
                Ok(Some(false)) => {}
                Ok(None) | Err(_) => return false,
            },
        }
    }
    // The guest plays with it: flushed is never wrong.
    let _ = vm.write_guest_val(at, &0u8);
    true
}
