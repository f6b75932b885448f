// SPDX-License-Identifier: GPL-2.0

//! What this machine's CPUs are and can do.
//!
//! Feature and bug numbers are the kernel's ([`bit`]): what the kernel turned off by command line or
//! for a missing dependency is not there, although CPUID may say so.

use core::arch::asm;
use core::arch::x86_64::__cpuid_count;

use kernel::bindings;

use crate::shim;

/// Who made the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuVendor {
    /// Intel.
    Intel,
    /// AMD.
    Amd,
    /// Hygon: AMD's extensions under another name.
    Hygon,
    /// Centaur: Intel's extensions under another name.
    Centaur,
    /// Zhaoxin: Intel's extensions under another name.
    Zhaoxin,
    /// Another one.
    Other,
}

/// The four result registers of CPUID.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cpuid {
    /// EAX.
    pub eax: u32,
    /// EBX.
    pub ebx: u32,
    /// ECX.
    pub ecx: u32,
    /// EDX.
    pub edx: u32,
}

/// CPUID, as this CPU answers it.
pub fn cpuid(leaf: u32, subleaf: u32) -> Cpuid {
    // SAFETY: The instruction exists on every 64-bit CPU.
    let r = unsafe { __cpuid_count(leaf, subleaf) };
    Cpuid {
        eax: r.eax,
        ebx: r.ebx,
        ecx: r.ecx,
        edx: r.edx,
    }
}

/// Numbers for [`has`], from the headers that the module is built with.
pub mod bit {
    pub use crate::shim::{
        KVMRS_CPU_APERFMPERF as APERFMPERF, KVMRS_CPU_ARAT as ARAT,
        KVMRS_CPU_ARCH_CAPABILITIES as ARCH_CAPABILITIES,
        KVMRS_CPU_BUG_EIBRS_PBRSB as BUG_EIBRS_PBRSB, KVMRS_CPU_BUG_GDS as BUG_GDS,
        KVMRS_CPU_BUG_ITS as BUG_ITS, KVMRS_CPU_BUG_MDS as BUG_MDS,
        KVMRS_CPU_BUG_MELTDOWN as BUG_MELTDOWN, KVMRS_CPU_BUG_MONITOR as BUG_MONITOR,
        KVMRS_CPU_BUG_NULL_SEG as BUG_NULL_SEG, KVMRS_CPU_BUG_RFDS as BUG_RFDS,
        KVMRS_CPU_BUG_SMT_RSB as BUG_SMT_RSB,
        KVMRS_CPU_BUG_SPEC_STORE_BYPASS as BUG_SPEC_STORE_BYPASS, KVMRS_CPU_BUG_TAA as BUG_TAA,
        KVMRS_CPU_LS_CFG_SSBD as LS_CFG_SSBD, KVMRS_CPU_RTM as RTM,
        KVMRS_CPU_SELFSNOOP as SELFSNOOP, KVMRS_CPU_SPLIT_LOCK_DETECT as SPLIT_LOCK_DETECT,
        KVMRS_CPU_TSA_FILL_NO as TSA_FILL_NO, KVMRS_CPU_TSA_L1_NO as TSA_L1_NO,
        KVMRS_CPU_TSA_SQ_NO as TSA_SQ_NO,
    };
}

/// The kernel's words of features, whose numbers for [`has`] are 32 times this and on.
pub mod word {
    pub use crate::shim::{
        KVMRS_WORD_1_ECX as L1_ECX, KVMRS_WORD_1_EDX as L1_EDX, KVMRS_WORD_7_1_EAX as L7_S1_EAX,
        KVMRS_WORD_7_EBX as L7_EBX, KVMRS_WORD_7_ECX as L7_ECX, KVMRS_WORD_7_EDX as L7_EDX,
        KVMRS_WORD_80000001_ECX as X1_ECX, KVMRS_WORD_80000001_EDX as X1_EDX,
        KVMRS_WORD_80000008_EBX as X8_EBX, KVMRS_WORD_8000000A_EDX as XA_EDX,
        KVMRS_WORD_80000021_EAX as X21_EAX, KVMRS_WORD_D_1_EAX as LD_S1_EAX,
    };
}

/// Whether the kernel uses or would let a guest use a feature (`X86_FEATURE_*`), or the CPU has a
/// bug (`X86_BUG_*`). Numbers out of range are not there.
pub fn has(bit: u32) -> bool {
    // SAFETY: Checks the number.
    unsafe { shim::kvmrs_cpu_has(bit) }
}

/// A field of the boot CPU's description.
macro_rules! boot_cpu {
    ($($field:tt)+) => {{
        let data = &raw const bindings::boot_cpu_data;
        // SAFETY: The kernel's description of the boot CPU, constant once user space runs.
        unsafe { (&raw const (*data).$($field)+).read() }
    }};
}

/// Who made the CPU.
pub fn vendor() -> CpuVendor {
    match u32::from(boot_cpu!(__bindgen_anon_1.__bindgen_anon_1.x86_vendor)) {
        bindings::X86_VENDOR_INTEL => CpuVendor::Intel,
        bindings::X86_VENDOR_AMD => CpuVendor::Amd,
        bindings::X86_VENDOR_HYGON => CpuVendor::Hygon,
        bindings::X86_VENDOR_CENTAUR => CpuVendor::Centaur,
        bindings::X86_VENDOR_ZHAOXIN => CpuVendor::Zhaoxin,
        _ => CpuVendor::Other,
    }
}

/// The CPU's family, as the kernel counts it (extended family added).
pub fn family() -> u8 {
    boot_cpu!(__bindgen_anon_1.__bindgen_anon_1.x86)
}

/// The CPU's model, with the extended bits.
pub fn model() -> u8 {
    boot_cpu!(__bindgen_anon_1.__bindgen_anon_1.x86_model)
}

/// The CPU's stepping.
pub fn stepping() -> u8 {
    boot_cpu!(x86_stepping)
}

/// The microcode revision of the boot CPU.
pub fn microcode() -> u32 {
    boot_cpu!(microcode)
}

/// Width of a physical address that software may use, bits: memory encryption takes some away.
pub fn phys_bits() -> u8 {
    boot_cpu!(x86_phys_bits)
}

/// Width of a physical address in hardware, bits (CPUID 80000008H), encryption bits included.
pub fn raw_phys_bits() -> u8 {
    if cpuid(0x8000_0000, 0).eax >= 0x8000_0008 {
        cpuid(0x8000_0008, 0).eax as u8
    } else {
        phys_bits()
    }
}

/// CR4 of this CPU.
#[inline]
pub fn cr4() -> u64 {
    let value;
    // SAFETY: Reads a control register, which the kernel may do.
    unsafe { asm!("mov {}, cr4", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// CR0 of this CPU.
#[inline]
pub fn cr0() -> u64 {
    let value;
    // SAFETY: As above.
    unsafe { asm!("mov {}, cr0", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// EFER of this CPU.
pub fn efer() -> u64 {
    // SAFETY: Exists on every 64-bit CPU. APM: vol 2, 3.1.7.
    unsafe { crate::msr::rdmsr(0xc000_0080) }
}

/// Frequency of the time-stamp counter, kHz.
pub fn tsc_khz() -> u32 {
    // SAFETY: A plain variable that changes at most when the TSC turns out unstable.
    unsafe { (&raw const bindings::tsc_khz).read_volatile() }
}

/// Whether the kernel found the TSC unusable as a clock.
pub fn tsc_unstable() -> bool {
    // SAFETY: Reads a flag.
    unsafe { shim::kvmrs_tsc_unstable() }
}

/// Number of CPUs online now.
pub fn num_online() -> u32 {
    // SAFETY: Reads a counter.
    unsafe { shim::kvmrs_num_online_cpus() }
}

/// The local APIC id of a CPU.
pub fn apic_id(cpu: u32) -> Option<u32> {
    // SAFETY: A possible CPU's number.
    (cpu < crate::percpu::nr_cpu_ids()).then(|| unsafe { shim::kvmrs_cpu_apicid(cpu as i32) })
}

/// The NUMA node of a CPU.
pub fn node(cpu: u32) -> Option<i32> {
    // SAFETY: A possible CPU's number.
    (cpu < crate::percpu::nr_cpu_ids()).then(|| unsafe { shim::kvmrs_cpu_node(cpu as i32) })
}

/// Whether several threads of one core are online, or may come online.
pub fn smt_possible() -> bool {
    // SAFETY: Reads a flag.
    unsafe { shim::kvmrs_smt_possible() }
}

/// Whether large executable pages must be avoided (ITLB_MULTIHIT).
pub fn itlb_multihit_mitigation() -> bool {
    // SAFETY: Set at boot.
    unsafe { (&raw const shim::itlb_multihit_kvm_mitigation).read() }
}

/// Whether microcode mitigates gather data sampling.
pub fn gds_mitigated() -> bool {
    // SAFETY: Reads a state set at boot.
    unsafe { shim::gds_ucode_mitigated() }
}
