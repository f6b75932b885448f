/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The instructions of VMX. Each can fault once the kernel has taken VMX away on its way down, which
 * is passed over. Included by cpu.c and enter.c alone.
 */
#ifndef KVM_RS_VMX_INSN_H
#define KVM_RS_VMX_INSN_H

#include <linux/bug.h>
#include <linux/instrumentation.h>
#include <asm/asm.h>
#include <asm/virt.h>
#include <asm/vmx.h>

#include "vmenter.h"

static __always_inline u64 vmread(unsigned long field)
{
	u64 value;

	asm_goto_output("1: vmread %[field], %[value]\n\t"
			"jbe %l[failed]\n\t"
			_ASM_EXTABLE(1b, %l[failed])
			: [value] "=rm" (value)
			: [field] "r" (field)
			: "cc"
			: failed);
	return value;
failed:
	instrumentation_begin();
	kvmrs_vmx_access_failed(field, false);
	instrumentation_end();
	return 0;
}

static __always_inline void vmwrite(unsigned long field, u64 value)
{
	asm goto("1: vmwrite %[value], %[field]\n\t"
		 "jbe %l[failed]\n\t"
		 _ASM_EXTABLE(1b, %l[failed])
		 : : [field] "r" (field), [value] "rm" (value)
		 : "cc" : failed);
	return;
failed:
	instrumentation_begin();
	kvmrs_vmx_access_failed(field, true);
	instrumentation_end();
}


/* False if the processor refuses. Without VMX nothing is resident. */
static __always_inline bool vmclear(u64 pa)
{
	asm goto("1: vmclear %[pa]\n\t"
		 "jna %l[failed]\n\t"
		 _ASM_EXTABLE(1b, %l[fault])
		 : : [pa] "m" (pa) : "cc", "memory" : failed, fault);
	return true;
fault:
	BUG_ON(!virt_rebooting);
	return true;
failed:
	return false;
}

static __always_inline bool vmptrld(u64 pa)
{
	asm goto("1: vmptrld %[pa]\n\t"
		 "jna %l[failed]\n\t"
		 _ASM_EXTABLE(1b, %l[fault])
		 : : [pa] "m" (pa) : "cc", "memory" : failed, fault);
	return true;
fault:
	BUG_ON(!virt_rebooting);
	return true;
failed:
	return false;
}

/* The address of the current VMCS; ~0 without one. */
static __always_inline u64 vmptrst(void)
{
	u64 pa = ~0ull;

	asm volatile("1: vmptrst %[pa]\n"
		     "2:\n\t"
		     _ASM_EXTABLE(1b, 2b)
		     : [pa] "+m" (pa) : : "cc");
	return pa;
}

#endif /* KVM_RS_VMX_INSN_H */
