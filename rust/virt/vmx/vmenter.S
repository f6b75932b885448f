/* SPDX-License-Identifier: GPL-2.0 */
/*
 * VMLAUNCH, VMRESUME and what must be straight around them (SDM: vol 3, chapters 27 and 28).
 */
#include <linux/linkage.h>
#include <asm/alternative.h>
#include <asm/asm.h>
#include <asm/asm-offsets.h>
#include <asm/cpufeatures.h>
#include <asm/msr-index.h>
#include <asm/nospec-branch.h>
#include <asm/percpu.h>
#include <asm/unwind_hints.h>
#include "vmenter.h"

/* VMCS field HOST_RSP. */
#define FIELD_HOST_RSP	0x6c14

	.section .noinstr.text, "ax"

/*
 * bool kvmrs_vmx_run(struct kvmrs_entry *entry, struct kvmrs_vmx_run *run)
 *
 * True if the entry instruction failed. IRQs are off. RBP is not made a frame pointer: the guest's
 * value is in it when an NMI is taken right after the exit, and the unwinder would follow it.
 */
SYM_FUNC_START(kvmrs_vmx_run)
	push	%rbp
	push	%r15
	push	%r14
	push	%r13
	push	%r12
	push	%rbx

	/* For after the exit: the entry, and its flags, which choose the instruction. */
	push	%rdi
	push	ENTRY_FLAGS(%rdi)

	/* An exit comes back to this stack. */
	cmp	%rsp, VMX_RUN_HOST_RSP(%rsi)
	je	.Lhost_rsp_done
	mov	$FIELD_HOST_RSP, %edx
.Lvmwrite:
	vmwrite	%rsp, %rdx
	jbe	.Lfailed
	mov	%rsp, VMX_RUN_HOST_RSP(%rsi)
.Lhost_rsp_done:

	/*
	 * From the write of SPEC_CTRL to the entry there must be no return and no indirect branch. The
	 * entry serializes: nothing speculates past a branch here.
	 */
	ALTERNATIVE "jmp .Lguest_spec_done", "", X86_FEATURE_MSR_SPEC_CTRL
	mov	ENTRY_SPEC_CTRL(%rdi), %rdx
	cmp	PER_CPU_VAR(x86_spec_ctrl_current), %rdx
	je	.Lguest_spec_done
	mov	%edx, %eax
	shr	$32, %rdx
	mov	$MSR_IA32_SPEC_CTRL, %ecx
.Lwrmsr:
	wrmsr
.Lguest_spec_done:

	/* RSP is in the VMCS. */
	mov	ENTRY_RAX(%rdi), %rax
	mov	ENTRY_RCX(%rdi), %rcx
	mov	ENTRY_RDX(%rdi), %rdx
	mov	ENTRY_RBX(%rdi), %rbx
	mov	ENTRY_RBP(%rdi), %rbp
	mov	ENTRY_RSI(%rdi), %rsi
	mov	ENTRY_R8(%rdi), %r8
	mov	ENTRY_R9(%rdi), %r9
	mov	ENTRY_R10(%rdi), %r10
	mov	ENTRY_R11(%rdi), %r11
	mov	ENTRY_R12(%rdi), %r12
	mov	ENTRY_R13(%rdi), %r13
	mov	ENTRY_R14(%rdi), %r14
	mov	ENTRY_R15(%rdi), %r15
	mov	ENTRY_RDI(%rdi), %rdi

	/*
	 * The second feature asks for it only where the guest reaches device memory of the host. Whether
	 * it does is not tracked, so it is assumed.
	 */
	ALTERNATIVE_2 "", __CLEAR_CPU_BUFFERS, X86_FEATURE_CLEAR_CPU_BUF_VM_MMIO, \
		__CLEAR_CPU_BUFFERS, X86_FEATURE_CLEAR_CPU_BUF_VM

	testl	$ENTER_VMRESUME, (%rsp)
	jz	.Lvmlaunch

	/* An exit goes on at the label below, with this stack. */
	UNWIND_HINT_SAVE
.Lvmresume:
	vmresume
	jmp	.Lfailed
.Lvmlaunch:
	vmlaunch
	jmp	.Lfailed

SYM_INNER_LABEL_ALIGN(kvmrs_vmx_vmexit, SYM_L_GLOBAL)
	UNWIND_HINT_RESTORE
	ENDBR

	push	%rdi
	mov	16(%rsp), %rdi
	mov	%rax, ENTRY_RAX(%rdi)
	mov	%rcx, ENTRY_RCX(%rdi)
	mov	%rdx, ENTRY_RDX(%rdi)
	mov	%rbx, ENTRY_RBX(%rdi)
	mov	%rbp, ENTRY_RBP(%rdi)
	mov	%rsi, ENTRY_RSI(%rdi)
	mov	%r8, ENTRY_R8(%rdi)
	mov	%r9, ENTRY_R9(%rdi)
	mov	%r10, ENTRY_R10(%rdi)
	mov	%r11, ENTRY_R11(%rdi)
	mov	%r12, ENTRY_R12(%rdi)
	mov	%r13, ENTRY_R13(%rdi)
	mov	%r14, ENTRY_R14(%rdi)
	mov	%r15, ENTRY_R15(%rdi)
	pop	ENTRY_RDI(%rdi)

	/* The result. */
	xor	%ebx, %ebx

.Lout:
	/* No speculation with values of the guest. */
	xor	%eax, %eax
	xor	%ecx, %ecx
	xor	%edx, %edx
	xor	%ebp, %ebp
	xor	%esi, %esi
	xor	%edi, %edi
	xor	%r8d, %r8d
	xor	%r9d, %r9d
	xor	%r10d, %r10d
	xor	%r11d, %r11d
	xor	%r12d, %r12d
	xor	%r13d, %r13d
	xor	%r14d, %r14d
	xor	%r15d, %r15d

	/* Before the first return. */
	FILL_RETURN_BUFFER %rcx, RSB_CLEAR_LOOPS, X86_FEATURE_RSB_VMEXIT, \
		X86_FEATURE_RSB_VMEXIT_LITE

	mov	8(%rsp), %rdi
	ALTERNATIVE "jmp .Lhost_spec_done", "", X86_FEATURE_MSR_SPEC_CTRL
	mov	$MSR_IA32_SPEC_CTRL, %ecx
	testl	$ENTER_SAVE_SPEC_CTRL, (%rsp)
	jz	.Lspec_saved
	rdmsr
	mov	%eax, ENTRY_SPEC_CTRL(%rdi)
	mov	%edx, 4 + ENTRY_SPEC_CTRL(%rdi)
.Lspec_saved:
	mov	PER_CPU_VAR(x86_spec_ctrl_current), %rdx
	cmp	ENTRY_SPEC_CTRL(%rdi), %rdx
	/* IBRS as a barrier has to be written after a less privileged mode, changed or not. */
	ALTERNATIVE "je .Lhost_spec_done", "", X86_FEATURE_KERNEL_IBRS
	mov	%edx, %eax
	shr	$32, %rdx
	wrmsr
.Lhost_spec_done:

	/*
	 * Past the branches above a return could be predicted while the guest's SPEC_CTRL is in force.
	 * With IBRS the write was made in any case.
	 */
	ALTERNATIVE_2 "", "lfence", X86_FEATURE_MSR_SPEC_CTRL, "", X86_FEATURE_KERNEL_IBRS

	CLEAR_BRANCH_HISTORY_VMEXIT

	mov	%ebx, %eax

	pop	%rbx
	pop	%rbx
	pop	%rbx
	pop	%r12
	pop	%r13
	pop	%r14
	pop	%r15
	pop	%rbp
	RET

	/*
	 * A fault means that the kernel has taken VMX away from this CPU, on its way to a reboot or
	 * another kernel. Anything else is a bug.
	 */
.Lfault:
	cmpb	$0, virt_rebooting(%rip)
	jne	.Lfailed
	ud2
.Lfailed:
	mov	$1, %ebx
	jmp	.Lout

	_ASM_EXTABLE(.Lvmwrite, .Lfault)
	_ASM_EXTABLE(.Lvmresume, .Lfault)
	_ASM_EXTABLE(.Lvmlaunch, .Lfault)
	/* A bit that this CPU does not have: the guest does without. */
	_ASM_EXTABLE(.Lwrmsr, .Lguest_spec_done)
SYM_FUNC_END(kvmrs_vmx_run)
