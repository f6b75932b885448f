// SPDX-License-Identifier: GPL-2.0

//! The parameters of `kvm-amd.ko`: what was asked for when the backend was probed, and what is shown
//! to be in effect. Names and defaults are in `include/vendor_params.h`.

use super::caps::Module;
use crate::c;

/// What was asked for.
pub(super) struct Params(c::kvmrs_svm_params);

impl core::ops::Deref for Params {
    type Target = c::kvmrs_svm_params;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl Params {
    /// As they are set now.
    pub(super) fn now() -> Self {
        // SAFETY: The probes run when the module is loaded, or under the lock of the hand-over, and
        // nobody else writes.
        Self(unsafe { (&raw const c::kvmrs_svm_params).read() })
    }

    /// Do those agree that the probe looks at?
    pub(super) fn same(&self, other: &Self) -> bool {
        macro_rules! same {
            ($($name:ident)*) => { true $(&& self.$name == other.$name)* };
        }
        same!(npt nrips vgif vnmi tsc_scaling pause_filter_thresh pause_filter_count
            pause_filter_count_grow pause_filter_count_shrink pause_filter_count_max nested)
    }
}

/// Shows what is in effect with `m`.
pub(super) fn show(m: &Module) {
    let Params(mut p) = Params::now();
    p.npt = true;
    p.nrips = m.nrips.into();
    p.vgif = m.vgif.into();
    p.vnmi = m.vnmi;
    p.tsc_scaling = m.features.tsc_scaling.into();
    match &m.pause_filter {
        Some(f) => {
            p.pause_filter_count = f.count;
            p.pause_filter_thresh = f.thresh;
        }
        None => {
            p.pause_filter_count = 0;
            p.pause_filter_thresh = 0;
        }
    }
    // Always so.
    p.intercept_smi = true;
    // What this module lacks.
    p.nested = 0;
    p.vls = 0;
    p.lbrv = 0;
    p.avic = false;
    p.force_avic = false;
    p.enable_ipiv = false;
    p.enable_device_posted_irqs = false;
    p.gmet = false;
    p.enable_mediated_pmu = false;
    p.sev = false;
    p.sev_es = false;
    p.sev_snp = false;
    p.ciphertext_hiding_asids = 0;
    // SAFETY: As in `Params::now`.
    unsafe { (&raw mut c::kvmrs_svm_params).write(p) };
}
