# SPDX-License-Identifier: GPL-2.0
# Entry points. Most targets are one script; what it does is said there.
# The module itself is described in Kbuild.

SHELL := /bin/bash
V ?= 0
KVER ?= $(shell uname -r)
KDIR ?= /lib/modules/$(KVER)/build

# Options that a user gives on the command line, handed on to the scripts.
# SHELL=1 asks for an interactive host; it must not become make's own shell.
ifeq ($(origin SHELL),command line)
interactive := $(filter 1,$(SHELL))
override SHELL := /bin/bash
endif
export HOST MACHINE CPUS MEMORY KERNEL INITRD DISK SMP MEM CPU ICOUNT APPEND IRQCHIP \
	TIMEOUT MODULE MODULE_PARAMS VENDOR_PARAMS TIME TEST_JOBS
export KVM_RS_INTERACTIVE := $(interactive)
export KVM_RS_CACHE

.PHONY: all modules host-setup host-modules run test test-harness bench fuzz lint check \
	selftests load install rust-artefacts clean help run-options build-options bench-options test-options
.NOTPARALLEL:

all: modules

# With -n, -q or -t make runs the lines that have a + or name MAKE all the same. This one, which
# waits, removes and builds, must not be run then: so it has neither.
dry := $(foreach o,n q t,$(findstring $(o),$(filter-out --%,$(firstword -$(MAKEFLAGS)))))
kbuild = $(MAKE) -C $(KDIR) M=$(CURDIR) modules

modules: ## build the modules for the running kernel (or KVER=)
	scripts/load-check.sh build $(KVER)
	$(if $(strip $(dry)),,+)@. scripts/lib.sh && build_begins . && rc=0 && \
		{ $(kbuild) || rc=$$?; build_ended . $$rc; exit $$rc; }

rust-artefacts: ## make what linux-headers lacks for Rust modules (real host, as root)
	scripts/kernel-rust.sh $(KVER)

load: thin = $(if $(shell grep -lw svm /proc/cpuinfo),kvm-amd,kvm-intel)
load: ## check this machine, then insmod kvm.ko and kvm-amd.ko or kvm-intel.ko (as root)
	scripts/load-check.sh load $(KVER)
	insmod ./kvm.ko || { echo "kvm.ko was not loaded: the end of dmesg says why"; false; }
	insmod ./$(thin).ko || { rmmod kvm; echo "$(thin).ko was not loaded: the end of dmesg says why"; false; }

install: ## put the modules where modprobe prefers them over the in-tree ones (as root)
	scripts/load-check.sh install $(KVER)
	$(MAKE) -C $(KDIR) M=$(CURDIR) INSTALL_MOD_DIR=updates modules_install
	depmod $(KVER)

host-setup: ## prepare the test host in the cache
	scripts/host-setup.sh

host-modules: build-options host-setup ## build kvm.ko for the test host
	scripts/build.sh

run: run-options host-modules ## boot the test host, load kvm.ko, boot a Linux guest on it
	scripts/run.sh

# What cannot be meant is said before anything is prepared.
run-options:
	@scripts/run.sh --check
build-options:
	@scripts/build.sh --check
bench-options:
	@scripts/bench.sh --check
test-options:
	@scripts/test.sh --check $(tasks)

test: tasks = $(T)
test: test-options host-setup ## everything; last line: N passed, N failed, N skipped
	scripts/test.sh $(tasks)

test-harness: tasks = harness
test-harness: test-options host-setup ## seed faults: each harness must turn red
	scripts/test.sh $(tasks)

lint: tasks = lint
lint: test-options host-setup ## rustfmt, clippy, scripts/lint.py
	scripts/test.sh $(tasks)

check: tasks = object
check: test-options host-modules ## look at kvm.ko: panics, stack, dependencies
	scripts/test.sh $(tasks)

selftests: tasks = selftests
selftests: test-options host-modules ## own and upstream selftests in the test host
	scripts/test.sh $(tasks)

fuzz: tasks = fuzz
fuzz: test-options host-setup ## run the fuzz targets (TIME= seconds each)
	scripts/test.sh $(tasks)

bench: bench-options host-modules ## our module and the in-tree one, instructions per exit
	scripts/bench.sh

clean: ## remove what builds made here (the cache stays: KVM_RS_CACHE)
	find . \( -path ./build -o -path ./.git -o -name target \) -prune -o -type f \
		\( -name '*.o' -o -name '*.ko' -o -name '*.mod' -o -name '*.mod.c' -o -name '.*.cmd' \
		-o -name '*.rmeta' -o -name '*.o.*' -o -name modules.order -o -name Module.symvers \) \
		-exec rm -f {} +
	rm -rf build meta .building .build.lock rust/host/bindings_gen.rs

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /  \1\t/' | expand -t 18
	@echo 'T="GROUP TASK..." chooses tests (scripts/test.sh --list), HOST= the host of run and bench; see README.md'
