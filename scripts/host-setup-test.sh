#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# What host-setup.sh does when things go wrong: no network, no space, interrupted, twice at
# once; and that the next run recovers. Which kernel it takes when the archive has moved on. What
# build.sh and run.sh do without space, and after a build that was killed. Whose source
# kernel-rust.sh takes. TAP. The slow step is
# made up: it links the folder that is there already, so nothing is downloaded.
# scripts/host-setup-faults.sh does the same to the real steps.
set -u
. "$(dirname "$0")/lib.sh"
need_folder
setup=$SRC/scripts/host-setup.sh
real=$DEB
# Beside the real cache, where links work.
tmp=$(run_dir setup-test "$CACHE")
pids=()
finish() {
	[ ${#pids[@]} = 0 ] || kill "${pids[@]}" 2>/dev/null
	rm -rf --one-file-system "$tmp"
}
trap finish EXIT
failed=0
ok() { echo "ok - host-setup: $*"; }
not_ok() {
	echo "not ok - host-setup: $*"
	sed 's/^/#   /' "$tmp/out"
	failed=1
}
says() { # sentence, pattern
	if grep -qE "$2" "$tmp/out"; then ok "$1"; else not_ok "$1"; fi
}
tool() { printf '#!/bin/sh\n%s\n' "$2" >"$tmp/bin/$1" && chmod +x "$tmp/bin/$1"; }
run() { KVM_RS_CACHE=$tmp/cache PATH=$tmp/bin:$PATH "$setup" >"$tmp/out" 2>&1; }
mkdir -p "$tmp/bin" "$tmp/cache"
# mmdebstrap OPTION... trixie DIR SOURCE...: the folder that is there, once `go` exists.
link="for d; do case \$d in */host.new) new=\$d ;; esac; done
setsid sh -c 'while :; do sleep 0.1; done # $tmp/other' &
mkdir -p \$new/half && touch $tmp/begun
while [ ! -e $tmp/go ]; do sleep 0.1; done
rm -r \$new && mkdir -p \$new/build && cd $real && cp -al \$(ls -A | grep -vx build) \$new/ &&
	cp -al build/kselftests build/.stamp \$new/build/"

# The set-up just started has the lock and is at its folder; the one killed leaves its half.
begun() {
	for _ in $(seq 600); do [ ! -e "$tmp/begun" ] || break; sleep 0.1; done
	rm "$tmp/begun"
}

tool df 'echo Avail Inodes IFree Mounted; echo 1000 400000 400000 /full'
if run; then not_ok "no space is refused"; else says "no space: says so" '0 MB free \(mounted on /full\), set-up needs [0-9]+: .*KVM_RS_CACHE'; fi
tool df 'echo Avail Inodes IFree Mounted; echo 99000000 400000 1000 /full'
if run; then not_ok "no inodes is refused"; else says "no inodes: says so" 'room for 1000 files'; fi

# The file system counts no inodes, which is no obstacle.
tool df 'echo Avail Inodes IFree Mounted; echo 99000000 0 0 /btrfs'
tool mmdebstrap 'echo "E: Could not connect to the archive"; exit 100'
if run; then not_ok "no network is refused"; else
	says "no network: the reason is shown" '^E: Could not connect'
	says "no network: says so, where the log is and what to do" '^host-setup.sh: the package archive cannot be reached .*whole log is .*mmdebstrap.log. Run the same command again'
fi
tool mmdebstrap 'echo "E: the moon is full"; exit 1'
if run; then not_ok "a step that fails"; else says "a step that fails: another reason is not taken for one of these" '^host-setup.sh: that failed. The whole'; fi
rm "$tmp/bin/df"

# A file system that is full in truth: large enough at first, and shrunk while a step runs.
on_small() { # command
	unshare -m --propagation private sh -c "mkdir -p $tmp/small && mount -t tmpfs -o size=20G small $tmp/small && $1" >"$tmp/out" 2>&1
}
tool mmdebstrap "for d; do case \$d in */host.new) new=\$d ;; esac; done
mkdir -p \$new/half && mount -o remount,size=1M $tmp/small
head -c 2M /dev/zero >\$new/half/file || { echo 'E: dpkg was not happy'; exit 1; }"
if on_small "KVM_RS_CACHE=$tmp/small/cache PATH=$tmp/bin:\$PATH '$setup'; rc=\$?; echo left: \$(ls $tmp/small/cache); exit \$rc"; then
	not_ok "full in the middle is a failure"
else
	says "full in the middle: says what is full and what is needed" \
		"^host-setup.sh: (no space is left on the file system of|a file system had no space left) .*$tmp/small.* needs [0-9]+ MB there: free some space, or set KVM_RS_CACHE.* whole log"
	says "full in the middle: half a folder does not stay" '^left: log pins$'
fi
tree=$tmp/small/tree
copy="mkdir $tree && tar c -C '$SRC' --exclude='*.o' --exclude='*.rmeta' --exclude=target Kbuild Makefile include rust src scripts selftests |
	tar x -C $tree && mkdir $tree/build && mount -o remount,size=\$((\$(du -sk $tree | cut -f1) + 200))k $tmp/small"
if on_small "$copy && $tree/scripts/build.sh"; then not_ok "a full disk: build.sh fails"; else
	says "a full disk: build.sh says so" "^build.sh: the module could not be built: no space is left on the file system of $tree "
fi
if on_small "$copy && cd $tree && make -o host-modules run"; then not_ok "a full disk: make run fails"; else
	says "a full disk: make run says so" "^(vm|run).sh: no space is left on the file system of $tree/build"
fi
if on_small "$copy && mount -o remount,size=\$((\$(du -sk $tree | cut -f1) + 20000))k $tmp/small && cd $tree && HOST=intel make -o host-modules run"; then
	not_ok "no room for the CD: make run fails"
else says "no room for the CD: make run says so" "^vm.sh: (no space is left on the file system of|a file system had no space left .*) .*$tree/build"; fi
if on_small "$copy && cat /dev/zero >$tree/build/rest; $tree/scripts/test.sh fmt"; then not_ok "a full disk: make test fails"; else
	says "a full disk: make test says so" "^failed: .*no space is left on the file system of build/test "
fi

# What a build that was killed may have left half is made again, and only that.
mkdir -p "$tmp/half/target"
touch -d '2 hours ago' "$tmp/half/old.o"
touch -d '1 hour ago' "$tmp/half/.building"
touch "$tmp"/half/{new.o,new.rmeta,.new.o.cmd,new.c,target/new.o}
(build_begins "$tmp/half") 2>"$tmp/out"
says "a build that was killed: the next one says so" 'was interrupted'
left=$(cd "$tmp/half" && find . -type f | sort | tr '\n' ' ')
if [ "$left" = "./.build.lock ./.building ./new.c ./old.o ./target/new.o " ]; then ok "a build that was killed: what it made goes"; else
	not_ok "a build that was killed: left are $left"
fi

exec 9>"$tmp/half/.build.lock"
flock 9
(build_begins "$tmp/half") 9>&- 2>"$tmp/out" &
for _ in $(seq 600); do [ ! -s "$tmp/out" ] || break; sleep 0.1; done
exec 9>&-
wait
says "two builds at once: the second says that it waits" 'another build is at work in'

(build_ended "$tmp/half" 137)
if [ -e "$tmp/half/.building" ]; then ok "make was killed: the mark stays"; else not_ok "make was killed: the mark stays"; fi
(build_ended "$tmp/half" 2)
if [ ! -e "$tmp/half/.building" ]; then ok "make failed: the mark goes"; else not_ok "make failed: the mark goes"; fi

# The same of make modules, whose kernel here is a Makefile that kills its make, or fails, or not; and
# a dry run, which keeps its hands off a mark and does not wait.
mkdir -p "$tmp/tree/scripts" "$tmp/kernel"
cp "$SRC/Makefile" "$tmp/tree/"
cp "$SRC/scripts/lib.sh" "$tmp/tree/scripts/"
printf '#!/bin/sh\n' >"$tmp/tree/scripts/load-check.sh" && chmod +x "$tmp/tree/scripts/load-check.sh"
printf 'modules:\n\techo built >>%s; %s\n' "$tmp/kernel/log" "\$(END)" >"$tmp/kernel/Makefile"
modules() { env -u MAKEFLAGS make -C "$tmp/tree" KDIR="$tmp/kernel" "$@" modules >"$tmp/out" 2>&1; }
mark() { # there or gone, sentence
	if [ "$([ -e "$tmp/tree/.building" ] && echo there || echo gone)" = "$1" ]; then ok "$2"; else not_ok "$2"; fi
}
modules END=true
mark gone "make modules: no mark after it"
modules END=false
mark gone "make modules fails: the mark goes"
# shellcheck disable=SC2016 # for the shell of that Makefile
modules 'END=kill -9 $$PPID'
mark there "make modules, whose make is killed: the mark stays"
touch "$tmp/tree/new.o"
: >"$tmp/kernel/log"
exec 6>"$tmp/tree/.build.lock"
flock 6
for o in -n -q -t -kn; do
	timeout 20 env -u MAKEFLAGS make -C "$tmp/tree" KDIR="$tmp/kernel" --no-print-directory $o modules >"$tmp/out" 2>&1
	if [ $? != 124 ] && [ -e "$tmp/tree/new.o" ] && [ -e "$tmp/tree/.building" ] && [ ! -s "$tmp/kernel/log" ]; then
		ok "make $o modules: nothing is waited for, removed or built"
	else not_ok "make $o modules: nothing is waited for, removed or built"; fi
done
exec 6>&-
modules END=true
says "make modules after it: says so" 'was interrupted'
if [ ! -e "$tmp/tree/new.o" ] && [ -s "$tmp/kernel/log" ]; then ok "make modules after it: makes all again"; else
	not_ok "make modules after it: makes all again"
fi

# kernel-rust.sh with made-up headers, packages, source and make: the source is that of the version
# that is installed, also after a run for another that was killed; and runs for two kernels wait for
# each other. dpkg-query says what is in `version`; make notes what it was given, and waits for `on`.
mkdir -p "$tmp"/rust/{bin,src,run,work}
rustc='rustc 1.85.1 (made up)'
for k in 7.3.4-amd64 7.3.4-cloud-amd64; do
	mkdir -p "$tmp/rust/src/linux-headers-$k/scripts"
	printf 'CONFIG_RUST=y\nCONFIG_RUSTC_VERSION_TEXT="%s"\n' "$rustc" >"$tmp/rust/src/linux-headers-$k/.config"
done
(
	tmp=$tmp/rust
	tool rustc "echo '$rustc'"
	tool dpkg-query "case \$* in *Status*) echo installed ;; *) cat $tmp/version ;; esac"
	tool apt-get 'exit 1'
	tool df 'echo Avail; echo 99000000'
	tool tar "mkdir -p \$2/linux-source-7.3 && cp $tmp/version \$2/linux-source-7.3/of"
	tool make "echo \$PPID >$tmp/pid; cat \$2/of >>$tmp/made; touch $tmp/begun
while [ ! -e $tmp/on ]; do sleep 0.1; done
o=\${3#O=} && mkdir -p \$o/rust \$o/scripts && touch \$o/rust/libkernel.rmeta \$o/rust/m.so \$o/scripts/target.json"
)
kernel_rust() { # kernel
	unshare -m --propagation private sh -c "mount --bind $tmp/rust/src /usr/src && mount --bind $tmp/rust/run /run &&
		WORK=$tmp/rust/work PATH=$tmp/rust/bin:\$PATH exec '$SRC/scripts/kernel-rust.sh' $1"
}
made() { # sentence, version...
	local want
	want=$(printf '%s\n' "${@:2}")
	if [ "$(cat "$tmp/rust/made")" = "$want" ]; then ok "$1"; else
		not_ok "$1: made from $(tr '\n' ' ' <"$tmp/rust/made")"
	fi
}
rust_begun() {
	for _ in $(seq 600); do [ ! -e "$tmp/rust/begun" ] || break; sleep 0.1; done
	rm "$tmp/rust/begun"
}
echo 7.3.4-1 >"$tmp/rust/version"
kernel_rust 7.3.4-amd64 >"$tmp/out" 2>&1 &
rust_begun
kill -KILL "$(cat "$tmp/rust/pid")"
wait $! 2>/dev/null
touch "$tmp/rust/on"
for _ in $(seq 600); do flock -n "$tmp/rust/run/kernel-rust.lock" true && break; sleep 0.1; done
rm "$tmp/rust/on"
echo 7.3.5-1 >"$tmp/rust/version"
kernel_rust 7.3.4-amd64 >"$tmp/out" 2>&1 &
pids=($!)
rust_begun
kernel_rust 7.3.4-cloud-amd64 >"$tmp/second" 2>&1 &
pids+=($!)
for _ in $(seq 600); do [ ! -s "$tmp/second" ] || break; sleep 0.1; done
made "kernel-rust.sh after one that was killed: takes the source of the version installed" 7.3.4-1 7.3.5-1
touch "$tmp/rust/on"
if wait "${pids[0]}"; then ok "kernel-rust.sh after one that was killed: ends well"; else
	not_ok "kernel-rust.sh after one that was killed: ends well"
fi
mv "$tmp/second" "$tmp/out"
if wait "${pids[1]}"; then says "kernel-rust.sh for two kernels: the second waits" 'another run is at work'; else
	not_ok "kernel-rust.sh for two kernels: the second ends well"
fi
pids=()
made "kernel-rust.sh for two kernels: one unpacked source is used by both" 7.3.4-1 7.3.5-1 7.3.5-1
if [ "$(grep -c unpacking "$tmp/out")" = 0 ] && [ -e "$tmp/rust/src/linux-headers-7.3.4-cloud-amd64/rust/libkernel.rmeta" ]; then
	ok "kernel-rust.sh for two kernels: both have what they asked for"
else not_ok "kernel-rust.sh for two kernels: both have what they asked for"; fi

# A run that was killed leaves its directory, which the next one of the checkout removes.
(exec sleep 0) &
gone=$!
wait $gone
mkdir -p "$tmp/build/run.$gone.abcdef/half" "$tmp/build/run.$$.abcdef"
new=$(SRC=$tmp run_dir run)
left=$(cd "$tmp/build" && ls | grep -c "^run\.$$\.")
if [ -d "$new" ] && [ "$left" = 2 ] && [ ! -e "$tmp/build/run.$gone.abcdef" ]; then
	ok "a run that was killed: its directory goes, that of another does not"
else not_ok "a run that was killed: left are $(ls "$tmp/build")"; fi

# Started so that Ctrl-C reaches it, which a shell keeps from what it puts in the background.
start() { KVM_RS_CACHE=$tmp/cache PATH=$tmp/bin:$PATH setsid env --default-signal=INT "$setup" >"$1" 2>&1 & }
tool mmdebstrap "$link"
for signal in INT TERM KILL; do
	start "$tmp/out"
	first=$!
	begun
	kill -$signal -- "-$first"
	rc=0
	wait "$first" 2>/dev/null || rc=$?
	if [ -d "$tmp/cache/host" ] || [ $rc = 0 ]; then not_ok "SIG$signal: half a folder is not taken for one"; else
		ok "SIG$signal: half a folder is not taken for one"
	fi
	[ $signal = KILL ] || says "SIG$signal: says so" 'interrupted. Run the same command again to go on from here'
done
start "$tmp/out"
first=$!
begun
for _ in $(seq 600); do [ -z "$(processes "$tmp/other")" ] || break; sleep 0.1; done
if [ -n "$(processes "$tmp/other")" ]; then ok "killed alone: its step was there"; else not_ok "killed alone: its step was there"; fi
kill -KILL "$first"
wait "$first" 2>/dev/null
for _ in $(seq 600); do [ -n "$(processes "$tmp/other")" ] || break; sleep 0.1; done
if [ -n "$(processes "$tmp/other|$tmp/bin/mmdebstrap")" ]; then not_ok "killed alone: its step ends, too"; else
	ok "killed alone: its step ends, too, and what that has started in a session of its own"
fi
(KVM_RS_CACHE=$tmp/cache PATH=$tmp/bin:$PATH "$setup" >"$tmp/first" 2>&1) &
first=$!
pids+=("$first")
begun
# What the run before said is not what this one says.
: >"$tmp/out"
(KVM_RS_CACHE=$tmp/cache PATH=$tmp/bin:$PATH "$setup" >"$tmp/out" 2>&1) &
second=$!
pids+=("$second")
for _ in $(seq 600); do [ ! -s "$tmp/out" ] || break; sleep 0.1; done
says "twice at once: the second says that it waits" 'another set-up is at work'
touch "$tmp/go"
wait "$first"
one=$?
wait "$second"
two=$?
pids=()
if [ $two = 0 ]; then ok "twice at once: the second ends well"; else not_ok "twice at once: the second ends well"; fi
mv "$tmp/first" "$tmp/out"
if [ $one = 0 ]; then ok "after an interruption the next run recovers"; else not_ok "after an interruption the next run recovers"; fi
says "and says what is ready" 'The test host is ready'

# An archive without the best series: a later one that nobody knows, one without headers, one whose
# source is of another version. What is installed is made up, too.
rm -rf --one-file-system "$tmp/cache/host"
mkdir "$tmp/apt"
printf '%s\n' 7.4.1 7.3.9 7.2.8 7.2.5 6.12.107 | sed 's/$/+deb13-amd64/' >"$tmp/apt/image"
grep -v '^7\.3\.9' "$tmp/apt/image" >"$tmp/apt/headers"
cat >"$tmp/apt/apt-cache" <<-'END'
	#!/bin/sh
	case $1 in
	pkgnames) sed "s/^/$2/" "/build/apt/$(echo "$2" | cut -d- -f2)" ;;
	show) echo "Version: ${2#linux-headers-}" | sed 's/+deb13.*/-1~bpo13+1/' ;;
	madison) echo " $2 | 7.2.5-1~bpo13+1 | made up" ;;
	esac
END
cat >"$tmp/apt/apt-get" <<-'END'
	#!/bin/sh
	for p; do
		case $p in linux-headers-*)
			mkdir -p "/usr/src/$p/rust"
			touch "/usr/src/$p/rust/libkernel.rmeta" "/boot/vmlinuz-${p#linux-headers-}"
			;;
		esac
	done
END
chmod +x "$tmp"/apt/apt-*
tool mmdebstrap "$link
rm -rf \$new/usr/src/linux-headers-* \$new/build/.stamp && mkdir \$new/build/.stamp
cp -r $tmp/apt \$new/build/ && cp --remove-destination $tmp/apt/apt-* \$new/usr/bin/
echo 7.2.5+deb13-amd64 >\$new/build/.stamp/kselftests"
if run; then
	says "another archive: falls back to a kernel it knows, and says so" '7\.2\.5\+deb13-amd64 \(7\.2\.5-1~bpo13\+1\): fallback'
	says "another archive: ends well with it" 'The test host is ready: 7\.2\.5\+deb13-amd64'
else not_ok "another archive: falls back to a kernel it knows"; fi
# The same folder again, as if it had no kernel yet.
host=$tmp/cache/host
rm -r "$host"/usr/src/linux-headers-7.2* "$host/build/.stamp/kernel"
sed -i '/^7\.2/d' "$host/build/apt/image"
if run; then not_ok "an archive with no known kernel is refused"; else
	says "an archive with no known kernel: says what it has" 'none of the kernels in scripts/kernels.tsv any more \(it has: 7\.4\.1'
fi
exit $failed
