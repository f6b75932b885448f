// SPDX-License-Identifier: GPL-2.0

//! The check that the VMCS holds what we believe it does.
//!
//! Control words, and guest registers that were read since the last exit, are kept beside the VMCS, so
//! that they need not be read again, nor written when they do not change. A copy that a setter forgot
//! goes unnoticed for long. With the module parameter `checked` of `kvm` the fields are compared with the
//! copies at every entry ([`crate::check`]).

use super::vcpu::cached;
use super::vcpu::Vcpu;
use super::vcpu::CR0_OWNED;
use super::vcpu::CR4_OWNED;
use super::vcpu::EXCEPTIONS;
use super::vmcs::read;
use crate::c;
use crate::check::Flushes;
use crate::check::Reports;
use host::pin::IrqsOff;
use kernel::prelude::*;
use model::vmx::ctrl::eptp;
use model::vmx::ctrl::interruptibility;
use model::vmx::ctrl::pin;
use model::vmx::ctrl::proc;
use model::vmx::ctrl::proc2;
use model::vmx::exit::info;
use model::vmx::field;

/// The check of a vCPU.
pub(super) struct Checked {
    reports: Reports,
    flushes: Flushes,
}

impl Checked {
    pub(super) fn new() -> Result<KBox<Self>> {
        let this = Self {
            reports: Reports::new(),
            flushes: Flushes::default(),
        };
        Ok(KBox::new(this, GFP_KERNEL_ACCOUNT)?)
    }
}

impl Vcpu {
    /// Compares, right before an entry, the VMCS with what is kept beside it, and what was flushed with
    /// what had to be. The root's flush generation was `seen` when the entry began.
    #[cold]
    #[inline(never)]
    pub(super) fn check(&mut self, seen: u64, irqs: &IrqsOff<'_>) {
        let Some(mut checked) = self.checked.take() else {
            return;
        };
        let Checked {
            reports: r,
            flushes,
        } = &mut *checked;
        r.begin();
        self.check_host(r, irqs);
        self.check_controls(r);
        self.check_pages(r);
        self.check_registers(r);
        self.check_cache(r);
        let to = (&self.tlb, &self.root);
        flushes.check(r, to, seen, (self.last_cpu, self.eptp));
        self.checked = Some(checked);
    }

    fn check_host(&self, r: &mut Reports, _irqs: &IrqsOff<'_>) {
        // SAFETY: The vCPU is loaded, and interrupts are off.
        let field = unsafe { c::kvmrs_vmx_check_host(self.vmcs.as_raw()) };
        r.same("a stale field of the host's", u64::from(field), 0);
        r.same("host CR3", read(field::HOST_CR3), self.run.host_cr3);
        r.same("host CR4", read(field::HOST_CR4), self.run.host_cr4);
        if self.run.host_rsp == 0 {
            r.skip();
        } else {
            r.same("host RSP", read(field::HOST_RSP), self.run.host_rsp);
        }
    }

    #[inline(never)]
    fn check_controls(&self, r: &mut Reports) {
        let mut word = |what, is: u32, want: u32| r.same(what, u64::from(is), u64::from(want));
        word("pin controls", read(field::PIN_CONTROLS), self.pin);
        word("proc controls", read(field::PROC_CONTROLS), self.proc);
        word("proc2 controls", read(field::PROC2_CONTROLS), self.proc2);
        let entry = read(field::ENTRY_CONTROLS);
        word("entry controls", entry, self.entry_controls);
        word("exit controls", read(field::EXIT_CONTROLS), self.m.cfg.exit);
        let exceptions = read(field::EXCEPTION_BITMAP) & EXCEPTIONS;
        word("exceptions that exit", exceptions, EXCEPTIONS);
        let event = read(field::ENTRY_INTR_INFO) & info::VALID;
        let set = if self.has_event() { info::VALID } else { 0 };
        word("event for the entry", event, set);
        self.check_nmi(&mut word);
        let msrs = self.run.perf_msrs;
        word("MSRs to load", read(field::ENTRY_MSR_LOAD_COUNT), msrs);
        word("MSRs of exits", read(field::EXIT_MSR_LOAD_COUNT), msrs);
        word("MSRs to store", read(field::EXIT_MSR_STORE_COUNT), 0);
    }

    /// Emulators do not look (`SDM: vol 3, 27.3.1.5`).
    fn check_nmi(&self, word: &mut impl FnMut(&'static str, u32, u32)) {
        let event = read(field::ENTRY_INTR_INFO) & (info::VALID | info::TYPE);
        let nmi = event == info::VALID | info::NMI && self.pin & pin::VIRTUAL_NMIS != 0;
        let blocked = read(field::GUEST_INTERRUPTIBILITY) & interruptibility::NMI;
        word("NMIs blocked for an NMI", if nmi { blocked } else { 0 }, 0);
    }

    /// What hardware reaches through the VMCS.
    #[inline(never)]
    fn check_pages(&self, r: &mut Reports) {
        let five = self.m.is_five(self.root.config());
        let root = eptp(self.root.hw_pa(), five, self.m.cfg.ad);
        r.same("EPT pointer", read(field::EPT_POINTER), root);
        r.same("EPT pointer kept", self.eptp, root);
        r.same("MSR bitmap", read(field::MSR_BITMAP), self.msr_map.hw_pa());
        r.same("link pointer", read(field::LINK_POINTER), u64::MAX);
        match &self.vpid {
            Some(v) if self.proc2 & proc2::VPID != 0 => {
                let vpid = u64::from(read(field::VPID));
                r.same("VPID", vpid, u64::from(v.number()));
            }
            _ => r.skip(),
        }
        if self.proc & proc::TPR_SHADOW != 0 {
            let page = read(field::VIRTUAL_APIC_PAGE);
            r.same("virtual-APIC page", page, self.vapic.hw_pa());
        } else {
            r.skip();
        }
        match &self.apic_access {
            Some(p) if self.proc2 & proc2::APIC_ACCESSES != 0 => {
                r.same("APIC-access page", read(field::APIC_ACCESS_PAGE), p.hw_pa());
            }
            _ => r.skip(),
        }
        match &self.pml {
            Some(log) if self.proc2 & proc2::PML != 0 => {
                r.same("PML address", read(field::PML_ADDRESS), log.hw_pa());
            }
            _ => r.skip(),
        }
        match &self.mailbox {
            Some(m) if self.pin & pin::POSTED_INTERRUPTS != 0 => {
                let desc = read(field::POSTED_INTR_DESC);
                r.same("posted-interrupt descriptor", desc, m.hw_pa());
            }
            _ => r.skip(),
        }
    }

    /// Registers of the guest that it cannot change without an exit.
    #[inline(never)]
    fn check_registers(&self, r: &mut Reports) {
        r.same("CR0 mask", read(field::CR0_MASK), !CR0_OWNED);
        r.same("CR0 shadow", read(field::CR0_SHADOW), self.cr0);
        let cr0 = read(field::GUEST_CR0) & !CR0_OWNED;
        r.same("CR0", cr0, self.hardware_cr0() & !CR0_OWNED);
        r.same("CR4 mask", read(field::CR4_MASK), !CR4_OWNED);
        r.same("CR4 shadow", read(field::CR4_SHADOW), self.cr4);
        let cr4 = read(field::GUEST_CR4) & !CR4_OWNED;
        r.same("CR4", cr4, self.hardware_cr4() & !CR4_OWNED);
        r.same("EFER", read(field::GUEST_EFER), self.hardware_efer());
        r.same("PAT", read(field::GUEST_PAT), self.pat);
        match self.runnable.get() {
            Some(known) => {
                let now = u64::from(self.hardware_runs_it());
                r.same("hardware can run it", u64::from(known), now);
            }
            None => r.skip(),
        }
    }

    /// What was read since the last exit, or written.
    #[inline(never)]
    fn check_cache(&self, r: &mut Reports) {
        let k = &self.cache;
        let mut slot = |bit, what, is: u64, want: u64| {
            if k.has(bit) {
                r.same(what, is, want);
            } else {
                r.skip();
            }
        };
        slot(cached::RIP, "RIP", read(field::GUEST_RIP), k.rip.get());
        slot(cached::RSP, "RSP", read(field::GUEST_RSP), k.rsp.get());
        let flags = read(field::GUEST_RFLAGS);
        slot(cached::RFLAGS, "RFLAGS", flags, k.rflags.get());
        let cr0 = read(field::GUEST_CR0);
        slot(cached::CR0, "CR0 kept", cr0, k.cr0.get());
        let state = u64::from(read(field::GUEST_INTERRUPTIBILITY));
        let kept = u64::from(k.interruptibility.get());
        slot(cached::INTERRUPTIBILITY, "interruptibility", state, kept);
        let cs = u64::from(read(field::GUEST_CS_RIGHTS));
        let kept = u64::from(k.cs_rights.get());
        slot(cached::CS_RIGHTS, "rights of CS", cs, kept);
        let ss = u64::from(read(field::GUEST_SS_RIGHTS));
        let kept = u64::from(k.ss_rights.get());
        slot(cached::SS_RIGHTS, "rights of SS", ss, kept);
        let why = read(field::EXIT_QUALIFICATION);
        let kept = k.qualification.get();
        slot(cached::QUALIFICATION, "exit qualification", why, kept);
    }
}
