// SPDX-License-Identifier: GPL-2.0

//! What the processor and the host kernel let guests have of their MSRs.

use crate::policy::feature::Supported;
use crate::x86::cpuid::{Feature, FeatureSet};
use crate::x86::msr;
use crate::x86::msr::{arch_cap, pred_cmd, spec_ctrl};

/// What the host backs, the same for all guests.
#[derive(Clone, Debug)]
pub struct HostMsrs {
    /// The backend is SVM, so AMD's own registers exist; else it is VMX.
    pub svm: bool,
    /// EFER bits that can be set.
    pub efer: u64,
    /// Bits of a linear address, 48 or 57.
    pub linear_bits: u8,
    /// IA32_SPEC_CTRL bits that can be set, 0 if there is none.
    pub spec_ctrl: u64,
    /// IA32_PRED_CMD commands the processor has.
    pub pred_cmd: u64,
    /// The processor has IA32_FLUSH_CMD.
    pub flush_cmd: bool,
    /// TSC_AUX can be switched.
    pub tsc_aux: bool,
    /// IA32_TSX_CTRL exists and can be switched.
    pub tsx_ctrl: bool,
    /// IA32_DEBUGCTL bits that are virtualised, 0 if it is not at all.
    pub debugctl: u64,
    /// Last-branch records are virtualised.
    pub lbr: bool,
    /// System management mode is virtualised.
    pub smm: bool,
    /// Stolen time is reported.
    pub steal_time: bool,
    /// IA32_ARCH_CAPABILITIES as offered.
    pub arch_capabilities: u64,
    /// DE_CFG bits as offered (AMD).
    pub de_cfg: u64,
    /// OSVW_ID_LENGTH and OSVW_STATUS as guests begin with (AMD): [`HostMsrs::offered_osvw`].
    pub osvw: [u64; 2],
    /// The processor's microcode revision.
    pub microcode: u64,
    /// Machine-check capabilities as offered.
    pub mcg_cap: u64,
}

/// What the host kernel knows about the processor's faults, for
/// [`HostMsrs::offered_arch_capabilities`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Immunities {
    /// `arch_cap` bits of faults the kernel does not list for this processor.
    pub no_bug: u64,
    /// The hypervisor flushes L1D at entry, or need not.
    pub flushes_l1d: bool,
    /// TSX is enabled.
    pub rtm: bool,
}

impl HostMsrs {
    /// What the processor's features say. Left to the backend are `svm`, `tsc_aux`, `tsx_ctrl`,
    /// `debugctl`, `lbr`, `smm`, `steal_time`, `arch_capabilities`, `osvw`, `microcode`.
    pub fn new(sup: &Supported, raw: &FeatureSet) -> Self {
        Self {
            svm: false,
            efer: sup.efer(),
            linear_bits: if raw.has(Feature::LA57) { 57 } else { 48 },
            spec_ctrl: Self::spec_ctrl_bits(raw),
            pred_cmd: Self::pred_cmd_bits(raw),
            flush_cmd: raw.has(Feature::FLUSH_L1D),
            tsc_aux: false,
            tsx_ctrl: false,
            debugctl: 0,
            lbr: false,
            smm: false,
            steal_time: false,
            arch_capabilities: 0,
            // DE_CFG bit 1: LFENCE serialises.
            de_cfg: if sup.features.has(Feature::LFENCE_SERIALIZES) {
                1 << 1
            } else {
                0
            },
            osvw: [0, 0],
            microcode: 0,
            mcg_cap: msr::mcg_cap::CTL_P | msr::mcg_cap::SER_P,
        }
    }

    /// Which errata an operating system has to work around (`APM: vol 2, appendix on OSVW`), from
    /// the length and the status that each CPU of the host reports, 0 where it has none. A guest
    /// must know of what one CPU has, and may rely on what all CPUs tell.
    ///
    /// KVM: those with the numbers 1 and 2 (400 and 415) are no guest's concern, as HLT and port
    /// accesses exit. Number 0 (298) is there, too, if family 10h tells nothing.
    pub fn offered_osvw(cpus: impl Iterator<Item = [u64; 2]>, family: u8) -> [u64; 2] {
        // What is known of the list.
        let (mut length, mut status) = (4u64, 0u64);
        for [l, s] in cpus {
            length = length.min(l);
            status |= s;
        }
        // CAST: 4 at most.
        let told = !u64::MAX.wrapping_shl(length as u32);
        let mute = u64::from(length == 0 && family == 0x10);
        [length.max(3), status & told & !6 | mute]
    }

    fn spec_ctrl_bits(raw: &FeatureSet) -> u64 {
        [
            (Feature::SPEC_CTRL, spec_ctrl::IBRS),
            (Feature::AMD_IBRS, spec_ctrl::IBRS),
            (Feature::INTEL_STIBP, spec_ctrl::STIBP),
            (Feature::AMD_STIBP, spec_ctrl::STIBP),
            (Feature::SPEC_CTRL_SSBD, spec_ctrl::SSBD),
            (Feature::AMD_SSBD, spec_ctrl::SSBD),
            (Feature::IPRED_CTRL, spec_ctrl::IPRED_DIS),
            (Feature::RRSBA_CTRL, spec_ctrl::RRSBA_DIS),
            (Feature::INTEL_PSFD, spec_ctrl::PSFD),
            (Feature::AMD_PSFD, spec_ctrl::PSFD),
            (Feature::DDPD_U, spec_ctrl::DDPD_U),
            (Feature::BHI_CTRL, spec_ctrl::BHI_DIS_S),
        ]
        .iter()
        .filter(|(f, _)| raw.has(*f))
        .fold(0, |bits, (_, b)| bits | b)
    }

    fn pred_cmd_bits(raw: &FeatureSet) -> u64 {
        let ibpb = raw.has(Feature::SPEC_CTRL) || raw.has(Feature::AMD_IBPB);
        let sbpb = raw.has(Feature::SBPB);
        (if ibpb { pred_cmd::IBPB } else { 0 }) | if sbpb { pred_cmd::SBPB } else { 0 }
    }

    /// IA32_ARCH_CAPABILITIES for guests out of the host's own (0 if it has none).
    pub fn offered_arch_capabilities(host: u64, known: Immunities) -> u64 {
        // Bits that name registers which are not virtualised stay hidden.
        let passed = arch_cap::RDCL_NO
            | arch_cap::IBRS_ALL
            | arch_cap::RSBA
            | arch_cap::SKIP_L1DFL_VMENTRY
            | arch_cap::SSB_NO
            | arch_cap::MDS_NO
            | arch_cap::PSCHANGE_MC_NO
            | arch_cap::TSX_CTRL
            | arch_cap::TAA_NO
            | arch_cap::MMIO_STALE_NO
            | arch_cap::FB_CLEAR
            | arch_cap::RRSBA
            | arch_cap::BHI_NO
            | arch_cap::PBRSB_NO
            | arch_cap::GDS_NO
            | arch_cap::RFDS_NO
            | arch_cap::RFDS_CLEAR
            | arch_cap::ITS_NO;
        let immune = arch_cap::RDCL_NO
            | arch_cap::SSB_NO
            | arch_cap::MDS_NO
            | arch_cap::TAA_NO
            | arch_cap::GDS_NO
            | arch_cap::RFDS_NO
            | arch_cap::ITS_NO;
        // Whatever a guest does to its page sizes is contained below it.
        let mut bits = (host & passed) | (known.no_bug & immune) | arch_cap::PSCHANGE_MC_NO;
        if known.flushes_l1d {
            bits |= arch_cap::SKIP_L1DFL_VMENTRY;
        }
        if !known.rtm {
            // Without TSX there is nothing to be immune of.
            bits &= !arch_cap::TAA_NO;
        }
        bits
    }
}
