// SPDX-License-Identifier: GPL-2.0

//! WRMSR.

use super::read::{has_spec_ctrl, pv_feature};
use super::{canonical, classify, fixed, MsrCx, MsrError, MsrKind, MsrState, OnWrite, Write};
use crate::policy::mce::Bank;
use crate::policy::mtrr::pat_valid;
use crate::policy::pv;
use crate::x86::cpuid::Feature;
use crate::x86::ctrl::efer;
use crate::x86::msr;
use crate::x86::msr::{arch_cap, debugctl, feat_ctl, mcg_cap, misc_enable, pred_cmd, spec_ctrl};
use crate::x86::xsave::component;

type Outcome = Result<Write, MsrError>;

/// Asynchronous page faults: enabled, and delivered by interrupt.
const ASYNC_PF_RESERVED: u64 = 3 << 4;
const ASYNC_PF_VMEXIT: u64 = 1 << 2;
const ASYNC_PF_INT: u64 = 1 << 3;
/// Stolen time: the address is aligned to 64 bytes, bit 0 enables.
const STEAL_RESERVED: u64 = 0x3e;
/// VM_CR: the bits that exist, and two of them.
const VM_CR_DEFINED: u64 = 0x1f;
const VM_CR_LOCK: u64 = 1 << 3;
const VM_CR_SVMDIS: u64 = 1 << 4;

/// `Ok` if the condition holds.
fn require(valid: bool) -> Result<(), MsrError> {
    if valid {
        Ok(())
    } else {
        Err(MsrError::Invalid)
    }
}

/// Stores a plain value.
fn store(slot: &mut u64, value: u64) -> Outcome {
    *slot = value;
    Ok(Write::Done)
}

impl MsrState {
    /// Handles a write. On an error nothing has changed.
    ///
    /// # Errors
    /// [`MsrError`]; see [`soften`](super::soften).
    pub fn write(&mut self, index: u32, value: u64, cx: &MsrCx<'_>, banks: &mut [Bank]) -> Outcome {
        match classify(index) {
            MsrKind::Vendor => write_vendor(index, value, cx),
            MsrKind::Amd => self.write_amd(index, value, cx),
            MsrKind::Efer => write_efer(value, cx),
            MsrKind::Tsc => Ok(Write::Tsc(value)),
            MsrKind::ApicBase => Ok(Write::ApicBase(value)),
            MsrKind::X2Apic => Ok(Write::X2Apic(value)),
            MsrKind::TscDeadline => Ok(Write::TscDeadline(value)),
            MsrKind::Mtrr | MsrKind::Mce if matches!(index, msr::MTRR_CAP | msr::MCG_CAP) => {
                Err(MsrError::Unsupported)
            }
            MsrKind::Mtrr => {
                let reserved = cx.guest.reserved_gpa_bits();
                require(self.mtrr.write(index, value, reserved))?;
                Ok(Write::Done)
            }
            MsrKind::Mce => {
                let hwcr = if cx.guest.amd { self.hwcr } else { 0 };
                self.mce
                    .write(index, value, cx.by_user, hwcr, banks)
                    .map(|()| Write::Done)
            }
            MsrKind::Pv => self.write_pv(index, value, cx),
            MsrKind::HyperV => Ok(Write::HyperV(value)),
            MsrKind::State => self.write_state(index, value, cx),
            MsrKind::Command => write_command(index, value, cx),
            MsrKind::Xfd => {
                require(cx.by_user || cx.guest.has(Feature::XFD))?;
                // Only state that must be asked for can be disabled.
                require(value & !(cx.guest.xcr0 & component::TILE_DATA) == 0)?;
                Ok(if index == msr::XFD {
                    Write::Xfd(value)
                } else {
                    Write::XfdErr(value)
                })
            }
            MsrKind::Fixed => match fixed(index).map(|f| f.write) {
                Some(OnWrite::Ignore) => Ok(Write::Done),
                Some(OnWrite::Zero) => require(value == 0).map(|()| Write::Done),
                Some(OnWrite::Refuse) | None => Err(MsrError::Unsupported),
            },
            MsrKind::Unknown => Err(MsrError::Unsupported),
        }
    }

    fn write_amd(&mut self, index: u32, value: u64, cx: &MsrCx<'_>) -> Outcome {
        let has = |f: Feature| cx.guest.has(f);
        if !cx.host.svm {
            // KVM: ignored, because some guests clear it without looking.
            return if index == msr::VM_HSAVE_PA {
                Ok(Write::Done)
            } else {
                Err(MsrError::Unsupported)
            };
        }
        match index {
            msr::TSC_RATIO if has(Feature::TSCRATEMSR) => {
                // 8.32 fixed point. APM: vol 2, 15.30.5
                require(value >> 40 == 0)?;
                store(&mut self.tsc_ratio, value)
            }
            // KVM: user space may put back what it read, and 0, which an old QEMU writes.
            msr::TSC_RATIO => {
                require(cx.by_user && (value == 0 || value == self.tsc_ratio))?;
                Ok(Write::Done)
            }
            msr::VM_CR => {
                require(value & !VM_CR_DEFINED == 0)?;
                let mut changes = VM_CR_DEFINED;
                if self.vm_cr & VM_CR_SVMDIS != 0 {
                    changes &= !(VM_CR_LOCK | VM_CR_SVMDIS);
                }
                let new = (self.vm_cr & !changes) | (value & changes);
                require(new & VM_CR_SVMDIS == 0 || cx.efer & efer::SVME == 0)?;
                store(&mut self.vm_cr, new)
            }
            msr::VM_IGNNE => Ok(Write::Done),
            msr::VM_HSAVE_PA => {
                // User space may restore what an old host let through.
                let legal = value & (cx.guest.reserved_gpa_bits() | 0xfff) == 0;
                require(cx.by_user || legal)?;
                store(&mut self.vm_hsave, value & !0xfff)
            }
            msr::VIRT_SPEC_CTRL => {
                require(cx.by_user || has(Feature::VIRT_SSBD))?;
                require(value & !spec_ctrl::SSBD == 0)?;
                self.virt_spec_ctrl = value;
                Ok(if cx.host.svm {
                    Write::Vendor(value)
                } else {
                    Write::Done
                })
            }
            msr::DE_CFG => {
                require(value & !cx.host.de_cfg == 0)?;
                store(&mut self.de_cfg, value)
            }
            _ => Err(MsrError::Unsupported),
        }
    }

    fn write_pv(&mut self, index: u32, value: u64, cx: &MsrCx<'_>) -> Outcome {
        if cx.pv & pv_feature(index) == 0 {
            return Err(MsrError::Unsupported);
        }
        match index {
            msr::KVM_WALL_CLOCK | msr::KVM_WALL_CLOCK_NEW => Ok(Write::WallClock(value)),
            msr::KVM_SYSTEM_TIME | msr::KVM_SYSTEM_TIME_NEW => {
                self.system_time = value;
                Ok(Write::SystemTime {
                    old: index == msr::KVM_SYSTEM_TIME,
                })
            }
            msr::KVM_ASYNC_PF_EN => {
                require(value & ASYNC_PF_RESERVED == 0)?;
                require(value & ASYNC_PF_VMEXIT == 0 || cx.pv & pv::ASYNC_PF_VMEXIT != 0)?;
                require(value & ASYNC_PF_INT == 0 || cx.pv & pv::ASYNC_PF_INT != 0)?;
                if !cx.apic_in_kernel {
                    require(value == 0)?;
                    return Ok(Write::Done);
                }
                Ok(Write::AsyncPf(value))
            }
            msr::KVM_ASYNC_PF_INT => {
                require(value >> 8 == 0 && cx.apic_in_kernel)?;
                store(&mut self.async_pf_int, value)
            }
            msr::KVM_ASYNC_PF_ACK if value & 1 != 0 => Ok(Write::AsyncPfAck),
            msr::KVM_ASYNC_PF_ACK => Ok(Write::Done),
            msr::KVM_STEAL_TIME => {
                if !cx.host.steal_time {
                    return Err(MsrError::Unsupported);
                }
                require(value & STEAL_RESERVED == 0)?;
                self.steal_time = value;
                Ok(Write::StealTime)
            }
            msr::KVM_PV_EOI_EN => {
                // Bit 0 enables; the address is aligned to 4 bytes.
                require(value & 2 == 0)?;
                Ok(Write::PvEoi(value))
            }
            msr::KVM_POLL_CONTROL => {
                require(value & !1 == 0)?;
                store(&mut self.poll_control, value)
            }
            _ => Err(MsrError::Unsupported),
        }
    }

    fn write_state(&mut self, index: u32, value: u64, cx: &MsrCx<'_>) -> Outcome {
        let has = |f: Feature| cx.guest.has(f);
        let vmx = !cx.host.svm;
        match index {
            msr::PAT => {
                require(pat_valid(value))?;
                self.pat = value;
                Ok(Write::Vendor(value))
            }
            msr::SMI_COUNT => {
                require(cx.by_user)?;
                store(&mut self.smi_count, value)
            }
            msr::FEAT_CTL if vmx => {
                require(cx.by_user || self.feat_ctl & feat_ctl::LOCKED == 0)?;
                require(value & !self.feat_ctl_valid(cx) == 0)?;
                store(&mut self.feat_ctl, value)
            }
            // Writes are dropped when the guest has no such register.
            msr::TSC_ADJUST if !has(Feature::TSC_ADJUST) => Ok(Write::Done),
            msr::TSC_ADJUST => {
                let by = value.wrapping_sub(self.tsc_adjust);
                self.tsc_adjust = value;
                Ok(if cx.by_user {
                    Write::Done
                } else {
                    Write::TscBy(by)
                })
            }
            // The guest triggers a read of the revision by writing 0 first.
            msr::UCODE_REV if !cx.by_user => Ok(Write::Done),
            msr::UCODE_REV => store(&mut self.microcode, value),
            msr::SMBASE => {
                require(cx.host.smm && cx.by_user)?;
                store(&mut self.smbase, value)
            }
            msr::PLATFORM_INFO => {
                require(cx.by_user)?;
                store(&mut self.platform_info, value)
            }
            msr::UMWAIT_CONTROL if vmx => {
                require(cx.by_user || has(Feature::WAITPKG))?;
                // SDM: vol 2B, UMWAIT: bit 1 and the upper half are reserved.
                require(value & !0xffff_fffd == 0)?;
                self.umwait = value;
                Ok(Write::Vendor(value))
            }
            msr::ARCH_CAPABILITIES => {
                if !cx.by_user || !has(Feature::ARCH_CAPABILITIES) {
                    return Err(MsrError::Unsupported);
                }
                store(&mut self.arch_capabilities, value)
            }
            msr::TSX_CTRL if cx.host.tsx_ctrl => {
                require(cx.by_user || self.arch_capabilities & arch_cap::TSX_CTRL != 0)?;
                require(value & !(msr::TSX_CTRL_RTM_DISABLE | msr::TSX_CTRL_CPUID_CLEAR) == 0)?;
                self.tsx_ctrl = value;
                Ok(Write::Vendor(value))
            }
            msr::MISC_FEATURES_ENABLES => {
                let possible = self.platform_info & msr::PLATFORM_INFO_CPUID_FAULTING != 0;
                require(value & !msr::CPUID_FAULTING == 0 && (value == 0 || possible))?;
                store(&mut self.misc_features, value)
            }
            msr::MISC_ENABLE => self.write_misc_enable(value, cx),
            msr::POWER_CTL => store(&mut self.power_ctl, value),
            msr::PERF_CAPABILITIES => {
                if !cx.by_user || !has(Feature::PDCM) {
                    return Err(MsrError::Unsupported);
                }
                // No counters are virtualised, so no capability of theirs is.
                require(value == 0)?;
                store(&mut self.perf_capabilities, value)
            }
            msr::MCG_EXT_CTL if vmx => {
                require(cx.by_user || self.feat_ctl & feat_ctl::LMCE != 0)?;
                require(value & !1 == 0)?;
                store(&mut self.mce.ext_ctl, value)
            }
            msr::XSS => {
                if !has(Feature::XSAVES) {
                    return Err(MsrError::Unsupported);
                }
                require(value & !cx.guest.xss == 0)?;
                self.xss = value;
                Ok(Write::CpuidChanged)
            }
            msr::HWCR => {
                // Disabling the flush filter or the TLB cache and enabling IGNNE have no effect.
                let value = value & !(1 << 3 | 1 << 6 | 1 << 8);
                let mut valid = msr::HWCR_MC_STATUS_WR_EN | msr::HWCR_TSC_FREQ_SEL;
                if has(Feature::GP_ON_USER_CPUID) {
                    valid |= msr::HWCR_CPUID_USER_DIS;
                }
                require(value & !valid == 0)?;
                store(&mut self.hwcr, value)
            }
            msr::OSVW_ID_LENGTH | msr::OSVW_STATUS => {
                require(has(Feature::OSVW))?;
                let [length, status] = &mut self.osvw;
                let slot = if index == msr::OSVW_ID_LENGTH {
                    length
                } else {
                    status
                };
                store(slot, value)
            }
            _ => Err(MsrError::Unsupported),
        }
    }

    fn feat_ctl_valid(&self, cx: &MsrCx<'_>) -> u64 {
        let vmx = feat_ctl::VMX | feat_ctl::VMX_IN_SMX;
        if cx.by_user {
            return feat_ctl::LOCKED | vmx | feat_ctl::LMCE;
        }
        let mut valid = feat_ctl::LOCKED;
        if cx.guest.has(Feature::VMX) {
            valid |= vmx;
        }
        if self.mce.cap & mcg_cap::LMCE_P != 0 {
            valid |= feat_ctl::LMCE;
        }
        valid
    }

    fn write_misc_enable(&mut self, value: u64, cx: &MsrCx<'_>) -> Outcome {
        let old = self.misc_enable;
        let mut new = value;
        if !cx.by_user {
            let read_only = misc_enable::BTS_UNAVAIL | misc_enable::PEBS_UNAVAIL;
            require((old ^ new) & read_only == 0)?;
            // Read-only as well, but writes are dropped.
            new = (new & !misc_enable::EMON) | (old & misc_enable::EMON);
        }
        if cx.mwait_follows_misc_enable && (old ^ new) & misc_enable::MWAIT != 0 {
            require(cx.guest.has(Feature::SSE3))?;
        }
        self.misc_enable = new;
        Ok(Write::CpuidChanged)
    }
}

/// Registers whose values the backend keeps.
fn write_vendor(index: u32, value: u64, cx: &MsrCx<'_>) -> Outcome {
    let has = |f: Feature| cx.guest.has(f);
    match index {
        msr::LSTAR | msr::CSTAR | msr::FS_BASE | msr::GS_BASE | msr::KERNEL_GS_BASE => {
            require(canonical(value, cx.host.linear_bits) == value)?;
            Ok(Write::Vendor(value))
        }
        // Intel faults on an address that is not canonical, AMD ignores the upper half. Making it
        // canonical suits both: an entry with another would fail on Intel.
        msr::SYSENTER_EIP | msr::SYSENTER_ESP => {
            Ok(Write::Vendor(canonical(value, cx.host.linear_bits)))
        }
        msr::TSC_AUX => {
            require(cx.host.tsc_aux)?;
            require(cx.by_user || has(Feature::RDTSCP) || has(Feature::RDPID))?;
            // The upper half is reserved on Intel, ignored on AMD.
            require(cx.guest.amd || value >> 32 == 0)?;
            Ok(Write::Vendor(value & 0xffff_ffff))
        }
        msr::SPEC_CTRL => {
            require(cx.by_user || has_spec_ctrl(cx))?;
            require(value & !cx.host.spec_ctrl == 0)?;
            Ok(if cx.host.spec_ctrl == 0 {
                Write::Done
            } else {
                Write::Vendor(value)
            })
        }
        msr::DEBUGCTL => write_debugctl(value, cx),
        msr::LASTBRANCHFROMIP..=msr::LASTINTTOIP => {
            if !cx.host.lbr {
                return Err(MsrError::Unsupported);
            }
            require(cx.by_user)?;
            Ok(Write::Vendor(value))
        }
        _ => Ok(Write::Vendor(value)),
    }
}

fn write_debugctl(value: u64, cx: &MsrCx<'_>) -> Outcome {
    // KVM: AMD's register swallows anything while it is not virtualised.
    if cx.host.svm && cx.host.debugctl == 0 {
        return Ok(Write::Done);
    }
    let mut valid = cx.host.debugctl;
    if !cx.by_user {
        for (bit, feature) in [
            (debugctl::BUS_LOCK_DETECT, Feature::BUS_LOCK_DETECT),
            (debugctl::RTM_DEBUG, Feature::RTM),
        ] {
            if !cx.guest.has(feature) {
                valid &= !bit;
            }
        }
    }
    // Nothing tells a guest that these do not exist, so they are dropped and do not fault.
    let dropped = debugctl::BTF | if cx.host.svm { 0 } else { debugctl::LBR };
    require(value & !(valid | dropped) == 0)?;
    Ok(if cx.host.debugctl == 0 {
        Write::Done
    } else {
        Write::Vendor(value & valid)
    })
}

/// `APM: vol 2, 3.1.7`, `SDM: vol 3, 2.2.1`. LMA is the processor's own and keeps its value.
fn write_efer(value: u64, cx: &MsrCx<'_>) -> Outcome {
    require(value & !cx.host.efer == 0)?;
    if !cx.by_user {
        require(value & !cx.guest.efer == 0)?;
        require(!cx.paging || (value ^ cx.efer) & efer::LME == 0)?;
    }
    Ok(Write::Efer((value & !efer::LMA) | (cx.efer & efer::LMA)))
}

fn write_command(index: u32, value: u64, cx: &MsrCx<'_>) -> Outcome {
    let has = |f: Feature| cx.guest.has(f);
    if index == msr::FLUSH_CMD {
        require(cx.by_user || has(Feature::FLUSH_L1D))?;
        require(cx.host.flush_cmd && value & !1 == 0)?;
        return Ok(if value == 0 {
            Write::Done
        } else {
            Write::FlushL1d
        });
    }
    let mut valid = cx.host.pred_cmd;
    if !cx.by_user {
        let ibpb = has(Feature::SPEC_CTRL) || has(Feature::AMD_IBPB);
        let sbpb = has(Feature::SBPB);
        require(ibpb || sbpb)?;
        if !ibpb {
            valid &= !pred_cmd::IBPB;
        }
        if !sbpb {
            valid &= !pred_cmd::SBPB;
        }
    }
    require(value & !valid == 0)?;
    Ok(if value == 0 {
        Write::Done
    } else {
        Write::PredCmd(value)
    })
}
