// SPDX-License-Identifier: GPL-2.0
/*
 * kvm-intel.ko: the name, the alias and the parameters by which tools know KVM on Intel. What they
 * parametrise is in kvm.ko, which works without this module.
 */

#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/sysfs.h>
#include <asm/cpu_device_id.h>
#include <asm/cpufeature.h>

#include "vendor_params.h"

static const struct x86_cpu_id cpus[] = { X86_MATCH_FEATURE(X86_FEATURE_VMX, NULL), {} };
MODULE_DEVICE_TABLE(x86cpu, cpus);
MODULE_AUTHOR("kvm-rs maintainers");
MODULE_DESCRIPTION("KVM on Intel: parameters of kvm.ko");
MODULE_LICENSE("GPL");

static struct kvmrs_vmx_params params = { KVMRS_VMX_PARAMS(KVMRS_INIT) };

#define PARAM(type, name, init, text)			\
	module_param_named(name, params.name, type, 0444);	\
	MODULE_PARM_DESC(name, text);
KVMRS_VMX_PARAMS(PARAM)
module_param_named(dump_invalid_vmcs, kvmrs_dump_invalid, bool, 0644);
MODULE_PARM_DESC(dump_invalid_vmcs, "write a VMCS that hardware refused to the log");

/* enum vmx_l1d_flush_state; the first four can be asked for. */
static const char *const l1d_names[] = { "auto", "never", "cond", "always", "EPT disabled",
					 "not required" };

static int l1d_set(const char *val, const struct kernel_param *kp)
{
	int wish = __sysfs_match_string(l1d_names, 4, val);

	if (wish < 0)
		return wish;
	params.vmentry_l1d_flush = wish;
	/* When the module is loaded the hand-over takes the wish along, and says what came of it. */
	if (params.vmentry_l1d_state)
		params.vmentry_l1d_state = kvmrs_l1d_choose(wish);
	return 0;
}

static int l1d_get(char *buffer, const struct kernel_param *kp)
{
	return sysfs_emit(buffer, "%s\n", l1d_names[params.vmentry_l1d_state]);
}

static const struct kernel_param_ops l1d_ops = { .set = l1d_set, .get = l1d_get };
module_param_cb(vmentry_l1d_flush, &l1d_ops, NULL, 0644);

static int __init intel_init(void)
{
	return kvmrs_hand_over(X86_FEATURE_VMX, &params);
}
module_init(intel_init);

/* kvm.ko goes on as it is. */
static void __exit intel_exit(void)
{
}
module_exit(intel_exit);
