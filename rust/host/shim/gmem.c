// SPDX-License-Identifier: GPL-2.0
/* The files of guest_memfd: what of the page cache and of memory policies only C can spell. */

#include <linux/fs.h>
#include <linux/highmem.h>
#include <linux/magic.h>
#include <linux/mempolicy.h>
#include <linux/pagemap.h>
#include <linux/pseudo_fs.h>
#include <linux/slab.h>

#include "shim.h"

int kvmrs_gmem_open(struct inode *inode, struct file *file)
{
	return generic_file_open(inode, file);
}

int kvmrs_gmem_fs(struct fs_context *fc, const struct super_operations *ops)
{
	struct pseudo_fs_context *ctx = init_pseudo(fc, GUEST_MEMFD_MAGIC);

	if (!ctx)
		return -ENOMEM;
	ctx->ops = ops;
	return 0;
}

void kvmrs_gmem_mapping(struct address_space *mapping)
{
	mapping_set_gfp_mask(mapping, GFP_HIGHUSER);
	mapping_set_inaccessible(mapping);
}

struct folio *kvmrs_filemap_lock(struct address_space *mapping, unsigned long index)
{
	return filemap_lock_folio(mapping, index);
}

struct folio *kvmrs_filemap_create(struct address_space *mapping, unsigned long index,
				   struct mempolicy *policy)
{
	return __filemap_get_folio_mpol(mapping, index, FGP_LOCK | FGP_CREAT,
					mapping_gfp_mask(mapping), policy);
}

unsigned long kvmrs_folio_index(struct folio *folio)
{
	return folio->index;
}

bool kvmrs_folio_small(struct folio *folio)
{
	return !folio_test_large(folio);
}

bool kvmrs_folio_poisoned(struct folio *folio)
{
	return folio_test_hwpoison(folio);
}

void kvmrs_folio_fill(struct folio *folio)
{
	if (folio_test_uptodate(folio))
		return;
	clear_highpage(folio_page(folio, 0));
	folio_mark_uptodate(folio);
}

struct shared_policy *kvmrs_policy_new(void)
{
	struct shared_policy *sp = kzalloc(sizeof(*sp) ?: 1, GFP_KERNEL_ACCOUNT);

	if (sp)
		mpol_shared_policy_init(sp, NULL);
	return sp;
}

void kvmrs_policy_free(struct shared_policy *sp)
{
	mpol_free_shared_policy(sp);
	kfree(sp);
}

struct mempolicy *kvmrs_policy_lookup(struct shared_policy *sp, unsigned long index)
{
	return mpol_shared_policy_lookup(sp, index);
}

void kvmrs_policy_put(struct mempolicy *policy)
{
	mpol_cond_put(policy);
}

#ifdef CONFIG_NUMA
int kvmrs_policy_set(struct shared_policy *sp, struct vm_area_struct *vma, struct mempolicy *policy)
{
	return mpol_set_shared_policy(sp, vma, policy);
}

unsigned long kvmrs_vma_index(struct vm_area_struct *vma, unsigned long addr)
{
	return linear_page_index(vma, addr);
}
#endif
