/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the entry code of both vendors shares with Rust: struct kvmrs_entry, the part of a vCPU that
 * assembly and C read and write on the way into the guest and back. rust/virt/entry.rs has the same
 * structure and checks every offset against this one; enter.h checks the constants for assembly.
 */
#ifndef KVM_RS_VMENTER_H
#define KVM_RS_VMENTER_H

/* Offsets for assembly. General-purpose registers are at 8 * their encoding. */
#define ENTRY_RAX		0x00
#define ENTRY_RCX		0x08
#define ENTRY_RDX		0x10
#define ENTRY_RBX		0x18
#define ENTRY_RSP		0x20
#define ENTRY_RBP		0x28
#define ENTRY_RSI		0x30
#define ENTRY_RDI		0x38
#define ENTRY_R8		0x40
#define ENTRY_R9		0x48
#define ENTRY_R10		0x50
#define ENTRY_R11		0x58
#define ENTRY_R12		0x60
#define ENTRY_R13		0x68
#define ENTRY_R14		0x70
#define ENTRY_R15		0x78
#define ENTRY_CONTROL_PA	0x80
#define ENTRY_SPEC_CTRL		0x88
#define ENTRY_FLAGS		0x90

/* Offsets in struct kvmrs_vmx_run. */
#define VMX_RUN_HOST_RSP	0x00

/* kvmrs_entry.flags */
/* The guest writes SPEC_CTRL without exits: read it back. */
#define ENTER_SAVE_SPEC_CTRL	0x01
/* XCR0 differs from the host's. */
#define ENTER_XCR0		0x02
/* IA32_XSS differs from the host's. */
#define ENTER_XSS		0x04
/* The guest can use protection keys. */
#define ENTER_PKRU		0x08
/* The guest's breakpoint addresses are in use. */
#define ENTER_DEBUGREGS		0x10
/* The guest accesses the debug registers without exits: read them back. */
#define ENTER_SAVE_DEBUGREGS	0x20
/* VMX: the VMCS has been launched. */
#define ENTER_VMRESUME		0x40
/* Any of those that need work besides assembly. */
#define ENTER_WORK		(ENTER_XCR0 | ENTER_XSS | ENTER_PKRU | ENTER_DEBUGREGS | \
				 ENTER_SAVE_DEBUGREGS)

#ifndef __ASSEMBLER__

#include <linux/percpu-defs.h>
#include <linux/types.h>

struct kvmrs_entry {
	u64 gpr[16];
	/* Physical address of the VMCB. */
	u64 control_pa;
	u64 spec_ctrl;
	u32 flags;
	u32 pkru;
	/* The control block in the direct map. */
	void *control;
	u64 xcr0;
	u64 xss;
	/* Breakpoint addresses: DR0 to DR3. */
	u64 dr[4];
	/* The guest's DEBUGCTL; with VMX what the VMCS has. */
	u64 debugctl;
	/* MSR C001_011F: speculative store bypass on old processors. */
	u64 virt_spec_ctrl;
	/* The host's, as found at the entry. */
	u64 host_debugctl;
	u32 host_pkru;
	/* How often the L1 data cache was flushed before an entry. */
	u32 l1d_flushes;
};

/* XCR0 and IA32_XSS of the host: the same on all CPUs. Set by kvmrs_entry_probe(). */
extern u64 kvmrs_host_xcr0;
extern u64 kvmrs_host_xss;

/* Reads what of the host's state the entry code restores; once, before any guest runs. */
void kvmrs_entry_probe(void);

/*
 * The vCPU with this number, which no other ever had, is going to run on this CPU, and another one
 * may have before. Preemption is off.
 */
void kvmrs_entry_switch(u64 id);
/* Warns once that the parameter `checked` found a mistake of ours, which is in the log already. */
void kvmrs_check_failed(void);

/* ---- SVM (rust/virt/svm/enter.c) ---- */

/* kvmrs_svm_caps() */
#define SVM_CAP_CPUID		0x0000001	/* CPUID has it */
#define SVM_CAP_SVM		0x0000002	/* and the kernel lets us use it */
#define SVM_CAP_NPT		0x0000004
#define SVM_CAP_NRIPS		0x0000008
#define SVM_CAP_DECODE_ASSISTS	0x0000010
#define SVM_CAP_FLUSH_BY_ASID	0x0000020
#define SVM_CAP_VGIF		0x0000040
#define SVM_CAP_VNMI		0x0000080
#define SVM_CAP_CLEAN		0x0000100
#define SVM_CAP_TSC_RATIO	0x0000200
#define SVM_CAP_PAUSE_FILTER	0x0000400
#define SVM_CAP_PAUSE_THRESHOLD	0x0000800
#define SVM_CAP_V_SPEC_CTRL	0x0001000
#define SVM_CAP_SPEC_CTRL	0x0002000
#define SVM_CAP_IBPB		0x0004000
#define SVM_CAP_FLUSH_L1D	0x0008000
#define SVM_CAP_LA57		0x0010000
#define SVM_CAP_GBPAGES		0x0020000
#define SVM_CAP_MWAIT		0x0040000
#define SVM_CAP_RDTSCP		0x0080000
#define SVM_CAP_INVPCID		0x0100000
#define SVM_CAP_XSAVES		0x0200000
#define SVM_CAP_INVLPGB		0x0400000
#define SVM_CAP_HOST_MCE	0x0800000
#define SVM_CAP_BUS_LOCK	0x1000000

/* What the boot CPU offers and the kernel did not switch off. */
u32 kvmrs_svm_caps(void);
/* Physical-address bits, without those that memory encryption takes. */
u32 kvmrs_svm_phys_bits(void);

/* Per-CPU state of the SVM backend. */
struct kvmrs_svm_cpu {
	/* Where VMRUN and VMSAVE put the host's state: a physical address. */
	u64 save_pa;
	/* ASIDs handed out under an older generation are void. */
	u64 asid_generation;
	u32 next_asid;
	u32 max_asid;
	/* What is in MSR_AMD64_TSC_RATIO; 0 if not known. */
	u64 tsc_ratio;
	/* The host's TSC_AUX. */
	u32 tsc_aux;
	/* The next entry on this CPU flushes the translations of all ASIDs. */
	bool flush_all;
};

/* The kernel switched SVM on here: registers the save page of this CPU. */
void kvmrs_svm_online(u64 save_pa);
/* Undoes it. */
void kvmrs_svm_offline(void);
/* The same on the way out of the kernel, maybe in an NMI. */
void kvmrs_svm_emergency(void);

/* This CPU's. Preemption is off. */
struct kvmrs_svm_cpu *kvmrs_svm_this_cpu(void);
/* Before the first entry after coming to this CPU: saves what VMRUN does not. IRQs are off. */
void kvmrs_svm_resident(void);
/* Sets the multiplier of this CPU. Preemption is off. */
void kvmrs_svm_set_tsc_ratio(u64 ratio);
/* Sets TSC_AUX of this CPU to the guest's, or back to the host's. Preemption is off. */
void kvmrs_svm_load_tsc_aux(u32 aux);
void kvmrs_svm_restore_tsc_aux(void);
/* Can SPEC_CTRL have this value? */
bool kvmrs_svm_spec_ctrl_legal(u64 value);
/*
 * Is the machine check that ended the run one by which a guest could bring the host down? Then the
 * host is rid of it, and the guest has to end. IRQs are off.
 */
bool kvmrs_svm_tlb_multimatch(void);
/*
 * Runs the guest until it exits. IRQs are off before and after; the interrupt or NMI that ended the
 * run has been handled.
 */
void kvmrs_svm_enter(struct kvmrs_entry *entry);

/* ---- VMX (rust/virt/vmx/{cpu,enter,l1d}.c) ---- */

/* kvmrs_vmx_caps() */
#define VMX_CAP_CPUID		0x0000001	/* CPUID has it */
#define VMX_CAP_VMX		0x0000002	/* and the kernel lets us use it */
#define VMX_CAP_RDTSCP		0x0000008
#define VMX_CAP_INVPCID		0x0000010
#define VMX_CAP_XSAVES		0x0000020
#define VMX_CAP_MWAIT		0x0000040
#define VMX_CAP_UMIP		0x0000080
#define VMX_CAP_SPEC_CTRL	0x0000100
#define VMX_CAP_IBPB		0x0000200
#define VMX_CAP_FLUSH_L1D	0x0000400
#define VMX_CAP_HOST_MCE	0x0000800
#define VMX_CAP_LA57		0x0001000
#define VMX_CAP_SPLIT_LOCK	0x0002000
#define VMX_CAP_HYPERVISOR	0x0004000
#define VMX_CAP_TSX_CTRL	0x0008000	/* and transactions are on */
#define VMX_CAP_PERF		0x0010000	/* counters that the host's perf may use */
#define VMX_CAP_TIMER_ERRATUM	0x0020000	/* the preemption timer counts wrongly */

/* What the boot CPU offers and the kernel did not switch off. */
u32 kvmrs_vmx_caps(void);

/*
 * A VMCS and the CPU it is resident on. Linked there, so that the CPU can write it back to memory
 * before VMX goes off. The fields belong to that CPU, and to the vCPU's thread while it is nowhere.
 */
struct kvmrs_vmx_vmcs {
	struct hlist_node link;
	u64 pa;
	/* -1: nowhere; its contents are in memory. */
	int cpu;
	/* VMLAUNCH succeeded since it was cleared. */
	bool launched;
	/* KERNEL_GS_BASE is the guest's, and what an exit spoils has to be put right. */
	bool guest_in;
	/* What the host had in segment registers. */
	u16 ldt, ds, es, fs, gs;
	/* In the VMCS, for exits to load. */
	u64 fs_base;
	u64 gs_base;
	/* KERNEL_GS_BASE of both while it is not in the register. */
	u64 guest_kernel_gs;
	u64 host_kernel_gs;
};

/* What an entry needs and an exit leaves, besides struct kvmrs_entry. */
struct kvmrs_vmx_run {
	/* In the VMCS, for exits to load. */
	u64 host_rsp;
	u64 host_cr3;
	u64 host_cr4;
	u64 cr2;
	/* While the guest accesses the debug registers without exits. */
	u64 dr6;
	u32 reason;
	/* IDT-vectoring information. */
	u32 vectoring;
	/* VM-exit interruption information; valid after exceptions, NMIs and interrupts. */
	u32 intr_info;
	/* The entry instruction failed: the rest means nothing. */
	u32 failed;
	/* How many MSRs the host's perf wants switched, and the address of the page for them, if any. */
	u32 perf_msrs;
	unsigned long perf;
};

/* The kernel switched VMX on here. */
void kvmrs_vmx_online(void);
/* Takes every VMCS off this CPU. */
void kvmrs_vmx_offline(void);
/* The same on the way out of the kernel, maybe in an NMI. */
void kvmrs_vmx_emergency(void);

/* An empty VMCS in the page at `pa`, resident nowhere. */
void kvmrs_vmx_vmcs_init(struct kvmrs_vmx_vmcs *v, u64 pa);
/*
 * Makes a VMCS the current one of this CPU, taking it from another one if it is there; true if it was
 * not here before. Preemption is off, IRQs are on.
 */
bool kvmrs_vmx_load(struct kvmrs_vmx_vmcs *v);
/* Writes a VMCS back to memory wherever it is. IRQs are on. */
void kvmrs_vmx_clear(struct kvmrs_vmx_vmcs *v);
/* Writes the fields of the host's state that do not change. The VMCS is current. */
void kvmrs_vmx_init_host(struct kvmrs_vmx_run *r);
/* Has the host's perf anything that could want to be switched? */
bool kvmrs_vmx_perf_exists(void);
/* Gives the VMCS the page for MSRs of perf. It is current, and its lists are empty. */
void kvmrs_vmx_perf_init(struct kvmrs_vmx_run *r, void *page);
/* Before an entry, with a page: what perf wants. The VMCS is current; IRQs are off. */
void kvmrs_vmx_perf_switch(struct kvmrs_vmx_run *r);
/*
 * Before the first entry after coming to this CPU. The VMCS is current; IRQs are off. False if it is
 * not, as VMX is off here.
 */
bool kvmrs_vmx_guest_in(struct kvmrs_vmx_vmcs *v);
/* The thread leaves the CPU. Preemption is off. */
void kvmrs_vmx_guest_out(struct kvmrs_vmx_vmcs *v);
/* KERNEL_GS_BASE of the guest. The vCPU is loaded; a canonical value. */
u64 kvmrs_vmx_kernel_gs(struct kvmrs_vmx_vmcs *v);
void kvmrs_vmx_set_kernel_gs(struct kvmrs_vmx_vmcs *v, u64 value);

/* INVEPT and INVVPID of the given type. Preemption is off. */
void kvmrs_vmx_invept(u64 type, u64 eptp);
void kvmrs_vmx_invvpid(u64 type, u16 vpid);
/*
 * Is the VMCS current on this CPU, with this CPU's host state in it? 0, or the first field that is not
 * as it should be, or ~0 for the VMCS itself. IRQs are off.
 */
u32 kvmrs_vmx_check_host(const struct kvmrs_vmx_vmcs *v);
/* A VMREAD or VMWRITE failed. */
void kvmrs_vmx_access_failed(u32 field, bool write);
/* Can SPEC_CTRL have this value? */
bool kvmrs_vmx_spec_ctrl_legal(u64 value);
/* Did the guest's alignment check stand for a split lock, which has been dealt with? May sleep. */
bool kvmrs_vmx_split_lock(u64 rip);

/* L1D flushing: kvmrs_vmx_l1d_setup() */
#define VMX_L1D_AUTO		0
#define VMX_L1D_NEVER		1
#define VMX_L1D_COND		2
#define VMX_L1D_ALWAYS		3
/* Pages to read where there is no command to flush with, as an order. */
#define VMX_L1D_ORDER		4
/* Chooses the mode. `pages` are needed where there is no command, and stay. */
void kvmrs_vmx_l1d_setup(u32 wish, void *pages);
/* Entries flush where there is a mark. The mode can change at any time. */
extern bool kvmrs_vmx_l1d_marks;
/* Would entries flush, in some mode or as the processor needs no flush, if this were chosen? */
bool kvmrs_vmx_l1d_flushes(u32 wish);
/* Data of the host that a guest must not see may be in the cache of this CPU. */
void kvmrs_vmx_l1d_mark(void);

/*
 * Runs the guest until it exits. IRQs are off before and after; the interrupt or NMI that ended the
 * run has been handled.
 */
void kvmrs_vmx_enter(struct kvmrs_entry *e, struct kvmrs_vmx_run *r);

/* ---- nested page tables (rust/virt/tdp/flush.c) ---- */

/*
 * Makes every CPU that runs a guest on these tables leave it, and waits until all have. `tables` is
 * what rust/virt/tdp/root.rs put into kvmrs_tdp_running there; it is not looked at. IRQs are on.
 */
bool kvmrs_tdp_kick(unsigned long tables);
/*
 * The tables that a guest on this CPU runs on, or may be about to; 0 outside. Per-CPU: the address is
 * good for per-CPU accesses only. Written by its CPU alone, with IRQs off.
 */
#ifdef __BINDGEN__
extern unsigned long kvmrs_tdp_running;
#else
DECLARE_PER_CPU(unsigned long, kvmrs_tdp_running);
#endif

#endif /* __ASSEMBLER__ */
#endif /* KVM_RS_VMENTER_H */
