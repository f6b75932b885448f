#!/bin/busybox sh
# SPDX-License-Identifier: GPL-2.0
# /init of the test host: find the root, run one job in it, say how it ended.
#
# On the AMD host the root is the Debian 13 folder, read-only over 9p, and the run
# directory is shared writable; the Intel and Ryzen hosts have everything in the
# initramfs. scripts/vm.sh reads the three markers printed here: VM-UP, JOB-EXIT and
# the kernel log between DMESG-BEGIN and DMESG-END.

export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/root LANG=C.UTF-8 TERM="${TERM:-dumb}"
/bin/busybox mkdir -p /proc /sys /dev /tmp /mnt
/bin/busybox --install -s /bin 2>/dev/null
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
root=/
if [ -d /m ]; then
	for m in netfs 9pnet 9pnet_virtio 9p; do
		ls /m/$m.ko* >/dev/null 2>&1 || continue # built in
		insmod /m/$m.ko* || echo "vm: cannot load $m"
	done
	opts=trans=virtio,version=9p2000.L,msize=262144
	mount -t 9p -o $opts,cache=loose,ro host /mnt || poweroff -f
	mount -t 9p -o $opts,cache=none run /mnt/build/run
	mount -t tmpfs tmp /mnt/tmp
	mount -t tmpfs tmp /mnt/run
	if grep -qw vm_debug /proc/cmdline; then
		for f in /mnt/build/src/build/debug/*.ko; do mount --bind "$f" "/mnt/build/src/${f##*/}"; done
	fi
	for d in proc dev; do mount --bind /$d /mnt/$d; done
	root=/mnt
fi
mkdir -p /dev/shm /dev/pts
mount -t tmpfs tmp /dev/shm
mount -t devpts pts /dev/pts 2>/dev/null
mount -t debugfs debug /sys/kernel/debug 2>/dev/null
mount -t tracefs trace /sys/kernel/tracing 2>/dev/null
[ $root = / ] || mount --rbind /sys $root/sys
[ -e /dev/fd ] || ln -s /proc/self/fd /dev/fd
[ -e /dev/stdin ] || ln -s /proc/self/fd/0 /dev/stdin
[ -e /dev/stdout ] || ln -s /proc/self/fd/1 /dev/stdout
[ -e /dev/stderr ] || ln -s /proc/self/fd/2 /dev/stderr
ip link set lo up 2>/dev/null

read -r up _ </proc/uptime
echo "VM-UP: $(uname -r), $(grep -c ^processor /proc/cpuinfo) CPUs, after $up s"
if [ "$VM_SHELL" = 1 ]; then
	echo "The job is /build/run/job.sh, the checkout is /build/src. 'exit' ends the host."
	chroot $root /bin/busybox setsid /bin/busybox cttyhack /bin/sh -c \
		'cd /build/src; . /build/run/env; [ ! -x /bin/bash ] || exec /bin/bash; exec /bin/sh'
	rc=$?
else
	if grep -q 'vm_debug.*kmemleak=on' /proc/cmdline; then
		# What the boot left behind is not the job's.
		echo scan >/sys/kernel/debug/kmemleak
		echo clear >/sys/kernel/debug/kmemleak
	fi
	# From here on the console shows warnings: a host that dies takes its log along.
	dmesg -n 5
	echo "<6>vm: the job starts" >/dev/kmsg
	chroot $root /bin/sh -c 'cd /build/src; . /build/run/env; exec /build/run/job.sh'
	rc=$?
fi
dmesg -n 1
if grep -q 'vm_debug.*kmemleak=on' /proc/cmdline; then
	# Two scans: what was just freed or handed on is reported by the first one only.
	echo scan >/sys/kernel/debug/kmemleak
	sleep 1
	echo scan >/sys/kernel/debug/kmemleak
	# A line each, as the log takes no more at once.
	head -n 60 /sys/kernel/debug/kmemleak | while IFS= read -r line; do echo "<4>$line" >/dev/kmsg; done
fi
sleep 0.1
if [ "$VM_SHELL" != 1 ]; then
	echo "DMESG-BEGIN"
	dmesg
	echo "DMESG-END"
	echo "JOB-EXIT:$rc"
fi
# Setting a terminal waits for its output: at 115200 baud the log takes seconds.
stty -echo </dev/console
stty echo </dev/console
sync
poweroff -f
