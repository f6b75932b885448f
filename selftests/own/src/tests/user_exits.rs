// SPDX-License-Identifier: GPL-2.0

//! Exits that user space gets only where it has part of the machine, or asked for them.

use super::pages::Stats;
use crate::guest::asm::mailbox;
use crate::guest::boot;
use crate::guest::cap;
use crate::guest::enable;
use crate::guest::Exit;
use crate::guest::Guest;
use crate::guest::Irqchip;
use crate::guest::Plan;
use crate::guest::CODE;
use crate::guest::PORT_END;
use crate::guest_code;
use crate::sys;
use crate::sys::Answer;
use crate::sys::PAGE;
use crate::table;
use crate::tap::Tap;
use crate::uapi as k;
use kvm_bindings::*;

/// Offset of `exit_reason` in `struct kvm_run`.
const RUN_REASON: usize = 8;
/// Offset of `cr8`.
const RUN_CR8: usize = 16;
/// Offset of what belongs to the reason.
const RUN_UNION: usize = 32;

guest_code! {
    lowers_cr8,
    "mov eax, 9",
    "mov cr8, rax",
    "mov eax, 2",
    "mov cr8, rax",
    "mov edx, 0xe0",
    "mov rax, cr8",
    "out dx, eax",
    // The same again, and higher.
    "mov eax, 2",
    "mov cr8, rax",
    "mov eax, 5",
    "mov cr8, rax",
    "mov edx, 0xe0",
    "out dx, eax",
    // No such priority.
    "lea r15, [rip + 1f]",
    "mov eax, 0x11",
    "mov cr8, rax",
    "1: mov edx, 0xe0",
    "mov rax, cr8",
    "out dx, eax",
    "xor eax, eax",
    "mov cr8, rax",
    "mov edx, 0xe1",
    "out dx, eax",
}

/// KVM_EXIT_SET_TPR: user space has the local APIC and must look whether an interrupt is due now.
pub fn user_tpr(t: &mut Tap) {
    let lowered = Ok(Exit::Other(KVM_EXIT_SET_TPR));
    let g = Guest::long(lowers_cr8());
    let v = &g.cpus[0];
    t.same("lowered from 9 to 2", g.enter(), lowered.clone());
    t.same("what it is now", v.run.load::<u64>(RUN_CR8), 2);
    v.run.store::<u64>(RUN_CR8, 3);
    let (values, exit) = g.values_of(0);
    t.same("user space's is the guest's", values, vec![3]);
    t.same("lowered from user space's 3", exit, lowered.clone());
    let (values, exit) = g.values_of(0);
    t.same("raised without an exit", values, vec![5, 5]);
    let gp = g.mem.load::<u64>(boot::mailbox(0) + mailbox::VECTOR);
    t.same("a priority that does not exist", gp, 13);
    t.same("lowered to 0", exit, lowered);
    t.same("what it is now", v.run.load::<u64>(RUN_CR8), 0);
    let done = matches!(g.enter(), Ok(Exit::Out { port: PORT_END, .. }));
    t.same("and on", done, true);
    let plan = Plan {
        irqchip: Irqchip::Split,
        ..Plan::default()
    };
    // Where such a write does not exit, QEMU takes a priority that does not exist.
    let g = Guest::long_with(plan, lowers_cr8());
    let values = g.values().and_then(|v| v.get(..2).map(<[u32]>::to_vec));
    t.same(
        "never with the APIC in the kernel",
        values,
        Some(vec![2, 5]),
    );
}

guest_code! {
    // The hypercall's number is in RDI, its arguments in RBX, RCX and RSI.
    calls,
    "mov rax, rdi",
    "mov rdx, rsi",
    "mov r8, rbx",
    "vmmcall",
    "mov edx, 0xe0",
    "out dx, eax",
    "mov edx, 0xe1",
    "out dx, eax",
}

/// KVM_EXIT_HYPERCALL: a guest tells of pages that it shares.
pub fn user_hypercall(t: &mut Tap) {
    const MAP_GPA_RANGE: u64 = 12;
    const MASK: i32 = 1 << MAP_GPA_RANGE;
    const ENOSYS: u32 = 1000;
    const EINVAL: u32 = libc::EINVAL as u32;
    // The same instruction has another name at Intel's, which the module writes in its place.
    let guest = |gpa: u64, pages: u64| {
        let g = Guest::long(calls());
        let mut r = g.cpus[0].regs();
        (r.rdi, r.rbx, r.rcx, r.rsi) = (MAP_GPA_RANGE, gpa, pages, 0x10);
        g.cpus[0].set_regs(&r);
        g
    };
    let g = guest(0x10_0000, 4);
    t.same("the capability", cap(&g.vm, KVM_CAP_EXIT_HYPERCALL), MASK);
    let other = enable(&g.vm, KVM_CAP_EXIT_HYPERCALL, 1);
    t.same("another call", other, Answer::Err(libc::EINVAL));
    let unknown = g.values();
    t.same("not asked for", unknown, Some(vec![ENOSYS.wrapping_neg()]));
    for (gpa, pages) in [(0x10_0001, 4), (0x10_0000, 0), (!0xfff, u64::MAX)] {
        let g = guest(gpa, pages);
        let on = enable(&g.vm, KVM_CAP_EXIT_HYPERCALL, MASK as u64);
        t.same("asked for", on, Answer::Ok(0));
        let what = format!("{pages:#x} pages from {gpa:#x}");
        t.same(what, g.values(), Some(vec![EINVAL.wrapping_neg()]));
    }
    let g = guest(0x10_0000, 4);
    let on = enable(&g.vm, KVM_CAP_EXIT_HYPERCALL, MASK as u64);
    t.same("asked for", on, Answer::Ok(0));
    let exit = g.enter();
    t.same("the exit", exit, Ok(Exit::Other(KVM_EXIT_HYPERCALL)));
    let run = &g.cpus[0].run;
    let words: Vec<u64> = (0..4).map(|i| run.load(RUN_UNION + 8 * i)).collect();
    t.same("the call", words, vec![MAP_GPA_RANGE, 0x10_0000, 4, 0x10]);
    let [ret, flags] = [56, 64].map(|at| run.load::<u64>(RUN_UNION + at));
    t.same("its answer so far, and long mode", (ret, flags), (0, 1));
    run.store::<u64>(RUN_UNION + 56, 77);
    t.same("user space's answer", g.values(), Some(vec![77]));
    short_answer(t, MASK as u64);
}

/// Outside of 64-bit mode an answer has 32 bits.
fn short_answer(t: &mut Tap, mask: u64) {
    // vmmcall; out 0xe1, eax
    let g = Guest::long(&[0x0f, 0x01, 0xd9, 0xe7, 0xe1]);
    g.start_32(0, CODE);
    let on = enable(&g.vm, KVM_CAP_EXIT_HYPERCALL, mask);
    t.same("asked for", on, Answer::Ok(0));
    let v = &g.cpus[0];
    let mut r = v.regs();
    (r.rax, r.rbx, r.rcx, r.rdx) = (12, 0x10_0000, 4, 0x10);
    v.set_regs(&r);
    let exit = g.enter();
    t.same("of 32 bits", exit, Ok(Exit::Other(KVM_EXIT_HYPERCALL)));
    v.run.store::<u64>(RUN_UNION + 56, 0xffff_ffff_0000_004d);
    t.same("its end", g.values(), Some(vec![]));
    t.same("the answer's low half", v.regs().rax, 0x4d);
}

guest_code! {
    touches,
    "mov rbx, rdi",
    "mov eax, [rbx]",
    "mov edx, 0xe0",
    "out dx, eax",
    "mov edx, 0xe1",
    "out dx, eax",
}

/// KVM_EXIT_MEMORY_FAULT: user space has nothing where its slot says that there is memory.
pub fn memory_fault(t: &mut Tap) {
    const AT: u64 = 0x100_0000;
    let plan = Plan {
        mem: 4 << 20,
        ..Plan::default()
    };
    let g = Guest::long_with(plan, touches());
    let info = cap(&g.vm, KVM_CAP_MEMORY_FAULT_INFO);
    t.same("the capability", info, 1);
    let slot = g.slot(1, AT, 2 << 20, 1 << 20, 0);
    t.same("a slot", slot, Answer::Ok(0));
    g.mem.protect(2 << 20, 1 << 20, libc::PROT_NONE);
    let v = &g.cpus[0];
    let mut r = v.regs();
    r.rdi = AT + 0x5008;
    v.set_regs(&r);
    t.same("KVM_RUN", g.enter(), Err(libc::EFAULT));
    let reason = v.run.load::<u32>(RUN_REASON);
    let words: Vec<u64> = (0..3).map(|i| v.run.load(RUN_UNION + 8 * i)).collect();
    if table::stock() {
        // It describes faults of private memory only, though the capability promises more.
        t.same("no reason", reason, KVM_EXIT_UNKNOWN);
    } else {
        t.same("the reason", reason, KVM_EXIT_MEMORY_FAULT);
        let want = vec![0, AT + 0x5000, PAGE as u64];
        t.same("flags, address, size", words, want);
    }
    g.mem
        .protect(2 << 20, 1 << 20, libc::PROT_READ | libc::PROT_WRITE);
    g.mem.store::<u32>((2 << 20) + 0x5008, 21);
    t.same("with memory it goes on", g.values(), Some(vec![21]));
}

guest_code! {
    copies,
    "mov esi, 0xe0000000",
    "movsd",
    "mov edx, 0xe1",
    "out dx, eax",
}

/// The same where an instruction is emulated: from device memory to where user space has nothing.
pub fn emulated_fault(t: &mut Tap) {
    const AT: u64 = 0x100_0000;
    let plan = Plan {
        mem: 4 << 20,
        ..Plan::default()
    };
    let g = Guest::long_with(plan, copies());
    let slot = g.slot(1, AT, 2 << 20, 1 << 20, 0);
    t.same("a slot", slot, Answer::Ok(0));
    g.mem.protect(2 << 20, 1 << 20, libc::PROT_NONE);
    let v = &g.cpus[0];
    let mut r = v.regs();
    r.rdi = AT + 0x5008;
    v.set_regs(&r);
    let read = g.enter();
    let is_read = matches!(read, Ok(Exit::MmioRead { .. }));
    t.same("the device is read", is_read, true);
    if let Ok(e) = &read {
        v.answer(e, &[1, 2, 3, 4]);
    }
    let e = sys::limited(3000, || g.enter());
    if table::stock() {
        // It takes the place for a device's.
        let write = matches!(e, Ok(Exit::MmioWrite { .. }));
        t.same("the write is user space's", write, true);
        return;
    }
    t.same("KVM_RUN", e, Err(libc::EFAULT));
    let words: Vec<u64> = (0..3).map(|i| v.run.load(RUN_UNION + 8 * i)).collect();
    let want = vec![0, AT + 0x5000, PAGE as u64];
    t.same("flags, address, size", words, want);
    g.mem
        .protect(2 << 20, 1 << 20, libc::PROT_READ | libc::PROT_WRITE);
    // LODSD, which reads the same: what was half done is done, with what the device gave it.
    g.mem.store::<u8>(CODE as usize + 5, 0xad);
    let e = sys::limited(3000, || g.enter());
    let ended = matches!(e, Ok(Exit::Out { port: 0xe1, .. }));
    t.same("with memory it goes on", ended, true);
    let got: u32 = g.mem.load((2 << 20) + 0x5008);
    t.same("with what was read before", got, 0x0403_0201);
}

guest_code! {
    // Raises #UD, and tells the highest byte of its TSC where it goes on.
    ends_and_tells,
    "ud2",
    "rdtsc",
    "mov eax, edx",
    "shr eax, 24",
    "mov edx, 0xe0",
    "out dx, eax",
}

/// What is no register stays what it was when a guest that shut down is set going again.
fn after_shutdown(t: &mut Tap) {
    const IA32_TSC: u32 = 0x10;
    let g = Guest::long(ends_and_tells());
    let v = &g.cpus[0];
    t.same("the TSC", v.set_msr(IA32_TSC, 1 << 56), true);
    let (regs, sregs) = (v.regs(), v.sregs());
    let mut no_idt = sregs;
    no_idt.idt.limit = 0;
    v.set_sregs(&no_idt);
    t.same("#UD without an IDT", g.enter(), Ok(Exit::Shutdown));
    v.set_sregs(&sregs);
    v.set_regs(&kvm_regs {
        rip: regs.rip + 2,
        ..regs
    });
    let upper = match g.enter() {
        Ok(Exit::Out { data, .. }) => Some(data),
        _ => None,
    };
    if !table::stock() {
        // On SVM it clears the offset with the control block. APM: vol 2, table 14-1.
        t.same("its TSC goes on", upper, Some(vec![1, 0, 0, 0]));
    }
}

/// KVM_CAP_X86_TRIPLE_FAULT_EVENT: a triple fault that waits is a part of a vCPU's events.
pub fn triple_fault_event(t: &mut Tap) {
    const VALID: u32 = 0x20;
    let g = Guest::long(touches());
    let v = &g.cpus[0];
    let known = cap(&g.vm, KVM_CAP_X86_TRIPLE_FAULT_EVENT);
    t.same("the capability", known, 1);
    let mut e = v.events();
    t.same("not asked for", e.flags & VALID, 0);
    e.flags = VALID;
    e.triple_fault.pending = 1;
    let set = v.fd.set(k::SET_VCPU_EVENTS, &e);
    t.same("and not taken", set, Answer::Err(libc::EINVAL));
    let on = enable(&g.vm, KVM_CAP_X86_TRIPLE_FAULT_EVENT, 1);
    t.same("asked for", on, Answer::Ok(0));
    let now = v.events();
    let seen = (now.flags & VALID, now.triple_fault.pending);
    t.same("none waits", seen, (VALID, 0));
    let set = v.fd.set(k::SET_VCPU_EVENTS, &e);
    t.same("one is set", set, Answer::Ok(0));
    t.same("it waits", v.events().triple_fault.pending, 1);
    t.same("the exit", g.enter(), Ok(Exit::Shutdown));
    t.same("it waits no more", v.events().triple_fault.pending, 0);
    after_shutdown(t);
}

guest_code! {
    // Halts for the timer of its local APIC four times.
    halts,
    "mov ebx, 0xfee00000",
    "mov dword ptr [rbx + 0xf0], 0x1ff",
    "mov dword ptr [rbx + 0x3e0], 0xb",
    "mov dword ptr [rbx + 0x320], 0x50",
    "mov ecx, 4",
    "1: mov dword ptr [rbx + 0x380], 400000",
    "sti",
    "hlt",
    "cli",
    "dec ecx",
    "jnz 1b",
    "mov edx, 0xe1",
    "out dx, eax",
}

/// KVM_CAP_HALT_POLL: how long a halted vCPU looks out for its wake-up before it sleeps.
pub fn halt_poll(t: &mut Tap) {
    for (ns, polls) in [(0, false), (20_000_000, true)] {
        let plan = Plan {
            irqchip: Irqchip::Split,
            ..Plan::default()
        };
        let g = Guest::long_with(plan, halts());
        g.mem.store::<u64>(boot::mailbox(0) + mailbox::EOI, 1);
        let set = enable(&g.vm, KVM_CAP_HALT_POLL, ns);
        t.same(format!("{ns} ns"), set, Answer::Ok(0));
        let end = sys::limited(20_000, || g.enter());
        let end = matches!(end, Ok(Exit::Out { port: PORT_END, .. }));
        t.same("four halts", end, true);
        let polled = Stats::of(&g.cpus[0].fd).get("halt_attempted_poll");
        t.same("polled", polled != 0, polls);
    }
}

/// KVM_CAP_X2APIC_API: whether the local APIC says that its EOIs need not be broadcast.
pub fn eoi_suppression(t: &mut Tap) {
    const ENABLE: u64 = 4;
    const DISABLE: u64 = 8;
    const OFFERED: u32 = 1 << 24;
    let of = |irqchip, flags: u64| {
        let dev = crate::guest::dev();
        let vm = dev.make(k::CREATE_VM, 0).expect("KVM_CREATE_VM");
        match irqchip {
            Irqchip::None => {}
            Irqchip::Split => {
                let r = enable(&vm, KVM_CAP_SPLIT_IRQCHIP, 24);
                r.ok().expect("split irqchip");
            }
            Irqchip::Full => {
                let r = vm.call(k::CREATE_IRQCHIP, 0);
                r.ok().expect("KVM_CREATE_IRQCHIP");
            }
        }
        let set = enable(&vm, KVM_CAP_X2APIC_API, flags);
        let v = crate::guest::Vcpu::new(&vm, 0).expect("KVM_CREATE_VCPU");
        let mut c = crate::guest::supported_cpuid(&dev);
        v.fd.bytes(k::SET_CPUID2, &mut c)
            .ok()
            .expect("KVM_SET_CPUID2");
        let version = v.fd.get::<kvm_lapic_state>(k::GET_LAPIC).map(|l| {
            let b: [u8; 4] = std::array::from_fn(|i| l.regs[0x30 + i] as u8);
            u32::from_le_bytes(b) & OFFERED != 0
        });
        (cap(&vm, KVM_CAP_X2APIC_API), set, version)
    };
    let no = Answer::Err(libc::EINVAL);
    let yes = Answer::Ok(0);
    for (chip, flags, want) in [
        (Irqchip::Split, 0, (15, yes, Ok(true))),
        (Irqchip::Split, ENABLE, (15, yes, Ok(true))),
        (Irqchip::Split, DISABLE, (15, yes, Ok(false))),
        (Irqchip::Split, ENABLE | DISABLE, (15, no, Ok(true))),
        (Irqchip::Split, 16, (15, no, Ok(true))),
        (Irqchip::Full, 0, (11, yes, Ok(false))),
        (Irqchip::Full, ENABLE, (11, no, Ok(false))),
        (Irqchip::Full, DISABLE, (11, yes, Ok(false))),
        (Irqchip::None, ENABLE, (11, no, Err(libc::EINVAL))),
    ] {
        t.same(format!("{chip:?}, flags {flags}"), of(chip, flags), want);
    }
}
