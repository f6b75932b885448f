// SPDX-License-Identifier: GPL-2.0

//! Eventfds that come and go: several threads register them for interrupts (with each other as
//! resamplers) and for the guest's writes, take them away, close them, and signal them, on two VMs
//! that run, are dropped and made anew. Nothing is expected of a single call; afterwards the host's
//! log is clean, and neither memory nor a reference is lost.

use super::hammer::references;
use super::rng::Rng;
use crate::account::Account;
use crate::guest::boot;
use crate::guest::list;
use crate::guest::Guest;
use crate::guest::Irqchip;
use crate::guest::Plan;
use crate::guest_code;
use crate::sys;
use crate::sys::zeroed;
use crate::sys::Fd;
use crate::tap::Tap;
use crate::uapi as k;
use kvm_bindings::*;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::RwLock;
use std::time::Duration;
use std::time::Instant;

guest_code! {
    // Takes interrupts, and writes to a port and to device memory.
    writer,
    "mov ebx, 0xfee00000",
    "mov dword ptr [rbx + 0xf0], 0x1ff",
    "mov ebx, 0xe0000000",
    "sti",
    "2: mov edx, 0x300",
    "out dx, al",
    "mov [rbx], eax",
    "pause",
    "jmp 2b",
}

/// Eventfds.
const EVENTS: usize = 6;
/// Threads that register and remove them.
const CALLERS: usize = 3;
/// The first vector of the IOAPIC's pins.
const VECTOR: u64 = 0x60;

struct Shared {
    events: Vec<RwLock<Fd>>,
    stop: AtomicBool,
    calls: AtomicU64,
}

/// A VM whose IOAPIC sends level-triggered interrupts of all pins.
fn guest() -> Guest {
    let plan = Plan {
        irqchip: Irqchip::Full,
        ..Plan::default()
    };
    let g = Guest::long_with(plan, writer());
    let eoi = boot::mailbox(0) + crate::guest::asm::mailbox::EOI;
    g.mem.store::<u64>(eoi, 1);
    let mut c: kvm_irqchip = zeroed();
    c.chip_id = KVM_IRQCHIP_IOAPIC;
    g.vm.exchange(k::GET_IRQCHIP, &mut c)
        .ok()
        .expect("KVM_GET_IRQCHIP");
    for pin in 0..24u64 {
        // SAFETY: any bits are a value of the union.
        unsafe { c.chip.ioapic.redirtbl[pin as usize].bits = 0x8000 | (VECTOR + pin) };
    }
    g.vm.set(k::SET_IRQCHIP, &c).ok().expect("KVM_SET_IRQCHIP");
    g
}

/// Pins as they are after a reset, or the first GSIs as messages.
fn routes(vm: &Fd, messages: bool) {
    let entry = |gsi: u32| {
        let mut e: kvm_irq_routing_entry = zeroed();
        e.gsi = gsi;
        if messages {
            e.type_ = KVM_IRQ_ROUTING_MSI;
            (e.u.msi.address_lo, e.u.msi.data) = (0xfee0_0000, 0x40 + gsi);
        } else {
            e.type_ = KVM_IRQ_ROUTING_IRQCHIP;
            (e.u.irqchip.irqchip, e.u.irqchip.pin) = (KVM_IRQCHIP_IOAPIC, gsi);
        }
        e
    };
    let all: Vec<_> = (0..24).map(entry).collect();
    vm.bytes(k::SET_GSI_ROUTING, &mut list(24, &all));
}

/// One call.
fn call(s: &Shared, vm: &Fd, rng: &mut Rng) {
    let (one, other) = (rng.below(EVENTS), rng.below(EVENTS));
    let raw = |i: usize| s.events[i].read().expect("lock").raw();
    match rng.below(12) {
        0..=4 => {
            let mut i: kvm_irqfd = zeroed();
            (i.fd, i.gsi) = (raw(one) as u32, rng.below(8) as u32);
            i.flags = match rng.below(4) {
                0 => KVM_IRQFD_FLAG_DEASSIGN,
                1 | 2 => KVM_IRQFD_FLAG_RESAMPLE,
                _ => 0,
            };
            i.resamplefd = raw(other) as u32;
            vm.set(k::IRQFD, &i);
        }
        5..=7 => {
            let mut e: kvm_ioeventfd = zeroed();
            e.fd = raw(one);
            if rng.one_in(2) {
                (e.addr, e.len) = (0xe000_0000, [0, 4][rng.below(2)]);
            } else {
                (e.addr, e.len, e.flags) = (0x300, 1, 1 << kvm_ioeventfd_flag_nr_pio);
            }
            if rng.one_in(2) {
                e.flags |= 1 << kvm_ioeventfd_flag_nr_deassign;
            }
            vm.set(k::IOEVENTFD, &e);
        }
        8 => routes(vm, rng.one_in(2)),
        9 => {
            let mut l: kvm_irq_level = zeroed();
            (l.__bindgen_anon_1.irq, l.level) = (rng.below(8) as u32, rng.below(2) as u32);
            vm.set(k::IRQ_LINE, &l);
        }
        // Everybody else closes it.
        10 => *s.events[one].write().expect("lock") = Fd::event(),
        _ => {
            s.events[one].read().expect("lock").take();
        }
    }
    s.calls.fetch_add(1, Relaxed);
}

/// A life of two VMs.
fn round(s: &Shared, seed: u64, time: Duration) {
    let vms = [guest(), guest()];
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let (tell, told) = std::sync::mpsc::channel();
        let (vms, stop, done) = (&vms, &stop, &done);
        for g in vms {
            let tell = tell.clone();
            scope.spawn(move || {
                tell.send(sys::this_thread()).expect("send");
                while !stop.load(Relaxed) {
                    let _ = g.enter();
                }
                done.fetch_add(1, Relaxed);
                while done.load(Relaxed) != u64::MAX {
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
        }
        for i in 0..CALLERS {
            scope.spawn(move || {
                let mut rng = Rng::new(seed + i as u64);
                while !stop.load(Relaxed) {
                    call(s, &vms[rng.below(2)].vm, &mut rng);
                }
            });
        }
        let ids: Vec<_> = (0..2).map(|_| told.recv().expect("recv")).collect();
        std::thread::sleep(time);
        stop.store(true, Relaxed);
        while done.load(Relaxed) != 2 {
            ids.iter().for_each(|t| sys::interrupt(*t));
            std::thread::sleep(Duration::from_millis(1));
        }
        done.store(u64::MAX, Relaxed);
    });
    // The VMs go while their eventfds are signaled.
}

/// The test.
pub fn races(t: &mut Tap) {
    let seed = Rng::seed();
    println!("# RNG={seed}");
    let refs = references();
    let s = Shared {
        events: (0..EVENTS).map(|_| RwLock::new(Fd::event())).collect(),
        stop: AtomicBool::new(false),
        calls: AtomicU64::new(0),
    };
    let signals = AtomicU64::new(0);
    let before = std::thread::scope(|scope| {
        let (s, signals) = (&s, &signals);
        scope.spawn(move || {
            let mut rng = Rng::new(seed);
            while !s.stop.load(Relaxed) {
                s.events[rng.below(EVENTS)].read().expect("lock").signal(1);
                signals.fetch_add(1, Relaxed);
                if rng.one_in(16) {
                    std::thread::yield_now();
                }
            }
        });
        round(s, seed, Duration::from_millis(500));
        // The first round fills caches that stay.
        let before = Account::take();
        let end = Instant::now() + Duration::from_secs(6);
        let mut n = 0;
        while Instant::now() < end {
            n += 1;
            round(s, seed + 100 * n, Duration::from_millis(200));
        }
        println!("# {n} rounds");
        s.stop.store(true, Relaxed);
        before
    });
    let (calls, signals) = (s.calls.load(Relaxed), signals.load(Relaxed));
    println!("# {calls} calls, {signals} signals");
    t.point(calls > 100 && signals > 100, "there was something to do");
    drop(s);
    std::thread::sleep(Duration::from_millis(300));
    t.same("no reference to the module is left", references(), refs);
    let (left, seen) = before.growth();
    println!("# {seen}");
    t.same("no kernel memory is left", left, Vec::new());
    let g = guest();
    t.point(g.cpus[0].regs().rip != 0, "another VM works");
}
