// SPDX-License-Identifier: GPL-2.0

//! The VMCS in the kernel log, for entries that hardware refused.

use super::vcpu::Vcpu;
use super::vmcs;
use kernel::prelude::*;
use model::vmx::exit::instruction_error;
use model::vmx::field;
use model::x86::state::SegReg;

pub(super) fn dump(hw: &Vcpu) {
    failure(hw);
    controls(hw);
    exit(hw);
    guest(hw);
    segments(hw);
    host_state();
}

#[inline(never)]
fn failure(hw: &Vcpu) {
    pr_err!("VMCS last on CPU {}\n", hw.last_cpu);
    if hw.run.failed != 0 {
        pr_err!(
            "VM-instruction error {}: {}\n",
            hw.failure,
            instruction_error(hw.failure)
        );
    }
}

#[inline(never)]
fn controls(hw: &Vcpu) {
    let r = vmcs::read::<field::W32, field::ReadWrite>;
    pr_err!(
        "pin {:#x} proc {:#x} proc2 {:#x}\n",
        r(field::PIN_CONTROLS),
        r(field::PROC_CONTROLS),
        r(field::PROC2_CONTROLS)
    );
    pr_err!(
        "entry {:#x} exit {:#x} exceptions {:#x}\n",
        r(field::ENTRY_CONTROLS),
        r(field::EXIT_CONTROLS),
        r(field::EXCEPTION_BITMAP)
    );
    pr_err!(
        "entry intr_info {:#x} err {:#x} len {}\n",
        r(field::ENTRY_INTR_INFO),
        r(field::ENTRY_ERROR_CODE),
        r(field::ENTRY_INSN_LENGTH)
    );
    pr_err!(
        "eptp {:#x} vpid {} tsc_offset {:#x}\n",
        vmcs::read(field::EPT_POINTER),
        hw.vpid.as_ref().map_or(0, |v| v.number()),
        vmcs::read(field::TSC_OFFSET)
    );
}

#[inline(never)]
fn exit(hw: &Vcpu) {
    pr_err!(
        "exit {:#x} qualification {:#x}\n",
        hw.run.reason,
        vmcs::read(field::EXIT_QUALIFICATION)
    );
    pr_err!(
        "intr_info {:#x} err {:#x} vectoring {:#x} err {:#x} len {}\n",
        vmcs::read(field::EXIT_INTR_INFO),
        vmcs::read(field::EXIT_INTR_ERROR),
        vmcs::read(field::IDT_VECTORING_INFO),
        vmcs::read(field::IDT_VECTORING_ERROR),
        vmcs::read(field::EXIT_INSN_LENGTH)
    );
}

#[inline(never)]
fn guest(hw: &Vcpu) {
    let r = vmcs::read::<field::Natural, field::ReadWrite>;
    pr_err!(
        "cr0 {:#x} shadow {:#x} mask {:#x}\n",
        r(field::GUEST_CR0),
        r(field::CR0_SHADOW),
        r(field::CR0_MASK)
    );
    pr_err!(
        "cr4 {:#x} shadow {:#x} mask {:#x}\n",
        r(field::GUEST_CR4),
        r(field::CR4_SHADOW),
        r(field::CR4_MASK)
    );
    pr_err!(
        "cr3 {:#x} pdptes {:x?} efer {:#x} pat {:#x}\n",
        r(field::GUEST_CR3),
        hw.pdptes(),
        vmcs::read(field::GUEST_EFER),
        vmcs::read(field::GUEST_PAT)
    );
    pr_err!(
        "rip {:#x} rsp {:#x} rflags {:#x} dr7 {:#x}\n",
        r(field::GUEST_RIP),
        r(field::GUEST_RSP),
        r(field::GUEST_RFLAGS),
        r(field::GUEST_DR7)
    );
    pr_err!(
        "interruptibility {:#x} activity {} pending debug {:#x} debugctl {:#x}\n",
        vmcs::read(field::GUEST_INTERRUPTIBILITY),
        vmcs::read(field::GUEST_ACTIVITY),
        r(field::GUEST_PENDING_DEBUG),
        vmcs::read(field::GUEST_DEBUGCTL)
    );
    pr_err!(
        "sysenter {:#x} {:#x} {:#x}\n",
        vmcs::read(field::GUEST_SYSENTER_CS),
        r(field::GUEST_SYSENTER_ESP),
        r(field::GUEST_SYSENTER_EIP)
    );
}

#[inline(never)]
fn segments(hw: &Vcpu) {
    for (r, name) in SegReg::ALL
        .into_iter()
        .zip(["es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr"])
    {
        let f = field::segment(r);
        pr_err!(
            "{} {:04x} rights {:05x} limit {:x} base {:x}\n",
            name,
            vmcs::read(f.selector),
            vmcs::read(f.rights),
            vmcs::read(f.limit),
            vmcs::read(f.base)
        );
    }
    let (gdt, idt) = (hw.desc_table(false), hw.desc_table(true));
    pr_err!(
        "gdtr {:x}+{:x} idtr {:x}+{:x}\n",
        gdt.base,
        gdt.limit,
        idt.base,
        idt.limit
    );
}

#[inline(never)]
fn host_state() {
    pr_err!(
        "host cr0 {:#x} cr3 {:#x} cr4 {:#x} efer {:#x} pat {:#x}\n",
        vmcs::read(field::HOST_CR0),
        vmcs::read(field::HOST_CR3),
        vmcs::read(field::HOST_CR4),
        vmcs::read(field::HOST_EFER),
        vmcs::read(field::HOST_PAT)
    );
    pr_err!(
        "host cs {:#x} ss {:#x} tr {:#x}\n",
        vmcs::read(field::HOST_CS_SELECTOR),
        vmcs::read(field::HOST_SS_SELECTOR),
        vmcs::read(field::HOST_TR_SELECTOR)
    );
}
