// SPDX-License-Identifier: GPL-2.0

//! KVM_RUN: into the guest, out of it, and around again until user space is needed.

use super::event;
use super::fpu;
use super::halt;
use super::mp;
use super::pending;
use super::shared::Request;
use super::sync;
use super::user_exit::Leave;
use super::user_exit::UserExit;
use super::Cx;
use super::Vcpu;
use crate::backend::Backend;
use crate::exit;
use crate::vm::VmCore;
use core::ops::ControlFlow;
use core::ops::ControlFlow::Break;
use core::ops::ControlFlow::Continue;
use core::sync::atomic::Ordering;
use host::hwvirt::X86Virt;
use kernel::prelude::*;
use model::abi;
use model::abi::run as at;
use model::stats::VcpuStat;
use model::x86::ctrl::rflags;

/// What a handler says: go on with the guest, or return to user space.
pub(crate) type Flow = ControlFlow<Leave>;

/// KVM_RUN.
pub(crate) fn run<V: Backend>(vm: &VmCore<V>, vcpu: &Vcpu<V>) -> Result<isize> {
    vcpu.with(vm, |cx| {
        vcpu.shared.runs_here(&mut cx.st.thread)?;
        let mask = cx.st.signal_mask;
        let r = host::task::with_signal_mask(mask, || {
            let left = run_loaded(cx);
            let stats = &vcpu.shared.stats;
            stats.set(VcpuStat::TlbFlush, cx.l.tlb_flushes());
            stats.set(VcpuStat::L1dFlush, u64::from(cx.l.l1d_flushes()));
            after_run(cx);
            left.answer()
        });
        host::task::run_returns_to_user();
        r
    })?
}

fn run_loaded<V: Backend>(cx: &mut Cx<'_, '_, V>) -> Leave {
    let run = &cx.vcpu.run;
    // Read once: user space may change it while we look.
    let immediate = run.read_u8(at::IMMEDIATE_EXIT) != 0;

    if cx.st.mp == mp::MpState::Uninitialized {
        if immediate {
            return Leave::error(EINTR);
        }
        // A request that stays would keep it from sleeping.
        if cx.vcpu.shared.pending.work().requests {
            if let Break(e) = requests(cx) {
                return e;
            }
        }
        halt::wait_for_init(cx);
        mp::accept(cx);
        if host::task::signal_pending() {
            return UserExit::Signal.store(cx);
        }
        return Leave::error(EAGAIN);
    }
    if let Err(e) = sync::load(cx) {
        return Leave::error(e);
    }
    if !cx.vm.base.irqchip_in_kernel() {
        let cr8 = run.read_u64(at::CR8);
        if cr8 > 15 {
            return Leave::error(EINVAL);
        }
        V::set_cr8(cx.l, cr8);
    }
    cx.st.ran = true;
    let r = fpu::with_loaded(cx, |cx| match pending::complete(cx) {
        Break(e) => e,
        Continue(()) if immediate => Leave::error(EINTR),
        Continue(()) if !mp::possible(cx.st) => Leave::error(EINVAL),
        Continue(()) => main_loop(cx),
    });
    r.unwrap_or_else(Leave::error)
}

/// Runs the guest until user space is needed.
fn main_loop<V: Backend>(cx: &mut Cx<'_, '_, V>) -> Leave {
    cx.vcpu
        .run
        .write_u32(at::EXIT_REASON, abi::KVM_EXIT_UNKNOWN);
    loop {
        match once(cx) {
            Continue(()) => {}
            Break(e) => return e,
        }
    }
}

/// One entry and what its exit asks for.
fn once<V: Backend>(cx: &mut Cx<'_, '_, V>) -> Flow {
    if !cx.vcpu.shared.pending.is_empty() {
        mailbox(cx)?;
    }
    if !cx.st.mp.runs() {
        halt::block(cx)?;
        if !cx.st.mp.runs() {
            return Continue(());
        }
    }
    if let Some(vector) = cx.st.eoi_exits.take() {
        return UserExit::Eoi { vector }.leave(cx);
    }
    if let Some((rip, write)) = cx.st.tpr_access.take() {
        return UserExit::TprAccess { rip, write }.leave(cx);
    }
    if cx.st.events.triple_fault {
        cx.st.events.triple_fault = false;
        return UserExit::Shutdown.leave(cx);
    }
    if !cx.vm.base.irqchip_full() {
        user_irqchip(cx)?;
    }
    crate::mmu::load_root(cx)?;
    if V::must_emulate(cx.l) {
        return exit::restricted::run(cx);
    }
    event::prepare(cx);
    if !cx.st.root_loaded {
        // An SMI goes to another address space, and its handler begins in real mode.
        crate::mmu::load_root(cx)?;
        if V::must_emulate(cx.l) {
            event::not_entered(cx);
            return Continue(());
        }
    }
    if !enter(cx) {
        event::not_entered(cx);
        if host::task::guest_work_likely() && cx.vcpu.shared.give_way().is_err() {
            return UserExit::Signal.leave(cx);
        }
        return Continue(());
    }
    if cx.st.write_log {
        take_written(cx);
    }
    cx.count(VcpuStat::Exits);
    event::after_exit(cx);
    host::trace::exit(|| exit_seen(cx));
    let flow = exit::handle(cx);
    if cx.st.bus_lock_exits {
        return report_bus_lock(cx, flow);
    }
    flow
}

/// User space hears of bus locks: by an exit of their own, or by a flag beside another one.
#[cold]
#[inline(never)]
fn report_bus_lock<V: Backend>(cx: &mut Cx<'_, '_, V>, flow: Flow) -> Flow {
    if !V::bus_locked(cx.l) {
        return flow;
    }
    cx.st.bus_locked = true;
    flow?;
    UserExit::BusLock.leave(cx)
}

/// What the tracepoint of an exit shows.
#[cold]
#[inline(never)]
fn exit_seen<V: Backend>(cx: &Cx<'_, '_, V>) -> host::trace::Exit {
    let raw = V::raw_exit(cx.l);
    host::trace::Exit {
        reason: raw.reason,
        rip: V::rip(cx.l),
        info1: raw.info1,
        info2: raw.info2,
        intr_info: raw.intr_info,
        error_code: raw.error_code,
        vcpu_id: cx.vcpu.shared.id,
        svm: V::EXTENSION == X86Virt::Svm,
    }
}

/// Something is in the mailbox.
#[inline(never)]
fn mailbox<V: Backend>(cx: &mut Cx<'_, '_, V>) -> Flow {
    if cx.vcpu.shared.pending.work().requests {
        requests(cx)?;
    }
    cx.pull();
    // A start-up message to a vCPU that does not wait for it is lost.
    if cx.st.init_latched || cx.st.sipi_latched.is_some() {
        mp::accept(cx);
    }
    cx.count(VcpuStat::ReqEvent);
    Continue(())
}

/// Enters the guest unless something came up; says whether the guest ran.
#[inline]
fn enter<V: Backend>(cx: &mut Cx<'_, '_, V>) -> bool {
    let shared = &*cx.vcpu.shared;
    let l = &mut *cx.l;
    host::pin::with_irqs_off(|irqs| {
        if !shared.pending.enter_guest_if_empty() || host::task::guest_work_pending(irqs) {
            shared.pending.leave();
            return false;
        }
        host::trace::entry(shared.id, || V::rip(l));
        V::enter(l, irqs);
        shared.pending.leave();
        if V::interrupted(l) {
            // What the interrupt woke may take the CPU as soon as this is over. The handler of the exit
            // ends it.
            shared.set_boundary(true);
        }
        true
    })
}

fn requests<V: Backend>(cx: &mut Cx<'_, '_, V>) -> Flow {
    let shared = cx.vcpu.shared.clone();
    if shared.take(Request::Dead) {
        return UserExit::Error(EIO).leave(cx);
    }
    if shared.take(Request::DirtyRing) {
        if shared.ring.as_ref().is_some_and(|r| r.is_soft_full()) {
            // Again, until user space has made room.
            shared.request(Request::DirtyRing);
            return UserExit::DirtyRingFull.leave(cx);
        }
    }
    if shared.take(Request::NewRoot) {
        crate::mmu::forget_root(cx);
    }
    if shared.take(Request::EoiExits) {
        cx.update_eoi_exits();
    }
    if shared.take(Request::WriteLog) {
        update_write_log(cx);
    }
    if shared.take(Request::Tsc) {
        crate::pv::tsc::follow_host(cx);
    }
    if shared.take(Request::ClockUpdate) {
        cx.doubt_deadline();
        crate::pv::clock::update(cx);
    }
    if shared.take(Request::StealTime) {
        crate::pv::steal::update(cx);
    }
    if shared.take(Request::Traps) {
        cx.update_traps();
    }
    // Event needs no action of its own: the loop looks at events anyway.
    let _ = shared.take(Request::Event);
    Continue(())
}

/// Lets hardware write down what the guest writes to while a slot is logged.
pub(crate) fn update_write_log<V: Backend>(cx: &mut Cx<'_, '_, V>) {
    let on = cx.vm.base.write_log.load(Ordering::Relaxed);
    cx.st.write_log = V::set_write_log(cx.l, on) && on;
}

/// Takes over what it wrote down.
fn take_written<V: Backend>(cx: &mut Cx<'_, '_, V>) {
    let base = &cx.vm.base;
    let slots = base.slots.space(cx.space());
    V::take_written(cx.l, &mut |gfn| {
        if let Some(s) = slots.find(gfn) {
            base.mark_dirty(s, gfn);
        }
    });
}

/// With the PIC in user space, whoever has the local APIC: leave when it asked to be told that the
/// guest can take an interrupt.
fn user_irqchip<V: Backend>(cx: &mut Cx<'_, '_, V>) -> Flow {
    if cx.user_wants_window() && cx.ready_for_interrupt() {
        return UserExit::IrqWindow.leave(cx);
    }
    Continue(())
}

/// Writes what user space may look at after each return.
fn after_run<V: Backend>(cx: &mut Cx<'_, '_, V>) {
    let run = &cx.vcpu.run;
    let if_flag = V::rflags(cx.l) & rflags::IF != 0;
    let mut flags = 0;
    if cx.st.smm.active() {
        flags |= abi::KVM_RUN_X86_SMM;
    }
    if core::mem::take(&mut cx.st.bus_locked) {
        flags |= abi::KVM_RUN_X86_BUS_LOCK;
    }
    run.write_u16(at::FLAGS, flags);
    run.write_u8(at::IF_FLAG, u8::from(if_flag));
    run.write_u64(at::CR8, cx.cr8());
    run.write_u64(at::APIC_BASE, cx.st.apic_base());
    let ready = cx.vm.base.irqchip_full() || cx.ready_for_interrupt();
    run.write_u8(at::READY_FOR_INTERRUPT_INJECTION, u8::from(ready));
    sync::store(cx);
}
