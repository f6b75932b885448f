// SPDX-License-Identifier: GPL-2.0

//! The control block in the kernel log, for entries that hardware refused.

use super::vcpu::Vcpu;
use kernel::prelude::*;
use model::svm::vmcb::VmcbSeg;

/// One line; apart, so that the formatter's arguments take their place on the stack once.
#[inline(never)]
fn line(what: &str, values: &[u64]) {
    pr_err!("VMCB {what}: {values:x?}\n");
}

fn segment(name: &str, s: &VmcbSeg) {
    let selector = u64::from(s.selector);
    let attr = u64::from(s.attr);
    line(name, &[selector, attr, u64::from(s.limit), s.base]);
}

pub(super) fn dump(hw: &Vcpu) {
    if !host::params::dump_invalid() {
        kernel::pr_warn_once!("kvm_amd.dump_invalid_vmcb=1 would show the refused control block\n");
        return;
    }
    control(hw);
    segments(hw);
    registers(hw);
}

fn control(hw: &Vcpu) {
    let c = &hw.vmcb().control;
    line(
        "address, last CPU",
        &[hw.entry.control_pa, u64::from(hw.last_cpu)],
    );
    line(
        "exit code, info",
        &[c.exit_code, c.exit_info_1, c.exit_info_2],
    );
    let aborted = [u64::from(hw.aborted_info), u64::from(c.exit_int_info_err)];
    line("aborted event, error code", &aborted);
    line("intercepts", &c.intercepts.map(u64::from));
    line("I/O map, MSR map", &[c.iopm_base, c.msrpm_base]);
    let tag = [u64::from(c.asid), u64::from(c.tlb_ctl), u64::from(c.clean)];
    line("ASID, flush, clean bits", &tag);
    let int = [u64::from(c.int_ctl), u64::from(c.int_vector), c.int_state];
    line("int_ctl, vector, state", &int);
    let injected = [u64::from(c.event_inj), u64::from(c.event_inj_err)];
    line("injected event, error code", &injected);
    line("nested CR3, misc", &[c.nested_cr3, c.misc_ctl, c.misc_ctl2]);
    line("next RIP, TSC offset", &[c.next_rip, c.tsc_offset]);
}

fn segments(hw: &Vcpu) {
    let s = &hw.vmcb().save;
    segment("ES", &s.es);
    segment("CS", &s.cs);
    segment("SS", &s.ss);
    segment("DS", &s.ds);
    segment("FS", &s.fs);
    segment("GS", &s.gs);
    segment("LDTR", &s.ldtr);
    segment("TR", &s.tr);
    segment("GDTR", &s.gdtr);
    segment("IDTR", &s.idtr);
}

fn registers(hw: &Vcpu) {
    let s = &hw.vmcb().save;
    line("CPL, EFER", &[u64::from(s.cpl), s.efer]);
    line("CR0, CR2, CR3, CR4", &[s.cr0, s.cr2, s.cr3, s.cr4]);
    line("DR6, DR7, RFLAGS", &[s.dr6, s.dr7, s.rflags]);
    line("RIP, RSP, RAX", &[s.rip, s.rsp, s.rax]);
    line("PAT, STAR, LSTAR", &[s.g_pat, s.star, s.lstar]);
}
