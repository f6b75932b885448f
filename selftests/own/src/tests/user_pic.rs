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
use crate::guest::Exit;
use crate::guest::Guest;
use crate::guest::Irqchip;
use crate::guest::Plan;
use crate::sys;
use crate::sys::Answer;
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
