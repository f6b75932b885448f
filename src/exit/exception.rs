// SPDX-License-Identifier: GPL-2.0

//! Exceptions that exit: for user space's debugging, for the host, or to be emulated.

use super::debug;
use super::emulate;
use super::raise;
use crate::backend::Backend;
use crate::vcpu::run::Flow;
use crate::vcpu::Cx;
use core::ops::ControlFlow::Continue;
use model::abi;
use model::x86::exception;
use model::x86::exception::Exception;

impl<V: Backend> Cx<'_, '_, V> {
    /// Recomputes which exceptions exit.
    pub(crate) fn update_exception_exits(&mut self) {
        // #UD: an instruction that the CPU lacks and the emulator has, or another vendor's
        // hypercall. #MC is the host's. #AC and #DB: a guest could stop the CPU for good by
        // delivering them from their own handler (CVE-2015-5307, CVE-2015-8104).
        let mut bits =
            1 << exception::UD | 1 << exception::MC | 1 << exception::AC | 1 << exception::DB;
        if self.st.debug.control & abi::KVM_GUESTDBG_USE_SW_BP != 0 {
            bits |= 1 << exception::BP;
        }
        V::set_exception_exits(self.l, bits);
    }
}

/// An intercepted exception.
pub(crate) fn handle<V: Backend>(cx: &mut Cx<'_, '_, V>, e: &Exception) -> Flow {
    match e.vector {
        exception::DB => debug::db(cx, e),
        exception::BP => debug::bp(cx),
        exception::UD => emulate::undefined(cx),
        // The kernel handled it when the CPU raised it; here it is only reported once more.
        exception::MC => Continue(()),
        _ => raise(cx, *e),
    }
}
