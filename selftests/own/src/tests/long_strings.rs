// SPDX-License-Identifier: GPL-2.0

//! Strings on devices of user space, where a REP comes to an end when the guest likes: what waits for
//! the vCPU, and what user space wants of it, does not wait for that.

use super::windows::count;
use super::windows::interrupt;
use super::windows::value;
use super::windows::want_window;
use crate::guest::Exit;
use crate::guest::Guest;
use crate::guest::Irqchip;
use crate::guest::Plan;
use crate::guest_code;
use crate::sys;
use crate::sys::Answer;
use crate::tap::Tap;
use crate::uapi as k;
use kvm_bindings::*;

/// No memory is there.
const DEVICE: u64 = 0xe000_0000;
/// More than any of the tests looks at.
const LONG: u64 = 1 << 40;
/// Elements that are read in a row, at most; the in-tree module's number.
const READS: usize = 1024;

guest_code! {
    /// RCX, the flags, where the local APIC is and whether to begin with STI are the test's.
    stores,
    "test ebx, ebx",
    "jz 1f",
    "mov dword ptr [rbx + 0xf0], 0x1ff",
    "1: mov edx, 0xe0",
    "out dx, al",
    "mov edi, 0xe0000000",
    "mov eax, 0x5a",
    "test esi, esi",
    "jz 2f",
    "sti",
    "2: rep stosb",
    "mov edx, 0xe1",
    "out dx, al",
}

guest_code! {
    /// The same page again and again: there is no end to it.
    loads,
    "mov esi, 0xe0000000",
    "sti",
    "rep lodsb",
    "mov edx, 0xe1",
    "out dx, al",
}

guest_code! {
    inputs,
    "mov edi, 0xe0000000",
    "mov edx, 0x60",
    "sti",
    "rep insb",
    "mov edx, 0xe1",
    "out dx, al",
}

/// One that has interrupts on from before the string on, or from right before it, or not at all.
fn guest(irqchip: Irqchip, code: &[u8], sti: bool) -> Guest {
    let plan = Plan {
        irqchip,
        ..Plan::default()
    };
    let g = Guest::long_with(plan, code);
    let mut r = g.cpus[0].regs();
    r.rcx = LONG;
    r.rsi = u64::from(sti);
    r.rbx = if irqchip == Irqchip::Full {
        0xfee0_0000
    } else {
        0
    };
    g.cpus[0].set_regs(&r);
    g
}

fn enter(g: &Guest) -> Result<Exit, i32> {
    sys::limited(5000, || g.enter())
}

/// Elements from `first` on, each at its place; how many there were.
fn goes_on(g: &Guest, first: u64, n: u64) -> u64 {
    let is = |i: u64| matches!(enter(g), Ok(Exit::MmioWrite { addr, .. }) if addr == DEVICE + i);
    (first..first + n).take_while(|i| is(*i)).count() as u64
}

/// What comes to a vCPU in the middle of a REP STOSB is taken after an element.
pub fn long_string(t: &mut Tap) {
    let g = guest(Irqchip::None, stores(), true);
    let v = &g.cpus[0];
    t.same("it is about to begin", value(&g).is_ok(), true);
    t.same("the string begins", goes_on(&g, 0, 10), 10);
    want_window(&g, true);
    t.same("user space has a window", enter(&g), Ok(Exit::IrqWindow));
    t.same("KVM_INTERRUPT", interrupt(&g, 0x40), Answer::Ok(0));
    want_window(&g, false);
    t.same("it goes on", goes_on(&g, 10, 1), 1);
    t.same("behind the interrupt", count(&g, 0x40), 1);
    t.same("an NMI", v.fd.call(k::NMI, 0), Answer::Ok(0));
    t.same("it goes on", goes_on(&g, 11, 1), 1);
    t.same("behind the NMI", count(&g, 2), 1);
    v.immediate_exit(true);
    t.same("immediate exit", enter(&g), Err(libc::EINTR));
    t.same("again", enter(&g), Err(libc::EINTR));
    let r = v.regs();
    t.same("twelve are done", LONG - r.rcx, 12);
    t.same("RDI", r.rdi, DEVICE + 12);
    v.immediate_exit(false);
    t.same("it goes on", goes_on(&g, 12, 600), 600);

    let g = guest(Irqchip::Full, stores(), true);
    let v = &g.cpus[0];
    let mut m: kvm_msi = sys::zeroed();
    (m.address_lo, m.data) = (0xfee0_0000, 0x41);
    t.same("the APIC is on", value(&g).is_ok(), true);
    t.same("in the kernel: it begins", goes_on(&g, 0, 5), 5);
    t.same("an MSI", g.vm.set(k::SIGNAL_MSI, &m), Answer::Ok(1));
    t.same("it goes on", goes_on(&g, 5, 1), 1);
    t.same("behind the interrupt", count(&g, 0x41), 1);
    let at = sys::limited(200, || loop {
        if !matches!(g.enter(), Ok(Exit::MmioWrite { .. })) {
            break v.regs().rdi - DEVICE;
        }
    });
    t.point(at > 5, format!("a signal ends KVM_RUN, after {at}"));
}

/// An interrupt that waits for STI is taken after the first element behind it.
pub fn long_string_shadow(t: &mut Tap) {
    for (sti, want) in [(true, 1), (false, 0)] {
        let g = guest(Irqchip::Full, stores(), sti);
        let v = &g.cpus[0];
        let mut r = v.regs();
        r.rflags &= !(1 << 9);
        v.set_regs(&r);
        t.same("the APIC is on", value(&g).is_ok(), true);
        let mut m: kvm_msi = sys::zeroed();
        (m.address_lo, m.data) = (0xfee0_0000, 0x42);
        t.same("an MSI", g.vm.set(k::SIGNAL_MSI, &m), Answer::Ok(1));
        t.same("the first element", goes_on(&g, 0, 1), 1);
        t.same("it waits", count(&g, 0x42), 0);
        t.same("the second", goes_on(&g, 1, 1), 1);
        t.same(format!("with STI: {sti}"), count(&g, 0x42), want);
    }
}

/// Strings that read from a device, and those of ports.
pub fn long_string_reads(t: &mut Tap) {
    for (what, code) in [("LODS", loads()), ("INS", inputs())] {
        let g = guest(Irqchip::None, code, true);
        let v = &g.cpus[0];
        let next = || {
            let e = enter(&g);
            if matches!(e, Ok(Exit::MmioRead { .. } | Exit::In { .. })) {
                let len = match &e {
                    Ok(Exit::MmioRead { len, .. }) => *len as usize,
                    _ => 0,
                };
                if let Ok(e) = &e {
                    v.answer(e, &vec![0x77; len.max(1)]);
                }
            }
            e
        };
        for _ in 0..10 {
            let going = matches!(next(), Ok(e) if !matches!(e, Exit::Out { .. }));
            t.same(format!("{what}: it goes on"), going, true);
        }
        let before = LONG - v.regs().rcx;
        v.immediate_exit(true);
        let until = (0..2 * READS).find(|_| next() == Err(libc::EINTR));
        let soon = until.is_some_and(|n| n <= READS);
        t.point(soon, format!("{what}: immediate exit after {until:?}"));
        v.immediate_exit(false);
        let done = LONG - v.regs().rcx;
        t.point(
            done >= before,
            format!("{what}: {done} elements, not {before}"),
        );
    }
}
