// SPDX-License-Identifier: GPL-2.0

//! The answers of `KVM_GET_SUPPORTED_CPUID` and `KVM_GET_EMULATED_CPUID`.
//!
//! The list must be usable as it is: a VMM may hand it back through `KVM_SET_CPUID2`, and most
//! start from it. Leaves carry the host's values where a guest may know them (caches),
//! [`Supported`]'s words where bits are features, and zeros elsewhere.

use super::feature::{HostCpuid, Supported};
use crate::abi::{KvmCpuidEntry2, KVM_CPUID_FLAG_SIGNIFCANT_INDEX};
use crate::x86::cpuid::{is_indexed, signature_words, Feature, Reg, Regs, Word};
use crate::x86::xsave::component;

/// How many entries a vCPU may have, and the most that the lists below are asked for.
pub const MAX_ENTRIES: usize = 256;

/// First leaf of the hypervisor's own information.
pub const KVM_SIGNATURE_LEAF: u32 = 0x4000_0000;
/// Offset of the feature leaf from the signature leaf.
pub const KVM_FEATURES_OFFSET: u32 = 1;
/// The signature as EBX, ECX, EDX.
pub const KVM_SIGNATURE: [u32; 3] = signature_words(b"KVMKVMKVM\0\0\0");

/// The highest basic leaf that is filled in.
const MAX_BASIC: u32 = 0x24;
/// The highest extended leaf that is filled in.
const MAX_EXTENDED: u32 = 0x8000_0022;
/// Far more subleaves than any enumeration by subleaf has.
const MAX_SUBLEAF: u32 = 63;

/// The caller's buffer is too small for the list (`E2BIG`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooSmall;

/// A list being filled.
struct List<'a> {
    entries: &'a mut [KvmCpuidEntry2],
    len: usize,
}

impl List<'_> {
    fn push(&mut self, leaf: u32, subleaf: u32, regs: Regs) -> Result<(), TooSmall> {
        let slot = self.entries.get_mut(self.len).ok_or(TooSmall)?;
        let [eax, ebx, ecx, edx] = regs;
        *slot = KvmCpuidEntry2 {
            function: leaf,
            index: subleaf,
            flags: if is_indexed(leaf) {
                KVM_CPUID_FLAG_SIGNIFCANT_INDEX
            } else {
                0
            },
            eax,
            ebx,
            ecx,
            edx,
            padding: [0; 3],
        };
        self.len = self.len.saturating_add(1);
        Ok(())
    }
}

/// Reads a register of an entry.
pub fn entry_reg(entry: &KvmCpuidEntry2, reg: Reg) -> u32 {
    match reg {
        Reg::Eax => entry.eax,
        Reg::Ebx => entry.ebx,
        Reg::Ecx => entry.ecx,
        Reg::Edx => entry.edx,
    }
}

/// The largest extended state the process may give to guests: `supported` without what it would
/// have to ask for first. `group_perm` is the process's permission, as XCR0 bits.
pub fn permitted_xcr0(supported: u64, group_perm: u64) -> u64 {
    if supported & group_perm & component::TILE_DATA != 0 {
        supported
    } else {
        supported & !component::TILE
    }
}

/// Fills `out` with what can be offered; returns the number of entries. `xcr0` is the extended
/// state the calling process may use, see [`permitted_xcr0`].
///
/// # Errors
/// [`TooSmall`] if `out` ends before the list; what it then holds has no meaning.
pub fn supported(
    host: &impl HostCpuid,
    sup: &Supported,
    xcr0: u64,
    out: &mut [KvmCpuidEntry2],
) -> Result<usize, TooSmall> {
    let mut fill = Fill {
        host,
        sup,
        xcr0: xcr0 & sup.xcr0,
        list: List {
            entries: out,
            len: 0,
        },
    };
    for base in [0, 0x8000_0000] {
        let [host_max, ..] = host.cpuid(base, 0);
        let max = fill.max_leaf(base, host_max);
        for leaf in base..=max {
            fill.leaf(leaf, host_max)?;
        }
    }
    fill.hypervisor()?;
    Ok(fill.list.len)
}

/// Fills `out` with what software emulates although the processor may lack it; returns the number
/// of entries.
///
/// # Errors
/// [`TooSmall`] if `out` ends before the list.
pub fn emulated(sup: &Supported, out: &mut [KvmCpuidEntry2]) -> Result<usize, TooSmall> {
    let mut list = List {
        entries: out,
        len: 0,
    };
    for leaf in [0, 1, 7] {
        if let Some(regs) = emulated_leaf(sup, leaf, false) {
            list.push(leaf, 0, regs)?;
        }
    }
    Ok(list.len)
}

/// The emulated part of a leaf, subleaf 0. `partial` adds what is emulated in name only: MONITOR
/// and MWAIT do nothing, so they are never offered, yet user space may claim them.
pub(super) fn emulated_leaf(sup: &Supported, leaf: u32, partial: bool) -> Option<Regs> {
    match leaf {
        0 => Some([7, 0, 0, 0]),
        1 => {
            let monitor = if partial { Feature::MONITOR.mask } else { 0 };
            Some([0, 0, Feature::MOVBE.mask | monitor, 0])
        }
        // RDPID reads the register that RDTSCP reads, so it can be emulated where that exists.
        7 if sup.features.has(Feature::RDTSCP) => Some([0, 0, Feature::RDPID.mask, 0]),
        7 => Some([0; 4]),
        _ => None,
    }
}

/// The state of one pass over the leaves.
struct Fill<'a, H> {
    host: &'a H,
    sup: &'a Supported,
    xcr0: u64,
    list: List<'a>,
}

impl<H: HostCpuid> Fill<'_, H> {
    fn word(&self, word: Word) -> u32 {
        self.sup.features.word(word)
    }

    /// The last leaf of a class to list.
    fn max_leaf(&self, base: u32, host_max: u32) -> u32 {
        if base == 0 {
            return host_max.min(MAX_BASIC);
        }
        let max = host_max.min(MAX_EXTENDED);
        // KVM: leaf 0x80000021 is synthesised for facts that older processors have but do not
        // report. Only where 0x8000001d exists: QEMU reads that one from the host when it is in
        // range.
        let facts = self.sup.features.has(Feature::LFENCE_SERIALIZES)
            || self.sup.features.has(Feature::NULL_SEL_CLR_BASE);
        if max >= 0x8000_001d && facts {
            max.max(0x8000_0021)
        } else {
            max
        }
    }

    fn push(&mut self, leaf: u32, subleaf: u32, regs: Regs) -> Result<(), TooSmall> {
        self.list.push(leaf, subleaf, regs)
    }

    /// Lists the host's further subleaves 1 to `last` unchanged.
    fn push_host(&mut self, leaf: u32, last: u32) -> Result<(), TooSmall> {
        for subleaf in 1..=last.min(MAX_SUBLEAF) {
            self.push(leaf, subleaf, self.host.cpuid(leaf, subleaf))?;
        }
        Ok(())
    }

    /// Lists one leaf with its subleaves.
    fn leaf(&mut self, leaf: u32, host_max: u32) -> Result<(), TooSmall> {
        // A leaf past the host's last one reads as something else entirely.
        let [eax, ebx, ecx, edx] = if leaf <= host_max {
            self.host.cpuid(leaf, 0)
        } else {
            [0; 4]
        };
        let amx = self.sup.features.has(Feature::AMX_TILE);
        let regs = match leaf {
            0 => [eax.min(MAX_BASIC), ebx, ecx, edx],
            1 => [eax, ebx, self.word(Word::L1Ecx), self.word(Word::L1Edx)],
            2 => [eax, ebx, ecx, edx],
            4 | 0x8000_001d => return self.caches(leaf, [eax, ebx, ecx, edx]),
            // The APIC timer does not stop in deep sleep.
            6 => [1 << 2, 0, 0, 0],
            7 => return self.features7(eax),
            // No topology: user space builds one. Subleaf 1 would declare it.
            0xb | 0x1f => [0, 0, 0, edx],
            0xd => return self.extended_state([eax, ebx, ecx, edx]),
            0x1d if amx => {
                self.push(leaf, 0, [eax, ebx, ecx, edx])?;
                return self.push_host(leaf, eax);
            }
            0x1e if amx => return self.tile_multiply([eax, ebx, ecx, edx]),
            0x24 if self.sup.features.has(Feature::AVX10) => return self.avx10(eax, ebx),
            0x8000_0000 => [self.max_leaf(leaf, eax), ebx, ecx, edx],
            0x8000_0001 => [
                eax,
                ebx & 0xf000_ffff,
                self.word(Word::X1Ecx),
                self.word(Word::X1Edx),
            ],
            0x8000_0005 => [eax, ebx, ecx, edx],
            0x8000_0006 => [eax, ebx, ecx, edx & 0xfffc_ffff],
            0x8000_0007 => [0, 0, 0, self.word(Word::X7Edx)],
            0x8000_0008 => [
                self.address_sizes(eax),
                self.word(Word::X8Ebx),
                ecx & 0x0000_f0ff,
                0,
            ],
            // SVM revision 1 with 8 ASIDs.
            0x8000_000a if self.sup.features.has(Feature::SVM) => [1, 8, 0, self.word(Word::XaEdx)],
            0x8000_0019 => [eax, ebx, 0, 0],
            0x8000_001a => [eax & 7, 0, 0, 0],
            0x8000_0021 => {
                let ebx = if self.sup.features.has(Feature::ERAPS) {
                    ebx & 0x00ff_0000
                } else {
                    0
                };
                [self.word(Word::X21Eax), ebx, self.word(Word::X21Ecx), 0]
            }
            // Monitoring, performance counters, resource control, SGX, PT, encryption and the
            // like are not virtualised; host topology is none of a guest's business.
            _ => [0; 4],
        };
        self.push(leaf, 0, regs)
    }

    /// Cache descriptions end with one of type 0.
    fn caches(&mut self, leaf: u32, first: Regs) -> Result<(), TooSmall> {
        let mut regs = first;
        for subleaf in 0..=MAX_SUBLEAF {
            self.push(leaf, subleaf, regs)?;
            let [eax, ..] = regs;
            if eax & 0x1f == 0 {
                break;
            }
            regs = self.host.cpuid(leaf, subleaf.wrapping_add(1));
        }
        Ok(())
    }

    fn features7(&mut self, eax: u32) -> Result<(), TooSmall> {
        let last = eax.min(2);
        let first = [
            last,
            self.word(Word::L7Ebx),
            self.word(Word::L7Ecx),
            self.word(Word::L7Edx),
        ];
        self.push(7, 0, first)?;
        if last >= 1 {
            let regs = [
                self.word(Word::L7S1Eax),
                0,
                self.word(Word::L7S1Ecx),
                self.word(Word::L7S1Edx),
            ];
            self.push(7, 1, regs)?;
        }
        if last >= 2 {
            self.push(7, 2, [0, 0, 0, self.word(Word::L7S2Edx)])?;
        }
        Ok(())
    }

    /// `SDM: vol 2A, CPUID leaf 0xd`.
    fn extended_state(&mut self, [eax, _, _, edx]: Regs) -> Result<(), TooSmall> {
        let (xcr0, xss) = (self.xcr0, self.sup.xss);
        let size = self.sup.layout.size(xcr0, false);
        self.push(0xd, 0, [eax & low(xcr0), size, size, edx & high(xcr0)])?;
        if xcr0 == 0 {
            return Ok(());
        }
        let [_, _, ecx, edx] = self.host.cpuid(0xd, 1);
        let features = self.word(Word::LdS1Eax);
        let compacts = features & (Feature::XSAVES.mask | Feature::XSAVEC.mask) != 0;
        let size = if compacts {
            self.sup.layout.size(xcr0 | xss, true)
        } else {
            0
        };
        self.push(0xd, 1, [features, size, ecx & low(xss), edx & high(xss)])?;
        let (mut rest, mut supervisors) = ((xcr0 | xss) >> 2, xss >> 2);
        for i in 2..=MAX_SUBLEAF {
            if rest == 0 {
                break;
            }
            if rest & 1 != 0 {
                let supervisor = supervisors & 1 != 0;
                let [size, offset, mut flags, _] = self.host.cpuid(0xd, i);
                // The processor must agree on what the component is.
                if size != 0 && (flags & 1 != 0) == supervisor {
                    if !self.sup.features.has(Feature::XFD) {
                        flags &= !(1 << 2);
                    }
                    self.push(0xd, i, [size, offset, flags, 0])?;
                }
            }
            rest >>= 1;
            supervisors >>= 1;
        }
        Ok(())
    }

    fn tile_multiply(&mut self, [eax, ebx, ecx, edx]: Regs) -> Result<(), TooSmall> {
        let last = eax.min(1);
        self.push(0x1e, 0, [last, ebx, ecx, edx])?;
        if last >= 1 {
            self.push(0x1e, 1, [self.word(Word::L1eS1Eax), 0, 0, 0])?;
        }
        Ok(())
    }

    fn avx10(&mut self, eax: u32, ebx: u32) -> Result<(), TooSmall> {
        let last = eax.min(1);
        let version = (ebx & 0xff).min(2);
        self.push(0x24, 0, [last, self.word(Word::L24Ebx) | version, 0, 0])?;
        if last >= 1 {
            self.push(0x24, 1, [0, 0, self.word(Word::L24S1Ecx), 0])?;
        }
        Ok(())
    }

    /// EAX of leaf 0x80000008: bits of a physical and of a linear address, and in bits 23:16 how
    /// many bits of a guest-physical address can be mapped.
    ///
    /// KVM: the guest's physical width is the processor's own, reductions by memory encryption
    /// aside; what a four-level nested table cannot reach is reported apart.
    fn address_sizes(&self, eax: u32) -> u32 {
        let physical = eax & 0xff;
        let linear = ((eax >> 8) & 0xff).max(48);
        let mappable = match self.sup.tdp_levels {
            0 => 0,
            5.. => physical,
            _ => physical.min(48),
        };
        physical | (linear << 8) | (mappable << 16)
    }

    fn hypervisor(&mut self) -> Result<(), TooSmall> {
        let [ebx, ecx, edx] = KVM_SIGNATURE;
        let features = KVM_SIGNATURE_LEAF | KVM_FEATURES_OFFSET;
        self.push(KVM_SIGNATURE_LEAF, 0, [features, ebx, ecx, edx])?;
        self.push(features, 0, [self.sup.pv_features, 0, 0, 0])
    }
}

/// The low half.
const fn low(x: u64) -> u32 {
    // CAST: cut on purpose.
    x as u32
}

/// The high half.
const fn high(x: u64) -> u32 {
    // CAST: 32 bits are left.
    (x >> 32) as u32
}

#[cfg(test)]
#[path = "tests/cpuid.rs"]
mod tests;
