// SPDX-License-Identifier: GPL-2.0
/* The parts of rwlock_t and SRCU that are macros or inline. */

#include <linux/sched.h>
#include <linux/spinlock.h>
#include <linux/srcu.h>

#include "shim.h"

void kvmrs_rwlock_init(rwlock_t *lock)
{
	rwlock_init(lock);
}

int kvmrs_srcu_init(struct srcu_struct *srcu, const char *name, struct lock_class_key *key)
{
#ifdef CONFIG_DEBUG_LOCK_ALLOC
	return __init_srcu_struct(srcu, name, key);
#else
	return init_srcu_struct(srcu);
#endif
}

int kvmrs_srcu_read_lock(struct srcu_struct *srcu)
{
	return srcu_read_lock(srcu);
}

void kvmrs_srcu_read_unlock(struct srcu_struct *srcu, int index)
{
	srcu_read_unlock(srcu, index);
}

void kvmrs_srcu_wait(struct srcu_struct *srcu)
{
	synchronize_srcu_expedited(srcu);
}

unsigned long kvmrs_srcu_begin_wait(struct srcu_struct *srcu)
{
	return start_poll_synchronize_srcu(srcu);
}

bool kvmrs_srcu_waited(struct srcu_struct *srcu, unsigned long cookie)
{
	return poll_state_synchronize_srcu(srcu, cookie);
}

void kvmrs_srcu_destroy(struct srcu_struct *srcu)
{
	cleanup_srcu_struct(srcu);
}
