#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Build kvm.ko for the test host's kernel, with the folder's own toolchain.
#
#   scripts/build.sh [MAKE-ARG]...
#   scripts/build.sh --check        only looks at HOST=, for which nothing has to be there yet
#
# HOST=debug builds for the debug kernel (scripts/debug-kernel.sh), in build/debug: a tree
# of its own, because objects of the two kernels must not mix.
# The log stays in build/module.log (build/debug/module.log); test.sh looks for warnings in it.
set -eu
. "$(dirname "$0")/lib.sh"
one_of HOST "${HOST:-amd}" amd intel ryzen debug
[ "${1:-}" != --check ] || exit 0
need_folder
mkdir -p "$SRC/build"
exec 8>"$SRC/build/.lock"
flock -n 8 || { echo "another build is at work in $SRC; waiting for it to end" >&2 && flock 8; }
kernel=$KVER headers=/usr/src/linux-headers-$KVER tree=$IN_SRC out=$SRC log=$SRC/build/module.log
if [ "${HOST:-}" = debug ]; then
	debug_kernel >/dev/null || die "there is no debug kernel: run scripts/debug-kernel.sh first (an hour)"
	kernel=$(debug_kernel) headers=$IN_DEBUG/k tree=$IN_SRC/build/debug out=$SRC/build/debug log=$SRC/build/debug/module.log
	mkdir -p "$out"
	"$SRC/scripts/in-host.sh" rsync -a --delete --exclude='*.o' --exclude='*.o.*' --exclude='*.ko' \
		--exclude='*.mod' --exclude='*.mod.c' --exclude='*.rmeta' --exclude='.*' --exclude=meta \
		--exclude=bindings_gen.rs --exclude=target --exclude=module.log "$IN_SRC"/{Kbuild,include,rust,src} "$tree/"
	set -- CC=clang "$@"
fi
rc=0
build_begins "$out"
"$SRC/scripts/in-host.sh" make -C "$headers" M="$tree" "$@" modules \
	>"$log" 2>&1 || rc=$?
build_ended "$out" $rc
if [ $rc != 0 ]; then
	grep -vE '^make(\[[0-9]+\])?: (Entering|Leaving)' "$log" >&2 || :
	! why=$(disk_full "$out" "$log") ||
		die "the module could not be built: $why; it takes 100 MB"
	die "the module does not build for $kernel (log: ${log#"$SRC/"})"
fi
grep -E 'warning: |warning\[' "$log" >&2 || :
printf 'kvm.ko for %s: %s bytes\n' "$kernel" "$(stat -c %s "$out/kvm.ko")"
