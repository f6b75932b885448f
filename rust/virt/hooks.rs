// SPDX-License-Identifier: GPL-2.0

//! [`Hooks`]: the vendor's part when the kernel switches the extension on and off on a CPU.

use crate::vendor::private::OnCpus;
use crate::vendor::Vendor;
use host::errno::not_supported;
use host::hwvirt::CpuHooks;
use host::kept::Kept;
use host::pin::PinnedCpu;
use kernel::prelude::*;

/// What [`host::hwvirt::HwVirt`] is to call for a vendor.
///
/// It is here, and what it does cannot be named elsewhere, because entries rely on it: whatever comes
/// to a CPU looks whether the extension is on there, and goes on looking only when it comes again. A
/// thread that has a vCPU loaded meanwhile is switched out for the kernel's own thread that runs
/// `offline`, and comes again; where an interrupt does it, the kernel goes down and faults are passed
/// over.
pub struct Hooks<V: Vendor>(&'static Kept<V::Module>);

impl<V: Vendor> Hooks<V> {
    /// For the module part that `probed` has in use at the time.
    pub fn new(probed: &'static Kept<V::Module>) -> Self {
        Self(probed)
    }
}

// SAFETY: `cpu_offline` takes every VMCS off the CPU, or the save page, without which `arrive` of
// the vendor refuses. No module part goes before the module does.
unsafe impl<V: Vendor> CpuHooks for Hooks<V> {
    fn online(&self, cpu: &PinnedCpu<'_>) -> Result {
        self.0.get().ok_or_else(not_supported)?.cpu_online(cpu)
    }

    fn offline(&self, cpu: &PinnedCpu<'_>) {
        if let Some(m) = self.0.get() {
            m.cpu_offline(cpu);
        }
    }

    fn emergency(&self, _: &PinnedCpu<'_>) {
        if let Some(m) = self.0.get() {
            m.cpu_emergency();
        }
    }
}
