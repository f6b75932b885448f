#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Runs in the test host: load a module, run the selftests named in /build/run/tests
# (name, limit in seconds), one marked line per verdict: upstream's, or with PROGRAM set
# that program with the name as its arguments. A name may end with @PARAM=VALUE,...: parameters
# of the thin module for this test alone, in place of VENDOR_PARAMS. SHOW= is a pattern of output
# to show. LOADS=n loads and unloads our module that often before the tests.
# Plain sh and busybox: the Bochs hosts have nothing else.

fail() {
	printf '@BAIL\t%s\n' "$*"
	exit 1
}

K=/lib/modules/$KVER/kernel
vendor=kvm-amd thin=/build/src/kvm-amd.ko
[ "$HOST" != intel ] || vendor=kvm-intel thin=/build/src/kvm-intel.ko
if [ "$MODULE" = stock ]; then
	thin=$K/arch/x86/kvm/$vendor.ko.xz
	case $HOST in
	amd) modprobe kvm ;;
	*) insmod $K/virt/lib/irqbypass.ko.xz && insmod $K/arch/x86/kvm/kvm.ko.xz ;;
	esac || fail "no in-tree kvm"
	case $HOST in
	amd) modprobe ccp ;;
	ryzen) insmod $K/drivers/crypto/ccp/ccp.ko.xz ;;
	esac || fail "no ccp"
else
	for _ in $(seq "${LOADS:-0}"); do
		# shellcheck disable=SC2086
		insmod /build/src/kvm.ko $MODULE_PARAMS && rmmod kvm || fail "kvm.ko does not load and unload"
	done
	# shellcheck disable=SC2086
	insmod /build/src/kvm.ko $MODULE_PARAMS || fail "kvm.ko does not load"
fi

# Loads the thin module with these parameters, and looks whether they are in effect.
loaded=none
load_vendor() {
	[ "$loaded" != "$*" ] || return 0
	mod=$(echo $vendor | tr - _)
	if [ -d "/sys/module/$mod" ]; then
		rmmod "$mod" || fail "$vendor does not unload"
	fi
	if [ ! -e $thin ]; then
		[ $# = 0 ] || fail "there is no $thin"
	else
		insmod $thin "$@" || fail "$thin does not load${*:+ with $*}"
	fi
	for p; do
		is=$(cat "/sys/module/$mod/parameters/${p%%=*}")
		case ${p#*=}:$is in
		0:N | 1:Y | "$is:$is") ;;
		*) fail "$p is not in effect: $is" ;;
		esac
	done
	loaded=$*
}
# shellcheck disable=SC2086
load_vendor $VENDOR_PARAMS
[ -c /dev/kvm ] || fail "the module loaded, but there is no /dev/kvm"

# What some tests want of the host, and give back when they are done.
large=/proc/sys/vm/nr_hugepages
params=/sys/module/kvm/parameters
prepare() { # test
	extra= swap=
	case $HOST:$1 in
	*:notify_swap | *:notify_storm)
		# The Bochs hosts have these two and no modprobe.
		[ "$HOST" = amd ] || insmod "/lib/modules/$KVER/kernel/lib/lz4/lz4hc_compress.ko.xz"
		{ modprobe zram || insmod "/lib/modules/$KVER/kernel/drivers/block/zram/zram.ko.xz"; } 2>/dev/null &&
			echo 64M >/sys/block/zram0/disksize && mkswap /dev/zram0 >/dev/null &&
			swapon /dev/zram0 && swap=1
		;;
	amd:x86/dirty_log_page_splitting_test)
		echo 80 >$large
		extra='-b 64M -s anonymous_hugetlb_2mb'
		;;
	# Smaller than their defaults, which take the emulated host minutes.
	amd:memslot_perf_test) extra='-s 64 -l 1 -e 4 -t 60' ;;
	amd:mmu_stress_test) extra='-c 2 -m 1 -s 1' ;;
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
	[ -z "$SEED_HANG" ] || sleep 1000
	log=$logs/out
	read -r t0 _ </proc/uptime
	rc=0
	case $name in
	*@*) set -- $(echo "${name#*@}" | tr , ' ') ;;
	*) set -- $VENDOR_PARAMS ;;
	esac
	load_vendor "$@"
	test=${name%@*}
	# shellcheck disable=SC2086
	if [ -n "$PROGRAM" ]; then set -- "$PROGRAM" $test; else set -- "/build/kselftests/$test"; fi
	prepare "$test"
	# shellcheck disable=SC2086
	timeout -s KILL "$limit" "$@" $extra </dev/null >$log 2>&1 || rc=$?
	read -r t1 _ </proc/uptime
	tidy
	[ -z "$SHOW" ] || grep -E "$SHOW" $log
	case $rc in 0 | 4) ;; *) tail -n 12 $log | cut -c1-160 | sed 's/^/@OUT	/' ;; esac
	# As few programs as can be: the debug kernel takes a quarter of a second to start one.
	last=
	if grep -qE "SKIP|[Ss]kipping" $log; then
		last=$(grep -E "SKIP|[Ss]kipping" $log | tail -n 1 | sed "s,^1..0 # SKIP -* *,," | cut -c1-120)
	fi
	printf '@RESULT\t%s\t%s\t%s\t%s\t%s\n' "$name" $rc "$t0" "$t1" "$last"
	# Only a bad word of the kernel's in this test's part of the log is held against it.
	busybox dmesg | busybox awk -v name="$name" '
		$0 ~ "selftest: " name "$" { n = 3; next }
		n && /WARNING: |BUG: |Oops|Call Trace:|kvm: checked: / { print "@KLOG\t" name "\t" $0; n-- }'
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
# A host that dies when all has been said.
[ -z "$SEED_DIE" ] || echo c >/proc/sysrq-trigger
