// SPDX-License-Identifier: GPL-2.0

//! Which guest states a VM entry accepts (`SDM: vol 3, 27.3.1`).
//!
//! An entry that fails for its guest state says no more than that. [`complaints`] goes through the
//! manual's list again and says what is wrong, for the kernel log. Without unrestricted guests the
//! same rules tell beforehand which states of a guest hardware cannot run ([`segments_fit`]); or the
//! segment registers are made to fit where the mode changes.

use super::ctrl::{entry, interruptibility, proc2, PENDING_BS, UNUSABLE};
use super::exit::info;
use crate::x86::ctrl::{cr0, cr4, efer, rflags};
use crate::x86::state::{SegReg, Segment};

/// A segment register as a VMCS has it.
#[derive(Clone, Copy, Debug, Default)]
pub struct RawSeg {
    /// Selector.
    pub selector: u16,
    /// Access rights.
    pub rights: u32,
    /// Limit in bytes.
    pub limit: u32,
    /// Base.
    pub base: u64,
}

/// Bits of the access rights (`SDM: vol 3, table 25-2`).
mod ar {
    pub(super) const ACCESSED: u32 = 1 << 0;
    pub(super) const READ_WRITE: u32 = 1 << 1;
    pub(super) const CONFORMING: u32 = 1 << 2;
    pub(super) const CODE: u32 = 1 << 3;
    pub(super) const S: u32 = 1 << 4;
    pub(super) const P: u32 = 1 << 7;
    pub(super) const L: u32 = 1 << 13;
    pub(super) const DB: u32 = 1 << 14;
    pub(super) const G: u32 = 1 << 15;
    pub(super) const RESERVED: u32 = 0xfffe_0f00;
    /// What a segment of virtual-8086 mode has: present, privilege 3, data, read and write.
    pub(super) const VM86: u32 = 0xf3;
}

impl RawSeg {
    const fn dpl(&self) -> u32 {
        self.rights >> Segment::DPL_SHIFT & 3
    }

    const fn rpl(&self) -> u32 {
        self.selector as u32 & 3
    }

    const fn typ(&self) -> u32 {
        self.rights & 0xf
    }

    const fn usable(&self) -> bool {
        self.rights & UNUSABLE == 0
    }

    const fn has(&self, bits: u32) -> bool {
        self.rights & bits == bits
    }

    /// Bit 15 is what the limit needs: low bits that are not ones exclude it, high bits want it.
    const fn granularity_fits(&self) -> bool {
        if self.rights & ar::G != 0 {
            self.limit & 0xfff == 0xfff
        } else {
            self.limit >> 20 == 0
        }
    }
}

/// The guest state of a VMCS, with the controls that its rules depend on.
#[derive(Clone, Copy, Debug, Default)]
#[expect(missing_docs, reason = "the manual's field names")]
pub struct GuestState {
    pub cr0: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub dr7: u64,
    pub efer: u64,
    pub pat: u64,
    pub debugctl: u64,
    pub sysenter_esp: u64,
    pub sysenter_eip: u64,
    /// In the order of [`SegReg`].
    pub seg: [RawSeg; 8],
    pub gdtr: (u64, u32),
    pub idtr: (u64, u32),
    pub rip: u64,
    pub rflags: u64,
    pub activity: u32,
    pub interruptibility: u32,
    pub pending_debug: u64,
    pub link_pointer: u64,
    pub pdpte: [u64; 4],
    pub entry_controls: u32,
    pub proc2_controls: u32,
    pub virtual_nmis: bool,
    pub intr_info: u32,
}

/// What a processor allows, from its capability MSRs and CPUID.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "the manual's names")]
pub struct Limits {
    pub cr0_fixed0: u64,
    pub cr0_fixed1: u64,
    pub cr4_fixed0: u64,
    pub cr4_fixed1: u64,
    /// Bits of a physical address.
    pub phys_bits: u32,
    /// Bits of a linear address.
    pub linear_bits: u32,
}

impl Limits {
    fn canonical(&self, v: u64) -> bool {
        let unused = 64u32.wrapping_sub(self.linear_bits);
        // CAST: the sign bit is copied upwards.
        (v as i64).wrapping_shl(unused).wrapping_shr(unused) as u64 == v
    }

    fn physical(&self, v: u64) -> bool {
        v.checked_shr(self.phys_bits).unwrap_or(0) == 0
    }
}

/// Receives what is wrong: the register it is wrong with, if it is a segment register, and the rule.
pub type Tell<'a> = &'a mut dyn FnMut(Option<SegReg>, &'static str);

impl GuestState {
    fn get(&self, r: SegReg) -> RawSeg {
        self.seg.get(r as usize).copied().unwrap_or_default()
    }

    fn vm86(&self) -> bool {
        self.rflags & rflags::VM != 0
    }

    fn unrestricted(&self) -> bool {
        self.proc2_controls & proc2::UNRESTRICTED_GUEST != 0
    }

    fn ia32e(&self) -> bool {
        self.entry_controls & entry::IA32E != 0
    }
}

/// Everything that a VM entry holds against this guest state, in the manual's order.
pub fn complaints(s: &GuestState, l: &Limits, tell: Tell<'_>) {
    control_registers(s, l, tell);
    msrs(s, l, tell);
    selectors_and_bases(s, l, tell);
    if s.vm86() {
        vm86_segments(s, tell);
    } else {
        code_segment(s, tell);
        stack_segment(s, tell);
        data_segments(s, tell);
    }
    system_segments(s, tell);
    tables(s, l, tell);
    rip_and_flags(s, l, tell);
    activity(s, tell);
    blocking(s, tell);
    pending_debug(s, tell);
    pdptes(s, l, tell);
}

/// `SDM: vol 3, 27.3.1.1`.
fn control_registers(s: &GuestState, l: &Limits, tell: Tell<'_>) {
    let paging = cr0::PE | cr0::PG;
    let must = if s.unrestricted() {
        l.cr0_fixed0 & !paging
    } else {
        l.cr0_fixed0
    };
    if must & !s.cr0 != 0 {
        tell(None, "CR0: a bit that must be 1 is 0");
    }
    if s.cr0 & !l.cr0_fixed1 & 0xffff_ffff & !(cr0::NW | cr0::CD) != 0 {
        tell(None, "CR0: a bit that must be 0 is 1");
    }
    if s.cr0 & paging == cr0::PG {
        tell(None, "CR0: PG without PE");
    }
    if l.cr4_fixed0 & !s.cr4 != 0 {
        tell(None, "CR4: a bit that must be 1 is 0");
    }
    if s.cr4 & !l.cr4_fixed1 != 0 {
        tell(None, "CR4: a bit that must be 0 is 1");
    }
    if s.cr4 & cr4::CET != 0 && s.cr0 & cr0::WP == 0 {
        tell(None, "CR4: CET without CR0.WP");
    }
    if s.ia32e() {
        if s.cr0 & cr0::PG == 0 {
            tell(None, "CR0: IA-32e mode without PG");
        }
        if s.cr4 & cr4::PAE == 0 {
            tell(None, "CR4: IA-32e mode without PAE");
        }
    } else if s.cr4 & cr4::PCIDE != 0 {
        tell(None, "CR4: PCIDE outside IA-32e mode");
    }
    if !l.physical(s.cr3) {
        tell(None, "CR3: beyond the physical-address width");
    }
    if s.entry_controls & entry::LOAD_DEBUG != 0 && s.dr7 >> 32 != 0 {
        tell(None, "DR7: bits 63:32 are not 0");
    }
}

/// `SDM: vol 3, 27.3.1.1`, the MSRs.
fn msrs(s: &GuestState, l: &Limits, tell: Tell<'_>) {
    if !l.canonical(s.sysenter_esp) || !l.canonical(s.sysenter_eip) {
        tell(None, "SYSENTER: ESP or EIP is not canonical");
    }
    if s.entry_controls & entry::LOAD_DEBUG != 0 && s.debugctl & !0xdfc3 != 0 {
        tell(None, "DEBUGCTL: reserved bits");
    }
    if s.entry_controls & entry::LOAD_PAT != 0
        && !s
            .pat
            .to_le_bytes()
            .into_iter()
            .all(|t| matches!(t, 0 | 1 | 4..=7))
    {
        tell(None, "PAT: a memory type that does not exist");
    }
    if s.entry_controls & entry::LOAD_EFER != 0 {
        if s.efer & !(efer::SCE | efer::LME | efer::LMA | efer::NXE) != 0 {
            tell(None, "EFER: reserved bits");
        }
        if (s.efer & efer::LMA != 0) != s.ia32e() {
            tell(None, "EFER: LMA is not what the IA-32e-mode control says");
        }
        if s.cr0 & cr0::PG != 0 && (s.efer & efer::LMA != 0) != (s.efer & efer::LME != 0) {
            tell(None, "EFER: LMA is not LME, with paging on");
        }
    }
}

/// `SDM: vol 3, 27.3.1.2`: selectors and base addresses.
fn selectors_and_bases(s: &GuestState, l: &Limits, tell: Tell<'_>) {
    /// The table indicator of a selector.
    const TI: u16 = 1 << 2;
    let (tr, ldtr, ss, cs) = (
        s.get(SegReg::Tr),
        s.get(SegReg::Ldtr),
        s.get(SegReg::Ss),
        s.get(SegReg::Cs),
    );
    if tr.selector & TI != 0 {
        tell(Some(SegReg::Tr), "selector in the LDT");
    }
    if ldtr.usable() && ldtr.selector & TI != 0 {
        tell(Some(SegReg::Ldtr), "selector in the LDT");
    }
    if !s.vm86() && !s.unrestricted() && ss.rpl() != cs.rpl() {
        tell(Some(SegReg::Ss), "RPL is not that of CS");
    }
    for r in SegReg::ALL {
        let g = s.get(r);
        let checked = match r {
            SegReg::Tr | SegReg::Fs | SegReg::Gs => true,
            SegReg::Ldtr => g.usable(),
            _ => false,
        };
        if checked && !l.canonical(g.base) {
            tell(Some(r), "base is not canonical");
        }
    }
    if cs.base >> 32 != 0 {
        tell(Some(SegReg::Cs), "base beyond 4 GiB");
    }
    for r in [SegReg::Ss, SegReg::Ds, SegReg::Es] {
        let g = s.get(r);
        if g.usable() && g.base >> 32 != 0 {
            tell(Some(r), "base beyond 4 GiB");
        }
    }
}

/// The segment registers of code and data.
pub const CODE_AND_DATA: [SegReg; 6] = [
    SegReg::Cs,
    SegReg::Ss,
    SegReg::Ds,
    SegReg::Es,
    SegReg::Fs,
    SegReg::Gs,
];

/// Virtual-8086 mode: base, limit and rights follow from the selector.
fn vm86_segments(s: &GuestState, tell: Tell<'_>) {
    for r in CODE_AND_DATA {
        let g = s.get(r);
        if g.base != u64::from(g.selector) << 4 {
            tell(Some(r), "virtual-8086: base is not selector * 16");
        }
        if g.limit != 0xffff {
            tell(Some(r), "virtual-8086: limit is not 0xffff");
        }
        if g.rights != ar::VM86 {
            tell(Some(r), "virtual-8086: access rights are not 0xf3");
        }
    }
}

fn common_rights(r: SegReg, g: &RawSeg, tell: Tell<'_>) {
    if !g.has(ar::P) {
        tell(Some(r), "not present");
    }
    if g.rights & ar::RESERVED != 0 {
        tell(Some(r), "reserved access rights");
    }
    if !g.granularity_fits() {
        tell(Some(r), "limit and granularity contradict each other");
    }
}

fn code_segment(s: &GuestState, tell: Tell<'_>) {
    let r = Some(SegReg::Cs);
    let (cs, ss) = (s.get(SegReg::Cs), s.get(SegReg::Ss));
    let fits = match cs.typ() {
        9 | 11 | 13 | 15 => true,
        // Accessed data that can be written.
        3 => s.unrestricted(),
        _ => false,
    };
    if !fits {
        tell(r, "type is not that of accessed code");
    }
    if !cs.has(ar::S) {
        tell(r, "system segment");
    }
    match cs.typ() {
        3 if cs.dpl() != 0 => tell(r, "data of a privilege other than 0"),
        9 | 11 if cs.dpl() != ss.dpl() => tell(r, "DPL is not that of SS"),
        13 | 15 if cs.dpl() > ss.dpl() => tell(r, "DPL of conforming code exceeds that of SS"),
        _ => {}
    }
    if s.ia32e() && cs.has(ar::L | ar::DB) {
        tell(r, "both 64-bit and 32-bit");
    }
    common_rights(SegReg::Cs, &cs, tell);
}

fn stack_segment(s: &GuestState, tell: Tell<'_>) {
    let r = Some(SegReg::Ss);
    let (cs, ss) = (s.get(SegReg::Cs), s.get(SegReg::Ss));
    if !s.unrestricted() && ss.dpl() != ss.rpl() {
        tell(r, "DPL is not RPL");
    }
    if (cs.typ() == 3 || s.cr0 & cr0::PE == 0) && ss.dpl() != 0 {
        tell(r, "DPL is not 0 in real mode");
    }
    if !ss.usable() {
        return;
    }
    if !matches!(ss.typ(), 3 | 7) {
        tell(r, "type is not that of accessed, writable data");
    }
    if !ss.has(ar::S) {
        tell(r, "system segment");
    }
    common_rights(SegReg::Ss, &ss, tell);
}

fn data_segments(s: &GuestState, tell: Tell<'_>) {
    for r in [SegReg::Ds, SegReg::Es, SegReg::Fs, SegReg::Gs] {
        let g = s.get(r);
        if !g.usable() {
            continue;
        }
        if !g.has(ar::ACCESSED) {
            tell(Some(r), "not accessed");
        }
        if g.has(ar::CODE) && !g.has(ar::READ_WRITE) {
            tell(Some(r), "code that cannot be read");
        }
        if !g.has(ar::S) {
            tell(Some(r), "system segment");
        }
        if !s.unrestricted() && !g.has(ar::CODE | ar::CONFORMING) && g.dpl() < g.rpl() {
            tell(Some(r), "DPL is below RPL");
        }
        common_rights(r, &g, tell);
    }
}

fn system_segments(s: &GuestState, tell: Tell<'_>) {
    let tr = s.get(SegReg::Tr);
    let busy = matches!(tr.typ(), 11) || (tr.typ() == 3 && !s.ia32e());
    if !busy {
        tell(Some(SegReg::Tr), "type is not that of a busy TSS");
    }
    if tr.has(ar::S) {
        tell(Some(SegReg::Tr), "not a system segment");
    }
    if !tr.usable() {
        tell(Some(SegReg::Tr), "unusable");
    }
    common_rights(
        SegReg::Tr,
        &RawSeg {
            rights: tr.rights & !UNUSABLE,
            ..tr
        },
        tell,
    );
    let ldtr = s.get(SegReg::Ldtr);
    if ldtr.usable() {
        if ldtr.typ() != 2 {
            tell(Some(SegReg::Ldtr), "type is not that of an LDT");
        }
        if ldtr.has(ar::S) {
            tell(Some(SegReg::Ldtr), "not a system segment");
        }
        common_rights(SegReg::Ldtr, &ldtr, tell);
    }
}

/// `SDM: vol 3, 27.3.1.3`.
fn tables(s: &GuestState, l: &Limits, tell: Tell<'_>) {
    for (t, base, limit) in [
        (
            s.gdtr,
            "GDTR: base is not canonical",
            "GDTR: limit beyond 64 KiB",
        ),
        (
            s.idtr,
            "IDTR: base is not canonical",
            "IDTR: limit beyond 64 KiB",
        ),
    ] {
        if !l.canonical(t.0) {
            tell(None, base);
        }
        if t.1 >> 16 != 0 {
            tell(None, limit);
        }
    }
}

/// `SDM: vol 3, 27.3.1.4`.
fn rip_and_flags(s: &GuestState, l: &Limits, tell: Tell<'_>) {
    /// Bits of RFLAGS that must be 0, below and above.
    const ZERO: u64 = !0x3f_7fd7;
    let cs = s.get(SegReg::Cs);
    let long = s.ia32e() && cs.has(ar::L);
    if !long && s.rip >> 32 != 0 {
        tell(None, "RIP: bits 63:32 outside 64-bit mode");
    }
    if long && !l.canonical(s.rip) {
        tell(None, "RIP: not canonical");
    }
    if s.rflags & ZERO != 0 || s.rflags & rflags::FIXED == 0 {
        tell(None, "RFLAGS: reserved bits");
    }
    if s.vm86() && (s.ia32e() || s.cr0 & cr0::PE == 0) {
        tell(None, "RFLAGS: VM in IA-32e or real mode");
    }
    let interrupt = s.intr_info & info::VALID != 0 && s.intr_info & info::TYPE == info::EXTERNAL;
    if interrupt && s.rflags & rflags::IF == 0 {
        tell(None, "RFLAGS: an interrupt is injected with IF clear");
    }
}

/// `SDM: vol 3, 27.3.1.5`: the activity state.
fn activity(s: &GuestState, tell: Tell<'_>) {
    const HLT: u32 = 1;
    const WAIT_FOR_SIPI: u32 = 3;
    if s.activity > WAIT_FOR_SIPI {
        tell(None, "activity state that does not exist");
    }
    if s.activity == HLT && s.get(SegReg::Ss).dpl() != 0 {
        tell(None, "activity: halted at a privilege other than 0");
    }
    let shadow = interruptibility::STI | interruptibility::MOV_SS;
    if s.activity != 0 && s.interruptibility & shadow != 0 {
        tell(None, "activity: not active in an interrupt shadow");
    }
    if s.activity == WAIT_FOR_SIPI && s.intr_info & info::VALID != 0 {
        tell(
            None,
            "activity: an event is injected while it waits for a SIPI",
        );
    }
}

/// `SDM: vol 3, 27.3.1.5`: the interruptibility state.
fn blocking(s: &GuestState, tell: Tell<'_>) {
    let v = s.interruptibility;
    let sti = v & interruptibility::STI != 0;
    let mov_ss = v & interruptibility::MOV_SS != 0;
    if v & !0x1f != 0 {
        tell(None, "interruptibility: reserved bits");
    }
    if sti && mov_ss {
        tell(None, "interruptibility: blocking by both STI and MOV SS");
    }
    if sti && s.rflags & rflags::IF == 0 {
        tell(None, "interruptibility: blocking by STI with IF clear");
    }
    if s.intr_info & info::VALID != 0 {
        match s.intr_info & info::TYPE {
            info::EXTERNAL if sti || mov_ss => {
                tell(
                    None,
                    "interruptibility: an interrupt is injected in a shadow",
                );
            }
            info::NMI if mov_ss || sti => {
                tell(None, "interruptibility: an NMI is injected in a shadow");
            }
            info::NMI if s.virtual_nmis && v & interruptibility::NMI != 0 => {
                tell(
                    None,
                    "interruptibility: an NMI is injected while NMIs are blocked",
                );
            }
            _ => {}
        }
    }
    if v & interruptibility::SMI != 0 {
        tell(None, "interruptibility: blocking by SMI outside SMM");
    }
}

/// `SDM: vol 3, 27.3.1.5`: pending debug exceptions and the link pointer.
fn pending_debug(s: &GuestState, tell: Tell<'_>) {
    const ZERO: u64 = !0x1_700f;
    /// DEBUGCTL.BTF: TF steps over branches.
    const BTF: u64 = 1 << 1;
    if s.pending_debug & ZERO != 0 {
        tell(None, "pending debug exceptions: reserved bits");
    }
    let shadow = s.interruptibility & (interruptibility::STI | interruptibility::MOV_SS) != 0;
    const HLT: u32 = 1;
    if shadow || s.activity == HLT {
        let step = s.rflags & rflags::TF != 0 && s.debugctl & BTF == 0;
        if step != (s.pending_debug & PENDING_BS != 0) {
            tell(None, "pending debug exceptions: BS is not what TF says");
        }
    }
    if s.link_pointer != u64::MAX && s.link_pointer & 0xfff != 0 {
        tell(None, "VMCS link pointer: not page aligned");
    }
}

/// `SDM: vol 3, 27.3.1.6`.
fn pdptes(s: &GuestState, l: &Limits, tell: Tell<'_>) {
    let pae = s.cr0 & cr0::PG != 0 && s.cr4 & cr4::PAE != 0 && !s.ia32e();
    if !pae {
        return;
    }
    for p in s.pdpte {
        if p & 1 != 0 && (p & 0x1e6 != 0 || !l.physical(p & !0xfff)) {
            tell(None, "PDPTE: reserved bits");
        }
    }
}

/// Can hardware run a guest with these segment registers in protected mode, without unrestricted
/// guests? `vm86` says that RFLAGS.VM is set.
pub fn segments_fit(seg: &[RawSeg; 8], vm86: bool, ia32e: bool) -> bool {
    let mut s = GuestState {
        seg: *seg,
        cr0: cr0::PE,
        ..GuestState::default()
    };
    let mut fits = true;
    let mut tell = |_: Option<SegReg>, _: &'static str| fits = false;
    if vm86 {
        vm86_segments(&s, &mut tell);
    } else {
        s.entry_controls = if ia32e { entry::IA32E } else { 0 };
        if s.get(SegReg::Ss).rpl() != s.get(SegReg::Cs).rpl() {
            tell(None, "");
        }
        code_segment(&s, &mut tell);
        stack_segment(&s, &mut tell);
        data_segments(&s, &mut tell);
    }
    system_segments(&s, &mut tell);
    fits
}

/// A segment register as virtual-8086 mode could have it: 16 times a selector, below 1 MiB.
///
/// KVM: the limit stays, as accesses beyond 64 KiB are emulated.
pub const fn as_in_real_mode(s: Segment) -> Segment {
    Segment {
        // CAST: what of the base fits in a selector.
        selector: (s.base >> 4) as u16,
        base: s.base & 0xf_fff0,
        ..s
    }
}

/// A segment register that real mode left behind, with a privilege that suits its selector: that of the
/// kernel in CS and SS.
pub const fn as_in_protected_mode(r: SegReg, s: Segment) -> Segment {
    const RPL: u16 = 3;
    let selector = match r {
        SegReg::Cs | SegReg::Ss => s.selector & !RPL,
        _ => s.selector,
    };
    let dpl = (selector & RPL) << Segment::DPL_SHIFT;
    Segment {
        selector,
        attr: s.attr & !(RPL << Segment::DPL_SHIFT) | dpl | Segment::S,
        ..s
    }
}

#[cfg(test)]
#[path = "tests/legal.rs"]
mod tests;
