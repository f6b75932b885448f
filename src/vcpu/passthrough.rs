// SPDX-License-Identifier: GPL-2.0

//! What a guest does without an exit: instructions that its CPUID or user space gives to it, and
//! MSRs that the hardware switches.

use super::Cx;
use crate::backend::Backend;
use host::hwvirt::X86Virt;
use model::abi;
use model::policy::guest::GuestFeatures;
use model::x86::cpuid::Feature;
use model::x86::msr;
use virt::vendor::MsrAccess;
use virt::vendor::PassthroughMsr;
use virt::vendor::Trap;

/// The MSRs that may be passed through.
const MSRS: [(PassthroughMsr, u32); 19] = [
    (PassthroughMsr::SysenterCs, msr::SYSENTER_CS),
    (PassthroughMsr::SysenterEsp, msr::SYSENTER_ESP),
    (PassthroughMsr::SysenterEip, msr::SYSENTER_EIP),
    (PassthroughMsr::Star, msr::STAR),
    (PassthroughMsr::Lstar, msr::LSTAR),
    (PassthroughMsr::Cstar, msr::CSTAR),
    (PassthroughMsr::SyscallMask, msr::SYSCALL_MASK),
    (PassthroughMsr::FsBase, msr::FS_BASE),
    (PassthroughMsr::GsBase, msr::GS_BASE),
    (PassthroughMsr::KernelGsBase, msr::KERNEL_GS_BASE),
    (PassthroughMsr::SpecCtrl, msr::SPEC_CTRL),
    (PassthroughMsr::PredCmd, msr::PRED_CMD),
    (PassthroughMsr::FlushCmd, msr::FLUSH_CMD),
    (PassthroughMsr::Aperf, msr::APERF),
    (PassthroughMsr::Mperf, msr::MPERF),
    (PassthroughMsr::CoreC1Residency, msr::CORE_C1_RES),
    (PassthroughMsr::CoreC3Residency, msr::CORE_C3_RESIDENCY),
    (PassthroughMsr::CoreC6Residency, msr::CORE_C6_RESIDENCY),
    (PassthroughMsr::CoreC7Residency, msr::CORE_C7_RESIDENCY),
];

/// What decides about an MSR besides the filter.
struct Guest<'a> {
    features: &'a GuestFeatures,
    /// The guest's CPUID names the vendor of the host.
    native: bool,
    /// The guest has written something to SPEC_CTRL.
    spec_ctrl_used: bool,
    disabled_exits: u64,
}

impl Guest<'_> {
    fn may(&self, m: PassthroughMsr) -> MsrAccess {
        let has = |f: Feature| self.features.has(f);
        let both = |on| MsrAccess {
            read: on,
            write: on,
        };
        let write = |on| MsrAccess {
            read: false,
            write: on,
        };
        let read = |bit: u64| MsrAccess {
            read: self.disabled_exits & bit != 0,
            write: false,
        };
        match m {
            // The vendors disagree on the upper half.
            PassthroughMsr::SysenterEsp | PassthroughMsr::SysenterEip => both(self.native),
            // Most guests never use it, and switching it costs each exit something.
            PassthroughMsr::SpecCtrl => both(self.spec_ctrl_used),
            PassthroughMsr::PredCmd => {
                write(has(Feature::SPEC_CTRL) || has(Feature::AMD_IBPB) || has(Feature::SBPB))
            }
            PassthroughMsr::FlushCmd => write(has(Feature::FLUSH_L1D)),
            PassthroughMsr::Aperf | PassthroughMsr::Mperf => {
                read(abi::KVM_X86_DISABLE_EXITS_APERFMPERF)
            }
            PassthroughMsr::CoreC1Residency
            | PassthroughMsr::CoreC3Residency
            | PassthroughMsr::CoreC6Residency
            | PassthroughMsr::CoreC7Residency => read(abi::KVM_X86_DISABLE_EXITS_CSTATE),
            PassthroughMsr::Tsc => both(false),
            _ => both(true),
        }
    }
}

impl<V: Backend> Cx<'_, '_, V> {
    /// Gives the guest what its CPUID says it has and what user space said shall not exit; the rest
    /// exits, or is undefined without an exit.
    pub(crate) fn update_traps(&mut self) {
        let off = self.vm.base.caps.disabled_exits();
        let f = &self.st.cpuid.features;
        let rdtscp = f.has(Feature::RDTSCP) || f.has(Feature::RDPID);
        let invpcid = f.has(Feature::INVPCID);
        V::set_trap(self.l, Trap::Rdtscp, !rdtscp);
        V::set_trap(self.l, Trap::Invpcid, !invpcid);
        V::set_trap(self.l, Trap::Xsaves, !f.has(Feature::XSAVES));
        V::set_trap(self.l, Trap::Rdrand, !f.has(Feature::RDRAND));
        V::set_trap(self.l, Trap::Rdseed, !f.has(Feature::RDSEED));
        let exits = |bit: u64| off & bit == 0;
        V::set_trap(self.l, Trap::Hlt, exits(abi::KVM_X86_DISABLE_EXITS_HLT));
        V::set_trap(self.l, Trap::Pause, exits(abi::KVM_X86_DISABLE_EXITS_PAUSE));
        V::set_trap(self.l, Trap::Mwait, exits(abi::KVM_X86_DISABLE_EXITS_MWAIT));
        let caching = self.vm.base.caps.quirk(abi::KVM_X86_QUIRK_CD_NW_CLEARED);
        V::set_trap(self.l, Trap::CachingOff, caching);
        let bus_locks = self.vm.base.caps.bus_lock_exits();
        V::set_trap(self.l, Trap::BusLock, bus_locks);
        self.st.bus_lock_exits = bus_locks;
        self.update_passthrough();
    }

    /// Passes MSRs through as far as the guest has them and the filter does not want them.
    pub(crate) fn update_passthrough(&mut self) {
        let features = &self.st.cpuid.features;
        let guest = Guest {
            features,
            native: features.amd == (V::EXTENSION == X86Virt::Svm),
            spec_ctrl_used: self.st.msrs.spec_ctrl_used,
            disabled_exits: self.vm.base.caps.disabled_exits(),
        };
        let filter = &self.vm.base.msr_filter;
        for (m, index) in MSRS {
            let a = guest.may(m);
            let a = MsrAccess {
                read: a.read && filter.allows(index, false),
                write: a.write && filter.allows(index, true),
            };
            V::set_passthrough(self.l, m, a);
        }
    }
}
