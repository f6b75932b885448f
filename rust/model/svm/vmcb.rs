// SPDX-License-Identifier: GPL-2.0

//! The virtual machine control block: one page that tells the processor how to run a guest, and
//! that it writes the guest's state back to (`APM: vol 2, appendix B`).
//!
//! The layout and the meaning of the bits are here; who may set which bit is the business of the
//! backend, which alone has control blocks that hardware sees.

use core::mem::offset_of;
use core::mem::size_of;

use crate::exit::{Event, EventKind};
use crate::x86::state::Segment;

/// Bits of the six intercept words, [`Control::intercepts`]: each constant is 32 * word + bit.
pub mod intercept {
    /// Reads of CR0; CR`n` is `n` bits further on.
    pub const CR0_READ: u32 = 0;
    /// Reads of CR4.
    pub const CR4_READ: u32 = 4;
    /// Writes of CR0; CR`n` is `n` bits further on.
    pub const CR0_WRITE: u32 = 16;
    /// Writes of CR4.
    pub const CR4_WRITE: u32 = 16 + 4;
    /// Writes of CR8.
    pub const CR8_WRITE: u32 = 16 + 8;
    /// The word of the debug registers: reads in its low half, writes in its high half.
    pub const WORD_DR: usize = 1;
    /// The word of the exceptions, a bit for each vector.
    pub const WORD_EXCEPTION: usize = 2;
    /// Physical interrupts.
    pub const INTR: u32 = 96;
    /// Physical NMIs.
    pub const NMI: u32 = 97;
    /// SMIs.
    pub const SMI: u32 = 98;
    /// INIT.
    pub const INIT: u32 = 99;
    /// A virtual interrupt that can be taken.
    pub const VINTR: u32 = 100;
    /// Writes of CR0 that change more than TS and MP.
    pub const CR0_SEL_WRITE: u32 = 101;
    /// The first of eight: SIDT, SGDT, SLDT, STR, LIDT, LGDT, LLDT, LTR.
    pub const IDTR_READ: u32 = 102;
    /// RDTSC.
    pub const RDTSC: u32 = 110;
    /// RDPMC.
    pub const RDPMC: u32 = 111;
    /// CPUID.
    pub const CPUID: u32 = 114;
    /// RSM.
    pub const RSM: u32 = 115;
    /// IRET.
    pub const IRET: u32 = 116;
    /// INVD.
    pub const INVD: u32 = 118;
    /// PAUSE.
    pub const PAUSE: u32 = 119;
    /// HLT.
    pub const HLT: u32 = 120;
    /// INVLPG.
    pub const INVLPG: u32 = 121;
    /// INVLPGA.
    pub const INVLPGA: u32 = 122;
    /// Ports, by the I/O permission map.
    pub const IOIO: u32 = 123;
    /// RDMSR and WRMSR, by the MSR permission map.
    pub const MSR: u32 = 124;
    /// Task switches.
    pub const TASK_SWITCH: u32 = 125;
    /// Shutdown.
    pub const SHUTDOWN: u32 = 127;
    /// VMRUN; VMRUN itself fails without it.
    pub const VMRUN: u32 = 128;
    /// VMMCALL.
    pub const VMMCALL: u32 = 129;
    /// VMLOAD.
    pub const VMLOAD: u32 = 130;
    /// VMSAVE.
    pub const VMSAVE: u32 = 131;
    /// STGI.
    pub const STGI: u32 = 132;
    /// CLGI.
    pub const CLGI: u32 = 133;
    /// SKINIT.
    pub const SKINIT: u32 = 134;
    /// RDTSCP.
    pub const RDTSCP: u32 = 135;
    /// INT1.
    pub const ICEBP: u32 = 136;
    /// WBINVD and WBNOINVD.
    pub const WBINVD: u32 = 137;
    /// MONITOR and MONITORX.
    pub const MONITOR: u32 = 138;
    /// MWAIT and MWAITX.
    pub const MWAIT: u32 = 139;
    /// XSETBV.
    pub const XSETBV: u32 = 141;
    /// RDPRU.
    pub const RDPRU: u32 = 142;
    /// INVLPGB.
    pub const INVLPGB: u32 = 160;
    /// INVLPGB with illegal operands.
    pub const INVLPGB_ILLEGAL: u32 = 161;
    /// INVPCID.
    pub const INVPCID: u32 = 162;
    /// MCOMMIT.
    pub const MCOMMIT: u32 = 163;
    /// TLBSYNC.
    pub const TLBSYNC: u32 = 164;
    /// Bus locks, by [`super::Control::bus_lock_count`].
    pub const BUSLOCK: u32 = 165;
    /// HLT without a pending virtual interrupt.
    pub const IDLE_HLT: u32 = 166;
}

/// [`Control::clean`]: which groups of fields have not changed since the last exit, so that the
/// processor may use its own copy (`APM: vol 2, 15.15`).
pub mod clean {
    /// Intercepts, TSC offset, pause filter.
    pub const INTERCEPTS: u32 = 1 << 0;
    /// The addresses of the permission maps.
    pub const PERM: u32 = 1 << 1;
    /// ASID.
    pub const ASID: u32 = 1 << 2;
    /// TPR, virtual interrupts, vGIF, vNMI.
    pub const INTR: u32 = 1 << 3;
    /// Nested paging: enable, root, PAT.
    pub const NPT: u32 = 1 << 4;
    /// CR0, CR3, CR4, EFER.
    pub const CR: u32 = 1 << 5;
    /// DR6, DR7.
    pub const DR: u32 = 1 << 6;
    /// GDTR, IDTR.
    pub const DT: u32 = 1 << 7;
    /// CS, DS, SS, ES and the CPL.
    pub const SEG: u32 = 1 << 8;
    /// CR2.
    pub const CR2: u32 = 1 << 9;
    /// DEBUGCTL and the last-branch records.
    pub const LBR: u32 = 1 << 10;
    /// The tables of AVIC.
    pub const AVIC: u32 = 1 << 11;
    /// Shadow-stack state.
    pub const CET: u32 = 1 << 12;
    /// All that are defined.
    pub const ALL: u32 = 0x1fff;
    /// What may be claimed after an exit. Not CR2, which the host uses between two entries, nor the
    /// interrupt controls, which change at most of them.
    pub const AFTER_EXIT: u32 = ALL & !(CR2 | INTR);
}

/// [`Control::tlb_ctl`].
pub mod tlb {
    /// Keep all translations.
    pub const KEEP: u8 = 0;
    /// Drop the translations of all ASIDs.
    pub const FLUSH_ALL: u8 = 1;
    /// Drop the translations of this guest's ASID. Needs FlushByAsid.
    pub const FLUSH_ASID: u8 = 3;
}

/// [`Control::int_ctl`] (`APM: vol 2, 15.21`).
pub mod int_ctl {
    /// Virtual TPR: CR8, four bits.
    pub const V_TPR: u32 = 0xf;
    /// A virtual interrupt is pending.
    pub const V_IRQ: u32 = 1 << 8;
    /// Value of the virtual global interrupt flag.
    pub const V_GIF: u32 = 1 << 9;
    /// A virtual NMI is pending.
    pub const V_NMI: u32 = 1 << 11;
    /// Virtual NMIs are blocked.
    pub const V_NMI_MASK: u32 = 1 << 12;
    /// Where the priority of the virtual interrupt starts; four bits.
    pub const V_PRIO_SHIFT: u32 = 16;
    /// Priority of the virtual interrupt.
    pub const V_PRIO: u32 = 0xf << V_PRIO_SHIFT;
    /// The virtual interrupt ignores the virtual TPR.
    pub const V_IGN_TPR: u32 = 1 << 20;
    /// RFLAGS.IF and CR8 of the guest act on virtual interrupts only.
    pub const V_INTR_MASKING: u32 = 1 << 24;
    /// The virtual global interrupt flag is in use.
    pub const V_GIF_ENABLE: u32 = 1 << 25;
    /// Virtual NMIs are in use.
    pub const V_NMI_ENABLE: u32 = 1 << 26;
}

/// [`Control::int_state`]: the guest is in an interrupt shadow.
pub const INT_STATE_SHADOW: u64 = 1 << 0;

/// [`Control::misc_ctl`]: nested paging.
pub const MISC_NP: u64 = 1 << 0;
/// [`Control::misc_ctl2`]: hardware switches DEBUGCTL and the last-branch records.
pub const MISC2_LBR: u64 = 1 << 0;

/// A segment register of the save area.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct VmcbSeg {
    /// +0x0 Visible selector.
    pub selector: u16,
    /// +0x2 Attributes, packed as [`Segment::attr`].
    pub attr: u16,
    /// +0x4 Limit, bytes.
    pub limit: u32,
    /// +0x8 Base, a linear address.
    pub base: u64,
}

impl VmcbSeg {
    /// Packs a segment. An unusable one becomes not present (`APM: vol 2, 15.5.1`: the VMCB has no
    /// other way to say it).
    #[inline]
    pub const fn pack(s: &Segment) -> Self {
        let absent = if s.unusable { Segment::P } else { 0 };
        Self {
            selector: s.selector,
            attr: s.attr & 0xfff & !absent,
            limit: s.limit,
            base: s.base,
        }
    }

    /// Unpacks it. Granularity is not kept by all processors, so that it is made to agree with the
    /// limit.
    #[inline]
    pub const fn unpack(&self) -> Segment {
        let g = if self.limit > 0xf_ffff { Segment::G } else { 0 };
        Segment {
            selector: self.selector,
            attr: self.attr & 0xfff & !Segment::G | g,
            limit: self.limit,
            base: self.base,
            unusable: self.attr & Segment::P == 0,
        }
    }
}

/// The control area: the first 1 KiB.
#[derive(Debug)]
#[repr(C)]
pub struct Control {
    /// +0x000 What is intercepted, see [`intercept`].
    pub intercepts: [u32; 6],
    reserved_018: [u8; 0x24],
    /// +0x03c Cycles between two PAUSEs that reset the count.
    pub pause_filter_thresh: u16,
    /// +0x03e PAUSEs before one exits.
    pub pause_filter_count: u16,
    /// +0x040 Physical address of the I/O permission map.
    pub iopm_base: u64,
    /// +0x048 Physical address of the MSR permission map.
    pub msrpm_base: u64,
    /// +0x050 Added to the TSC when the guest reads it.
    pub tsc_offset: u64,
    /// +0x058 Address-space identifier of the guest; never 0.
    pub asid: u32,
    /// +0x05c What the next entry flushes, see [`tlb`].
    pub tlb_ctl: u8,
    /// +0x05d Return-address predictor.
    pub erap_ctl: u8,
    reserved_05e: [u8; 2],
    /// +0x060 Virtual interrupts, see [`int_ctl`].
    pub int_ctl: u32,
    /// +0x064 Vector of the virtual interrupt.
    pub int_vector: u32,
    /// +0x068 Interrupt shadow.
    pub int_state: u64,
    /// +0x070 Why the guest was left, see [`super::exit`].
    pub exit_code: u64,
    /// +0x078 EXITINFO1.
    pub exit_info_1: u64,
    /// +0x080 EXITINFO2.
    pub exit_info_2: u64,
    /// +0x088 EXITINTINFO: the event whose delivery the exit cut short.
    pub exit_int_info: u32,
    /// +0x08c Its error code.
    pub exit_int_info_err: u32,
    /// +0x090 Nested paging and encryption.
    pub misc_ctl: u64,
    /// +0x098 AVIC: the APIC's base.
    pub avic_vapic_bar: u64,
    /// +0x0a0 Encrypted guests: the communication block.
    pub ghcb_gpa: u64,
    /// +0x0a8 EVENTINJ: an event to deliver at the next entry.
    pub event_inj: u32,
    /// +0x0ac Its error code.
    pub event_inj_err: u32,
    /// +0x0b0 Physical address of the root of the nested page tables.
    pub nested_cr3: u64,
    /// +0x0b8 Last-branch records, VMLOAD and VMSAVE in the guest.
    pub misc_ctl2: u64,
    /// +0x0c0 Clean bits, see [`clean`].
    pub clean: u32,
    reserved_0c4: u32,
    /// +0x0c8 RIP of the instruction after the intercepted one.
    pub next_rip: u64,
    /// +0x0d0 Number of bytes in `insn_bytes`.
    pub insn_len: u8,
    /// +0x0d1 The bytes of the instruction.
    pub insn_bytes: [u8; 15],
    /// +0x0e0 AVIC: the backing page.
    pub avic_backing_page: u64,
    reserved_0e8: u64,
    /// +0x0f0 AVIC: the logical table.
    pub avic_logical_id: u64,
    /// +0x0f8 AVIC: the physical table.
    pub avic_physical_id: u64,
    reserved_100: u64,
    /// +0x108 Encrypted guests: the save area.
    pub vmsa_pa: u64,
    reserved_110: [u64; 2],
    /// +0x120 Bus locks before one exits.
    pub bus_lock_count: u16,
    reserved_122: [u8; 0x2de],
}

/// The save area of a guest that is not encrypted: from 1 KiB to the end of the page.
#[derive(Debug)]
#[repr(C)]
pub struct Save {
    /// +0x000 (0x400 in the page)
    pub es: VmcbSeg,
    /// +0x010
    pub cs: VmcbSeg,
    /// +0x020
    pub ss: VmcbSeg,
    /// +0x030
    pub ds: VmcbSeg,
    /// +0x040 By VMLOAD and VMSAVE.
    pub fs: VmcbSeg,
    /// +0x050 By VMLOAD and VMSAVE.
    pub gs: VmcbSeg,
    /// +0x060 Base and limit only.
    pub gdtr: VmcbSeg,
    /// +0x070 By VMLOAD and VMSAVE.
    pub ldtr: VmcbSeg,
    /// +0x080 Base and limit only.
    pub idtr: VmcbSeg,
    /// +0x090 By VMLOAD and VMSAVE.
    pub tr: VmcbSeg,
    reserved_0a0: [u8; 0x2a],
    /// +0x0ca
    pub vmpl: u8,
    /// +0x0cb Current privilege level.
    pub cpl: u8,
    reserved_0cc: u32,
    /// +0x0d0
    pub efer: u64,
    reserved_0d8: [u64; 14],
    /// +0x148
    pub cr4: u64,
    /// +0x150
    pub cr3: u64,
    /// +0x158
    pub cr0: u64,
    /// +0x160
    pub dr7: u64,
    /// +0x168
    pub dr6: u64,
    /// +0x170
    pub rflags: u64,
    /// +0x178
    pub rip: u64,
    reserved_180: [u64; 11],
    /// +0x1d8
    pub rsp: u64,
    /// +0x1e0 Shadow stacks.
    pub s_cet: u64,
    /// +0x1e8
    pub ssp: u64,
    /// +0x1f0
    pub isst_addr: u64,
    /// +0x1f8
    pub rax: u64,
    /// +0x200 By VMLOAD and VMSAVE, as are the seven after it.
    pub star: u64,
    /// +0x208
    pub lstar: u64,
    /// +0x210
    pub cstar: u64,
    /// +0x218
    pub sfmask: u64,
    /// +0x220
    pub kernel_gs_base: u64,
    /// +0x228
    pub sysenter_cs: u64,
    /// +0x230
    pub sysenter_esp: u64,
    /// +0x238
    pub sysenter_eip: u64,
    /// +0x240
    pub cr2: u64,
    reserved_248: [u64; 4],
    /// +0x268 The guest's PAT, with nested paging.
    pub g_pat: u64,
    /// +0x270 DEBUGCTL, with LBR virtualization.
    pub dbgctl: u64,
    /// +0x278
    pub br_from: u64,
    /// +0x280
    pub br_to: u64,
    /// +0x288
    pub last_excp_from: u64,
    /// +0x290
    pub last_excp_to: u64,
    reserved_298: [u64; 9],
    /// +0x2e0 SPEC_CTRL, where it is virtualized.
    pub spec_ctrl: u64,
    reserved_2e8: [u8; 0x918],
}

/// A virtual machine control block: exactly one page.
#[derive(Debug)]
#[repr(C, align(4096))]
pub struct Vmcb {
    /// +0x000
    pub control: Control,
    /// +0x400
    pub save: Save,
}

const _: () = {
    assert!(size_of::<Control>() == 0x400);
    assert!(size_of::<Save>() == 0xc00);
    assert!(size_of::<Vmcb>() == 0x1000);
    assert!(size_of::<VmcbSeg>() == 16);
    assert!(offset_of!(Vmcb, save) == 0x400);
    assert!(offset_of!(Control, pause_filter_thresh) == 0x3c);
    assert!(offset_of!(Control, tsc_offset) == 0x50);
    assert!(offset_of!(Control, tlb_ctl) == 0x5c);
    assert!(offset_of!(Control, int_ctl) == 0x60);
    assert!(offset_of!(Control, int_state) == 0x68);
    assert!(offset_of!(Control, exit_code) == 0x70);
    assert!(offset_of!(Control, exit_int_info) == 0x88);
    assert!(offset_of!(Control, misc_ctl) == 0x90);
    assert!(offset_of!(Control, event_inj) == 0xa8);
    assert!(offset_of!(Control, nested_cr3) == 0xb0);
    assert!(offset_of!(Control, misc_ctl2) == 0xb8);
    assert!(offset_of!(Control, clean) == 0xc0);
    assert!(offset_of!(Control, next_rip) == 0xc8);
    assert!(offset_of!(Control, insn_bytes) == 0xd1);
    assert!(offset_of!(Control, avic_backing_page) == 0xe0);
    assert!(offset_of!(Control, avic_logical_id) == 0xf0);
    assert!(offset_of!(Control, vmsa_pa) == 0x108);
    assert!(offset_of!(Control, bus_lock_count) == 0x120);
    assert!(offset_of!(Save, tr) == 0x90);
    assert!(offset_of!(Save, cpl) == 0xcb);
    assert!(offset_of!(Save, efer) == 0xd0);
    assert!(offset_of!(Save, cr4) == 0x148);
    assert!(offset_of!(Save, rip) == 0x178);
    assert!(offset_of!(Save, rsp) == 0x1d8);
    assert!(offset_of!(Save, s_cet) == 0x1e0);
    assert!(offset_of!(Save, rax) == 0x1f8);
    assert!(offset_of!(Save, star) == 0x200);
    assert!(offset_of!(Save, cr2) == 0x240);
    assert!(offset_of!(Save, g_pat) == 0x268);
    assert!(offset_of!(Save, dbgctl) == 0x270);
    assert!(offset_of!(Save, spec_ctrl) == 0x2e0);
};

/// The word and the mask of one of the constants of [`intercept`].
#[inline]
pub const fn intercept_bit(i: u32) -> (usize, u32) {
    ((i >> 5) as usize, 1u32.wrapping_shl(i))
}

impl Control {
    /// Is this one of [`intercept`] on?
    #[inline]
    pub fn intercepts(&self, i: u32) -> bool {
        let (word, mask) = intercept_bit(i);
        self.intercepts.get(word).is_some_and(|w| w & mask != 0)
    }

    /// Switches one of [`intercept`]; whether that changed it.
    #[inline]
    pub fn set_intercept(&mut self, i: u32, on: bool) -> bool {
        let (word, mask) = intercept_bit(i);
        match self.intercepts.get_mut(word) {
            Some(w) => {
                let old = *w;
                *w = if on { old | mask } else { old & !mask };
                *w != old
            }
            None => false,
        }
    }
}

/// EVENTINJ and EXITINTINFO (`APM: vol 2, 15.20`, `15.7.2`).
mod event {
    pub(super) const VECTOR: u32 = 0xff;
    pub(super) const TYPE_SHIFT: u32 = 8;
    pub(super) const INTR: u32 = 0;
    pub(super) const NMI: u32 = 2;
    pub(super) const EXCEPTION: u32 = 3;
    pub(super) const SOFT_INT: u32 = 4;
    pub(super) const HAS_ERROR: u32 = 1 << 11;
    pub(super) const VALID: u32 = 1 << 31;
}

/// An event as EVENTINJ wants it: the word and the error code.
///
/// The software exceptions INT3, INTO and INT1 are exceptions to the hardware; what tells them
/// apart is where RIP points, which is the caller's to arrange.
#[inline]
pub const fn encode_event(e: &Event) -> (u32, u32) {
    let kind = match e.kind {
        EventKind::Interrupt => event::INTR,
        EventKind::Nmi => event::NMI,
        EventKind::SoftInterrupt => event::SOFT_INT,
        EventKind::Exception | EventKind::SoftException | EventKind::PrivilegedSoftException => {
            event::EXCEPTION
        }
    };
    let word = event::VALID | kind << event::TYPE_SHIFT | e.vector as u32;
    match e.error_code {
        Some(code) => (word | event::HAS_ERROR, code),
        None => (word, 0),
    }
}

/// The event that EXITINTINFO describes; `None` if no delivery was cut short.
///
/// INT3 and INTO come back as [`EventKind::SoftException`]: the hardware knows their vectors from
/// nowhere else. The length of the instruction is not told, and 0 here.
#[inline]
pub const fn decode_event(info: u32, error: u32) -> Option<Event> {
    if info & event::VALID == 0 {
        return None;
    }
    let vector = (info & event::VECTOR) as u8;
    let kind = match (info >> event::TYPE_SHIFT) & 7 {
        event::INTR => EventKind::Interrupt,
        event::NMI => EventKind::Nmi,
        event::SOFT_INT => EventKind::SoftInterrupt,
        event::EXCEPTION => match vector {
            crate::x86::exception::BP | crate::x86::exception::OF => EventKind::SoftException,
            _ => EventKind::Exception,
        },
        _ => return None,
    };
    Some(Event {
        kind,
        vector,
        error_code: if info & event::HAS_ERROR != 0 {
            Some(error)
        } else {
            None
        },
        insn_len: 0,
    })
}

/// Is this value legal for the PAT MSR? Each of the eight fields is UC, WC, WT, WP, WB or UC-
/// (`APM: vol 2, 7.8.1`).
#[inline]
pub const fn pat_valid(pat: u64) -> bool {
    // A field is 0, 1, 4, 5, 6 or 7: no bit above bit 2, and bit 1 only together with bit 2.
    pat & 0xf8f8_f8f8_f8f8_f8f8 == 0 && (pat << 1) & !pat & 0x0404_0404_0404_0404 == 0
}

/// The PAT after reset.
pub const PAT_RESET: u64 = 0x0007_0406_0007_0406;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::x86::exception;

    #[test]
    fn events_survive_the_round_trip() {
        let soft = |kind, vector| Event {
            kind,
            vector,
            error_code: None,
            insn_len: 0,
        };
        let all = [
            Event::interrupt(0xef),
            Event::nmi(),
            Event::exception(&exception::Exception::with_code(exception::GP, 0x18)),
            Event::exception(&exception::Exception::new(exception::UD)),
            soft(EventKind::SoftInterrupt, 0x80),
            soft(EventKind::SoftException, exception::BP),
            soft(EventKind::SoftException, exception::OF),
        ];
        for e in all {
            let (word, error) = encode_event(&e);
            assert_eq!(decode_event(word, error), Some(e));
        }
        assert_eq!(decode_event(0x7fff_ffff, 5), None);
        assert_eq!(encode_event(&Event::interrupt(0x31)).0, 0x8000_0031);
        assert_eq!(encode_event(&Event::nmi()).0, 0x8000_0202);
    }

    #[test]
    fn segments_keep_attributes_and_invent_granularity() {
        let mut s = Segment::real_mode(0xf000, true);
        assert_eq!(VmcbSeg::pack(&s).unpack(), s);
        s.limit = 0xffff_ffff;
        assert_eq!(VmcbSeg::pack(&s).unpack().attr, 0x89b);
        s.unusable = true;
        assert!(VmcbSeg::pack(&s).unpack().unusable);
        assert_eq!(VmcbSeg::pack(&s).attr & Segment::P, 0);
    }

    #[test]
    fn intercept_constants_are_the_manuals() {
        // APM: vol 2, table B-1: offset of the word and bit in it.
        for (i, offset, bit) in [
            (intercept::CR0_WRITE, 0x0, 16),
            (intercept::CR8_WRITE, 0x0, 24),
            (intercept::INTR, 0xc, 0),
            (intercept::CR0_SEL_WRITE, 0xc, 5),
            (intercept::RDTSC, 0xc, 14),
            (intercept::CPUID, 0xc, 18),
            (intercept::IRET, 0xc, 20),
            (intercept::HLT, 0xc, 24),
            (intercept::IOIO, 0xc, 27),
            (intercept::MSR, 0xc, 28),
            (intercept::SHUTDOWN, 0xc, 31),
            (intercept::VMRUN, 0x10, 0),
            (intercept::WBINVD, 0x10, 9),
            (intercept::XSETBV, 0x10, 13),
            (intercept::INVPCID, 0x14, 2),
            (intercept::IDLE_HLT, 0x14, 6),
        ] {
            assert_eq!(i, offset / 4 * 32 + bit);
        }
        for (v, bit) in [(intercept::IDTR_READ, 6), (intercept::RDPRU, 32 + 14)] {
            assert_eq!(v, 96 + bit);
        }
    }

    #[test]
    fn intercepts_switch() {
        let mut c = zeroed_control();
        assert!(c.set_intercept(intercept::HLT, true));
        assert!(!c.set_intercept(intercept::HLT, true));
        assert!(c.intercepts(intercept::HLT));
        assert_eq!(c.intercepts, [0, 0, 0, 1 << 24, 0, 0]);
        assert!(!c.set_intercept(500, true));
        assert!(!c.intercepts(500));
    }

    fn zeroed_control() -> Control {
        Control {
            intercepts: [0; 6],
            reserved_018: [0; 0x24],
            pause_filter_thresh: 0,
            pause_filter_count: 0,
            iopm_base: 0,
            msrpm_base: 0,
            tsc_offset: 0,
            asid: 0,
            tlb_ctl: 0,
            erap_ctl: 0,
            reserved_05e: [0; 2],
            int_ctl: 0,
            int_vector: 0,
            int_state: 0,
            exit_code: 0,
            exit_info_1: 0,
            exit_info_2: 0,
            exit_int_info: 0,
            exit_int_info_err: 0,
            misc_ctl: 0,
            avic_vapic_bar: 0,
            ghcb_gpa: 0,
            event_inj: 0,
            event_inj_err: 0,
            nested_cr3: 0,
            misc_ctl2: 0,
            clean: 0,
            reserved_0c4: 0,
            next_rip: 0,
            insn_len: 0,
            insn_bytes: [0; 15],
            avic_backing_page: 0,
            reserved_0e8: 0,
            avic_logical_id: 0,
            avic_physical_id: 0,
            reserved_100: 0,
            vmsa_pa: 0,
            reserved_110: [0; 2],
            bus_lock_count: 0,
            reserved_122: [0; 0x2de],
        }
    }

    #[test]
    fn pat_fields() {
        assert!(pat_valid(PAT_RESET));
        assert!(pat_valid(0x0706_0504_0100_0706));
        for bad in [2u64, 3, 8, 0x10, 0x80] {
            for field in 0..8 {
                assert!(!pat_valid(bad << (field * 8)), "{bad:#x} in field {field}");
            }
        }
        for good in [0u64, 1, 4, 5, 6, 7] {
            assert!(pat_valid(good.wrapping_mul(0x0101_0101_0101_0101)));
        }
    }
}
