# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
# Sourced by test.sh: the tasks that do what a user does with the Makefile.

# What a user types; the last line is what counts.
task_run() {
	local out=build/test/run.txt rc
	runs() { # sentence, pattern of the last line, options of make
		local what=$1 pattern=$2
		shift 2
		timeout 900 make --no-print-directory -o host-modules run "$@" >$out 2>&1 </dev/null
		tail -n 1 $out | grep -qE "$pattern"
		rc=$?
		[ $rc = 0 ] || tail -n 30 $out
		verdict "make run $what" $rc
	}
	runs "" '^make run: Linux [^ ]* reached its user space as a guest of our kvm.ko \(q35, 1 CPU\(s\)\) on amd host kernel [^ ]*, [0-9]+ s$'
	runs "with a machine, CPUs and a kernel" '^make run: Linux [^ ]* reached its user space as a guest of our kvm.ko \(microvm, 2 CPU' \
		MACHINE=microvm CPUS=2 IRQCHIP=split MEMORY=300 "KERNEL=$DEB/boot/vmlinuz-$KVER"
	in_host sh -ec "cd build/test; gcc -c -o sector.o ../../selftests/boot-sector.S
		ld -Ttext 0x7c00 -e _start --oformat binary -o disk.img sector.o; echo 'A DISK OF MY OWN' >>disk.img; truncate -s 1M disk.img"
	runs "with a disk" '^make run: your guest ran on our kvm.ko .* and (ended by itself|had not ended)' DISK=build/test/disk.img TIMEOUT=60
	grep -q 'A DISK OF MY OWN' $out
	verdict "make run with a disk: the firmware has started it" $?
	red "make run without the kernel it names" 'KERNEL=/no/such: no such file' make -o host-modules run KERNEL=/no/such
	red "make run with a host that there is not" 'HOST=arm' make -o host-modules run HOST=arm
	# Typed once there is somebody who reads it.
	rm -f build/test/keys
	mkfifo build/test/keys
	timeout 200 make --no-print-directory -o host-modules run SHELL=1 >$out 2>&1 <build/test/keys &
	(
		for _ in $(seq 180); do ! grep -q 'root@.*#' $out || break; sleep 1; done
		echo 'insmod kvm.ko && ls -l /dev/kvm; exit'
	) >build/test/keys
	wait $!
	grep -qE 'crw.* 10, 232 .*/dev/kvm' $out
	rc=$?
	[ $rc = 0 ] || tail -n 30 $out
	verdict "make run SHELL=1: a shell in the host" $rc
}

# A copy of the tree, for its build has nothing to do with that of the other tasks.
task_real() {
	local tree=build/test/tree rc=0
	mkdir -p $tree
	tar c -T build/test/files | tar x -C $tree
	in_host make -C $IN_SRC/$tree KVER="$KVER" >build/test/real.txt 2>&1 || rc=$?
	[ $rc = 0 ] || tail -n 30 build/test/real.txt
	verdict "make builds for a kernel whose headers are installed" $rc
	red "make for a kernel without headers" 'not one this module knows' in_host make -C $IN_SRC/$tree KVER=6.1.0-1-amd64
	rc=0
	scripts/vm.sh -q -t 300 -e TREE=$IN_SRC/$tree selftests/real-job.sh || rc=$?
	verdict "make load, make install and back: a clean log" $rc
	rm -rf $tree
}
