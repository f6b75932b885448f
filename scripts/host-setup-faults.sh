#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Set-up for real, with everything that can go wrong in it: no network, a full disk, Ctrl-C and SIGKILL
# in each of its steps. Each run must say in one sentence what is the matter, and the next one must
# go on; in the end the host must boot and load a module built by its toolchain. TAP.
#
#   scripts/host-setup-faults.sh [DIR]    run by hand; default DIR: /var/tmp. Takes 15 minutes
#                                         to an hour, 7 GB in DIR, and the archive's packages some times:
#                                         KVM_RS_MIRROR= and KVM_RS_SECURITY= of a cache spare that
#   ONLY="kill kernel-install"            the rows below that match, and what lies between
#   IMAGE=FILE                            the file system: made, and kept for the next run
#
# The cache is a file system in a file, mounted where only this run sees it; a large file fills it.
set -u
. "$(dirname "$0")/lib.sh"
need_root
[ -n "${KVM_RS_FAULTS:-}" ] || exec env KVM_RS_FAULTS=1 unshare -m --propagation private -- "$0" "$@"

# What happens, the log of the step (or a file in the cache), and what that must show when it does.
rows='
net	mmdebstrap	.
full	mmdebstrap	extracting archives
int	mmdebstrap	installing essential
kill	mmdebstrap	installing remaining
full	mmdebstrap	installing remaining
full	kernel-install	^Get:2
net	folder-update	.
kill	kernel-install	Unpacking linux-image
full	kernel-install	Unpacking linux-headers
kill	kernel-install	Unpacking linux-source|Setting up linux
int	kernel-install	Unpacking linux-source|Setting up linux
full	kernel-rust	unpacking
kill	kernel-rust	unpacking
full	host/build/work/prepare.log	RUSTC L rust/core
kill	host/build/work/prepare.log	RUSTC L rust/core
int	host/build/work/prepare.log	RUSTC L rust/kernel
full	kselftests	INSTALL
kill	kselftests	gcc
int	kselftests	gcc
'
dir=$(mktemp -d "${1:-/var/tmp}/kvm-rs-faults.XXXXXX")
group=
finish() {
	[ -z "$group" ] || kill -KILL -- "-$group" 2>/dev/null
	umount -l "$dir/fs" 2>/dev/null
	rm -rf --one-file-system "$dir"
}
trap finish EXIT
trap 'exit 130' INT TERM
image=${IMAGE:-$dir/image}
mkdir "$dir/fs"
[ -e "$image" ] || { truncate -s 10G "$image" && mkfs.ext4 -q -m 0 "$image"; } || die "$image cannot be made"
mount -o loop "$image" "$dir/fs" || die "$image cannot be mounted"
export KVM_RS_CACHE=$dir/fs/cache
failed=0
verdict() { # rc, sentence
	if [ "$1" = 0 ]; then echo "ok - $2"; else
		echo "not ok - $2"
		sed 's/^/#   /' "$dir/out"
		failed=1
	fi
}
setup=("$SRC/scripts/host-setup.sh")
# Their logs, in this order.
steps="mmdebstrap folder-update kernel-install kernel-rust kselftests"
spoil() { # kind, log, pattern
	local kind=$1 log=$KVM_RS_CACHE/log/$2.log pattern=$3 rc=0 what="$1 in $2 at '$3'" free
	local later=${steps#*"$2"} step
	case $2 in */*) log=$KVM_RS_CACHE/$2 later=${steps#*kernel-rust} ;; esac
	local run=(setsid env --default-signal=INT)
	[ "$kind" != net ] || run+=(unshare -n)
	rm -f "$log"
	touch "$dir/start"
	"${run[@]}" "${setup[@]}" >"$dir/out" 2>&1 &
	group=$!
	if [ "$kind" != net ]; then
		until grep -qsE "$pattern" "$log"; do
			kill -0 "$group" 2>/dev/null || {
				verdict 1 "$what: set-up ended before"
				return
			}
			for step in $later; do
				[ "$KVM_RS_CACHE/log/$step.log" -nt "$dir/start" ] || continue
				kill -KILL -- "-$group"
				wait "$group" 2>/dev/null
				verdict 1 "$what: the step went by without it"
				return
			done
			sleep 0.2
		done
		sleep "0.$((RANDOM % 10))"
	fi
	case $kind in
	full)
		free=$(df -k --output=avail "$dir/fs" | tail -n 1)
		fallocate -l "${free}k" "$dir/fs/filler" 2>/dev/null
		cat /dev/zero >"$dir/fs/filler.2" 2>/dev/null
		;;
	kill) kill -KILL -- "-$group" ;;
	int) kill -INT -- "-$group" ;;
	esac
	wait "$group" 2>/dev/null || rc=$?
	rm -f "$dir/fs/filler" "$dir/fs/filler.2"
	case $kind in
	kill) [ $rc = 137 ] ;;
	int) [ $rc = 130 ] && grep -q '^host-setup.sh: interrupted. Run the same command again' "$dir/out" ;;
	net) [ $rc = 1 ] && [ -e "$log" ] && grep -q '^host-setup.sh: the package archive cannot be reached' "$dir/out" ;;
	full) [ $rc = 1 ] && grep -qE '^host-setup.sh: (no space is left on|a file system had no space left).* MB there: free some' "$dir/out" ;;
	esac
	verdict $? "$what: $(tail -n 1 "$dir/out")"
}
echo "# $(date +%T) $dir"
while IFS=$'\t' read -r kind log pattern; do
	[ -n "$kind" ] || continue
	if [ -n "${ONLY:-}" ] && ! grep -qE "$ONLY" <<<"$kind $log $pattern"; then continue; fi
	spoil "$kind" "$log" "$pattern"
	echo "# $(date +%T), $(df -m --output=used "$dir/fs" | tail -n 1) MB used"
done <<<"$rows"
"${setup[@]}" >"$dir/out" 2>&1 && grep -q '^The test host is ready' "$dir/out"
verdict $? "after all of it, the next run ends well: $(tail -n 1 "$dir/out")"
[ ! -e "$KVM_RS_CACHE/host/build/work" ] && [ ! -e "$KVM_RS_CACHE/host.new" ] &&
	[ -z "$(find "$KVM_RS_CACHE/host/build" -maxdepth 1 -name 'kselftests.*')" ]
verdict $? "nothing half-done is left"
chroot "$KVM_RS_CACHE/host" dpkg --audit >"$dir/out" 2>&1 && [ ! -s "$dir/out" ]
verdict $? "every package is whole"
"$SRC/scripts/build.sh" >"$dir/out" 2>&1
verdict $? "kvm.ko builds with it"
"$SRC/scripts/vm.sh" -q -t 900 -c 'insmod kvm.ko && /build/kselftests/guest_print_test' >"$dir/out" 2>&1
verdict $? "its kernel boots, kvm.ko loads, a selftest passes"
exit $failed
