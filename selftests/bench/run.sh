#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Measure our module and the in-tree one in one run of the test host, print the table.
#
#   selftests/bench/run.sh            HOST=amd|intel|ryzen
#   selftests/bench/run.sh --build    only build the program
#   selftests/bench/run.sh --check    only look at the options, for which nothing has to be there yet
#
# The figures stay in build/bench-$HOST.tsv; selftests/bench/report.py makes the table
# of them and fails where a target of selftests/bench/targets.tsv is missed.
set -eu
here=$(cd "$(dirname "$0")" && pwd -P)
. "$here/../../scripts/lib.sh"
HOST=${HOST:-amd}
one_of HOST "$HOST" amd intel ryzen
number TIMEOUT "${TIMEOUT:-900}" 1 1000000
# Two would write the same figures.
mkdir -p "$SRC/build"
exec 4>"$SRC/build/.bench.lock"
flock -n 4 || die "another benchmark is at work in $SRC: wait until it and its host have ended, or use a clone of its own"
[ "${1:-}" != --check ] || exit 0
need_folder

target=x86_64-unknown-linux-gnu
RUSTFLAGS='-C target-feature=+crt-static' "$SRC/scripts/in-host.sh" \
	env CARGO_TARGET_DIR="$IN_SRC/build/target-bench" CARGO_TERM_COLOR=never \
	cargo build --quiet --release --locked --target $target --manifest-path selftests/bench/Cargo.toml
[ "${1:-}" != --build ] || exit 0
[ -e "$SRC/kvm.ko" ] || die "there is no kvm.ko: make host-modules"

args=(-q -f "$SRC/build/target-bench/$target/release/bench")
if [ "$HOST" = amd ]; then
	export ICOUNT=1
else
	while IFS= read -r f; do args+=(-a "$f"); done < <(stock_paths)
fi
out=$SRC/build/bench-$HOST.tsv
rc=0
HOST=$HOST "$SRC/scripts/vm.sh" "${args[@]}" -e ONLY_OURS="${ONLY_OURS:-}" -t "${TIMEOUT:-900}" \
	"$here/job.sh" >"$out.log" || rc=$?
grep '^@' "$out.log" >"$out" || :
if [ $rc != 0 ]; then
	grep -v '^@' "$out.log" >&2 || :
	die "the host's run failed ($rc)"
fi
emulator=$([ "$HOST" = amd ] && echo qemu-system-x86 || echo bochs)
# shellcheck disable=SC2016
version=$("$SRC/scripts/in-host.sh" dpkg-query -W -f '${Package} ${Version}' "$emulator" 2>/dev/null) || version=$emulator
echo "# HOST=$HOST, kernel $KVER, $version"
exec "$SRC/scripts/in-host.sh" selftests/bench/report.py "$HOST" "build/bench-$HOST.tsv"
