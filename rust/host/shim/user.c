// SPDX-License-Identifier: GPL-2.0
/* The memory of the current process. */

#include <linux/mm.h>
#include <linux/mman.h>
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

long kvmrs_map_memory(unsigned long len)
{
	return vm_mmap(NULL, 0, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, 0);
}

void kvmrs_unmap_memory(unsigned long hva, unsigned long len)
{
	vm_munmap(hva, len);
}

CMPXCHG_USER(8)
CMPXCHG_USER(16)
CMPXCHG_USER(32)
CMPXCHG_USER(64)
