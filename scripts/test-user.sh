# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
# Sourced by test.sh: the tasks that do what a user does with the Makefile.

# Options that cannot be meant: one sentence, and nothing has been prepared.
task_options() {
	local what pattern cache
	cache=$(mktemp -du)
	while IFS='|' read -r what pattern; do
		# shellcheck disable=SC2086
		red "make $what" "^(run|test|host-setup|build).sh: $pattern" \
			timeout 60 make --no-print-directory "KVM_RS_CACHE=$cache" $what
	done <<-'END'
		run HOST=foo|HOST=foo: there is amd, intel, ryzen
		run CPUS=0|CPUS=0: a number from 1
		run CPUS=08|CPUS=08: a number
		run MEMORY=x|MEMORY=x: a number
		run MEMORY=9999999|MEMORY=9999999: a number
		run MEMORY=1000000|the amd host would have 1001536 MiB of memory, and this machine has
		run HOST=intel MEMORY=2000|MEMORY=2000: the intel host has 2048 MiB
		run HOST=intel SHELL=1|SHELL=1 is for HOST=amd
		run MEM=x|MEM=x: a number
		run SMP=0|SMP=0: a number
		run TIMEOUT=soon|TIMEOUT=soon: a number
		run MACHINE=foo|MACHINE=foo: there is q35, pc, microvm
		run IRQCHIP=off|IRQCHIP=off: there is on, split
		run MODULE=foo|MODULE=foo: there is ours, stock
		run KERNEL=/nonexistent|KERNEL=/nonexistent: no such file
		run INITRD=/tmp|INITRD=/tmp: no such file
		run DISK=/nonexistent|DISK=/nonexistent: no such file
		bench HOST=foo|HOST=foo: there is
		bench HOST=debug|HOST=debug: there is amd, intel, ryzen
		bench TIMEOUT=x|TIMEOUT=x: a number
		host-modules HOST=foo|HOST=foo: there is
		test T=foo|no such group or task: foo
		test HOST=foo|HOST=foo: there is amd, debug
		test HOST=intel|HOST=intel: there is amd, debug; the tests .* T=intel
		test HOST=ryzen T=upstream|HOST=ryzen: there is amd, debug; the tests .* T=ryzen
		test HOST=debug T=fmt|HOST=debug has its own tests
		lint HOST=foo|HOST=foo: there is amd, debug
		check HOST=debug|HOST=debug has its own tests
		selftests HOST=intel|HOST=intel: there is amd, debug; the tests
		test-harness HOST=foo|HOST=foo: there is amd, debug
		fuzz HOST=debug|HOST=debug has its own tests
		test TEST_JOBS=0|TEST_JOBS=0: a number
		fuzz TIME=x|TIME=x: a number
		host-setup KVM_RS_CACHE=here|KVM_RS_CACHE=here: a path from / is needed
		host-setup KVM_RS_CACHE=/proc/none|cannot write to /proc/none
	END
	red "make bench, while another is at work here" '^run.sh: another benchmark is at work in .*: wait' \
		flock build/.bench.lock timeout 60 make --no-print-directory "KVM_RS_CACHE=$cache" bench
	[ ! -e "$cache" ]
	verdict "options that are refused: nothing has been prepared" $?
}

# What a user types; the last line is what counts.
task_run() {
	local out=build/test/run.txt rc
	runs() { # sentence, pattern of the last line but for make's own, exit code of make, options of make
		local what=$1 pattern=$2 want=$3
		shift 3
		rc=0
		timeout 900 make --no-print-directory -o host-modules run "$@" >$out 2>&1 </dev/null || rc=$?
		grep -vE '^make(\[[0-9]+\])?: ' $out | tail -n 1 | grep -qE "$pattern" && [[ $rc =~ ^$want$ ]]
		rc=$?
		[ $rc = 0 ] || tail -n 30 $out
		verdict "make run $what" $rc
	}
	runs "" '^make run: Linux [^ ]* reached its user space as a guest of our kvm.ko \(q35, 1 CPU\(s\)\) on amd host kernel [^ ]*, [0-9]+ s$' 0
	runs "with a machine, CPUs and a kernel" '^make run: Linux [^ ]* reached its user space as a guest of our kvm.ko \(microvm, 2 CPU' 0 \
		MACHINE=microvm CPUS=2 IRQCHIP=split MEMORY=300 "KERNEL=$DEB/boot/vmlinuz-$KVER"
	in_host sh -ec "cd build/test; gcc -c -o sector.o ../../selftests/boot-sector.S
		ld -Ttext 0x7c00 -e _start --oformat binary -o disk.img sector.o; echo 'A DISK OF MY OWN' >>disk.img; truncate -s 1M disk.img"
	runs "with a disk" '^make run: your guest ran on our kvm.ko .* and (ended by itself|had not ended)' '(0|2)' DISK=build/test/disk.img TIMEOUT=180
	grep -q 'A DISK OF MY OWN' $out
	verdict "make run with a disk: the firmware has started it" $?
	# A user space of one's own, which ends well, or which the kernel cannot do without.
	in_host sh -ec 'cd build/test; mkdir -p own/bin; cp /bin/busybox own/bin/
		for end in "exec /bin/busybox poweroff -f" "exit 3"; do
			printf "#!/bin/busybox sh\n/bin/busybox echo A USER SPACE OF MY OWN on \$(/bin/busybox uname -r)\n%s\n" "$end" >own/init
			chmod +x own/init; (cd own && find . | cpio --quiet -o -H newc | gzip -1) >"own-${end%% *}.gz"
		done; rm -r own'
	runs "with a kernel and an initrd" '^make run: your guest ran on our kvm.ko \(pc, 1 CPU\(s\)\) and ended by itself, on amd host' 0 \
		MACHINE=pc "KERNEL=$DEB/boot/vmlinuz-$KVER" INITRD=build/test/own-exec.gz
	grep -q "^A USER SPACE OF MY OWN on $KVER" $out
	verdict "make run with a kernel and an initrd: its line is shown" $?
	runs "with a guest that panics" '^make run: the guest.s kernel panicked on the in-tree kvm .*: Kernel panic - not syncing: Attempted to kill init!' 2 \
		MODULE=stock INITRD=build/test/own-exit.gz
	# A kernel that resets the machine with its first instructions.
	in_host sh -ec "cd build/test; printf '.code16\n.org 0x1f1; .byte 1\n.org 0x1fe; .word 0xaa55; jmp 1f; .ascii \"HdrS\"; .word 0x202
		.org 0x211; .byte 1\n.org 0x240; 1: mov \$0xfe, %%al; out %%al, \$0x64; 2: hlt; jmp 2b\n.org 0x800\n' | as -o kernel.o -
		objcopy -O binary -j .text kernel.o kernel.bin"
	runs "with a kernel that gets nowhere" '^make run: your kernel ended by itself on our kvm.ko .*, without the user space' 2 KERNEL=build/test/kernel.bin
	red "make run without time for it" 'no guest yet.*the host did not come up \(exit code 124' make -o host-modules run TIMEOUT=1
	# Typed once there is somebody who reads it.
	rm -f build/test/keys
	mkfifo build/test/keys
	timeout 400 make --no-print-directory -o host-modules run SHELL=1 >$out 2>&1 <build/test/keys &
	(
		for _ in $(seq 180); do ! grep -q 'root@.*#' $out || break; sleep 1; done
		echo 'insmod kvm.ko && ls -l /dev/kvm; exit'
	) >build/test/keys || :
	wait $! || :
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
	# As Secure Boot has it: the kernel itself refuses, and so does the check before it.
	red "insmod in a host that is locked down" 'Operation not permitted' \
		env APPEND=lockdown=integrity scripts/vm.sh -q -t 300 -c "insmod $IN_SRC/$tree/kvm.ko"
	red "make load in a host that is locked down" '^1\. The kernel is locked down' \
		env APPEND=lockdown=integrity scripts/vm.sh -q -t 300 -c "make -C $IN_SRC/$tree load"
	rm -rf $tree || :
}
