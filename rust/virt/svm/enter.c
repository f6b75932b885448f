// SPDX-License-Identifier: GPL-2.0
/*
 * The window around VMRUN in which the kernel counts as being in a guest. C, because what opens and
 * closes it is inline C of the kernel and must not be instrumented.
 */

#include <linux/bug.h>
#include <linux/percpu.h>
#include <asm/asm.h>
#include <asm/processor.h>
#include <asm/svm.h>
#include <asm/virt.h>

#include "enter.h"

asmlinkage void kvmrs_svm_vmrun(struct kvmrs_entry *e);

static __always_inline void clgi(void)
{
	asm goto("1: clgi\n\t" _ASM_EXTABLE(1b, %l[fault]) : : : "memory" : fault);
	return;
fault:
	BUG_ON(!virt_rebooting);
}

static __always_inline void stgi(void)
{
	asm goto("1: stgi\n\t" _ASM_EXTABLE(1b, %l[fault]) : : : "memory" : fault);
	return;
fault:
	BUG_ON(!virt_rebooting);
}

static noinstr void window(struct kvmrs_entry *e, struct vmcb *vmcb)
{
	guest_state_enter_irqoff();
	/*
	 * With V_INTR_MASKING it is the host's RFLAGS.IF that lets a physical interrupt end the run
	 * (APM: vol 2, 15.21.1). GIF is 0, so that nothing is taken here, and there is no shadow that
	 * the guest could inherit, as STI right before VMRUN would leave.
	 */
	raw_local_irq_enable();
	amd_clear_divider();
	kvmrs_svm_vmrun(e);
	raw_local_irq_disable();
	kvmrs_guest_state_exit(vmcb->control.exit_code == SVM_EXIT_INTR);
}

void kvmrs_svm_enter(struct kvmrs_entry *e)
{
	struct vmcb *vmcb = e->control;

	kvmrs_enter_begin(e);

	clgi();
	/* Without LBR virtualization the guest would run with the host's. */
	if (unlikely(e->host_debugctl != e->debugctl))
		update_debugctlmsr(e->debugctl);
	if (cpu_feature_enabled(X86_FEATURE_LS_CFG_SSBD) ||
	    cpu_feature_enabled(X86_FEATURE_VIRT_SSBD))
		x86_virt_spec_ctrl(e->virt_spec_ctrl, true);

	vmcb->save.rax = e->gpr[0];
	window(e, vmcb);
	e->gpr[0] = vmcb->save.rax;

	if (cpu_feature_enabled(X86_FEATURE_LS_CFG_SSBD) ||
	    cpu_feature_enabled(X86_FEATURE_VIRT_SSBD))
		x86_virt_spec_ctrl(e->virt_spec_ctrl, false);
	if (unlikely(e->host_debugctl != e->debugctl))
		update_debugctlmsr(e->host_debugctl);
	/* A pending NMI is taken here. */
	stgi();

	kvmrs_enter_restore(e);
	if (unlikely(vmcb->control.exit_code == SVM_EXIT_EXCP_BASE + X86_TRAP_MC)) {
		if (kvmrs_svm_tlb_multimatch())
			vmcb->control.exit_code = SVM_EXIT_SHUTDOWN;
		else
			kvmrs_entry_machine_check();
	}
	kvmrs_enter_end();
}
