#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Run the kernel's own KVM selftests on our module in the test host, as TAP, and
# compare each verdict with selftests/expected-*.tsv.
#
#   selftests/run-upstream.sh [--update] [GROUP|TEST]...   default: m0 m1
#
# A GROUP is one of the list's (m0 to m9, long, timed, slow), or "all", which leaves slow
# out. MODULE=stock runs them on the in-tree module instead, HOST=intel or ryzen on Bochs.
# --update takes verdicts better than expected over into the list. VERBOSE=1 shows what
# else the host prints.
set -eu
here=$(cd "$(dirname "$0")" && pwd -P)
. "$here/../scripts/lib.sh"
. "$here/runner.sh"

if [ "${1:-}" = --update ]; then
	update=1
	shift
fi
[ $# != 0 ] || set -- m0 m1
list=$here/expected-svm.tsv
[ "$HOST" != intel ] || list=$here/expected-vmx.tsv
[ "$HOST" != ryzen ] || list=$here/expected-ryzen.tsv
while IFS=$'\t' read -r name group e b l r; do
	case $name in '#'* | '') continue ;; esac
	for want; do
		case $want in
		all) [ "$group" != slow ] || continue ;;
		"$group" | "$name" | "${name#x86/}") ;;
		*) continue ;;
		esac
		known[$want]=1
		[ -z "${row[$name]:-}" ] || continue
		if [ "$MODULE" = stock ]; then
			e=${b/timeout/fail}
		fi
		if [ "$VM_HOST" = debug ] && line=$(grep "^$name	" "$here/expected-debug.tsv"); then
			IFS=$'\t' read -r _ e r <<<"$line"
			# Only by its name.
			if [ "$e" = slow ]; then
				[ "$want" != "$group" ] && [ "$want" != all ] || continue
				e=fail
			fi
		fi
		l=$((l * SLOW))
		expect[$name]=$e baseline[$name]=$b limit[$name]=$l reason[$name]=$r
		row[$name]="$name	$l"
		todo+=("$name")
	done
done <"$list"
all_known "$list" "$@"
[ ${#todo[@]} != 0 ] || die "none of these is run on HOST=$VM_HOST: $*"

if [ "$HOST" = amd ]; then
	[ "$VM_HOST" = debug ] || export MEM=${MEM:-4096}
else
	need_folder
	for t in "${todo[@]}"; do vm_args+=(-a "/build/kselftests/$t"); done
	# pthread_cancel() loads it by name.
	vm_args+=(-a /usr/lib/x86_64-linux-gnu/libgcc_s.so.1)
	if [ "$MODULE" = stock ]; then
		while IFS= read -r f; do vm_args+=(-a "$f"); done < <(stock_paths)
	fi
fi
run_hosts upstream "$here/upstream-job.sh"
finish "$list" 3
