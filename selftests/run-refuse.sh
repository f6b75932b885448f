#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Processors that cannot be used: kvm.ko must say so in one line, as TAP.
#
#   selftests/run-refuse.sh [CASE]...
#
#   no-vmx   VMX taken from the kernel, as firmware does by locking it (Bochs's has locked it on
#            already: another value would be refused, so the kernel's command line plays that)
#   no-ept   VMX without extended page tables
#   svmdis   SVM switched off by the firmware (here: by GRUB)
set -u
here=$(cd "$(dirname "$0")" && pwd -P)
. "$here/../scripts/lib.sh"
need_folder
[ $# != 0 ] || set -- no-vmx no-ept svmdis
n=0 failed=0 rc=0
for case; do
	host=intel cpu='' grub='' append='' errno='No such device' unclean=''
	case $case in
	no-vmx)
		append=clearcpuid=vmx
		says='VMX disabled by the firmware'
		;;
	no-ept)
		cpu=core2_penryn_t9600
		# The kernel warns of this Bochs processor when it boots.
		unclean=99
		errno='not supported'
		says='without extended page tables'
		;;
	svmdis)
		host=ryzen
		grub=$'insmod wrmsr\n\t\twrmsr 0xc0010114 0x10'
		says='SVM disabled by the firmware'
		;;
	*) die "no such case: $case" ;;
	esac
	n=$((n + 1))
	rc=0
	out=$(HOST=$host CPU=$cpu GRUB=$grub APPEND=$append "$SRC/scripts/vm.sh" -q -t "${TIMEOUT:-900}" \
		-e ERRNO="$errno" -e SAYS="$says" "$here/refuse-job.sh" 2>&1) || rc=$?
	if [ $rc = 0 ] || [ $rc = "${unclean:-0}" ]; then
		echo "ok $n - refuse/$case"
	else
		printf '%s\n' "$out" | tail -n 12 | sed 's/^/#   /'
		echo "not ok $n - refuse/$case"
		failed=$((failed + 1))
	fi
done
echo "$((n - failed)) passed, $failed failed, 0 skipped"
[ $failed = 0 ]
