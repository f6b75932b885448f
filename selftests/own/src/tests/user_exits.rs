// SPDX-License-Identifier: GPL-2.0

//! Exits that user space gets only where it has part of the machine, or asked for them.

use crate::guest::asm::mailbox;
use crate::guest::boot;
use crate::guest::Exit;
use crate::guest::Guest;
use crate::guest::Irqchip;
use crate::guest::Plan;
use crate::guest::PORT_END;
use crate::guest_code;
use crate::tap::Tap;
use kvm_bindings::*;

/// Offset of `cr8` in `struct kvm_run`.
const RUN_CR8: usize = 16;

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
