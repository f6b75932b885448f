/* SPDX-License-Identifier: GPL-2.0 */
/* The L1D flush as the entry code sees it. */
#ifndef KVM_RS_VMX_L1D_H
#define KVM_RS_VMX_L1D_H

#include "vmenter.h"

enum kvmrs_l1d {
	KVMRS_L1D_NEVER,
	/* When something on this CPU said so since the last time. */
	KVMRS_L1D_COND,
	KVMRS_L1D_ALWAYS,
};

extern enum kvmrs_l1d kvmrs_l1d_mode;

void kvmrs_l1d_flush(void);

#endif /* KVM_RS_VMX_L1D_H */
