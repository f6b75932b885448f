// SPDX-License-Identifier: GPL-2.0

//! The lists that user space asks for: which MSRs to save, and which describe the processor.

use super::{HostMsrs, MsrError};
use crate::policy::feature::Supported;
use crate::x86::cpuid::Feature;
use crate::x86::msr;
use crate::x86::msr::arch_cap;

/// More entries than either list can have.
pub const MAX_MSRS: usize = 96;

/// Registers to save that the processor must have.
const SAVED: &[u32] = &[
    msr::SYSENTER_CS,
    msr::SYSENTER_ESP,
    msr::SYSENTER_EIP,
    msr::STAR,
    msr::CSTAR,
    msr::KERNEL_GS_BASE,
    msr::SYSCALL_MASK,
    msr::LSTAR,
    msr::TSC,
    msr::PAT,
    msr::VM_HSAVE_PA,
    msr::FEAT_CTL,
    msr::BNDCFGS,
    msr::TSC_AUX,
    msr::SPEC_CTRL,
    msr::TSX_CTRL,
    msr::UMWAIT_CONTROL,
    msr::XFD,
    msr::XFD_ERR,
    msr::XSS,
    msr::DEBUGCTL,
    msr::LASTBRANCHFROMIP,
    msr::LASTBRANCHTOIP,
    msr::LASTINTFROMIP,
    msr::LASTINTTOIP,
];

/// Registers to save that are emulated.
const EMULATED: &[u32] = &[
    msr::KVM_SYSTEM_TIME,
    msr::KVM_WALL_CLOCK,
    msr::KVM_SYSTEM_TIME_NEW,
    msr::KVM_WALL_CLOCK_NEW,
    msr::KVM_ASYNC_PF_EN,
    msr::KVM_STEAL_TIME,
    msr::KVM_PV_EOI_EN,
    msr::KVM_ASYNC_PF_INT,
    msr::KVM_ASYNC_PF_ACK,
    msr::TSC_ADJUST,
    msr::TSC_DEADLINE,
    msr::ARCH_CAPABILITIES,
    msr::PERF_CAPABILITIES,
    msr::MISC_ENABLE,
    msr::MCG_STATUS,
    msr::MCG_CTL,
    msr::MCG_EXT_CTL,
    msr::SMBASE,
    msr::SMI_COUNT,
    msr::PLATFORM_INFO,
    msr::MISC_FEATURES_ENABLES,
    msr::VIRT_SPEC_CTRL,
    msr::TSC_RATIO,
    msr::POWER_CTL,
    msr::UCODE_REV,
    msr::HWCR,
    msr::KVM_POLL_CONTROL,
];

/// Registers that describe the processor, VMX's aside.
const FEATURES: &[u32] = &[
    msr::DE_CFG,
    msr::UCODE_REV,
    msr::ARCH_CAPABILITIES,
    msr::PERF_CAPABILITIES,
    msr::PLATFORM_INFO,
];

/// Whether a saved register makes sense for guests, given that the processor has it.
fn offered(index: u32, sup: &Supported, host: &HostMsrs) -> bool {
    let has = |f: Feature| sup.features.has(f);
    match index {
        msr::BNDCFGS => has(Feature::MPX),
        msr::TSC_AUX => has(Feature::RDTSCP) || has(Feature::RDPID),
        msr::UMWAIT_CONTROL => has(Feature::WAITPKG),
        msr::XFD | msr::XFD_ERR => has(Feature::XFD),
        msr::TSX_CTRL => host.arch_capabilities & arch_cap::TSX_CTRL != 0,
        msr::XSS => sup.xss != 0,
        _ => true,
    }
}

/// Whether the backend emulates a register.
fn emulated(index: u32, host: &HostMsrs) -> bool {
    match index {
        msr::SMBASE => host.smm,
        msr::MCG_EXT_CTL => !host.svm,
        msr::VIRT_SPEC_CTRL | msr::TSC_RATIO => host.svm,
        _ => true,
    }
}

/// Fills `out` from the start, as far as it goes.
fn fill(indices: impl Iterator<Item = u32>, out: &mut [u32]) -> usize {
    let mut n = 0usize;
    for (slot, index) in out.iter_mut().zip(indices) {
        *slot = index;
        n = n.wrapping_add(1);
    }
    n
}

/// The answer of `KVM_GET_MSR_INDEX_LIST`; returns how many there are. `exists` tells whether the
/// processor has a register, by reading it. The list must not change while the module is loaded, so
/// this is to be called once.
pub fn msr_list(
    sup: &Supported,
    host: &HostMsrs,
    mut exists: impl FnMut(u32) -> bool,
    out: &mut [u32; MAX_MSRS],
) -> usize {
    let saved = SAVED
        .iter()
        .copied()
        .filter(|&i| offered(i, sup, host) && exists(i));
    let emulated = EMULATED.iter().copied().filter(|&i| emulated(i, host));
    fill(saved.chain(emulated), out)
}

/// The answer of `KVM_GET_MSR_FEATURE_INDEX_LIST`; returns how many there are.
pub fn feature_list(host: &HostMsrs, out: &mut [u32; MAX_MSRS]) -> usize {
    let known = FEATURES
        .iter()
        .copied()
        .filter(|&i| feature(i, host).is_ok());
    fill(known, out)
}

/// A register that describes the processor, as offered: `KVM_GET_MSRS` on `/dev/kvm`.
///
/// # Errors
/// [`MsrError::Unsupported`] for any other.
pub fn feature(index: u32, host: &HostMsrs) -> Result<u64, MsrError> {
    match index {
        msr::ARCH_CAPABILITIES => Ok(host.arch_capabilities),
        // No counters.
        msr::PERF_CAPABILITIES => Ok(0),
        msr::PLATFORM_INFO => Ok(msr::PLATFORM_INFO_CPUID_FAULTING),
        msr::UCODE_REV => Ok(host.microcode),
        msr::DE_CFG if host.svm => Ok(host.de_cfg),
        _ => Err(MsrError::Unsupported),
    }
}

/// Whether user space was told of a register. `known` is the list of [`msr_list`].
pub fn advertised(known: &[u32], index: u32) -> bool {
    known.contains(&index)
}

/// Whether a register may not change any more once the vCPU has run. Writing the same value again is
/// fine.
pub fn is_frozen_feature(index: u32) -> bool {
    matches!(index, msr::VMX_BASIC..=msr::VMX_VMFUNC)
        || (FEATURES.contains(&index) && index != msr::UCODE_REV)
}
