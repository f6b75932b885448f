// SPDX-License-Identifier: GPL-2.0

use super::super::feature::raw_features;
use super::super::guest::RuntimeState;
use super::super::hosts::{haswell, list as cpuid_list, probe, zen3, TableHost};
use super::super::mce::{Bank, MAX_BANKS};
use super::super::pv;
use super::*;
use crate::x86::ctrl::efer;
use crate::x86::msr::arch_cap;

const BANKS: [Bank; MAX_BANKS] = [Bank {
    ctl: 0,
    status: 0,
    addr: 0,
    misc: 0,
    ctl2: 0,
}; MAX_BANKS];

/// A host and a guest that has all it offers.
struct Rig {
    host: HostMsrs,
    guest: GuestFeatures,
}

fn rig(table: &TableHost, svm: bool) -> Rig {
    let sup = probe(table);
    let raw = raw_features(table);
    let mut host = HostMsrs::new(&sup, &raw);
    host.svm = svm;
    host.tsc_aux = true;
    host.smm = true;
    host.steal_time = true;
    host.microcode = 0x123;
    let mut entries = cpuid_list(table, &sup);
    let guest = GuestFeatures::derive(&mut entries, &sup, &RuntimeState::default(), false);
    Rig { host, guest }
}

impl Rig {
    fn cx(&self, by_user: bool) -> MsrCx<'_> {
        MsrCx {
            guest: &self.guest,
            host: &self.host,
            pv: u32::MAX,
            by_user,
            apic_in_kernel: true,
            efer: 0,
            paging: false,
            platform_info: true,
            mwait_follows_misc_enable: false,
        }
    }

    /// Writes to a fresh state.
    fn write(&self, index: u32, value: u64, by_user: bool) -> Result<Write, MsrError> {
        let mut state = MsrState::RESET;
        state.write(index, value, &self.cx(by_user), &mut BANKS.clone())
    }

    fn read(&self, index: u32, by_user: bool) -> Result<Read, MsrError> {
        MsrState::RESET.read(index, &self.cx(by_user), &BANKS)
    }
}

const GP: Result<Write, MsrError> = Err(MsrError::Invalid);
const NONE: Result<Write, MsrError> = Err(MsrError::Unsupported);

#[test]
fn owners() {
    use MsrKind::*;
    for (index, kind) in [
        (msr::LSTAR, Vendor),
        (msr::KERNEL_GS_BASE, Vendor),
        (msr::SYSENTER_EIP, Vendor),
        (msr::TSC_AUX, Vendor),
        (msr::DE_CFG, Amd),
        (msr::EFER, Efer),
        (msr::TSC, Tsc),
        (msr::APIC_BASE, ApicBase),
        (0x800, X2Apic),
        (0x8ff, X2Apic),
        (0x900, Unknown),
        (msr::TSC_DEADLINE, TscDeadline),
        (msr::PAT, State),
        (0x26f, Mtrr),
        (0x270, Unknown),
        (msr::MTRR_CAP, Mtrr),
        (0x47f, Mce),
        (0x480, Unknown),
        (0x29f, Mce),
        (0x2a0, Unknown),
        (msr::KVM_SYSTEM_TIME, Pv),
        (0x4b56_4d07, Pv),
        (0x4b56_4d08, Unknown),
        (0x4000_0000, HyperV),
        (msr::PRED_CMD, Command),
        (msr::XFD, Xfd),
        (msr::PLATFORM_ID, Fixed),
        (u32::MAX, Unknown),
    ] {
        assert_eq!(classify(index), kind, "{index:#x}");
    }
}

#[test]
fn fixed_registers() {
    let r = rig(&zen3(), true);
    for (index, value, written) in [
        (msr::PLATFORM_ID, Some(0), NONE),
        (msr::PERF_STATUS, Some(0x400_0000_03e8), NONE),
        (msr::EBC_FREQUENCY_ID, Some(0x0100_0000), NONE),
        (msr::NB_CFG, Some(0), Ok(Write::Done)),
        (0xc001_0003, Some(0), Ok(Write::Done)),
        (msr::MMIO_CONF_BASE, Some(0), GP),
        (msr::UCODE_WRITE, None, Ok(Write::Done)),
        (msr::K7_CLK_CTL, Some(0x2000_0000), Ok(Write::Done)),
        (msr::PKG_ENERGY_STATUS, Some(0), NONE),
    ] {
        let read = value.map(Read::Value).ok_or(MsrError::Unsupported);
        assert_eq!(r.read(index, false), read, "{index:#x}");
        assert_eq!(r.write(index, 1, false), written, "{index:#x}");
    }
    assert_eq!(r.write(msr::MMIO_CONF_BASE, 0, false), Ok(Write::Done));
}

#[test]
fn writes_by_an_amd_guest() {
    let r = rig(&zen3(), true);
    let hole = 1 << 47;
    for (index, value, guest, user) in [
        (msr::LSTAR, hole, GP, GP),
        (msr::LSTAR, 1, Ok(Write::Vendor(1)), Ok(Write::Vendor(1))),
        (
            msr::STAR,
            hole,
            Ok(Write::Vendor(hole)),
            Ok(Write::Vendor(hole)),
        ),
        (
            msr::SYSENTER_EIP,
            hole,
            Ok(Write::Vendor(0xffff_8000_0000_0000)),
            Ok(Write::Vendor(0xffff_8000_0000_0000)),
        ),
        // The upper half of TSC_AUX is ignored on AMD.
        (
            msr::TSC_AUX,
            1 << 32 | 7,
            Ok(Write::Vendor(7)),
            Ok(Write::Vendor(7)),
        ),
        (
            msr::SPEC_CTRL,
            4,
            Ok(Write::Vendor(4)),
            Ok(Write::Vendor(4)),
        ),
        (msr::SPEC_CTRL, 1 << 63, GP, GP),
        (
            msr::PRED_CMD,
            1,
            Ok(Write::PredCmd(1)),
            Ok(Write::PredCmd(1)),
        ),
        (msr::PRED_CMD, 0, Ok(Write::Done), Ok(Write::Done)),
        (msr::PRED_CMD, 2, GP, GP),
        (msr::FLUSH_CMD, 1, GP, GP),
        (msr::DEBUGCTL, u64::MAX, Ok(Write::Done), Ok(Write::Done)),
        (msr::EFER, efer::SCE, Ok(Write::Efer(1)), Ok(Write::Efer(1))),
        (msr::EFER, efer::SVME, GP, GP),
        (
            msr::PAT,
            0x0007_0406_0007_0406,
            Ok(Write::Vendor(msr::PAT_RESET)),
            Ok(Write::Vendor(msr::PAT_RESET)),
        ),
        (msr::PAT, 2, GP, GP),
        (
            msr::HWCR,
            1 << 18 | 1 << 6,
            Ok(Write::Done),
            Ok(Write::Done),
        ),
        (msr::HWCR, 1, GP, GP),
        (msr::DE_CFG, 2, Ok(Write::Done), Ok(Write::Done)),
        (msr::DE_CFG, 1, GP, GP),
        (msr::TSC_RATIO, msr::TSC_RATIO_RESET, GP, Ok(Write::Done)),
        (msr::TSC_RATIO, 5, GP, GP),
        (msr::VM_HSAVE_PA, 0x1000, Ok(Write::Done), Ok(Write::Done)),
        (msr::VM_HSAVE_PA, 0x1001, GP, Ok(Write::Done)),
        (msr::VM_CR, 0x20, GP, GP),
        (msr::SMBASE, 0x4_0000, GP, Ok(Write::Done)),
        (msr::SMI_COUNT, 1, GP, Ok(Write::Done)),
        (msr::FEAT_CTL, 1, NONE, NONE),
        (msr::UMWAIT_CONTROL, 0, NONE, NONE),
        (msr::PLATFORM_INFO, 0, GP, Ok(Write::Done)),
        (msr::ARCH_CAPABILITIES, 0, NONE, Ok(Write::Done)),
        (msr::PERF_CAPABILITIES, 0, NONE, NONE),
        (
            msr::MISC_FEATURES_ENABLES,
            0,
            Ok(Write::Done),
            Ok(Write::Done),
        ),
        // PLATFORM_INFO does not offer it yet.
        (msr::MISC_FEATURES_ENABLES, 1, GP, GP),
        (
            msr::XSS,
            0,
            Ok(Write::CpuidChanged),
            Ok(Write::CpuidChanged),
        ),
        (msr::XSS, 1 << 8, GP, GP),
        (msr::TSC, 5, Ok(Write::Tsc(5)), Ok(Write::Tsc(5))),
        (msr::TSC_ADJUST, 5, Ok(Write::TscBy(5)), Ok(Write::Done)),
        (msr::UCODE_REV, 5, Ok(Write::Done), Ok(Write::Done)),
        (msr::OSVW_STATUS, 1, Ok(Write::Done), Ok(Write::Done)),
        (msr::MTRR_CAP, 0, NONE, NONE),
        (msr::MCG_CAP, 0, NONE, NONE),
        (msr::MTRR_DEF_TYPE, 0xc06, Ok(Write::Done), Ok(Write::Done)),
        (msr::MTRR_DEF_TYPE, 2, GP, GP),
        (0x210, 0, GP, GP),
        (msr::LASTBRANCHTOIP, 0, NONE, NONE),
        (msr::XFD, 0, GP, Ok(Write::Xfd(0))),
        (msr::XFD, 1 << 18, GP, GP),
        (0x123, 0, NONE, NONE),
    ] {
        assert_eq!(
            r.write(index, value, false),
            guest,
            "guest {index:#x} {value:#x}"
        );
        assert_eq!(
            r.write(index, value, true),
            user,
            "user {index:#x} {value:#x}"
        );
    }
}

#[test]
fn writes_by_an_intel_guest() {
    let r = rig(&haswell(), false);
    for (index, value, guest, user) in [
        (msr::TSC_AUX, 1 << 32, GP, GP),
        (msr::TSC_AUX, 7, Ok(Write::Vendor(7)), Ok(Write::Vendor(7))),
        (msr::DEBUGCTL, 3, Ok(Write::Done), Ok(Write::Done)),
        (msr::DEBUGCTL, 1 << 2, GP, GP),
        (msr::FEAT_CTL, 1, Ok(Write::Done), Ok(Write::Done)),
        (msr::FEAT_CTL, 5, GP, Ok(Write::Done)),
        (msr::FEAT_CTL, 1 << 3, GP, GP),
        (msr::UMWAIT_CONTROL, 4, GP, Ok(Write::Vendor(4))),
        (msr::UMWAIT_CONTROL, 2, GP, GP),
        (msr::MCG_EXT_CTL, 1, GP, Ok(Write::Done)),
        (msr::TSX_CTRL, 0, NONE, NONE),
        (msr::DE_CFG, 0, NONE, NONE),
        (msr::VM_HSAVE_PA, 0x1000, Ok(Write::Done), Ok(Write::Done)),
        (msr::VIRT_SPEC_CTRL, 0, NONE, NONE),
        (msr::XSS, 0, NONE, NONE),
        (msr::OSVW_STATUS, 1, GP, GP),
        (msr::SPEC_CTRL, 0, GP, Ok(Write::Done)),
        (msr::PRED_CMD, 1, GP, GP),
    ] {
        assert_eq!(
            r.write(index, value, false),
            guest,
            "guest {index:#x} {value:#x}"
        );
        assert_eq!(
            r.write(index, value, true),
            user,
            "user {index:#x} {value:#x}"
        );
    }
    assert_eq!(r.read(msr::XSS, false), Err(MsrError::Invalid));
    assert_eq!(r.read(msr::XSS, true), Ok(Read::Value(0)));
    assert_eq!(r.read(msr::DEBUGCTL, false), Ok(Read::Value(0)));
    assert_eq!(r.read(msr::VM_HSAVE_PA, false), Ok(Read::Value(0)));
    assert_eq!(r.read(msr::DE_CFG, true), Err(MsrError::Unsupported));
}

#[test]
fn virtualised_debugctl() {
    let mut r = rig(&haswell(), false);
    r.host.debugctl = debugctl_bits();
    let (bus_lock, rtm) = (msr::debugctl::BUS_LOCK_DETECT, msr::debugctl::RTM_DEBUG);
    assert_eq!(
        r.write(msr::DEBUGCTL, rtm, false),
        GP,
        "a guest without TSX"
    );
    assert_eq!(r.write(msr::DEBUGCTL, rtm, true), Ok(Write::Vendor(rtm)));
    assert_eq!(r.write(msr::DEBUGCTL, bus_lock, false), GP);
    r.guest.set.assign(Feature::BUS_LOCK_DETECT, true);
    assert_eq!(
        r.write(msr::DEBUGCTL, bus_lock | msr::debugctl::BTF, false),
        Ok(Write::Vendor(bus_lock)),
        "BTF is dropped"
    );
    assert_eq!(r.read(msr::DEBUGCTL, false), Ok(Read::Vendor));
}

fn debugctl_bits() -> u64 {
    msr::debugctl::BUS_LOCK_DETECT | msr::debugctl::RTM_DEBUG
}

#[test]
fn efer_rules() {
    let mut r = rig(&zen3(), true);
    let mut cx = r.cx(false);
    cx.paging = true;
    cx.efer = efer::LME | efer::LMA;
    let write = |value, cx: &MsrCx<'_>| {
        let mut state = MsrState::RESET;
        state.write(msr::EFER, value, cx, &mut BANKS.clone())
    };
    let (lme, lma) = (efer::LME, efer::LMA);
    assert_eq!(write(lma, &cx), GP, "LME cannot change under paging");
    assert_eq!(write(lme, &cx), Ok(Write::Efer(lme | lma)), "LMA is kept");
    cx.by_user = true;
    assert_eq!(write(0, &cx), Ok(Write::Efer(lma)));
    cx.by_user = false;
    cx.paging = false;
    cx.efer = 0;
    assert_eq!(write(lme | lma, &cx), Ok(Write::Efer(lme)));
    // A guest without the feature; user space may, the host has it.
    r.guest.efer &= !efer::NXE;
    assert_eq!(r.write(msr::EFER, efer::NXE, false), GP);
    assert_eq!(
        r.write(msr::EFER, efer::NXE, true),
        Ok(Write::Efer(efer::NXE))
    );
}

#[test]
fn paravirtual_registers() {
    let r = rig(&zen3(), true);
    let mut cx = r.cx(false);
    let mut s = MsrState::RESET;
    let mut banks = BANKS;
    let mut write = |s: &mut MsrState, i, v, cx: &MsrCx<'_>| s.write(i, v, cx, &mut banks);

    let new = Write::SystemTime { old: false };
    assert_eq!(
        write(&mut s, msr::KVM_SYSTEM_TIME_NEW, 0x1001, &cx),
        Ok(new)
    );
    let old = Write::SystemTime { old: true };
    assert_eq!(write(&mut s, msr::KVM_SYSTEM_TIME, 0x2001, &cx), Ok(old));
    assert_eq!(
        s.read(msr::KVM_SYSTEM_TIME_NEW, &cx, &BANKS),
        Ok(Read::Value(0x2001))
    );
    assert_eq!(
        write(&mut s, msr::KVM_STEAL_TIME, 0x41, &cx),
        Ok(Write::StealTime)
    );
    assert_eq!(write(&mut s, msr::KVM_STEAL_TIME, 0x43, &cx), GP);
    assert_eq!(s.steal_time, 0x41);
    assert_eq!(
        write(&mut s, msr::KVM_PV_EOI_EN, 0x101, &cx),
        Ok(Write::PvEoi(0x101))
    );
    assert_eq!(write(&mut s, msr::KVM_PV_EOI_EN, 0x103, &cx), GP);
    assert_eq!(
        write(&mut s, msr::KVM_ASYNC_PF_EN, 0x1009, &cx),
        Ok(Write::AsyncPf(0x1009))
    );
    assert_eq!(s.async_pf, 0, "the caller stores it");
    assert_eq!(write(&mut s, msr::KVM_ASYNC_PF_EN, 0x10, &cx), GP);
    assert_eq!(
        write(&mut s, msr::KVM_ASYNC_PF_INT, 0xec, &cx),
        Ok(Write::Done)
    );
    assert_eq!(write(&mut s, msr::KVM_ASYNC_PF_INT, 0x100, &cx), GP);
    assert_eq!(
        write(&mut s, msr::KVM_ASYNC_PF_ACK, 1, &cx),
        Ok(Write::AsyncPfAck)
    );
    assert_eq!(write(&mut s, msr::KVM_POLL_CONTROL, 2, &cx), GP);
    assert_eq!(
        write(&mut s, msr::KVM_POLL_CONTROL, 0, &cx),
        Ok(Write::Done)
    );
    assert_eq!(
        write(&mut s, msr::KVM_WALL_CLOCK, 8, &cx),
        Ok(Write::WallClock(8))
    );
    assert_eq!(
        s.read(msr::KVM_WALL_CLOCK, &cx, &BANKS),
        Ok(Read::WallClock)
    );

    cx.apic_in_kernel = false;
    assert_eq!(write(&mut s, msr::KVM_ASYNC_PF_EN, 1, &cx), GP);
    assert_eq!(write(&mut s, msr::KVM_ASYNC_PF_EN, 0, &cx), Ok(Write::Done));

    // Enforced features.
    cx.pv = pv::CLOCKSOURCE2 | pv::ASYNC_PF;
    cx.apic_in_kernel = true;
    assert_eq!(write(&mut s, msr::KVM_SYSTEM_TIME_NEW, 1, &cx), Ok(new));
    assert_eq!(write(&mut s, msr::KVM_SYSTEM_TIME, 1, &cx), NONE);
    assert_eq!(
        s.read(msr::KVM_STEAL_TIME, &cx, &BANKS),
        Err(MsrError::Unsupported)
    );
    assert_eq!(
        write(&mut s, msr::KVM_ASYNC_PF_EN, 9, &cx),
        GP,
        "no interrupts"
    );
}

#[test]
fn misc_enable_rules() {
    let r = rig(&zen3(), true);
    let mut cx = r.cx(false);
    let mut s = MsrState::RESET;
    let ro = msr::misc_enable::BTS_UNAVAIL | msr::misc_enable::PEBS_UNAVAIL;
    let write =
        |s: &mut MsrState, v, cx: &MsrCx<'_>| s.write(msr::MISC_ENABLE, v, cx, &mut BANKS.clone());
    assert_eq!(write(&mut s, 0, &cx), GP, "read-only bits");
    let wanted = ro | 1 | msr::misc_enable::EMON;
    assert_eq!(write(&mut s, wanted, &cx), Ok(Write::CpuidChanged));
    assert_eq!(s.misc_enable, ro | 1, "EMON is dropped");
    cx.by_user = true;
    assert_eq!(write(&mut s, 0, &cx), Ok(Write::CpuidChanged));
    let mut bare = r.guest.clone();
    bare.set.assign(Feature::SSE3, false);
    cx.guest = &bare;
    cx.mwait_follows_misc_enable = true;
    assert_eq!(write(&mut s, msr::misc_enable::MWAIT, &cx), GP);
}

#[test]
fn a_locked_register_stays() {
    let r = rig(&haswell(), false);
    let mut s = MsrState::RESET;
    let mut banks = BANKS;
    let locked = feat_ctl_locked();
    assert!(s
        .write(msr::FEAT_CTL, locked, &r.cx(false), &mut banks)
        .is_ok());
    assert_eq!(s.write(msr::FEAT_CTL, 0, &r.cx(false), &mut banks), GP);
    assert!(s.write(msr::FEAT_CTL, 0, &r.cx(true), &mut banks).is_ok());
}

fn feat_ctl_locked() -> u64 {
    msr::feat_ctl::LOCKED
}

#[test]
fn svm_disable_locks_itself() {
    let r = rig(&zen3(), true);
    let mut s = MsrState::RESET;
    let mut banks = BANKS;
    let mut cx = r.cx(false);
    assert!(s.write(msr::VM_CR, 0x18, &cx, &mut banks).is_ok());
    assert!(s.write(msr::VM_CR, 0, &cx, &mut banks).is_ok());
    assert_eq!(s.vm_cr, 0x18);
    s.vm_cr = 0;
    cx.efer = efer::SVME;
    assert_eq!(s.write(msr::VM_CR, 0x10, &cx, &mut banks), GP);
    assert_eq!(s.vm_cr, 0);
}

#[test]
fn feature_registers() {
    let mut r = rig(&zen3(), true);
    r.host.arch_capabilities = HostMsrs::offered_arch_capabilities(
        0,
        Immunities {
            no_bug: u64::MAX,
            flushes_l1d: false,
            rtm: false,
        },
    );
    let expect = arch_cap::RDCL_NO
        | arch_cap::SSB_NO
        | arch_cap::MDS_NO
        | arch_cap::PSCHANGE_MC_NO
        | arch_cap::GDS_NO
        | arch_cap::RFDS_NO
        | arch_cap::ITS_NO;
    assert_eq!(r.host.arch_capabilities, expect);
    let mut s = MsrState::RESET;
    s.stuff_features(&r.host);
    let cx = r.cx(false);
    assert_eq!(
        s.read(msr::ARCH_CAPABILITIES, &cx, &BANKS),
        Ok(Read::Value(expect))
    );
    assert_eq!(
        s.read(msr::PLATFORM_INFO, &cx, &BANKS),
        Ok(Read::Value(1 << 31))
    );
    assert_eq!(
        s.read(msr::UCODE_REV, &cx, &BANKS),
        Ok(Read::Value(0x0100_0065))
    );
    assert!(s
        .write(msr::MISC_FEATURES_ENABLES, 1, &cx, &mut BANKS.clone())
        .is_ok());
    assert!(s.cpuid_faults_in_user_mode());
    let mut hidden = cx;
    hidden.platform_info = false;
    assert_eq!(
        s.read(msr::PLATFORM_INFO, &hidden, &BANKS),
        Err(MsrError::Invalid)
    );

    // A host with the register, with bits that must not get through.
    let host = u64::MAX;
    let offered = HostMsrs::offered_arch_capabilities(host, Immunities::default());
    for hidden in [10, 11, 12, 18, 21, 23, 9, 25, 63] {
        assert_eq!(offered >> hidden & 1, 0, "{hidden}");
    }
    assert_eq!(offered & arch_cap::TAA_NO, 0, "no TSX, no claim");
    assert_ne!(offered & arch_cap::TSX_CTRL, 0);
}

#[test]
fn lists() {
    for (table, svm) in [(zen3(), true), (haswell(), false)] {
        let r = rig(&table, svm);
        let sup = probe(&table);
        let mut ids = [0; MAX_MSRS];
        let n = msr_list(&sup, &r.host, |_| true, &mut ids);
        assert!(n < MAX_MSRS);
        let ids = &ids[..n];
        let mut sorted = ids.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), n, "no duplicates");
        assert_eq!(ids.contains(&msr::TSC_RATIO), svm);
        assert_eq!(ids.contains(&msr::MCG_EXT_CTL), !svm);
        for absent in [
            msr::BNDCFGS,
            msr::XFD,
            msr::XSS,
            msr::UMWAIT_CONTROL,
            msr::TSX_CTRL,
        ] {
            assert!(!ids.contains(&absent), "{absent:#x}");
        }
        // User space can read all of them and put back what it read.
        for &index in ids {
            let value = match r.read(index, true) {
                Ok(Read::Value(v)) => v,
                Ok(_) => 0,
                Err(e) => {
                    soften(e, index, 0, true, ids, false).unwrap();
                    0
                }
            };
            if let Err(e) = r.write(index, value, true) {
                assert_eq!(
                    soften(e, index, value, true, ids, false),
                    Ok(()),
                    "{index:#x}"
                );
            }
        }
        // Without any register of the host, the emulated ones are left.
        let mut few = [0; MAX_MSRS];
        assert!(msr_list(&sup, &r.host, |_| false, &mut few) < n);
        assert_eq!(few[0], msr::KVM_SYSTEM_TIME);

        let n = feature_list(&r.host, &mut few);
        assert_eq!(n, if svm { 5 } else { 4 });
        for &index in &few[..n] {
            assert!(feature(index, &r.host).is_ok());
            assert_eq!(is_frozen_feature(index), index != msr::UCODE_REV);
        }
    }
    assert!(is_frozen_feature(msr::VMX_BASIC) && !is_frozen_feature(msr::EFER));
}

#[test]
fn softening() {
    let known = [msr::XSS];
    let none = MsrError::Unsupported;
    for (error, index, value, by_user, ignore, ok) in [
        (none, msr::XSS, 0, true, false, true),
        (none, msr::XSS, 1, true, false, false),
        (none, msr::XSS, 0, false, false, false),
        (none, 0x123, 0, true, false, false),
        (none, 0x123, 1, false, true, true),
        (MsrError::Invalid, msr::XSS, 0, true, true, false),
    ] {
        let result = soften(error, index, value, by_user, &known, ignore);
        assert_eq!(result.is_ok(), ok, "{index:#x} {value} {by_user} {ignore}");
    }
}

#[test]
fn apic_base_transitions() {
    let r = rig(&zen3(), true);
    let base = 0xfee0_0000;
    let (off, on, x2) = (base, base | 0x800, base | 0xc00);
    for (old, new, guest, user) in [
        (on, off, true, true),
        (off, on, true, true),
        (on, x2, true, true),
        (x2, on, false, true),
        (off, x2, false, true),
        (x2, off, true, true),
        (on, base | 0x400, false, false),
        (on, on | 1, false, false),
        (on, on | 1 << 60, false, false),
        (on | 0x100, on | 0x100, true, true),
    ] {
        assert_eq!(
            apic_base_valid(old, new, &r.guest, false),
            guest,
            "{old:#x} {new:#x}"
        );
        assert_eq!(
            apic_base_valid(old, new, &r.guest, true),
            user,
            "{old:#x} {new:#x}"
        );
    }
    let bare = GuestFeatures::empty();
    assert!(!apic_base_valid(on, x2, &bare, true), "no x2APIC");
}

#[test]
fn init_keeps_what_reset_clears() {
    let mut s = MsrState::RESET;
    s.pat = 0;
    s.xss = 1;
    s.steal_time = 1;
    s.smbase = 0;
    let mut init = s.clone();
    init.reset(true);
    assert_eq!(
        (init.pat, init.xss, init.smbase, init.steal_time),
        (0, 1, 0, 0)
    );
    s.reset(false);
    assert_eq!(s, MsrState::RESET);
}

#[path = "msr_props.rs"]
mod props;

#[test]
fn errata_of_all_cpus() {
    let offered = |cpus: &[[u64; 2]], family| HostMsrs::offered_osvw(cpus.iter().copied(), family);
    // What one CPU has, guests have, but for numbers 1 and 2.
    assert_eq!(offered(&[[4, 0], [4, 0xf]], 0x10), [4, 9]);
    assert_eq!(offered(&[[4, 6]], 0x10), [4, 0]);
    // What one CPU does not tell is not told, and what is beyond the list neither.
    assert_eq!(offered(&[[3, 8], [4, 8]], 0x10), [3, 0]);
    assert_eq!(offered(&[[5, 0x19]], 0x17), [4, 9]);
    assert_eq!(offered(&[[1, 1], [64, 0]], 0x11), [3, 1]);
    // Nothing is told: erratum 298 may be there on family 10h.
    assert_eq!(offered(&[[0, 8], [4, 9]], 0x10), [3, 1]);
    assert_eq!(offered(&[[0, 0]], 0x17), [3, 0]);
}
