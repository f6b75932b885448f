// SPDX-License-Identifier: GPL-2.0

//! The one vendor of this machine: probed when the module is loaded, and again for other parameters
//! while there is no VM.

use host::errno::not_supported;
use host::hwvirt::X86Virt;
use host::kept::Kept;
use kernel::prelude::*;
use virt::svm::Svm;
use virt::vendor::Features;
use virt::vendor::Vendor;
use virt::vmx::Vmx;

/// A vendor with the place where its probed capabilities are kept.
pub(crate) trait Backend: Vendor {
    /// Where they are, for each set of parameters there was. Empty until a probe succeeded.
    fn probed() -> &'static Kept<Self::Module>;

    /// The extension to switch on.
    const EXTENSION: X86Virt;

    /// The probed capabilities. EOPNOTSUPP before the probe succeeded, which no file can see.
    fn module() -> Result<&'static Self::Module> {
        Self::probed().get().ok_or_else(not_supported)
    }

    /// What the hardware offers; nothing at all before the probe.
    fn host_features() -> Features {
        match Self::probed().get() {
            Some(m) => *Self::features(m),
            None => Features::default(),
        }
    }
}

impl Backend for Svm {
    const EXTENSION: X86Virt = X86Virt::Svm;

    fn probed() -> &'static Kept<Self::Module> {
        static PROBED: Kept<<Svm as Vendor>::Module> = Kept::new();
        &PROBED
    }
}

impl Backend for Vmx {
    const EXTENSION: X86Virt = X86Virt::Vmx;

    fn probed() -> &'static Kept<Self::Module> {
        static PROBED: Kept<<Vmx as Vendor>::Module> = Kept::new();
        &PROBED
    }
}
