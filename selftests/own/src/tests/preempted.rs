// SPDX-License-Identifier: GPL-2.0

//! What a guest is told of a vCPU that waits for a CPU: the mark in its page of stolen time.

use super::pages::Stats;
use crate::guest::Exit;
use crate::guest::Guest;
use crate::guest::DATA;
use crate::guest::PORT_END;
use crate::guest_code;
use crate::sys;
use crate::tap::Tap;
use std::time::Duration;
use std::time::Instant;

const MSR_STEAL_TIME: u32 = 0x4b56_4d03;
/// Features that the guest reads in CPUID.
const FEATURES: u32 = 0x4000_0001;
const STEAL_TIME: u32 = 1 << 5;
const PV_TLB_FLUSH: u32 = 1 << 9;
/// The vCPU waits for a CPU.
const PREEMPTED: u8 = 1;
/// Its TLB is to be flushed before it goes on.
const FLUSH_TLB: u8 = 2;
/// The page of stolen time.
const PAGE: u64 = DATA + 0x40;
/// How often somebody looks in between.
const LOOKS: u32 = 100;
/// The mark in it.
const MARK: usize = PAGE as usize + 16;

guest_code! {
    // Counts in word 0 until word 1 is set. Interrupts are on: Bochs would not let the host have its
    // own otherwise.
    counts,
    "sti",
    "mov ebx, 0x80000",
    "1: inc qword ptr [rbx]",
    "cmp qword ptr [rbx + 8], 0",
    "je 1b",
    "mov edx, 0xe1",
    "out dx, eax",
}

/// Looks at the mark now and then, up to ten seconds, until `f` likes it.
fn until(g: &Guest, mut f: impl FnMut(u8) -> bool) -> bool {
    let end = Instant::now() + Duration::from_secs(10);
    while Instant::now() < end {
        std::thread::sleep(Duration::from_millis(1));
        if f(g.mem.load(MARK)) {
            return true;
        }
    }
    false
}

/// The mark comes when the vCPU loses its CPU, goes when it is back, and may carry a request.
pub fn mark(t: &mut Tap) {
    let g = Guest::long(counts());
    let cpuid = crate::guest::supported_cpuid(&g.dev);
    let leaf = cpuid[8..]
        .chunks_exact(40)
        .map(sys::from_bytes::<kvm_bindings::kvm_cpuid_entry2>)
        .find(|e| e.function == FEATURES);
    let offered = leaf.map(|e| e.eax & (STEAL_TIME | PV_TLB_FLUSH));
    t.same("offered", offered, Some(STEAL_TIME | PV_TLB_FLUSH));
    g.mem.store::<u8>(MARK, PREEMPTED);
    t.same("the MSR", g.cpus[0].set_msr(MSR_STEAL_TIME, PAGE | 1), true);
    let stats = Stats::of(&g.cpus[0].fd);
    let counts = || ["preemption_reported", "preemption_other"].map(|n| stats.get(n));
    // Whoever looks at the mark takes the vCPU's CPU.
    sys::run_on_cpu(0);
    std::thread::scope(|s| {
        let vcpu = s.spawn(|| g.enter());
        t.point(until(&g, |_| g.data(0) != 0), "it runs");
        let marked = until(&g, |m| m & PREEMPTED != 0);
        t.point(marked, "marked while it waits");
        let asked = until(&g, |_| {
            g.mem.replace_byte(MARK, PREEMPTED, PREEMPTED | FLUSH_TLB)
        });
        t.point(asked, "asked for a flush");
        t.point(until(&g, |m| m & FLUSH_TLB == 0), "which is done");
        let before = counts();
        let mut looks = 0;
        until(&g, |_| {
            looks += 1;
            looks == LOOKS
        });
        let [told, not] = [0, 1].map(|i| counts()[i] - before[i]);
        // Not where an instruction was being emulated.
        t.point(
            told > not,
            format!("told of {told}, not told of {not} in {LOOKS}"),
        );
        g.set_data(1, 1);
        let exit = vcpu.join().expect("the vCPU's thread");
        t.point(
            matches!(exit, Ok(Exit::Out { port: PORT_END, .. })),
            "it ends",
        );
    });
    t.same("no mark in user space", g.mem.load::<u8>(MARK), 0);
}
