#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Runs in the test host: kvm.ko with and without the thin modules, in every order; their parameters;
# what is refused while a VM lives. TAP. Plain sh and busybox: the Bochs hosts have nothing else, but
# for Python if the image was made with it (what needs a VM is skipped without).

M=/build/src
K=/lib/modules/$KVER/kernel
case $HOST in
intel) thin=kvm-intel other=kvm-amd need=ept off=vpid=0 dump=dump_invalid_vmcs ;;
*) thin=kvm-amd other=kvm-intel need=npt off=vgif=0 dump=dump_invalid_vmcb ;;
esac
name=$(echo $thin | tr - _)
P=/sys/module/$name/parameters
failed=0

ok() { echo "ok - $*"; }
not_ok() {
	echo "not ok - $*"
	failed=1
}
# check SENTENCE, CONDITION as a command
check() {
	what=$1
	shift
	if "$@"; then ok "$what"; else not_ok "$what"; fi
}
load() { insmod "$M/$1.ko" $2 $3; }
# refused SENTENCE, ERROR, COMMAND...: it fails, and with that message
refused() {
	what=$1 why=$2
	shift 2
	if out=$("$@" 2>&1); then
		not_ok "$what: not refused"
	elif ! echo "$out" | grep -qiE "$why"; then
		not_ok "$what: $out"
	else
		ok "$what"
	fi
}
is() { [ "$(cat "$P/$1")" = "$2" ]; }
loaded() { grep -q "^$1 " /proc/modules; }
vm_works() {
	[ -c /dev/kvm ] || return 1
	[ ! -x /usr/bin/python3 ] || python3 $M/selftests/tiny_guest.py churn 1
}
# How often the kernel's log has a line. Busybox tries to load a module twice, with two system calls.
lines() {
	if [ "$HOST" = amd ]; then dmesg | grep -c "$1"; else dmesg | grep "$1" | sed 's/^[^]]*] //' | sort -u | wc -l; fi
}

# Orders.
refused "$thin without kvm" 'unknown symbol|No such file' load $thin
load kvm || exit 1
check "kvm alone: VMs can be made" vm_works
load $thin
check "kvm, $thin: VMs can be made" vm_works
refused "rmmod kvm before $thin" 'in use|busy|temporarily unavailable' rmmod kvm
rmmod $name
check "$thin gone: VMs can be made" vm_works
load $thin
check "$thin again: VMs can be made" vm_works
rmmod $name
rmmod kvm
check "both unloaded" [ ! -e /dev/kvm ]
load kvm
load $thin
rmmod $name kvm
check "both unloaded by one rmmod" [ ! -e /dev/kvm ]
load kvm nx_huge_pages=never
Q=/sys/module/kvm/parameters
for p in nx_huge_pages nx_huge_pages_recovery_ratio nx_huge_pages_recovery_period_ms; do
	refused "$p after nx_huge_pages=never" 'not permitted' sh -c "echo 1 | dd of=$Q/$p"
done
rmmod kvm
load kvm
check "nx_huge_pages_recovery_ratio without it" sh -c "echo 50 >$Q/nx_huge_pages_recovery_ratio"
refused "$other on this processor" 'not supported' load $other
check "$other is not loaded, VMs can be made" vm_works
check "one line says why" [ "$(lines 'for another vendor')" = 1 ]

# Parameters: names and types are those of the in-tree module, values those in effect.
refused "$need=0" 'not supported|No such device' load $thin $need=0
check "one line says why" [ "$(lines "$need=0")" = 1 ]
check "after $need=0: VMs can be made" vm_works
load $thin
check "$need is on" is $need Y
rmmod $name
if [ $thin = kvm-amd ]; then
	load $thin vgif=0 pause_filter_count=7
	check "vgif=0 takes effect" is vgif 0
	if [ "$HOST" = ryzen ]; then
		check "nrips is on where it exists" is nrips 1
		check "pause_filter_count=7 takes effect" is pause_filter_count 7
	else
		check "nrips reads as off where it does not exist" is nrips 0
		check "pause_filter_count reads 0 where there is no filter" is pause_filter_count 0
	fi
	check "vgif=0: VMs can be made" vm_works
	rmmod $name
	load $thin
	[ "$HOST" = ryzen ] || check "the defaults are back" is vgif 1
else
	load $thin vpid=0 ple_window=77
	check "vpid=0 takes effect" is vpid N
	check "ple_window=77 takes effect" is ple_window 77
	rmmod $name
	load $thin
	check "the defaults are back" is vpid Y
fi
echo 1 >$P/$dump
check "$dump can be written" is $dump Y
rmmod $name
refused "an unknown value" 'invalid' load $thin $need=perhaps
load $thin no_such_parameter=1
check "an unknown parameter is ignored" loaded $name
check "with the kernel's warning" [ "$(lines "unknown parameter 'no_such_parameter' ignored")" = 1 ]
rmmod $name

# The fields of our tracepoints, and of those of the in-tree module that have the same names.
T=/sys/kernel/tracing/events/kvm
ours='kvm_cpuid kvm_entry kvm_exit kvm_inj_virq kvm_mmio kvm_msi_set_irq kvm_msr kvm_page_fault kvm_pio kvm_set_irq'
fields() { for e in $ours; do echo "$e"; grep -E 'field:(unsigned|int|u|bool|_)' $T/$e/format | grep -v common_; done; }

# The same names, types and permissions as in-tree.
in_tree() { # Bochs hosts have the files that are needed, and no modprobe
	if [ "$HOST" = amd ]; then modprobe $name; return; fi
	insmod $K/virt/lib/irqbypass.ko.xz
	insmod $K/arch/x86/kvm/kvm.ko.xz
	[ "$HOST" = intel ] || insmod $K/drivers/crypto/ccp/ccp.ko.xz
	insmod $K/arch/x86/kvm/$thin.ko.xz
}
if [ -e $K/arch/x86/kvm/kvm.ko.xz ]; then
	load $thin
	for f in "$P"/*; do stat -c '%a %n' "$f"; done | sed "s|$P/||" | sort >/tmp/ours
	rmmod $name
	rmmod kvm
	in_tree
	for f in "$P"/*; do stat -c '%a %n' "$f"; done | sed "s|$P/||" | sort >/tmp/theirs
	for f in /sys/module/kvm/parameters/*; do stat -c '%a %n' "$f"; done | sort >/tmp/theirs.kvm
	fields >/tmp/theirs.trace
	rmmod $name
	rmmod kvm
	load kvm
	fields >/tmp/ours.trace
	check "the fields of $(grep -c ^kvm /tmp/ours.trace) tracepoints are the in-tree ones" diff /tmp/theirs.trace /tmp/ours.trace
	check "the parameters of $thin are the in-tree ones" diff /tmp/theirs /tmp/ours
	for f in /sys/module/kvm/parameters/*; do stat -c '%a %n' "$f"; done | grep -v /checked | sort >/tmp/ours.kvm
	check "the parameters of kvm are the in-tree ones, and checked" diff /tmp/theirs.kvm /tmp/ours.kvm
fi

# A VM lives.
if [ -x /usr/bin/python3 ]; then
	mkfifo /tmp/in
	python3 $M/selftests/tiny_guest.py hold </tmp/in >/tmp/out &
	exec 3>/tmp/in
	until grep -q ready /tmp/out; do sleep 0.1; done
	refused "other parameters while a VM lives" 'busy' load $thin $off
	check "one line says why" [ "$(lines 'while there are virtual machines')" = 1 ]
	refused "rmmod kvm while a VM lives" 'in use|busy|temporarily unavailable' rmmod kvm
	exec 3>&-
	wait
	echo 1 >$T/enable
	(echo; sleep 1) | python3 $M/selftests/tiny_guest.py loop any >/dev/null
	echo 0 >$T/enable
	for e in kvm_entry kvm_exit kvm_page_fault; do
		check "$e is traced" grep -q " $e: " /sys/kernel/tracing/trace
	done
	check "an exit has its reason" grep -q 'kvm_exit: vcpu 0 reason [a-zA-Z]' /sys/kernel/tracing/trace
	load $thin $off && rmmod $name
	check "once the VM is gone parameters change again" vm_works
else
	echo "ok - a VM lives # SKIP this host has no python"
fi
rmmod kvm || not_ok "kvm does not unload"
exit $failed
