#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Run the project's tests; TAP-like output, the last line is the summary.
#
#   scripts/test.sh                 everything
#   scripts/test.sh GROUP|TASK...   some of it; --list says what there is
#   HOST=debug scripts/test.sh      the tests on the debug kernel, which is built first
#
# Property tests and fuzzers throw the same dice in each run; DICE=N throws others.
#
# Tasks run two at a time (TEST_JOBS=): the machine has two cores, and a test host
# keeps one of them busy. Each task's output appears when it ends, its log stays in
# build/test/.
#
# AGAIN=1 gives a task in which guests or selftests failed a second try, and says what
# failed: the emulators inject an interrupt twice now and then (Documentation/testing.rst),
# which no test can tell from a fault of ours. A host that died or complained in its log, a
# leak, a difference that checked=1 found are never the emulator's, and stay.
set -u
. "$(dirname "$0")/lib.sh"
cd "$SRC" || exit 1

# name, group, needs kvm.ko?, sentence
tasks="
fmt        lint      -    rustfmt finds nothing to change
lint       lint      -    style rules of scripts/lint.py
clippy     lint      -    clippy on the model, warnings are errors
model      model     -    unit and property tests of the model, with the folder's cargo
loom       model     -    the mailbox and the flush protocol in every order that threads can take
abi        model     -    structures and numbers of the model are those of the kernel's headers
module     object    -    kvm.ko builds without a warning
depends    object    ko   kvm.ko needs no other module
panic      object    ko   no panic is reachable in kvm.ko
stack      object    ko   no stack frame of kvm.ko exceeds 1 KiB
setup      scripts   -    host-setup.sh and load-check.sh when something is in the way
options    scripts   -    make with options that cannot be meant: refused before anything is done
load       host      ko   what loading and unloading 100 times and 200 killed VMMs leave behind
modules    host      ko   kvm.ko with kvm-amd.ko: every order, parameters, refusals
lifetime   host      ko   CPU hotplug, suspend, reboot, reset, crash under running guests
own        selftests ko   this project's selftests on our module
own-stock  stock     -    by name only: the same on the in-tree module: what they expect is what it does
upstream   selftests ko   the kernel's selftests on our module
run        host      ko   make run and its options
real       host      -    make, make load and make install as on a host of one's own
boots      host      ko   QEMU boots guests on our module
amd-off    host      ko   what each parameter of kvm-amd.ko takes away; selftests without vGIF
intel-up   intel     ko   the kernel's selftests on our module, Intel host
intel-boot intel     ko   QEMU boots guests on our module, Intel host
intel-own  intel     ko   this project's selftests on our module, Intel host
intel-off  intel     ko   what each parameter of kvm-intel.ko takes away; with mitigations
intel-par  intel     ko   this project's selftests with parameters of kvm-intel.ko that take something away
intel-move intel     ko   VMCSs that move between two CPUs, one of which goes offline
skylake    intel     ko   what only Bochs's corei7_skylake_x has: APICv, page-modification log, TSC scaling, XSAVES
intel-life intel     ko   loads, kills, suspend, reboot, reset and crash under running guests, Intel host
intel-mods intel     ko   kvm.ko with kvm-intel.ko: every order, parameters, refusals
intel-no   intel     ko   processors that cannot be used, or are locked off, are refused in one line
ryzen-up   ryzen     ko   the kernel's selftests on our module, Bochs's SVM
ryzen-own  ryzen     ko   this project's selftests on our module, Bochs's SVM
ryzen-boot ryzen     ko   QEMU boots a guest on our module, Bochs's SVM
ryzen-off  ryzen     ko   the same as amd-off with what Bochs's SVM has: NRIPS, pause filter
fuzz       fuzz      -    each fuzz target for some seconds
seed-lint  harness   -    a seeded file: each rule of lint.py turns red
seed-mod   harness   -    a seeded module: panic, stack and host log checks turn red
seed-boot  harness   -    a stale nonce: the boot check turns red
seed-load  harness   ko   small seeded leaks: the leak check turns red
debug-own  debug     ko   HOST=debug only: this project's selftests, failing allocations
debug-up   debug     ko   HOST=debug only: the kernel's selftests
debug-host debug     ko   HOST=debug only: load and unload, CPU hotplug, a guest
debug-few  host      ko   a small part of debug-own, if the debug kernel is in the cache
seed-check harness   ko   a seeded difference: each check of checked=1 turns red
seed-bench harness   -    seeded figures: the verdict of the benchmark turns red
seed-run   harness   -    seeded results: a lost task and a failure that must stay turn red
seed-own   harness   ko   a distorted expectation: each of our selftests turns red
seed-off   harness   ko   parameters that get lost: what should be off without them turns red
"

ok() { echo "ok - $*"; }
not_ok() { echo "not ok - $*"; }
skip() { echo "ok - $1 # SKIP $2"; }
verdict() { # sentence, exit code
	if [ "$2" = 0 ]; then ok "$1"; else not_ok "$1"; fi
}
in_host() { "$SRC/scripts/in-host.sh" "$@"; }
# Cargo's own folder for what it builds here: the machine's other cargo must not mix in.
cargo_host() { in_host env CARGO_TARGET_DIR=$IN_SRC/build/target CARGO_TERM_COLOR=never PROPTEST_RNG_SEED="$DICE" cargo "$@"; }

# The command must fail, and for the seeded reason: its output must match the pattern.
red() { # sentence, pattern, command...
	local what=$1 pattern=$2 out
	shift 2
	if out=$("$@" 2>&1); then
		printf '%s\n' "$out" | tail -n 5
		not_ok "$what: the seeded fault was not found"
	elif ! grep -qE "$pattern" <<<"$out"; then
		printf '%s\n' "$out" | tail -n 15
		not_ok "$what: failed for another reason than the seeded one"
	else
		ok "$what turns red"
	fi
}

# shellcheck source=SCRIPTDIR/test-user.sh
. "$SRC/scripts/test-user.sh"
# shellcheck source=SCRIPTDIR/test-harness.sh
. "$SRC/scripts/test-harness.sh"

task_fmt() {
	# shellcheck disable=SC2046
	in_host rustfmt --check --color never --edition 2021 --config-path "$IN_SRC/.rustfmt.toml" --config skip_children=true \
		$(grep '\.rs$' build/test/files) 2>&1 | head -n 60
	verdict "rustfmt" "${PIPESTATUS[0]}"
}

task_lint() {
	in_host scripts/lint.py --files build/test/files
	verdict "lint.py" $?
}

task_clippy() {
	# precedence: later clippy versions no longer ask for brackets around shifts.
	cargo_host clippy --quiet --manifest-path rust/model/Cargo.toml -- -D warnings -A clippy::precedence 2>&1
	verdict "clippy: model" $?
}

task_model() {
	local rc=0
	cargo_host test --manifest-path rust/model/Cargo.toml -- --show-output >build/test/cargo.txt 2>&1 || rc=$?
	grep -E '^(error|test .* FAILED|thread .*panicked)' build/test/cargo.txt | head -n 40
	sed -n '/^failures:/,$p' build/test/cargo.txt | head -n 80
	# On what the emulator agrees with this machine's CPU: mode by kind; the log has every opcode.
	sed -n 's/^\(Bits[0-9]*: .* instructions of .*\)/# emulator, \1/p; s/^coverage: /#   /p' build/test/cargo.txt
	# Every test counts as one: cargo's result lines are added up.
	awk '/^test result:/ { p += $4; f += $6; s += $8 } END { print "#count", p + 0, f + 0, s + 0 }' build/test/cargo.txt
	[ $rc = 0 ] || grep -q '^test result: FAILED' build/test/cargo.txt || {
		grep -vE '^ *(Compiling|Downloaded)' build/test/cargo.txt | tail -n 40
		not_ok "cargo test: did not build"
	}
}

# That no wake-up and no flush is lost is a statement about orders of events: loom tries them all.
task_loom() {
	local rc=0
	in_host env CARGO_TARGET_DIR=$IN_SRC/build/loom CARGO_TERM_COLOR=never \
		RUSTFLAGS='--cfg loom -C opt-level=1 -C debuginfo=0' \
		cargo test --manifest-path rust/model/Cargo.toml --lib loom >build/test/loom.txt 2>&1 || rc=$?
	[ $rc = 0 ] || tail -n 40 build/test/loom.txt
	awk '/^test result:/ { p += $4; f += $6 } END { print "#count", p + 0, f + 0, 0; exit p + f == 0 }' build/test/loom.txt ||
		not_ok "loom: no test ran"
}

task_abi() {
	in_host env CARGO_TARGET_DIR=$IN_SRC/build/target CARGO_TERM_COLOR=never \
		scripts/abi-check.sh "/usr/src/linux-headers-${KVER%-amd64}-common" 2>&1 | tail -n 20
	verdict "the model's ABI is the headers'" "${PIPESTATUS[0]}"
}

task_module() {
	local rc=0
	# From scratch: a warning shows only when its file is compiled.
	find rust src -name '*.o' -exec rm -f {} + 2>/dev/null || :
	rm -f kvm.ko
	scripts/build.sh 2>&1 || rc=$?
	verdict "kvm.ko builds" $rc
	if [ $rc = 0 ]; then
		! grep -nE 'warning: |warning\[|WARNING: modpost' build/module.log
		verdict "no warning from rustc, gcc, objtool or modpost" $?
	fi
}

object_check() {
	in_host scripts/object-check.py "$@"
}
task_depends() {
	object_check depends kvm.ko
	verdict "kvm.ko depends on no module" $?
}
task_panic() {
	object_check panic kvm.ko scripts/panic-allow.tsv
	verdict "no reachable panic" $?
}
task_stack() {
	object_check stack kvm.ko 1024
	verdict "stack frames" $?
}

task_setup() {
	scripts/load-check-test.sh
	scripts/host-setup-test.sh
	red "a second run in the same checkout" 'another run of the tests is at work' scripts/test.sh fmt
}

# With the module's parameter `checked`, which compares what is believed with what is at
# every entry. MODULE_PARAMS= given to make test wins.
checked() { export MODULE_PARAMS=${MODULE_PARAMS-checked=1}; }

# The kernel that finds mistakes, and the module for it; built by whoever comes first.
debug_host() {
	local rc=0
	(
		flock 8
		[ ! -e build/test/debug.built ] || exit "$(cat build/test/debug.built)"
		scripts/debug-kernel.sh && HOST=debug scripts/build.sh || rc=$?
		verdict "debug: the module builds for the debug kernel" $rc
		echo $rc >build/test/debug.built
		exit $rc
	) 8>build/test/.debug.lock || return 1
	export HOST=debug KMEMLEAK=${KMEMLEAK:-on}
	checked
}
task_debug-own() {
	debug_host || return
	# shellcheck disable=SC2086
	selftests/run-own.sh ${OWN:-faults basic emul errno stress bad devices state pages notify memfd}
}
task_debug-up() {
	debug_host || return
	# shellcheck disable=SC2086
	selftests/run-upstream.sh ${UPSTREAM:-m0 m1}
}
task_debug-host() {
	debug_host || return
	scripts/vm.sh -q -t 3600 -c "for i in \$(seq 20); do insmod kvm.ko $MODULE_PARAMS && rmmod kvm || exit 1; done"
	verdict "debug: load, unload" $?
	scripts/vm.sh -q -t 3600 -e WHAT=hotplug -e MODULE_PARAMS="$MODULE_PARAMS" selftests/lifetime-job.sh
	verdict "debug: CPU hotplug under running guests" $?
	# shellcheck disable=SC2086
	selftests/run-boots.sh ${BOOTS:-q35-1}
}

# The part that every run has time for, without kmemleak. Only the module is built for it.
task_debug-few() {
	if ! scripts/debug-kernel.sh --cached; then
		skip "debug" "no debug kernel for $KVER in the cache: make test HOST=debug builds it"
		return
	fi
	export KMEMLEAK=${KMEMLEAK:-off}
	debug_host || return
	# shellcheck disable=SC2086
	LOADS=5 selftests/run-own.sh ${OWN:-basic}
}

task_load() {
	selftests/run-jobs.sh leak
}

task_modules() {
	scripts/vm.sh -q -t 300 selftests/modules-job.sh
	verdict "thin modules: the job, and a clean log" $?
}

# What goes on while guests run. All but the first take the host down.
task_lifetime() {
	checked
	life_hotplug
	life_nmi
	last_words 'suspend|lifetime: suspended three times' 'reboot|reboot: Restarting system' \
		'sysrq|sysrq: Resetting' 'crash|sysrq triggered crash|Call Trace:'
}
# What the lifetime job needs in a Bochs host.
life_args() {
	args=()
	[ "${HOST:-amd}" != amd ] || return 0
	local row
	while IFS= read -r row; do args+=(-a "$row"); done < <(
		printf '%s\n' /bin/bash "$IN_SRC/selftests/tiny_guest.py"
		python_paths ctypes,errno,fcntl,mmap,os,struct,sys,threading,time
	)
}
life_hotplug() {
	local args
	life_args
	scripts/vm.sh -q -t "${LIMIT:-300}" -e WHAT=hotplug -e MODULE_PARAMS="${MODULE_PARAMS:-}" \
		"${args[@]+"${args[@]}"}" selftests/lifetime-job.sh
	verdict "${HOST:+$HOST: }lifetime: the hotplug job, and a clean log" $?
}
# NMIs, of which each leaves a backtrace in the log.
life_nmi() {
	local args
	life_args
	scripts/vm.sh -q -t "${LIMIT:-300}" -l 'Call Trace:' -e WHAT=nmi -e MODULE_PARAMS="${MODULE_PARAMS:-}" \
		"${args[@]+"${args[@]}"}" selftests/lifetime-job.sh
	verdict "${HOST:+$HOST: }lifetime: NMIs while guests run, and a clean log" $?
}
# Jobs that take the host down, and what it says then.
last_words() { # WHAT|PATTERN, ...
	local row rc args out=build/test/lifetime-${HOST:-amd}.txt
	life_args
	for row; do
		rc=0
		APPEND=no_console_suspend scripts/vm.sh -q -t "${LIMIT:-200}" -x "${row#*|}" -e WHAT="${row%%|*}" \
			-e MODULE_PARAMS="${MODULE_PARAMS:-}" "${args[@]+"${args[@]}"}" selftests/lifetime-job.sh >$out 2>&1 || rc=$?
		[ $rc = 0 ] || cat $out
		verdict "${HOST:+$HOST: }lifetime: ${row%%|*} under running guests" $rc
	done
}

task_own() {
	local rc=0
	checked
	# shellcheck disable=SC2086
	selftests/run-own.sh ${OWN:-all} || rc=1
	# Where threads meet: once more on two CPUs.
	[ -n "${OWN:-}" ] || SMP=2 selftests/run-own.sh stress notify memfd || rc=1
	return $rc
}

# Not the group stress: once in a few runs the in-tree module keeps a reference there.
task_own-stock() {
	# shellcheck disable=SC2086
	MODULE=stock selftests/run-own.sh ${OWN:-bad basic devices emul errno notify pages state memfd}
}

task_upstream() {
	checked
	# Bail out! fails the task by its exit code; its own lines carry the counts.
	# shellcheck disable=SC2086
	selftests/run-upstream.sh ${UPSTREAM:-m0 m1 m2 m3 long}
}

task_boots() {
	checked
	# shellcheck disable=SC2086
	selftests/run-boots.sh ${BOOTS:-}
}

# A feature taken away by its parameter: small guests, and the selftests that it is for.
task_amd-off() {
	checked
	selftests/run-jobs.sh svm
	export VENDOR_PARAMS="vgif=0 nrips=0"
	selftests/run-own.sh guest_exceptions irq_windows nmi_windows reinjection handed_back init_in_smm startup_ipi
	selftests/run-upstream.sh guest_print_test x86/fix_hypercall_test
}
task_ryzen-off() {
	checked
	HOST=ryzen selftests/run-jobs.sh svm
	export VENDOR_PARAMS="nrips=0 pause_filter_count=0"
	HOST=ryzen selftests/run-own.sh guest_exceptions irq_windows nmi_windows reinjection
	HOST=ryzen selftests/run-upstream.sh guest_print_test
}

# Bochs is slow: the tests that every change may break, and few guests.
task_intel-up() {
	checked
	# shellcheck disable=SC2086
	HOST=intel selftests/run-upstream.sh ${UPSTREAM:-m0 m1 m2 m3}
}

task_intel-boot() {
	checked
	# shellcheck disable=SC2086
	HOST=intel selftests/run-boots.sh ${BOOTS:-}
}

task_intel-own() {
	checked
	# shellcheck disable=SC2086
	HOST=intel selftests/run-own.sh ${OWN:-all}
}

task_intel-off() {
	checked
	HOST=intel selftests/run-jobs.sh vmx
	HOST=intel APPEND=mitigations=auto selftests/run-jobs.sh vmx mitigated
}

task_intel-par() {
	checked
	HOST=intel selftests/run-own.sh {nmi_windows,irq_windows,reinjection}@vnmi=0 \
		{task_priority,user_tpr,irq_windows,lapic_timer}@flexpriority=0 \
		{notify_age,notify_unmap,notify_huge,notify_storm,large_pages,slot_changes}@eptad=0 \
		{guest_modes,notify_unmap,state_moves}@vpid=0 {lapic_timer,x2apic_timer}@preemption_timer=0 \
		{init_in_smm,waits_in_smm,held_step,real_breakpoint}@unrestricted_guest=0
}

task_intel-move() {
	checked
	HOST=intel selftests/run-jobs.sh migrate
}

task_skylake() {
	checked
	export CPU=corei7_skylake_x HOST=intel
	selftests/run-boots.sh q35-1 q35-2
	selftests/run-jobs.sh vmx apicv apicv_off tsc_scaling virtual_interrupts pml
	SMP=2 selftests/run-jobs.sh vmx posted
	# shellcheck disable=SC2086
	selftests/run-own.sh ${OWN:-all}
	selftests/run-upstream.sh x86/state_test x86/xss_msr_test
	selftests/run-checked.sh
}

# The suspend job ends with a reset by sysrq.
task_intel-life() {
	export HOST=intel SMP=2 LIMIT=900
	ROUNDS=40 KILLS=100 selftests/run-jobs.sh leak
	checked
	life_hotplug
	life_nmi
	last_words 'suspend|lifetime: suspended three times' 'reboot|reboot: Restarting system' \
		'crash|sysrq triggered crash|Call Trace:'
}

task_intel-mods() {
	local f paths=(-a "$IN_SRC/selftests/tiny_guest.py")
	while IFS= read -r f; do paths+=(-a "$f"); done < <(
		stock_paths
		python_paths ctypes,errno,fcntl,mmap,os,struct,sys,threading,time
	)
	HOST=intel scripts/vm.sh -q -t 900 "${paths[@]}" selftests/modules-job.sh
	verdict "thin modules on Intel: the job, and a clean log" $?
}

task_intel-no() {
	selftests/run-refuse.sh
}

task_ryzen-up() {
	checked
	# shellcheck disable=SC2086
	HOST=ryzen selftests/run-upstream.sh ${UPSTREAM:-m0}
}

task_ryzen-own() {
	checked
	# shellcheck disable=SC2086
	HOST=ryzen selftests/run-own.sh ${OWN:-all}
}

task_ryzen-boot() {
	checked
	HOST=ryzen selftests/run-boots.sh q35-1
}

task_fuzz() {
	local t targets rc
	if [ ! -d rust/model/fuzz ]; then
		skip "fuzzing" "there are no targets yet"
		return
	fi
	targets=$(find rust/model/fuzz -path '*/fuzz_targets/*.rs' | sort)
	for t in $targets; do
		t=${t##*/}
		rc=0
		DICE=$DICE scripts/fuzz.sh "${t%.rs}" "${TIME:-20}" >"build/test/fuzz-${t%.rs}.txt" 2>&1 || rc=$?
		[ $rc = 0 ] || tail -n 30 "build/test/fuzz-${t%.rs}.txt"
		verdict "fuzz ${t%.rs}, ${TIME:-20} s" $rc
	done
}

if [ "${1:-}" = --list ]; then
	printf '%s' "$tasks"
	exit 0
fi
# --check only looks at what is asked for, for which nothing has to be there yet.
only_check=''
[ "${1:-}" != --check ] || { only_check=1 && shift; }
# The task sets HOST itself: building and checking the module are for the stock kernel.
debug=''
case ${HOST:-} in
intel | ryzen) die "HOST=$HOST: there is amd, debug; the tests of the $HOST host are those of T=$HOST, which are part of all" ;;
esac
one_of HOST "${HOST:-amd}" amd debug
number TEST_JOBS "${TEST_JOBS:-2}" 1 64
number TIME "${TIME:-20}" 1 1000000
number DICE "${DICE:=1}" 1 999999999
if [ "${HOST:-}" = debug ]; then
	[ $# = 0 ] || [ "$*" = debug ] || die "HOST=debug has its own tests: no other can be chosen with it"
	debug=1
	unset HOST
fi
for want; do
	awk -v w="$want" '$1 == w || $2 == w { found = 1 } END { exit !found }' <<<"$tasks" ||
		die "no such group or task: $want (scripts/test.sh --list)"
done
[ -z "$only_check" ] || exit 0
need_folder
mkdir -p build
exec 4>build/.test.lock
flock -n 4 || die "another run of the tests is at work in $SRC: wait until it and its hosts have ended, or use a clone of its own"
rm -rf build/test
mkdir -p build/test
# The checkout may be somebody else's, or no repository.
(git -c "safe.directory=$SRC" ls-files -co --exclude-standard 2>/dev/null ||
	find . \( -path ./build -o -path ./.git \) -prune -o -type f -printf '%P\n') |
	grep -v '^build/' | while IFS= read -r f; do [ -f "$f" ] && echo "$f"; done >build/test/files

# Choose; a task that needs kvm.ko brings the module task along.
chosen='' needs_ko=''
while read -r name group ko what; do
	[ -n "$name" ] || continue
	pick=''
	if [ $# = 0 ]; then
		# The debug kernel is a host of its own: everything else, or that.
		if [ -n "$debug" ]; then [ "$group" != debug ] || pick=1; else
			case $group in debug | stock) ;; *) pick=1 ;; esac
		fi
	else
		for want; do
			if [ "$want" = "$name" ] || [ "$want" = "$group" ]; then pick=1; fi
		done
	fi
	[ -n "$pick" ] || continue
	[ "$ko" != ko ] || needs_ko=1
	chosen="$chosen$name $ko
"
done <<<"$tasks"
if [ -n "$needs_ko" ] && ! grep -q '^module ' <<<"$chosen"; then
	chosen="module -
$chosen"
fi
# The module first: most of the rest waits for it. Then what takes longest.
order="module intel-boot model debug-few debug-own debug-up debug-host boots intel-life upstream own intel-own ryzen-own lifetime load modules seed-mod seed-boot seed-load clippy fuzz"
sorted=''
for name in $order; do
	sorted="$sorted$(grep "^$name " <<<"$chosen")
"
done
chosen=$(printf '%s\n%s' "$sorted" "$chosen" | awk 'NF && !seen[$1]++')

# What a run's results in a directory come to; non-zero if anything failed or did not end.
summary() { # directory, seconds
	local name ko
	# A task whose worker was killed has left nothing.
	while read -r name ko; do
		[ -e "$1/$name.tap" ] || not_ok "$name: did not end" >"$1/$name.tap"
	done <"$1/all"
	{
		cat "$1"/*.tap
		! why=$(disk_full "$1") || not_ok "$why: results may be missing"
	} | awk -v t="$2" '
	/^#count / { p += $2; f += $3; s += $4 }
	/^ok .*# SKIP/ { s++; next }
	/^ok / { p++ }
	/^not ok / { f++; print "failed: " substr($0, 8) }
	/^# failed at first: / { print "# passed at the second try: " substr($0, 20) }
	END {
		printf "# %d:%02d minutes\n", t / 60, t % 60
		printf "%d passed, %d failed, %d skipped\n", p, f, s
		exit f > 0 || p == 0
	}'
}

# The registry is asked before the clock runs, and more than once.
crates() {
	local at
	for at in rust/model rust/model/fuzz selftests/own; do
		cargo_host fetch --quiet --locked --target x86_64-unknown-linux-gnu --manifest-path $at/Cargo.toml || return
	done
}
if grep -qE '^(clippy|model|loom|abi|fuzz|.*own.*|.*seed-.*|skylake|debug-.*|(amd|intel|ryzen)-off|intel-par) ' <<<"$chosen"; then
	crates || { sleep 10 && crates; } || { sleep 30 && crates; } ||
		die "the crates that the tests need could not be fetched; the same command tries again"
fi

started=$SECONDS
printf '%s\n' "$chosen" >build/test/queue
clean() { grep -qE '^ok |^#count ' "$1" && ! grep -qE '^(not ok|Bail out)' "$1"; }
# Whether all that failed are single guests or selftests, and none for a reason that is the host's.
forgivable() {
	! grep -q '^Bail out' "$1" && ! grep '^not ok' "$1" |
		grep -qvE '^not ok [0-9]+ - (boots|own(-smp[0-9]+)?|upstream)/[^ ]+ \((fail|timeout),' &&
		! grep '^not ok' "$1" | grep -qE 'kernel log|leak|checked|the host died'
}
# One task. Its exit code is that of what failed in it last, wherever that was: a runner that was
# killed, or did not know what it was asked for, has told of nothing. What may fail is part of a list
# (cmd || :) or of a condition in the tasks.
run_task() ( # name
	failed_with=0
	set -E
	trap 'failed_with=$? failed_what=$BASH_COMMAND' ERR
	"task_$1"
	[ $failed_with = 0 ] || echo "# exit code $failed_with: $failed_what"
	exit $failed_with
)
# What a task's output lacks of a whole run, as failures of its own.
lacks() { # task, FILE, exit code
	grep -qE '^(not )?ok |^#count ' "$2" || not_ok "$1: no result (exit code $3)"
	! grep -q '^Bail out!' "$2" || not_ok "$1: bailed out"
	[ "$3" = 0 ] || grep -qE '^(not ok|Bail out!) |^#count [0-9]+ [1-9]' "$2" || not_ok "$1: exit code $3"
	# A runner numbers its points, and ends with how many they are.
	awk -v task="$1" '
		/^Bail out!/ { told = 1 }
		/^(not )?ok [0-9]+ / {
			n = $1 == "ok" ? $2 : $3
			if (n != last + 1) say("point " n " comes after " (last ? "point " last : "none"))
			last = n
		}
		/^1\.\.[0-9]+$/ {
			if (substr($0, 4) != last + 0) say("the plan is " $0 ", and there are " last + 0 " points")
			last = 0
		}
		END { if (last && !told) say("no plan after point " last) }
		function say(what) { print "not ok - " task ": " what }
	' "$2"
}
# A task, with all that it says and lacks in FILE.
attempt() { # task, FILE
	local lack
	run_task "$1" >"$2" 2>&1 </dev/null
	lack=$(lacks "$1" "$2" $?)
	[ -z "$lack" ] || printf '%s\n' "$lack" >>"$2"
}
run_tasks() {
	local name ko t0
	while :; do
		# Take the first task that can run now: one that needs kvm.ko waits for the build.
		read -r name ko < <(
			exec 6>build/test/.queue.lock
			flock 6
			if [ -e build/test/module.tap ] || ! grep -q '^module ' build/test/all; then
				n=1
			else
				n=$(awk '$2 != "ko" { print NR; exit }' build/test/queue)
			fi
			if [ -n "$n" ] && [ -s build/test/queue ]; then
				sed -n "${n}p" build/test/queue
				sed -i "${n}d" build/test/queue
			elif [ -s build/test/queue ]; then
				echo "wait -"
			fi
		)
		[ -n "$name" ] || return 0
		if [ "$name" = wait ]; then
			sleep 1
			# Nobody builds it any more if that worker was killed.
			[ -e build/test/module.tap ] || [ ! -e build/test/.module.pid ] || kill -0 "$(cat build/test/.module.pid)" 2>/dev/null || return 0
			continue
		fi
		[ "$name" != module ] || echo $BASHPID >build/test/.module.pid
		t0=$SECONDS
		(
			flock 5
			echo "# $name starts"
		) 5>build/test/.print.lock
		if [ "$ko" = ko ] && [ ! -e kvm.ko ]; then
			not_ok "$name: there is no kvm.ko to test" >"build/test/.$name"
		else
			attempt "$name" "build/test/.$name"
			if [ "${AGAIN:-}" = 1 ] && ! clean "build/test/.$name" && forgivable "build/test/.$name"; then
				mv "build/test/.$name" "build/test/$name.first"
				attempt "$name" "build/test/.$name"
				grep -E '^(not ok|Bail out)' "build/test/$name.first" |
					sed 's/^/# failed at first: /' >>"build/test/.$name"
			fi
		fi
		mv "build/test/.$name" "build/test/$name.tap"
		(
			flock 5
			echo "# $name ($((SECONDS - t0)) s)"
			grep -vE '^[0-9]+ passed, |^1\.\.' "build/test/$name.tap" | sed 's/^#count \([0-9]*\) \([0-9]*\) \([0-9]*\)/# \1 passed, \2 failed, \3 skipped by cargo/'
		) 5>build/test/.print.lock
		unset name
	done
}
# What runs in the background is deaf to Ctrl-C, and so is all that it starts.
end_all() { # PID...
	local p
	for p; do
		# shellcheck disable=SC2046
		end_all $(children "$p")
		# It may have ended with its children.
		kill "$p" 2>/dev/null || :
	done
}
cp build/test/queue build/test/all
echo "# $(grep -c . build/test/all) tasks, kernel $KVER"
pids=()
for ((i = 0; i < ${TEST_JOBS:-2}; i++)); do
	run_tasks &
	pids+=($!)
done
trap 'end_all "${pids[@]}"; echo "test.sh: interrupted"; exit 130' INT TERM
wait
summary build/test $((SECONDS - started))
