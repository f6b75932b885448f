#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Run this project's own selftests in the test host, as TAP, and compare each verdict
# with selftests/own.tsv.
#
#   selftests/run-own.sh [GROUP|TEST]...       default: all
#   selftests/run-own.sh --build               only build the program
#   selftests/run-own.sh --record FILE TEST... print what the loaded module answers, as lines
#                                              of a table in selftests/own/data/FILE
#
# MODULE=stock runs them on the in-tree module, which must meet the same expectations;
# HOST=intel or ryzen on Bochs. MODULE_PARAMS= are given to our module ("checked=1").
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
vm_args=(-e PROGRAM="$program" -e SEED="${SEED:-}")
if [ "$HOST" != amd ]; then
	vm_args+=(-a "$program")
	if [ "$MODULE" = stock ]; then
		while IFS= read -r f; do vm_args+=(-a "$f"); done < <(stock_paths)
	fi
fi

if [ "${1:-}" = --record ]; then
	table=$here/own/data/$2
	shift 2
	: >"$SRC/build/own/tests"
	for t; do printf -- '--record %s\t600\n' "$t" >>"$SRC/build/own/tests"; done
	column=2
	[ "$HOST" != intel ] || column=3
	"$SRC/scripts/vm.sh" -q -e MODULE="$MODULE" -e MODULE_PARAMS= -f "$SRC/build/own/tests" \
		"${vm_args[@]}" -e SHOW=@REC "$here/upstream-job.sh" >"$SRC/build/own/recorded" || :
	grep -q '^@DONE' "$SRC/build/own/recorded" || { cat "$SRC/build/own/recorded"; die "no recording"; }
	# New lines take the place of old ones; the other vendor's column stays.
	awk -F'\t' -v OFS='\t' -v c=$column '
		FNR == NR { if ($1 == "@REC") { new[$2] = $3; order[++n] = $2 } next }
		/^#/ { print; next }
		{ other[$1] = c == 2 ? $3 : $2; note[$1] = $4 }
		END {
			for (i = 1; i <= n; i++) {
				k = order[i]
				svm = c == 2 ? new[k] : (k in other ? other[k] : "?")
				vmx = c == 3 ? new[k] : (k in other ? other[k] : "=")
				if (vmx == svm) vmx = "="
				print k, svm, vmx (note[k] ? OFS note[k] : "")
			}
		}' "$SRC/build/own/recorded" "$table" >"$table.new"
	mv "$table.new" "$table"
	grep -c -v '^#' "$table"
	exit 0
fi

[ $# != 0 ] || set -- all
list=$here/own.tsv
while IFS=$'\t' read -r name group svm vmx l r; do
	case $name in '#'* | '') continue ;; esac
	for want; do
		case $want in
		all | "$group" | "$name") ;;
		*) continue ;;
		esac
		e=$svm
		[ "$HOST" != intel ] || e=$vmx
		[ "$MODULE" != stock ] || e=pass
		l=$((l * SLOW))
		[ "$HOST" = amd ] || l=$((l * 4))
		expect[$name]=$e baseline[$name]=pass limit[$name]=$l reason[$name]=$r
		row[$name]="$name	$l"
		todo+=("$name")
		break
	done
done <"$list"
[ ${#todo[@]} != 0 ] || die "nothing in ${list##*/} is called $*"
[ -z "${VERBOSE:-}" ] || vm_args+=(-e SHOW="^(not )?ok|^#")
run_hosts own "$here/upstream-job.sh"
finish "$list" 3
