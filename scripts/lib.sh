# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
# Sourced by the scripts that need the cache: where things are, and how a script speaks.
#
#   SRC    the checkout this script belongs to
#   CACHE  what set-up keeps between runs (KVM_RS_CACHE, default ~/.cache/kvm-rs)
#   DEB    the Debian 13 folder inside it: the test host's userland and toolchain

SRC=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
CACHE=${KVM_RS_CACHE:-${HOME:-/root}/.cache/kvm-rs}
DEB=$CACHE/host

# Where the checkout and a run's own directory appear inside the folder and inside
# the test host. The same place everywhere, so that paths in jobs and in object
# files do not depend on where the checkout is.
IN_SRC=/build/src
IN_RUN=/build/run

die() {
	printf '%s: %s\n' "${0##*/}" "$*" >&2
	exit 1
}

case $CACHE/ in
"$SRC"/*) die "KVM_RS_CACHE=$CACHE is in the checkout, where make clean looks: choose another place" ;;
/*) ;;
*) die "KVM_RS_CACHE=$CACHE: a path from / is needed" ;;
esac

# What a user may choose, checked before anything is done.
one_of() { # NAME, VALUE, WORD...
	local name=$1 value=$2 w
	shift 2
	for w; do [ "$value" != "$w" ] || return 0; done
	die "$name=$value: there is $(printf '%s, ' "$@" | sed 's/, $//')"
}
number() { # NAME, VALUE, LEAST, MOST
	case $2 in
	'' | *[!0-9]* | 0?* | ??????????*) ;;
	*) [ "$2" -lt "$3" ] || [ "$2" -gt "$4" ] || return 0 ;;
	esac
	die "$1=$2: a number from $3 to $4 is needed"
}

# When something has failed: a sentence if the file system of DIR has no space left, or if LOG says
# that one had none (what failed may have given some back since); otherwise nothing, and 1.
disk_full() { # DIR, [LOG]
	local avail=- all=0 inodes=- where=-
	{ read -r _ && read -r avail all inodes where; } < <(df -k --output=avail,itotal,iavail,target "$1" 2>/dev/null) || :
	# Not every file system counts inodes.
	[ "${all/#-/0}" != 0 ] || inodes=64
	if [ "${avail/#-/4096}" -lt 4096 ] || [ "${inodes/#-/64}" -lt 64 ]; then
		echo "no space is left on the file system of $1 (mounted on $where)"
	elif grep -qsiE "no space left on device|enough free space|exceeds free space|os error 28" "${2:-/dev/null}"; then
		echo "a file system had no space left (on that of $1, mounted on $where, $((${avail/#-/0} / 1024)) MB are free now)"
	else
		return 1
	fi
}

# In the background only: a command that ends when this script does, by whatever, with all that it has
# started (apt gives dpkg a session of its own, which no signal to a process group reaches).
bound() {
	exec setpriv --pdeathsig KILL -- unshare --pid --fork --kill-child -- "$@"
}

# Processes, from /proc: procps may not be there.
children() { # PID
	sed -n "s/^\([0-9]*\) (.*) [A-Za-z] $1 .*/\1/p" /proc/[0-9]*/stat 2>/dev/null || :
}
processes() { # PATTERN of the command line
	local f words
	for f in /proc/[0-9]*/cmdline; do
		{ mapfile -d '' -t words <"$f"; } 2>/dev/null || continue
		[[ ! "${words[*]}" =~ $1 ]] || printf '%s\n' "${f//[!0-9]/}"
	done
}

# A directory of this run's own in build/ (or DIR), when those of runs that were killed are gone.
run_dir() { # NAME, [DIR]
	local d pid in=${2:-$SRC/build}
	mkdir -p "$in"
	for d in "$in/$1".*.*; do
		pid=${d#"$in/$1."}
		[ ! -d "$d" ] || kill -0 "${pid%%.*}" 2>/dev/null || rm -rf --one-file-system "$d"
	done
	mktemp -d "$in/$1.$$.XXXXXX"
}

# A build that is killed may leave half a file that is newer than its sources, or one that objtool has
# not seen, and make would take it for done. So whoever builds leaves a mark until the build has ended
# (make removes what failed itself, unless a signal ended make), and what is newer than a mark found
# here goes.
# Two builds of one directory wait for each other.
build_begins() { # DIR
	exec 7>"$1/.build.lock"
	flock -n 7 || { echo "another build is at work in $1; waiting for it to end" >&2 && flock 7; }
	if [ -e "$1/.building" ]; then
		echo "the build before this one was interrupted: what it made is made again" >&2
		find "$1" \( -path "$1/build" -o -path "$1/.git" -o -name target \) -prune -o -type f -newer "$1/.building" \
			\( -name '*.o' -o -name '*.o.*' -o -name '*.ko' -o -name '*.mod' -o -name '*.mod.c' -o -name '.*.cmd' \
			-o -name '*.rmeta' -o -name modules.order -o -name Module.symvers -o -name bindings_gen.rs \) \
			-exec rm -f {} +
	else
		: >"$1/.building"
	fi
}
build_ended() { # DIR, what make returned
	[ "$2" -ge 128 ] || rm -f "$1/.building"
}

# The kernel the folder is prepared for: the newest one that has its Rust artefacts.
folder_kernel() {
	local d
	for d in $(printf '%s\n' "$DEB"/usr/src/linux-headers-*-amd64 | sort -rV); do
		if [ -e "$d/rust/libkernel.rmeta" ]; then
			d=${d##*/linux-headers-}
			[ -e "$DEB/boot/vmlinuz-$d" ] && printf '%s\n' "$d" && return 0
		fi
	done
	return 1
}

need_root() {
	[ "$(id -u)" = 0 ] || die "needs root: it mounts and changes root into $DEB"
}

need_folder() {
	need_root
	[ -x "$DEB/usr/bin/busybox" ] ||
		die "no test host in $DEB: run scripts/host-setup.sh first"
	KVER=$(folder_kernel) ||
		die "$DEB has no kernel with Rust artefacts: run scripts/host-setup.sh"
}

# What QEMU and a direct boot of the stock kernel need on a host that does not see the
# folder (vm.sh -a), and the in-tree modules.
guest_paths() {
	local f
	printf '%s\n' /usr/bin/qemu-system-x86_64 "/boot/vmlinuz-$KVER"
	for f in bios-256k.bin bios-microvm.bin kvmvapic.bin linuxboot_dma.bin multiboot_dma.bin; do
		[ ! -e "$DEB/usr/share/seabios/$f" ] || printf '%s\n' "/usr/share/seabios/$f"
		[ ! -e "$DEB/usr/share/qemu/$f" ] || printf '%s\n' "/usr/share/qemu/$f"
	done
	stock_paths
}
# Python with the named modules, and what they import: the whole library would be 28 MB.
python_paths() { # module, ...
	"$SRC/scripts/in-host.sh" python3 -c "import $1"'
import os, sys
print("/usr/bin/python3")
for m in list(sys.modules.values()):
    for f in (getattr(m, "__file__", None), getattr(m, "__cached__", None)):
        if f and os.path.exists(f) and f.startswith("/usr/"): print(f)'
}
stock_paths() {
	local f
	for f in virt/lib/irqbypass arch/x86/kvm/kvm arch/x86/kvm/kvm-intel arch/x86/kvm/kvm-amd drivers/crypto/ccp/ccp; do
		printf '%s\n' "/lib/modules/$KVER/kernel/$f.ko.xz"
	done
}

# The kernel of HOST=debug (scripts/debug-kernel.sh): where it is in the folder, and its
# version if it is there.
IN_DEBUG=/build/debug
debug_kernel() {
	[ -e "$DEB$IN_DEBUG/.ready" ] && cat "$DEB$IN_DEBUG/k/include/config/kernel.release"
}
