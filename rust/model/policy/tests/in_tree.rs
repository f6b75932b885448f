// SPDX-License-Identifier: GPL-2.0

//! The same answers as the in-tree module gives on the same host.
//!
//! The text files hold what a program asked of a host that ran the in-tree module: the processor's
//! CPUID, the host kernel's own table of features, and the module's answers. Everything must be
//! equal but for what is named here.

use super::cpuid::supported;
use super::feature::{host_fact, raw_features, Caps, HostCpuid, Supported};
use super::msr::{feature, feature_list, msr_list, HostMsrs, Immunities, MAX_MSRS};
use super::pv;
use crate::abi::KvmCpuidEntry2;
use crate::x86::cpuid::{Feature, FeatureSet, Reg, Regs, Word};
use crate::x86::msr;

#[derive(Default)]
struct Recorded {
    cpu: Vec<((u32, u32), Regs)>,
    kernel: Vec<((u32, u32, String), u32)>,
    supported: Vec<KvmCpuidEntry2>,
    saved: Vec<u32>,
    features: Vec<(u32, u64)>,
}

impl Recorded {
    fn parse(text: &str) -> Self {
        let mut all = Self::default();
        for line in text.lines().filter(|l| !l.starts_with('#')) {
            let mut words = line.split(' ');
            let what = words.next().unwrap();
            let rest: Vec<&str> = words.collect();
            let hex = |i: usize| u32::from_str_radix(rest[i], 16).unwrap();
            match what {
                "cpu" => all
                    .cpu
                    .push(((hex(0), hex(1)), [hex(2), hex(3), hex(4), hex(5)])),
                "kernel" => all
                    .kernel
                    .push(((hex(0), hex(1), rest[2].to_owned()), hex(3))),
                "supported" => all.supported.push(KvmCpuidEntry2 {
                    function: hex(0),
                    index: hex(1),
                    flags: hex(2),
                    eax: hex(3),
                    ebx: hex(4),
                    ecx: hex(5),
                    edx: hex(6),
                    padding: [0; 3],
                }),
                "saved" => all.saved.push(hex(0)),
                "feature" => {
                    let value = u64::from_str_radix(rest[1], 16).unwrap();
                    all.features.push((hex(0), value));
                }
                _ => panic!("{line}"),
            }
        }
        all
    }

    /// Compares the lists of CPUID entries.
    fn check_cpuid(&self, sup: &Supported) {
        let mut ours = vec![KvmCpuidEntry2::zeroed(); 256];
        let n = supported(self, sup, sup.xcr0, &mut ours).unwrap();
        ours.truncate(n);
        for (a, b) in ours.iter().zip(&self.supported) {
            assert_eq!(a, b, "ours and theirs\n{a:x?}\n{b:x?}");
        }
        assert_eq!(ours.len(), self.supported.len());
    }

    /// Compares the lists of MSRs, Hyper-V's and those of `hidden` aside.
    fn check_msrs(&self, sup: &Supported, host: &HostMsrs, hidden: &[u32]) {
        let mut ours = [0; MAX_MSRS];
        let exists = |i| self.saved.contains(&i);
        let n = msr_list(sup, host, exists, &mut ours);
        let theirs: Vec<u32> = self
            .saved
            .iter()
            .copied()
            .filter(|i| !(msr::HYPERV_FIRST..=msr::HYPERV_LAST).contains(i) && !hidden.contains(i))
            .collect();
        assert_eq!(ours[..n], theirs, "{:x?}\n{theirs:x?}", &ours[..n]);

        let n = feature_list(host, &mut ours);
        let theirs: Vec<(u32, u64)> = self
            .features
            .iter()
            .copied()
            .filter(|(i, _)| !hidden.contains(i))
            .collect();
        let ours: Vec<(u32, u64)> = ours[..n]
            .iter()
            .map(|&i| (i, feature(i, host).unwrap()))
            .collect();
        assert_eq!(ours, theirs, "{ours:x?}\n{theirs:x?}");
    }
}

impl HostCpuid for Recorded {
    fn cpuid(&self, leaf: u32, subleaf: u32) -> Regs {
        self.cpu
            .iter()
            .find(|(at, _)| *at == (leaf, subleaf))
            .map_or([0; 4], |(_, regs)| *regs)
    }

    fn kernel(&self, word: Word) -> Option<u32> {
        let (leaf, subleaf, reg) = word.source();
        let reg = match reg {
            Reg::Eax => "eax",
            Reg::Ebx => "ebx",
            Reg::Ecx => "ecx",
            Reg::Edx => "edx",
        };
        self.kernel
            .iter()
            .find(|((l, s, r), _)| (*l, *s, r.as_str()) == (leaf, subleaf, reg))
            .map(|(_, bits)| *bits)
    }
}

#[test]
fn an_emulated_amd_host() {
    let host = Recorded::parse(include_str!("amd.txt"));
    let caps = Caps {
        tdp_levels: 5,
        xcr0: 0x207,
        xss: 0,
        enable: FeatureSet::of(&[
            Feature::SVM,
            Feature::NPT,
            Feature::VMCBCLEAN,
            Feature::FLUSHBYASID,
            Feature::VGIF,
            Feature::SVME_ADDR_CHK,
        ]),
        disable: FeatureSet::EMPTY,
        host: host_fact::NULL_SEGMENT_CLEARS_BASE,
        pv_features: pv::COMMON | pv::STEAL_TIME,
    };
    let sup = Supported::probe(&host, &caps);
    host.check_cpuid(&sup);

    let mut msrs = HostMsrs::new(&sup, &raw_features(&host));
    msrs.svm = true;
    msrs.smm = true;
    msrs.microcode = 0x0100_0065;
    msrs.arch_capabilities = HostMsrs::offered_arch_capabilities(
        0,
        Immunities {
            no_bug: !(1 << 4),
            flushes_l1d: true,
            rtm: false,
        },
    );
    host.check_msrs(&sup, &msrs, &[]);
}

#[test]
fn an_emulated_intel_host() {
    let host = Recorded::parse(include_str!("intel.txt"));
    let caps = Caps {
        tdp_levels: 4,
        xcr0: 7,
        xss: 0,
        // UMIP is emulated.
        enable: FeatureSet::of(&[Feature::VMX, Feature::UMIP]),
        // This host's kernel turns ERMS off, because the firmware left fast strings off. Its table
        // of features was not recorded.
        disable: FeatureSet::of(&[Feature::ERMS]),
        host: 0,
        pv_features: pv::COMMON | pv::STEAL_TIME,
    };
    let sup = Supported::probe(&host, &caps);
    host.check_cpuid(&sup);

    let mut msrs = HostMsrs::new(&sup, &raw_features(&host));
    msrs.smm = true;
    msrs.arch_capabilities = HostMsrs::offered_arch_capabilities(
        0,
        Immunities {
            no_bug: 1 << 26 | 1 << 27 | 1 << 62,
            flushes_l1d: false,
            rtm: false,
        },
    );
    // What nested VMX describes itself by is not here.
    let nested: Vec<u32> = (msr::VMX_BASIC..=msr::VMX_VMFUNC).collect();
    host.check_msrs(&sup, &msrs, &nested);
}
