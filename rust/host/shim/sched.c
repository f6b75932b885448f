// SPDX-License-Identifier: GPL-2.0
/* CPUs and the scheduler: what is inline or a macro there. */

#include <linux/cpumask.h>
#include <linux/irqflags.h>
#include <linux/preempt.h>
#include <linux/rcuwait.h>
#include <linux/rseq.h>
#include <linux/pid.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/smp.h>
#include <linux/tick.h>
#include <trace/events/ipi.h>
#include <asm/apic.h>
#include <asm/irq_vectors.h>
#include <asm/virt.h>

#include "shim.h"

void kvmrs_on_each_cpu(void (*func)(void *info), void *info)
{
	on_each_cpu(func, info, 1);
}

void kvmrs_preempt_check_resched(void)
{
	/* The check itself is not for modules; an empty pair ends with it. */
	preempt_disable();
	preempt_enable();
}

void kvmrs_irq_disable(void)
{
	local_irq_disable();
}

void kvmrs_irq_enable(void)
{
	local_irq_enable();
}

void kvmrs_kick_cpu(int cpu)
{
	if (cpu >= 0 && cpu < nr_cpu_ids && cpu_online(cpu))
		smp_send_reschedule(cpu);
}

static_assert(KVMRS_NOTIFICATION == POSTED_INTR_VECTOR);

void kvmrs_notify_cpu(int cpu)
{
	if (cpu >= 0 && cpu < nr_cpu_ids && cpu_online(cpu))
		__apic_send_IPI_mask(get_cpu_mask(cpu), POSTED_INTR_VECTOR);
}

bool kvmrs_current_runnable(void)
{
	return task_is_runnable(current);
}

void kvmrs_rcuwait_init(struct rcuwait *w)
{
	rcuwait_init(w);
}

void kvmrs_rcuwait_prepare(struct rcuwait *w)
{
	prepare_to_rcuwait(w);
}

void kvmrs_set_interruptible(void)
{
	set_current_state(TASK_INTERRUPTIBLE);
}

void kvmrs_cond_resched(void)
{
	cond_resched();
}

void kvmrs_xfer_prepare(void)
{
	xfer_to_guest_mode_prepare();
}

void kvmrs_rseq_userspace_exit(void)
{
	rseq_virt_userspace_exit();
}

void kvmrs_sigmask_enter(u64 mask)
{
	sigset_t set = { .sig = { mask } };

	sigdelsetmask(&set, sigmask(SIGKILL) | sigmask(SIGSTOP));
	/* real_blocked: what a signal that ends the wait is delivered with. */
	sigprocmask(SIG_SETMASK, &set, &current->real_blocked);
}

void kvmrs_sigmask_leave(void)
{
	sigprocmask(SIG_SETMASK, &current->real_blocked, NULL);
	sigemptyset(&current->real_blocked);
}

void kvmrs_send_mceerr(unsigned long hva, int shift)
{
	send_sig_mceerr(BUS_MCEERR_AR, (void __user *)hva, shift, current);
}

int kvmrs_yield_to(struct pid *pid)
{
	struct task_struct *task = get_pid_task(pid, PIDTYPE_PID);
	int ret;

	if (!task)
		return -ESRCH;
	ret = yield_to(task, true);
	put_task_struct(task);
	return ret;
}

struct pid *kvmrs_current_pid(void)
{
	return get_task_pid(current, PIDTYPE_PID);
}
