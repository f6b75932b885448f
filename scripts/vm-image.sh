#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Make what the test host boots from. Runs inside the Debian 13 folder (in-host.sh).
#
#   vm-image.sh 9p OUT           initramfs that takes its root over 9p (AMD host)
#   vm-image.sh full OUT [PATH]  initramfs that holds PATHs and the libraries they
#                                need at the same places (Intel and Ryzen hosts)
#   vm-image.sh guest OUT        initramfs of the guest in the boot tests
#   vm-image.sh iso OUT INITRD KERNEL APPEND [COMMANDS]   a CD that boots them with GRUB,
#                                after some of its commands
set -eu -o pipefail
kind=$1 out=$2
shift 2
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

pack() {
	(cd "$tmp" && find . | cpio --quiet -o -H newc | gzip -1) >"$out"
}

# Copy a file with all the links on the way, and the libraries a program asks for.
declare -A done_paths=()
add() {
	local f=$1 real lib
	[ -z "${done_paths[$f]:-}" ] || return 0
	done_paths[$f]=1
	if [ -d "$f" ]; then
		while IFS= read -r lib; do add "$lib"; done < <(find "$f" ! -type d)
		return 0
	fi
	[ -e "$f" ] || { echo "vm-image.sh: no such file: $f" >&2; return 1; }
	real=$(readlink -f "$f")
	if [ "$real" != "$f" ]; then
		add "$real"
		# Directory links (/lib, /bin) exist in the image already.
		case $f in /lib/* | /lib64/* | /bin/* | /sbin/*) f=/usr$f ;; esac
		if [ "$real" != "$f" ]; then
			mkdir -p "$tmp${f%/*}"
			ln -sf "$real" "$tmp$f"
		fi
		return 0
	fi
	mkdir -p "$tmp${f%/*}"
	cp -p "$f" "$tmp$f"
	# Nobody reads debug information there, and an emulated machine unpacks it slowly.
	case $f in "$SRC"/*) strip --strip-debug "$tmp$f" 2>/dev/null || : ;; esac
	if [ "$(head -c4 "$f" | tail -c3 | tr -d '\0')" = ELF ] && [ "${f%.ko}" = "$f" ]; then
		while IFS= read -r lib; do add "$lib"; done < <(
			ldd "$f" 2>/dev/null | grep -o '/[^ ]*' || true)
	fi
}

case $kind in
9p)
	mkdir -p "$tmp/bin" "$tmp/m"
	cp /bin/busybox "$tmp/bin/"
	ln -s busybox "$tmp/bin/sh"
	dir=${MODDIR:-/lib/modules/$KVER}/kernel
	for m in fs/netfs/netfs net/9p/9pnet net/9p/9pnet_virtio fs/9p/9p; do
		[ ! -e "$dir/$m.ko" ] || cp "$dir/$m.ko" "$tmp/m/"
		[ ! -e "$dir/$m.ko.xz" ] || cp "$dir/$m.ko.xz" "$tmp/m/"
	done
	cp "$SRC/scripts/vm-init.sh" "$tmp/init"
	pack
	;;
guest)
	mkdir -p "$tmp/bin" "$tmp/m"
	cp /bin/busybox "$tmp/bin/"
	ln -s busybox "$tmp/bin/sh"
	cp "$SRC/selftests/guest-init.sh" "$tmp/init"
	i=10
	dir=/lib/modules/$KVER
	for m in virtio_pci virtio_mmio virtio_blk virtio_net; do
		for f in $(sed -n "s|^\(kernel/[^:]*/$m\.ko[^:]*\): *|\1 |p" "$dir/modules.dep" | tr ' ' '\n' | tac); do
			[ -e "$tmp/m/${f##*/}" ] || ls "$tmp"/m/*-"${f##*/}" >/dev/null 2>&1 || cp "$dir/$f" "$tmp/m/$i-${f##*/}"
			i=$((i + 1))
		done
	done
	pack
	;;
full)
	mkdir -p "$tmp"/usr/{bin,sbin,lib,lib64} "$tmp"/{proc,sys,dev,tmp,root,run,etc} \
		"$tmp/build/src" "$tmp/build/run"
	for d in bin sbin lib lib64; do ln -s "usr/$d" "$tmp/$d"; done
	cp /bin/busybox "$tmp/usr/bin/"
	ln -s busybox "$tmp/usr/bin/sh"
	cp "$SRC/scripts/vm-init.sh" "$tmp/init"
	for f in "$@"; do add "$f"; done
	pack
	;;
iso)
	mkdir -p "$tmp/boot/grub"
	ln "$1" "$tmp/boot/initrd" 2>/dev/null || cp "$1" "$tmp/boot/initrd"
	cp "$2" "$tmp/boot/vmlinuz"
	cat >"$tmp/boot/grub/grub.cfg" <<-END
		set timeout=0
		serial --unit=0 --speed=115200
		terminal_output serial
		${4:-}
		menuentry host {
			linux /boot/vmlinuz $3
			initrd /boot/initrd
		}
	END
	grub-mkrescue -o "$out" "$tmp" >"$tmp.log" 2>&1 || { cat "$tmp.log" >&2; exit 1; }
	rm -f "$tmp.log"
	;;
*)
	echo "vm-image.sh: unknown kind $kind" >&2
	exit 2
	;;
esac
