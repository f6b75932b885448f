// SPDX-License-Identifier: GPL-2.0

//! System registers as KVM_GET_SREGS(2) and KVM_SET_SREGS(2) exchange them.

use super::event;
use super::Cx;
use crate::backend::Backend;
use crate::exit::control::CR0_PAGING;
use crate::exit::control::CR4_PAGING;
use kernel::prelude::*;
use model::abi;
use model::abi::KvmDtable;
use model::abi::KvmSegment;
use model::abi::KvmSregs;
use model::abi::KvmSregs2;
use model::exit::Event;
use model::x86::apic::base;
use model::x86::ctrl::cr0;
use model::x86::ctrl::cr4;
use model::x86::ctrl::efer;
use model::x86::state::DescTable;
use model::x86::state::SegReg;
use model::x86::state::Segment;

/// One segment register in the header's form.
fn segment_to_abi(s: &Segment) -> KvmSegment {
    let bit = |b: u16| u8::from(s.attr & b != 0);
    KvmSegment {
        base: s.base,
        limit: s.limit,
        selector: s.selector,
        // CAST: masked to four bits.
        type_: (s.attr & Segment::TYPE) as u8,
        present: bit(Segment::P),
        dpl: s.dpl(),
        db: bit(Segment::DB),
        s: bit(Segment::S),
        l: bit(Segment::L),
        g: bit(Segment::G),
        avl: bit(Segment::AVL),
        unusable: u8::from(s.unusable),
        padding: 0,
    }
}

fn segment_from_abi(k: &KvmSegment) -> Segment {
    let bit = |v: u8, b: u16| if v & 1 != 0 { b } else { 0 };
    let unusable = k.unusable != 0 || k.present == 0;
    Segment {
        selector: k.selector,
        attr: u16::from(k.type_) & Segment::TYPE
            | bit(k.s, Segment::S)
            | (u16::from(k.dpl) & 3) << Segment::DPL_SHIFT
            | bit(k.present, Segment::P)
            | bit(k.avl, Segment::AVL)
            | bit(k.l, Segment::L)
            | bit(k.db, Segment::DB)
            | bit(k.g, Segment::G),
        limit: k.limit,
        base: k.base,
        unusable,
    }
}

fn table_to_abi(t: DescTable) -> KvmDtable {
    KvmDtable {
        base: t.base,
        limit: t.limit,
        padding: [0; 3],
    }
}

fn table_from_abi(t: &KvmDtable) -> DescTable {
    DescTable {
        base: t.base,
        limit: t.limit,
    }
}

/// KVM_GET_SREGS.
pub(crate) fn get<V: Backend>(cx: &mut Cx<'_, '_, V>) -> KvmSregs {
    let mut s = common(cx);
    if let Some(v) = cx.interrupt_shown() {
        set_bit(&mut s.interrupt_bitmap, v);
    }
    s
}

fn set_bit(map: &mut [u64; 4], vector: u8) {
    if let Some(w) = map.get_mut(usize::from(vector >> 6)) {
        *w |= 1 << (vector & 63);
    }
}

fn common<V: Backend>(cx: &Cx<'_, '_, V>) -> KvmSregs {
    let seg = |r| segment_to_abi(&V::seg(cx.l, r));
    KvmSregs {
        cs: seg(SegReg::Cs),
        ds: seg(SegReg::Ds),
        es: seg(SegReg::Es),
        fs: seg(SegReg::Fs),
        gs: seg(SegReg::Gs),
        ss: seg(SegReg::Ss),
        tr: seg(SegReg::Tr),
        ldt: seg(SegReg::Ldtr),
        gdt: table_to_abi(V::desc_table(cx.l, false)),
        idt: table_to_abi(V::desc_table(cx.l, true)),
        cr0: V::cr0(cx.l),
        cr2: V::cr2(cx.l),
        cr3: V::cr3(cx.l),
        cr4: V::cr4(cx.l),
        cr8: cx.cr8(),
        efer: V::efer(cx.l),
        apic_base: cx.st.apic_base(),
        interrupt_bitmap: [0; 4],
    }
}

/// KVM_GET_SREGS2.
pub(crate) fn get2<V: Backend>(cx: &mut Cx<'_, '_, V>) -> KvmSregs2 {
    let s = common(cx);
    let mut flags = 0;
    let mut pdptrs = [0; 4];
    if uses_pae(s.cr0, s.cr4, s.efer) {
        if let Some(p) = cx.pdptes() {
            flags = abi::KVM_SREGS2_FLAGS_PDPTRS_VALID;
            pdptrs = p;
        }
    }
    KvmSregs2 {
        cs: s.cs,
        ds: s.ds,
        es: s.es,
        fs: s.fs,
        gs: s.gs,
        ss: s.ss,
        tr: s.tr,
        ldt: s.ldt,
        gdt: s.gdt,
        idt: s.idt,
        cr0: s.cr0,
        cr2: s.cr2,
        cr3: s.cr3,
        cr4: s.cr4,
        cr8: s.cr8,
        efer: s.efer,
        apic_base: s.apic_base,
        flags,
        pdptrs,
    }
}

fn uses_pae(c0: u64, c4: u64, ef: u64) -> bool {
    c0 & cr0::PG != 0 && c4 & cr4::PAE != 0 && ef & efer::LMA == 0
}

/// KVM_SET_SREGS. EINVAL changes nothing.
pub(crate) fn set<V: Backend>(cx: &mut Cx<'_, '_, V>, s: &KvmSregs) -> Result {
    check(cx, s)?;
    apply(cx, s)?;
    let mut vector = None;
    for (i, w) in (0u32..).zip(s.interrupt_bitmap) {
        if w != 0 && vector.is_none() {
            vector = u8::try_from(i.wrapping_mul(64).wrapping_add(w.trailing_zeros())).ok();
        }
    }
    // KVM: an empty bitmap takes nothing back.
    if let Some(v) = vector {
        cx.st.events.injected = Some(Event::interrupt(v));
        if cx.shows_waiting_vector() {
            // The same that KVM_GET_SREGS showed, or instead of it.
            cx.st.events.user_interrupt = None;
        }
    }
    if uses_pae(s.cr0, s.cr4, s.efer) {
        // The guest loaded them with CR3; a bad CR3 is the guest's problem at its next walk.
        let _ = cx.load_pdptes();
    }
    Ok(())
}

/// KVM_SET_SREGS2. EINVAL changes nothing.
pub(crate) fn set2<V: Backend>(cx: &mut Cx<'_, '_, V>, s: &KvmSregs2) -> Result {
    let valid = s.flags & abi::KVM_SREGS2_FLAGS_PDPTRS_VALID != 0;
    if s.flags & !abi::KVM_SREGS2_FLAGS_PDPTRS_VALID != 0 {
        return Err(EINVAL);
    }
    if valid && !uses_pae(s.cr0, s.cr4, s.efer) {
        return Err(EINVAL);
    }
    let plain = KvmSregs {
        cs: s.cs,
        ds: s.ds,
        es: s.es,
        fs: s.fs,
        gs: s.gs,
        ss: s.ss,
        tr: s.tr,
        ldt: s.ldt,
        gdt: s.gdt,
        idt: s.idt,
        cr0: s.cr0,
        cr2: s.cr2,
        cr3: s.cr3,
        cr4: s.cr4,
        cr8: s.cr8,
        efer: s.efer,
        apic_base: s.apic_base,
        interrupt_bitmap: [0; 4],
    };
    check(cx, &plain)?;
    apply(cx, &plain)?;
    if valid {
        V::set_pdptes(cx.l, &s.pdptrs);
    } else if uses_pae(s.cr0, s.cr4, s.efer) {
        let _ = cx.load_pdptes();
    }
    Ok(())
}

/// Could a processor be in this state? `SDM: vol 3, 26.3.1.1`, less strictly.
fn check<V: Backend>(cx: &Cx<'_, '_, V>, s: &KvmSregs) -> Result {
    if !cx.st.cpuid.valid_cr4(s.cr4) || !valid_cr0(s.cr0) {
        return Err(EINVAL);
    }
    let mut allowed = cx.st.cpuid.features.efer;
    if allowed & efer::LME != 0 {
        allowed |= efer::LMA;
    }
    if s.efer & !allowed != 0 {
        return Err(EINVAL);
    }
    if s.efer & efer::LME != 0 && s.cr0 & cr0::PG != 0 {
        if s.cr4 & cr4::PAE == 0 || s.efer & efer::LMA == 0 || !cx.st.cpuid.legal_gpa(s.cr3) {
            return Err(EINVAL);
        }
    } else if s.efer & efer::LMA != 0 || s.cs.l != 0 {
        return Err(EINVAL);
    }
    if !cx.st.valid_apic_base(s.apic_base) {
        return Err(EINVAL);
    }
    Ok(())
}

/// CR0 combinations that raise `#GP`: `SDM: vol 3, 2.5`.
pub(crate) fn valid_cr0(v: u64) -> bool {
    v >> 32 == 0
        && !(v & cr0::NW != 0 && v & cr0::CD == 0)
        && !(v & cr0::PG != 0 && v & cr0::PE == 0)
}

fn apply<V: Backend>(cx: &mut Cx<'_, '_, V>, s: &KvmSregs) -> Result {
    cx.set_apic_base_host(s.apic_base)?;
    V::set_desc_table(cx.l, true, table_from_abi(&s.idt));
    V::set_desc_table(cx.l, false, table_from_abi(&s.gdt));
    V::set_cr2(cx.l, s.cr2);
    let mapping_changed = V::cr3(cx.l) != s.cr3
        || (V::cr0(cx.l) ^ s.cr0) & CR0_PAGING != 0
        || (V::cr4(cx.l) ^ s.cr4) & (CR4_PAGING | cr4::SMAP | cr4::PKE) != 0
        || V::efer(cx.l) != s.efer;
    cx.set_cr8(s.cr8 & 0xf);
    V::set_efer(cx.l, s.efer);
    V::set_cr0(cx.l, s.cr0 | cr0::ET);
    V::set_cr3(cx.l, s.cr3);
    V::set_cr4(cx.l, s.cr4);
    cx.st
        .cpuid
        .update_runtime(s.cr4, cx.st.apic_base(), cx.st.xcr0);
    for (r, k) in [
        (SegReg::Cs, &s.cs),
        (SegReg::Ds, &s.ds),
        (SegReg::Es, &s.es),
        (SegReg::Fs, &s.fs),
        (SegReg::Gs, &s.gs),
        (SegReg::Ss, &s.ss),
        (SegReg::Tr, &s.tr),
        (SegReg::Ldtr, &s.ldt),
    ] {
        V::set_seg(cx.l, r, &segment_from_abi(k));
    }
    if mapping_changed {
        V::flush_guest(cx.l);
    }
    cx.sregs_changed();
    event::reset_windows(&mut cx.st.events);
    // KVM: user space that knows no KVM_SET_MP_STATE resets a halted boot processor like this.
    let reset = V::rip(cx.l) == 0xfff0 && s.cs.selector == 0xf000 && s.cs.base == 0xffff_0000;
    if s.apic_base & base::BSP != 0 && reset && s.cr0 & cr0::PE == 0 {
        cx.st.set_runnable();
    }
    Ok(())
}
