// SPDX-License-Identifier: GPL-2.0

//! Memory: statistics, large pages and their splitting, page tables in the host's accounts.

use super::host_memory::NoBalancing;
use crate::guest::Guest;
use crate::guest::Plan;
use crate::guest::CODE;
use crate::guest_code;
use crate::sys::Answer;
use crate::sys::Fd;
use crate::tap::Tap;
use crate::uapi as k;
use kvm_bindings::*;
use std::collections::BTreeMap;

/// The bindings are older than it.
const KVM_X86_QUIRK_IGNORE_GUEST_PAT: u32 = 1 << 9;
const PAGE: usize = 4096;
const LARGE: usize = 2 << 20;

guest_code! {
    touch,
    // Writes to as many pages as the first result says, from 2 MiB on.
    "mov esi, 0x200000",
    "mov ecx, [0x80000]",
    "2: mov byte ptr [rsi], 1",
    "add rsi, 4096",
    "loop 2b",
    "mov edx, 0xe0",
    "mov eax, 7",
    "out dx, eax",
    "mov edx, 0xe1",
    "out dx, al",
}

/// A statistics file.
pub(super) struct Stats {
    fd: Fd,
    /// Offset of the value and number of its words, by name.
    at: BTreeMap<String, (usize, usize)>,
}

/// Bytes of a file from an offset.
pub(super) fn read_at(fd: &Fd, off: usize, len: usize) -> Vec<u8> {
    let mut b = vec![0; len];
    // SAFETY: there is room for `len` bytes.
    let n = unsafe { libc::pread(fd.raw(), b.as_mut_ptr().cast(), len, off as libc::off_t) };
    b.truncate(n.max(0) as usize);
    b
}

fn word(b: &[u8], at: usize) -> usize {
    u32::from_le_bytes(b[at..at + 4].try_into().expect("4 bytes")) as usize
}

impl Stats {
    /// Of a VM or a vCPU.
    pub(super) fn of(fd: &Fd) -> Self {
        let fd = fd.make(k::GET_STATS_FD, 0).expect("KVM_GET_STATS_FD");
        let header = read_at(&fd, 0, 24);
        let [name_size, count, _, descs, data] = [4, 8, 12, 16, 20].map(|i| word(&header, i));
        let mut at = BTreeMap::new();
        for i in 0..count {
            let size = 16 + name_size;
            let d = read_at(&fd, descs + i * size, size);
            let words = usize::from(u16::from_le_bytes([d[6], d[7]]));
            let name = d[16..].split(|c| *c == 0).next().unwrap_or(&[]);
            let name = String::from_utf8_lossy(name).into_owned();
            at.insert(name, (data + word(&d, 8), words));
        }
        Self { fd, at }
    }

    /// The first word of a value.
    pub(super) fn get(&self, name: &str) -> u64 {
        let (at, _) = self.at[name];
        let b = read_at(&self.fd, at, 8);
        u64::from_le_bytes(b.try_into().expect("8 bytes"))
    }
}

/// A guest with `len` bytes of memory from 2 MiB on, which touches them.
fn guest(len: usize, large: bool) -> Guest {
    let plan = Plan {
        mem: LARGE + len,
        ..Plan::default()
    };
    let g = Guest::long_with(plan, touch());
    let how = if large {
        libc::MADV_HUGEPAGE
    } else {
        libc::MADV_NOHUGEPAGE
    };
    // SAFETY: the range is the guest's memory.
    unsafe { libc::madvise((g.mem.addr() + LARGE) as *mut _, len, how) };
    if large {
        for at in (LARGE..LARGE + len).step_by(PAGE) {
            g.mem.write(at, &[1]);
        }
    }
    g.set_data(0, (len / PAGE) as u64);
    g
}

fn run(g: &Guest) -> bool {
    g.start_long(0, CODE);
    g.values() == Some(vec![7])
}

/// Statistics of a VM and a vCPU count what happens.
pub fn statistics(t: &mut Tap) {
    let _quiet = NoBalancing::new();
    let len = 8 << 20;
    let pages = (len / PAGE) as u64;
    let g = guest(len, false);
    let (vm, cpu) = (Stats::of(&g.vm), Stats::of(&g.cpus[0].fd));
    t.same("statistics of a VM", vm.at.len(), 16);
    t.same("statistics of a vCPU", cpu.at.len(), 45);
    t.same("words of a histogram", cpu.at["halt_wait_hist"].1, 32);
    t.same("no page is mapped", vm.get("pages_4k"), 0);
    t.same("no exit yet", cpu.get("exits"), 0);
    t.point(run(&g), "the guest runs");
    t.same("two exits for ports", cpu.get("io_exits"), 2);
    for (name, least) in [
        ("pf_taken", pages),
        ("pf_fixed", pages),
        ("exits", pages + 2),
    ] {
        let n = cpu.get(name);
        t.point(n >= least && n < 2 * least, format!("{name}: {n}"));
    }
    t.same("no halt", cpu.get("halt_exits"), 0);
    let small = vm.get("pages_4k");
    t.point(
        small >= pages && small < pages + 64,
        format!("small pages: {small}"),
    );
    // The first 2 MiB, with tables and code, may be one.
    let large = vm.get("pages_2m");
    t.point(
        large <= 1,
        format!("no large page where the host has small ones: {large}"),
    );
    g.slot(0, 0, 0, 0, 0).ok().expect("removal");
    t.same("none are left", vm.get("pages_4k"), 0);
    drop(g);
    t.point(
        cpu.get("exits") >= pages,
        "the file outlives the descriptor of the VM",
    );
}

/// Large pages of the host's are large in the guest, are split when logging starts, and come back.
pub fn large_pages(t: &mut Tap) {
    let _quiet = NoBalancing::new();
    let len = 16 << 20;
    let g = guest(len, true);
    let vm = Stats::of(&g.vm);
    t.point(run(&g), "the guest runs");
    let large = vm.get("pages_2m");
    if large == 0 {
        t.skip("the host has no large pages to spare");
        return;
    }
    let flags = |f| g.slot(0, 0, 0, LARGE + len, f).ok().expect("flags");
    flags(KVM_MEM_LOG_DIRTY_PAGES);
    t.same("logging splits them all", vm.get("pages_2m"), 0);
    let small = vm.get("pages_4k");
    t.point(small >= large * 512, format!("into small ones: {small}"));
    t.point(run(&g), "the guest runs under logging");
    flags(0);
    t.point(run(&g), "the guest runs after it");
    t.same("they are back", vm.get("pages_2m"), large);
}

/// The parameter `nx_huge_pages` becomes 0 and 1 again between two entries: what was mapped meanwhile,
/// large and executable, is gone at the second.
pub fn nx_there_and_back(t: &mut Tap) {
    const PARAM: &str = "/sys/module/kvm/parameters/nx_huge_pages";
    let set = |v: &str| std::fs::write(PARAM, v).is_ok();
    let before = std::fs::read_to_string(PARAM).unwrap_or_default();
    let _quiet = NoBalancing::new();
    let len = 16 << 20;
    let g = guest(len, true);
    let vm = Stats::of(&g.vm);
    g.set_data(0, 1);
    t.point(set("1"), "it can be set");
    t.point(run(&g), "the guest runs");
    t.point(set("0"), "it can be cleared");
    // struct kvm_pre_fault_memory: address, length, and zeros.
    let mut range = [0u64; 8];
    (range[0], range[1]) = (LARGE as u64, len as u64);
    let mut range: Vec<u8> = range.iter().flat_map(|v| v.to_le_bytes()).collect();
    let mapped = g.cpus[0].fd.bytes(k::PRE_FAULT_MEMORY, &mut range);
    t.same("all is mapped", mapped, Answer::Ok(0));
    let large = vm.get("pages_2m");
    t.point(set("1"), "it can be set again");
    t.point(run(&g), "the guest runs again");
    let left = vm.get("pages_2m");
    set(before.trim());
    if large < 6 {
        t.skip("the host has no large pages to spare");
        return;
    }
    // The guest has touched one, and its code and tables are in another.
    t.point(left <= 2, format!("large pages: {large}, then {left}"));
}

/// A change of the parameter ends all mappings at once, also where no vCPU runs. It does not go off for
/// good while there is a VM.
pub fn nx_at_once(t: &mut Tap) {
    const PARAM: &str = "/sys/module/kvm/parameters/nx_huge_pages";
    let set = |v: &str| std::fs::write(PARAM, v).map_err(|e| e.raw_os_error());
    let get = || std::fs::read_to_string(PARAM).unwrap_or_default();
    let before = get();
    let _quiet = NoBalancing::new();
    let g = guest(4 << 20, true);
    let vm = Stats::of(&g.vm);
    let mapped = || vm.get("pages_4k") + vm.get("pages_2m");
    for value in ["1", "0"] {
        t.same(format!("set to {value}"), set(value), Ok(()));
        t.same(format!("{value}: nothing is mapped"), mapped(), 0);
        t.point(run(&g), format!("{value}: the guest runs"));
        let n = mapped();
        t.point(n != 0, format!("{value}: something is mapped: {n}"));
        t.same(format!("set to {value} again"), set(value), Ok(()));
        t.same(format!("{value}: that is no change"), mapped(), n);
    }
    let r = set("never");
    t.same("never, while there is a VM", r, Err(Some(libc::EBUSY)));
    t.same("it is what it was", get().trim(), "N");
    t.same("it can be set", set("1"), Ok(()));
    t.same("and is", get().trim(), "Y");
    t.same("back", set(before.trim()), Ok(()));
}

/// KVM_X86_QUIRK_IGNORE_GUEST_PAT: a guest whose own tables say uncached for all of its memory runs with
/// the quirk and without it. What the caches do is nothing that an emulated host could show.
pub fn guest_pat(t: &mut Tap) {
    for quirk in [true, false] {
        let g = guest(2 << 20, false);
        if !quirk {
            let off = u64::from(KVM_X86_QUIRK_IGNORE_GUEST_PAT);
            let r = crate::guest::enable(&g.vm, KVM_CAP_DISABLE_QUIRKS2, off);
            t.same("the quirk goes", r, Answer::Ok(0));
        }
        let r = g.cpus[0].set_msr(0x277, 0);
        t.same("all types of IA32_PAT are UC", r, true);
        t.same(format!("the guest runs, quirk: {quirk}"), run(&g), true);
        let written = (LARGE..2 * LARGE).step_by(PAGE);
        let seen = written.filter(|at| g.mem.load::<u8>(*at) == 1).count();
        t.same("its pages are written", seen, LARGE / PAGE);
    }
    let g = guest(2 << 20, false);
    let r = crate::guest::enable(&g.vm, KVM_CAP_DISABLE_QUIRKS2, 1 << 12);
    t.same("a quirk that there is not", r, Answer::Err(libc::EINVAL));
}

/// SecPageTables of /proc/meminfo, KiB.
fn table_kib() -> i64 {
    // What was freed after a grace period; then what each CPU keeps to itself until it is asked.
    std::thread::sleep(std::time::Duration::from_millis(300));
    std::fs::write("/proc/sys/vm/stat_refresh", "1").ok();
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("SecPageTables:"));
    line.and_then(|l| l.trim().trim_end_matches(" kB").parse().ok())
        .unwrap_or(-1)
}

/// Nested page tables are in the host's accounts, and leave them.
pub fn table_accounts(t: &mut Tap) {
    let _quiet = NoBalancing::new();
    let before = table_kib();
    t.point(before >= 0, "the host counts them");
    // 32 tables of the last level, 4 KiB each.
    let g = guest(64 << 20, false);
    t.point(run(&g), "the guest runs");
    let during = table_kib() - before;
    t.point(
        (128..256).contains(&during),
        format!("KiB with 64 MiB mapped: {during}"),
    );
    g.slot(0, 0, 0, 0, 0).ok().expect("removal");
    let without = table_kib() - before;
    t.point(
        (-32..32).contains(&without),
        format!("KiB when the slot is deleted: {without}"),
    );
    // The VM is still one that runs.
    g.slot(0, 0, 0, g.mem.len(), 0).ok().expect("slot");
    t.point(run(&g), "the guest runs with the slot back");
    let again = table_kib() - before;
    t.point(
        (128..256).contains(&again),
        format!("KiB with 64 MiB mapped again: {again}"),
    );
    drop(g);
    let after = table_kib() - before;
    let none = (-32..32).contains(&after);
    t.same(format!("no table is left: {after} KiB"), none, true);
}
