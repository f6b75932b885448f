// SPDX-License-Identifier: GPL-2.0

//! What system management mode leaves of a vCPU, and when it begins.

use super::windows::value;
use crate::guest::boot;
use crate::guest::supported_cpuid;
use crate::guest::Exit;
use crate::guest::Guest;
use crate::guest::Plan;
use crate::guest::CODE;
use crate::guest_code;
use crate::sys::Answer;
use crate::table;
use crate::tap::Tap;
use crate::uapi as k;
use kvm_bindings::*;

/// Where the handler begins.
const HANDLER: u64 = 0x3_8000;
/// What the handler says.
const HANDLED: u32 = 0x5a;

guest_code! {
    // mov al, 0x5a; out 0xe0, al; rsm
    handler,
    ".byte 0xb0, 0x5a, 0xe6, 0xe0, 0x0f, 0xaa",
}

guest_code! {
    // EFER, again and again.
    efer_32,
    ".code32",
    "2: mov ecx, 0xc0000080",
    "rdmsr",
    "out 0xe0, eax",
    "jmp 2b",
}

guest_code! {
    efer_handler,
    ".code16",
    "mov ecx, 0xc0000080",
    "rdmsr",
    "out 0xe0, eax",
    "rsm",
}

fn with_handler(g: &Guest, code: &[u8]) {
    let len = Plan::default().mem;
    g.slot(1 << 16, 0, 0, len, 0).ok().expect("memory");
    g.load(HANDLER, code);
}

fn smi(g: &Guest) -> Answer {
    g.cpus[0].fd.call(k::SMI, 0)
}

/// The save area without long mode has no place for EFER, which a processor without it may have all
/// the same.
pub fn efer_without_long_mode(t: &mut Tap) {
    let mut g = Guest::new(Plan {
        cpus: 0,
        ..Plan::default()
    });
    g.add_cpu(0, false);
    let mut cpuid = supported_cpuid(&g.dev);
    for e in cpuid[8..].chunks_exact_mut(size_of::<kvm_cpuid_entry2>()) {
        if e[..4] == 0x8000_0001u32.to_ne_bytes() {
            // EDX bit 29.
            e[4 * 6 + 3] &= !(1 << 5);
        }
    }
    let v = &g.cpus[0];
    let r = v.fd.bytes(k::SET_CPUID2, &mut cpuid);
    t.same("no long mode", r, Answer::Ok(0));
    g.load(CODE, efer_32());
    boot::tables(&g.mem);
    with_handler(&g, efer_handler());
    g.start_32(0, CODE);
    let mut s = v.sregs();
    s.efer = 0x800;
    v.set_sregs(&s);
    t.same("EFER.NXE", value(&g), Ok(0x800));
    t.same("an SMI", smi(&g), Answer::Ok(0));
    t.same("in the handler", value(&g), Ok(0x800));
    t.same("after it", value(&g), Ok(0x800));
    t.same("as user space sees", v.sregs().efer, 0x800);
}

guest_code! {
    runs,
    "2: mov al, 1",
    "out 0xe0, al",
    "nop",
    "jmp 2b",
}

/// Where the save area has the interrupt shadow.
const SHADOW: usize = 0x3_fecb;

/// The shadow is in the save area with the numbers of the interface, and comes back.
pub fn shadow(t: &mut Tap) {
    let g = Guest::long(runs());
    with_handler(&g, handler());
    let v = &g.cpus[0];
    for (what, shadow) in [("none", 0u8), ("MOV SS", 1), ("STI", 2)] {
        t.same(format!("{what}: it runs"), value(&g), Ok(1));
        v.immediate_exit(true);
        let _ = g.enter();
        v.immediate_exit(false);
        let mut r = v.regs();
        r.rflags = 0x202;
        v.set_regs(&r);
        let mut e = v.events();
        e.flags = KVM_VCPUEVENT_VALID_SHADOW;
        e.interrupt.shadow = shadow;
        let set = v.fd.set(k::SET_VCPU_EVENTS, &e);
        t.same(format!("{what}: set"), set, Answer::Ok(0));
        let shown = v.events().interrupt.shadow;
        // AMD's has one bit for both.
        let want = if table::intel() || shadow == 0 {
            shadow
        } else {
            3
        };
        t.same(format!("{what}: shown"), shown, want);
        t.same(format!("{what}: an SMI"), smi(&g), Answer::Ok(0));
        t.same(format!("{what}: the handler"), value(&g), Ok(HANDLED));
        let saved: u8 = g.mem.load(SHADOW);
        t.same(format!("{what}: in the save area"), saved, want);
    }
    t.same("it goes on", value(&g), Ok(1));
}

guest_code! {
    // An exception's handler that takes its time, with interrupts off.
    slow,
    "mov ecx, 20000000",
    "2: inc dword ptr [0x80000]",
    "dec ecx",
    "jnz 2b",
    "mov al, 2",
    "out 0xe0, al",
    "hlt",
}

/// An SMI that comes while an exception is being delivered begins right after it: that interrupts are
/// off does not hold it back.
pub fn after_delivery(t: &mut Tap) {
    let g = Guest::long(runs());
    with_handler(&g, handler());
    g.load(CODE + 0x800, slow());
    boot::gate(&g.mem, 6, CODE + 0x800);
    let v = &g.cpus[0];
    t.same("it runs", value(&g), Ok(1));
    let mut e = v.events();
    e.flags = KVM_VCPUEVENT_VALID_SMM;
    (e.exception.injected, e.exception.nr) = (1, 6);
    e.smi.pending = 1;
    let r = v.fd.set(k::SET_VCPU_EVENTS, &e);
    t.same("#UD is being delivered, and an SMI", r, Answer::Ok(0));
    t.same("the SMI", value(&g), Ok(HANDLED));
    let done: u32 = g.mem.load(0x8_0000);
    t.same("right after it: rounds of its handler", done, 0);
    t.same("the handler of #UD ends", value(&g), Ok(2));
    t.same("all of it", g.mem.load::<u32>(0x8_0000), 20_000_000);
    t.same("the guest halts", g.enter(), Ok(Exit::Hlt));
}
