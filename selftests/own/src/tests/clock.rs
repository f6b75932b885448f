// SPDX-License-Identifier: GPL-2.0

//! The paravirtual clock, and time that was stolen.

use crate::guest::Exit;
use crate::guest::Guest;
use crate::guest::Plan;
use crate::guest::CODE;
use crate::guest::PORT_END;
use crate::guest_code;
use crate::sys::zeroed;
use crate::sys::Answer;
use crate::tap::Tap;
use crate::uapi as k;
use kvm_bindings::*;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

/// Where the guest has its pages.
pub(super) const TIME: usize = 0x8_0100;
const WALL: usize = 0x8_0200;
const STEAL: usize = 0x8_0240;
/// MSRs of `asm/kvm_para.h`.
const MSR_WALL: u32 = 0x4b56_4d00;
pub(super) const MSR_TIME: u32 = 0x4b56_4d01;
const MSR_STEAL: u32 = 0x4b56_4d03;

guest_code! {
    // Copies the page of the clock with the TSC in the middle, and ends. The next run goes on.
    look,
    "2: mov edi, [0x80100]",
    "mov rax, [0x80108]",
    "mov [0x80008], rax",
    "mov rax, [0x80110]",
    "mov [0x80010], rax",
    "mov rax, [0x80118]",
    "mov [0x80018], rax",
    "lfence",
    "rdtsc",
    "mov [0x80020], eax",
    "mov [0x80024], edx",
    "cmp edi, [0x80100]",
    "jne 2b",
    "mov [0x80000], edi",
    "mov eax, 1",
    "mov edx, 0xe0",
    "out dx, eax",
    "mov edx, 0xe1",
    "out dx, al",
    "jmp 2b",
}

/// What the guest saw: `struct pvclock_vcpu_time_info`, the TSC, and the time that follows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    version: u32,
    mul: u32,
    shift: i8,
    pub(super) flags: u8,
    /// The time of the page itself.
    pub(super) base: u64,
    pub(super) ns: u64,
}

pub(super) fn seen(g: &Guest) -> Option<Seen> {
    g.values()?;
    let w: [u64; 5] = [0, 1, 2, 3, 4].map(|i| g.data(i));
    let mul = w[3] as u32;
    let shift = (w[3] >> 32) as i8;
    let ticks = u128::from(w[4].wrapping_sub(w[1]));
    let ticks = if shift < 0 {
        ticks >> shift.unsigned_abs()
    } else {
        ticks << shift
    };
    Some(Seen {
        version: w[0] as u32,
        mul,
        shift,
        flags: (w[3] >> 40) as u8,
        base: w[2],
        ns: w[2].wrapping_add((ticks * u128::from(mul) >> 32) as u64),
    })
}

pub(super) fn clock(g: &Guest) -> kvm_clock_data {
    g.vm.get(k::GET_CLOCK).expect("KVM_GET_CLOCK")
}

/// The guest's time lies between the VM's clock before and after; a millisecond is for rounding.
pub(super) fn between(t: &mut Tap, what: &str, g: &Guest) -> Option<Seen> {
    let a = clock(g).clock;
    let s = seen(g);
    let b = clock(g).clock;
    let ok = s.is_some_and(|s| s.ns + 1_000_000 >= a && s.ns <= b + 1_000_000);
    t.point(ok, format!("{what}: {a} <= {s:?} <= {b}"));
    s
}

pub(super) fn start(msr: u32) -> Guest {
    let g = Guest::long(look());
    assert!(g.cpus[0].set_msr(msr, TIME as u64 | 1), "MSR {msr:#x}");
    g
}

/// kvmclock: the page, KVM_GET_CLOCK and KVM_SET_CLOCK, the wall clock, KVM_KVMCLOCK_CTRL.
pub fn kvmclock(t: &mut Tap) {
    let g = start(MSR_TIME);
    let v = &g.cpus[0];
    let Some(s) = between(t, "time", &g) else {
        return;
    };
    t.same("the version is even", s.version & 1, 0);
    t.same("and not 0", s.version != 0, true);
    let khz = v.fd.call(k::GET_TSC_KHZ, 0).ok().unwrap_or(0);
    let ns_per_ms_of_ticks = {
        let ticks = u128::from(khz as u32);
        let x = if s.shift < 0 {
            ticks >> s.shift.unsigned_abs()
        } else {
            ticks << s.shift
        };
        (x * u128::from(s.mul) >> 32) as u64
    };
    t.point(
        ns_per_ms_of_ticks.abs_diff(1_000_000) < 100,
        format!("the rate is that of {khz} kHz: {ns_per_ms_of_ticks} ns"),
    );
    let c = clock(&g);
    t.same(
        "TSC stable in the page and in the answer",
        s.flags & 1 != 0,
        c.flags & KVM_CLOCK_TSC_STABLE != 0,
    );
    if c.flags & KVM_CLOCK_REALTIME != 0 {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let ns = now.expect("a date").as_nanos() as u64;
        t.point(
            ns.abs_diff(c.realtime) < 5_000_000_000,
            format!("time of day: {} and {ns}", c.realtime),
        );
    }
    // The time of day at which the clock was 0.
    t.point(v.set_msr(MSR_WALL, WALL as u64), "the wall clock");
    let version: u32 = g.mem.load(WALL);
    t.same("its version is even", version & 1, 0);
    let sec = u64::from(g.mem.load::<u32>(WALL + 4));
    let nsec = u64::from(g.mem.load::<u32>(WALL + 8));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.expect("a date").as_nanos() as u64;
    let sum = sec * 1_000_000_000 + nsec + clock(&g).clock;
    t.point(
        sum.abs_diff(now) < 5_000_000_000,
        format!("with the clock it is now: {sum} and {now}"),
    );

    // The clock is set.
    let mut c: kvm_clock_data = zeroed();
    c.clock = 1 << 50;
    t.same("KVM_SET_CLOCK", g.vm.set(k::SET_CLOCK, &c), Answer::Ok(0));
    let Some(s) = between(t, "time after it", &g) else {
        return;
    };
    t.same("from there", s.ns >> 40, 1 << 10);
    // A time of day in the past: the clock has gone on.
    c.flags = KVM_CLOCK_REALTIME;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    c.realtime = now.expect("a date").as_nanos() as u64 - 100_000_000_000;
    t.same("with a time", g.vm.set(k::SET_CLOCK, &c), Answer::Ok(0));
    let Some(s) = between(t, "time after that", &g) else {
        return;
    };
    let on = s.ns.wrapping_sub(c.clock) / 1_000_000_000;
    t.point((99..130).contains(&on), format!("{on} seconds later"));

    // User space moves the TSC; the time goes on.
    let tsc = v.msr(0x10).unwrap_or(0);
    t.point(v.set_msr(0x10, tsc + (1 << 42)), "the TSC is moved");
    between(t, "time does not notice", &g);

    // Stopped by user space: the guest is told once, and keeps the flag.
    t.same(
        "KVM_KVMCLOCK_CTRL",
        v.fd.call(k::KVMCLOCK_CTRL, 0),
        Answer::Ok(0),
    );
    let Some(s) = between(t, "time after a stop", &g) else {
        return;
    };
    t.same("told", s.flags & 2, 2);
    let flags: u8 = g.mem.load(TIME + 29);
    g.mem.store::<u8>(TIME + 29, flags & !2);
    c.flags = 0;
    g.vm.set(k::SET_CLOCK, &c).ok().expect("KVM_SET_CLOCK");
    let s = between(t, "time after the guest has seen it", &g);
    t.same("not again", s.map(|s| s.flags & 2), Some(0));

    // Off: nothing is written any more.
    t.point(v.set_msr(MSR_TIME, 0), "off");
    let before = g.mem.read(TIME, 32);
    g.vm.set(k::SET_CLOCK, &c).ok().expect("KVM_SET_CLOCK");
    seen(&g);
    t.same("the page stays", g.mem.read(TIME, 32), before);
    t.same(
        "KVM_KVMCLOCK_CTRL without a page",
        v.fd.call(k::KVMCLOCK_CTRL, 0),
        Answer::Err(libc::EINVAL),
    );

    // The register of the first version.
    let g = start(0x12);
    between(t, "by the old register", &g);
    t.same(
        "which reads back",
        g.cpus[0].msr(0x12),
        Some(TIME as u64 | 1),
    );
}

guest_code! {
    // Sets its clock up by the register R8, and goes on at 0x10800.
    set_up,
    "mov ecx, r8d",
    "mov eax, 0x80101",
    "xor edx, edx",
    "wrmsr",
    "mov eax, 0x10800",
    "jmp rax",
}

/// A guest that sets up its clock by the register of the first version: its boot vCPU does not know
/// the flags, and gets times that are fresh.
pub fn old_guest(t: &mut Tap) {
    let plan = Plan {
        cpus: 2,
        ..Plan::default()
    };
    let g = Guest::long_with(plan, set_up());
    g.load(CODE + 0x800, look());
    // The flag that its page has then.
    let set_up = |cpu: usize, msr: u32| {
        g.start_long(cpu, CODE);
        let v = &g.cpus[cpu];
        let mut r = v.regs();
        r.r8 = msr.into();
        v.set_regs(&r);
        let (_, e) = g.values_of(cpu);
        let ended = matches!(e, Ok(Exit::Out { port: PORT_END, .. }));
        ended.then(|| g.mem.load::<u8>(TIME + 29) & 1)
    };
    let first = set_up(0, MSR_TIME);
    t.same("the guest runs", first.is_some(), true);
    if first != Some(1) {
        t.skip("the host's clock is not the TSC");
        return;
    }
    t.same(
        "the other one by the old register",
        set_up(1, 0x12),
        Some(1),
    );
    t.same("the first one by it", set_up(0, 0x12), Some(0));
    let Some(a) = between(t, "time", &g) else {
        return;
    };
    t.same("TSC stable", a.flags & 1, 0);
    t.same("KVM_GET_CLOCK", clock(&g).flags, 0);
    t.same("the other one by the new one", set_up(1, MSR_TIME), Some(0));
    t.same("the first one", set_up(0, MSR_TIME), Some(1));
    between(t, "time", &g);
    t.same(
        "by user space",
        g.cpus[0].set_msr(0x12, TIME as u64 | 1),
        true,
    );
    let s = between(t, "time", &g);
    t.same(
        "says nothing about the guest",
        s.map(|s| s.flags & 1),
        Some(1),
    );

    // The address of the wall clock is the VM's.
    let (a, b) = (&g.cpus[0], &g.cpus[1]);
    t.same("no wall clock", b.msr(MSR_WALL), Some(0));
    t.same("a wall clock", a.set_msr(MSR_WALL, WALL as u64), true);
    t.same("is everybody's", b.msr(MSR_WALL), Some(WALL as u64));
    t.same("by both registers", b.msr(0x11), Some(WALL as u64));
}

/// The host suspends, as far as its threads: the guest is told that it was stopped.
pub fn host_suspends(t: &mut Tap) {
    use std::fs::write;
    let _ = write("/sys/module/suspend/parameters/pm_test_delay", "1");
    if write("/sys/power/pm_test", "freezer").is_err() {
        t.skip("the kernel cannot test its suspend");
        return;
    }
    let g = start(MSR_TIME);
    let first = between(t, "time", &g);
    t.same("not stopped", first.map(|s| s.flags & 2), Some(0));
    let done = write("/sys/power/state", "mem").or_else(|_| write("/sys/power/state", "freeze"));
    let _ = write("/sys/power/pm_test", "none");
    t.point(done.is_ok(), format!("suspend: {done:?}"));
    let s = between(t, "time after it", &g);
    t.same("stopped", s.map(|s| s.flags & 2), Some(2));
    let flags: u8 = g.mem.load(TIME + 29);
    g.mem.store::<u8>(TIME + 29, flags & !2);
    let c: kvm_clock_data = zeroed();
    g.vm.set(k::SET_CLOCK, &c).ok().expect("KVM_SET_CLOCK");
    let s = between(t, "time after the guest has seen it", &g);
    t.same("once", s.map(|s| s.flags & 2), Some(0));
}

guest_code! {
    // Ends after about R8 ticks of the TSC.
    spin,
    "rdtsc",
    "shl rdx, 32",
    "lea r9, [rax + rdx]",
    "2: rdtsc",
    "shl rdx, 32",
    "or rax, rdx",
    "sub rax, r9",
    "cmp rax, r8",
    "jb 2b",
    "mov edx, 0xe1",
    "out dx, al",
}

/// What a thread waits for a CPU is stolen from its vCPU.
pub fn steal_time(t: &mut Tap) {
    let g = Guest::long_with(Plan::default(), spin());
    let v = &g.cpus[0];
    let khz = v.fd.call(k::GET_TSC_KHZ, 0).ok().unwrap_or(1_000_000) as u64;
    let refused = !v.set_msr(MSR_STEAL, STEAL as u64 | 3);
    t.same("reserved bits are refused", refused, true);
    t.point(v.set_msr(MSR_STEAL, STEAL as u64 | 1), "on");
    let run = |ms: u64| {
        g.start_long(0, CODE);
        let mut r = v.regs();
        r.r8 = khz * ms;
        v.set_regs(&r);
        g.values().is_some()
    };
    t.same("the guest runs", run(1), true);
    let read = || {
        let steal: u64 = g.mem.load(STEAL);
        let version: u32 = g.mem.load(STEAL + 8);
        (steal, version)
    };
    let (before, version) = read();
    t.same("the version is even", version & 1, 0);
    t.same("flags", g.mem.load::<u32>(STEAL + 12), 0);
    // Threads that want all CPUs, two for each. While the whole host stands still nobody has them: so
    // until it is enough.
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get());
    let stolen = || (read().0 - before) / 1_000_000;
    let over = AtomicBool::new(false);
    std::thread::scope(|s| {
        for _ in 0..2 * cpus {
            s.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        for _ in 0..10 {
            t.same("the guest runs beside others", run(100), true);
            t.same("and once more", run(1), true);
            if stolen() >= 20 {
                break;
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    let version = read().1;
    let ms = stolen();
    t.point((20..10_000).contains(&ms), format!("{ms} ms were stolen"));
    t.same("the version is even", version & 1, 0);
    // Beginning anew with what the guest put there.
    t.point(v.set_msr(MSR_STEAL, 0), "off");
    g.mem.store::<u64>(STEAL, 1000);
    t.same("the guest runs", run(1), true);
    t.same("nothing is written", g.mem.load::<u64>(STEAL), 1000);
}
