# SPDX-License-Identifier: GPL-2.0
"""Guests for what the virtual APIC delivers: to a vCPU with interrupts off, into a nested page fault,
and from one vCPU to another. Imported by vmx-job.py; the code is at 0x1000, its handler counts at 0x2010.
"""

import copy
import fcntl
import mmap
import os
import signal
import struct
import threading

import mini_vmm
from mini_vmm import EXIT_IO, Failed, Vm, expect

SET_MP_STATE = 0x4004AE99
STACK = 0x8000


def guest(code, handler, vectors=(0x40,)):
    """A VM in flat protected mode with local APICs, whose interrupts go to the handler."""
    vm = Vm(code, irqchip=True)
    protect(vm)
    vm.put(0x1200, handler)
    vm.put(0x1810, mini_vmm.GDT_ENTRIES)
    for v in vectors:
        vm.put(0x3000 + 8 * v, struct.pack("<HHHH", 0x1200, 8, 0x8E00, 0))
    return vm


def protect(vm):
    vm.protected()
    s = vm.sregs()
    s["idt"], s["gdt"] = [0x3000, 0x7FF], [0x1810, 39]
    vm.set_sregs(s)


# An interrupt to itself with interrupts off, five million instructions later how often it came; then
# interrupts on, and how often it came now. With READ it has touched before what the delivery needs.
READ = bytes.fromhex("a100320000" "50" "58")
MASKED = bytes.fromhex(
    "c705f000e0feff010000"  # SVR
    "c7051003e0fe00000000" "fa" "c7050003e0fe40400400"  # ICR
    "b9404b4c00" "49" "75fd"
    "a110200000" "a300200000" "fb" "90" "90" "fa" "a110200000" "a304200000" "e610")
COUNT = bytes.fromhex("ff0510200000" "c705b000e0fe00000000" "cf")


def masked():
    """With interrupts off nothing is delivered, and what waited is when they are on."""
    for read in (READ, b""):
        vm = guest(read + MASKED, COUNT)
        vm.until(EXIT_IO)
        what = "the delivery " + ("does not fault" if read else "faults")
        expect(f"interrupts while off, then ({what})", (vm.word(0x2000), vm.word(0x2004)), (0, 1))
        vm.close()


# EBX: 1 xAPIC, 2 x2APIC. EDI: how many. The sender waits until the one before has been counted.
SENDER = bytes.fromhex(
    "83fb02" "740c" "c705f000e0feff010000" "eb1c"
    "b91b000000" "0f32" "0d000c0000" "0f30" "b90f080000" "b8ff010000" "31d2" "0f30"
    "f390" "833d2020000001" "75f5"  # the receiver is ready
    "31ed" "45" "b840400000" "83fb02" "7411"
    "c7051003e0fe00000001" "a30003e0fe" "eb0c" "ba01000000" "b930080000" "0f30"
    "f390" "392d10200000" "75f6" "39fd" "75ca" "e610")
# ESI: 0 to halt, 1 to run on.
RECEIVER = bytes.fromhex(
    "83fb02" "740c" "c705f000e0feff010000" "eb1c"
    "b91b000000" "0f32" "0d000c0000" "0f30" "b90f080000" "b8ff010000" "31d2" "0f30"
    "c7052020000001000000"
    "fa" "393d10200000" "740b" "fb" "85f6" "7403" "90" "ebef" "f4" "ebec" "e610")
TAKE = bytes.fromhex(
    "50" "51" "52" "ff0510200000" "83fb02" "740c" "c705b000e0fe00000000" "eb0b"
    "b90b080000" "31c0" "31d2" "0f30" "5a" "59" "58" "cf")


def second(vm):
    """Another vCPU of the VM, as the VM with it."""
    other = copy.copy(vm)
    other.cpu = fcntl.ioctl(vm.vm, mini_vmm.CREATE_VCPU, 1)
    cpuid = bytearray(struct.pack("II", 200, 0) + bytes(40 * 200))
    fcntl.ioctl(vm.kvm, mini_vmm.GET_SUPPORTED_CPUID, cpuid)
    fcntl.ioctl(other.cpu, mini_vmm.SET_CPUID2, cpuid)
    fcntl.ioctl(other.cpu, SET_MP_STATE, struct.pack("I", 0))
    other.run = mmap.mmap(other.cpu, fcntl.ioctl(vm.kvm, mini_vmm.MMAP_SIZE, 0))
    s = other.sregs()
    s["cs"][0] = s["cs"][2] = 0
    other.set_sregs(s)
    protect(other)
    return other


def registers(vm, at, rsp, **values):
    """RIP, RSP and what the guests above are told."""
    r = [0] * 18
    r[1], r[4], r[5] = (values[n] for n in ("rbx", "rsi", "rdi"))
    r[6], r[16], r[17] = rsp, at, 2
    fcntl.ioctl(vm.cpu, mini_vmm.SET_REGS, struct.pack("18Q", *r))


def posted(mode, runs, times, most=None):
    """Interrupts from one vCPU to another, one after the other. Each is counted, and none may be lost;
    at most so many are left to software to hand over, because the receiver was out of its guest."""
    vm = guest(SENDER, TAKE)
    vm.put(0x1100, RECEIVER)
    other = second(vm)
    registers(vm, 0x1000, STACK, rbx=mode, rsi=runs, rdi=times)
    registers(other, 0x1100, STACK - 0x1000, rbx=mode, rsi=runs, rdi=times)
    ended = []

    def run():
        try:
            os.sched_setaffinity(0, {os.cpu_count() - 1})
            other.until(EXIT_IO, 3)
            ended.append(None)
        except Exception as e:  # noqa: BLE001
            ended.append(e)
            # The sender would wait for it.
            signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)

    signal.signal(signal.SIGUSR1, lambda *_: None)
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 40)
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    all_cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {0})
    sent = None
    try:
        vm.until(EXIT_IO, 1)
    except Failed as e:
        sent = e
    finally:
        os.sched_setaffinity(0, all_cpus)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for _ in range(3):
            thread.join(2)
            if thread.is_alive():
                signal.pthread_kill(thread.ident, signal.SIGUSR1)
        counted, by_software = vm.word(0x2010), other.stat("req_event")
        name = f"{'x2APIC' if mode == 2 else 'xAPIC'}, the receiver {'runs' if runs else 'halts'}"
        print(f"@OUT\t{name}: {counted} of {times} interrupts, {by_software} by software", flush=True)
        other.run.close()
        os.close(other.cpu)
        other.hold = None
    expect(f"the ends of receiver and sender ({name})", ended + [sent], [None, None])
    expect(f"interrupts ({name})", counted, times)
    if most is not None and by_software > most:
        raise Failed(f"{name}: {by_software} interrupts by software, not {most} at most")
    vm.close()
