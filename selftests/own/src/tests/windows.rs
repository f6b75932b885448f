// SPDX-License-Identifier: GPL-2.0

//! When events are taken: windows for interrupts and NMIs, and events whose delivery faults in the
//! nested tables.

use crate::guest::asm::mailbox;
use crate::guest::boot;
use crate::guest::Exit;
use crate::guest::Guest;
use crate::guest::Irqchip;
use crate::guest::Plan;
use crate::guest::CODE;
use crate::guest::PORT_END;
use crate::guest_code;
use crate::host;
use crate::sys;
use crate::sys::Answer;
use crate::table;
use crate::tap::Tap;
use crate::uapi as k;
use kvm_bindings::*;

guest_code! {
    window,
    "mov edx, 0xe0",
    "mov eax, 1",
    "out dx, eax",
    "mov eax, 2",
    "out dx, eax",
    "sti",
    "mov eax, 3",
    "out dx, eax",
    "cli",
    "mov eax, [r14 + 40]",
    "out dx, eax",
    "mov edx, 0xe1",
    "out dx, al",
}

/// What a port write says; the exit itself if it is something else.
pub(super) fn value(g: &Guest) -> Result<u32, String> {
    match g.enter() {
        Ok(Exit::Out {
            port: 0xe0, data, ..
        }) => {
            let mut b = [0; 4];
            b[..data.len().min(4)].copy_from_slice(&data[..data.len().min(4)]);
            Ok(u32::from_le_bytes(b))
        }
        e => Err(format!("{e:x?}")),
    }
}

/// `request_interrupt_window`: 1 byte at 0. What the run page says in return: at 12 and 13.
pub(super) fn want_window(g: &Guest, on: bool) {
    g.cpus[0].run.store::<u8>(0, u8::from(on));
}

pub(super) fn ready(g: &Guest) -> (u8, u8) {
    (g.cpus[0].run.load(12), g.cpus[0].run.load(13))
}

pub(super) fn interrupt(g: &Guest, irq: u32) -> Answer {
    g.cpus[0].fd.set(k::INTERRUPT, &kvm_interrupt { irq })
}

pub(super) fn count(g: &Guest, vector: usize) -> u16 {
    g.mem.load(boot::mailbox(0) + mailbox::COUNTS + 2 * vector)
}

/// Interrupts from a controller in user space: the window, KVM_INTERRUPT.
pub fn interrupts(t: &mut Tap) {
    let g = Guest::long(window());
    t.same("interrupts off", value(&g), Ok(1));
    t.same("not ready", ready(&g), (0, 0));
    want_window(&g, true);
    t.same("asking changes nothing", value(&g), Ok(2));
    t.same("still not ready", ready(&g), (0, 0));
    t.same("the window opens", g.enter(), Ok(Exit::IrqWindow));
    t.same("ready", ready(&g), (1, 1));
    t.same("KVM_INTERRUPT", interrupt(&g, 0x40), Answer::Ok(0));
    want_window(&g, false);
    t.same("the guest goes on", value(&g), Ok(3));
    t.same("with one interrupt", value(&g), Ok(1));
    t.same("of that vector", count(&g, 0x40), 1);
    // One that is queued too early waits in the vCPU.
    let plan = Plan {
        irqchip: Irqchip::Split,
        ..Plan::default()
    };
    let g = Guest::long_with(plan, window());
    t.same("split: interrupts off", value(&g), Ok(1));
    t.same("split: one", interrupt(&g, 0x41), Answer::Ok(0));
    let r = interrupt(&g, 0x42);
    t.same("split: another", r, Answer::Err(libc::EEXIST));
    t.same("split: not yet", value(&g), Ok(2));
    t.same("split: not ready for another", ready(&g), (0, 0));
    t.same("split: the guest goes on", value(&g), Ok(3));
    t.same("split: with one", value(&g), Ok(1));
    t.same("split: of that vector", count(&g, 0x41), 1);
}

guest_code! {
    nmi_main,
    "mov edx, 0xe0",
    "mov eax, 0x100",
    "out dx, eax",
    "mov eax, 0x200",
    "out dx, eax",
    // An IRET without an NMI ends what blocks NMIs.
    "mov rax, rsp",
    "push 0x10",
    "push rax",
    "pushfq",
    "push 8",
    "lea rax, [rip + 2f]",
    "push rax",
    "iretq",
    "2: mov eax, 0x300",
    "out dx, eax",
    "mov edx, 0xe1",
    "out dx, al",
}

guest_code! {
    nmi_handler,
    "push rax",
    "push rdx",
    "mov edx, 0xe0",
    "mov eax, [0x80000]",
    "inc eax",
    "mov [0x80000], eax",
    "out dx, eax",
    "pop rdx",
    "pop rax",
    "iretq",
}

/// A guest whose NMIs go to the handler.
fn nmi_guest(code: &[u8]) -> Guest {
    let g = Guest::long(code);
    g.load(CODE + 0x800, nmi_handler());
    boot::gate(&g.mem, 2, CODE + 0x800);
    g
}

fn nmi(g: &Guest) -> Answer {
    g.cpus[0].fd.call(k::NMI, 0)
}

/// NMIs: one at a time, one more is kept, blocked until IRET.
pub fn nmis(t: &mut Tap) {
    if host::is_off("vnmi") {
        return nmis_by_software(t);
    }
    let make = || nmi_guest(nmi_main());
    let g = make();
    t.same("before", value(&g), Ok(0x100));
    t.same("KVM_NMI", nmi(&g), Answer::Ok(0));
    t.same("in the handler", value(&g), Ok(1));
    t.same("others are blocked", g.cpus[0].events().nmi.masked, 1);
    for _ in 0..3 {
        nmi(&g).ok().expect("KVM_NMI");
    }
    t.same("the next comes after the IRET", value(&g), Ok(2));
    t.same("only one was kept", value(&g), Ok(0x200));
    t.same("none is blocked", g.cpus[0].events().nmi.masked, 0);
    // Two are kept if none is being handled.
    let g = make();
    t.same("before", value(&g), Ok(0x100));
    for _ in 0..3 {
        nmi(&g).ok().expect("KVM_NMI");
    }
    t.same("the first", value(&g), Ok(1));
    t.same("the second", value(&g), Ok(2));
    t.same("no third", value(&g), Ok(0x200));
    // User space says that NMIs are blocked, as after a migration.
    let g = make();
    t.same("before", value(&g), Ok(0x100));
    let mut e = g.cpus[0].events();
    e.nmi.masked = 1;
    e.flags = KVM_VCPUEVENT_VALID_NMI_PENDING;
    let r = g.cpus[0].fd.set(k::SET_VCPU_EVENTS, &e);
    t.same("blocked by user space", r, Answer::Ok(0));
    nmi(&g).ok().expect("KVM_NMI");
    t.same("it does not come", value(&g), Ok(0x200));
    t.same("before the IRET", value(&g), Ok(1));
    t.same("and the guest goes on", value(&g), Ok(0x300));
}

guest_code! {
    // Nothing but the IRET touches the page that it returns from.
    nmi_far_stack,
    "mov edx, 0xe0",
    "inc dword ptr [0x80000]",
    "mov eax, [0x80000]",
    "out dx, eax",
    "mov esp, 0x95f00",
    "iretq",
}

/// The IRET of an NMI's handler faults in the nested tables while another NMI waits: that comes once,
/// behind the IRET.
pub fn nmi_iret(t: &mut Tap) {
    let g = nmi_guest(nmi_main());
    g.load(CODE + 0x800, nmi_far_stack());
    t.same("before", value(&g), Ok(0x100));
    nmi(&g).ok().expect("KVM_NMI");
    for n in 1..4 {
        t.same("in the handler", value(&g), Ok(n));
        let frame = g.mem.read(g.cpus[0].regs().rsp as usize, 40);
        g.mem.write(0x9_5f00, &frame);
        if n < 3 {
            nmi(&g).ok().expect("KVM_NMI");
        }
        zap(&g);
    }
    t.same("the guest goes on", value(&g), Ok(0x200));
    t.same("none is blocked", g.cpus[0].events().nmi.masked, 0);
    t.same("to its end", value(&g), Ok(0x300));
}

guest_code! {
    nmi_soft,
    "mov edx, 0xe0",
    "mov eax, 0x100",
    "out dx, eax",
    "mov eax, 0x200",
    "out dx, eax",
    "sti",
    "nop",
    "cli",
    "mov eax, 0x300",
    "out dx, eax",
    // Interrupts off until the third has come; CPUID exits, which Bochs would not do by itself.
    "2: mov ecx, 100000",
    "3: dec ecx",
    "jnz 3b",
    "xor eax, eax",
    "cpuid",
    "mov edx, 0xe0",
    "cmp dword ptr [0x80000], 3",
    "jb 2b",
    "mov eax, 0x400",
    "out dx, eax",
    "mov edx, 0xe1",
    "out dx, al",
}

/// Where hardware does not know when NMIs are blocked: not while interrupts can be taken, and not for
/// longer than a second.
fn nmis_by_software(t: &mut Tap) {
    let g = nmi_guest(nmi_soft());
    let masked = |g: &Guest| g.cpus[0].events().nmi.masked;
    t.same("before", value(&g), Ok(0x100));
    t.same("KVM_NMI", nmi(&g), Answer::Ok(0));
    t.same("in the handler", value(&g), Ok(1));
    t.same("others are blocked", masked(&g), 1);
    for _ in 0..3 {
        nmi(&g).ok().expect("KVM_NMI");
    }
    t.same("nobody sees the IRET", value(&g), Ok(0x200));
    t.same("still blocked", masked(&g), 1);
    t.same("the next comes with interrupts on", value(&g), Ok(2));
    t.same("only one was kept", value(&g), Ok(0x300));
    t.same("blocked again", masked(&g), 1);
    nmi(&g).ok().expect("KVM_NMI");
    let start = std::time::Instant::now();
    t.same("after a second", value(&g), Ok(3));
    let ms = start.elapsed().as_millis();
    t.point(ms >= 1000, format!("not before: {ms} ms"));
    t.same("the guest goes on", value(&g), Ok(0x400));
    // User space says that NMIs are blocked, as after a migration.
    let g = nmi_guest(nmi_soft());
    t.same("before", value(&g), Ok(0x100));
    let mut e = g.cpus[0].events();
    e.nmi.masked = 1;
    e.flags = KVM_VCPUEVENT_VALID_NMI_PENDING;
    let r = g.cpus[0].fd.set(k::SET_VCPU_EVENTS, &e);
    t.same("blocked by user space", r, Answer::Ok(0));
    nmi(&g).ok().expect("KVM_NMI");
    t.same("it does not come", value(&g), Ok(0x200));
    t.same("before interrupts are on", value(&g), Ok(1));
}

guest_code! {
    /// How many events there were, again and again, with interrupts on for a moment in between.
    again,
    "mov edx, 0xe0",
    "2: mov eax, [r14 + 40]",
    "out dx, eax",
    "sti",
    "nop",
    "nop",
    "cli",
    "jmp 2b",
}

guest_code! {
    software,
    "mov edx, 0xe0",
    "mov eax, 1",
    "out dx, eax",
    "int 0x80",
    "mov eax, 2",
    "out dx, eax",
    "lea r15, [rip + 2f]",
    "int3",
    "2: mov eax, [r14 + 16]",
    "sub eax, r15d",
    "out dx, eax",
    "lea r15, [rip + 4f]",
    "ud2",
    "4: mov eax, [r14 + 16]",
    "sub eax, r15d",
    "out dx, eax",
    "mov edx, 0xe1",
    "out dx, al",
}

guest_code! {
    breakpoint,
    "mov edx, 0xe0",
    "mov eax, 1",
    "lea r15, [rip + 2f]",
    "out dx, eax",
    "int3",
    "2: mov eax, [r14 + 16]",
    "sub eax, r15d",
    "out dx, eax",
    "mov edx, 0xe1",
    "out dx, al",
}

/// A breakpoint that a debugger hands back to the guest arrives as what INT3 raises.
pub fn handed_back(t: &mut Tap) {
    let g = Guest::long(breakpoint());
    let v = &g.cpus[0];
    let mut d: kvm_guest_debug = sys::zeroed();
    d.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP;
    let r = v.fd.set(k::SET_GUEST_DEBUG, &d);
    t.same("KVM_SET_GUEST_DEBUG", r, Answer::Ok(0));
    t.same("the guest runs", value(&g), Ok(1));
    match g.enter() {
        Ok(Exit::Debug { exception, .. }) => t.same("a breakpoint", exception, 3),
        // QEMU's processor does not let INT3 exit (Documentation/testing.rst).
        _ => return t.skip("the host's processor delivers INT3 by itself"),
    };
    let at: u8 = g.mem.load(v.regs().rip as usize);
    t.same("RIP is at the INT3", at, 0xcc);
    let mut e = v.events();
    e.exception.injected = 1;
    e.exception.nr = 3;
    let r = v.fd.set(k::SET_VCPU_EVENTS, &e);
    t.same("handed back", r, Answer::Ok(0));
    t.same("RIP is behind it", value(&g), Ok(0));
    t.same("one breakpoint", count(&g, 3), 1);
}

guest_code! {
    // EDI: 1 xAPIC, 2 x2APIC. An interrupt to itself, twice, and how many came.
    to_itself,
    "mov ebx, 0xfee00000",
    "cmp edi, 2",
    "je 2f",
    "mov dword ptr [rbx + 0xf0], 0x1ff",
    "jmp 3f",
    "2: mov ecx, 0x1b",
    "rdmsr",
    "or eax, 0xc00",
    "wrmsr",
    "mov ecx, 0x80f",
    "mov eax, 0x1ff",
    "xor edx, edx",
    "wrmsr",
    "3: sti",
    "mov esi, 0x40",
    "4: cmp edi, 2",
    "je 5f",
    "lea eax, [rsi + 0x44000]",
    "mov [rbx + 0x300], eax",
    "jmp 6f",
    "5: mov ecx, 0x83f",
    "mov eax, esi",
    "xor edx, edx",
    "wrmsr",
    "6: nop",
    "mov edx, 0xe0",
    "mov eax, [r14 + 40]",
    "out dx, eax",
    "add esi, 0x10",
    "jmp 4b",
}

/// A debugger keeps interrupts from the guest (KVM_GUESTDBG_BLOCKIRQ): what it sends to itself comes
/// when it may.
pub fn blocked_interrupts(t: &mut Tap) {
    for mode in [1u64, 2] {
        let plan = Plan {
            irqchip: Irqchip::Full,
            ..Plan::default()
        };
        let g = Guest::long_with(plan, to_itself());
        g.mem.store::<u64>(boot::mailbox(0) + mailbox::EOI, mode);
        let v = &g.cpus[0];
        let mut r = v.regs();
        r.rdi = mode;
        v.set_regs(&r);
        let block = |on: bool| {
            let mut d: kvm_guest_debug = sys::zeroed();
            if on {
                d.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_BLOCKIRQ;
            }
            v.fd.set(k::SET_GUEST_DEBUG, &d)
        };
        t.same("not blocked: it came", value(&g), Ok(1));
        t.same("block", block(true), Answer::Ok(0));
        t.same("blocked: no more", value(&g), Ok(1));
        t.same("blocked: no more of two", value(&g), Ok(1));
        t.same("unblock", block(false), Answer::Ok(0));
        t.same("not blocked: both came, and the next", value(&g), Ok(4));
        let all: Vec<_> = (0x40..0x80).step_by(0x10).map(|n| count(&g, n)).collect();
        t.same("each came once", all, vec![1; 4]);
    }
}

/// Takes the guest's memory away and gives it back: whatever it touches next faults in the nested
/// tables, also its stack and its IDT.
fn zap(g: &Guest) {
    let len = g.mem.len();
    for n in [0, len] {
        g.slot(0, 0, 0, n, 0).ok().expect("memory");
    }
}

/// Events arrive once though their delivery faults.
pub fn reinjection(t: &mut Tap) {
    let g = Guest::long(again());
    let v = &g.cpus[0];
    let mut r = v.regs();
    r.r15 = CODE + 5;
    v.set_regs(&r);
    t.same("the guest runs", value(&g), Ok(0));
    let mut n = 0;
    for round in 0..3u16 {
        zap(&g);
        interrupt(&g, 0x40).ok().expect("KVM_INTERRUPT");
        // It comes at the STI.
        let _ = value(&g);
        n += 1;
        let got = (count(&g, 0x40), value(&g));
        t.same("an interrupt", got, (round + 1, Ok(n)));
        zap(&g);
        v.fd.call(k::NMI, 0).ok().expect("KVM_NMI");
        n += 1;
        t.same("an NMI", (value(&g), count(&g, 2)), (Ok(n), round + 1));
        for (vector, code) in [(13u8, 0x1230u32), (14, 2), (6, 0)] {
            let mut e = v.events();
            e.exception.injected = 1;
            e.exception.nr = vector;
            e.exception.has_error_code = u8::from(vector != 6);
            e.exception.error_code = code;
            zap(&g);
            let r = v.fd.set(k::SET_VCPU_EVENTS, &e);
            t.same("an exception queued", r, Answer::Ok(0));
            n += 1;
            let got = (value(&g), count(&g, usize::from(vector)));
            t.same(format!("exception {vector}"), got, (Ok(n), round + 1));
            let error: u32 = g.mem.load(boot::mailbox(0) + mailbox::ERROR);
            t.same("its error code", error, code);
        }
    }
    // What the guest raises itself.
    let g = Guest::long(software());
    for (want, what) in [
        (1u32, "start"),
        (2, "INT"),
        (0, "INT3: RIP behind it"),
        (0xffff_fffe, "UD2: its own RIP"),
    ] {
        t.same(what, value(&g), Ok(want));
        zap(&g);
    }
    let e = g.enter();
    let ok = matches!(e, Ok(Exit::Out { port: PORT_END, .. }));
    t.point(ok, format!("the guest ends: {e:x?}"));
    t.same("INT once", count(&g, 0x80), 1);
    t.same("INT3 once", count(&g, 3), 1);
    t.same("UD2 once", count(&g, 6), 1);
    // A stack in device memory cannot take an event.
    let g = Guest::long(again());
    t.same("the guest runs", value(&g), Ok(0));
    let mut r = g.cpus[0].regs();
    r.rsp = 0xe000_0800;
    g.cpus[0].set_regs(&r);
    g.cpus[0].fd.call(k::NMI, 0).ok().expect("KVM_NMI");
    let e = g.enter();
    t.same(
        "a stack that is a device",
        e,
        Ok(Exit::Internal(KVM_INTERNAL_ERROR_DELIVERY_EV)),
    );
}

guest_code! {
    breakpoints,
    "mov r8d, 0xe0",
    "mov edx, r8d",
    "mov eax, 0x80100",
    "mov dr0, rax",
    "mov eax, 0xd0401",
    "mov dr7, rax",
    "lea r15, [rip + 2f]",
    "mov dword ptr [0x80100], 5",
    "nop",
    "2: mov eax, [r14 + 16]",
    "sub eax, r15d",
    "out dx, eax",
    "mov rax, dr6",
    "out dx, eax",
    "mov rax, dr7",
    "out dx, eax",
    // User space moves the breakpoint.
    "lea r15, [rip + 3f]",
    "mov dword ptr [0x80100], 6",
    "mov eax, 7",
    "out dx, eax",
    "mov dword ptr [0x80200], 6",
    "3: mov rax, dr0",
    "out dx, eax",
    // On an instruction: DR1, before it.
    "lea r15, [rip + 5f]",
    "lea rax, [rip + 4f]",
    "mov dr1, rax",
    "mov eax, 0x404",
    "mov dr7, rax",
    "xor ebx, ebx",
    "4: inc ebx",
    "5: mov eax, ebx",
    "out dx, eax",
    "mov rax, dr6",
    "and eax, 0xf",
    "out dx, eax",
    // A single step.
    "xor eax, eax",
    "mov dr7, rax",
    "mov dr6, rax",
    "pushfq",
    "or dword ptr [rsp], 0x100",
    "popfq",
    "nop",
    "mov rax, dr6",
    "out dx, eax",
    "mov edx, 0xe1",
    "out dx, al",
}

guest_code! {
    // Ends single-stepping.
    step_handler,
    "inc word ptr [r14 + 130]",
    "btr qword ptr [rsp + 16], 8",
    "iretq",
}

/// The guest's own debug registers.
pub fn debug_registers(t: &mut Tap) {
    let g = Guest::long(breakpoints());
    let v = &g.cpus[0];
    t.same(
        "a data breakpoint: RIP behind it",
        value(&g),
        Ok(0xffff_ffff),
    );
    t.same("DR6", value(&g), Ok(0xffff_0ff1));
    t.same("DR7", value(&g), Ok(0xd_0401));
    let mut d: kvm_debugregs = v.fd.get(k::GET_DEBUGREGS).expect("KVM_GET_DEBUGREGS");
    t.same(
        "user space reads them",
        (d.db[0], d.dr6, d.dr7),
        (0x8_0100, 0xffff_0ff1, 0xd_0401),
    );
    d.db[0] = 0x8_0200;
    t.same(
        "and sets them",
        v.fd.set(k::SET_DEBUGREGS, &d),
        Answer::Ok(0),
    );
    t.same("the old place is free", value(&g), Ok(7));
    t.same(
        "the new one is not",
        (value(&g), count(&g, 1)),
        (Ok(0x8_0200), 2),
    );
    t.same("an instruction is not executed", value(&g), Ok(0));
    t.same("DR6", value(&g), Ok(2));
    g.load(CODE + 0x800, step_handler());
    boot::gate(&g.mem, 1, CODE + 0x800);
    t.same("a single step", value(&g), Ok(0xffff_4ff0));
    t.same("four in all", count(&g, 1), 4);
}

/// Several events at once by KVM_SET_VCPU_EVENTS: what no processor has at once is not refused, and one
/// of them counts.
pub fn several_events(t: &mut Tap) {
    let set = |g: &Guest, f: &dyn Fn(&mut kvm_vcpu_events)| {
        let mut e: kvm_vcpu_events = sys::zeroed();
        f(&mut e);
        g.cpus[0].fd.set(k::SET_VCPU_EVENTS, &e)
    };
    let exception = |g: &Guest| {
        let e = g.cpus[0].events().exception;
        (e.injected, e.pending, e.nr)
    };
    let counts = |g: &Guest| (count(g, 2), count(g, 6), count(g, 0x40));
    let make = || {
        let g = Guest::long(again());
        let mut r = g.cpus[0].regs();
        r.r15 = CODE + 5;
        g.cpus[0].set_regs(&r);
        g
    };
    let ok = Answer::Ok(0);

    let g = make();
    t.same("the guest runs", value(&g), Ok(0));
    let r = set(&g, &|e| (e.exception.pending, e.exception.nr) = (1, 6));
    t.same("pending, without payloads", r, ok);
    let (injected, pending, _) = exception(&g);
    t.same("it is dropped", (injected, pending), (0, 0));
    t.same(
        "the guest goes on",
        (value(&g), counts(&g)),
        (Ok(0), (0, 0, 0)),
    );
    let r = set(&g, &|e| {
        (e.exception.injected, e.exception.nr) = (1, 6);
        (e.nmi.injected, e.interrupt.injected, e.interrupt.nr) = (1, 1, 0x40);
    });
    t.same("an exception, an NMI and an interrupt", r, ok);
    t.same(
        "the exception counts",
        (value(&g), counts(&g)),
        (Ok(1), (0, 1, 0)),
    );
    let r = set(&g, &|e| {
        (e.nmi.injected, e.interrupt.injected, e.interrupt.nr) = (1, 1, 0x40);
    });
    t.same("an NMI and an interrupt", r, ok);
    t.same("the NMI is seen", g.cpus[0].events().nmi.injected, 1);
    t.same(
        "the NMI counts",
        (value(&g), counts(&g)),
        (Ok(2), (1, 1, 0)),
    );

    let g = make();
    let r = crate::guest::enable(&g.vm, KVM_CAP_EXCEPTION_PAYLOAD, 1);
    t.same("payloads", r, ok);
    t.same("the guest runs", value(&g), Ok(0));
    let r = set(&g, &|e| {
        e.flags = KVM_VCPUEVENT_VALID_PAYLOAD;
        (e.exception.injected, e.exception.pending, e.exception.nr) = (1, 1, 6);
    });
    t.same("injected and pending", r, ok);
    t.same("it is pending", exception(&g), (0, 1, 6));
    t.same("it comes", (value(&g), counts(&g)), (Ok(1), (0, 1, 0)));

    // What a pending #DB has is not all in DR6: not bit 12, and nothing has an upper half.
    let r = set(&g, &|e| {
        e.flags = KVM_VCPUEVENT_VALID_PAYLOAD;
        (e.exception.pending, e.exception.nr) = (1, 1);
        (e.exception_has_payload, e.exception_payload) = (1, 1 << 32 | 1 << 14 | 1 << 12 | 1);
    });
    t.same("a #DB with a payload", r, ok);
    t.same("it comes", (value(&g), count(&g, 1)), (Ok(2), 1));
    let v = &g.cpus[0];
    let d: kvm_debugregs = v.fd.get(k::GET_DEBUGREGS).expect("KVM_GET_DEBUGREGS");
    t.same("DR6", d.dr6 as u32, 0xffff_4ff1);
    if !table::stock() {
        // It keeps the upper half, and user space cannot set what it has read.
        t.same("its upper half", d.dr6 >> 32, 0);
        t.same("it can be set", v.fd.set(k::SET_DEBUGREGS, &d), ok);
    }
}
