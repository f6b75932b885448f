#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Run one of the jobs that are lists of steps in the test host, as TAP.
#
#   selftests/run-jobs.sh vmx [STEP]...       parameters of kvm-intel.ko (HOST=intel)
#   selftests/run-jobs.sh migrate [STEP]...   control blocks on two CPUs (any host, SMP=2)
#
# What the steps do is said in JOB-job.py, which mini_vmm.py is the VMM of.
set -eu
here=$(cd "$(dirname "$0")" && pwd -P)
. "$here/../scripts/lib.sh"
. "$here/runner.sh"

job=${1:-}
[ -f "$here/$job-job.py" ] || die "usage: run-jobs.sh vmx|migrate [STEP]..."
shift
[ "$job" != vmx ] || [ "$HOST" = intel ] || die "the job vmx is for HOST=intel"
[ "$job" != migrate ] || export SMP=2
need_folder
[ $# != 0 ] || mapfile -t steps < <(sed -n '/^STEPS = /,/^[})]/p' "$here/$job-job.py" |
	grep -oE '^    "\w+"|in \([a-z_, ]+\)' | sed 's/^in (//; s/)$//' | tr ', ' '\n\n' | tr -d '" ' | grep .)
for s in "${steps[@]-}" "$@"; do
	[ -n "$s" ] || continue
	expect[$s]=pass baseline[$s]=pass limit[$s]=$((60 * SLOW)) reason[$s]='-'
	row[$s]=$s
	todo+=("$s")
done
vm_args=(-e STEPS="${todo[*]}")
if [ "$HOST" != amd ]; then
	# Python with what the jobs import; the whole library would be 28 MB.
	while IFS= read -r f; do vm_args+=(-a "$f"); done < <(
		printf '%s\n' "$IN_SRC/selftests/mini_vmm.py"
		"$SRC/scripts/in-host.sh" python3 -c 'import ctypes, fcntl, mmap, os, struct, subprocess, sys, threading, time
print("/usr/bin/python3")
for m in list(sys.modules.values()):
    for f in (getattr(m, "__file__", None), getattr(m, "__cached__", None)):
        if f and os.path.exists(f) and f.startswith("/usr/"): print(f)'
	)
fi
run_hosts "$job" "$here/$job-job.py"
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed = 0 ]
