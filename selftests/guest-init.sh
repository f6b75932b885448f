#!/bin/busybox sh
# SPDX-License-Identifier: GPL-2.0
# /init of the guest that the boot tests start: say that user space is up, repeating
# the nonce of the command line, then do what do= asks for and power off.
#
#   GUEST-UP nonce=N kernel=K cpus=C mem=M    user space has started
#   GUEST-OK WHAT ... / GUEST-FAIL WHAT ...   what an action found

export PATH=/bin:/sbin
/bin/busybox mkdir -p /proc /sys /dev /tmp
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
mount -t tmpfs tmp /tmp
nonce=none do=poweroff
for w in $(cat /proc/cmdline); do
	case $w in nonce=* | do=*) eval "$w" ;; esac
done
dmesg -n 4

blk() {
	# Every block differs, and the pattern depends on the nonce: an old disk cannot pass.
	awk -v n="$nonce" 'BEGIN { for (i = 0; i < 16384; i++) printf "%-64s", n " " i }' >/tmp/mib
	sum=$(for i in $(seq 64); do echo "$i"; cat /tmp/mib; done | dd bs=1M count=64 iflag=fullblock 2>/dev/null | md5sum)
	for i in $(seq 64); do echo "$i"; cat /tmp/mib; done | dd bs=1M count=64 iflag=fullblock of=/dev/vda 2>/dev/null
	sync
	echo 3 >/proc/sys/vm/drop_caches
	back=$(dd if=/dev/vda bs=1M count=64 2>/dev/null | md5sum)
	if [ "$sum" = "$back" ]; then echo "GUEST-OK blk 64 MiB $back"; else echo "GUEST-FAIL blk $sum $back"; fi
}

net() {
	ip link set eth0 up
	ip addr add 10.0.2.15/24 dev eth0
	if ping -c 3 -w 30 10.0.2.2 >/tmp/ping; then echo "GUEST-OK net $(tail -n 1 /tmp/ping)"; else echo "GUEST-FAIL net"; fi
}

# Keeps writing memory and checking it, for snapshots and migration; the console shows life.
# Each of four files of 1 MiB is read back whole four rounds after it was written: a page that
# was lost on the way shows.
round() { yes "$(printf '%0900d' "$1") $nonce" | head -c 1048576; }
churn() {
	i=0
	while [ $i -lt 100000 ]; do
		f=/tmp/churn$((i % 4))
		[ $i -lt 4 ] || round $((i - 4)) | cmp -s - $f || echo "GUEST-FAIL churn $i"
		round $i >$f
		i=$((i + 1))
		echo "GUEST-TICK $i"
	done
}

case $do in
*blk* | *net*)
	for m in /m/*.ko*; do insmod "$m" 2>/dev/null; done
	for m in /m/*.ko*; do insmod "$m" 2>/dev/null; done
	i=0
	while [ $i -lt 50 ] && ! { [ -e /dev/vda ] && [ -e /sys/class/net/eth0 ]; }; do
		sleep 0.2
		i=$((i + 1))
	done
	;;
esac
echo "GUEST-UP nonce=$nonce kernel=$(uname -r) cpus=$(grep -c ^processor /proc/cpuinfo) mem=$(awk '/MemTotal/ { print $2 }' /proc/meminfo) hypervisor=$(dmesg | sed -n 's/.*Hypervisor detected: //p')"
for what in $(echo "$do" | tr + ' '); do
	case $what in
	blk) blk ;;
	net) net ;;
	churn) churn ;;
	shell) setsid cttyhack sh ;;
	reboot) reboot -f ;;
	wait) while :; do sleep 1; done ;;
	panic) echo c >/proc/sysrq-trigger ;;
	esac
done
poweroff -f
