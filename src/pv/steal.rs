// SPDX-License-Identifier: GPL-2.0

//! Stolen time: how long the vCPU's thread waited for a CPU, told to the guest in a page of its own.

use crate::backend::Backend;
use crate::vcpu::shared::Request;
use crate::vcpu::Cx;
use core::sync::atomic::fence;
use core::sync::atomic::Ordering;
use model::abi::KvmStealTime;
use model::abi::KVM_MSR_ENABLED;
use model::addr::Gpa;

/// The structure is aligned to its size.
const ADDRESS: u64 = !63;

/// The guest, or user space for it, wrote the MSR.
pub(crate) fn enable<V: Backend>(cx: &mut Cx<'_, '_, V>) {
    let on = cx.st.msrs.state.steal_time & KVM_MSR_ENABLED != 0;
    if on && !cx.vcpu.shared.reports_steal() {
        // What the thread waited before is not the guest's.
        cx.st.pv.waited = None;
    }
    cx.vcpu.shared.report_steal(on);
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
    let waited = host::task::run_delay();
    let last = cx.st.pv.waited.replace(waited);
    if last == Some(waited) {
        return;
    }
    // Another thread may run the vCPU now, which has waited less so far.
    let more = waited.saturating_sub(last.unwrap_or(waited));
    let gpa = Gpa(msr & ADDRESS);
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
