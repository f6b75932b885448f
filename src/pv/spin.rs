// SPDX-License-Identifier: GPL-2.0

//! Giving a turn away: a vCPU that spins probably waits for one that does not run.

use crate::backend::Backend;
use crate::vcpu::shared::VcpuShared;
use crate::vcpu::Cx;
use crate::vm::VmBase;
use core::sync::atomic::Ordering::Relaxed;
use model::stats::VcpuStat;

/// Failed attempts after which it is not worth while any more.
const ATTEMPTS: u32 = 3;

/// The guest executed PAUSE often enough to exit: lets another vCPU of the VM run, one that could
/// run and does not, beginning behind the last that got a turn this way.
#[inline(never)]
pub(crate) fn pause<V: Backend>(cx: &Cx<'_, '_, V>) {
    let vm = &cx.vm.base;
    let me = &*cx.vcpu.shared;
    me.set_spinning(true);
    let given = boost_another(vm, me);
    me.set_spinning(false);
    if !given {
        host::task::cond_resched();
    }
}

fn boost_another(vm: &VmBase, me: &VcpuShared) -> bool {
    let n = vm.vcpus.count();
    if n < 2 {
        return false;
    }
    let last = vm.clock.boosted.load(Relaxed);
    let mut left = ATTEMPTS;
    for i in 1..=n {
        let index = last.wrapping_add(i).checked_rem(n).unwrap_or(0);
        let Some(v) = vm.vcpus.get(index) else {
            continue;
        };
        if index == me.index || !v.waits_for_cpu() || !v.may_be_boosted() {
            continue;
        }
        match v.yield_to() {
            Ok(true) => {
                vm.clock.boosted.store(index, Relaxed);
                return true;
            }
            Ok(false) => {}
            Err(_) => {
                left = left.wrapping_sub(1);
                if left == 0 {
                    return false;
                }
            }
        }
    }
    false
}

/// The guest wants the vCPU with this APIC id to run in its place (KVM_HC_SCHED_YIELD).
pub(crate) fn yield_to<V: Backend>(cx: &Cx<'_, '_, V>, apic_id: u64) {
    let target = u32::try_from(apic_id)
        .ok()
        .and_then(|id| cx.vm.base.vcpus.by_id(id));
    cx.count(VcpuStat::DirectedYieldAttempted);
    let given = match target {
        Some(v) if v.index != cx.vcpu.shared.index && v.waits_for_cpu() => v.yield_to() == Ok(true),
        _ => false,
    };
    if given {
        cx.count(VcpuStat::DirectedYieldSuccessful);
    } else {
        host::task::cond_resched();
    }
}
