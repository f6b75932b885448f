// SPDX-License-Identifier: GPL-2.0
/*
 * Counters of the host's that must not go on in a guest. An event that is sampled by records in memory
 * (PEBS) would write them to a linear address of the host's, which is another one's in the guest. So
 * each entry asks what perf uses, and has hardware load that, and the host's values with the exit
 * (SDM: vol 3, 27.4 and 28.6).
 */

#include <linux/bug.h>
#include <linux/mm.h>
#include <linux/preempt.h>
#include <asm/kvm_host.h>
#include <asm/msr.h>
#include <asm/perf_event.h>

#include "enter.h"
#include "insn.h"

/* SDM: vol 3, table 25-15. */
struct msr_entry {
	u32 index;
	u32 reserved;
	u64 value;
} __aligned(16);

#define MOST (PAGE_SIZE / 2 / sizeof(struct msr_entry))

struct kvmrs_vmx_perf {
	struct msr_entry guest[MOST];
	struct msr_entry host[MOST];
};
static_assert(sizeof(struct kvmrs_vmx_perf) == PAGE_SIZE);

/* No guest has counters of its own. */
static struct kvm_pmu no_pmu;

bool kvmrs_vmx_perf_exists(void)
{
	bool exists;
	int nr;

	preempt_disable();
	exists = perf_guest_get_msrs(&nr, &no_pmu);
	preempt_enable();
	return exists;
}

void kvmrs_vmx_perf_init(struct kvmrs_vmx_run *r, void *page)
{
	struct kvmrs_vmx_perf *lists = page;

	r->perf = (unsigned long)page;
	r->perf_msrs = 0;
	vmwrite(VM_ENTRY_MSR_LOAD_ADDR, __pa(lists->guest));
	vmwrite(VM_EXIT_MSR_LOAD_ADDR, __pa(lists->host));
}

void kvmrs_vmx_perf_switch(struct kvmrs_vmx_run *r)
{
	struct kvmrs_vmx_perf *lists = (void *)r->perf;
	struct perf_guest_switch_msr *m;
	u32 n = 0;
	int i, nr = 0;

	m = perf_guest_get_msrs(&nr, &no_pmu);
	for (i = 0; m && i < nr; i++) {
		if (m[i].host == m[i].guest)
			continue;
		if (WARN_ON_ONCE(n == MOST))
			break;
		/*
		 * A record may still be on its way after its event was switched off, and it is the write
		 * of this register that waits for it. Lists of MSRs do not.
		 */
		if (m[i].msr == MSR_IA32_PEBS_ENABLE)
			wrmsrq(MSR_IA32_PEBS_ENABLE, 0);
		lists->guest[n] = (struct msr_entry){ .index = m[i].msr, .value = m[i].guest };
		lists->host[n] = (struct msr_entry){ .index = m[i].msr, .value = m[i].host };
		n++;
	}
	if (n != r->perf_msrs) {
		vmwrite(VM_ENTRY_MSR_LOAD_COUNT, n);
		vmwrite(VM_EXIT_MSR_LOAD_COUNT, n);
		r->perf_msrs = n;
	}
}
