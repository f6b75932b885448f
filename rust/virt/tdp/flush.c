// SPDX-License-Identifier: GPL-2.0
/* Forcing guests off a set of nested page tables. */

#include <linux/percpu.h>
#include <linux/smp.h>

#include "vmenter.h"

DEFINE_PER_CPU(unsigned long, kvmrs_tdp_running);

static bool runs_on(int cpu, void *tables)
{
	return READ_ONCE(per_cpu(kvmrs_tdp_running, cpu)) == (unsigned long)tables;
}

static void nothing(void *unused)
{
}

bool kvmrs_tdp_kick(unsigned long tables)
{
	int cpu;

	/* The change of the tables' generation before the looks at where they run. */
	smp_mb();
	/*
	 * Mostly they run nowhere, and a cross call without a target costs much more than this.
	 * When one has a target, its own look finds what this one has brought into the cache.
	 */
	for_each_online_cpu(cpu) {
		if (!runs_on(cpu, (void *)tables))
			continue;
		on_each_cpu_cond(runs_on, nothing, (void *)tables, true);
		return true;
	}
	return false;
}
