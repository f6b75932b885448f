// SPDX-License-Identifier: GPL-2.0

//! The registers between the hardware and the emulator.

use crate::backend::Backend;
use crate::vcpu::Cx;
use model::x86::ctrl::rflags;
use model::x86::state::CpuState;
use model::x86::state::SegReg;

/// Copies the registers into the emulator's state.
pub(super) fn fill<V: Backend>(cx: &Cx<'_, '_, V>, s: &mut CpuState) {
    s.gpr = V::regs(cx.l).gpr;
    s.gpr[4] = V::rsp(cx.l);
    s.rip = V::rip(cx.l);
    s.rflags = cx.rflags_seen();
    s.cr0 = V::cr0(cx.l);
    s.cr2 = V::cr2(cx.l);
    s.cr3 = V::cr3(cx.l);
    s.cr4 = V::cr4(cx.l);
    s.cr8 = cx.cr8();
    s.efer = V::efer(cx.l);
    s.xcr0 = cx.st.xcr0;
    fill_segments(cx, s);
    s.gdtr = V::desc_table(cx.l, false);
    s.idtr = V::desc_table(cx.l, true);
    s.dr = cx.st.debug.dr;
    s.dr6 = V::dr6(cx.l);
    s.dr7 = cx.st.debug.dr7;
    s.shadow = V::shadow(cx.l);
}

/// The segment registers alone.
pub(super) fn fill_segments<V: Backend>(cx: &Cx<'_, '_, V>, s: &mut CpuState) {
    for (slot, r) in s.seg.iter_mut().zip(SegReg::ALL) {
        *slot = V::seg(cx.l, r);
    }
}

/// Copies back what an instruction changes directly. Control registers, debug registers and MSRs
/// were set through the bus.
pub(crate) fn store<V: Backend>(cx: &mut Cx<'_, '_, V>, s: &CpuState) {
    V::regs_mut(cx.l).gpr = s.gpr;
    V::set_rsp(cx.l, s.gpr[4]);
    V::set_rip(cx.l, s.rip);
    cx.set_rflags_seen(s.rflags | rflags::FIXED);
    for (seg, r) in s.seg.iter().zip(SegReg::ALL) {
        if V::seg(cx.l, r) != *seg {
            V::set_seg(cx.l, r, seg);
        }
    }
    if V::desc_table(cx.l, false) != s.gdtr {
        V::set_desc_table(cx.l, false, s.gdtr);
    }
    if V::desc_table(cx.l, true) != s.idtr {
        V::set_desc_table(cx.l, true, s.idtr);
    }
    V::set_shadow(cx.l, s.shadow);
}
