# SPDX-License-Identifier: GPL-2.0
"""What the host's kernel has in use, counted to the page and to the object of a slab cache, and a loop
that finds what each of its rounds leaves behind. For jobs in a test host.
"""

import os
import re
import time

# Caches that a file system fills as it likes, or that follow from what this program has open.
FILES = re.compile(r"dentry|inode|buffer_head|kernfs|proc_dir|shmem|radix_tree|maple|vm_area|anon_vma|9p"
                   # Ranges that were given back long ago wait for a purge; VmallocUsed counts what is in use.
                   "|vmap_area")
# What is no leak, however many rounds there were: each CPU keeps two stacks of threads that have ended.
# Measured: 16 KiB and six objects after 200 killed VMMs.
FREE_KIB, FREE_OBJECTS = 16 + 32 * os.cpu_count(), 8
DAMON = "/sys/module/damon_stat/parameters/enabled"


class Leaked(Exception):
    pass


def put(path, text):
    with open(path, "w") as f:
        f.write(text)


def fields(path):
    with open(path) as f:
        return {k: int(v.split()[0]) for k, v in (line.split(":") for line in f)}


def slabs():
    """The caches: name, objects in use, and so on; the sixth field is pages of a slab, the fifteenth slabs."""
    with open("/proc/slabinfo") as f:
        return [line.split() for line in f][2:]


class Account:
    """What the kernel has in use, after it has given back what it keeps for later."""

    def __init__(self):
        # It looks at all memory, a region at a time, and its regions come and go.
        if os.path.exists(DAMON):
            put(DAMON, "N")
        put("/proc/sys/vm/drop_caches", "3")
        time.sleep(0.2)
        for d in os.scandir("/sys/kernel/slab"):
            try:
                put(f"{d.path}/shrink", "1")
            except OSError:
                pass
        # Each file of sysfs that was opened left an object of 64 bytes for a grace period, which is over
        # then; and one allocation lets a CPU fill its stock again, which counts as in use.
        time.sleep(0.2)
        for cache in ("kmalloc-64", "kmalloc-96"):
            put(f"/sys/kernel/slab/{cache}/shrink", "1")
        self.objects = {r[0]: int(r[1]) for r in slabs() if not FILES.search(r[0])}
        # Each CPU keeps differences of the counters to itself until it is asked.
        put("/proc/sys/vm/stat_refresh", "1")
        with open("/proc/zoneinfo") as f:
            lists = sum(int(n) for n in re.findall(r"^ +count: +(\d+)$", f.read(), re.M))
        m = fields("/proc/meminfo")
        # Slabs are looked at by the object: how well they are filled is chance. (Slab of meminfo has large
        # pieces of kmalloc as well, which are in no slab.) Threads and tables of processes are objects,
        # too, and the kernel's own workers come and go.
        filled = sum(int(r[5]) * int(r[14]) for r in slabs())
        others = sum(m[k] for k in ("Buffers", "Cached", "SwapCached", "AnonPages", "KernelStack", "PageTables"))
        self.kib = m["MemTotal"] - m["MemFree"] - 4 * (lists + filled) - others
        self.parts = {k: m[k] for k in ("Slab", "VmallocUsed", "Percpu", "KernelStack", "PageTables", "SecPageTables")}
        with open("/proc/modules") as f:
            self.users = {r[0]: r[2] for r in (line.split() for line in f)}

    def least(self, other):
        """The smaller of the two, for each number: a CPU fills its stock of a cache while this looks on."""
        self.objects = {k: min(n, other.objects.get(k, n)) for k, n in self.objects.items()}
        if other.kib < self.kib:
            self.kib, self.parts = other.kib, other.parts
        return self

    def growth(self, before, rounds):
        """What has grown by too much: amounts by name."""
        much = {}
        kib = self.kib - before.kib
        if kib > FREE_KIB:
            much["pages"] = f"{kib} KiB ({self.where(before)})"
        # The caches that are not looked at by the object.
        more = self.parts["Slab"] - before.parts["Slab"]
        if more > max(rounds * 2, 160):
            much["slabs"] = f"{more} KiB of slabs"
        for cache, n in self.objects.items():
            more = n - before.objects.get(cache, 0)
            if more > FREE_OBJECTS:
                much[cache] = f"{more} objects of {cache}"
        if self.users != before.users:
            much["modules"] = f"modules: {before.users} before, {self.users} after"
        return much

    def where(self, before):
        return ", ".join(f"{k} {v - before.parts[k]:+}" for k, v in self.parts.items() if v != before.parts[k])

    def most(self, before):
        """The cache that has grown most, by how much."""
        more, cache = max((n - before.objects.get(k, 0), k) for k, n in self.objects.items())
        return f"{more:+} objects of {cache}"


def steady(what, warm, rounds, once):
    """Runs `once` for each round and compares; a note with what was measured."""
    for i in range(warm):
        once(i)
    # Counting needs some memory itself, and keeps it.
    before = [Account() for _ in range(4)]
    before = before[1].least(before[2]).least(before[3])
    for i in range(warm, warm + rounds):
        once(i)
    # What is freed after a grace period, or by a worker, takes its time; only what stays is a leak.
    after = Account()
    for _ in range(8):
        if not (much := after.growth(before, rounds)):
            return f"{rounds} rounds, {after.kib - before.kib} KiB more in use ({after.where(before)}), {after.most(before)}"
        time.sleep(1)
        after = Account().least(after)
    raise Leaked(f"leak: after {rounds} {what}: " + "; ".join(much.values()))
