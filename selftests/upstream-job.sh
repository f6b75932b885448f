#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Runs in the test host: load a module, run the selftests named in /build/run/tests
# (name, limit in seconds), one marked line per verdict: upstream's, or with PROGRAM set
# that program with the name as its arguments. SHOW= is a pattern of output to show.
# Plain sh and busybox: the Bochs hosts have nothing else.

fail() {
	printf '@BAIL\t%s\n' "$*"
	exit 1
}

K=/lib/modules/$KVER/kernel
# shellcheck disable=SC2086
if [ "$MODULE" = stock ]; then
	case $HOST in
	amd) modprobe kvm_amd $VENDOR_PARAMS ;;
	*)
		insmod $K/virt/lib/irqbypass.ko.xz && insmod $K/arch/x86/kvm/kvm.ko.xz || fail "no in-tree kvm"
		case $HOST in
		intel) insmod $K/arch/x86/kvm/kvm-intel.ko.xz $VENDOR_PARAMS ;;
		*) insmod $K/drivers/crypto/ccp/ccp.ko.xz && insmod $K/arch/x86/kvm/kvm-amd.ko.xz $VENDOR_PARAMS ;;
		esac
		;;
	esac || fail "the in-tree module does not load"
else
	insmod /build/src/kvm.ko $MODULE_PARAMS || fail "kvm.ko does not load"
	thin=/build/src/kvm-amd.ko
	[ "$HOST" != intel ] || thin=/build/src/kvm-intel.ko
	[ ! -e $thin ] || insmod $thin $VENDOR_PARAMS || fail "$thin does not load"
fi
[ -c /dev/kvm ] || fail "the module loaded, but there is no /dev/kvm"

# What some tests want of the host, and give back when they are done.
large=/proc/sys/vm/nr_hugepages
params=/sys/module/kvm/parameters
prepare() { # test
	extra= swap=
	case $HOST:$1 in
	amd:notify_swap | amd:notify_storm)
		modprobe zram && echo 64M >/sys/block/zram0/disksize && mkswap /dev/zram0 >/dev/null &&
			swapon /dev/zram0 && swap=1
		;;
	amd:x86/dirty_log_page_splitting_test)
		echo 80 >$large
		extra='-b 64M -s anonymous_hugetlb_2mb'
		;;
	amd:x86/nx_huge_pages_test)
		echo 16 >$large
		echo 1 >$params/nx_huge_pages
		echo 1 >$params/nx_huge_pages_recovery_ratio
		echo 100 >$params/nx_huge_pages_recovery_period_ms
		extra='-t 887563923 -p 100 -r'
		;;
	esac
}
tidy() {
	if [ -n "$swap" ]; then
		swapoff /dev/zram0
		rmmod zram
	fi
	[ -n "$extra" ] || return 0
	echo 0 >$large
	echo 0 >$params/nx_huge_pages
	echo 60 >$params/nx_huge_pages_recovery_ratio
	echo 0 >$params/nx_huge_pages_recovery_period_ms
}

logs=/tmp/logs
mkdir -p $logs
cd /tmp || exit 1
while IFS="	" read -r name limit; do
	echo "<6>selftest: $name" >/dev/kmsg
	printf '@START\t%s\n' "$name"
	log=$logs/out
	read -r t0 _ </proc/uptime
	rc=0
	# shellcheck disable=SC2086
	if [ -n "$PROGRAM" ]; then set -- "$PROGRAM" $name; else set -- "/build/kselftests/$name"; fi
	prepare "$name"
	# shellcheck disable=SC2086
	timeout -s KILL "$limit" "$@" $extra </dev/null >$log 2>&1 || rc=$?
	read -r t1 _ </proc/uptime
	tidy
	[ -z "$SHOW" ] || grep -E "$SHOW" $log
	case $rc in 0 | 4) ;; *) tail -n 12 $log | cut -c1-160 | sed 's/^/@OUT	/' ;; esac
	last=$(grep -E "SKIP|[Ss]kipping" $log | tail -n 1 | sed "s,^1..0 # SKIP -* *,," | cut -c1-120)
	printf '@RESULT\t%s\t%s\t%s\t%s\t%s\n' "$name" $rc "$t0" "$t1" "$last"
	# Only a bad word of the kernel's in this test's part of the log is held against it.
	dmesg | sed -n "\\|selftest: $name\$|,\$p" | grep -E 'WARNING: |BUG: |Oops|Call Trace:|kvm: checked: ' |
		head -n 3 | sed "s|^|@KLOG	$name	|"
done </build/run/tests
cd /
if [ "$MODULE" != stock ]; then
	[ ! -d /sys/module/kvm_amd ] || rmmod kvm_amd
	[ ! -d /sys/module/kvm_intel ] || rmmod kvm_intel
	rmmod kvm || printf '@KLOG\t-\tthe module does not unload after the tests\n'
fi
# A complaint that belongs to no test: only the check of the whole log can find it.
[ -z "$SEED_LOG" ] || echo '<7>refcount_t: seeded' >/dev/kmsg
printf '@DONE\n'
