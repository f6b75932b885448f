# SPDX-License-Identifier: GPL-2.0
"""Runs in the test host: what vmx-job.py and svm-job.py share.

A step loads the thin module with parameters, looks at what sysfs says is in effect, and runs the
guests of mini_vmm.py. The markers are those of runner.sh. STEPS, if set, names the steps to run.
With MODULE=stock the in-tree modules are loaded; steps about what only ours says or lacks fail then.

SEED=1: the parameters get lost on their way. SEED=2: besides, nobody looks at what is in effect.
"""

import os
import subprocess
import time

import mini_vmm
from mini_vmm import Failed, expect

SEED = os.environ.get("SEED") or "0"
IN_TREE = os.environ.get("MODULE") == "stock"
STOCK = f"/lib/modules/{os.environ['KVER']}/kernel/"
# Of the in-tree modules: which others each needs.
NEEDS = {
    "kvm-intel": ["virt/lib/irqbypass", "arch/x86/kvm/kvm"],
    "kvm-amd": ["virt/lib/irqbypass", "drivers/crypto/ccp/ccp", "arch/x86/kvm/kvm"],
}


def busybox(*args):
    return subprocess.run(["busybox", *args], capture_output=True, text=True)


def log_since(mark):
    text = subprocess.run(["dmesg"], capture_output=True, text=True).stdout
    return text.rsplit(mark, 1)[-1]


def note(text):
    print(f"@OUT\t{text}", flush=True)


GUESTS = [
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


def guests(but=None):
    for f in GUESTS:
        if f != but:
            f()


class Thin:
    """A thin module: kvm-amd or kvm-intel."""

    def __init__(self, name):
        self.name = name.replace("-", "_")
        if IN_TREE:
            self.path = f"{STOCK}arch/x86/kvm/{name}.ko.xz"
            self.needs = [f"{STOCK}{m}.ko.xz" for m in NEEDS[name]]
        else:
            self.path = f"/build/src/{name}.ko"
            self.needs = ["/build/src/kvm.ko"]

    def try_load(self, params):
        if os.path.exists(f"/sys/module/{self.name}"):
            busybox("rmmod", self.name)
        given = [] if SEED != "0" else params.split()
        return busybox("insmod", self.path, *given).returncode

    def load(self, params):
        """Loads it anew."""
        expect("insmod", self.try_load(params), 0)

    def shown(self, name):
        with open(f"/sys/module/{self.name}/parameters/{name}") as f:
            return f.read().strip()

    def set(self, name, value):
        with open(f"/sys/module/{self.name}/parameters/{name}", "w") as f:
            f.write(value)

    def in_effect(self, name, value):
        if SEED != "2":
            expect(f"{name} in effect", self.shown(name), value)

    def without(self, param, shown=None, also=None):
        """A step: with this parameter, which reads as `shown`, all guests run, and `also`."""
        def step():
            self.load(param)
            name, value = param.split("=")
            self.in_effect(name, shown or {"0": "N"}.get(value, value))
            guests()
            if also:
                also()
        return step

    def refused(self, param):
        """A step: the parameter is refused in one line, and the module goes on as before."""
        name = param.split("=")[0]

        def step():
            if self.try_load(param) == 0:
                raise Failed(f"{param} was taken")
            # busybox tries a second time, with another system call.
            lines = {x.split("] ", 1)[-1] for x in log_since("selftest: refused\n").splitlines() if "kvm" in x}
            if len(lines) != 1 or name not in "".join(lines):
                raise Failed(f"the log says: {lines}")
            guests()
        return step

    def run(self, steps, more=()):
        """All of `steps`, or those that STEPS names, of `more` too."""
        wanted = os.environ.get("STEPS", "").split() or list(steps)
        params = [] if IN_TREE else os.environ.get("MODULE_PARAMS", "").split()
        for m in self.needs:
            expect("insmod", busybox("insmod", m, *params).returncode, 0)
        for name in wanted:
            with open("/dev/kmsg", "w") as f:
                f.write(f"<6>selftest: {name}\n")
            print(f"@START\t{name}", flush=True)
            rc, why, t0 = 0, "", time.monotonic()
            try:
                (steps | dict(more))[name]()
            except (Failed, OSError) as e:
                rc, why = 1, str(e) or type(e).__name__
                mini_vmm.close_all()
                for line in log_since(f"selftest: {name}\n").splitlines()[-12:]:
                    note(line[:150])
            print(f"@RESULT\t{name}\t{rc}\t{t0:.1f}\t{time.monotonic():.1f}\t{why[:140]}", flush=True)
        for m in (self.name, "kvm"):
            if os.path.exists(f"/sys/module/{m}") and busybox("rmmod", m).returncode:
                print(f"@KLOG\t-\t{m} does not unload after the tests", flush=True)
        print("@DONE", flush=True)
