// SPDX-License-Identifier: GPL-2.0

//! Guests whose memory is a guest_memfd: what they see of holes, of user space's writes and of a file
//! that is closed, alone and while other threads do all of that at once.

use super::host_memory::NoBalancing;
use super::memory::touched;
use crate::guest::boot;
use crate::guest::Exit;
use crate::guest::Guest;
use crate::guest::Plan;
use crate::guest::CODE;
use crate::guest::PORT_END;
use crate::guest_code;
use crate::host;
use crate::memfd;
use crate::memfd::bind;
use crate::memfd::fallocate;
use crate::memfd::unbind;
use crate::memfd::Slot;
use crate::memfd::HOLE;
use crate::memfd::KEEP;
use crate::memfd::SHARED;
use crate::sys;
use crate::sys::Answer;
use crate::sys::Area;
use crate::sys::Fd;
use crate::sys::PAGE;
use crate::table;
use crate::tap::Tap;
use crate::uapi as k;
use kvm_bindings::*;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

/// Where the file is in the guest.
const AT: u64 = 0x4000_0000;
const PAGES: usize = 16;
/// Offsets in the run page.
const RUN_REASON: usize = 8;
const RUN_UNION: usize = 32;

guest_code! {
    // Reads RDI, reports it, writes ESI there, and once more from the start.
    touch,
    "2: mov eax, [rdi]",
    "mov edx, 0xe0",
    "out dx, eax",
    "mov [rdi], esi",
    "mov edx, 0xe1",
    "out dx, al",
    "jmp 2b",
}

guest_code! {
    // From device memory to RDI: emulated.
    copy,
    "mov esi, 0xe0000000",
    "movsd",
    "mov edx, 0xe1",
    "out dx, al",
}

fn guest() -> Guest {
    Guest::long_with(
        Plan {
            mem: 4 << 20,
            ..Plan::default()
        },
        touch(),
    )
}

fn one(v: &str) -> Vec<String> {
    vec![v.to_string()]
}

/// KVM_RUN fails with an errno and says which page it was.
fn fails(t: &mut Tap, what: &str, g: &Guest, at: u64, errno: i32) {
    let mut r = boot::regs(0, CODE);
    (r.rdi, r.rsi) = (at, 1);
    let v = &g.cpus[0];
    v.set_regs(&r);
    v.run.store::<u32>(RUN_REASON, 0);
    t.same(format!("{what}: KVM_RUN"), g.enter(), Err(errno));
    let words: Vec<u64> = (0..3).map(|i| v.run.load(RUN_UNION + 8 * i)).collect();
    t.same(
        format!("{what}: reason, flags, address, size"),
        (v.run.load::<u32>(RUN_REASON), words),
        (KVM_EXIT_MEMORY_FAULT, vec![0, at & !0xfff, PAGE as u64]),
    );
}

/// KVM_PRE_FAULT_MEMORY; what is left of the range.
fn pre_fault(g: &Guest, gpa: u64, len: usize) -> (Answer, u64) {
    let mut r: kvm_pre_fault_memory = sys::zeroed();
    (r.gpa, r.size) = (gpa, len as u64);
    let a = g.cpus[0].fd.exchange(k::PRE_FAULT_MEMORY, &mut r);
    (a, r.size)
}

/// A file that user space maps: writes of both, holes, slots that go and come, the end of the file.
pub fn memory(t: &mut Tap) {
    let len = PAGES * PAGE;
    let g = guest();
    let fd = memfd::create(&g.vm, len, SHARED).expect("a file");
    let user = Area::of_fd(&fd, len, 0).expect("mmap");
    t.same("bound", bind(&g.vm, 1, AT, len, &fd, 0), Answer::Ok(0));
    t.same("new memory is zeros", touched(&g, AT, 0x2222), one("0"));
    t.same("user space sees the guest's", user.load::<u32>(0), 0x2222);
    user.store::<u32>(PAGE, 0x1111);
    let at = AT + PAGE as u64;
    t.same(
        "the guest sees user space's",
        touched(&g, at, 3),
        one("1111"),
    );
    t.same("and its answer", user.load::<u32>(PAGE), 3);
    // A hole under mappings of both.
    let page = PAGE as i64;
    t.same("a hole", fallocate(&fd, HOLE, 0, page), Answer::Ok(0));
    t.same("user space sees it", user.load::<u32>(0), 0);
    t.same("so does the guest", touched(&g, AT, 0x77), one("0"));
    t.same("in the same page", user.load::<u32>(0), 0x77);
    t.same("the next page stays", touched(&g, at, 4), one("3"));
    t.same(
        "pages exist again",
        fallocate(&fd, KEEP, 0, len as i64),
        Answer::Ok(0),
    );
    t.same("as they were", touched(&g, AT, 0x78), one("77"));
    t.same("mapped before", pre_fault(&g, AT, len), (Answer::Ok(0), 0));
    t.same(
        "a large hole",
        fallocate(&fd, HOLE, 0, 64 * page),
        Answer::Ok(0),
    );
    let mut seen: Vec<_> = (0..PAGES)
        .map(|i| touched(&g, AT + (i * PAGE) as u64, 5))
        .collect();
    seen.dedup();
    t.same("all are new", seen, vec![one("0")]);
    // The slot goes and comes; the file stays.
    t.same("deleted", unbind(&g.vm, 1), Answer::Ok(0));
    let gone = touched(&g, AT, 1)[0].clone();
    t.same("nothing there", gone, "device read".to_string());
    t.same(
        "bound elsewhere",
        bind(&g.vm, 1, 2 * AT, PAGE, &fd, 3 * PAGE),
        Answer::Ok(0),
    );
    user.store::<u32>(3 * PAGE, 0x333);
    t.same("at another page", touched(&g, 2 * AT, 0x444), one("333"));
    t.same("written", user.load::<u32>(3 * PAGE), 0x444);
    let hole = fallocate(&fd, HOLE, 3 * page, page);
    t.same("a hole there", hole, Answer::Ok(0));
    t.same("seen", touched(&g, 2 * AT, 0x555), one("0"));
    // The descriptor goes, the mapping holds the file.
    drop(fd);
    t.same("closed, but mapped", touched(&g, 2 * AT, 6), one("555"));
    drop(user);
    fails(t, "closed", &g, 2 * AT, libc::EFAULT);
    t.same(
        "not mapped before",
        pre_fault(&g, 2 * AT, PAGE).0,
        Answer::Err(libc::EFAULT),
    );
    fails(t, "still", &g, 2 * AT + 8, libc::EFAULT);
    t.same("deleted at last", unbind(&g.vm, 1), Answer::Ok(0));
    let gone = touched(&g, 2 * AT, 1)[0].clone();
    t.same("nothing there then", gone, "device read".to_string());
    flags(t, &g);
    user_address(t, &g);
    outlives(t);
}

/// Files that user space cannot map, or not touch.
fn flags(t: &mut Tap, g: &Guest) {
    let fd = memfd::create(&g.vm, PAGE, memfd::FLAG_MMAP).expect("a file");
    t.same(
        "private: bound",
        bind(&g.vm, 2, AT, PAGE, &fd, 0),
        Answer::Ok(0),
    );
    t.same("private: the guest has it", touched(g, AT, 0x12), one("0"));
    let user = Area::of_fd(&fd, PAGE, 0).expect("mmap");
    host::catch_bus();
    let code = sys::in_child(|| i32::from(user.load::<u32>(0) == 0x12));
    t.same("private: user space has SIGBUS", code, 255);
    t.same("private: it is as it was", touched(g, AT, 0x13), one("12"));
    drop((user, fd));
    unbind(&g.vm, 2).ok().ok();
    // Without the first flag only private memory would be the file's.
    let fd = memfd::create(&g.vm, PAGE, 0).expect("a file");
    let offset = 2 << 20;
    g.mem.store::<u32>(offset, 0x99);
    let slot = Slot {
        id: 2,
        flags: KVM_MEM_GUEST_MEMFD,
        gpa: AT,
        size: PAGE as u64,
        hva: (g.mem.addr() + offset) as u64,
        fd: fd.raw(),
        offset: 0,
    };
    t.same("not mapped: bound", slot.set(&g.vm), Answer::Ok(0));
    t.same("not mapped: user memory", touched(g, AT, 0x98), one("99"));
    t.same("not mapped: written", g.mem.load::<u32>(offset), 0x98);
    let hole = fallocate(&fd, HOLE, 0, PAGE as i64);
    t.same("not mapped: a hole", hole, Answer::Ok(0));
    t.same("not mapped: is none there", touched(g, AT, 0x97), one("98"));
    drop(fd);
    t.same("not mapped: closed", touched(g, AT, 0x96), one("97"));
    t.same("not mapped: deleted", unbind(&g.vm, 2), Answer::Ok(0));
}

/// A slot that has user memory as well: the guest has the file, the module itself user memory.
fn user_address(t: &mut Tap, g: &Guest) {
    let fd = memfd::create(&g.vm, PAGE, SHARED).expect("a file");
    let user = Area::of_fd(&fd, PAGE, 0).expect("mmap");
    let offset = 3 << 20;
    g.mem.store::<u32>(offset, 0xaaaa);
    user.store::<u32>(0, 0xbbbb);
    let slot = Slot {
        id: 3,
        flags: KVM_MEM_GUEST_MEMFD,
        gpa: AT,
        size: PAGE as u64,
        hva: (g.mem.addr() + offset) as u64,
        fd: fd.raw(),
        offset: 0,
    };
    t.same("both: bound", slot.set(&g.vm), Answer::Ok(0));
    t.same(
        "both: the guest has the file",
        touched(g, AT, 0xcccc),
        one("bbbb"),
    );
    t.same("both: which it writes", user.load::<u32>(0), 0xcccc);
    t.same("both: alone", g.mem.load::<u32>(offset), 0xaaaa);
    // User space takes its memory away: that is not the guest's.
    g.mem.discard(offset, PAGE);
    t.same("both: discarded", touched(g, AT, 0xdddd), one("cccc"));
    // An instruction that is emulated.
    g.load(CODE, copy());
    let mut r = boot::regs(0, CODE);
    r.rdi = AT + 0x10;
    g.cpus[0].set_regs(&r);
    let e = g.enter();
    t.point(
        matches!(e, Ok(Exit::MmioRead { .. })),
        "both: a device is read",
    );
    if let Ok(e) = e {
        g.cpus[0].answer(&e, &0x1357u32.to_le_bytes());
    }
    let end = g.enter();
    let ended = matches!(end, Ok(Exit::Out { port: PORT_END, .. }));
    t.point(ended, format!("both: the end: {end:x?}"));
    let both = (user.load::<u32>(0x10), g.mem.load::<u32>(offset + 0x10));
    t.same("both: emulated, user memory is written", both, (0, 0x1357));
    g.load(CODE, touch());
    t.same("both: deleted", unbind(&g.vm, 3), Answer::Ok(0));
}

/// The VM's own descriptors go first.
fn outlives(t: &mut Tap) {
    let g = guest();
    let fd = memfd::create(&g.vm, PAGES * PAGE, SHARED).expect("a file");
    let len = PAGES * PAGE;
    t.same(
        "last: bound",
        bind(&g.vm, 1, AT, len, &fd, 0),
        Answer::Ok(0),
    );
    t.same("last: the guest has it", touched(&g, AT, 0x31), one("0"));
    drop(g);
    let user = Area::of_fd(&fd, len, 0).expect("mmap");
    t.same("last: its memory is there", user.load::<u32>(0), 0x31);
    let hole = fallocate(&fd, HOLE, 0, PAGE as i64);
    t.same("last: a hole", hole, Answer::Ok(0));
    t.same("last: seen", user.load::<u32>(0), 0);
}

/// Which node of the host's memory a page is made on; nobody moves it afterwards.
pub fn policy(t: &mut Tap) {
    let _quiet = NoBalancing::new();
    let g = guest();
    let len = PAGES * PAGE;
    let fd = memfd::create(&g.vm, len, SHARED).expect("a file");
    let user = Area::of_fd(&fd, len, 0).expect("mmap");
    t.same("none", memfd::policy(&user, 0), (Answer::Ok(0), 0, 0));
    // MPOL_BIND 2, MPOL_INTERLEAVE 3.
    let set = memfd::mbind(&user, 0, 4 * PAGE, 2, 2);
    if set == Answer::Err(libc::EINVAL) {
        t.skip("the host has one node of memory");
        return;
    }
    t.same("node 1", set, Answer::Ok(0));
    t.same(
        "node 0",
        memfd::mbind(&user, 4 * PAGE, 4 * PAGE, 2, 1),
        Answer::Ok(0),
    );
    let both = memfd::mbind(&user, 8 * PAGE, 8 * PAGE, 3, 3);
    t.same("both in turn", both, Answer::Ok(0));
    for (what, page, want) in [
        ("node 1", 3, (2, 2)),
        ("node 0", 4, (2, 1)),
        ("in turn", 8, (3, 3)),
    ] {
        let (a, mode, nodes) = memfd::policy(&user, page * PAGE);
        t.same(
            format!("policy: {what}"),
            (a, (mode, nodes)),
            (Answer::Ok(0), want),
        );
    }
    let bad = memfd::mbind(&user, 0, PAGE, 999, 1);
    t.same("no such policy", bad, Answer::Err(libc::EINVAL));
    // Made by the guest, by user space and by fallocate.
    t.same("bound", bind(&g.vm, 1, AT, len, &fd, 0), Answer::Ok(0));
    t.same("the guest's", touched(&g, AT, 1), one("0"));
    user.store::<u32>(PAGE, 1);
    let made = fallocate(&fd, KEEP, 2 * PAGE as i64, 6 * PAGE as i64);
    t.same("fallocate", made, Answer::Ok(0));
    for i in 0..8 {
        user.load::<u32>(i * PAGE);
    }
    let nodes = memfd::nodes(&user, 0, 8);
    t.same("where they are", nodes, vec![1, 1, 1, 1, 0, 0, 0, 0]);
    let moved = sys::move_to_node(&user, 0, 2, 0);
    t.point(
        moved.iter().all(|s| *s != 0),
        format!("they do not move: {moved:?}"),
    );
    t.same("nor did they", memfd::nodes(&user, 0, 2), vec![1, 1]);
    let none = memfd::mbind(&user, 0, len, 0, 0);
    t.same("no policy again", none, Answer::Ok(0));
    t.same("as before", memfd::policy(&user, 0), (Answer::Ok(0), 0, 0));
}

/// A page with a memory error: the guest hears of it as long as the page is in the file.
pub fn broken(t: &mut Tap) {
    let _quiet = NoBalancing::new();
    let g = guest();
    let len = PAGES * PAGE;
    let fd = memfd::create(&g.vm, len, SHARED).expect("a file");
    let user = Area::of_fd(&fd, len, 0).expect("mmap");
    t.same("bound", bind(&g.vm, 1, AT, len, &fd, 0), Answer::Ok(0));
    let at = AT + 5 * PAGE as u64;
    t.same("the guest has the page", touched(&g, at, 0x51), one("0"));
    host::catch_bus();
    // The page is broken and stays in the file, which counts as a failure to get rid of it.
    match user.advise(5 * PAGE, PAGE, libc::MADV_HWPOISON) {
        Answer::Ok(0) | Answer::Err(libc::EBUSY) => {}
        a => {
            t.skip(format!("the host cannot break pages: {a}"));
            return;
        }
    }
    let signals = host::bus_errors().0;
    fails(t, "broken", &g, at, libc::EHWPOISON);
    fails(t, "again", &g, at + 4, libc::EHWPOISON);
    let before = pre_fault(&g, at, PAGE).0;
    t.same("not mapped before", before, Answer::Err(libc::EHWPOISON));
    t.same("no signal for that", host::bus_errors().0, signals);
    let next = AT + 6 * PAGE as u64;
    t.same("the next page is good", touched(&g, next, 1), one("0"));
    let hole = fallocate(&fd, HOLE, 5 * PAGE as i64, PAGE as i64);
    t.same("a hole", hole, Answer::Ok(0));
    t.same("a new page", touched(&g, at, 0x52), one("0"));
    // The old mapping has an entry in its place that is for ever broken.
    let user = Area::of_fd(&fd, len, 0).expect("mmap");
    t.same("for both", user.load::<u32>(5 * PAGE), 0x52);
}

guest_code! {
    // Counts in the first word of R10 pages from R8 on, and keeps the counts from R9 on. Zero is what a new
    // page has. R11: rounds, stop; then what was wrong. Interrupts are on: Bochs would not let the host
    // have its own otherwise.
    rounds,
    "sti",
    "2: mov rdi, r8",
    "mov rsi, r9",
    "mov rbx, r10",
    "3: mov rax, [rdi]",
    "cmp rax, [rsi]",
    "je 4f",
    "test rax, rax",
    "jnz 8f",
    "4: inc rax",
    "mov [rdi], rax",
    "mov [rsi], rax",
    "add rdi, 4096",
    "add rsi, 8",
    "dec rbx",
    "jnz 3b",
    "inc qword ptr [r11]",
    "cmp dword ptr [r11 + 8], 0",
    "je 2b",
    "mov edx, 0xe1",
    "out dx, al",
    "8: mov rcx, [rsi]",
    "mov [r11 + 16], rdi",
    "mov [r11 + 24], rax",
    "mov [r11 + 32], rcx",
    "mov edx, 0xe0",
    "out dx, eax",
    "jmp 8b",
}

/// Pages of each vCPU in the storm.
const EACH: usize = 128;
/// vCPUs.
const CPUS: usize = 3;
/// Where vCPU `i` keeps its counts, and its control words.
const fn counts(i: usize) -> usize {
    0x8_0000 + 0x1000 * i
}
const fn control(i: usize) -> usize {
    0x9_0000 + 0x100 * i
}

/// A guest that goes round and round in a file.
struct Storm {
    g: Guest,
    fd: Fd,
    user: Area,
}

impl Storm {
    fn new() -> Self {
        let plan = Plan {
            cpus: CPUS,
            ..Plan::default()
        };
        let g = Guest::long_with(plan, rounds());
        let len = CPUS * EACH * PAGE;
        let fd = memfd::create(&g.vm, len, SHARED).expect("a file");
        let user = Area::of_fd(&fd, len, 0).expect("mmap");
        // Two slots, and the second in front of the first: a hole over both is two ranges.
        let half = len / 2;
        bind(&g.vm, 1, AT + half as u64, half, &fd, 0)
            .ok()
            .expect("a slot");
        bind(&g.vm, 2, AT, half, &fd, half).ok().expect("a slot");
        for i in 0..CPUS {
            let mut r = boot::regs(i, CODE);
            r.r8 = AT + (i * EACH * PAGE) as u64;
            (r.r9, r.r10) = (counts(i) as u64, EACH as u64);
            r.r11 = control(i) as u64;
            g.cpus[i].set_regs(&r);
        }
        Self { g, fd, user }
    }

    /// Where the guest's page `n` is in the file.
    fn offset(n: usize) -> usize {
        let half = CPUS * EACH / 2;
        ((n + half) % (2 * half)) * PAGE
    }

    /// Every vCPU finishes two more rounds.
    fn goes_on(&self) -> bool {
        let now = |i: usize| self.g.mem.load::<u64>(control(i));
        let from: Vec<u64> = (0..CPUS).map(now).collect();
        let limit = Instant::now() + Duration::from_secs(40);
        while (0..CPUS).any(|i| now(i) < from[i] + 2) {
            if Instant::now() > limit {
                return false;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        true
    }
}

/// All vCPUs write to all pages while one thread punches holes and another makes pages and looks at
/// them: what a vCPU wrote last is what is in the file.
pub fn storm(t: &mut Tap) {
    let _quiet = NoBalancing::new();
    let w = Storm::new();
    let over = AtomicBool::new(false);
    let (g, user) = (&w.g, &w.user);
    let (ends, holes) = std::thread::scope(|s| {
        let runs: Vec<_> = (0..CPUS)
            .map(|i| {
                s.spawn(move || loop {
                    match g.cpus[i].enter() {
                        Err(libc::EINTR) => {}
                        e => return e,
                    }
                })
            })
            .collect();
        let (over, w) = (&over, &w);
        let maker = s.spawn(move || {
            let mut failed = 0;
            while !over.load(Ordering::Relaxed) {
                let all = user.len() as i64;
                failed += i32::from(!fallocate(&w.fd, KEEP, 0, all).is_ok());
                for i in (0..user.len()).step_by(PAGE) {
                    user.load::<u64>(i);
                }
                std::thread::sleep(Duration::from_millis(3));
            }
            failed
        });
        t.same("the guest runs", w.goes_on(), true);
        let (mut holes, mut seed) = (0, 12345u64);
        let limit = Instant::now() + Duration::from_secs(4);
        while Instant::now() < limit && holes < 3000 {
            seed = seed
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            let first = (seed >> 33) as usize % (CPUS * EACH);
            let n = 1 + (seed >> 20) as usize % 40;
            let (from, len) = ((first * PAGE) as i64, (n * PAGE) as i64);
            if !fallocate(&w.fd, HOLE, from, len).is_ok() {
                break;
            }
            holes += 1;
        }
        t.same("the guest runs on", w.goes_on(), true);
        over.store(true, Ordering::Relaxed);
        t.same("pages were made", maker.join().expect("the maker"), 0);
        for i in 0..CPUS {
            g.mem.store::<u64>(control(i) + 8, 1);
        }
        let ends: Vec<_> = runs
            .into_iter()
            .map(|r| r.join().expect("a vCPU"))
            .collect();
        (ends, holes)
    });
    for (i, e) in ends.iter().enumerate() {
        let good = matches!(e, Ok(Exit::Out { port: PORT_END, .. }));
        if !good {
            let words: Vec<u64> = (0..3)
                .map(|n| g.mem.load(control(i) + 16 + 8 * n))
                .collect();
            println!("# vCPU {i}: {e:x?}: page, what was in it, what should have been: {words:x?}");
        }
        t.point(good, format!("vCPU {i} found every count as it left it"));
    }
    t.point(holes > 20, format!("{holes} holes"));
    let lost = (0..CPUS * EACH).find(|n| {
        let kept: u64 = g.mem.load(counts(n / EACH) + 8 * (n % EACH));
        user.load::<u64>(Storm::offset(*n)) != kept
    });
    t.same("the file has what the guest wrote last", lost, None);
}

/// Kilobytes of files in the host's memory.
fn cached() -> i64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("Cached:"));
    line.and_then(|l| l.trim().trim_end_matches(" kB").parse().ok())
        .unwrap_or(0)
}

/// How many descriptors and the like keep the module.
fn users() -> String {
    let text = std::fs::read_to_string("/sys/module/kvm/refcnt");
    text.unwrap_or_default().trim().to_string()
}

/// The end of files: closed under a running guest, with the process that runs it, last and first.
pub fn ends(t: &mut Tap) {
    let _quiet = NoBalancing::new();
    // The file goes while the guest is in it.
    let before = users();
    let w = Storm::new();
    let (g, fd, user) = (w.g, w.fd, w.user);
    let end = std::thread::scope(|s| {
        let run = s.spawn(|| loop {
            match g.cpus[0].enter() {
                Err(libc::EINTR) => {}
                e => return e,
            }
        });
        let limit = Instant::now() + Duration::from_secs(20);
        while g.mem.load::<u64>(control(0)) < 2 && Instant::now() < limit {
            std::thread::sleep(Duration::from_millis(2));
        }
        drop(user);
        drop(fd);
        run.join().expect("the vCPU")
    });
    t.same("closed under the guest", end, Err(libc::EFAULT));
    let reason = g.cpus[0].run.load::<u32>(RUN_REASON);
    t.same("the reason", reason, KVM_EXIT_MEMORY_FAULT);
    drop(g);
    t.same("nobody has the module", users(), before.clone());
    // The process ends, by itself and killed, with the guest running.
    for _ in 0..4 {
        let pid = sys::spawn_child(|| {
            let w = Storm::new();
            std::thread::scope(|s| {
                for v in &w.g.cpus {
                    s.spawn(move || v.enter().is_ok());
                }
                std::thread::sleep(Duration::from_secs(60));
            });
        });
        std::thread::sleep(Duration::from_millis(300));
        sys::kill_child(pid);
    }
    t.same("killed: nobody has the module", users(), before.clone());
    // Its memory is a file's, and is given back with it.
    let (g, size) = (guest(), 32 << 20);
    let empty = cached();
    let fd = memfd::create(&g.vm, size, SHARED).expect("a file");
    let made = fallocate(&fd, KEEP, 0, size as i64);
    t.same("32 MiB", made, Answer::Ok(0));
    let kib = (size >> 10) as i64;
    let full = cached() - empty;
    t.point(
        (kib - 2048..kib + 8192).contains(&full),
        format!("{full} KiB more"),
    );
    let hole = fallocate(&fd, HOLE, 0, (size / 2) as i64);
    t.same("half of it goes", hole, Answer::Ok(0));
    let half = cached() - empty;
    let want = kib / 2 - 2048..kib / 2 + 8192;
    t.point(want.contains(&half), format!("{half} KiB more"));
    bind(&g.vm, 1, AT, size, &fd, 0).ok().expect("a slot");
    drop(fd);
    std::thread::sleep(Duration::from_millis(50));
    let left = cached() - empty;
    t.point(left < 4096, format!("closed: {left} KiB more"));
    // A path to the file is no file, but the module is still needed. (The in-tree one does not know.)
    let fd = memfd::create(&g.vm, PAGE, SHARED).expect("a file");
    let name = std::ffi::CString::new(format!("/proc/self/fd/{}", fd.raw())).expect("a name");
    let path = Fd::open(&name, libc::O_PATH);
    let opened = Fd::open(&name, libc::O_RDWR).err();
    t.same("it cannot be opened", opened, Some(libc::ENXIO));
    drop((fd, g));
    if !table::stock() {
        t.point(users() != before, "a path keeps the module");
    }
    t.point(path.is_ok(), "there is a path");
    drop(path);
    t.same("nobody has the module at last", users(), before);
}
