/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The parameters of kvm-amd.ko and kvm-intel.ko: names, types and defaults are those of the in-tree
 * modules. kvm.ko has a copy of its own, which it starts with, and which the thin modules replace
 * through kvmrs_hand_over(). What comes back are the values in effect: a feature that the processor
 * or this module lacks reads as off.
 */
#ifndef KVM_RS_VENDOR_PARAMS_H
#define KVM_RS_VENDOR_PARAMS_H

#include <linux/types.h>

/* P(type, name, default, description) */
#define KVMRS_SVM_PARAMS(P)								\
	P(bool, npt, true, "use nested paging (nothing works without)")			\
	P(int, nrips, true, "use the next RIP that hardware reports")			\
	P(int, vgif, true, "use the virtual global interrupt flag")			\
	P(bool, vnmi, true, "let hardware track NMI blocking")				\
	P(int, tsc_scaling, true, "let guests' TSCs run at their own rate")		\
	P(ushort, pause_filter_thresh, 128, "cycles between two PAUSEs that end a loop")	\
	P(ushort, pause_filter_count, 3000, "PAUSEs in a loop before one exits")	\
	P(ushort, pause_filter_count_grow, 2, "factor by which the count grows")	\
	P(ushort, pause_filter_count_shrink, 0, "divisor by which it shrinks; 0: back")	\
	P(ushort, pause_filter_count_max, 65535, "largest count")			\
	P(int, nested, true, "let guests run guests")					\
	P(int, vls, true, "virtual VMLOAD and VMSAVE (not used)")			\
	P(int, lbrv, true, "virtual last-branch records (not used)")			\
	P(bool, avic, false, "virtual interrupt controller (not used)")			\
	P(bool, force_avic, false, "use AVIC against CPUID's advice (not used)")	\
	P(bool, enable_ipiv, true, "virtual IPIs (not used)")				\
	P(bool, enable_device_posted_irqs, true, "posted device interrupts (not used)")	\
	P(bool, gmet, true, "guest-mode execution traps (not used)")			\
	P(bool, intercept_smi, true, "SMIs exit (they always do)")			\
	P(bool, enable_mediated_pmu, false, "mediated performance counters (not used)")	\
	P(bool, sev, true, "encrypted guests (not supported)")				\
	P(bool, sev_es, true, "encrypted guests (not supported)")			\
	P(bool, sev_snp, true, "encrypted guests (not supported)")			\
	P(uint, ciphertext_hiding_asids, 0, "encrypted guests (not supported)")

#define KVMRS_VMX_PARAMS(P)								\
	P(bool, ept, true, "use extended page tables (nothing works without)")		\
	P(bool, unrestricted_guest, true, "run real mode directly")			\
	P(bool, eptad, true, "use accessed and dirty flags")				\
	P(bool, vpid, true, "tag translations of guests")				\
	P(bool, vnmi, true, "let hardware track NMI blocking")				\
	P(bool, flexpriority, true, "let hardware keep the task priority")		\
	P(bool, preemption_timer, true, "use the preemption timer")			\
	P(bool, pml, true, "let hardware log written pages")				\
	P(uint, ple_gap, 128, "cycles between two PAUSEs that end a loop; 0: no exits")	\
	P(uint, ple_window, 4096, "cycles in a loop of PAUSEs before it exits")		\
	P(uint, ple_window_grow, 2, "factor by which the window grows")		\
	P(uint, ple_window_shrink, 0, "divisor by which it shrinks; 0: at once")		\
	P(uint, ple_window_max, 0xffffffff, "largest window")			\
	P(bool, nested, true, "let guests run guests")					\
	P(bool, enable_shadow_vmcs, true, "shadow VMCS for nested guests (not used)")	\
	P(bool, warn_on_missed_cc, false, "check nested guests twice (not used)")	\
	P(bool, enable_apicv, true, "let hardware deliver interrupts")			\
	P(bool, enable_ipiv, true, "virtual IPIs (not used)")				\
	P(bool, enable_device_posted_irqs, true, "posted device interrupts (not used)")	\
	P(bool, fasteoi, true, "EOIs without decoding the instruction (not used)")	\
	P(bool, cet, true, "shadow stacks and branch tracking (not supported)")		\
	P(bool, mbec, true, "execute permission by mode (not used)")			\
	P(bool, emulate_invalid_guest_state, true, "without unrestricted guest: emulate")	\
	P(bool, error_on_inconsistent_vmcs_config, true, "refuse CPUs that differ")	\
	P(bool, allow_smaller_maxphyaddr, false, "fewer address bits (not supported)")	\
	P(bool, enable_mediated_pmu, false, "mediated performance counters (not used)")	\
	P(bool, sgx, true, "enclaves (not supported)")					\
	P(bool, enlightened_vmcs, false, "Hyper-V's VMCS (not supported)")

#define KVMRS_MEMBER(type, name, init, text) type name;
#define KVMRS_INIT(type, name, init, text) .name = init,

struct kvmrs_svm_params {
	KVMRS_SVM_PARAMS(KVMRS_MEMBER)
};

struct kvmrs_vmx_params {
	KVMRS_VMX_PARAMS(KVMRS_MEMBER)
	/* enum vmx_l1d_flush_state: what is asked for (the first four), and what came of it. */
	int vmentry_l1d_flush;
	int vmentry_l1d_state;
};

/*
 * Gives kvm.ko the parameters of the thin module for an extension (X86_FEATURE_SVM or _VMX), and
 * fills in what is in effect. EOPNOTSUPP on the other vendor's processors, EBUSY while there are
 * virtual machines, or why the processor cannot be used so.
 */
int kvmrs_hand_over(int feature, void *params);
/*
 * Flushes the L1 data cache before entries as an enum vmx_l1d_flush_state asks, from now on. Returns
 * what came of it. There are virtual machines, maybe.
 */
int kvmrs_l1d_choose(int wish);
/* dump_invalid_vmcb and dump_invalid_vmcs, which can be changed at any time. */
extern bool kvmrs_dump_invalid;

#endif /* KVM_RS_VENDOR_PARAMS_H */
