// SPDX-License-Identifier: GPL-2.0

//! The parameters of `kvm-intel.ko`: what was asked for when the backend was probed, and what is
//! shown to be in effect. Names and defaults are in `include/vendor_params.h`.

use super::caps::Module;
use crate::c;
use model::vmx::ctrl::pin;
use model::vmx::ctrl::proc;
use model::vmx::ctrl::proc2;

/// What was asked for.
pub(super) struct Params(c::kvmrs_vmx_params);

impl core::ops::Deref for Params {
    type Target = c::kvmrs_vmx_params;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl Params {
    /// As they are set now.
    pub(super) fn now() -> Self {
        // SAFETY: The probes run when the module is loaded, or under the lock of the hand-over, and
        // nobody else writes.
        Self(unsafe { (&raw const c::kvmrs_vmx_params).read() })
    }

    /// Do those agree that the probe looks at?
    pub(super) fn same(&self, other: &Self) -> bool {
        macro_rules! same {
            ($($name:ident)*) => { true $(&& self.$name == other.$name)* };
        }
        same!(ept unrestricted_guest eptad vpid vnmi flexpriority preemption_timer pml enable_apicv
            ple_gap ple_window ple_window_grow ple_window_shrink ple_window_max nested
            vmentry_l1d_flush emulate_invalid_guest_state)
    }
}

/// Shows what is in effect with `m`.
pub(super) fn show(m: &Module) {
    let Params(mut p) = Params::now();
    // vmentry_l1d_state is the C side's.
    p.ept = true;
    p.unrestricted_guest = m.features.unrestricted_guest;
    p.eptad = m.cfg.ad;
    p.vpid = m.cfg.proc2(proc2::VPID);
    p.vnmi = m.cfg.pin(pin::VIRTUAL_NMIS);
    p.flexpriority = m.cfg.proc(proc::TPR_SHADOW);
    p.preemption_timer = m.cfg.pin(pin::PREEMPTION_TIMER);
    p.pml = m.cfg.proc2(proc2::PML);
    p.enable_apicv = m.cfg.apicv;
    if !m.cfg.proc2(proc2::PAUSE_LOOP_EXITING) {
        p.ple_gap = 0;
        p.ple_window = 0;
        p.ple_window_grow = 0;
        p.ple_window_shrink = 0;
        p.ple_window_max = 0;
    }
    // Always so.
    p.error_on_inconsistent_vmcs_config = true;
    // What this module lacks.
    p.nested = false;
    p.enable_shadow_vmcs = false;
    p.warn_on_missed_cc = false;
    p.enable_ipiv = false;
    p.enable_device_posted_irqs = false;
    p.fasteoi = false;
    p.cet = false;
    p.mbec = false;
    p.allow_smaller_maxphyaddr = false;
    p.enable_mediated_pmu = false;
    p.sgx = false;
    p.enlightened_vmcs = false;
    // SAFETY: As in `Params::now`.
    unsafe { (&raw mut c::kvmrs_vmx_params).write(p) };
}
