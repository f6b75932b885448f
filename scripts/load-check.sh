#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Can this machine build, load or install kvm.ko? One sentence per obstacle, saying
# what to do about it; exit code 1 if there is any.
#
#   scripts/load-check.sh build|load|install [KERNEL-VERSION]
#
# LOAD_CHECK_ROOT= looks at another tree instead of this machine's /boot, /proc, /sys and
# /usr/src, and at its kvm.ko and dmesg: scripts/load-check-test.sh tries each obstacle.
set -eu
. "$(dirname "$0")/lib.sh"
R=${LOAD_CHECK_ROOT:-}
running=$(cat "$R/proc/sys/kernel/osrelease")
mode=${1:-load} V=${2:-$running}
bad=0
no() {
	bad=$((bad + 1))
	printf '%d. %s\n' $bad "$*" >&2
}
config=$R/boot/config-$V
[ -r "$config" ] || config=$R/usr/src/linux-headers-$V/.config
H=$R/usr/src/linux-headers-$V
log() { if [ -n "$R" ]; then cat "$R/dmesg"; else dmesg 2>/dev/null; fi; }

known=''
while IFS="$(printf '\t')" read -r pattern state note; do
	case $pattern in '#'* | '') continue ;; esac
	# shellcheck disable=SC2254
	case $V in $pattern) known=$state ;; esac
done <"$SRC/scripts/kernels.tsv"
if [ -z "$known" ]; then
	no "Kernel $V is not one this module knows (scripts/kernels.tsv): on Debian 13, install linux-image-amd64 and linux-headers-amd64 from trixie-backports and boot it. To try the module without touching this machine: make run"
elif [ -r "$config" ]; then
	grep -q '^CONFIG_RUST=y' "$config" ||
		no "Kernel $V is built without CONFIG_RUST, so it can take no Rust module: boot Debian 13's backports kernel instead."
	grep -qE '^CONFIG_KVM_(INTEL|AMD)=m' "$config" ||
		no "Kernel $V has KVM built in or not at all, and then it exports less than this module needs: boot Debian's kernel (KVM as a module)."
fi

if [ "$mode" = build ] && [ $bad = 0 ]; then
	if [ ! -f "$H/.config" ]; then
		no "The headers are missing: apt-get install linux-headers-$V"
	else
		want=$(sed -n 's/^CONFIG_RUSTC_VERSION_TEXT="\(.*\)"/\1/p' "$H/.config")
		have=$(rustc --version 2>/dev/null || echo none)
		pkgver=$(dpkg-query -W -f '${Version}' "linux-headers-$V" 2>/dev/null || true)
		if [ "$have" != "$want" ]; then
			no "Kernel $V was built with '$want' and rustc here is '$have': install trixie's rustc (apt-get install rustc rust-src bindgen) and put it first in PATH, before any rustup one."
		elif [ ! -e "$H/rust/libkernel.rmeta" ] || [ ! -e "$H/scripts/target.json" ]; then
			no "The headers package lacks the kernel's Rust artefacts: run 'sudo make rust-artefacts' once (about 5 minutes)."
		elif [ "$(cat "$H/rust/.made-with" 2>/dev/null || echo "$want")" != "$want" ]; then
			no "The Rust artefacts in $H/rust were made with another rustc: remove that directory and run 'sudo make rust-artefacts'."
		elif [ "$(cat "$H/rust/.made-for" 2>/dev/null || echo "$pkgver")" != "$pkgver" ]; then
			no "The Rust artefacts in $H/rust were made for another version of the headers package: run 'sudo make rust-artefacts'."
		fi
		command -v bindgen >/dev/null || no "bindgen is missing: apt-get install bindgen"
		command -v x86_64-linux-gnu-gcc-14 >/dev/null || no "gcc-14 is missing: apt-get install gcc-14"
	fi
fi

if [ "$mode" != build ]; then
	ko=${R:-$SRC}/kvm.ko
	if [ ! -f "$ko" ]; then
		no "There is no kvm.ko yet: run 'make' first."
	else
		magic=$(modinfo -F vermagic "$ko" | cut -d' ' -f1)
		[ -z "$known" ] || [ "$magic" = "$V" ] || no "kvm.ko was built for kernel $magic, but this is $V: run 'make clean && make'."
	fi
	[ "$(id -u)" = 0 ] || no "Loading and installing need root: sudo make $mode"
fi

if [ "$mode" = load ]; then
	[ "$V" = "$running" ] || no "Kernel $V is not the running one ($running): boot it first."
	if grep -qs "^kvm " "$R/proc/modules"; then
		vendor=$(ls -d "$R"/sys/module/kvm_amd "$R"/sys/module/kvm_intel 2>/dev/null | sed 's|.*/||' | tr '\n' ' ')
		no "A kvm module is loaded already (the in-tree one, unless you loaded ours): stop all virtual machines, then 'modprobe -r ${vendor:-}kvm'."
	fi
	# A kernel that finds the extension switched off hides the flag and says so once.
	if log | grep -qiE 'SVM (is )?disabled|svm: disabled by bios'; then
		no "The firmware has SVM switched off: enable 'SVM Mode' in the firmware set-up."
	elif log | grep -qiE 'VMX \((in|out)side TXT\) disabled by BIOS'; then
		no "The firmware has VT-x switched off: enable 'Intel Virtualization Technology' in the firmware set-up."
	elif ! grep -qwE 'svm|vmx' "$R/proc/cpuinfo"; then
		no "This CPU shows neither SVM nor VMX: it has none, the firmware has it switched off ('SVM Mode', 'Intel Virtualization Technology'), or this is a virtual machine without nested virtualization. To try the module all the same: make run"
	fi
	lock=$(sed -n 's/.*\[\(integrity\|confidentiality\)\].*/\1/p' "$R/sys/kernel/security/lockdown" 2>/dev/null || :)
	# Where securityfs is not mounted.
	[ -n "$lock" ] || ! log | grep -q 'Kernel is locked down' || lock="see dmesg"
	if [ -n "$lock" ]; then
		no "The kernel is locked down ($lock, usually by Secure Boot) and takes only signed modules: sign kvm.ko with a key enrolled by mokutil (/usr/src/linux-headers-$V/scripts/sign-file), or switch Secure Boot off."
	elif [ "$(cat "$R/sys/module/module/parameters/sig_enforce" 2>/dev/null || echo N)" = Y ]; then
		no "The kernel takes only signed modules (module.sig_enforce): sign kvm.ko with an enrolled key, or boot without that parameter."
	fi
fi

if [ $bad != 0 ]; then
	case $mode in
	build) echo "kvm.ko cannot be built for this machine's kernel." ;;
	load) echo "kvm.ko was not loaded." ;;
	*) echo "kvm.ko was not installed." ;;
	esac >&2
	exit 1
fi
