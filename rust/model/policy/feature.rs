// SPDX-License-Identifier: GPL-2.0

//! Which CPUID features can be offered to guests on this host.
//!
//! [`Supported::probe`] runs once at load. For every feature bit a table says on what it depends:
//!
//! | group | offered when |
//! |---|---|
//! | `host` | the processor has it and the host kernel uses it |
//! | `raw` | the processor has it, whatever the host kernel does |
//! | `kernel` | the host kernel vouches for it, even if the processor's CPUID does not say so |
//! | `emulated` | always: software provides it |
//! | none | only when the vendor backend adds it to [`Caps::enable`] |
//!
//! A bit that no group lists is hidden. Some bits state the same fact for different vendors
//! (speculation control, most of all); those are derived at the end of `probe`.

use crate::x86::cpuid::{Feature, FeatureSet, Reg, Regs, Word};
use crate::x86::xsave::{component, XsaveLayout};

/// The host as CPUID shows it.
pub trait HostCpuid {
    /// Executes CPUID; returns EAX, EBX, ECX, EDX. All calls must see the same CPU.
    fn cpuid(&self, leaf: u32, subleaf: u32) -> Regs;

    /// The bits of a word that the host kernel uses or vouches for: its own table of features.
    /// `None` for a word it keeps no table of; then CPUID alone counts.
    fn kernel(&self, word: Word) -> Option<u32>;
}

/// What the vendor backend and the host kernel bring in.
#[derive(Clone, Debug)]
pub struct Caps {
    /// Levels of the nested page table that hardware walks, 0 without nested paging.
    pub tdp_levels: u8,
    /// Extended state the backend switches, as XCR0 bits. Must be a subset of the host's XCR0.
    pub xcr0: u64,
    /// Supervisor state the backend switches, as IA32_XSS bits.
    pub xss: u64,
    /// Features the backend adds: those of no group, and those it emulates.
    pub enable: FeatureSet,
    /// Features the backend cannot provide.
    pub disable: FeatureSet,
    /// `bug::*` and the like: what the host kernel knows about the processor.
    pub host: u32,
    /// Paravirtual features, EAX of leaf 0x40000001.
    pub pv_features: u32,
}

/// Facts for [`Caps::host`]. With 0 the processor counts as one that has every bug.
pub mod host_fact {
    /// Loading a null selector clears the segment's base.
    pub const NULL_SEGMENT_CLEARS_BASE: u32 = 1 << 0;
    /// Not affected by speculative store bypass.
    pub const NO_SPEC_STORE_BYPASS: u32 = 1 << 1;
    /// IBPB also clears the return predictions of barrier-less entries (not affected by PBRSB).
    pub const NO_EIBRS_PBRSB: u32 = 1 << 2;
    /// Store bypass is controlled through the family-specific LS_CFG register.
    pub const LS_CFG_SSBD: u32 = 1 << 3;
}

/// The bits of leaf 1 EDX that leaf 0x80000001 EDX repeats. `APM: vol 3, E.4.2`.
const EDX_ALIASES: u32 = bits(
    Word::L1Edx,
    &[
        Feature::FPU,
        Feature::VME,
        Feature::DE,
        Feature::PSE,
        Feature::TSC,
        Feature::MSR,
        Feature::PAE,
        Feature::MCE,
        Feature::CX8,
        Feature::APIC,
        Feature::MTRR,
        Feature::PGE,
        Feature::MCA,
        Feature::CMOV,
        Feature::PAT,
        Feature::PSE36,
        Feature::MMX,
        Feature::FXSR,
    ],
);

/// The bits that `list` has in `word`.
const fn bits(word: Word, list: &[Feature]) -> u32 {
    FeatureSet::of(list).word(word)
}

/// On what the features of one word depend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Groups {
    host: u32,
    raw: u32,
    kernel: u32,
    emulated: u32,
}

macro_rules! groups {
    ($( $word:ident {
        $( host: [$($host:ident),* $(,)?], )?
        $( raw: [$($raw:ident),* $(,)?], )?
        $( kernel: [$($kernel:ident),* $(,)?], )?
        $( emulated: [$($emulated:ident),* $(,)?], )?
    } )*) => {
        /// The table: by word, then by group.
        const fn groups(word: Word) -> Groups {
            match word {
                $( Word::$word => const {
                    Groups {
                        host: bits(Word::$word, &[$($(Feature::$host),*)?]),
                        raw: bits(Word::$word, &[$($(Feature::$raw),*)?]),
                        kernel: bits(Word::$word, &[$($(Feature::$kernel),*)?]),
                        emulated: bits(Word::$word, &[$($(Feature::$emulated),*)?]),
                    }
                } ),*
            }
        }

        /// Each word with everything its groups list, to check that a feature stands under its
        /// own word and in one group only.
        #[cfg(test)]
        const LISTED: &[(Word, &[Feature])] = &[
            $( (Word::$word, &[
                $($(Feature::$host,)*)?
                $($(Feature::$raw,)*)?
                $($(Feature::$kernel,)*)?
                $($(Feature::$emulated,)*)?
            ]) ),*
        ];
    };
}

// KVM: the choice of bits follows what the in-tree module of Linux 7.3 offers. Left to the backend
// are the bits that need an intercept, an MSR or a control of their own.
groups! {
    L1Ecx {
        host: [
            SSE3, PCLMULQDQ, SSSE3, FMA, CX16, PCID, SSE4_1, SSE4_2, MOVBE, POPCNT, AES, XSAVE,
            AVX, F16C, RDRAND,
        ],
        emulated: [X2APIC, TSC_DEADLINE, HYPERVISOR],
    }
    L1Edx {
        host: [
            FPU, VME, DE, PSE, TSC, MSR, PAE, MCE, CX8, APIC, SEP, MTRR, PGE, MCA, CMOV, PAT,
            PSE36, CLFLUSH, MMX, FXSR, SSE, SSE2, SELFSNOOP,
        ],
    }
    L7Ebx {
        host: [
            FSGSBASE, BMI1, HLE, AVX2, FDP_EXCPTN_ONLY, SMEP, BMI2, ERMS, INVPCID, RTM,
            ZERO_FCS_FDS, AVX512F, AVX512DQ, RDSEED, ADX, SMAP, AVX512IFMA, CLFLUSHOPT, CLWB,
            AVX512PF, AVX512ER, AVX512CD, SHA, AVX512BW, AVX512VL,
        ],
        emulated: [TSC_ADJUST],
    }
    L7Ecx {
        host: [
            AVX512VBMI, PKU, RDPID, AVX512_VPOPCNTDQ, UMIP, AVX512_VBMI2, GFNI, VAES, VPCLMULQDQ,
            AVX512_VNNI, AVX512_BITALG, CLDEMOTE, MOVDIRI, MOVDIR64B,
        ],
        raw: [LA57],
    }
    L7Edx {
        host: [
            AVX512_4VNNIW, AVX512_4FMAPS, SPEC_CTRL, SPEC_CTRL_SSBD, INTEL_STIBP, MD_CLEAR,
            AVX512_VP2INTERSECT, FSRM, SERIALIZE, TSXLDTRK, AVX512_FP16, AMX_TILE, AMX_INT8,
            AMX_BF16, FLUSH_L1D,
        ],
        emulated: [ARCH_CAPABILITIES],
    }
    L7S1Eax {
        host: [
            SHA512, SM3, SM4, AVX_VNNI, AVX512_BF16, CMPCCXADD, FZRM, FSRS, FSRC, WRMSRNS, LKGS,
            AMX_FP16, AVX_IFMA, MOVRS,
        ],
    }
    L7S1Ecx {}
    L7S1Edx {
        host: [AVX_VNNI_INT8, AVX_NE_CONVERT, AMX_COMPLEX, AVX_VNNI_INT16, PREFETCHITI, AVX10],
    }
    L7S2Edx {
        host: [INTEL_PSFD, IPRED_CTRL, RRSBA_CTRL, DDPD_U, BHI_CTRL, MCDT_NO],
    }
    LdS1Eax {
        host: [XSAVEOPT, XSAVEC, XGETBV1, XSAVES, XFD],
    }
    L1eS1Eax {
        host: [
            AMX_INT8_ALIAS, AMX_BF16_ALIAS, AMX_COMPLEX_ALIAS, AMX_FP16_ALIAS, AMX_FP8, AMX_TF32,
            AMX_AVX512, AMX_MOVRS,
        ],
    }
    L24Ebx {
        host: [AVX10_128, AVX10_256, AVX10_512],
    }
    L24S1Ecx {
        host: [AVX10_VNNI_INT],
    }
    X1Ecx {
        host: [
            LAHF_LM, CMP_LEGACY, CR8_LEGACY, ABM, SSE4A, MISALIGNSSE, PREFETCHW, OSVW, XOP, FMA4,
            TBM, TOPOEXT,
        ],
    }
    X1Edx {
        host: [
            SYSCALL, NX, MMXEXT, FXSR_OPT, GBPAGES, RDTSCP, LM, AMD_3DNOWEXT, AMD_3DNOW,
        ],
    }
    X7Edx {
        host: [INVARIANT_TSC],
    }
    X8Ebx {
        host: [
            CLZERO, XSAVEERPTR, WBNOINVD, AMD_IBPB, AMD_IBRS, AMD_SSBD, AMD_SSB_NO, AMD_STIBP,
            AMD_STIBP_ALWAYS_ON, AMD_IBRS_SAME_MODE, AMD_PSFD, AMD_IBPB_RET,
        ],
        raw: [EFER_LMSLE_MBZ],
    }
    XaEdx {}
    X21Eax {
        host: [
            NO_NESTED_DATA_BP, WRMSR_XX_BASE_NS, NULL_SEL_CLR_BASE, AUTOIBRS, PREFETCHI,
            AVX512_BMM, SRSO_USER_KERNEL_NO,
        ],
        kernel: [LFENCE_SERIALIZES, VERW_CLEAR, SBPB, IBPB_BRTYPE, SRSO_NO],
        emulated: [NO_SMM_CTL_MSR, GP_ON_USER_CPUID],
    }
    X21Ecx {
        kernel: [TSA_SQ_NO, TSA_L1_NO, TSA_FILL_NO],
    }
    X22Eax {}
}

/// What can be offered on this host.
#[derive(Clone, Debug)]
pub struct Supported {
    /// The features, those that only count inside the kernel included.
    pub features: FeatureSet,
    /// Whether 1 GiB pages work in guest page tables: with nested paging that is the hardware's
    /// choice, whatever CPUID says.
    pub hw_gbpages: bool,
    /// Levels of the nested page table, 0 without nested paging.
    pub tdp_levels: u8,
    /// Extended state, as XCR0 bits.
    pub xcr0: u64,
    /// Supervisor state, as IA32_XSS bits.
    pub xss: u64,
    /// Where the processor puts extended state.
    pub layout: XsaveLayout,
    /// Paravirtual features.
    pub pv_features: u32,
}

/// Reads one word of the processor's own CPUID, 0 if the leaf does not exist.
pub fn raw_word(host: &impl HostCpuid, word: Word) -> u32 {
    let (leaf, subleaf, reg) = word.source();
    let [max, ..] = host.cpuid(leaf & 0x8000_0000, 0);
    if leaf > max {
        return 0;
    }
    if subleaf != 0 && leaf != 0xd {
        // Leaves with numbered subleaves give their count in EAX of the first.
        let [last, ..] = host.cpuid(leaf, 0);
        if subleaf > last {
            return 0;
        }
    }
    let [eax, ebx, ecx, edx] = host.cpuid(leaf, subleaf);
    match reg {
        Reg::Eax => eax,
        Reg::Ebx => ebx,
        Reg::Ecx => ecx,
        Reg::Edx => edx,
    }
}

/// Every feature the processor itself reports: what a backend intersects with before it enables.
pub fn raw_features(host: &impl HostCpuid) -> FeatureSet {
    let mut set = FeatureSet::EMPTY;
    for &word in Word::ALL {
        set.set_word(word, raw_word(host, word));
    }
    set
}

impl Supported {
    /// Decides what can be offered.
    pub fn probe(host: &impl HostCpuid, caps: &Caps) -> Self {
        let raw = raw_features(host);
        let mut kernel = FeatureSet::EMPTY;
        let mut features = FeatureSet::EMPTY;
        for &word in Word::ALL {
            let g = groups(word);
            let known = host.kernel(word).unwrap_or(raw.word(word));
            kernel.set_word(word, known);
            features.set_word(
                word,
                (g.host & known | g.raw) & raw.word(word) | g.kernel & known | g.emulated,
            );
        }
        // The aliases are bits of another word and have no group.
        let aliases = raw.word(Word::X1Edx) & kernel.word(Word::L1Edx) & EDX_ALIASES;
        features.set_word(Word::X1Edx, features.word(Word::X1Edx) | aliases);

        let has = |f: Feature| raw.has(f) && kernel.has(f);
        speculation_control(&mut features, has, caps.host);
        if caps.host & host_fact::NULL_SEGMENT_CLEARS_BASE != 0 {
            features.assign(Feature::NULL_SEL_CLR_BASE, true);
        }
        if caps.tdp_levels == 0 {
            // Only nested paging lets hardware apply protection keys and shadow stacks; 1 GiB pages
            // need no hardware when the tables are shadowed.
            features.assign(Feature::PKU, false);
            features.assign(Feature::GBPAGES, true);
        }
        if !raw.has(Feature::OSPKE) {
            features.assign(Feature::PKU, false);
        }
        features.insert_all(&caps.enable);
        features.remove_all(&caps.disable);
        if caps.tdp_levels == 0 {
            features.assign(Feature::SHSTK, false);
        }

        let mut xcr0 = caps.xcr0;
        if !features.has(Feature::XSAVE) {
            xcr0 = 0;
        }
        for (state, main, users) in NEEDS_STATE {
            if xcr0 & state != *state || !features.has(*main) {
                features.remove_all(users);
                // AVX is the first of the list and other groups only build on it.
                let builds_on_avx = *state & component::AVX512 != 0;
                xcr0 &= !state | if builds_on_avx { component::AVX } else { 0 };
            }
        }
        let mut xss = caps.xss;
        let cet = component::CET_USER | component::CET_KERNEL;
        if !features.has(Feature::XSAVES) {
            xss = 0;
        }
        if !features.has(Feature::SHSTK) && !features.has(Feature::IBT) || xss & cet != cet {
            // Both states or none: the features share them.
            xss &= !cet;
            features.assign(Feature::SHSTK, false);
            features.assign(Feature::IBT, false);
        }

        Self {
            hw_gbpages: caps.tdp_levels == 0 || has(Feature::GBPAGES),
            tdp_levels: caps.tdp_levels,
            xcr0,
            xss,
            layout: XsaveLayout::probe(|leaf, sub| {
                let [max, ..] = host.cpuid(0, 0);
                if leaf <= max {
                    host.cpuid(leaf, sub)
                } else {
                    [0; 4]
                }
            }),
            pv_features: caps.pv_features,
            features,
        }
    }

    /// Bits of EFER that a guest with every feature could set. System calls are always possible:
    /// where hardware refuses one, it is emulated.
    pub fn efer(&self) -> u64 {
        efer_of(&self.features)
    }

    /// Bits of CR4 that a guest with every feature could set.
    pub fn cr4(&self) -> u64 {
        cr4_of(&self.features)
    }
}

/// Extended state, the feature that brings it, and all features that use it: a group of components
/// that is incomplete takes its features along, and the other way round. AVX goes before AVX-512,
/// which builds on it.
const NEEDS_STATE: &[(u64, Feature, FeatureSet)] = &[
    (
        component::AVX,
        Feature::AVX,
        FeatureSet::of(&[
            Feature::AVX,
            Feature::AVX2,
            Feature::FMA,
            Feature::F16C,
            Feature::VAES,
            Feature::VPCLMULQDQ,
            Feature::AVX_VNNI,
            Feature::AVX_IFMA,
            Feature::AVX_VNNI_INT8,
            Feature::AVX_VNNI_INT16,
            Feature::AVX_NE_CONVERT,
            Feature::SHA512,
            Feature::SM3,
            Feature::SM4,
            Feature::XOP,
            Feature::FMA4,
        ]),
    ),
    (
        component::BNDREGS | component::BNDCSR,
        Feature::MPX,
        FeatureSet::of(&[Feature::MPX]),
    ),
    (
        component::AVX512 | component::AVX,
        Feature::AVX512F,
        FeatureSet::of(&[
            Feature::AVX512F,
            Feature::AVX512DQ,
            Feature::AVX512IFMA,
            Feature::AVX512PF,
            Feature::AVX512ER,
            Feature::AVX512CD,
            Feature::AVX512BW,
            Feature::AVX512VL,
            Feature::AVX512VBMI,
            Feature::AVX512_VBMI2,
            Feature::AVX512_VNNI,
            Feature::AVX512_BITALG,
            Feature::AVX512_VPOPCNTDQ,
            Feature::AVX512_4VNNIW,
            Feature::AVX512_4FMAPS,
            Feature::AVX512_VP2INTERSECT,
            Feature::AVX512_FP16,
            Feature::AVX512_BF16,
            Feature::AVX512_BMM,
            Feature::AVX10,
            Feature::AVX10_128,
            Feature::AVX10_256,
            Feature::AVX10_512,
            Feature::AVX10_VNNI_INT,
        ]),
    ),
    (
        component::PKRU,
        Feature::PKU,
        FeatureSet::of(&[Feature::PKU]),
    ),
    (
        component::TILE,
        Feature::AMX_TILE,
        FeatureSet::of(&[
            Feature::AMX_TILE,
            Feature::AMX_INT8,
            Feature::AMX_BF16,
            Feature::AMX_FP16,
            Feature::AMX_COMPLEX,
            Feature::AMX_INT8_ALIAS,
            Feature::AMX_BF16_ALIAS,
            Feature::AMX_COMPLEX_ALIAS,
            Feature::AMX_FP16_ALIAS,
            Feature::AMX_FP8,
            Feature::AMX_TF32,
            Feature::AMX_AVX512,
            Feature::AMX_MOVRS,
            Feature::XFD,
        ]),
    ),
];

/// The same controls have bits of Intel's and of AMD's: a guest of either make must find its own.
/// KVM: `APM: vol 3, E.4.6` and `SDM: vol 2A, CPUID leaf 7` name them.
fn speculation_control(features: &mut FeatureSet, has: impl Fn(Feature) -> bool, facts: u32) {
    let ibrs = has(Feature::SPEC_CTRL) || has(Feature::AMD_IBRS);
    let ibpb = has(Feature::SPEC_CTRL) || has(Feature::AMD_IBPB);
    let stibp = has(Feature::INTEL_STIBP) || has(Feature::AMD_STIBP);
    let mut also = |f: Feature, on: bool| {
        if on {
            features.assign(f, true);
        }
    };

    let amd_all = has(Feature::AMD_IBPB_RET) && has(Feature::AMD_IBPB) && has(Feature::AMD_IBRS);
    also(Feature::SPEC_CTRL, amd_all);
    also(Feature::INTEL_STIBP, stibp);
    also(Feature::SPEC_CTRL_SSBD, has(Feature::AMD_SSBD));

    also(Feature::AMD_IBPB, ibpb);
    also(
        Feature::AMD_IBPB_RET,
        has(Feature::SPEC_CTRL) && facts & host_fact::NO_EIBRS_PBRSB != 0,
    );
    also(Feature::AMD_IBRS, ibrs);
    also(Feature::AMD_STIBP, stibp);
    also(Feature::AMD_SSBD, has(Feature::SPEC_CTRL_SSBD));
    also(
        Feature::AMD_SSB_NO,
        facts & host_fact::NO_SPEC_STORE_BYPASS != 0,
    );
    // Prefer the SPEC_CTRL register to the virtual one.
    also(
        Feature::VIRT_SSBD,
        facts & host_fact::LS_CFG_SSBD != 0 && !has(Feature::AMD_SSBD),
    );
}

/// Bits of EFER that the features allow.
pub(super) fn efer_of(features: &FeatureSet) -> u64 {
    use crate::x86::ctrl::efer;

    let mut bits = efer::SCE;
    for (feature, allowed) in [
        (Feature::LM, efer::LME | efer::LMA),
        (Feature::NX, efer::NXE),
        (Feature::FXSR_OPT, efer::FFXSR),
        (Feature::AUTOIBRS, efer::AUTOIBRS),
        (Feature::SVM, efer::SVME),
    ] {
        if features.has(feature) {
            bits |= allowed;
        }
    }
    if features.has(Feature::SVM) && !features.has(Feature::EFER_LMSLE_MBZ) {
        bits |= efer::LMSLE;
    }
    bits
}

/// Bits of CR4 that the features allow. KVM: bits of features that every processor with hardware
/// virtualisation has are always allowed. SMX is never offered.
pub(super) fn cr4_of(features: &FeatureSet) -> u64 {
    use crate::x86::ctrl::cr4;

    let mut bits = cr4::VME
        | cr4::PVI
        | cr4::TSD
        | cr4::DE
        | cr4::PSE
        | cr4::PAE
        | cr4::MCE
        | cr4::PGE
        | cr4::PCE
        | cr4::OSFXSR
        | cr4::OSXMMEXCPT;
    for (feature, allowed) in [
        (Feature::UMIP, cr4::UMIP),
        (Feature::LA57, cr4::LA57),
        (Feature::VMX, cr4::VMXE),
        (Feature::FSGSBASE, cr4::FSGSBASE),
        (Feature::PCID, cr4::PCIDE),
        (Feature::XSAVE, cr4::OSXSAVE),
        (Feature::SMEP, cr4::SMEP),
        (Feature::SMAP, cr4::SMAP),
        (Feature::PKU, cr4::PKE),
        (Feature::SHSTK, cr4::CET),
        (Feature::IBT, cr4::CET),
    ] {
        if features.has(feature) {
            bits |= allowed;
        }
    }
    bits
}

#[cfg(test)]
#[path = "tests/feature.rs"]
mod tests;
