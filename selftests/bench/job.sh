#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Runs in the test host: the same program on our module and on the in-tree one. Plain sh
# and busybox: the Bochs hosts have nothing else.

K=/lib/modules/$KVER/kernel
fail() {
	echo "bench: $*"
	exit 1
}
# What the console's thread prints is instructions too.
dmesg -n 1
sleep 5

thin=kvm-amd
[ "$HOST" != intel ] || thin=kvm-intel
measure() {
	echo "@MODULE	$1"
	/build/run/bench || fail "the program fails on the $1 module"
}

insmod /build/src/kvm.ko || fail "kvm.ko does not load"
[ ! -e /build/src/$thin.ko ] || insmod /build/src/$thin.ko
measure ours
[ ! -d /sys/module/kvm_amd ] || rmmod kvm_amd
[ ! -d /sys/module/kvm_intel ] || rmmod kvm_intel
rmmod kvm || fail "kvm.ko does not unload"
[ "${ONLY_OURS:-}" != 1 ] || exit 0

if [ "$HOST" = amd ]; then
	modprobe kvm_amd || fail "the in-tree module does not load"
else
	insmod $K/virt/lib/irqbypass.ko.xz && insmod $K/arch/x86/kvm/kvm.ko.xz || fail "no in-tree kvm"
	[ "$HOST" = intel ] || insmod $K/drivers/crypto/ccp/ccp.ko.xz
	insmod $K/arch/x86/kvm/$thin.ko.xz || fail "the in-tree module does not load"
fi
measure in-tree
