#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Runs in the test host: boot the guests of /build/run/tests with QEMU on /dev/kvm.

Each line there is a row of selftests/boots.tsv. One marked line per verdict is
printed; selftests/run-boots.sh reads them. NONCE is this run's nonce: a guest counts
as up only when its console repeats it, so an old log or image cannot pass.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import traceback

from account import Leaked, steady
from gdb_remote import EFLAGS, RIP, Gdb, GdbError

RUN = os.environ.get("RUN", "/build/run")
KERNEL = os.environ.get("KERNEL") or f"/boot/vmlinuz-{os.environ['KVER']}"
INITRD = os.environ.get("INITRD") or f"{RUN}/guest.gz"
NONCE = os.environ.get("NONCE", "none")
# The nonce the guests are told. They differ only in the harness's own test.
TOLD = os.environ.get("TOLD", NONCE)
# QEMU's trace events that tell whether virtio goes through eventfds.
TRACED = ["kvm_set_ioeventfd_mmio", "virtio_notify_irqfd_deferred_fn", "virtio_pci_notify_write", "virtio_pci_notify_write_pio",
          "virtio_mmio_write_offset"]
# The register of virtio-mmio that a kick is written to.
QUEUE_NOTIFY = "0x50"
# Rounds after which a guest that churns has read back all that it had written before (guest-init.sh):
# its four files, and one more round, as the line of the last one may not have been out yet.
READ_BACK = 5


class Failed(Exception):
    pass


class Guest:
    """One QEMU with its console in a file and its monitor on a socket."""

    count = 0

    def __init__(self, row, do, extra=(), end=None):
        if os.environ.get("SEED_RAISE"):
            raise RuntimeError("seeded")
        Guest.count += 1
        self.row, self.end = row, end or time.monotonic() + row["limit"]
        base = f"{RUN}/{row['name']}-{Guest.count}"
        self.console_path, self.qmp_path, self.err_path = f"/tmp/con{Guest.count}", f"/tmp/qmp{Guest.count}", f"{base}.err"
        self.trace_path, self.boot_path = f"/tmp/trace{Guest.count}", f"/tmp/boot{Guest.count}"
        open(self.console_path, "w").close()
        self.seen = 0
        cmd = self.command(do) + list(extra)
        with open(self.err_path, "w") as err:
            self.proc = subprocess.Popen(cmd, stdin=subprocess.DEVNULL, stdout=err, stderr=err)
        self.sock = None

    def command(self, do):
        r = self.row
        append = f"console=ttyS0 quiet panic=-1 nonce={TOLD} do={do}"
        machine = f"{r['machine']},kernel-irqchip={r['irqchip']}"
        if r["machine"] == "microvm":
            machine += ",pcie=off,rtc=on,pit=on,pic=on"
            append += " reboot=t"
        if r["scenario"] == "gdb":
            append += " nokaslr"
        cmd = ["qemu-system-x86_64", "-accel", "kvm", "-machine", machine, "-cpu", "host",
               "-smp", str(r["cpus"]), "-m", str(r["memory"]), "-nodefaults", "-display", "none",
               "-serial", f"file:{self.console_path}",
               "-qmp", f"unix:{self.qmp_path},server=on,wait=off"]
        if do != "reboot":
            cmd.append("-no-reboot")
        if r["scenario"] == "reset":
            cmd.remove("-no-reboot")
        if r["boot"] == "disk":
            disk = self.boot_path
            with open(f"{RUN}/boot-sector.bin", "rb") as src, open(disk, "wb") as dst:
                dst.write(src.read() + f"GUEST-UP nonce={TOLD} cpus=1 by the firmware\r\n\0".encode())
                dst.truncate(1 << 20)
            cmd += ["-vga", "std", "-drive", f"if=ide,format=raw,file={disk}"]
        elif r["boot"] == "direct":
            cmd += ["-kernel", KERNEL, "-initrd", INITRD, "-append", append]
        else:
            cmd += ["-cdrom", f"{RUN}/guest.iso"]
        if r["boot"] == "ovmf":
            vars_ = f"/tmp/vars{Guest.count}"
            with open("/usr/share/OVMF/OVMF_VARS_4M.fd", "rb") as src, open(vars_, "wb") as dst:
                dst.write(src.read())
            cmd += ["-drive", "if=pflash,format=raw,unit=0,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd",
                    "-drive", f"if=pflash,format=raw,unit=1,file={vars_}"]
        if r["scenario"] == "blkio":
            disk = f"/tmp/disk{Guest.count}"
            with open(disk, "wb") as f:
                f.truncate(80 << 20)
            bus = "device" if r["machine"] == "microvm" else "pci"
            # QEMU signals the irqfds of a disk from its own thread only.
            thread = ["-object", "iothread,id=t"] if bus == "pci" else []
            cmd += thread + ["-D", self.trace_path] + [x for e in TRACED for x in ("-trace", e)]
            cmd += ["-drive", f"if=none,id=d,format=raw,cache=writeback,file={disk}",
                    "-device", f"virtio-blk-{bus},drive=d" + (",iothread=t" if thread else ""),
                    "-netdev", "user,id=n", "-device", f"virtio-net-{bus},netdev=n" + (",romfile=" if bus == "pci" else "")]
        if r["scenario"] == "snap":
            disk = f"/tmp/disk{Guest.count}"
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "64M"], check=True)
            cmd += ["-drive", f"if=none,id=d,format=qcow2,file={disk}", "-device", "virtio-blk-pci,drive=d"]
        return cmd

    def console(self):
        with open(self.console_path, errors="replace") as f:
            text = f.read().replace("\r", "")
        # A line that is still being written could be taken for a whole one.
        return text[:text.rfind("\n") + 1]

    def wait(self, pattern, what, times=1):
        """Wait until the console has the pattern that often."""
        while True:
            text = self.console()
            if m := re.search(r"GUEST-FAIL.*|Kernel panic.*", text):
                if not re.match(pattern, m.group(0)) and "sysrq" not in m.group(0):
                    raise Failed(m.group(0))
            if found := list(re.finditer(pattern, text, re.M)):
                if len(found) >= times:
                    return found[times - 1]
            if self.proc.poll() is not None:
                time.sleep(0.3)
                if len(re.findall(pattern, self.console(), re.M)) >= times:
                    continue
                raise Failed(f"QEMU ended ({self.proc.returncode}) before {what}")
            if time.monotonic() > self.end:
                raise Failed(f"timeout waiting for {what}")
            time.sleep(0.2)

    def up(self, times=1):
        m = self.wait(r"^GUEST-UP nonce=(\S+).*$", "the guest's user space", times)
        if m.group(1) != NONCE:
            raise Failed(f"the guest says nonce {m.group(1)}, not {NONCE}")
        cpus = re.search(r"cpus=(\d+)", m.group(0)).group(1)
        if int(cpus) != self.row["cpus"]:
            raise Failed(f"{cpus} CPUs in the guest, not {self.row['cpus']}")
        return m.group(0)

    def ends(self, code=0):
        try:
            rc = self.proc.wait(max(1, self.end - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise Failed("the guest does not power off") from None
        if rc != code:
            raise Failed(f"QEMU ended with {rc}")

    def qmp(self, cmd, **args):
        if self.sock is None:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.connect(self.qmp_path)
            self.reader = self.sock.makefile()
            self.reader.readline()
            self.qmp("qmp_capabilities")
        msg = {"execute": cmd}
        if args:
            msg["arguments"] = {k.replace("_", "-"): v for k, v in args.items()}
        self.sock.sendall(json.dumps(msg).encode() + b"\n")
        while True:
            # No select: events and the answer may lie in the reader's buffer together.
            self.sock.settimeout(max(0.1, self.end - time.monotonic()))
            try:
                text = self.reader.readline()
            except TimeoutError:
                raise Failed(f"the monitor does not answer {cmd}") from None
            line = json.loads(text or '{"error": "end of file"}')
            if "return" in line:
                return line["return"]
            if "error" in line:
                raise Failed(f"{cmd}: {line['error']}")

    def hmp(self, line):
        out = self.qmp("human-monitor-command", command_line=line)
        if "rror" in out:
            raise Failed(f"{line}: {out.strip()}")
        return out

    def ticks(self):
        found = re.findall(r"^GUEST-TICK (\d+)$", self.console(), re.M)
        return int(found[-1]) if found else 0

    def ticks_on(self, more=READ_BACK):
        """The guest makes progress from now on, and finds what it has written."""
        now = self.ticks()
        self.wait(rf"^GUEST-TICK {now + more}$", "progress")

    def stop(self):
        if self.proc.poll() is None:
            self.proc.kill()
        self.proc.wait()
        if self.sock:
            self.sock.close()
        for f in (f"/tmp/disk{Guest.count}", self.qmp_path):
            if os.path.exists(f):
                os.unlink(f)


def up(row):
    g = Guest(row, "poweroff")
    line = g.up()
    # microvm has no power switch here: its guest ends by a reset.
    g.ends()
    return g, line


def blkio(row):
    g = Guest(row, "blk+net")
    g.up()
    g.wait(r"^GUEST-OK blk .*$", "the disk")
    line = g.wait(r"^GUEST-OK net .*$", "the network").group(0)
    g.ends()
    with open(g.trace_path, errors="replace") as f:
        text = f.read()
    told = {e: len(re.findall(rf"^(?:\S+:)?{e} ", text, re.M)) for e in TRACED}
    mmio = re.findall(r"^(?:\S+:)?virtio_mmio_write_offset .*offset (0x\w+)", text, re.M)
    # The trace must show other registers there, for the absence of this one to say something.
    if row["machine"] == "microvm" and not mmio:
        raise Failed("the trace shows no virtio-mmio")
    # The guest's kicks go through eventfds, not through QEMU's main loop; so do the disk's
    # interrupts on PCI. QEMU has no irqfds for virtio-mmio, nor for a network of user mode.
    kicks = told["virtio_pci_notify_write"] + told["virtio_pci_notify_write_pio"] + mmio.count(QUEUE_NOTIFY)
    if told["kvm_set_ioeventfd_mmio"] == 0 or kicks:
        raise Failed(f"virtio does not use ioeventfds: {told}")
    if row["machine"] != "microvm" and told["virtio_notify_irqfd_deferred_fn"] == 0:
        raise Failed(f"virtio does not use irqfds: {told}")
    return g, line


def reboot(row):
    g = Guest(row, "reboot")
    g.up()
    return g, g.up(2)


def guest_symbol(name):
    """Where the guest has a symbol: its kernel is the host's, not moved by KASLR."""
    with open("/proc/kallsyms") as f:
        found = {x.split()[2]: int(x.split()[0], 16) for x in f if x.split()[2] in (name, "_text")}
    return found[name] - found["_text"] + 0xFFFFFFFF81000000


def gdb(row):
    g = Guest(row, "poweroff", ["-S", "-chardev", "socket,id=g,path=/tmp/gdb,server=on,wait=off", "-gdb", "chardev:g"])
    dbg = Gdb("/tmp/gdb", g.end)

    # A debug register at a kernel address that is not mapped yet; what the monitor says of it.
    start = guest_symbol("start_kernel")
    dbg.run_to(start)
    shown = int(re.search(r"RIP=(\w+)", g.hmp("info registers")).group(1), 16)
    if shown != start:
        raise Failed(f"info registers has RIP {shown:#x}, not {start:#x}")

    # Single steps move on, and the flag that makes them is nobody's to see.
    trail = [start]
    for _ in range(12):
        dbg.stopped("s")
        trail.append(dbg.reg(RIP))
        if dbg.reg(EFLAGS) & 0x100:
            raise Failed(f"TF is visible at {trail[-1]:#x}")
    if any(a == b for a, b in zip(trail, trail[1:])):
        raise Failed("a step stays where it is: " + " ".join(f"{x:x}" for x in trail))

    # A step over an instruction that the module carries out itself.
    code = guest_symbol("native_cpuid")
    at = code + dbg.memory(code, 256).index(b"\x0f\xa2")
    dbg.run_to(at)
    dbg.stopped("s")
    if (rip := dbg.reg(RIP)) != at + 2:
        raise Failed(f"a step over CPUID at {at:#x} ended at {rip:#x}")

    # A watchpoint: the kernel changes its state when the scheduler works.
    state = guest_symbol("system_state")
    dbg.ok(f"Z2,{state:x},4")
    dbg.stopped("c")
    dbg.ok(f"z2,{state:x},4")
    if dbg.memory(state, 4) == bytes(4):
        raise Failed("a watchpoint stopped before the write")

    # QEMU's TCG does not let the exception that INT3 raises exit: no host there can show it.
    soft = os.environ.get("HOST", "amd") != "amd"
    dbg.run_to(guest_symbol("run_init_process"), 0 if soft else 1)
    dbg.ok("D")
    g.up()
    g.ends()
    return g, f"{len(trail) - 1} steps, CPUID, watchpoint, {'INT3' if soft else 'no INT3'}"


def panic(row):
    g = Guest(row, "panic")
    g.up()
    m = g.wait(r"Kernel panic - not syncing: sysrq", "the panic")
    g.ends()
    return g, m.group(0)


def reset(row):
    g = Guest(row, "wait")
    g.up()
    g.qmp("system_reset")
    return g, g.up(2)


def pause(row):
    g = Guest(row, "churn")
    g.up()
    g.ticks_on()
    g.qmp("stop")
    time.sleep(0.5)
    before = g.ticks()
    time.sleep(1.5)
    if g.ticks() != before:
        raise Failed("the guest runs while it is stopped")
    g.qmp("cont")
    g.ticks_on()
    return g, f"stopped at {before}, now {g.ticks()}"


def snap(row):
    g = Guest(row, "churn")
    g.up()
    g.ticks_on()
    # Stopped, so that it does not go on before it is looked at.
    g.qmp("stop")
    saved = g.ticks()
    g.hmp("savevm one")
    g.qmp("cont")
    g.ticks_on(8)
    later = g.ticks()
    mark = len(g.console())
    g.hmp("loadvm one")
    g.qmp("cont")
    while not (after := re.findall(r"^GUEST-TICK (\d+)$", g.console()[mark:], re.M)):
        if time.monotonic() > g.end:
            raise Failed("no life after loadvm")
        time.sleep(0.2)
    # A line may be on its way on either side of the snapshot.
    if not saved <= int(after[0]) <= saved + 4 < later:
        raise Failed(f"saved at {saved}, ran to {later}, came back at {after[0]}")
    # Beyond where it was; by then it has read back all that is in the snapshot.
    line = rf"^GUEST-TICK {later + READ_BACK}$"
    g.wait(line, "what is in the snapshot", len(re.findall(line, g.console()[:mark], re.M)) + 1)
    return g, f"saved at {saved}, ran to {later}, came back at {after[0]}"


def migrate(row):
    g = Guest(row, "churn")
    target = Guest(row, "churn", ["-incoming", "unix:/tmp/migrate"], g.end)
    try:
        g.up()
        g.ticks_on()
        g.qmp("migrate", uri="unix:/tmp/migrate")
        while True:
            status = g.qmp("query-migrate").get("status")
            if status == "completed":
                break
            if status in ("failed", "cancelled"):
                raise Failed(f"migration {status}")
            if time.monotonic() > g.end:
                raise Failed(f"migration still {status}")
            time.sleep(0.3)
        left = g.ticks()
        g.stop()
        # Its console continues in the second QEMU's file.
        first = int(target.wait(r"^GUEST-TICK (\d+)$", "life after migration").group(1))
        if not left - 1 <= first <= left + 4:
            raise Failed("the guest did not go on where it was")
        # What it wrote on this side is all found on that one.
        target.wait(rf"^GUEST-TICK {max(left, first) + READ_BACK}$", "what was written before the migration")
        return target, f"left at {left}, now {target.ticks()}, all read back"
    finally:
        g.stop()


def again(what):
    """Repeats what fails while a QEMU that was killed has not yet ended; the last failure counts."""
    for _ in range(20):
        time.sleep(1)
        try:
            return what()
        except subprocess.CalledProcessError as e:
            last = e
    raise last


def thin(params=""):
    """Loads the module with the parameters anew, with others."""
    name = "kvm-intel" if os.environ["HOST"] == "intel" else "kvm-amd"
    path = f"/build/src/{name}.ko"
    if os.environ["MODULE"] == "stock":
        path = f"/lib/modules/{os.environ['KVER']}/kernel/arch/x86/kvm/{name}.ko.xz"
    if os.path.exists("/sys/module/" + name.replace("-", "_")):
        subprocess.run(["busybox", "rmmod", name], check=True)
    subprocess.run(["busybox", "insmod", path, *params.split()], check=True)
    for p in params.split():
        key, value = p.split("=")
        with open(f"/sys/module/{name.replace('-', '_')}/parameters/{key}") as f:
            if f.read().strip() != {"0": "N", "1": "Y"}[value]:
                raise Failed(f"{p} is not in effect")


def kill(row):
    # Thirteen rounds are the fewest in which a page left by each is found.
    warm, rounds = 3, int(os.environ.get("KILLS") or (50 if os.environ["HOST"] == "amd" else 16))
    end = time.monotonic() + row["limit"]
    last = None

    def once(i):
        nonlocal last
        if time.monotonic() > end:
            raise Failed(f"only {i} of {rounds} rounds in time")
        last = Guest(row, "churn", (), end)
        # At different moments: before the first exit, in the firmware, in the kernel, in user space.
        if i % 10 == 9:
            last.up()
        else:
            time.sleep(0.15 + 0.35 * (i % 9))
        last.proc.send_signal(signal.SIGKILL)
        last.stop()
        # Files in memory are the host's, too.
        for f in (last.console_path, last.err_path, last.boot_path):
            if os.path.exists(f):
                os.unlink(f)

    return last, steady("killed QEMUs", warm, rounds - warm, once)


def main():
    names = ["name", "machine", "cpus", "irqchip", "memory", "boot", "scenario", "limit"]
    with open(f"{RUN}/tests") as f:
        rows = [dict(zip(names, line.rstrip("\n").split("\t"))) for line in f]
    for row in rows:
        for key in ("cpus", "memory", "limit"):
            row[key] = int(row[key])
        with open("/dev/kmsg", "w") as f:
            f.write(f"<6>selftest: {row['name']}\n")
        print(f"@START\t{row['name']}", flush=True)
        t0, guest, rc, what = time.monotonic(), None, 0, ""
        first = Guest.count + 1
        # up@unrestricted_guest=0: with that parameter.
        row["scenario"], _, params = row["scenario"].partition("@")
        try:
            if params:
                thin(params)
            guest, what = globals()[row["scenario"]](row)
        except (Failed, Leaked, GdbError, OSError, ValueError, subprocess.CalledProcessError) as e:
            rc, what = 1, str(e) or type(e).__name__
        except Exception as e:
            # A fault of this program's own fails its row, and not those after it.
            rc, what = 1, repr(e)
            for line in traceback.format_exc().splitlines():
                print(f"@OUT\t{line[:160]}", flush=True)
        finally:
            subprocess.run(["busybox", "killall", "-9", "qemu-system-x86_64"], stderr=subprocess.DEVNULL)
            if params:
                again(thin)
        if rc:
            for n in range(first, Guest.count + 1):
                for path, how in ((f"/tmp/con{n}", 12), (f"{RUN}/{row['name']}-{n}.err", 6)):
                    if os.path.exists(path):
                        with open(path, errors="replace") as f:
                            for line in f.read().replace("\r", "").splitlines()[-how:]:
                                print("@OUT\t" + re.sub(r"\x1b\[[0-9;]*\w", "", line)[:160])
        t1 = time.monotonic()
        print(f"@RESULT\t{row['name']}\t{rc}\t{t0:.1f}\t{t1:.1f}\t{what[:140]}", flush=True)
        log = subprocess.run(["dmesg"], capture_output=True, text=True).stdout
        part = log.rsplit(f"selftest: {row['name']}\n", 1)[-1]
        for line in re.findall(r".*(?:WARNING: |BUG: |Oops|Call Trace:).*", part)[:3]:
            print(f"@KLOG\t{row['name']}\t{line}", flush=True)


main()
