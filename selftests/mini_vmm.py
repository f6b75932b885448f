# SPDX-License-Identifier: GPL-2.0
"""A VMM in a few lines, for tests of what a processor lacks or a parameter takes away.

Guests are a page of machine code at 0x1000 in 1 MiB of memory; they report by writing to memory and
by OUT to port 0x10. Imported by param_steps.py, the jobs of parameters, migrate-job.py and leak-job.py,
which run in the test host.
"""

import ctypes
import fcntl
import mmap
import os
import struct

RUN, GET_REGS, SET_REGS = 0xAE80, 0x8090AE81, 0x4090AE82
GET_SREGS, SET_SREGS, INTERRUPT = 0x8138AE83, 0x4138AE84, 0x4004AE86
CREATE_VM, MMAP_SIZE, CREATE_VCPU = 0xAE01, 0xAE04, 0xAE41
SET_REGION, DIRTY_LOG, CREATE_IRQCHIP, SET_TSS = 0x4020AE46, 0x4010AE42, 0xAE60, 0xAE47
GET_SUPPORTED_CPUID, SET_CPUID2, STATS_FD = 0xC008AE05, 0x4008AE90, 0xAECE
SMI, CAP_SMM, CAP_SPACES = 0xAEB7, 117, 118
GET_EVENTS, SET_EVENTS = 0x8040AE9F, 0x4040AEA0
CHECK_EXTENSION, SET_TSC_KHZ, GET_TSC_KHZ, CAP_TSC_CONTROL = 0xAE03, 0xAEA2, 0xAEA3, 60

EXIT_IO, EXIT_HLT, EXIT_SHUTDOWN, EXIT_FAIL_ENTRY, EXIT_INTR, EXIT_INTERNAL = 2, 5, 8, 9, 10, 17
SEGMENTS = ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt")
SEG = "QIHBBBBBBBBBB"
FLAT_CODE = (0, 0xFFFFFFFF, 8, 11, 1, 0, 1, 1, 0, 1, 0, 0, 0)
FLAT_DATA = (0, 0xFFFFFFFF, 16, 3, 1, 0, 1, 1, 0, 1, 0, 0, 0)


class Failed(Exception):
    pass


def expect(what, got, want):
    if got != want:
        raise Failed(f"{what}: {got!r}, not {want!r}")


LIVE = []


def close_all():
    """Closes what a failed test left open."""
    while LIVE:
        LIVE[0].close()


class Vm:
    """A VM with one vCPU, and `code` at 0x1000."""

    def __init__(self, code, irqchip=False, size=1 << 20, log=False, long_mode=True):
        LIVE.append(self)
        self.kvm = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
        self.vm = fcntl.ioctl(self.kvm, CREATE_VM, 0)
        self.mem = mmap.mmap(-1, size, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
        self.hold = (ctypes.c_char * size).from_buffer(self.mem)
        self.region = struct.pack("IIQQQ", 0, int(log), 0, size, ctypes.addressof(self.hold))
        fcntl.ioctl(self.vm, SET_REGION, self.region)
        if irqchip:
            fcntl.ioctl(self.vm, CREATE_IRQCHIP, 0)
        self.cpu = fcntl.ioctl(self.vm, CREATE_VCPU, 0)
        cpuid = bytearray(struct.pack("II", 200, 0) + bytes(40 * 200))
        fcntl.ioctl(self.kvm, GET_SUPPORTED_CPUID, cpuid)
        for i in range(struct.unpack_from("I", cpuid)[0]):
            e = list(struct.unpack_from("7I", cpuid, 8 + 40 * i))
            if e[0] == 0x80000001 and not long_mode:
                e[6] &= ~(1 << 29)
                struct.pack_into("7I", cpuid, 8 + 40 * i, *e)
        fcntl.ioctl(self.cpu, SET_CPUID2, cpuid)
        self.run = mmap.mmap(self.cpu, fcntl.ioctl(self.kvm, MMAP_SIZE, 0))
        self.put(0x1000, code)
        s = self.sregs()
        s["cs"][0] = s["cs"][2] = 0
        self.set_sregs(s)
        self.set_regs(rip=0x1000, rsp=0x8000)

    def put(self, at, data):
        self.mem[at:at + len(data)] = data

    def word(self, at):
        return struct.unpack_from("I", self.mem, at)[0]

    def sregs(self):
        raw = bytearray(312)
        fcntl.ioctl(self.cpu, GET_SREGS, raw)
        s = {n: list(struct.unpack_from(SEG, raw, 24 * i)) for i, n in enumerate(SEGMENTS)}
        s["gdt"], s["idt"] = (list(struct.unpack_from("QH", raw, 192 + 16 * i)) for i in (0, 1))
        s["cr"] = list(struct.unpack_from("7Q", raw, 224))
        s["rest"] = raw[280:]
        return s

    def set_sregs(self, s):
        raw = bytearray(312)
        for i, n in enumerate(SEGMENTS):
            struct.pack_into(SEG, raw, 24 * i, *s[n])
        struct.pack_into("QH", raw, 192, *s["gdt"])
        struct.pack_into("QH", raw, 208, *s["idt"])
        struct.pack_into("7Q", raw, 224, *s["cr"])
        raw[280:] = s["rest"]
        fcntl.ioctl(self.cpu, SET_SREGS, bytes(raw))

    def regs(self):
        raw = bytearray(144)
        fcntl.ioctl(self.cpu, GET_REGS, raw)
        return list(struct.unpack("18Q", raw))

    def set_regs(self, rip, rsp=0x8000, rflags=2):
        r = [0] * 18
        r[6], r[16], r[17] = rsp, rip, rflags
        fcntl.ioctl(self.cpu, SET_REGS, struct.pack("18Q", *r))

    def protected(self):
        """32-bit protected mode without paging, flat segments."""
        s = self.sregs()
        s["cs"] = list(FLAT_CODE)
        for n in ("ds", "es", "fs", "gs", "ss"):
            s[n] = list(FLAT_DATA)
        s["cr"][0] |= 1
        self.set_sregs(s)

    def stale(self):
        """The same with a stack segment of real mode, which hardware refuses without unrestricted guest."""
        self.protected()
        s = self.sregs()
        s["ss"] = [0x30, 0xFFFF, 3, 3, 1, 0, 0, 1, 0, 0, 0, 0, 0]
        self.set_sregs(s)

    def port(self):
        """The port of the last EXIT_IO."""
        return struct.unpack_from("H", self.run, 34)[0]

    def flags(self):
        return struct.unpack_from("H", self.run, 14)[0]

    def once(self):
        """KVM_RUN; the exit reason, EXIT_INTR after a signal."""
        try:
            fcntl.ioctl(self.cpu, RUN, 0)
        except InterruptedError:
            return EXIT_INTR
        return struct.unpack_from("I", self.run, 8)[0]

    def until(self, reason, tries=1000):
        for _ in range(tries):
            r = self.once()
            if r == reason:
                return
            if r != EXIT_INTR:
                u = struct.unpack_from("QQ", self.run, 32)
                raise Failed(f"exit {r} ({u[0]:#x} {u[1]:#x}) at {self.regs()[16]:#x}, not {reason}")
        raise Failed(f"no exit {reason}")

    def stat(self, name):
        """A number of the vCPU's statistics."""
        fd = fcntl.ioctl(self.cpu, STATS_FD, 0)
        _, size, count, _, descs, data = struct.unpack("6I", os.pread(fd, 24, 0))
        try:
            for i in range(count):
                d = os.pread(fd, 16 + size, descs + i * (16 + size))
                if d[16:].split(b"\0")[0] == name.encode():
                    offset = struct.unpack_from("I", d, 8)[0]
                    return struct.unpack("Q", os.pread(fd, 8, data + offset))[0]
        finally:
            os.close(fd)
        raise Failed(f"no statistic {name}")

    def close(self):
        LIVE.remove(self)
        self.run.close()
        for fd in (self.cpu, self.vm, self.kvm):
            os.close(fd)
        del self.hold
        self.mem.close()


# Real mode: counts at 0x2000, reports every time.
REAL_COUNT = bytes.fromhex("66ff060020" "e610" "ebf7")
# The same in 32-bit code.
FLAT_COUNT = bytes.fromhex("ff0500200000" "e610" "ebf6")
# Counts without ever leaving by itself, interrupts on.
REAL_SPIN = bytes.fromhex("fb" "66ff060020" "ebf9")
FLAT_SPIN = bytes.fromhex("fb" "ff0500200000" "ebf8")

# Real mode to protected mode and back.
SWITCH = bytes.fromhex(
    "0f01160018"            # lgdt [0x1800]
    "0f20c0" "0c01" "0f22c0"    # PE
    "66ea001100000800")     # jmp 8:0x1100
# The same without loading a segment register: still 16-bit code.
SWITCH_STALE = SWITCH[:13] + bytes.fromhex("66c706002078563412" "e610" "f4")
SWITCH_FLAT = bytes.fromhex(
    "66b81000" "8ed8" "8ec0" "8ed0" "8ee0" "8ee8"   # data segments
    "c7050020000078563412"  # mov dword [0x2000], 0x12345678
    "e610"
    "ea001200001800")       # jmp 0x18:0x1200, 16-bit code
SWITCH_BACK = bytes.fromhex(
    "b82000" "8ed8" "8ec0" "8ed0" "8ee0" "8ee8"     # 16-bit data
    "0f20c0" "24fe" "0f22c0"    # PE off
    "ea20120000")           # jmp 0:0x1220
SWITCH_REAL = bytes.fromhex(
    "31c0" "8ed8" "8ed0"
    "66c7060420" "21436587"  # mov dword [0x2004], 0x87654321
    "e610" "f4")
GDT = struct.pack("<HI", 39, 0x1810)
GDT_ENTRIES = struct.pack("<5Q", 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF, 0x00009B000000FFFF,
                          0x000093000000FFFF)


def switching():
    vm = Vm(SWITCH)
    vm.put(0x1100, SWITCH_FLAT)
    vm.put(0x1200, SWITCH_BACK)
    vm.put(0x1220, SWITCH_REAL)
    vm.put(0x1800, GDT)
    vm.put(0x1810, GDT_ENTRIES)
    vm.until(EXIT_IO)
    expect("written in protected mode", vm.word(0x2000), 0x12345678)
    expect("CR0.PE", vm.sregs()["cr"][0] & 1, 1)
    vm.until(EXIT_IO)
    expect("written in real mode again", vm.word(0x2004), 0x87654321)
    expect("CR0.PE", vm.sregs()["cr"][0] & 1, 0)
    vm.until(EXIT_HLT)
    vm.close()


def counting(protected):
    vm = Vm(FLAT_COUNT if protected else REAL_COUNT)
    if protected:
        vm.protected()
    for n in range(1, 200):
        vm.until(EXIT_IO)
        expect("count", vm.word(0x2000), n)
    vm.close()


def interrupts(protected):
    """KVM_INTERRUPT in a loop of STI and HLT; the handler counts at 0x2004."""
    vm = Vm(bytes.fromhex("fb" "f4" "ebfc"))
    if protected:
        vm.protected()
        vm.put(0x1200, bytes.fromhex("ff0504200000" "cf"))
        s = vm.sregs()
        s["idt"], s["gdt"] = [0x3000, 0x7FF], [0x1810, 39]
        vm.set_sregs(s)
        vm.put(0x1810, GDT_ENTRIES)
        vm.put(0x3000 + 8 * 0x20, struct.pack("<HHHH", 0x1200, 8, 0x8E00, 0))
    else:
        vm.put(0x1200, bytes.fromhex("66ff060420" "cf"))
        vm.put(4 * 0x20, struct.pack("<HH", 0x1200, 0))
    for n in range(50):
        vm.until(EXIT_HLT)
        expect("interrupts", vm.word(0x2004), n)
        fcntl.ioctl(vm.cpu, INTERRUPT, struct.pack("I", 0x20))
    vm.until(EXIT_HLT)
    expect("interrupts", vm.word(0x2004), 50)
    vm.close()


# A one-shot local-APIC timer that the handler starts again; OUT after the tenth time. What the first
# interrupt needs is touched before: Bochs reports a wrong vector when an interrupt that hardware
# delivers from the virtual APIC runs into a nested page fault.
TIMER = bytes.fromhex(
    "a180310000" "a104200000" "50" "58"     # IDT entry, counter, stack
    "c705f000e0feff010000"  # SVR
    "c705e003e0fe0b000000"  # divide by 1
    "c7052003e0fe30000000"  # one-shot, vector 0x30
    "c7058003e0fe80841e00"  # 2,000,000
    "fb" "ff0500200000" "ebf8")
TIMER_HANDLER = bytes.fromhex(
    "ff0504200000"          # count
    "c705b000e0fe00000000"  # EOI
    "c7058003e0fe80841e00"
    "833d042000000a" "7202" "e610" "cf")


def timer():
    vm = Vm(TIMER, irqchip=True)
    vm.protected()
    vm.put(0x1200, TIMER_HANDLER)
    s = vm.sregs()
    s["idt"], s["gdt"] = [0x3000, 0x7FF], [0x1810, 39]
    vm.set_sregs(s)
    vm.put(0x1810, GDT_ENTRIES)
    vm.put(0x3000 + 8 * 0x30, struct.pack("<HHHH", 0x1200, 8, 0x8E00, 0))
    vm.until(EXIT_IO)
    expect("timer interrupts", vm.word(0x2004), 10)
    if vm.word(0x2000) == 0:
        raise Failed("the guest did not run between the interrupts")
    vm.close()


# Registers of the local APIC in memory: some are written and read back, the task priority and EOI a
# thousand times; then an interrupt to itself. As above, what that needs is touched before.
REGISTERS = bytes.fromhex(
    "a100320000" "a110200000" "50" "58"
    "c705f000e0feff010000"  # SVR
    "c705d000e0fe00000005"  # LDR
    "a12000e0fe" "a300200000" "a1d000e0fe" "a304200000" "a1f000e0fe" "a308200000"
    "b9e8030000"
    "c7058000e0fe20000000" "a18000e0fe" "c7058000e0fe00000000"  # TPR
    "c705b000e0fe00000000"  # EOI
    "49" "75da"
    "a30c200000"
    "c7051003e0fe00000000" "fb" "c7050003e0fe40400400" "90" "e610")   # ICR
REGISTERS_HANDLER = bytes.fromhex("ff0510200000" "c705b000e0fe00000000" "cf")


def registers(most=None):
    """The local APIC's registers; in at most so many exits."""
    vm = Vm(REGISTERS, irqchip=True)
    vm.protected()
    vm.put(0x1200, REGISTERS_HANDLER)
    s = vm.sregs()
    s["idt"], s["gdt"] = [0x3000, 0x7FF], [0x1810, 39]
    vm.set_sregs(s)
    vm.put(0x1810, GDT_ENTRIES)
    vm.put(0x3000 + 8 * 0x40, struct.pack("<HHHH", 0x1200, 8, 0x8E00, 0))
    before = vm.stat("exits")
    vm.until(EXIT_IO)
    exits = vm.stat("exits") - before
    expect("ID, LDR, SVR, TPR", [hex(vm.word(at)) for at in range(0x2000, 0x2010, 4)],
           ["0x0", "0x5000000", "0x1ff", "0x20"])
    expect("interrupts", vm.word(0x2010), 1)
    if most is not None and exits > most:
        raise Failed(f"{exits} exits, not {most} at most")
    vm.close()


# Ticks of the TSC that two million instructions take.
TICKS = bytes.fromhex("0f31" "89c3" "b940420f00" "49" "75fd" "0f31" "29d8" "a300200000" "e610")


def tsc_scaling():
    """The guest's TSC at other rates than the host's."""
    def ticks(factor):
        vm = Vm(TICKS)
        vm.protected()
        khz = fcntl.ioctl(vm.cpu, GET_TSC_KHZ, 0)
        fcntl.ioctl(vm.cpu, SET_TSC_KHZ, int(khz * factor))
        expect("KVM_GET_TSC_KHZ", fcntl.ioctl(vm.cpu, GET_TSC_KHZ, 0), int(khz * factor))
        vm.until(EXIT_IO)
        n = vm.word(0x2000)
        vm.close()
        return n

    kvm = os.open("/dev/kvm", os.O_RDWR)
    control = fcntl.ioctl(kvm, CHECK_EXTENSION, CAP_TSC_CONTROL)
    os.close(kvm)
    expect("KVM_CAP_TSC_CONTROL", control, 1)
    host = ticks(1)
    for factor in (0.5, 3):
        got = ticks(factor) / host
        if not 0.8 < got / factor < 1.25:
            raise Failed(f"at {factor} times the rate the TSC counts {got:.3f} times as fast")


def dirty_log(first=16, end=32):
    """A guest that writes a word to each of these pages and reports, and the log of what it wrote."""
    # From the report it goes back to the beginning.
    code = bytes.fromhex("bf") + struct.pack("I", first << 12) + bytes.fromhex("8907" "81c700100000" "81ff")
    vm = Vm(code + struct.pack("I", end << 12) + bytes.fromhex("72f0" "e610" "ebe7"), log=True, size=max(end << 12, 1 << 20))
    vm.protected()
    size = max(end, 256) // 8
    for turn in range(3):
        vm.until(EXIT_IO)
        bits = bytearray(size)
        address = ctypes.addressof((ctypes.c_char * size).from_buffer(bits))
        fcntl.ioctl(vm.vm, DIRTY_LOG, struct.pack("IIQ", 0, 0, address))
        pages = {i for i in range(8 * size) if bits[i >> 3] >> (i & 7) & 1}
        missing = sorted(set(range(first, end)) - pages)
        if missing:
            raise Failed(f"turn {turn}: {len(missing)} pages were written and are not in the log, such as {missing[:8]}")
        if turn and [p for p in pages if not (p < first or p in range(first, end))]:
            raise Failed(f"turn {turn}: pages {sorted(pages)[-8:]}")
    vm.close()


# A handler of SMIs as firmware's are: from real mode with its own base to protected mode, where it
# changes what RSM has to put back.
SMI_ENTRY = bytes.fromhex(
    "2e0f01160090"          # lgdt cs:[0x9000]
    "0f20c0" "0c01" "0f22c0"    # PE
    "66ea008103000800")     # jmp 8:0x38100
SMI_FLAT = bytes.fromhex(
    "66b81000" "8ed8" "8ec0" "8ed0" "8ee0" "8ee8"
    "bc00700000" "e800000000" "58"  # a stack of its own
    "bbefbeadde" "bdefbeadde"
    "ff0508200000"          # count
    "e611" "0faa")


def smm_of(prepare, code, long_mode):
    """SMIs to a guest that counts, whose registers must be the same after them."""
    vm = Vm(code, long_mode=long_mode)
    region = bytearray(vm.region)
    struct.pack_into("I", region, 0, 1 << 16)
    fcntl.ioctl(vm.vm, SET_REGION, bytes(region))
    vm.put(0x38000, SMI_ENTRY)
    vm.put(0x38100, SMI_FLAT)
    vm.put(0x39000, struct.pack("<HI", 39, 0x1810))
    vm.put(0x1810, GDT_ENTRIES)
    prepare(vm)
    vm.until(EXIT_IO)
    for n in range(1, 6):
        regs, sregs = vm.regs(), vm.sregs()
        fcntl.ioctl(vm.cpu, SMI, 0)
        vm.until(EXIT_IO)
        expect("port, KVM_RUN_X86_SMM", (vm.port(), vm.flags() & 1), (0x11, 1))
        now = vm.sregs()
        expect("PE, CS, ESP in the handler", (now["cr"][0] & 1, now["cs"][2], vm.regs()[6]), (1, 8, 0x7000))
        vm.until(EXIT_IO)
        expect("port, KVM_RUN_X86_SMM", (vm.port(), vm.flags() & 1), (0x10, 0))
        expect("counted by the handler, by the guest", (vm.word(0x2008), vm.word(0x2000)), (n, n + 1))
        # The last is RFLAGS, where the result of counting is.
        expect("registers", vm.regs()[:17], regs[:17])
        now = vm.sregs()
        # CR2 is not in the save area, and Bochs's SVM has the host's there after each exit.
        for s in (now, sregs):
            del s["cr"][1]
        for k in sregs:
            expect(k, now[k], sregs[k])
    vm.close()


def system_management():
    """The mode, with the save area of processors with long mode and of those without."""
    kvm = os.open("/dev/kvm", os.O_RDWR)
    caps = tuple(fcntl.ioctl(kvm, CHECK_EXTENSION, c) for c in (CAP_SMM, CAP_SPACES))
    os.close(kvm)
    expect("KVM_CAP_X86_SMM, KVM_CAP_MULTI_ADDRESS_SPACE", caps, (1, 2))
    for long_mode in (True, False):
        smm_of(lambda vm: None, REAL_COUNT, long_mode)
        smm_of(Vm.protected, FLAT_COUNT, long_mode)
        smm_of(Vm.stale, FLAT_COUNT, long_mode)


def fitted():
    """With emulate_invalid_guest_state=0 real mode has bases below 1 MiB only."""
    kvm = os.open("/dev/kvm", os.O_RDWR)
    caps = tuple(fcntl.ioctl(kvm, CHECK_EXTENSION, c) for c in (CAP_SMM, CAP_SPACES))
    os.close(kvm)
    expect("KVM_CAP_X86_SMM, KVM_CAP_MULTI_ADDRESS_SPACE", caps, (0, 2))
    vm = Vm(REAL_COUNT)
    s = vm.sregs()
    s["ds"][0], s["ds"][2] = 0x100000, 0
    vm.set_sregs(s)
    for n in range(1, 20):
        vm.until(EXIT_IO)
        expect("count", vm.word(0x2000), n)
    vm.close()
    # On the way to protected mode the selectors of real mode get privileges that hardware takes.
    vm = Vm(SWITCH_STALE)
    vm.put(0x1800, GDT)
    vm.put(0x1810, GDT_ENTRIES)
    s = vm.sregs()
    s["ss"][0], s["ss"][2] = 0x30, 3
    vm.set_sregs(s)
    vm.until(EXIT_IO)
    now = vm.sregs()
    expect("PE, selector of SS", (now["cr"][0] & 1, now["ss"][2]), (1, 0))
    expect("written", vm.word(0x2000), 0x12345678)
    vm.close()
    # User space's own mistakes are hardware's to complain of.
    vm = Vm(FLAT_COUNT)
    vm.stale()
    vm.until(EXIT_FAIL_ENTRY)
    expect("reason", struct.unpack_from("Q", vm.run, 32)[0], 0x80000021)
    vm.close()


def fail_entry():
    """A task register that hardware does not take."""
    vm = Vm(FLAT_COUNT)
    vm.protected()
    s = vm.sregs()
    s["tr"][3] = 1
    vm.set_sregs(s)
    vm.until(EXIT_FAIL_ENTRY)
    expect("reason", struct.unpack_from("Q", vm.run, 32)[0], 0x80000021)
    s["tr"][3] = 11
    vm.set_sregs(s)
    vm.until(EXIT_IO)
    vm.close()


def fail_long_entry():
    """A code segment of both 64 and 32 bits, which no processor takes; then one of 32 bits."""
    vm = Vm(FLAT_COUNT)
    vm.protected()
    flat = vm.sregs()
    s = vm.sregs()
    s["cs"][8] = 1
    s["cr"][:5] = [1 << 31 | 1, 0, 0x4000, 1 << 5, 0]
    s["cr"][5] = 1 << 10 | 1 << 8
    vm.set_sregs(s)
    vm.until(EXIT_FAIL_ENTRY)
    # QEMU's processor changes some registers all the same.
    vm.set_sregs(flat)
    vm.set_regs(rip=0x1000)
    vm.until(EXIT_IO)
    expect("count", vm.word(0x2000), 1)
    vm.close()


def spinning(counted=True):
    """PAUSEs that hardware counts exit now and then, and ever less often while the thread keeps its CPU,
    even if it returns to user space; without, each exits."""
    each, turns = (50_000, 20) if counted else (2000, 2)
    # That many PAUSEs with interrupts on, a report, and again.
    vm = Vm(b"\xfb\xb9" + struct.pack("I", each) + bytes.fromhex("f390" "49" "75fb" "e610" "ebf2"))
    vm.protected()
    # Or the host's own threads take the CPU away, and then it begins anew.
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    try:
        before = vm.stat("exits")
        for _ in range(turns):
            vm.until(EXIT_IO)
        exits = vm.stat("exits") - before
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    # Four to five in each turn if every turn begins anew.
    least, most = (turns, 7 * turns // 2) if counted else (each * turns, 2 * each * turns)
    if not least < exits < most:
        raise Failed(f"{each * turns} PAUSEs: {exits} exits, not {least} to {most}")
    vm.close()


def refused_event():
    """An exception with an error code that it does not have in protected mode: the entry instruction
    itself fails (SDM: vol 3, 27.2.1.3)."""
    vm = Vm(FLAT_COUNT)
    vm.protected()
    vm.until(EXIT_IO)
    events = bytearray(64)
    fcntl.ioctl(vm.cpu, GET_EVENTS, events)
    # #UD, injected, with an error code.
    events[0:3] = bytes([1, 6, 1])
    struct.pack_into("I", events, 4, 0x5A)
    fcntl.ioctl(vm.cpu, SET_EVENTS, bytes(events))
    for _ in range(2):
        vm.until(EXIT_FAIL_ENTRY)
        # The VM-instruction error: an entry with control fields that are not legal.
        expect("reason", struct.unpack_from("Q", vm.run, 32)[0], 7)
        expect("CPU", struct.unpack_from("I", vm.run, 40)[0] < os.cpu_count(), True)
        # It waits for the next entry.
        kept = bytearray(64)
        fcntl.ioctl(vm.cpu, GET_EVENTS, kept)
        expect("the event", bytes(kept[:8]), bytes(events[:8]))
    events[0:8] = bytes(8)
    fcntl.ioctl(vm.cpu, SET_EVENTS, bytes(events))
    for n in range(2, 20):
        vm.until(EXIT_IO)
        expect("count", vm.word(0x2000), n)
    vm.close()


# A loop of 200,000 PAUSEs: 600,000 ticks where an instruction is one. Interrupts are on.
PAUSES = bytes.fromhex("fb" "b9400d0300" "f390" "49" "75fb" "e610")


def pauses():
    """Exits of a guest that spins."""
    vm = Vm(PAUSES)
    vm.protected()
    before = vm.stat("exits")
    vm.until(EXIT_IO)
    n = vm.stat("exits") - before
    vm.close()
    return n


# CPUID a thousand times: exits after which nothing needs to be flushed.
CPUIDS = bytes.fromhex("bee8030000" "31c0" "0fa2" "4e" "75f9" "e610")

# Real mode and back a hundred times; of that only the way there exits where real mode is emulated.
TOGGLES = bytes.fromhex("be64000000" "0f20c0" "24fe" "0f22c0" "0c01" "0f22c0" "4e" "75f0" "e610")


def l1d_flushes(code=CPUIDS):
    """Flushes of the L1 data cache, and exits, of such a guest."""
    vm = Vm(code)
    vm.protected()
    vm.until(EXIT_IO)
    n = vm.stat("l1d_flush"), vm.stat("exits")
    vm.close()
    return n


def unrunnable():
    """Without unrestricted guests the same state is emulated, and neither an exception can be nor an
    interrupt that the guest asks for."""
    for last in ("0f0b", "cd20"):
        vm = Vm(bytes.fromhex("ff0500200000" "e610" + last))
        # A gate for it, to where it came from.
        vm.put(0x20 * 8, struct.pack("<HHBBH", 0x1000, 8, 0, 0x8e, 0))
        vm.protected()
        s = vm.sregs()
        s["tr"][12 - 1] = 1
        vm.set_sregs(s)
        vm.until(EXIT_IO)
        expect("count", vm.word(0x2000), 1)
        vm.until(EXIT_INTERNAL)
        expect("suberror", struct.unpack_from("I", vm.run, 32)[0], 1)
        vm.close()


def stale_selectors():
    """Protected mode with a stack segment of real mode is emulated, until it is loaded anew."""
    vm = Vm(FLAT_COUNT)
    vm.stale()
    for n in range(1, 20):
        vm.until(EXIT_IO)
        expect("count", vm.word(0x2000), n)
    vm.close()
