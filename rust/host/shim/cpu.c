// SPDX-License-Identifier: GPL-2.0
/* CPU state: what is inline, a macro or a static branch there. */

#include <linux/cpu.h>
#include <linux/sched/smt.h>
#include <linux/topology.h>
#include <linux/uaccess.h>
#include <asm/apic.h>
#include <asm/cpufeature.h>
#include <asm/debugreg.h>
#include <asm/fpu/api.h>
#include <asm/fpu/types.h>
#include <asm/msr.h>
#include <asm/nospec-branch.h>
#include <asm/tsc.h>

#include "shim.h"

int kvmrs_rdmsr_safe(u32 msr, u64 *value)
{
	return rdmsrq_safe(msr, value) ? -EIO : 0;
}

int kvmrs_wrmsr_safe(u32 msr, u64 value)
{
	return wrmsrq_safe(msr, value) ? -EIO : 0;
}

bool kvmrs_fpu_is_guest(void)
{
	/* x86_task_fpu(), which with CONFIG_X86_DEBUG_FPU is a function and not exported. */
	struct fpu *fpu = (void *)current + sizeof(*current);

	return fpu->fpstate->is_guest;
}

bool kvmrs_cpu_has(unsigned int bit)
{
	return bit < (NCAPINTS + NBUGINTS) * 32 && boot_cpu_has(bit);
}

unsigned int kvmrs_num_online_cpus(void)
{
	return num_online_cpus();
}

bool kvmrs_smt_active(void)
{
	return sched_smt_active();
}

u32 kvmrs_cpu_apicid(int cpu)
{
	return cpu_physical_id(cpu);
}

int kvmrs_cpu_node(int cpu)
{
	return cpu_to_node(cpu);
}

bool kvmrs_tsc_unstable(void)
{
	return check_tsc_unstable();
}

void kvmrs_vcpu_switch_barrier(void)
{
	if (static_branch_likely(&switch_vcpu_ibpb))
		indirect_branch_prediction_barrier();
}

void kvmrs_mark_guest_ran(void)
{
	if (cpu_feature_enabled(X86_FEATURE_IBPB_EXIT_TO_USER))
		this_cpu_write(x86_ibpb_exit_to_user, true);
}
