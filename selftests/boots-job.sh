#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Runs in the test host: load a module, boot the guests, unload it again.
set -u
if [ "$MODULE" = stock ]; then
	modprobe kvm_amd || { printf '@BAIL\tthe in-tree module does not load\n'; exit 1; }
else
	# shellcheck disable=SC2086
	insmod /build/src/kvm.ko ${MODULE_PARAMS:-} || { printf '@BAIL\tkvm.ko does not load\n'; exit 1; }
	[ ! -e /build/src/kvm-amd.ko ] || insmod /build/src/kvm-amd.ko
fi
[ -c /dev/kvm ] || { printf '@BAIL\tthere is no /dev/kvm\n'; exit 1; }
python3 /build/src/selftests/boots-job.py
if [ "$MODULE" != stock ]; then
	[ ! -d /sys/module/kvm_amd ] || rmmod kvm_amd
	rmmod kvm || printf '@KLOG\t-\tthe module does not unload after the guests\n'
fi
printf '@DONE\n'
