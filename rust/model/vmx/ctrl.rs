// SPDX-License-Identifier: GPL-2.0

//! The control words of a VMCS and the formats of the guest-state words that have bits.
//!
//! `SDM: vol 3, 25.6` to `25.8` (controls), `SDM: vol 3, 25.4.1` (access rights),
//! `SDM: vol 3, 25.4.2` (interruptibility), `SDM: vol 3, 25.6.11` (EPTP).

use crate::x86::state::Segment;

macro_rules! word {
    ($(#[$doc:meta])* $module:ident, $size:literal: $( $(#[$d:meta])* $name:ident = $bit:literal, )*) => {
        $(#[$doc])*
        pub mod $module {
            $(
                $(#[$d])*
                pub const $name: u32 = 1 << $bit;
            )*

            /// Every control that has a name, for messages.
            pub const NAMES: [(u32, &str); $size] = [$(($name, stringify!($name)),)*];
        }
    };
}

word! {
    /// Pin-based VM-execution controls.
    pin, 5:
    /// External interrupts exit.
    EXT_INTR_EXITING = 0,
    /// NMIs exit.
    NMI_EXITING = 3,
    /// NMI blocking is tracked for the guest.
    VIRTUAL_NMIS = 5,
    /// The preemption timer counts.
    PREEMPTION_TIMER = 6,
    /// Posted interrupts are processed.
    POSTED_INTERRUPTS = 7,
}

word! {
    /// Primary processor-based VM-execution controls.
    proc, 21:
    /// Exit when the guest can take an interrupt.
    INTR_WINDOW_EXITING = 2,
    /// RDTSC adds the offset.
    TSC_OFFSETTING = 3,
    /// HLT exits.
    HLT_EXITING = 7,
    /// INVLPG exits.
    INVLPG_EXITING = 9,
    /// MWAIT exits.
    MWAIT_EXITING = 10,
    /// RDPMC exits.
    RDPMC_EXITING = 11,
    /// RDTSC and RDTSCP exit.
    RDTSC_EXITING = 12,
    /// MOV to CR3 exits.
    CR3_LOAD_EXITING = 15,
    /// MOV from CR3 exits.
    CR3_STORE_EXITING = 16,
    /// The tertiary controls are in use.
    TERTIARY = 17,
    /// MOV to CR8 exits.
    CR8_LOAD_EXITING = 19,
    /// MOV from CR8 exits.
    CR8_STORE_EXITING = 20,
    /// CR8 is in the virtual-APIC page.
    TPR_SHADOW = 21,
    /// Exit when the guest can take an NMI.
    NMI_WINDOW_EXITING = 22,
    /// MOV to and from debug registers exit.
    MOV_DR_EXITING = 23,
    /// Port accesses exit.
    UNCOND_IO_EXITING = 24,
    /// Port accesses exit as bitmaps say.
    IO_BITMAPS = 25,
    /// RDMSR and WRMSR exit as a bitmap says.
    MSR_BITMAPS = 28,
    /// MONITOR exits.
    MONITOR_EXITING = 29,
    /// PAUSE exits.
    PAUSE_EXITING = 30,
    /// The secondary controls are in use.
    SECONDARY = 31,
}

word! {
    /// Secondary processor-based VM-execution controls.
    proc2, 24:
    /// Accesses to the APIC page are virtualized.
    APIC_ACCESSES = 0,
    /// Extended page tables.
    EPT = 1,
    /// Accesses to descriptor-table registers exit.
    DESC_EXITING = 2,
    /// RDTSCP and RDPID exist.
    RDTSCP = 3,
    /// x2APIC MSRs are virtualized.
    X2APIC_MODE = 4,
    /// Translations are tagged by VPID.
    VPID = 5,
    /// WBINVD exits.
    WBINVD_EXITING = 6,
    /// Real mode runs directly.
    UNRESTRICTED_GUEST = 7,
    /// APIC registers are read from the virtual-APIC page.
    APIC_REGISTER_VIRT = 8,
    /// Pending virtual interrupts are delivered.
    VIRT_INTR_DELIVERY = 9,
    /// Loops of PAUSE exit.
    PAUSE_LOOP_EXITING = 10,
    /// RDRAND exits.
    RDRAND_EXITING = 11,
    /// INVPCID exists.
    INVPCID = 12,
    /// VMFUNC exists.
    VMFUNC = 13,
    /// A shadow VMCS.
    SHADOW_VMCS = 14,
    /// ENCLS exits as a bitmap says.
    ENCLS_EXITING = 15,
    /// RDSEED exits.
    RDSEED_EXITING = 16,
    /// Writes are logged.
    PML = 17,
    /// Some EPT violations become `#VE`.
    EPT_VIOLATION_VE = 18,
    /// XSAVES and XRSTORS exist.
    XSAVES = 20,
    /// User and supervisor execution are told apart.
    MODE_BASED_EXEC = 22,
    /// The TSC is scaled.
    TSC_SCALING = 25,
    /// UMONITOR, UMWAIT and TPAUSE exist.
    USER_WAIT_PAUSE = 26,
    /// Bus locks exit.
    BUS_LOCK_DETECTION = 30,
}

word! {
    /// VM-exit controls.
    exit, 8:
    /// DR7 and DEBUGCTL are saved.
    SAVE_DEBUG = 2,
    /// The host is in 64-bit mode.
    HOST_64 = 9,
    /// The interrupt that exits is acknowledged.
    ACK_INTR = 15,
    /// PAT is saved.
    SAVE_PAT = 18,
    /// PAT is loaded.
    LOAD_PAT = 19,
    /// EFER is saved.
    SAVE_EFER = 20,
    /// EFER is loaded.
    LOAD_EFER = 21,
    /// The preemption timer is saved.
    SAVE_PREEMPTION_TIMER = 22,
}

word! {
    /// VM-entry controls.
    entry, 4:
    /// DR7 and DEBUGCTL are loaded.
    LOAD_DEBUG = 2,
    /// The guest is in IA-32e mode.
    IA32E = 9,
    /// PAT is loaded.
    LOAD_PAT = 14,
    /// EFER is loaded.
    LOAD_EFER = 15,
}

/// IA32_VMX_EPT_VPID_CAP (`SDM: vol 3, A.10`).
pub mod ept_vpid {
    /// Tables of four levels.
    pub const WALK_4: u64 = 1 << 6;
    /// Tables of five levels.
    pub const WALK_5: u64 = 1 << 7;
    /// The tables may be write-back memory.
    pub const WB: u64 = 1 << 14;
    /// 2 MiB pages.
    pub const PAGE_2M: u64 = 1 << 16;
    /// 1 GiB pages.
    pub const PAGE_1G: u64 = 1 << 17;
    /// INVEPT exists.
    pub const INVEPT: u64 = 1 << 20;
    /// Accessed and dirty flags.
    pub const AD: u64 = 1 << 21;
    /// INVEPT of one context.
    pub const INVEPT_SINGLE: u64 = 1 << 25;
    /// INVEPT of all contexts.
    pub const INVEPT_ALL: u64 = 1 << 26;
    /// INVVPID exists.
    pub const INVVPID: u64 = 1 << 32;
    /// INVVPID of one context.
    pub const INVVPID_SINGLE: u64 = 1 << 41;
    /// INVVPID of all contexts.
    pub const INVVPID_ALL: u64 = 1 << 42;
}

/// Interruptibility state of the guest.
pub mod interruptibility {
    /// Blocking by STI.
    pub const STI: u32 = 1 << 0;
    /// Blocking by MOV SS.
    pub const MOV_SS: u32 = 1 << 1;
    /// Blocking by SMI.
    pub const SMI: u32 = 1 << 2;
    /// Blocking by NMI.
    pub const NMI: u32 = 1 << 3;
}

/// GUEST_PENDING_DEBUG: a single step waits to be reported.
pub const PENDING_BS: u64 = 1 << 14;

/// The EPT pointer: write-back tables of four levels, or of five, maybe with accessed and dirty
/// flags.
pub const fn eptp(root: u64, five_levels: bool, ad: bool) -> u64 {
    /// Memory type write-back.
    const WB: u64 = 6;
    let walk = if five_levels { 4 } else { 3 };
    root | WB | walk << 3 | (ad as u64) << 6
}

/// Access rights: the register is unusable.
pub const UNUSABLE: u32 = 1 << 16;

/// The access-rights word of a segment register. What is not present cannot be used.
pub const fn pack_rights(s: &Segment) -> u32 {
    let attr = s.attr as u32;
    let unusable = s.unusable || s.attr & Segment::P == 0;
    attr & 0xff | (attr & 0xf00) << 4 | (unusable as u32) << 16
}

/// A segment register from its access-rights word.
///
/// KVM: what cannot be used is not present, as some user space keeps only the latter.
pub const fn unpack_rights(rights: u32, selector: u16, limit: u32, base: u64) -> Segment {
    let unusable = rights & UNUSABLE != 0;
    // CAST: twelve bits.
    let attr = (rights & 0xff | rights >> 4 & 0xf00) as u16;
    Segment {
        selector,
        attr: if unusable {
            attr & !Segment::P
        } else {
            attr | Segment::P
        },
        limit,
        base,
        unusable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_in_order() {
        fn rising(names: &[(u32, &str)]) {
            assert!(names.windows(2).all(|w| w[0].0 < w[1].0));
        }
        rising(&pin::NAMES);
        rising(&proc::NAMES);
        rising(&proc2::NAMES);
        rising(&exit::NAMES);
        rising(&entry::NAMES);
    }

    #[test]
    fn ept_pointers() {
        assert_eq!(eptp(0x1000, false, false), 0x101e);
        assert_eq!(eptp(0x1000, true, true), 0x1066);
    }

    #[test]
    fn rights_round_trip() {
        for attr in 0..0x1000u16 {
            let s = Segment {
                selector: 8,
                attr: attr | Segment::P,
                limit: 0xffff,
                base: 1,
                unusable: false,
            };
            let r = pack_rights(&s);
            assert_eq!(r & 0xf00, 0, "reserved");
            assert_eq!(unpack_rights(r, 8, 0xffff, 1), s);
        }
    }

    #[test]
    fn what_is_not_present_is_unusable() {
        let s = Segment {
            attr: 0x13,
            ..Segment::default()
        };
        assert_eq!(pack_rights(&s), 0x1_0013);
        let s = Segment {
            attr: 0x93,
            unusable: true,
            ..Segment::default()
        };
        let r = pack_rights(&s);
        assert_eq!(r, 0x1_0093);
        let back = unpack_rights(r, 0, 0, 0);
        assert!(back.unusable);
        assert_eq!(back.attr, 0x13);
        // 64-bit code.
        let s = Segment {
            attr: 0xa9b,
            ..Segment::default()
        };
        assert_eq!(pack_rights(&s), 0xa09b);
    }
}
