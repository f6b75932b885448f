// SPDX-License-Identifier: GPL-2.0
/* Pages and the host's page tables. */

#include <linux/mm.h>
#include <linux/mmzone.h>
#include <linux/pgtable.h>
#include <linux/swap.h>
#include <linux/vmstat.h>
#include <asm/memtype.h>
#include <asm/e820/api.h>

#include "shim.h"

void kvmrs_get_page(struct page *page)
{
	get_page(page);
}

void kvmrs_put_page(struct page *page)
{
	put_page(page);
}

void kvmrs_page_mark(struct page *page, bool dirty)
{
	if (PageReserved(page))
		return;
	if (dirty)
		SetPageDirty(page);
	mark_page_accessed(page);
}

unsigned long kvmrs_page_to_pfn(struct page *page)
{
	return page_to_pfn(page);
}

bool kvmrs_pfn_is_mmio(unsigned long pfn)
{
	phys_addr_t pa = PFN_PHYS(pfn);

	if (!pfn_valid(pfn))
		return !e820__mapped_raw_any(pa, pa + PAGE_SIZE - 1, E820_TYPE_RAM);
	if (is_zero_pfn(pfn) || !PageReserved(pfn_to_page(pfn)))
		return false;
	/* Persistent memory is reserved too: the host's own memory type tells it from devices. */
	return !pat_enabled() || pat_pfn_immune_to_uc_mtrr(pfn);
}

void kvmrs_account_table(unsigned long kva, int pages)
{
	lruvec_stat_mod_folio(virt_to_folio((void *)kva), NR_SECONDARY_PAGETABLE, pages);
}

/* Every entry is read once: it may become a leaf, or go, between two reads. */
static int mapped_level(struct mm_struct *mm, unsigned long hva)
{
	pgd_t pgd = READ_ONCE(*pgd_offset(mm, hva));
	p4d_t p4d;
	pud_t pud;
	pmd_t pmd;

	if (!pgd_present(pgd))
		return 0;
	p4d = READ_ONCE(*p4d_offset(&pgd, hva));
	if (!p4d_present(p4d))
		return 0;
	pud = READ_ONCE(*pud_offset(&p4d, hva));
	if (!pud_present(pud))
		return 0;
	if (pud_leaf(pud))
		return 3;
	pmd = READ_ONCE(*pmd_offset(&pud, hva));
	if (!pmd_present(pmd))
		return 0;
	return pmd_leaf(pmd) ? 2 : 1;
}

int kvmrs_host_level(unsigned long hva)
{
	struct mm_struct *mm = current->mm;
	unsigned long flags;
	int level;

	/* The kernel's own tables go otherwise than the argument below has it. */
	if (!mm || hva >= TASK_SIZE_MAX)
		return 0;
	/* A table is freed only after an IPI to, or an RCU grace period on, this CPU. */
	local_irq_save(flags);
	level = mapped_level(mm, hva);
	local_irq_restore(flags);
	return level;
}
