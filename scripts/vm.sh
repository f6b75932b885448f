#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Boot the test host, run one job in it, check its kernel log.
#
#   scripts/vm.sh [OPTION]... JOB       JOB is a script; it runs as root in the host
#   scripts/vm.sh [OPTION]... -c CMD    CMD is a shell command
#   scripts/vm.sh -i                    interactive shell (also: SHELL=1)
#
#   -t SECONDS   give up after that long (default 300; debug 600, Bochs 900)
#   -e NAME=VAL  set a variable for the job (repeatable)
#   -f FILE      put FILE into the job's run directory, /build/run (repeatable)
#   -a PATH      Bochs hosts: also put PATH (as seen in the host) into the image
#   -o DIR       keep serial.txt, dmesg.txt and what the job wrote to /build/run there
#   -q           print only what the job prints, and failures
#   -x PATTERN   the job takes the host down: passed if the console's last lines match (in Bochs a
#                reset ends the run, and VMX must be off in all CPUs by then)
#   -s SECONDS   the host is ended when its console says nothing for so long
#   -l PATTERN   lines of the host's kernel log that are expected: they do not count as findings
#   -v           print the whole kernel log, not only its part since the job started
#
# Environment:
#   HOST=amd|intel|ryzen  QEMU TCG with SVM (default); Bochs with VMX; Bochs with SVM
#   HOST=debug            as amd, on the debug kernel (scripts/debug-kernel.sh)
#   KMEMLEAK=on           there: look for leaked memory at the end (slow)
#   SMP= MEM= (MiB)       size of the host (2 CPUs and 3072 MiB; Bochs 1 and 2048)
#   CPU=                  QEMU -cpu (max) or Bochs CPU model
#   ICOUNT=1              one CPU, time-stamp counter counts instructions (QEMU only)
#   APPEND=               more for the host's kernel command line
#   GRUB=                 Bochs hosts: commands for GRUB before it boots the kernel
#   BIOS=                 Bochs hosts: another system firmware (a path as in-host.sh has it)
#   EMULATOR_AS_IT_IS=1   QEMU and Bochs's corei7_skylake_x with what scripts/emulator-fix.py mends
#   QEMU_ARGS=            more for the AMD host's QEMU, such as a monitor or a gdb port
#
# In the host the checkout is at /build/src (read-only), the upstream selftests at
# /build/kselftests, the run directory at /build/run: writable, shared with this
# machine, gone afterwards. KVER, SRC, RUN, HOST and DEBUG are set for the job.
#
# Exit code: the job's own; 124 timeout; 125 the host died or did not come up;
# 99 the job passed, but the host's kernel log has a line that must not be there.
set -eu
. "$(dirname "$0")/lib.sh"

usage() {
	sed -n '3,/^set -eu/{/^set/d;s/^# \{0,1\}//;p}' "$0"
	exit 2
}

args=("$@")
HOST=${HOST:-amd}
timeout='' silence='' keep='' quiet='' verbose='' command='' shell='' last_words='' allowed=''
[ "${SHELL:-}" != 1 ] || shell=1
envs=() files=() adds=()
while getopts 'c:t:s:e:f:a:o:x:l:qvih' o; do
	case $o in
	c) command=$OPTARG ;;
	t) timeout=$OPTARG ;;
	s) silence=$OPTARG ;;
	e) envs+=("$OPTARG") ;;
	f) files+=("$OPTARG") ;;
	a) adds+=("$OPTARG") ;;
	o) keep=$OPTARG ;;
	x) last_words=$OPTARG ;;
	l) allowed=$OPTARG ;;
	q) quiet=1 ;;
	v) verbose=1 ;;
	i) shell=1 ;;
	*) usage ;;
	esac
done
shift $((OPTIND - 1))
[ -n "$command$shell${1:-}" ] || usage
case $HOST in
amd) smp=${SMP:-2} mem=${MEM:-3072} cpu=${CPU:-max} timeout=${timeout:-300} ;;
debug) smp=${SMP:-2} mem=${MEM:-3072} cpu=${CPU:-max} timeout=${timeout:-600} ;;
intel) smp=${SMP:-1} mem=${MEM:-2048} cpu=${CPU:-corei7_haswell_4770} ;;
ryzen) smp=${SMP:-1} mem=${MEM:-2048} cpu=${CPU:-ryzen} ;;
*) one_of HOST "$HOST" amd intel ryzen debug ;;
esac
timeout=${timeout:-900}
number SMP "$smp" 1 64
number MEM "$mem" 256 1048576
number -t "$timeout" 1 1000000
[ -z "$silence" ] || number -s "$silence" 1 1000000
one_of ICOUNT "${ICOUNT:-0}" 0 1
one_of KMEMLEAK "${KMEMLEAK:-off}" on off
need_folder
kernel=${KERNEL_IMAGE:-/boot/vmlinuz-$KVER}
more=''
if [ "$HOST" = debug ]; then
	debug_kernel >/dev/null || die "there is no debug kernel: run scripts/debug-kernel.sh first (an hour)"
	for f in kvm.ko build/debug/kvm.ko; do
		[ -e "$SRC/$f" ] || die "there is no $f: run scripts/build.sh and HOST=debug scripts/build.sh first"
	done
	# Jobs find the module built for it where the other one would be, and leaks are looked for. KASAN
	# of this kernel does not cover per-CPU memory with five levels of page tables.
	HOST=amd kernel=$IN_DEBUG/k/arch/x86/boot/bzImage more=" vm_debug no5lvl kmemleak=${KMEMLEAK:-off}"
fi
[ -e "$DEB$kernel" ] || die "no kernel $kernel in $DEB"

RUN_DIR=$(run_dir run)
export RUN_DIR
child=
finish() {
	[ -z "$child" ] || kill "$child" 2>/dev/null || :
	if [ -n "$keep" ]; then
		mkdir -p "$keep"
		rm -f "$RUN_DIR"/initrd.gz "$RUN_DIR"/host.iso "$RUN_DIR"/bochs
		cp -r "$RUN_DIR"/. "$keep"/
	fi
	[ "$1" = 0 ] || ! why=$(disk_full "$RUN_DIR" "$RUN_DIR/emulator.txt") || echo "vm.sh: $why" >&2 || :
	rm -rf "$RUN_DIR"
}
trap 'finish $?' EXIT
trap 'exit 130' INT TERM HUP

# The job, and what it is told.
if [ -n "$command" ]; then
	printf '#!/bin/sh\n%s\n' "$command" >"$RUN_DIR/job.sh"
elif [ -n "${1:-}" ]; then
	[ -f "$1" ] || die "no such job: $1"
	cp "$1" "$RUN_DIR/job.sh"
else
	printf '#!/bin/sh\n' >"$RUN_DIR/job.sh"
fi
chmod +x "$RUN_DIR/job.sh"
{
	echo "export KVER=$KVER SRC=$IN_SRC RUN=$IN_RUN HOST=$HOST ${more:+DEBUG=1}"
	for e in "${envs[@]+"${envs[@]}"}"; do
		printf 'export %s=%q\n' "${e%%=*}" "${e#*=}"
	done
} >"$RUN_DIR/env"
for f in "${files[@]+"${files[@]}"}"; do cp -r "$f" "$RUN_DIR/"; done

# What it boots from. Modules of the debug kernel are built in.
image() {
	local rc=0
	"$SRC/scripts/in-host.sh" env ${more:+MODDIR=/nonexistent} "$IN_SRC/scripts/vm-image.sh" "$@" \
		2>"$RUN_DIR/emulator.txt" || rc=$?
	cat "$RUN_DIR/emulator.txt" >&2
	[ $rc = 0 ] || exit 1
}

# Bochs would start anew after a reset; a triple fault ends it.
info=ignore
if [ -n "$last_words" ] && [ "$HOST" != amd ]; then
	more="$more reboot=t" info=report
fi
append="loglevel=4 panic=-1 oops=panic VM_SHELL=${shell:-0}$more ${APPEND:-}"
serial=$RUN_DIR/serial.txt
: >"$serial"
if [ "$HOST" = amd ]; then
	image 9p "$IN_RUN/initrd.gz"
	icount=()
	if [ "${ICOUNT:-0}" = 1 ]; then
		smp=1
		icount=(-icount 'shift=0,sleep=off')
	fi
	# With several CPUs one thread: two would race while the kernel patches its own text.
	# With one CPU its own thread: only then is a guest's interrupt never injected twice
	# (Documentation/testing.rst, "What the emulators get wrong").
	thread=single
	[ "$smp" != 1 ] || [ "${ICOUNT:-0}" = 1 ] || thread=multi
	# Beside the original, as it looks for its files from there.
	qemu=/usr/bin/qemu-system-x86_64 fix=scripts/emulator-fix.py
	if [ "${EMULATOR_AS_IT_IS:-}" = 1 ]; then
		:
	elif { [ "$DEB$qemu.mended" -nt "$DEB$qemu" ] && [ "$DEB$qemu.mended" -nt "$SRC/$fix" ]; } ||
		{ "$SRC/scripts/in-host.sh" python3 "$IN_SRC/$fix" "$qemu" "/build/qemu.$$" &&
			chmod +x "$DEB/build/qemu.$$" && mv "$DEB/build/qemu.$$" "$DEB$qemu.mended"; } || ! rm -f "$DEB/build/qemu.$$"; then
		qemu=$qemu.mended
	fi
	emulator=("$qemu" -nodefaults -display none -no-reboot
		-machine q35 -accel "tcg,thread=$thread,tb-size=512" -cpu "$cpu"
		-smp "$smp" -m "$mem" "${icount[@]+"${icount[@]}"}"
		-kernel "$kernel" -initrd "$IN_RUN/initrd.gz" -append "console=ttyS0 $append"
		-fsdev 'local,id=h,path=/,security_model=none,readonly=on,multidevs=remap'
		-device 'virtio-9p-pci,fsdev=h,mount_tag=host'
		-fsdev "local,id=r,path=$IN_RUN,security_model=none,multidevs=remap"
		-device 'virtio-9p-pci,fsdev=r,mount_tag=run')
	# shellcheck disable=SC2206
	emulator+=(${QEMU_ARGS:-})
	if [ -n "$shell" ]; then
		emulator+=(-serial mon:stdio)
	else
		emulator+=(-serial "file:$IN_RUN/serial.txt")
	fi
else
	[ "${ICOUNT:-0}" != 1 ] || die "ICOUNT=1 is for HOST=amd (Bochs always counts)"
	[ -z "$shell" ] || die "SHELL=1 is for HOST=amd: Bochs only writes its serial port"
	paths=("$IN_RUN/job.sh" "$IN_RUN/env" "${adds[@]+"${adds[@]}"}")
	for f in "${files[@]+"${files[@]}"}"; do paths+=("$IN_RUN/${f##*/}"); done
	for f in kvm.ko kvm-amd.ko kvm-intel.ko; do
		[ ! -e "$SRC/$f" ] || paths+=("$IN_SRC/$f")
	done
	image full "$IN_RUN/initrd.gz" "${paths[@]}"
	# A later mitigations=auto does not take an earlier =off back altogether.
	fast=' mitigations=off'
	case ${APPEND:-} in *mitigations=*) fast='' ;; esac
	# It counts 100 million a second, whatever processor it is, and this one's CPUID says 3.5 GHz: a
	# second of the host's would be 35.
	[ "$cpu" != corei7_skylake_x ] || fast="$fast tsc_early_khz=100000"
	image iso "$IN_RUN/host.iso" "$IN_RUN/initrd.gz" "$kernel" \
		"nokaslr$fast tsc=reliable console=ttyS0,115200 $append" "${GRUB:-}"
	cat >"$RUN_DIR/bochsrc" <<-END
		cpu: model=$cpu, count=$smp, ips=100000000, reset_on_triple_fault=0, ignore_bad_msrs=1
		memory: guest=$mem, host=$mem
		romimage: file=${BIOS:-/usr/share/bochs/BIOS-bochs-latest}
		vgaromimage: file=/usr/share/vgabios/vgabios.bin
		ata0-master: type=cdrom, path=$IN_RUN/host.iso, status=inserted
		boot: cdrom
		com1: enabled=1, mode=file, dev=$IN_RUN/serial.txt
		display_library: rfb, options="timeout=0"
		clock: sync=none
		log: $IN_RUN/bochs.txt
		panic: action=fatal
		error: action=${BOCHS_ERROR:-ignore}
		info: action=$info
	END
	emulator=(bochs)
	# Of those with a virtual APIC.
	if [ "$cpu" = corei7_skylake_x ] && [ "${EMULATOR_AS_IT_IS:-}" != 1 ] &&
		"$SRC/scripts/in-host.sh" python3 "$IN_SRC/scripts/emulator-fix.py" /usr/bin/bochs-bin "$IN_RUN/bochs"; then
		chmod +x "$RUN_DIR/bochs"
		emulator=(env GUEST=guest "$IN_RUN/bochs")
	fi
	emulator+=(-q -f "$IN_RUN/bochsrc")
fi

# An empty network namespace: Bochs's display listens on a fixed range of ports, and
# no run should be reachable from outside or from another run.
start=$EPOCHREALTIME
if [ -n "$shell" ]; then
	unshare -n -- "$SRC/scripts/in-host.sh" "${emulator[@]}"
	exit 0
fi
# If this script is killed, so is the emulator.
setpriv --pdeathsig TERM -- timeout -k 10 "$timeout" unshare -n -- "$SRC/scripts/in-host.sh" "${emulator[@]}" \
	</dev/null >"$RUN_DIR/emulator.txt" 2>&1 &
child=$!
# A host that hangs keeps no limit of its own. Until it is up it says nothing, and -t is its limit.
watch() {
	while sleep 5 && kill -0 "$child" 2>/dev/null; do
		grep -q '^VM-UP' "$serial" || continue
		[ $(($(date +%s) - $(stat -c %Y "$serial"))) -ge "$silence" ] || continue
		echo "vm.sh: nothing on the console for $silence s: the host is ended" >&2
		: >"$RUN_DIR/silent"
		kill "$child"
		return
	done
}
[ -z "$silence" ] || watch >/dev/null &
tail -n +1 -s 0.2 -f --pid="$child" "$serial" 2>/dev/null |
	sed -u -e 's/\r//g' -e 's/\x1b\[[0-9;]*[A-Za-z]//g' -e '/^DMESG-BEGIN/,/^DMESG-END/d' -e '/^JOB-EXIT:/d' -e '/reboot: Power down$/d' \
		${quiet:+-e '0,/^VM-UP/d'}
rc=0
wait "$child" || rc=$?
child=
seconds=$(awk -v a="$start" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }')

sed -i -e 's/\r//g' -e 's/\x1b\[[0-9;]*[A-Za-z]//g' "$serial"
sed -n '/^DMESG-BEGIN/,/^DMESG-END/{/^DMESG-/d;p}' "$serial" >"$RUN_DIR/dmesg.txt"
job=$(sed -n 's/^JOB-EXIT:\([0-9]*\)$/\1/p' "$serial" | tail -n 1)

if [ -n "$verbose" ]; then
	echo "--- the host's kernel log ---"
	cat "$RUN_DIR/dmesg.txt"
elif [ -z "$quiet" ]; then
	echo "--- the host's kernel log since the job started ---"
	sed -n '/vm: the job starts/,$p' "$RUN_DIR/dmesg.txt" | tail -n +2
fi

# A host that did not end by itself said its last words on the console.
clean=0
log=$RUN_DIR/dmesg.txt
[ -s "$log" ] || log=$serial
# Before its user space is up the host has not met our module: what fails there is the emulator's.
if ! grep -q '^VM-UP' "$serial" && [ -z "${VM_AGAIN:-}" ]; then
	tail -n 5 "$serial" "$RUN_DIR/emulator.txt" >&2
	echo "vm.sh: the host did not come up (emulator's exit code $rc, $seconds s): once more" >&2
	finish 0
	VM_AGAIN=1 exec "$0" "${args[@]}"
fi
if [ -z "$job" ] && [ -n "$last_words" ]; then
	# The one complaint that was asked for does not count.
	grep -vE "$last_words${allowed:+|$allowed}" "$log" >"$RUN_DIR/last.txt" || :
	"$SRC/scripts/log-check.sh" "$RUN_DIR/last.txt" || clean=1
	if [ "$rc" = 1 ] && grep -q '3rd (13) exception with no resolution' "$RUN_DIR/emulator.txt"; then
		rc=0
		# The state of all CPUs is in the log. In VMX operation (CR4.VMXE) a real one ignores INIT,
		# so that the machine might hang instead of starting anew.
		cr4=$(sed -n 's/.*CR4=0x\([0-9a-f]*\).*/\1/p' "$RUN_DIR/bochs.txt")
		[ -n "$cr4" ] || cr4=ffffffff
		for v in $cr4; do
			if [ $((0x$v & 0x2000)) != 0 ]; then
				echo "vm.sh: the host resets itself with VMX on: CR4 $v" >&2
				exit 125
			fi
		done
	fi
	if [ "$rc" = 0 ] && tail -n 80 "$log" | grep -qE "$last_words"; then
		[ $clean = 0 ] || exit 99
		exit 0
	fi
	echo "vm.sh: the host did not end with: $last_words (emulator's exit code $rc)" >&2
	tail -n 15 "$serial" >&2
	exit 125
fi
if [ -n "$allowed" ]; then
	grep -vE "$allowed" "$log" >"$RUN_DIR/other.txt" || :
	log=$RUN_DIR/other.txt
fi
"$SRC/scripts/log-check.sh" "$log" || clean=1
if [ -z "$job" ]; then
	tail -n 15 "$RUN_DIR/emulator.txt" >&2
	if [ "$rc" = 124 ] || [ "$rc" = 137 ]; then
		echo "vm.sh: timeout: no end after $timeout s" >&2
		exit 124
	fi
	echo "vm.sh: the host died or did not come up (emulator's exit code $rc, $seconds s)" >&2
	exit 125
fi
if [ "$job" = 0 ] && [ "$clean" != 0 ]; then
	echo "vm.sh: the job passed, but the host's kernel log is not clean" >&2
	job=99
fi
# What it says when its log has been read, and whether it ends by itself.
sed '1,/^DMESG-END/d' "$serial" | grep -vE "${allowed:-^\$}" >"$RUN_DIR/end.txt" || :
"$SRC/scripts/log-check.sh" "$RUN_DIR/end.txt" && [ "$rc" != 124 ] && [ "$rc" != 137 ] && [ ! -e "$RUN_DIR/silent" ] || {
	echo "vm.sh: the host did not end well after the job (emulator's exit code $rc, $seconds s)" >&2
	case $job in 0 | 99) job=125 ;; esac
}
[ -n "$quiet" ] || echo "JOB-EXIT:$job ($HOST host, $KVER, $seconds s)"
exit "$job"
