# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
# Sourced by test.sh: the tasks that seed a fault into each harness, which must turn it red.

task_seed-lint() {
	red "lint.py" "all .* rules find their fault" in_host scripts/lint.py --seed
}

seed_module() {
	mkdir -p build
	exec 7>build/.seed.lock
	flock 7
	in_host make -C "/usr/src/linux-headers-$KVER" M=$IN_SRC/selftests/seed modules >build/test/seed.log 2>&1 || {
		tail -n 20 build/test/seed.log
		not_ok "the seeded module builds"
		return 1
	}
	exec 7>&-
}

task_seed-mod() {
	seed_module || return
	red "panic check" 'main::indexes: .*panic_bounds_check' object_check panic selftests/seed/seed.ko
	red "stack check" 'big_frame: 1[0-9]* bytes' object_check stack selftests/seed/seed.ko 1024
	local out rc=0
	out=$(object_check panic selftests/seed/seed.ko) || :
	printf '%s\n' "$out" | grep -q 'unreached: ' && rc=1
	verdict "panic check leaves an unreached panic alone" $rc
	printf 'nothing_like_it\tpanic\treason\nindexes\tpanic_bounds_check\treason\n' >build/test/allow.tsv
	red "panic check, entry without use in the allow-list" 'nothing_like_it matches nothing' \
		object_check panic selftests/seed/seed.ko build/test/allow.tsv
	printf 'indexes\tpanic_const_add_overflow\treason\n' >build/test/allow.tsv
	red "panic check, another panic than the one allowed" 'main::indexes: .*panic_bounds_check' \
		object_check panic selftests/seed/seed.ko build/test/allow.tsv
	rc=0
	scripts/vm.sh -q -c 'insmod /build/src/selftests/seed/seed.ko' >build/test/seed-vm.log 2>&1 || rc=$?
	if [ $rc = 99 ]; then ok "host log check turns red"; else not_ok "host log check: exit code $rc, not 99"; fi
	# The host's init opens its console when the log has been read: a pipe, which only the last one opens, too.
	red "a host that hangs when its log has been read" 'the host did not end well' \
		scripts/vm.sh -q -s 20 -c 'rm /dev/console && mkfifo /dev/console'
	red "a host that panics when its log has been read" 'the host did not end well' \
		scripts/vm.sh -q -c 'rm /dev/console && mkfifo /dev/console; (exec 3>/dev/console; echo c >/proc/sysrq-trigger) &'
}

task_seed-boot() {
	red "boot check, stale nonce" 'the guest says nonce stale' env SEED_STALE=1 selftests/run-boots.sh --stock first
	local out
	out=$(SEED_RAISE=1 selftests/run-boots.sh --stock q35-1 pause 2>&1) || :
	printf '%s\n' "$out" >build/test/seed-raise.txt
	red "boot job, an exception of its own" "^not ok 1 - boots/q35-1 .*RuntimeError" said build/test/seed-raise.txt
	red "boot job, the guest after an exception" "^not ok 2 - boots/pause .*RuntimeError" said build/test/seed-raise.txt
}

said() {
	cat "$1"
	return 1
}
task_seed-load() {
	seed_module || return
	SEED=1 selftests/run-jobs.sh leak load kill >build/test/seed-load.txt 2>&1 || :
	red "leak check, a page with each load" 'leak: after .* loads and unloads: [0-9]+ KiB' said build/test/seed-load.txt
	red "leak check, an object with each load" 'leak: after .* loads and unloads: .*objects of kmalloc' said build/test/seed-load.txt
	red "leak check, a vCPU with every tenth VMM" 'leak: after .* killed VMMs: [0-9]+ KiB' said build/test/seed-load.txt
}

bench_figures() { # what an awk program makes of figures that meet every target
	awk -F'\t' -v OFS='\t' 'BEGIN { print "@MODULE", "in-tree" }
		!/^#/ { print "@BENCH", $1, 1000; n[++i] = $1 }
		END { print "@MODULE", "ours"; for (j = 1; j <= i; j++) print "@BENCH", n[j], 100 }' \
		selftests/bench/targets.tsv | awk -F'\t' -v OFS='\t' "$1" >build/test/bench.tsv
}
task_seed-check() {
	local host
	for host in amd intel; do HOST=$host selftests/run-checked.sh; done
}

task_seed-off() {
	red "parameters, one that gets lost" 'vgif in effect: .1., not .0.' env SEED=1 selftests/run-jobs.sh svm vgif
	red "parameters, one that does not do what it shows" 'int_ctl: virtual GIF: True, not False' \
		env SEED=2 selftests/run-jobs.sh svm vgif
	red "selftests with a feature that is not there" 'Bail out! nrips=1 is not in effect: 0' \
		env VENDOR_PARAMS=nrips=1 selftests/run-own.sh port_io
}

task_seed-bench() {
	local host report rc
	for host in amd intel; do
		report="selftests/bench/report.py $host build/test/bench.tsv" rc=0
		bench_figures 1
		in_host $report >build/test/bench.txt || rc=$?
		verdict "bench report passes figures that meet the targets of $host" $rc
	done
	bench_figures '$2 == "cpuid" && $3 == 100 { $3 = 651 } 1'
	red "bench report, one target of intel missed" '; missed: cpuid$' in_host $report
	report="selftests/bench/report.py amd build/test/bench.tsv"
	bench_figures '$2 == "cpuid" && $3 == 100 { $3 = 351 } 1'
	red "bench report, one target missed" '; missed: cpuid$' in_host $report
	bench_figures '!($2 == "fault-2m" && $3 == 100)'
	red "bench report, one figure absent" '; not measured: fault-2m$' in_host $report
}

# What the runner itself makes of results.
task_seed-run() {
	local d=build/test/seeded line child
	mkdir -p $d
	printf 'one -\ntwo ko\n' >$d/all
	echo 'ok 1 - boots/a (pass, 1.0 s: up)' >$d/one.tap
	cp $d/one.tap $d/two.tap
	summary $d 60 | grep -q '^2 passed, 0 failed, 0 skipped$'
	verdict "two tasks that passed are counted" $?
	rm $d/two.tap
	red "a task that left no result" '^failed: - two: did not end' summary $d 60
	echo 'not ok 1 - boots/a (fail, 1.0 s: panic): expected to pass' >$d/first
	forgivable $d/first
	verdict "a guest that failed alone is tried again" $?
	for line in boots own own-smp2 upstream; do
		echo "not ok 7 - $line/a (timeout, 90.0 s)"
	done >$d/first
	forgivable $d/first
	verdict "several tests that failed are tried again" $?
	for line in 'not ok 2 - boots: the host'"'"'s kernel log is clean' 'not ok - leak: after 100 loads: 5 KiB' \
		'not ok 3 - own/a (pass, 1.0 s): complains in the kernel log' 'not ok 3 - own/a (fail, 0 s): the host died' \
		'Bail out! no host' 'not ok 1 - vmx/plain (fail, 2.0 s): expected to pass'; do
		{ cat $d/first && echo "$line"; } >$d/both
		! forgivable $d/both
		verdict "no second try: $line" $? | sed 's/: not ok/:/'
	done
	seed_tasks $d
	seed_hosts $d
	bash -c "sleep 1000.$$; :" &
	line=$!
	child="sleep 1000[.]$$"
	for _ in $(seq 600); do [ -z "$(processes "^$child\$")" ] || break; sleep 0.1; done
	[ -n "$(processes "^$child\$")" ]
	verdict "a task has started something" $?
	end_all $line
	wait $line || :
	for _ in $(seq 600); do [ -n "$(processes "$child(\$|;)")" ] || break; sleep 0.1; done
	[ -z "$(processes "$child(\$|;)")" ]
	verdict "Ctrl-C ends what a task has started, too" $?
	rm -r $d || :
}

# Tasks that die, or whose runners do; their other points are green.
seed_tasks() { # directory
	local tap=$1/tap
	task_made-whole() { printf '%s\n' 'ok 1 - own/a (pass, 1.0 s)' 1..1 'ok 1 - boots/a (pass, 1.0 s)' 1..1; }
	task_made-red() { printf '%s\n' 'ok 1 - own/a (pass, 1.0 s)' 'not ok 2 - own/b (fail, 1.0 s)' 1..2 && false; }
	task_made-quiet() { :; }
	task_made-killed() {
		bash -c 'echo "ok 1 - own/a (pass, 1.0 s)"; kill -9 $$'
		ok "what came after it"
	}
	task_made-unknown() {
		ok "what came before it"
		selftests/run-boots.sh nosuch
		ok "what came after it"
	}
	task_made-short() { printf '%s\n' 'ok 1 - own/a (pass, 1.0 s)' 1..2; }
	task_made-gap() { printf '%s\n' 'ok 1 - own/a (pass, 1.0 s)' 'ok 3 - own/c (pass, 1.0 s)' 1..3; }
	made() (
		trap - ERR
		attempt "made-$1" $tap
	)
	made whole
	! grep '^not ok' $tap
	verdict "a task that ends well is left alone" $?
	made red
	[ "$(grep -c '^not ok' $tap)" = 1 ]
	verdict "a task in which one point failed has one failure" $?
	made quiet
	red "a task without a result" '^not ok - made-quiet: no result \(exit code 0\)$' said $tap
	made killed
	red "a task whose runner is killed" '^not ok - made-killed: exit code 137$' said $tap
	red "a runner without its plan" '^not ok - made-killed: no plan after point 1$' said $tap
	made unknown
	red "a task whose runner does not begin" '^not ok - made-unknown: exit code 1$' said $tap
	made short
	red "a runner with fewer points than planned" '^not ok - made-short: the plan is 1..2, and there are 1 points$' said $tap
	made gap
	red "a runner with a point that got lost" '^not ok - made-gap: point 3 comes after point 1$' said $tap
}

# What runner.sh makes of hosts, which are played: two tests, the last marks, the exit code of vm.sh.
seed_hosts() { # directory
	local made=$1
	local a='@START\tguest_print_test\n@RESULT\tguest_print_test\t0\t1\t2\t\n'
	local b='@START\tx86/set_sregs_test\n@RESULT\tx86/set_sregs_test\t0\t2\t3\t\n'
	printf '#!/bin/bash\nprintf %%b "$PLAY"\nexit "$CODE"\n' >$1/vm
	chmod +x $1/vm
	play() { # exit code, what the job prints
		env VM="$SRC/$made/vm" CODE="$1" PLAY="$2" selftests/run-upstream.sh guest_print_test set_sregs_test
	}
	play 0 "$a$b@DONE\n" >$1/out
	verdict "a host that ends well" $?
	red "a test of which the job said nothing" '^not ok 2 - upstream/x86/set_sregs_test \(not-run' play 0 "$a@DONE\n"
	red "a test that began and did not end" '^not ok 2 - upstream/x86/set_sregs_test \(not-run' play 0 "$a${b%%@R*}@DONE\n"
	red "a job that ends within a test" '^not ok 2 - upstream/x86/set_sregs_test \(died, .*exit code 1 of the job\)' \
		play 1 "$a${b%%@R*}Traceback\n"
	red "a host that is silent after the last test" '^not ok 3 - upstream: the host died or hung after' play 124 "$a$b@DONE\n"
	red "a host that dies after the last test" '^not ok 3 - upstream: the host died or hung after' play 125 "$a$b@DONE\n"
	red "a job that fails after the last test" '^not ok 3 - upstream: the job ended with exit code 1 ' play 1 "$a$b@DONE\n"
	red "a name among others that is no guest's" 'nothing in boots.tsv is called nosuch' selftests/run-boots.sh q35-1 nosuch
	red "a name among others that is no selftest's" 'nothing in expected-svm.tsv is called nosuch' \
		selftests/run-upstream.sh m0 nosuch
	red "a job that gives up" '^Bail out! no reason$' play 1 "$a@BAIL\tno reason\n"
}

task_seed-own() {
	local out green
	red "host log check of the runners" "not ok .* the host's kernel log is clean" \
		env SEED_LOG=1 selftests/run-own.sh port_io
	red "a host that hangs" 'own/port_io .*: the host died' env SEED_HANG=1 SILENCE=20 selftests/run-own.sh port_io
	red "a host that dies after the last test" 'not ok 2 - own: the host died or hung after the last test' \
		env SEED_DIE=1 selftests/run-own.sh port_io
	out=$(SEED=1 selftests/run-own.sh all 2>&1) || :
	# Names of the tests that did not fail for the seeded reason, without those that this host
	# cannot run; one may say it twice.
	green=$(awk '
		NR == FNR { if (!/^#/ && $2 != "faults" && $3 != "skip") all[$1]; next }
		/# failed: .*seeded/ { said = 1 }
		/^(not )?ok [0-9]/ { name = $0; sub(/.*own\//, "", name); sub(/ .*/, "", name)
			if (/^not ok/ && said) delete all[name]
			said = 0 }
		END { for (name in all) print name }' selftests/own.tsv - <<<"$out")
	[ -z "$green" ] || tail -n 15 <<<"$out" | sed 's/^/# /'
	[ -z "$green" ]
	verdict "own selftests, each turns red${green:+; not: ${green//$'\n'/ }}" $?
}
