// SPDX-License-Identifier: GPL-2.0

//! End of interrupt by memory (PV EOI): a byte of the guest's that says whether the interrupt in
//! service may be ended by clearing it, without an exit.
//!
//! The byte is set before an entry and taken back after the exit, so that it is never set while
//! user space may look, and the local APIC's state is true whenever anything but the guest sees it.

use crate::backend::Backend;
use crate::irq::chips;
use crate::vcpu::Cx;
use model::abi::KVM_MSR_ENABLED;
use model::abi::KVM_PV_EOI_DISABLED;
use model::abi::KVM_PV_EOI_ENABLED;
use model::addr::Gpa;
use model::irqchip::lapic::Effects;
use model::policy::msr::MsrError;

fn byte<V: Backend>(cx: &Cx<'_, '_, V>) -> Gpa {
    Gpa(cx.st.msrs.state.pv_eoi & !KVM_MSR_ENABLED)
}

/// The MSR is written. Invalid for an address without memory.
pub(crate) fn set_up<V: Backend>(cx: &mut Cx<'_, '_, V>, v: u64) -> Result<(), MsrError> {
    if v & KVM_MSR_ENABLED != 0 && !cx.is_ram(Gpa(v & !KVM_MSR_ENABLED), true) {
        return Err(MsrError::Invalid);
    }
    cx.st.msrs.state.pv_eoi = v;
    Ok(())
}

/// Before an entry: offers it for the interrupt in service, unless its end lets another one
/// through or the IOAPIC has to hear of it.
#[inline(never)]
pub(crate) fn offer<V: Backend>(cx: &mut Cx<'_, '_, V>) {
    let Some(apic) = &mut cx.st.apic else {
        return;
    };
    let Some(vector) = apic.pv_eoi_candidate() else {
        return;
    };
    if chips::wants_eoi(&cx.vm.base, vector) {
        return;
    }
    let at = byte(cx);
    let told = cx.vm.base.write_guest_val(at, &KVM_PV_EOI_ENABLED);
    cx.st.pv.eoi_offered = told.is_ok();
}

/// After an exit: has the guest ended the interrupt?
#[inline(never)]
pub(crate) fn collect<V: Backend>(cx: &mut Cx<'_, '_, V>) {
    cx.st.pv.eoi_offered = false;
    let at = byte(cx);
    match cx.vm.base.read_guest_val::<u8>(at) {
        Ok(KVM_PV_EOI_DISABLED) => {
            let eoi = cx.st.apic.as_mut().and_then(|a| a.eoi());
            cx.apply(&Effects {
                eoi,
                ..Effects::NONE
            });
        }
        Ok(_) => {
            let _ = cx.vm.base.write_guest_val(at, &KVM_PV_EOI_DISABLED);
        }
        // The memory went away: the guest has to do it the other way.
        Err(_) => {}
    }
}
