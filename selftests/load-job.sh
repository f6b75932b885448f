#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Runs in the test host: load and unload kvm.ko 100 times, look for what it leaves
# behind, then check that the in-tree module still works. SEED=1 leaks on purpose.
set -u

# Kernel memory in KiB, from the kernel's own account, and free memory, which also
# misses pages that nobody accounts for; caches are emptied first.
used() {
	echo 3 >/proc/sys/vm/drop_caches
	sleep 0.3
	awk '/^(Slab|VmallocUsed|Percpu):/ { s += $2 } /^MemFree:/ { f = $2 } END { print s, f }' /proc/meminfo
}

cycle() {
	insmod /build/src/kvm.ko || { echo "kvm.ko does not load (round $1)"; exit 1; }
	[ -c /dev/kvm ] || { echo "loaded, but there is no /dev/kvm (round $1)"; exit 1; }
	rmmod kvm || { echo "kvm.ko does not unload (round $1)"; exit 1; }
	[ ! -e /dev/kvm ] || { echo "/dev/kvm is still there after unload (round $1)"; exit 1; }
}

if [ "${SEED:-}" = 1 ]; then
	cycle() {
		insmod /build/src/selftests/seed/seed.ko 2>/dev/null
		rmmod seed 2>/dev/null
	}
	dmesg -n 1
fi
# The first rounds fill caches that stay.
for i in 1 2 3 4 5 6 7 8 9 10; do cycle "$i"; done
read -r before free_before <<<"$(used)"
for ((i = 11; i <= 100; i++)); do cycle "$i"; done
read -r after free_after <<<"$(used)"
echo "free memory: $free_before KiB before, $free_after KiB after"
echo "kernel memory: $before KiB before, $after KiB after 90 more rounds"
if [ $((after - before)) -gt 2048 ] || [ $((free_before - free_after)) -gt 4096 ]; then
	echo "leak: $((after - before)) KiB of kernel memory, $((free_before - free_after)) KiB of pages"
	exit 1
fi
[ "${SEED:-}" != 1 ] || exit 0
modprobe kvm_amd || { echo "the in-tree module does not load afterwards"; exit 1; }
rmmod kvm_amd kvm
