// SPDX-License-Identifier: GPL-2.0

//! Interrupts between vCPUs in every form, what task priority keeps away, and the timer through x2APIC's
//! registers.

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
use std::time::Duration;
use std::time::Instant;

const CPUS: usize = 4;
/// What a receiver writes into its mailbox when its APIC is set up.
pub const READY: usize = 56;

guest_code! {
    // EDI: 1 xAPIC, 2 x2APIC. ESI: LDR, R8: DFR, both for xAPIC.
    receive,
    "mov ebx, 0xfee00000",
    "cmp edi, 2",
    "je 2f",
    "mov dword ptr [rbx + 0xf0], 0x1ff",
    "mov [rbx + 0xe0], r8d",
    "mov [rbx + 0xd0], esi",
    "jmp 3f",
    "2: mov ecx, 0x1b",
    "rdmsr",
    "or eax, 0xc00",
    "wrmsr",
    "mov ecx, 0x80f",
    "mov eax, 0x1ff",
    "xor edx, edx",
    "wrmsr",
    "3: mov dword ptr [r14 + 56], 1",
    "4: sti",
    "hlt",
    "cli",
    "cmp dword ptr [0x80000], 0",
    "je 4b",
    "mov edx, 0xe1",
    "out dx, al",
}

guest_code! {
    // EDI, ESI, R8 as above. What to send is in memory: low word, high word, MSR.
    send,
    "mov ebx, 0xfee00000",
    "cmp edi, 2",
    "je 2f",
    "mov dword ptr [rbx + 0xf0], 0x1ff",
    "mov [rbx + 0xe0], r8d",
    "mov [rbx + 0xd0], esi",
    "jmp 3f",
    "2: mov ecx, 0x1b",
    "rdmsr",
    "or eax, 0xc00",
    "wrmsr",
    "mov ecx, 0x80f",
    "mov eax, 0x1ff",
    "xor edx, edx",
    "wrmsr",
    "mov ecx, 0x802",
    "rdmsr",
    "mov [0x80020], eax",
    "mov ecx, 0x80d",
    "rdmsr",
    "mov [0x80024], eax",
    "3: mov edx, 0xe0",
    "out dx, al",
    "mov eax, [0x80008]",
    "mov edx, [0x8000c]",
    "cmp edi, 2",
    "je 4f",
    "mov [rbx + 0x310], edx",
    "mov [rbx + 0x300], eax",
    "jmp 5f",
    "4: mov ecx, [0x80010]",
    "wrmsr",
    // What came for this one is taken here.
    "5: sti",
    "nop",
    "nop",
    "cli",
    "jmp 3b",
}

/// How often a vector came to each vCPU.
fn counts(g: &Guest, vector: usize) -> Vec<u16> {
    (0..CPUS)
        .map(|i| g.mem.load(boot::mailbox(i) + mailbox::COUNTS + 2 * vector))
        .collect()
}

/// Waits until `f` holds; false after five seconds.
pub fn wait(f: impl Fn() -> bool) -> bool {
    let end = Instant::now() + Duration::from_secs(5);
    while !f() {
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}

/// How the guest's APICs are set up.
#[derive(Clone, Copy, Debug)]
struct Mode {
    x2apic: bool,
    dfr: u32,
    ldr: fn(usize) -> u32,
}

/// One interrupt: what is written, and who gets it.
struct Case {
    what: &'static str,
    high: u32,
    low: u32,
    /// Bit per vCPU.
    to: u32,
}

const ICR: u32 = 0x830;
const SELF: u32 = 0x83f;

fn run(t: &mut Tap, mode: Mode, cases: &[Case]) {
    let plan = Plan {
        irqchip: Irqchip::Full,
        cpus: CPUS,
        ..Plan::default()
    };
    let g = Guest::long_with(plan, send());
    g.load(CODE + 0x800, receive());
    for i in 0..CPUS {
        let v = &g.cpus[i];
        let mut r = boot::regs(i, if i == 0 { CODE } else { CODE + 0x800 });
        r.rdi = if mode.x2apic { 2 } else { 1 };
        (r.rsi, r.r8) = (u64::from((mode.ldr)(i)), u64::from(mode.dfr));
        v.set_regs(&r);
        v.set_mp_state(KVM_MP_STATE_RUNNABLE).ok().expect("state");
        g.mem.store::<u64>(boot::mailbox(i) + mailbox::EOI, r.rdi);
    }
    std::thread::scope(|s| {
        let others: Vec<_> = (1..CPUS)
            .map(|i| {
                let v = &g.cpus[i];
                s.spawn(move || sys::limited(30_000, || v.enter()))
            })
            .collect();
        let ready = wait(|| (1..CPUS).all(|i| g.mem.watch(boot::mailbox(i) + READY) == 1));
        t.same(format!("{mode:x?}: the others are ready"), ready, true);
        let step = || {
            let e = g.enter();
            matches!(e, Ok(Exit::Out { port: 0xe0, .. }))
        };
        t.same("the sender is ready", step(), true);
        if mode.x2apic {
            let id: u32 = g.mem.load(0x8_0020);
            let ldr: u32 = g.mem.load(0x8_0024);
            t.same("id and logical id", (id, ldr), (0, 1));
        }
        for (i, c) in cases.iter().enumerate() {
            // The vector tells the cases apart; SELF IPI has nothing but a vector.
            let nmi = c.low & 0x700 == 0x400;
            let vector = if nmi { 2 } else { 0x40 + i };
            let to_self = mode.x2apic && c.what == "SELF IPI";
            g.mem
                .store::<u32>(0x8_0008, c.low | if nmi { 0 } else { vector as u32 });
            g.mem.store::<u32>(0x8_000c, c.high);
            g.mem
                .store::<u32>(0x8_0010, if to_self { SELF } else { ICR });
            let before = counts(&g, vector);
            let got = || -> Vec<u16> {
                let now = counts(&g, vector);
                now.iter().zip(&before).map(|(a, b)| a - b).collect()
            };
            t.same(format!("{}: sent", c.what), step(), true);
            let mut to = c.to;
            if c.low & 0x700 == 0x100 {
                // Lowest priority: the vector says which of them (`vector_hashing`).
                for _ in 0..vector % to.count_ones() as usize {
                    to &= to - 1;
                }
                to &= to.wrapping_neg();
            }
            let want: Vec<u16> = (0..CPUS).map(|i| (to >> i & 1) as u16).collect();
            let sum: u16 = want.iter().sum();
            wait(|| got().iter().sum::<u16>() >= sum);
            if sum == 0 {
                // Nobody must get it.
                std::thread::sleep(Duration::from_millis(20));
            }
            let got = got();
            t.same(format!("{}: who got it", c.what), got, want);
        }
        // The end: all of them look at the word once more.
        g.mem.store::<u32>(0x8_0000, 1);
        g.mem.store::<u32>(0x8_0008, 0xc_40f0);
        g.mem.store::<u32>(0x8_000c, 0);
        g.mem.store::<u32>(0x8_0010, ICR);
        step();
        for o in others {
            let e = o.join().expect("thread");
            let ok = matches!(e, Ok(Exit::Out { port: PORT_END, .. }));
            t.point(ok, format!("a receiver ends: {e:?}"));
        }
    });
}

const fn case(what: &'static str, high: u32, low: u32, to: u32) -> Case {
    Case {
        what,
        high,
        low,
        to,
    }
}

/// IPIs in x2APIC mode: to one, to all, by logical id, by shorthand, to itself by its own register.
pub fn x2apic(t: &mut Tap) {
    let mode = Mode {
        x2apic: true,
        dfr: 0,
        ldr: |_| 0,
    };
    run(
        t,
        mode,
        &[
            case("to 2", 2, 0x4000, 0b0100),
            case("to itself by id", 0, 0x4000, 0b0001),
            case("shorthand: self", 0, 0x4_4000, 0b0001),
            case("shorthand: all", 0, 0x8_4000, 0b1111),
            case("shorthand: all others", 0, 0xc_4000, 0b1110),
            case("broadcast", 0xffff_ffff, 0x4000, 0b1111),
            case("255 is no broadcast", 0xff, 0x4000, 0),
            case("to nobody", 9, 0x4000, 0),
            case("logical", 0b1010, 0x4800, 0b1010),
            case("logical, cluster 1", 0x1_000a, 0x4800, 0),
            case("logical, lowest priority", 0b1110, 0x4900, 0b1110),
            case(
                "logical, lowest priority, next vector",
                0b1110,
                0x4900,
                0b1110,
            ),
            case("logical, lowest priority, its next", 0b1110, 0x4900, 0b1110),
            case("logical broadcast", 0xffff_ffff, 0x4800, 0b1111),
            case("SELF IPI", 0, 0, 0b0001),
            case("NMI to 3", 3, 0x4400, 0b1000),
            case("NMI to all others", 0, 0xc_4400, 0b1110),
        ],
    );
}

/// IPIs in xAPIC mode, with both models of logical ids.
pub fn xapic(t: &mut Tap) {
    let flat = Mode {
        x2apic: false,
        dfr: 0xffff_ffff,
        ldr: |i| 1 << (24 + i),
    };
    run(
        t,
        flat,
        &[
            case("to 2", 2 << 24, 0x4000, 0b0100),
            case("broadcast", 0xff00_0000, 0x4000, 0b1111),
            case("logical", 0b1010 << 24, 0x4800, 0b1010),
            case("logical, lowest priority", 0b0110 << 24, 0x4900, 0b0110),
            case(
                "logical, lowest priority, next vector",
                0b0110 << 24,
                0x4900,
                0b0110,
            ),
            case("logical broadcast", 0xff00_0000, 0x4800, 0b1111),
            case("logical, nobody", 0x1000_0000, 0x4800, 0),
            case("shorthand: all", 0, 0x8_4000, 0b1111),
            case("shorthand: all others", 0, 0xc_4000, 0b1110),
            case("NMI to 1", 1 << 24, 0x4400, 0b0010),
        ],
    );
    // Two clusters of two.
    let cluster = Mode {
        x2apic: false,
        dfr: 0x0fff_ffff,
        ldr: |i| ((i as u32 / 2) << 28) | 1 << (24 + i % 2),
    };
    run(
        t,
        cluster,
        &[
            case("cluster 0, both", 0x0300_0000, 0x4800, 0b0011),
            case("cluster 1, the second", 0x1200_0000, 0x4800, 0b1000),
            case("cluster 2", 0x2300_0000, 0x4800, 0),
            case("to 3", 3 << 24, 0x4000, 0b1000),
        ],
    );
}

guest_code! {
    // EDI: LVT timer. ESI: initial count. R8: TSC deadline from now. Then it halts, and says after
    // each wake how many interrupts there were.
    timer,
    "mov ecx, 0x1b",
    "rdmsr",
    "or eax, 0xc00",
    "wrmsr",
    "mov ecx, 0x80f",
    "mov eax, 0x1ff",
    "xor edx, edx",
    "wrmsr",
    "mov ecx, 0x83e",
    "mov eax, 0xb",
    "wrmsr",
    "mov ecx, 0x832",
    "mov eax, edi",
    "wrmsr",
    "test esi, esi",
    "jz 2f",
    "mov ecx, 0x838",
    "mov eax, esi",
    "wrmsr",
    "2: test r8, r8",
    "jz 3f",
    "rdtsc",
    "shl rdx, 32",
    "or rax, rdx",
    "add rax, r8",
    "mov rdx, rax",
    "shr rdx, 32",
    "mov ecx, 0x6e0",
    "wrmsr",
    "3: mov edx, 0xe0",
    "mov eax, [r14 + 40]",
    "out dx, eax",
    "sti",
    "hlt",
    "cli",
    "mov ecx, 0x839",
    "rdmsr",
    "mov [0x80000], eax",
    "jmp 3b",
}

/// The timer in its three modes, through MSRs.
pub fn x2apic_timer(t: &mut Tap) {
    for (what, lvt, initial, deadline, times) in [
        ("one-shot", 0x50u64, 200_000u64, 0u64, 1u16),
        ("periodic", 0x2_0051, 200_000, 0, 4),
        ("TSC deadline", 0x4_0052, 0, 1_000_000, 1),
    ] {
        let plan = Plan {
            irqchip: Irqchip::Split,
            ..Plan::default()
        };
        let g = Guest::long_with(plan, timer());
        g.mem.store::<u64>(boot::mailbox(0) + mailbox::EOI, 2);
        let mut r = g.cpus[0].regs();
        (r.rdi, r.rsi, r.r8) = (lvt, initial, deadline);
        g.cpus[0].set_regs(&r);
        let step = |ms| {
            let e = sys::limited(ms, || g.enter());
            matches!(e, Ok(Exit::Out { port: 0xe0, .. }))
        };
        let all = (0..=times).all(|_| step(5000));
        t.same(format!("{what}: comes"), all, true);
        let n: u16 = g
            .mem
            .load(boot::mailbox(0) + mailbox::COUNTS + 2 * (lvt as usize & 0xff));
        if times == 1 {
            t.same("once", (n, step(100)), (1, false));
            t.same("the count has run out", g.mem.load::<u32>(0x8_0000), 0);
        } else {
            t.point(n >= times, format!("again and again: {n}"));
            let left: u32 = g.mem.load(0x8_0000);
            t.point((1..=200_000).contains(&left), format!("it counts: {left}"));
        }
    }
}

guest_code! {
    raises_priority,
    "mov ebx, 0xfee00000",
    "mov dword ptr [rbx + 0xf0], 0x1ff",
    "mov edx, 0xe0",
    // To itself, with interrupts off: it waits.
    "mov dword ptr [rbx + 0x300], 0x44040",
    "mov ecx, 3",
    "2: mov eax, ecx",
    "mov cr8, rax",
    "loop 2b",
    "mov eax, [r14 + 40]",
    "out dx, eax",
    "mov eax, 4",
    "mov cr8, rax",
    "sti",
    "nop",
    "nop",
    "cli",
    "mov eax, [r14 + 40]",
    "out dx, eax",
    "mov eax, 3",
    "sti",
    "mov cr8, rax",
    "nop",
    "cli",
    "mov eax, [r14 + 40]",
    "out dx, eax",
    "mov edx, 0xe1",
    "out dx, al",
}

/// CR8 changes while an interrupt waits for the guest's interrupts to be on.
pub fn priority(t: &mut Tap) {
    let plan = Plan {
        irqchip: Irqchip::Full,
        ..Plan::default()
    };
    let g = Guest::long_with(plan, raises_priority());
    g.mem.store::<u64>(boot::mailbox(0) + mailbox::EOI, 1);
    let got = g.values();
    t.same("off, below it, above it, and on", got, Some(vec![0, 0, 1]));
}
