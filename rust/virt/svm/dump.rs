// SPDX-License-Identifier: GPL-2.0

//! The control block in the kernel log, for entries that hardware refused.

use super::vcpu::Vcpu;
use kernel::prelude::*;
use model::x86::state::SegReg;

pub(super) fn dump(hw: &Vcpu) {
    control(hw);
    save(hw);
}

#[inline(never)]
fn control(hw: &Vcpu) {
    let c = &hw.vmcb().control;
    pr_err!(
        "VMCB {:#x}, last on CPU {}\n",
        hw.entry.control_pa,
        hw.last_cpu
    );
    pr_err!(
        "exit {:#x} info {:#x} {:#x}\n",
        c.exit_code,
        c.exit_info_1,
        c.exit_info_2
    );
    pr_err!(
        "exit_int_info {:#x} err {:#x}\n",
        c.exit_int_info,
        c.exit_int_info_err
    );
    pr_err!("intercepts {:x?}\n", c.intercepts);
    pr_err!("iopm {:#x} msrpm {:#x}\n", c.iopm_base, c.msrpm_base);
    pr_err!(
        "asid {} tlb_ctl {} clean {:#x}\n",
        c.asid,
        c.tlb_ctl,
        c.clean
    );
    pr_err!(
        "int_ctl {:#x} vector {:#x} state {:#x}\n",
        c.int_ctl,
        c.int_vector,
        c.int_state
    );
    pr_err!("event_inj {:#x} err {:#x}\n", c.event_inj, c.event_inj_err);
    pr_err!(
        "nested_cr3 {:#x} misc {:#x} {:#x}\n",
        c.nested_cr3,
        c.misc_ctl,
        c.misc_ctl2
    );
    pr_err!(
        "next_rip {:#x} tsc_offset {:#x}\n",
        c.next_rip,
        c.tsc_offset
    );
}

#[inline(never)]
fn save(hw: &Vcpu) {
    let s = &hw.vmcb().save;
    for (r, name) in SegReg::ALL
        .into_iter()
        .zip(["es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr"])
    {
        let g = hw.seg(r);
        pr_err!(
            "{} {:04x} attr {:03x} limit {:x} base {:x}\n",
            name,
            g.selector,
            g.attr,
            g.limit,
            g.base
        );
    }
    pr_err!(
        "gdtr {:x}+{:x} idtr {:x}+{:x}\n",
        s.gdtr.base,
        s.gdtr.limit,
        s.idtr.base,
        s.idtr.limit
    );
    pr_err!("cpl {} efer {:#x}\n", s.cpl, s.efer);
    pr_err!(
        "cr0 {:#x} cr2 {:#x} cr3 {:#x} cr4 {:#x}\n",
        s.cr0,
        s.cr2,
        s.cr3,
        s.cr4
    );
    pr_err!("dr6 {:#x} dr7 {:#x} rflags {:#x}\n", s.dr6, s.dr7, s.rflags);
    pr_err!("rip {:#x} rsp {:#x} rax {:#x}\n", s.rip, s.rsp, s.rax);
    pr_err!(
        "pat {:#x} star {:#x} lstar {:#x}\n",
        s.g_pat,
        s.star,
        s.lstar
    );
}
