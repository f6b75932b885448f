#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Runs in a host with two CPUs: control blocks that move from CPU to CPU.

A processor keeps parts of a VMCS to itself, so that one which moves must be cleared on the CPU it
leaves. Here vCPU threads are moved while they run, and a CPU goes offline and comes back with
virtual machines on it. Guests count, and nothing may be lost. The markers are those of runner.sh.
"""

import os
import subprocess
import sys
import threading
import time

sys.dont_write_bytecode = True
sys.path.insert(0, "/build/src/selftests")
import mini_vmm  # noqa: E402
from mini_vmm import EXIT_IO, Failed, Vm, expect  # noqa: E402

CPU1 = "/sys/devices/system/cpu/cpu1/online"
ROUNDS = int(os.environ.get("ROUNDS", "60"))


class Runner(threading.Thread):
    """A vCPU in a thread: counts until told to stop."""

    def __init__(self, protected=True):
        super().__init__(daemon=True)
        self.vm = Vm(mini_vmm.FLAT_COUNT if protected else mini_vmm.REAL_COUNT)
        if protected:
            self.vm.protected()
        self.turns, self.end, self.error = 0, False, None
        self.tid = None
        self.start()

    def run(self):
        self.tid = threading.get_native_id()
        try:
            while not self.end:
                self.vm.until(EXIT_IO)
                self.turns += 1
                expect("count", self.vm.word(0x2000), self.turns)
        except Exception as e:  # noqa: BLE001
            self.error = e

    def goes_on(self):
        before, limit = self.turns, time.monotonic() + 20
        while self.turns < before + 20:
            if self.error:
                raise Failed(str(self.error))
            if time.monotonic() > limit:
                raise Failed("the guest stands still")
            time.sleep(0.002)

    def stop(self):
        self.end = True
        self.join(20)
        if self.error:
            raise Failed(str(self.error))
        self.vm.close()


def two_cpus():
    if os.cpu_count() < 2:
        raise Failed("this needs a host with two CPUs (SMP=2)")


def one_by_one():
    """One thread, another CPU before each run: cleared here, loaded there."""
    two_cpus()
    vm = Vm(mini_vmm.FLAT_COUNT)
    vm.protected()
    for n in range(1, ROUNDS * 4):
        os.sched_setaffinity(0, {n & 1})
        vm.until(EXIT_IO)
        expect("count", vm.word(0x2000), n)
    os.sched_setaffinity(0, {0, 1})
    vm.close()


def moved():
    """Three vCPUs in threads, moved by another one while they run."""
    two_cpus()
    runners = [Runner(), Runner(), Runner(False)]
    for r in runners:
        r.goes_on()
    for n in range(ROUNDS):
        for i, r in enumerate(runners):
            os.sched_setaffinity(r.tid, {(n + i) & 1})
        runners[n % 3].goes_on()
    for r in runners:
        r.goes_on()
        r.stop()


def freed_elsewhere():
    """A VMCS is freed on another CPU than the one that keeps it."""
    two_cpus()
    for n in range(10):
        os.sched_setaffinity(0, {1})
        vm = Vm(mini_vmm.FLAT_COUNT)
        vm.protected()
        vm.until(EXIT_IO)
        os.sched_setaffinity(0, {0})
        vm.close()
    os.sched_setaffinity(0, {0, 1})


def offline():
    """CPU 1 goes offline and comes back, with vCPUs on it and with a VMCS that it keeps."""
    two_cpus()
    os.sched_setaffinity(0, {1})
    idle = Vm(mini_vmm.FLAT_COUNT)
    idle.protected()
    idle.until(EXIT_IO)
    os.sched_setaffinity(0, {0, 1})
    runners = [Runner(), Runner()]
    for n in range(3):
        os.sched_setaffinity(runners[0].tid, {0, 1})
        with open(CPU1, "w") as f:
            f.write("0")
        for r in runners:
            r.goes_on()
        idle.until(EXIT_IO)
        expect("count", idle.word(0x2000), 2 + 2 * n)
        with open(CPU1, "w") as f:
            f.write("1")
        os.sched_setaffinity(0, {1})
        idle.until(EXIT_IO)
        os.sched_setaffinity(0, {0, 1})
        for r in runners:
            os.sched_setaffinity(r.tid, {1})
            r.goes_on()
    for r in runners:
        r.stop()
    idle.close()


STEPS = {f.__name__: f for f in (one_by_one, moved, freed_elsewhere, offline)}


def busybox(*args):
    return subprocess.run(["busybox", *args], capture_output=True, text=True)


def main():
    host = {"intel": "kvm-intel", "amd": "kvm-amd", "ryzen": "kvm-amd"}[os.environ["HOST"]]
    wanted = os.environ.get("STEPS", "").split() or list(STEPS)
    r = busybox("insmod", "/build/src/kvm.ko", *os.environ.get("MODULE_PARAMS", "").split())
    if r.returncode:
        print(f"@BAIL\tkvm.ko does not load: {r.stderr.strip()}")
        sys.exit(1)
    thin = f"/build/src/{host}.ko"
    if os.path.exists(thin):
        busybox("insmod", thin)
    for name in wanted:
        with open("/dev/kmsg", "w") as f:
            f.write(f"<6>selftest: {name}\n")
        print(f"@START\t{name}", flush=True)
        rc, note, t0 = 0, "", time.monotonic()
        try:
            STEPS[name]()
        except (Failed, OSError) as e:
            rc, note = 1, str(e) or type(e).__name__
            mini_vmm.close_all()
        print(f"@RESULT\t{name}\t{rc}\t{t0:.1f}\t{time.monotonic():.1f}\t{note[:140]}", flush=True)
        log = subprocess.run(["dmesg"], capture_output=True, text=True).stdout
        part = log.rsplit(f"selftest: {name}\n", 1)[-1]
        for line in [x for x in part.splitlines() if "WARNING: " in x or "BUG: " in x or "Oops" in x][:3]:
            print(f"@KLOG\t{name}\t{line}", flush=True)
    for m in (host.replace("-", "_"), "kvm"):
        if os.path.exists(f"/sys/module/{m}") and busybox("rmmod", m).returncode:
            print(f"@KLOG\t-\t{m} does not unload after the tests", flush=True)
    print("@DONE", flush=True)


main()
