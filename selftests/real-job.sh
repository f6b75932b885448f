#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Runs in the AMD test host, which stands for a machine of one's own: the targets of the Makefile that
# README.md names, on the modules that were built in $TREE. TAP.

failed=0
ok() { echo "ok - $*"; }
check() { # sentence, command...
	what=$1
	shift
	if "$@" >/tmp/out 2>&1; then ok "$what"; else
		echo "not ok - $what"
		sed 's/^/#   /' /tmp/out
		failed=1
	fi
}
refused() { # sentence, pattern, command...
	what=$1 pattern=$2
	shift 2
	if ! "$@" >/tmp/out 2>&1 && grep -qE "$pattern" /tmp/out; then ok "$what"; else
		echo "not ok - $what"
		sed 's/^/#   /' /tmp/out
		failed=1
	fi
}
vm_works() { python3 /build/src/selftests/tiny_guest.py churn 1; }
ours() { modinfo -F filename kvm | grep /updates/kvm.ko; }
in_tree() { modinfo -F filename kvm | grep /kernel/arch/x86/kvm/; }
# The host's modules are the folder's, which nothing may write to, and too many for depmod here.
K=/lib/modules/$KVER
mkdir -p /tmp/modules/kernel
cp -a $K/build $K/source $K/modules.builtin* $K/modules.order /tmp/modules/ 2>/dev/null
(cd $K && find kernel/arch/x86/kvm kernel/virt kernel/drivers/crypto/ccp | cpio -pd /tmp/modules 2>/dev/null)
mount --bind /tmp/modules $K || exit 1
depmod "$KVER"
cd "$TREE" || exit 1

for m in kvm kvm-amd kvm-intel; do
	modinfo -F alias "$K/kernel/arch/x86/kvm/$m.ko.xz" | sort >/tmp/theirs
	modinfo -F alias $m.ko | sort >/tmp/ours
	check "$m.ko: $(wc -l </tmp/theirs) aliases, the in-tree ones" cmp /tmp/theirs /tmp/ours
done
check "make load" make load
check "make load: kvm and kvm_amd are there" grep -q '^kvm_amd ' /proc/modules
check "make load: /dev/kvm is 10:232" [ "$(stat -c %t:%T /dev/kvm)" = a:e8 ]
check "make load: VMs can be made" vm_works
refused "make load again: says what to do" 'loaded already.*modprobe -r' make load
rmmod kvm_amd kvm

check "make install" make install
check "make install: modprobe prefers ours" ours
check "make install: modprobe kvm_amd loads both" modprobe kvm_amd
check "make install: they are ours" [ -e /sys/module/kvm/parameters/checked ]
check "make install: VMs can be made" vm_works
check "modprobe -r takes both away" modprobe -r kvm_amd
# Back, as README.md has it.
rm -f "$K"/updates/kvm*.ko*
depmod "$KVER"
check "back: modprobe prefers the in-tree module" in_tree
check "back: it loads" modprobe kvm_amd
check "back: it is not ours" [ ! -e /sys/module/kvm/parameters/checked ]
check "back: VMs can be made" vm_works
modprobe -r kvm_amd
exit $failed
