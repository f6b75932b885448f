#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""A VM that does nothing but exist, for the lifetime jobs.

  tiny_guest.py hold          a VM with one vCPU that does not run
  tiny_guest.py loop CPU...   guests that count in memory for ever, each bound to a CPU (or "any")
  tiny_guest.py churn N       make and end a VM with a vCPU and interrupt controllers N times

hold and loop say "ready"; loop answers each line of its input with "run" when every guest has
counted on, after making one more VM if the line is not empty. Run on /dev/kvm of either module.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import struct
import sys
import threading
import time

KVM_CREATE_VM = 0xAE01
KVM_GET_VCPU_MMAP_SIZE = 0xAE04
KVM_CREATE_VCPU = 0xAE41
KVM_CREATE_IRQCHIP = 0xAE60
KVM_CREATE_PIT2 = 0x4040AE77
KVM_SET_USER_MEMORY_REGION = 0x4020AE46
KVM_RUN = 0xAE80
KVM_SET_REGS = 0x4090AE82
KVM_GET_SREGS = 0x8138AE83
KVM_SET_SREGS = 0x4138AE84

COUNTER = 0x2000
# Real mode at 1000h: sti, for Bochs (Documentation/testing.rst); incl 2000h; jmp to the incl
LOOP = bytes([0xFB, 0x66, 0xFF, 0x06, 0x00, 0x20, 0xEB, 0xF9])


class Guest:
    def __init__(self, irqchip=False):
        self.kvm = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
        self.fds = [self.kvm]
        self.vm = self.take(fcntl.ioctl(self.kvm, KVM_CREATE_VM, 0))
        if irqchip:
            fcntl.ioctl(self.vm, KVM_CREATE_IRQCHIP, 0)
            fcntl.ioctl(self.vm, KVM_CREATE_PIT2, bytes(64))
        self.ram = mmap.mmap(-1, 1 << 20)
        self.ram[0x1000:0x1000 + len(LOOP)] = LOOP
        hva = ctypes.addressof(ctypes.c_char.from_buffer(self.ram))
        fcntl.ioctl(self.vm, KVM_SET_USER_MEMORY_REGION, struct.pack("<IIQQQ", 0, 0, 0, 1 << 20, hva))
        self.vcpu = self.take(fcntl.ioctl(self.vm, KVM_CREATE_VCPU, 0))
        size = fcntl.ioctl(self.kvm, KVM_GET_VCPU_MMAP_SIZE, 0)
        self.run_page = mmap.mmap(self.vcpu, size)
        sregs = bytearray(312)
        fcntl.ioctl(self.vcpu, KVM_GET_SREGS, sregs)
        struct.pack_into("<QIH", sregs, 0, 0, 0xFFFF, 0)  # CS at 0
        fcntl.ioctl(self.vcpu, KVM_SET_SREGS, sregs)
        # Interrupts are on: Bochs's VMX does not end a run for the host's before (testing.rst).
        fcntl.ioctl(self.vcpu, KVM_SET_REGS, struct.pack("<18Q", *[0] * 16, 0x1000, 0x202))

    def take(self, fd):
        self.fds.append(fd)
        return fd

    def count(self):
        return struct.unpack_from("<I", self.ram, COUNTER)[0]

    def run(self, cpu):
        if cpu != "any":
            os.sched_setaffinity(0, {int(cpu)})
        while True:
            try:
                fcntl.ioctl(self.vcpu, KVM_RUN, 0)
            except OSError as e:
                if e.errno == errno.EINTR:
                    continue
                print("KVM_RUN:", e, flush=True)
                os._exit(1)
            print("exit", struct.unpack_from("<I", self.run_page, 8)[0], flush=True)
            os._exit(1)

    def end(self):
        self.run_page.close()
        for fd in reversed(self.fds):
            os.close(fd)


def all_run(guests):
    before = [g.count() for g in guests]
    for _ in range(1000):
        if all(g.count() != b for g, b in zip(guests, before)):
            return "run"
        time.sleep(0.02)
    return "stuck: %s %s" % (before, [g.count() for g in guests])


def main():
    mode = sys.argv[1]
    if mode == "churn":
        for _ in range(int(sys.argv[2])):
            Guest(irqchip=True).end()
        return
    guests = [Guest() for _ in sys.argv[2:] or ["any"]]
    if mode == "loop":
        for g, cpu in zip(guests, sys.argv[2:]):
            threading.Thread(target=g.run, args=[cpu], daemon=True).start()
    print("ready", flush=True)
    for line in sys.stdin:
        if line.strip():
            Guest(irqchip=True).end()
        print(all_run(guests), flush=True)
    os._exit(0)


main()
