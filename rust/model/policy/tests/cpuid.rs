// SPDX-License-Identifier: GPL-2.0

use super::super::guest::{check, find, find_sub, lookup, Hide};
use super::super::hosts::{haswell, list, probe, zen3, TableHost};
use super::*;
use proptest::prelude::*;

fn regs(entries: &[KvmCpuidEntry2], leaf: u32, subleaf: u32) -> Regs {
    let e = find_sub(entries, leaf, subleaf).unwrap_or_else(|| panic!("no {leaf:#x}.{subleaf}"));
    [e.eax, e.ebx, e.ecx, e.edx]
}

#[test]
fn an_amd_list() {
    let host = zen3();
    let entries = list(&host, &probe(&host));
    assert_eq!(regs(&entries, 0, 0), host.cpuid(0, 0));
    assert_eq!(regs(&entries, 5, 0), [0; 4], "no MONITOR");
    assert_eq!(regs(&entries, 6, 0), [4, 0, 0, 0]);
    assert_eq!(regs(&entries, 0xb, 0), [0, 0, 0, 1]);
    assert!(find(&entries, 0xb).is_some_and(|e| e.flags == 1));
    assert_eq!(find_sub(&entries, 0xb, 1), None, "no topology");
    // 0x207 in the standard format, and the list of components.
    assert_eq!(regs(&entries, 0xd, 0), [0x207, 2440, 2440, 0]);
    assert_eq!(regs(&entries, 0xd, 1), [0xf, 840, 0, 0]);
    assert_eq!(regs(&entries, 0xd, 9), [8, 2432, 0, 0]);
    assert_eq!(find_sub(&entries, 0xd, 11), None, "no supervisor state");
    assert_eq!(regs(&entries, 0x8000_0000, 0)[0], 0x8000_0022);
    assert_eq!(regs(&entries, 0x8000_0008, 0)[0], 0x0030_3030);
    assert_eq!(regs(&entries, 0x8000_000a, 0), [0; 4]);
    assert_eq!(regs(&entries, 0x8000_001d, 1), host.cpuid(0x8000_001d, 1));
    assert_eq!(regs(&entries, 0x8000_001d, 2), [0; 4], "the terminator");
    assert_eq!(regs(&entries, 0x8000_001e, 0), [0; 4]);
    assert_eq!(regs(&entries, 0x8000_001f, 0), [0; 4]);
    assert_eq!(
        regs(&entries, 0x4000_0000, 0),
        [0x4000_0001, 0x4b4d_564b, 0x564b_4d56, 0x4d]
    );
    assert_eq!(regs(&entries, 0x4000_0001, 0), [0x0100_0009, 0, 0, 0]);
}

#[test]
fn an_intel_list() {
    let host = haswell();
    let entries = list(&host, &probe(&host));
    assert_eq!(regs(&entries, 2, 0), host.cpuid(2, 0));
    let caches: Vec<_> = entries.iter().filter(|e| e.function == 4).collect();
    assert_eq!(caches.len(), 5, "four caches and the terminator");
    assert_eq!(regs(&entries, 0xa, 0), [0; 4], "no counters");
    assert_eq!(regs(&entries, 7, 0)[0], 0);
    assert_eq!(find_sub(&entries, 7, 1), None);
    assert_eq!(
        regs(&entries, 0xd, 1),
        [1, 0, 0, 0],
        "no compaction, no size"
    );
    assert_eq!(regs(&entries, 0x8000_0000, 0)[0], 0x8000_0008);
    assert_eq!(regs(&entries, 0x8000_0008, 0)[0], 0x0027_3027);
}

#[test]
fn only_the_buffer_s_size_matters() {
    let host = zen3();
    let sup = probe(&host);
    let full = list(&host, &sup);
    for room in 0..full.len() {
        let mut out = vec![KvmCpuidEntry2::zeroed(); room];
        assert_eq!(supported(&host, &sup, sup.xcr0, &mut out), Err(TooSmall));
    }
    let mut out = vec![KvmCpuidEntry2::zeroed(); full.len()];
    assert_eq!(supported(&host, &sup, sup.xcr0, &mut out), Ok(full.len()));
    assert_eq!(out, full);
}

#[test]
fn tiles_need_permission() {
    let tiles = component::TILE;
    assert_eq!(permitted_xcr0(0x7 | tiles, u64::MAX), 0x7 | tiles);
    assert_eq!(permitted_xcr0(0x7 | tiles, component::TILE_CFG), 0x7);
    assert_eq!(permitted_xcr0(0x7, u64::MAX), 0x7);
}

#[test]
fn nested_svm_is_listed_when_offered() {
    let host = zen3();
    let mut sup = probe(&host);
    sup.features.assign(Feature::SVM, true);
    sup.features.assign(Feature::NPT, true);
    let entries = list(&host, &sup);
    assert_eq!(regs(&entries, 0x8000_000a, 0), [1, 8, 0, 1]);
}

#[test]
fn leaf_0x80000021_is_synthesised() {
    let mut host = zen3();
    for (at, r) in &mut host.leaves {
        if *at == (0x8000_0000, 0) {
            r[0] = 0x8000_001f;
        }
    }
    let sup = probe(&host);
    assert!(!sup.features.has(Feature::LFENCE_SERIALIZES));
    let entries = list(&host, &sup);
    assert_eq!(regs(&entries, 0x8000_0000, 0)[0], 0x8000_0021);
    let [eax, ..] = regs(&entries, 0x8000_0021, 0);
    assert_ne!(eax & Feature::NULL_SEL_CLR_BASE.mask, 0);
}

#[test]
fn the_emulated_list() {
    let mut out = vec![KvmCpuidEntry2::zeroed(); 3];
    assert_eq!(emulated(&probe(&zen3()), &mut out), Ok(3));
    assert_eq!(regs(&out, 0, 0), [7, 0, 0, 0]);
    assert_eq!(regs(&out, 1, 0), [0, 0, Feature::MOVBE.mask, 0]);
    assert_eq!(regs(&out, 7, 0), [0, 0, Feature::RDPID.mask, 0]);
    let room = out.get_mut(..2).unwrap();
    assert_eq!(emulated(&probe(&zen3()), room), Err(TooSmall));
}

fn any_host() -> impl Strategy<Value = TableHost> {
    let leaf = prop_oneof![0..0x28u32, 0x8000_0000..0x8000_0028u32];
    let entry = ((leaf, 0..4u32), any::<Regs>());
    (
        0..0x40u32,
        0x8000_0000..0x8000_0040u32,
        prop::collection::vec(entry, 0..60),
    )
        .prop_map(|(basic, extended, mut leaves)| {
            leaves.insert(0, ((0, 0), [basic, 1, 2, 3]));
            leaves.insert(1, ((0x8000_0000, 0), [extended, 0, 0, 0]));
            TableHost {
                leaves,
                kernel: |_| None,
            }
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever the host reports, the list fits, can be set as it is but for a width that only
    /// broken hosts report, and the CPUID instruction then returns what was listed.
    #[test]
    fn what_is_offered_can_be_set_and_looked_up(host in any_host()) {
        let sup = probe(&host);
        let entries = list(&host, &sup);
        let width = find(&entries, 0x8000_0008).map_or(48, |e| (e.eax >> 8) & 0xff);
        prop_assert_eq!(check(&entries).is_ok(), matches!(width, 48 | 57));
        for e in &entries {
            let answer = lookup(&entries, e.function, e.index, Hide::default());
            prop_assert!(answer.exact);
            prop_assert_eq!(answer.regs, [e.eax, e.ebx, e.ecx, e.edx]);
            prop_assert_eq!(e.padding, [0; 3]);
        }
        // No leaf and subleaf is listed twice.
        let mut keys: Vec<_> = entries.iter().map(|e| (e.function, e.index)).collect();
        keys.sort_unstable();
        keys.dedup();
        prop_assert_eq!(keys.len(), entries.len());
    }
}
