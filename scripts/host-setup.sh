#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Prepare the test host: a Debian 13 userland in a folder, with the newest supported
# stock kernel, the toolchain that built it, the emulators, the Rust artefacts its
# headers package lacks, and the kernel's own KVM selftests.
#
#   scripts/host-setup.sh           do what is missing (a second when nothing is)
#   scripts/host-setup.sh --status  say what is there
#
# Everything goes into one directory, KVM_RS_CACHE (default ~/.cache/kvm-rs); delete
# it to start over. Each step leaves a stamp, so an interrupted set-up goes on where
# it stopped; a second one at the same time waits for the first. Package mirrors are
# the ones in this machine's apt sources (or KVM_RS_MIRROR and KVM_RS_SECURITY).
set -eu
. "$(dirname "$0")/lib.sh"

base="apt-utils bash bc bindgen bison bochs bochs-x bochsbios busybox-static ca-certificates cargo
 clang cpio e2fsprogs flex gcc-14 grub-common grub-efi-amd64-bin grub-pc-bin kmod libcap-dev libelf-dev libnuma-dev
 libssl-dev make mtools openssl ovmf pahole python3 qemu-system-x86 qemu-utils rsync rust-clippy rust-src rustc
 rustfmt socat uuid-dev vgabios xorriso xz-utils zstd"
started=$SECONDS
steps=6 step=0
say() {
	step=$((step + 1))
	printf '[%2d:%02d] %d/%d %s\n' $(((SECONDS - started) / 60)) $(((SECONDS - started) % 60)) \
		$step $steps "$*"
}

again="Run the same command again to go on from here"
# What stops most is no space or no network, and what met it seldom says so plainly.
reason() { # LOG
	local why
	if why=$(disk_full "$CACHE" "$1"); then
		echo "$why. Set-up needs $(($(needed) / 1000)) MB there: free some space, or set KVM_RS_CACHE to a directory elsewhere"
	elif grep -qsE 'Could not (resolve|connect|handshake)|Temporary failure (in name resolution|resolving)|(Connection|Network) (timed out|failed|is unreachable)|Unable to connect|Connection refused' "$1"; then
		echo "the package archive cannot be reached (${mirror:-apt knows which}): check the network, and apt's proxy"
	else
		echo "that failed"
	fi
}
# What set-up takes at its peak, in kB, with the kernel's source unpacked and built.
total=6000000
# The same less what is there already.
needed() {
	local there
	there=$(du -sk --exclude=debug "$DEB" 2>/dev/null | cut -f1)
	there=$((total - ${there:-0}))
	echo $((there < 500000 ? 500000 : there))
}

# Run a noisy command; show its last lines only if it fails. It does not outlive this script, and has
# the lock while it is there.
log=/dev/null child=
logged() {
	log=$CACHE/log/$1.log
	shift
	[ "$1" != in_folder ] || set -- env IN_DIR=/ "$SRC/scripts/in-host.sh" "${@:2}"
	bound "$@" >"$log" 2>&1 </dev/null &
	child=$!
	wait "$child" || {
		why=$(reason "$log")
		# On a full disk the log ends anywhere.
		tail -n 25 "$log" | sed '$a\' >&2
		die "$why. The whole log is $log. $again"
	}
	child=
}
stamp() { cat "$DEB/build/.stamp/$1" 2>/dev/null || :; }
set_stamp() {
	mkdir -p "$DEB/build/.stamp"
	printf '%s\n' "$2" >"$DEB/build/.stamp/.$1.new"
	mv "$DEB/build/.stamp/.$1.new" "$DEB/build/.stamp/$1"
}
in_folder() { IN_DIR=/ "$SRC/scripts/in-host.sh" "$@"; }
missing_packages() {
	local have
	have=" $(chroot "$DEB" dpkg-query -W -f '${db:Status-Status} ${Package}\n' |
		sed -n 's/^installed //p' | tr '\n' ' ') "
	for p in $base; do
		case $have in *" $p "*) ;; *) echo "$p" ;; esac
	done
}

if [ "${1:-}" = --status ]; then
	[ -d "$DEB" ] || die "nothing in $DEB"
	for s in base kernel rust kselftests; do printf '%-12s %s\n' $s "$(stamp $s)"; done
	exit 0
fi
[ $# = 0 ] || die "usage: host-setup.sh [--status]"
need_root
[ "$(uname -m)" = x86_64 ] || die "this machine is $(uname -m); the test host is x86-64 only"
command -v apt-get >/dev/null || die "this machine has no apt-get: set-up runs on Debian 12 or 13"
mkdir -p "$CACHE/log" || die "cannot write to $CACHE (set KVM_RS_CACHE)"

exec 8>"$CACHE/.lock"
if ! flock -n 8; then
	echo "host-setup: another set-up is at work in $CACHE; waiting for it to end"
	flock 8
fi

# Nothing to do is the usual case, and must not cost more than a look.
want_base=$(printf '%s' "$base" | tr -s ' \n' ' ')
kernel=$(stamp kernel)
if [ "$(stamp base)" = "$want_base" ] && [ -n "$kernel" ] &&
	[ "$(stamp rust)" = "$kernel" ] && [ "$(stamp kselftests)" = "$kernel" ] && [ ! -e "$DEB/build/work" ]; then
	exit 0
fi

# What an earlier run was interrupted in is done anew.
rm -rf --one-file-system "$CACHE/host.new" "$DEB"/build/kselftests.??????
{ read -r _ && read -r free all inodes where; } < <(df -k --output=avail,itotal,iavail,target "$CACHE")
need=$(needed)
[ "$free" -ge "$need" ] ||
	die "$CACHE has $((free / 1024)) MB free (mounted on $where), set-up needs $((need / 1000)): free some space or set KVM_RS_CACHE"
[ "${all/#-/0}" = 0 ] || [ "$inodes" -ge 300000 ] || [ -d "$DEB/usr" ] ||
	die "$CACHE has room for $inodes files (mounted on $where), set-up needs 300000: set KVM_RS_CACHE to a directory elsewhere"

# What fails outside of that is short of space, or has said why.
finish() { # exit code
	[ "$1" = 0 ] || [ "$1" = 130 ] || [ -n "${why:-}" ] || ! why=$(disk_full "$CACHE") ||
		printf 'host-setup.sh: %s. %s\n' "$(reason /dev/null)" "$again" >&2
	# What is of no use to the next run goes, as its room may be wanted.
	rm -rf --one-file-system "$CACHE/host.new" "$DEB"/build/kselftests.?????? 2>/dev/null || :
}
trap 'finish $?' EXIT
interrupted() {
	[ -z "$child" ] || { kill -KILL "$child" && wait "$child"; } 2>/dev/null || :
	echo "host-setup.sh: interrupted. $again" >&2
	exit 130
}
trap interrupted INT TERM HUP

say "This machine: mirrors and tools"
# Without the mode, apt-get update without a network is a success.
folder_update() {
	logged folder-update in_folder apt-get -o Acquire::Retries=3 -o APT::Update::Error-Mode=any update -q
}
# What dpkg was interrupted in must be ended before it takes anything else; what it cannot end
# because something is missing, apt-get -f does.
folder_install() { # NAME, PACKAGE...
	local name=$1
	shift
	logged "$name" in_folder env INITRD=No DEBIAN_FRONTEND=noninteractive sh -c '
		dpkg --configure -a || :
		exec apt-get -o Acquire::Retries=3 install -f -qy --no-install-recommends "$@"' sh "$@"
	in_folder apt-get clean
}
if ! command -v mmdebstrap >/dev/null || [ ! -e /usr/share/keyrings/debian-archive-keyring.gpg ] ||
	! command -v unshare >/dev/null; then
	patient="-o Acquire::Retries=3 -o DPkg::Lock::Timeout=300"
	# shellcheck disable=SC2086
	logged apt-update apt-get $patient update -q
	# shellcheck disable=SC2086
	logged apt-install env DEBIAN_FRONTEND=noninteractive \
		apt-get $patient install -qy --no-install-recommends mmdebstrap debian-archive-keyring util-linux
fi

# The archive as this machine knows it, in either format of apt's sources.
first_site() {
	apt-get indextargets --format '$(SITE) $(RELEASE)' 'Created-By: Packages' 2>/dev/null |
		sed -n "$1" | head -n 1 | while read -r site; do
		case $site in
		mirror+file:*) grep -m1 -oE 'https?://[^[:space:]]+' "${site#mirror+file:}" ;;
		*) printf '%s\n' "$site" ;;
		esac
	done
}
suites='\(bookworm\|trixie\|forky\|sid\|stable\|oldstable\|testing\|unstable\)'
mirror=${KVM_RS_MIRROR:-$(first_site "/debian\/\? /s/ $suites\$//p")}
security=${KVM_RS_SECURITY:-$(first_site "s/ $suites-security\$//p")}
[ -n "$mirror" ] ||
	die "apt's sources name no Debian archive: set KVM_RS_MIRROR (and KVM_RS_SECURITY) to one that has trixie"
[ -n "$security" ] ||
	echo "host-setup: apt's sources name no security archive; the folder goes without (KVM_RS_SECURITY)"

say "Debian 13 userland in $DEB (about 2 minutes, 2.5 GB)"
pins=$CACHE/pins
cat >"$pins" <<-'END'
	Package: linux-image-* linux-headers-* linux-source-* linux-base* linux-binary-* linux-modules-* linux-kbuild-* qemu-system-* qemu-utils seabios
	Pin: release n=trixie-backports
	Pin-Priority: 990
END
if [ ! -x "$DEB/usr/bin/busybox" ]; then
	new=$CACHE/host.new
	rm -rf --one-file-system "$new"
	sources=("deb $mirror trixie main" "deb $mirror trixie-updates main"
		"deb $mirror trixie-backports main")
	[ -z "$security" ] || sources+=("deb $security trixie-security main")
	# This machine's proxy, if it has one, is needed inside as well.
	proxy=()
	while IFS= read -r line; do proxy+=(--aptopt="$line"); done < <(
		apt-config dump 2>/dev/null | grep -E '^Acquire::https?::[Pp]roxy ' || :)
	# A private mount namespace: if this is interrupted, no mount is left behind.
	logged mmdebstrap env INITRD=No unshare -m mmdebstrap --variant=apt --mode=root \
		"${proxy[@]+"${proxy[@]}"}" --aptopt='Acquire::Retries "3"' \
		--setup-hook="install -D -m644 '$pins' \"\$1/etc/apt/preferences.d/backports\"" \
		--include="$(printf '%s' "$want_base" | sed 's/^ *//; s/ *$//; s/ /,/g')" \
		trixie "$new" "${sources[@]}"
	[ -e "$new/etc/resolv.conf" ] || : >"$new/etc/resolv.conf"
	mkdir -p "$new/build"
	mv "$new" "$DEB"
fi
mkdir -p "$DEB/build/src" "$DEB/build/run"
more=$(missing_packages)
if [ -n "$more" ]; then
	folder_update
	# shellcheck disable=SC2086
	folder_install folder-install $more
fi
set_stamp base "$want_base"

say "Kernel: the newest supported one in the archive"
kernel=$(stamp kernel)
[ -n "$kernel" ] || kernel=$(folder_kernel || :)
if [ -z "$kernel" ]; then
	folder_update
	# Images that have no headers package of the same version cannot be built for.
	names=$(in_folder apt-cache pkgnames linux-image-)
	printf '%s\n' "$names" | sed -n 's/^linux-image-\([0-9][0-9.]*+deb13-amd64\)$/\1/p' | sort -rV >"$CACHE/images"
	names=$(in_folder apt-cache pkgnames linux-headers-)
	printf '%s\n' "$names" | sed -n 's/^linux-headers-\([0-9].*-amd64\)$/\1/p' >"$CACHE/headers"
	while IFS="$(printf '\t')" read -r pattern state note; do
		case $pattern in '#'* | '') continue ;; esac
		while IFS= read -r v; do
			# shellcheck disable=SC2254
			case $v in $pattern) ;; *) continue ;; esac
			grep -qxF "$v" "$CACHE/headers" || continue
			series=$(printf '%s' "$v" | cut -d. -f1-2)
			pkgver=$(in_folder apt-cache show "linux-headers-$v" |
				sed -n 's/^Version: //p' | sort -V | tail -n 1)
			in_folder apt-cache madison "linux-source-$series" | grep -qF " $pkgver " || continue
			kernel=$v
			break 2
		done <"$CACHE/images"
	done <"$SRC/scripts/kernels.tsv"
	[ -n "$kernel" ] ||
		die "the archive has none of the kernels in scripts/kernels.tsv any more (it has: $(tr '\n' ' ' <"$CACHE/images"))"
	echo "        $kernel ($pkgver): $state, $note"
	folder_install kernel-install \
		"linux-image-$kernel" "linux-headers-$kernel" "linux-source-$series=$pkgver"
fi
set_stamp kernel "$kernel"

series=$(printf '%s' "$kernel" | cut -d. -f1-2)
say "Rust artefacts for $kernel (about 3 minutes)"
if [ "$(stamp rust)" != "$kernel" ]; then
	if [ ! -e "$DEB/usr/src/linux-headers-$kernel/rust/libkernel.rmeta" ]; then
		logged kernel-rust in_folder env WORK=/build/work \
			"$IN_SRC/scripts/kernel-rust.sh" "$kernel"
	fi
	set_stamp rust "$kernel"
fi

say "The kernel's own KVM selftests (about a minute)"
if [ "$(stamp kselftests)" != "$kernel" ]; then
	source=/build/work/linux-source-$series
	if [ ! -e "$DEB$source/.unpacked" ]; then
		mkdir -p "$DEB/build/work"
		logged unpack in_folder tar -C /build/work -xf "/usr/src/linux-source-$series.tar.xz"
	fi
	logged kselftests in_folder "$IN_SRC/scripts/kselftests.sh" "$source" /build/kselftests
	set_stamp kselftests "$kernel"
fi

say "Tidying up"
rm -rf --one-file-system "$DEB/build/work"
rm -f "$CACHE/images" "$CACHE/headers" "$CACHE/pins"
printf 'The test host is ready: %s, %s, %s; %s in %s\n' "$kernel" \
	"$(in_folder rustc --version | cut -d' ' -f1-2)" \
	"$(in_folder qemu-system-x86_64 --version | sed -n 's/^QEMU emulator version \([^ ]*\).*/QEMU \1/p')" \
	"$(du -sh "$DEB" 2>/dev/null | cut -f1)" "$CACHE"
