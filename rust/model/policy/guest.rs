// SPDX-License-Identifier: GPL-2.0

//! The CPUID of one vCPU, as user space set it.
//!
//! The caller owns the entries (a copy of what `KVM_SET_CPUID2` passed). This file checks them,
//! derives [`GuestFeatures`], keeps the bits current that follow the vCPU's registers, and answers
//! the CPUID instruction.

use super::cpuid::{emulated_leaf, entry_reg, KVM_FEATURES_OFFSET, KVM_SIGNATURE};
use super::feature::{cr4_of, efer_of, Supported};
use super::pv;
use crate::abi::{KvmCpuidEntry, KvmCpuidEntry2, KVM_CPUID_FLAG_SIGNIFCANT_INDEX};
use crate::x86::cpuid::{
    family_model_stepping, is_indexed, vendor_words, Feature, FeatureSet, Reg, Regs, Word,
};
use crate::x86::ctrl::cr4;
use crate::x86::xsave::component;

/// IA32_APIC_BASE bit 11: the local APIC is enabled.
const APIC_BASE_ENABLE: u64 = 1 << 11;
/// IA32_MISC_ENABLE bit 18: MONITOR and MWAIT are enabled.
const MISC_ENABLE_MWAIT: u64 = 1 << 18;

/// The first entry of a leaf that `subleaf` selects. An entry whose index is not significant
/// answers every subleaf.
#[inline]
pub fn find_sub(entries: &[KvmCpuidEntry2], leaf: u32, subleaf: u32) -> Option<&KvmCpuidEntry2> {
    entries
        .iter()
        .find(|e| e.function == leaf && answers(e, subleaf))
}

/// The first entry of a leaf.
pub fn find(entries: &[KvmCpuidEntry2], leaf: u32) -> Option<&KvmCpuidEntry2> {
    entries.iter().find(|e| e.function == leaf)
}

#[inline]
fn answers(entry: &KvmCpuidEntry2, subleaf: u32) -> bool {
    entry.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX == 0 || entry.index == subleaf
}

fn find_sub_mut(
    entries: &mut [KvmCpuidEntry2],
    leaf: u32,
    subleaf: u32,
) -> Option<&mut KvmCpuidEntry2> {
    entries
        .iter_mut()
        .find(|e| e.function == leaf && answers(e, subleaf))
}

/// Converts an entry of `KVM_SET_CPUID`, which knows no subleaves.
pub fn from_legacy(e: &KvmCpuidEntry) -> KvmCpuidEntry2 {
    KvmCpuidEntry2 {
        function: e.function,
        index: 0,
        flags: 0,
        eax: e.eax,
        ebx: e.ebx,
        ecx: e.ecx,
        edx: e.edx,
        padding: [0; 3],
    }
}

/// The CPUID cannot be given to a vCPU (`EINVAL`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invalid;

/// Checks new entries. Returns the extended state among them that the process must have asked for,
/// as XCR0 bits: the caller grows the guest's FPU state by it, or refuses.
///
/// # Errors
/// [`Invalid`] for a width of linear addresses that no paging mode has.
pub fn check(entries: &[KvmCpuidEntry2]) -> Result<u64, Invalid> {
    if let Some(e) = find(entries, 0x8000_0008) {
        if !matches!((e.eax >> 8) & 0xff, 0 | 48 | 57) {
            return Err(Invalid);
        }
    }
    Ok(state_bits(entries, 0) & component::TILE_DATA)
}

/// Whether two sets of entries are the same, padding aside. A vCPU that has run takes no other set.
pub fn same(a: &[KvmCpuidEntry2], b: &[KvmCpuidEntry2]) -> bool {
    let key = |e: &KvmCpuidEntry2| (e.function, e.index, e.flags, [e.eax, e.ebx, e.ecx, e.edx]);
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| key(a) == key(b))
}

/// The extended state leaf 0xd claims: XCR0 bits for subleaf 0, IA32_XSS bits for subleaf 1.
fn state_bits(entries: &[KvmCpuidEntry2], subleaf: u32) -> u64 {
    find_sub(entries, 0xd, subleaf).map_or(0, |e| {
        let low = if subleaf == 0 { e.eax } else { e.ecx };
        u64::from(low) | u64::from(e.edx) << 32
    })
}

/// Where a hypervisor's leaves start and end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HypervisorLeaves {
    /// The leaf with the signature.
    pub base: u32,
    /// The last leaf.
    pub limit: u32,
}

/// Looks for a hypervisor's signature (EBX, ECX, EDX) in all places one may stand.
pub fn hypervisor_leaves(
    entries: &[KvmCpuidEntry2],
    signature: [u32; 3],
) -> Option<HypervisorLeaves> {
    entries
        .iter()
        .filter(|e| e.function & 0xffff_00ff == 0x4000_0000 && [e.ebx, e.ecx, e.edx] == signature)
        .map(|e| HypervisorLeaves {
            base: e.function,
            limit: e.eax,
        })
        .min_by_key(|h| h.base)
}

/// What one guest has, precomputed from its CPUID and from what this host supports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestFeatures {
    /// Features that are both offered and claimed. `XSAVES` is what the guest was told: a backend
    /// that cannot withhold the instruction must switch IA32_XSS whenever `XSAVE` is here.
    pub set: FeatureSet,
    /// The processor is AMD's or Hygon's: CPUID, SYSCALL and some MSRs behave AMD's way.
    pub amd: bool,
    /// Bits of a guest-physical address.
    pub max_phys: u8,
    /// Leaf 1 EAX: family, model and stepping.
    pub signature: u32,
    /// Extended state the guest may enable.
    pub xcr0: u64,
    /// Supervisor state the guest may enable.
    pub xss: u64,
    /// Bits of CR4 that may be set.
    pub cr4: u64,
    /// Bits of EFER that may be set.
    pub efer: u64,
    /// Paravirtual features (EAX of the feature leaf), 0 without a KVM signature.
    pub pv: u32,
}

/// The registers that some CPUID bits follow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuntimeState {
    /// CR4.
    pub cr4: u64,
    /// IA32_APIC_BASE.
    pub apic_base: u64,
    /// IA32_MISC_ENABLE.
    pub misc_enable: u64,
    /// XCR0.
    pub xcr0: u64,
    /// IA32_XSS.
    pub xss: u64,
    /// Whether IA32_MISC_ENABLE governs the MWAIT bit: the VM has
    /// `KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT` disabled.
    pub mwait_follows_misc_enable: bool,
}

impl GuestFeatures {
    /// Before user space sets any CPUID: nothing but what every processor has.
    pub fn empty() -> Self {
        let set = FeatureSet::EMPTY;
        Self {
            amd: false,
            max_phys: 36,
            signature: 0,
            xcr0: 0,
            xss: 0,
            cr4: cr4_of(&set),
            efer: efer_of(&set),
            pv: 0,
            set,
        }
    }

    /// Works out what the guest has and brings the entries up to date. `hlt_in_guest`: HLT does
    /// not exit, so waking a vCPU by hypercall cannot work and is taken from the guest.
    pub fn derive(
        entries: &mut [KvmCpuidEntry2],
        sup: &Supported,
        state: &RuntimeState,
        hlt_in_guest: bool,
    ) -> Self {
        let mut set = FeatureSet::EMPTY;
        for &word in Word::ALL {
            let (leaf, subleaf, reg) = word.source();
            if let Some(e) = find_sub(entries, leaf, subleaf) {
                let offered = sup.features.word(word) | emulated_bits(sup, leaf, subleaf, reg);
                set.set_word(word, offered & entry_reg(e, reg));
            }
        }
        // Hardware that walks the guest's tables does not ask this CPUID about 1 GiB pages.
        if sup.tdp_levels != 0 {
            set.assign(Feature::GBPAGES, sup.hw_gbpages);
        }
        let mut guest = Self {
            amd: is_amd(entries),
            max_phys: max_phys(entries),
            signature: find(entries, 1).map_or(0, |e| e.eax),
            xcr0: state_bits(entries, 0) & sup.xcr0,
            xss: state_bits(entries, 1) & sup.xss,
            cr4: cr4_of(&set),
            efer: efer_of(&set),
            pv: pv_features(entries, hlt_in_guest),
            set,
        };
        guest.refresh(entries, sup, state);
        guest
    }

    /// Brings the bits up to date that follow registers, here and in the entries. To be called
    /// before entries are looked at and after one of the registers changed.
    pub fn refresh(
        &mut self,
        entries: &mut [KvmCpuidEntry2],
        sup: &Supported,
        state: &RuntimeState,
    ) {
        let set = &mut self.set;
        let mut follow = |reg: &mut u32, feature: Feature, on: bool| {
            *reg = (*reg & !feature.mask) | if on { feature.mask } else { 0 };
            set.assign(feature, on);
        };
        if let Some(e) = find_sub_mut(entries, 1, 0) {
            let osxsave = state.cr4 & cr4::OSXSAVE != 0;
            follow(&mut e.ecx, Feature::OSXSAVE, osxsave);
            let apic = state.apic_base & APIC_BASE_ENABLE != 0;
            follow(&mut e.edx, Feature::APIC, apic);
            if state.mwait_follows_misc_enable {
                let mwait = state.misc_enable & MISC_ENABLE_MWAIT != 0;
                follow(&mut e.ecx, Feature::MONITOR, mwait);
            }
        }
        if let Some(e) = find_sub_mut(entries, 7, 0) {
            follow(&mut e.ecx, Feature::OSPKE, state.cr4 & cr4::PKE != 0);
        }
        if let Some(e) = find_sub_mut(entries, 0xd, 0) {
            e.ebx = sup.layout.size(state.xcr0, false);
        }
        if let Some(e) = find_sub_mut(entries, 0xd, 1) {
            if e.eax & (Feature::XSAVES.mask | Feature::XSAVEC.mask) != 0 {
                e.ebx = sup.layout.size(state.xcr0 | state.xss, true);
            }
        }
    }

    /// Whether the guest has the feature.
    #[inline]
    pub fn has(&self, feature: Feature) -> bool {
        self.set.has(feature)
    }

    /// Bits that no guest-physical address may have.
    pub fn reserved_gpa_bits(&self) -> u64 {
        u64::MAX.checked_shl(u32::from(self.max_phys)).unwrap_or(0)
    }

    /// Family, model and stepping.
    pub fn family_model_stepping(&self) -> (u8, u8, u8) {
        family_model_stepping(self.signature)
    }

    /// Bits of a linear address: 57 when five-level paging may be enabled.
    pub fn linear_bits(&self) -> u8 {
        if self.has(Feature::LA57) {
            57
        } else {
            48
        }
    }
}

/// What software emulates in a register of a leaf.
fn emulated_bits(sup: &Supported, leaf: u32, subleaf: u32, reg: Reg) -> u32 {
    if subleaf != 0 && is_indexed(leaf) {
        return 0;
    }
    let [eax, ebx, ecx, edx] = emulated_leaf(sup, leaf, true).unwrap_or([0; 4]);
    match reg {
        Reg::Eax => eax,
        Reg::Ebx => ebx,
        Reg::Ecx => ecx,
        Reg::Edx => edx,
    }
}

fn is_amd(entries: &[KvmCpuidEntry2]) -> bool {
    find(entries, 0).is_some_and(|e| {
        let vendor = [e.ebx, e.ecx, e.edx];
        vendor == const { vendor_words(b"AuthenticAMD") }
            || vendor == const { vendor_words(b"HygonGenuine") }
    })
}

/// Bits of a physical address; 36 when CPUID does not say. `SDM: vol 3, 4.1.4`.
fn max_phys(entries: &[KvmCpuidEntry2]) -> u8 {
    let reported = find(entries, 0x8000_0000).is_some_and(|e| e.eax >= 0x8000_0008);
    match find(entries, 0x8000_0008) {
        // CAST: masked to 8 bits.
        Some(e) if reported => (e.eax & 0xff) as u8,
        _ => 36,
    }
}

/// The paravirtual features that are offered. A guest that halts without an exit cannot be woken by
/// a kick: it is not offered that, and `entries` no longer say so.
pub fn pv_features(entries: &mut [KvmCpuidEntry2], hlt_in_guest: bool) -> u32 {
    let Some(leaves) = hypervisor_leaves(entries, KVM_SIGNATURE) else {
        return 0;
    };
    match find_sub_mut(entries, leaves.base | KVM_FEATURES_OFFSET, 0) {
        Some(e) => {
            if hlt_in_guest {
                e.eax &= !pv::PV_UNHALT;
            }
            e.eax
        }
        None => 0,
    }
}

/// What a lookup must leave out, because an MSR or an enlightenment says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hide {
    /// TSX, because the guest set IA32_TSX_CTRL bit 1.
    pub tsx: bool,
    /// The invariant TSC, because the guest has Hyper-V's control over it and left it off.
    pub invariant_tsc: bool,
}

/// The answer to a CPUID instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// EAX, EBX, ECX, EDX.
    pub regs: Regs,
    /// An entry for the very leaf and subleaf exists.
    pub exact: bool,
    /// The leaf was out of range and the last basic one answered.
    pub used_max_basic: bool,
}

/// Answers the CPUID instruction. The entries must be [refreshed](GuestFeatures::refresh).
pub fn lookup(entries: &[KvmCpuidEntry2], leaf: u32, subleaf: u32, hide: Hide) -> Answer {
    let exact = find_sub(entries, leaf, subleaf);
    let mut effective = leaf;
    let entry = exact.or_else(|| {
        let last = redirect(entries, leaf)?;
        effective = last;
        find_sub(entries, last, subleaf)
    });
    let mut answer = Answer {
        regs: [0; 4],
        exact: exact.is_some(),
        used_max_basic: exact.is_none() && entry.is_some(),
    };
    let [eax, ebx, ecx, edx] = &mut answer.regs;
    if let Some(e) = entry {
        (*eax, *ebx, *ecx, *edx) = (e.eax, e.ebx, e.ecx, e.edx);
        if effective == 7 && subleaf == 0 && hide.tsx {
            *ebx &= !(Feature::RTM.mask | Feature::HLE.mask);
        }
        if effective == 0x8000_0007 && hide.invariant_tsc {
            *edx &= !Feature::INVARIANT_TSC.mask;
        }
    } else if matches!(effective, 0xb | 0x1f) {
        // Past the last level of topology, CL repeats the subleaf and EDX is the x2APIC id still;
        // subleaf 1 exists if the leaf is implemented. SDM: vol 2A, CPUID leaf 0xb.
        if let Some(e) = find_sub(entries, effective, 1) {
            *ecx = subleaf & 0xff;
            *edx = e.edx;
        }
    }
    answer
}

/// The last basic leaf, if it answers for `leaf`: on a processor that is not AMD's, any leaf beyond
/// its class's last one reads like that. `SDM: vol 2A, CPUID`, `APM: vol 3, E.2`.
fn redirect(entries: &[KvmCpuidEntry2], leaf: u32) -> Option<u32> {
    let basic = find(entries, 0)?;
    if is_amd(entries) {
        return None;
    }
    // Every 256 leaves of the hypervisor range are a class of their own.
    let class = match leaf {
        0x4000_0000..=0x4fff_ffff => leaf & 0xffff_ff00,
        0xc000_0000.. => 0xc000_0000,
        _ => leaf & 0x8000_0000,
    };
    match find(entries, class) {
        Some(first) if leaf <= first.eax => None,
        _ => Some(basic.eax),
    }
}

#[cfg(test)]
#[path = "tests/guest.rs"]
mod tests;
