// SPDX-License-Identifier: GPL-2.0

//! INIT and start-up messages to vCPUs that run: who begins at the reset vector, and what is lost.

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

const APIC_BASE: u32 = 0x1b;
const BSP: u64 = 1 << 8;
const INIT: u32 = 5 << 8;

guest_code! {
    runs,
    "2: mov al, 1",
    "out 0xe0, al",
    "jmp 2b",
}

guest_code! {
    // Sends a start-up message to vCPU 1.
    sends,
    "mov ebx, 0xfee00000",
    "mov dword ptr [rbx + 0xf0], 0x1ff",
    "mov dword ptr [rbx + 0x310], 0x01000000",
    "mov dword ptr [rbx + 0x300], 0x4620",
    "mov al, 2",
    "out 0xe0, al",
    "hlt",
}

/// Where the other code is.
const SENDER: u64 = 0x1_1000;

fn pair() -> Guest {
    let plan = Plan {
        irqchip: Irqchip::Full,
        cpus: 2,
        ..Plan::default()
    };
    let g = Guest::long_with(plan, runs());
    g.cpus[1]
        .set_mp_state(KVM_MP_STATE_RUNNABLE)
        .ok()
        .expect("state");
    g
}

fn send(g: &Guest, cpu: u32, what: u32) -> Answer {
    let mut m: kvm_msi = sys::zeroed();
    (m.address_lo, m.data) = (0xfee0_0000 | cpu << 12, what);
    g.vm.set(k::SIGNAL_MSI, &m)
}

fn says(g: &Guest, cpu: usize) -> Result<Vec<u8>, String> {
    match sys::limited(5000, || g.cpus[cpu].enter()) {
        Ok(Exit::Out {
            port: 0xe0, data, ..
        }) => Ok(data),
        e => Err(format!("{e:x?}")),
    }
}

/// Who begins at the reset vector after INIT is who has the flag in IA32_APIC_BASE, whoever was made
/// the boot processor.
pub fn boot_flag(t: &mut Tap) {
    let g = pair();
    for (cpu, flag) in [(0, false), (1, true), (0, true), (1, false)] {
        let what = |s: &str| format!("vCPU {cpu}, flag {flag}: {s}");
        let v = &g.cpus[cpu];
        g.start_long(cpu, crate::guest::CODE);
        let r = v.set_mp_state(KVM_MP_STATE_RUNNABLE);
        t.same(what("runnable"), r, Answer::Ok(0));
        let base = v.msr(APIC_BASE).expect("IA32_APIC_BASE");
        let base = if flag { base | BSP } else { base & !BSP };
        t.same(what("set"), v.set_msr(APIC_BASE, base), true);
        t.same(what("it runs"), says(&g, cpu), Ok(vec![1]));
        t.same(what("INIT"), send(&g, cpu as u32, INIT), Answer::Ok(1));
        let state = v.mp_state();
        let want = if flag {
            KVM_MP_STATE_RUNNABLE
        } else {
            KVM_MP_STATE_INIT_RECEIVED
        };
        t.same(what("its state"), state, want);
        t.same(what("its RIP"), v.regs().rip, 0xfff0);
        t.same(what("the flag stays"), v.msr(APIC_BASE), Some(base));
    }
}

/// A start-up message to a vCPU that runs is lost, and starts nothing later.
pub fn lost_startup(t: &mut Tap) {
    let g = pair();
    let v = &g.cpus[1];
    t.same("it runs", says(&g, 1), Ok(vec![1]));
    g.load(SENDER, sends());
    g.start_long(0, SENDER);
    t.same("SIPI", says(&g, 0), Ok(vec![2]));
    t.same("it runs on", says(&g, 1), Ok(vec![1]));
    let r = v.set_mp_state(KVM_MP_STATE_INIT_RECEIVED);
    t.same("it has to wait for SIPI", r, Answer::Ok(0));
    let e = sys::limited(100, || v.enter());
    t.same("it waits", e, Err(libc::EINTR));
    let state = v.mp_state();
    t.same("still", state, KVM_MP_STATE_INIT_RECEIVED);
}
