#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Run a command inside the Debian 13 folder, with this checkout at /build/src.
#
#   scripts/in-host.sh CMD [ARG]...
#
# The mounts live in a mount namespace of their own: several checkouts can build at
# the same time, each sees itself at the same path, and nothing is left mounted
# behind. /tmp is private too. RUN_DIR, if set, appears at /build/run.
# The working directory is /build/src; IN_DIR chooses another.
set -eu
. "$(dirname "$0")/lib.sh"

if [ "${IN_HOST_STAGE:-}" != mounted ]; then
	[ $# -gt 0 ] || die "usage: in-host.sh CMD [ARG]..."
	need_root
	[ -x "$DEB/usr/bin/busybox" ] || die "no test host in $DEB: run scripts/host-setup.sh first"
	# While set-up is at work there is no kernel yet.
	KVER=$(folder_kernel) || KVER=
	mkdir -p "$DEB/build/src" "$DEB/build/run" "$DEB/build/cargo" "$CACHE/cargo"
	export IN_HOST_STAGE=mounted KVER
	exec unshare -m --propagation private -- "$0" "$@"
fi
unset IN_HOST_STAGE

# Quiet about what is absent on a minimal machine: only the folder itself must mount.
bind() { mount --bind "$1" "$DEB$2"; }
bind "$SRC" "$IN_SRC"
bind "$CACHE/cargo" /build/cargo
[ -z "${RUN_DIR:-}" ] || bind "$RUN_DIR" "$IN_RUN"
mount -t proc proc "$DEB/proc"
mount --rbind /dev "$DEB/dev"
mount -t tmpfs -o mode=1777 tmp "$DEB/tmp"
if [ -f /etc/resolv.conf ] && [ -f "$DEB/etc/resolv.conf" ]; then
	mount --bind "$(readlink -f /etc/resolv.conf)" "$DEB/etc/resolv.conf"
fi
# cargo checks servers against the machine's own certificates, not the folder's.
ca=/etc/ssl/certs/ca-certificates.crt
if [ -f "$ca" ]; then
	cp "$ca" "$DEB/tmp/ca.crt"
	ca=/tmp/ca.crt
fi

exec env -i HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
	LANG=C.UTF-8 TERM="${TERM:-dumb}" KVER="$KVER" \
	SRC="$IN_SRC" RUN="$IN_RUN" CARGO_HOME=/build/cargo CARGO_HTTP_CAINFO="$ca" \
	${CARGO_TARGET_DIR:+CARGO_TARGET_DIR="$CARGO_TARGET_DIR"} \
	${RUSTFLAGS:+RUSTFLAGS="$RUSTFLAGS"} \
	${http_proxy:+http_proxy="$http_proxy"} ${https_proxy:+https_proxy="$https_proxy"} \
	chroot "$DEB" /bin/sh -c 'cd "$0" && exec "$@"' "${IN_DIR:-$IN_SRC}" "$@"
