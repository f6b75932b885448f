#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Look through kernel logs for what a healthy host never prints.
#
#   scripts/log-check.sh FILE...
#
# Prints each finding with the lines after it; exit code 1 if there is any. A line
# that matches a pattern of scripts/log-ignore.tsv (which says why) does not count.
set -eu
dir=$(dirname "$0")

bad='WARNING: |BUG: |BUG at |kernel BUG|Oops|Call Trace:|cut here|general protection fault'
bad+='|unable to handle|Kernel panic|panicked at|rust_kernel: |refcount_t:|UBSAN|KASAN|KCSAN'
bad+='|kmemleak|unreferenced object|INFO: task .* blocked|blocked for more than|soft lockup'
bad+='|hard LOCKUP|rcu.*(stall|detected)|self-detected stall|possible circular locking'
bad+='|inconsistent lock state|lockdep|sleeping function called|scheduling while atomic'
bad+='|bad page state|Bad page|Bad rss|leaked|list_(add|del) corruption|double free'
bad+='|unchecked MSR access|Unpatched return thunk|unpatched retpoline|invalid opcode'
bad+='|divide error|stack-protector|stack guard page|corrupted stack|use-after-free'
bad+='|Out of memory|page allocation failure|missing ENDBR|x86/fpu: .*bad|Uhhuh'
bad+='|kvm: checked: '
bad+='|irq [0-9]+: nobody cared|Unregister.*leak|still has objects|Slab .*objects'

ignore=$(sed -e '/^#/d' -e 's/\t.*//' -e '/^$/d' "$dir/log-ignore.tsv" | paste -sd'|')
status=0
for f in "$@"; do
	hits=$(grep -nE "$bad" "$f" | { [ -n "$ignore" ] && grep -vE "$ignore" || cat; } || :)
	[ -n "$hits" ] || continue
	status=1
	first=${hits%%:*}
	echo "log-check: ${f##*/}: $(printf '%s\n' "$hits" | wc -l) line(s) that must not be there:"
	printf '%s\n' "$hits" | head -n 20 | sed 's/^/  /'
	echo "  from line $first:"
	sed -n "$first,$((first + 30))p" "$f" | sed 's/^/  | /'
done
exit $status
