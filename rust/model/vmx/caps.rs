// SPDX-License-Identifier: GPL-2.0

//! What a processor's VMX capability MSRs allow, and what of it is used (`SDM: vol 3, appendix A`).
//!
//! A control word has bits that must be 1 and bits that may be 1. What the backend cannot do without
//! is *required*: a processor without it is refused with the control's name. What makes guests faster
//! or gives them an instruction is *optional* and left out where it is missing or switched off.

use super::ctrl::{entry, ept_vpid, exit, pin, proc, proc2};
use crate::x86::ctrl::cr0;
use core::fmt;

/// Indices of the capability MSRs.
pub mod msr {
    /// Revision, size and memory type of a VMCS.
    pub const BASIC: u32 = 0x480;
    /// Pin-based controls.
    pub const PIN: u32 = 0x481;
    /// Primary processor-based controls.
    pub const PROC: u32 = 0x482;
    /// VM-exit controls.
    pub const EXIT: u32 = 0x483;
    /// VM-entry controls.
    pub const ENTRY: u32 = 0x484;
    /// Miscellaneous data.
    pub const MISC: u32 = 0x485;
    /// Bits of CR0 that must be 1.
    pub const CR0_FIXED0: u32 = 0x486;
    /// Bits of CR0 that may be 1.
    pub const CR0_FIXED1: u32 = 0x487;
    /// Bits of CR4 that must be 1.
    pub const CR4_FIXED0: u32 = 0x488;
    /// Bits of CR4 that may be 1.
    pub const CR4_FIXED1: u32 = 0x489;
    /// Secondary processor-based controls.
    pub const PROC2: u32 = 0x48b;
    /// EPT and VPID.
    pub const EPT_VPID: u32 = 0x48c;
    /// From one of the first four control MSRs to the one that tells the truth about the controls
    /// that must be 1 by default.
    pub const TRUE_OFFSET: u32 = 0x48d - PIN;
}

/// BASIC: the "true" control MSRs exist.
const BASIC_TRUE: u64 = 1 << 55;
/// BASIC: physical addresses have 32 bits at most.
const BASIC_ADDR_32: u64 = 1 << 48;

/// The capability MSRs as read. Those that a processor lacks are 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Raw {
    /// [`msr::BASIC`].
    pub basic: u64,
    /// Pin-based controls, the true ones if there are.
    pub pin: u64,
    /// Primary processor-based controls, likewise.
    pub proc: u64,
    /// VM-exit controls, likewise.
    pub exit: u64,
    /// VM-entry controls, likewise.
    pub entry: u64,
    /// [`msr::MISC`].
    pub misc: u64,
    /// [`msr::PROC2`].
    pub proc2: u64,
    /// [`msr::EPT_VPID`].
    pub ept_vpid: u64,
    /// [`msr::CR0_FIXED0`].
    pub cr0_fixed0: u64,
    /// [`msr::CR0_FIXED1`].
    pub cr0_fixed1: u64,
    /// [`msr::CR4_FIXED0`].
    pub cr4_fixed0: u64,
    /// [`msr::CR4_FIXED1`].
    pub cr4_fixed1: u64,
}

impl Raw {
    /// Reads the MSRs that exist. `None` if one that must is missing.
    pub fn read(mut rdmsr: impl FnMut(u32) -> Option<u64>) -> Option<Self> {
        let basic = rdmsr(msr::BASIC)?;
        let offset = if basic & BASIC_TRUE != 0 {
            msr::TRUE_OFFSET
        } else {
            0
        };
        let mut raw = Self {
            basic,
            pin: rdmsr(msr::PIN.wrapping_add(offset))?,
            proc: rdmsr(msr::PROC.wrapping_add(offset))?,
            exit: rdmsr(msr::EXIT.wrapping_add(offset))?,
            entry: rdmsr(msr::ENTRY.wrapping_add(offset))?,
            misc: rdmsr(msr::MISC)?,
            proc2: 0,
            ept_vpid: 0,
            cr0_fixed0: rdmsr(msr::CR0_FIXED0)?,
            cr0_fixed1: rdmsr(msr::CR0_FIXED1)?,
            cr4_fixed0: rdmsr(msr::CR4_FIXED0)?,
            cr4_fixed1: rdmsr(msr::CR4_FIXED1)?,
        };
        if allowed1(raw.proc) & proc::SECONDARY != 0 {
            raw.proc2 = rdmsr(msr::PROC2)?;
        }
        if allowed1(raw.proc2) & (proc2::EPT | proc2::VPID) != 0 {
            raw.ept_vpid = rdmsr(msr::EPT_VPID)?;
        }
        Some(raw)
    }

    /// What the first word of a VMCS must hold.
    pub const fn revision(&self) -> u32 {
        (self.basic & 0x7fff_ffff) as u32
    }

    /// The preemption timer counts once every 2 to the power of this many TSC cycles.
    pub const fn timer_shift(&self) -> u32 {
        (self.misc & 0x1f) as u32
    }
}

/// The bits of a control word that may be 1.
#[inline]
pub const fn allowed1(cap: u64) -> u32 {
    (cap >> 32) as u32
}

/// The value of a control word with every required control and those of the optional ones that
/// exist; or the required ones that are missing.
pub const fn adjust(cap: u64, required: u32, optional: u32) -> Result<u32, u32> {
    // CAST: the low half: bits that must be 1.
    let value = (required | optional) & allowed1(cap) | cap as u32;
    match required & !value {
        0 => Ok(value),
        missing => Err(missing),
    }
}

/// The words of controls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// Pin-based.
    Pin,
    /// Primary processor-based.
    Proc,
    /// Secondary processor-based.
    Proc2,
    /// VM-exit.
    Exit,
    /// VM-entry.
    Entry,
}

impl Word {
    /// What the manual calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pin => "pin-based",
            Self::Proc => "primary processor-based",
            Self::Proc2 => "secondary processor-based",
            Self::Exit => "VM-exit",
            Self::Entry => "VM-entry",
        }
    }

    /// The names of its controls.
    pub const fn names(self) -> &'static [(u32, &'static str)] {
        match self {
            Self::Pin => &pin::NAMES,
            Self::Proc => &proc::NAMES,
            Self::Proc2 => &proc2::NAMES,
            Self::Exit => &exit::NAMES,
            Self::Entry => &entry::NAMES,
        }
    }
}

/// Why a processor cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A VMCS is larger than a page, is not write-back memory, or cannot be anywhere in memory.
    Vmcs,
    /// Required controls are missing.
    Controls(Word, u32),
    /// No extended page tables, or they are switched off.
    NoEpt,
    /// Extended page tables without four levels, write-back memory or INVEPT.
    EptFormat,
}

/// One line for the log, without its end.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, missing) = match *self {
            Self::Vmcs => {
                return f.write_str("VMX of this processor wants a VMCS that is not a plain page");
            }
            Self::NoEpt => {
                f.write_str("VMX without extended page tables (ept=0) is not supported: ")?;
                return f.write_str("there are no shadow page tables");
            }
            Self::EptFormat => {
                f.write_str("extended page tables without 4 levels, write-back memory or INVEPT")?;
                return Ok(());
            }
            Self::Controls(word, missing) => (word, missing),
        };
        let plural = if missing.is_power_of_two() { "" } else { "s" };
        write!(f, "VMX without the {} control{plural}", word.name())?;
        let mut between = " ";
        let bits = (0..u32::BITS).map(|i| 1u32.wrapping_shl(i));
        for bit in bits.filter(|bit| missing & bit != 0) {
            f.write_str(between)?;
            match word.names().iter().find(|n| n.0 == bit) {
                Some((_, name)) => f.write_str(name)?,
                None => write!(f, "{bit:#x}")?,
            }
            between = ", ";
        }
        Ok(())
    }
}

/// What the administrator and the kernel let be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent switches, each a module parameter or a CPU feature"
)]
pub struct Switches {
    /// Extended page tables.
    pub ept: bool,
    /// Unrestricted guests.
    pub unrestricted_guest: bool,
    /// Accessed and dirty flags.
    pub eptad: bool,
    /// VPIDs.
    pub vpid: bool,
    /// Virtual NMIs.
    pub vnmi: bool,
    /// The TPR shadow.
    pub tpr_shadow: bool,
    /// The preemption timer.
    pub preemption_timer: bool,
    /// Page-modification logging.
    pub pml: bool,
    /// Virtual interrupt delivery and what goes with it.
    pub apicv: bool,
    /// Exits from loops of PAUSE.
    pub ple: bool,
    /// RDTSCP exists.
    pub rdtscp: bool,
    /// INVPCID exists.
    pub invpcid: bool,
    /// XSAVES exists.
    pub xsaves: bool,
}

/// How the translations of one VPID can be flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlushBy {
    /// It alone.
    Context,
    /// All of them at once.
    All,
}

/// What is used. The control words have every optional control that exists; the ones that depend on
/// the guest are cleared when a vCPU is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent capabilities of the processor"
)]
pub struct Config {
    /// Pin-based controls.
    pub pin: u32,
    /// Primary processor-based controls.
    pub proc: u32,
    /// Secondary processor-based controls.
    pub proc2: u32,
    /// VM-exit controls.
    pub exit: u32,
    /// VM-entry controls; IA-32e mode is off.
    pub entry: u32,
    /// Real mode, and protected mode without paging, run directly.
    pub unrestricted: bool,
    /// Bits of CR0 that hardware wants set.
    pub cr0_on: u64,
    /// Bits of CR4 that hardware wants set.
    pub cr4_on: u64,
    /// Five-level tables exist.
    pub levels_5: bool,
    /// 2 MiB pages exist.
    pub page_2m: bool,
    /// 1 GiB pages exist.
    pub page_1g: bool,
    /// Accessed and dirty flags are used.
    pub ad: bool,
    /// Hardware has a share in the local APIC's registers.
    pub apicv: bool,
    /// How INVEPT is used.
    pub invept: FlushBy,
    /// How INVVPID is used; `None` if VPIDs are not.
    pub invvpid: Option<FlushBy>,
}

impl Config {
    /// Are all of these pin-based controls in use?
    #[inline]
    pub const fn pin(&self, c: u32) -> bool {
        self.pin & c == c
    }

    /// Are all of these primary controls in use?
    #[inline]
    pub const fn proc(&self, c: u32) -> bool {
        self.proc & c == c
    }

    /// Are all of these secondary controls in use?
    #[inline]
    pub const fn proc2(&self, c: u32) -> bool {
        self.proc2 & c == c
    }
}

const PIN_REQUIRED: u32 = pin::EXT_INTR_EXITING | pin::NMI_EXITING;

const PROC_REQUIRED: u32 = proc::INTR_WINDOW_EXITING
    | proc::TSC_OFFSETTING
    | proc::HLT_EXITING
    | proc::MWAIT_EXITING
    | proc::RDPMC_EXITING
    | proc::CR8_LOAD_EXITING
    | proc::CR8_STORE_EXITING
    | proc::MOV_DR_EXITING
    | proc::UNCOND_IO_EXITING
    | proc::MSR_BITMAPS
    | proc::MONITOR_EXITING
    | proc::CR3_LOAD_EXITING
    | proc::CR3_STORE_EXITING
    | proc::SECONDARY;

/// Controls that are required to exist but are not on from the start.
const PROC_NOT_YET: u32 = proc::INTR_WINDOW_EXITING
    | proc::NMI_WINDOW_EXITING
    | proc::CR3_LOAD_EXITING
    | proc::CR3_STORE_EXITING;

const PROC2_REQUIRED: u32 = proc2::EPT;

/// What delivering interrupts in hardware needs.
const APICV: u32 = proc2::APIC_REGISTER_VIRT | proc2::VIRT_INTR_DELIVERY | proc2::X2APIC_MODE;

/// What it can have besides: in xAPIC mode, where the registers are memory, accesses to them.
const APICV_MEMORY: u32 = proc2::APIC_ACCESSES;

const PROC2_OPTIONAL: u32 = proc2::BUS_LOCK_DETECTION
    | proc2::WBINVD_EXITING
    | proc2::DESC_EXITING
    | proc2::ENCLS_EXITING
    | proc2::RDRAND_EXITING
    | proc2::RDSEED_EXITING
    | proc2::TSC_SCALING;

const EXIT_REQUIRED: u32 =
    exit::SAVE_DEBUG | exit::HOST_64 | exit::ACK_INTR | exit::LOAD_PAT | exit::LOAD_EFER;

const ENTRY_REQUIRED: u32 = entry::LOAD_DEBUG | entry::IA32E | entry::LOAD_PAT | entry::LOAD_EFER;

const fn only_if(on: bool, bits: u32) -> u32 {
    if on {
        bits
    } else {
        0
    }
}

/// The format of a VMCS: at most a page of write-back memory, anywhere.
const fn vmcs_fits(basic: u64) -> bool {
    let size = basic >> 32 & 0x1fff;
    let memory_type = basic >> 50 & 0xf;
    size <= 0x1000 && memory_type == 6 && basic & BASIC_ADDR_32 == 0
}

fn adjusted(word: Word, cap: u64, required: u32, optional: u32) -> Result<u32, Refusal> {
    adjust(cap, required, optional).map_err(|missing| Refusal::Controls(word, missing))
}

/// Decides what is used of a processor.
pub fn configure(raw: &Raw, s: &Switches) -> Result<Config, Refusal> {
    if !vmcs_fits(raw.basic) {
        return Err(Refusal::Vmcs);
    }
    let proc = adjusted(
        Word::Proc,
        raw.proc,
        PROC_REQUIRED,
        proc::NMI_WINDOW_EXITING | only_if(s.tpr_shadow, proc::TPR_SHADOW),
    )?;
    let ept = raw.ept_vpid;
    if !s.ept || allowed1(raw.proc2) & proc2::EPT == 0 {
        return Err(Refusal::NoEpt);
    }
    if ept & ept_vpid::WALK_4 == 0
        || ept & ept_vpid::WB == 0
        || ept & ept_vpid::INVEPT == 0
        || ept & (ept_vpid::INVEPT_SINGLE | ept_vpid::INVEPT_ALL) == 0
    {
        return Err(Refusal::EptFormat);
    }
    let ad = s.eptad && ept & ept_vpid::AD != 0;
    // KVM: all of it or nothing.
    let apicv = s.apicv
        && proc & proc::TPR_SHADOW != 0
        && allowed1(raw.proc2) & APICV == APICV
        && allowed1(raw.pin) & pin::POSTED_INTERRUPTS != 0;
    let invvpid = match ept {
        _ if !s.vpid || ept & ept_vpid::INVVPID == 0 => None,
        e if e & ept_vpid::INVVPID_SINGLE != 0 => Some(FlushBy::Context),
        e if e & ept_vpid::INVVPID_ALL != 0 => Some(FlushBy::All),
        _ => None,
    };
    let proc2 = adjusted(
        Word::Proc2,
        raw.proc2,
        PROC2_REQUIRED,
        PROC2_OPTIONAL
            | only_if(invvpid.is_some(), proc2::VPID)
            | only_if(s.unrestricted_guest, proc2::UNRESTRICTED_GUEST)
            | only_if(s.ple, proc2::PAUSE_LOOP_EXITING)
            | only_if(s.pml && ad, proc2::PML)
            | only_if(apicv, APICV | APICV_MEMORY)
            | only_if(s.rdtscp, proc2::RDTSCP)
            | only_if(s.invpcid, proc2::INVPCID)
            | only_if(s.xsaves, proc2::XSAVES),
    )?;
    // A window for NMIs needs both.
    let pin = adjusted(
        Word::Pin,
        raw.pin,
        PIN_REQUIRED,
        only_if(
            s.vnmi && proc & proc::NMI_WINDOW_EXITING != 0,
            pin::VIRTUAL_NMIS,
        ) | only_if(s.preemption_timer, pin::PREEMPTION_TIMER)
            | only_if(apicv, pin::POSTED_INTERRUPTS),
    )?;
    let unrestricted = proc2 & proc2::UNRESTRICTED_GUEST != 0;
    let exit = adjusted(Word::Exit, raw.exit, EXIT_REQUIRED, 0)?;
    let entry = adjusted(Word::Entry, raw.entry, ENTRY_REQUIRED, 0)?;
    Ok(Config {
        pin,
        proc: proc & !PROC_NOT_YET,
        proc2,
        exit,
        entry: entry & !entry::IA32E,
        unrestricted,
        // Unrestricted guests may be without protection and paging.
        cr0_on: if unrestricted {
            raw.cr0_fixed0 & !(cr0::PE | cr0::PG)
        } else {
            raw.cr0_fixed0 | cr0::PE | cr0::PG
        },
        cr4_on: raw.cr4_fixed0,
        levels_5: ept & ept_vpid::WALK_5 != 0,
        page_2m: ept & ept_vpid::PAGE_2M != 0,
        page_1g: ept & ept_vpid::PAGE_1G != 0,
        ad,
        apicv,
        invept: if ept & ept_vpid::INVEPT_SINGLE != 0 {
            FlushBy::Context
        } else {
            FlushBy::All
        },
        invvpid: if proc2 & proc2::VPID != 0 {
            invvpid
        } else {
            None
        },
    })
}

/// Does a vCPU that was made for the processor `a` run on `b` as it does there? Controls and forms of
/// flushing that `s` leaves unused may be missing on one of them. What must be set may not differ, as
/// much of what [`configure`] chooses is off at times.
pub fn interchangeable(a: &Raw, b: &Raw, s: &Switches) -> bool {
    let rest = |r: &Raw| {
        // CAST: the low halves.
        let must = [r.pin, r.proc, r.proc2, r.exit, r.entry].map(|cap| cap as u32);
        let fixed = [r.cr0_fixed0, r.cr0_fixed1, r.cr4_fixed0, r.cr4_fixed1];
        (r.basic, r.misc, must, fixed)
    };
    rest(a) == rest(b) && configure(a, s).is_ok_and(|c| configure(b, s) == Ok(c))
}

#[cfg(test)]
#[path = "tests/caps.rs"]
mod tests;
