// SPDX-License-Identifier: GPL-2.0

//! What user space gives a vCPU that hardware has in a state of its own: an SMI or registers while it
//! halts without an exit, an exception with an error code in a mode that has none.

use super::windows::count;
use super::windows::value;
use crate::guest::boot;
use crate::guest::enable;
use crate::guest::Exit;
use crate::guest::Guest;
use crate::guest::Plan;
use crate::guest::CODE;
use crate::guest_code;
use crate::sys;
use crate::sys::Answer;
use crate::table;
use crate::tap::Tap;
use crate::uapi as k;
use kvm_bindings::*;

guest_code! {
    // Halts and says so, again and again. With interrupts on: Bochs would not let the host have its
    // own otherwise.
    halts,
    "2: sti",
    "hlt",
    "mov eax, 0x17",
    "out 0xe0, al",
    "jmp 2b",
}

guest_code! {
    elsewhere,
    "mov eax, 0x33",
    "out 0xe0, al",
    "hlt",
    "mov eax, 0x34",
    "out 0xe0, al",
}

/// Where that is.
const ELSEWHERE: u64 = CODE + 0x1000;

/// Runs until the vCPU has halted by itself. True if it still does; false if the exit that the halt led
/// to has ended it, as on SVM and in Bochs, so that it has said so.
fn halted(t: &mut Tap, what: &str, g: &Guest, said: u8) -> bool {
    let e = sys::limited(300, || g.enter());
    let out = matches!(&e, Ok(Exit::Out { data, .. }) if *data == [said]);
    let stays = e == Err(libc::EINTR);
    t.point(stays || out, format!("{what}: it halts: {e:x?}"));
    stays
}

/// What it says next; EINTR if it halts for two seconds.
fn says(g: &Guest) -> Result<u8, String> {
    match sys::limited(2000, || g.enter()) {
        Ok(Exit::Out {
            port: 0xe0, data, ..
        }) => Ok(data[0]),
        e => Err(format!("{e:x?}")),
    }
}

/// KVM_SMI, KVM_SET_REGS and KVM_SET_MP_STATE for a vCPU that has halted without an exit.
pub fn native_halt(t: &mut Tap) {
    let mut g = Guest::new(Plan {
        cpus: 0,
        ..Plan::default()
    });
    let hlt = u64::from(KVM_X86_DISABLE_EXITS_HLT);
    let r = enable(&g.vm, KVM_CAP_X86_DISABLE_EXITS, hlt);
    t.same("HLT does not exit", r, Answer::Ok(0));
    g.add_cpu(0, true);
    boot::tables(&g.mem);
    g.load(CODE, halts());
    g.load(ELSEWHERE, elsewhere());
    // System management mode: mov al, 0x5a; out 0xe0, al; rsm.
    let r = g.slot(1 << 16, 0, 0, g.mem.len(), 0);
    t.same("memory", r, Answer::Ok(0));
    g.load(0x3_8000, &[0xb0, 0x5a, 0xe6, 0xe0, 0x0f, 0xaa]);
    g.start_long(0, CODE);
    let v = &g.cpus[0];

    let stays = halted(t, "KVM_SMI", &g, 0x17);
    println!("# a halt lasts over exits: {stays}");
    t.same("KVM_SMI", v.fd.call(k::SMI, 0), Answer::Ok(0));
    t.same("its handler runs", says(&g), Ok(0x5a));
    t.same("in that mode", v.events().smi.smm, 1);
    t.same("then the guest goes on", says(&g), Ok(0x17));
    t.same("out of that mode", v.events().smi.smm, 0);

    halted(t, "KVM_SET_REGS", &g, 0x17);
    let mut r = v.regs();
    r.rip = ELSEWHERE;
    v.set_regs(&r);
    if stays && table::stock() {
        // The in-tree module leaves it halted.
        return;
    }
    t.same("it goes on where it was set to", says(&g), Ok(0x33));
    // The same registers again are no reason to go on, the state is.
    if halted(t, "the same registers", &g, 0x34) {
        v.set_regs(&v.regs());
        let still = halted(t, "set again", &g, 0x34);
        t.point(still, "it still halts");
        let r = v.set_mp_state(KVM_MP_STATE_RUNNABLE);
        t.same("KVM_SET_MP_STATE", r, Answer::Ok(0));
        t.same("it goes on", says(&g), Ok(0x34));
    }
}

/// Where the vector table of real mode leads.
const HANDLER: u16 = 0x3000;

/// KVM_SET_VCPU_EVENTS with an exception that has an error code, in real mode, where none is pushed.
pub fn code_in_real_mode(t: &mut Tap) {
    let g = Guest::new(Plan::default());
    // out 0xe0, al; hlt
    g.load(CODE, &[0xe6, 0xe0, 0xf4]);
    // pop ax; out 0xe0, ax; pop ax; out 0xe0, ax; out 0xe1, al
    g.load(
        HANDLER.into(),
        &[0x58, 0xe7, 0xe0, 0x58, 0xe7, 0xe0, 0xe6, 0xe1],
    );
    for vector in 0..32 {
        g.mem.store::<u32>(4 * vector, HANDLER.into());
    }
    for (vector, pending) in [(13, false), (14, false), (13, true)] {
        let what = |s: &str| format!("vector {vector}, pending {pending}: {s}");
        g.start_real(0, CODE, 0);
        let v = &g.cpus[0];
        if pending {
            let r = enable(&g.vm, KVM_CAP_EXCEPTION_PAYLOAD, 1);
            t.same("payloads", r, Answer::Ok(0));
        }
        let mut e = v.events();
        e.exception.nr = vector;
        e.exception.injected = u8::from(!pending);
        e.exception.pending = u8::from(pending);
        (e.exception.has_error_code, e.exception.error_code) = (1, 0x1238);
        let r = v.fd.set(k::SET_VCPU_EVENTS, &e);
        t.same(what("set"), r, Answer::Ok(0));
        // IP and CS of where it was.
        let selector = (CODE >> 4) as u32;
        let stack = g.values();
        t.same(what("the stack"), stack, Some(vec![0, selector]));
    }
}

guest_code! {
    // A breakpoint with a prefix: how far behind it RIP was in its handler, from its end.
    prefixed,
    "mov edx, 0xe0",
    "mov eax, 1",
    "lea r15, [rip + 2f]",
    "out dx, eax",
    ".byte 0x66",
    "int3",
    "2: mov eax, [r14 + 16]",
    "sub eax, r15d",
    "out dx, eax",
    "mov edx, 0xe1",
    "out dx, al",
}

/// A breakpoint of two bytes that a debugger hands back to the guest.
pub fn prefixed_breakpoint(t: &mut Tap) {
    for inject in [false, true] {
        let g = Guest::long(prefixed());
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
        let at: u16 = g.mem.load(v.regs().rip as usize);
        t.same("RIP is at the prefix", at, 0xcc66);
        if inject {
            d.control |= KVM_GUESTDBG_INJECT_BP;
            let r = v.fd.set(k::SET_GUEST_DEBUG, &d);
            t.same("handed back by KVM_SET_GUEST_DEBUG", r, Answer::Ok(0));
        } else {
            let mut e = v.events();
            (e.exception.injected, e.exception.nr) = (1, 3);
            let r = v.fd.set(k::SET_VCPU_EVENTS, &e);
            t.same("handed back by KVM_SET_VCPU_EVENTS", r, Answer::Ok(0));
        }
        t.same("RIP is behind it", value(&g), Ok(0));
        t.same("one breakpoint", count(&g, 3), 1);
    }
}
