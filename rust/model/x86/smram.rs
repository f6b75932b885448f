// SPDX-License-Identifier: GPL-2.0

//! System management mode as registers and memory: the state-save area, and the state in which a
//! handler begins.
//!
//! KVM: the layouts are those of the in-tree module, which firmware and migration rely on. With long
//! mode it is AMD64's (`APM: vol 2, 10.2.3`), with attributes as in a descriptor's upper half;
//! without, Intel's of old (`SDM: vol 3, 32.4.1`). Restart of I/O instructions and of HLT is not
//! done.

use crate::x86::ctrl::{cr0, dr7, efer, rflags};
use crate::x86::state::{shadow_renumbered, CpuState, DescTable, SegReg, Segment};

/// Size of the area, bytes.
pub const SIZE: usize = 512;
/// Where it begins, from SMBASE.
pub const OFFSET: u64 = 0xfe00;
/// Where the handler begins, from SMBASE.
const ENTRY: u64 = 0x8000;

/// The area.
pub type Area = [u8; SIZE];

/// What the revision fields say: SMBASE can be changed; 64-bit layout.
const REVISION_64: u32 = 0x0002_0064;
/// SMBASE can be changed.
const REVISION_32: u32 = 0x0002_0000;

/// Offsets of the layout with long mode.
mod at64 {
    use super::SegReg;

    pub(super) const SEGS: [(SegReg, usize); 8] = [
        (SegReg::Es, 0x00),
        (SegReg::Cs, 0x10),
        (SegReg::Ss, 0x20),
        (SegReg::Ds, 0x30),
        (SegReg::Fs, 0x40),
        (SegReg::Gs, 0x50),
        (SegReg::Ldtr, 0x70),
        (SegReg::Tr, 0x90),
    ];
    pub(super) const GDTR: usize = 0x60;
    pub(super) const IDTR: usize = 0x80;
    pub(super) const SHADOW: usize = 0xcb;
    pub(super) const EFER: usize = 0xd0;
    pub(super) const REVISION: usize = 0xfc;
    pub(super) const SMBASE: usize = 0x100;
    pub(super) const CR4: usize = 0x148;
    pub(super) const CR3: usize = 0x150;
    pub(super) const CR0: usize = 0x158;
    pub(super) const DR7: usize = 0x160;
    pub(super) const DR6: usize = 0x168;
    pub(super) const RFLAGS: usize = 0x170;
    pub(super) const RIP: usize = 0x178;
    /// R15 first.
    pub(super) const GPRS: usize = 0x180;
}

/// Offsets of the layout without.
mod at32 {
    use super::SegReg;

    /// The hidden part, and the selector.
    pub(super) const SEGS: [(SegReg, usize, usize); 8] = [
        (SegReg::Ds, 0x12c, 0x1b4),
        (SegReg::Fs, 0x138, 0x1b8),
        (SegReg::Gs, 0x144, 0x1bc),
        (SegReg::Tr, 0x15c, 0x1c4),
        (SegReg::Ldtr, 0x178, 0x1c0),
        (SegReg::Es, 0x184, 0x1a8),
        (SegReg::Cs, 0x190, 0x1ac),
        (SegReg::Ss, 0x19c, 0x1b0),
    ];
    pub(super) const SMBASE: usize = 0xf8;
    pub(super) const REVISION: usize = 0xfc;
    pub(super) const CR4: usize = 0x114;
    pub(super) const SHADOW: usize = 0x11a;
    pub(super) const IDTR: usize = 0x150;
    pub(super) const GDTR: usize = 0x16c;
    pub(super) const DR7: usize = 0x1c8;
    pub(super) const DR6: usize = 0x1cc;
    /// EAX first.
    pub(super) const GPRS: usize = 0x1d0;
    pub(super) const EIP: usize = 0x1f0;
    pub(super) const EFLAGS: usize = 0x1f4;
    pub(super) const CR3: usize = 0x1f8;
    pub(super) const CR0: usize = 0x1fc;
}

fn put(a: &mut Area, at: usize, bytes: &[u8]) {
    let to = a.get_mut(at..).unwrap_or(&mut []);
    for (to, from) in to.iter_mut().zip(bytes) {
        *to = *from;
    }
}

fn put64(a: &mut Area, at: usize, v: u64) {
    put(a, at, &v.to_le_bytes());
}

fn put32(a: &mut Area, at: usize, v: u64) {
    // CAST: a field of 32 bits.
    put(a, at, &(v as u32).to_le_bytes());
}

fn get64(a: &Area, at: usize) -> u64 {
    a.get(at..)
        .and_then(|b| b.first_chunk())
        .map_or(0, |b| u64::from_le_bytes(*b))
}

fn get32(a: &Area, at: usize) -> u64 {
    a.get(at..)
        .and_then(|b| b.first_chunk())
        .map_or(0, |b| u64::from(u32::from_le_bytes(*b)))
}

fn get16(a: &Area, at: usize) -> u16 {
    a.get(at..)
        .and_then(|b| b.first_chunk())
        .map_or(0, |b| u16::from_le_bytes(*b))
}

/// The attributes as in a descriptor, bits 23:8 of the upper half; a segment that cannot be used is
/// not present.
fn flags(s: &Segment) -> u16 {
    let attr = s.attr & 0xff | (s.attr & 0xf00) << 4;
    if s.unusable {
        attr & !Segment::P
    } else {
        attr
    }
}

fn segment(selector: u16, flags: u16, limit: u64, base: u64) -> Segment {
    let attr = flags & 0xff | (flags >> 4) & 0xf00;
    Segment {
        selector,
        attr,
        // CAST: from a field of 32 bits.
        limit: limit as u32,
        base,
        unusable: attr & Segment::P == 0,
    }
}

/// Writes the area. `long`: the guest's CPUID has long mode.
pub fn save(s: &CpuState, long: bool, smbase: u32, a: &mut Area) {
    a.fill(0);
    if long {
        save64(s, smbase, a);
    } else {
        save32(s, smbase, a);
    }
}

fn save64(s: &CpuState, smbase: u32, a: &mut Area) {
    for (r, at) in at64::SEGS {
        let seg = s.seg(r);
        put(a, at, &seg.selector.to_le_bytes());
        put(a, at.wrapping_add(2), &flags(seg).to_le_bytes());
        put(a, at.wrapping_add(4), &seg.limit.to_le_bytes());
        put64(a, at.wrapping_add(8), seg.base);
    }
    for (t, at) in [(&s.gdtr, at64::GDTR), (&s.idtr, at64::IDTR)] {
        put32(a, at.wrapping_add(4), t.limit.into());
        put64(a, at.wrapping_add(8), t.base);
    }
    put(a, at64::SHADOW, &[shadow_renumbered(s.shadow)]);
    put32(a, at64::REVISION, REVISION_64.into());
    put32(a, at64::SMBASE, smbase.into());
    for (at, v) in [
        (at64::EFER, s.efer),
        (at64::CR4, s.cr4),
        (at64::CR3, s.cr3),
        (at64::CR0, s.cr0),
        (at64::DR7, s.dr7),
        (at64::DR6, s.dr6),
        (at64::RFLAGS, s.rflags),
        (at64::RIP, s.rip),
    ] {
        put64(a, at, v);
    }
    for (i, v) in s.gpr.iter().rev().enumerate() {
        put64(a, at64::GPRS.wrapping_add(i.wrapping_mul(8)), *v);
    }
}

fn save32(s: &CpuState, smbase: u32, a: &mut Area) {
    for (r, at, selector) in at32::SEGS {
        let seg = s.seg(r);
        put32(a, at, u64::from(flags(seg)) << 8);
        put32(a, at.wrapping_add(4), seg.limit.into());
        put32(a, at.wrapping_add(8), seg.base);
        put32(a, selector, seg.selector.into());
    }
    for (t, at) in [(&s.gdtr, at32::GDTR), (&s.idtr, at32::IDTR)] {
        put32(a, at.wrapping_add(4), t.limit.into());
        put32(a, at.wrapping_add(8), t.base);
    }
    put(a, at32::SHADOW, &[shadow_renumbered(s.shadow)]);
    for (at, v) in [
        (at32::SMBASE, smbase.into()),
        (at32::REVISION, REVISION_32.into()),
        (at32::CR4, s.cr4),
        (at32::DR7, s.dr7),
        (at32::DR6, s.dr6),
        (at32::EIP, s.rip),
        (at32::EFLAGS, s.rflags),
        (at32::CR3, s.cr3),
        (at32::CR0, s.cr0),
    ] {
        put32(a, at, v);
    }
    for (i, v) in s.gpr.iter().take(8).enumerate() {
        put32(a, at32::GPRS.wrapping_add(i.wrapping_mul(4)), *v);
    }
}

/// Reads the area into `s` and returns SMBASE. EFER.LMA follows from the other registers; the layout
/// without long mode has no EFER, and `s` keeps its own. Whether a processor can be in that state is
/// for the caller to check.
pub fn load(a: &Area, long: bool, s: &mut CpuState) -> u32 {
    let smbase = if long { load64(a, s) } else { load32(a, s) };
    s.rflags |= rflags::FIXED;
    smbase
}

fn load64(a: &Area, s: &mut CpuState) -> u32 {
    for (r, at) in at64::SEGS {
        *s.seg_mut(r) = segment(
            get16(a, at),
            get16(a, at.wrapping_add(2)),
            get32(a, at.wrapping_add(4)),
            get64(a, at.wrapping_add(8)),
        );
    }
    let table = |at: usize| DescTable {
        base: get64(a, at.wrapping_add(8)),
        // CAST: the register has 16 bits.
        limit: get32(a, at.wrapping_add(4)) as u16,
    };
    s.gdtr = table(at64::GDTR);
    s.idtr = table(at64::IDTR);
    s.shadow = shadow_renumbered(a.get(at64::SHADOW).copied().unwrap_or(0));
    s.cr4 = get64(a, at64::CR4);
    s.cr3 = get64(a, at64::CR3);
    s.cr0 = get64(a, at64::CR0);
    s.dr7 = get64(a, at64::DR7);
    s.dr6 = get64(a, at64::DR6);
    s.rflags = get64(a, at64::RFLAGS);
    s.rip = get64(a, at64::RIP);
    for (i, v) in s.gpr.iter_mut().rev().enumerate() {
        *v = get64(a, at64::GPRS.wrapping_add(i.wrapping_mul(8)));
    }
    let ef = get64(a, at64::EFER) & !efer::LMA;
    let lma = ef & efer::LME != 0 && s.cr0 & cr0::PG != 0;
    s.efer = if lma { ef | efer::LMA } else { ef };
    // CAST: from a field of 32 bits.
    get32(a, at64::SMBASE) as u32
}

fn load32(a: &Area, s: &mut CpuState) -> u32 {
    for (r, at, selector) in at32::SEGS {
        // CAST: attributes and selectors have 16 bits.
        let flags = (get32(a, at) >> 8) as u16;
        *s.seg_mut(r) = segment(
            get16(a, selector),
            flags,
            get32(a, at.wrapping_add(4)),
            get32(a, at.wrapping_add(8)),
        );
    }
    let table = |at: usize| DescTable {
        base: get32(a, at.wrapping_add(8)),
        // CAST: the register has 16 bits.
        limit: get32(a, at.wrapping_add(4)) as u16,
    };
    s.gdtr = table(at32::GDTR);
    s.idtr = table(at32::IDTR);
    s.shadow = shadow_renumbered(a.get(at32::SHADOW).copied().unwrap_or(0));
    s.cr4 = get32(a, at32::CR4);
    s.cr3 = get32(a, at32::CR3);
    s.cr0 = get32(a, at32::CR0);
    s.dr7 = get32(a, at32::DR7);
    s.dr6 = get32(a, at32::DR6);
    s.rflags = get32(a, at32::EFLAGS);
    s.rip = get32(a, at32::EIP);
    for (i, v) in s.gpr.iter_mut().take(8).enumerate() {
        *v = get32(a, at32::GPRS.wrapping_add(i.wrapping_mul(4)));
    }
    // CAST: from a field of 32 bits.
    get32(a, at32::SMBASE) as u32
}

/// The registers with which the handler begins: real mode with flat segments, interrupts off
/// (`SDM: vol 3, 32.5.1`; `APM: vol 2, 10.3.2`). Without `long`, the guest's long mode, there is no
/// place to which EFER was saved, and it stays.
pub fn enter(s: &mut CpuState, long: bool, smbase: u32) {
    s.rip = ENTRY;
    s.rflags = rflags::FIXED;
    s.shadow = 0;
    s.cr0 &= !(cr0::PE | cr0::EM | cr0::TS | cr0::PG);
    s.cr4 = 0;
    if long {
        s.efer = 0;
    }
    s.dr7 = dr7::FIXED_1;
    // KVM: undocumented; exceptions before the handler sets it up shut the processor down.
    s.idtr = DescTable::default();
    let data = Segment {
        selector: 0,
        attr: 0x3 | Segment::S | Segment::P | Segment::G,
        limit: u32::MAX,
        base: 0,
        unusable: false,
    };
    for r in [SegReg::Ds, SegReg::Es, SegReg::Fs, SegReg::Gs, SegReg::Ss] {
        *s.seg_mut(r) = data;
    }
    *s.seg_mut(SegReg::Cs) = Segment {
        // CAST: cut to the selector's 16 bits.
        selector: (smbase >> 4) as u16,
        base: smbase.into(),
        ..data
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::x86::ctrl::cr4;
    use crate::x86::state::{SHADOW_MOV_SS, SHADOW_STI};

    /// A state in which every field differs from every other.
    fn state(long: bool) -> CpuState {
        let mut s = CpuState::reset();
        let wide = |v: u64| if long { v << 32 | v } else { v };
        for (i, g) in (0u64..).zip(s.gpr.iter_mut()) {
            *g = if long || i < 8 { wide(0x100 + i) } else { 0 };
        }
        s.rip = wide(0x1234);
        s.rflags = 0x246;
        s.cr0 = cr0::PG | cr0::PE | cr0::ET;
        s.cr3 = 0x5000;
        s.cr4 = cr4::PAE;
        s.dr6 = 0xffff_0ff1;
        s.dr7 = 0x401;
        s.shadow = 1;
        if long {
            s.efer = efer::LME | efer::LMA | efer::NXE;
        }
        for (i, r) in (1u16..).zip(SegReg::ALL) {
            *s.seg_mut(r) = Segment {
                selector: i * 8,
                attr: 0x93 | (i & 1) << 9 | Segment::G,
                limit: u32::from(i) << 12 | 0xfff,
                base: wide(u64::from(i) << 16),
                unusable: false,
            };
        }
        s.gdtr = DescTable {
            base: wide(0x7000),
            limit: 0x77,
        };
        s.idtr = DescTable {
            base: wide(0x8000),
            limit: 0xfff,
        };
        s
    }

    fn same(a: &CpuState, b: &CpuState) {
        assert_eq!(format!("{a:?}"), format!("{b:?}"));
    }

    #[test]
    fn what_is_saved_comes_back() {
        for long in [true, false] {
            for shadow in [0, SHADOW_STI, SHADOW_MOV_SS, SHADOW_STI | SHADOW_MOV_SS] {
                let mut s = state(long);
                s.shadow = shadow;
                let mut a = [0xcc; SIZE];
                save(&s, long, 0xa_0000, &mut a);
                let mut t = CpuState::reset();
                t.xcr0 = s.xcr0;
                t.gpr = if long { t.gpr } else { s.gpr };
                assert_eq!(load(&a, long, &mut t), 0xa_0000);
                same(&s, &t);
            }
        }
    }

    #[test]
    fn fields_are_where_firmware_looks() {
        let s = state(true);
        let mut a = [0; SIZE];
        save(&s, true, 0x3_0000, &mut a);
        let at = |x: u64| (x - OFFSET) as usize;
        assert_eq!(get32(&a, at(0xfefc)), 0x2_0064);
        assert_eq!(get32(&a, at(0xff00)), 0x3_0000);
        assert_eq!(get64(&a, at(0xff78)), s.rip);
        // RAX is the last, R15 the first of the general registers.
        assert_eq!(get64(&a, at(0xfff8)), s.gpr[0]);
        assert_eq!(get64(&a, at(0xff80)), s.gpr[15]);
        let s = state(false);
        save(&s, false, 0x3_0000, &mut a);
        assert_eq!(get32(&a, at(0xfefc)), 0x2_0000);
        assert_eq!(get32(&a, at(0xfef8)), 0x3_0000);
        assert_eq!(get32(&a, at(0xffd0)), s.gpr[0]);
        assert_eq!(get32(&a, at(0xfffc)), s.cr0);
    }

    #[test]
    fn without_long_mode_efer_is_left_alone() {
        let mut s = state(false);
        s.efer = efer::NXE | efer::SCE;
        let mut a = [0; SIZE];
        save(&s, false, 0, &mut a);
        let mut t = s.clone();
        enter(&mut t, false, 0);
        assert_eq!(t.efer, s.efer);
        load(&a, false, &mut t);
        assert_eq!(t.efer, s.efer);
    }

    #[test]
    fn shadows_have_the_numbers_of_the_interface() {
        for (long, at) in [(true, 0xfecb), (false, 0xff1a)] {
            for (shadow, number) in [(0, 0), (SHADOW_STI, 2), (SHADOW_MOV_SS, 1)] {
                let mut s = state(long);
                s.shadow = shadow;
                let mut a = [0; SIZE];
                save(&s, long, 0, &mut a);
                let field = &mut a[at - OFFSET as usize];
                assert_eq!(*field, number);
                // Of what others left there only these bits count.
                *field |= 0xf0;
                load(&a, long, &mut s);
                assert_eq!(s.shadow, shadow);
            }
        }
    }

    #[test]
    fn a_null_segment_stays_unusable() {
        let mut s = state(true);
        s.seg_mut(SegReg::Fs).unusable = true;
        let mut a = [0; SIZE];
        save(&s, true, 0, &mut a);
        let mut t = CpuState::reset();
        load(&a, true, &mut t);
        assert!(t.seg(SegReg::Fs).unusable && !t.seg(SegReg::Gs).unusable);
    }

    #[test]
    fn long_mode_is_active_only_with_paging() {
        let mut s = state(true);
        s.cr0 = cr0::PE | cr0::ET;
        let mut a = [0; SIZE];
        save(&s, true, 0, &mut a);
        let mut t = CpuState::reset();
        load(&a, true, &mut t);
        assert_eq!(t.efer & (efer::LME | efer::LMA), efer::LME);
    }

    #[test]
    fn the_handler_begins_in_flat_real_mode() {
        let mut s = state(true);
        enter(&mut s, true, 0x7ffe_0000);
        let cs = s.seg(SegReg::Cs);
        assert_eq!((cs.base + s.rip, cs.selector), (0x7ffe_8000, 0xe000));
        assert!(!s.protected_mode() && !s.long_mode());
        assert_eq!((s.cr4, s.efer, s.rflags), (0, 0, 2));
    }
}
