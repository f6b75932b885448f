// SPDX-License-Identifier: GPL-2.0
/*
 * Flushing the L1 data cache before entries, where a guest could read it through not-present page
 * table entries (L1TF). The kernel's settings and its report in sysfs are followed.
 */

#include <linux/cache.h>
#include <linux/cleanup.h>
#include <linux/export.h>
#include <linux/mutex.h>
#include <linux/smp.h>
#include <linux/string.h>
#include <asm/cpufeature.h>
#include <asm/hardirq.h>
#include <asm/msr.h>
#include <asm/page.h>
#include <asm/processor.h>
#include <asm/vmx.h>

#include "shim.h"
#include "l1d.h"

enum kvmrs_l1d kvmrs_l1d_mode __read_mostly;
bool kvmrs_vmx_l1d_marks __read_mostly;
static u8 *l1d_pages __read_mostly;

#define L1D_BYTES (PAGE_SIZE << VMX_L1D_ORDER)

static enum vmx_l1d_flush_state choose(u32 wish)
{
	if (!boot_cpu_has_bug(X86_BUG_L1TF))
		return VMENTER_L1D_FLUSH_NOT_REQUIRED;
	if (boot_cpu_has(X86_FEATURE_ARCH_CAPABILITIES)) {
		u64 caps;

		rdmsrq(MSR_IA32_ARCH_CAPABILITIES, caps);
		if (caps & ARCH_CAP_SKIP_VMENTRY_L1DFLUSH)
			return VMENTER_L1D_FLUSH_NOT_REQUIRED;
	}
	if (l1tf_mitigation == L1TF_MITIGATION_FULL_FORCE)
		return VMENTER_L1D_FLUSH_ALWAYS;
	switch (wish) {
	case VMX_L1D_NEVER:
		return VMENTER_L1D_FLUSH_NEVER;
	case VMX_L1D_COND:
		return VMENTER_L1D_FLUSH_COND;
	case VMX_L1D_ALWAYS:
		return VMENTER_L1D_FLUSH_ALWAYS;
	}
	switch (l1tf_mitigation) {
	case L1TF_MITIGATION_OFF:
		return VMENTER_L1D_FLUSH_NEVER;
	case L1TF_MITIGATION_FULL:
		return VMENTER_L1D_FLUSH_ALWAYS;
	default:
		return VMENTER_L1D_FLUSH_COND;
	}
}

/* A module part that is set up, and a parameter that is written to. */
static DEFINE_MUTEX(l1d_lock);

static void mark_here(void *unused)
{
	kvmrs_vmx_l1d_mark();
}

static void set(u32 wish)
{
	enum vmx_l1d_flush_state state = choose(wish);
	bool marks = state == VMENTER_L1D_FLUSH_COND;

	/* Exits leave the marks out when nobody looks at them: the first ones are made here. */
	WRITE_ONCE(kvmrs_vmx_l1d_marks, marks);
	if (marks)
		on_each_cpu(mark_here, NULL, 1);
	switch (state) {
	case VMENTER_L1D_FLUSH_COND:
		kvmrs_l1d_mode = KVMRS_L1D_COND;
		break;
	case VMENTER_L1D_FLUSH_ALWAYS:
		kvmrs_l1d_mode = KVMRS_L1D_ALWAYS;
		break;
	default:
		kvmrs_l1d_mode = KVMRS_L1D_NEVER;
	}
	l1tf_vmx_mitigation = state;
	kvmrs_vmx_params.vmentry_l1d_state = state;
}

void kvmrs_vmx_l1d_setup(u32 wish, void *pages)
{
	int i;

	guard(mutex)(&l1d_lock);
	l1d_pages = pages;
	/* Different contents, so that a host below does not merge them into one page. */
	for (i = 0; pages && i < 1 << VMX_L1D_ORDER; i++)
		memset(pages + i * PAGE_SIZE, i + 1, PAGE_SIZE);
	set(wish);
}

int kvmrs_l1d_choose(int wish)
{
	guard(mutex)(&l1d_lock);
	set(wish);
	return l1tf_vmx_mitigation;
}
EXPORT_SYMBOL_FOR_MODULES(kvmrs_l1d_choose, "kvm-intel");

bool kvmrs_vmx_l1d_flushes(u32 wish)
{
	return choose(wish) != VMENTER_L1D_FLUSH_NEVER;
}

void kvmrs_vmx_l1d_mark(void)
{
	kvm_set_cpu_l1tf_flush_l1d();
}

/* The cache is smaller, but does not replace what was used longest ago in strict order. */
noinstr void kvmrs_l1d_flush(void)
{
	unsigned int eax = 0, ebx, ecx = 0, edx;
	unsigned long i;

	if (cpu_feature_enabled(X86_FEATURE_FLUSH_L1D)) {
		native_wrmsrq(MSR_IA32_FLUSH_CMD, L1D_FLUSH);
		return;
	}
	/* First the translations, whose walks would go through the cache. */
	for (i = 0; i < L1D_BYTES; i += PAGE_SIZE)
		asm volatile("movzbl %1, %0" : "=r" (ebx) : "m" (l1d_pages[i]));
	asm volatile("cpuid" : "+a" (eax), "=b" (ebx), "+c" (ecx), "=d" (edx) : : "memory");
	for (i = 0; i < L1D_BYTES; i += 64)
		asm volatile("movzbl %1, %0" : "=r" (ebx) : "m" (l1d_pages[i]));
	asm volatile("lfence" : : : "memory");
}
