// SPDX-License-Identifier: GPL-2.0

//! The PICs, the IOAPIC, the timer chip and the speaker's port, as a guest sees them.

use crate::guest::asm::mailbox;
use crate::guest::boot;
use crate::guest::Exit;
use crate::guest::Guest;
use crate::guest::Irqchip;
use crate::guest::Plan;
use crate::guest::CODE;
use crate::guest::DATA;
use crate::guest::PORT_END;
use crate::guest_code;
use crate::sys;
use crate::tap::Tap;
use crate::uapi as k;
use kvm_bindings::*;
use std::time::Duration;
use std::time::Instant;

guest_code! {
    // Carries out a list of steps of 16 bytes, ends, and begins again.
    interpreter,
    "1: mov esi, 0x80000",
    "2: movzx eax, word ptr [rsi]",
    "movzx edx, word ptr [rsi + 2]",
    "mov ebx, [rsi + 4]",
    "add rsi, 16",
    "cmp eax, 1",
    "je 3f",
    "cmp eax, 2",
    "je 4f",
    "cmp eax, 3",
    "je 5f",
    "cmp eax, 4",
    "je 6f",
    "cmp eax, 5",
    "je 7f",
    "cmp eax, 6",
    "je 8f",
    "mov edx, 0xe1",
    "out dx, al",
    "jmp 1b",
    "3: mov eax, ebx",
    "out dx, al",
    "jmp 2b",
    "4: in al, dx",
    "movzx eax, al",
    "mov edx, 0xe0",
    "out dx, eax",
    "jmp 2b",
    "5: sti",
    "nop",
    "nop",
    "cli",
    "jmp 2b",
    "6: mov eax, [rsi - 8]",
    "mov [rbx], eax",
    "jmp 2b",
    "7: mov eax, [rbx]",
    "mov edx, 0xe0",
    "out dx, eax",
    "jmp 2b",
    "8: sti",
    "hlt",
    "cli",
    "jmp 2b",
}

/// What the guest does.
#[derive(Clone, Copy)]
enum Step {
    /// A byte to a port.
    Out(u16, u8),
    /// A byte from a port is reported.
    In(u16),
    /// Interrupts are taken.
    Sti,
    /// A word to a device.
    Put(u32, u32),
    /// A word from a device is reported.
    Get(u32),
    /// Waits for an interrupt.
    Hlt,
}
use Step::*;

/// Carries out the steps; what was reported.
fn run(g: &Guest, steps: &[Step]) -> Vec<u32> {
    for (i, s) in steps.iter().enumerate() {
        let (op, port, value, more) = match *s {
            Out(p, v) => (1u16, p, u32::from(v), 0),
            In(p) => (2, p, 0, 0),
            Sti => (3, 0, 0, 0),
            Put(a, v) => (4, 0, a, v),
            Get(a) => (5, 0, a, 0),
            Hlt => (6, 0, 0, 0),
        };
        let at = DATA as usize + 16 * i;
        g.mem.store::<u16>(at, op);
        g.mem.store::<u16>(at + 2, port);
        g.mem.store::<u32>(at + 4, value);
        g.mem.store::<u32>(at + 8, more);
    }
    g.mem.store::<u16>(DATA as usize + 16 * steps.len(), 0);
    let (values, end) = sys::limited(5000, || g.values_of(0));
    if !matches!(end, Ok(Exit::Out { port: PORT_END, .. })) {
        println!("# the guest did not end well: {end:x?}");
        return vec![0xdead_beef];
    }
    values
}

fn guest() -> Guest {
    let plan = Plan {
        irqchip: Irqchip::Full,
        ..Plan::default()
    };
    Guest::long_with(plan, interpreter())
}

/// How often a vector came.
fn count(g: &Guest, vector: usize) -> u16 {
    g.mem.load(boot::mailbox(0) + mailbox::COUNTS + 2 * vector)
}

fn line(g: &Guest, gsi: u32, level: u32) {
    let mut l: kvm_irq_level = sys::zeroed();
    (l.__bindgen_anon_1.irq, l.level) = (gsi, level);
    g.vm.set(k::IRQ_LINE, &l).ok().expect("KVM_IRQ_LINE");
}

/// Both PICs, vectors from 0x30, with these masks.
fn pics(master: u8, slave: u8) -> Vec<Step> {
    vec![
        Out(0x20, 0x11),
        Out(0x21, 0x30),
        Out(0x21, 4),
        Out(0x21, 1),
        Out(0xa0, 0x11),
        Out(0xa1, 0x38),
        Out(0xa1, 2),
        Out(0xa1, 1),
        Out(0x21, master),
        Out(0xa1, slave),
    ]
}

/// Reading the requests and what is in service.
const IRR: [Step; 2] = [Out(0x20, 0x0a), In(0x20)];
const ISR: [Step; 2] = [Out(0x20, 0x0b), In(0x20)];

/// The two PICs: set-up, requests and service, priorities, the cascade, polling, level-triggered.
pub fn pic(t: &mut Tap) {
    let g = guest();
    let mut steps = pics(0xa9, 0xfd);
    steps.extend([In(0x21), In(0xa1)]);
    t.same("masks", run(&g, &steps), vec![0xa9, 0xfd]);
    line(&g, 4, 1);
    t.same("a request", run(&g, &IRR), vec![0x10]);
    let steps = [&[Sti][..], &ISR, &IRR].concat();
    t.same("in service", run(&g, &steps), vec![0x10, 0]);
    t.same("its vector", count(&g, 0x34), 1);
    // A lower one waits, a higher one does not.
    line(&g, 6, 1);
    line(&g, 1, 1);
    run(&g, &[Sti]);
    t.same("a higher one", (count(&g, 0x31), count(&g, 0x36)), (1, 0));
    // EOI of the highest; of a specific one.
    let steps = [&[Out(0x20, 0x20)][..], &ISR].concat();
    t.same("EOI", run(&g, &steps), vec![0x10]);
    let steps = [&[Out(0x20, 0x64), Sti][..], &ISR].concat();
    t.same("specific EOI, and the next", run(&g, &steps), vec![0x40]);
    t.same("the lower one", count(&g, 0x36), 1);
    run(&g, &[Out(0x20, 0x20)]);
    // An edge that does not come again is no request.
    let steps = [&[Sti][..], &IRR].concat();
    t.same("no more", run(&g, &steps), vec![0]);
    // The slave, in service at both.
    line(&g, 9, 1);
    let steps = [&[Sti, Out(0xa0, 0x0b), In(0xa0)][..], &ISR].concat();
    t.same("the slave's", run(&g, &steps), vec![2, 4]);
    t.same("its vector", count(&g, 0x39), 1);
    let steps = [&[Out(0xa0, 0x20), Out(0x20, 0x20)][..], &ISR].concat();
    t.same("EOI to both", run(&g, &steps), vec![0]);
    // Polled: that is its end, too.
    line(&g, 4, 0);
    line(&g, 4, 1);
    let steps = [&[Out(0x20, 0x0c), In(0x20)][..], &ISR].concat();
    t.same("polled", run(&g, &steps), vec![0x84, 0]);
    // Level-triggered: again until it is low.
    line(&g, 4, 0);
    let steps = [Out(0x4d0, 0x10), In(0x4d0), In(0x4d1)];
    t.same("level-triggered", run(&g, &steps), vec![0x10, 0]);
    let before = count(&g, 0x34);
    line(&g, 4, 1);
    run(&g, &[Sti, Out(0x20, 0x20), Sti, Out(0x20, 0x20)]);
    t.same("twice", count(&g, 0x34) - before, 2);
    line(&g, 4, 0);
    t.same("low", run(&g, &IRR), vec![0]);
}

const IOAPIC: u32 = 0xfec0_0000;
const APIC: u32 = 0xfee0_0000;

fn select(reg: u32) -> Step {
    Put(IOAPIC, reg)
}

fn entry(pin: u32, low: u32) -> [Step; 4] {
    [
        select(0x11 + 2 * pin),
        Put(IOAPIC + 0x10, 0),
        select(0x10 + 2 * pin),
        Put(IOAPIC + 0x10, low),
    ]
}

/// The IOAPIC: registers, masks, level and edge, remote IRR, NMI.
pub fn ioapic(t: &mut Tap) {
    let g = guest();
    let steps = [
        Out(0x21, 0xff),
        Out(0xa1, 0xff),
        Put(APIC + 0xf0, 0x1ff),
        select(1),
        Get(IOAPIC + 0x10),
        select(0),
        Put(IOAPIC + 0x10, 0x0500_0000),
        Get(IOAPIC + 0x10),
        select(0x10 + 10),
        Get(IOAPIC + 0x10),
        Get(IOAPIC),
    ];
    let want = vec![0x17_0011, 0x0500_0000, 0x1_0000, 0x1a];
    t.same("version, id, a masked pin", run(&g, &steps), want);
    // An edge.
    run(&g, &entry(5, 0x45));
    line(&g, 5, 1);
    run(&g, &[Sti, Put(APIC + 0xb0, 0)]);
    t.same("an edge", count(&g, 0x45), 1);
    run(&g, &[Sti]);
    t.same("once", count(&g, 0x45), 1);
    // A level that was there before the mask went.
    line(&g, 9, 1);
    run(&g, &entry(9, 0x1_8049));
    run(&g, &[Sti]);
    t.same("masked", count(&g, 0x49), 0);
    run(&g, &entry(9, 0x8049));
    let steps = [Sti, Get(IOAPIC + 0x10)];
    t.same("not masked: remote IRR", run(&g, &steps), vec![0xc049]);
    t.same("it came", count(&g, 0x49), 1);
    run(&g, &[Sti]);
    t.same("once, until EOI", count(&g, 0x49), 1);
    let steps = [Put(APIC + 0xb0, 0), Sti, Get(IOAPIC + 0x10)];
    t.same("EOI while it is high", run(&g, &steps), vec![0xc049]);
    t.same("again", count(&g, 0x49), 2);
    line(&g, 9, 0);
    let steps = [Put(APIC + 0xb0, 0), Sti, Get(IOAPIC + 0x10)];
    t.same("EOI when it is low", run(&g, &steps), vec![0x8049]);
    t.same("no more", count(&g, 0x49), 2);
    // Read-only bits stay: status and remote IRR.
    let steps = [&entry(12, 0x1_70ff)[..], &[Get(IOAPIC + 0x10)]].concat();
    t.same("what cannot be written", run(&g, &steps), vec![0x1_20ff]);
    // As an NMI.
    run(&g, &entry(7, 0x400));
    line(&g, 7, 1);
    run(&g, &[Sti]);
    t.same("NMI", count(&g, 2), 1);
}

/// Ticks of the real-time clock coalesce until their EOI, as local APICs say that get another state.
pub fn clock_ticks(t: &mut Tap) {
    let g = guest();
    let v = &g.cpus[0];
    run(&g, &pics(0xff, 0xff));
    run(&g, &[Put(APIC + 0xf0, 0x1ff)]);
    run(&g, &entry(8, 0x58));
    let tick = || {
        let set = |level: u32| {
            let mut l: kvm_irq_level = sys::zeroed();
            (l.__bindgen_anon_1.irq, l.level) = (8, level);
            g.vm.exchange(k::IRQ_LINE_STATUS, &mut l)
                .ok()
                .expect("KVM_IRQ_LINE_STATUS");
            // SAFETY: any bits are a value of the union.
            unsafe { l.__bindgen_anon_1.status }
        };
        let status = set(1);
        set(0);
        status
    };
    t.same("a tick", tick(), 1);
    t.same("coalesces", tick(), 0);
    let mut l: kvm_lapic_state = v.fd.get(k::GET_LAPIC).expect("KVM_GET_LAPIC");
    // The requests and what is in service of vectors 0x58 to 0x5f.
    let (irr, isr) = (0x223, 0x123);
    t.same("it waits", l.regs[irr], 1);
    let mut set = |requested: i8, served: i8| {
        (l.regs[irr], l.regs[isr]) = (requested, served);
        v.fd.set(k::SET_LAPIC, &l)
    };
    t.same("the same again", set(1, 0), crate::sys::Answer::Ok(0));
    t.same("coalesces", tick(), 0);
    t.same("none waits", set(0, 0), crate::sys::Answer::Ok(0));
    t.same("a tick", tick(), 1);
    t.same("coalesces", tick(), 0);
    t.same("none waits", set(0, 0), crate::sys::Answer::Ok(0));
    t.same("one is in service", set(0, 1), crate::sys::Answer::Ok(0));
    t.same("coalesces", tick(), 0);
    run(&g, &[Put(APIC + 0xb0, 0)]);
    t.same("a tick after its end", tick(), 1);
}

/// A period of the timer: 1193182 Hz / this is about 100 Hz.
const PERIOD: u16 = 11932;

fn program(control: u8, port: u16, count: u16) -> [Step; 3] {
    let [lo, hi] = count.to_le_bytes();
    [Out(0x43, control), Out(port, lo), Out(port, hi)]
}

/// The timer chip: periodic interrupts, latches; interrupts that were missed.
pub fn pit(t: &mut Tap) {
    let g = guest();
    let mut steps = pics(0xfe, 0xff);
    steps.extend(program(0x34, 0x40, PERIOD));
    for _ in 0..3 {
        steps.extend([Hlt, Out(0x20, 0x20)]);
    }
    // The status and the count, latched.
    steps.extend([Out(0x43, 0xe2), In(0x40), Out(0x43, 0), In(0x40), In(0x40)]);
    let v = run(&g, &steps);
    t.same("three interrupts", count(&g, 0x30), 3);
    t.same("status", v.first().map(|s| s & 0x3f), Some(0x34));
    let n = v.get(1..3).map_or(0, |b| b[0] | b[1] << 8);
    t.point((1..=u32::from(PERIOD)).contains(&n), format!("count {n}"));
    let s: kvm_pit_state2 = g.vm.get(k::GET_PIT2).expect("KVM_GET_PIT2");
    t.same(
        "as user space sees",
        (s.channels[0].count, s.channels[0].mode),
        (u32::from(PERIOD), 2),
    );
    // One-shot: once.
    run(&g, &program(0x30, 0x40, PERIOD));
    let before = count(&g, 0x30);
    std::thread::sleep(Duration::from_millis(100));
    let all: Vec<Step> = (0..5).flat_map(|_| [Sti, Out(0x20, 0x20)]).collect();
    run(&g, &all);
    t.point((1..=2).contains(&(count(&g, 0x30) - before)), "one-shot");
    // What was missed while nobody looked comes later, or not.
    for (reinject, what) in [(1u8, "made up for"), (0, "lost")] {
        let mut c: kvm_reinject_control = sys::zeroed();
        c.pit_reinject = reinject;
        g.vm.set(k::REINJECT_CONTROL, &c)
            .ok()
            .expect("KVM_REINJECT_CONTROL");
        let mut steps = pics(0xfe, 0xff);
        // The longest period: 55 ms.
        steps.extend(program(0x34, 0x40, 0));
        run(&g, &steps);
        std::thread::sleep(Duration::from_millis(500));
        let before = count(&g, 0x30);
        let from = Instant::now();
        for _ in 0..8 {
            run(&g, &[Sti, Out(0x20, 0x20)]);
            // Whoever makes up for them is another thread.
            std::thread::sleep(Duration::from_millis(1));
        }
        let n = count(&g, 0x30) - before;
        // On a slow host some ticks are due while it looks.
        let due = (from.elapsed().as_millis() / 55) as u16;
        let ok = if reinject == 1 {
            n >= 7
        } else {
            n < 5 + due.min(3)
        };
        t.point(ok, format!("missed ticks are {what}: {n}"));
    }
}

/// Once LINT0 of one vCPU is an NMI, the timer chip's ticks come in at LINT0 of each, and are what its
/// entry says.
pub fn pit_watchdog(t: &mut Tap) {
    let plan = Plan {
        irqchip: Irqchip::Full,
        cpus: 2,
        ..Plan::default()
    };
    let g = Guest::long_with(plan, interpreter());
    g.mem.store::<u64>(boot::mailbox(0) + mailbox::EOI, 1);
    let lint0 = |cpu: usize, entry: u32| {
        let v = &g.cpus[cpu].fd;
        let mut l: kvm_lapic_state = v.get(k::GET_LAPIC).expect("KVM_GET_LAPIC");
        for (at, value) in [(0xf0, 0x1ffu32), (0x350, entry)] {
            for (i, b) in value.to_le_bytes().into_iter().enumerate() {
                // CAST: the header has them signed.
                l.regs[at + i] = b as _;
            }
        }
        v.set(k::SET_LAPIC, &l).ok().expect("KVM_SET_LAPIC");
    };
    let c: kvm_reinject_control = sys::zeroed();
    g.vm.set(k::REINJECT_CONTROL, &c)
        .ok()
        .expect("KVM_REINJECT_CONTROL");
    let mut steps = pics(0xff, 0xff);
    steps.extend(program(0x34, 0x40, PERIOD));
    run(&g, &steps);
    let ticks = || {
        run(&g, &[Sti]);
        let before = count(&g, 0x50);
        for _ in 0..5 {
            std::thread::sleep(Duration::from_millis(20));
            run(&g, &[Sti]);
        }
        count(&g, 0x50) - before
    };
    lint0(0, 0x50);
    t.same("an interrupt at one, none an NMI", ticks(), 0);
    lint0(1, 0x400);
    let n = ticks();
    t.point(n >= 3, format!("an NMI at the other: {n}"));
    t.point(g.cpus[1].events().nmi.pending != 0, "which it gets");
    lint0(0, 0x1_0050);
    t.same("masked", ticks(), 0);
    lint0(0, 0x50);
    t.point(ticks() >= 3, "not masked");
    lint0(1, 0x1_0400);
    t.same("the NMI is masked", ticks(), 0);
}

/// The port of the speaker: the gate of channel 2 and its output, where the kernel has it.
pub fn speaker(t: &mut Tap) {
    // Without the flag it is user space's.
    let g = guest();
    g.mem.store::<u64>(DATA as usize, 2 | 0x61 << 16);
    let e = g.enter();
    t.same(
        "the port is user space's",
        matches!(
            e,
            Ok(Exit::In {
                port: 0x61,
                size: 1,
                ..
            })
        ),
        true,
    );
    let mut g = Guest::new(Plan {
        cpus: 0,
        ..Plan::default()
    });
    g.vm.call(k::CREATE_IRQCHIP, 0).ok().expect("irqchip");
    let mut c: kvm_pit_config = sys::zeroed();
    c.flags = KVM_PIT_SPEAKER_DUMMY;
    g.vm.set(k::CREATE_PIT2, &c).ok().expect("PIT");
    g.add_cpu(0, true);
    g.load(CODE, interpreter());
    boot::tables(&g.mem);
    g.start_long(0, CODE);
    let state = |g: &Guest| -> kvm_pit_state2 { g.vm.get(k::GET_PIT2).expect("KVM_GET_PIT2") };
    let v = run(&g, &[Out(0x61, 0), In(0x61)]);
    t.same("gate and data off", v.first().map(|v| v & 3), Some(0));
    let steps = [
        &[Out(0x61, 1)][..],
        &program(0xb0, 0x42, PERIOD),
        &[In(0x61)],
    ]
    .concat();
    let v = run(&g, &steps);
    t.same(
        "counting: the output is low",
        v.first().map(|v| v & 0x23),
        Some(1),
    );
    t.same(
        "the gate",
        (state(&g).channels[2].gate, state(&g).channels[2].mode),
        (1, 0),
    );
    std::thread::sleep(Duration::from_millis(30));
    let v = run(&g, &[In(0x61)]);
    t.same(
        "the output is high",
        v.first().map(|v| v & 0x23),
        Some(0x21),
    );
    let v = run(&g, &[Out(0x61, 3), In(0x61)]);
    t.same("with data", v.first().map(|v| v & 3), Some(3));
    let on = state(&g).flags & KVM_PIT_FLAGS_SPEAKER_DATA_ON;
    t.same("as user space sees", on, KVM_PIT_FLAGS_SPEAKER_DATA_ON);
}
