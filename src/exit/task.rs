// SPDX-License-Identifier: GPL-2.0

//! Task switches, which no hardware does for a guest.

use super::emul_state::fill;
use super::emul_state::store;
use super::machine::Machine;
use super::raise;
use crate::backend::Backend;
use crate::vcpu::pending::Pending;
use crate::vcpu::run::Flow;
use crate::vcpu::user_exit::UserExit;
use crate::vcpu::Cx;
use core::ops::ControlFlow::Continue;
use model::abi;
use model::emul::cpu::Stop;
use model::emul::task::task_switch;
use model::emul::task::TaskSwitch;
use model::exit::Event;
use model::exit::EventKind;
use model::exit::TaskSwitchCause;
use model::x86::exception;

/// Was it an instruction that raised this event, so that the old task goes on behind it?
fn by_instruction(e: &Event) -> bool {
    match e.kind {
        EventKind::SoftInterrupt
        | EventKind::SoftException
        | EventKind::PrivilegedSoftException => true,
        EventKind::Exception => matches!(e.vector, exception::BP | exception::OF),
        EventKind::Interrupt | EventKind::Nmi => false,
    }
}

/// Switches to another task.
#[inline(never)]
pub(super) fn switch<V: Backend>(cx: &mut Cx<'_, '_, V>, want: &TaskSwitch) -> Flow {
    // What came through a task gate is delivered by the switch itself.
    let event = cx
        .st
        .events
        .injected
        .filter(|_| want.cause == TaskSwitchCause::Gate);
    let mut rip = V::rip(cx.l);
    if event.is_none_or(|e| by_instruction(&e)) {
        let Some(next) = cx.next_rip() else {
            return Continue(());
        };
        rip = next;
    }
    let Some(mut s) = cx.st.emul.state.take() else {
        return failed(cx);
    };
    fill(cx, &mut s);
    s.rip = rip;
    cx.st.emul.reset();
    let r = task_switch(&mut s, want, &mut Machine { cx });
    cx.st.emul.reset();
    cx.st.pending = Pending::None;
    if r.is_ok() {
        store(cx, &s);
        if event.is_some() {
            cx.st.events.injected = None;
        }
    }
    cx.st.emul.state = Some(s);
    match r {
        Ok(switched) => match switched.fault {
            Some(e) => raise(cx, e),
            None => Continue(()),
        },
        // It belongs to the old task.
        Err(Stop::Fault(e)) => {
            if event.is_some_and(|v| !v.is_exception()) {
                // The fault comes instead of what was being delivered.
                cx.st.events.injected = None;
            }
            raise(cx, e)
        }
        Err(Stop::Retry) => Continue(()),
        // KVM: a TSS in device memory is not supported.
        Err(Stop::NeedUser | Stop::Unhandled { .. }) => failed(cx),
    }
}

fn failed<V: Backend>(cx: &Cx<'_, '_, V>) -> Flow {
    UserExit::internal(abi::KVM_INTERNAL_ERROR_EMULATION).leave(cx)
}
