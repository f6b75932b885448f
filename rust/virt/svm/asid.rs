// SPDX-License-Identifier: GPL-2.0

//! Address-space identifiers, which tag translations in the TLB (`APM: vol 2, 15.16`).
//!
//! Each CPU hands them out in order. When they run out, it starts anew under the next generation and
//! flushes all of them with the next entry. A vCPU keeps its ASID as long as it stays on the CPU and
//! the generation lasts.

use super::vcpu::Vcpu;
use crate::c;
use host::pin::IrqsOff;
use model::svm::vmcb::clean;
use model::svm::vmcb::tlb;

/// This CPU's part of the backend.
#[inline]
pub(super) fn this_cpu<'a>(_irqs: &'a IrqsOff<'_>) -> &'a mut c::kvmrs_svm_cpu {
    // SAFETY: Interrupts are off as long as the reference exists, and the structure is this CPU's
    // alone. The callers let go of it before they call anything that looks at it.
    unsafe { &mut *c::kvmrs_svm_this_cpu() }
}

impl Vcpu {
    /// Takes a new ASID, which has no translations once the CPU's flush is carried out.
    pub(super) fn take_asid(&mut self, irqs: &IrqsOff<'_>) {
        let cpu = this_cpu(irqs);
        if cpu.next_asid > cpu.max_asid {
            cpu.asid_generation = cpu.asid_generation.wrapping_add(1);
            // 0 is the host.
            cpu.next_asid = 1;
            cpu.flush_all = true;
        }
        self.asid_generation = cpu.asid_generation;
        let asid = cpu.next_asid;
        cpu.next_asid = asid.wrapping_add(1);
        let flush_all = cpu.flush_all;

        let control = &mut self.vmcb_mut().control;
        control.asid = asid;
        if flush_all {
            control.tlb_ctl = tlb::FLUSH_ALL;
        }
        self.dirty(clean::ASID);
        self.asid_new = true;
    }

    /// Makes the next entry flush this guest's translations.
    pub(super) fn flush_asid(&mut self, irqs: &IrqsOff<'_>) {
        if self.asid_new {
            return;
        }
        if self.m.flush_by_asid {
            let control = &mut self.vmcb_mut().control;
            if control.tlb_ctl == tlb::KEEP {
                control.tlb_ctl = tlb::FLUSH_ASID;
            }
        } else {
            self.take_asid(irqs);
        }
    }

    /// The guest ran: the flush it was entered with is done.
    #[cold]
    pub(super) fn flushed(&mut self, irqs: &IrqsOff<'_>) {
        let control = &mut self.vmcb_mut().control;
        if control.tlb_ctl == tlb::FLUSH_ALL {
            this_cpu(irqs).flush_all = false;
        }
        control.tlb_ctl = tlb::KEEP;
    }

    /// The guest did not run. Nothing is known of what hardware did, so that the next try starts
    /// with an ASID of its own.
    #[cold]
    pub(super) fn refused(&mut self) {
        self.asid_generation = 0;
        self.vmcb_mut().control.clean = 0;
        self.tlb.forget();
    }
}
