// SPDX-License-Identifier: GPL-2.0

//! Control registers, XSETBV, MWAIT: checks and effects.

use super::emulate;
use super::raise;
use crate::backend::Backend;
use crate::vcpu::fetch;
use crate::vcpu::fpu;
use crate::vcpu::run::Flow;
use crate::vcpu::sregs::valid_cr0;
use crate::vcpu::user_exit::UserExit;
use crate::vcpu::Cx;
use core::ops::ControlFlow::Continue;
use model::abi;
use model::exit::CrAccess;
use model::x86::cpuid::Feature;
use model::x86::ctrl::cr0;
use model::x86::ctrl::cr3;
use model::x86::ctrl::cr4;
use model::x86::ctrl::efer;
use model::x86::exception::Exception;
use model::x86::state::gpr;
use model::x86::state::CodeSize;
use model::x86::state::SegReg;
use model::x86::state::Segment;

/// Bits of CR0 whose change makes cached translations wrong.
pub(crate) const CR0_PAGING: u64 = cr0::PG | cr0::WP;
/// The same of CR4.
pub(crate) const CR4_PAGING: u64 =
    cr4::PSE | cr4::PAE | cr4::PGE | cr4::PCIDE | cr4::SMEP | cr4::LA57;

/// A control-register access that exited.
pub(crate) fn cr<V: Backend>(cx: &mut Cx<'_, '_, V>, a: &CrAccess) -> Flow {
    if cx.st.apic.is_some() {
        return access(cx, a);
    }
    // Whoever has the local APIC has to know when a waiting interrupt may have become due.
    let before = cx.cr8();
    access(cx, a)?;
    if cx.cr8() < before {
        return UserExit::SetTpr.leave(cx);
    }
    Continue(())
}

fn access<V: Backend>(cx: &mut Cx<'_, '_, V>, a: &CrAccess) -> Flow {
    let r = match *a {
        CrAccess::Write { cr, gpr } => {
            let v = cx.operand(gpr);
            write(cx, cr, v)
        }
        CrAccess::Read { cr, gpr } => {
            let v = match cr {
                0 => V::cr0(cx.l),
                3 => V::cr3(cx.l),
                4 => V::cr4(cx.l),
                _ => cx.cr8(),
            };
            cx.set_gpr(gpr, v);
            Ok(())
        }
        CrAccess::Clts => {
            let v = V::cr0(cx.l) & !cr0::TS;
            write(cx, 0, v)
        }
        CrAccess::Lmsw(v) => {
            // LMSW can set PE, not clear it (`SDM: vol 2, LMSW`).
            let old = V::cr0(cx.l);
            let low = u64::from(v) & 0xf;
            write(cx, 0, old & !0xe | low)
        }
        CrAccess::Undecoded { .. } => return emulate::instruction(cx),
    };
    match r {
        Ok(()) => fetch::skip(cx),
        Err(e) => raise(cx, e),
    }
}

/// MOV to a control register, with all checks and effects.
pub(crate) fn write<V: Backend>(cx: &mut Cx<'_, '_, V>, n: u8, v: u64) -> Result<(), Exception> {
    match n {
        0 => set_cr0(cx, v),
        2 => {
            V::set_cr2(cx.l, v);
            Ok(())
        }
        3 => set_cr3(cx, v),
        4 => set_cr4(cx, v),
        8 => {
            if v > 15 {
                return Err(Exception::gp0());
            }
            cx.set_cr8(v);
            Ok(())
        }
        _ => Err(Exception::ud()),
    }
}

/// `SDM: vol 3, 2.5` and 9.8.5 (long mode).
fn set_cr0<V: Backend>(cx: &mut Cx<'_, '_, V>, v: u64) -> Result<(), Exception> {
    let v = (v | cr0::ET) & cr0::DEFINED | v & !0xffff_ffff;
    if !valid_cr0(v) {
        return Err(Exception::gp0());
    }
    let old = V::cr0(cx.l);
    let ef = V::efer(cx.l);
    let c4 = V::cr4(cx.l);
    let turns_on = v & cr0::PG != 0 && old & cr0::PG == 0;
    if turns_on && ef & efer::LME != 0 {
        let cs = V::seg(cx.l, SegReg::Cs);
        if c4 & cr4::PAE == 0 || cs.attr & Segment::L != 0 {
            return Err(Exception::gp0());
        }
    }
    if v & cr0::PG == 0 && (c4 & cr4::PCIDE != 0 || cx.code_size() == CodeSize::Bits64) {
        return Err(Exception::gp0());
    }
    if v & cr0::WP == 0 && c4 & cr4::CET != 0 {
        return Err(Exception::gp0());
    }
    // Hardware that holds them loads them anew (`SDM: vol 3, 4.4.1`).
    let reloads = || (old ^ v) & (cr0::CD | cr0::NW) != 0 && V::pdptes(cx.l).is_some();
    let loads = turns_on || (v & cr0::PG != 0 && reloads());
    if loads && ef & efer::LME == 0 && c4 & cr4::PAE != 0 {
        cx.load_pdptes()?;
    }
    if v & cr0::PG != 0 && ef & efer::LME != 0 {
        V::set_efer(cx.l, ef | efer::LMA);
    } else if v & cr0::PG == 0 && ef & efer::LMA != 0 {
        V::set_efer(cx.l, ef & !efer::LMA);
    }
    V::set_cr0(cx.l, v);
    if (old ^ v) & CR0_PAGING != 0 {
        V::flush_guest(cx.l);
    }
    Ok(())
}

fn set_cr3<V: Backend>(cx: &mut Cx<'_, '_, V>, v: u64) -> Result<(), Exception> {
    let c4 = V::cr4(cx.l);
    let long = V::efer(cx.l) & efer::LMA != 0;
    let v = if c4 & cr4::PCIDE != 0 {
        v & !cr3::NOFLUSH
    } else {
        v
    };
    if long && !cx.st.cpuid.legal_gpa(v) {
        return Err(Exception::gp0());
    }
    let old = V::cr3(cx.l);
    V::set_cr3(cx.l, v);
    if !long && V::cr0(cx.l) & cr0::PG != 0 && c4 & cr4::PAE != 0 {
        if let Err(e) = cx.load_pdptes() {
            V::set_cr3(cx.l, old);
            return Err(e);
        }
    }
    V::flush_guest(cx.l);
    Ok(())
}

/// `SDM: vol 3, 2.5` and `SDM: vol 3, 4.10.4.1` (what flushes).
fn set_cr4<V: Backend>(cx: &mut Cx<'_, '_, V>, v: u64) -> Result<(), Exception> {
    let old = V::cr4(cx.l);
    let ef = V::efer(cx.l);
    if !cx.st.cpuid.valid_cr4(v) {
        return Err(Exception::gp0());
    }
    if ef & efer::LMA != 0 {
        if v & cr4::PAE == 0 || (old ^ v) & cr4::LA57 != 0 {
            return Err(Exception::gp0());
        }
    } else if V::cr0(cx.l) & cr0::PG != 0
        && v & cr4::PAE != 0
        && (old ^ v) & (cr4::PAE | cr4::PSE | cr4::PGE | cr4::SMEP) != 0
    {
        cx.load_pdptes()?;
    }
    if v & cr4::PCIDE != 0
        && old & cr4::PCIDE == 0
        && (ef & efer::LMA == 0 || V::cr3(cx.l) & cr3::PCID_MASK != 0)
    {
        return Err(Exception::gp0());
    }
    if v & cr4::CET != 0 && V::cr0(cx.l) & cr0::WP == 0 {
        return Err(Exception::gp0());
    }
    V::set_cr4(cx.l, v);
    if (old ^ v) & CR4_PAGING != 0 {
        V::flush_guest(cx.l);
    }
    cx.cpuid_runtime();
    Ok(())
}

/// XSETBV: XCR0 only, from CPL 0.
pub(crate) fn xsetbv<V: Backend>(cx: &mut Cx<'_, '_, V>) -> Flow {
    let r = &V::regs(cx.l).gpr;
    // CAST: the instruction looks at the low halves.
    let index = r[gpr::RCX] as u32;
    let v = r[gpr::RDX] << 32 | r[gpr::RAX] & 0xffff_ffff;
    if V::cpl(cx.l) != 0 || index != 0 || fpu::set_xcr0(cx, v).is_err() {
        return raise(cx, Exception::gp0());
    }
    fetch::skip(cx)
}

/// MONITOR and MWAIT: `#UD`, or nothing at all under the quirk that old guests rely on.
pub(crate) fn mwait<V: Backend>(cx: &mut Cx<'_, '_, V>) -> Flow {
    let quirk = cx
        .vm
        .base
        .caps
        .quirk(abi::KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS);
    if !quirk && !cx.st.cpuid.features.has(Feature::MONITOR) {
        return raise(cx, Exception::ud());
    }
    fetch::skip(cx)
}
