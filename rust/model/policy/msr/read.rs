// SPDX-License-Identifier: GPL-2.0

//! RDMSR.

use super::{classify, fixed, MsrCx, MsrError, MsrKind, MsrState, Read};
use crate::policy::mce::Bank;
use crate::policy::pv;
use crate::x86::cpuid::Feature;
use crate::x86::msr;
use crate::x86::msr::{arch_cap, feat_ctl};

/// Whether the guest's CPUID says that IA32_SPEC_CTRL exists.
pub(super) fn has_spec_ctrl(cx: &MsrCx<'_>) -> bool {
    [
        Feature::SPEC_CTRL,
        Feature::AMD_STIBP,
        Feature::AMD_IBRS,
        Feature::AMD_SSBD,
    ]
    .iter()
    .any(|f| cx.guest.has(*f))
}

/// Which paravirtual feature a register belongs to.
pub(super) const fn pv_feature(index: u32) -> u32 {
    match index {
        msr::KVM_WALL_CLOCK | msr::KVM_SYSTEM_TIME => pv::CLOCKSOURCE,
        msr::KVM_WALL_CLOCK_NEW | msr::KVM_SYSTEM_TIME_NEW => pv::CLOCKSOURCE2,
        msr::KVM_ASYNC_PF_EN => pv::ASYNC_PF,
        msr::KVM_ASYNC_PF_INT | msr::KVM_ASYNC_PF_ACK => pv::ASYNC_PF_INT,
        msr::KVM_STEAL_TIME => pv::STEAL_TIME,
        msr::KVM_PV_EOI_EN => pv::PV_EOI,
        msr::KVM_POLL_CONTROL => pv::POLL_CONTROL,
        _ => 0,
    }
}

/// `Ok` if the register is there for the guest; user space sees it anyway.
fn gate(cx: &MsrCx<'_>, exists: bool, value: Read) -> Result<Read, MsrError> {
    if exists || cx.by_user {
        Ok(value)
    } else {
        Err(MsrError::Invalid)
    }
}

/// `Ok` if the register exists at all.
fn need(exists: bool, value: Read) -> Result<Read, MsrError> {
    if exists {
        Ok(value)
    } else {
        Err(MsrError::Unsupported)
    }
}

impl MsrState {
    /// Handles a read.
    ///
    /// # Errors
    /// [`MsrError`]; see [`soften`](super::soften).
    pub fn read(&self, index: u32, cx: &MsrCx<'_>, banks: &[Bank]) -> Result<Read, MsrError> {
        match classify(index) {
            MsrKind::Vendor => self.read_vendor(index, cx),
            MsrKind::Amd => self.read_amd(index, cx),
            MsrKind::Efer => Ok(Read::Efer),
            MsrKind::Tsc => Ok(Read::Tsc),
            MsrKind::ApicBase => Ok(Read::ApicBase),
            MsrKind::X2Apic => Ok(Read::X2Apic),
            MsrKind::TscDeadline => Ok(Read::TscDeadline),
            MsrKind::Mtrr => self
                .mtrr
                .read(index)
                .map(Read::Value)
                .ok_or(MsrError::Invalid),
            MsrKind::Mce => self.mce.read(index, cx.by_user, banks).map(Read::Value),
            MsrKind::Pv => self.read_pv(index, cx),
            MsrKind::HyperV => Ok(Read::HyperV),
            MsrKind::State => self.read_state(index, cx),
            MsrKind::Xfd => {
                let value = if index == msr::XFD {
                    Read::Xfd
                } else {
                    Read::XfdErr
                };
                gate(cx, cx.guest.has(Feature::XFD), value)
            }
            MsrKind::Fixed => fixed(index)
                .and_then(|f| f.read)
                .map(Read::Value)
                .ok_or(MsrError::Unsupported),
            MsrKind::Command | MsrKind::Unknown => Err(MsrError::Unsupported),
        }
    }

    fn read_vendor(&self, index: u32, cx: &MsrCx<'_>) -> Result<Read, MsrError> {
        match index {
            msr::TSC_AUX if !cx.host.tsc_aux => Err(MsrError::Invalid),
            msr::TSC_AUX => {
                let exists = cx.guest.has(Feature::RDTSCP) || cx.guest.has(Feature::RDPID);
                gate(cx, exists, Read::Vendor)
            }
            msr::SPEC_CTRL if cx.host.spec_ctrl == 0 => gate(cx, has_spec_ctrl(cx), Read::Value(0)),
            msr::SPEC_CTRL => gate(cx, has_spec_ctrl(cx), Read::Vendor),
            msr::DEBUGCTL if cx.host.debugctl == 0 => Ok(Read::Value(0)),
            msr::LASTBRANCHFROMIP..=msr::LASTINTTOIP if !cx.host.lbr => Ok(Read::Value(0)),
            _ => Ok(Read::Vendor),
        }
    }

    fn read_amd(&self, index: u32, cx: &MsrCx<'_>) -> Result<Read, MsrError> {
        if index == msr::VM_HSAVE_PA {
            return Ok(Read::Value(self.vm_hsave));
        }
        if !cx.host.svm {
            return Err(MsrError::Unsupported);
        }
        match index {
            msr::TSC_RATIO => gate(
                cx,
                cx.guest.has(Feature::TSCRATEMSR),
                Read::Value(self.tsc_ratio),
            ),
            msr::VM_CR => Ok(Read::Value(self.vm_cr)),
            msr::VIRT_SPEC_CTRL => gate(
                cx,
                cx.guest.has(Feature::VIRT_SSBD),
                Read::Value(self.virt_spec_ctrl),
            ),
            msr::IC_CFG => {
                // KVM: a Bulldozer's guest expects these bits, or it warns.
                let (family, model, _) = cx.guest.family_model_stepping();
                let bulldozer = family == 0x15 && (0x2..0x20).contains(&model);
                Ok(Read::Value(if bulldozer { 0x1e } else { 0 }))
            }
            msr::DE_CFG => Ok(Read::Value(self.de_cfg)),
            _ => Err(MsrError::Unsupported),
        }
    }

    fn read_pv(&self, index: u32, cx: &MsrCx<'_>) -> Result<Read, MsrError> {
        if cx.pv & pv_feature(index) == 0 {
            return Err(MsrError::Unsupported);
        }
        Ok(Read::Value(match index {
            msr::KVM_WALL_CLOCK | msr::KVM_WALL_CLOCK_NEW => return Ok(Read::WallClock),
            msr::KVM_SYSTEM_TIME | msr::KVM_SYSTEM_TIME_NEW => self.system_time,
            msr::KVM_ASYNC_PF_EN => self.async_pf,
            msr::KVM_ASYNC_PF_INT => self.async_pf_int,
            msr::KVM_ASYNC_PF_ACK => 0,
            msr::KVM_STEAL_TIME => self.steal_time,
            msr::KVM_PV_EOI_EN => self.pv_eoi,
            msr::KVM_POLL_CONTROL => self.poll_control,
            _ => return Err(MsrError::Unsupported),
        }))
    }

    fn read_state(&self, index: u32, cx: &MsrCx<'_>) -> Result<Read, MsrError> {
        let has = |f: Feature| cx.guest.has(f);
        let vmx = !cx.host.svm;
        match index {
            msr::PAT => Ok(Read::Value(self.pat)),
            msr::SMI_COUNT => Ok(Read::Value(self.smi_count)),
            msr::FEAT_CTL => need(vmx, Read::Value(self.feat_ctl)),
            msr::TSC_ADJUST => Ok(Read::Value(self.tsc_adjust)),
            msr::UCODE_REV => Ok(Read::Value(self.microcode)),
            msr::SMBASE if cx.host.smm && cx.by_user => Ok(Read::Value(self.smbase)),
            msr::SMBASE => Err(MsrError::Invalid),
            msr::PLATFORM_INFO => gate(cx, cx.platform_info, Read::Value(self.platform_info)),
            msr::UMWAIT_CONTROL if vmx => gate(cx, has(Feature::WAITPKG), Read::Value(self.umwait)),
            msr::ARCH_CAPABILITIES => need(
                has(Feature::ARCH_CAPABILITIES),
                Read::Value(self.arch_capabilities),
            ),
            msr::TSX_CTRL if cx.host.tsx_ctrl => {
                let told = self.arch_capabilities & arch_cap::TSX_CTRL != 0;
                gate(cx, told, Read::Value(self.tsx_ctrl))
            }
            msr::MISC_FEATURES_ENABLES => Ok(Read::Value(self.misc_features)),
            msr::MISC_ENABLE => Ok(Read::Value(self.misc_enable)),
            msr::POWER_CTL => Ok(Read::Value(self.power_ctl)),
            msr::PERF_CAPABILITIES => need(has(Feature::PDCM), Read::Value(self.perf_capabilities)),
            msr::MCG_EXT_CTL if vmx => {
                let enabled = self.feat_ctl & feat_ctl::LMCE != 0;
                gate(cx, enabled, Read::Value(self.mce.ext_ctl))
            }
            msr::XSS => gate(cx, has(Feature::XSAVES), Read::Value(self.xss)),
            msr::HWCR => Ok(Read::Value(self.hwcr)),
            msr::OSVW_ID_LENGTH | msr::OSVW_STATUS if !has(Feature::OSVW) => Err(MsrError::Invalid),
            msr::OSVW_ID_LENGTH => {
                let [length, _] = self.osvw;
                Ok(Read::Value(length))
            }
            msr::OSVW_STATUS => {
                let [_, status] = self.osvw;
                Ok(Read::Value(status))
            }
            _ => Err(MsrError::Unsupported),
        }
    }
}
