#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# The module's parameter `checked` itself: with checked=2 each of its comparisons is given a
# difference. All that selftests/checked.tsv names must be reported, and turn the log check red.
#
#   selftests/run-checked.sh      HOST=amd (default) or intel; CPU=, of which the list may say more
set -eu
here=$(cd "$(dirname "$0")" && pwd -P)
. "$here/../scripts/lib.sh"
need_folder
export HOST=${HOST:-amd} SMP=1
"$here/run-own.sh" --build
program=$IN_SRC/build/own/release/kvm-own-tests
out=$(mktemp)
trap 'rm -f "$out"' EXIT
rc=0
"$SRC/scripts/vm.sh" -q -a "$program" -e PROGRAM="$program" "$here/checked-job.sh" >"$out" 2>&1 || rc=$?
missing=$(awk -F'\t' -v host="$HOST" -v cpu="${CPU:-}" '
	NR == FNR { if (sub(/^reported: /, "")) seen[$0]; next }
	!/^#/ && ($1 == host || $1 == cpu) && !($2 in seen) { print $2 }' "$out" "$here/checked.tsv")
if [ $rc = 99 ] && [ -z "$missing" ]; then
	echo "ok - checked, HOST=$HOST${CPU:+ CPU=$CPU}: every comparison turns the log check red"
	exit 0
fi
grep -v '^reported: ' "$out" | tail -n 15 | sed 's/^/# /'
[ -z "$missing" ] || sed 's/^/# not reported: /' <<<"$missing"
echo "not ok - checked, HOST=$HOST${CPU:+ CPU=$CPU}: every comparison turns the log check red (exit code $rc)"
exit 1
