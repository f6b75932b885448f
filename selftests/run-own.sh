#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Run this project's own selftests in the test host, as TAP, and compare each verdict
# with selftests/own.tsv.
#
#   selftests/run-own.sh [GROUP|TEST]...       default: all
#   selftests/run-own.sh --build               only build the program
#   selftests/run-own.sh --record TEST...      write what the loaded module answers into the
#                                              table of the test, selftests/own/data
#
# MODULE=stock runs them on the in-tree module, which must meet the same expectations;
# HOST=intel or ryzen on Bochs. Exceptions are in own-debug.tsv, own-ryzen.tsv and
# own-skylake.tsv (CPU=corei7_skylake_x). MODULE_PARAMS= are given to our module ("checked=1"),
# VENDOR_PARAMS= to the thin module ("vnmi=0"). TEST@PARAM=VALUE,... has the thin module
# loaded anew for this test.
# SEED=1 distorts one expectation of each test: all must fail. VERBOSE=1 shows every point.
set -eu
here=$(cd "$(dirname "$0")" && pwd -P)
. "$here/../scripts/lib.sh"
. "$here/runner.sh"

need_folder
program=$IN_SRC/build/own/release/kvm-own-tests
mkdir -p "$SRC/build/own"
# A static program: the Bochs hosts have no other libraries.
"$SRC/scripts/in-host.sh" env CARGO_TARGET_DIR="$IN_SRC/build/own" CARGO_TERM_COLOR=never \
	RUSTFLAGS='-C target-feature=+crt-static' \
	cargo build --quiet --release --locked --manifest-path selftests/own/Cargo.toml ||
	die "the tests do not build"
if [ "${1:-}" = --build ]; then
	exit 0
fi
# One host CPU: with several, the emulator injects guest interrupts twice now and then
# (Documentation/testing.rst). SMP=2 is for the groups stress and notify, whose threads meet
# more there and whose guests take no interrupts.
export SMP=${SMP:-1}
# Whose exceptions and answers of its own count.
processor=$VM_HOST
[ "${CPU:-}" != corei7_skylake_x ] || processor=skylake
label=own
[ "$SMP" = 1 ] || label=own-smp$SMP
# Two nodes of memory, between which pages move.
export APPEND="${APPEND:-} numa=fake=2"
vm_args=(-e PROGRAM="$program" -e SEED="${SEED:-}" -e POKE_ALL="${POKE_ALL:-}")
if [ "$HOST" != amd ]; then
	vm_args+=(-a "$program")
	for f in lib/lz4/lz4hc_compress drivers/block/zram/zram; do
		vm_args+=(-a "/lib/modules/$KVER/kernel/$f.ko.xz")
	done
	if [ "$MODULE" = stock ]; then
		while IFS= read -r f; do vm_args+=(-a "$f"); done < <(stock_paths)
	fi
fi

if [ "${1:-}" = --record ]; then
	shift
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	limit=$((60 * SLOW))
	[ "$HOST" = amd ] || limit=$((limit * 4))
	for t; do printf -- '--record %s\t%s\n' "$t" "$limit" >>"$work/tests"; done
	"$SRC/scripts/vm.sh" -q -t $((limit * ($# + 2))) -e MODULE="$MODULE" -e MODULE_PARAMS= -e VENDOR_PARAMS="${VENDOR_PARAMS:-}" -f "$work/tests" \
		"${vm_args[@]}" -e SHOW=@REC "$here/upstream-job.sh" >"$work/out" || :
	grep -q '^@DONE' "$work/out" || { cat "$work/out"; die "no recording"; }
	for t; do
		table=$here/own/data/${t/_/-}.tsv of=
		case $processor in
		ryzen | skylake) of=$table table=$here/own/data/$processor.tsv ;;
		esac
		sed -n "/^@START\t--record $t\$/,/^@RESULT/p" "$work/out" | grep '^@REC' |
			"$here/own/record.awk" -v host="$HOST" -v test="$t" -v of="$of" - "$table" >"$table.new"
		mv "$table.new" "$table"
		grep -q "^@RESULT	--record $t	0" "$work/out" || echo "$t did not end well: $(grep "^@RESULT	--record $t	" "$work/out")"
		echo "${table##*/}: $(grep -c -v '^#' "$table") lines"
	done
	exit 0
fi

[ $# != 0 ] || set -- all
list=$here/own.tsv
while IFS=$'\t' read -r name group svm vmx l r; do
	case $name in '#'* | '') continue ;; esac
	for want; do
		case ${want%@*} in
		all | "$group" | "$name") ;;
		*) continue ;;
		esac
		known[$want]=1
		run=$name${want#"${want%@*}"}
		[ -z "${row[$run]:-}" ] || continue
		e=$svm
		[ "$HOST" != intel ] || e=$vmx
		if [ "$group" = faults ]; then
			[ "$VM_HOST" != debug ] || e=pass
		elif [ "$MODULE" = stock ]; then
			e=pass
		fi
		if [ -e "$here/own-$processor.tsv" ] && line=$(grep "^$name	" "$here/own-$processor.tsv"); then
			IFS=$'\t' read -r _ e r <<<"$line"
		fi
		l=$((l * SLOW))
		[ "$HOST" = amd ] || l=$((l * 4))
		expect[$run]=$e baseline[$run]=pass limit[$run]=$l reason[$run]=$r
		row[$run]="$run	$l"
		todo+=("$run")
	done
done <"$list"
all_known "$list" "$@"
[ -z "${VERBOSE:-}" ] || vm_args+=(-e SHOW="^(not )?ok|^#")
# A page of 1 GiB is only to be had while the host boots, from a host with more memory.
if [ "$HOST" = amd ] && [ -n "${row[gigabyte_page]:-}" ]; then
	export MEM=${MEM:-4096} APPEND="$APPEND hugepagesz=1G hugepages=1"
fi
run_hosts "$label" "$here/upstream-job.sh"
finish "$list" 3
