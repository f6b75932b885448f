/* SPDX-License-Identifier: GPL-2.0 */
/*
 * VMRUN and what must be straight around it (APM: vol 2, 15.5).
 */
#include <linux/linkage.h>
#include <asm/alternative.h>
#include <asm/asm.h>
#include <asm/asm-offsets.h>
#include <asm/cpufeatures.h>
#include <asm/msr-index.h>
#include <asm/nospec-branch.h>
#include <asm/percpu.h>
#include "vmenter.h"

	.section .noinstr.text, "ax"

/*
 * void kvmrs_svm_vmrun(struct kvmrs_entry *entry)
 *
 * GIF is 0, IRQs are on as far as RFLAGS.IF goes. RBP is not made a frame pointer: the guest's value
 * is in it when an NMI is taken in the guest's stead, and the unwinder would follow it.
 */
SYM_FUNC_START(kvmrs_svm_vmrun)
	push	%rbp
	push	%r15
	push	%r14
	push	%r13
	push	%r12
	push	%rbx

	/*
	 * Until the host's GS base is back there are no per-CPU variables, and no registers but RAX
	 * and RSP: what is needed then is on the stack.
	 */
	push	PER_CPU_VAR(kvmrs_svm_cpu)
	push	%rdi

	/*
	 * From the write of SPEC_CTRL to VMRUN there must be no return and no indirect branch. Nothing
	 * to do if there is no such MSR, or hardware switches it.
	 */
	ALTERNATIVE_2 "jmp .Lguest_spec_done", \
		"", X86_FEATURE_MSR_SPEC_CTRL, \
		"jmp .Lguest_spec_done", X86_FEATURE_V_SPEC_CTRL
	mov	ENTRY_SPEC_CTRL(%rdi), %rdx
	cmp	PER_CPU_VAR(x86_spec_ctrl_current), %rdx
	je	.Lguest_spec_done
	mov	%edx, %eax
	shr	$32, %rdx
	mov	$MSR_IA32_SPEC_CTRL, %ecx
.Lwrmsr:
	wrmsr
.Lguest_spec_done:

	mov	ENTRY_CONTROL_PA(%rdi), %rax
.Lvmload_guest:
	vmload	%rax
.Lvmload_guest_done:

	/* RAX and RSP are in the VMCB. */
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

	/* Flags are not the guest's yet: VERW may change them. */
	ALTERNATIVE "", __CLEAR_CPU_BUFFERS, X86_FEATURE_CLEAR_CPU_BUF_VM

.Lvmrun:
	vmrun	%rax
.Lvmrun_done:

	/* VMRUN restored RAX, but it is the one register that is free. */
	pop	%rax
	mov	%rcx, ENTRY_RCX(%rax)
	mov	%rdx, ENTRY_RDX(%rax)
	mov	%rbx, ENTRY_RBX(%rax)
	mov	%rbp, ENTRY_RBP(%rax)
	mov	%rsi, ENTRY_RSI(%rax)
	mov	%rdi, ENTRY_RDI(%rax)
	mov	%r8, ENTRY_R8(%rax)
	mov	%r9, ENTRY_R9(%rax)
	mov	%r10, ENTRY_R10(%rax)
	mov	%r11, ENTRY_R11(%rax)
	mov	%r12, ENTRY_R12(%rax)
	mov	%r13, ENTRY_R13(%rax)
	mov	%r14, ENTRY_R14(%rax)
	mov	%r15, ENTRY_R15(%rax)
	mov	%rax, %rdi

	mov	ENTRY_CONTROL_PA(%rdi), %rax
.Lvmsave_guest:
	vmsave	%rax
.Lvmsave_guest_done:

	/* FS, GS, TR, LDTR, the SYSCALL and SYSENTER MSRs: per-CPU variables from here on. */
	pop	%rax
.Lvmload_host:
	vmload	%rax
.Lvmload_host_done:

	/* Before the first return. */
	FILL_RETURN_BUFFER %rax, RSB_CLEAR_LOOPS, X86_FEATURE_RSB_VMEXIT

	ALTERNATIVE_2 "jmp .Lhost_spec_done", \
		"", X86_FEATURE_MSR_SPEC_CTRL, \
		"jmp .Lhost_spec_done", X86_FEATURE_V_SPEC_CTRL
	mov	$MSR_IA32_SPEC_CTRL, %ecx
	testl	$ENTER_SAVE_SPEC_CTRL, ENTRY_FLAGS(%rdi)
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

	/* Interrupt handlers would not do it, seeing that they came from the kernel. */
	UNTRAIN_RET_VM

	/* No speculation with values of the guest. */
	xor	%ecx, %ecx
	xor	%edx, %edx
	xor	%ebx, %ebx
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

	pop	%rbx
	pop	%r12
	pop	%r13
	pop	%r14
	pop	%r15
	pop	%rbp
	RET

	/*
	 * A fault means that the kernel has taken SVM away from this CPU, on its way to a reboot or
	 * another kernel: go on as if the instruction had worked. Anything else is a bug.
	 */
.Lvmload_guest_fault:
	cmpb	$0, virt_rebooting(%rip)
	jne	.Lvmload_guest_done
	ud2
.Lvmrun_fault:
	cmpb	$0, virt_rebooting(%rip)
	jne	.Lvmrun_done
	ud2
.Lvmsave_guest_fault:
	cmpb	$0, virt_rebooting(%rip)
	jne	.Lvmsave_guest_done
	ud2
.Lvmload_host_fault:
	cmpb	$0, virt_rebooting(%rip)
	jne	.Lvmload_host_done
	ud2

	_ASM_EXTABLE(.Lvmload_guest, .Lvmload_guest_fault)
	_ASM_EXTABLE(.Lvmrun, .Lvmrun_fault)
	_ASM_EXTABLE(.Lvmsave_guest, .Lvmsave_guest_fault)
	_ASM_EXTABLE(.Lvmload_host, .Lvmload_host_fault)
	/* A bit that this CPU does not have: the guest does without. */
	_ASM_EXTABLE(.Lwrmsr, .Lguest_spec_done)
SYM_FUNC_END(kvmrs_svm_vmrun)
