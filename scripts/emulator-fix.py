#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Mend what Debian's Bochs 3.0 and QEMU 11.1 get wrong.

    emulator-fix.py EMULATOR COPY     writes a mended copy; exit code 1 if EMULATOR is another build

Three errors make guests hang or fail that have a virtual APIC in Bochs; in QEMU one delivers
interrupts twice and one ends QEMU itself (Documentation/testing.rst, "What the emulators get wrong"). All are mended in the place where they
are, in the machine code; a build that has other bytes there is left alone.
"""

import re
import sys


def jump(opcode, at, to):
    """An instruction of five or six bytes with a relative target, at `at`."""
    after = at + len(opcode) + 4
    return opcode + (to - after).to_bytes(4, "little", signed=True)


# BX_CPU_C::HandleExtInterrupt: where it looks for a virtual interrupt, what it does otherwise, and the
# room behind; BX_CPU_C::VMX_Deliver_Virtual_Interrupt: its start, and its call for instrumentation.
LOOK, OTHERWISE, ROOM, DELIVER, NOTE = 0x1699DD, 0x1699E3, 0x169A75, 0x26BE40, 0x26BF11

BOCHS = [
    # A virtual interrupt that waits for the guest's interrupts to be on is delivered with them off when
    # the host's timer or another CPU interrupts: it is not looked whether it is masked.
    (LOOK, bytes.fromhex("0f8595000000"), jump(b"\x0f\x85", LOOK, ROOM)),
    (ROOM, bytes.fromhex("0f1f00" "4883c408" "5b" "5d") + jump(b"\xe9", 0x169A7E, DELIVER)
     + bytes.fromhex("0f1f440000"),
     bytes.fromhex("f6830101000002")            # testb $2, flags + 1: IF
     + jump(b"\x0f\x84", ROOM + 7, OTHERWISE)   # je
     + jump(b"\xe8", ROOM + 13, DELIVER)        # call; it does not come back
     + b"\x90"),
    # When the delivery faults, the exit reports the event of an earlier delivery: it is not noted which
    # one this is. What makes room is a call of a hook for instrumentation, which does nothing.
    (NOTE, bytes.fromhex("488b8be0000000" "0fb79378010000" "4489ee" "8b7b30") + jump(b"\xe8", 0x26BF25, 0x31D590),
     bytes.fromhex("4489aba8900000") + b"\x90" * 18),
    # A notification that comes when nothing is posted and nothing requested any more, as software has
    # handed it over, requests vector 255: the highest of none is -1.
    (0x26C3EC, bytes.fromhex("3a83f98f0000" "7206" "8883f98f0000"),  # cmp RVI, %al; jb; mov %al, RVI
     bytes.fromhex("85c0" "7806" "8883f98f0000") + b"\x90" * 4),     # test %eax, %eax; js; mov
]


QEMU = [
    # cpu_interrupt insists on the lock of the main loop. A guest's write to CR8 calls it without while
    # an interrupt window is open. What follows is atomic, and for the calling CPU itself needs no lock.
    b"\xf3\x0f\x1e\xfa\x48\x83\xec\x08"        # endbr64; sub $8, %rsp
    b"\xe8.{4}\x84\xc0(\x74\x14)"             # call bql_locked; test %al, %al; je
    b"\x48\x8b\x05.{4}\x48\x8b\x80.{4}"       # mov cpus_accel, %rax; mov handle_interrupt(%rax), %rax
    b"\x48\x83\xc4\x08\xff\xe0"               # add $8, %rsp; jmp *%rax
    b"\x4c\x8d\x05.{4}\x48\x8d\x0d.{4}\xba",  # the expression, the function's name, the line
    # helper_vmrun notes the vector of an interrupt that it is about to deliver as the exception that is
    # under way. Whoever stops the CPU before its next exit or exception has it delivered once more.
    b"\x41\x0f\xb6\xf4\x44\x89\xab.{4}"       # movzbl %r12b, %esi; mov %r13d, error_code(%rbx)
    b"(\x89\xb3.{4})"                         # mov %esi, exception_index(%rbx)
    b"\xc7\x83.{4}\0{4}\x48\xc7\x83.{4}\xff{4}"  # exception_is_int = 0; exception_next_eip = -1
    b"\xf6\x05.{4}\x02\x0f\x85.{4}"            # is it logged?
    b"\xba\x01\0\0\0\x48\x89\xdf\xe8",        # call do_interrupt_x86_hardirq with is_hw = 1
]


def mend(path, image):
    """Mends the image in place; false if it is not the one that was looked at."""
    if "qemu" in path:
        found = [list(re.finditer(p, image, re.DOTALL)) for p in QEMU]
        if any(len(f) != 1 for f in found):
            return False
        for (f,) in found:
            image[f.start(1):f.end(1)] = b"\x90" * len(f[1])
        return True
    for at, old, new in BOCHS:
        assert len(old) == len(new)
        if image[at:at + len(old)] != old:
            return False
        image[at:at + len(new)] = new
    return True


def main():
    with open(sys.argv[1], "rb") as f:
        image = bytearray(f.read())
    if not mend(sys.argv[1], image):
        print(f"emulator-fix: {sys.argv[1]} is another build: not mended", file=sys.stderr)
        return 1
    try:
        with open(sys.argv[2], "wb") as f:
            f.write(image)
    except OSError as e:
        print(f"emulator-fix: {sys.argv[2]}: {e.strerror}", file=sys.stderr)
        return 1
    return 0


sys.exit(main())
