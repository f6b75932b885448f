// SPDX-License-Identifier: GPL-2.0
/*
 * Which VMCS is on which CPU (SDM: vol 3, 25.11), and what of the host's state exits do not bring
 * back.
 *
 * A processor keeps parts of a VMCS to itself from VMPTRLD until VMCLEAR, also of those that are not
 * the current one. So every CPU has a list of what it may keep. A VMCS goes to another CPU by being
 * cleared on the old one first, and all are cleared before VMX goes off.
 *
 * The list is changed by its own CPU alone with IRQs off; an NMI may walk it at any time, to clear
 * everything on the way down.
 */

#include <linux/bug.h>
#include <linux/percpu.h>
#include <linux/printk.h>
#include <linux/rculist.h>
#include <linux/sched.h>
#include <linux/smp.h>
#include <asm/cpu.h>
#include <asm/cpu_entry_area.h>
#include <asm/cpufeature.h>
#include <asm/cpuid/api.h>
#include <asm/desc.h>
#include <asm/fsgsbase.h>
#include <asm/hardirq.h>
#include <asm/mmu_context.h>
#include <asm/msr.h>
#include <asm/processor.h>
#include <asm/segment.h>
#include <asm/tlbflush.h>

#include "insn.h"

extern char kvmrs_vmx_vmexit[];

static DEFINE_PER_CPU(bool, vmx_on);
static DEFINE_PER_CPU(struct hlist_head, resident);
static DEFINE_PER_CPU(struct kvmrs_vmx_vmcs *, current_vmcs);

/*
 * CPUID(1).EAX of processors whose preemption timer does not count as it should, by their
 * specification updates: Xeon 7500; Xeon L3406, Core i3 to i7 of 2010; Core i5 and i7, Xeon 3400 of
 * 2009; Xeon 3500 and 5500, Core i7-900; Xeon E3-1220 v2.
 */
static const u32 timer_errata[] = {
	0x000206e6, 0x00020652, 0x00020655, 0x000106e5, 0x000106a0, 0x000106a1, 0x000106a4, 0x000106a5,
	0x000306a8,
};

u32 kvmrs_vmx_caps(void)
{
	static const struct {
		unsigned int feature;
		u32 cap;
	} known[] = {
		{ X86_FEATURE_VMX, VMX_CAP_VMX },
		{ X86_FEATURE_RDTSCP, VMX_CAP_RDTSCP },
		{ X86_FEATURE_INVPCID, VMX_CAP_INVPCID },
		{ X86_FEATURE_XSAVES, VMX_CAP_XSAVES },
		{ X86_FEATURE_MWAIT, VMX_CAP_MWAIT },
		{ X86_FEATURE_UMIP, VMX_CAP_UMIP },
		{ X86_FEATURE_MSR_SPEC_CTRL, VMX_CAP_SPEC_CTRL },
		{ X86_FEATURE_IBPB, VMX_CAP_IBPB },
		{ X86_FEATURE_FLUSH_L1D, VMX_CAP_FLUSH_L1D },
		{ X86_FEATURE_SPLIT_LOCK_DETECT, VMX_CAP_SPLIT_LOCK },
		{ X86_FEATURE_HYPERVISOR, VMX_CAP_HYPERVISOR },
	};
	/* Without the bits that are reserved. */
	u32 model = cpuid_eax(1) & 0x0fff3fff;
	u32 caps = 0;
	int i;

	for (i = 0; i < ARRAY_SIZE(known); i++)
		if (test_cpu_cap(&boot_cpu_data, known[i].feature))
			caps |= known[i].cap;
	/* Transactions that the kernel switched off stay off, whatever a guest asks for. */
	if (boot_cpu_has(X86_FEATURE_RTM) && boot_cpu_has(X86_FEATURE_MSR_TSX_CTRL))
		caps |= VMX_CAP_TSX_CTRL;
	if (cpuid_ecx(1) & BIT(5))
		caps |= VMX_CAP_CPUID;
	for (i = 0; i < ARRAY_SIZE(timer_errata); i++)
		if (model == timer_errata[i])
			caps |= VMX_CAP_TIMER_ERRATUM;
	if (kvmrs_vmx_perf_exists())
		caps |= VMX_CAP_PERF;
	/* Guests may have five levels where the host was told to use four: not what the kernel uses. */
	if (boot_cpu_data.cpuid_level >= 7 && (cpuid_ecx(7) & BIT(16)))
		caps |= VMX_CAP_LA57;
	if (cr4_read_shadow() & X86_CR4_MCE)
		caps |= VMX_CAP_HOST_MCE;
	return caps;
}

void kvmrs_vmx_access_failed(u32 field, bool write)
{
	if (virt_rebooting)
		return;
	WARN_ONCE(1, "kvm: %s of VMCS field %#x failed\n", write ? "VMWRITE" : "VMREAD", field);
}

void kvmrs_vmx_vmcs_init(struct kvmrs_vmx_vmcs *v, u64 pa)
{
	INIT_HLIST_NODE(&v->link);
	v->pa = pa;
	v->cpu = -1;
}

/* Takes a VMCS off this CPU. IRQs are off. */
static void clear_here(void *info)
{
	struct kvmrs_vmx_vmcs *v = info;

	/* The CPU may have gone offline since the caller looked. */
	if (v->cpu != raw_smp_processor_id())
		return;
	WARN_ON_ONCE(!vmclear(v->pa));
	if (this_cpu_read(current_vmcs) == v)
		this_cpu_write(current_vmcs, NULL);
	/* As RCU would have it: whoever stands on the entry can walk on. */
	hlist_del_rcu(&v->link);
	v->launched = false;
	/* Off this list before another CPU may put it on its own. */
	smp_store_release(&v->cpu, -1);
}

void kvmrs_vmx_clear(struct kvmrs_vmx_vmcs *v)
{
	int cpu = READ_ONCE(v->cpu);

	if (cpu >= 0)
		smp_call_function_single(cpu, clear_here, v, true);
}

/* Writes what an exit loads and each CPU has its own of. */
static void write_cpu_fields(int cpu)
{
	vmwrite(HOST_TR_BASE, (unsigned long)&get_cpu_entry_area(cpu)->tss.x86_tss);
	vmwrite(HOST_GDTR_BASE, (unsigned long)get_cpu_gdt_ro(cpu));
	/* The kernel sets it only where it takes system calls by SYSENTER. */
	vmwrite(HOST_IA32_SYSENTER_ESP, IS_ENABLED(CONFIG_IA32_EMULATION) ?
		(unsigned long)(cpu_entry_stack(cpu) + 1) : 0);
}

bool kvmrs_vmx_load(struct kvmrs_vmx_vmcs *v)
{
	int cpu = raw_smp_processor_id();
	bool moved = READ_ONCE(v->cpu) != cpu;
	unsigned long flags;

	if (unlikely(!this_cpu_read(vmx_on))) {
		/* Whoever wants to use a vCPU here forgot to switch VMX on, or it just went off. */
		WARN_ON_ONCE(!virt_rebooting);
		return moved;
	}
	if (moved) {
		kvmrs_vmx_clear(v);
		/* Nothing else makes a page a VMCS; one that was cleared does not mind. */
		WARN_ON_ONCE(!vmclear(v->pa));
		local_irq_save(flags);
		/* Pairs with the release in clear_here(). */
		smp_load_acquire(&v->cpu);
		hlist_add_head_rcu(&v->link, this_cpu_ptr(&resident));
		WRITE_ONCE(v->cpu, cpu);
		local_irq_restore(flags);
	}
	if (this_cpu_read(current_vmcs) != v) {
		this_cpu_write(current_vmcs, v);
		WARN_ON_ONCE(!vmptrld(v->pa));
	}
	if (moved) {
		write_cpu_fields(cpu);
		/* Refer to another CPU's memory. */
		v->gs_base = 0;
		v->fs_base = ~0ull;
	}
	return moved;
}

void kvmrs_vmx_online(void)
{
	this_cpu_write(vmx_on, true);
}

void kvmrs_vmx_offline(void)
{
	struct kvmrs_vmx_vmcs *v;
	struct hlist_node *next;
	unsigned long flags;

	local_irq_save(flags);
	hlist_for_each_entry_safe(v, next, this_cpu_ptr(&resident), link)
		clear_here(v);
	this_cpu_write(vmx_on, false);
	local_irq_restore(flags);
}

void kvmrs_vmx_emergency(void)
{
	struct hlist_node *at;

	for (at = READ_ONCE(this_cpu_ptr(&resident)->first); at; at = READ_ONCE(at->next))
		vmclear(hlist_entry(at, struct kvmrs_vmx_vmcs, link)->pa);
}

void kvmrs_vmx_init_host(struct kvmrs_vmx_run *r)
{
	struct desc_ptr idt;

	store_idt(&idt);
	vmwrite(HOST_CR0, read_cr0());
	r->host_cr3 = __read_cr3();
	vmwrite(HOST_CR3, r->host_cr3);
	r->host_cr4 = cr4_read_shadow();
	vmwrite(HOST_CR4, r->host_cr4);

	vmwrite(HOST_CS_SELECTOR, __KERNEL_CS);
	vmwrite(HOST_SS_SELECTOR, __KERNEL_DS);
	vmwrite(HOST_TR_SELECTOR, GDT_ENTRY_TSS * 8);
	/* The kernel runs with anything in these; null needs no reload if user space has null, too. */
	vmwrite(HOST_DS_SELECTOR, 0);
	vmwrite(HOST_ES_SELECTOR, 0);
	vmwrite(HOST_FS_SELECTOR, 0);
	vmwrite(HOST_GS_SELECTOR, 0);

	vmwrite(HOST_IDTR_BASE, idt.address);
	vmwrite(HOST_IA32_SYSENTER_CS, native_rdmsrq(MSR_IA32_SYSENTER_CS));
	vmwrite(HOST_IA32_SYSENTER_EIP, native_rdmsrq(MSR_IA32_SYSENTER_EIP));
	vmwrite(HOST_IA32_PAT, native_rdmsrq(MSR_IA32_CR_PAT));
	vmwrite(HOST_IA32_EFER, native_rdmsrq(MSR_EFER));
	vmwrite(HOST_RIP, (unsigned long)kvmrs_vmx_vmexit);
	/* Written before the first entry; no stack is there. */
	r->host_rsp = 0;
}

bool kvmrs_vmx_guest_in(struct kvmrs_vmx_vmcs *v)
{
	int cpu = raw_smp_processor_id();
	u64 fs_base, gs_base = cpu_kernelmode_gs_base(cpu);

	if (unlikely(v->cpu != cpu))
		return false;
	if (v->guest_in)
		return true;

	asm("sldt %0" : "=m" (v->ldt));
	savesegment(ds, v->ds);
	savesegment(es, v->es);
	savesegment(fs, v->fs);
	savesegment(gs, v->gs);
	if (likely(is_64bit_mm(current->mm))) {
		current_save_fsgs();
		fs_base = current->thread.fsbase;
		v->host_kernel_gs = current->thread.gsbase;
	} else {
		fs_base = native_rdmsrq(MSR_FS_BASE);
		v->host_kernel_gs = native_rdmsrq(MSR_KERNEL_GS_BASE);
	}
	native_wrmsrq(MSR_KERNEL_GS_BASE, v->guest_kernel_gs);

	/* The selectors are null in the VMCS: others may not be legal there. */
	if (v->fs_base != fs_base) {
		vmwrite(HOST_FS_BASE, fs_base);
		v->fs_base = fs_base;
	}
	if (v->gs_base != gs_base) {
		vmwrite(HOST_GS_BASE, gs_base);
		v->gs_base = gs_base;
	}
	v->guest_in = true;
	return true;
}

void kvmrs_vmx_guest_out(struct kvmrs_vmx_vmcs *v)
{
	if (!v->guest_in)
		return;

	v->guest_kernel_gs = native_rdmsrq(MSR_KERNEL_GS_BASE);
	if (v->ldt)
		asm volatile("lldt %0" : : "m" (v->ldt));
	if (v->ldt || v->gs)
		load_gs_index(v->gs);
	if (v->fs)
		loadsegment(fs, v->fs);
	if (unlikely(v->ds | v->es)) {
		loadsegment(ds, v->ds);
		loadsegment(es, v->es);
	}
	/* An exit leaves the limits of TSS and GDT at what the manual says, not at what they were. */
	invalidate_tss_limit();
	native_wrmsrq(MSR_KERNEL_GS_BASE, v->host_kernel_gs);
	load_fixmap_gdt(raw_smp_processor_id());
	v->guest_in = false;
}

u32 kvmrs_vmx_check_host(const struct kvmrs_vmx_vmcs *v)
{
	int cpu = raw_smp_processor_id();
	const struct {
		u32 field;
		u64 value;
	} want[] = {
		{ HOST_TR_BASE, (unsigned long)&get_cpu_entry_area(cpu)->tss.x86_tss },
		{ HOST_GDTR_BASE, (unsigned long)get_cpu_gdt_ro(cpu) },
		{ HOST_GS_BASE, cpu_kernelmode_gs_base(cpu) },
		{ HOST_FS_BASE, is_64bit_mm(current->mm) ?
			current->thread.fsbase : native_rdmsrq(MSR_FS_BASE) },
	};
	int i;

	if (v->cpu != cpu || vmptrst() != v->pa)
		return ~0u;
	for (i = 0; i < ARRAY_SIZE(want); i++)
		if (vmread(want[i].field) != want[i].value)
			return want[i].field;
	return 0;
}

u64 kvmrs_vmx_kernel_gs(struct kvmrs_vmx_vmcs *v)
{
	preempt_disable();
	if (v->guest_in)
		rdmsrq(MSR_KERNEL_GS_BASE, v->guest_kernel_gs);
	preempt_enable();
	return v->guest_kernel_gs;
}

void kvmrs_vmx_set_kernel_gs(struct kvmrs_vmx_vmcs *v, u64 value)
{
	preempt_disable();
	if (v->guest_in)
		wrmsrq(MSR_KERNEL_GS_BASE, value);
	v->guest_kernel_gs = value;
	preempt_enable();
}

void kvmrs_vmx_invept(u64 type, u64 eptp)
{
	struct {
		u64 eptp, zero;
	} operand = { eptp, 0 };

	asm goto("1: invept %[operand], %[type]\n\t"
		 "jna %l[failed]\n\t"
		 _ASM_EXTABLE(1b, %l[fault])
		 : : [type] "r" (type), [operand] "m" (operand)
		 : "cc", "memory" : failed, fault);
	return;
failed:
	WARN_ONCE(1, "kvm: INVEPT type %llu of %#llx failed\n", type, eptp);
	return;
fault:
	BUG_ON(!virt_rebooting);
}

void kvmrs_vmx_invvpid(u64 type, u16 vpid)
{
	struct {
		u64 vpid, address;
	} operand = { vpid, 0 };

	asm goto("1: invvpid %[operand], %[type]\n\t"
		 "jna %l[failed]\n\t"
		 _ASM_EXTABLE(1b, %l[fault])
		 : : [type] "r" (type), [operand] "m" (operand)
		 : "cc", "memory" : failed, fault);
	return;
failed:
	WARN_ONCE(1, "kvm: INVVPID type %llu of %u failed\n", type, vpid);
	return;
fault:
	BUG_ON(!virt_rebooting);
}

bool kvmrs_vmx_spec_ctrl_legal(u64 value)
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

bool kvmrs_vmx_split_lock(u64 rip)
{
	return handle_guest_split_lock(rip);
}
