#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Runs in the test host: kvm.ko with checked=2, which seeds a difference into each comparison of the
# parameter `checked`, and a few of our own selftests ($PROGRAM). Says which comparisons were reported.
# With the seed the host's log is not clean, nor is it meant to be.
insmod /build/src/kvm.ko checked=2 || exit 1
for t in guest_modes slot_changes lapic_timer; do "$PROGRAM" $t >/tmp/out || exit 1; done
if [ "$HOST" = intel ]; then
	# What is compared only where not all states can run.
	insmod /build/src/kvm-intel.ko unrestricted_guest=0 && "$PROGRAM" guest_modes >/tmp/out &&
		rmmod kvm_intel || exit 1
fi
rmmod kvm || exit 1
dmesg | sed -n 's/.*kvm: checked: //p' | sed -E 's/ is 0x.*//; s/[0-9]+ is not ack/is not ack/; s/ between.*//' |
	sort -u | sed 's/^/reported: /'
