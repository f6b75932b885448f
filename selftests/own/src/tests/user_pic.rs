// SPDX-License-Identifier: GPL-2.0

//! Interrupts of a PIC in user space, behind a local APIC in the kernel or without one, and what
//! user space sees of those that wait.

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
