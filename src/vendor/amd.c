// SPDX-License-Identifier: GPL-2.0
/*
 * kvm-amd.ko: the name, the alias and the parameters by which tools know KVM on AMD. What they
 * parametrise is in kvm.ko, which works without this module.
 */

#include <linux/module.h>
#include <linux/moduleparam.h>
#include <asm/cpu_device_id.h>
#include <asm/cpufeature.h>

#include "vendor_params.h"

static const struct x86_cpu_id cpus[] = {
	X86_MATCH_FEATURE(X86_FEATURE_SVM, NULL),
	{}
};
MODULE_DEVICE_TABLE(x86cpu, cpus);
MODULE_AUTHOR("kvm-rs maintainers");
MODULE_DESCRIPTION("KVM on AMD: parameters of kvm.ko");
MODULE_LICENSE("GPL");

static struct kvmrs_svm_params params = { KVMRS_SVM_PARAMS(KVMRS_INIT) };

#define PARAM(type, name, init, text)			\
	module_param_named(name, params.name, type, 0444);	\
	MODULE_PARM_DESC(name, text);
KVMRS_SVM_PARAMS(PARAM)
module_param_named(dump_invalid_vmcb, kvmrs_dump_invalid, bool, 0644);
MODULE_PARM_DESC(dump_invalid_vmcb, "write a VMCB that hardware refused to the log");

static int __init amd_init(void)
{
	return kvmrs_hand_over(X86_FEATURE_SVM, &params);
}
module_init(amd_init);

/* kvm.ko goes on with what it was given. */
static void __exit amd_exit(void)
{
}
module_exit(amd_exit);
