// SPDX-License-Identifier: GPL-2.0

//! CPUID: feature bits by name, the words they live in, and sets of them.
//!
//! `SDM: vol 2A, CPUID`, `APM: vol 3, appendix E`. A *word* is one register of one leaf whose bits
//! are independent features. [`Feature`] names one bit, [`FeatureSet`] holds all words. What a guest
//! gets to see of them is decided in `policy::feature`.

/// A register that CPUID writes; the value is its index in `[eax, ebx, ecx, edx]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Reg {
    /// EAX.
    Eax = 0,
    /// EBX.
    Ebx = 1,
    /// ECX.
    Ecx = 2,
    /// EDX.
    Edx = 3,
}

/// What CPUID returns: EAX, EBX, ECX, EDX.
pub type Regs = [u32; 4];

/// One feature: a bit of a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature {
    /// The word it lives in.
    pub word: Word,
    /// Its bit, as a mask with exactly one bit set.
    pub mask: u32,
}

/// A set of features, one `u32` for each [`Word`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeatureSet([u32; Word::ALL.len()]);

macro_rules! words {
    ($( $(#[$doc:meta])* $word:ident($leaf:literal, $sub:literal, $reg:ident) {
        $( $name:ident $bit:literal, )*
    } )*) => {
        /// The words of feature bits, named by leaf and register: `L` for basic leaves, `X` for
        /// extended ones, the subleaf after an `S`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Word {
            $( $(#[$doc])* $word ),*
        }

        impl Word {
            /// Every word, in index order.
            pub const ALL: &'static [Word] = &[ $(Word::$word),* ];

            /// The leaf, subleaf and register the word is read from.
            pub const fn source(self) -> (u32, u32, Reg) {
                match self {
                    $( Word::$word => ($leaf, $sub, Reg::$reg) ),*
                }
            }
        }

        impl Feature {
            $($(
                #[doc = concat!(
                    "Leaf ", stringify!($leaf), ".", stringify!($sub), ", ", stringify!($reg),
                    " bit ", stringify!($bit), "."
                )]
                pub const $name: Feature = Feature { word: Word::$word, mask: 1 << $bit };
            )*)*
        }
    };
}

words! {
    /// Leaf 1, ECX.
    L1Ecx(0x1, 0, Ecx) {
        SSE3 0, PCLMULQDQ 1, DTES64 2, MONITOR 3, DS_CPL 4, VMX 5, SMX 6, EST 7, TM2 8, SSSE3 9,
        CNXT_ID 10, SDBG 11, FMA 12, CX16 13, XTPR 14, PDCM 15, PCID 17, DCA 18, SSE4_1 19,
        SSE4_2 20, X2APIC 21, MOVBE 22, POPCNT 23, TSC_DEADLINE 24, AES 25, XSAVE 26, OSXSAVE 27,
        AVX 28, F16C 29, RDRAND 30, HYPERVISOR 31,
    }
    /// Leaf 1, EDX.
    L1Edx(0x1, 0, Edx) {
        FPU 0, VME 1, DE 2, PSE 3, TSC 4, MSR 5, PAE 6, MCE 7, CX8 8, APIC 9, SEP 11, MTRR 12,
        PGE 13, MCA 14, CMOV 15, PAT 16, PSE36 17, PSN 18, CLFLUSH 19, DS 21, ACPI 22, MMX 23,
        FXSR 24, SSE 25, SSE2 26, SELFSNOOP 27, HTT 28, TM 29, PBE 31,
    }
    /// Leaf 7 subleaf 0, EBX.
    L7Ebx(0x7, 0, Ebx) {
        FSGSBASE 0, TSC_ADJUST 1, SGX 2, BMI1 3, HLE 4, AVX2 5, FDP_EXCPTN_ONLY 6, SMEP 7, BMI2 8,
        ERMS 9, INVPCID 10, RTM 11, PQM 12, ZERO_FCS_FDS 13, MPX 14, PQE 15, AVX512F 16,
        AVX512DQ 17, RDSEED 18, ADX 19, SMAP 20, AVX512IFMA 21, CLFLUSHOPT 23, CLWB 24,
        INTEL_PT 25, AVX512PF 26, AVX512ER 27, AVX512CD 28, SHA 29, AVX512BW 30, AVX512VL 31,
    }
    /// Leaf 7 subleaf 0, ECX.
    L7Ecx(0x7, 0, Ecx) {
        PREFETCHWT1 0, AVX512VBMI 1, UMIP 2, PKU 3, OSPKE 4, WAITPKG 5, AVX512_VBMI2 6, SHSTK 7,
        GFNI 8, VAES 9, VPCLMULQDQ 10, AVX512_VNNI 11, AVX512_BITALG 12, TME 13,
        AVX512_VPOPCNTDQ 14, LA57 16, RDPID 22, KEY_LOCKER 23, BUS_LOCK_DETECT 24, CLDEMOTE 25,
        MOVDIRI 27, MOVDIR64B 28, ENQCMD 29, SGX_LC 30, PKS 31,
    }
    /// Leaf 7 subleaf 0, EDX.
    L7Edx(0x7, 0, Edx) {
        AVX512_4VNNIW 2, AVX512_4FMAPS 3, FSRM 4, UINTR 5, AVX512_VP2INTERSECT 8, SRBDS_CTRL 9,
        MD_CLEAR 10, RTM_ALWAYS_ABORT 11, TSX_FORCE_ABORT 13, SERIALIZE 14, HYBRID 15,
        TSXLDTRK 16, PCONFIG 18, ARCH_LBR 19, IBT 20, AMX_BF16 22, AVX512_FP16 23, AMX_TILE 24,
        AMX_INT8 25, SPEC_CTRL 26, INTEL_STIBP 27, FLUSH_L1D 28, ARCH_CAPABILITIES 29,
        CORE_CAPABILITIES 30, SPEC_CTRL_SSBD 31,
    }
    /// Leaf 7 subleaf 1, EAX.
    L7S1Eax(0x7, 1, Eax) {
        SHA512 0, SM3 1, SM4 2, AVX_VNNI 4, AVX512_BF16 5, LASS 6, CMPCCXADD 7, ARCH_PERFMON_EXT 8,
        FZRM 10, FSRS 11, FSRC 12, FRED 17, LKGS 18, WRMSRNS 19, AMX_FP16 21, AVX_IFMA 23, LAM 26,
        MOVRS 31,
    }
    /// Leaf 7 subleaf 1, ECX.
    L7S1Ecx(0x7, 1, Ecx) {
        MSR_IMM 5,
    }
    /// Leaf 7 subleaf 1, EDX.
    L7S1Edx(0x7, 1, Edx) {
        AVX_VNNI_INT8 4, AVX_NE_CONVERT 5, AMX_COMPLEX 8, AVX_VNNI_INT16 10, PREFETCHITI 14,
        AVX10 19,
    }
    /// Leaf 7 subleaf 2, EDX.
    L7S2Edx(0x7, 2, Edx) {
        INTEL_PSFD 0, IPRED_CTRL 1, RRSBA_CTRL 2, DDPD_U 3, BHI_CTRL 4, MCDT_NO 5,
    }
    /// Leaf 0xd subleaf 1, EAX.
    LdS1Eax(0xd, 1, Eax) {
        XSAVEOPT 0, XSAVEC 1, XGETBV1 2, XSAVES 3, XFD 4,
    }
    /// Leaf 0x1e subleaf 1, EAX.
    L1eS1Eax(0x1e, 1, Eax) {
        AMX_INT8_ALIAS 0, AMX_BF16_ALIAS 1, AMX_COMPLEX_ALIAS 2, AMX_FP16_ALIAS 3, AMX_FP8 4,
        AMX_TF32 6, AMX_AVX512 7, AMX_MOVRS 8,
    }
    /// Leaf 0x24 subleaf 0, EBX.
    L24Ebx(0x24, 0, Ebx) {
        AVX10_128 16, AVX10_256 17, AVX10_512 18,
    }
    /// Leaf 0x24 subleaf 1, ECX.
    L24S1Ecx(0x24, 1, Ecx) {
        AVX10_VNNI_INT 2,
    }
    /// Leaf 0x80000001, ECX.
    X1Ecx(0x8000_0001, 0, Ecx) {
        LAHF_LM 0, CMP_LEGACY 1, SVM 2, EXTAPIC 3, CR8_LEGACY 4, ABM 5, SSE4A 6, MISALIGNSSE 7,
        PREFETCHW 8, OSVW 9, IBS 10, XOP 11, SKINIT 12, WDT 13, LWP 15, FMA4 16, TCE 17,
        NODEID_MSR 19, TBM 21, TOPOEXT 22, PERFCTR_CORE 23, PERFCTR_NB 24, BPEXT 26, PTSC 27,
        PERFCTR_LLC 28, MWAITX 29,
    }
    /// Leaf 0x80000001, EDX. Most of its lower bits repeat leaf 1 and have no name here.
    X1Edx(0x8000_0001, 0, Edx) {
        SYSCALL 11, NX 20, MMXEXT 22, FXSR_OPT 25, GBPAGES 26, RDTSCP 27, LM 29, AMD_3DNOWEXT 30,
        AMD_3DNOW 31,
    }
    /// Leaf 0x80000007, EDX.
    X7Edx(0x8000_0007, 0, Edx) {
        INVARIANT_TSC 8,
    }
    /// Leaf 0x80000008, EBX.
    X8Ebx(0x8000_0008, 0, Ebx) {
        CLZERO 0, IRPERF 1, XSAVEERPTR 2, INVLPGB 3, RDPRU 4, WBNOINVD 9, AMD_IBPB 12, AMD_IBRS 14,
        AMD_STIBP 15, AMD_STIBP_ALWAYS_ON 17, AMD_IBRS_SAME_MODE 19, EFER_LMSLE_MBZ 20,
        AMD_PPIN 23, AMD_SSBD 24, VIRT_SSBD 25, AMD_SSB_NO 26, CPPC 27, AMD_PSFD 28, BTC_NO 29,
        AMD_IBPB_RET 30,
    }
    /// Leaf 0x8000000a, EDX: what a nested SVM guest gets.
    XaEdx(0x8000_000a, 0, Edx) {
        NPT 0, LBRV 1, SVML 2, NRIPS 3, TSCRATEMSR 4, VMCBCLEAN 5, FLUSHBYASID 6, DECODEASSISTS 7,
        PAUSEFILTER 10, PFTHRESHOLD 12, AVIC 13, V_VMSAVE_VMLOAD 15, VGIF 16, GMET 17, X2AVIC 18,
        V_SPEC_CTRL 20, VNMI 25, SVME_ADDR_CHK 28, BUS_LOCK_THRESHOLD 29, IDLE_HLT 30,
    }
    /// Leaf 0x80000021, EAX.
    X21Eax(0x8000_0021, 0, Eax) {
        NO_NESTED_DATA_BP 0, WRMSR_XX_BASE_NS 1, LFENCE_SERIALIZES 2, VERW_CLEAR 5,
        NULL_SEL_CLR_BASE 6, AUTOIBRS 8, NO_SMM_CTL_MSR 9, GP_ON_USER_CPUID 17, PREFETCHI 20,
        AVX512_BMM 23, ERAPS 24, SBPB 27, IBPB_BRTYPE 28, SRSO_NO 29, SRSO_USER_KERNEL_NO 30,
    }
    /// Leaf 0x80000021, ECX.
    X21Ecx(0x8000_0021, 0, Ecx) {
        TSA_SQ_NO 1, TSA_L1_NO 2, TSA_FILL_NO 7,
    }
    /// Leaf 0x80000022, EAX.
    X22Eax(0x8000_0022, 0, Eax) {
        PERFMON_V2 0,
    }
}

impl FeatureSet {
    /// No feature.
    pub const EMPTY: FeatureSet = FeatureSet([0; Word::ALL.len()]);

    /// The bits of one word.
    #[inline]
    #[expect(
        clippy::indexing_slicing,
        reason = "one element for each value of the enum"
    )]
    pub const fn word(&self, word: Word) -> u32 {
        self.0[word as usize]
    }

    /// Replaces the bits of one word.
    #[inline]
    #[expect(
        clippy::indexing_slicing,
        reason = "one element for each value of the enum"
    )]
    pub const fn set_word(&mut self, word: Word, bits: u32) {
        self.0[word as usize] = bits;
    }

    /// Whether the set has the feature.
    #[inline]
    pub const fn has(&self, feature: Feature) -> bool {
        self.word(feature.word) & feature.mask != 0
    }

    /// Adds or removes a feature.
    #[inline]
    pub const fn assign(&mut self, feature: Feature, on: bool) {
        let bits = self.word(feature.word);
        let bits = if on {
            bits | feature.mask
        } else {
            bits & !feature.mask
        };
        self.set_word(feature.word, bits);
    }

    /// A set of the features listed.
    pub const fn of(list: &[Feature]) -> Self {
        let mut set = Self::EMPTY;
        let mut rest = list;
        while let [first, tail @ ..] = rest {
            set.assign(*first, true);
            rest = tail;
        }
        set
    }

    /// Adds every feature of `other`.
    pub fn insert_all(&mut self, other: &FeatureSet) {
        for (bits, more) in self.0.iter_mut().zip(other.0) {
            *bits |= more;
        }
    }

    /// Removes every feature of `other`.
    pub fn remove_all(&mut self, other: &FeatureSet) {
        for (bits, less) in self.0.iter_mut().zip(other.0) {
            *bits &= !less;
        }
    }
}

/// Whether the answer of a leaf depends on ECX. `SDM: vol 2A, table 3-8`.
pub const fn is_indexed(leaf: u32) -> bool {
    matches!(
        leaf,
        4 | 7
            | 0xb
            | 0xd
            | 0xf
            | 0x10
            | 0x12
            | 0x14
            | 0x17
            | 0x18
            | 0x1d
            | 0x1e
            | 0x1f
            | 0x23
            | 0x24
            | 0x8000_001d
    )
}

/// The vendor string of leaf 0 as EBX, ECX, EDX.
pub const fn vendor_words(name: &[u8; 12]) -> [u32; 3] {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = *name;
    [
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([i, j, k, l]),
        u32::from_le_bytes([e, f, g, h]),
    ]
}

/// A hypervisor's signature as EBX, ECX, EDX: unlike a vendor's, it is in the order of the
/// registers.
pub const fn signature_words(name: &[u8; 12]) -> [u32; 3] {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = *name;
    [
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, g, h]),
        u32::from_le_bytes([i, j, k, l]),
    ]
}

/// Family, model and stepping out of leaf 1's EAX, with the extended fields added in where they
/// count. `APM: vol 3, E.3.2`.
pub const fn family_model_stepping(eax: u32) -> (u8, u8, u8) {
    let base_family = (eax >> 8) & 0xf;
    let mut family = base_family;
    if base_family == 0xf {
        family = family.wrapping_add((eax >> 20) & 0xff);
    }
    let mut model = (eax >> 4) & 0xf;
    if base_family >= 6 {
        model |= (eax >> 12) & 0xf0;
    }
    // CAST: the family is at most 15 + 255, cut like the field the kernel keeps it in; the model
    // has 8 bits and the stepping 4.
    (family as u8, model as u8, (eax & 0xf) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_in_index_order_and_distinct() {
        for (i, word) in Word::ALL.iter().enumerate() {
            assert_eq!(*word as usize, i);
        }
        for a in Word::ALL {
            for b in Word::ALL {
                assert_eq!(a == b, a.source() == b.source());
            }
        }
    }

    #[test]
    fn a_set_holds_what_it_is_given() {
        let mut set = FeatureSet::of(&[Feature::XSAVE, Feature::LM]);
        assert!(set.has(Feature::XSAVE) && set.has(Feature::LM));
        assert!(!set.has(Feature::NX));
        assert_eq!(set.word(Word::X1Edx), 1 << 29);
        set.assign(Feature::LM, false);
        assert_eq!(set, FeatureSet::of(&[Feature::XSAVE]));
        let mut other = FeatureSet::of(&[Feature::NX]);
        other.insert_all(&set);
        other.remove_all(&FeatureSet::of(&[Feature::NX]));
        assert_eq!(other, set);
    }

    #[test]
    fn names_become_registers() {
        assert_eq!(
            vendor_words(b"GenuineIntel"),
            [0x756e_6547, 0x6c65_746e, 0x4965_6e69]
        );
        assert_eq!(
            signature_words(b"KVMKVMKVM\0\0\0"),
            [0x4b4d_564b, 0x564b_4d56, 0x4d]
        );
    }

    #[test]
    fn signatures_decode() {
        // A Ryzen 9 5950X and a Core i9-12900K.
        assert_eq!(family_model_stepping(0x00a2_0f10), (0x19, 0x21, 0));
        assert_eq!(family_model_stepping(0x0009_0672), (6, 0x97, 2));
    }
}
