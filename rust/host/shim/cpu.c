// SPDX-License-Identifier: GPL-2.0
/* CPU state: what is inline, a macro or a static branch there. */

#include <linux/cpu.h>
#include <linux/percpu.h>
#include <linux/sched/smt.h>
#include <linux/topology.h>
#include <linux/uaccess.h>
#include <asm/apic.h>
#include <asm/asm.h>
#include <asm/cpufeature.h>
#include <asm/debugreg.h>
#include <asm/fpu/api.h>
#include <asm/fpu/types.h>
#include <asm/msr.h>
#include <asm/nospec-branch.h>
#include <asm/tsc.h>

#include "shim.h"

int kvmrs_rdmsr_on(unsigned int cpu, u32 msr, u64 *value)
{
	return rdmsrq_safe_on_cpu(cpu, msr, value);
}

int kvmrs_rdmsr_safe(u32 msr, u64 *value)
{
	return rdmsrq_safe(msr, value) ? -EIO : 0;
}

int kvmrs_wrmsr_safe(u32 msr, u64 value)
{
	return wrmsrq_safe(msr, value) ? -EIO : 0;
}

/* Whose guest values this CPU's MSRs of user mode may have. */
static DEFINE_PER_CPU(const void *, uret_owner);

bool kvmrs_uret_claim(const void *who)
{
	const void *owner = this_cpu_cmpxchg(uret_owner, NULL, who);

	return !owner || owner == who;
}

void kvmrs_uret_release(const void *who)
{
	this_cpu_cmpxchg(uret_owner, who, NULL);
}

bool kvmrs_fpu_is_guest(void)
{
	/* x86_task_fpu(), which with CONFIG_X86_DEBUG_FPU is a function and not exported. */
	struct fpu *fpu = (void *)current + sizeof(*current);

	return fpu->fpstate->is_guest;
}

/*
 * The vector registers of a guest are in the CPU while its thread runs, and in the
 * thread's buffer after it was scheduled out. As before an entry they are loaded first;
 * with fpregs_lock() they stay until the access is done.
 */
static bool guest_fpu_begin(void)
{
	fpregs_lock();
	if (!kvmrs_fpu_is_guest()) {
		fpregs_unlock();
		return false;
	}
	fpregs_assert_state_consistent();
	if (test_thread_flag(TIF_NEED_FPU_LOAD))
		switch_fpu_return();
	return true;
}

#define CASE(n, op, reg, dir)	\
	case n: asm volatile(op " " dir(reg #n) : : [m] "r" (m) : "memory"); break;
#define LOAD(reg)	"(%[m]), %%" reg
#define STORE(reg)	"%%" reg ", (%[m])"
#define EIGHT(op, reg, dir)							\
	CASE(0, op, reg, dir) CASE(1, op, reg, dir) CASE(2, op, reg, dir)	\
	CASE(3, op, reg, dir) CASE(4, op, reg, dir) CASE(5, op, reg, dir)	\
	CASE(6, op, reg, dir) CASE(7, op, reg, dir)
#define SIXTEEN(op, reg, dir)							\
	EIGHT(op, reg, dir)							\
	CASE(8, op, reg, dir) CASE(9, op, reg, dir) CASE(10, op, reg, dir)	\
	CASE(11, op, reg, dir) CASE(12, op, reg, dir) CASE(13, op, reg, dir)	\
	CASE(14, op, reg, dir) CASE(15, op, reg, dir)

/* MMX instructions report x87 exceptions that wait; FWAIT does it where it can be caught. */
static int mmx_access(unsigned int n, void *m, bool write)
{
	int err = 0;

	asm volatile("1: fwait\n2:\n" _ASM_EXTABLE_TYPE_REG(1b, 2b, EX_TYPE_EFAULT_REG, %[err])
		     : [err] "+r" (err));
	if (err)
		return err;
	if (write)
		switch (n & 7) { EIGHT("movq", "mm", LOAD) }
	else
		switch (n & 7) { EIGHT("movq", "mm", STORE) }
	return 0;
}

int kvmrs_fpu_vec(unsigned int n, unsigned int bytes, void *m, bool write)
{
	int err = 0;

	if (bytes == 32 && !boot_cpu_has(X86_FEATURE_AVX))
		return -EINVAL;
	if (!guest_fpu_begin())
		return -EBUSY;
	switch (bytes) {
	case 8:
		err = mmx_access(n, m, write);
		break;
	case 16:
		if (write)
			switch (n & 15) { SIXTEEN("movups", "xmm", LOAD) }
		else
			switch (n & 15) { SIXTEEN("movups", "xmm", STORE) }
		break;
	case 32:
		if (write)
			switch (n & 15) { SIXTEEN("vmovups", "ymm", LOAD) }
		else
			switch (n & 15) { SIXTEEN("vmovups", "ymm", STORE) }
		break;
	default:
		err = -EINVAL;
	}
	fpregs_unlock();
	return err;
}

int kvmrs_fpu_x87(int op, u16 *word)
{
	if (!guest_fpu_begin())
		return -EBUSY;
	switch (op) {
	case 0:
		asm volatile("fninit");
		break;
	case 1:
		asm volatile("fnstcw %0" : "=m" (*word));
		break;
	default:
		asm volatile("fnstsw %0" : "=m" (*word));
	}
	fpregs_unlock();
	return 0;
}

bool kvmrs_cpu_has(unsigned int bit)
{
	return bit < (NCAPINTS + NBUGINTS) * 32 && boot_cpu_has(bit);
}

unsigned int kvmrs_num_online_cpus(void)
{
	return num_online_cpus();
}

bool kvmrs_smt_possible(void)
{
	return cpu_smt_possible();
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
