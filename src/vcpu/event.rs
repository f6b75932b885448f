// SPDX-License-Identifier: GPL-2.0

//! Events on their way into the guest.
//!
//! An event is *pending* (it may still be replaced, combined or wait for a window) or *injected* (it
//! was given to the hardware, or its delivery was cut short by an exit and must be repeated). The
//! two are separate fields, never one. At most one event is injected at a time.

use super::smm;
use super::Cx;
use crate::backend::Backend;
use crate::pv::eoi;
use model::abi::KVM_MSR_ENABLED;
use model::exit::Event;
use model::exit::EventKind;
use model::stats::VcpuStat;
use model::x86::ctrl::dr6;
use model::x86::ctrl::dr7;
use model::x86::ctrl::rflags;
use model::x86::exception;
use model::x86::exception::Combined;
use model::x86::exception::Exception;
use virt::vendor::Window;

/// Events of one vCPU. Guarded by the vCPU mutex.
#[derive(Default)]
pub(crate) struct Events {
    /// An exception that waits for the next entry.
    pub(crate) exception: Option<Exception>,
    /// Its payload is already in CR2 or DR6.
    pub(crate) payload_done: bool,
    /// The event that the hardware holds, or must be given again.
    pub(crate) injected: Option<Event>,
    /// NMIs that wait: 0 to 2.
    pub(crate) nmi_pending: u8,
    /// A vector queued by KVM_INTERRUPT.
    pub(crate) user_interrupt: Option<u8>,
    /// The guest hit a triple fault, to be reported.
    pub(crate) triple_fault: bool,
    /// The window exits that were asked for.
    window_nmi: bool,
    window_interrupt: bool,
}

impl Events {
    /// Queues an exception, combining it with one that is under way (`SDM: vol 3, table 6-5`).
    pub(crate) fn queue_exception(&mut self, e: Exception) {
        let first = match (&self.exception, &self.injected) {
            (Some(p), _) => Some(p.vector),
            (None, Some(i)) if i.is_exception() => Some(i.vector),
            _ => None,
        };
        let Some(first) = first else {
            self.set_pending(e);
            return;
        };
        match exception::combine(first, e.vector) {
            Combined::Second => self.set_pending(e),
            Combined::DoubleFault => {
                self.injected = None;
                self.set_pending(Exception::with_code(exception::DF, 0));
            }
            Combined::TripleFault => {
                self.exception = None;
                self.injected = None;
                self.triple_fault = true;
            }
        }
    }

    fn set_pending(&mut self, e: Exception) {
        if self
            .injected
            .is_some_and(|i| i.kind != EventKind::Interrupt && i.kind != EventKind::Nmi)
        {
            // The one being delivered will happen again by itself.
            self.injected = None;
        }
        self.exception = Some(e);
        self.payload_done = false;
    }

    /// Forgets what an exception or a soft event started; user space rewrote the registers.
    pub(crate) fn drop_exception(&mut self) {
        self.exception = None;
    }

    /// Is an exception on its way?
    pub(crate) fn has_exception(&self) -> bool {
        self.exception.is_some() || self.injected.is_some_and(|i| i.is_exception())
    }

    /// Is anything injected that must be given to the hardware again?
    #[inline]
    pub(crate) fn reinjects(&self) -> bool {
        self.injected.is_some()
    }
}

/// Puts what a pending exception changes into the registers: CR2, DR6, DR7.GD.
///
/// `SDM: vol 3, 6.15` (page fault), `SDM: vol 3, 17.2.3` (DR6), `SDM: vol 3, 17.2.4` (GD).
pub(crate) fn deliver_payload<V: Backend>(cx: &mut Cx<'_, '_, V>) {
    let Some(e) = cx.st.events.exception else {
        return;
    };
    if cx.st.events.payload_done {
        return;
    }
    cx.st.events.payload_done = true;
    match e.vector {
        exception::PF => V::set_cr2(cx.l, e.payload),
        exception::DB => {
            // The low four bits are replaced, the others accumulate; the payload has the active-low
            // bits inverted, as the hardware's own does.
            let old = V::dr6(cx.l) & !dr6::TRAPS;
            let low = dr6::RTM | dr6::BUS_LOCK;
            let new = (old | dr6::FIXED_1 | (e.payload & !low)) & !(e.payload & low);
            V::set_dr6(cx.l, new);
            if cx.st.debug.dr7 & dr7::GD != 0 {
                cx.st.debug.dr7 &= !dr7::GD;
                cx.update_dr7();
            }
        }
        _ => {}
    }
}

/// Queues an exception for this vCPU.
#[inline(never)]
pub(crate) fn raise<V: Backend>(cx: &mut Cx<'_, '_, V>, e: Exception) {
    if e.vector == exception::PF {
        cx.count(VcpuStat::PfGuest);
    }
    cx.st.events.queue_exception(e);
}

impl Events {
    /// No event is on its way, and no window was asked for.
    #[inline]
    fn none(&self) -> bool {
        self.exception.is_none()
            && self.injected.is_none()
            && self.user_interrupt.is_none()
            && self.nmi_pending == 0
            && !self.window_nmi
            && !self.window_interrupt
    }
}

/// Moves one event into the hardware and asks for windows for the others. Called before each entry.
#[inline]
pub(crate) fn prepare<V: Backend>(cx: &mut Cx<'_, '_, V>) {
    // Everything that `prepare_any` would look at, of an entry that has nothing to deliver.
    if cx.st.events.none()
        && !cx.st.cr8_trap
        && !cx.st.debug.stepping
        && cx.st.vapic == 0
        && !cx.st.smm.pending
        && cx.has_quiet_chips()
    {
        V::inject(cx.l, None);
        return;
    }
    prepare_any(cx);
}

#[inline(never)]
fn prepare_any<V: Backend>(cx: &mut Cx<'_, '_, V>) {
    next(cx);
    let mut ev = cx.st.events.injected;
    if ev.is_some_and(|e| e.error_code.is_some()) {
        drop_error_code(cx);
        ev = cx.st.events.injected;
    }
    match ev.map(|e| e.kind) {
        Some(EventKind::Interrupt) => cx.count(VcpuStat::IrqInjections),
        Some(EventKind::Nmi) => cx.count(VcpuStat::NmiInjections),
        _ => {}
    }
    V::inject(cx.l, ev.as_ref());
    cx.update_cr8_trap();
    cx.give_requests();
    if cx.st.vapic != 0 {
        cx.vapic_before_entry();
    }
    if cx.st.msrs.state.pv_eoi & KVM_MSR_ENABLED != 0 {
        eoi::offer(cx);
    }

    let blocked = cx.st.debug.blocks_interrupts();
    if cx.st.debug.stepping {
        // Hardware may refuse to enter with a shadow and a trap flag that the guest did not set.
        V::set_shadow(cx.l, 0);
    }
    let nmi = cx.st.events.nmi_pending > 0 && !blocked;
    if nmi != cx.st.events.window_nmi {
        cx.st.events.window_nmi = nmi;
        V::request_window(cx.l, Window::Nmi, nmi);
    }
    if cx.st.smm.due() && ev.is_some() && !blocked {
        // RFLAGS.IF does not hold an SMI back: it comes right after the event in the hardware.
        V::end_after_event(cx.l);
    }
    let intr = !blocked && (cx.has_interrupt() || cx.user_wants_window());
    if intr != cx.st.events.window_interrupt {
        cx.st.events.window_interrupt = intr;
        V::request_window(cx.l, Window::Interrupt, intr);
    }
}

/// The event that is due, for a guest that hardware cannot run: it has to be delivered now.
pub(crate) fn take<V: Backend>(cx: &mut Cx<'_, '_, V>) -> Option<Event> {
    next(cx);
    cx.st.events.injected.take()
}

/// Makes what is due the injected event.
fn next<V: Backend>(cx: &mut Cx<'_, '_, V>) {
    if cx.st.events.exception.is_some() {
        give_way(cx);
    }
    if cx.st.events.injected.is_none() {
        choose(cx);
    }
}

/// An interrupt or NMI that has to be delivered again gives way to an exception, which belongs to the
/// instruction at RIP or to the delivery itself, and waits like any other.
///
/// KVM: the in-tree module loses it.
fn give_way<V: Backend>(cx: &mut Cx<'_, '_, V>) {
    match cx.st.events.injected {
        Some(e) if e.kind == EventKind::Nmi => {
            cx.st.events.injected = None;
            // The blocking would have begun with its handler.
            V::set_nmi_blocked(cx.l, false);
            let waiting = &mut cx.st.events.nmi_pending;
            *waiting = waiting.saturating_add(1).min(2);
        }
        Some(e) if e.kind == EventKind::Interrupt => {
            cx.st.events.injected = None;
            cx.put_back(e.vector);
        }
        _ => {}
    }
}

/// Real mode has no error codes, whoever gave the exception one; VMX refuses the entry
/// (`SDM: vol 3, 27.2.1.3`).
#[cold]
#[inline(never)]
fn drop_error_code<V: Backend>(cx: &mut Cx<'_, '_, V>) {
    if cx.protected_mode() {
        return;
    }
    if let Some(e) = &mut cx.st.events.injected {
        e.error_code = None;
    }
}

impl<V: Backend> Cx<'_, '_, V> {
    /// The event that delivers an exception. `#BP` at the INT3 that exited last is as long as that was,
    /// prefixes and all.
    pub(crate) fn event_of(&self, e: &Exception) -> Event {
        let mut event = Event::exception(e);
        let at = &self.st.debug.int3;
        if e.vector == exception::BP && at.rip == V::rip(self.l) && at.len != 0 {
            event.insn_len = at.len;
        }
        event
    }
}

fn choose<V: Backend>(cx: &mut Cx<'_, '_, V>) {
    if let Some(e) = cx.st.events.exception {
        deliver_payload(cx);
        cx.st.events.exception = None;
        if exception::is_fault(e.vector) {
            // The instruction will be executed again: do not break on it twice.
            let f = V::rflags(cx.l);
            V::set_rflags(cx.l, f | rflags::RF);
        }
        cx.st.events.injected = Some(cx.event_of(&e));
        return;
    }
    take_smi(cx);
    if cx.st.debug.blocks_interrupts() {
        return;
    }
    if cx.st.events.nmi_pending > 0 && V::window_open(cx.l, Window::Nmi) {
        cx.st.events.nmi_pending = cx.st.events.nmi_pending.saturating_sub(1);
        V::set_nmi_blocked(cx.l, true);
        cx.st.events.injected = Some(Event::nmi());
        return;
    }
    if cx.interrupts_allowed() {
        if let Some(vector) = cx.take_interrupt() {
            host::trace::inject(vector);
            cx.st.events.injected = Some(Event::interrupt(vector));
        }
    }
}

/// Takes the SMI that is due, if any.
pub(crate) fn take_smi<V: Backend>(cx: &mut Cx<'_, '_, V>) {
    if cx.st.smm.due() && !cx.st.events.reinjects() && !cx.st.debug.blocks_interrupts() {
        smm::enter(cx);
    }
}

/// Takes back what the last exit kept from being delivered. Called after each exit.
#[inline]
pub(crate) fn after_exit<V: Backend>(cx: &mut Cx<'_, '_, V>) {
    match V::aborted(cx.l) {
        None => {
            if cx.st.events.injected.is_some() {
                cx.st.events.injected = None;
            }
        }
        Some(e) => {
            if e.kind == EventKind::Nmi {
                // The delivery that was cut short had already blocked NMIs; it starts anew.
                V::set_nmi_blocked(cx.l, true);
            }
            cx.st.events.injected = Some(e);
        }
    }
    cx.sync_cr8();
    if cx.st.pv.eoi_offered {
        eoi::collect(cx);
    }
    if cx.st.vapic != 0 {
        cx.vapic_after_exit();
    }
}

/// The guest was not entered after all: what it would have found in its memory is taken back, as
/// another event may be chosen now.
#[inline]
pub(crate) fn not_entered<V: Backend>(cx: &mut Cx<'_, '_, V>) {
    if cx.st.pv.eoi_offered {
        eoi::collect(cx);
    }
}

/// The windows that were asked for were withdrawn by the hardware state being reset.
pub(crate) fn reset_windows(e: &mut Events) {
    e.window_nmi = false;
    e.window_interrupt = false;
}

/// The hardware reported that the window which was asked for is open.
pub(crate) fn window_opened<V: Backend>(cx: &mut Cx<'_, '_, V>, nmi: bool) {
    // `prepare` asks again if the event still has to wait.
    if nmi {
        V::request_window(cx.l, Window::Nmi, false);
        cx.st.events.window_nmi = false;
    } else {
        V::request_window(cx.l, Window::Interrupt, false);
        cx.st.events.window_interrupt = false;
    }
}
