// SPDX-License-Identifier: GPL-2.0

//! What the host does with a guest's memory: pages of 1 GiB, accounts of control groups, pages that
//! break.

use super::pages::Stats;
use crate::guest::boot;
use crate::guest::Exit;
use crate::guest::Guest;
use crate::guest::Plan;
use crate::guest::CODE;
use crate::guest::PORT_END;
use crate::guest_code;
use crate::host;
use crate::memfd;
use crate::sys;
use crate::sys::Answer;
use crate::sys::Area;
use crate::tap::Tap;
use crate::uapi as k;
use kvm_bindings::*;
use std::fs;

const GIB: usize = 1 << 30;

guest_code! {
    // Writes to ECX pages from RDI on.
    fill,
    "2: mov [rdi], ecx",
    "add rdi, 4096",
    "loop 2b",
    "mov edx, 0xe1",
    "out dx, al",
}

/// Lets the guest write to pages; did it end well?
fn write(g: &Guest, at: u64, pages: u64) -> Result<(), String> {
    let mut r = boot::regs(0, CODE);
    (r.rdi, r.rcx) = (at, pages);
    g.cpus[0].set_regs(&r);
    match g.enter() {
        Ok(Exit::Out { port: PORT_END, .. }) => Ok(()),
        e => Err(format!("{e:x?}")),
    }
}

fn slot(g: &Guest, id: u32, gpa: u64, area: &Area, flags: u32) -> Answer {
    let mut r: kvm_userspace_memory_region = sys::zeroed();
    (r.slot, r.flags, r.guest_phys_addr) = (id, flags, gpa);
    (r.memory_size, r.userspace_addr) = (area.len() as u64, area.addr() as u64);
    g.vm.set(k::SET_USER_MEMORY_REGION, &r)
}

/// A page of 1 GiB of the host's is one entry, is split when its writes are logged, and comes back.
pub fn gigabyte_page(t: &mut Tap) {
    let _quiet = NoBalancing::new();
    const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages";
    let pool = |n: &str| fs::write(POOL, n).is_ok();
    let none = || fs::read_to_string(POOL).is_ok_and(|s| s.trim() == "0");
    // It may have one from its start.
    if none() && (!pool("1") || none()) {
        t.skip("the host has no page of 1 GiB to spare");
        return;
    }
    if let Some(area) = Area::huge(GIB, 30) {
        let g = Guest::long(fill());
        let at = GIB as u64;
        let stats = Stats::of(&g.vm);
        let count = || (stats.get("pages_1g"), stats.get("pages_2m") > 1);
        t.same("a slot", slot(&g, 1, at, &area, 0), Answer::Ok(0));
        t.same("a write", write(&g, at + 0x1234_5000, 1), Ok(()));
        t.same("one entry", count(), (1, false));
        t.same("elsewhere in it", write(&g, at + 0x3234_5000, 2), Ok(()));
        t.same("still one", count(), (1, false));
        t.same("written", area.load::<u32>(0x3234_5000), 2);
        let log = KVM_MEM_LOG_DIRTY_PAGES;
        t.same("logged", slot(&g, 1, at, &area, log), Answer::Ok(0));
        t.same("split", stats.get("pages_1g"), 0);
        t.same("a write", write(&g, at + 0x3234_5000, 1), Ok(()));
        let bits = vec![0u64; GIB / 4096 / 64];
        let mut d: kvm_dirty_log = sys::zeroed();
        d.slot = 1;
        d.__bindgen_anon_1.dirty_bitmap = bits.as_ptr() as *mut _;
        t.same("the log", g.vm.set(k::GET_DIRTY_LOG, &d), Answer::Ok(0));
        let n: u32 = bits.iter().map(|w| w.count_ones()).sum();
        t.same(
            "one page",
            (n, bits[0x32345 / 64] >> (0x32345 % 64) & 1),
            (1, 1),
        );
        t.same("not any more", slot(&g, 1, at, &area, 0), Answer::Ok(0));
        t.same("a write", write(&g, at + 0x3234_5000, 1), Ok(()));
        t.same("one entry again", count(), (1, false));
        t.same("removed", g.slot(1, 0, 0, 0, 0), Answer::Ok(0));
        t.same("none", count(), (0, false));
    } else {
        t.skip("the host cannot map a page of 1 GiB");
    }
    pool("0");
}

/// Keeps the host from looking where memory is used, for which it takes it away from the guest.
pub(super) struct NoBalancing(Option<String>);

const BALANCING: &str = "/proc/sys/kernel/numa_balancing";

impl NoBalancing {
    /// Until it is dropped.
    pub(super) fn new() -> Self {
        let before = fs::read_to_string(BALANCING).ok();
        fs::write(BALANCING, "0").ok();
        Self(before)
    }
}

impl Drop for NoBalancing {
    fn drop(&mut self) {
        if let Some(s) = &self.0 {
            fs::write(BALANCING, s.trim()).ok();
        }
    }
}

/// A value of a control group's `memory.stat`.
fn stat(dir: &str, name: &str) -> i64 {
    let text = fs::read_to_string(format!("{dir}/memory.stat")).unwrap_or_default();
    text.lines()
        .find_map(|l| l.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
        .unwrap_or(-1)
}

/// Nested page tables, vCPUs and guest memory are in the accounts of the process's control group.
pub fn control_group(t: &mut Tap) {
    let _quiet = NoBalancing::new();
    let root = "/tmp/own-cgroup";
    let dir = format!("{root}/own");
    fs::create_dir_all(root).expect(root);
    if !host::mount_cgroup2(c"/tmp/own-cgroup") {
        t.skip("the host has no control groups");
        return;
    }
    let on = fs::write(format!("{root}/cgroup.subtree_control"), "+memory").is_ok();
    fs::create_dir_all(&dir).expect("a group");
    let enter = |d: &str| fs::write(format!("{d}/cgroup.procs"), "0").is_ok();
    if on && enter(&dir) {
        let pages = 16384;
        let before = stat(&dir, "sec_pagetables");
        t.same("no tables yet", before, 0);
        let plan = Plan {
            mem: (2 << 20) + pages * 4096,
            ..Plan::default()
        };
        let g = Guest::long_with(plan, fill());
        host::no_huge_pages(&g.mem);
        t.same("the guest runs", write(&g, 2 << 20, pages as u64), Ok(()));
        // A table of the last level for each 2 MiB, and those above.
        let least = (pages / 512 * 4096) as i64;
        let n = stat(&dir, "sec_pagetables");
        t.point(
            (least..2 * least).contains(&n),
            format!("tables: {n} bytes"),
        );
        // The structures of the VM and its vCPU, the run page.
        let slab = stat(&dir, "slab");
        let kernel = stat(&dir, "kernel");
        t.point(slab > 0, format!("structures: {slab} of {kernel} bytes"));
        t.point(
            stat(&dir, "anon") >= (pages * 4096) as i64 / 2,
            "the guest's memory",
        );
        let (size, before) = (8 << 20, stat(&dir, "file"));
        let fd = memfd::create(&g.vm, size, memfd::SHARED).expect("a file");
        let made = memfd::fallocate(&fd, memfd::KEEP, 0, size as i64);
        t.same("a guest_memfd", made, Answer::Ok(0));
        let n = stat(&dir, "file") - before;
        t.point(n >= size as i64 / 2, format!("its pages: {n} bytes"));
        drop(fd);
        drop(g);
        let n = stat(&dir, "sec_pagetables");
        t.point(n < least / 4, format!("tables afterwards: {n} bytes"));
    } else {
        t.skip("the host's control groups have no memory accounts");
    }
    enter(root);
    fs::remove_dir(&dir).ok();
    host::unmount(c"/tmp/own-cgroup");
}

/// The host gives up a page with a memory error: the thread that runs the guest gets SIGBUS when the
/// guest needs it, and the guest goes on when user space has put another one there.
pub fn broken_page(t: &mut Tap) {
    let _quiet = NoBalancing::new();
    let g = Guest::long_with(
        Plan {
            mem: 4 << 20,
            ..Plan::default()
        },
        fill(),
    );
    host::no_huge_pages(&g.mem);
    let (at, gpa) = (0x20_5000usize, 0x20_5000u64);
    t.same("the guest has the page", write(&g, gpa - 0x1000, 3), Ok(()));
    host::catch_bus();
    if !g.mem.poison(at) {
        t.skip("the host cannot break pages");
        return;
    }
    // Nobody waits for it yet.
    let before = host::bus_errors();
    t.same("before it", write(&g, gpa - 0x1000, 1), Ok(()));
    t.same("no signal", host::bus_errors().0 - before.0, 0);
    let r = write(&g, gpa - 0x1000, 3);
    t.same("KVM_RUN is interrupted", r, Err("Err(4)".to_string()));
    let (n, code, addr) = host::bus_errors();
    // BUS_MCEERR_AR: the thread itself needs it.
    t.same("SIGBUS", (n - before.0, code), (1, 4));
    t.same("its address", addr & !0xfff, g.mem.addr() + at);
    let r = g.enter();
    t.same("again", r, Err(libc::EINTR));
    t.same("and again", host::bus_errors().0 - before.0, 2);
    // Another page.
    g.mem.discard(at, 0x1000);
    let e = g.enter();
    let ok = matches!(e, Ok(Exit::Out { port: PORT_END, .. }));
    t.point(ok, format!("the guest goes on: {e:x?}"));
    t.same("with a new page", g.mem.load::<u32>(at), 2);
    t.same("no more signals", host::bus_errors().0 - before.0, 2);
}
