#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Table of what selftests/bench measured, and whether each target is met.

  selftests/bench/report.py HOST FILE [TARGETS]

FILE has a line "@MODULE name" before the lines "@BENCH name value" of each module. The exit
code is 1 if a ratio is above its target or a figure is missing, and the last line says so.
"""

import sys
from pathlib import Path


def targets(path, host):
    """name: (what, unit, the largest ratio allowed)"""
    rows = [line.split("\t") for line in path.read_text().splitlines() if line]
    column = rows[0].index(host)
    return {r[0]: (r[1], r[2], float(r[column])) for r in rows[1:]}


def figures(path):
    """module: {name: value}"""
    found, module = {}, None
    for line in path.read_text().splitlines():
        tag, *rest = line.split("\t")
        if tag == "@MODULE":
            module = found.setdefault(rest[0], {})
        elif tag == "@BENCH" and module is not None:
            module[rest[0]] = int(rest[1])
    return found


def main():
    host, source = sys.argv[1], Path(sys.argv[2])
    table = Path(sys.argv[3]) if len(sys.argv) > 3 else Path(__file__).parent / "targets.tsv"
    want, got = targets(table, host), figures(source)
    ours, stock = got.get("ours", {}), got.get("in-tree", {})
    missed, missing = [], []
    print(f"{'':40}{'unit':>5}{'ours':>9}{'in-tree':>9}{'ratio':>7}{'target':>8}")
    for name, (what, unit, limit) in want.items():
        a, b = ours.get(name), stock.get(name)
        if a is None or not b:
            missing.append(name)
            print(f"{what:40}{unit:>5}{a if a is not None else '-':>9}{b or '-':>9}{'-':>7}{limit:>8.2f}  MISSING")
            continue
        ratio = a / b
        verdict = "ok" if ratio <= limit else "MISSED"
        if ratio > limit:
            missed.append(name)
        print(f"{what:40}{unit:>5}{a:>9}{b:>9}{ratio:>7.2f}{limit:>8.2f}  {verdict}")
    met = len(want) - len(missed) - len(missing)
    words = [f"{met} of {len(want)} targets met on HOST={host}"]
    if missed:
        words.append("missed: " + " ".join(missed))
    if missing:
        words.append("not measured: " + " ".join(missing))
    print("; ".join(words))
    return 1 if missed or missing else 0


if __name__ == "__main__":
    sys.exit(main())
