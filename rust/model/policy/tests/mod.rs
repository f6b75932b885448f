// SPDX-License-Identifier: GPL-2.0

//! Hosts for the tests of this folder.

use super::feature::{host_fact, Caps, HostCpuid, Supported};
use crate::abi::KvmCpuidEntry2;
use crate::x86::cpuid::{vendor_words, FeatureSet, Regs, Word};
use crate::x86::xsave::component;

/// A host made of a table of leaves; leaves that are not in it read as zero.
#[derive(Clone, Debug)]
pub(crate) struct TableHost {
    pub(crate) leaves: Vec<((u32, u32), Regs)>,
    pub(crate) kernel: fn(Word) -> Option<u32>,
}

impl HostCpuid for TableHost {
    fn cpuid(&self, leaf: u32, subleaf: u32) -> Regs {
        self.leaves
            .iter()
            .find(|(at, _)| *at == (leaf, subleaf))
            .map_or([0; 4], |(_, regs)| *regs)
    }

    fn kernel(&self, word: Word) -> Option<u32> {
        (self.kernel)(word)
    }
}

fn vendor(max: u32, name: &[u8; 12]) -> Regs {
    let [ebx, ecx, edx] = vendor_words(name);
    [max, ebx, ecx, edx]
}

/// A Zen 3 with everything common CPUID offers.
pub(crate) fn zen3() -> TableHost {
    TableHost {
        leaves: vec![
            ((0, 0), vendor(0x10, b"AuthenticAMD")),
            ((1, 0), [0x00a2_0f10, 0x0120_0800, 0x7ef8_320b, 0x178b_fbff]),
            ((5, 0), [0x40, 0x40, 3, 0x11]),
            ((6, 0), [4, 0, 1, 0]),
            ((7, 0), [0, 0x219c_97a9, 0x0040_069c, 0x10]),
            ((0xb, 0), [1, 2, 0x100, 1]),
            ((0xb, 1), [5, 32, 0x201, 1]),
            ((0xd, 0), [0x207, 0x988, 0x988, 0]),
            ((0xd, 1), [0xf, 0x348, 0x1800, 0]),
            ((0xd, 2), [256, 576, 0, 0]),
            ((0xd, 9), [8, 2432, 0, 0]),
            ((0xd, 11), [16, 0, 1, 0]),
            ((0xd, 12), [24, 0, 1, 0]),
            ((0x8000_0000, 0), vendor(0x8000_0023, b"AuthenticAMD")),
            (
                (0x8000_0001, 0),
                [0x00a2_0f10, 0x2000_0000, 0x75c2_37ff, 0x2fd3_fbff],
            ),
            ((0x8000_0002, 0), [0x2044_4d41; 4]),
            (
                (0x8000_0005, 0),
                [0xff40_ff40, 0xff40_ff40, 0x2008_0140, 0x2008_0140],
            ),
            (
                (0x8000_0006, 0),
                [0x4800_2200, 0x6800_4200, 0x0200_6140, 0x0203_9140],
            ),
            ((0x8000_0007, 0), [0, 0x3b, 0, 0x6799]),
            ((0x8000_0008, 0), [0x3030, 0x111e_f657, 0x501f, 0x1_0000]),
            ((0x8000_000a, 0), [1, 0x8000, 0, 0x1bcb_f4ff]),
            ((0x8000_001d, 0), [0x4121, 0x01c0_003f, 0x3f, 0]),
            ((0x8000_001d, 1), [0x4122, 0x01c0_003f, 0x3f, 0]),
            ((0x8000_001e, 0), [1, 0x100, 0, 0]),
            ((0x8000_001f, 0), [0x0101_fd3f, 0x417f, 0x1fd, 1]),
            ((0x8000_0021, 0), [0x8000_0045, 0, 0, 0]),
            ((0x8000_0022, 0), [1, 6, 0, 0]),
        ],
        kernel: |_| None,
    }
}

/// A Haswell, the oldest processor of Intel's that matters.
pub(crate) fn haswell() -> TableHost {
    TableHost {
        leaves: vec![
            ((0, 0), vendor(0xd, b"GenuineIntel")),
            ((1, 0), [0x0003_06c3, 0x0010_0800, 0x7ffa_fbff, 0xbfeb_fbff]),
            ((2, 0), [0x7603_6301, 0x00f0_b5ff, 0, 0x00c1_0000]),
            ((4, 0), [0x1c00_4121, 0x01c0_003f, 0x3f, 0]),
            ((4, 1), [0x1c00_4122, 0x01c0_003f, 0x3f, 0]),
            ((4, 2), [0x1c00_4143, 0x01c0_003f, 0x1ff, 0]),
            ((4, 3), [0x1c03_c163, 0x03c0_003f, 0x1fff, 6]),
            ((6, 0), [0x77, 2, 9, 0]),
            ((7, 0), [0, 0x27ab, 0, 0x0000_0600]),
            ((0xa, 0), [0x0730_0403, 0, 0, 0x603]),
            ((0xb, 0), [1, 2, 0x100, 0]),
            ((0xd, 0), [7, 832, 832, 0]),
            ((0xd, 1), [1, 0, 0, 0]),
            ((0xd, 2), [256, 576, 0, 0]),
            ((0x8000_0000, 0), [0x8000_0008, 0, 0, 0]),
            ((0x8000_0001, 0), [0, 0, 0x21, 0x2c10_0800]),
            ((0x8000_0007, 0), [0, 0, 0, 0x100]),
            ((0x8000_0008, 0), [0x3027, 0, 0, 0]),
        ],
        kernel: |_| None,
    }
}

/// What a backend that switches all classic state brings.
pub(crate) fn caps(tdp_levels: u8) -> Caps {
    Caps {
        tdp_levels,
        xcr0: component::X87 | component::SSE | component::AVX | component::PKRU,
        xss: 0,
        enable: FeatureSet::EMPTY,
        disable: FeatureSet::EMPTY,
        host: host_fact::NULL_SEGMENT_CLEARS_BASE,
        pv_features: 0x0100_0009,
    }
}

/// The offer of a host.
pub(crate) fn probe(host: &TableHost) -> Supported {
    Supported::probe(host, &caps(4))
}

/// The whole list of a host.
pub(crate) fn list(host: &TableHost, sup: &Supported) -> Vec<KvmCpuidEntry2> {
    let mut out = vec![KvmCpuidEntry2::zeroed(); super::cpuid::MAX_ENTRIES];
    let n = super::cpuid::supported(host, sup, sup.xcr0, &mut out).unwrap();
    out.truncate(n);
    out
}
