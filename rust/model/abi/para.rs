// SPDX-License-Identifier: GPL-2.0

//! What guests and the hypervisor share: `<asm/kvm_para.h>`, `<linux/kvm_para.h>` and the clock
//! structures of `<asm/pvclock-abi.h>`.

use super::{uapi, values};

uapi! {
    /// Stolen time, in guest memory. `steal` is in nanoseconds; `version` is odd during an update.
    pub struct KvmStealTime("struct kvm_steal_time", 64) {
        steal: u64,
        version: u32,
        flags: u32,
        preempted: u8,
        u8_pad: [u8; 3],
        pad: [u32; 11],
    }

    /// What `KVM_HC_CLOCK_PAIRING` writes: the host's clock and the guest's TSC of one moment.
    pub struct KvmClockPairing("struct kvm_clock_pairing", 64) {
        sec: i64,
        nsec: i64,
        tsc: u64,
        flags: u32,
        pad: [u32; 9],
    }

    /// Asynchronous page faults, in guest memory.
    pub struct KvmVcpuPvApfData("struct kvm_vcpu_pv_apf_data", 64) {
        flags: u32,
        token: u32,
        pad: [u8; 56],
    }

    /// The paravirtual clock of a vCPU, in guest memory. `version` is odd during an update.
    pub struct PvclockVcpuTimeInfo("struct pvclock_vcpu_time_info", 32) {
        version: u32,
        pad0: u32,
        tsc_timestamp: u64,
        system_time: u64,
        tsc_to_system_mul: u32,
        tsc_shift: i8,
        flags: u8,
        pad: [u8; 2],
    }

    /// When the paravirtual clock was 0, in guest memory. `version` is odd during an update.
    pub struct PvclockWallClock("struct pvclock_wall_clock", 12) {
        version: u32,
        sec: u32,
        nsec: u32,
    }
}

values! {
    u32 KVM_CPUID_SIGNATURE = 0x4000_0000;
    u32 KVM_CPUID_FEATURES = 0x4000_0001;
    u32 KVM_FEATURE_CLOCKSOURCE = 0;
    u32 KVM_FEATURE_NOP_IO_DELAY = 1;
    u32 KVM_FEATURE_CLOCKSOURCE2 = 3;
    u32 KVM_FEATURE_ASYNC_PF = 4;
    u32 KVM_FEATURE_STEAL_TIME = 5;
    u32 KVM_FEATURE_PV_EOI = 6;
    u32 KVM_FEATURE_PV_UNHALT = 7;
    u32 KVM_FEATURE_PV_TLB_FLUSH = 9;
    u32 KVM_FEATURE_ASYNC_PF_VMEXIT = 10;
    u32 KVM_FEATURE_PV_SEND_IPI = 11;
    u32 KVM_FEATURE_POLL_CONTROL = 12;
    u32 KVM_FEATURE_PV_SCHED_YIELD = 13;
    u32 KVM_FEATURE_ASYNC_PF_INT = 14;
    u32 KVM_FEATURE_MSI_EXT_DEST_ID = 15;
    u32 KVM_FEATURE_HC_MAP_GPA_RANGE = 16;
    u32 KVM_FEATURE_MIGRATION_CONTROL = 17;
    u32 KVM_FEATURE_CLOCKSOURCE_STABLE_BIT = 24;
    u32 KVM_HINTS_REALTIME = 0;

    u64 KVM_MSR_ENABLED = 1;
    u8 KVM_VCPU_PREEMPTED = 1 << 0;
    u8 KVM_VCPU_FLUSH_TLB = 1 << 1;
    u64 KVM_ASYNC_PF_ENABLED = 1 << 0;
    u64 KVM_ASYNC_PF_SEND_ALWAYS = 1 << 1;
    u64 KVM_ASYNC_PF_DELIVERY_AS_PF_VMEXIT = 1 << 2;
    u64 KVM_ASYNC_PF_DELIVERY_AS_INT = 1 << 3;
    u32 KVM_PV_REASON_PAGE_NOT_PRESENT = 1;
    u32 KVM_PV_REASON_PAGE_READY = 2;
    u8 KVM_PV_EOI_ENABLED = 1;
    u8 KVM_PV_EOI_DISABLED = 0;
    u32 PVCLOCK_TSC_STABLE_BIT = 1 << 0;
    u32 PVCLOCK_GUEST_STOPPED = 1 << 1;

    u64 KVM_HC_VAPIC_POLL_IRQ = 1;
    u64 KVM_HC_MMU_OP = 2;
    u64 KVM_HC_FEATURES = 3;
    u64 KVM_HC_KICK_CPU = 5;
    u64 KVM_HC_CLOCK_PAIRING = 9;
    u64 KVM_HC_SEND_IPI = 10;
    u64 KVM_HC_SCHED_YIELD = 11;
    u64 KVM_HC_MAP_GPA_RANGE = 12;
    u64 KVM_CLOCK_PAIRING_WALLCLOCK = 0;
    u64 KVM_MAP_GPA_RANGE_PAGE_SZ_4K = 0;
    u64 KVM_MAP_GPA_RANGE_PAGE_SZ_2M = 1 << 0;
    u64 KVM_MAP_GPA_RANGE_PAGE_SZ_1G = 1 << 1;
    u64 KVM_MAP_GPA_RANGE_ENCRYPTED = 1 << 4;

    /// A hypercall fails with the negative of these; where Linux has an errno of the name, it is
    /// that number.
    u64 KVM_ENOSYS = 1000;
    u64 KVM_EFAULT = 14;
    u64 KVM_EINVAL = 22;
    u64 KVM_E2BIG = 7;
    u64 KVM_EPERM = 1;
    u64 KVM_EOPNOTSUPP = 95;
}
