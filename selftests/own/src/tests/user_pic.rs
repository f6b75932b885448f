// SPDX-License-Identifier: GPL-2.0

//! Interrupts of a PIC in user space, behind a local APIC in the kernel or without one, and what
//! user space sees of those that wait.

use super::windows::again;
use super::windows::count;
use super::windows::interrupt;
use super::windows::ready;
use super::windows::value;
use super::windows::want_window;
use super::windows::window;
use crate::guest::enable;
use crate::guest::Exit;
use crate::guest::Guest;
use crate::guest::Irqchip;
use crate::guest::Plan;
use crate::guest::PORT_FAULT;
use crate::guest_code;
use crate::sys;
use crate::sys::Answer;
use crate::table;
use crate::tap::Tap;
use crate::uapi as k;
use kvm_bindings::*;

/// The local vector table's entry of LINT0, and its mask bit.
const LVT0: usize = 0x350;
const MASKED: u32 = 1 << 16;

fn split(code: &[u8]) -> Guest {
    let plan = Plan {
        irqchip: Irqchip::Split,
        ..Plan::default()
    };
    Guest::long_with(plan, code)
}

fn enter(g: &Guest) -> Result<Exit, i32> {
    sys::limited(5000, || g.enter())
}

fn set_events(g: &Guest, e: &kvm_vcpu_events) -> Answer {
    g.cpus[0].fd.set(k::SET_VCPU_EVENTS, e)
}

/// The window for an interrupt, with the local APIC in the kernel.
pub fn split_window(t: &mut Tap) {
    let g = split(window());
    t.same("interrupts off", value(&g), Ok(1));
    want_window(&g, true);
    t.same("asking changes nothing", value(&g), Ok(2));
    t.same("not ready", ready(&g), (0, 0));
    t.same("the window opens", enter(&g), Ok(Exit::IrqWindow));
    t.same("ready", ready(&g), (1, 1));
    t.same("KVM_INTERRUPT", interrupt(&g, 0x40), Answer::Ok(0));
    want_window(&g, false);
    t.same("the guest goes on", value(&g), Ok(3));
    t.same("with one interrupt", value(&g), Ok(1));
    t.same("of that vector", count(&g, 0x40), 1);
}

/// While LINT0 is masked the local APIC takes nothing from a PIC.
pub fn masked_pic(t: &mut Tap) {
    let g = split(again());
    let v = &g.cpus[0];
    let mask = |on: bool| {
        let mut l: kvm_lapic_state = v.fd.get(k::GET_LAPIC).expect("KVM_GET_LAPIC");
        let mut lvt = 0u32;
        for i in (0..4).rev() {
            lvt = lvt << 8 | u32::from(l.regs[LVT0 + i] as u8);
        }
        let lvt = if on { lvt | MASKED } else { lvt & !MASKED };
        for (i, b) in lvt.to_le_bytes().into_iter().enumerate() {
            // CAST: the header has them signed.
            l.regs[LVT0 + i] = b as _;
        }
        v.fd.set(k::SET_LAPIC, &l)
    };
    t.same("the guest runs", value(&g), Ok(0));
    t.same("LINT0 is masked", mask(true), Answer::Ok(0));
    want_window(&g, true);
    for _ in 0..2 {
        t.same("no window for user space", value(&g), Ok(0));
    }
    t.same("KVM_INTERRUPT", interrupt(&g, 0x41), Answer::Ok(0));
    for _ in 0..2 {
        t.same("it waits", value(&g), Ok(0));
    }
    want_window(&g, false);
    t.same("LINT0 is not masked", mask(false), Answer::Ok(0));
    t.same("it comes", value(&g), Ok(1));
    t.same("no other comes", value(&g), Ok(1));
    t.same("that vector", count(&g, 0x41), 1);
}

/// Reading what user space can of a vCPU for which a vector waits, and writing it back.
pub fn waiting_vector(t: &mut Tap) {
    let bitmap = |g: &Guest| g.cpus[0].sregs().interrupt_bitmap;
    let injected = |g: &Guest| {
        let i = g.cpus[0].events().interrupt;
        (i.injected, i.soft)
    };
    let back = |g: &Guest| {
        let v = &g.cpus[0];
        let (e, s) = (v.events(), v.sregs());
        v.set_sregs(&s);
        set_events(g, &e)
    };
    let g = split(again());
    t.same("split: the guest runs", value(&g), Ok(0));
    t.same("split: KVM_INTERRUPT", interrupt(&g, 0x43), Answer::Ok(0));
    t.same("split: the APIC's, not an event", injected(&g), (0, 0));
    t.same("split: nor in the bitmap", bitmap(&g), [0; 4]);
    t.same("split: written back", back(&g), Answer::Ok(0));
    t.same(
        "split: it still waits",
        interrupt(&g, 0x44),
        Answer::Err(libc::EEXIST),
    );
    t.same("split: it comes", value(&g), Ok(1));
    t.same("split: once", value(&g), Ok(1));
    t.same("split: that vector", count(&g, 0x43), 1);

    let g = Guest::long(again());
    t.same("the guest runs", value(&g), Ok(0));
    want_window(&g, true);
    t.same("the window opens", enter(&g), Ok(Exit::IrqWindow));
    t.same("KVM_INTERRUPT", interrupt(&g, 0x43), Answer::Ok(0));
    want_window(&g, false);
    t.same("an event", injected(&g), (1, 0));
    t.same("in the bitmap", bitmap(&g), [0, 1 << 3, 0, 0]);
    t.same("written back", back(&g), Answer::Ok(0));
    t.same("it comes", value(&g), Ok(1));
    t.same("once", value(&g), Ok(1));
    t.same("that vector", count(&g, 0x43), 1);
    want_window(&g, true);
    t.same("another window", enter(&g), Ok(Exit::IrqWindow));
    t.same("KVM_INTERRUPT", interrupt(&g, 0x45), Answer::Ok(0));
    want_window(&g, false);
    let s = g.cpus[0].sregs();
    g.cpus[0].set_sregs(&s);
    t.same("by the bitmap alone", value(&g), Ok(2));
    t.same("it comes once", value(&g), Ok(2));
    t.same("that other vector", count(&g, 0x45), 1);
    want_window(&g, true);
    t.same("one more window", enter(&g), Ok(Exit::IrqWindow));
    want_window(&g, false);
    let mut e = g.cpus[0].events();
    (e.interrupt.injected, e.interrupt.nr) = (1, 0x46);
    t.same("an event", set_events(&g, &e), Answer::Ok(0));
    let mut s = g.cpus[0].sregs();
    s.interrupt_bitmap = [0; 4];
    g.cpus[0].set_sregs(&s);
    t.same("an empty bitmap takes nothing back", injected(&g), (1, 0));
    t.same("it comes", value(&g), Ok(3));
    t.same("the third vector", count(&g, 0x46), 1);
}

/// A vector that the PIC has handed out, and that waits because an exception came first, is one of the
/// vCPU's events: who sets others takes it back.
pub fn replaced_vector(t: &mut Tap) {
    let plan = Plan {
        irqchip: Irqchip::Full,
        ..Plan::default()
    };
    let g = Guest::long_with(plan, again());
    let r = enable(&g.vm, KVM_CAP_EXCEPTION_PAYLOAD, 1);
    t.same("payloads", r, Answer::Ok(0));
    t.same("the guest runs", value(&g), Ok(0));
    let both = || {
        let mut e = g.cpus[0].events();
        (e.interrupt.injected, e.interrupt.nr) = (1, 0x47);
        (e.exception.pending, e.exception.nr) = (1, 6);
        let set = set_events(&g, &e);
        (set, enter(&g), g.cpus[0].events())
    };
    let out = Exit::Out {
        port: PORT_FAULT,
        size: 4,
        count: 1,
        data: vec![6, 0, 0, 0],
    };
    let (set, exit, mut e) = both();
    t.same("an exception and a vector", set, Answer::Ok(0));
    t.same("the exception comes first", exit, Ok(out.clone()));
    e.interrupt.injected = 0;
    t.same("no vector", set_events(&g, &e), Answer::Ok(0));
    t.same("the guest goes on", value(&g), Ok(1));
    t.same("no other event", value(&g), Ok(1));
    t.same("not that vector", count(&g, 0x47), 0);
    if table::stock() {
        // It loses the vector.
        return;
    }
    let (_, exit, e) = both();
    t.same("once more", exit, Ok(out));
    let shown = (e.interrupt.injected, e.interrupt.nr);
    t.same("it is shown", shown, (1, 0x47));
    t.same("it comes", value(&g), Ok(3));
    t.same("once", value(&g), Ok(3));
    t.same("that vector", count(&g, 0x47), 1);
}

guest_code! {
    software,
    "mov edx, 0xe0",
    "mov eax, 1",
    "out dx, eax",
    "int 0x80",
    "mov eax, 2",
    "out dx, eax",
    "mov edx, 0xe1",
    "out dx, al",
}

/// INT whose delivery was cut short is not shown to user space: the guest executes it again.
pub fn cut_short(t: &mut Tap) {
    let g = Guest::long(software());
    let v = &g.cpus[0];
    t.same("the guest runs", value(&g), Ok(1));
    let mut r = v.regs();
    let stack = r.rsp;
    r.rsp = 0xe000_0800;
    v.set_regs(&r);
    t.same(
        "the stack is a device",
        enter(&g),
        Ok(Exit::Internal(KVM_INTERNAL_ERROR_DELIVERY_EV)),
    );
    let mut e = v.events();
    t.same("no event", (e.interrupt.injected, e.interrupt.soft), (0, 0));
    t.same("written back", set_events(&g, &e), Answer::Ok(0));
    let mut r = v.regs();
    t.same("RIP is at the INT", g.mem.load::<u8>(r.rip as usize), 0xcd);
    r.rsp = stack;
    v.set_regs(&r);
    t.same("the guest goes on", value(&g), Ok(2));
    t.same("INT once", count(&g, 0x80), 1);
    if table::intel() {
        // The in-tree module takes the length of the last exit there, with which no entry may be
        // possible.
        return;
    }
    // What another may have saved. The instruction decides where the guest goes on.
    let g = Guest::long(software());
    r.rax = 1;
    g.cpus[0].set_regs(&r);
    e.interrupt.injected = 1;
    e.interrupt.soft = 1;
    e.interrupt.nr = 0x80;
    t.same(
        "one that is said to be soft",
        set_events(&g, &e),
        Answer::Ok(0),
    );
    e = g.cpus[0].events();
    t.same(
        "it is not shown",
        (e.interrupt.injected, e.interrupt.soft),
        (0, 0),
    );
    t.same("the guest goes on", value(&g), Ok(2));
    t.same("INT once", count(&g, 0x80), 1);
}
