// SPDX-License-Identifier: GPL-2.0

//! Entries that hardware refused, in the kernel log: why, and with `dump_invalid_vmcs` the VMCS.

use super::vcpu::Vcpu;
use super::vmcs;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;
use kernel::prelude::*;
use model::vmx::ctrl::interruptibility;
use model::vmx::ctrl::pin;
use model::vmx::exit::basic;
use model::vmx::exit::entry_failure;
use model::vmx::exit::info;
use model::vmx::exit::instruction_error;
use model::vmx::exit::reason;
use model::vmx::exit::ENTRY_FAILED;
use model::vmx::field;
use model::vmx::legal::complaints;
use model::vmx::legal::GuestState;
use model::vmx::legal::Limits;
use model::x86::state::SegReg;

/// A VMM can make entries fail as often as it likes: at most one report a second, ns.
const PAUSE_NS: u64 = 1_000_000_000;

fn is_time() -> bool {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let now = host::clock::now_ns();
    if now < NEXT.load(Relaxed) {
        return false;
    }
    NEXT.store(now.wrapping_add(PAUSE_NS), Relaxed);
    true
}

pub(super) fn dump(hw: &Vcpu) {
    // Not even the error can be read: VMX is off, as the machine restarts under a running guest.
    // The last words of the kernel are not to be disturbed.
    if hw.run.failed != 0 && hw.failure == u32::MAX {
        return;
    }
    if !is_time() {
        return;
    }
    failure(hw);
    if hw.run.failed == 0 && basic(hw.run.reason) == reason::INVALID_GUEST_STATE {
        explain(hw);
    }
    if !host::params::dump_invalid() {
        pr_err!("the parameter dump_invalid_vmcs of kvm_intel has the whole VMCS written here\n");
        return;
    }
    controls(hw);
    exit(hw);
    guest(hw);
    segments(hw);
    host_state();
}

#[inline(never)]
fn failure(hw: &Vcpu) {
    let word = hw.run.reason;
    if hw.run.failed != 0 {
        pr_err!(
            "VM entry failed on CPU {}: VM-instruction error {}, {}\n",
            hw.last_cpu,
            hw.failure,
            instruction_error(hw.failure)
        );
    } else if word & ENTRY_FAILED != 0 {
        let qualification = vmcs::read(field::EXIT_QUALIFICATION);
        pr_err!(
            "VM entry failed on CPU {}: reason {} ({:#x}), {}\n",
            hw.last_cpu,
            basic(word),
            qualification,
            entry_failure(word, qualification)
        );
    } else {
        pr_err!("VM exit with the unknown reason {:#x}\n", word);
    }
}

const NAMES: [&str; 8] = ["ES", "CS", "SS", "DS", "FS", "GS", "LDTR", "TR"];

/// Goes through the manual's checks again, to tell which one failed.
#[inline(never)]
fn explain(hw: &Vcpu) {
    let mut s = GuestState::default();
    gather(hw, &mut s);
    let raw = &hw.m.raw;
    let limits = Limits {
        cr0_fixed0: raw.cr0_fixed0,
        cr0_fixed1: raw.cr0_fixed1,
        cr4_fixed0: raw.cr4_fixed0,
        cr4_fixed1: raw.cr4_fixed1,
        phys_bits: u32::from(host::cpu::phys_bits()),
        linear_bits: hw.m.linear_bits,
    };
    let mut n = 0u32;
    complaints(&s, &limits, &mut |r, what| {
        n = n.wrapping_add(1);
        match r.and_then(|r| NAMES.get(r as usize)) {
            Some(name) => pr_err!("  guest state: {}: {}\n", name, what),
            None => pr_err!("  guest state: {}\n", what),
        }
    });
    if n == 0 {
        pr_err!("  guest state: nothing is wrong by the rules known here\n");
    }
}

#[inline(never)]
fn gather(hw: &Vcpu, s: &mut GuestState) {
    let r = vmcs::read::<field::Natural, field::ReadWrite>;
    let q = vmcs::read::<field::W64, field::ReadWrite>;
    let w = vmcs::read::<field::W32, field::ReadWrite>;
    s.cr0 = r(field::GUEST_CR0);
    s.cr3 = r(field::GUEST_CR3);
    s.cr4 = r(field::GUEST_CR4);
    s.dr7 = r(field::GUEST_DR7);
    s.efer = q(field::GUEST_EFER);
    s.pat = q(field::GUEST_PAT);
    s.debugctl = q(field::GUEST_DEBUGCTL);
    s.sysenter_esp = r(field::GUEST_SYSENTER_ESP);
    s.sysenter_eip = r(field::GUEST_SYSENTER_EIP);
    for (slot, seg) in s.seg.iter_mut().zip(SegReg::ALL) {
        *slot = hw.raw_segment(seg);
    }
    s.gdtr = (r(field::GUEST_GDTR_BASE), w(field::GUEST_GDTR_LIMIT));
    s.idtr = (r(field::GUEST_IDTR_BASE), w(field::GUEST_IDTR_LIMIT));
    s.rip = r(field::GUEST_RIP);
    s.rflags = r(field::GUEST_RFLAGS);
    s.activity = w(field::GUEST_ACTIVITY);
    s.interruptibility = w(field::GUEST_INTERRUPTIBILITY);
    s.pending_debug = r(field::GUEST_PENDING_DEBUG);
    s.link_pointer = q(field::LINK_POINTER);
    s.pdpte = hw.pdptes();
    s.entry_controls = w(field::ENTRY_CONTROLS);
    s.proc2_controls = w(field::PROC2_CONTROLS);
    s.virtual_nmis = w(field::PIN_CONTROLS) & pin::VIRTUAL_NMIS != 0;
    s.intr_info = w(field::ENTRY_INTR_INFO);
    if s.virtual_nmis && s.intr_info & (info::VALID | info::TYPE) == info::VALID | info::NMI {
        // The entry found none blocked. Taking the event back has blocked them since.
        s.interruptibility &= !interruptibility::NMI;
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
    for (r, name) in SegReg::ALL.into_iter().zip(NAMES) {
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
