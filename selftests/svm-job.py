#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Runs in the AMD hosts: what each parameter of kvm-amd.ko takes away, and what is left.

Which features there are to take away hangs on the host; plain() says it.
"""

import re
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, "/build/src/selftests")
import mini_vmm  # noqa: E402
from mini_vmm import Failed, expect  # noqa: E402
from param_steps import Thin, guests, log_since, note  # noqa: E402

AMD = Thin("kvm-amd")

# Parameters by the name of their feature in /proc/cpuinfo, and what they read with the feature.
FEATURES = {
    "nrip_save": ("nrips", "1"),
    "vgif": ("vgif", "1"),
    "vnmi": ("vnmi", "Y"),
    "tsc_scale": ("tsc_scaling", "1"),
    "pausefilter": ("pause_filter_count", "3000"),
    "pfthreshold": ("pause_filter_thresh", "128"),
}
# Without a parameter: what the host has of these is used.
OTHERS = ("flushbyasid", "decodeassists")
OFF = {"Y": "N"}
# Bit 25 of the control block's int_ctl: the virtual global interrupt flag is in use.
V_GIF_ENABLE = 1 << 25


def flags():
    with open("/proc/cpuinfo") as f:
        line = next(x for x in f if x.startswith("flags"))
    return set(line.split(":")[1].split())


HAS = flags()


def refused_block():
    """int_ctl of a control block that hardware refused, from its dump in the log."""
    AMD.set("dump_invalid_vmcb", "1")
    mini_vmm.fail_long_entry()
    AMD.set("dump_invalid_vmcb", "0")
    found = re.findall(r"VMCB int_ctl, vector, state: \[([0-9a-f]+)", log_since("selftest: "))
    if not found:
        raise Failed("no control block in the log")
    return int(found[-1], 16)


def vgif_is(on):
    expect("int_ctl: virtual GIF", bool(refused_block() & V_GIF_ENABLE), on)


def plain():
    """No parameters: everything the processor has is in effect, and nothing else."""
    AMD.load("")
    note("this host has " + " ".join(x for x in (*FEATURES, *OTHERS) if x in HAS))
    note("and not " + " ".join(x for x in (*FEATURES, *OTHERS) if x not in HAS))
    for flag, (name, value) in FEATURES.items():
        AMD.in_effect(name, value if flag in HAS else OFF.get(value, "0"))
    guests()
    if "pausefilter" in HAS:
        mini_vmm.spinning()
    vgif_is("vgif" in HAS)


def pauses():
    """Each PAUSE exits."""
    mini_vmm.spinning(counted=False)


def absent():
    """No emulated processor has these, so that there is nothing to see but that nothing breaks."""
    AMD.load("vnmi=0 tsc_scaling=0")
    AMD.in_effect("vnmi", "N")
    AMD.in_effect("tsc_scaling", "0")
    guests()


def unused():
    """Parameters of what this module does not use read as off, whatever is asked for."""
    names = ("vls", "lbrv", "avic", "nested", "sev")
    AMD.load(" ".join(f"{name}=1" for name in names))
    for name in names:
        AMD.in_effect(name, "0" if name in ("vls", "lbrv", "nested") else "N")


def everything_off():
    AMD.load("nrips=0 vgif=0 vnmi=0 tsc_scaling=0 pause_filter_count=0 vls=0 lbrv=0")
    for name in ("nrips", "vgif", "tsc_scaling", "pause_filter_count", "pause_filter_thresh"):
        AMD.in_effect(name, "0")
    guests()
    vgif_is(False)
    pauses()


STEPS = {
    "plain": plain,
    "nrips": AMD.without("nrips=0", "0"),
    "vgif": AMD.without("vgif=0", "0", also=lambda: vgif_is(False)),
    "absent": absent,
    "pause_filter": AMD.without("pause_filter_count=0", "0", also=pauses),
    "unused": unused,
    "refused": AMD.refused("npt=0"),
    "off": everything_off,
}

AMD.run(STEPS)
