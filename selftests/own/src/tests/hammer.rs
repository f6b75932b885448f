// SPDX-License-Identifier: GPL-2.0

//! Many threads call all ioctls of one VM at random while its vCPUs run, one of them scribbles over
//! the shared pages. Nothing is expected of a single call; afterwards the host's log is clean, no
//! memory and no reference is lost, and another VM works.

use super::rng::Rng;
use crate::account::Account;
use crate::errno::ops;
use crate::errno::ops::Arg;
use crate::errno::ops::Op;
use crate::errno::world::On;
use crate::errno::world::Stage;
use crate::errno::world::World;
use crate::errno::MAKES_FD;
use crate::guest::Guest;
use crate::guest::CODE;
use crate::guest_code;
use crate::sys;
use crate::sys::Answer;
use crate::sys::Area;
use crate::sys::Fd;
use crate::sys::PAGE;
use crate::tap::Tap;
use crate::uapi as k;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use std::time::Instant;

guest_code! {
    busy,
    "2: mov ebx, 0x10000000",
    "mov ecx, 16",
    "3: mov [rbx], ecx",
    "add ebx, 0x1000",
    "loop 3b",
    "mov ebx, 0xe0001000",
    "mov [rbx], eax",
    "mov eax, [rbx + 0x100]",
    "mov edx, 0x300",
    "out dx, eax",
    "in al, dx",
    "out 0x80, al",
    "in al, 0x61",
    "in al, 0x40",
    "mov ebx, 0xfee00000",
    "mov eax, [rbx + 0x30]",
    "cpuid",
    "rdtsc",
    "mov ecx, 0x1b",
    "rdmsr",
    "jmp 2b",
}

/// Threads that call ioctls, besides one per vCPU and the scribbler.
const CALLERS: usize = 5;

struct Shared {
    w: World,
    ops: Vec<Op>,
    good: Vec<Vec<u8>>,
    stop: AtomicBool,
    done: AtomicU64,
    calls: AtomicU64,
    refused: AtomicU64,
}

/// May bits of the argument be changed at random? Not where the kernel or the guest would then write
/// to other memory of this process, or where no signal ends KVM_RUN any more.
fn mutable(op: &Op, rng: &mut Rng, len: usize) -> Option<usize> {
    let at = rng.below(len * 8);
    match op.cmd {
        // slot, flags, address, the low bits of the size.
        k::SET_USER_MEMORY_REGION | k::SET_USER_MEMORY_REGION2
            if at < 128 || (128..152).contains(&at) =>
        {
            Some(at)
        }
        k::GET_DIRTY_LOG if at < 64 => Some(at),
        k::CLEAR_DIRTY_LOG if at < 128 => Some(at),
        // Of a type that there is, the argument would have a descriptor then.
        k::CREATE_DEVICE if at < 32 => None,
        k::SET_USER_MEMORY_REGION
        | k::SET_USER_MEMORY_REGION2
        | k::GET_DIRTY_LOG
        | k::CLEAR_DIRTY_LOG
        | k::SET_SIGNAL_MASK => None,
        _ if op
            .inner
            .iter()
            .any(|(_, p)| (p * 8..p * 8 + 64).contains(&at)) =>
        {
            None
        }
        _ => Some(at),
    }
}

fn caller(s: &Shared, seed: u64) {
    let mut rng = Rng::new(seed);
    let args = Area::anonymous(9 * PAGE);
    args.protect(8 * PAGE, PAGE, libc::PROT_NONE);
    while !s.stop.load(Relaxed) {
        let i = rng.below(s.ops.len());
        let (op, good) = (&s.ops[i], &s.good[i]);
        let arg = match &op.arg {
            Arg::Value(v) => match rng.below(3) {
                0 => *v,
                1 => rng.below(300),
                _ => rng.next() as usize,
            },
            Arg::Bytes(_) if rng.one_in(8) => match rng.below(4) {
                0 => 0,
                1 => args.addr() + 8 * PAGE,
                2 => args.addr() + 8 * PAGE - good.len() / 2,
                _ => 0xffff_8880_0000_0000,
            },
            Arg::Bytes(_) => {
                args.write(64, good);
                for _ in 0..rng.below(4) {
                    if let Some(bit) = mutable(op, &mut rng, good.len()) {
                        let at = 64 + bit / 8;
                        args.store::<u8>(at, args.load::<u8>(at) ^ (1 << (bit % 8)));
                    }
                }
                args.addr() + 64
            }
        };
        let on = if rng.one_in(50) {
            [On::Dev, On::Vm, On::Vcpu][rng.below(3)]
        } else {
            op.on
        };
        let a = s.w.fd(on).call(op.cmd, arg);
        // One that succeeds on another descriptor than its own makes one as well.
        if let (Answer::Ok(fd), true) = (a, MAKES_FD.contains(&op.cmd)) {
            drop(Fd::own(fd));
        }
        s.calls.fetch_add(1, Relaxed);
        if !a.is_ok() {
            s.refused.fetch_add(1, Relaxed);
        }
    }
}

fn scribbler(s: &Shared, seed: u64) {
    let mut rng = Rng::new(seed);
    let run = &s.w.vcpu.as_ref().expect("vCPU").run;
    while !s.stop.load(Relaxed) {
        for _ in 0..64 {
            // Mostly where the fields are.
            let len = if rng.one_in(2) { 256 } else { run.len() };
            run.store::<u8>(rng.below(len), rng.next() as u8);
        }
        std::thread::yield_now();
    }
}

fn runner(s: &Shared) {
    let v = s.w.vcpu.as_ref().expect("vCPU");
    while !s.stop.load(Relaxed) {
        s.calls.fetch_add(1, Relaxed);
        if v.fd.call(k::RUN, 0) == Answer::Err(libc::EINTR) {
            v.immediate_exit(false);
        }
    }
}

/// One round; the calls made, and how many of them were refused.
fn round(seed: u64, time: Duration) -> (u64, u64) {
    let w = World::new(Stage::Full);
    w.mem.write(CODE as usize, busy());
    // A guest that an SMI takes somewhere runs on with interrupts off, which holds a whole Bochs host
    // (Documentation/testing.rst).
    let ops: Vec<Op> = ops::all()
        .into_iter()
        .filter(|o| ![k::SET_SIGNAL_MASK, k::SMI].contains(&o.cmd))
        .collect();
    let good = ops
        .iter()
        .map(|op| match &op.arg {
            Arg::Value(_) => Vec::new(),
            Arg::Bytes(f) => f(&w),
        })
        .collect();
    let s = Shared {
        w,
        ops,
        good,
        stop: AtomicBool::new(false),
        done: AtomicU64::new(0),
        calls: AtomicU64::new(0),
        refused: AtomicU64::new(0),
    };
    std::thread::scope(|scope| {
        let mut ids = Vec::new();
        let (tell, told) = std::sync::mpsc::channel();
        for i in 0..CALLERS + 2 {
            let (s, tell) = (&s, tell.clone());
            scope.spawn(move || {
                tell.send(sys::this_thread()).expect("send");
                match i {
                    0 => runner(s),
                    1 => scribbler(s, seed),
                    i => caller(s, seed + i as u64),
                }
                // Signals go to living threads only: wait for the last one.
                s.done.fetch_add(1, Relaxed);
                while s.done.load(Relaxed) != u64::MAX {
                    std::thread::sleep(Duration::from_millis(2));
                }
            });
        }
        for _ in 0..CALLERS + 2 {
            ids.push(told.recv().expect("recv"));
        }
        let end = Instant::now() + time;
        while s.done.load(Relaxed) != ids.len() as u64 {
            std::thread::sleep(Duration::from_millis(3));
            s.stop.store(Instant::now() >= end, Relaxed);
            for t in &ids {
                sys::interrupt(*t);
            }
        }
        s.done.store(u64::MAX, Relaxed);
    });
    (s.calls.load(Relaxed), s.refused.load(Relaxed))
}

/// References to the module.
pub fn references() -> String {
    let read = |m: &str| {
        std::fs::read_to_string(format!("/sys/module/{m}/refcnt"))
            .map(|t| t.trim().to_string())
            .unwrap_or_default()
    };
    format!("{} {} {}", read("kvm"), read("kvm_amd"), read("kvm_intel"))
}

/// The test.
pub fn hammer(t: &mut Tap) {
    let seed = Rng::seed();
    println!("# RNG={seed}");
    let before_refs = references();
    // The first round fills caches that stay.
    round(seed, Duration::from_millis(1500));
    let before = Account::take();
    let (mut calls, mut refused) = (0, 0);
    for i in 1..4 {
        let (c, r) = round(seed + 1000 * i, Duration::from_millis(2000));
        calls += c;
        refused += r;
    }
    println!("# {calls} calls, {refused} refused");
    t.point(calls > 300, "calls were made");
    t.point(refused > 0 && refused < calls, "some were refused, not all");
    t.same(
        "no reference to the module is left",
        references(),
        before_refs,
    );
    let (left, seen) = before.growth();
    println!("# {seen}");
    t.same("no kernel memory is left", left, Vec::new());
    // out 0xe1, eax
    let g = Guest::long(&[0xe7, 0xe1]);
    t.same("another VM works", g.values(), Some(vec![]));
}
