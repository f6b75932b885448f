#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Run the kernel's own KVM selftests on our module in the test host, as TAP, and
# compare each verdict with selftests/expected-*.tsv.
#
#   selftests/run-upstream.sh [--update] [GROUP|TEST]...   default: m0 m1
#
# A GROUP is a milestone of the list (m0 to m9) or "all". MODULE=stock runs them on
# the in-tree module instead, HOST=intel or ryzen on Bochs. --update takes verdicts
# better than expected over into the list. When a test brings the host down, that
# test has failed and the rest go on in a new host.
set -eu
here=$(cd "$(dirname "$0")" && pwd -P)
. "$here/../scripts/lib.sh"

HOST=${HOST:-amd} MODULE=${MODULE:-ours} update=''
if [ "${1:-}" = --update ]; then
	update=1
	shift
fi
[ $# != 0 ] || set -- m0 m1
case $HOST in
intel) list=$here/expected-vmx.tsv ;;
*) list=$here/expected-svm.tsv ;;
esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
declare -A expect=() baseline=() limit=() reason=()
todo=()
while IFS=$'\t' read -r name group e b l r; do
	case $name in '#'* | '') continue ;; esac
	for want; do
		case $want in
		all) [ "$group" != slow ] || continue ;;
		"$group" | "$name" | "${name#x86/}") ;;
		*) continue ;;
		esac
		expect[$name]=$e baseline[$name]=$b limit[$name]=$l reason[$name]=$r
		todo+=("$name")
		break
	done
done <"$list"
[ ${#todo[@]} != 0 ] || die "nothing in ${list##*/} is called $*"
if [ "$MODULE" = stock ]; then
	for t in "${todo[@]}"; do
		expect[$t]=${baseline[$t]}
		[ "${expect[$t]}" != timeout ] || expect[$t]=fail
	done
fi

passed=0 failed=0 skipped=0 n=0
declare -A better=() klog=()
tap() { # ok|not, text
	n=$((n + 1))
	if [ "$1" = ok ]; then echo "ok $n - $2"; else echo "not ok $n - $2"; fi
}
verdict() { # name, verdict, seconds, last line
	local name=$1 v=$2 text="upstream/$1 ($2, $3 s)"
	if [ -n "${klog[$name]:-}" ]; then
		tap not "$text: complains in the kernel log"
		failed=$((failed + 1))
		return
	fi
	case ${expect[$name]}:$v in
	pass:pass) tap ok "$text" && passed=$((passed + 1)) ;;
	skip:skip) tap ok "$text # SKIP ${4:-${reason[$name]}}" && skipped=$((skipped + 1)) ;;
	pass:*)
		tap not "$text: expected to pass"
		failed=$((failed + 1))
		;;
	*:died)
		tap not "$text: the host died"
		failed=$((failed + 1))
		;;
	skip:pass | fail:pass | not-yet:pass)
		tap ok "$text, better than the list says (${expect[$name]})"
		passed=$((passed + 1))
		better[$name]=1
		;;
	skip:*)
		tap not "$text: expected to skip"
		failed=$((failed + 1))
		;;
	fail:*) tap ok "$text # SKIP ${reason[$name]}" && skipped=$((skipped + 1)) ;;
	not-yet:*) tap ok "$text # SKIP not yet: ${reason[$name]}" && skipped=$((skipped + 1)) ;;
	esac
}

echo "# upstream selftests, HOST=$HOST MODULE=$MODULE, ${#todo[@]} tests"
boots=0
while [ ${#todo[@]} != 0 ]; do
	boots=$((boots + 1))
	if [ $boots -gt 12 ]; then
		for t in "${todo[@]}"; do verdict "$t" not-run 0 ''; done
		break
	fi
	: >"$work/tests"
	total=120 adds=()
	for t in "${todo[@]}"; do
		printf '%s\t%s\n' "$t" "${limit[$t]}" >>"$work/tests"
		total=$((total + limit[$t] + 5))
		adds+=(-a "/build/kselftests/$t")
	done
	if [ "$HOST" = amd ]; then
		adds=()
		export MEM=${MEM:-4096}
	elif [ "$MODULE" = stock ]; then
		need_folder
		K=/lib/modules/$KVER/kernel
		adds+=(-a $K/virt/lib/irqbypass.ko.xz -a $K/arch/x86/kvm/kvm.ko.xz -a $K/drivers/crypto/ccp/ccp.ko.xz
			-a $K/arch/x86/kvm/kvm-intel.ko.xz -a $K/arch/x86/kvm/kvm-amd.ko.xz)
	fi
	current='' bail='' done='' left=()
	while IFS= read -r line; do
		IFS=$'\t' read -r tag a b c d e <<<"$line"
		case $tag in
		@BAIL) bail=$a ;;
		@START) current=$a ;;
		@OUT) echo "#   ${line#@OUT}" ;;
		@KLOG)
			klog[$a]=1
			echo "#   kernel log: $b"
			;;
		@RESULT)
			v=fail
			case $b in
			0) v=pass ;;
			4) v=skip ;;
			124 | 137) v=timeout ;;
			esac
			# The verdict waits for the next line: a complaint of the kernel's may follow.
			pending=("$a" "$v" "$(awk -v a="$c" -v b="$d" 'BEGIN { printf "%.1f", b - a }')" "$e")
			current=''
			todo=("${todo[@]:1}")
			continue
			;;
		@DONE) done=1 ;;
		*) [ -z "${VERBOSE:-}" ] || echo "#   $line" ;;
		esac
		case $tag in
		@START | @DONE)
			if [ -n "${pending[*]:-}" ]; then
				verdict "${pending[@]}"
				pending=()
			fi
			;;
		esac
	done < <(HOST=$HOST "$SRC/scripts/vm.sh" -q -t "$total" -e MODULE="$MODULE" \
		-e MODULE_PARAMS="${MODULE_PARAMS:-}" -f "$work/tests" "${adds[@]+"${adds[@]}"}" \
		"$here/upstream-job.sh" 2>"$work/vm.err")
	if [ -n "${pending[*]:-}" ]; then
		verdict "${pending[@]}"
		pending=()
	fi
	[ -z "$done" ] || break
	sed 's/^/#   /' "$work/vm.err"
	if [ -n "$bail" ]; then
		echo "Bail out! $bail"
		exit 1
	fi
	if [ -z "$current" ]; then
		echo "Bail out! the host did not come up"
		exit 1
	fi
	verdict "$current" died 0 ''
	for t in "${todo[@]}"; do [ "$t" = "$current" ] || left+=("$t"); done
	todo=("${left[@]+"${left[@]}"}")
done
echo "1..$n"

if [ ${#better[@]} != 0 ] && [ "$MODULE" != stock ]; then
	if [ -n "$update" ]; then
		for t in "${!better[@]}"; do
			sed -i "s|^\($t\t[^\t]*\t\)[^\t]*\(\t[^\t]*\t[^\t]*\t\).*|\1pass\2|" "$list"
		done
		echo "# ${list##*/} updated: ${!better[*]}"
	else
		echo "# better than ${list##*/} says: ${!better[*]} (take over: --update)"
	fi
fi
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed = 0 ]
