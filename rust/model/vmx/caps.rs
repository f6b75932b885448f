// SPDX-License-Identifier: GPL-2.0

//! What a processor's VMX capability MSRs allow, and what of it is used (`SDM: vol 3, appendix A`).
//!
//! A control word has bits that must be 1 and bits that may be 1. What the backend cannot do without
//! is *required*: a processor without it is refused with the control's name. What makes guests faster
//! or gives them an instruction is *optional* and left out where it is missing or switched off.

use super::ctrl::{entry, ept_vpid, exit, pin, proc, proc2};
use crate::x86::ctrl::cr0;

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
    | proc::INVLPG_EXITING
    | proc::MWAIT_EXITING
    | proc::RDPMC_EXITING
    | proc::RDTSC_EXITING
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
    | proc::INVLPG_EXITING
    | proc::CR3_LOAD_EXITING
    | proc::CR3_STORE_EXITING
    | proc::RDTSC_EXITING;

const PROC2_REQUIRED: u32 = proc2::EPT;

/// What delivering interrupts in hardware needs.
const APICV: u32 = proc2::APIC_REGISTER_VIRT | proc2::VIRT_INTR_DELIVERY | proc2::X2APIC_MODE;

/// What it can have besides: in xAPIC mode, where the registers are memory, accesses to them.
const APICV_MEMORY: u32 = proc2::APIC_ACCESSES;

const PROC2_OPTIONAL: u32 = proc2::BUS_LOCK_DETECTION
    | proc2::WBINVD_EXITING
    | proc2::DESC_EXITING
    | proc2::ENCLS_EXITING
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

#[cfg(test)]
mod tests {
    use super::*;

    const ON: Switches = Switches {
        ept: true,
        unrestricted_guest: true,
        eptad: true,
        vpid: true,
        vnmi: true,
        tpr_shadow: true,
        preemption_timer: true,
        pml: true,
        apicv: true,
        ple: true,
        rdtscp: true,
        invpcid: true,
        xsaves: true,
    };

    /// A Haswell's registers, as the emulator's `corei7_haswell_4770` has them.
    const HASWELL: Raw = Raw {
        basic: 0x00da_1000_0000_002b | 1 << 55,
        pin: 0x0000_007f_0000_0016,
        proc: 0xfff9_fffe_0400_6172,
        exit: 0x007f_ffff_0003_6dfb,
        entry: 0x0000_ffff_0000_11fb,
        misc: 0x3000_01e0,
        proc2: 0x0005_7cff_0000_0000,
        ept_vpid: 0x0000_0f01_0633_4141,
        cr0_fixed0: 0x8000_0021,
        cr0_fixed1: 0xffff_ffff,
        cr4_fixed0: 0x2000,
        cr4_fixed1: 0x0017_27ff,
    };

    #[test]
    fn adjusting() {
        // Bit 0 must be 1, bits 0 to 3 may be.
        let cap = 0xf_0000_0001;
        assert_eq!(adjust(cap, 0b10, 0b100), Ok(0b111));
        assert_eq!(adjust(cap, 0b10, 0b1_0000), Ok(0b11));
        assert_eq!(adjust(cap, 0b11_0010, 0), Err(0b11_0000));
        assert_eq!(adjust(u64::from(u32::MAX), 7, 0), Ok(u32::MAX));
    }

    #[test]
    fn a_haswell_will_do() {
        let c = configure(&HASWELL, &ON).unwrap();
        assert!(c.pin(pin::VIRTUAL_NMIS) && c.pin(PIN_REQUIRED));
        assert!(c.pin(pin::PREEMPTION_TIMER) && !c.pin(pin::POSTED_INTERRUPTS));
        assert_eq!(HASWELL.timer_shift(), 0);
        assert!(c.unrestricted && !c.proc2(proc2::PML) && !c.apicv);
        assert!(c.proc(proc::TPR_SHADOW) && c.proc(proc::MSR_BITMAPS));
        assert_eq!(
            c.proc & proc::CR3_LOAD_EXITING,
            0,
            "the true MSR lets it be 0"
        );
        assert_eq!(c.proc & PROC_NOT_YET, 0);
        assert!(c.proc2(PROC2_REQUIRED) && c.proc2(proc2::VPID | proc2::INVPCID));
        assert_eq!(
            c.proc2 & (proc2::XSAVES | proc2::SHADOW_VMCS | proc2::APIC_ACCESSES),
            0
        );
        assert_eq!(c.entry & entry::IA32E, 0);
        assert_eq!(c.cr0_on, 0x20);
        assert!(c.ad && c.page_1g && !c.levels_5);
        assert_eq!(c.invvpid, Some(FlushBy::Context));
        assert_eq!(c.invept, FlushBy::Context);
    }

    /// The controls that a Haswell of a server has besides.
    fn with_apicv() -> Raw {
        Raw {
            pin: HASWELL.pin | u64::from(pin::POSTED_INTERRUPTS) << 32,
            proc2: HASWELL.proc2 | u64::from(APICV | APICV_MEMORY) << 32,
            ..HASWELL
        }
    }

    #[test]
    fn the_apic_in_hardware_is_all_or_nothing() {
        let used = |c: &Config| {
            (
                c.apicv,
                c.pin(pin::POSTED_INTERRUPTS),
                c.proc2 & (APICV | APICV_MEMORY),
            )
        };
        let c = configure(&with_apicv(), &ON).unwrap();
        assert_eq!(used(&c), (true, true, APICV | APICV_MEMORY));
        // Its registers in memory can be emulated.
        let mut r = with_apicv();
        r.proc2 &= !(u64::from(APICV_MEMORY) << 32);
        assert_eq!(used(&configure(&r, &ON).unwrap()), (true, true, APICV));
        for bit in [
            proc2::APIC_REGISTER_VIRT,
            proc2::VIRT_INTR_DELIVERY,
            proc2::X2APIC_MODE,
        ] {
            let mut r = with_apicv();
            r.proc2 &= !(u64::from(bit) << 32);
            assert_eq!(used(&configure(&r, &ON).unwrap()), (false, false, 0));
        }
        for off in [
            |s: &mut Switches| s.apicv = false,
            |s: &mut Switches| s.tpr_shadow = false,
        ] {
            let mut s = ON;
            off(&mut s);
            let c = configure(&with_apicv(), &s).unwrap();
            assert_eq!(used(&c), (false, false, 0));
        }
    }

    #[test]
    fn switches_take_away() {
        let off = |f: fn(&mut Switches)| {
            let mut s = ON;
            f(&mut s);
            configure(&HASWELL, &s)
        };
        assert_eq!(off(|s| s.ept = false), Err(Refusal::NoEpt));
        let c = off(|s| s.unrestricted_guest = false).unwrap();
        assert!(!c.unrestricted && !c.proc2(proc2::UNRESTRICTED_GUEST));
        assert_eq!(c.cr0_on, HASWELL.cr0_fixed0);
        let c = off(|s| s.preemption_timer = false).unwrap();
        assert!(!c.pin(pin::PREEMPTION_TIMER));
        let c = off(|s| s.vpid = false).unwrap();
        assert!(c.invvpid.is_none() && !c.proc2(proc2::VPID));
        let c = off(|s| s.vnmi = false).unwrap();
        assert!(!c.pin(pin::VIRTUAL_NMIS));
        assert!(!off(|s| s.eptad = false).unwrap().ad);
        assert!(!off(|s| s.tpr_shadow = false)
            .unwrap()
            .proc(proc::TPR_SHADOW));
        assert!(!off(|s| s.ple = false)
            .unwrap()
            .proc2(proc2::PAUSE_LOOP_EXITING));
    }

    #[test]
    fn what_is_missing_is_named() {
        let without = |f: fn(&mut Raw)| {
            let mut r = HASWELL;
            f(&mut r);
            configure(&r, &ON)
        };
        let off = |word: &mut u64, bit: u32| *word &= !(u64::from(bit) << 32);
        let _ = off;
        assert_eq!(
            without(|r| r.proc &= !(u64::from(proc::MSR_BITMAPS) << 32)),
            Err(Refusal::Controls(Word::Proc, proc::MSR_BITMAPS))
        );
        assert_eq!(
            without(|r| r.exit &= !(u64::from(exit::ACK_INTR) << 32)),
            Err(Refusal::Controls(Word::Exit, exit::ACK_INTR))
        );
        assert_eq!(
            without(|r| r.pin = 0),
            Err(Refusal::Controls(Word::Pin, PIN_REQUIRED))
        );
        assert_eq!(
            without(|r| r.proc &= !(u64::from(proc::SECONDARY) << 32)),
            Err(Refusal::Controls(Word::Proc, proc::SECONDARY))
        );
        assert_eq!(
            without(|r| r.proc2 &= !(u64::from(proc2::EPT) << 32)),
            Err(Refusal::NoEpt)
        );
        assert_eq!(
            without(|r| r.ept_vpid &= !ept_vpid::WALK_4),
            Err(Refusal::EptFormat)
        );
        assert_eq!(without(|r| r.basic = 0), Err(Refusal::Vmcs));
        assert_eq!(without(|r| r.basic |= BASIC_ADDR_32), Err(Refusal::Vmcs));
        // Without NMI windows there is no use in virtual NMIs.
        let c = without(|r| r.proc &= !(u64::from(proc::NMI_WINDOW_EXITING) << 32)).unwrap();
        assert!(!c.pin(pin::VIRTUAL_NMIS));
        // A VPID that cannot be flushed is of no use either.
        let c = without(|r| r.ept_vpid &= !ept_vpid::INVVPID).unwrap();
        assert!(c.invvpid.is_none() && !c.proc2(proc2::VPID));
    }

    #[test]
    fn the_true_msrs_are_preferred() {
        let read = |basic: u64| {
            let mut seen = Vec::new();
            let raw = Raw::read(|i| {
                seen.push(i);
                Some(match i {
                    msr::BASIC => basic,
                    msr::PROC2 => u64::from(proc2::EPT) << 32,
                    _ => u64::MAX << 32,
                })
            });
            (raw.unwrap(), seen)
        };
        let (_, seen) = read(BASIC_TRUE);
        assert!([0x48d, 0x48e, 0x48f, 0x490]
            .iter()
            .all(|i| seen.contains(i)));
        assert!(![0x481, 0x482, 0x483, 0x484]
            .iter()
            .any(|i| seen.contains(i)));
        let (raw, seen) = read(0x1234);
        assert!([0x481, 0x482, 0x483, 0x484]
            .iter()
            .all(|i| seen.contains(i)));
        assert!(seen.contains(&msr::EPT_VPID));
        assert_eq!(raw.revision(), 0x1234);
        // The secondary controls are not looked for where they cannot be.
        let raw = Raw::read(|i| match i {
            msr::PROC2 | msr::EPT_VPID => None,
            _ => Some(0),
        });
        assert_eq!(raw, Some(Raw::default()));
        assert_eq!(Raw::read(|_| None), None);
    }

    #[test]
    fn every_required_control_has_a_name() {
        for (word, required) in [
            (Word::Pin, PIN_REQUIRED),
            (Word::Proc, PROC_REQUIRED),
            (Word::Proc2, PROC2_REQUIRED),
            (Word::Exit, EXIT_REQUIRED),
            (Word::Entry, ENTRY_REQUIRED),
        ] {
            let named = word.names().iter().fold(0, |all, n| all | n.0);
            assert_eq!(required & !named, 0, "{}", word.name());
        }
    }
}
