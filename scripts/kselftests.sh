#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Build the kernel's own KVM selftests. Runs in the Debian 13 folder, from host-setup.sh.
#
#   kselftests.sh SOURCE OUT
#
# They are the contract with user space that the kernel tests itself by. They are
# built from the source package of the host's own kernel; no copy is kept here.
set -eu
src=$1 out=$2
# What fails leaves its directory, so that its reason can be seen (a full disk); host-setup.sh, and the
# next run, remove it.
rm -rf "${out%/*}"/kselftests.??????
work=$(mktemp -d "${out%/*}/kselftests.XXXXXX")
make -C "$src" O="$work/k" ARCH=x86_64 HOSTCC=gcc-14 INSTALL_HDR_PATH="$work/hdr" headers_install
make -C "$src/tools/testing/selftests/kvm" -j"$(nproc)" ARCH=x86_64 CC=gcc-14 \
	KHDR_INCLUDES="-isystem $work/hdr/include" OUTPUT="$work/out"
rm -rf "$out.new"
mkdir "$out.new"
cd "$work/out"
find . -type f -perm -100 ! -name '*.so' ! -name '*.sh' | while IFS= read -r f; do
	mkdir -p "$out.new/${f%/*}"
	strip -o "$out.new/$f" "$f"
done
rm -rf "$out"
mv "$out.new" "$out"
rm -rf "$work"
echo "$(find "$out" -type f | wc -l) programs in $out"
