// SPDX-License-Identifier: GPL-2.0
/* Time, deferred work and eventfds: initialisers that are macros, and the timekeeper's layout. */

#include <linux/clocksource.h>
#include <linux/irq_work.h>
#include <linux/poll.h>
#include <linux/pvclock_gtod.h>
#include <linux/seqlock.h>
#include <linux/suspend.h>
#include <linux/timekeeper_internal.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include "shim.h"

void kvmrs_init_work(struct work_struct *work, void (*func)(struct work_struct *work))
{
	INIT_WORK(work, func);
}

void kvmrs_init_delayed_work(struct delayed_work *work, void (*func)(struct work_struct *work))
{
	INIT_DELAYED_WORK(work, func);
}

struct watch {
	poll_table pt;
	struct wait_queue_entry *wait;
	int ret;
};

static void watch_queue(struct file *file, wait_queue_head_t *wqh, poll_table *pt)
{
	struct watch *watch = container_of(pt, struct watch, pt);

	watch->ret = add_wait_queue_priority_exclusive(wqh, watch->wait);
}

int kvmrs_eventfd_watch(struct file *file, struct wait_queue_entry *wait, bool *signaled)
{
	struct watch watch = { .wait = wait, .ret = -EINVAL };
	__poll_t events;

	init_poll_funcptr(&watch.pt, watch_queue);
	events = vfs_poll(file, &watch.pt);
	*signaled = !!(events & EPOLLIN);
	return watch.ret;
}

static struct kvmrs_gtod gtod;
static seqcount_t gtod_seq = SEQCNT_ZERO(gtod_seq);
static void (*gtod_changed)(bool tsc, bool stepped);

static void copy_clock(struct kvmrs_clock *to, const struct tk_read_base *from)
{
	to->cycle_last = from->cycle_last;
	to->mask = from->mask;
	to->base = from->xtime_nsec;
	to->offset = ktime_to_ns(from->base);
	to->mult = from->mult;
	to->shift = from->shift;
}

static int gtod_notify(struct notifier_block *nb, unsigned long stepped, void *priv)
{
	const struct timekeeper *tk = priv;

	write_seqcount_begin(&gtod_seq);
	copy_clock(&gtod.mono, &tk->tkr_mono);
	copy_clock(&gtod.raw, &tk->tkr_raw);
	gtod.offs_boot = ktime_to_ns(tk->offs_boot);
	gtod.wall_sec = tk->xtime_sec;
	gtod.tsc = tk->tkr_mono.clock->vdso_clock_mode == VDSO_CLOCKMODE_TSC;
	write_seqcount_end(&gtod_seq);

	gtod_changed(gtod.tsc, stepped);
	return 0;
}

static struct notifier_block gtod_nb = {
	.notifier_call = gtod_notify,
};

static void (*gtod_suspending)(void);

static int pm_notify(struct notifier_block *nb, unsigned long action, void *priv)
{
	if (action == PM_SUSPEND_PREPARE || action == PM_HIBERNATION_PREPARE)
		gtod_suspending();
	return NOTIFY_DONE;
}

static struct notifier_block pm_nb = {
	.notifier_call = pm_notify,
};

int kvmrs_gtod_start(void (*changed)(bool tsc, bool stepped), void (*suspending)(void))
{
	int ret;

	gtod_changed = changed;
	gtod_suspending = suspending;
	ret = register_pm_notifier(&pm_nb);
	if (ret)
		return ret;
	ret = pvclock_gtod_register_notifier(&gtod_nb);
	if (ret)
		unregister_pm_notifier(&pm_nb);
	return ret;
}

void kvmrs_gtod_stop(void)
{
	pvclock_gtod_unregister_notifier(&gtod_nb);
	unregister_pm_notifier(&pm_nb);
}

void kvmrs_gtod_read(struct kvmrs_gtod *out)
{
	unsigned int seq;

	do {
		seq = read_seqcount_begin(&gtod_seq);
		*out = gtod;
	} while (read_seqcount_retry(&gtod_seq, seq));
}
