#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Build and run one libFuzzer target of rust/model/fuzz with the folder's toolchain.
#
#   scripts/fuzz.sh TARGET [SECONDS] [libFuzzer option]...
#
# The stock compiler's own sanitizer-coverage pass is used (RUSTC_BOOTSTRAP), so that no
# nightly compiler and no cargo-fuzz is needed. The corpus stays in build/corpus/TARGET.
set -eu
. "$(dirname "$0")/lib.sh"
target=${1:?usage: fuzz.sh TARGET [SECONDS]} seconds=${2:-60}
shift $(($# < 2 ? $# : 2))
mkdir -p "$SRC/build/corpus/$target"
flags="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4"
flags="$flags -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table"
flags="$flags -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 -Cdebuginfo=1 -Coverflow-checks=on -Cdebug-assertions=on"
exec "$SRC/scripts/in-host.sh" env RUSTC_BOOTSTRAP=1 RUSTFLAGS="$flags" \
	CARGO_TARGET_DIR="$IN_SRC/build/target-fuzz" CARGO_TERM_COLOR=never \
	cargo run --quiet --release --target x86_64-unknown-linux-gnu \
	--manifest-path rust/model/fuzz/Cargo.toml --bin "$target" -- \
	"$IN_SRC/build/corpus/$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 \
	-artifact_prefix="$IN_SRC/build/corpus/$target-" -print_final_stats=1 ${DICE:+-seed="$DICE"} "$@"
