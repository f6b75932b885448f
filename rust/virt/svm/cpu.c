// SPDX-License-Identifier: GPL-2.0
/* What the SVM backend keeps on each CPU, and the MSRs that go with it. */

#include <linux/bug.h>
#include <linux/percpu.h>
#include <linux/printk.h>
#include <linux/smp.h>
#include <asm/asm.h>
#include <asm/cpufeature.h>
#include <asm/cpuid/api.h>
#include <asm/mce.h>
#include <asm/msr.h>
#include <asm/perf_event.h>
#include <asm/svm.h>
#include <asm/tlbflush.h>
#include <asm/virt.h>
#include <trace/events/ipi.h>

#include "vmenter.h"

/* vmenter.S pushes the first field. */
static_assert(offsetof(struct kvmrs_svm_cpu, save_pa) == 0);

DEFINE_PER_CPU(struct kvmrs_svm_cpu, kvmrs_svm_cpu);

/* BP_CFG has been changed on this CPU for the sake of guests. */
static DEFINE_PER_CPU(bool, spec_reduced);

u32 kvmrs_svm_caps(void)
{
	static const struct {
		unsigned int feature;
		u32 cap;
	} known[] = {
		{ X86_FEATURE_SVM, SVM_CAP_SVM },
		{ X86_FEATURE_NPT, SVM_CAP_NPT },
		{ X86_FEATURE_NRIPS, SVM_CAP_NRIPS },
		{ X86_FEATURE_DECODEASSISTS, SVM_CAP_DECODE_ASSISTS },
		{ X86_FEATURE_FLUSHBYASID, SVM_CAP_FLUSH_BY_ASID },
		{ X86_FEATURE_VGIF, SVM_CAP_VGIF },
		{ X86_FEATURE_VNMI, SVM_CAP_VNMI },
		{ X86_FEATURE_VMCBCLEAN, SVM_CAP_CLEAN },
		{ X86_FEATURE_TSCRATEMSR, SVM_CAP_TSC_RATIO },
		{ X86_FEATURE_PAUSEFILTER, SVM_CAP_PAUSE_FILTER },
		{ X86_FEATURE_PFTHRESHOLD, SVM_CAP_PAUSE_THRESHOLD },
		{ X86_FEATURE_V_SPEC_CTRL, SVM_CAP_V_SPEC_CTRL },
		{ X86_FEATURE_MSR_SPEC_CTRL, SVM_CAP_SPEC_CTRL },
		{ X86_FEATURE_IBPB, SVM_CAP_IBPB },
		{ X86_FEATURE_FLUSH_L1D, SVM_CAP_FLUSH_L1D },
		{ X86_FEATURE_GBPAGES, SVM_CAP_GBPAGES },
		{ X86_FEATURE_MWAIT, SVM_CAP_MWAIT },
		{ X86_FEATURE_RDTSCP, SVM_CAP_RDTSCP },
		{ X86_FEATURE_INVPCID, SVM_CAP_INVPCID },
		{ X86_FEATURE_XSAVES, SVM_CAP_XSAVES },
		{ X86_FEATURE_INVLPGB, SVM_CAP_INVLPGB },
		{ X86_FEATURE_BUS_LOCK_THRESHOLD, SVM_CAP_BUS_LOCK },
	};
	u32 caps = 0;
	int i;

	for (i = 0; i < ARRAY_SIZE(known); i++)
		if (test_cpu_cap(&boot_cpu_data, known[i].feature))
			caps |= known[i].cap;
	if (cpuid_ecx(0x80000001) & 4)
		caps |= SVM_CAP_CPUID;
	if (pgtable_l5_enabled())
		caps |= SVM_CAP_LA57;
	if (cr4_read_shadow() & X86_CR4_MCE)
		caps |= SVM_CAP_HOST_MCE;
	return caps;
}

u32 kvmrs_svm_phys_bits(void)
{
	return boot_cpu_data.x86_phys_bits;
}

void kvmrs_svm_set_tsc_ratio(u64 ratio)
{
	wrmsrq(MSR_AMD64_TSC_RATIO, ratio);
	this_cpu_write(kvmrs_svm_cpu.tsc_ratio, ratio);
}

void kvmrs_svm_online(u64 save_pa)
{
	struct kvmrs_svm_cpu *cpu = this_cpu_ptr(&kvmrs_svm_cpu);

	/* What ran here before must not be taken for what will. */
	cpu->asid_generation++;
	cpu->max_asid = cpuid_ebx(SVM_CPUID_FUNC) - 1;
	cpu->next_asid = cpu->max_asid + 1;
	cpu->save_pa = save_pa;
	if (boot_cpu_has(X86_FEATURE_RDTSCP))
		rdmsrq(MSR_TSC_AUX, cpu->tsc_aux);
	wrmsrq(MSR_VM_HSAVE_PA, save_pa);
	/* It acts on all guests, and who knows what a kernel before this one left there. */
	if (boot_cpu_has(X86_FEATURE_TSCRATEMSR))
		kvmrs_svm_set_tsc_ratio(SVM_TSC_RATIO_DEFAULT);
	amd_pmu_enable_virt();
	/* Erratum 383 of family 10h: the most that can be done against it beforehand. */
	if (boot_cpu_has_bug(X86_BUG_AMD_TLB_MMATCH))
		msr_set_bit(MSR_AMD64_DC_CFG, 47);
}

bool kvmrs_svm_tlb_multimatch(void)
{
	/* Valid, uncorrected, reported, with an address, state corrupt; a TLB of data, level 1. */
	static const u64 multimatch = 0xb600000000010015;
	u64 value;
	int i;

	if (!boot_cpu_has_bug(X86_BUG_AMD_TLB_MMATCH) ||
	    rdmsrq_safe(MSR_IA32_MC0_STATUS, &value) ||
	    (value & ~MCI_STATUS_OVER) != multimatch)
		return false;

	for (i = 0; i < 6; i++)
		wrmsrq_safe(MSR_IA32_MCx_STATUS(i), 0);
	if (!rdmsrq_safe(MSR_IA32_MCG_STATUS, &value))
		wrmsrq_safe(MSR_IA32_MCG_STATUS, value & ~MCG_STATUS_MCIP);
	__flush_tlb_all();
	pr_err("kvm: a guest made the processor match two translations (erratum 383), and ends\n");
	return true;
}

void kvmrs_svm_offline(void)
{
	amd_pmu_disable_virt();
	if (boot_cpu_has(X86_FEATURE_TSCRATEMSR))
		kvmrs_svm_set_tsc_ratio(SVM_TSC_RATIO_DEFAULT);
	if (this_cpu_read(spec_reduced)) {
		this_cpu_write(spec_reduced, false);
		msr_clear_bit(MSR_ZEN4_BP_CFG, MSR_ZEN4_BP_CFG_BP_SPEC_REDUCE_BIT);
	}
	wrmsrq(MSR_VM_HSAVE_PA, 0);
	this_cpu_write(kvmrs_svm_cpu.save_pa, 0);
}

void kvmrs_svm_emergency(void)
{
	wrmsrq(MSR_VM_HSAVE_PA, 0);
}

struct kvmrs_svm_cpu *kvmrs_svm_this_cpu(void)
{
	return this_cpu_ptr(&kvmrs_svm_cpu);
}

void kvmrs_svm_resident(void)
{
	if (cpu_feature_enabled(X86_FEATURE_SRSO_BP_SPEC_REDUCE) && !this_cpu_read(spec_reduced)) {
		this_cpu_write(spec_reduced, true);
		msr_set_bit(MSR_ZEN4_BP_CFG, MSR_ZEN4_BP_CFG_BP_SPEC_REDUCE_BIT);
	}

	asm goto("1: vmsave %0\n\t" _ASM_EXTABLE(1b, %l[fault])
		 : : "a" (this_cpu_read(kvmrs_svm_cpu.save_pa)) : "memory" : fault);
	return;
fault:
	BUG_ON(!virt_rebooting);
}

void kvmrs_svm_load_tsc_aux(u32 aux)
{
	native_wrmsrq(MSR_TSC_AUX, aux);
}

void kvmrs_svm_restore_tsc_aux(void)
{
	native_wrmsrq(MSR_TSC_AUX, this_cpu_read(kvmrs_svm_cpu.tsc_aux));
}

bool kvmrs_svm_spec_ctrl_legal(u64 value)
{
	unsigned long flags;
	u64 host;
	bool legal;

	/* The only way to know is to try (KVM: kvm_spec_ctrl_test_value()). */
	local_irq_save(flags);
	legal = !rdmsrq_safe(MSR_IA32_SPEC_CTRL, &host) &&
		!wrmsrq_safe(MSR_IA32_SPEC_CTRL, value);
	if (legal)
		wrmsrq(MSR_IA32_SPEC_CTRL, host);
	local_irq_restore(flags);
	return legal;
}
