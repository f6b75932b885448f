#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Processors that cannot be used: kvm.ko must say so in one line, as TAP.
#
#   selftests/run-refuse.sh [CASE]...
#
#   locked    VMX locked off by the firmware: Bochs's, of which a copy leaves the bit for VMX out when
#             it writes and locks IA32_FEATURE_CONTROL. load-check.sh must say what to do, and the
#             in-tree module must refuse with the same error
#   no-vmx    VMX taken away by the kernel's command line; the same two
#   no-ept    VMX without extended page tables
#   svmdis    SVM switched off by the firmware (here: by GRUB); the same two
set -u
here=$(cd "$(dirname "$0")" && pwd -P)
. "$here/../scripts/lib.sh"
need_folder
[ $# != 0 ] || set -- locked no-vmx no-ept svmdis
stage=$(run_dir refuse)
trap 'rm -rf "$stage"' EXIT
# mov $0x3a,%ecx; rdmsr; or $5,%eax; wrmsr: once for the first processor, once for the others.
locked_firmware() {
	local from=$DEB/usr/share/bochs/BIOS-bochs-latest to=$stage/bios.bin
	LC_ALL=C sed 's/\(\xb9\x3a\x00\x00\x00\x0f\x32\x66\?\x83\xc8\)\x05\(\x0f\x30\)/\1\x01\2/g' "$from" >"$to"
	[ "$(cmp -l "$from" "$to" | awk '{ print $2, $3 }' | tr '\n' ' ')" = '5 1 5 1 ' ] ||
		die "Bochs's firmware does not set IA32_FEATURE_CONTROL where it is known to"
}
# What load-check.sh runs, and the in-tree module, for a host that does not see the folder.
more=()
for f in "$IN_SRC"/scripts/{load-check.sh,lib.sh,kernels.tsv} /bin/bash /usr/sbin/modinfo; do more+=(-a "$f"); done
while IFS= read -r f; do more+=(-a "$f"); done < <(stock_paths)

n=0 failed=0 rc=0
for case; do
	host=intel cpu='' bios='' grub='' append='' advice='' args=()
	case $case in
	locked)
		locked_firmware
		bios=$IN_SRC/build/${stage##*/}/bios.bin
		says='VMX disabled by the firmware (IA32_FEATURE_CONTROL)'
		advice="enable 'Intel Virtualization Technology' in the firmware set-up"
		;;
	no-vmx)
		append=clearcpuid=vmx
		says='VMX disabled by the kernel, as its command line may ask'
		advice='neither SVM nor VMX'
		;;
	no-ept)
		cpu=core2_penryn_t9600
		# The kernel warns of this Bochs processor when it boots, before anything else.
		warning='cut here|WARNING: arch/x86/kernel/cpu/topology_common.c:95 at parse_legacy|Call Trace:'
		args=(-l "^\[ +0\.000000\] .*($warning)")
		says='without extended page tables'
		;;
	svmdis)
		host=ryzen
		grub=$'insmod wrmsr\n\t\twrmsr 0xc0010114 0x10'
		says='SVM disabled by the firmware'
		advice="enable 'SVM Mode' in the firmware set-up"
		;;
	*) die "no such case: $case" ;;
	esac
	[ -z "$advice" ] || args+=("${more[@]}")
	n=$((n + 1))
	rc=0
	out=$(HOST=$host CPU=$cpu BIOS=$bios GRUB=$grub APPEND=$append "$SRC/scripts/vm.sh" -q -t "${TIMEOUT:-900}" \
		-e ERRNO='not supported' -e SAYS="$says" -e ADVICE="$advice" "${args[@]+"${args[@]}"}" \
		"$here/refuse-job.sh" 2>&1) || rc=$?
	if [ $rc = 0 ]; then
		printf '%s\n' "$out" | sed -n 's/^said: /#   /p'
		echo "ok $n - refuse/$case"
	else
		printf '%s\n' "$out" | tail -n 12 | sed 's/^/#   /'
		echo "not ok $n - refuse/$case"
		failed=$((failed + 1))
	fi
done
echo "1..$n"
echo "$((n - failed)) passed, $failed failed, 0 skipped"
[ $failed = 0 ]
