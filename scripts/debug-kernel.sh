#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Build the kernel of HOST=debug: the test host's kernel from its source package, with lockdep,
# checks for sleeping in atomic context, KASAN, kmemleak and fault injection
# (scripts/debug.config), and only the drivers that the host needs.
#
#   scripts/debug-kernel.sh            does nothing if it is there; takes 20 minutes to an hour, 2.6 GB
#   scripts/debug-kernel.sh --cached   is it there, for the test host's kernel and from this fragment?
#
# It is built once into the cache, by clang, because KASAN with Rust needs that. An interrupted
# build goes on where it stopped.
set -eu
. "$(dirname "$0")/lib.sh"
config=$SRC/scripts/debug.config
want="$(sha256sum <"$config" | cut -c1-16)"

if [ "${1:-}" = inside ]; then
	series=$2
	mkdir -p $IN_DEBUG
	cd $IN_DEBUG
	source=linux-source-$series
	if [ ! -e "$source/.unpacked" ]; then
		rm -rf "$source"
		tar -xf "/usr/src/$source.tar.xz"
		touch "$source/.unpacked"
	fi
	mkdir -p k
	export KBUILD_BUILD_USER=kvm-rs KBUILD_BUILD_HOST=debug
	run() { make -C "$source" O=$IN_DEBUG/k CC=clang HOSTCC=gcc-14 "$@"; }
	run tinyconfig
	"$source/scripts/kconfig/merge_config.sh" -m -O k k/.config "$config"
	run olddefconfig
	# A typing error in the fragment, or a dependency that is gone, must not pass silently.
	grep '^CONFIG_[A-Z0-9_]*=[ym]' "$config" | while IFS= read -r line; do
		grep -qxF "$line" k/.config || { echo "debug.config: $line did not take effect"; exit 1; }
	done
	run -j"$(nproc)" bzImage modules
	exit 0
fi

need_folder
if [ "${1:-}" = --cached ]; then
	[ "$(cat "$DEB$IN_DEBUG/.ready" 2>/dev/null)" = "$KVER $want" ]
	exit
fi
exec 8>"$CACHE/.debug.lock"
flock -n 8 || { echo "debug-kernel: another build of it is at work; waiting for it to end" && flock 8; }
[ "$(cat "$DEB$IN_DEBUG/.ready" 2>/dev/null)" != "$KVER $want" ] || exit 0
free=$(df -k --output=avail "$CACHE" | tail -n 1)
[ -d "$DEB$IN_DEBUG" ] || [ "$free" -ge 4000000 ] ||
	die "$CACHE has $((free / 1024)) MB free, the debug kernel needs 4000: free some space or set KVM_RS_CACHE"
rm -f "$DEB$IN_DEBUG/.ready"
series=$(printf '%s' "$KVER" | cut -d. -f1-2)
log=$CACHE/log/debug-kernel.log
echo "debug-kernel: building (20 minutes to an hour; log: $log)"
bound "$SRC/scripts/in-host.sh" nice -n 10 "$IN_SRC/scripts/debug-kernel.sh" inside "$series" >"$log" 2>&1 </dev/null &
wait $! || {
	why=$(disk_full "$CACHE" "$log") || why="that failed"
	tail -n 25 "$log" >&2
	die "$why; the whole log is $log. Run the same command again to go on from here"
}
echo "$KVER $want" >"$DEB$IN_DEBUG/.ready"
echo "debug-kernel: $(debug_kernel) is ready"
