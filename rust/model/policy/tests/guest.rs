// SPDX-License-Identifier: GPL-2.0

use super::super::hosts::{haswell, list, probe, zen3};
use super::*;
use crate::x86::ctrl::{cr4, efer};
use proptest::prelude::*;

fn entry(function: u32, index: u32, regs: Regs) -> KvmCpuidEntry2 {
    let mut e = KvmCpuidEntry2::zeroed();
    (e.function, e.index) = (function, index);
    e.flags = u32::from(is_indexed(function));
    [e.eax, e.ebx, e.ecx, e.edx] = regs;
    e
}

fn intel(max: u32) -> KvmCpuidEntry2 {
    let [b, c, d] = vendor_words(b"GenuineIntel");
    entry(0, 0, [max, b, c, d])
}

fn amd(max: u32) -> KvmCpuidEntry2 {
    let [b, c, d] = vendor_words(b"AuthenticAMD");
    entry(0, 0, [max, b, c, d])
}

#[test]
fn checks_on_new_entries() {
    for (eax, ok) in [
        (0x3028, true),
        (0x3928, true),
        (0x0028, true),
        (0x2f28, false),
        (0x4028, false),
    ] {
        let e = [entry(0x8000_0008, 0, [eax, 0, 0, 0])];
        assert_eq!(check(&e).is_ok(), ok, "{eax:#x}");
    }
    assert_eq!(check(&[]), Ok(0));
    let tiles = [entry(0xd, 0, [0x6_0007, 0, 0, 0])];
    assert_eq!(check(&tiles), Ok(component::TILE_DATA));
}

#[test]
fn sameness_ignores_padding_only() {
    let a = [intel(7), entry(1, 0, [1, 2, 3, 4])];
    let mut b = a;
    b[1].padding = [1, 2, 3];
    assert!(same(&a, &b));
    b[1].edx = 5;
    assert!(!same(&a, &b));
    assert!(!same(&a, &a[..1]));
}

#[test]
fn a_full_guest_has_what_the_host_offers() {
    let host = zen3();
    let sup = probe(&host);
    let mut entries = list(&host, &sup);
    let guest = GuestFeatures::derive(&mut entries, &sup, &RuntimeState::default(), false);
    assert!(guest.amd);
    assert_eq!(guest.max_phys, 48);
    assert_eq!(guest.reserved_gpa_bits(), 0xffff_0000_0000_0000);
    assert_eq!(guest.family_model_stepping(), (0x19, 0x21, 0));
    assert_eq!((guest.xcr0, guest.xss), (0x207, 0));
    assert_eq!(guest.pv, 0x0100_0009);
    assert_eq!(guest.efer, sup.efer());
    assert_eq!(guest.cr4, sup.cr4());
    assert!(!guest.has(Feature::APIC), "the APIC is off");
    assert_eq!(guest.linear_bits(), 48);
}

#[test]
fn a_guest_gets_the_intersection() {
    let host = zen3();
    let sup = probe(&host);
    let mut entries = [
        intel(0xd),
        entry(1, 0, [0x0003_06c3, 0, u32::MAX, u32::MAX]),
        entry(7, 0, [0, Feature::SMEP.mask, Feature::RDPID.mask, 0]),
        entry(0xd, 0, [0xff, 0, 0, 0]),
        entry(0xd, 1, [0, 0, 0x1800, 0]),
    ];
    let guest = GuestFeatures::derive(&mut entries, &sup, &RuntimeState::default(), false);
    assert!(!guest.amd);
    assert_eq!(guest.max_phys, 36, "the default");
    assert!(guest.has(Feature::SMEP) && !guest.has(Feature::SMAP));
    assert!(guest.has(Feature::MONITOR), "emulated in name");
    assert!(guest.has(Feature::RDPID), "emulated");
    assert!(!guest.has(Feature::VMX), "claimed, not offered");
    assert!(guest.has(Feature::GBPAGES), "hardware does not ask");
    assert_eq!((guest.xcr0, guest.xss), (7, 0));
    assert_eq!(guest.efer, efer::SCE);
    assert_eq!(guest.cr4 & (cr4::SMEP | cr4::SMAP), cr4::SMEP);
    assert_eq!(guest.pv, 0);
}

#[test]
fn widths_at_the_edges() {
    for (bits, reserved) in [
        (0u32, u64::MAX),
        (52, 0xfff0_0000_0000_0000),
        (64, 0),
        (255, 0),
    ] {
        let mut e = [
            entry(0x8000_0000, 0, [0x8000_0008, 0, 0, 0]),
            entry(0x8000_0008, 0, [bits, 0, 0, 0]),
        ];
        let sup = probe(&haswell());
        let guest = GuestFeatures::derive(&mut e, &sup, &RuntimeState::default(), false);
        assert_eq!(guest.reserved_gpa_bits(), reserved, "{bits}");
    }
}

#[test]
fn bits_follow_registers() {
    let host = zen3();
    let sup = probe(&host);
    let mut entries = list(&host, &sup);
    let mut guest = GuestFeatures::derive(&mut entries, &sup, &RuntimeState::default(), false);
    let mut state = RuntimeState {
        cr4: cr4::OSXSAVE | cr4::PKE,
        apic_base: 0xfee0_0000 | 1 << 11,
        misc_enable: 1 << 18,
        xcr0: 7,
        ..RuntimeState::default()
    };
    guest.refresh(&mut entries, &sup, &state);
    for f in [Feature::OSXSAVE, Feature::OSPKE, Feature::APIC] {
        assert!(guest.has(f));
    }
    let ecx = |e: &[KvmCpuidEntry2]| find(e, 1).unwrap().ecx;
    assert_ne!(ecx(&entries) & Feature::OSXSAVE.mask, 0);
    assert_eq!(ecx(&entries) & Feature::MONITOR.mask, 0, "the quirk holds");
    assert_eq!(find_sub(&entries, 0xd, 0).unwrap().ebx, 832);
    assert_eq!(find_sub(&entries, 0xd, 1).unwrap().ebx, 832);

    state.mwait_follows_misc_enable = true;
    state.xcr0 = 0x207;
    guest.refresh(&mut entries, &sup, &state);
    assert_ne!(ecx(&entries) & Feature::MONITOR.mask, 0);
    assert_eq!(find_sub(&entries, 0xd, 1).unwrap().ebx, 840);

    state = RuntimeState {
        mwait_follows_misc_enable: true,
        ..RuntimeState::default()
    };
    guest.refresh(&mut entries, &sup, &state);
    for f in [
        Feature::OSXSAVE,
        Feature::OSPKE,
        Feature::APIC,
        Feature::MONITOR,
    ] {
        assert!(!guest.has(f));
    }
    assert_eq!(find_sub(&entries, 0xd, 0).unwrap().ebx, 576);
}

#[test]
fn paravirtual_features() {
    let sup = probe(&haswell());
    let [b, c, d] = KVM_SIGNATURE;
    // Hyper-V's leaves may stand first; ours then move up.
    let mut e = [
        entry(0x4000_0100, 0, [0x4000_0101, b, c, d]),
        entry(0x4000_0101, 0, [pv::PV_UNHALT | pv::PV_EOI, 0, 0, 0]),
    ];
    assert_eq!(
        hypervisor_leaves(&e, KVM_SIGNATURE),
        Some(HypervisorLeaves {
            base: 0x4000_0100,
            limit: 0x4000_0101
        })
    );
    let state = RuntimeState::default();
    let guest = GuestFeatures::derive(&mut e, &sup, &state, false);
    assert_eq!(guest.pv, pv::PV_UNHALT | pv::PV_EOI);
    let guest = GuestFeatures::derive(&mut e, &sup, &state, true);
    assert_eq!(guest.pv, pv::PV_EOI);
    assert_eq!(e[1].eax, pv::PV_EOI);
    assert_eq!(hypervisor_leaves(&e, [1, 2, 3]), None);
}

#[test]
fn out_of_range_leaves() {
    let rest = [
        entry(1, 0, [1, 1, 1, 1]),
        entry(0xd, 0, [0xd, 0, 0, 0]),
        entry(0xd, 1, [0xd1, 0, 0, 0]),
        entry(0x4000_0000, 0, [0x4000_0001, 0, 0, 0]),
        entry(0x8000_0000, 0, [0x8000_0001, 0, 0, 0]),
    ];
    let with = |first| {
        let mut v = vec![first];
        v.extend(rest);
        v
    };
    // (leaf, subleaf, EAX on Intel, whether the last basic leaf answered there)
    for (leaf, subleaf, eax, redirected) in [
        (1, 5, 1, false),
        (2, 0, 0, false),
        (0xe, 0, 0xd, true),
        (0xe, 1, 0xd1, true),
        (0xe, 2, 0, false),
        (0x3fff_ffff, 0, 0xd, true),
        (0x4000_0001, 0, 0, false),
        (0x4000_0002, 0, 0xd, true),
        (0x4000_0100, 0, 0xd, true),
        (0x5000_0000, 0, 0xd, true),
        (0x8000_0001, 0, 0, false),
        (0x8000_0002, 0, 0xd, true),
        (0xc000_0000, 0, 0xd, true),
        (u32::MAX, 0, 0xd, true),
    ] {
        let a = lookup(&with(intel(0xd)), leaf, subleaf, Hide::default());
        assert_eq!(
            (a.regs[0], a.used_max_basic),
            (eax, redirected),
            "{leaf:#x}.{subleaf}"
        );
        let b = lookup(&with(amd(0xd)), leaf, subleaf, Hide::default());
        let expect = if redirected { 0 } else { eax };
        assert_eq!(
            (b.regs[0], b.used_max_basic),
            (expect, false),
            "{leaf:#x}.{subleaf}"
        );
    }
    assert_eq!(lookup(&[], 0, 0, Hide::default()).regs, [0; 4]);
}

#[test]
fn topology_past_its_last_level() {
    let e = [
        intel(0xb),
        entry(0xb, 0, [1, 2, 0x100, 9]),
        entry(0xb, 1, [4, 8, 0x201, 9]),
    ];
    let a = lookup(&e, 0xb, 0x102, Hide::default());
    assert_eq!(a.regs, [0, 0, 2, 9]);
    assert!(!a.exact);
    // The same when another leaf is redirected here.
    assert_eq!(lookup(&e, 0xc, 3, Hide::default()).regs, [0, 0, 3, 9]);
    assert_eq!(lookup(&e[..2], 0xb, 3, Hide::default()).regs, [0; 4]);
}

#[test]
fn msrs_hide_features() {
    let e = [
        entry(7, 0, [0, u32::MAX, 0, 0]),
        entry(0x8000_0007, 0, [0, 0, 0, u32::MAX]),
    ];
    let hide = Hide {
        tsx: true,
        invariant_tsc: true,
    };
    let [_, ebx, ..] = lookup(&e, 7, 0, hide).regs;
    assert_eq!(ebx, !(Feature::RTM.mask | Feature::HLE.mask));
    let [.., edx] = lookup(&e, 0x8000_0007, 0, hide).regs;
    assert_eq!(edx, !(1 << 8));
}

#[test]
fn legacy_entries_answer_any_subleaf() {
    let old = KvmCpuidEntry {
        function: 4,
        eax: 1,
        ebx: 2,
        ecx: 3,
        edx: 4,
        padding: 0,
    };
    let e = [from_legacy(&old)];
    assert_eq!(lookup(&e, 4, 7, Hide::default()).regs, [1, 2, 3, 4]);
}

fn any_entries() -> impl Strategy<Value = Vec<KvmCpuidEntry2>> {
    let leaf = prop_oneof![
        0..0x28u32,
        0x8000_0000..0x8000_0028u32,
        0x4000_0000..0x4000_0003u32,
        any::<u32>()
    ];
    let one = (leaf, 0..4u32, 0..2u32, any::<Regs>()).prop_map(|(leaf, sub, flags, regs)| {
        let mut e = entry(leaf, sub, regs);
        e.flags = flags;
        e
    });
    prop::collection::vec(one, 0..40)
}

proptest! {
    /// A guest never has a feature that is neither offered nor emulated nor claimed, and what it
    /// may set follows from that.
    #[test]
    fn a_guest_has_no_more_than_it_is_offered(
        mut entries in any_entries(),
        cr4 in any::<u64>(),
        apic_base in any::<u64>(),
        xcr0 in any::<u64>(),
    ) {
        let sup = probe(&zen3());
        let state = RuntimeState { cr4, apic_base, xcr0, ..RuntimeState::default() };
        let mut guest = GuestFeatures::derive(&mut entries, &sup, &state, true);
        prop_assert_eq!(guest.cr4 & !sup.cr4(), 0);
        prop_assert_eq!(guest.efer & !sup.efer(), 0);
        prop_assert_eq!(guest.xcr0 & !sup.xcr0, 0);
        for f in [Feature::VMX, Feature::SVM, Feature::SGX, Feature::SHSTK] {
            prop_assert!(!guest.has(f));
        }
        // Refreshing is idempotent.
        let (before, was) = (entries.clone(), guest.clone());
        guest.refresh(&mut entries, &sup, &state);
        prop_assert!(same(&before, &entries));
        prop_assert_eq!(was, guest);
    }

    #[test]
    fn lookup_is_total(entries in any_entries(), leaf in any::<u32>(), sub in any::<u32>()) {
        let a = lookup(&entries, leaf, sub, Hide::default());
        prop_assert_eq!(a.exact, find_sub(&entries, leaf, sub).is_some());
    }
}
