// SPDX-License-Identifier: GPL-2.0

//! Guests that hardware cannot run as they are: without unrestricted guests, those in real mode and
//! on their way from there to protected mode. They are emulated, instruction by instruction, until
//! hardware can go on.
//!
//! Events are delivered through the real-mode vector table. Between the modes nothing can deliver
//! them: an exception there ends the guest, and interrupts wait. An SMI is no such event, it goes to
//! another state.

use super::debug;
use super::emulate;
use super::machine::Machine;
use crate::backend::Backend;
use crate::vcpu::event;
use crate::vcpu::run::Flow;
use crate::vcpu::user_exit::UserExit;
use crate::vcpu::Cx;
use core::ops::ControlFlow::Continue;
use model::emul;
use model::emul::cpu::Stop;
use model::exit::Event;
use model::exit::EventKind;

/// Instructions emulated before the loop around looks at everything again.
const BATCH: u32 = 128;

/// Emulates until hardware can run the guest, or something else has to be looked at.
#[inline(never)]
pub(crate) fn run<V: Backend>(cx: &mut Cx<'_, '_, V>) -> Flow {
    cx.poll_deadline();
    for _ in 0..BATCH {
        events(cx)?;
        match debug::code_breakpoint(cx) {
            Some(flow) => flow?,
            None => emulate::instruction(cx)?,
        }
        let go_on = V::must_emulate(cx.l)
            && cx.st.mp.runs()
            && !cx.st.events.triple_fault
            && !cx.vcpu.shared.pending.work().any();
        if !go_on {
            break;
        }
    }
    if host::task::guest_work_likely() && host::task::handle_guest_work().is_err() {
        return UserExit::Signal.leave(cx);
    }
    Continue(())
}

/// Delivers the event that is due, if any.
fn events<V: Backend>(cx: &mut Cx<'_, '_, V>) -> Flow {
    if cx.protected_mode() {
        // Nor the guest's own INT n: the instruction would be emulated for ever.
        let soft = cx.st.events.injected.is_some_and(|e| e.is_soft());
        if soft || cx.st.events.has_exception() {
            return UserExit::EmulationFailure {
                bytes: [0; 15],
                len: 0,
            }
            .leave(cx);
        }
        event::take_smi(cx);
        return Continue(());
    }
    let Some(e) = event::take(cx) else {
        return Continue(());
    };
    match deliver(cx, &e) {
        Ok(()) => {}
        Err(Stop::Retry) => cx.st.events.injected = Some(e),
        // KVM: whatever goes wrong with the vector table or the stack.
        Err(_) => cx.st.events.triple_fault = true,
    }
    Continue(())
}

/// Delivers an event as real mode does.
fn deliver<V: Backend>(cx: &mut Cx<'_, '_, V>, e: &Event) -> Result<(), Stop> {
    let soft = !matches!(
        e.kind,
        EventKind::Interrupt | EventKind::Nmi | EventKind::Exception
    );
    let behind = if soft { e.insn_len } else { 0 };
    emulate::with_state(cx, |cx, s| {
        emul::inject_realmode(s, e.vector, behind, &mut Machine { cx })
    })
}
