// SPDX-License-Identifier: GPL-2.0

//! Interrupts between two vCPUs, one after the other and in bursts, to a receiver that halts, that runs,
//! and that runs with its interrupts off most of the time. Each is counted; none may get lost, and none
//! may come twice.

use crate::guest::asm::mailbox;
use crate::guest::boot;
use crate::guest::Exit;
use crate::guest::Guest;
use crate::guest::Irqchip;
use crate::guest::Plan;
use crate::guest::CODE;
use crate::guest::PORT_END;
use crate::guest_code;
use crate::sys;
use crate::tap::Tap;
use kvm_bindings::*;

guest_code! {
    // Both vCPUs. EDI: 1 xAPIC, 2 x2APIC. ESI: what the receiver does, as in `Receiver`. R8: rounds.
    // R9: the other's mailbox. R12: the other's id. R13: 0 for the sender.
    storm,
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
    "3: xor r10d, r10d",
    "mov dword ptr [r14 + 56], 1",
    // A message to an APIC that is off would be lost rightly.
    "4: pause",
    "cmp dword ptr [r9 + 56], 1",
    "jne 4b",
    "test r13d, r13d",
    "jnz 30f",
    // The sender.
    "10: cmp r10d, r8d",
    "je 90f",
    "inc r10d",
    "cmp esi, 3",
    "jae 20f",
    "mov eax, 0x4040",
    "call 80f",
    "test esi, esi",
    "jnz 12f",
    // Both halt: it is told by an interrupt.
    "11: cli",
    "cmp [r14 + 128 + 2 * 0x41], r10w",
    "je 10b",
    "sti",
    "hlt",
    "jmp 11b",
    "12: pause",
    "cmp [r9 + 128 + 2 * 0x40], r10w",
    "jne 12b",
    "jmp 10b",
    // Sixteen vectors in a row.
    "20: mov r11d, 0x4050",
    "21: mov eax, r11d",
    "call 80f",
    "inc r11d",
    "cmp r11d, 0x4060",
    "jne 21b",
    "mov r11d, r10d",
    "shl r11d, 4",
    "22: pause",
    "cmp [r9 + 40], r11d",
    "jne 22b",
    "jmp 10b",
    // The receiver.
    "30: cmp esi, 1",
    "je 50f",
    "cmp esi, 2",
    "je 60f",
    "cmp esi, 4",
    "je 50f",
    "cmp esi, 3",
    "je 70f",
    "40: cli",
    "cmp r10d, r8d",
    "je 90f",
    "cmp [r14 + 128 + 2 * 0x40], r10w",
    "jne 41f",
    "sti",
    "hlt",
    "jmp 40b",
    "41: inc r10d",
    "mov eax, 0x4041",
    "call 80f",
    "jmp 40b",
    "50: mov r11d, r8d",
    "cmp esi, 4",
    "jne 51f",
    "shl r11d, 4",
    "51: sti",
    "52: pause",
    "cmp [r14 + 40], r11d",
    "jne 52b",
    "jmp 90f",
    "60: mov r11d, r8d",
    "61: cli",
    "mov ecx, 100",
    // With interrupts off nothing may come.
    "mov rdx, [r14 + 40]",
    "62: pause",
    "dec ecx",
    "jnz 62b",
    "cmp rdx, [r14 + 40]",
    "je 63f",
    "inc qword ptr [0x80000]",
    "63: sti",
    "nop",
    "nop",
    "cmp [r14 + 40], r11d",
    "jne 61b",
    "jmp 90f",
    "70: mov r11d, r8d",
    "shl r11d, 4",
    "71: cli",
    "cmp [r14 + 40], r11d",
    "je 90f",
    "sti",
    "hlt",
    "jmp 71b",
    // EAX is sent.
    "80: cmp edi, 2",
    "je 81f",
    "mov edx, r12d",
    "shl edx, 24",
    "mov [rbx + 0x310], edx",
    "mov [rbx + 0x300], eax",
    "ret",
    "81: mov edx, r12d",
    "mov ecx, 0x830",
    "wrmsr",
    "ret",
    "90: cli",
    "mov edx, 0xe1",
    "out dx, al",
}

/// What the receiver does, as the code has it; and how often it is sent to.
#[derive(Clone, Copy, Debug)]
enum Receiver {
    /// Both wait in HLT for the other's interrupt.
    Halts = 0,
    Runs = 1,
    Masks = 2,
    /// Sixteen vectors at a time, to a vCPU that waits in HLT.
    BurstHalts = 3,
    /// The same to one that runs.
    BurstRuns = 4,
}

impl Receiver {
    const ALL: [(Self, u16); 5] = [
        (Self::Halts, 500),
        (Self::Runs, 60),
        (Self::Masks, 60),
        (Self::BurstHalts, 60),
        (Self::BurstRuns, 30),
    ];
}

fn storm_of(t: &mut Tap, x2apic: bool, receiver: Receiver, rounds: u16) {
    let plan = Plan {
        irqchip: Irqchip::Full,
        cpus: 2,
        ..Plan::default()
    };
    let g = Guest::long_with(plan, storm());
    for (i, v) in g.cpus.iter().enumerate() {
        let mut r = boot::regs(i, CODE);
        r.rdi = if x2apic { 2 } else { 1 };
        (r.rsi, r.r8) = (receiver as u64, rounds.into());
        (r.r9, r.r12, r.r13) = (boot::mailbox(1 - i) as u64, 1 - i as u64, i as u64);
        v.set_regs(&r);
        v.set_mp_state(KVM_MP_STATE_RUNNABLE).ok().expect("state");
        g.mem.store::<u64>(boot::mailbox(i) + mailbox::EOI, r.rdi);
    }
    let run = |i: usize| {
        matches!(
            sys::limited(40_000, || g.cpus[i].enter()),
            Ok(Exit::Out { port: PORT_END, .. })
        )
    };
    let ended = std::thread::scope(|s| {
        let other = s.spawn(|| run(1));
        (run(0), other.join().expect("thread"))
    });
    let count = |cpu: usize, vector: usize| -> u16 {
        g.mem
            .load(boot::mailbox(cpu) + mailbox::COUNTS + 2 * vector)
    };
    let total = |cpu: usize| -> u64 { g.mem.load(boot::mailbox(cpu) + mailbox::COUNT) };
    let what = format!("{} {receiver:?}", if x2apic { "x2APIC" } else { "xAPIC" });
    let (vectors, answers) = match receiver {
        Receiver::Halts => (0x40..0x41, rounds),
        Receiver::Runs | Receiver::Masks => (0x40..0x41, 0),
        Receiver::BurstHalts | Receiver::BurstRuns => (0x50..0x60, 0),
    };
    let wrong: Vec<_> = vectors
        .clone()
        .map(|v| (v, count(1, v)))
        .filter(|c| c.1 != rounds)
        .collect();
    t.same(format!("{what}: both end"), ended, (true, true));
    t.same(
        format!("{what}: each vector came {rounds} times"),
        wrong,
        vec![],
    );
    let all = vectors.len() as u64 * u64::from(rounds);
    t.same(
        format!("{what}: nothing else came"),
        (total(1), total(0)),
        (all, answers.into()),
    );
    t.same(format!("{what}: answers"), count(0, 0x41), answers);
    t.same(
        format!("{what}: came while interrupts were off"),
        g.mem.load::<u64>(0x8_0000),
        0,
    );
}

/// Two vCPUs in x2APIC mode.
pub fn x2apic(t: &mut Tap) {
    for (receiver, rounds) in Receiver::ALL {
        storm_of(t, true, receiver, rounds);
    }
}

/// Two vCPUs in xAPIC mode.
pub fn xapic(t: &mut Tap) {
    for (receiver, rounds) in Receiver::ALL {
        storm_of(t, false, receiver, rounds);
    }
}
