#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Run one of the jobs that are lists of steps in the test host, as TAP.
#
#   selftests/run-jobs.sh vmx [STEP]...       parameters of kvm-intel.ko (HOST=intel)
#   selftests/run-jobs.sh svm [STEP]...       parameters of kvm-amd.ko (HOST=amd or ryzen)
#   selftests/run-jobs.sh migrate [STEP]...   control blocks on two CPUs (any host, SMP=2)
#   selftests/run-jobs.sh leak [STEP]...      what loads and killed VMMs leave behind (any host)
#
# What the steps do is said in JOB-job.py, which mini_vmm.py is the VMM of. SEED= makes the jobs of
# parameters lose them (param_steps.py), and leak leak.
set -eu
here=$(cd "$(dirname "$0")" && pwd -P)
. "$here/../scripts/lib.sh"
. "$here/runner.sh"

job=${1:-}
[ -f "$here/$job-job.py" ] || die "usage: run-jobs.sh vmx|svm|migrate|leak [STEP]..."
shift
case $job:$HOST in
vmx:intel | svm:amd | svm:ryzen) ;;
vmx:* | svm:*) die "the job $job is not for HOST=$HOST" ;;
esac
[ "$job" != migrate ] || export SMP=2
[ "$job" != svm ] || export SMP=${SMP:-1}
each=60
if [ "$job" = leak ]; then
	each=240
	vm_args+=(-e ROUNDS="${ROUNDS:-}" -e KILLS="${KILLS:-}")
fi
vm_args+=(-e SEED="${SEED:-}")
need_folder
[ $# != 0 ] || mapfile -t steps < <(sed -n '/^STEPS = /,/^[})]/p' "$here/$job-job.py" |
	grep -oE '^    "\w+"|in \([a-z_, ]+\)' | sed 's/^in (//; s/)$//' | tr ', ' '\n\n' | tr -d '" ' | grep .)
for s in "${steps[@]-}" "$@"; do
	[ -n "$s" ] || continue
	expect[$s]=pass baseline[$s]=pass limit[$s]=$((each * SLOW)) reason[$s]='-'
	row[$s]=$s
	todo+=("$s")
done
vm_args+=(-e STEPS="${todo[*]}")
if [ "$HOST" != amd ]; then
	while IFS= read -r f; do vm_args+=(-a "$f"); done < <(
		printf '%s\n' "$IN_SRC/selftests"/{mini_vmm,param_steps,apicv_guests,account}.py
		python_paths copy,ctypes,fcntl,mmap,os,re,signal,struct,subprocess,sys,threading,time
		if [ "$job" = leak ] || [ "$MODULE" = stock ]; then stock_paths; fi
	)
fi
run_hosts "$job" "$here/$job-job.py"
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed = 0 ]
