#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Look into a finished kernel module: can it panic, and how much stack does it take?

  object-check.py panic MODULE [ALLOW.tsv]   no function that panics is reachable
                                             (an object file, .o: there is none at all)
  object-check.py stack MODULE [BYTES]       no function's frame exceeds BYTES (1024)
  object-check.py depends MODULE             it needs no other module

A Rust panic is BUG() in this kernel, so a panic that guest or user input can reach is
a hole. The module is disassembled with its relocations; the call graph has an edge for
every reference from one function's code to another function, whether it calls it or
takes its address, and it starts at what the kernel can reach: init and exit functions
and every function whose address is in a data section. Every function on that graph
that refers to one of the core crate's panic functions is reported with the path that
leads to it. ALLOW.tsv names functions that are known and harmless, which panics
they may refer to, and why.
"""

import re
import subprocess
import sys

PANIC = re.compile(
    r"^core::panicking::|^rust_begin_unwind|^core::(?:slice|str)::.*_fail\b|^core::\w+::\w*_failed\b"
    r"|^core::slice::index::slice_|^core::cell::panic_|^core::str::slice_error_fail|^alloc::.*handle_error"
    r"|handle_alloc_error|^core::slice::copy_from_slice_impl::len_mismatch_fail|len_mismatch_fail"
    r"|^core::panic::"
)
# Sections that only describe code to the kernel: being named there makes nothing callable.
DESCRIBES = re.compile(
    r"orc_|return_sites|call_sites|retpoline_sites|ibt_endbr|altinstr|__mcount_loc|__bug_table|__jump_table"
    r"|\.debug|\.eh_frame|__ex_table|\.smp_locks|\.discard|static_call_sites|\.symtab|parainstr|__patchable"
    r"|\.comment|\.note|__modver|\.modinfo|kprobe_blacklist|\.gnu\.linkonce|\.BTF|\.init\.rodata\.names"
)


def run(*cmd):
    return subprocess.run(cmd, capture_output=True, text=True, check=True).stdout


def demangle(names):
    names = list(names)
    out = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True)
    # Hashes of crate disambiguators would make the allow-list change with each compiler.
    plain = [re.sub(r"\[[0-9a-f]{8,}\]", "", n) for n in out.stdout.splitlines()]
    return dict(zip(names, plain))


class Module:
    """Functions of a .ko with their references, their frames, and the graph's roots."""

    def __init__(self, path):
        self.symbols(path)
        self.code(path)
        self.data(path)

    def symbols(self, path):
        self.funcs = {}       # section -> sorted [(start, end, name)]
        self.section_of = {}
        for line in run("readelf", "-SW", path).splitlines():
            if m := re.match(r"\s*\[\s*(\d+)\]\s+(\S+)\s+(\S+)", line):
                self.section_of[m.group(1)] = m.group(2)
        for line in run("readelf", "-sW", path).splitlines():
            f = line.split()
            if len(f) >= 8 and f[3] in ("FUNC", "NOTYPE") and f[6].isdigit():
                size = int(f[2], 0)
                if f[3] == "FUNC" and not f[7].startswith((".L", "__pfx_", "__cfi_")):
                    sec = self.section_of.get(f[6], "")
                    self.funcs.setdefault(sec, []).append((int(f[1], 16), int(f[1], 16) + size, f[7]))
        for v in self.funcs.values():
            v.sort()
        self.names = {n for v in self.funcs.values() for _, _, n in v}

    def at(self, section, addr):
        for start, end, name in self.funcs.get(section, ()):
            if start <= addr < max(end, start + 1):
                return name
        return None

    def target(self, text, bias):
        """Function or external symbol that a relocation names."""
        m = re.match(r"(.+?)(?:([+-])0x([0-9a-f]+))?$", text)
        name, off = m.group(1), int(m.group(3) or "0", 16) * (-1 if m.group(2) == "-" else 1)
        return self.at(name, off + bias) if name in self.funcs else name

    def code(self, path):
        self.refs, self.frame, self.indirect = {}, {}, set()
        section = here = None
        pushes = biggest = 0
        for line in run("objdump", "-drw", "--no-show-raw-insn", path).splitlines():
            if m := re.match(r"Disassembly of section (\S+):", line):
                section, here = m.group(1), None
                continue
            if m := re.match(r"([0-9a-f]+) <(.+)>:$", line):
                name = m.group(2)
                if name in self.names or here is None:
                    here = name
                    pushes = biggest = 0
                    self.refs.setdefault(here, {})
                continue
            if here is None:
                continue
            insn, *relocs = re.split(r"\t(?=[0-9a-f]+: R_X86_64_)", line)
            parts = insn.split("\t")
            if len(parts) < 2:
                continue
            op = parts[1].strip()
            if m := re.match(r"sub\s+\$0x([0-9a-f]+),%rsp", op):
                biggest = max(biggest, int(m.group(1), 16))
            elif m := re.match(r"add\s+\$0xf{8}([0-9a-f]{8}),%rsp", op):
                biggest = max(biggest, 0x100000000 - int(m.group(1), 16))
            elif m := re.match(r"lea\s+-0x([0-9a-f]+)\(%rsp\),%rsp", op):
                biggest = max(biggest, int(m.group(1), 16))
            elif re.match(r"push\b", op):
                pushes += 1
            elif m := re.match(r"sub\s+%r\w+,%rsp", op):
                self.frame[here] = 1 << 20  # a frame nobody can bound
            # Pushes are summed over the function, so outgoing stack arguments count too.
            self.frame[here] = max(self.frame.get(here, 0), biggest + 8 * pushes)
            for r in relocs:
                m = re.match(r"[0-9a-f]+: (R_X86_64_\w+)\s+(\S+)", r)
                # A PC-relative reference is off by the length of its field.
                name = self.target(m.group(2), 4 if re.search("PC32|PLT32", m.group(1)) else 0)
                if name:
                    self.refs[here].setdefault(name, None)
            if not relocs and (m := re.match(r"(?:call|jmp|j\w+)\s+([0-9a-f]+) <([^>+]+)", op)):
                name = self.at(section, int(m.group(1), 16))
                if name and name != here:
                    self.refs[here].setdefault(name, None)

    def data(self, path):
        self.roots = {n for n in ("init_module", "cleanup_module") if n in self.names}
        section = None
        self.data_refs = set()
        for line in run("readelf", "-rW", path).splitlines():
            if m := re.match(r"Relocation section '\.rela(\S+)'", line):
                section = m.group(1)
                continue
            if section is None or section in self.funcs or DESCRIBES.search(section):
                continue
            f = line.split()
            if len(f) >= 5 and f[2].startswith("R_X86_64"):
                off = int(f[6], 16) if len(f) > 6 else 0
                if f[4] in self.funcs:
                    name = self.at(f[4], off if f[5] == "+" else -off)
                else:
                    name = f[4]
                if name in self.names:
                    self.roots.add(name)


def allowed(path):
    out = []
    if path:
        with open(path) as f:
            for line in f:
                if line.strip() and not line.startswith("#"):
                    pattern, panics, reason = (line.rstrip("\n").split("\t") + ["", ""])[:3]
                    if not reason:
                        sys.exit(f"{path}: no panics or no reason for {pattern}")
                    out.append([re.compile(pattern), re.compile(f"(?:{panics})$"), 0])
    return out


def panic(path, allow_path=None):
    m = Module(path)
    if path.endswith(".o"):  # one crate alone: anybody may call any of it
        m.roots |= m.names
    allow = allowed(allow_path)
    names = set(m.names) | {t for r in m.refs.values() for t in r}
    plain = demangle(names)
    bad = {n for n in names if PANIC.search(plain.get(n, n))}
    came = {r: None for r in m.roots}
    work = sorted(m.roots)
    while work:
        here = work.pop()
        for t in m.refs.get(here, ()):
            if t in m.names and t not in came:
                came[t] = here
                work.append(t)
    reachable = [n for n in came if any(t in bad for t in m.refs.get(n, ()))]
    total = [n for n in m.refs if n in m.names and any(t in bad for t in m.refs[n])]
    failed = 0
    for n in sorted(reachable, key=lambda n: plain[n]):
        why = {plain[t] for t in m.refs[n] if t in bad}
        for a in allow:
            if a[0].search(plain[n]):
                a[2] += 1
                why = {w for w in why if not a[1].search(w)}
                break
        if why:
            failed += 1
            why = ", ".join(sorted(why))
            path_, at = [], came[n]
            while at is not None:
                path_.append(plain[at])
                at = came[at]
            print(f"{plain[n]}: {why}")
            for p in path_[:6]:
                print(f"    from {p}")
    for a in allow:
        if not a[2]:
            failed += 1
            print(f"allow-list: {a[0].pattern} matches nothing any more: remove it")
    print(f"panic: {len(m.names)} functions, {len(came)} reachable, {len(m.roots)} roots; "
          f"{len(total)} refer to a panic, {len(reachable)} of them reachable, "
          f"{len(reachable) - failed if failed <= len(reachable) else 0} allowed")
    return 1 if failed else 0


def stack(path, limit=1024):
    m = Module(path)
    limit = int(limit)
    over = sorted(((v, k) for k, v in m.frame.items() if v > limit), reverse=True)
    plain = demangle([k for _, k in over])
    for v, k in over:
        print(f"{plain[k]}: {'unbounded' if v >= 1 << 20 else v} bytes of stack")
    top = sorted(((v, k) for k, v in m.frame.items() if v <= limit), reverse=True)[:3]
    plain = demangle([k for _, k in top])
    print(f"stack: {len(m.frame)} functions, {len(over)} over {limit} bytes; next: "
          + ", ".join(f"{plain[k]} {v}" for v, k in top))
    return 1 if over else 0


def depends(path):
    out = run("modinfo", "-F", "depends", path).strip()
    if out:
        print(f"{path} depends on {out}")
    return 1 if out else 0


if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1] not in ("panic", "stack", "depends"):
        sys.exit(__doc__)
    sys.exit({"panic": panic, "stack": stack, "depends": depends}[sys.argv[1]](*sys.argv[2:]))
