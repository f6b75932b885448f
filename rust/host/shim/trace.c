// SPDX-License-Identifier: GPL-2.0
/* The tracepoints, to be called while they are on: host/trace.rs looks first. */

#include "shim.h"

#define CREATE_TRACE_POINTS
#include "trace_kvm.h"

void kvmrs_trace_entry(u32 vcpu_id, u64 rip)
{
	trace_kvm_entry(vcpu_id, rip);
}

void kvmrs_trace_exit(const struct kvmrs_trace_exit *x)
{
	trace_kvm_exit(x);
}

void kvmrs_trace_pio(bool write, u32 port, u32 size, u32 count, u32 val)
{
	trace_kvm_pio(write, port, size, count, val);
}

void kvmrs_trace_mmio(u32 type, u32 len, u64 gpa, u64 val)
{
	trace_kvm_mmio(type, len, gpa, val);
}

void kvmrs_trace_msr(bool write, u32 index, u64 value, bool fault)
{
	trace_kvm_msr(write, index, value, fault);
}

void kvmrs_trace_cpuid(u32 leaf, u32 subleaf, const u32 *regs)
{
	trace_kvm_cpuid(leaf, subleaf, regs);
}

void kvmrs_trace_inj_virq(u32 vector, bool soft, bool again)
{
	trace_kvm_inj_virq(vector, soft, again);
}

void kvmrs_trace_page_fault(u32 vcpu_id, u64 rip, u64 gpa, u64 error_code)
{
	trace_kvm_page_fault(vcpu_id, rip, gpa, error_code);
}

void kvmrs_trace_set_irq(u32 gsi, int level)
{
	trace_kvm_set_irq(gsi, level, 0);
}

void kvmrs_trace_msi(u64 address, u64 data)
{
	trace_kvm_msi_set_irq(address, data);
}
