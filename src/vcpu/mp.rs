// SPDX-License-Identifier: GPL-2.0

//! Whether a vCPU runs, is halted, or waits for INIT and SIPI.
//!
//! ```text
//!                   INIT (AP)                    SIPI
//!  Runnable/Halted -----------> InitReceived ----------> Runnable
//!                                    ^
//!  Uninitialized --------------------+  (an AP at power-on, with the APIC in the kernel)
//! ```

use super::event;
use super::smm;
use super::state::State;
use super::Cx;
use crate::backend::Backend;
use kernel::prelude::*;
use model::abi;
use model::x86::apic::base;
use model::x86::state::gpr;
use model::x86::state::SegReg;
use model::x86::state::Segment;

/// MP state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MpState {
    /// Executes instructions.
    Runnable,
    /// An AP before its first INIT.
    Uninitialized,
    /// Waits for a SIPI.
    InitReceived,
    /// Halted until an event comes.
    Halted,
}

impl MpState {
    /// May the guest be entered?
    #[inline]
    pub(crate) fn runs(self) -> bool {
        self == Self::Runnable
    }
}

/// The state at power-on: the BSP runs, the others wait for INIT, or for user space if that has
/// the interrupt controller.
pub(crate) fn power_on<V: Backend>(cx: &mut Cx<'_, '_, V>) {
    reset(cx, false);
    cx.st.mp = if cx.st.is_bsp || !cx.vm.base.irqchip_in_kernel() {
        MpState::Runnable
    } else {
        MpState::Uninitialized
    };
}

/// RESET, or INIT, which keeps what `SDM: vol 3, table 9-1` says.
pub(crate) fn reset<V: Backend>(cx: &mut Cx<'_, '_, V>, init: bool) {
    V::reset(cx.l, init);
    cx.st.events = event::Events::default();
    cx.st.smm = smm::Smm::default();
    cx.st.reset(init);
    cx.vcpu.shared.report_steal(0);
    // RDX holds the processor's signature.
    let signature = cx.st.cpuid.signature();
    if let Some(r) = V::regs_mut(cx.l).gpr.get_mut(gpr::RDX) {
        *r = signature;
    }
    cx.reset_apic(init);
    cx.sregs_changed();
    cx.update_dr7();
    cx.update_exception_exits();
    cx.update_traps();
    super::run::update_write_log(cx);
    cx.update_virtual_apic();
    crate::pv::tsc::apply(cx);
}

/// Acts on INIT and SIPI that were posted.
pub(crate) fn accept<V: Backend>(cx: &mut Cx<'_, '_, V>) {
    cx.pull();
    if cx.st.smm.active() {
        // INIT stays pending until RSM, start-up messages are lost (`SDM: vol 3, 32.3.1`).
        cx.st.sipi_latched = None;
        return;
    }
    if cx.st.init_latched {
        cx.st.init_latched = false;
        reset(cx, true);
        // Who was made the boot processor counts at power-on only.
        if cx.st.apic_base() & base::BSP != 0 {
            cx.st.set_runnable();
        } else {
            cx.st.mp = MpState::InitReceived;
        }
    }
    if let Some(vector) = cx.st.sipi_latched.take() {
        if cx.st.mp == MpState::InitReceived {
            start_at(cx, vector);
            cx.st.set_runnable();
        }
    }
}

/// Can a vCPU be in this state? User space can let one wait for SIPI in system management mode, where
/// start-up messages are lost.
#[inline]
pub(crate) fn possible(st: &State) -> bool {
    st.mp != MpState::InitReceived || !st.smm.active()
}

/// Starts an AP: real mode at page `vector` (`SDM: vol 3, 8.4.4.1`).
fn start_at<V: Backend>(cx: &mut Cx<'_, '_, V>, vector: u8) {
    let selector = u16::from(vector) << 8;
    V::set_seg(cx.l, SegReg::Cs, &Segment::real_mode(selector, true));
    V::set_rip(cx.l, 0);
}

/// KVM_GET_MP_STATE.
pub(crate) fn get<V: Backend>(cx: &mut Cx<'_, '_, V>) -> Result<abi::KvmMpState> {
    accept(cx);
    let mp_state = match cx.st.mp {
        MpState::Runnable => abi::KVM_MP_STATE_RUNNABLE,
        MpState::Uninitialized => abi::KVM_MP_STATE_UNINITIALIZED,
        MpState::InitReceived => abi::KVM_MP_STATE_INIT_RECEIVED,
        // KVM: a vCPU that a paravirtual kick is about to wake counts as running.
        MpState::Halted if cx.st.unhalted => abi::KVM_MP_STATE_RUNNABLE,
        MpState::Halted => abi::KVM_MP_STATE_HALTED,
    };
    Ok(abi::KvmMpState { mp_state })
}

/// KVM_SET_MP_STATE. EINVAL for a state that does not exist, or that needs a local APIC in the
/// kernel when there is none.
pub(crate) fn set<V: Backend>(cx: &mut Cx<'_, '_, V>, m: &abi::KvmMpState) -> Result {
    if m.mp_state != abi::KVM_MP_STATE_RUNNABLE && !cx.vm.base.irqchip_in_kernel() {
        return Err(EINVAL);
    }
    // A kick that is in the mailbox came before this.
    cx.pull();
    match m.mp_state {
        abi::KVM_MP_STATE_RUNNABLE => {
            cx.st.set_runnable();
            // KVM: with VMX the in-tree module leaves one halted that did so without an exit.
            V::end_halt(cx.l);
        }
        abi::KVM_MP_STATE_UNINITIALIZED => cx.st.mp = MpState::Uninitialized,
        abi::KVM_MP_STATE_INIT_RECEIVED => cx.st.mp = MpState::InitReceived,
        // KVM: a kick that has not been used up ends this halt too.
        abi::KVM_MP_STATE_HALTED => cx.st.mp = MpState::Halted,
        abi::KVM_MP_STATE_SIPI_RECEIVED => {
            // The state is transient; it is kept as what leads to it.
            cx.st.mp = MpState::InitReceived;
            cx.st.sipi_latched = Some(cx.st.sipi_vector);
        }
        _ => return Err(EINVAL),
    }
    Ok(())
}

/// KVM_SET_VCPU_EVENTS brings the vector of a SIPI that KVM_SET_MP_STATE will deliver.
pub(crate) fn set_sipi_vector(st: &mut State, vector: u32) {
    // CAST: a start-up vector has eight bits.
    st.sipi_vector = vector as u8;
    if st.sipi_latched.is_some() {
        st.sipi_latched = Some(st.sipi_vector);
    }
}
