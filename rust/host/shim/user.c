// SPDX-License-Identifier: GPL-2.0
/* Atomic access to the memory of the current process. */

#include <linux/uaccess.h>

#include "shim.h"

#define CMPXCHG_USER(bits)							\
int kvmrs_cmpxchg_user##bits(unsigned long hva, u##bits *old, u##bits new_)	\
{										\
	u##bits __user *p = (u##bits __user *)hva;				\
										\
	if (!access_ok(p, sizeof(*p)))						\
		return -EFAULT;							\
	return __try_cmpxchg_user(p, old, new_, fault);				\
}

/* One window for all words: this is on the path of exits that must find their instruction's length. */
bool kvmrs_user_unchanged(const struct kvmrs_seen *s, unsigned long n)
{
	const struct kvmrs_seen *end = s + n;
	u64 changed = 0, v;

	__uaccess_begin_nospec();
	for (; s < end; s++) {
		unsafe_get_user(v, (u64 __user *)s->hva, fault);
		changed |= (v ^ s->value) & s->mask;
	}
	user_access_end();
	return !changed;
fault:
	user_access_end();
	return false;
}

unsigned long kvmrs_clear_user(unsigned long hva, unsigned long len)
{
	return clear_user((void __user *)hva, len);
}

CMPXCHG_USER(8)
CMPXCHG_USER(16)
CMPXCHG_USER(32)
CMPXCHG_USER(64)
