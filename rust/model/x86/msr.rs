// SPDX-License-Identifier: GPL-2.0

//! Indices of the model-specific registers that guests may meet, and the bits of some.
//!
//! `SDM: vol 4, chapter 2`, `APM: vol 2, appendix A`; the KVM range is KVM's own ABI.

macro_rules! msrs {
    ($( $(#[$doc:meta])* $name:ident = $index:literal; )*) => {
        $(
            $(#[$doc])*
            #[doc = concat!("MSR `", stringify!($index), "`.")]
            pub const $name: u32 = $index;
        )*
    };
}

msrs! {
    P5_MC_ADDR = 0x0;
    P5_MC_TYPE = 0x1;
    TSC = 0x10;
    /// kvmclock's wall clock, in the index that was Intel's.
    KVM_WALL_CLOCK = 0x11;
    /// kvmclock's system time, in the index that was Intel's.
    KVM_SYSTEM_TIME = 0x12;
    PLATFORM_ID = 0x17;
    APIC_BASE = 0x1b;
    EBL_CR_POWERON = 0x2a;
    EBC_FREQUENCY_ID = 0x2c;
    SMI_COUNT = 0x34;
    FEAT_CTL = 0x3a;
    TSC_ADJUST = 0x3b;
    SPEC_CTRL = 0x48;
    PRED_CMD = 0x49;
    UCODE_WRITE = 0x79;
    UCODE_REV = 0x8b;
    SMBASE = 0x9e;
    P6_PERFCTR0 = 0xc1;
    P6_PERFCTR1 = 0xc2;
    FSB_FREQ = 0xcd;
    PLATFORM_INFO = 0xce;
    /// Counts at a fixed rate while the CPU is not idle.
    MPERF = 0xe7;
    /// Counts at the CPU's rate while it is not idle.
    APERF = 0xe8;
    UMWAIT_CONTROL = 0xe1;
    MTRR_CAP = 0xfe;
    ARCH_CAPABILITIES = 0x10a;
    FLUSH_CMD = 0x10b;
    BBL_CR_CTL3 = 0x11e;
    TSX_CTRL = 0x122;
    MISC_FEATURES_ENABLES = 0x140;
    SYSENTER_CS = 0x174;
    SYSENTER_ESP = 0x175;
    SYSENTER_EIP = 0x176;
    MCG_CAP = 0x179;
    MCG_STATUS = 0x17a;
    MCG_CTL = 0x17b;
    P6_EVNTSEL0 = 0x186;
    P6_EVNTSEL1 = 0x187;
    PERF_STATUS = 0x198;
    PERF_CTL = 0x199;
    MISC_ENABLE = 0x1a0;
    XFD = 0x1c4;
    XFD_ERR = 0x1c5;
    DEBUGCTL = 0x1d9;
    LASTBRANCHFROMIP = 0x1db;
    LASTBRANCHTOIP = 0x1dc;
    LASTINTFROMIP = 0x1dd;
    LASTINTTOIP = 0x1de;
    POWER_CTL = 0x1fc;
    /// First of the variable-range MTRRs: base and mask alternate.
    MTRR_PHYS_BASE0 = 0x200;
    MTRR_FIX64K_00000 = 0x250;
    MTRR_FIX16K_80000 = 0x258;
    MTRR_FIX16K_A0000 = 0x259;
    MTRR_FIX4K_C0000 = 0x268;
    MTRR_FIX4K_F8000 = 0x26f;
    PAT = 0x277;
    MC0_CTL2 = 0x280;
    MTRR_DEF_TYPE = 0x2ff;
    PERF_CAPABILITIES = 0x345;
    MC0_CTL = 0x400;
    VMX_BASIC = 0x480;
    VMX_VMFUNC = 0x491;
    MCG_EXT_CTL = 0x4d0;
    CORE_C3_RESIDENCY = 0x3fc;
    CORE_C6_RESIDENCY = 0x3fd;
    CORE_C7_RESIDENCY = 0x3fe;
    RAPL_POWER_UNIT = 0x606;
    PKG_ENERGY_STATUS = 0x611;
    DRAM_ENERGY_STATUS = 0x619;
    PP0_ENERGY_STATUS = 0x639;
    PP1_ENERGY_STATUS = 0x641;
    CORE_C1_RES = 0x660;
    TSC_DEADLINE = 0x6e0;
    /// First of the x2APIC registers, which end at 0x8ff.
    X2APIC_FIRST = 0x800;
    X2APIC_LAST = 0x8ff;
    BNDCFGS = 0xd90;
    XSS = 0xda0;
    /// First of Hyper-V's synthetic registers.
    HYPERV_FIRST = 0x4000_0000;
    HYPERV_LAST = 0x4000_01ff;
    KVM_WALL_CLOCK_NEW = 0x4b56_4d00;
    KVM_SYSTEM_TIME_NEW = 0x4b56_4d01;
    KVM_ASYNC_PF_EN = 0x4b56_4d02;
    KVM_STEAL_TIME = 0x4b56_4d03;
    KVM_PV_EOI_EN = 0x4b56_4d04;
    KVM_POLL_CONTROL = 0x4b56_4d05;
    KVM_ASYNC_PF_INT = 0x4b56_4d06;
    KVM_ASYNC_PF_ACK = 0x4b56_4d07;
    EFER = 0xc000_0080;
    STAR = 0xc000_0081;
    LSTAR = 0xc000_0082;
    CSTAR = 0xc000_0083;
    SYSCALL_MASK = 0xc000_0084;
    FS_BASE = 0xc000_0100;
    GS_BASE = 0xc000_0101;
    KERNEL_GS_BASE = 0xc000_0102;
    TSC_AUX = 0xc000_0103;
    TSC_RATIO = 0xc000_0104;
    K7_EVNTSEL0 = 0xc001_0000;
    K7_PERFCTR3 = 0xc001_0007;
    SYSCFG = 0xc001_0010;
    HWCR = 0xc001_0015;
    K7_CLK_CTL = 0xc001_001b;
    NB_CFG = 0xc001_001f;
    PATCH_LOADER = 0xc001_0020;
    INT_PENDING_MSG = 0xc001_0055;
    MMIO_CONF_BASE = 0xc001_0058;
    TSEG_ADDR = 0xc001_0112;
    TSEG_MASK = 0xc001_0113;
    VM_CR = 0xc001_0114;
    VM_IGNNE = 0xc001_0115;
    VM_HSAVE_PA = 0xc001_0117;
    VIRT_SPEC_CTRL = 0xc001_011f;
    OSVW_ID_LENGTH = 0xc001_0140;
    OSVW_STATUS = 0xc001_0141;
    IC_CFG = 0xc001_1021;
    DC_CFG = 0xc001_1022;
    TW_CFG = 0xc001_1023;
    DE_CFG = 0xc001_1029;
    BU_CFG2 = 0xc001_102a;
    EX_CFG = 0xc001_102c;
}

/// The PAT after reset: write-back, write-through, UC-, uncacheable, twice. `SDM: vol 3, 12.12.4`.
pub const PAT_RESET: u64 = 0x0007_0406_0007_0406;

/// Bits of IA32_MISC_ENABLE.
pub mod misc_enable {
    /// Performance monitoring is available (read-only).
    pub const EMON: u64 = 1 << 7;
    /// Branch trace storage is unavailable (read-only).
    pub const BTS_UNAVAIL: u64 = 1 << 11;
    /// Precise event sampling is unavailable (read-only).
    pub const PEBS_UNAVAIL: u64 = 1 << 12;
    /// MONITOR and MWAIT are enabled.
    pub const MWAIT: u64 = 1 << 18;
}

/// Bits of IA32_FEAT_CTL.
pub mod feat_ctl {
    /// No more writes until reset.
    pub const LOCKED: u64 = 1 << 0;
    /// VMXON is allowed inside SMX.
    pub const VMX_IN_SMX: u64 = 1 << 1;
    /// VMXON is allowed outside SMX.
    pub const VMX: u64 = 1 << 2;
    /// Local machine checks are enabled.
    pub const LMCE: u64 = 1 << 20;
}

/// Bits of IA32_DEBUGCTL.
pub mod debugctl {
    /// Last-branch recording.
    pub const LBR: u64 = 1 << 0;
    /// Single-step on branches.
    pub const BTF: u64 = 1 << 1;
    /// `#DB` on bus locks.
    pub const BUS_LOCK_DETECT: u64 = 1 << 2;
    /// Counters stand still in SMM: the host's while a guest runs.
    pub const FREEZE_IN_SMM: u64 = 1 << 14;
    /// `#DB` in transactions.
    pub const RTM_DEBUG: u64 = 1 << 15;
}

/// Bits of IA32_SPEC_CTRL.
pub mod spec_ctrl {
    /// Indirect branch restricted speculation.
    pub const IBRS: u64 = 1 << 0;
    /// Single-thread indirect branch predictors.
    pub const STIBP: u64 = 1 << 1;
    /// Speculative store bypass disable.
    pub const SSBD: u64 = 1 << 2;
    /// Indirect branch prediction off, in user and in supervisor mode.
    pub const IPRED_DIS: u64 = 3 << 3;
    /// Alternate return predictions off, in user and in supervisor mode.
    pub const RRSBA_DIS: u64 = 3 << 5;
    /// Fast store forwarding prediction off.
    pub const PSFD: u64 = 1 << 7;
    /// Data-dependent prefetching off in user mode.
    pub const DDPD_U: u64 = 1 << 8;
    /// Branch history injection off in supervisor mode.
    pub const BHI_DIS_S: u64 = 1 << 10;
}

/// Bits of IA32_PRED_CMD.
pub mod pred_cmd {
    /// Indirect branch prediction barrier.
    pub const IBPB: u64 = 1 << 0;
    /// Selective branch predictor barrier.
    pub const SBPB: u64 = 1 << 7;
}

/// Bits of IA32_ARCH_CAPABILITIES. `SDM: vol 4, table 2-2`.
pub mod arch_cap {
    /// Not susceptible to Meltdown.
    pub const RDCL_NO: u64 = 1 << 0;
    /// IBRS need be set only once.
    pub const IBRS_ALL: u64 = 1 << 1;
    /// Returns may use other predictors.
    pub const RSBA: u64 = 1 << 2;
    /// The hypervisor flushes L1D at entry.
    pub const SKIP_L1DFL_VMENTRY: u64 = 1 << 3;
    /// Not susceptible to speculative store bypass.
    pub const SSB_NO: u64 = 1 << 4;
    /// Not susceptible to microarchitectural data sampling.
    pub const MDS_NO: u64 = 1 << 5;
    /// No machine check on a change of page size.
    pub const PSCHANGE_MC_NO: u64 = 1 << 6;
    /// IA32_TSX_CTRL exists.
    pub const TSX_CTRL: u64 = 1 << 7;
    /// Not susceptible to asynchronous aborts.
    pub const TAA_NO: u64 = 1 << 8;
    /// Not susceptible to three kinds of stale data from MMIO.
    pub const MMIO_STALE_NO: u64 = 7 << 13;
    /// VERW overwrites fill buffers.
    pub const FB_CLEAR: u64 = 1 << 17;
    /// Returns may use other predictors, controllably.
    pub const RRSBA: u64 = 1 << 19;
    /// Not susceptible to branch history injection.
    pub const BHI_NO: u64 = 1 << 20;
    /// Not susceptible to post-barrier return prediction.
    pub const PBRSB_NO: u64 = 1 << 24;
    /// Not susceptible to gather data sampling.
    pub const GDS_NO: u64 = 1 << 26;
    /// Not susceptible to register file data sampling.
    pub const RFDS_NO: u64 = 1 << 27;
    /// VERW clears the register file.
    pub const RFDS_CLEAR: u64 = 1 << 28;
    /// Not susceptible to indirect target selection.
    pub const ITS_NO: u64 = 1 << 62;
}

/// Bits of IA32_MCG_CAP; its low byte is the number of banks.
pub mod mcg_cap {
    /// IA32_MCG_CTL exists.
    pub const CTL_P: u64 = 1 << 8;
    /// Corrected errors can interrupt: the MCi_CTL2 registers exist.
    pub const CMCI_P: u64 = 1 << 10;
    /// Software recovery is supported.
    pub const SER_P: u64 = 1 << 24;
    /// Local machine checks are supported.
    pub const LMCE_P: u64 = 1 << 27;
}

/// Bits of IA32_MCi_STATUS.
pub mod mci_status {
    /// The register holds an error.
    pub const VAL: u64 = 1 << 63;
    /// An earlier error was lost.
    pub const OVER: u64 = 1 << 62;
    /// The error was not corrected.
    pub const UC: u64 = 1 << 61;
    /// The processor's context may be corrupt.
    pub const PCC: u64 = 1 << 57;
    /// Signalled as a machine check.
    pub const S: u64 = 1 << 56;
    /// Software must act.
    pub const AR: u64 = 1 << 55;
}

/// MISC_FEATURES_ENABLES bit 0, and what PLATFORM_INFO bit 31 says exists: CPUID faults in user
/// mode.
pub const CPUID_FAULTING: u64 = 1 << 0;
/// PLATFORM_INFO bit 31: CPUID faulting can be enabled.
pub const PLATFORM_INFO_CPUID_FAULTING: u64 = 1 << 31;
/// HWCR bit 35: CPUID faults in user mode. `APM: vol 2, 3.2.10`.
pub const HWCR_CPUID_USER_DIS: u64 = 1 << 35;
/// HWCR bit 18: MCi_STATUS can be written.
pub const HWCR_MC_STATUS_WR_EN: u64 = 1 << 18;
/// HWCR bit 24: the TSC counts at P0 frequency.
pub const HWCR_TSC_FREQ_SEL: u64 = 1 << 24;
/// IA32_APIC_BASE bit 10: x2APIC mode.
pub const APIC_BASE_X2APIC: u64 = 1 << 10;
/// IA32_APIC_BASE bit 11: the local APIC is enabled.
pub const APIC_BASE_ENABLE: u64 = 1 << 11;
/// TSX_CTRL bit 0: transactions abort.
pub const TSX_CTRL_RTM_DISABLE: u64 = 1 << 0;
/// TSX_CTRL bit 1: CPUID does not show TSX.
pub const TSX_CTRL_CPUID_CLEAR: u64 = 1 << 1;
/// The TSC ratio of AMD after reset: 1.0 with 32 fraction bits. `APM: vol 2, 15.30.5`.
pub const TSC_RATIO_RESET: u64 = 1 << 32;
