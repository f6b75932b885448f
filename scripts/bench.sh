#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Compare our module with the in-tree one: instructions of the host per exit.
#
# Both run the same guest binary in the same host, whose time-stamp counter counts emulated
# instructions (in QEMU under -icount, in Bochs anyway), so the figures repeat to a few.
set -eu
. "$(dirname "$0")/lib.sh"
bench=$SRC/selftests/bench
[ -d "$bench" ] || die "there is nothing to measure yet: selftests/bench does not exist"
exec "$bench/run.sh" "$@"
