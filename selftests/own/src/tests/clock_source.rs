// SPDX-License-Identifier: GPL-2.0

//! The guest's clock while the host changes its own: from the TSC to another one and back.

use super::clock;
use crate::guest::Exit;
use crate::guest::Guest;
use crate::guest::Plan;
use crate::guest::PORT_END;
use crate::guest_code;
use crate::sys;
use crate::tap::Tap;
use std::time::Duration;
use std::time::Instant;

const FOLDER: &str = "/sys/devices/system/clocksource/clocksource0";

fn current() -> String {
    let name = std::fs::read_to_string(format!("{FOLDER}/current_clocksource"));
    name.unwrap_or_default().trim().to_string()
}

/// The host's clock is another one until this is dropped.
struct Other(String);

impl Other {
    /// None if the host's clock is not the TSC, or it has no other one.
    fn new() -> Option<Self> {
        // Soon after its boot the host has not measured its TSC yet.
        let until = Instant::now() + Duration::from_secs(15);
        while current() != "tsc" && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(100));
        }
        if current() != "tsc" {
            return None;
        }
        let all = std::fs::read_to_string(format!("{FOLDER}/available_clocksource")).ok()?;
        let name = all.split_whitespace().find(|n| *n != "tsc")?;
        Some(Self(name.to_string()))
    }

    fn take(&self) {
        change(&self.0);
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        change("tsc");
    }
}

fn change(name: &str) {
    std::fs::write(format!("{FOLDER}/current_clocksource"), name).expect("another clock");
    while current() != name {
        std::thread::sleep(Duration::from_millis(10));
    }
    // The module may need a moment, too.
    std::thread::sleep(Duration::from_millis(50));
}

/// The guest's time goes on with the host's whatever the host counts, and is no more computed from
/// a TSC of before.
pub fn switches(t: &mut Tap) {
    let g = clock::start(clock::MSR_TIME);
    t.same("the guest runs", clock::seen(&g).is_some(), true);
    let Some(other) = Other::new() else {
        t.skip("the host has one clock only, or its TSC is none");
        return;
    };
    let Some(first) = clock::between(t, "time by the TSC", &g) else {
        return;
    };
    t.same("TSC stable", first.flags & 1, 1);
    let mut last = first.ns;
    let mut goes_on = |t: &mut Tap, what: &str, ns: u64| {
        t.point(ns >= last, format!("{what} does not go back: {last}, {ns}"));
        last = ns;
    };
    other.take();
    for _ in 0..2 {
        let Some(s) = clock::between(t, "time by another clock", &g) else {
            return;
        };
        goes_on(t, "it", s.ns);
        t.same("TSC not stable", s.flags & 1, 0);
        let flags = clock::clock(&g).flags;
        t.same("nor in the answer of KVM_GET_CLOCK", flags, 0);
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(other);
    let Some(s) = clock::between(t, "time by the TSC again", &g) else {
        return;
    };
    goes_on(t, "it", s.ns);
    // A page that is set up only now.
    t.point(
        g.cpus[0].set_msr(clock::MSR_TIME, clock::TIME as u64 | 1),
        "again",
    );
    let Some(s) = clock::between(t, "time by a new page", &g) else {
        return;
    };
    goes_on(t, "it", s.ns);
    t.point(
        s.base > first.ns,
        format!("it is not counted from before: {}, {}", first.ns, s.base),
    );
}

guest_code! {
    // Ends when the clock's flag is not R8 any more, or after R9 ticks of the TSC.
    wait_for_flag,
    "rdtsc",
    "shl rdx, 32",
    "lea r10, [rax + rdx]",
    "2: mov al, [0x8011d]",
    "and eax, 1",
    "cmp eax, r8d",
    "jne 3f",
    "rdtsc",
    "shl rdx, 32",
    "or rax, rdx",
    "sub rax, r10",
    "cmp rax, r9",
    "jb 2b",
    "mov eax, 2",
    "3: mov edx, 0xe0",
    "out dx, eax",
    "mov edx, 0xe1",
    "out dx, al",
}

/// A vCPU that does not leave the guest by itself is told at once that the host's clock is another one.
pub fn notices(t: &mut Tap) {
    const WAIT: Duration = Duration::from_secs(20);
    let g = Guest::long_with(Plan::default(), wait_for_flag());
    let v = &g.cpus[0];
    t.same("a vCPU", v.mp_state(), kvm_bindings::KVM_MP_STATE_RUNNABLE);
    if std::thread::available_parallelism().map_or(1, |n| n.get()) < 2 {
        t.skip("the vCPU needs a CPU for itself");
        return;
    }
    let Some(other) = Other::new() else {
        t.skip("the host has one clock only, or its TSC is none");
        return;
    };
    let khz = v.fd.call(crate::uapi::GET_TSC_KHZ, 0).ok().expect("a rate") as u64;
    t.point(v.set_msr(clock::MSR_TIME, clock::TIME as u64 | 1), "a page");
    let mut r = v.regs();
    // It has no flag yet.
    (r.r8, r.r9) = (0, 0);
    v.set_regs(&r);
    t.same("it begins with the TSC", g.values(), Some(vec![1]));
    g.start_long(0, crate::guest::CODE);
    let mut r = v.regs();
    (r.r8, r.r9) = (1, khz * WAIT.as_millis() as u64);
    v.set_regs(&r);
    let took = std::thread::scope(|s| {
        let guest = s.spawn(|| {
            sys::run_on_cpu(1);
            let e = sys::limited(2 * WAIT.as_millis() as u64, || v.enter());
            (e, Instant::now())
        });
        sys::run_on_cpu(0);
        std::thread::sleep(Duration::from_millis(300));
        let before = Instant::now();
        other.take();
        let (e, at) = guest.join().expect("thread");
        let told = matches!(&e, Ok(Exit::Out { data, .. }) if data.first() == Some(&0));
        t.point(told, format!("the guest was told: {e:x?}"));
        at.saturating_duration_since(before)
    });
    t.point(took < Duration::from_secs(5), format!("after {took:?}"));
    let e = g.enter();
    let ended = matches!(e, Ok(Exit::Out { port: PORT_END, .. }));
    t.same("it ends", ended, true);
}
