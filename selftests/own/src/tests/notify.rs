// SPDX-License-Identifier: GPL-2.0

//! The host takes away, replaces and moves the pages behind a slot while the guest works on them.
//!
//! The guest goes round and round over 4 MiB: it counts in the first word of each page and keeps the
//! counts a second time in memory that nobody disturbs, so that a write which went to a page that is
//! no longer there, or a read from one, shows in the next round. The second word of each page is the
//! host's; the guest copies it out, so that a mapping which still shows an old page is seen as well.

use super::host_memory::NoBalancing;
use super::pages::Stats;
use crate::guest::Exit;
use crate::guest::Guest;
use crate::guest::Plan;
use crate::guest::PORT_END;
use crate::guest_code;
use crate::sys;
use crate::sys::PAGE;
use crate::tap::Tap;
use std::cell::Cell;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

/// Where the disturbed memory begins; what the guest itself needs is below.
pub(super) const AT: usize = 2 << 20;
/// Its pages: two large ones.
pub(super) const PAGES: usize = 1024;
const LEN: usize = PAGES * PAGE;
/// Counts of each page, as the guest remembers them.
const COUNTS: usize = 0x8_0000;
/// The host's words, as the guest read them last.
const SEEN: usize = 0x8_4000;
/// Control words.
const ROUNDS: usize = 0x8_8000;
const STOP: usize = 0x8_8008;
/// Pages from here on are only read.
const WRITTEN: usize = 0x8_8010;
/// A page that reads as zero is a new one.
const MAY_VANISH: usize = 0x8_8018;
/// The page that was wrong, what was in it, and what should have been.
const WRONG: usize = 0x8_8020;

guest_code! {
    // Interrupts are on: Bochs would not let the host have its own otherwise.
    rounds,
    "sti",
    "2: mov edi, 0x200000",
    "xor ebx, ebx",
    "3: mov rax, [rdi]",
    "cmp rax, [rbx * 8 + 0x80000]",
    "je 4f",
    "test rax, rax",
    "jnz 8f",
    "cmp dword ptr [0x88018], 0",
    "je 8f",
    "4: cmp rbx, [0x88010]",
    "jae 5f",
    "inc rax",
    "mov [rdi], rax",
    "5: mov [rbx * 8 + 0x80000], rax",
    "mov rax, [rdi + 8]",
    "mov [rbx * 8 + 0x84000], rax",
    "add rdi, 4096",
    "inc ebx",
    "cmp ebx, 1024",
    "jb 3b",
    "inc qword ptr [0x88000]",
    "cmp dword ptr [0x88008], 0",
    "je 2b",
    "mov edx, 0xe1",
    "out dx, al",
    "8: mov [0x88020], rbx",
    "mov [0x88028], rax",
    "mov rax, [rbx * 8 + 0x80000]",
    "mov [0x88030], rax",
    "mov edx, 0xe0",
    "out dx, eax",
    "jmp 8b",
}

/// The guest, running in a thread, and what the host does to it.
pub(super) struct World {
    pub(super) g: Guest,
    /// How often KVM_RUN said EFAULT: the guest met memory that is not there.
    faults: AtomicU64,
    /// The host's last word.
    word: Cell<u64>,
}

impl World {
    pub(super) fn new() -> Self {
        let plan = Plan {
            mem: AT + LEN,
            ..Plan::default()
        };
        let g = Guest::long_with(plan, rounds());
        g.mem.advise(AT, LEN, libc::MADV_NOHUGEPAGE).ok().ok();
        g.mem.store(WRITTEN, PAGES as u64);
        Self {
            g,
            faults: AtomicU64::new(0),
            word: Cell::new(0),
        }
    }

    /// Runs the guest in a thread while `f` does something to its memory.
    pub(super) fn during(&self, t: &mut Tap, f: impl FnOnce(&mut Tap, &Self)) {
        let (cpu, faults, mem) = (&self.g.cpus[0], &self.faults, &self.g.mem);
        let end = std::thread::scope(|s| {
            let thread = s.spawn(move || loop {
                match cpu.enter() {
                    Err(libc::EFAULT) => {
                        faults.fetch_add(1, Ordering::Relaxed);
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    Err(libc::EINTR) => {}
                    other => return other,
                }
            });
            t.same("the guest runs", self.goes_on(), true);
            f(t, self);
            t.same("the guest runs on", self.goes_on(), true);
            mem.store::<u64>(STOP, 1);
            // A guest that hangs in a hole would never see the word.
            let limit = Instant::now() + Duration::from_secs(60);
            while !thread.is_finished() && Instant::now() < limit {
                std::thread::sleep(Duration::from_millis(5));
            }
            if !thread.is_finished() {
                println!("not ok - the guest does not stop");
                std::process::exit(1);
            }
            thread.join().expect("the guest's thread")
        });
        let good = matches!(end, Ok(Exit::Out { port: PORT_END, .. }));
        if !good {
            let [page, was, want] = [0, 8, 16].map(|i| mem.load::<u64>(WRONG + i));
            println!("# {end:x?}: page {page} has {was:#x}, and should have {want:#x}");
        }
        t.point(good, "the guest found every count as it left it");
        let lost = (0..PAGES).find(|i| self.count(*i) != self.remembered(*i));
        t.same("the host sees what the guest wrote last", lost, None);
    }

    fn count(&self, page: usize) -> u64 {
        self.g.mem.load(AT + page * PAGE)
    }

    fn remembered(&self, page: usize) -> u64 {
        self.g.mem.load(COUNTS + 8 * page)
    }

    /// Does the guest finish two more rounds? The first may have begun before.
    pub(super) fn goes_on(&self) -> bool {
        let rounds = || self.g.mem.load::<u64>(ROUNDS);
        let (from, limit) = (rounds(), Instant::now() + Duration::from_secs(40));
        while rounds() < from + 2 {
            if Instant::now() > limit {
                println!("# {} rounds, as 40 s before: {from}", rounds());
                return false;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        true
    }

    /// The guest gets stuck at memory that is not there.
    fn faults(&self, t: &mut Tap, what: &str) {
        let (from, limit) = (self.faults.load(Ordering::Relaxed), Duration::from_secs(20));
        let start = Instant::now();
        while self.faults.load(Ordering::Relaxed) < from + 3 && start.elapsed() < limit {
            std::thread::sleep(Duration::from_millis(2));
        }
        let more = self.faults.load(Ordering::Relaxed) - from;
        t.point(more >= 3, format!("{what}: KVM_RUN says EFAULT ({more})"));
    }

    /// The host writes a new word into each page, and the guest sees it.
    pub(super) fn sees(&self, t: &mut Tap, what: &str) {
        let v = self.word.get() + 1;
        self.word.set(v);
        for i in 0..PAGES {
            self.g.mem.store(AT + i * PAGE + 8, v);
        }
        let on = self.goes_on();
        let old = (0..PAGES).find(|i| self.g.mem.load::<u64>(SEEN + 8 * i) != v);
        t.same(
            format!("{what}: the guest sees the host's writes"),
            (on, old),
            (true, None),
        );
    }

    /// Pages that read as zero are new ones to the guest from now on, or no longer.
    fn may_vanish(&self, on: bool) {
        // A round that began before the change has met no new page.
        self.goes_on();
        self.g.mem.store(MAY_VANISH, u64::from(on));
    }

    /// After `f` the counts of the pages begin anew, and those of the others do not.
    fn vanish(&self, t: &mut Tap, what: &str, pages: std::ops::Range<usize>, f: impl FnOnce()) {
        self.may_vanish(true);
        let before = self.g.mem.load::<u64>(ROUNDS);
        f();
        let on = self.goes_on();
        self.may_vanish(false);
        let counts: Vec<u64> = (0..PAGES).map(|i| self.count(i)).collect();
        // Read last: the guest goes on, and new pages have no more than that.
        let made = self.g.mem.load::<u64>(ROUNDS) - before + 1;
        let mut wrong = (0..PAGES).filter(|i| (counts[*i] <= made) != pages.contains(i));
        // The guest may have read one of them before, and written its next count after.
        let (first, second) = (wrong.next(), wrong.next());
        let between = second.is_none() && first.is_some_and(|i| pages.contains(&i));
        let wrong = first.filter(|_| !between);
        t.same(
            format!("{what}: new pages, and only they"),
            (on, wrong),
            (true, None),
        );
    }
}

/// munmap, mprotect, mremap and MADV_DONTNEED.
pub fn unmap(t: &mut Tap) {
    let w = World::new();
    w.during(t, |t, w| {
        let (mem, some) = (&w.g.mem, 100 * PAGE);
        // So many rounds that a page which begins anew can be told from one that does not.
        while w.g.mem.load::<u64>(ROUNDS) < 40 && w.goes_on() {}
        w.sees(t, "before");
        w.vanish(t, "MADV_DONTNEED", 7..107, || {
            mem.discard(AT + 7 * PAGE, some);
        });
        w.may_vanish(true);
        mem.punch(AT + 200 * PAGE, some);
        w.faults(t, "munmap");
        mem.map_again(AT + 200 * PAGE, some);
        t.same("mapped anew, the guest goes on", w.goes_on(), true);
        w.may_vanish(false);
        w.sees(t, "after munmap");
        for (what, prot) in [("read-only", libc::PROT_READ), ("no access", 0)] {
            let first = w.count(300);
            mem.protect(AT + 300 * PAGE, some, prot);
            w.faults(t, what);
            mem.protect(AT + 300 * PAGE, some, libc::PROT_READ | libc::PROT_WRITE);
            t.same("allowed again, the guest goes on", w.goes_on(), true);
            t.point(w.count(300) > first, "in the same page");
        }
        w.sees(t, "after mprotect");
        let other = sys::Area::anonymous(AT + LEN);
        mem.move_pages(&other, AT + 400 * PAGE, some, false);
        w.faults(t, "mremap to another place");
        let still = other.load::<u64>(AT + 450 * PAGE);
        std::thread::sleep(Duration::from_millis(50));
        let now = other.load::<u64>(AT + 450 * PAGE);
        t.same("nobody writes there", now, still);
        other.move_pages(mem, AT + 400 * PAGE, some, false);
        t.same("and back: the guest goes on", w.goes_on(), true);
        let moved = std::cell::Cell::new(0);
        w.vanish(t, "MREMAP_DONTUNMAP", 500..600, || {
            mem.move_pages(&other, AT + 500 * PAGE, some, true);
            moved.set(other.load::<u64>(AT + 550 * PAGE));
        });
        let now = other.load::<u64>(AT + 550 * PAGE);
        t.same("the moved pages stand still", now, moved.get());
        w.sees(t, "after mremap");
    });
}

/// A child process shares the pages: the guest's writes go to copies.
pub fn fork(t: &mut Tap) {
    let w = World::new();
    let flag = sys::Area::of_fd(&sys::memory_file(PAGE), PAGE, 0).expect("mmap");
    w.during(t, |t, w| {
        for what in ["first child", "second child"] {
            flag.store::<u64>(0, 0);
            let sum = || (0..PAGES).fold(0u64, |s, i| s.wrapping_add(w.count(i)));
            // Between fork and exit the child only reads memory: other threads may hold locks.
            let pid = sys::spawn_child(|| {
                let before = sum();
                flag.store::<u64>(8, 1);
                while flag.watch(0) == 0 {
                    std::thread::sleep(Duration::from_millis(1));
                }
                flag.store::<u64>(16, u64::from(sum() == before) + 1);
            });
            let limit = Instant::now() + Duration::from_secs(20);
            let wait = |at| {
                while flag.watch(at) == 0 && Instant::now() < limit {
                    std::thread::sleep(Duration::from_millis(1));
                }
                flag.watch(at)
            };
            t.same(format!("{what} has looked"), wait(8), 1);
            w.sees(t, what);
            flag.store::<u64>(0, 1);
            t.same(format!("{what}'s copy has not changed"), wait(16), 2);
            sys::kill_child(pid);
            flag.store::<u64>(8, 0);
            flag.store::<u64>(16, 0);
        }
    });
}

fn setting(path: &str, v: &str) -> bool {
    std::fs::write(path, v).is_ok()
}

fn number(path: &str) -> u64 {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

/// A counter of /proc/vmstat.
fn vmstat(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/vmstat").unwrap_or_default();
    let line = text
        .lines()
        .find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// Equal pages are merged into one, and the guest's writes part them again.
pub fn merge(t: &mut Tap) {
    let ksm = |f: &str| format!("/sys/kernel/mm/ksm/{f}");
    if !setting(&ksm("run"), "1") {
        t.skip("the host does not merge pages");
        return;
    }
    setting(&ksm("pages_to_scan"), "2000");
    setting(&ksm("sleep_millisecs"), "20");
    let w = World::new();
    // The second half is only read at first, and all the same.
    w.g.mem.store::<u64>(WRITTEN, 512);
    for i in 512..PAGES {
        w.g.mem.store::<u64>(AT + i * PAGE, 77);
        w.g.mem.store::<u64>(COUNTS + 8 * i, 77);
    }
    w.during(t, |t, w| {
        w.sees(t, "before");
        let half = LEN / 2;
        let r = w.g.mem.advise(AT + half, half, libc::MADV_MERGEABLE);
        t.same("MADV_MERGEABLE", r.ok(), Ok(0));
        let limit = Instant::now() + Duration::from_secs(40);
        while number(&ksm("pages_sharing")) < 400 && Instant::now() < limit {
            std::thread::sleep(Duration::from_millis(20));
        }
        let merged = number(&ksm("pages_sharing"));
        t.point(merged >= 400, format!("merged pages: {merged}"));
        t.same("the guest reads them", w.goes_on(), true);
        w.g.mem.store::<u64>(AT + 600 * PAGE + 8, 99);
        t.same("the host writes to one", w.goes_on(), true);
        let seen = [599, 600, 601].map(|i| w.g.mem.load::<u64>(SEEN + 8 * i));
        let v = w.word.get();
        t.same("the guest sees it there and nowhere else", seen, [v, 99, v]);
        w.g.mem.store::<u64>(WRITTEN, PAGES as u64);
        t.same("the guest writes to all", w.goes_on(), true);
        t.point(w.count(1000) > 77, "its writes arrive");
        w.sees(t, "after merging");
        t.same("unmerge", setting(&ksm("run"), "2"), true);
        w.sees(t, "unmerged");
    });
    setting(&ksm("run"), "0");
}

/// Small pages become large ones under the guest, and are split again.
pub fn huge(t: &mut Tap) {
    let w = World::new();
    let vm = Stats::of(&w.g.vm);
    w.during(t, |t, w| {
        let mem = &w.g.mem;
        while w.g.mem.load::<u64>(ROUNDS) < 40 && w.goes_on() {}
        let large = vm.get("pages_2m");
        t.same("few large pages at first", large <= 1, true);
        let r = mem.advise(AT, LEN, libc::MADV_HUGEPAGE);
        // EAGAIN: a page is in use just now, as the guest is at work on them.
        let collapse = || {
            (0..50)
                .map(|_| mem.advise(AT, LEN, libc::MADV_COLLAPSE))
                .find(|r| *r != sys::Answer::Err(libc::EAGAIN))
                .unwrap_or(sys::Answer::Err(libc::EAGAIN))
        };
        t.same("MADV_HUGEPAGE", r.ok(), Ok(0));
        for round in 0..3 {
            t.same(format!("collapse {round}"), collapse().ok(), Ok(0));
            w.sees(t, "collapsed");
            let now = vm.get("pages_2m");
            t.same("large in the guest", now, large + 2);
            let first = 100 * (round + 1);
            match round {
                0 => w.vanish(t, "a page of it given back", first..first + 1, || {
                    mem.discard(AT + first * PAGE, PAGE);
                }),
                1 => {
                    mem.protect(AT + first * PAGE, PAGE, libc::PROT_READ);
                    w.faults(t, "a page of it read-only");
                    mem.protect(AT + first * PAGE, PAGE, libc::PROT_READ | libc::PROT_WRITE);
                }
                _ => {
                    // Both halves of the second: the whole large page goes.
                    w.vanish(t, "all of it given back", 512..1024, || {
                        mem.discard(AT + LEN / 2, LEN / 2);
                    });
                }
            }
            w.sees(t, "split");
        }
    });
}

/// The frames behind the disturbed pages; 0 where there is none.
fn frames(w: &World) -> Vec<u64> {
    let file = sys::Fd::open(c"/proc/self/pagemap", libc::O_RDONLY).expect("pagemap");
    let first = (w.g.mem.addr() + AT) / PAGE * 8;
    let raw = super::pages::read_at(&file, first, PAGES * 8);
    raw.chunks_exact(8)
        .map(|b| u64::from_ne_bytes(b.try_into().expect("8 bytes")))
        .map(|e| if e >> 63 == 1 { e & ((1 << 55) - 1) } else { 0 })
        .collect()
}

/// Pages move to another node, and back, and where compaction wants them.
pub fn migrate(t: &mut Tap) {
    let w = World::new();
    let area = &w.g.mem;
    if !std::path::Path::new("/sys/devices/system/node/node1").exists() {
        t.skip("the host has one node: numa=fake=2 makes two");
        return;
    }
    // It would move the pages by itself, and not always to where they came from.
    let _quiet = NoBalancing::new();
    w.during(t, |t, w| {
        sys::move_to_node(area, AT, PAGES, 0);
        w.sees(t, "before");
        for node in [1, 0, 1, 0] {
            let before = frames(w);
            let there = sys::move_to_node(area, AT, PAGES, node);
            let there = there.iter().filter(|n| **n == node).count();
            t.same(format!("pages moved to node {node}"), there, PAGES);
            let frames = frames(w);
            let moved = before.iter().zip(&frames).filter(|(a, b)| a != b).count();
            t.point(moved >= PAGES / 2, format!("to other frames: {moved}"));
            w.sees(t, "moved");
        }
        for _ in 0..2 {
            let r = setting("/proc/sys/vm/compact_memory", "1");
            t.same("compaction", r, true);
            w.sees(t, "compacted");
        }
    });
}

/// Pages are written out to swap space and come back.
pub fn swap(t: &mut Tap) {
    let text = std::fs::read_to_string("/proc/swaps").unwrap_or_default();
    if text.lines().count() < 2 {
        t.skip("the host has no swap space");
        return;
    }
    let w = World::new();
    w.during(t, |t, w| {
        w.sees(t, "before");
        let out = vmstat("pswpout");
        for _ in 0..5 {
            let r = w.g.mem.advise(AT, LEN, libc::MADV_PAGEOUT);
            t.same("MADV_PAGEOUT", r.ok(), Ok(0));
            w.sees(t, "after it");
        }
        let out = vmstat("pswpout") - out;
        t.point(out >= 256, format!("pages written out: {out}"));
    });
}

/// Everything at once, in no order, for some seconds.
pub fn storm(t: &mut Tap) {
    let w = World::new();
    w.g.mem.store::<u64>(MAY_VANISH, 1);
    let mut rng = super::rng::Rng::new(super::rng::Rng::seed());
    w.during(t, |t, w| {
        let mem = &w.g.mem;
        let all = libc::PROT_READ | libc::PROT_WRITE;
        let end = Instant::now() + Duration::from_secs(4);
        let mut done = 0;
        while Instant::now() < end {
            let first = rng.below(PAGES - 64);
            let (at, len) = (AT + first * PAGE, (1 + rng.below(64)) * PAGE);
            match rng.below(8) {
                0 => mem.discard(at, len),
                1 => {
                    mem.punch(at, len);
                    mem.map_again(at, len);
                }
                2 => {
                    mem.protect(at, len, libc::PROT_READ);
                    mem.protect(at, len, all);
                }
                3 => {
                    mem.advise(AT, LEN, libc::MADV_HUGEPAGE).ok().ok();
                    mem.advise(AT, LEN, libc::MADV_COLLAPSE).ok().ok();
                }
                4 => {
                    sys::in_child(|| 0);
                }
                5 => {
                    let other = sys::Area::anonymous(AT + LEN);
                    mem.move_pages(&other, at, len, true);
                }
                6 => drop(mem.advise(at, len, libc::MADV_PAGEOUT)),
                _ => std::thread::sleep(Duration::from_millis(rng.below(10) as u64)),
            }
            done += 1;
        }
        t.point(done > 20, format!("{done} disturbances"));
        w.sees(t, "after all");
    });
}
