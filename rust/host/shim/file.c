// SPDX-License-Identifier: GPL-2.0
/* Files: what fd.rs needs and only C can spell. */

#include <linux/anon_inodes.h>
#include <linux/fs.h>

#include "shim.h"

loff_t kvmrs_llseek(struct file *file, loff_t offset, int whence)
{
	return noop_llseek(file, offset, whence);
}

fmode_t kvmrs_fmode_pread(void)
{
	return FMODE_PREAD;
}
