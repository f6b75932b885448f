# SPDX-License-Identifier: GPL-2.0
"""A client for QEMU's gdb stub: just what selftests/boots-job.py asks of it."""

import socket
import time

RIP, EFLAGS = 16, 17


class GdbError(Exception):
    pass


class Gdb:
    """Talks the remote protocol over a UNIX socket; `end` is the time to give up."""

    def __init__(self, path, end):
        self.end, self.buf = end, b""
        self.sock = socket.socket(socket.AF_UNIX)
        while True:
            try:
                self.sock.connect(path)
                break
            except OSError:
                if time.monotonic() > end:
                    raise GdbError("no gdb stub") from None
                time.sleep(0.1)
        self.ask("qSupported:swbreak+;hwbreak+")

    def _byte(self):
        if not self.buf:
            self.sock.settimeout(max(0.1, self.end - time.monotonic()))
            try:
                self.buf = self.sock.recv(65536)
            except OSError:
                raise GdbError("the gdb stub does not answer in time") from None
            if not self.buf:
                raise GdbError("the gdb stub hung up")
        c, self.buf = self.buf[:1], self.buf[1:]
        return c

    def send(self, text):
        data = text.encode()
        self.sock.sendall(b"$%s#%02x" % (data, sum(data) & 0xFF))

    def receive(self):
        """The next packet; acknowledgements are passed over."""
        while self._byte() != b"$":
            pass
        data = b""
        while (c := self._byte()) != b"#":
            data += c
        self._byte(), self._byte()
        self.sock.sendall(b"+")
        return data.decode()

    def ask(self, text):
        self.send(text)
        return self.receive()

    def ok(self, text):
        answer = self.ask(text)
        if answer != "OK":
            raise GdbError(f"{text}: {answer or 'not supported'}")

    def stopped(self, text):
        """Lets the guest run (`c` or `s`) until it stops."""
        answer = self.ask(text)
        if not answer.startswith(("T05", "S05")):
            raise GdbError(f"{text}: stopped with {answer}")
        return answer

    def reg(self, n):
        regs = bytes.fromhex(self.ask("g"))
        # The general-purpose registers and RIP have 8 bytes, EFLAGS and what follows 4.
        at, size = (n * 8, 8) if n <= RIP else (17 * 8, 4)
        return int.from_bytes(regs[at:at + size], "little")

    def memory(self, addr, size):
        return bytes.fromhex(self.ask(f"m{addr:x},{size:x}"))

    def run_to(self, addr, kind=1):
        """Runs to a breakpoint at addr: kind 0 is INT3 in memory, 1 a debug register."""
        self.ok(f"Z{kind},{addr:x},1")
        self.stopped("c")
        self.ok(f"z{kind},{addr:x},1")
        if (rip := self.reg(RIP)) != addr:
            raise GdbError(f"a breakpoint at {addr:#x} stopped at {rip:#x}")
