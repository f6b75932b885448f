/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The way into a guest and back that is the same for both vendors: the host's FPU, debug registers
 * and clocks. Inlined in rust/virt/{svm,vmx}/enter.c alone, as it is the hottest code of the module;
 * other files take declarations from here.
 */
#ifndef KVM_RS_ENTER_H
#define KVM_RS_ENTER_H

#include <linux/kvm_host.h>
#include <linux/percpu.h>
#include <linux/thread_info.h>
#include <asm/debugreg.h>
#include <asm/fpu/api.h>
#include <asm/fpu/xcr.h>
#include <asm/mce.h>
#include <asm/msr.h>
#include <asm/nospec-branch.h>
#include <asm/pkru.h>
#include <asm/spec-ctrl.h>

#include "vmenter.h"

static_assert(offsetof(struct kvmrs_entry, gpr) == ENTRY_RAX);
static_assert(offsetof(struct kvmrs_entry, gpr[15]) == ENTRY_R15);
static_assert(offsetof(struct kvmrs_entry, control_pa) == ENTRY_CONTROL_PA);
static_assert(offsetof(struct kvmrs_entry, spec_ctrl) == ENTRY_SPEC_CTRL);
static_assert(offsetof(struct kvmrs_entry, flags) == ENTRY_FLAGS);

/* What few guests need, out of line. */
void kvmrs_entry_load(struct kvmrs_entry *e);
void kvmrs_entry_save(struct kvmrs_entry *e);
/* A machine check that was intercepted has not reached the host's handler yet. IRQs are off. */
void kvmrs_entry_machine_check(void);

/* IRQs are off. What the host has in registers that the guest gets is in place before. */
static __always_inline void kvmrs_enter_begin(struct kvmrs_entry *e)
{
	if (unlikely(test_thread_flag(TIF_NEED_FPU_LOAD)))
		switch_fpu_return();

	/* An interrupt may have changed it since the last entry. No paravirtual kernel loads this. */
	e->host_debugctl = native_rdmsrq(MSR_IA32_DEBUGCTLMSR);

	guest_timing_enter_irqoff();

	/*
	 * Breakpoints of the host must not hit in the guest. Loading the guest's comes after the
	 * accounting, which may be traced.
	 */
	if (unlikely(e->flags & ENTER_WORK))
		kvmrs_entry_load(e);
	else if (unlikely(hw_breakpoint_active()))
		set_debugreg(DR7_FIXED_1, 7);
}

/*
 * Right after the guest, with IRQs still off: puts the host's state back. Nothing of the kernel's that
 * may use the FPU runs before, which includes what an interrupt leaves to do on its way out.
 */
static __always_inline void kvmrs_enter_restore(struct kvmrs_entry *e)
{
	if (unlikely(e->flags & ENTER_WORK))
		kvmrs_entry_save(e);
	if (unlikely(hw_breakpoint_active()))
		hw_breakpoint_restore();
}

/*
 * Takes an interrupt that waits, and accounts the time. The interrupt comes before the accounting, so
 * that a tick in the guest is the guest's.
 */
static __always_inline void kvmrs_enter_end(void)
{
	/* The predictors hold what the guest taught them until the next return to user space. */
	if (cpu_feature_enabled(X86_FEATURE_IBPB_EXIT_TO_USER))
		this_cpu_write(x86_ibpb_exit_to_user, true);

	local_irq_enable();
	/* STI takes effect one instruction later. */
	asm volatile("nop");
	local_irq_disable();

	guest_timing_exit_irqoff();
}

/*
 * The other half of guest_state_enter_irqoff(). The kernel's own, guest_state_exit_irqoff(), reports
 * a quiescent state to RCU here as well. That is wanted where a host interrupt has ended the run,
 * which may have been long; else the next entry or the scheduler makes the same report in a moment.
 */
static __always_inline void kvmrs_guest_state_exit(bool interrupted)
{
	lockdep_hardirqs_off(CALLER_ADDR0);
	if (!context_tracking_guest_exit() && interrupted) {
		instrumentation_begin();
		rcu_virt_note_context_switch();
		instrumentation_end();
	}

	instrumentation_begin();
	trace_hardirqs_off_finish();
	instrumentation_end();
}

#endif /* KVM_RS_ENTER_H */
