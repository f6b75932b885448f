// SPDX-License-Identifier: GPL-2.0

//! What this host can give to guests, worked out when the backend has been probed.

use crate::backend::Backend;
use host::cpu::bit;
use host::cpu::word;
use host::hwvirt::X86Virt;
use host::kept::Kept;
use host::kept::UntilUnload;
use kernel::prelude::*;
use model::abi;
use model::policy::feature::host_fact;
use model::policy::feature::raw_features;
use model::policy::feature::Caps;
use model::policy::feature::HostCpuid;
use model::policy::feature::Supported;
use model::policy::msr;
use model::policy::msr::HostMsrs;
use model::policy::msr::Immunities;
use model::policy::msr::MAX_MSRS;
use model::policy::pv;
use model::x86::cpuid::Feature;
use model::x86::cpuid::FeatureSet;
use model::x86::cpuid::Regs;
use model::x86::cpuid::Word;
use model::x86::msr::arch_cap;
use model::x86::msr::mcg_cap;
use virt::entry;
use virt::vendor::Features;

/// The paravirtual features that are offered: all but asynchronous page faults.
const PV: u32 = pv::CLOCKSOURCE
    | pv::NOP_IO_DELAY
    | pv::CLOCKSOURCE2
    | pv::STEAL_TIME
    | pv::PV_EOI
    | pv::PV_UNHALT
    | pv::PV_TLB_FLUSH
    | pv::PV_SEND_IPI
    | pv::POLL_CONTROL
    | pv::PV_SCHED_YIELD
    | pv::CLOCKSOURCE_STABLE;

/// The host.
pub(crate) struct HostCaps {
    /// What CPUID may offer.
    pub(crate) supported: KBox<Supported>,
    /// What MSRs may offer.
    pub(crate) msrs: HostMsrs,
    /// The answer of KVM_GET_MSR_INDEX_LIST.
    pub(crate) msr_list: KVec<u32>,
    /// Of which probe of the backend this is; an address that is only compared.
    backend: usize,
}

static CAPS: Kept<HostCaps> = Kept::new();

/// The host's capabilities; `None` before the module has probed.
pub(crate) fn get() -> Option<&'static HostCaps> {
    CAPS.get()
}

/// This host's CPUID.
pub(crate) struct Cpu;

impl HostCpuid for Cpu {
    fn cpuid(&self, leaf: u32, subleaf: u32) -> Regs {
        let r = host::cpu::cpuid(leaf, subleaf);
        [r.eax, r.ebx, r.ecx, r.edx]
    }

    fn kernel(&self, word: Word) -> Option<u32> {
        let n = match word {
            Word::L1Edx => word::L1_EDX,
            Word::X1Edx => word::X1_EDX,
            Word::L1Ecx => word::L1_ECX,
            Word::X1Ecx => word::X1_ECX,
            Word::L7Ebx => word::L7_EBX,
            Word::LdS1Eax => word::LD_S1_EAX,
            Word::L7S1Eax => word::L7_S1_EAX,
            Word::X8Ebx => word::X8_EBX,
            Word::XaEdx => word::XA_EDX,
            Word::L7Ecx => word::L7_ECX,
            Word::L7Edx => word::L7_EDX,
            Word::X21Eax => word::X21_EAX,
            Word::X21Ecx => return Some(immune_to_tsa()),
            _ => return None,
        };
        let mut bits = 0u32;
        for b in 0..32u32 {
            if host::cpu::has(n.wrapping_mul(32).wrapping_add(b)) {
                bits |= 1 << b;
            }
        }
        Some(bits)
    }
}

/// ECX of leaf 0x80000021, whose bits the kernel knows one by one. Processors from before the leaf
/// had them are told to be immune by the kernel alone.
fn immune_to_tsa() -> u32 {
    let mut bits = 0;
    for (bit, feature) in [
        (bit::TSA_SQ_NO, Feature::TSA_SQ_NO),
        (bit::TSA_L1_NO, Feature::TSA_L1_NO),
        (bit::TSA_FILL_NO, Feature::TSA_FILL_NO),
    ] {
        if host::cpu::has(bit) {
            bits |= feature.mask;
        }
    }
    bits
}

/// What a CPU tells of its errata; `None` if it is not online.
fn osvw(cpu: u32, raw: &FeatureSet) -> Option<[u64; 2]> {
    if !raw.has(Feature::OSVW) {
        return Some([0, 0]);
    }
    let read = |msr| host::msr::rdmsr_on(cpu, msr);
    match (
        read(model::x86::msr::OSVW_ID_LENGTH),
        read(model::x86::msr::OSVW_STATUS),
    ) {
        (Ok(length), Ok(status)) => Some([length, status]),
        (Err(e), _) | (_, Err(e)) if e == ENXIO => None,
        _ => Some([0, 0]),
    }
}

/// The exits that user space may disable: KVM_X86_DISABLE_EXITS_*.
///
/// Where return predictions cross threads of a core and the administrator wants that mitigated, a
/// guest must not reach idle states by itself (module parameter `mitigate_smt_rsb`).
pub(crate) fn disabled_exits(f: &Features) -> u64 {
    let mut r = abi::KVM_X86_DISABLE_EXITS_PAUSE;
    if host::cpu::has(bit::APERFMPERF) {
        r |= abi::KVM_X86_DISABLE_EXITS_APERFMPERF;
    }
    let mitigate = host::params::mitigate_smt_rsb()
        && host::cpu::has(bit::BUG_SMT_RSB)
        && host::cpu::smt_possible();
    if !mitigate {
        r |= abi::KVM_X86_DISABLE_EXITS_HLT | abi::KVM_X86_DISABLE_EXITS_CSTATE;
        if f.mwait && host::cpu::has(bit::ARAT) && !host::cpu::has(bit::BUG_MONITOR) {
            r |= abi::KVM_X86_DISABLE_EXITS_MWAIT;
        }
    }
    r
}

/// The large answer has a stack frame of its own.
#[inline(never)]
fn offer_of(caps: &Caps) -> Result<KBox<Supported>> {
    let place = KBox::<Supported>::new_uninit(GFP_KERNEL)?;
    Ok(KBox::write(place, Supported::probe(&Cpu, caps)))
}

/// Does the host get an exception for a locked access that splits a cache line?
pub(crate) fn traps_split_locks() -> bool {
    host::cpu::has(bit::SPLIT_LOCK_DETECT)
}

/// What CPUID may offer, on the heap.
#[inline(never)]
fn offer(
    host: u32,
    tdp_levels: u8,
    enable: FeatureSet,
    disable: FeatureSet,
) -> Result<KBox<Supported>> {
    let caps = Caps {
        tdp_levels,
        xcr0: entry::host_xcr0() & entry::GUEST_XCR0,
        xss: entry::host_xss() & entry::GUEST_XSS,
        enable,
        disable,
        host,
        pv_features: PV,
    };
    offer_of(&caps)
}

/// Frees what was kept, at the end of the module.
pub(crate) fn until_unload() -> UntilUnload<HostCaps> {
    CAPS.until_unload()
}

/// The host's IA32_ARCH_CAPABILITIES; 0 if it has none.
fn arch_capabilities() -> u64 {
    if !host::cpu::has(bit::ARCH_CAPABILITIES) {
        return 0;
    }
    host::msr::rdmsr_safe(model::x86::msr::ARCH_CAPABILITIES).unwrap_or(0)
}

/// What the kernel knows to be no fault of this processor, or mended below every guest.
fn immunities(flushes_l1d: bool) -> Immunities {
    let mut no_bug = 0;
    for (bug, bit) in [
        (bit::BUG_MELTDOWN, arch_cap::RDCL_NO),
        (bit::BUG_SPEC_STORE_BYPASS, arch_cap::SSB_NO),
        (bit::BUG_MDS, arch_cap::MDS_NO),
        (bit::BUG_TAA, arch_cap::TAA_NO),
        (bit::BUG_GDS, arch_cap::GDS_NO),
        (bit::BUG_RFDS, arch_cap::RFDS_NO),
        (bit::BUG_ITS, arch_cap::ITS_NO),
    ] {
        if !host::cpu::has(bug) {
            no_bug |= bit;
        }
    }
    if host::cpu::gds_mitigated() {
        no_bug |= arch_cap::GDS_NO;
    }
    Immunities {
        no_bug,
        flushes_l1d,
        rtm: host::cpu::has(bit::RTM),
    }
}

/// Works out the capabilities, or takes those from when this backend was last in use. ENOMEM.
#[inline(never)]
pub(crate) fn probe<V: Backend>() -> Result {
    let backend = core::ptr::from_ref(V::module()?).addr();
    if CAPS.choose(|c| c.backend == backend).is_some() {
        return Ok(());
    }
    let f = V::host_features();
    let mut facts = 0;
    if !host::cpu::has(bit::BUG_EIBRS_PBRSB) {
        facts |= host_fact::NO_EIBRS_PBRSB;
    }
    if !host::cpu::has(bit::BUG_NULL_SEG) {
        facts |= host_fact::NULL_SEGMENT_CLEARS_BASE;
    }
    if !host::cpu::has(bit::BUG_SPEC_STORE_BYPASS) {
        facts |= host_fact::NO_SPEC_STORE_BYPASS;
    }
    if host::cpu::has(bit::LS_CFG_SSBD) {
        facts |= host_fact::LS_CFG_SSBD;
    }
    let raw = raw_features(&Cpu);
    let mut disable = FeatureSet::EMPTY;
    for (have, feature) in [
        (f.rdtscp, Feature::RDTSCP),
        (f.rdtscp, Feature::RDPID),
        (f.invpcid, Feature::INVPCID),
        (f.xsaves, Feature::XSAVES),
        // No shadow stacks, last-branch or performance registers are virtualised.
        (false, Feature::SHSTK),
        (false, Feature::IBT),
        (false, Feature::AMX_TILE),
        (false, Feature::PDCM),
        (false, Feature::WAITPKG),
    ] {
        if !have {
            disable.assign(feature, true);
        }
    }
    let mut enable = FeatureSet::EMPTY;
    enable.assign(Feature::UMIP, f.umip_by_exits);
    let supported = offer(facts, f.tdp_levels, enable, disable)?;
    let mut msrs = HostMsrs::new(&supported, &raw);
    msrs.svm = V::EXTENSION == X86Virt::Svm;
    if !msrs.svm {
        // The in-tree module offers both on every Intel processor: all of it is software.
        msrs.mcg_cap |= mcg_cap::CMCI_P | mcg_cap::LMCE_P;
    }
    msrs.tsc_aux = f.rdtscp;
    // Handlers begin in real mode with segments of 4 GiB.
    msrs.smm = f.big_real_mode;
    // The scheduler accounts for it always: CONFIG_SCHEDSTATS.
    msrs.steal_time = true;
    let host_arch = arch_capabilities();
    msrs.arch_capabilities =
        HostMsrs::offered_arch_capabilities(host_arch, immunities(f.l1d_flushed));
    msrs.tsx_ctrl =
        V::EXTENSION == X86Virt::Vmx && msrs.arch_capabilities & arch_cap::TSX_CTRL != 0;
    if msrs.svm {
        let cpus = (0..host::percpu::nr_cpu_ids()).filter_map(|cpu| osvw(cpu, &raw));
        msrs.osvw = HostMsrs::offered_osvw(cpus, host::cpu::family());
    }
    // The upper half on Intel (`SDM: vol 4, table 2-2`).
    let half = if V::EXTENSION == X86Virt::Vmx { 32 } else { 0 };
    msrs.microcode = u64::from(host::cpu::microcode()) << half;
    let mut msr_list = KVec::from_elem(0u32, MAX_MSRS, GFP_KERNEL)?;
    let all = msr_list.first_chunk_mut().ok_or(EINVAL)?;
    let n = msr::msr_list(&supported, &msrs, |i| host::msr::rdmsr_safe(i).is_ok(), all);
    msr_list.truncate(n);
    CAPS.keep(HostCaps {
        supported,
        msrs,
        msr_list,
        backend,
    })?;
    Ok(())
}
