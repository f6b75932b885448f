// SPDX-License-Identifier: GPL-2.0
/* /sys/module/kvm/parameters: names, types and permissions are those tools expect of kvm.ko. */

#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/mutex.h>
#include <linux/printk.h>
#include <linux/sched.h>
#include <linux/sysfs.h>

#include "shim.h"

#define PARAM(type, name, init, perm, text)		\
	typeof(kvmrs_param_##name) kvmrs_param_##name = init;	\
	module_param_named(name, kvmrs_param_##name, type, perm);	\
	MODULE_PARM_DESC(name, text)

PARAM(int, checked, 0, 0444, "check internal invariants at run time; 2: seed a fault into each check");
PARAM(bool, ignore_msrs, false, 0644, "let guests read and write unknown MSRs");
PARAM(bool, report_ignored_msrs, true, 0644, "log accesses to ignored MSRs");
PARAM(uint, min_timer_period_us, 200, 0644, "shortest period of a guest's timer, microseconds");
PARAM(uint, tsc_tolerance_ppm, 250, 0644, "difference of TSC rates that needs no scaling, ppm");
PARAM(bool, enable_vmware_backdoor, false, 0444, "support the VMware backdoor port and PMCs");
PARAM(int, force_emulation_prefix, 0, 0644, "emulate instructions with the prefix 0f 0b 6b 76 6d");
PARAM(bool, mitigate_smt_rsb, false, 0444, "mitigate cross-thread return predictions");
PARAM(bool, lapic_timer_advance, true, 0444, "fire the LAPIC timer early by the cost of entry");
PARAM(bool, vector_hashing, true, 0444, "hash vectors over destinations of lowest priority");
PARAM(bool, enable_pmu, true, 0444, "virtualize performance counters");
PARAM(bool, eager_page_split, true, 0644, "split large pages when dirty logging starts");
PARAM(bool, tdp_mmu, true, 0444, "the nested page table implementation (there is one)");
PARAM(bool, mmio_caching, true, 0444, "cache MMIO addresses in the nested page tables");
PARAM(bool, flush_on_reuse, false, 0644, "flush when a cached root is used again");
PARAM(bool, enable_virt_at_load, true, 0444, "enable the extension at load, not with the first VM");
PARAM(bool, allow_unsafe_mappings, false, 0444, "map memory that cannot be tracked");
PARAM(uint, halt_poll_ns, 200000, 0644, "longest polling before a halted vCPU sleeps, ns");
PARAM(uint, halt_poll_ns_grow, 2, 0644, "factor by which polling grows");
PARAM(uint, halt_poll_ns_grow_start, 10000, 0644, "polling to start from, ns");
PARAM(uint, halt_poll_ns_shrink, 2, 0644, "divisor by which polling shrinks, 0: to nothing");

void kvmrs_ignored_msr(bool write, u32 index, u64 data)
{
	if (kvmrs_param_report_ignored_msrs)
		pr_err_ratelimited("kvm [%i]: ignored %s: 0x%x data 0x%llx\n",
				   task_tgid_nr(current), write ? "wrmsr" : "rdmsr", index, data);
}

int kvmrs_param_pi_inject_timer = -1;
module_param_named(pi_inject_timer, kvmrs_param_pi_inject_timer, bint, 0644);
MODULE_PARM_DESC(pi_inject_timer, "deliver LAPIC timer interrupts by posting");

/* Who acts on parameters. */
static DEFINE_MUTEX(asked_lock);
static int (*probe_again)(int feature);
static int (*on_nx)(bool changed);

void kvmrs_on_params(int (*hand_over)(int feature), int (*nx)(bool changed))
{
	mutex_lock(&asked_lock);
	probe_again = hand_over;
	on_nx = nx;
	mutex_unlock(&asked_lock);
}

/* -1: as the CPU needs; 0: off; 1: on; 2: off for good */
int kvmrs_param_nx_huge_pages = -1;

static bool nx_effective(void)
{
	int v = kvmrs_param_nx_huge_pages;

	return v < 0 ? itlb_multihit_kvm_mitigation : v == 1;
}

static int nx_ask(bool changed)
{
	int err = 0;

	mutex_lock(&asked_lock);
	if (on_nx)
		err = on_nx(changed);
	mutex_unlock(&asked_lock);
	return err;
}

/* Called with the lock of the module's parameters held. */
static int nx_set(const char *val, const struct kernel_param *kp)
{
	bool on, before = nx_effective();
	int err;

	if (kvmrs_param_nx_huge_pages == 2)
		return -EPERM;
	if (sysfs_streq(val, "auto")) {
		kvmrs_param_nx_huge_pages = -1;
	} else if (sysfs_streq(val, "force")) {
		kvmrs_param_nx_huge_pages = 1;
	} else if (sysfs_streq(val, "never")) {
		err = nx_ask(false);
		if (err)
			return err;
		kvmrs_param_nx_huge_pages = 2;
	} else if (!kstrtobool(val, &on)) {
		kvmrs_param_nx_huge_pages = on;
	} else {
		return -EINVAL;
	}
	return nx_effective() != before ? nx_ask(true) : 0;
}

static int nx_get(char *buffer, const struct kernel_param *kp)
{
	if (kvmrs_param_nx_huge_pages == 2)
		return sysfs_emit(buffer, "never\n");
	return sysfs_emit(buffer, "%c\n", nx_effective() ? 'Y' : 'N');
}

static const struct kernel_param_ops nx_ops = {
	.set = nx_set,
	.get = nx_get,
};
module_param_cb(nx_huge_pages, &nx_ops, NULL, 0644);
__MODULE_PARM_TYPE(nx_huge_pages, "bool");

/* Off for good is off for these, too. */
static int nx_recovery_set(const char *val, const struct kernel_param *kp)
{
	return kvmrs_param_nx_huge_pages == 2 ? -EPERM : param_set_uint(val, kp);
}

static const struct kernel_param_ops nx_recovery_ops = {
	.set = nx_recovery_set,
	.get = param_get_uint,
};

#define NX_RECOVERY(name, init, text)					\
	unsigned int kvmrs_param_##name = init;				\
	module_param_cb(name, &nx_recovery_ops, &kvmrs_param_##name, 0644);	\
	__MODULE_PARM_TYPE(name, "uint");				\
	MODULE_PARM_DESC(name, text)

NX_RECOVERY(nx_huge_pages_recovery_ratio, 60, "1/N of split pages is made whole per period");
NX_RECOVERY(nx_huge_pages_recovery_period_ms, 0, "that period, 0: derived from the ratio");

/* What the thin modules hand over. */
struct kvmrs_svm_params kvmrs_svm_params = { KVMRS_SVM_PARAMS(KVMRS_INIT) };
struct kvmrs_vmx_params kvmrs_vmx_params = { KVMRS_VMX_PARAMS(KVMRS_INIT) };
bool kvmrs_dump_invalid;
EXPORT_SYMBOL_FOR_MODULES(kvmrs_dump_invalid, "kvm-amd,kvm-intel");

int kvmrs_hand_over(int feature, void *params)
{
	union {
		struct kvmrs_svm_params svm;
		struct kvmrs_vmx_params vmx;
	} before;
	void *ours = feature == X86_FEATURE_SVM ? (void *)&kvmrs_svm_params : &kvmrs_vmx_params;
	size_t size = feature == X86_FEATURE_SVM ? sizeof(before.svm) : sizeof(before.vmx);
	int err;

	mutex_lock(&asked_lock);
	memcpy(&before, ours, size);
	memcpy(ours, params, size);
	err = probe_again ? probe_again(feature) : -ENODEV;
	if (err)
		memcpy(ours, &before, size);
	else
		memcpy(params, ours, size);
	mutex_unlock(&asked_lock);
	return err;
}
EXPORT_SYMBOL_FOR_MODULES(kvmrs_hand_over, "kvm-amd,kvm-intel");
