#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Boot the test host, load kvm.ko, let QEMU boot a Linux guest on it. Called by
# `make run`, which prepares and builds first.
#
# Options, from make's command line or the environment:
#   HOST=amd|intel|ryzen   which emulated host (amd: QEMU with SVM; the others: Bochs)
#   MACHINE=q35|pc|microvm CPUS=1 MEMORY=256 (MiB) IRQCHIP=on|split   the guest
#   KERNEL= INITRD= DISK=  files of this machine: a guest of your own instead of the
#                          stock Debian kernel with a small busybox userland. With a
#                          disk alone the firmware boots from it
#   TIMEOUT=               when to give up, seconds
#   SHELL=1                no guest: an interactive shell in the host
#   VENDOR_PARAMS=         loads kvm-intel.ko or kvm-amd.ko with them (unrestricted_guest=0)
#   MODULE=stock           the in-tree module instead of ours, for comparison
#
# run.sh --check only looks at the options, for which nothing has to be there yet.
#
# The guest counts as up when its console repeats this run's nonce, also with a KERNEL= of your
# own. With an INITRD= or from a DISK= of your own nobody knows what it says when it is up: it
# passes if it ends by itself. A panic that its console shows is a failure of every guest. The
# last line says what ran, on which kernel and how long; the exit code is 0 only if that is well.
set -eu -o pipefail
. "$(dirname "$0")/lib.sh"
started=${RUN_STARTED:-$EPOCHREALTIME}
HOST=${HOST:-amd}
one_of HOST "$HOST" amd intel ryzen debug
one_of MACHINE "${MACHINE:-q35}" q35 pc microvm
one_of IRQCHIP "${IRQCHIP:-on}" on split
one_of MODULE "${MODULE:-ours}" ours stock
one_of ICOUNT "${ICOUNT:-0}" 0 1
number CPUS "${CPUS:-1}" 1 288
number MEMORY "${MEMORY:-256}" 1 1048576
number SMP "${SMP:-1}" 1 64
number TIMEOUT "${TIMEOUT:-400}" 1 1000000
[ -z "${KERNEL:-}" ] || [ -f "$KERNEL" ] || die "KERNEL=$KERNEL: no such file"
[ -z "${INITRD:-}" ] || [ -f "$INITRD" ] || die "INITRD=$INITRD: no such file"
[ -z "${DISK:-}" ] || [ -f "$DISK" ] || [ -b "$DISK" ] || die "DISK=$DISK: no such file"
case $HOST in
amd | debug)
	least=$((${MEMORY:-256} + 1536))
	export SMP=${SMP:-1} MEM=${MEM:-$((least > 3072 ? least : 3072))}
	number MEM "$MEM" 256 1048576
	has=$(awk '/^MemTotal:/ { print int($2 / 1024) }' /proc/meminfo)
	[ "$MEM" -lt "$has" ] ||
		die "the $HOST host would have $MEM MiB of memory, and this machine has $has: choose less (MEMORY= of the guest, MEM= of the host)"
	;;
*)
	number MEM "${MEM:-2048}" 256 1048576
	[ "${MEMORY:-256}" -le $((${MEM:-2048} - 512)) ] ||
		die "MEMORY=$MEMORY: the $HOST host has ${MEM:-2048} MiB itself (MEM=), of which a guest can have all but 512"
	[ "${KVM_RS_INTERACTIVE:-}" != 1 ] || die "SHELL=1 is for HOST=amd: Bochs only writes its serial port"
	;;
esac
[ "${1:-}" != --check ] || exit 0
need_folder
elapsed() { awk -v a="$started" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.0f", b - a }'; }

if [ "${KVM_RS_INTERACTIVE:-}" = 1 ]; then
	echo "Starting the $HOST host with kernel $KVER. kvm.ko is /build/src/kvm.ko; 'exit' ends it."
	exec "$SRC/scripts/vm.sh" -i
fi

stage=$(run_dir guest)
booted=''
finish() {
	# vm.sh says so itself.
	[ -n "$booted" ] || ! why=$(disk_full "$stage") || echo "run.sh: $why" >&2 || :
	rm -rf "$stage"
}
trap finish EXIT
nonce=$(od -An -N8 -tx8 /dev/urandom | tr -d ' ')
own='' direct=1
args=()
if [ -n "${KERNEL:-}" ]; then
	cp "$KERNEL" "$stage/vmlinuz"
	args+=(-f "$stage/vmlinuz")
fi
if [ -n "${INITRD:-}" ]; then
	own=1
	cp "$INITRD" "$stage/guest.gz"
else
	RUN_DIR=$stage "$SRC/scripts/in-host.sh" "$IN_SRC/scripts/vm-image.sh" guest "$IN_RUN/guest.gz"
fi
args+=(-f "$stage/guest.gz")
if [ -n "${DISK:-}" ]; then
	[ -n "${KERNEL:-}${INITRD:-}" ] || own=1 direct=0
	# Never write to the user's file: QEMU gets a copy.
	cp --sparse=always "$DISK" "$stage/disk.img"
	args+=(-f "$stage/disk.img")
fi
timeout=${TIMEOUT:-$([ "$HOST" = amd ] && echo 400 || echo 1800)}
if [ "$HOST" != amd ]; then
	while IFS= read -r f; do args+=(-a "$f"); done < <(guest_paths)
fi
case ${MODULE:-ours} in ours) module="our kvm.ko" ;; *) module="the in-tree kvm" ;; esac
echo "Booting the $HOST host (kernel $KVER), then a ${MACHINE:-q35} guest with ${CPUS:-1} CPU(s) on $module"
rc=0 booted=1
"$SRC/scripts/vm.sh" -q -t "$timeout" "${args[@]}" \
	-e MODULE="${MODULE:-ours}" -e MACHINE="${MACHINE:-q35}" -e CPUS="${CPUS:-1}" -e MEMORY="${MEMORY:-256}" \
	-e IRQCHIP="${IRQCHIP:-on}" -e DIRECT=$direct -e NONCE="$nonce" -e MODULE_PARAMS="${MODULE_PARAMS:-}" \
	-e VENDOR_PARAMS="${VENDOR_PARAMS:-}" \
	"$SRC/scripts/run-job.sh" | tee "$stage/out" || rc=$?
far=$(sed -n 's/^RUN: //p' "$stage/out" | tail -n 1)
up=$(sed -n "s/.*GUEST-UP nonce=$nonce kernel=\([^ ]*\).*/\1/p" "$stage/out" | tail -n 1)
what="$module (${MACHINE:-q35}, ${CPUS:-1} CPU(s))" where="on $HOST host kernel $KVER, $(elapsed) s"
# With 125 it was the host's own.
panic=$(grep -m 1 -aoE '^(\[ *[0-9.]+\] )?Kernel panic - not syncing.*' "$stage/out") || :
if [ -n "$panic" ] && [ $rc != 125 ]; then
	echo "make run: the guest's kernel panicked on $what: ${panic#*] } ($where)"
	exit 1
fi
unclean=''
[ $rc != 99 ] || unclean=", but the host's kernel log is not clean (exit code 99)"
if [ -n "$up" ] && { [ $rc = 0 ] || [ $rc = 99 ]; }; then
	echo "make run: Linux $up reached its user space as a guest of $what$unclean $where"
	exit $rc
fi
if [ -n "$own" ] && { [ $rc = 0 ] || [ $rc = 99 ]; }; then
	echo "make run: your guest ran on $what and ended by itself$unclean, $where"
	exit $rc
fi
if [ -n "$own" ] && [ $rc = 124 ]; then
	echo "make run: your guest ran on $what and had not ended after $timeout s (another limit: TIMEOUT=), $where"
	exit $rc
fi
if [ -n "$up" ]; then
	echo "make run: Linux $up reached its user space as a guest of $what, but then: $far (exit code $rc, $where)"
	exit $rc
fi
if [ -n "${KERNEL:-}" ] && [ $rc = 0 ]; then
	echo "make run: your kernel ended by itself on $what, without the user space it was given (INITRD= is for one of your own), $where"
	exit 1
fi
echo "make run: no guest yet. It got this far: ${far:-the host did not come up} (exit code $rc, host kernel $KVER, $(elapsed) s)"
[ $rc != 0 ] || rc=1
exit $rc
