// SPDX-License-Identifier: GPL-2.0

use super::super::hosts::{caps, haswell, probe, zen3};
use super::*;
use crate::x86::ctrl::{cr4, efer};

#[test]
fn every_feature_stands_under_its_own_word_once() {
    for (word, list) in LISTED {
        let mut seen = 0;
        for feature in *list {
            assert_eq!(feature.word, *word, "{feature:x?}");
            assert_eq!(seen & feature.mask, 0, "{feature:x?}");
            seen |= feature.mask;
        }
        let g = groups(*word);
        assert_eq!(g.host | g.raw | g.kernel | g.emulated, seen);
    }
    assert_eq!(LISTED.len(), Word::ALL.len());
}

#[test]
fn an_amd_host() {
    let sup = probe(&zen3());
    for (feature, offered) in [
        (Feature::AVX2, true),
        (Feature::PKU, true),
        (Feature::X2APIC, true),
        (Feature::TSC_DEADLINE, true),
        (Feature::HYPERVISOR, true),
        (Feature::ARCH_CAPABILITIES, true),
        (Feature::TSC_ADJUST, true),
        (Feature::NULL_SEL_CLR_BASE, true),
        (Feature::LFENCE_SERIALIZES, true),
        (Feature::GBPAGES, true),
        (Feature::RDTSCP, true),
        (Feature::XSAVES, true),
        (Feature::INVARIANT_TSC, true),
        // AMD's bits of the host become Intel's as well.
        (Feature::SPEC_CTRL_SSBD, true),
        (Feature::INTEL_STIBP, true),
        // The host lacks it.
        (Feature::AVX512F, false),
        (Feature::LA57, false),
        // The host has them, the backend does not virtualise them.
        (Feature::SVM, false),
        (Feature::NPT, false),
        (Feature::MONITOR, false),
        (Feature::SHSTK, false),
        (Feature::PERFCTR_CORE, false),
        (Feature::PERFMON_V2, false),
        (Feature::OSXSAVE, false),
    ] {
        assert_eq!(sup.features.has(feature), offered, "{feature:x?}");
    }
    assert_eq!(sup.xcr0, 0x207);
    assert_eq!(sup.xss, 0);
    assert_eq!(
        sup.efer(),
        efer::SCE | efer::LME | efer::LMA | efer::NXE | efer::FFXSR
    );
    assert_eq!(sup.cr4() & cr4::PKE, cr4::PKE);
    assert_eq!(
        sup.cr4() & (cr4::CET | cr4::VMXE | cr4::SMXE | cr4::LA57),
        0
    );
}

#[test]
fn an_intel_host() {
    let sup = probe(&haswell());
    for (feature, offered) in [
        (Feature::AVX2, true),
        (Feature::INVPCID, true),
        (Feature::PCID, true),
        (Feature::SYSCALL, true),
        (Feature::XSAVEOPT, true),
        (Feature::RDTSCP, true),
        // Intel's bits of the host become AMD's as well.
        (Feature::AMD_STIBP, false),
        (Feature::VMX, false),
        (Feature::PDCM, false),
        (Feature::DS, false),
        (Feature::MPX, false),
        (Feature::GBPAGES, true),
        (Feature::PKU, false),
        (Feature::XSAVES, false),
    ] {
        assert_eq!(sup.features.has(feature), offered, "{feature:x?}");
    }
    assert_eq!(sup.xcr0, 7, "no PKRU without the feature");
}

#[test]
fn the_host_kernel_has_a_veto_and_may_vouch() {
    let mut host = zen3();
    host.kernel = |word| match word {
        Word::L7Ebx => Some(!Feature::SMAP.mask),
        Word::L7Ecx => Some(0),
        Word::X21Eax => Some(Feature::SRSO_NO.mask),
        _ => None,
    };
    let sup = probe(&host);
    assert!(!sup.features.has(Feature::SMAP));
    assert!(!sup.features.has(Feature::UMIP));
    assert!(sup.features.has(Feature::SRSO_NO), "vouched for");
    assert!(!sup.features.has(Feature::LFENCE_SERIALIZES));
    assert!(
        sup.features.has(Feature::NO_SMM_CTL_MSR),
        "emulated whatever the kernel says"
    );
}

#[test]
fn a_backend_adds_and_takes_away() {
    let host = haswell();
    let mut c = caps(4);
    c.enable = FeatureSet::of(&[Feature::VMX, Feature::UMIP]);
    c.disable = FeatureSet::of(&[Feature::INVPCID, Feature::X2APIC]);
    let sup = Supported::probe(&host, &c);
    assert!(sup.features.has(Feature::VMX) && sup.features.has(Feature::UMIP));
    assert!(!sup.features.has(Feature::INVPCID) && !sup.features.has(Feature::X2APIC));
    assert_ne!(sup.cr4() & cr4::VMXE, 0);
}

#[test]
fn without_nested_paging() {
    let mut c = caps(0);
    c.enable = FeatureSet::of(&[Feature::SHSTK]);
    c.xss = component::CET_USER | component::CET_KERNEL;
    let sup = Supported::probe(&zen3(), &c);
    assert!(!sup.features.has(Feature::PKU) && !sup.features.has(Feature::SHSTK));
    assert!(sup.features.has(Feature::GBPAGES));
    assert_eq!((sup.xcr0, sup.xss), (7, 0));
}

#[test]
fn features_go_with_the_state_they_use() {
    let mut c = caps(4);
    c.xcr0 = component::X87 | component::SSE;
    let sup = Supported::probe(&zen3(), &c);
    for f in [
        Feature::AVX,
        Feature::FMA,
        Feature::AVX2,
        Feature::PKU,
        Feature::VAES,
    ] {
        assert!(!sup.features.has(f), "{f:x?}");
    }
    assert_eq!(sup.xcr0, 3);

    c.xcr0 |= component::AVX | (1 << 5);
    let sup = Supported::probe(&zen3(), &c);
    assert!(sup.features.has(Feature::AVX2));
    assert_eq!(sup.xcr0, 7, "an incomplete AVX-512 does not take AVX along");

    c.disable = FeatureSet::of(&[Feature::XSAVE]);
    let sup = Supported::probe(&zen3(), &c);
    assert!(!sup.features.has(Feature::AVX));
    assert_eq!(sup.xcr0, 0);
}

#[test]
fn control_flow_enforcement_needs_both_states() {
    let cet = component::CET_USER | component::CET_KERNEL;
    for (enabled, xss, on) in [
        (&[Feature::SHSTK][..], cet, true),
        (&[Feature::SHSTK], component::CET_USER, false),
        (&[Feature::IBT], cet, true),
        (&[], cet, false),
    ] {
        let mut c = caps(4);
        c.enable = FeatureSet::of(enabled);
        c.xss = xss;
        let sup = Supported::probe(&zen3(), &c);
        assert_eq!(sup.xss, if on { cet } else { 0 });
        for f in [Feature::SHSTK, Feature::IBT] {
            assert_eq!(sup.features.has(f), on && enabled.contains(&f));
        }
    }
}

#[test]
fn speculation_bits_serve_both_makes() {
    let mut host = haswell();
    for ((leaf, _), regs) in &mut host.leaves {
        if *leaf == 7 {
            regs[3] |=
                Feature::SPEC_CTRL.mask | Feature::INTEL_STIBP.mask | Feature::SPEC_CTRL_SSBD.mask;
        }
    }
    let mut c = caps(4);
    let sup = Supported::probe(&host, &c);
    for (f, on) in [
        (Feature::AMD_IBPB, true),
        (Feature::AMD_IBRS, true),
        (Feature::AMD_STIBP, true),
        (Feature::AMD_SSBD, true),
        (Feature::AMD_IBPB_RET, false),
        (Feature::AMD_SSB_NO, false),
    ] {
        assert_eq!(sup.features.has(f), on, "{f:x?}");
    }
    c.host |= host_fact::NO_EIBRS_PBRSB | host_fact::NO_SPEC_STORE_BYPASS;
    let sup = Supported::probe(&host, &c);
    assert!(sup.features.has(Feature::AMD_IBPB_RET) && sup.features.has(Feature::AMD_SSB_NO));
}
