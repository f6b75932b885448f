#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Make the Rust artefacts that Debian's linux-headers package lacks.
#
#   scripts/kernel-rust.sh [VERSION]    default: the running kernel
#
# linux-headers-VERSION says CONFIG_RUST=y but ships neither the metadata of the
# kernel's Rust crates nor the target description, so no Rust module can be built
# with it. They are regenerated here from linux-source of the same package version,
# with the same configuration and the same compilers, and put where a module build
# looks: /usr/src/linux-headers-VERSION/{rust,scripts/target.json}. Nothing else of
# the system changes. Takes 3 to 6 minutes and 2.5 GB in /var/cache, of which nothing stays,
# and 190 MB with the headers. One that was killed is gone on with, with the source it unpacked if
# that is of the version now wanted. One run at a time: others wait, whatever their kernel.
#
# Runs on a real Debian 13 host and, from host-setup.sh, in the Debian 13 folder.
# WORK= works in another directory and keeps the unpacked source there.
set -eu

say() { printf 'kernel-rust: %s\n' "$*"; }
die() {
	printf 'kernel-rust: %s\n' "$*" >&2
	exit 1
}
# That a file system is full is what the last lines of a log rarely tell.
die_or_full() { # DIR, LOG, why else
	local avail
	avail=$(df -k --output=avail "$1" | tail -n 1)
	if [ "$avail" -lt 4096 ] || grep -qsi 'no space left on device' "$2"; then
		die "no space is left on the file system of $1 ($((avail / 1024)) MB are free now): 2500 MB are needed there; WORK= names another directory"
	fi
	die "$3"
}

V=${1:-$(uname -r)}
H=/usr/src/linux-headers-$V
[ -f "$H/.config" ] || die "$H is missing: boot Debian 13's backports kernel, and apt-get install linux-headers-$V"
grep -q '^CONFIG_RUST=y' "$H/.config" ||
	die "kernel $V is built without CONFIG_RUST: use Debian 13's backports kernel (7.3.x)"

want=$(sed -n 's/^CONFIG_RUSTC_VERSION_TEXT="\(.*\)"/\1/p' "$H/.config")
pkgver=$(dpkg-query -W -f '${Version}' "linux-headers-$V" 2>/dev/null) || pkgver=
# A new version of the package leaves what was made for the one before where it is.
there() {
	[ -e "$H/rust/libkernel.rmeta" ] && [ "$(cat "$H/rust/.made-with" 2>/dev/null)" = "$want" ] &&
		[ "$(cat "$H/rust/.made-for" 2>/dev/null || echo "$pkgver")" = "$pkgver" ]
}
if there; then
	say "the artefacts for $V are there already"
	exit 0
fi
[ "$(id -u)" = 0 ] || die "needs root, to write into $H"
exec 9>/run/kernel-rust.lock
if ! flock -n 9; then
	say "another run is at work; waiting for it to end"
	flock 9
	! there || exit 0
fi

series=$(printf '%s' "$V" | cut -d. -f1-2)
[ -n "$pkgver" ] || die "linux-headers-$V is not installed as a package"
need=()
for p in rustc rust-src bindgen gcc-14 make flex bison bc libelf-dev libssl-dev openssl \
	pahole python3 xz-utils; do
	[ "$(dpkg-query -W -f '${db:Status-Status}' $p 2>/dev/null)" = installed ] || need+=("$p")
done
if [ "$(dpkg-query -W -f '${Version}' "linux-source-$series" 2>/dev/null)" != "$pkgver" ]; then
	need+=("linux-source-$series=$pkgver")
fi
if [ ${#need[@]} != 0 ]; then
	say "installing ${need[*]}"
	apt-get update -q >/dev/null || die "apt-get update failed: is there a network?"
	apt-get install -qy --no-install-recommends "${need[@]}" >/dev/null ||
		die "could not install ${need[*]} (the source must have exactly the headers' version)"
fi
have=$(rustc --version)
[ "$have" = "$want" ] ||
	die "kernel $V was built with '$want', but rustc here is '$have'; install that one (trixie's rustc, not rustup's)"

work=${WORK:-/var/cache/kernel-rust}
[ -n "${WORK:-}" ] || trap 'rm -rf "$work"' EXIT
trap 'say "interrupted: run the same command again" >&2; exit 130' INT TERM HUP
mkdir -p "$work" || die "cannot write to $work (WORK= names another directory)"
rm -rf "$work/k"
free=$(df -k --output=avail "$work" | tail -n 1)
need=$((2500000 - $(du -sk "$work" | cut -f1)))
[ "$free" -gt $need ] ||
	die "$work has $((free / 1024)) MB free and $((need / 1000)) are needed: free some space there, or name another directory (WORK=)"
src=$work/linux-source-$series
# A series has one directory, whichever of its versions was unpacked there.
if [ "$(cat "$src/.unpacked" 2>/dev/null)" != "$pkgver" ]; then
	say "unpacking linux-source-$series ($pkgver)"
	rm -rf "$src"
	tar -C "$work" -xf "/usr/src/linux-source-$series.tar.xz" ||
		die_or_full "$work" /dev/null "/usr/src/linux-source-$series.tar.xz cannot be unpacked (above)"
	printf '%s\n' "$pkgver" >"$src/.unpacked"
fi
say "building the kernel's Rust crates (2 to 5 minutes)"
mkdir -p "$work/k"
cp "$H/.config" "$work/k/"
make -C "$src" O="$work/k" -j"$(nproc)" CC=x86_64-linux-gnu-gcc-14 HOSTCC=gcc-14 \
	modules_prepare >"$work/prepare.log" 2>&1 ||
	{ tail -n 30 "$work/prepare.log" >&2; die_or_full "$work" "$work/prepare.log" "modules_prepare failed"; }
cmp -s <(grep -v '^#' "$H/.config") <(grep -v '^#' "$work/k/.config") || {
	diff <(grep -v '^#' "$H/.config") <(grep -v '^#' "$work/k/.config") | head -n 10 >&2
	die "this toolchain changes the kernel's configuration (above): the result would not match the kernel"
}

# Half a set must never look like a whole one: the directory appears by one rename.
rm -rf "$H/.rust.new"
mkdir "$H/.rust.new"
cp -a "$work"/k/rust/*.rmeta "$work"/k/rust/*.so "$H/.rust.new/" &&
	cp "$work/k/scripts/target.json" "$H/scripts/.target.json.new" &&
	printf '%s\n' "$want" >"$H/.rust.new/.made-with" &&
	printf '%s\n' "$pkgver" >"$H/.rust.new/.made-for" ||
	die "cannot write to $H: 190 MB are needed there"
mv "$H/scripts/.target.json.new" "$H/scripts/target.json"
rm -rf "$H/rust"
mv "$H/.rust.new" "$H/rust"
rm -rf "$work/k"
say "done: $(du -sh "$H/rust" | cut -f1) in $H/rust"
