#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Runs in the Intel host: what each parameter of kvm-intel.ko takes away, and what is left.

Each step loads the thin module with a parameter, looks at what sysfs says is in effect, and runs the
guests of mini_vmm.py. The markers are those of runner.sh. STEPS, if set, names the steps to run.
With MODULE=stock the in-tree modules are loaded; of what only ours says, the steps ept and plain fail then.
"""

import os
import subprocess
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, "/build/src/selftests")
import mini_vmm  # noqa: E402
from mini_vmm import Failed, expect  # noqa: E402

STOCK = f"/lib/modules/{os.environ['KVER']}/kernel/"
IN_TREE = os.environ.get("MODULE") == "stock"
BASE = [STOCK + "virt/lib/irqbypass.ko.xz", STOCK + "arch/x86/kvm/kvm.ko.xz"] if IN_TREE else ["/build/src/kvm.ko"]
THIN = STOCK + "arch/x86/kvm/kvm-intel.ko.xz" if IN_TREE else "/build/src/kvm-intel.ko"


def busybox(*args):
    return subprocess.run(["busybox", *args], capture_output=True, text=True)


def load(params):
    if os.path.exists("/sys/module/kvm_intel"):
        busybox("rmmod", "kvm_intel")
    r = busybox("insmod", THIN, *params.split())
    return r.returncode


def in_effect(name):
    with open(f"/sys/module/kvm_intel/parameters/{name}") as f:
        return f.read().strip()


def log_since(mark):
    text = subprocess.run(["dmesg"], capture_output=True, text=True).stdout
    return text.rsplit(mark, 1)[-1]


ALL = [
    lambda: mini_vmm.counting(False),
    lambda: mini_vmm.counting(True),
    mini_vmm.switching,
    lambda: mini_vmm.interrupts(False),
    lambda: mini_vmm.interrupts(True),
    mini_vmm.timer,
    mini_vmm.registers,
    mini_vmm.dirty_log,
    mini_vmm.system_management,
]


def guests():
    for f in ALL:
        f()


def plain():
    """No parameters: everything the processor has; a failed entry and its report."""
    expect("insmod", load(""), 0)
    guests()
    mini_vmm.fail_entry()
    log = log_since("selftest: plain\n")
    for line in ("VM entry failed", "guest state: TR: type is not that of a busy TSS"):
        if line not in log:
            raise Failed(f"not in the log: {line}")


def restricted():
    """unrestricted_guest=0: real mode and what lies between the modes is emulated."""
    expect("insmod", load("unrestricted_guest=0"), 0)
    expect("in effect", in_effect("unrestricted_guest"), "N")
    guests()
    mini_vmm.stale_selectors()
    mini_vmm.unrunnable()


def without(param, shown=None):
    def step():
        expect("insmod", load(param), 0)
        name, value = param.split("=")
        expect("in effect", in_effect(name), shown or {"0": "N"}.get(value, value))
        guests()
    return step


def no_ept():
    """ept=0 is refused in one line, and the module goes on as before."""
    if load("ept=0") == 0:
        raise Failed("ept=0 was taken")
    # busybox tries a second time, with another system call.
    lines = {x.split("] ", 1)[-1] for x in log_since("selftest: ept\n").splitlines() if "kvm" in x}
    if len(lines) != 1 or "ept" not in "".join(lines):
        raise Failed(f"the log says: {lines}")
    guests()


def everything_off():
    expect("insmod", load("unrestricted_guest=0 eptad=0 vpid=0 vnmi=0 flexpriority=0 preemption_timer=0 "
                          "pml=0 ple_gap=0"), 0)
    guests()


def apicv():
    """The local APIC in hardware and the log of written pages, where they are a must."""
    expect("insmod", load(""), 0)
    on = {name: in_effect(name) for name in ("enable_apicv", "pml")}
    print("@OUT\t" + ", ".join(f"{name}={value}" for name, value in on.items()), flush=True)
    expect("in effect", set(on.values()), {"Y"})
    guests()
    # What is carried out in hardware does not exit: 4000 accesses would.
    mini_vmm.registers(most=200)
    # More pages than hardware writes down before it exits.
    mini_vmm.dirty_log(256, 2048)


def mitigated():
    """In a host with mitigations=auto: buffers are cleared and the L1 data cache flushed at entries."""
    with open("/proc/cmdline") as f:
        expect("mitigations=auto", f.read().rsplit("mitigations=", 1)[-1].split()[0], "auto")
    expect("insmod", load(""), 0)
    expect("in effect", in_effect("vmentry_l1d_flush"), "cond")
    guests()
    expect("insmod", load("vmentry_l1d_flush=always"), 0)
    expect("in effect", in_effect("vmentry_l1d_flush"), "always")
    guests()


# In other hosts: with mitigations, and with CPU=corei7_skylake_x.
MORE = {
    "mitigated": mitigated,
    "apicv": apicv,
    "apicv_off": without("enable_apicv=0"),
    "tsc_scaling": mini_vmm.tsc_scaling,
}

STEPS = {
    "plain": plain,
    "restricted": restricted,
    "eptad": without("eptad=0"),
    "vpid": without("vpid=0"),
    "vnmi": without("vnmi=0"),
    "flexpriority": without("flexpriority=0"),
    "preemption_timer": without("preemption_timer=0"),
    "pml": without("pml=0"),
    "ple": without("ple_gap=0", "0"),
    "ept": no_ept,
    "off": everything_off,
}


def main():
    wanted = os.environ.get("STEPS", "").split() or list(STEPS)
    params = [] if IN_TREE else os.environ.get("MODULE_PARAMS", "").split()
    for m in BASE:
        expect("insmod", busybox("insmod", m, *params).returncode, 0)
    for name in wanted:
        with open("/dev/kmsg", "w") as f:
            f.write(f"<6>selftest: {name}\n")
        print(f"@START\t{name}", flush=True)
        rc, note = 0, ""
        try:
            (STEPS | MORE)[name]()
        except (Failed, OSError) as e:
            rc, note = 1, str(e) or type(e).__name__
            mini_vmm.close_all()
            for line in log_since(f"selftest: {name}\n").splitlines()[-12:]:
                print(f"@OUT\t{line[:150]}", flush=True)
        print(f"@RESULT\t{name}\t{rc}\t0\t0\t{note[:140]}", flush=True)
    for m in ("kvm_intel", "kvm"):
        if os.path.exists(f"/sys/module/{m}") and busybox("rmmod", m).returncode:
            print(f"@KLOG\t-\t{m} does not unload after the tests", flush=True)
    print("@DONE", flush=True)


main()
