#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Runs in the Intel host: what each parameter of kvm-intel.ko takes away, and what is left."""

import os
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, "/build/src/selftests")
import apicv_guests  # noqa: E402
import mini_vmm  # noqa: E402
from mini_vmm import Failed, expect  # noqa: E402
from param_steps import Thin, guests, log_since, note  # noqa: E402

INTEL = Thin("kvm-intel")


def logged(*lines):
    log = log_since("selftest: plain\n")
    for line in lines:
        if line not in log:
            raise Failed(f"not in the log: {line}")


def plain():
    """No parameters: everything the processor has; failed entries and their reports."""
    INTEL.load("")
    guests()
    mini_vmm.spinning()
    mini_vmm.fail_entry()
    logged("VM entry failed", "guest state: TR: type is not that of a busy TSS",
           "the parameter dump_invalid_vmcs")
    INTEL.load("dump_invalid_vmcs=1")
    # One report a second.
    time.sleep(1.1)
    mini_vmm.refused_event()
    logged("VM-instruction error 7, invalid control fields", "entry intr_info 0x80000b06 err 0x5a",
           "host cr0 ")
    time.sleep(1.1)
    mini_vmm.fail_entry()
    logged("reason 33 (0x0), guest state that is not legal")


def real_mode():
    """Without unrestricted guests real mode and what lies between the modes is emulated."""
    mini_vmm.stale_selectors()
    mini_vmm.unrunnable()


def fitted():
    """emulate_invalid_guest_state=0: nothing but real mode is emulated, and segments are made to fit."""
    INTEL.load("unrestricted_guest=0 emulate_invalid_guest_state=0")
    INTEL.in_effect("emulate_invalid_guest_state", "N")
    guests(but=mini_vmm.system_management)
    mini_vmm.fitted()
    # It does not count where hardware runs everything.
    INTEL.load("emulate_invalid_guest_state=0")
    mini_vmm.system_management()


def ple():
    """Loops of PAUSE exit; seldom if the window grows, often if it does not, never without a gap."""
    exits = []
    for param in ("", "ple_window_max=16384", "ple_window_grow=0", "ple_gap=0"):
        INTEL.load(param)
        exits.append(mini_vmm.pauses())
    growing, limited, fixed, none = exits
    # Interrupts of the host make a few.
    what = f"exits: {growing}; with a window up to 16384 ticks {limited}; that does not grow {fixed}; without a gap {none}"
    note(what)
    if not (none + 5 <= growing < limited < fixed and fixed > 100):
        raise Failed(what)
    INTEL.in_effect("ple_gap", "0")
    guests()


def everything_off():
    INTEL.load("unrestricted_guest=0 eptad=0 vpid=0 vnmi=0 flexpriority=0 preemption_timer=0 pml=0 ple_gap=0")
    guests()


def apicv():
    """The local APIC in hardware and the log of written pages, where they are a must."""
    INTEL.load("")
    on = {name: INTEL.shown(name) for name in ("enable_apicv", "pml")}
    note(", ".join(f"{name}={value}" for name, value in on.items()))
    expect("in effect", set(on.values()), {"Y"})
    guests()
    # What is carried out in hardware does not exit: 4000 accesses would.
    mini_vmm.registers(most=200)
    # More pages than hardware writes down before it exits.
    mini_vmm.dirty_log(256, 2048)


def virtual_interrupts():
    """Interrupts that hardware delivers by itself."""
    INTEL.load("")
    INTEL.in_effect("enable_apicv", "Y")
    apicv_guests.masked()


def posted():
    """Interrupts between two vCPUs. With a CPU for each, one that runs gets them without leaving its guest."""
    INTEL.load("")
    INTEL.in_effect("enable_apicv", "Y")
    for mode in (1, 2):
        apicv_guests.posted(mode, 1, 1000, 900 if os.cpu_count() > 1 else None)
        apicv_guests.posted(mode, 0, 1000)


def mitigated():
    """In a host with mitigations=auto: buffers are cleared and the L1 data cache flushed at entries."""
    with open("/proc/cmdline") as f:
        expect("mitigations=auto", f.read().rsplit("mitigations=", 1)[-1].split()[0], "auto")
    INTEL.load("")
    INTEL.in_effect("vmentry_l1d_flush", "cond")
    guests()
    flushes, exits = mini_vmm.l1d_flushes()
    if not 1 <= flushes < exits // 10:
        raise Failed(f"cond: {flushes} flushes, {exits} exits")
    INTEL.load("vmentry_l1d_flush=always")
    INTEL.in_effect("vmentry_l1d_flush", "always")
    guests()
    flushes, exits = mini_vmm.l1d_flushes()
    if flushes < exits:
        raise Failed(f"always: {flushes} flushes, {exits} exits")
    INTEL.load("vmentry_l1d_flush=never")
    expect("flushes, never", mini_vmm.l1d_flushes()[0], 0)
    # The mode can change at any time.
    with open("/sys/module/kvm_intel/parameters/vmentry_l1d_flush", "w") as f:
        f.write("cond")
    flushes, exits = mini_vmm.l1d_flushes()
    if not 1 <= flushes < exits // 10:
        raise Failed(f"cond after never: {flushes} flushes, {exits} exits")
    # What is emulated leaves something in the cache, though nothing exits then.
    INTEL.load("unrestricted_guest=0")
    flushes, exits = mini_vmm.l1d_flushes(mini_vmm.TOGGLES)
    if flushes < 100 or exits < 100:
        raise Failed(f"emulated: {flushes} flushes, {exits} exits")


# In other hosts: with mitigations, and with CPU=corei7_skylake_x.
MORE = {
    "mitigated": mitigated,
    "apicv": apicv,
    "apicv_off": INTEL.without("enable_apicv=0"),
    "virtual_interrupts": virtual_interrupts,
    "posted": posted,
    "tsc_scaling": mini_vmm.tsc_scaling,
}

STEPS = {
    "plain": plain,
    "restricted": INTEL.without("unrestricted_guest=0", also=real_mode),
    "fitted": fitted,
    "eptad": INTEL.without("eptad=0"),
    "vpid": INTEL.without("vpid=0"),
    "vnmi": INTEL.without("vnmi=0"),
    "flexpriority": INTEL.without("flexpriority=0"),
    "preemption_timer": INTEL.without("preemption_timer=0"),
    "pml": INTEL.without("pml=0"),
    "ple": ple,
    "refused": INTEL.refused("ept=0"),
    "off": everything_off,
}

INTEL.run(STEPS, MORE)
