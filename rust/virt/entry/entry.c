// SPDX-License-Identifier: GPL-2.0
/* The parts of entry and exit that are the same for both vendors and rare. */

#include <linux/bug.h>
#include <linux/percpu.h>

#include "enter.h"

u64 kvmrs_host_xcr0 __read_mostly;
u64 kvmrs_host_xss __read_mostly;

/* The vCPU that ran last on this CPU. */
static DEFINE_PER_CPU(u64, last_vcpu);

void kvmrs_entry_probe(void)
{
	static bool probed;

	/* Others may be reading by the second time. */
	if (probed)
		return;
	probed = true;
	if (boot_cpu_has(X86_FEATURE_XSAVE))
		kvmrs_host_xcr0 = xgetbv(XCR_XFEATURE_ENABLED_MASK);
	if (boot_cpu_has(X86_FEATURE_XSAVES))
		rdmsrq(MSR_IA32_XSS, kvmrs_host_xss);
}

void kvmrs_entry_switch(u64 id)
{
	if (this_cpu_read(last_vcpu) == id)
		return;
	this_cpu_write(last_vcpu, id);
	/* Each vCPU is a prediction domain of its own. */
	if (static_branch_likely(&switch_vcpu_ibpb))
		indirect_branch_prediction_barrier();
}

void kvmrs_entry_machine_check(void)
{
	struct pt_regs regs = {
		/* Whatever the guest ran, to the host it is like user space. */
		.cs = 3,
		.flags = X86_EFLAGS_IF,
	};

	do_machine_check(&regs);
}

void kvmrs_check_failed(void)
{
	WARN_ONCE(1, "kvm: the parameter 'checked' found a mistake\n");
}

/* Protection keys are switched last and put back first: the host's code runs with its own. */
void kvmrs_entry_load(struct kvmrs_entry *e)
{
	if (e->flags & ENTER_XCR0)
		xsetbv(XCR_XFEATURE_ENABLED_MASK, e->xcr0);
	if (e->flags & ENTER_XSS)
		wrmsrq(MSR_IA32_XSS, e->xss);

	if (e->flags & (ENTER_DEBUGREGS | ENTER_SAVE_DEBUGREGS)) {
		set_debugreg(DR7_FIXED_1, 7);
		set_debugreg(e->dr[0], 0);
		set_debugreg(e->dr[1], 1);
		set_debugreg(e->dr[2], 2);
		set_debugreg(e->dr[3], 3);
	} else if (hw_breakpoint_active()) {
		set_debugreg(DR7_FIXED_1, 7);
	}

	if (e->flags & ENTER_PKRU) {
		e->host_pkru = rdpkru();
		if (e->host_pkru != e->pkru)
			wrpkru(e->pkru);
	}
}

void kvmrs_entry_save(struct kvmrs_entry *e)
{
	if (e->flags & ENTER_PKRU) {
		e->pkru = rdpkru();
		if (e->host_pkru != e->pkru)
			wrpkru(e->host_pkru);
	}

	if (e->flags & ENTER_SAVE_DEBUGREGS) {
		get_debugreg(e->dr[0], 0);
		get_debugreg(e->dr[1], 1);
		get_debugreg(e->dr[2], 2);
		get_debugreg(e->dr[3], 3);
	}

	if (e->flags & ENTER_XSS)
		wrmsrq(MSR_IA32_XSS, kvmrs_host_xss);
	if (e->flags & ENTER_XCR0)
		xsetbv(XCR_XFEATURE_ENABLED_MASK, kvmrs_host_xcr0);
}
