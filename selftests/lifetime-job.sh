#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Runs in the test host: what happens to the machine while guests run. TAP.
#
#   hotplug   a CPU goes offline and comes back, with a guest running on each
#   nmi       NMIs for all CPUs, of which some meet a running guest (the log has a backtrace for each)
#   suspend   suspend, as far as it goes without losing power (does not return: vm.sh -x)
#   reboot, sysrq, crash   the machine goes down under running guests (likewise)
set -u
what=${WHAT:?}
M=/build/src
failed=0
check() { # sentence, command...
	local text=$1
	shift
	if "$@"; then echo "ok - $text"; else
		echo "not ok - $text"
		failed=1
	fi
}

if [ "${MODULE:-}" = stock ]; then
	[ "$HOST" = amd ] || exit 1
	modprobe kvm_amd || exit 1
else
	# shellcheck disable=SC2086
	insmod $M/kvm.ko ${MODULE_PARAMS:-} || exit 1
fi

# Guests, one per argument: a CPU, or "any".
guests() {
	coproc GUESTS { exec python3 $M/selftests/tiny_guest.py loop "$@"; }
	local line
	read -r line <&"${GUESTS[0]}"
	[ "$line" = ready ] || exit 1
}
# Does every guest go on counting? With an argument: after making another VM.
all_run() {
	local line
	echo "${1:-}" >&"${GUESTS[1]}"
	read -r -t 60 line <&"${GUESTS[0]}"
	[ "$line" = run ] || {
		echo "$line"
		return 1
	}
}
churn() { python3 $M/selftests/tiny_guest.py churn "$1"; }
over() {
	local pid=$GUESTS_PID
	eval "exec ${GUESTS[1]}>&-"
	wait "$pid"
	if [ "${MODULE:-}" = stock ]; then modprobe -r kvm_amd; else check "kvm.ko unloads" rmmod kvm; fi
	exit $failed
}

case $what in
hotplug)
	guests 0 1 any
	check "guests run" all_run
	cpu=/sys/devices/system/cpu/cpu1/online
	for round in 1 2 3; do
		echo 0 >$cpu || failed=1
		check "round $round: guests run while CPU 1 is offline" all_run
		echo 1 >$cpu || failed=1
		check "round $round: guests run when it is back" all_run
	done
	taskset -p 2 $$ >/dev/null
	check "a VM made on the CPU that was away" churn 2
	echo 0 >$cpu
	check "a VM made while it is offline" churn 2
	over
	;;
nmi)
	guests 0 1
	check "guests run" all_run
	# The backtrace begins where an NMI that ended a guest's run is handed on: by the kernel's function
	# for it on Intel; AMD holds it back until STGI (0f 01 dc).
	frame='RIP: .*idt_do_nmi_irqoff'
	[ "$HOST" = intel ] || frame=' 0f 01 dc <'
	# Whether one does is chance. Each round is looked at by itself, as the log forgets the first ones.
	hits=0
	for round in $(seq 60); do
		echo "<6>lifetime: round $round" >/dev/kmsg
		echo l >/proc/sysrq-trigger
		sleep 0.1
		hits=$((hits + $(dmesg | sed "1,/lifetime: round $round\$/d" | grep -cE "$frame")))
		[ $hits -lt 3 ] || break
	done
	check "NMIs that ended a guest's run: $hits in $round rounds" [ $hits -ge 3 ]
	check "guests run after them" all_run
	over
	;;
suspend)
	guests 0 1
	check "guests run" all_run
	echo 1 >/sys/module/suspend/parameters/pm_test_delay
	# How far it goes: devices; all CPUs but one offline; the hooks of the last CPU, all but the loss
	# of power. The host's root, a 9p file system, does not survive it, so that from here on nothing
	# may be read from it, or closed: words go through the log, and a reset ends it.
	exec >/tmp/said 2>&1
	suspend() { echo "$1" >/sys/power/pm_test && echo "$2" >/sys/power/state; }
	check "suspend, devices" suspend devices freeze
	check "guests run after it" all_run
	check "suspend, processors" suspend processors mem
	check "guests run after it" all_run
	check "suspend, all but the loss of power" suspend core mem
	check "guests run after it" all_run
	check "a VM made after it" all_run churn
	while IFS= read -r line; do echo "<4>lifetime: $line" >/dev/kmsg; done </tmp/said
	[ $failed != 0 ] || echo "<4>lifetime: suspended three times, guests run" >/dev/kmsg
	echo b >/proc/sysrq-trigger
	;;
reboot)
	guests 0 1
	check "guests run" all_run
	sleep 0.5
	busybox reboot -f
	;;
sysrq)
	guests 0 1
	check "guests run" all_run
	sleep 0.5
	echo b >/proc/sysrq-trigger
	;;
crash)
	guests 0 1
	check "guests run" all_run
	sleep 0.5
	echo c >/proc/sysrq-trigger
	;;
esac
