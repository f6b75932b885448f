/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The whole border between C and Rust: every function the Rust crates call that is not in the
 * kernel crate's own bindings. Each is a few lines in rust/host/shim, holds no policy, and takes
 * kernel structures as opaque pointers. Functions without the prefix kvmrs_ are exports of the
 * kernel, declared here because the kernel crate's bindings do not have them.
 */
#ifndef KVM_RS_SHIM_H
#define KVM_RS_SHIM_H

#include <linux/fs.h>
#include <linux/mm_types.h>
#include <linux/spinlock_types.h>
#include <linux/types.h>

/* ---- files (shim/file.c) ---- */

/* Makes an anonymous-inode file with extra f_mode bits; takes a reference on fops->owner. */
struct file *anon_inode_getfile_fmode(const char *name, const struct file_operations *fops,
				      void *priv, int flags, fmode_t f_mode);
/* noop_llseek() under an address of our own: its presence in a fops marks a file as ours. */
loff_t kvmrs_llseek(struct file *file, loff_t offset, int whence);
/* FMODE_PREAD, which is a cast and so invisible to bindgen. */
fmode_t kvmrs_fmode_pread(void);

/* ---- memory (shim/mem.c) ---- */

/* Takes a reference on a page. */
void kvmrs_get_page(struct page *page);
/* Drops a reference on a page. */
void kvmrs_put_page(struct page *page);
/* Marks a page accessed, and dirty if asked, unless it is reserved. */
void kvmrs_page_mark(struct page *page, bool dirty);
/* The frame number of a page. */
unsigned long kvmrs_page_to_pfn(struct page *page);
/* Whether a frame is device memory, to be mapped uncached in the guest. */
bool kvmrs_pfn_is_mmio(unsigned long pfn);
/* `1 << order` pages on or near a node, as a direct-map address, or 0. */
unsigned long kvmrs_pages_on_node(int node, gfp_t gfp, unsigned int order);
/* Accounts `pages` pages from `kva` on as secondary page tables (negative: no more). */
void kvmrs_account_table(unsigned long kva, int pages);
/* Level (1, 2 or 3) at which the current mm maps `hva`, 0 if it does not. */
int kvmrs_host_level(unsigned long hva);

/* ---- the current process's memory (shim/user.c) ---- */

/* Compare-exchange: 0 stored, 1 differed (*old updated), -EFAULT. May fault the page in. */
int kvmrs_cmpxchg_user8(unsigned long hva, u8 *old, u8 new_);
int kvmrs_cmpxchg_user16(unsigned long hva, u16 *old, u16 new_);
int kvmrs_cmpxchg_user32(unsigned long hva, u32 *old, u32 new_);
int kvmrs_cmpxchg_user64(unsigned long hva, u64 *old, u64 new_);

/* Zeroes user memory; the number of bytes left. */
unsigned long kvmrs_clear_user(unsigned long hva, unsigned long len);

/* ---- locks (shim/lock.c) ---- */

/* Initialises the MMU lock; all of them share one lockdep class. */
void kvmrs_rwlock_init(rwlock_t *lock);
/* Whether somebody waits for the lock, or the scheduler for the CPU. */
bool kvmrs_rwlock_needbreak(rwlock_t *lock);
/* Whether the scheduler wants the CPU. */
bool kvmrs_need_resched(void);

#endif /* KVM_RS_SHIM_H */
