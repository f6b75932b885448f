// SPDX-License-Identifier: GPL-2.0

//! RDMSR and WRMSR.

use super::raise;
use crate::backend::Backend;
use crate::vcpu::fetch;
use crate::vcpu::msr;
use crate::vcpu::pending::Pending;
use crate::vcpu::run::Flow;
use crate::vcpu::user_exit::UserExit;
use crate::vcpu::Cx;
use model::abi;
use model::policy::msr::MsrError;
use model::x86::exception::Exception;
use model::x86::state::gpr;

/// RDMSR: the index is in ECX, the value goes to EDX:EAX.
#[inline(never)]
pub(crate) fn rdmsr<V: Backend>(cx: &mut Cx<'_, '_, V>) -> Flow {
    // CAST: ECX.
    let index = V::regs(cx.l).gpr[gpr::RCX] as u32;
    match msr::guest_get(cx, index) {
        Ok(v) => {
            host::trace::msr(false, index, Some(v));
            set_result(cx, v);
            fetch::skip(cx)
        }
        Err(e) => refused(cx, e, index, None),
    }
}

/// WRMSR.
#[inline(never)]
pub(crate) fn wrmsr<V: Backend>(cx: &mut Cx<'_, '_, V>) -> Flow {
    let r = &V::regs(cx.l).gpr;
    // CAST: ECX.
    let index = r[gpr::RCX] as u32;
    let v = r[gpr::RDX] << 32 | r[gpr::RAX] & 0xffff_ffff;
    match msr::guest_set(cx, index, v) {
        Ok(()) => {
            host::trace::msr(true, index, Some(v));
            fetch::skip(cx)
        }
        Err(e) => refused(cx, e, index, Some(v)),
    }
}

/// Puts a value into EDX:EAX.
pub(crate) fn set_result<V: Backend>(cx: &mut Cx<'_, '_, V>, v: u64) {
    let r = &mut V::regs_mut(cx.l).gpr;
    r[gpr::RAX] = v & 0xffff_ffff;
    r[gpr::RDX] = v >> 32;
}

/// KVM_MSR_EXIT_REASON_* if user space decides about such an access (KVM_CAP_X86_USER_SPACE_MSR).
pub(super) fn user_reason<V: Backend>(cx: &Cx<'_, '_, V>, e: MsrError) -> Option<u32> {
    let reason = match e {
        MsrError::Invalid => abi::KVM_MSR_EXIT_REASON_INVAL,
        MsrError::Unsupported => abi::KVM_MSR_EXIT_REASON_UNKNOWN,
        MsrError::Filtered => abi::KVM_MSR_EXIT_REASON_FILTER,
    };
    (cx.vm.base.caps.user_msr() & reason != 0).then_some(reason)
}

/// `#GP`, or user space's decision.
#[inline(never)]
fn refused<V: Backend>(
    cx: &mut Cx<'_, '_, V>,
    e: MsrError,
    index: u32,
    write: Option<u64>,
) -> Flow {
    let Some(reason) = user_reason(cx, e) else {
        host::trace::msr(write.is_some(), index, None);
        return raise(cx, Exception::gp0());
    };
    cx.st.pending = match write {
        Some(_) => Pending::Wrmsr,
        None => Pending::Rdmsr,
    };
    UserExit::Msr {
        write: write.is_some(),
        reason,
        index,
        data: write.unwrap_or(0),
    }
    .leave(cx)
}
