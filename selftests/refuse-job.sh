#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Runs in a test host whose processor cannot be used: kvm.ko must refuse to load, with the
# error $ERRNO (text of insmod) and exactly one line in the log, which has $SAYS.
if insmod /build/src/kvm.ko 2>/tmp/err; then
	echo "kvm.ko loaded"
	exit 1
fi
grep -q "$ERRNO" /tmp/err || {
	echo "insmod says: $(cat /tmp/err)"
	exit 1
}
# busybox tries a second time, with another system call.
dmesg | grep 'kvm: ' | grep -v 'taints kernel\|module verification' | sed 's/^\[[^]]*\] //' | sort -u >/tmp/lines
if [ "$(grep -c . /tmp/lines)" != 1 ] || ! grep -q "$SAYS" /tmp/lines; then
	echo "the log says:"
	cat /tmp/lines
	exit 1
fi
[ ! -e /dev/kvm ] || {
	echo "there is a /dev/kvm"
	exit 1
}
cat /tmp/lines
