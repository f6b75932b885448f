// SPDX-License-Identifier: GPL-2.0

//! Model-specific registers: which exist, who holds their values, and which values they take.
//!
//! [`classify`] says who is responsible for an index. [`MsrState`] holds the registers that are
//! nothing but a value; [`MsrState::read`] and [`MsrState::write`] handle RDMSR, WRMSR and the ioctls
//! for all registers: they answer, or they check and name the owner who must act ([`Read`],
//! [`Write`]). Nothing here touches a processor's register.
//!
//! The caller applies the MSR filter before and [`soften`] after.

pub mod filter;
mod host;
mod list;
mod read;
mod write;

pub use host::{HostMsrs, Immunities};
pub use list::{advertised, feature, feature_list, is_frozen_feature, msr_list, MAX_MSRS};

use super::guest::GuestFeatures;
use super::mce::Mce;
use super::mtrr::Mtrr;
use crate::x86::cpuid::Feature;
use crate::x86::msr;

/// Why an access fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MsrError {
    /// The register exists and does not allow this: `#GP`.
    Invalid,
    /// There is no such register: `#GP` as well, unless somebody wants to ignore that.
    Unsupported,
    /// User space keeps it from the guest: `#GP`, unless it wants to hear of it.
    Filtered,
}

/// Who is responsible for a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MsrKind {
    /// The vendor backend: the value is in the control block or in a register it switches.
    Vendor,
    /// The vendor backend, on a processor of AMD's only.
    Amd,
    /// EFER.
    Efer,
    /// The TSC, by offset and ratio.
    Tsc,
    /// IA32_APIC_BASE.
    ApicBase,
    /// A register of the local APIC, reached as an MSR.
    X2Apic,
    /// The local APIC's deadline timer.
    TscDeadline,
    /// A memory-type register.
    Mtrr,
    /// A machine-check register.
    Mce,
    /// KVM's own paravirtual registers.
    Pv,
    /// Hyper-V's synthetic registers.
    HyperV,
    /// A plain value in [`MsrState`].
    State,
    /// A command: written, never read.
    Command,
    /// XFD, which the FPU code switches.
    Xfd,
    /// Fixed: reads give a constant, writes change nothing.
    Fixed,
    /// No such register.
    Unknown,
}

/// Who is responsible for the register.
pub const fn classify(index: u32) -> MsrKind {
    match index {
        msr::SYSENTER_CS..=msr::SYSENTER_EIP
        | msr::STAR..=msr::SYSCALL_MASK
        | msr::FS_BASE..=msr::TSC_AUX
        | msr::SPEC_CTRL
        | msr::DEBUGCTL
        | msr::LASTBRANCHFROMIP..=msr::LASTINTTOIP => MsrKind::Vendor,
        msr::TSC_RATIO
        | msr::VM_CR
        | msr::VM_IGNNE
        | msr::VM_HSAVE_PA
        | msr::VIRT_SPEC_CTRL
        | msr::IC_CFG
        | msr::DE_CFG => MsrKind::Amd,
        msr::EFER => MsrKind::Efer,
        msr::TSC => MsrKind::Tsc,
        msr::APIC_BASE => MsrKind::ApicBase,
        msr::X2APIC_FIRST..=msr::X2APIC_LAST => MsrKind::X2Apic,
        msr::TSC_DEADLINE => MsrKind::TscDeadline,
        msr::PAT => MsrKind::State,
        msr::MTRR_CAP | msr::MTRR_PHYS_BASE0..=msr::MTRR_FIX4K_F8000 | msr::MTRR_DEF_TYPE => {
            MsrKind::Mtrr
        }
        msr::MCG_CAP..=msr::MCG_CTL | msr::MC0_CTL2..=0x29f | msr::MC0_CTL..=0x47f => MsrKind::Mce,
        msr::KVM_WALL_CLOCK
        | msr::KVM_SYSTEM_TIME
        | msr::KVM_WALL_CLOCK_NEW..=msr::KVM_ASYNC_PF_ACK => MsrKind::Pv,
        msr::HYPERV_FIRST..=msr::HYPERV_LAST => MsrKind::HyperV,
        msr::SMI_COUNT
        | msr::FEAT_CTL
        | msr::TSC_ADJUST
        | msr::UCODE_REV
        | msr::SMBASE
        | msr::PLATFORM_INFO
        | msr::UMWAIT_CONTROL
        | msr::ARCH_CAPABILITIES
        | msr::TSX_CTRL
        | msr::MISC_FEATURES_ENABLES
        | msr::MISC_ENABLE
        | msr::POWER_CTL
        | msr::PERF_CAPABILITIES
        | msr::MCG_EXT_CTL
        | msr::XSS
        | msr::HWCR
        | msr::OSVW_ID_LENGTH
        | msr::OSVW_STATUS => MsrKind::State,
        msr::PRED_CMD | msr::FLUSH_CMD => MsrKind::Command,
        msr::XFD | msr::XFD_ERR => MsrKind::Xfd,
        _ => match fixed(index) {
            Some(_) => MsrKind::Fixed,
            None => MsrKind::Unknown,
        },
    }
}

/// A register of [`MsrKind::Fixed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fixed {
    /// What reads give, if it can be read.
    read: Option<u64>,
    /// What writes do.
    write: OnWrite,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OnWrite {
    /// Nothing happens.
    Ignore,
    /// Nothing happens for 0, anything else is invalid.
    Zero,
    /// It cannot be written.
    Refuse,
}

/// Registers that guests touch although they have no meaning in a virtual machine.
/// KVM: the set and the values are those of the in-tree module; operating systems rely on them.
const fn fixed(index: u32) -> Option<Fixed> {
    let (read, write) = match index {
        msr::P5_MC_ADDR
        | msr::P5_MC_TYPE
        | msr::PLATFORM_ID
        | msr::EBL_CR_POWERON
        | msr::PERF_CTL
        | msr::RAPL_POWER_UNIT
        | msr::PKG_ENERGY_STATUS
        | msr::DRAM_ENERGY_STATUS
        | msr::PP0_ENERGY_STATUS
        | msr::PP1_ENERGY_STATUS
        | msr::SYSCFG
        | msr::INT_PENDING_MSG
        | msr::TSEG_ADDR
        | msr::TSEG_MASK => (Some(0), OnWrite::Refuse),
        msr::MMIO_CONF_BASE => (Some(0), OnWrite::Zero),
        // Performance counters, of which there are none.
        msr::P6_PERFCTR0
        | msr::P6_PERFCTR1
        | msr::P6_EVNTSEL0
        | msr::P6_EVNTSEL1
        | msr::K7_EVNTSEL0..=msr::K7_PERFCTR3
        // Chicken bits.
        | msr::NB_CFG
        | msr::BU_CFG2
        | msr::DC_CFG
        | msr::TW_CFG
        | msr::EX_CFG => (Some(0), OnWrite::Ignore),
        // Microcode updates are accepted and have no effect.
        msr::UCODE_WRITE | msr::PATCH_LOADER => (None, OnWrite::Ignore),
        // Ramp-up time of a K7's clock.
        msr::K7_CLK_CTL => (Some(0x2000_0000), OnWrite::Ignore),
        // Level-2 cache: enabled, 256 KiB, 64 GiB cacheable.
        msr::BBL_CR_CTL3 => (Some(0xbe70_2111), OnWrite::Ignore),
        msr::FSB_FREQ => (Some(3), OnWrite::Refuse),
        // Core to bus frequency: 1 to 1, so that no guest divides by zero.
        msr::EBC_FREQUENCY_ID => (Some(1 << 24), OnWrite::Refuse),
        // 1000 TSC increments a tick, multiplier 4.
        msr::PERF_STATUS => (Some(1000 | (4 << 40)), OnWrite::Refuse),
        _ => return None,
    };
    Some(Fixed { read, write })
}

/// Under which circumstances an access happens.
#[derive(Clone, Copy)]
pub struct MsrCx<'a> {
    /// What the guest has.
    pub guest: &'a GuestFeatures,
    /// What the host backs.
    pub host: &'a HostMsrs,
    /// The paravirtual features the guest is held to: those of its CPUID if they are enforced, else
    /// all ones.
    pub pv: u32,
    /// User space accesses through an ioctl, not the guest.
    pub by_user: bool,
    /// The local APIC is in the kernel.
    pub apic_in_kernel: bool,
    /// EFER now.
    pub efer: u64,
    /// CR0.PG now.
    pub paging: bool,
    /// The guest may read PLATFORM_INFO (`KVM_CAP_MSR_PLATFORM_INFO`).
    pub platform_info: bool,
    /// IA32_MISC_ENABLE governs the MWAIT bit of CPUID (the quirk that it does not is off).
    pub mwait_follows_misc_enable: bool,
}

/// Where the value of a read is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// Here.
    Value(u64),
    /// The vendor backend reads it by the same index.
    Vendor,
    /// EFER.
    Efer,
    /// The TSC: the guest's, or the first-level one for user space.
    Tsc,
    /// IA32_APIC_BASE.
    ApicBase,
    /// The local APIC reads it by the same index.
    X2Apic,
    /// The local APIC's deadline.
    TscDeadline,
    /// The guest-physical address of the VM's wall clock, as written.
    WallClock,
    /// XFD, of the guest's FPU state.
    Xfd,
    /// XFD_ERR, of the guest's FPU state.
    XfdErr,
    /// Hyper-V's emulation reads it, if the VM has it.
    HyperV,
}

/// What a write asks for. Where it carries a value, that one counts, not the one written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// All done.
    Done,
    /// All done; bits of CPUID may have changed (IA32_MISC_ENABLE, IA32_XSS).
    CpuidChanged,
    /// The vendor backend sets it by the same index.
    Vendor(u64),
    /// EFER becomes this.
    Efer(u64),
    /// The TSC becomes this. When the guest wrote, TSC_ADJUST moves by the same amount
    /// ([`MsrState::tsc_adjust`]); when user space did, it is synchronised among vCPUs.
    Tsc(u64),
    /// The TSC moves by this (wrapping).
    TscBy(u64),
    /// The local APIC takes this as its base, after its own checks.
    ApicBase(u64),
    /// The local APIC takes this by the same index.
    X2Apic(u64),
    /// The local APIC's deadline.
    TscDeadline(u64),
    /// The processor executes these commands of IA32_PRED_CMD.
    PredCmd(u64),
    /// The processor flushes L1D.
    FlushL1d,
    /// The wall clock is written there; the VM remembers the address.
    WallClock(u64),
    /// The system time is published as [`MsrState::system_time`] says. `old`: through the old index.
    SystemTime {
        /// The index that was Intel's was used.
        old: bool,
    },
    /// Stolen time is published as [`MsrState::steal_time`] says.
    StealTime,
    /// Asynchronous page faults are set up. The caller stores the value in
    /// [`MsrState::async_pf`] if the page it names can be used, else the write is invalid.
    AsyncPf(u64),
    /// The guest has taken the notification of a page that became ready.
    AsyncPfAck,
    /// End-of-interrupt by memory is set up. The caller stores the value in [`MsrState::pv_eoi`] if
    /// the page it names can be used, else the write is invalid.
    PvEoi(u64),
    /// XFD of the guest's FPU state becomes this.
    Xfd(u64),
    /// XFD_ERR of the guest's FPU state becomes this.
    XfdErr(u64),
    /// Hyper-V's emulation takes it, if the VM has it.
    HyperV(u64),
}

/// The registers of one vCPU that are plain values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MsrState {
    /// Memory-type registers.
    pub mtrr: Mtrr,
    /// Machine-check registers, the banks aside.
    pub mce: Mce,
    /// IA32_PAT.
    pub pat: u64,
    /// IA32_TSC_ADJUST.
    pub tsc_adjust: u64,
    /// IA32_MISC_ENABLE.
    pub misc_enable: u64,
    /// IA32_XSS.
    pub xss: u64,
    /// IA32_FEAT_CTL.
    pub feat_ctl: u64,
    /// IA32_ARCH_CAPABILITIES.
    pub arch_capabilities: u64,
    /// IA32_PERF_CAPABILITIES.
    pub perf_capabilities: u64,
    /// PLATFORM_INFO.
    pub platform_info: u64,
    /// MISC_FEATURES_ENABLES.
    pub misc_features: u64,
    /// The microcode revision the guest reads.
    pub microcode: u64,
    /// IA32_POWER_CTL.
    pub power_ctl: u64,
    /// IA32_TSX_CTRL.
    pub tsx_ctrl: u64,
    /// IA32_UMWAIT_CONTROL.
    pub umwait: u64,
    /// SMBASE.
    pub smbase: u64,
    /// How often SMM was entered.
    pub smi_count: u64,
    /// HWCR.
    pub hwcr: u64,
    /// OSVW_ID_LENGTH and OSVW_STATUS; [`HostMsrs::osvw`] at first.
    pub osvw: [u64; 2],
    /// DE_CFG.
    pub de_cfg: u64,
    /// VM_CR.
    pub vm_cr: u64,
    /// VM_HSAVE_PA.
    pub vm_hsave: u64,
    /// AMD's TSC ratio.
    pub tsc_ratio: u64,
    /// VIRT_SPEC_CTRL.
    pub virt_spec_ctrl: u64,
    /// kvmclock: where the system time is, and bit 0 whether it is.
    pub system_time: u64,
    /// Where stolen time is, and bit 0 whether it is.
    pub steal_time: u64,
    /// Asynchronous page faults: where and how.
    pub async_pf: u64,
    /// The vector for pages that became ready.
    pub async_pf_int: u64,
    /// End-of-interrupt by memory: where, and bit 0 whether.
    pub pv_eoi: u64,
    /// Bit 0: the host may poll before it blocks.
    pub poll_control: u64,
}

impl MsrState {
    /// A vCPU that was just created and reset, without feature MSRs.
    pub const RESET: Self = Self {
        mtrr: Mtrr::RESET,
        mce: Mce::RESET,
        pat: msr::PAT_RESET,
        tsc_adjust: 0,
        misc_enable: msr::misc_enable::BTS_UNAVAIL | msr::misc_enable::PEBS_UNAVAIL,
        xss: 0,
        feat_ctl: 0,
        arch_capabilities: 0,
        perf_capabilities: 0,
        platform_info: 0,
        misc_features: 0,
        microcode: 0,
        power_ctl: 0,
        tsx_ctrl: 0,
        umwait: 0,
        smbase: 0x3_0000,
        smi_count: 0,
        hwcr: 0,
        osvw: [0, 0],
        de_cfg: 0,
        vm_cr: 0,
        vm_hsave: 0,
        tsc_ratio: msr::TSC_RATIO_RESET,
        virt_spec_ctrl: 0,
        system_time: 0,
        steal_time: 0,
        async_pf: 0,
        async_pf_int: 0,
        pv_eoi: 0,
        poll_control: 1,
    };

    /// Presets the registers that describe the processor, for VMMs that do not set them
    /// (`KVM_X86_QUIRK_STUFF_FEATURE_MSRS`).
    pub fn stuff_features(&mut self, host: &HostMsrs) {
        self.arch_capabilities = host.arch_capabilities;
        self.platform_info = msr::PLATFORM_INFO_CPUID_FAULTING;
        // KVM: any revision that no guest finds too old.
        self.microcode = if host.svm { 0x0100_0065 } else { 0x1_0000_0000 };
    }

    /// RESET, or INIT (`init`), which keeps most.
    pub fn reset(&mut self, init: bool) {
        self.smi_count = 0;
        self.system_time = 0;
        self.steal_time = 0;
        self.async_pf = 0;
        self.async_pf_int = 0;
        self.pv_eoi = 0;
        self.virt_spec_ctrl = 0;
        self.umwait = 0;
        if !init {
            self.smbase = Self::RESET.smbase;
            self.pat = Self::RESET.pat;
            self.misc_features = 0;
            self.misc_enable = Self::RESET.misc_enable;
            self.xss = 0;
        }
    }

    /// Whether CPUID faults outside ring 0 and system management mode.
    pub fn cpuid_faults_in_user_mode(&self) -> bool {
        self.misc_features & msr::CPUID_FAULTING != 0 || self.hwcr & msr::HWCR_CPUID_USER_DIS != 0
    }
}

/// Sign-extends an address from its width.
const fn canonical(address: u64, bits: u8) -> u64 {
    let shift = 64u32.saturating_sub(bits as u32);
    // CAST: between signed and unsigned of the same size, for the arithmetic shift.
    ((address.wrapping_shl(shift) as i64).wrapping_shr(shift)) as u64
}

/// The bits of IA32_APIC_BASE that a guest must leave 0.
pub fn apic_base_reserved(guest: &GuestFeatures) -> u64 {
    let x2apic = if guest.has(Feature::X2APIC) {
        0
    } else {
        msr::APIC_BASE_X2APIC
    };
    guest.reserved_gpa_bits() | 0x2ff | x2apic
}

/// Whether IA32_APIC_BASE may go from `old` to `new`, for a vCPU whose APIC is not in the kernel.
/// `SDM: vol 3, 11.12.1`, `SDM: vol 3, 11.12.5`.
pub fn apic_base_valid(old: u64, new: u64, guest: &GuestFeatures, by_user: bool) -> bool {
    let mode = |base: u64| {
        (
            base & msr::APIC_BASE_ENABLE != 0,
            base & msr::APIC_BASE_X2APIC != 0,
        )
    };
    if old == new {
        return true;
    }
    if new & apic_base_reserved(guest) != 0 || mode(new) == (false, true) {
        return false;
    }
    by_user
        || !matches!(
            (mode(old), mode(new)),
            ((true, true), (true, false)) | ((false, false), (true, true))
        )
}

/// What an unsupported access gives in the end. User space may read every register that it was told
/// of, and write 0 to it, even where the vCPU lacks it; and the module may be told to ignore
/// accesses to unknown registers altogether. `value` is what was written, 0 for a read.
///
/// # Errors
/// The error stands.
pub fn soften(
    error: MsrError,
    index: u32,
    value: u64,
    by_user: bool,
    known: &[u32],
    ignore_msrs: bool,
) -> Result<(), MsrError> {
    if error != MsrError::Unsupported {
        return Err(error);
    }
    if (by_user && value == 0 && advertised(known, index)) || ignore_msrs {
        Ok(())
    } else {
        Err(error)
    }
}

#[cfg(test)]
#[path = "tests/msr.rs"]
mod tests;
