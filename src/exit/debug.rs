// SPDX-License-Identifier: GPL-2.0

//! Debug registers, `#DB`, `#BP`, and user space's debugging of the guest.

use super::emulate;
use super::raise;
use crate::backend::Backend;
use crate::vcpu::event;
use crate::vcpu::fetch;
use crate::vcpu::run::Flow;
use crate::vcpu::state::Int3;
use crate::vcpu::user_exit::UserExit;
use crate::vcpu::Cx;
use kernel::prelude::*;
use model::abi;
use model::abi::KvmGuestDebug;
use model::exit::DrAccess;
use model::x86::cpuid::Feature;
use model::x86::ctrl::cr4;
use model::x86::ctrl::dr6;
use model::x86::ctrl::dr7;
use model::x86::ctrl::rflags;
use model::x86::exception;
use model::x86::exception::Exception;
use model::x86::state::SHADOW_MOV_SS;
use virt::vendor::Trap;

/// Every control bit that KVM_SET_GUEST_DEBUG knows: the answer of KVM_CAP_SET_GUEST_DEBUG2.
pub(crate) const CONTROL: u32 = abi::KVM_GUESTDBG_ENABLE
    | abi::KVM_GUESTDBG_SINGLESTEP
    | abi::KVM_GUESTDBG_USE_SW_BP
    | abi::KVM_GUESTDBG_USE_HW_BP
    | abi::KVM_GUESTDBG_INJECT_DB
    | abi::KVM_GUESTDBG_INJECT_BP
    | abi::KVM_GUESTDBG_BLOCKIRQ;

impl<V: Backend> Cx<'_, '_, V> {
    /// Gives the hardware the DR7 in force: user space's while it has hardware breakpoints, else
    /// the guest's. The address registers follow when they are needed.
    pub(crate) fn update_dr7(&mut self) {
        let d = &self.st.debug;
        let user = d.control & abi::KVM_GUESTDBG_USE_HW_BP != 0;
        let (regs, v) = if user {
            (d.user_dr, d.user_dr7)
        } else {
            (d.dr, d.dr7)
        };
        V::set_dr7(self.l, v);
        self.l.set_breakpoints(regs);
        V::set_trap(self.l, Trap::DebugRegisters, true);
    }

    /// RFLAGS as the guest and user space see it: without the TF that single-stepping put there.
    pub(crate) fn rflags_seen(&self) -> u64 {
        let f = V::rflags(self.l);
        if self.st.debug.stepping {
            f & !rflags::TF
        } else {
            f
        }
    }

    /// Sets RFLAGS as seen by the guest, keeping our TF.
    pub(crate) fn set_rflags_seen(&mut self, v: u64) {
        let tf = if self.st.debug.stepping {
            rflags::TF
        } else {
            0
        };
        V::set_rflags(self.l, v | tf);
    }
}

/// KVM_SET_GUEST_DEBUG. EBUSY when an exception is to be injected and one is on its way.
pub(crate) fn set<V: Backend>(cx: &mut Cx<'_, '_, V>, d: &KvmGuestDebug) -> Result {
    // KVM: unknown control bits are ignored.
    let inject = d.control & (abi::KVM_GUESTDBG_INJECT_DB | abi::KVM_GUESTDBG_INJECT_BP);
    if inject != 0 {
        if cx.st.events.has_exception() {
            return Err(EBUSY);
        }
        let vector = if inject & abi::KVM_GUESTDBG_INJECT_DB != 0 {
            exception::DB
        } else {
            exception::BP
        };
        event::raise(cx, Exception::new(vector));
    }
    let seen = cx.rflags_seen();
    let on = d.control & abi::KVM_GUESTDBG_ENABLE != 0;
    let blocked = cx.st.debug.blocks_interrupts();
    cx.st.debug.control = if on { d.control } else { 0 };
    if cx.st.debug.blocks_interrupts() != blocked {
        cx.update_virtual_apic();
    }
    let [a, b, c, e, .., v7] = d.arch.debugreg;
    cx.st.debug.user_dr = [a, b, c, e];
    cx.st.debug.user_dr7 = v7 & dr7::VOLATILE | dr7::FIXED_1;
    cx.st.debug.stepping = cx.st.debug.control & abi::KVM_GUESTDBG_SINGLESTEP != 0;
    cx.set_rflags_seen(seen);
    cx.update_dr7();
    cx.update_exception_exits();
    Ok(())
}

fn to_user<V: Backend>(cx: &Cx<'_, '_, V>, vector: u8, d6: u64) -> Flow {
    UserExit::Debug {
        exception: u32::from(vector),
        pc: cx.linear_rip(),
        dr6: d6,
        dr7: V::dr7(cx.l),
    }
    .leave(cx)
}

/// An instruction that we carried out is complete: the trap of a single step, user space's or the
/// guest's own (RFLAGS.TF).
pub(crate) fn stepped<V: Backend>(cx: &mut Cx<'_, '_, V>) -> Flow {
    if cx.st.debug.stepping {
        return to_user(cx, exception::DB, dr6::INIT | dr6::BS);
    }
    raise(
        cx,
        Exception {
            vector: exception::DB,
            error_code: None,
            payload: dr6::BS,
        },
    )
}

/// A breakpoint on the instruction at RIP, which is going to be emulated and which hardware has not
/// looked at: user space's while it has hardware breakpoints, else the guest's, unless RFLAGS.RF or
/// a load of SS just before lets it through. None if there is none.
#[inline(never)]
pub(crate) fn code_breakpoint<V: Backend>(cx: &mut Cx<'_, '_, V>) -> Option<Flow> {
    let d = &cx.st.debug;
    let at = cx.linear_rip();
    if d.control & abi::KVM_GUESTDBG_USE_HW_BP != 0 {
        // The guest's are not in force.
        let met = dr7::met_by_code(d.user_dr7, &d.user_dr, at);
        return (met != 0).then(|| to_user(cx, exception::DB, dr6::INIT | met));
    }
    let met = dr7::met_by_code(d.dr7, &d.dr, at);
    if met == 0 || V::rflags(cx.l) & rflags::RF != 0 {
        return None;
    }
    // SDM: vol 3, 6.8.3. AMD's processors break between a load of SS and the next instruction.
    if !cx.st.cpuid.features.amd && V::shadow(cx.l) & SHADOW_MOV_SS != 0 {
        return None;
    }
    let e = Exception {
        vector: exception::DB,
        error_code: None,
        payload: met,
    };
    Some(raise(cx, e))
}

/// Are the guest's `#DB` user space's?
fn is_users<V: Backend>(cx: &Cx<'_, '_, V>) -> bool {
    let user = abi::KVM_GUESTDBG_SINGLESTEP | abi::KVM_GUESTDBG_USE_HW_BP;
    cx.st.debug.control & user != 0
}

/// INT1 in the guest: a trap, which comes before that of a single step.
///
/// KVM: user space sees RIP at the instruction.
pub(crate) fn int1<V: Backend>(cx: &mut Cx<'_, '_, V>, e: &Exception) -> Flow {
    if !is_users(cx) {
        step_over(cx);
    }
    db(cx, e)
}

/// INT1 where the instruction exits, not its trap.
///
/// KVM: that is the guest's, whoever debugs it.
pub(crate) fn int1_ahead<V: Backend>(cx: &mut Cx<'_, '_, V>) -> Flow {
    step_over(cx);
    // DR6 does not tell of it.
    let db = Exception {
        vector: exception::DB,
        error_code: None,
        payload: 0,
    };
    raise(cx, db)
}

fn step_over<V: Backend>(cx: &mut Cx<'_, '_, V>) {
    if let Some(next) = cx.next_rip() {
        V::set_rip(cx.l, next);
        V::set_shadow(cx.l, 0);
    }
}

/// `#DB` in the guest.
pub(crate) fn db<V: Backend>(cx: &mut Cx<'_, '_, V>, e: &Exception) -> Flow {
    if is_users(cx) {
        // The payload has the active-low bits inverted.
        return to_user(cx, exception::DB, e.payload ^ dr6::INIT);
    }
    raise(cx, *e)
}

/// INT3 under user space's software breakpoints.
pub(crate) fn bp<V: Backend>(cx: &mut Cx<'_, '_, V>) -> Flow {
    // User space may give it back to the guest, when other bytes are there.
    cx.st.debug.int3 = Int3 {
        rip: V::rip(cx.l),
        len: cx.instruction().map_or(0, |i| i.len),
    };
    to_user(cx, exception::BP, 0)
}

/// MOV to or from a debug register that exited.
pub(crate) fn dr_access<V: Backend>(cx: &mut Cx<'_, '_, V>, a: &DrAccess) -> Flow {
    if let Err(e) = alias(cx, a.dr) {
        return raise(cx, e);
    }
    if V::cpl(cx.l) != 0 {
        return raise(cx, Exception::gp0());
    }
    let user = cx.st.debug.control & abi::KVM_GUESTDBG_USE_HW_BP != 0;
    if user && cx.st.debug.user_dr7 & dr7::GD != 0 {
        return to_user(cx, exception::DB, dr6::INIT | dr6::BD);
    }
    let Some(gpr) = a.gpr else {
        // Without decode assists the register operand is not known.
        return emulate::instruction(cx);
    };
    if cx.st.debug.dr7 & dr7::GD != 0 {
        return raise(
            cx,
            Exception {
                vector: exception::DB,
                error_code: None,
                payload: dr6::BD,
            },
        );
    }
    let r = if a.write {
        let v = cx.operand(gpr);
        set_dr(cx, a.dr, v)
    } else {
        get_dr(cx, a.dr).map(|v| cx.set_gpr(gpr, v))
    };
    match r {
        Ok(()) => fetch::skip(cx),
        Err(e) => raise(cx, e),
    }
}

/// DR4 and DR5 are DR6 and DR7, unless CR4.DE makes them undefined.
fn alias<V: Backend>(cx: &Cx<'_, '_, V>, n: u8) -> Result<u8, Exception> {
    match n {
        4 | 5 if V::cr4(cx.l) & cr4::DE != 0 => Err(Exception::ud()),
        4 => Ok(6),
        5 => Ok(7),
        _ => Ok(n),
    }
}

/// Reads a debug register as the guest sees it.
pub(crate) fn get_dr<V: Backend>(cx: &Cx<'_, '_, V>, n: u8) -> Result<u64, Exception> {
    let n = alias(cx, n)?;
    Ok(match n {
        6 => V::dr6(cx.l),
        7 => cx.st.debug.dr7,
        _ => cx.st.debug.dr.get(usize::from(n)).copied().unwrap_or(0),
    })
}

/// Sets a debug register. `#GP` for upper bits (`SDM: vol 3, 17.2.6`).
pub(crate) fn set_dr<V: Backend>(cx: &mut Cx<'_, '_, V>, n: u8, v: u64) -> Result<(), Exception> {
    let n = alias(cx, n)?;
    match n {
        6 | 7 if v >> 32 != 0 => return Err(Exception::gp0()),
        6 => {
            let rtm = cx.st.cpuid.features.has(Feature::RTM);
            V::set_dr6(cx.l, dr6::written(v, rtm));
        }
        7 => {
            cx.st.debug.dr7 = v & dr7::VOLATILE | dr7::FIXED_1;
            cx.update_dr7();
        }
        _ => {
            if let Some(d) = cx.st.debug.dr.get_mut(usize::from(n)) {
                *d = v;
            }
            cx.update_dr7();
        }
    }
    Ok(())
}
