// SPDX-License-Identifier: GPL-2.0

//! Blocking: HLT, and waiting for INIT and SIPI.

use super::mp;
use super::mp::MpState;
use super::run::Flow;
use super::user_exit::UserExit;
use super::Cx;
use crate::backend::Backend;
use core::ops::ControlFlow::Continue;
use model::stats::VcpuStat;

/// HLT. With the local APIC in user space that is user space's to handle.
pub(crate) fn hlt<V: Backend>(cx: &mut Cx<'_, '_, V>) -> Flow {
    cx.count(VcpuStat::HaltExits);
    if !cx.vm.base.irqchip_in_kernel() {
        return UserExit::Hlt.leave(cx);
    }
    if cx.st.unhalted {
        // The kick came between the guest's last look and its HLT.
        cx.st.set_runnable();
    } else {
        cx.st.mp = MpState::Halted;
    }
    Continue(())
}

/// Blocks until the vCPU has something to do. Returns to user space for a signal.
pub(crate) fn block<V: Backend>(cx: &mut Cx<'_, '_, V>) -> Flow {
    mp::accept(cx);
    if wakes(cx) {
        return Continue(());
    }
    if host::task::signal_pending() {
        return UserExit::Signal.leave(cx);
    }
    // While the guest does not run, its own timer would not be noticed.
    cx.timer_to_host();
    let start = host::clock::now_ns();
    cx.vcpu.shared.stats.set(VcpuStat::Blocking, 1);
    let polled = poll(cx);
    if !polled {
        sleep(cx);
    }
    cx.vcpu.shared.stats.set(VcpuStat::Blocking, 0);
    let waited = host::clock::now_ns().wrapping_sub(start);
    let most = cx.vm.base.caps.halt_poll_ns();
    cx.st.halt_poll_ns = next_poll(cx.st.halt_poll_ns, waited, most);
    cx.timer_to_guest();
    mp::accept(cx);
    if wakes(cx) {
        return Continue(());
    }
    if polled {
        cx.count(VcpuStat::HaltPollInvalid);
    }
    if host::task::signal_pending() {
        return UserExit::Signal.leave(cx);
    }
    // Work for the host, or a request: the loop looks and comes back.
    if host::task::guest_work_likely() && host::task::handle_guest_work().is_err() {
        return UserExit::Signal.leave(cx);
    }
    Continue(())
}

/// If an event ends the halt, ends it.
fn wakes<V: Backend>(cx: &mut Cx<'_, '_, V>) -> bool {
    cx.pull();
    if cx.st.mp == MpState::Halted && (cx.st.unhalted || cx.has_event()) {
        cx.st.set_runnable();
    }
    cx.st.mp.runs()
}

/// Spins for a while before sleeping, because waking a sleeper costs more than most waits last.
/// True if something came.
fn poll<V: Backend>(cx: &mut Cx<'_, '_, V>) -> bool {
    let limit_ns = cx.st.halt_poll_ns.min(cx.vm.base.caps.halt_poll_ns());
    if limit_ns == 0 {
        return false;
    }
    let shared = &*cx.vcpu.shared;
    let start = host::clock::now_ns();
    loop {
        let found = shared.pending.work().any();
        let spent = host::clock::now_ns().wrapping_sub(start);
        if found {
            poll_ended(cx, true, spent);
            return true;
        }
        if !can_poll() || spent > limit_ns {
            poll_ended(cx, false, spent);
            return false;
        }
        core::hint::spin_loop();
    }
}

fn poll_ended<V: Backend>(cx: &Cx<'_, '_, V>, found: bool, ns: u64) {
    use VcpuStat as S;
    let stats = &cx.vcpu.shared.stats;
    stats.count(S::HaltAttemptedPoll);
    if found {
        stats.count(S::HaltSuccessfulPoll);
        stats.time(S::HaltPollSuccessNs, S::HaltPollSuccessHist, ns);
    } else {
        stats.time(S::HaltPollFailNs, S::HaltPollFailHist, ns);
    }
}

/// Does nothing else want the CPU?
fn can_poll() -> bool {
    host::task::single_task_running()
        && !host::task::need_resched()
        && !host::task::signal_pending()
}

/// How long to poll next time, ns, after a wait of `waited` with a limit of `ns`; `most` at most.
fn next_poll(ns: u64, waited: u64, most: u64) -> u64 {
    let least = u64::from(host::params::halt_poll_ns_grow_start());
    let ns = ns.min(most);
    if waited <= ns {
        // Well done.
        ns
    } else if waited < most {
        match host::params::halt_poll_ns_grow() {
            0 => ns,
            factor => ns.saturating_mul(factor.into()).max(least).min(most),
        }
    } else {
        let shrunk = ns.checked_div(host::params::halt_poll_ns_shrink().into());
        shrunk.filter(|&v| v >= least).unwrap_or(0)
    }
}

fn sleep<V: Backend>(cx: &mut Cx<'_, '_, V>) {
    let start = host::clock::now_ns();
    let shared = cx.vcpu.shared.clone();
    let wait = !shared.pending.block().any();
    if wait {
        shared.wait().block(|| shared.pending.work().any());
    }
    shared.pending.leave();
    if wait {
        let stats = &shared.stats;
        let slept = host::clock::now_ns().wrapping_sub(start);
        stats.time(VcpuStat::HaltWaitNs, VcpuStat::HaltWaitHist, slept);
        if shared.pending.work().any() {
            stats.count(VcpuStat::HaltWakeup);
        }
    }
}

/// Blocks an AP that has not been started, until something is posted to it or a signal comes.
pub(crate) fn wait_for_init<V: Backend>(cx: &mut Cx<'_, '_, V>) {
    if !cx.st.init_latched {
        sleep(cx);
    }
}
