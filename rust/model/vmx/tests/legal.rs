// SPDX-License-Identifier: GPL-2.0

use super::*;
use crate::x86::msr::debugctl;

const LIMITS: Limits = Limits {
    cr0_fixed0: 0x8000_0021,
    cr0_fixed1: 0xffff_ffff,
    cr4_fixed0: 0x2000,
    cr4_fixed1: 0x0017_27ff,
    phys_bits: 39,
    linear_bits: 48,
};

fn seg(selector: u16, rights: u32, limit: u32) -> RawSeg {
    RawSeg {
        selector,
        rights,
        limit,
        base: 0,
    }
}

/// A 64-bit kernel.
fn long() -> GuestState {
    let data = seg(0x18, 0xc093, u32::MAX);
    GuestState {
        cr0: 0x8005_0033,
        cr3: 0x1000,
        cr4: 0x26a0,
        dr7: 0x400,
        efer: 0xd01,
        pat: 0x0007_0406_0007_0406,
        seg: [
            data,
            seg(0x10, 0xa09b, u32::MAX),
            data,
            data,
            data,
            data,
            seg(0, UNUSABLE, 0),
            seg(0x40, 0x8b, 0x206f),
        ],
        gdtr: (0xffff_fe00_0000_1000, 0x7f),
        idtr: (0xffff_fe00_0000_0000, 0xfff),
        rip: 0xffff_ffff_8100_0000,
        rflags: 0x202,
        link_pointer: u64::MAX,
        entry_controls: entry::LOAD_DEBUG | entry::IA32E | entry::LOAD_PAT | entry::LOAD_EFER,
        proc2_controls: proc2::UNRESTRICTED_GUEST | proc2::EPT,
        virtual_nmis: true,
        ..GuestState::default()
    }
}

/// After RESET, on a processor that runs real mode directly.
fn reset() -> GuestState {
    let data = seg(0, 0x93, 0xffff);
    let mut s = long();
    s.cr0 = 0x30;
    s.cr4 = 0x2000;
    s.cr3 = 0;
    s.efer = 0;
    s.rip = 0xfff0;
    s.rflags = 2;
    s.entry_controls &= !entry::IA32E;
    s.seg = [
        data,
        RawSeg {
            base: 0xffff_0000,
            ..seg(0xf000, 0x9b, 0xffff)
        },
        data,
        data,
        data,
        data,
        seg(0, 0x82, 0xffff),
        seg(0, 0x8b, 0xffff),
    ];
    s
}

/// Protected mode with virtual-8086 mode, on a processor without unrestricted guests.
fn vm86() -> GuestState {
    let mut s = reset();
    s.cr0 = 0x8000_0031;
    s.proc2_controls = proc2::EPT;
    s.rflags = 0x2_3202;
    s.rip = 0x7c00;
    for (i, g) in s.seg[..6].iter_mut().enumerate() {
        let selector = 0x1000 * i as u16;
        *g = RawSeg {
            base: u64::from(selector) << 4,
            ..seg(selector, 0xf3, 0xffff)
        };
    }
    s
}

/// 32-bit protected mode with PAE, without unrestricted guests.
fn pae() -> GuestState {
    let mut s = long();
    s.efer = 0x800;
    s.entry_controls &= !entry::IA32E;
    s.proc2_controls = proc2::EPT;
    s.rip = 0xc010_0000;
    s.seg[SegReg::Cs as usize] = seg(0x10, 0xc09b, u32::MAX);
    s.pdpte = [0x1001, 0, 0x2001, 0];
    s.gdtr.0 = 0;
    s.idtr.0 = 0;
    s
}

fn all(s: &GuestState) -> Vec<(Option<SegReg>, &'static str)> {
    let mut out = Vec::new();
    complaints(s, &LIMITS, &mut |r, what| out.push((r, what)));
    out
}

#[test]
fn legal_states_have_no_complaints() {
    for s in [long(), reset(), vm86(), pae()] {
        assert_eq!(all(&s), []);
    }
}

#[track_caller]
fn one(from: fn() -> GuestState, change: fn(&mut GuestState), r: Option<SegReg>, what: &str) {
    let mut s = from();
    change(&mut s);
    let found = all(&s);
    assert!(
        found.iter().any(|f| f.0 == r && f.1.contains(what)),
        "{what}: {found:?}"
    );
}

#[test]
fn control_registers_and_msrs() {
    one(
        long,
        |s| s.cr0 &= !cr0::NE,
        None,
        "CR0: a bit that must be 1",
    );
    one(
        vm86,
        |s| s.cr0 &= !cr0::PG,
        None,
        "CR0: a bit that must be 1",
    );
    one(reset, |s| s.cr0 |= cr0::PG, None, "PG without PE");
    one(
        long,
        |s| s.cr4 &= !cr4::VMXE,
        None,
        "CR4: a bit that must be 1",
    );
    one(
        long,
        |s| s.cr4 |= cr4::SMAP,
        None,
        "CR4: a bit that must be 0",
    );
    one(long, |s| s.cr4 &= !cr4::PAE, None, "without PAE");
    one(long, |s| s.cr0 &= !cr0::PG, None, "without PG");
    one(pae, |s| s.cr4 |= cr4::PCIDE, None, "PCIDE");
    one(long, |s| s.cr3 = 1 << 39, None, "CR3");
    one(long, |s| s.dr7 = 1 << 32, None, "DR7");
    one(long, |s| s.debugctl = 1 << 3, None, "DEBUGCTL");
    let mut carried = long();
    carried.debugctl = debugctl::FREEZE_IN_SMM;
    assert!(all(&carried).is_empty());
    one(long, |s| s.pat = 2, None, "PAT");
    one(long, |s| s.efer |= efer::SVME, None, "EFER: reserved");
    one(
        long,
        |s| s.efer &= !efer::LMA,
        None,
        "EFER: LMA is not what",
    );
    one(long, |s| s.efer &= !efer::LME, None, "EFER: LMA is not LME");
    one(long, |s| s.sysenter_eip = 1 << 50, None, "SYSENTER");
}

#[test]
fn segments() {
    use SegReg::{Cs, Ds, Es, Fs, Gs, Ldtr, Ss, Tr};
    one(long, |s| s.seg[7].selector = 0x44, Some(Tr), "in the LDT");
    one(long, |s| s.seg[7].rights = 0x83, Some(Tr), "busy TSS");
    one(pae, |s| s.seg[7].rights = 0x89, Some(Tr), "busy TSS");
    one(long, |s| s.seg[7].rights |= UNUSABLE, Some(Tr), "unusable");
    one(long, |s| s.seg[7].rights = 0xb, Some(Tr), "not present");
    one(long, |s| s.seg[6].rights = 0x83, Some(Ldtr), "of an LDT");
    one(
        pae,
        |s| s.seg[2].selector = 0x1b,
        Some(Ss),
        "RPL is not that of CS",
    );
    one(long, |s| s.seg[4].base = 1 << 48, Some(Fs), "not canonical");
    one(long, |s| s.seg[1].base = 1 << 32, Some(Cs), "beyond 4 GiB");
    one(long, |s| s.seg[0].base = 1 << 32, Some(Es), "beyond 4 GiB");
    one(pae, |s| s.seg[1].rights = 0xc093, Some(Cs), "accessed code");
    one(
        long,
        |s| s.seg[1].rights = 0xa0fb,
        Some(Cs),
        "DPL is not that of SS",
    );
    one(long, |s| s.seg[1].rights = 0xe09b, Some(Cs), "both 64-bit");
    one(
        pae,
        |s| s.seg[2].rights = 0xc0f3,
        Some(Ss),
        "DPL is not RPL",
    );
    one(reset, |s| s.seg[2].rights = 0xf3, Some(Ss), "in real mode");
    one(
        long,
        |s| s.seg[2].rights = 0xc091,
        Some(Ss),
        "writable data",
    );
    one(long, |s| s.seg[3].rights = 0xc092, Some(Ds), "not accessed");
    one(
        long,
        |s| s.seg[3].rights = 0xc099,
        Some(Ds),
        "cannot be read",
    );
    one(pae, |s| s.seg[5].selector = 0x1b, Some(Gs), "below RPL");
    one(long, |s| s.seg[5].rights = 0xc013, Some(Gs), "not present");
    one(long, |s| s.seg[5].rights = 0xc193, Some(Gs), "reserved");
    one(long, |s| s.seg[5].limit = 5, Some(Gs), "contradict");
    one(long, |s| s.seg[5].rights = 0x4093, Some(Gs), "contradict");
    one(vm86, |s| s.seg[0].base = 8, Some(Es), "selector * 16");
    one(vm86, |s| s.seg[1].limit = 0xf_ffff, Some(Cs), "0xffff");
    one(vm86, |s| s.seg[3].rights = 0x93, Some(Ds), "0xf3");
    // What cannot be used is not looked at.
    let mut s = long();
    for i in [0, 3, 4, 5] {
        s.seg[i] = seg(3, UNUSABLE | 0xfff, 7);
    }
    assert_eq!(all(&s), []);
}

#[test]
fn the_rest() {
    one(long, |s| s.gdtr.0 = 1 << 60, None, "GDTR: base");
    one(long, |s| s.idtr.1 = 0x1_0000, None, "IDTR: limit");
    one(pae, |s| s.rip = 1 << 32, None, "RIP: bits");
    one(long, |s| s.rip = 1 << 63, None, "RIP: not canonical");
    one(long, |s| s.rflags = 0x200, None, "RFLAGS: reserved");
    one(long, |s| s.rflags |= rflags::VM, None, "RFLAGS: VM");
    one(
        long,
        |s| {
            s.intr_info = info::VALID | info::EXTERNAL | 32;
            s.rflags = 2;
        },
        None,
        "IF clear",
    );
    one(
        long,
        |s| {
            s.intr_info = info::VALID | info::EXTERNAL | 32;
            s.interruptibility = interruptibility::MOV_SS;
        },
        None,
        "injected in a shadow",
    );
    one(
        long,
        |s| {
            s.intr_info = info::VALID | info::NMI | 2;
            s.interruptibility = interruptibility::NMI;
        },
        None,
        "while NMIs are blocked",
    );
    one(
        long,
        |s| s.interruptibility = 3,
        None,
        "both STI and MOV SS",
    );
    one(long, |s| s.interruptibility = 0x20, None, "reserved bits");
    one(long, |s| s.activity = 4, None, "does not exist");
    one(
        long,
        |s| {
            s.activity = 1;
            s.interruptibility = interruptibility::STI;
        },
        None,
        "not active in an interrupt shadow",
    );
    one(
        long,
        |s| {
            s.interruptibility = interruptibility::STI;
            s.rflags |= rflags::TF;
        },
        None,
        "BS is not what TF says",
    );
    one(long, |s| s.pending_debug = 1 << 4, None, "pending debug");
    one(long, |s| s.link_pointer = 0x10, None, "link pointer");
    one(pae, |s| s.pdpte[2] |= 2, None, "PDPTE");
    one(pae, |s| s.pdpte[0] |= 1 << 50, None, "PDPTE");
}

#[test]
fn what_fits_without_unrestricted_guests() {
    let p = pae();
    assert!(segments_fit(&p.seg, false, false));
    assert!(segments_fit(&long().seg, false, true));
    assert!(segments_fit(&vm86().seg, true, false));
    // What real mode leaves behind.
    let mut s = p;
    s.seg[2] = RawSeg {
        base: 0x3_1230,
        ..seg(0x3123, 0x93, 0xffff)
    };
    assert!(
        !segments_fit(&s.seg, false, false),
        "RPL of SS is not that of CS"
    );
    // A task register that hardware would not take.
    let mut s = p;
    s.seg[7].rights |= UNUSABLE;
    assert!(!segments_fit(&s.seg, false, false));
    // Virtual-8086 mode with more than 64 KiB.
    let mut s = vm86();
    s.seg[3].limit = u32::MAX;
    assert!(!segments_fit(&s.seg, true, false));
    // A null data segment is no obstacle.
    let mut s = p;
    s.seg[3] = seg(0, UNUSABLE, 0);
    assert!(segments_fit(&s.seg, false, false));
}

#[test]
fn segments_are_made_to_fit() {
    let big = Segment {
        base: 0xffff_0008,
        limit: u32::MAX,
        ..Segment::real_mode(0xf000, true)
    };
    let s = as_in_real_mode(big);
    assert_eq!((s.selector, s.base), (0xf000, 0xf_0000));
    assert_eq!((s.limit, s.attr), (big.limit, big.attr));
    let real = Segment::real_mode(0x3123, false);
    assert_eq!(as_in_real_mode(real), real);

    let s = as_in_protected_mode(SegReg::Ss, real);
    assert_eq!((s.selector, s.attr, s.base), (0x3120, 0x93, real.base));
    let s = as_in_protected_mode(SegReg::Ds, real);
    assert_eq!((s.selector, s.attr, s.base), (0x3123, 0xf3, real.base));
    let all = SegReg::ALL.map(|r| {
        let s = match r {
            SegReg::Ldtr => Segment::default(),
            SegReg::Tr => Segment {
                attr: 0x8b,
                ..Segment::default()
            },
            r => as_in_protected_mode(r, Segment::real_mode(0x3123, r == SegReg::Cs)),
        };
        RawSeg {
            selector: s.selector,
            rights: s.attr.into(),
            limit: s.limit,
            base: s.base,
        }
    });
    let mut all = all;
    all[SegReg::Ldtr as usize].rights = UNUSABLE;
    assert!(segments_fit(&all, false, false));
}
