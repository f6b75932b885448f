// SPDX-License-Identifier: GPL-2.0

//! Many threads call all ioctls of one VM at random while its vCPUs run, one of them scribbles over
//! the shared pages. Nothing is expected of a single call; afterwards that VM does what it is told and a
//! new vCPU of it runs, the host's log is clean, no memory and no reference is lost, and another VM works.

use super::rng::Rng;
use crate::account::Account;
use crate::errno::ops;
use crate::errno::ops::Arg;
use crate::errno::ops::Op;
use crate::errno::world::On;
use crate::errno::world::Stage;
use crate::errno::world::World;
use crate::errno::world::LOGGED;
use crate::errno::world::LOGGED_PAGES;
use crate::errno::MAKES_FD;
use crate::guest;
use crate::guest::boot;
use crate::guest::Exit;
use crate::guest::Guest;
use crate::guest::Vcpu;
use crate::guest::CODE;
use crate::guest::PORT_END;
use crate::guest::PORT_VALUE;
use crate::guest_code;
use crate::sys;
use crate::sys::Answer;
use crate::sys::Area;
use crate::sys::Fd;
use crate::sys::PAGE;
use crate::tap::Tap;
use crate::uapi as k;
use kvm_bindings::*;
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

/// Bits of `struct kvm_vcpu_events` that say whether an SMI waits or is handled.
const SMI_BITS: std::ops::Range<usize> = {
    let at = 8 * std::mem::offset_of!(kvm_vcpu_events, smi);
    at..at + 32
};

/// Does a guest that an SMI takes somewhere, where it runs on with interrupts off, hold the whole host
/// (Documentation/testing.rst)?
fn held() -> bool {
    sys::host("ryzen")
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
        // An SMI that waits, or the mode itself.
        k::SET_VCPU_EVENTS if held() && SMI_BITS.contains(&at) => None,
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

guest_code! {
    // Writes three pages of the slot that is logged, and reads them back.
    afterwards,
    "mov ebx, 0x10000000",
    "mov [rbx + 0x1000], esi",
    "mov [rbx + 0x5008], edi",
    "mov [rbx + 0x9010], ebp",
    "mov eax, [rbx + 0x1000]",
    "add eax, [rbx + 0x5008]",
    "add eax, [rbx + 0x9010]",
    "mov edx, 0xe0",
    "out dx, eax",
    "mov edx, 0xe1",
    "out dx, al",
}

/// Maps `len` bytes of the memory from `offset` as a slot; 0 bytes remove it.
fn slot(w: &World, id: u32, gpa: u64, offset: usize, len: usize, flags: u32) -> Answer {
    let mut r: kvm_userspace_memory_region = sys::zeroed();
    (r.slot, r.flags, r.guest_phys_addr) = (id, flags, gpa);
    (r.memory_size, r.userspace_addr) = (len as u64, (w.mem.addr() + offset) as u64);
    w.vm.set(k::SET_USER_MEMORY_REGION, &r)
}

/// The slots that a caller can have made: numbers at most three bits off those of the good arguments.
fn all_slots() -> impl Iterator<Item = u32> {
    let near = |id: u32| [5, 6].iter().any(|good| (id ^ good).count_ones() <= 3);
    // Of both address spaces.
    (0..1 << 17).filter(move |id| near(*id))
}

/// What the hammered VM does not do as it should. It gets memory again and no routes, and then a new
/// vCPU, as nothing is known of the state of the old one; of that, what is set must be read back.
fn afterwards_wrong(w: &World) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut check = |what: &str, ok: bool, seen: String| {
        if !ok {
            wrong.push(format!("{what}: {seen}"));
        }
    };
    let old = w.vcpu.as_ref().expect("vCPU");
    old.run.write(0, &vec![0; PAGE]);
    let set = kvm_regs {
        rax: 0x1111_2222_3333_4444,
        rsp: 0x5555_6666_7777_8888,
        r15: 0x9999_aaaa_bbbb_cccc,
        rip: 0x1234_5678,
        rflags: 0x246,
        ..Default::default()
    };
    old.set_regs(&set);
    check("registers", old.regs() == set, format!("{:x?}", old.regs()));
    let mut fpu: kvm_fpu = sys::zeroed();
    (fpu.mxcsr, fpu.fcw, fpu.xmm[7]) = (0x1f80, 0x37f, [0xa5; 16]);
    let a = old.fd.set(k::SET_FPU, &fpu);
    let got: kvm_fpu = old.fd.get(k::GET_FPU).expect("KVM_GET_FPU");
    check("FPU", a.is_ok() && got.xmm == fpu.xmm, format!("{a}"));
    let mut clock: kvm_clock_data = sys::zeroed();
    clock.clock = 1 << 60;
    let a = w.vm.set(k::SET_CLOCK, &clock);
    let now: kvm_clock_data = w.vm.get(k::GET_CLOCK).expect("KVM_GET_CLOCK");
    let right = a.is_ok() && now.clock.wrapping_sub(clock.clock) < 600_000_000_000;
    check("clock", right, format!("{a}, {:#x}", now.clock));

    for id in all_slots() {
        slot(w, id, 0, 0, 0, 0).is_ok();
    }
    let a = w.vm.bytes(k::SET_GSI_ROUTING, &mut [0; 8]);
    check("no routes", a.is_ok(), format!("{a}"));
    w.mem.write(0, &vec![0; w.mem.len()]);
    boot::tables(&w.mem);
    w.mem.write(CODE as usize, afterwards());
    let low = slot(w, 0, 0, 0, 1 << 20, 0);
    let ((id, gpa), len) = (LOGGED, LOGGED_PAGES * PAGE);
    let high = slot(w, id, gpa, 1 << 20, len, KVM_MEM_LOG_DIRTY_PAGES);
    let ok = low.is_ok() && high.is_ok();
    check("memory", ok, format!("{low} {high}"));

    // The callers took some of the numbers below.
    let Some((id, v)) = (300..400).find_map(|id| Some((id, Vcpu::new(&w.vm, id).ok()?))) else {
        check("a new vCPU", false, "none".to_string());
        return wrong;
    };
    let mut cpuid = guest::supported_cpuid(&w.dev);
    boot::set_apic_id(&mut cpuid, id as u32);
    let a = v.fd.bytes(k::SET_CPUID2, &mut cpuid);
    check("its CPUID", a.is_ok(), format!("{a}"));
    v.set_sregs(&boot::long_sregs(v.sregs()));
    let start = kvm_regs {
        rsi: 0x1234_0000,
        rdi: 0x5600,
        rbp: 0x78,
        ..boot::regs(0, CODE)
    };
    v.set_regs(&start);
    let a = v.set_mp_state(KVM_MP_STATE_RUNNABLE);
    check("its state", a.is_ok(), format!("{a}"));
    let one = sys::limited(5000, || v.enter());
    let sum = Ok(Exit::Out {
        port: PORT_VALUE,
        size: 4,
        count: 1,
        data: 0x1234_5678u32.to_le_bytes().to_vec(),
    });
    check("what it says", one == sum, format!("{one:x?}"));
    let end = sys::limited(5000, || v.enter());
    let ended = matches!(end, Ok(Exit::Out { port: PORT_END, .. }));
    check("its end", ended, format!("{end:x?}"));
    let bitmap = Area::anonymous(PAGE);
    let mut d: kvm_dirty_log = sys::zeroed();
    d.slot = LOGGED.0;
    d.__bindgen_anon_1.dirty_bitmap = bitmap.addr() as *mut _;
    let a = w.vm.set(k::GET_DIRTY_LOG, &d);
    let log = bitmap.load::<u64>(0);
    let right = a.is_ok() && log == 1 << 1 | 1 << 5 | 1 << 9;
    check("the dirty log", right, format!("{a} {log:#x}"));
    wrong
}

/// What a round has shown.
struct Round {
    calls: u64,
    refused: u64,
    /// What the VM did not do as it should, when it was over.
    wrong: Vec<String>,
}

/// One round.
fn round(seed: u64, time: Duration) -> Round {
    let w = World::new(Stage::Full);
    w.mem.write(CODE as usize, busy());
    // Memory of system management mode: an SMI that finds none ends the VM. Its handler exits and returns:
    // out 0xe1, al; rsm.
    slot(&w, 1 << 16, 0, 0, 1 << 20, 0).ok().expect("memory");
    w.mem.write(0x3_8000, &[0xe6, 0xe1, 0x0f, 0xaa]);
    let bochs = sys::host("intel") || held();
    let ops: Vec<Op> = ops::all()
        .into_iter()
        .filter(|o| o.cmd != k::SMI || !bochs)
        .filter(|o| o.cmd != k::SET_SIGNAL_MASK || !held())
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
    Round {
        calls: s.calls.load(Relaxed),
        refused: s.refused.load(Relaxed),
        wrong: afterwards_wrong(&s.w),
    }
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
    let mut wrong = round(seed, Duration::from_millis(1500)).wrong;
    let before = Account::take();
    let (mut calls, mut refused) = (0, 0);
    for i in 1..4 {
        let r = round(seed + 1000 * i, Duration::from_millis(2000));
        calls += r.calls;
        refused += r.refused;
        wrong.extend(r.wrong);
    }
    println!("# {calls} calls, {refused} refused");
    t.point(calls > 300, "calls were made");
    t.point(refused > 0 && refused < calls, "some were refused, not all");
    t.same("the hammered VMs do as they are told", wrong, Vec::new());
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
