// SPDX-License-Identifier: GPL-2.0

//! General-purpose and debug registers and events as ioctls exchange them.

use super::event;
use super::mp;
use super::shared::Request;
use super::Cx;
use crate::backend::Backend;
use kernel::prelude::*;
use model::abi;
use model::abi::KvmDebugregs;
use model::abi::KvmEventException;
use model::abi::KvmEventInterrupt;
use model::abi::KvmEventNmi;
use model::abi::KvmEventSmi;
use model::abi::KvmEventTripleFault;
use model::abi::KvmRegs;
use model::abi::KvmVcpuEvents;
use model::exit::Event;
use model::exit::EventKind;
use model::x86::ctrl::dr6;
use model::x86::ctrl::dr7;
use model::x86::ctrl::rflags;
use model::x86::exception;
use model::x86::exception::Exception;
use model::x86::state;

/// KVM_GET_REGS.
pub(crate) fn get_regs<V: Backend>(cx: &Cx<'_, '_, V>) -> KvmRegs {
    let [rax, rcx, rdx, rbx, _, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15] =
        V::regs(cx.l).gpr;
    KvmRegs {
        rax,
        rbx,
        rcx,
        rdx,
        rsi,
        rdi,
        rsp: V::rsp(cx.l),
        rbp,
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
        rip: V::rip(cx.l),
        rflags: cx.rflags_seen(),
    }
}

/// KVM_SET_REGS. A pending exception belonged to the old registers and is dropped.
pub(crate) fn set_regs<V: Backend>(cx: &mut Cx<'_, '_, V>, r: &KvmRegs) {
    V::regs_mut(cx.l).gpr = [
        r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi, r.r8, r.r9, r.r10, r.r11, r.r12,
        r.r13, r.r14, r.r15,
    ];
    V::set_rsp(cx.l, r.rsp);
    if V::rip(cx.l) != r.rip {
        // KVM: the in-tree module leaves it halted with VMX, and so a reset by registers hangs.
        V::end_halt(cx.l);
    }
    V::set_rip(cx.l, r.rip);
    cx.set_rflags_seen(r.rflags | rflags::FIXED);
    cx.st.events.drop_exception();
}

/// KVM_GET_DEBUGREGS.
pub(crate) fn get_debugregs<V: Backend>(cx: &Cx<'_, '_, V>) -> KvmDebugregs {
    let mut d = KvmDebugregs::zeroed();
    d.db = cx.st.debug.dr;
    d.dr6 = V::dr6(cx.l);
    d.dr7 = cx.st.debug.dr7;
    d
}

/// KVM_SET_DEBUGREGS. EINVAL for flags or for values that cannot be.
pub(crate) fn set_debugregs<V: Backend>(cx: &mut Cx<'_, '_, V>, d: &KvmDebugregs) -> Result {
    if d.flags != 0 || d.dr6 >> 32 != 0 || d.dr7 >> 32 != 0 {
        return Err(EINVAL);
    }
    cx.st.debug.dr = d.db;
    V::set_dr6(cx.l, d.dr6 & dr6::VOLATILE | dr6::FIXED_1);
    cx.st.debug.dr7 = d.dr7 & dr7::VOLATILE | dr7::FIXED_1;
    cx.update_dr7();
    Ok(())
}

/// KVM_GET_VCPU_EVENTS.
pub(crate) fn get_events<V: Backend>(cx: &mut Cx<'_, '_, V>) -> KvmVcpuEvents {
    cx.pull();
    let mut e = KvmVcpuEvents::zeroed();
    let payload = cx.vm.base.caps.exception_payload();
    if cx.st.events.exception.is_some() && !payload {
        // KVM: without the capability user space never sees a payload, so it goes into CR2 or DR6
        // now and the exception counts as injected too.
        event::deliver_payload(cx);
    }
    let ev = &cx.st.events;
    // KVM: what an instruction raised is not shown, as there is no place for the instruction's
    // length. RIP is at the instruction, which will raise it again.
    let shown = ev.injected.filter(|i| !i.is_soft());
    let pending = ev.exception.filter(|p| !exception::is_soft(p.vector));
    if let Some(p) = pending {
        e.exception = KvmEventException {
            injected: u8::from(!payload),
            nr: p.vector,
            has_error_code: u8::from(p.error_code.is_some()),
            pending: 1,
            error_code: p.error_code.unwrap_or(0),
        };
        e.exception_has_payload = u8::from(!ev.payload_done);
        e.exception_payload = if ev.payload_done { 0 } else { p.payload };
    } else if let Some(i) = shown.filter(Event::is_exception) {
        e.exception = KvmEventException {
            injected: 1,
            nr: i.vector,
            has_error_code: u8::from(i.error_code.is_some()),
            pending: 0,
            error_code: i.error_code.unwrap_or(0),
        };
    }
    let interrupt = cx.interrupt_shown();
    e.interrupt = KvmEventInterrupt {
        injected: u8::from(interrupt.is_some()),
        nr: interrupt.unwrap_or(0),
        soft: 0,
        shadow: state::shadow_renumbered(V::shadow(cx.l)),
    };
    e.nmi = KvmEventNmi {
        injected: u8::from(ev.injected.is_some_and(|i| i.kind == EventKind::Nmi)),
        pending: ev.nmi_pending,
        masked: u8::from(V::nmi_blocked(cx.l)),
        pad: 0,
    };
    e.smi = KvmEventSmi {
        smm: u8::from(cx.st.smm.active()),
        pending: u8::from(cx.st.smm.pending),
        smm_inside_nmi: u8::from(cx.st.smm.inside_nmi),
        latched_init: u8::from(cx.st.init_latched),
    };
    e.flags = abi::KVM_VCPUEVENT_VALID_NMI_PENDING
        | abi::KVM_VCPUEVENT_VALID_SHADOW
        | abi::KVM_VCPUEVENT_VALID_SMM;
    if payload {
        e.flags |= abi::KVM_VCPUEVENT_VALID_PAYLOAD;
    }
    if cx.vm.base.caps.triple_fault_event() {
        e.flags |= abi::KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
        e.triple_fault = KvmEventTripleFault {
            pending: u8::from(ev.triple_fault),
        };
    }
    e
}

/// KVM_SET_VCPU_EVENTS. EINVAL changes nothing.
pub(crate) fn set_events<V: Backend>(cx: &mut Cx<'_, '_, V>, e: &KvmVcpuEvents) -> Result {
    let mut allowed = abi::KVM_VCPUEVENT_VALID_NMI_PENDING
        | abi::KVM_VCPUEVENT_VALID_SIPI_VECTOR
        | abi::KVM_VCPUEVENT_VALID_SHADOW
        | abi::KVM_VCPUEVENT_VALID_SMM;
    let payload_cap = cx.vm.base.caps.exception_payload();
    if payload_cap {
        allowed |= abi::KVM_VCPUEVENT_VALID_PAYLOAD;
    }
    if cx.vm.base.caps.triple_fault_event() {
        allowed |= abi::KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
    }
    if e.flags & !allowed != 0 {
        return Err(EINVAL);
    }
    let x = &e.exception;
    // KVM: without payloads there is no pending exception, with them one that is pending is not injected.
    let pending = e.flags & abi::KVM_VCPUEVENT_VALID_PAYLOAD != 0 && x.pending != 0;
    let injected = x.injected != 0 && !pending;
    if (pending || injected) && (x.nr > 31 || x.nr == exception::NMI) {
        return Err(EINVAL);
    }

    cx.pull();
    let error_code = (x.has_error_code != 0).then_some(x.error_code);
    let has_payload =
        e.flags & abi::KVM_VCPUEVENT_VALID_PAYLOAD != 0 && e.exception_has_payload != 0;
    let shown = cx.shows_waiting_vector();
    let ev = &mut cx.st.events;
    ev.exception = pending.then_some(Exception {
        vector: x.nr,
        error_code,
        payload: e.exception_payload,
    });
    ev.payload_done = !has_payload;
    ev.injected = None;
    if shown {
        ev.user_interrupt = None;
    }
    // KVM: of several the first of these counts.
    if injected {
        let e = Exception {
            vector: x.nr,
            error_code,
            payload: 0,
        };
        cx.st.events.injected = Some(cx.event_of(&e));
    } else if e.nmi.injected != 0 {
        ev.injected = Some(Event::nmi());
    } else if e.interrupt.injected != 0 && e.interrupt.soft == 0 {
        // The instruction of a soft one raises it again: see `get_events`.
        ev.injected = Some(Event::interrupt(e.interrupt.nr));
    }
    if e.flags & abi::KVM_VCPUEVENT_VALID_SHADOW != 0 {
        V::set_shadow(cx.l, state::shadow_renumbered(e.interrupt.shadow));
    }
    if e.flags & abi::KVM_VCPUEVENT_VALID_NMI_PENDING != 0 {
        cx.st.events.nmi_pending = e.nmi.pending.min(2);
    }
    V::set_nmi_blocked(cx.l, e.nmi.masked != 0);
    if e.flags & abi::KVM_VCPUEVENT_VALID_SIPI_VECTOR != 0 {
        mp::set_sipi_vector(cx.st, e.sipi_vector);
    }
    if e.flags & abi::KVM_VCPUEVENT_VALID_SMM != 0 {
        set_smm(cx, &e.smi);
    }
    if e.flags & abi::KVM_VCPUEVENT_VALID_TRIPLE_FAULT != 0 {
        cx.st.events.triple_fault = e.triple_fault.pending != 0;
    }
    Ok(())
}

fn set_smm<V: Backend>(cx: &mut Cx<'_, '_, V>, e: &KvmEventSmi) {
    let active = e.smm != 0;
    if active != cx.st.smm.active() {
        cx.set_smm(active);
    }
    cx.st.smm.pending = e.pending != 0;
    if active {
        cx.st.smm.inside_nmi = e.smm_inside_nmi != 0;
    }
    if cx.st.apic.is_some() {
        cx.st.init_latched = e.latched_init != 0;
        cx.vcpu.shared.request(Request::Event);
    }
}
