// SPDX-License-Identifier: GPL-2.0

//! What the host's kernel has in use, counted to the page and to the object of a slab cache. The
//! same as `selftests/account.py`, for tests that are a program.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

/// What is no leak: each CPU keeps two stacks of threads that have ended, and lists of free pages.
fn free_kib() -> i64 {
    16 + 48 * std::thread::available_parallelism().map_or(1, |n| n.get() as i64)
}
const FREE_OBJECTS: i64 = 8;
/// Of caches that are used all the time: one allocation fills a CPU's stock, which counts as in use. Up to
/// 86 were seen, on either module.
const FREE_STOCK: i64 = 96;
const STOCKED: [&str; 2] = ["kmalloc-64", "kmalloc-96"];

/// Caches that a file system fills as it likes, or that follow from what this program has open.
/// Ranges of `vmap_area` that were given back long ago wait for a purge.
const FILES: &[&str] = &[
    "dentry",
    "inode",
    "buffer_head",
    "kernfs",
    "proc_dir",
    "shmem",
    "radix_tree",
    "maple",
    "vm_area",
    "anon_vma",
    "9p",
    "vmap_area",
];

/// What is in use at one moment.
pub struct Account {
    /// Memory that is neither free nor a user's, in KiB.
    kib: i64,
    /// Objects by cache.
    objects: BTreeMap<String, i64>,
}

fn number(s: Option<&str>) -> i64 {
    s.and_then(|s| s.parse().ok()).unwrap_or(0)
}

/// Lets the kernel give back what it keeps for later.
fn settle() {
    // It looks at all memory, a region at a time, and its regions come and go.
    fs::write("/sys/module/damon_stat/parameters/enabled", "N").ok();
    // What waits for a grace period, or for a CPU's next idle moment, is not lost.
    std::thread::sleep(Duration::from_millis(300));
    fs::write("/proc/sys/vm/drop_caches", "3").ok();
    std::thread::sleep(Duration::from_millis(200));
    for cache in fs::read_dir("/sys/kernel/slab")
        .into_iter()
        .flatten()
        .flatten()
    {
        fs::write(cache.path().join("shrink"), "1").ok();
    }
    // Each file of sysfs that was opened left an object of 64 bytes for a grace period, which is over
    // then; and one allocation lets a CPU fill its stock again, which counts as in use.
    std::thread::sleep(Duration::from_millis(200));
    for cache in STOCKED {
        fs::write(format!("/sys/kernel/slab/{cache}/shrink"), "1").ok();
    }
}

impl Account {
    fn once() -> Self {
        settle();
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let slabs = read("/proc/slabinfo");
        // Each CPU keeps differences of the counters to itself until it is asked.
        fs::write("/proc/sys/vm/stat_refresh", "1").ok();
        let zones = read("/proc/zoneinfo");
        let lists: i64 = zones
            .lines()
            .filter_map(|l| l.trim().strip_prefix("count:"))
            .map(|n| number(Some(n.trim())))
            .sum();
        let memory = read("/proc/meminfo");
        let field = |name: &str| {
            let line = memory.lines().find_map(|l| l.strip_prefix(name));
            number(line.and_then(|l| l.split_whitespace().next()))
        };
        // Slabs are looked at by the object: how well they are filled is chance. (Slab of meminfo has
        // large pieces of kmalloc as well, which are in no slab.) Threads and tables of processes are
        // objects, too, and the kernel's own workers come and go.
        let others = [
            "Buffers:",
            "Cached:",
            "SwapCached:",
            "AnonPages:",
            "KernelStack:",
            "PageTables:",
        ];
        let filled: i64 = read("/proc/slabinfo")
            .lines()
            .skip(2)
            .map(|l| {
                let words: Vec<&str> = l.split_whitespace().collect();
                number(words.get(5).copied()) * number(words.get(14).copied())
            })
            .sum();
        let objects = slabs.lines().skip(2).filter_map(|l| {
            let mut words = l.split_whitespace();
            let name = words
                .next()
                .filter(|n| !FILES.iter().any(|f| n.contains(f)))?;
            Some((name.to_string(), number(words.next())))
        });
        Self {
            kib: field("MemTotal:")
                - field("MemFree:")
                - 4 * (lists + filled)
                - others.iter().map(|o| field(o)).sum::<i64>(),
            objects: objects.collect(),
        }
    }

    /// The smaller of the two, for each number: a CPU fills its stock of a cache while this looks on.
    fn least(mut self, other: &Self) -> Self {
        self.kib = self.kib.min(other.kib);
        for (cache, n) in &mut self.objects {
            *n = other.objects.get(cache).map_or(*n, |o| *o.min(n));
        }
        self
    }

    /// Counts. Counting needs some memory itself, and keeps it.
    pub fn take() -> Self {
        Self::once();
        Self::once().least(&Self::once()).least(&Self::once())
    }

    fn grown(&self, before: &Self) -> Vec<(String, i64, i64)> {
        let pages = [("KiB".to_string(), self.kib - before.kib, free_kib())];
        let objects = self.objects.iter().map(|(cache, n)| {
            let then = before.objects.get(cache).copied().unwrap_or(0);
            let free = if STOCKED.contains(&cache.as_str()) {
                FREE_STOCK
            } else {
                FREE_OBJECTS
            };
            (format!("of {cache}"), n - then, free)
        });
        pages.into_iter().chain(objects).collect()
    }

    /// What is in use now and was not then, by too much: nothing, if it goes away within seconds.
    /// The second is what was measured, in words.
    pub fn growth(&self) -> (Vec<String>, String) {
        // The debug kernel keeps a record of each object and each stack, and looks for leaks itself.
        let kernel = fs::read_to_string("/proc/cmdline").unwrap_or_default();
        if kernel.split_whitespace().any(|w| w == "vm_debug") {
            return (Vec::new(), "not counted on the debug kernel".into());
        }
        let mut now = Self::once();
        for _ in 0..8 {
            if now.grown(self).iter().all(|g| g.1 <= g.2) {
                break;
            }
            std::thread::sleep(Duration::from_secs(1));
            now = Self::once().least(&now);
        }
        let grown = now.grown(self);
        let words = |g: &(String, i64, i64)| format!("{} {}", g.1, g.0);
        let most = grown.iter().skip(1).max_by_key(|g| g.1).map(words);
        let seen = format!("{} more, {}", words(&grown[0]), most.unwrap_or_default());
        let much = grown.iter().filter(|g| g.1 > g.2).map(words).collect();
        (much, seen)
    }
}
