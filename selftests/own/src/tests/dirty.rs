// SPDX-License-Identifier: GPL-2.0

//! What the dirty log must not forget: writes to a slot that moves, and to one that was there before
//! the rings.

use crate::guest::boot;
use crate::guest::enable;
use crate::guest::Exit;
use crate::guest::Guest;
use crate::guest::Plan;
use crate::guest::CODE;
use crate::guest::PORT_END;
use crate::guest_code;
use crate::sys;
use crate::sys::Answer;
use crate::sys::Area;
use crate::tap::Tap;
use crate::uapi as k;
use kvm_bindings::*;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;

/// Where the logged slot is, and where it goes.
const AT: u64 = 0x4000_0000;
const TO: u64 = 0x5000_0000;
/// Its number, its place in the memory, and its size.
const SLOT: u32 = 3;
const OFFSET: usize = 2 << 20;
const LEN: usize = 64 * sys::PAGE;
/// KVM_DIRTY_GFN_F_DIRTY and KVM_DIRTY_GFN_F_RESET.
const DIRTY: u32 = 1;
const RESET: u32 = 2;
/// Pages of a large slot.
const MANY: usize = 4096;

guest_code! {
    // Writes to the page at RDI.
    write_one,
    "mov [rdi], edi",
    "mov edx, 0xe1",
    "out dx, al",
}

guest_code! {
    // Writes to the RCX pages at RDI.
    write_many,
    "2: mov [rdi], edi",
    "add rdi, 4096",
    "loop 2b",
    "mov edx, 0xe1",
    "out dx, al",
}

guest_code! {
    // Copies RCX words of a device to RDI.
    copies,
    "rep movsq",
    "mov edx, 0xe1",
    "out dx, al",
}

fn plan(cpus: usize) -> Plan {
    Plan {
        mem: 4 << 20,
        cpus,
        ..Plan::default()
    }
}

fn place(g: &Guest, gpa: u64) -> Answer {
    g.slot(SLOT, gpa, OFFSET, LEN, KVM_MEM_LOG_DIRTY_PAGES)
}

/// The guest writes to a page; did it end well?
fn write(g: &Guest, at: u64) -> bool {
    let mut r = boot::regs(0, CODE);
    r.rdi = at;
    g.cpus[0].set_regs(&r);
    matches!(g.enter(), Ok(Exit::Out { port: PORT_END, .. }))
}

fn log(g: &Guest) -> Result<u64, i32> {
    let bits = vec![0u64];
    let mut d: kvm_dirty_log = sys::zeroed();
    d.slot = SLOT;
    d.__bindgen_anon_1.dirty_bitmap = bits.as_ptr() as *mut _;
    g.vm.set(k::GET_DIRTY_LOG, &d).ok()?;
    Ok(bits[0])
}

/// A slot that moves takes its log along.
pub fn moved(t: &mut Tap) {
    let g = Guest::long_with(plan(1), write_one());
    t.same("less", g.slot(0, 0, 0, 0, 0), Answer::Ok(0));
    t.same("memory", g.slot(0, 0, 0, OFFSET, 0), Answer::Ok(0));
    t.same("a slot with a log", place(&g, AT), Answer::Ok(0));
    t.same("nothing was written", log(&g), Ok(0));
    t.point(write(&g, AT + 0x3000), "a write");
    t.same("it moves", place(&g, TO), Answer::Ok(0));
    t.point(write(&g, TO + 0x5000), "a write to the new place");
    t.same("both are in the log", log(&g), Ok(1 << 3 | 1 << 5));
    t.same("and only once", log(&g), Ok(0));
    // With all pages dirty at first, and some of them cleared.
    let all = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET;
    let on = enable(&g.vm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, u64::from(all));
    t.same("manual protection", on, Answer::Ok(0));
    t.same("removed", g.slot(SLOT, 0, 0, 0, 0), Answer::Ok(0));
    t.same("added", place(&g, AT), Answer::Ok(0));
    t.same("all of it is dirty", log(&g), Ok(u64::MAX));
    let bits = vec![u64::MAX << 8];
    let mut c: kvm_clear_dirty_log = sys::zeroed();
    (c.slot, c.num_pages) = (SLOT, 64);
    c.__bindgen_anon_1.dirty_bitmap = bits.as_ptr() as *mut _;
    t.same(
        "most is cleared",
        g.vm.set(k::CLEAR_DIRTY_LOG, &c),
        Answer::Ok(0),
    );
    t.same("it moves", place(&g, TO), Answer::Ok(0));
    t.same("that stays clear", log(&g), Ok(0xff));
}

/// Rings that come after a slot get its pages.
pub fn late_rings(t: &mut Tap) {
    let mut g = Guest::new(plan(0));
    t.same("less", g.slot(0, 0, 0, 0, 0), Answer::Ok(0));
    t.same("memory", g.slot(0, 0, 0, OFFSET, 0), Answer::Ok(0));
    t.same("a slot with a log", place(&g, AT), Answer::Ok(0));
    t.same("a bitmap", log(&g), Ok(0));
    let on = enable(&g.vm, KVM_CAP_DIRTY_LOG_RING, 1 << 16);
    t.same("rings", on, Answer::Ok(0));
    t.same("no bitmap any more", log(&g), Err(libc::ENXIO));
    g.add_cpu(0, true);
    g.load(CODE, write_one());
    boot::tables(&g.mem);
    g.start_long(0, CODE);
    let at = KVM_DIRTY_LOG_PAGE_OFFSET as usize * sys::PAGE;
    let ring = Area::of_fd(&g.cpus[0].fd, 1 << 16, at).expect("the ring");
    let entry = |n: usize| {
        let word = |i: usize| ring.load::<u32>(16 * n + 4 * i);
        (word(0), word(1), ring.load::<u64>(16 * n + 8))
    };
    t.point(write(&g, AT + 0x3000), "a write");
    t.same("the page", entry(0), (DIRTY, SLOT, 3));
    t.same("no more", entry(1), (0, 0, 0));
}

/// A bitmap that can be read only in part clears nothing.
pub fn unreadable_clear(t: &mut Tap) {
    let mem = OFFSET + MANY * sys::PAGE;
    let g = Guest::new(Plan { mem, ..plan(0) });
    let all = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET;
    let on = enable(&g.vm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, u64::from(all));
    t.same("manual protection", on, Answer::Ok(0));
    let len = MANY * sys::PAGE;
    let slot = g.slot(SLOT, AT, OFFSET, len, KVM_MEM_LOG_DIRTY_PAGES);
    t.same("a slot, all dirty", slot, Answer::Ok(0));
    // All but the last word can be read.
    let bits = Area::anonymous(2 * sys::PAGE);
    let at = sys::PAGE - MANY / 8 + 8;
    bits.write(at, &vec![0xff; MANY / 8]);
    bits.protect(sys::PAGE, sys::PAGE, libc::PROT_NONE);
    let mut c: kvm_clear_dirty_log = sys::zeroed();
    (c.slot, c.num_pages) = (SLOT, MANY as u32);
    c.__bindgen_anon_1.dirty_bitmap = (bits.addr() + at) as *mut _;
    let clear = |c: &kvm_clear_dirty_log| g.vm.set(k::CLEAR_DIRTY_LOG, c);
    let log = || {
        let words = vec![0u64; MANY / 64];
        let mut d: kvm_dirty_log = sys::zeroed();
        d.slot = SLOT;
        d.__bindgen_anon_1.dirty_bitmap = words.as_ptr() as *mut _;
        g.vm.set(k::GET_DIRTY_LOG, &d).ok().map(|_| words)
    };
    t.same("part of a bitmap", clear(&c), Answer::Err(libc::EFAULT));
    t.same("all is dirty", log(), Ok(vec![u64::MAX; MANY / 64]));
    bits.protect(sys::PAGE, sys::PAGE, libc::PROT_READ);
    t.same("all of it", clear(&c), Answer::Ok(0));
    t.same("nothing is dirty", log(), Ok(vec![0; MANY / 64]));
}

/// A reset that signals cut short says how much it did.
pub fn reset_signals(t: &mut Tap) {
    let mem = OFFSET + MANY * sys::PAGE;
    let mut g = Guest::new(Plan { mem, ..plan(0) });
    t.same("less", g.slot(0, 0, 0, 0, 0), Answer::Ok(0));
    t.same("memory", g.slot(0, 0, 0, OFFSET, 0), Answer::Ok(0));
    let on = enable(&g.vm, KVM_CAP_DIRTY_LOG_RING, 1 << 20);
    t.same("rings", on, Answer::Ok(0));
    let len = MANY * sys::PAGE;
    let slot = g.slot(SLOT, AT, OFFSET, len, KVM_MEM_LOG_DIRTY_PAGES);
    t.same("a slot", slot, Answer::Ok(0));
    g.add_cpu(0, true);
    g.load(CODE, write_many());
    boot::tables(&g.mem);
    g.start_long(0, CODE);
    let at = KVM_DIRTY_LOG_PAGE_OFFSET as usize * sys::PAGE;
    let ring = Area::of_fd(&g.cpus[0].fd, 1 << 20, at).expect("the ring");
    sys::catch_usr1();
    let me = sys::this_thread();
    // Once around the ring: a signal does not come in time in every round.
    for round in 0..16 {
        let mut r = boot::regs(0, CODE);
        (r.rdi, r.rcx) = (AT, MANY as u64);
        g.cpus[0].set_regs(&r);
        let end = g.enter();
        t.point(
            matches!(end, Ok(Exit::Out { port: PORT_END, .. })),
            "writes",
        );
        let mine = round * MANY..(round + 1) * MANY;
        let dirty = mine.clone().all(|n| ring.load::<u32>(16 * n) == DIRTY);
        t.point(dirty, "all are in the ring");
        mine.for_each(|n| ring.store(16 * n, RESET));
        let (begun, done) = (AtomicBool::new(false), AtomicBool::new(false));
        let (mut total, mut calls, mut failed) = (0, 0, None);
        thread::scope(|s| {
            s.spawn(|| {
                while !done.load(Relaxed) {
                    sys::interrupt(me);
                    begun.store(true, Relaxed);
                }
            });
            while !begun.load(Relaxed) {
                thread::yield_now();
            }
            while total < MANY as i32 && calls < 100_000 && failed.is_none() {
                match g.vm.call(k::RESET_DIRTY_RINGS, 0) {
                    Answer::Ok(n) => total += n,
                    Answer::Err(e) => failed = Some(e),
                }
                calls += 1;
            }
            done.store(true, Relaxed);
        });
        t.same("no error", failed, None);
        t.same("all were counted", total, MANY as i32);
        if total < MANY as i32 {
            break;
        }
    }
}

/// A string instruction that reads a device in user space writes more often than the ring has
/// entries: user space hears in time that it is full.
pub fn ring_of_elements(t: &mut Tap) {
    const PAGES: usize = 8;
    const ENTRIES: usize = 1024;
    const BYTES: usize = 16 * ENTRIES;
    let mut g = Guest::new(plan(0));
    t.same("less", g.slot(0, 0, 0, 0, 0), Answer::Ok(0));
    t.same("memory", g.slot(0, 0, 0, OFFSET, 0), Answer::Ok(0));
    let on = enable(&g.vm, KVM_CAP_DIRTY_LOG_RING, BYTES as u64);
    t.same("rings", on, Answer::Ok(0));
    t.same("a slot", place(&g, AT), Answer::Ok(0));
    g.add_cpu(0, true);
    g.load(CODE, copies());
    boot::tables(&g.mem);
    g.start_long(0, CODE);
    let v = &g.cpus[0];
    let at = KVM_DIRTY_LOG_PAGE_OFFSET as usize * sys::PAGE;
    let ring = Area::of_fd(&v.fd, BYTES, at).expect("the ring");
    let mut r = boot::regs(0, CODE);
    (r.rsi, r.rdi) = (0xe000_0000, AT);
    r.rcx = (PAGES * sys::PAGE / 8) as u64;
    v.set_regs(&r);
    let (mut next, mut seen, mut full) = (0, 0u64, 0);
    let mut harvest = || {
        while ring.load::<u32>(16 * (next % ENTRIES)) == DIRTY {
            let e = 16 * (next % ENTRIES);
            seen |= 1 << ring.load::<u64>(e + 8);
            ring.store(e, RESET);
            next += 1;
        }
        seen
    };
    let end = loop {
        match g.enter() {
            Ok(e @ Exit::MmioRead { .. }) => v.answer(&e, &[0x5a; 8]),
            Ok(Exit::Other(KVM_EXIT_DIRTY_RING_FULL)) if full < 1000 => {
                full += 1;
                harvest();
                g.vm.call(k::RESET_DIRTY_RINGS, 0).ok().expect("reset");
            }
            e => break e,
        }
    };
    let ended = matches!(end, Ok(Exit::Out { port: PORT_END, .. }));
    t.point(ended, format!("the guest ends: {end:x?}"));
    t.same("all pages were in the ring", harvest(), (1 << PAGES) - 1);
    t.point(full > 0, format!("it was full {full} times"));
    let last: u64 = g.mem.load(OFFSET + PAGES * sys::PAGE - 8);
    t.same("the last word", last, u64::from_ne_bytes([0x5a; 8]));
}
