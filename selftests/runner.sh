# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034
# Sourced by run-*.sh: run a list of tests in test hosts, compare each verdict with
# what the list expects, print TAP.
#
# The job in the host prints one marked line per event:
#   @START name | @OUT text | @RESULT name code t0 t1 note | @KLOG name line | @DONE | @BAIL why
# code: 0 pass, 4 skip, 124 or 137 timeout, else fail. A test that takes the host down
# has failed, and the rest go on in a new host. What vm.sh finds in the host's kernel log
# when the job has ended counts as one more test, and so does a host that does not end well
# after @DONE. A test that has no result by then has failed.
#
# VM= is another vm.sh: that of scripts/test-harness.sh, which plays hosts.

HOST=${HOST:-amd} MODULE=${MODULE:-ours} update=''
declare -A expect=() baseline=() limit=() reason=() row=() better=() klog=() again=() known=()
todo=() vm_args=() pending=()
passed=0 failed=0 skipped=0 n=0

# Limits are for a machine that does nothing else; SLOW= stretches them. Without it the
# load of the last minute decides; twice is the least, as load may come later.
SLOW=${SLOW:-$(awk -v cpus="$(nproc)" '{ f = int($1 / cpus + 0.5); print (f < 2 ? 2 : (f > 8 ? 8 : f)) }' /proc/loadavg)}

# The debug kernel is the AMD host, but slower.
VM_HOST=$HOST
if [ "$HOST" = debug ]; then
	HOST=amd SLOW=$((SLOW * 4))
fi

# A name that the list does not have: a test that was renamed would be left out without a word.
all_known() { # list, NAME...
	local list=$1 want
	shift
	for want; do [ -n "${known[$want]:-}" ] || die "nothing in ${list##*/} is called $want"; done
}

tap() { # ok|not, text
	n=$((n + 1))
	if [ "$1" = ok ]; then echo "ok $n - $2"; else echo "not ok $n - $2"; fi
}

verdict() { # name, verdict, seconds, note
	local name=$1 v=$2 text="$prefix/$1 ($2, $3 s${4:+: $4})"
	if [ -n "${klog[$name]:-}" ]; then
		tap not "$text: complains in the kernel log"
		failed=$((failed + 1))
		return
	fi
	case ${expect[$name]}:$v in
	pass:pass)
		tap ok "$text"
		passed=$((passed + 1))
		;;
	skip:skip)
		tap ok "$text # SKIP ${reason[$name]}"
		skipped=$((skipped + 1))
		;;
	*:died)
		tap not "$text: the host died${4:+, or its job}"
		failed=$((failed + 1))
		;;
	*:not-run)
		tap not "$text"
		failed=$((failed + 1))
		;;
	pass:* | skip:fail | skip:timeout)
		tap not "$text: expected to ${expect[$name]}"
		failed=$((failed + 1))
		;;
	skip:pass | fail:pass | not-yet:pass)
		tap ok "$text, better than the list says (${expect[$name]})"
		passed=$((passed + 1))
		better[$name]=1
		;;
	*)
		tap ok "$text # SKIP ${expect[$name]}: ${reason[$name]}"
		skipped=$((skipped + 1))
		;;
	esac
}

# Takes a test off the list of those to do.
drop() { # name
	local t left=() gone=''
	for t in "${todo[@]}"; do
		if [ "$t" = "$1" ] && [ -z "$gone" ]; then gone=1; else left+=("$t"); fi
	done
	todo=("${left[@]+"${left[@]}"}")
}

flush_pending() {
	[ ${#pending[@]} = 0 ] || verdict "${pending[@]}"
	pending=()
}

# A failure that is no test's.
bad_end() { # text
	tap not "$1"
	failed=$((failed + 1))
}

run_hosts() { # prefix, job
	prefix=$1
	local job=$2 boots=0 total most t v line tag a b c d e current bail done_ work code after
	work=$(mktemp -d)
	echo "# $prefix, HOST=$VM_HOST MODULE=$MODULE, ${#todo[@]} tests"
	while [ ${#todo[@]} != 0 ]; do
		boots=$((boots + 1))
		if [ $boots -gt 12 ]; then
			for t in "${todo[@]}"; do verdict "$t" not-run 0 'too many dead hosts'; done
			break
		fi
		: >"$work/tests"
		total=$((120 * SLOW)) most=0
		for t in "${todo[@]}"; do
			printf '%s\n' "${row[$t]}" >>"$work/tests"
			total=$((total + limit[$t] + 5))
			[ "$most" -ge "${limit[$t]}" ] || most=${limit[$t]}
		done
		current='' bail='' done_='' code=0 after=()
		while IFS= read -r line; do
			IFS=$'\t' read -r tag a b c d e <<<"$line"
			case $tag in
			@BAIL) bail=$a ;;
			@START)
				flush_pending
				current=$a after=()
				;;
			@OUT) echo "#   ${line#@OUT}" ;;
			@KLOG)
				klog[$a]=1
				echo "#   kernel log: $b"
				;;
			@RESULT)
				case $b in
				0) v=pass ;;
				4) v=skip ;;
				124 | 137) v=timeout ;;
				*) v=fail ;;
				esac
				# The verdict waits: a complaint of the kernel's may follow.
				pending=("$a" "$v" "$(awk -v a="$c" -v b="$d" 'BEGIN { printf "%.1f", b - a }')" "$e")
				current=''
				drop "$a"
				;;
			@DONE)
				flush_pending
				done_=1 after=()
				;;
			@CODE) code=$a ;;
			*)
				[ -z "${VERBOSE:-}" ] || echo "#   $line"
				after+=("$line")
				;;
			esac
		done < <(HOST=$VM_HOST "${VM:-$SRC/scripts/vm.sh}" -q -t "$total" -s "${SILENCE:-$((most + 300 * SLOW))}" -e MODULE="$MODULE" \
			-e MODULE_PARAMS="${MODULE_PARAMS:-}" -e VENDOR_PARAMS="${VENDOR_PARAMS:-}" \
			-e SEED_LOG="${SEED_LOG:-}" -e SEED_HANG="${SEED_HANG:-}" -e SEED_DIE="${SEED_DIE:-}" -e LOADS="${LOADS:-}" -f "$work/tests" "${vm_args[@]+"${vm_args[@]}"}" \
			"$job" 2>"$work/vm.err" || printf '@CODE\t%s\n' $?)
		flush_pending
		if [ -n "${klog[-]:-}" ]; then
			bad_end "$prefix: the module unloads after the tests"
		fi
		if [ -n "$done_" ] && [ "$code" != 0 ]; then
			printf '#   %s\n' "${after[@]+"${after[@]}"}"
			case $code in
			# A test that was blamed for it has failed already.
			99) [ ${#klog[@]} != 0 ] || bad_end "$prefix: the host's kernel log is clean" ;;
			124 | 125) bad_end "$prefix: the host died or hung after the last test" ;;
			*) bad_end "$prefix: the job ended with exit code $code after the last test" ;;
			esac
		fi
		if [ -n "$done_" ]; then
			# Of these the job said nothing, and yet that it was done.
			for t in "${todo[@]+"${todo[@]}"}"; do verdict "$t" not-run 0 'the job ended without it'; done
			[ "$code" = 0 ] || sed 's/^/#   /' "$work/vm.err"
			break
		fi
		# What the job and the console said since the last test began.
		[ -n "${VERBOSE:-}" ] || printf '#   %s\n' "${after[@]+"${after[@]}"}" | tail -n 60
		sed 's/^/#   /' "$work/vm.err"
		if [ -n "$bail" ] || [ -z "$current" ]; then
			echo "Bail out! ${bail:-the host did not come up, or died between two tests}"
			rm -rf "$work"
			exit 1
		fi
		# A fault of the emulator's (Documentation/testing.rst): the same test in a new host, once.
		if grep -q 'assertion failed: (bql_locked())' "$work/vm.err" && [ -z "${again[$current]:-}" ]; then
			echo "# $prefix/$current: the emulator ended with an assertion of its own; once more"
			again[$current]=1
			continue
		fi
		case $code in
		124 | 125) verdict "$current" died 0 '' ;;
		*) verdict "$current" died 0 "exit code $code of the job" ;;
		esac
		drop "$current"
	done
	rm -rf "$work"
	echo "1..$n"
}

finish() { # list file, column of expect
	local list=$1 column=$2 t
	if [ ${#better[@]} != 0 ] && [ "$MODULE" != stock ]; then
		if [ -n "$update" ]; then
			for t in "${!better[@]}"; do
				awk -F'\t' -v OFS='\t' -v t="$t" -v c="$column" \
					'$1 == t { $c = "pass"; $NF = "-" } { print }' "$list" >"$list.new"
				mv "$list.new" "$list"
			done
			echo "# ${list##*/} updated: ${!better[*]}"
		else
			echo "# better than ${list##*/} says: ${!better[*]} (--update takes it over)"
		fi
	fi
	echo "$passed passed, $failed failed, $skipped skipped"
	[ $failed = 0 ]
}
