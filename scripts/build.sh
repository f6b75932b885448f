#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Build kvm.ko for the test host's kernel, with the folder's own toolchain.
#
#   scripts/build.sh [MAKE-ARG]...
#
# The log stays in build/module.log; test.sh looks for warnings in it.
set -eu
. "$(dirname "$0")/lib.sh"
need_folder
mkdir -p "$SRC/build"
exec 8>"$SRC/build/.lock"
flock 8
rc=0
"$SRC/scripts/in-host.sh" make -C "/usr/src/linux-headers-$KVER" M="$IN_SRC" "$@" modules \
	>"$SRC/build/module.log" 2>&1 || rc=$?
if [ $rc != 0 ]; then
	grep -vE '^make(\[[0-9]+\])?: (Entering|Leaving)' "$SRC/build/module.log" >&2
	die "the module does not build for $KVER (log: build/module.log)"
fi
grep -E 'warning: |warning\[' "$SRC/build/module.log" >&2 || :
printf 'kvm.ko for %s: %s bytes\n' "$KVER" "$(stat -c %s "$SRC/kvm.ko")"
