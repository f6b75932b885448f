#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Rules of this project's style that no compiler or formatter knows.

  scripts/lint.py            check the checkout; one line per finding, exit code 1
  scripts/lint.py --update   write the present unsafe counts to scripts/budget.toml
  scripts/lint.py --files LIST   the files named in LIST instead of what git says
  scripts/lint.py --seed     check a made-up file that breaks every rule: each rule must find it

What is checked, by rule name:
  spdx        first line (second after #!) is the GPL-2.0 identifier
  module-doc  a Rust file opens with //! (what it is, what it owns, who calls it)
  length      a source file has at most 700 lines, or a line in budget.toml says why not
  unsafe      unsafe only where it may be, not more of it per file than budget.toml says
  safety      each unsafe block or impl has // SAFETY:, each unsafe fn a # Safety section
  vendor      above the vendor seam nothing is called VMCB, VMCS or intercept
  panic-word  no unwrap, expect, panic!, unreachable!, todo!, dbg! outside tests
  space       no trailing white space, no tab in Rust, a newline at the end
  reason      a line of selftests/own/data whose answers differ by vendor or processor names the
              section of a manual (SDM: or APM:), and a known gap of our module has a reason
"""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
BUDGET = TOP / "scripts" / "budget.toml"
MAX_LINES = 700
SOURCES = {".rs", ".c", ".h", ".S", ".py", ".sh"}
UNSAFE_HOME = ("rust/host/", "rust/virt/", "selftests/", "rust/model/fuzz/", "rust/model/tests/")
VENDOR_WORD = re.compile(r"vmcb|vmcs|intercept", re.I)
PANIC_WORD = re.compile(
    r"\.unwrap\(\)|\.expect\(|\b(?:panic|unreachable|todo|unimplemented|dbg)!\s*[(\[{]"
)


def files():
    """Everything git tracks or would track: generated files are not our business."""
    if "--files" in sys.argv:  # the Debian 13 folder has no git: test.sh makes the list outside
        names = Path(sys.argv[sys.argv.index("--files") + 1]).read_text().splitlines()
    else:
        try:
            names = subprocess.run(["git", "-C", TOP, "ls-files", "-co", "--exclude-standard"],
                                   capture_output=True, text=True, check=True).stdout.splitlines()
        except (FileNotFoundError, subprocess.CalledProcessError) as e:
            why = getattr(e, "stderr", None) or "there is no git here"
            sys.exit(f"lint.py: git does not say which files there are ({why.strip()}): make the list "
                     "where it does,\n  git ls-files -co --exclude-standard >build/files\n"
                     "and add --files build/files")
    return sorted(n for n in set(names) if (TOP / n).is_file())


def code_only(text):
    """The text with comments and string contents blanked, line structure kept."""
    out, i, n = [], 0, len(text)
    while i < n:
        c = text[i]
        if text.startswith("//", i):
            j = text.find("\n", i)
            j = n if j < 0 else j
            out.append(" " * (j - i))
        elif text.startswith("/*", i):
            j = text.find("*/", i + 2)
            j = n if j < 0 else j + 2
            out.append(re.sub(r"[^\n]", " ", text[i:j]))
        elif m := re.match(r'b?c?r(#*)"', text[i:i + 12]) if c in "rbc" else None:
            end = text.find('"' + m.group(1), i + m.end())
            j = n if end < 0 else end + 1 + len(m.group(1))
            if i and (text[i - 1].isalnum() or text[i - 1] == "_"):
                j = i + 1
                out.append(c)
            else:
                out.append(re.sub(r"[^\n]", " ", text[i:j]))
        elif c == '"':
            j = i + 1
            while j < n and text[j] != '"':
                j += 2 if text[j] == "\\" else 1
            j = min(j + 1, n)
            out.append(re.sub(r"[^\n]", " ", text[i:j]))
        elif c == "'" and (m := re.match(r"'(?:\\[^\n]{1,8}?|[^\\\n])'", text[i:i + 12])):
            j = i + m.end()
            out.append(" " * (j - i))
        else:
            j = i + 1
            out.append(c)
        i = j
    return "".join(out)


TEST_FILES = set()


def find_test_files(names):
    """Files that a #[cfg(test)] mod NAME; brings in."""
    for name in names:
        if not name.endswith(".rs"):
            continue
        text = (TOP / name).read_text()
        for m in re.finditer(r'#\[cfg\(test\)\]\s*(?:#\[path = "([^"]+)"\]\s*)?mod (\w+);', text):
            here = Path(name).parent
            if m.group(1):
                TEST_FILES.add(str(here / m.group(1)))
            for base in (here, here / Path(name).stem):
                TEST_FILES.add(str(base / f"{m.group(2)}.rs"))
                TEST_FILES.add(str(base / m.group(2) / "mod.rs"))


def is_test(name):
    return name in TEST_FILES or "/tests/" in name or name.startswith(("selftests/", "rust/model/fuzz/")) \
        or name.endswith(("/tests.rs", "_test.rs", "_tests.rs"))


def before_tests(lines):
    """How many lines come before the unit tests, which by habit end the file."""
    for i, line in enumerate(lines):
        if re.match(r"\s*#\[cfg\((?:all\()?test\b", line):
            rest = "\n".join(lines[i:i + 6])
            if re.search(r"\bmod\s+\w+\s*\{", rest):
                return i
    return len(lines)


def has_safety(lines, i, want):
    """Whether the comment that belongs to line i (from 0) contains the wanted words."""
    if want in lines[i]:
        return True
    for back in range(1, 13):
        if i - back < 0:
            break
        line = lines[i - back].strip()
        if want in line:
            return True
        if line in ("}", "};") or line.startswith("fn ") and want != "# Safety":
            break
    return False


def count_unsafe(name, text):
    code = code_only(text)
    return len(re.findall(r"\bunsafe\b(?!_)", code))


DATA = "selftests/own/data/"


def check_reasons(name, lines, add):
    """Tables of expectations: case, svm, vmx, reason; processor's: test, case, answer, reason; gaps: test, case, on, ours, reason."""
    for i, line in enumerate(lines, 1):
        f = line.split("\t")
        if not line or line.startswith("#"):
            continue
        why = f[3] if len(f) > 3 else ""
        if name.endswith("/gaps.tsv"):
            if not "".join(f[4:5]).strip():
                add(i, "reason", f"{f[1]}: why does our module answer differently?")
        elif (len(f) < 3 or f[2] != "=") and not re.search(r"\b(SDM|APM): vol \d", why):
            add(i, "reason", f"{f[0]}: name the manual's section for the difference")


def check(name, text, budget):
    """Findings for one file as (line, rule, sentence)."""
    lines = text.split("\n")
    ext = Path(name).suffix
    found = []
    add = lambda line, rule, what: found.append((line, rule, what))

    if text:
        if not text.endswith("\n"):
            add(len(lines), "space", "no newline at the end")
        for i, line in enumerate(lines, 1):
            if line != line.rstrip() and ext != ".tsv":
                add(i, "space", "trailing white space")
            if ext == ".rs" and "\t" in line:
                add(i, "space", "tab in a Rust file")
    if name.startswith(DATA) and ext == ".tsv":
        check_reasons(name, lines, add)
    if ext in SOURCES or name.endswith(("Makefile", "Kbuild")):
        head = lines[1] if lines[0].startswith("#!") and len(lines) > 1 else lines[0]
        if "SPDX-License-Identifier: GPL-2.0" not in head:
            add(1, "spdx", "the first line must be the SPDX identifier GPL-2.0")
    if ext in SOURCES and len(lines) - 1 > MAX_LINES:
        if not budget.get("lines", {}).get(name):
            add(MAX_LINES, "length", f"{len(lines) - 1} lines; split it by purpose, or say in budget.toml why not")
    if ext != ".rs":
        return found

    body = lines[1:] if lines[0].startswith("//") else lines
    first = next((l for l in body if l.strip()), "")
    if not first.startswith(("//!", "#![cfg_attr", "#!/")) and not is_test(name):
        add(2, "module-doc", "open the file with //!: what it is, what it owns, who calls it")

    code = code_only(text).split("\n")
    end = before_tests(lines)
    for i, line in enumerate(code):
        if re.search(r"\bunsafe\b", line):
            if re.search(r"\bunsafe\s+(?:extern\b[^{]*)?fn\b", line):
                public = re.search(r"\bpub\b(?!\()", line)
                if public and not has_safety(lines, i, "# Safety"):
                    add(i + 1, "safety", "an unsafe fn says in a # Safety section what its caller must ensure")
            elif re.search(r"\bunsafe\s*(?:\{|impl\b|extern\b|$)", line):
                if not has_safety(lines, i, "SAFETY:"):
                    add(i + 1, "safety", "argue with // SAFETY: why this is sound")
        if i < end and not is_test(name) and (m := PANIC_WORD.search(line)):
            add(i + 1, "panic-word", f"{m.group(0).strip()}: the host must not be able to panic")
        if name.startswith("src/") and not name.startswith("src/vendor/") and VENDOR_WORD.search(line):
            add(i + 1, "vendor", "a vendor's word above the vendor seam")

    n = count_unsafe(name, text)
    if n and not name.startswith(UNSAFE_HOME):
        add(1, "unsafe", "unsafe lives in rust/host and rust/virt only")
    elif n and name.startswith(("rust/host/", "rust/virt/")):
        allowed = budget.get("unsafe", {}).get(name, 0)
        if n > allowed:
            add(1, "unsafe", f"{n} uses of unsafe, {allowed} budgeted: find a way without, or raise it in budget.toml and say why in the commit")
    return found


SEED = """fn f() {\t
    let x = unsafe { *(0 as *const u8) };
    let vmcb = Some(x).unwrap(); \n}
""" + "// line\n" * 800 + "pub unsafe fn g() {}"


def seeded():
    found = check("src/seed.rs", SEED, {}) + check(DATA + "seed.tsv", "case\t0\tEINVAL\tso it is\n", {})
    rules = {rule for _, rule, _ in found}
    want = {"spdx", "module-doc", "length", "unsafe", "safety", "vendor", "panic-word", "space", "reason"}
    if missing := want - rules:
        print("not found in the seeded file:", ", ".join(sorted(missing)))
        return 0
    print("seeded files: all", len(want), "rules find their fault")
    return 1


def update(old):
    counts = {}
    for name in files():
        if name.endswith(".rs") and name.startswith(("rust/host/", "rust/virt/")):
            if n := count_unsafe(name, (TOP / name).read_text()):
                counts[name] = n
    head = BUDGET.read_text().split("[unsafe]")[0]
    BUDGET.write_text(head + "[unsafe]\n" + "".join(f'"{k}" = {v}\n' for k, v in sorted(counts.items())))
    before, after = sum(old.get("unsafe", {}).values()), sum(counts.values())
    print(f"uses of unsafe budgeted: {before} before, {after} now")


def main():
    if "--seed" in sys.argv:
        return seeded()
    budget = tomllib.loads(BUDGET.read_text())
    if "--update" in sys.argv:
        update(budget)
        return 0
    n = 0
    names = files()
    find_test_files(names)
    for name in names:
        try:
            text = (TOP / name).read_text()
        except UnicodeDecodeError:
            continue
        for line, rule, what in check(name, text, budget):
            print(f"{name}:{line}: {rule}: {what}")
            n += 1
    return 1 if n else 0


sys.exit(main())
