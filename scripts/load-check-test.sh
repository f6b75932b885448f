#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Try load-check.sh on made-up machines: a good one passes, and each obstacle ends in one
# sentence that names it and what to do. TAP.
set -u
here=$(cd "$(dirname "$0")" && pwd)
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
V=7.3.4+deb13-amd64
RUSTC='rustc 1.85.1 (4eb161250 2025-03-15) (built from a source tarball)'
failed=0
ok() { echo "ok - load-check: $*"; }
not_ok() {
	echo "not ok - load-check: $*"
	failed=1
}

# A machine on which everything is right.
good() {
	R=$tmp/root
	rm -rf "$R"
	H=$R/usr/src/linux-headers-$V
	mkdir -p "$R"/{bin,boot,proc/sys/kernel,sys/kernel/security,sys/module/module/parameters} \
		"$H"/{rust,scripts}
	echo "$V" >"$R/proc/sys/kernel/osrelease"
	printf 'CONFIG_RUST=y\nCONFIG_KVM_AMD=m\nCONFIG_KVM_INTEL=m\nCONFIG_RUSTC_VERSION_TEXT="%s"\n' \
		"$RUSTC" >"$H/.config"
	cp "$H/.config" "$R/boot/config-$V"
	touch "$H/rust/libkernel.rmeta" "$H/scripts/target.json" "$R/kvm.ko" "$R/dmesg"
	echo "$RUSTC" >"$H/rust/.made-with"
	echo 'flags : fpu svm' >"$R/proc/cpuinfo"
	echo 'ext4 1 0 - Live 0x0' >"$R/proc/modules"
	echo '[none] integrity confidentiality' >"$R/sys/kernel/security/lockdown"
	echo N >"$R/sys/module/module/parameters/sig_enforce"
	tool rustc "echo '$RUSTC'"
	tool bindgen true
	tool x86_64-linux-gnu-gcc-14 true
	tool modinfo "echo '$V SMP preempt mod_unload '"
}
tool() { printf '#!/bin/sh\n%s\n' "$2" >"$R/bin/$1" && chmod +x "$R/bin/$1"; }
check() { LOAD_CHECK_ROOT=$R PATH=$R/bin:/usr/sbin:/usr/bin:/sbin:/bin "$here/load-check.sh" "$@" 2>&1; }
# passes MODE, WHAT
passes() {
	if out=$(check "$1"); then ok "$1: $2"; else
		echo "$out"
		not_ok "$1: $2"
	fi
}
# stops MODE, WHAT, PATTERN: it fails with one obstacle, whose sentence matches
stops() {
	if out=$(check "$1"); then
		not_ok "$1: $2: passed"
	elif [ "$(grep -c '^[0-9]*\. ' <<<"$out")" != 1 ] || ! grep -qE "^1\. .*($3)" <<<"$out"; then
		echo "$out"
		not_ok "$1: $2: not the one sentence"
	elif grep -qE ': line [0-9]+:|No such file' <<<"$out"; then
		echo "$out"
		not_ok "$1: $2: noise"
	else
		ok "$1: $2"
	fi
}

good
for mode in build load install; do passes $mode "a machine on which everything is right"; done
good && sed -i s/7.3.4/6.12.9/ "$R/proc/sys/kernel/osrelease"
for mode in build load; do stops $mode "another kernel" 'not one this module knows.*trixie-backports'; done
good && sed -i /CONFIG_RUST=/d "$R/boot/config-$V" && stops build "no CONFIG_RUST" 'without CONFIG_RUST.*backports kernel'
good && sed -i 's/KVM_\(AMD\|INTEL\)=m/KVM_\1=y/' "$R/boot/config-$V" && stops build "KVM built in" 'KVM built in'
good && rm -r "$H" && stops build "no headers" 'apt-get install linux-headers-'
good && tool rustc "echo 'rustc 1.95.0'" && stops build "another rustc" "rustc here is 'rustc 1.95.0'.*trixie's rustc"
good && tool rustc 'exit 127' && stops build "no rustc" "rustc here is 'none'"
good && rm "$H/rust/libkernel.rmeta" && stops build "no Rust artefacts" 'sudo make rust-artefacts'
good && echo other >"$H/rust/.made-with" && stops build "artefacts of another rustc" 'made with another rustc.*remove'
good && tool dpkg-query 'echo 7.3.4-2' && echo 7.3.4-1 >"$H/rust/.made-for" &&
	stops build "artefacts of another version of the headers" 'another version of the headers.*make rust-artefacts'
good && rm "$R/kvm.ko" && stops load "nothing built" "run 'make' first"
good && tool modinfo "echo '7.3.2+deb13-amd64 SMP'" && stops load "built for another kernel" 'built for kernel 7.3.2.*make clean && make'
good && echo 'kvm 1 1 kvm_amd, Live 0x0' >>"$R/proc/modules" && mkdir -p "$R/sys/module/kvm_amd" &&
	stops load "the in-tree module is loaded" "modprobe -r kvm_amd kvm"
good && echo 'flags : fpu' >"$R/proc/cpuinfo" && stops load "no extension" 'neither SVM nor VMX.*make run'
good && echo 'flags : fpu' >"$R/proc/cpuinfo" && echo '[ 0.1] SVM disabled (by BIOS) in MSR_VM_CR' >"$R/dmesg" &&
	stops load "SVM off in the firmware" "SVM Mode"
good && echo 'flags : fpu' >"$R/proc/cpuinfo" && echo '[ 0.1] x86/cpu: VMX (outside TXT) disabled by BIOS' >"$R/dmesg" &&
	stops load "VMX off in the firmware" "Intel Virtualization Technology"
good && echo 'none [integrity] confidentiality' >"$R/sys/kernel/security/lockdown" &&
	stops load "Secure Boot" 'locked down \(integrity.*mokutil'
good && echo '[ 0.0] Kernel is locked down from EFI Secure Boot; see man kernel_lockdown.7' >"$R/dmesg" &&
	stops load "Secure Boot, without securityfs" 'locked down \(see dmesg.*mokutil'
good && echo Y >"$R/sys/module/module/parameters/sig_enforce" && stops load "signed modules only" 'sig_enforce'
if [ "$(id -u)" = 0 ] && command -v setpriv >/dev/null; then
	# A copy, as the checkout may be where nobody else gets to.
	good && mkdir -p "$tmp/scripts" && cp "$here"/* "$tmp/scripts" && chmod -R a+rX "$tmp" &&
		out=$(LOAD_CHECK_ROOT=$R PATH=$R/bin:$PATH \
			setpriv --reuid 65534 --clear-groups "$tmp/scripts/load-check.sh" load 2>&1)
	if grep -qE '^1\. .*sudo make load' <<<"$out"; then ok "load: not root"; else
		echo "$out"
		not_ok "load: not root"
	fi
fi
exit $failed
