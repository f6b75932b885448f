#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Boot the guests of selftests/boots.tsv with QEMU on our module, as TAP.
#
#   selftests/run-boots.sh [--update] [NAME]...   default: all; "first" is the first one
#
# HOST=intel and ryzen boot those of boots-bochs.tsv. MODULE=stock runs them on the in-tree module. SEED_STALE=1 tells the guests another
# nonce than the one expected, SEED_RAISE=1 is a fault of the job's: every boot must then fail (make test-harness).
set -eu
here=$(cd "$(dirname "$0")" && pwd -P)
. "$here/../scripts/lib.sh"
. "$here/runner.sh"

while :; do
	case ${1:-} in
	--update) update=1 ;;
	--stock) MODULE=stock ;;
	*) break ;;
	esac
	shift
done
list=$here/boots.tsv
[ "$HOST" = amd ] || list=$here/boots-bochs.tsv
while IFS=$'\t' read -r name machine cpus irqchip memory boot scenario l e r; do
	case $name in '#'* | '') continue ;; esac
	want=''
	[ $# != 0 ] || want=1
	for w; do
		if [ "$w" = "$name" ] || { [ "$w" = first ] && [ ${#todo[@]} = 0 ]; }; then want=1 known[$w]=1; fi
	done
	[ -n "$want" ] || continue
	[ "$MODULE" != stock ] || e=pass
	l=$((l * SLOW))
	expect[$name]=$e baseline[$name]=pass limit[$name]=$l reason[$name]=$r
	row[$name]="$name	$machine	$cpus	$irqchip	$memory	$boot	$scenario	$l"
	todo+=("$name")
done <"$list"
all_known "$list" "$@"

need_folder
nonce=$(od -An -N8 -tx8 /dev/urandom | tr -d ' ')
told=$nonce
[ -z "${SEED_STALE:-}" ] || told=stale
stage=$(run_dir boots)
trap 'rm -rf "$stage"' EXIT
RUN_DIR=$stage "$SRC/scripts/in-host.sh" "$IN_SRC/scripts/vm-image.sh" guest "$IN_RUN/guest.gz"
vm_args=(-f "$stage/guest.gz" -e NONCE="$nonce" -e TOLD="$told")
[ -z "${KILLS:-}" ] || vm_args+=(-e KILLS="$KILLS")
[ -z "${SEED_RAISE:-}" ] || vm_args+=(-e SEED_RAISE="$SEED_RAISE")
if printf '%s\n' "${row[@]}" | grep -qP '\t(iso|ovmf)\t'; then
	RUN_DIR=$stage "$SRC/scripts/in-host.sh" "$IN_SRC/scripts/vm-image.sh" iso "$IN_RUN/guest.iso" \
		"$IN_RUN/guest.gz" "/boot/vmlinuz-$KVER" "console=ttyS0 quiet panic=-1 nonce=$told do=poweroff"
	vm_args+=(-f "$stage/guest.iso")
fi
if printf '%s\n' "${row[@]}" | grep -qP '\tdisk\t'; then
	"$SRC/scripts/in-host.sh" sh -ec "cd '$IN_SRC/build/${stage##*/}' && gcc -c -o sector.o '$IN_SRC/selftests/boot-sector.S' &&
		ld -Ttext 0x7c00 -e _start --oformat binary -o boot-sector.bin sector.o"
	vm_args+=(-f "$stage/boot-sector.bin")
	[ "$HOST" = amd ] || vm_args+=(-a /usr/share/seabios/vgabios-stdvga.bin)
fi
# One host CPU: with several, the emulator injects guest interrupts twice now and then.
export SMP=${SMP:-1}
if [ "$HOST" = amd ]; then
	[ "$VM_HOST" = debug ] || export MEM=${MEM:-4096}
else
	while IFS= read -r f; do vm_args+=(-a "$f"); done < <(
		guest_paths
		printf '%s\n' "$IN_SRC"/selftests/{boots-job.py,gdb_remote.py,account.py}
		python_paths json,os,re,signal,socket,subprocess,sys,time,traceback
	)
fi
run_hosts boots "$here/boots-job.sh"
finish "$list" 9
