#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Runs in the test host: what loading, unloading and killed VMMs leave behind in the host.

  load   kvm.ko comes and goes ROUNDS times
  kill   VMMs are killed in whatever they do, KILLS times
  stock  the in-tree module loads afterwards, makes a VM, and unloads

Kernel memory is counted to the page and objects of slab caches to the piece (account.py). A page or an
object that each round leaves is found, and a vCPU by every tenth VM. SEED=1 leaks that much on purpose: a
page and an object with each load, and a vCPU with every tenth VM. The markers are those of runner.sh.
"""

import ctypes
import fcntl
import os
import signal
import struct
import subprocess
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, "/build/src/selftests")
import mini_vmm  # noqa: E402
from account import Leaked, put, steady  # noqa: E402
from mini_vmm import Failed, Vm, expect  # noqa: E402

SRC = "/build/src"
ROUNDS = int(os.environ.get("ROUNDS") or 100)
KILLS = int(os.environ.get("KILLS") or 200)
SEED = os.environ.get("SEED") == "1"
FINIT_MODULE, DELETE_MODULE = 313, 176
CREATE_PIT2, IRQFD, IOEVENTFD = 0x4040AE77, 0x4020AE76, 0x4040AE79
libc = ctypes.CDLL(None, use_errno=True)


def insmod(path, params=""):
    fd = os.open(path, os.O_RDONLY)
    r = libc.syscall(FINIT_MODULE, fd, params.encode(), 0)
    os.close(fd)
    if r:
        raise Failed(f"{path} does not load: {os.strerror(ctypes.get_errno())}")


def rmmod(name):
    if libc.syscall(DELETE_MODULE, name.encode(), os.O_NONBLOCK):
        raise Failed(f"{name} does not unload: {os.strerror(ctypes.get_errno())}")


def leak(i, kind):
    """The seeded fault of round i."""
    if SEED and (kind == "small" or i % 10 == 0):
        insmod(f"{SRC}/selftests/seed/seed.ko", f"leak={kind}")
        rmmod("seed")


def load():
    def once(i):
        insmod(f"{SRC}/kvm.ko")
        if not os.path.exists("/dev/kvm"):
            raise Failed(f"loaded, but there is no /dev/kvm (round {i})")
        rmmod("kvm")
        if os.path.exists("/dev/kvm"):
            raise Failed(f"/dev/kvm is still there after unload (round {i})")
        leak(i, "small")
    return steady("loads and unloads", 10, ROUNDS - 10, once)


def victim(say, i):
    """A VMM with all kinds of things in use, in a process that is killed at some point."""
    vm = Vm(mini_vmm.FLAT_SPIN if i & 1 else mini_vmm.FLAT_COUNT, irqchip=True, log=i % 3 == 0)
    fcntl.ioctl(vm.vm, CREATE_PIT2, bytes(64))
    fds = [os.eventfd(0) for _ in range(3)]
    fcntl.ioctl(vm.vm, IRQFD, struct.pack("IIII16x", fds[0], 5, 0, 0))
    for fd, flags in ((fds[1], 0), (fds[2], 2)):
        fcntl.ioctl(vm.vm, IOEVENTFD, struct.pack("QQIiI36x", 0, 0xD0000000 if not flags else 0x500, 4, fd, flags))
    vm.protected()
    os.write(say, b".")
    while True:
        vm.once()


def kill():
    insmod(f"{SRC}/kvm.ko")

    def once(i):
        ear, say = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                victim(say, i)
            finally:
                os._exit(9)
        os.close(say)
        # At different moments: while the VM is made, when the guest starts, when it runs.
        if i % 4:
            if os.read(ear, 1) != b".":
                raise Failed("the VMM ended before its guest ran")
            time.sleep(0.004 * (i % 4 - 1))
        else:
            time.sleep(0.001 * (i % 40))
        os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
        os.close(ear)
        expect("end of the VMM", os.WTERMSIG(status), signal.SIGKILL)
        leak(i, "vcpu")
    note = steady("killed VMMs", 20, KILLS, once)
    rmmod("kvm")
    return note


def stock():
    if os.environ["HOST"] == "amd":
        names = subprocess.run(["modprobe", "-a", "kvm_amd"], capture_output=True, text=True)
        expect("modprobe", names.returncode, 0)
        thin = "kvm_amd"
    else:
        k = f"/lib/modules/{os.environ['KVER']}/kernel"
        thin = "kvm_intel" if os.environ["HOST"] == "intel" else "kvm_amd"
        more = [] if thin == "kvm_intel" else ["drivers/crypto/ccp/ccp"]
        for m in ["virt/lib/irqbypass", "arch/x86/kvm/kvm", *more, f"arch/x86/kvm/{thin.replace('_', '-')}"]:
            r = subprocess.run(["busybox", "insmod", f"{k}/{m}.ko.xz"], capture_output=True, text=True)
            expect(f"insmod {m}", (r.returncode, r.stderr), (0, ""))
    mini_vmm.counting(True)
    rmmod(thin)
    rmmod("kvm")
    return ""


STEPS = {
    "load": load,
    "kill": kill,
    "stock": stock,
}


def main():
    wanted = os.environ.get("STEPS", "").split() or list(STEPS)
    for name in wanted:
        put("/dev/kmsg", f"<6>selftest: {name}\n")
        print(f"@START\t{name}", flush=True)
        rc, note, t0 = 0, "", time.monotonic()
        try:
            note = STEPS[name]()
        except (Failed, Leaked, OSError) as e:
            rc, note = 1, str(e) or type(e).__name__
            mini_vmm.close_all()
            print(f"@OUT\t{note}", flush=True)
            if os.path.exists("/sys/module/kvm"):
                libc.syscall(DELETE_MODULE, b"kvm", os.O_NONBLOCK)
        print(f"@RESULT\t{name}\t{rc}\t{t0:.1f}\t{time.monotonic():.1f}\t{note[:140]}", flush=True)
        log = subprocess.run(["dmesg"], capture_output=True, text=True).stdout
        part = log.rsplit(f"selftest: {name}\n", 1)[-1]
        for line in [x for x in part.splitlines() if "WARNING: " in x or "BUG: " in x or "Oops" in x][:3]:
            print(f"@KLOG\t{name}\t{line}", flush=True)
    print("@DONE", flush=True)


main()
