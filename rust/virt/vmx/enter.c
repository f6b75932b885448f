// SPDX-License-Identifier: GPL-2.0
/*
 * The window around VMLAUNCH and VMRESUME in which the kernel counts as being in a guest. C, because
 * what opens and closes it is inline C of the kernel and must not be instrumented.
 */

#include <asm/entry-common.h>
#include <asm/hardirq.h>
#include <asm/mmu_context.h>
#include <asm/special_insns.h>
#include <asm/tlbflush.h>
#include <asm/trapnr.h>

#include "enter.h"
#include "insn.h"
#include "l1d.h"

static_assert(offsetof(struct kvmrs_vmx_run, host_rsp) == VMX_RUN_HOST_RSP);

asmlinkage bool kvmrs_vmx_run(struct kvmrs_entry *e, struct kvmrs_vmx_run *r);

#define BASIC(reason) ((reason) & 0xffff)

static __always_inline bool has_type(u32 info, u32 type)
{
	return (info & INTR_INFO_INTR_TYPE_MASK) == type;
}

static __always_inline void flush_l1d(struct kvmrs_entry *e)
{
	if (likely(kvmrs_l1d_mode == KVMRS_L1D_NEVER))
		return;
	if (kvmrs_l1d_mode == KVMRS_L1D_COND) {
		if (!kvm_get_cpu_l1tf_flush_l1d())
			return;
		kvm_clear_cpu_l1tf_flush_l1d();
	}
	kvmrs_l1d_flush();
	e->l1d_flushes++;
}

static noinstr void window(struct kvmrs_entry *e, struct kvmrs_vmx_run *r)
{
	guest_state_enter_irqoff();

	flush_l1d(e);
	if (r->cr2 != native_read_cr2())
		native_write_cr2(r->cr2);

	r->failed = kvmrs_vmx_run(e, r);

	r->cr2 = native_read_cr2();
	r->vectoring = 0;
	r->intr_info = 0;
	if (unlikely(r->failed)) {
		r->reason = ~0u;
	} else {
		r->reason = vmread(VM_EXIT_REASON);
		if (likely(!(r->reason & VMX_EXIT_REASONS_FAILED_VMENTRY)))
			r->vectoring = vmread(IDT_VECTORING_INFO_FIELD);
		if (BASIC(r->reason) <= EXIT_REASON_EXTERNAL_INTERRUPT)
			r->intr_info = vmread(VM_EXIT_INTR_INFO);
		/* The exit took the NMI: nothing comes after it until the handler has returned. */
		if (BASIC(r->reason) == EXIT_REASON_EXCEPTION_NMI &&
		    has_type(r->intr_info, INTR_TYPE_NMI_INTR))
			x86_entry_from_kvm(EVENT_TYPE_NMI, NMI_VECTOR);
	}

	kvmrs_guest_state_exit(BASIC(r->reason) == EXIT_REASON_EXTERNAL_INTERRUPT);
}

/* What an exit loads must be what the kernel has now: it changes behind our back. */
static __always_inline void refresh_host(struct kvmrs_vmx_run *r)
{
	unsigned long cr3 = __get_current_cr3_fast();
	unsigned long cr4 = cr4_read_shadow();

	if (unlikely(cr3 != r->host_cr3)) {
		vmwrite(HOST_CR3, cr3);
		r->host_cr3 = cr3;
	}
	if (unlikely(cr4 != r->host_cr4)) {
		vmwrite(HOST_CR4, cr4);
		r->host_cr4 = cr4;
	}
}

/*
 * DEBUGCTL is switched by hardware. One bit of it stays the host's while the guest runs: whether counters
 * stand still in the firmware's SMM (SDM: vol 3, 17.4.1). The guest has none of the others.
 */
static __always_inline void carry_debugctl(struct kvmrs_entry *e)
{
	u64 host = e->host_debugctl;

	if (unlikely((host ^ e->debugctl) & DEBUGCTLMSR_FREEZE_IN_SMM)) {
		e->debugctl = host & DEBUGCTLMSR_FREEZE_IN_SMM;
		vmwrite(GUEST_IA32_DEBUGCTL, e->debugctl);
	}
}

void kvmrs_vmx_enter(struct kvmrs_entry *e, struct kvmrs_vmx_run *r)
{
	kvmrs_enter_begin(e);
	if (unlikely(e->flags & ENTER_SAVE_DEBUGREGS))
		set_debugreg(r->dr6, 6);
	refresh_host(r);
	carry_debugctl(e);
	if (r->perf)
		kvmrs_vmx_perf_switch(r);

	window(e, r);

	/* An exit clears it. */
	if (unlikely(e->host_debugctl))
		update_debugctlmsr(e->host_debugctl);
	if (unlikely(e->flags & ENTER_SAVE_DEBUGREGS)) {
		get_debugreg(r->dr6, 6);
		/* The kernel's handler expects an empty one. */
		set_debugreg(DR6_RESERVED, 6);
	}
	kvmrs_enter_restore(e);

	if (BASIC(r->reason) == EXIT_REASON_EXTERNAL_INTERRUPT) {
		if (likely(r->intr_info & INTR_INFO_VALID_MASK))
			x86_entry_from_kvm(EVENT_TYPE_EXTINT,
					   r->intr_info & INTR_INFO_VECTOR_MASK);
	} else if (unlikely(BASIC(r->reason) == EXIT_REASON_MCE_DURING_VMENTRY ||
			    (BASIC(r->reason) == EXIT_REASON_EXCEPTION_NMI &&
			     has_type(r->intr_info, INTR_TYPE_HARD_EXCEPTION) &&
			     (r->intr_info & INTR_INFO_VECTOR_MASK) == X86_TRAP_MC))) {
		kvmrs_entry_machine_check();
	}
	kvmrs_enter_end();
}
