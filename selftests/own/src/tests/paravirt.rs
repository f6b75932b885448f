// SPDX-License-Identifier: GPL-2.0

//! Hypercalls and the end of interrupts by memory.

use super::ipis;
use crate::guest::asm::mailbox;
use crate::guest::boot;
use crate::guest::Exit;
use crate::guest::Guest;
use crate::guest::Irqchip;
use crate::guest::Plan;
use crate::guest::CODE;
use crate::guest::PORT_END;
use crate::guest_code;
use crate::host;
use crate::sys;
use crate::sys::Answer;
use crate::table;
use crate::tap::Tap;
use crate::uapi as k;
use kvm_bindings::*;

/// Bits of CPUID leaf 0x40000001.
const STEAL_TIME: u32 = 5;
const PV_EOI: u32 = 6;
const PV_UNHALT: u32 = 7;
const PV_SEND_IPI: u32 = 11;
const POLL_CONTROL: u32 = 12;
const PV_SCHED_YIELD: u32 = 13;

guest_code! {
    // A hypercall with the registers from memory, and its answer, again and again. The other
    // vendor's instruction is replaced by the module.
    calls,
    "2: mov edx, 0xe1",
    "out dx, al",
    "mov eax, [0x80000]",
    "mov rbx, [0x80008]",
    "mov rcx, [0x80010]",
    "mov rdx, [0x80018]",
    "mov rsi, [0x80020]",
    "vmmcall",
    "mov [0x80028], rax",
    "jmp 2b",
}

guest_code! {
    halted,
    "mov edx, 0xe0",
    "out dx, al",
    "cli",
    "hlt",
    "mov edx, 0xe1",
    "out dx, al",
}

guest_code! {
    // Interrupts are on: Bochs would not let the host have its own otherwise.
    spinning,
    "sti",
    "2: inc dword ptr [0x80100]",
    "cmp dword ptr [0x80104], 0",
    "je 2b",
    "mov edx, 0xe1",
    "out dx, al",
}

fn ended(e: &Result<Exit, i32>) -> bool {
    matches!(e, Ok(Exit::Out { port: PORT_END, .. }))
}

/// vCPU 0 makes a hypercall; its answer.
fn call(g: &Guest, nr: u64, args: [u64; 4]) -> Option<i64> {
    g.set_data(0, nr);
    for (i, a) in args.iter().enumerate() {
        g.set_data(1 + i, *a);
    }
    // CAST: errors are negative.
    ended(&g.enter()).then(|| g.data(5) as i64)
}

/// Hypercalls: IPIs, a vCPU is woken, a turn is given away; what does not exist; not for programs.
pub fn hypercalls(t: &mut Tap) {
    let plan = Plan {
        irqchip: Irqchip::Full,
        cpus: 3,
        ..Plan::default()
    };
    let g = Guest::long_with(plan, calls());
    let features = {
        let list = crate::guest::supported_cpuid(&g.dev);
        list[8..]
            .chunks_exact(size_of::<kvm_cpuid_entry2>())
            .map(sys::from_bytes::<kvm_cpuid_entry2>)
            .find(|e| e.function == 0x4000_0001)
            .map_or(0, |e| e.eax)
    };
    let missing: Vec<u32> = [
        STEAL_TIME,
        PV_EOI,
        PV_UNHALT,
        PV_SEND_IPI,
        POLL_CONTROL,
        PV_SCHED_YIELD,
    ]
    .into_iter()
    .filter(|b| features >> b & 1 == 0)
    .collect();
    t.same("features", missing, vec![]);
    t.same("the guest runs", ended(&g.enter()), true);
    t.same("KVM_HC_VAPIC_POLL_IRQ", call(&g, 1, [0; 4]), Some(0));
    t.same("one that does not exist", call(&g, 77, [0; 4]), Some(-1000));

    // IPIs to two vCPUs at once.
    g.load(CODE + 0x800, ipis::receive());
    for i in 1..3 {
        let mut r = boot::regs(i, CODE + 0x800);
        r.rdi = 2;
        g.cpus[i].set_regs(&r);
        g.cpus[i]
            .set_mp_state(KVM_MP_STATE_RUNNABLE)
            .ok()
            .expect("state");
        g.mem.store::<u64>(boot::mailbox(i) + mailbox::EOI, 2);
    }
    let stop = g.data(0);
    std::thread::scope(|s| {
        let others: Vec<_> = (1..3)
            .map(|i| {
                let v = &g.cpus[i];
                s.spawn(move || sys::limited(20_000, || v.enter()))
            })
            .collect();
        let ready = ipis::wait(|| (1..3).all(|i| g.mem.watch(boot::mailbox(i) + ipis::READY) == 1));
        t.same("two more are ready", ready, true);
        let got = |vector: usize| -> Vec<u16> {
            (0..3)
                .map(|i| g.mem.load(boot::mailbox(i) + mailbox::COUNTS + 2 * vector))
                .collect()
        };
        // The word that receivers look at is also the number of the call: it is not 0.
        let n = call(&g, 10, [0b110, 0, 0, 0x45]);
        t.same("KVM_HC_SEND_IPI", n, Some(2));
        for o in others {
            t.same(
                "an IPI arrives, and ends it",
                ended(&o.join().expect("thread")),
                true,
            );
        }
        t.same("one each", got(0x45), vec![0, 1, 1]);
        let none = call(&g, 10, [1, 0, 255, 0x46]);
        t.same("the id 255 is nobody's, not everybody's", none, Some(0));
        let none = call(&g, 10, [0b111, 0, 0xffff_ffff, 0x46]);
        t.same("and so is the last one, with none after it", none, Some(0));
    });
    t.same("the number was taken for the end", stop != 0, true);

    // One that is halted with its interrupts off.
    g.load(CODE + 0x800, halted());
    g.cpus[1].set_regs(&boot::regs(1, CODE + 0x800));
    let e = g.cpus[1].enter();
    t.same(
        "it runs",
        matches!(e, Ok(Exit::Out { port: 0xe0, .. })),
        true,
    );
    let e = sys::limited(50, || g.cpus[1].enter());
    t.same("it halts", e, Err(libc::EINTR));
    t.same("to no avail", call(&g, 5, [0, 7, 0, 0]), Some(0));
    let e = sys::limited(50, || g.cpus[1].enter());
    t.same("it still does", e, Err(libc::EINTR));
    t.same("KVM_HC_KICK_CPU", call(&g, 5, [0, 1, 0, 0]), Some(0));
    let e = sys::limited(5000, || g.cpus[1].enter());
    t.same("it goes on", ended(&e), true);

    // A turn for one that has to wait for a CPU.
    g.load(CODE + 0x800, spinning());
    g.cpus[2].set_regs(&boot::regs(2, CODE + 0x800));
    let stats = super::pages::Stats::of(&g.cpus[0].fd);
    let before = stats.get("directed_yield_attempted");
    std::thread::scope(|s| {
        let other = s.spawn(|| sys::limited(20_000, || g.cpus[2].enter()));
        let runs = ipis::wait(|| g.mem.watch(0x8_0100) != 0);
        t.same("another spins", runs, true);
        let mut all = true;
        for _ in 0..100 {
            all &= call(&g, 11, [2, 0, 0, 0]) == Some(0);
            if stats.get("directed_yield_successful") != 0 {
                break;
            }
        }
        t.same("KVM_HC_SCHED_YIELD", all, true);
        g.mem.store::<u32>(0x8_0104, 1);
        t.same(
            "the other ends",
            ended(&other.join().expect("thread")),
            true,
        );
    });
    let n = stats.get("directed_yield_attempted") - before;
    t.point((1..=100).contains(&n), format!("attempts: {n}"));
    if std::thread::available_parallelism().is_ok_and(|n| n.get() == 1) {
        let n = stats.get("directed_yield_successful");
        t.point(n > 0, format!("successes: {n}"));
    }
    t.same("to nobody", call(&g, 11, [9, 0, 0, 0]), Some(0));

    // Programs may not.
    let v = &g.cpus[0];
    let mut sregs = v.sregs();
    for seg in [&mut sregs.cs, &mut sregs.ss] {
        seg.dpl = 3;
        seg.selector |= 3;
    }
    v.set_sregs(&sregs);
    let mut r = v.regs();
    r.rflags |= 3 << 12;
    v.set_regs(&r);
    t.same("from a program", call(&g, 1, [0; 4]), Some(-1));
}

/// A kick that comes before the halt keeps the vCPU from halting, once.
pub fn early_kick(t: &mut Tap) {
    let plan = Plan {
        irqchip: Irqchip::Full,
        cpus: 2,
        ..Plan::default()
    };
    let g = Guest::long_with(plan, calls());
    t.same("the guest runs", ended(&g.enter()), true);
    g.load(CODE + 0x800, halted());
    let v = &g.cpus[1];
    // The in-tree module does not know the last vCPU's id before its local APIC changes.
    let apic: kvm_lapic_state = v.fd.get(k::GET_LAPIC).expect("KVM_GET_LAPIC");
    let r = v.fd.set(k::SET_LAPIC, &apic);
    t.same("KVM_SET_LAPIC", r, Answer::Ok(0));
    let state = |s| v.set_mp_state(s).ok().expect("state");
    let start = || {
        state(KVM_MP_STATE_RUNNABLE);
        v.set_regs(&boot::regs(1, CODE + 0x800));
        matches!(v.enter(), Ok(Exit::Out { port: 0xe0, .. }))
    };
    let kick = || call(&g, 5, [0, 1, 0, 0]);
    let halts = || sys::limited(50, || v.enter()) == Err(libc::EINTR);
    let goes_on = || ended(&sys::limited(5000, || v.enter()));

    t.same("it is about to halt", start(), true);
    t.same("a kick", kick(), Some(0));
    t.same("it does not halt", goes_on(), true);
    t.same("it is about to halt again", start(), true);
    t.same("it halts: the kick was for one halt", halts(), true);
    t.same("halted", v.mp_state(), KVM_MP_STATE_HALTED);
    t.same("a kick", kick(), Some(0));
    t.same("about to wake", v.mp_state(), KVM_MP_STATE_RUNNABLE);
    state(KVM_MP_STATE_HALTED);
    t.same("halted by user space", v.mp_state(), KVM_MP_STATE_RUNNABLE);
    t.same("it wakes all the same", goes_on(), true);
    t.same("it is about to halt", start(), true);
    t.same("a kick", kick(), Some(0));
    state(KVM_MP_STATE_RUNNABLE);
    t.same("user space says that it runs: it halts", halts(), true);
}

guest_code! {
    // Interrupts to itself; after each it says how it was ended.
    by_memory,
    "mov ebx, 0xfee00000",
    "mov dword ptr [rbx + 0xf0], 0x1ff",
    "mov ecx, 0x4b564d04",
    "mov eax, 0x80101",
    "xor edx, edx",
    "wrmsr",
    "2: mov dword ptr [rbx + 0x300], 0x44050",
    "sti",
    "nop",
    "nop",
    "cli",
    "mov edx, 0xe0",
    "mov eax, [0x80110]",
    "out dx, eax",
    "jmp 2b",
}

guest_code! {
    end_handler,
    "lock btr dword ptr [0x80100], 0",
    "jc 2f",
    "mov dword ptr [rbx + 0xb0], 0",
    "inc word ptr [0x80112]",
    "2: inc word ptr [0x80110]",
    "iretq",
}

/// The guest ends an interrupt by clearing a bit.
pub fn pv_eoi(t: &mut Tap) {
    let plan = Plan {
        irqchip: Irqchip::Full,
        ..Plan::default()
    };
    let g = Guest::long_with(plan, by_memory());
    g.load(CODE + 0x800, end_handler());
    boot::gate(&g.mem, 0x50, CODE + 0x800);
    let by_hardware = host::has_virtual_apic();
    for n in 1..=4u32 {
        let e = g.enter();
        let v = match e {
            Ok(Exit::Out {
                port: 0xe0, data, ..
            }) => u32::from_le_bytes(data.try_into().unwrap_or([0; 4])),
            e => {
                t.point(false, format!("unexpected: {e:x?}"));
                return;
            }
        };
        // None of them needed a write to the APIC, unless hardware carries that out.
        let writes = if by_hardware { n } else { 0 };
        t.same(format!("interrupt {n}"), v, n | writes << 16);
        t.same("the bit is not left", g.mem.load::<u8>(0x8_0100), 0);
        let l: kvm_lapic_state = g.cpus[0].fd.get(k::GET_LAPIC).expect("KVM_GET_LAPIC");
        let isr: Vec<u8> = (0..8)
            .flat_map(|i| 0x100 + 16 * i..0x104 + 16 * i)
            .map(|i| l.regs[i] as u8)
            .collect();
        t.same("nothing is in service", isr, vec![0; 32]);
    }
    let v = &g.cpus[0];
    t.same("the MSR", v.msr(0x4b56_4d04), Some(0x8_0101));
    t.same("off", v.set_msr(0x4b56_4d04, 0), true);
    let e = g.enter();
    t.point(
        matches!(e, Ok(Exit::Out { port: 0xe0, .. })),
        "it goes on without",
    );
    let writes = if by_hardware { 5 } else { 1 };
    t.same("by the APIC", g.mem.load::<u32>(0x8_0110), 5 | writes << 16);
}

guest_code! {
    // The other vendor's hypercall lies across a page; RBX: where.
    crossing,
    "mov eax, 100",
    "jmp rbx",
}

/// A hypercall that is replaced across a page is written where the guest's own tables have the second
/// one, and nowhere else.
pub fn hypercall_across(t: &mut Tap) {
    const AT: usize = (2 << 20) - 2;
    const BEHIND: usize = 4 << 20;
    let plan = Plan {
        mem: 6 << 20,
        ..Plan::default()
    };
    let g = Guest::long_with(plan, crossing());
    // Linear 2 MiB is physical 4 MiB.
    g.mem.store::<u64>(boot::PD + 8, BEHIND as u64 | 0xe7);
    let (theirs, ours) = if table::intel() {
        (0xd9u8, 0xc1u8)
    } else {
        (0xc1, 0xd9)
    };
    g.mem.store::<u8>(AT, 0x0f);
    g.mem.store::<u8>(AT + 1, 0x01);
    g.mem.store::<u8>(BEHIND, theirs);
    // mov edx, 0xe1; out dx, al
    for (i, b) in [0xba, 0xe1, 0, 0, 0, 0xee].into_iter().enumerate() {
        g.mem.store::<u8>(BEHIND + 1 + i, b);
    }
    let v = &g.cpus[0];
    let mut r = v.regs();
    r.rbx = AT as u64;
    v.set_regs(&r);
    let e = g.enter();
    let ended = matches!(e, Ok(Exit::Out { port: PORT_END, .. }));
    t.same("the guest runs to its end", ended, true);
    t.same("an unknown call", v.regs().rax, (-1000i64) as u64);
    t.same("replaced", g.mem.load::<u8>(BEHIND), ours);
    let beside: u8 = g.mem.load(AT + 2);
    t.same("the next physical page is left alone", beside, 0);
}
