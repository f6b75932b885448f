#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# What host-setup.sh does when things go wrong: no network, no space, interrupted, twice at
# once; and that the next run recovers. TAP. The slow step is made up: it links the folder that
# is there already, so nothing is downloaded.
set -u
. "$(dirname "$0")/lib.sh"
need_folder
setup=$SRC/scripts/host-setup.sh
real=$DEB
# Beside the real cache, where links work.
tmp=$(mktemp -d "$CACHE/setup-test.XXXXXX")
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
mkdir -p \$new/half && touch $tmp/begun
while [ ! -e $tmp/go ]; do sleep 0.1; done
rm -r \$new && mkdir -p \$new/build && cd $real && cp -al \$(ls -A | grep -vx build) \$new/ &&
	cp -al build/kselftests build/.stamp \$new/build/"

# The set-up just started has the lock and is at its folder; the one killed leaves its half.
begun() {
	for _ in $(seq 600); do [ ! -e "$tmp/begun" ] || break; sleep 0.1; done
	rm "$tmp/begun"
}

tool df 'echo Avail; echo 1000'
if run; then not_ok "no space is refused"; else says "no space: says so" 'MB free, set-up needs .*KVM_RS_CACHE'; fi
rm "$tmp/bin/df"

tool mmdebstrap 'echo "E: Could not connect to the archive"; exit 100'
if run; then not_ok "no network is refused"; else
	says "no network: the reason is shown" 'Could not connect'
	says "no network: says where the log is and what to do" 'whole log is .*mmdebstrap.log. Run the same command again'
fi

tool mmdebstrap "$link"
KVM_RS_CACHE=$tmp/cache PATH=$tmp/bin:$PATH setsid "$setup" >"$tmp/out" 2>&1 &
first=$!
begun
kill -KILL -- "-$first"
wait "$first" 2>/dev/null
if [ -d "$tmp/cache/host" ]; then not_ok "interrupted: half a folder is not taken for one"; else
	ok "interrupted: half a folder is not taken for one"
fi

(KVM_RS_CACHE=$tmp/cache PATH=$tmp/bin:$PATH "$setup" >"$tmp/first" 2>&1) &
first=$!
pids+=("$first")
begun
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
exit $failed
