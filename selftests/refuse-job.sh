#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Runs in a test host whose processor cannot be used: kvm.ko must refuse to load, with the
# error $ERRNO (text of insmod) and exactly one line in the log, which has $SAYS. With $ADVICE,
# load-check.sh must have that among what it says, and the in-tree module must refuse in the same way.
# Plain sh and busybox.

fail() {
	echo "$*"
	exit 1
}
# refuses PATH: insmod fails with the error, and there is no /dev/kvm for it
refuses() {
	if insmod "$1" 2>/tmp/err; then fail "${1##*/} loaded"; fi
	grep -q "$ERRNO" /tmp/err || fail "${1##*/}: insmod says: $(cat /tmp/err)"
}
# said PATTERN: one line of the log has that beginning; what it says. Busybox tries to load a module
# twice, with two system calls.
said() { dmesg | grep "$1" | grep -v 'taints kernel\|module verification' | sed 's/^\[[^]]*\] //' | sort -u; }

# Before anything is loaded, as its user would.
if [ -n "$ADVICE" ]; then
	if bash /build/src/scripts/load-check.sh load >/tmp/advice 2>&1; then fail "load-check.sh finds nothing"; fi
	# One obstacle, and no noise.
	if [ "$(grep -c . /tmp/advice)" != 2 ] || ! grep -q "^1\. .*$ADVICE" /tmp/advice; then
		fail "load-check.sh says: $(cat /tmp/advice)"
	fi
	sed -n 's/^1\. /said: load-check.sh: /p' /tmp/advice
fi

refuses /build/src/kvm.ko
said 'kvm: ' >/tmp/lines
if [ "$(grep -c . /tmp/lines)" != 1 ] || ! grep -q "$SAYS" /tmp/lines; then fail "the log says: $(cat /tmp/lines)"; fi
[ ! -e /dev/kvm ] || fail "there is a /dev/kvm"
sed 's/^/said: /' /tmp/lines

if [ -n "$ADVICE" ]; then
	k=/lib/modules/$KVER/kernel
	thin=kvm_amd
	[ "$HOST" != intel ] || thin=kvm_intel
	for m in virt/lib/irqbypass arch/x86/kvm/kvm; do
		insmod $k/$m.ko.xz || fail "the in-tree $m does not load"
	done
	[ $thin = kvm_intel ] || insmod $k/drivers/crypto/ccp/ccp.ko.xz || fail "ccp does not load"
	refuses $k/arch/x86/kvm/$(echo $thin | tr _ -).ko.xz
	[ ! -e /dev/kvm ] || fail "there is a /dev/kvm of the in-tree module"
	said "$thin: " | sed 's/^/said: in-tree: /'
fi
