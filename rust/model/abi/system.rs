// SPDX-License-Identifier: GPL-2.0

//! What `/dev/kvm` itself is asked: version, VM creation, CPUID and MSR lists, device attributes,
//! `KVM_ENABLE_CAP` and the layout of the binary statistics file.

use super::{ioctls, uapi, values};

uapi! {
    /// The header of an MSR index list; `nmsrs` indices of 4 bytes follow.
    pub struct KvmMsrList("struct kvm_msr_list", 4) {
        nmsrs: u32,
    }

    /// One MSR and its value.
    pub struct KvmMsrEntry("struct kvm_msr_entry", 16) {
        index: u32,
        reserved: u32,
        data: u64,
    }

    /// The header of `KVM_GET_MSRS` and `KVM_SET_MSRS`; `nmsrs` [`KvmMsrEntry`] follow.
    pub struct KvmMsrs("struct kvm_msrs", 8) {
        nmsrs: u32,
        pad: u32,
    }

    /// One CPUID leaf in the old form, which has no subleaves.
    pub struct KvmCpuidEntry("struct kvm_cpuid_entry", 24) {
        function: u32,
        eax: u32,
        ebx: u32,
        ecx: u32,
        edx: u32,
        padding: u32,
    }

    /// The header of `KVM_SET_CPUID`; `nent` [`KvmCpuidEntry`] follow.
    pub struct KvmCpuid("struct kvm_cpuid", 8) {
        nent: u32,
        padding: u32,
    }

    /// One CPUID leaf and subleaf. `flags` holds `KVM_CPUID_FLAG_*`.
    pub struct KvmCpuidEntry2("struct kvm_cpuid_entry2", 40) {
        function: u32,
        index: u32,
        flags: u32,
        eax: u32,
        ebx: u32,
        ecx: u32,
        edx: u32,
        padding: [u32; 3],
    }

    /// The header of every CPUID list; `nent` [`KvmCpuidEntry2`] follow.
    pub struct KvmCpuid2("struct kvm_cpuid2", 8) {
        nent: u32,
        padding: u32,
    }

    /// What `KVM_ENABLE_CAP` takes.
    pub struct KvmEnableCap("struct kvm_enable_cap", 104) {
        cap: u32,
        flags: u32,
        args: [u64; 4],
        pad: [u8; 64],
    }

    /// An attribute of a device, a vCPU or the system. `addr` is a user address.
    pub struct KvmDeviceAttr("struct kvm_device_attr", 24) {
        flags: u32,
        group: u32,
        attr: u64,
        addr: u64,
    }

    /// The first bytes of a statistics file.
    pub struct KvmStatsHeader("struct kvm_stats_header", 24) {
        flags: u32,
        name_size: u32,
        num_desc: u32,
        id_offset: u32,
        desc_offset: u32,
        data_offset: u32,
    }

    /// One statistic; `name_size` bytes of name follow.
    pub struct KvmStatsDesc("struct kvm_stats_desc", 16) {
        flags: u32,
        exponent: i16,
        size: u16,
        offset: u32,
        bucket_size: u32,
    }
}

/// Size of a statistic's name, terminating zero included, bytes. Not in the user header: user space
/// learns it from `KvmStatsHeader::name_size`.
pub const KVM_STATS_NAME_SIZE: usize = 48;

values! {
    u32 KVM_CPUID_FLAG_SIGNIFCANT_INDEX = 1 << 0;
    u32 KVM_CPUID_FLAG_STATEFUL_FUNC = 1 << 1;
    u32 KVM_CPUID_FLAG_STATE_READ_NEXT = 1 << 2;

    u64 KVM_X86_DEFAULT_VM = 0;
    u64 KVM_X86_SW_PROTECTED_VM = 1;
    u64 KVM_X86_SEV_VM = 2;
    u64 KVM_X86_SEV_ES_VM = 3;
    u64 KVM_X86_SNP_VM = 4;
    u64 KVM_X86_TDX_VM = 5;

    u32 KVM_X86_GRP_SYSTEM = 0;
    u64 KVM_X86_XCOMP_GUEST_SUPP = 0;
    u32 KVM_X86_GRP_SEV = 1;
    u64 KVM_X86_SEV_VMSA_FEATURES = 0;
    u64 KVM_X86_SNP_POLICY_BITS = 1;
    u64 KVM_X86_SEV_SNP_REQ_CERTS = 2;

    u32 KVM_STATS_TYPE_SHIFT = 0;
    u32 KVM_STATS_TYPE_MASK = 0xf;
    u32 KVM_STATS_TYPE_CUMULATIVE = 0;
    u32 KVM_STATS_TYPE_INSTANT = 1;
    u32 KVM_STATS_TYPE_PEAK = 2;
    u32 KVM_STATS_TYPE_LINEAR_HIST = 3;
    u32 KVM_STATS_TYPE_LOG_HIST = 4;
    u32 KVM_STATS_UNIT_SHIFT = 4;
    u32 KVM_STATS_UNIT_MASK = 0xf0;
    u32 KVM_STATS_UNIT_NONE = 0;
    u32 KVM_STATS_UNIT_BYTES = 0x10;
    u32 KVM_STATS_UNIT_SECONDS = 0x20;
    u32 KVM_STATS_UNIT_CYCLES = 0x30;
    u32 KVM_STATS_UNIT_BOOLEAN = 0x40;
    u32 KVM_STATS_BASE_SHIFT = 8;
    u32 KVM_STATS_BASE_MASK = 0xf00;
    u32 KVM_STATS_BASE_POW10 = 0;
    u32 KVM_STATS_BASE_POW2 = 0x100;
}

ioctls! {
    KVM_GET_API_VERSION = None 0x00;
    /// The argument is the VM type.
    KVM_CREATE_VM = None 0x01;
    KVM_GET_MSR_INDEX_LIST = ReadWrite 0x02, KvmMsrList;
    /// Also on the VM descriptor.
    KVM_CHECK_EXTENSION = None 0x03;
    KVM_GET_VCPU_MMAP_SIZE = None 0x04;
    KVM_GET_SUPPORTED_CPUID = ReadWrite 0x05, KvmCpuid2;
    KVM_GET_EMULATED_CPUID = ReadWrite 0x09, KvmCpuid2;
    KVM_GET_MSR_FEATURE_INDEX_LIST = ReadWrite 0x0a, KvmMsrList;
    /// Also on the vCPU descriptor.
    KVM_GET_MSRS = ReadWrite 0x88, KvmMsrs;
    KVM_X86_GET_MCE_CAP_SUPPORTED = Read 0x9d, u64;
    /// On the VM and the vCPU descriptor.
    KVM_ENABLE_CAP = Write 0xa3, KvmEnableCap;
    /// Also on the vCPU descriptor.
    KVM_GET_SUPPORTED_HV_CPUID = ReadWrite 0xc1, KvmCpuid2;
    /// On the VM and the vCPU descriptor.
    KVM_GET_STATS_FD = None 0xce;
    /// On devices, on the vCPU descriptor and, for get and has, on `/dev/kvm`.
    KVM_SET_DEVICE_ATTR = Write 0xe1, KvmDeviceAttr;
    KVM_GET_DEVICE_ATTR = Write 0xe2, KvmDeviceAttr;
    KVM_HAS_DEVICE_ATTR = Write 0xe3, KvmDeviceAttr;
}
