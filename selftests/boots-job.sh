#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Runs in the test host: load a module, boot the guests, unload it again. Plain sh and
# busybox: the Bochs hosts have nothing else.

fail() {
	printf '@BAIL\t%s\n' "$*"
	exit 1
}

K=/lib/modules/$KVER/kernel
thin=kvm-amd
[ "$HOST" != intel ] || thin=kvm-intel
if [ "$MODULE" != stock ]; then
	# shellcheck disable=SC2086
	insmod /build/src/kvm.ko ${MODULE_PARAMS:-} || fail "kvm.ko does not load"
	[ ! -e /build/src/$thin.ko ] || insmod /build/src/$thin.ko
elif [ "$HOST" = amd ]; then
	modprobe kvm_amd || fail "the in-tree module does not load"
else
	insmod $K/virt/lib/irqbypass.ko.xz && insmod $K/arch/x86/kvm/kvm.ko.xz || fail "no in-tree kvm"
	[ "$HOST" = intel ] || insmod $K/drivers/crypto/ccp/ccp.ko.xz
	insmod $K/arch/x86/kvm/$thin.ko.xz || fail "the in-tree module does not load"
fi
[ -c /dev/kvm ] || fail "there is no /dev/kvm"
python3 /build/src/selftests/boots-job.py || fail "boots-job.py ended with exit code $?"
if [ "$MODULE" != stock ]; then
	[ ! -d /sys/module/kvm_amd ] || rmmod kvm_amd
	[ ! -d /sys/module/kvm_intel ] || rmmod kvm_intel
	rmmod kvm || printf '@KLOG\t-\tthe module does not unload after the guests\n'
fi
printf '@DONE\n'
