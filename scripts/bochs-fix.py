#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Mend what Debian's Bochs 3.0 gets wrong of APIC virtualization.

    bochs-fix.py BOCHS COPY     writes a mended copy; exit code 1 if BOCHS is another build

Two errors make guests that have a virtual APIC hang (Documentation/testing.rst, "What the emulators
get wrong"). Both are mended in the place where they are, in the machine code; a build that has other
bytes there is left alone.
"""

import sys


def jump(opcode, at, to):
    """An instruction of five or six bytes with a relative target, at `at`."""
    after = at + len(opcode) + 4
    return opcode + (to - after).to_bytes(4, "little", signed=True)


# BX_CPU_C::HandleExtInterrupt: where it looks for a virtual interrupt, what it does otherwise, and the
# room behind; BX_CPU_C::VMX_Deliver_Virtual_Interrupt: its start, and its call for instrumentation.
LOOK, OTHERWISE, ROOM, DELIVER, NOTE = 0x1699DD, 0x1699E3, 0x169A75, 0x26BE40, 0x26BF11

MENDED = [
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
]


def main():
    with open(sys.argv[1], "rb") as f:
        image = bytearray(f.read())
    for at, old, new in MENDED:
        assert len(old) == len(new)
        if image[at:at + len(old)] != old:
            print(f"bochs-fix: {sys.argv[1]} is another build: not mended", file=sys.stderr)
            return 1
        image[at:at + len(new)] = new
    with open(sys.argv[2], "wb") as f:
        f.write(image)
    return 0


sys.exit(main())
