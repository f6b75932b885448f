// SPDX-License-Identifier: GPL-2.0
/* The parts of rwlock_t that are macros. */

#include <linux/sched.h>
#include <linux/spinlock.h>

#include "shim.h"

void kvmrs_rwlock_init(rwlock_t *lock)
{
	rwlock_init(lock);
}
