// SPDX-License-Identifier: GPL-2.0

//! A Haswell's capabilities, what switches take away, what is missing.

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
fn all_that_is_missing_is_one_line() {
    let line = |word, missing| Refusal::Controls(word, missing).to_string();
    assert_eq!(
        line(Word::Pin, pin::NMI_EXITING),
        "VMX without the pin-based control NMI_EXITING"
    );
    assert_eq!(
        line(Word::Exit, exit::ACK_INTR | exit::LOAD_EFER | 1),
        "VMX without the VM-exit controls 0x1, ACK_INTR, LOAD_EFER"
    );
    let top = proc::SECONDARY | proc::MSR_BITMAPS;
    assert_eq!(
        line(Word::Proc, top),
        "VMX without the primary processor-based controls MSR_BITMAPS, SECONDARY"
    );
    for why in [
        Refusal::Vmcs,
        Refusal::NoEpt,
        Refusal::EptFormat,
        Refusal::Controls(Word::Proc2, u32::MAX),
    ] {
        let line = why.to_string();
        assert!(line.starts_with("VMX ") || line.starts_with("extended "));
        assert!(!line.contains('\n'), "{line}");
    }
    assert!(Refusal::NoEpt
        .to_string()
        .contains("without extended page tables"));
}

#[test]
fn what_nothing_uses_is_not_required() {
    let mut r = HASWELL;
    r.proc &= !(u64::from(proc::RDTSC_EXITING | proc::INVLPG_EXITING) << 32);
    let c = configure(&r, &ON).unwrap();
    assert_eq!(c, configure(&HASWELL, &ON).unwrap());
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

#[test]
fn processors_differ_in_what_counts() {
    let same = |f: fn(&mut Raw), s: &Switches| {
        let mut other = HASWELL;
        f(&mut other);
        assert_ne!(other, HASWELL);
        let both = [(HASWELL, other), (other, HASWELL)];
        let [a, b] = both.map(|(a, b)| interchangeable(&a, &b, s));
        assert_eq!(a, b);
        a
    };
    assert!(interchangeable(&HASWELL, &HASWELL, &ON));
    // What nothing uses.
    let unused: [fn(&mut Raw); 3] = [
        |r| r.proc &= !(u64::from(proc::RDTSC_EXITING | proc::INVLPG_EXITING) << 32),
        |r| r.proc2 ^= u64::from(proc2::SHADOW_VMCS) << 32,
        |r| r.pin |= u64::from(pin::POSTED_INTERRUPTS) << 32,
    ];
    for f in unused {
        assert!(same(f, &ON));
    }
    // What is used, must be set, or is kept for all CPUs.
    let used: [fn(&mut Raw); 11] = [
        |r| r.basic ^= 1,
        |r| r.misc ^= 1,
        |r| r.pin |= u64::from(pin::PREEMPTION_TIMER),
        |r| r.proc2 &= !(u64::from(proc2::UNRESTRICTED_GUEST) << 32),
        |r| r.proc |= u64::from(proc::RDTSC_EXITING),
        |r| r.exit &= !(u64::from(exit::LOAD_EFER) << 32),
        |r| r.ept_vpid &= !ept_vpid::INVEPT_SINGLE,
        |r| r.ept_vpid &= !ept_vpid::AD,
        |r| r.cr0_fixed0 ^= 1 << 16,
        |r| r.cr4_fixed0 ^= 1,
        |r| r.cr4_fixed1 ^= 1 << 20,
    ];
    for (i, f) in used.into_iter().enumerate() {
        assert!(!same(f, &ON), "{i}");
    }
    // Switched off it does not count any more.
    let s = Switches {
        unrestricted_guest: false,
        ..ON
    };
    assert!(same(used[3], &s));
}
