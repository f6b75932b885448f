// SPDX-License-Identifier: GPL-2.0

//! System management mode: an SMI interrupts whatever the vCPU does, saves its registers to SMRAM
//! and runs a handler in an address space of its own, until RSM.

use super::run::Flow;
use super::shared::Request;
use super::sregs::valid_cr0;
use super::Cx;
use crate::backend::Backend;
use crate::exit;
use core::ops::ControlFlow::Continue;
use model::addr::Gpa;
use model::x86::cpuid::Feature;
use model::x86::ctrl::cr0;
use model::x86::ctrl::cr4;
use model::x86::ctrl::efer;
use model::x86::exception::Exception;
use model::x86::smram;
use model::x86::state::CpuState;
use model::x86::state::SegReg;
use model::x86::state::Segment;

/// System management mode of one vCPU. Guarded by the vCPU mutex. SMBASE is with the MSRs.
#[derive(Default)]
pub(crate) struct Smm {
    /// The handler runs.
    active: bool,
    /// NMIs were blocked when it began, and stay so after RSM.
    pub(crate) inside_nmi: bool,
    /// An SMI waits.
    pub(crate) pending: bool,
}

impl Smm {
    /// Is the vCPU in system management mode?
    #[inline]
    pub(crate) fn active(&self) -> bool {
        self.active
    }

    /// Would the SMI that waits be taken now?
    #[inline]
    pub(crate) fn due(&self) -> bool {
        self.pending && !self.active
    }
}

impl<V: Backend> Cx<'_, '_, V> {
    /// Switches the address space, with everything that hangs on it.
    pub(crate) fn set_smm(&mut self, active: bool) {
        self.st.smm.active = active;
        if !active {
            self.st.smm.inside_nmi = false;
        }
        self.st.root_loaded = false;
        V::flush_guest(self.l);
    }

    fn has_long_mode(&self) -> bool {
        self.st.cpuid.features.has(Feature::LM)
    }

    fn smbase(&self) -> u32 {
        // CAST: 32 bits by its rules.
        self.st.msrs.state.smbase as u32
    }
}

/// Takes the SMI that waits. A save area that is in no memory ends the VM, as the registers are lost.
#[inline(never)]
pub(crate) fn enter<V: Backend>(cx: &mut Cx<'_, '_, V>) {
    cx.st.smm.pending = false;
    // After RSM it goes on behind the HLT.
    V::end_halt(cx.l);
    let m = &mut cx.st.msrs.state;
    m.smi_count = m.smi_count.wrapping_add(1);
    let saved = exit::emulate::with_registers(cx, |cx, s| {
        let (long, smbase) = (cx.has_long_mode(), cx.smbase());
        let mut area = [0; smram::SIZE];
        smram::save(s, long, smbase, &mut area);
        cx.set_smm(true);
        cx.st.emul.reset();
        let at = Gpa(u64::from(smbase).wrapping_add(smram::OFFSET));
        let written = cx.write_guest(at, &area).is_ok();
        if V::nmi_blocked(cx.l) {
            cx.st.smm.inside_nmi = true;
        } else {
            V::set_nmi_blocked(cx.l, true);
        }
        smram::enter(s, long, smbase);
        load(cx, s);
        written
    });
    if saved != Some(true) {
        cx.vm.base.kill();
    }
}

/// RSM: back to what was interrupted. `#UD` outside of SMM; a state that no processor can be in
/// shuts it down (`SDM: vol 3, 32.4.1.1`).
#[inline(never)]
pub(crate) fn resume<V: Backend>(cx: &mut Cx<'_, '_, V>) -> Flow {
    if !cx.st.smm.active {
        return exit::raise(cx, Exception::ud());
    }
    let resumed = exit::emulate::with_registers(cx, |cx, s| {
        let long = cx.has_long_mode();
        let at = Gpa(u64::from(cx.smbase()).wrapping_add(smram::OFFSET));
        let mut area = [0; smram::SIZE];
        if cx.read_guest(at, &mut area).is_err() {
            return false;
        }
        if !cx.st.smm.inside_nmi {
            V::set_nmi_blocked(cx.l, false);
        }
        cx.set_smm(false);
        let smbase = smram::load(&area, long, s);
        if !possible(cx, s) {
            return false;
        }
        cx.st.msrs.state.smbase = smbase.into();
        load(cx, s);
        true
    });
    if resumed != Some(true) {
        cx.st.events.triple_fault = true;
    }
    if cx.st.init_latched {
        // It waited for the end of SMM: have it looked at.
        cx.vcpu.shared.request(Request::Event);
    }
    Continue(())
}

/// Could this guest's processor be in this state?
fn possible<V: Backend>(cx: &Cx<'_, '_, V>, s: &CpuState) -> bool {
    let c = &cx.st.cpuid;
    let paging = s.cr0 & cr0::PG != 0;
    let mut efer_bits = c.features.efer;
    if efer_bits & efer::LME != 0 {
        efer_bits |= efer::LMA;
    }
    let long = s.efer & efer::LMA != 0;
    valid_cr0(s.cr0)
        && c.valid_cr4(s.cr4)
        && s.efer & !efer_bits == 0
        && s.dr6 >> 32 == 0
        && s.dr7 >> 32 == 0
        && (!long || (s.cr4 & cr4::PAE != 0 && c.legal_gpa(s.cr3)))
        && (long || s.cr4 & cr4::PCIDE == 0)
        && (paging || s.cr4 & cr4::PCIDE == 0)
        && (long || s.seg(SegReg::Cs).attr & Segment::L == 0)
}

/// Gives the hardware all registers of `s`.
fn load<V: Backend>(cx: &mut Cx<'_, '_, V>, s: &CpuState) {
    V::set_efer(cx.l, s.efer);
    V::set_cr0(cx.l, s.cr0 | cr0::ET);
    V::set_cr3(cx.l, s.cr3);
    V::set_cr4(cx.l, s.cr4);
    exit::emul_state::store(cx, s);
    let _ = exit::debug::set_dr(cx, 6, s.dr6);
    let _ = exit::debug::set_dr(cx, 7, s.dr7);
    V::flush_guest(cx.l);
    if s.cr0 & cr0::PG != 0 && s.cr4 & cr4::PAE != 0 && s.efer & efer::LMA == 0 {
        // Bad ones are the guest's problem at its next walk.
        let _ = cx.load_pdptes();
    }
    cx.sregs_changed();
}
