#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Runs in the test host for `make run`: load a module, boot one guest, show its console.
# Lines "RUN: ..." say how far it got; scripts/run.sh shows the last one.

K=/lib/modules/$KVER/kernel
say() { echo "RUN: $*"; }
say "the host is up"
if [ "$MODULE" = stock ]; then
	insmod $K/virt/lib/irqbypass.ko.xz
	insmod $K/arch/x86/kvm/kvm.ko.xz || exit 1
	if [ "$HOST" = intel ]; then
		insmod $K/arch/x86/kvm/kvm-intel.ko.xz || exit 1
	else
		insmod $K/drivers/crypto/ccp/ccp.ko.xz
		insmod $K/arch/x86/kvm/kvm-amd.ko.xz || exit 1
	fi
else
	# shellcheck disable=SC2086
	insmod /build/src/kvm.ko $MODULE_PARAMS || { say "kvm.ko does not load"; exit 1; }
	if [ -n "$VENDOR_PARAMS" ]; then
		thin=kvm-amd
		[ "$HOST" != intel ] || thin=kvm-intel
		# shellcheck disable=SC2086
		insmod /build/src/$thin.ko $VENDOR_PARAMS || { say "$thin.ko does not load"; exit 1; }
	fi
fi
[ -c /dev/kvm ] || { say "the module loads, but there is no /dev/kvm"; exit 1; }
say "the module is loaded, /dev/kvm is there, QEMU starts; the guest did not report"

machine=$MACHINE,kernel-irqchip=$IRQCHIP
append="console=ttyS0 loglevel=5 panic=-1 nonce=$NONCE do=poweroff" bus=pci
if [ "$MACHINE" = microvm ]; then
	machine=$machine,pcie=off,rtc=on,pit=on,pic=on
	# It has no power switch: a guest ends by a reset, and the kernel knows no other way to one.
	append="$append reboot=t" bus=device
fi
kernel=/boot/vmlinuz-$KVER
[ ! -e /build/run/vmlinuz ] || kernel=/build/run/vmlinuz
set -- -L /usr/share/seabios -L /usr/share/qemu -accel kvm -machine "$machine" -cpu host -smp "$CPUS" -m "$MEMORY" -nodefaults \
	-display none -serial stdio -no-reboot
if [ -e /build/run/disk.img ]; then
	set -- "$@" -drive if=none,id=d,format=raw,file=/build/run/disk.img -device virtio-blk-$bus,drive=d
fi
if [ "$DIRECT" = 1 ]; then
	set -- "$@" -kernel "$kernel" -initrd /build/run/guest.gz \
		-append "$append"
fi
qemu-system-x86_64 "$@" </dev/null 2>/tmp/qemu.err
rc=$?
cat /tmp/qemu.err
[ $rc = 0 ] || { say "QEMU on /dev/kvm ended with exit code $rc: $(head -n 1 /tmp/qemu.err)"; exit $rc; }
say "QEMU ran a guest and ended by itself"
if [ "$MODULE" != stock ]; then
	[ ! -d /sys/module/kvm_amd ] || rmmod kvm_amd
	[ ! -d /sys/module/kvm_intel ] || rmmod kvm_intel
	rmmod kvm || { say "the module does not unload after the guest"; exit 1; }
fi
exit 0
