#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Compares rust/model/abi with the headers of a kernel.
# usage: abi-check.sh HEADERS, the folder that contains include/uapi/linux/kvm.h
set -eu

headers=${1:?usage: abi-check.sh HEADERS}
top=$(cd "$(dirname "$0")/.." && pwd)
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

# What `make headers_install` does to these files, as far as it matters here.
mkdir -p "$tmp/linux" "$tmp/asm"
sed -e '/#include <linux\/compiler.h>/d' -e 's/ __user / /' \
	"$headers/include/uapi/linux/kvm.h" >"$tmp/linux/kvm.h"
cp "$headers/include/uapi/linux/kvm_para.h" "$tmp/linux/"
cp "$headers"/arch/x86/include/uapi/asm/kvm*.h "$headers/arch/x86/include/asm/pvclock-abi.h" "$tmp/asm/"

(cd "$top/rust/model" && ABI_TABLE="$tmp/table.h" ${CARGO:-cargo} test -q --lib abi_table)
${CC:-cc} -Wall -Werror -fsyntax-only -I "$tmp" -idirafter "$headers/include/uapi" \
	-D__BITS_PER_LONG_LONG=64 \
	"-DABI_TABLE=\"$tmp/table.h\"" "$top/scripts/abi-check.c"
echo "abi: $(wc -l <"$tmp/table.h") assertions hold"
